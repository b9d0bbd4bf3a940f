//! Runs of equal datagrams, sent with `sendmmsg` and cut by the kernel (`UDP_SEGMENT`).

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::RawFd;

/// Bytes gathered before they are sent: they stay in the core's second-level cache.
const BYTES_MAX: usize = 256 << 10;
/// Longest run.
const RUN_BYTES_MAX: usize = 63_000;
/// Runs of one `sendmmsg`.
const RUNS_MAX: usize = 256;

/// Room for one control message with a 16-bit value.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 24]);

/// What a queue has sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendCounts {
    pub datagrams: u64,
    pub runs: u64,
    pub system_calls: u64,
}

impl SendCounts {
    /// What has been sent since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            datagrams: self.datagrams - before.datagrams,
            runs: self.runs - before.runs,
            system_calls: self.system_calls - before.system_calls,
        }
    }
}

/// Runs that wait for one `sendmmsg`.
pub struct RunQueue {
    socket: RawFd,
    bytes: Box<[u8]>,
    used: usize,
    queued: usize,
    names: Box<[libc::sockaddr_in]>,
    vectors: Box<[libc::iovec]>,
    controls: Box<[Control]>,
    headers: Box<[libc::mmsghdr]>,
    counts: SendCounts,
}

impl RunQueue {
    /// `socket` is a blocking UDP socket that outlives the queue.
    pub fn new(socket: RawFd) -> Self {
        // SAFETY: all-zero bytes are valid values of these C structures.
        let (name, vector, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            socket,
            bytes: vec![0; BYTES_MAX + RUN_BYTES_MAX].into(),
            used: 0,
            queued: 0,
            names: vec![name; RUNS_MAX].into(),
            vectors: vec![vector; RUNS_MAX].into(),
            controls: vec![Control([0; 24]); RUNS_MAX].into(),
            headers: vec![header; RUNS_MAX].into(),
            counts: SendCounts::default(),
        }
    }

    pub fn counts(&self) -> SendCounts {
        self.counts
    }

    /// Queues a run to `to`: `count` datagrams of `segment` bytes each, written by `write` one after the other.
    ///
    /// # Errors
    ///
    /// What the kernel says of earlier runs, if these are sent now.
    pub fn push(
        &mut self,
        to: SocketAddrV4,
        count: usize,
        segment: usize,
        mut write: impl FnMut(&mut [u8]),
    ) -> io::Result<()> {
        let length = count * segment;
        assert!(length <= RUN_BYTES_MAX, "a run is shorter than an IP datagram");
        if self.used + length > BYTES_MAX || self.queued == RUNS_MAX {
            self.flush()?;
        }
        let run = &mut self.bytes[self.used..self.used + length];
        run.chunks_exact_mut(segment).for_each(&mut write);
        let data = run.as_mut_ptr().cast();
        self.used += length;
        self.describe(to, data, length, (count > 1).then_some(segment));
        self.counts.datagrams += count as u64;
        self.counts.runs += 1;
        Ok(())
    }

    fn describe(&mut self, to: SocketAddrV4, data: *mut libc::c_void, length: usize, segment: Option<usize>) {
        let at = self.queued;
        self.queued += 1;
        self.names[at] = socket_address(to);
        self.vectors[at] = libc::iovec { iov_base: data, iov_len: length };
        let header = &mut self.headers[at].msg_hdr;
        header.msg_name = (&raw mut self.names[at]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        header.msg_iov = &raw mut self.vectors[at];
        header.msg_iovlen = 1;
        (header.msg_control, header.msg_controllen) = (std::ptr::null_mut(), 0);
        if let Some(segment) = segment {
            header.msg_control = self.controls[at].0.as_mut_ptr().cast();
            // SAFETY: a control buffer is aligned for a header and holds one with a 16-bit value.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(2) as usize;
                let control = libc::CMSG_FIRSTHDR(header);
                (*control).cmsg_level = libc::SOL_UDP;
                (*control).cmsg_type = libc::UDP_SEGMENT;
                (*control).cmsg_len = libc::CMSG_LEN(2) as usize;
                libc::CMSG_DATA(control).cast::<u16>().write_unaligned(segment as u16);
            }
        }
    }

    /// Sends what is queued.
    ///
    /// # Errors
    ///
    /// What the kernel says; the rest of the queue is dropped then.
    pub fn flush(&mut self) -> io::Result<()> {
        let queued = std::mem::take(&mut self.queued);
        self.used = 0;
        let mut sent = 0;
        while sent < queued {
            self.counts.system_calls += 1;
            let left = (queued - sent) as libc::c_uint;
            // SAFETY: the headers from `sent` on were described for this call; what they point to belongs to `self`.
            let count = unsafe { libc::sendmmsg(self.socket, self.headers.as_mut_ptr().add(sent), left, 0) };
            match usize::try_from(count) {
                Ok(count) => sent += count.max(1),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// Sets a buffer of a socket to `bytes`, beyond the system's limit where allowed.
pub fn set_buffer(socket: RawFd, forced: libc::c_int, limited: libc::c_int, bytes: libc::c_int) {
    if !set_option(socket, forced, bytes) {
        set_option(socket, limited, bytes);
    }
}

fn set_option(socket: RawFd, name: libc::c_int, value: libc::c_int) -> bool {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        ) == 0
    }
}

/// The IPv4 address among `address`.
pub fn ipv4(address: SocketAddr) -> io::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(io::Error::from(io::ErrorKind::AddrNotAvailable)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_run_arrives_as_its_datagrams() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut queue = RunQueue::new(sender.as_raw_fd());
        let to = ipv4(receiver.local_addr().unwrap()).unwrap();
        let mut next = 0;
        for count in [3, 1] {
            queue
                .push(to, count, 200, |packet| {
                    next += 1;
                    packet.fill(next);
                })
                .unwrap();
        }
        queue.flush().unwrap();
        for expected in 1..=4 {
            let mut packet = [0; 500];
            assert_eq!(receiver.recv(&mut packet).unwrap(), 200);
            assert_eq!(packet[..200], [expected; 200]);
        }
        assert_eq!(queue.counts(), SendCounts { datagrams: 4, runs: 2, system_calls: 1 });
    }
}
