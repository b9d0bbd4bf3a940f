//! UDP sockets with large buffers, batched receiving and the kernel's drop counter.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

/// Datagrams taken with one system call.
const BATCH: usize = 64;
/// Largest datagram; WebRTC keeps below 1,500 bytes.
const DATAGRAM_MAX: usize = 2_048;
/// Receive buffer: two seconds of a 4 Mbit/s viewer with the kernel's overhead for each packet.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// Opens a non-blocking socket on `ip` with a port of the kernel's choice.
///
/// # Errors
///
/// When the process has too many sockets, or the address is not local.
pub fn open(ip: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((ip, 0))?;
    socket.set_nonblocking(true)?;
    // Root may exceed net.core.rmem_max; others get what it allows.
    if !set_option(socket.as_raw_fd(), libc::SO_RCVBUFFORCE, RECEIVE_BUFFER) {
        set_option(socket.as_raw_fd(), libc::SO_RCVBUF, RECEIVE_BUFFER);
    }
    Ok(socket)
}

fn set_option(fd: RawFd, name: libc::c_int, value: libc::c_int) -> bool {
    let len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, (&raw const value).cast(), len) == 0 }
}

/// Datagrams that the kernel dropped at this socket, because its buffer was full.
///
/// The same counter that `SO_RXQ_OVFL` attaches to datagrams, but also right when nothing follows the drops.
pub fn kernel_drops(socket: &UdpSocket) -> u64 {
    /// `SK_MEMINFO_DROPS` of `linux/sock_diag.h`.
    const DROPS: usize = 8;
    let mut info = [0_u32; 9];
    let mut len = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    if done == 0 { u64::from(info[DROPS]) } else { 0 }
}

/// Buffers for one `recvmmsg`.
pub struct Batch {
    data: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers point into the boxes of the same value, which move with it without changing address.
unsafe impl Send for Batch {}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    pub fn new() -> Self {
        let mut data = vec![0_u8; BATCH * DATAGRAM_MAX].into_boxed_slice();
        // SAFETY: all-zero bytes are valid values of these C structures.
        let mut names: Box<[libc::sockaddr_storage]> = vec![unsafe { mem::zeroed() }; BATCH].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = data
            .chunks_exact_mut(DATAGRAM_MAX)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: DATAGRAM_MAX })
            .collect();
        let headers = (0..BATCH)
            .map(|index| {
                // SAFETY: as above.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_name = (&raw mut names[index]).cast();
                header.msg_hdr.msg_iov = &raw mut vectors[index];
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self { data, names, vectors, headers }
    }

    /// Takes what has arrived, up to a batch, and hands it to `each`.
    ///
    /// Gives whether the socket may hold more.
    pub fn receive(&mut self, socket: &UdpSocket, mut each: impl FnMut(SocketAddr, &[u8])) -> bool {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        // SAFETY: every header points to buffers of this value that hold as much as it says.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        debug_assert_eq!(self.vectors.len(), BATCH);
        let count = usize::try_from(count).unwrap_or(0);
        for index in 0..count {
            let start = index * DATAGRAM_MAX;
            let len = (self.headers[index].msg_len as usize).min(DATAGRAM_MAX);
            if let Some(from) = address(&self.names[index]) {
                each(from, &self.data[start..start + len]);
            }
        }
        count == BATCH
    }
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel says that this is an IPv4 address, and the storage is aligned for all of them.
            let v4: &libc::sockaddr_in = unsafe { &*(&raw const *name).cast() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for IPv6.
            let v6: &libc::sockaddr_in6 = unsafe { &*(&raw const *name).cast() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_every_datagram_with_its_sender() {
        let receiver = open(Ipv4Addr::LOCALHOST.into()).unwrap();
        let sender = open(Ipv4Addr::LOCALHOST.into()).unwrap();
        for number in 0..100_u8 {
            sender.send_to(&[number; 3], receiver.local_addr().unwrap()).unwrap();
        }
        let mut seen = Vec::new();
        let mut batch = Batch::new();
        while batch.receive(&receiver, |from, datagram| {
            assert_eq!(from, sender.local_addr().unwrap());
            seen.push(datagram.to_vec());
        }) {}
        assert_eq!(seen, (0..100_u8).map(|number| vec![number; 3]).collect::<Vec<_>>());
        assert_eq!(kernel_drops(&receiver), 0);
    }
}
