//! The audience: as many sockets as viewers, emptied by one thread that looks at nothing.

use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;

use crate::clock::pin;
use crate::runs::{ipv4, set_buffer};

/// Datagrams of one `recvmmsg`.
const BATCH: usize = 64;
/// Of one datagram no more is copied than its header: the receiver is not what is measured.
const COPIED_BYTES: usize = 64;
/// Receive buffer of a socket, as the load test's.
const BUFFER_BYTES: libc::c_int = 4 << 20;
/// How often the thread looks whether it shall end.
const WAIT_MS: libc::c_int = 50;

/// Sockets on loopback and the thread that empties them; it ends when this is dropped.
pub struct Receivers {
    addresses: Vec<SocketAddrV4>,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receivers {
    /// Opens `count` sockets on `ip` and empties them on `core`, or on any if that is `None`.
    ///
    /// # Errors
    ///
    /// When there are too few descriptors for so many sockets.
    pub fn open(count: usize, ip: Ipv4Addr, core: Option<usize>) -> anyhow::Result<Self> {
        raise_descriptor_limit();
        let epoll = Epoll::new()?;
        let mut sockets = Vec::with_capacity(count);
        let mut addresses = Vec::with_capacity(count);
        for number in 0..count {
            let socket = UdpSocket::bind((ip, 0)).with_context(|| format!("opening receiver {number} of {count}"))?;
            socket.set_nonblocking(true)?;
            set_buffer(socket.as_raw_fd(), libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, BUFFER_BYTES);
            epoll.add(&socket, number as u64)?;
            addresses.push(ipv4(socket.local_addr()?)?);
            sockets.push(socket);
        }
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (received, stop) = (received.clone(), stop.clone());
            let drain = move || {
                if let Some(core) = core {
                    // Unpinned is noisier, but still a measurement.
                    let _ = pin(core);
                }
                let mut inbox = Inbox::new();
                while !stop.load(Ordering::Relaxed) {
                    epoll.wait(|number| {
                        if let Some(socket) = sockets.get(number as usize) {
                            received.fetch_add(inbox.empty(socket), Ordering::Relaxed);
                        }
                    });
                }
            };
            std::thread::Builder::new().name("receivers".into()).spawn(drain)?
        };
        Ok(Self { addresses, received, stop, thread: Some(thread) })
    }

    pub fn addresses(&self) -> &[SocketAddrV4] {
        &self.addresses
    }

    /// Datagrams until now.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there has already been printed.
            let _ = thread.join();
        }
    }
}

/// Allows as many descriptors as the hard limit does.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit, and reads one back.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    fn add(&self, socket: &UdpSocket, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number };
        // SAFETY: `event` outlives the call.
        let done =
            unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn wait(&self, mut each: impl FnMut(u64)) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        // SAFETY: the kernel writes at most as many events as it is told.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as libc::c_int, WAIT_MS) };
        for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
            each(event.u64);
        }
    }
}

/// Buffers for one `recvmmsg`.
struct Inbox {
    _data: Box<[u8]>,
    _vectors: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers point into the boxes of the same value, which move with it without changing address.
unsafe impl Send for Inbox {}

impl Inbox {
    fn new() -> Self {
        let mut data = vec![0; BATCH * COPIED_BYTES].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = data
            .chunks_exact_mut(COPIED_BYTES)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: COPIED_BYTES })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all-zero bytes are a valid header.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self { _data: data, _vectors: vectors, headers }
    }

    /// Takes all that a socket holds, and says how much that was.
    fn empty(&mut self, socket: &UdpSocket) -> u64 {
        let mut total = 0;
        loop {
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
            let count = usize::try_from(count).unwrap_or(0);
            total += count as u64;
            if count < BATCH {
                return total;
            }
        }
    }
}
