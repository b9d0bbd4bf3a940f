//! An AF_XDP socket that only sends: its memory, its rings, its system call.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

/// Room for one packet.
pub(super) const FRAME_BYTES: usize = 2_048;
/// Packets under way at most; all of them stay in the core's second-level cache.
const FRAMES: u32 = 256;
/// Packets that one system call sends: what the kernel does by itself, and what it is asked for where it can be.
const BATCH: u32 = 32;
const BATCH_WANTED: u32 = 128;
/// Option of Linux 6.17 that raises the former.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// System calls without progress before the ring counts as stuck.
const TRIES_MAX: u32 = 10_000;

/// Memory shared with the kernel.
struct Mapping {
    start: *mut u8,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize, flags: libc::c_int, descriptor: libc::c_int, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, descriptor, offset)
        };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { start: start.cast(), bytes })
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing points into it any more.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// One ring of entries `T`.
struct Ring<T> {
    _mapping: Mapping,
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    entries: *mut T,
}

impl<T: Copy> Ring<T> {
    fn map(socket: &OwnedFd, offsets: &libc::xdp_ring_offset, page: libc::off_t) -> io::Result<Self> {
        let bytes = offsets.desc as usize + FRAMES as usize * size_of::<T>();
        let mapping = Mapping::new(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, socket.as_raw_fd(), page)?;
        // SAFETY: the kernel's offsets are inside of the mapping, and aligned.
        unsafe {
            Ok(Self {
                producer: mapping.start.add(offsets.producer as usize).cast(),
                consumer: mapping.start.add(offsets.consumer as usize).cast(),
                entries: mapping.start.add(offsets.desc as usize).cast(),
                _mapping: mapping,
            })
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: it points into the mapping, which lives as long as the ring.
        unsafe { &*self.producer }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &*self.consumer }
    }

    fn entry(&self, at: u32) -> *mut T {
        // SAFETY: the ring has FRAMES entries, a power of two.
        unsafe { self.entries.add((at & (FRAMES - 1)) as usize) }
    }
}

/// A socket with packets for one queue of one interface.
pub(super) struct TransmitRing {
    transmit: Ring<libc::xdp_desc>,
    completed: Ring<u64>,
    // Closed before the packets' memory goes.
    socket: OwnedFd,
    packets: Mapping,
    free: Vec<u64>,
    /// Written, but not shown to the kernel yet.
    written: u32,
    batch: u32,
    system_calls: u64,
}

impl TransmitRing {
    /// Opens a ring for the first queue of `interface`, in copy mode.
    ///
    /// # Errors
    ///
    /// Says which step the kernel refused.
    pub(super) fn open(interface: u32) -> anyhow::Result<Self> {
        let bytes = FRAMES as usize * FRAME_BYTES;
        let packets = Mapping::new(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1, 0)?;
        // SAFETY: no memory is involved.
        let descriptor = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error()).context("socket(AF_XDP)");
        }
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        register(&socket, &packets)?;
        let offsets = offsets(&socket).context("XDP_MMAP_OFFSETS")?;
        let transmit = Ring::map(&socket, &offsets.tx, libc::XDP_PGOFF_TX_RING).context("mapping the transmit ring")?;
        let page = libc::XDP_UMEM_PGOFF_COMPLETION_RING.cast_signed();
        let completed = Ring::map(&socket, &offsets.cr, page).context("mapping the completion ring")?;
        bind(&socket, interface).context("binding to the interface in copy mode")?;
        let raised = set(&socket, XDP_MAX_TX_SKB_BUDGET, &BATCH_WANTED).is_ok();
        let free = (0..FRAMES).map(|frame| u64::from(frame) * FRAME_BYTES as u64).collect();
        let batch = if raised { BATCH_WANTED } else { BATCH };
        Ok(Self { transmit, completed, socket, packets, free, written: 0, batch, system_calls: 0 })
    }

    pub(super) fn system_calls(&self) -> u64 {
        self.system_calls
    }

    /// Adds a packet of `bytes`.
    pub(super) fn push(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) -> io::Result<()> {
        if self.written == self.batch {
            self.flush()?;
        }
        let mut tries = 0;
        let address = loop {
            if let Some(address) = self.free.pop() {
                break address;
            }
            self.collect();
            tries += 1;
            if tries > TRIES_MAX {
                return Err(io::Error::other("the kernel gives no packet back"));
            }
        };
        // SAFETY: the address is one of FRAMES rooms, and the kernel has given this one back.
        let frame = unsafe { std::slice::from_raw_parts_mut(self.packets.start.add(address as usize), FRAME_BYTES) };
        write(frame);
        let at = self.transmit.producer().load(Ordering::Relaxed).wrapping_add(self.written);
        // SAFETY: no more packets are under way than the ring has entries, so the kernel has read this one.
        unsafe { *self.transmit.entry(at) = libc::xdp_desc { addr: address, len: bytes as u32, options: 0 } };
        self.written += 1;
        Ok(())
    }

    /// Shows the kernel what was written, and lets it send all of it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let producer = self.transmit.producer();
        let end = producer.load(Ordering::Relaxed).wrapping_add(std::mem::take(&mut self.written));
        producer.store(end, Ordering::Release);
        for _ in 0..TRIES_MAX {
            if self.transmit.consumer().load(Ordering::Acquire) == end {
                self.collect();
                return Ok(());
            }
            self.system_calls += 1;
            // SAFETY: no memory but the rings' is involved.
            let sent = unsafe {
                libc::sendto(self.socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
            };
            if sent < 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    // More than a batch is left, or the completion ring is full.
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => self.collect(),
                    _ => return Err(error),
                }
            }
        }
        Err(io::Error::other("the kernel does not send"))
    }

    /// Takes back what was sent.
    fn collect(&mut self) {
        let end = self.completed.producer().load(Ordering::Acquire);
        let mut at = self.completed.consumer().load(Ordering::Relaxed);
        while at != end {
            // SAFETY: the kernel has written the entries before `end`.
            self.free.push(unsafe { *self.completed.entry(at) });
            at = at.wrapping_add(1);
        }
        self.completed.consumer().store(at, Ordering::Release);
    }
}

/// Tells the kernel of the packets' memory and the rings' sizes.
fn register(socket: &OwnedFd, packets: &Mapping) -> anyhow::Result<()> {
    // SAFETY: all-zero bytes are a valid registration.
    let mut memory: libc::xdp_umem_reg = unsafe { zeroed() };
    memory.addr = packets.start as u64;
    memory.len = packets.bytes as u64;
    memory.chunk_size = FRAME_BYTES as u32;
    set(socket, libc::XDP_UMEM_REG, &memory).context("XDP_UMEM_REG")?;
    // The fill ring is for receiving, but no socket binds without.
    set(socket, libc::XDP_UMEM_FILL_RING, &FRAMES).context("XDP_UMEM_FILL_RING")?;
    set(socket, libc::XDP_UMEM_COMPLETION_RING, &FRAMES).context("XDP_UMEM_COMPLETION_RING")?;
    set(socket, libc::XDP_TX_RING, &FRAMES).context("XDP_TX_RING")
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: all-zero bytes are valid offsets.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { zeroed() };
    let mut length = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `offsets`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(offsets) } else { Err(io::Error::last_os_error()) }
}

fn bind(socket: &OwnedFd, interface: u32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid address.
    let mut address: libc::sockaddr_xdp = unsafe { zeroed() };
    address.sxdp_family = libc::AF_XDP as libc::sa_family_t;
    address.sxdp_ifindex = interface;
    address.sxdp_flags = libc::XDP_COPY;
    let length = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: pointer and length describe `address`.
    let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
