//! UDP in batches: `recvmmsg` with receive offload, `sendmmsg` with segmentation offload.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use super::epoll::check;
use crate::path::Via;
use crate::run::{Message, Transmit};
use crate::stats::Losses;

/// Socket buffers: the default of 208 KiB holds 92 video packets or 24 runs.
const BUFFER_WANTED: usize = 8 << 20;
/// Below this a burst of a few hundred subscribers' packets is lost.
const BUFFER_ENOUGH: usize = 2 << 20;

/// Messages a `recvmmsg` takes; with receive offload each may hold a whole frame.
const BATCH: usize = 16;
const MESSAGE_BYTES: usize = 65_536;
/// Messages a `sendmmsg` takes.
const SEND_BATCH: usize = 256;

const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

/// With whom a socket shares its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Nobody has it yet; [`Sharing::OurOwn`] ones may follow.
    Nobodys,
    /// A socket of this process has it.
    OurOwn,
}

/// Binds a socket so that it shares its port with this process's own alone.
///
/// The kernel lets sockets share a port if each has `SO_REUSEPORT`, also those of another process, which would then get
/// half of the clients. So the first socket is bound without it: that fails if anybody has the port, at whatever moment
/// they took it. Later ones find the option set there.
pub(super) fn bind_shared(socket: &Socket, address: SocketAddr, sharing: Sharing) -> io::Result<()> {
    socket.set_reuse_port(sharing == Sharing::OurOwn)?;
    socket.bind(&address.into())
}

/// A bound, non-blocking socket.
pub(super) struct UdpSocket {
    socket: Socket,
}

impl UdpSocket {
    pub(super) fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        bind_shared(&socket, address, sharing)?;
        socket.set_reuse_port(true)?;
        let fd = socket.as_raw_fd();
        set_buffer(fd, libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, "net.core.rmem_max");
        set_buffer(fd, libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, "net.core.wmem_max");
        let (level, option) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        };
        // Both are improvements that an old kernel may lack.
        let _ = set_option(fd, level, option, libc::IP_PMTUDISC_DO);
        let _ = set_option(fd, libc::SOL_UDP, UDP_GRO, 1);
        Ok(Self { socket })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Datagrams that the kernel dropped because the buffer was full.
    pub(super) fn dropped(&self) -> u64 {
        /// `SK_MEMINFO_DROPS` of `linux/sock_diag.h`.
        const DROPS: usize = 8;
        let mut info = [0u32; 9];
        let mut length = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into `info`; both live through the call.
        let result = unsafe {
            libc::getsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, info.as_mut_ptr().cast(), &mut length)
        };
        // An old kernel does not report it.
        if result == 0 { info[DROPS].into() } else { 0 }
    }

    pub(super) fn port(&self) -> io::Result<u16> {
        let address = self.socket.local_addr()?;
        address.as_socket().map(|address| address.port()).ok_or_else(|| io::Error::other("not an IP socket"))
    }
}

fn set_option(fd: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` lives through the call and has the length given.
    unsafe { check(libc::setsockopt(fd, level, option, std::ptr::from_ref(&value).cast(), length)).map(drop) }
}

/// Asks for a large buffer, with privilege or without, and says which setting stands in the way.
fn set_buffer(fd: RawFd, option: libc::c_int, forced: libc::c_int, sysctl: &str) {
    let wanted = BUFFER_WANTED as libc::c_int;
    if set_option(fd, libc::SOL_SOCKET, forced, wanted).is_err() {
        let _ = set_option(fd, libc::SOL_SOCKET, option, wanted);
    }
    let (mut got, mut length) = (0 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: both out-pointers live through the call, and the length is that of `got`.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, std::ptr::from_mut(&mut got).cast(), &mut length) };
    // The kernel reports twice what holds data.
    if result == 0 && (got as usize) / 2 < BUFFER_ENOUGH {
        warn!(bytes = got / 2, wanted = BUFFER_WANTED, "small socket buffer: raise {sysctl} to {BUFFER_WANTED}");
    }
}

/// Space for one control message with a 32-bit value, aligned as the kernel wants it.
type Control = [u64; 4];

/// Buffers of one `recvmmsg`.
pub(super) struct ReceiveBatch {
    bytes: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    /// Of each message that was received: its length, and that of its datagrams.
    received: Vec<(usize, usize)>,
}

impl ReceiveBatch {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero is a valid sockaddr_storage of no family.
        let name: libc::sockaddr_storage = unsafe { zeroed() };
        Self {
            bytes: vec![0; BATCH * MESSAGE_BYTES],
            names: vec![name; BATCH],
            controls: vec![[0; 4]; BATCH],
            received: Vec::with_capacity(BATCH),
        }
    }

    /// Receives once, without waiting. Returns whether there may be more.
    pub(super) fn fill(&mut self, socket: &UdpSocket) -> io::Result<bool> {
        self.received.clear();
        // SAFETY: all-zero iovec and mmsghdr are valid; all fields that the kernel reads are set below.
        let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        for (index, header) in headers.iter_mut().enumerate() {
            vectors[index].iov_base = self.bytes[index * MESSAGE_BYTES..].as_mut_ptr().cast();
            vectors[index].iov_len = MESSAGE_BYTES;
            header.msg_hdr.msg_iov = &mut vectors[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(&mut self.names[index]).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_control = self.controls[index].as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<Control>();
        }
        // SAFETY: every header points into buffers of `self` and `vectors`, which outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = match check(count) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        self.received.extend(headers.iter().take(count).map(|header| {
            let length = (header.msg_len as usize).min(MESSAGE_BYTES);
            (length, segment_size(&header.msg_hdr).filter(|size| *size > 0).unwrap_or(length.max(1)))
        }));
        Ok(count == BATCH)
    }

    /// Shows each datagram of the last [`ReceiveBatch::fill`].
    pub(super) fn for_each(&mut self, mut each: impl FnMut(SocketAddr, &mut [u8])) {
        for (index, (length, segment)) in self.received.iter().enumerate() {
            let Some(from) = socket_address(&self.names[index]) else { continue };
            let start = index * MESSAGE_BYTES;
            for datagram in self.bytes[start..start + length].chunks_mut(*segment) {
                each(from, datagram);
            }
        }
    }
}

/// The segment size that receive offload reports, if it joined datagrams.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel has filled the control buffer that the header points to and set its length; CMSG_NXTHDR stays
    // within it.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(control) = message.as_ref() {
            if control.cmsg_level == libc::SOL_UDP && control.cmsg_type == UDP_GRO {
                return usize::try_from(libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned()).ok();
            }
            message = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

fn socket_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which type it is; storage is large and aligned enough for each.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(address, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn fill_name(address: SocketAddr, storage: &mut libc::sockaddr_storage) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: storage is large and aligned enough for every address type.
            let name = unsafe { &mut *std::ptr::from_mut(storage).cast::<libc::sockaddr_in>() };
            name.sin_family = libc::AF_INET as libc::sa_family_t;
            name.sin_port = v4.port().to_be();
            name.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let name = unsafe { &mut *std::ptr::from_mut(storage).cast::<libc::sockaddr_in6>() };
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = v6.port().to_be();
            name.sin6_flowinfo = 0;
            name.sin6_addr.s6_addr = v6.ip().octets();
            name.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// The worker's way out. Messages to TCP connections are put aside for [`super::tcp`].
pub(super) struct Outlet {
    sockets: Vec<RawFd>,
    /// Cleared for good when the device refuses segmentation.
    offload: bool,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// Connection and frame.
    pub tcp: Vec<(u32, Vec<u8>)>,
    /// Since they were last taken.
    pub losses: Losses,
}

// SAFETY: the raw pointers in `vectors` and `headers` are set before every call from buffers that live through it, and
// never used otherwise.
unsafe impl Send for Outlet {}

impl Outlet {
    pub(super) fn new(sockets: &[UdpSocket]) -> Self {
        // SAFETY: all-zero is a valid value of each of these C structures.
        let (name, vector, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            sockets: sockets.iter().map(UdpSocket::fd).collect(),
            offload: true,
            names: vec![name; SEND_BATCH],
            controls: vec![[0; 4]; SEND_BATCH],
            vectors: vec![vector; SEND_BATCH],
            headers: vec![header; SEND_BATCH],
            tcp: Vec::new(),
            losses: Losses::default(),
        }
    }

    /// Sends messages that all leave by one socket.
    fn send(&mut self, socket: usize, bytes: &[u8], messages: &[Message]) {
        for batch in messages.chunks(SEND_BATCH) {
            for (index, message) in batch.iter().enumerate() {
                self.prepare(index, bytes, message);
            }
            self.send_prepared(socket, bytes, batch);
        }
    }

    fn prepare(&mut self, index: usize, bytes: &[u8], message: &Message) {
        let data = &bytes[message.start..message.start + message.length];
        self.vectors[index] = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let header = &mut self.headers[index].msg_hdr;
        header.msg_namelen = fill_name(message.path.remote, &mut self.names[index]);
        header.msg_name = std::ptr::from_mut(&mut self.names[index]).cast();
        header.msg_iov = &mut self.vectors[index];
        header.msg_iovlen = 1;
        (header.msg_control, header.msg_controllen) = (std::ptr::null_mut(), 0);
        if message.segments() > 1 {
            header.msg_control = self.controls[index].as_mut_ptr().cast();
            // SAFETY: a control buffer holds one message with a 16-bit value, and is aligned for its header.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(2) as usize;
                let control = libc::CMSG_FIRSTHDR(header);
                (*control).cmsg_level = libc::SOL_UDP;
                (*control).cmsg_type = UDP_SEGMENT;
                (*control).cmsg_len = libc::CMSG_LEN(2) as usize;
                libc::CMSG_DATA(control).cast::<u16>().write_unaligned(message.segment as u16);
            }
        }
    }

    fn send_prepared(&mut self, socket: usize, bytes: &[u8], batch: &[Message]) {
        let Some(&fd) = self.sockets.get(socket) else { return };
        let (mut sent, mut waited) = (0, false);
        while sent < batch.len() {
            if !self.offload && batch[sent].segments() > 1 {
                self.send_apart(fd, bytes, &batch[sent]);
                sent += 1;
                continue;
            }
            let left = (batch.len() - sent) as libc::c_uint;
            // SAFETY: the headers from `sent` on were prepared for this batch; what they point to is borrowed here.
            let result = unsafe { libc::sendmmsg(fd, self.headers.as_mut_ptr().add(sent), left, 0) };
            match check(result) {
                Ok(count) => sent += count.max(1) as usize,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Rare on any device: wait for the queue once, then drop the rest.
                    Some(libc::EAGAIN | libc::ENOBUFS) if !waited => {
                        waited = true;
                        wait_writable(fd);
                    }
                    Some(libc::EAGAIN | libc::ENOBUFS) => {
                        self.losses.send_buffer +=
                            batch[sent..].iter().map(|message| message.segments() as u64).sum::<u64>();
                        return;
                    }
                    // A device without checksum offload refuses segmentation: do without from now on.
                    Some(libc::EIO) if batch[sent].segments() > 1 => self.offload = false,
                    _ => {
                        self.losses.refused += batch[sent].segments() as u64;
                        sent += 1;
                    }
                },
            }
        }
    }

    /// A run, segment by segment.
    fn send_apart(&mut self, fd: RawFd, bytes: &[u8], message: &Message) {
        let (mut name, length) = {
            // SAFETY: all-zero is a valid sockaddr_storage.
            let mut name: libc::sockaddr_storage = unsafe { zeroed() };
            let length = fill_name(message.path.remote, &mut name);
            (name, length)
        };
        for segment in bytes[message.start..message.start + message.length].chunks(message.segment.max(1)) {
            // SAFETY: both pointers live through the call, with the lengths given.
            let result = unsafe {
                libc::sendto(
                    fd,
                    segment.as_ptr().cast(),
                    segment.len(),
                    0,
                    std::ptr::from_mut(&mut name).cast(),
                    length,
                )
            };
            self.losses.refused += u64::from(result < 0);
        }
    }
}

/// Waits up to two milliseconds for the socket to take more.
fn wait_writable(fd: RawFd) {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd that lives through the call.
    unsafe { libc::poll(&mut poll, 1, 2) };
}

impl Transmit for Outlet {
    fn transmit(&mut self, bytes: &[u8], messages: &[Message]) {
        let mut rest = messages;
        while let Some(first) = rest.first() {
            let count = rest.iter().take_while(|message| message.path.via == first.path.via).count();
            let (same, others) = rest.split_at(count);
            match first.path.via {
                Via::Udp(socket) => self.send(usize::from(socket), bytes, same),
                Via::Tcp(connection) => {
                    for message in same {
                        let data = &bytes[message.start..message.start + message.length];
                        self.tcp.extend(data.chunks(message.segment.max(1)).map(|frame| (connection, frame.to_vec())));
                    }
                }
            }
            rest = others;
        }
    }
}

/// Addresses of all interfaces that are up, link-local ones too.
///
/// `if-addrs` tells which are running, not which are up: an interface that has no carrier yet at the start would be
/// missed.
pub fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the list is ours until it is freed below.
    unsafe { check(libc::getifaddrs(&mut list))? };
    let mut addresses = Vec::new();
    let mut next = list;
    // SAFETY: the kernel's list is well formed; every address has the type that its family says.
    unsafe {
        while let Some(interface) = next.as_ref() {
            next = interface.ifa_next;
            let Some(address) = interface.ifa_addr.as_ref() else { continue };
            if interface.ifa_flags & libc::IFF_UP as libc::c_uint == 0 {
                continue;
            }
            match i32::from(address.sa_family) {
                libc::AF_INET => {
                    let v4 = &*std::ptr::from_ref(address).cast::<libc::sockaddr_in>();
                    addresses.push(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into());
                }
                libc::AF_INET6 => {
                    let v6 = &*std::ptr::from_ref(address).cast::<libc::sockaddr_in6>();
                    addresses.push(Ipv6Addr::from(v6.sin6_addr.s6_addr).into());
                }
                _ => {}
            }
        }
        libc::freeifaddrs(list);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_drops_at_a_full_buffer_is_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0".parse().expect("an address"), Sharing::Nobodys).expect("bound");
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, socket.port().expect("a port")));
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        let full = (0..100_000).any(|_| {
            sender.send_to(&[7; 1200], to).expect("sent");
            socket.dropped() > 0
        });
        assert!(full);
        let before = socket.dropped();
        sender.send_to(&[7; 1200], to).expect("sent");
        assert_eq!(socket.dropped(), before + 1);
    }

    #[test]
    fn what_the_kernel_refuses_is_counted_by_datagram() {
        let socket = UdpSocket::bind("127.0.0.1:0".parse().expect("an address"), Sharing::Nobodys).expect("bound");
        let mut outlet = Outlet::new(std::slice::from_ref(&socket));
        // No datagram goes to port 0.
        let path = crate::transport::Path { remote: "127.0.0.1:0".parse().expect("an address"), via: Via::Udp(0) };
        outlet.transmit(&[7; 300], &[Message { path, start: 0, length: 300, segment: 100 }]);
        assert_eq!((outlet.losses.refused, outlet.losses.send_buffer), (3, 0));
    }
}
