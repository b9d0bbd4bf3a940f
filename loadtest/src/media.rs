//! One thread that moves the media of thousands of transports: epoll, timers, no task or lock for any of them.
//!
//! Clients talk to it through [`MediaThread`]; it answers with [`TransportEvent`]s. The thread owns the sockets. While
//! a transport connects, its socket wakes the thread at once. Afterwards it may be one of many that are swept at an
//! interval ([`MediaOptions::sweep`]): waking for each of the packets that a server sends to a thousand subscribers one
//! after the other would cost more than reading them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc as events, oneshot};

use crate::clock::{monotonic_ns, realtime_ns, thread_cpu_ns};
use crate::delays::Delays;
use crate::dtls::Identity;
use crate::ice::Credentials;
use crate::sender::{Encoding, Source};
use crate::socket::{self, Batch, Datagram, Features};
use crate::transport::{Reception, Remote, Transport, TransportEvent, TransportOptions, TransportStats};

/// Events of one `epoll_wait`; also the sockets that are read before handshakes and timers get their turn again.
const READY_MAX: usize = 256;
/// The eventfd that announces commands.
const COMMANDS: u64 = u64::MAX;
/// Batches read from one socket before the others get their turn.
const BATCHES_PER_TURN: usize = 4;
/// Closed transports whose counters are kept: a sum over all of them must not fall when a session ends.
const ENDED_MAX: usize = 10_000;
/// Longest sleep.
const IDLE_MAX: Duration = Duration::from_millis(500);

/// How a thread receives.
#[derive(Debug, Clone, Copy, Default)]
pub struct MediaOptions {
    /// Between two looks at the connected sockets; zero wakes for each of them at once.
    pub sweep: Duration,
    /// See [`Features::coalesce`].
    pub coalesce: bool,
}

/// Names a transport of one [`MediaThread`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransportId(u32);

/// A transport to run.
pub struct NewTransport {
    pub socket: UdpSocket,
    pub identity: Identity,
    pub local: Credentials,
    pub options: TransportOptions,
    /// Receives what happens; a full queue loses data messages.
    pub events: events::Sender<TransportEvent>,
}

/// Everything the thread counts, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// In the order of their ids, those that have been closed among them.
    pub transports: Vec<(u32, TransportStats)>,
    /// Delays since the last [`MediaThread::reset_delays`].
    pub delays: Delays,
    /// CPU that the thread has used.
    pub cpu_ns: u64,
    /// Events that found their client's queue full.
    pub events_lost: u64,
}

impl Snapshot {
    /// The counters of one transport.
    pub fn transport(&self, id: TransportId) -> Option<&TransportStats> {
        let index = self.transports.binary_search_by_key(&id.0, |(number, _)| *number).ok()?;
        self.transports.get(index).map(|(_, stats)| stats)
    }
}

enum Command {
    Open(u32, Box<NewTransport>),
    Remote(u32, Remote),
    Candidate(u32, SocketAddr),
    Reception(u32, Reception),
    Publish(u32, Source, Encoding),
    StopSending(Option<u32>, Option<u32>),
    Data(u32, String, Vec<u8>, oneshot::Sender<bool>),
    Close(u32),
    Snapshot(oneshot::Sender<Snapshot>),
    ResetDelays,
}

/// Handle of a running thread; it ends with the last handle.
#[derive(Clone)]
pub struct MediaThread {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    next_id: Arc<AtomicU32>,
    coalesce: bool,
}

impl MediaThread {
    /// Starts a thread.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors or threads left.
    pub fn spawn(name: &str, options: MediaOptions) -> anyhow::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let wake = Arc::new(eventfd().context("opening an eventfd")?);
        let poll = epoll().context("opening an epoll descriptor")?;
        watch(&poll, wake.as_raw_fd(), COMMANDS, 0).context("watching for commands")?;
        let sweep = if options.sweep.is_zero() { None } else { Some(Sweep::new(options.sweep)?) };
        let shell = Shell {
            poll,
            sweep,
            backlog: Vec::new(),
            ended: Vec::new(),
            wake: wake.as_raw_fd(),
            commands: receiver,
            slots: Vec::new(),
            timers: BinaryHeap::new(),
            batch: Batch::new(options.coalesce),
            delays: Delays::default(),
            events_lost: 0,
        };
        let held = wake.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                shell.run();
                drop(held);
            })
            .context("starting a media thread")?;
        Ok(Self { commands, wake, next_id: Arc::default(), coalesce: options.coalesce })
    }

    /// What the sockets of this thread's transports need; those that `verify` measure delays by the kernel's clock.
    pub fn features(&self, verify: bool) -> Features {
        Features { coalesce: self.coalesce, timestamps: verify }
    }

    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            let one = 1_u64;
            // SAFETY: eight bytes of `one` are read. A full counter already wakes the thread.
            unsafe { libc::write(self.wake.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Runs a transport until it is closed.
    pub fn open(&self, transport: NewTransport) -> TransportId {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Open(id, Box::new(transport)));
        TransportId(id)
    }

    pub fn set_remote(&self, id: TransportId, remote: Remote) {
        self.send(Command::Remote(id.0, remote));
    }

    pub fn add_candidate(&self, id: TransportId, address: SocketAddr) {
        self.send(Command::Candidate(id.0, address));
    }

    pub fn set_reception(&self, id: TransportId, reception: Reception) {
        self.send(Command::Reception(id.0, reception));
    }

    pub fn publish(&self, id: TransportId, source: Source, encoding: Encoding) {
        self.send(Command::Publish(id.0, source, encoding));
    }

    /// Ends the media of one track.
    pub fn stop_track(&self, id: TransportId, ssrc: u32) {
        self.send(Command::StopSending(Some(id.0), Some(ssrc)));
    }

    /// Ends the media of every track of every transport.
    pub fn stop_sending(&self) {
        self.send(Command::StopSending(None, None));
    }

    /// Sends a message; `false` when the channel is not open.
    pub async fn send_data(&self, id: TransportId, label: &str, message: Vec<u8>) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Data(id.0, label.to_owned(), message, reply));
        answer.await.unwrap_or(false)
    }

    pub fn close(&self, id: TransportId) {
        self.send(Command::Close(id.0));
    }

    /// All counters.
    pub async fn snapshot(&self) -> Snapshot {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Snapshot(reply));
        answer.await.unwrap_or_default()
    }

    /// Forgets the delays measured so far.
    pub fn reset_delays(&self) {
        self.send(Command::ResetDelays);
    }
}

struct Slot {
    socket: UdpSocket,
    transport: Transport,
    events: events::Sender<TransportEvent>,
    /// The deadline that is in the heap.
    armed: Option<Instant>,
    /// Its socket is in [`Sweep::poll`].
    is_swept: bool,
}

impl Slot {
    fn stats(&self) -> TransportStats {
        TransportStats { kernel_drops: socket::kernel_drops(&self.socket), ..self.transport.stats() }
    }
}

/// The connected sockets, looked at together. They are watched by edge: a read takes all there is.
struct Sweep {
    poll: OwnedFd,
    interval: Duration,
    next: Instant,
    sockets: usize,
}

impl Sweep {
    fn new(interval: Duration) -> anyhow::Result<Self> {
        let poll = epoll().context("opening an epoll descriptor")?;
        Ok(Self { poll, interval, next: Instant::now(), sockets: 0 })
    }
}

struct Shell {
    /// Commands, sockets of transports that connect, and all the others if nothing is swept.
    poll: OwnedFd,
    sweep: Option<Sweep>,
    /// Swept sockets that may hold more than their turn allowed.
    backlog: Vec<u32>,
    /// What closed transports had counted.
    ended: Vec<(u32, TransportStats)>,
    wake: RawFd,
    commands: mpsc::Receiver<Command>,
    slots: Vec<Option<Box<Slot>>>,
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    batch: Batch,
    delays: Delays,
    events_lost: u64,
}

impl Shell {
    fn run(mut self) {
        // SAFETY: all-zero bytes are a valid epoll_event.
        let mut ready: Vec<libc::epoll_event> = vec![unsafe { std::mem::zeroed() }; READY_MAX];
        let mut looked = Instant::now();
        loop {
            let count = self.wait(&mut ready);
            // Nobody wakes the thread when the last handle goes.
            if looked.elapsed() >= IDLE_MAX {
                looked = Instant::now();
                if !self.take_commands() {
                    return;
                }
            }
            for event in &ready[..count] {
                match event.u64 {
                    COMMANDS => {
                        if !self.take_commands() {
                            return;
                        }
                    }
                    index => {
                        self.read(index as u32);
                    }
                }
            }
            self.sweep(&mut ready);
            self.run_timers();
        }
    }

    /// Reads swept sockets when it is time.
    fn sweep(&mut self, ready: &mut [libc::epoll_event]) {
        let now = Instant::now();
        let Some(sweep) = self.sweep.as_mut().filter(|sweep| sweep.sockets > 0 && sweep.next <= now) else { return };
        let count = wait(&sweep.poll, ready, Duration::ZERO);
        // A full list may not be all.
        sweep.next = if count == ready.len() || !self.backlog.is_empty() { now } else { now + sweep.interval };
        let backlog = std::mem::take(&mut self.backlog);
        let found = ready[..count].iter().map(|event| event.u64 as u32);
        for id in backlog.into_iter().chain(found) {
            if self.read(id) {
                self.backlog.push(id);
            }
        }
    }

    fn wait(&self, ready: &mut [libc::epoll_event]) -> usize {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let sweep = self.sweep.as_ref().filter(|sweep| sweep.sockets > 0).map(|sweep| sweep.next);
        let pause = match timer.into_iter().chain(sweep).min() {
            Some(at) => at.saturating_duration_since(Instant::now()).min(IDLE_MAX),
            None => IDLE_MAX,
        };
        wait(&self.poll, ready, pause)
    }

    /// `false` when no handle is left.
    fn take_commands(&mut self) -> bool {
        let mut count = 0_u64;
        // SAFETY: eight bytes are written into `count`.
        unsafe { libc::read(self.wake, (&raw mut count).cast(), 8) };
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.on_command(command),
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Open(id, new) => self.open(id, *new, now),
            Command::Remote(id, remote) => self.with(id, |slot| slot.transport.set_remote(remote, now)),
            Command::Candidate(id, address) => self.with(id, |slot| slot.transport.add_candidate(address, now)),
            Command::Reception(id, reception) => self.with(id, |slot| slot.transport.set_reception(reception)),
            Command::Publish(id, source, encoding) => {
                self.with(id, |slot| slot.transport.publish(source, encoding, now));
            }
            Command::StopSending(id, ssrc) => self.stop_sending(id, ssrc),
            Command::Data(id, label, message, reply) => self.with(id, |slot| {
                // A caller that no longer waits does not need the answer.
                let _ = reply.send(slot.transport.send_data(&label, &message, now));
            }),
            Command::Close(id) => {
                self.with(id, |slot| slot.transport.close(now));
                self.remove(id);
            }
            Command::Snapshot(reply) => {
                let _ = reply.send(self.snapshot());
            }
            Command::ResetDelays => self.delays = Delays::default(),
        }
    }

    fn open(&mut self, id: u32, new: NewTransport, now: Instant) {
        let index = id as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        if let Err(error) = watch(&self.poll, new.socket.as_raw_fd(), u64::from(id), 0) {
            self.events_lost += u64::from(new.events.try_send(TransportEvent::Failed(error.to_string())).is_err());
            return;
        }
        let transport = Transport::new(new.identity, new.local, new.options, now);
        let slot = Slot { socket: new.socket, transport, events: new.events, armed: None, is_swept: false };
        self.slots[index] = Some(Box::new(slot));
    }

    fn remove(&mut self, id: u32) {
        let Some(slot) = self.slots.get_mut(id as usize).and_then(Option::take) else { return };
        if let Some(sweep) = self.sweep.as_mut().filter(|_| slot.is_swept) {
            sweep.sockets -= 1;
        }
        if self.ended.len() < ENDED_MAX {
            self.ended.push((id, slot.stats()));
        }
    }

    fn stop_sending(&mut self, id: Option<u32>, ssrc: Option<u32>) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(slot) = slot
                && id.is_none_or(|id| id as usize == index)
            {
                slot.transport.stop_sending(ssrc);
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let open = self.slots.iter().enumerate();
        let open = open.filter_map(|(index, slot)| Some((index as u32, slot.as_ref()?.stats())));
        let mut transports: Vec<_> = open.chain(self.ended.iter().cloned()).collect();
        transports.sort_unstable_by_key(|(id, _)| *id);
        Snapshot { transports, delays: self.delays.clone(), cpu_ns: thread_cpu_ns(), events_lost: self.events_lost }
    }

    fn with(&mut self, id: u32, act: impl FnOnce(&mut Slot)) {
        if let Some(Some(slot)) = self.slots.get_mut(id as usize) {
            act(slot);
            settle(id, slot, &mut self.timers, &mut self.events_lost);
        }
    }

    /// Reads a socket; gives whether it may hold more.
    fn read(&mut self, id: u32) -> bool {
        let Some(Some(slot)) = self.slots.get_mut(id as usize) else { return false };
        let mut more = true;
        for _ in 0..BATCHES_PER_TURN {
            let (now, mut clock) = (Instant::now(), None);
            let Slot { socket, transport, .. } = &mut **slot;
            let delays = &mut self.delays;
            more = self.batch.receive(socket, |datagram| {
                let clock = clock.get_or_insert_with(Arrivals::new);
                transport.on_datagram(datagram.from, datagram.bytes, now, clock.of(&datagram), delays);
            });
            if !more {
                break;
            }
        }
        if slot.transport.take_stirred() {
            settle(id, slot, &mut self.timers, &mut self.events_lost);
            if let Some(sweep) = self.sweep.as_mut().filter(|_| !slot.is_swept && slot.transport.is_connected()) {
                slot.is_swept = move_socket(&slot.socket, u64::from(id), &self.poll, &sweep.poll);
                sweep.sockets += usize::from(slot.is_swept);
            }
        }
        more
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if at > now {
                return;
            }
            self.timers.pop();
            if let Some(Some(slot)) = self.slots.get_mut(id as usize)
                && slot.armed == Some(at)
            {
                slot.armed = None;
                slot.transport.on_timeout(now);
                settle(id, slot, &mut self.timers, &mut self.events_lost);
            }
        }
    }
}

/// Sends what the transport has to send, tells its client, sets its timer.
fn settle(id: u32, slot: &mut Slot, timers: &mut BinaryHeap<Reverse<(Instant, u32)>>, events_lost: &mut u64) {
    for (to, datagram) in slot.transport.take_out() {
        // What the network refuses is lost, as it would be on the way.
        let _ = slot.socket.send_to(&datagram, to);
    }
    for event in slot.transport.take_events() {
        *events_lost += u64::from(slot.events.try_send(event).is_err());
    }
    if let Some(at) = slot.transport.deadline()
        && slot.armed.is_none_or(|armed| at < armed)
    {
        slot.armed = Some(at);
        timers.push(Reverse((at, id)));
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    owned(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })
}

fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `flags` are added to `EPOLLIN`.
fn watch(poll: &OwnedFd, fd: RawFd, token: u64, flags: libc::c_int) -> io::Result<()> {
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | flags) as u32, u64: token };
    // SAFETY: `event` lives through the call.
    let done = unsafe { libc::epoll_ctl(poll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives a socket to another epoll descriptor; `false` if it stays.
fn move_socket(socket: &UdpSocket, token: u64, from: &OwnedFd, to: &OwnedFd) -> bool {
    // What has arrived before is reported as an edge, too.
    if watch(to, socket.as_raw_fd(), token, libc::EPOLLET).is_err() {
        return false;
    }
    // SAFETY: no memory is involved; the kernel ignores the event of a removal.
    unsafe { libc::epoll_ctl(from.as_raw_fd(), libc::EPOLL_CTL_DEL, socket.as_raw_fd(), std::ptr::null_mut()) };
    true
}

/// Fills `ready` with what happens within `pause`.
fn wait(poll: &OwnedFd, ready: &mut [libc::epoll_event], pause: Duration) -> usize {
    let limit = libc::timespec { tv_sec: pause.as_secs() as libc::time_t, tv_nsec: i64::from(pause.subsec_nanos()) };
    // The C library's wrapper is newer than some systems; the call itself (Linux 5.11) has nanoseconds.
    // SAFETY: `ready` holds as many events as is said, `limit` lives through the call, no signal mask is given.
    let count = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            poll.as_raw_fd(),
            ready.as_mut_ptr(),
            ready.len() as libc::c_int,
            &raw const limit,
            std::ptr::null::<libc::sigset_t>(),
            0_usize,
        )
    };
    usize::try_from(count).unwrap_or(0)
}

/// Brings the kernel's arrival times to the monotonic clock.
struct Arrivals {
    monotonic_ns: u64,
    realtime_ns: u64,
}

impl Arrivals {
    fn new() -> Self {
        Self { monotonic_ns: monotonic_ns(), realtime_ns: realtime_ns() }
    }

    /// When a datagram arrived; without the kernel's word, now.
    fn of(&self, datagram: &Datagram<'_>) -> u64 {
        let waited_ns = datagram.arrived_ns.map_or(0, |at| self.realtime_ns.saturating_sub(at));
        self.monotonic_ns.saturating_sub(waited_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::SrtpProfile;

    #[tokio::test]
    async fn the_counters_of_a_closed_transport_stay_in_the_snapshot() {
        let media =
            MediaThread::spawn("test", MediaOptions { sweep: Duration::from_millis(1), coalesce: false }).unwrap();
        let identity = Identity::generate(&[SrtpProfile::Aes128Gcm]).unwrap();
        let open = || {
            let socket = socket::open(std::net::Ipv4Addr::LOCALHOST.into(), media.features(false)).unwrap();
            let local = Credentials { ufrag: "user".into(), password: "a-password-of-enough-letters".into() };
            let (identity, options) = (identity.clone(), TransportOptions::default());
            media.open(NewTransport { socket, identity, local, options, events: events::channel(1).0 })
        };
        let (first, second) = (open(), open());
        media.close(first);
        let snapshot = media.snapshot().await;
        assert_eq!(snapshot.transports.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [first.0, second.0]);
        assert!(snapshot.transport(first).is_some() && snapshot.transport(TransportId(9)).is_none());
    }
}
