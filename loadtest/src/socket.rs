//! UDP sockets with large buffers, batched receiving and the kernel's drop counter.
//!
//! A socket may ask the kernel for arrival times, and for runs of datagrams that were sent as one
//! ([`Features::coalesce`]): the kernel then hands them over uncut, which costs a fraction.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

/// Datagrams taken with one system call.
const BATCH: usize = 64;
/// Largest datagram; WebRTC keeps below 1,500 bytes.
const DATAGRAM_MAX: usize = 2_048;
/// The same for coalesced runs, of which the kernel makes none beyond 64 KiB.
const RUNS: usize = 16;
const RUN_MAX: usize = 1 << 16;
/// Words of ancillary data: an arrival time and the segment size of a run, each with its header, take seven.
const CONTROL_WORDS: usize = 8;
/// Receive buffer: two seconds of a 4 Mbit/s viewer with the kernel's overhead for each packet.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// What a socket asks of the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Deliver datagrams that were sent as one run uncut (`UDP_GRO`).
    ///
    /// On loopback it also spares the sender the cutting, so figures of a server with and without are not the same.
    pub coalesce: bool,
    /// Tell when each datagram arrived, whatever the delay until it is read.
    pub timestamps: bool,
}

/// Opens a non-blocking socket on `ip` with a port of the kernel's choice.
///
/// # Errors
///
/// When the process has too many sockets, the address is not local, or the kernel lacks a feature.
pub fn open(ip: IpAddr, features: Features) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((ip, 0))?;
    socket.set_nonblocking(true)?;
    // Root may exceed net.core.rmem_max; others get what it allows.
    let fd = socket.as_raw_fd();
    if !set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER) {
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER);
    }
    let coalesces = !features.coalesce || set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    let stamps = !features.timestamps || set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
    if coalesces && stamps { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> bool {
    let len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) == 0 }
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

/// One received datagram.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    pub from: SocketAddr,
    pub bytes: &'a [u8],
    /// When it reached the socket, in nanoseconds of the wall clock; only with [`Features::timestamps`].
    pub arrived_ns: Option<u64>,
}

/// Buffers for one `recvmmsg`.
pub struct Batch {
    data: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[[u64; CONTROL_WORDS]]>,
    vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// Bytes of one buffer.
    len: usize,
}

// SAFETY: the raw pointers point into the boxes of the same value, which move with it without changing address.
unsafe impl Send for Batch {}

impl Batch {
    /// Buffers for sockets with or without [`Features::coalesce`].
    pub fn new(coalesce: bool) -> Self {
        let (count, len) = if coalesce { (RUNS, RUN_MAX) } else { (BATCH, DATAGRAM_MAX) };
        let mut data = vec![0_u8; count * len].into_boxed_slice();
        // SAFETY: all-zero bytes are valid values of these C structures.
        let mut names: Box<[libc::sockaddr_storage]> = vec![unsafe { mem::zeroed() }; count].into_boxed_slice();
        let mut controls = vec![[0_u64; CONTROL_WORDS]; count].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = data
            .chunks_exact_mut(len)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: len })
            .collect();
        let headers = (0..count)
            .map(|index| {
                // SAFETY: as above.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_name = (&raw mut names[index]).cast();
                header.msg_hdr.msg_iov = &raw mut vectors[index];
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = (&raw mut controls[index]).cast();
                header
            })
            .collect();
        Self { data, names, controls, vectors, headers, len }
    }

    /// Takes what has arrived, up to a batch, and hands it to `each`, runs cut into their datagrams.
    ///
    /// Gives whether the socket may hold more.
    pub fn receive(&mut self, socket: &UdpSocket, mut each: impl FnMut(Datagram<'_>)) -> bool {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = CONTROL_WORDS * mem::size_of::<u64>();
        }
        // SAFETY: every header points to buffers of this value that hold as much as it says.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        debug_assert_eq!((self.vectors.len(), self.controls.len()), (self.headers.len(), self.headers.len()));
        let count = usize::try_from(count).unwrap_or(0);
        for (index, header) in self.headers[..count].iter().enumerate() {
            let start = index * self.len;
            let bytes = &self.data[start..start + (header.msg_len as usize).min(self.len)];
            let Some(from) = address(&self.names[index]) else { continue };
            let Ancillary { arrived_ns, segment_len } = Ancillary::read(&header.msg_hdr);
            if bytes.is_empty() {
                continue;
            }
            for bytes in bytes.chunks(segment_len.unwrap_or(bytes.len()).max(1)) {
                each(Datagram { from, bytes, arrived_ns });
            }
        }
        count == self.headers.len()
    }
}

/// What the kernel tells beside a datagram.
#[derive(Debug, Default)]
struct Ancillary {
    arrived_ns: Option<u64>,
    segment_len: Option<usize>,
}

impl Ancillary {
    fn read(header: &libc::msghdr) -> Self {
        let mut told = Self::default();
        if header.msg_controllen == 0 {
            return told;
        }
        // SAFETY: the kernel has just written `msg_controllen` bytes of well-formed control messages into a buffer
        // that is aligned for them.
        let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !message.is_null() {
            // SAFETY: not null, so it points to a whole control message in that buffer; its data may be unaligned.
            unsafe {
                let data = libc::CMSG_DATA(message);
                match ((*message).cmsg_level, (*message).cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        let at: libc::timespec = data.cast::<libc::timespec>().read_unaligned();
                        told.arrived_ns = Some(at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64);
                    }
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        told.segment_len = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                    }
                    _ => {}
                }
                message = libc::CMSG_NXTHDR(header, message);
            }
        }
        told
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
    use crate::clock::realtime_ns;

    fn pair(features: Features) -> (UdpSocket, UdpSocket) {
        let receiver = open(Ipv4Addr::LOCALHOST.into(), features).unwrap();
        let sender = open(Ipv4Addr::LOCALHOST.into(), Features::default()).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        (sender, receiver)
    }

    fn receive_all(receiver: &UdpSocket, coalesce: bool, mut each: impl FnMut(Datagram<'_>)) {
        let mut batch = Batch::new(coalesce);
        while batch.receive(receiver, &mut each) {}
    }

    #[test]
    fn a_batch_gives_every_datagram_with_its_sender() {
        let (sender, receiver) = pair(Features::default());
        for number in 0..100_u8 {
            sender.send(&[number; 3]).unwrap();
        }
        let mut seen = Vec::new();
        receive_all(&receiver, false, |datagram| {
            assert_eq!((datagram.from, datagram.arrived_ns), (sender.local_addr().unwrap(), None));
            seen.push(datagram.bytes.to_vec());
        });
        assert_eq!(seen, (0..100_u8).map(|number| vec![number; 3]).collect::<Vec<_>>());
        assert_eq!(kernel_drops(&receiver), 0);
    }

    #[test]
    fn a_run_that_was_sent_as_one_is_cut_into_its_datagrams() {
        let (sender, receiver) = pair(Features { coalesce: true, timestamps: true });
        assert!(set_option(sender.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 100));
        let before = realtime_ns();
        let run: Vec<u8> = (0..1_050_u32).map(|at| (at / 100) as u8).collect();
        sender.send(&run).unwrap();
        sender.send(&[77; 20]).unwrap();
        let mut seen = Vec::new();
        receive_all(&receiver, true, |datagram| {
            assert!(datagram.arrived_ns.is_some_and(|at| (before..=realtime_ns()).contains(&at)));
            seen.push((datagram.bytes[0], datagram.bytes.len()));
        });
        let expected: Vec<_> = (0..10).map(|number| (number, 100)).chain([(10, 50), (77, 20)]).collect();
        assert_eq!(seen, expected);
    }
}
