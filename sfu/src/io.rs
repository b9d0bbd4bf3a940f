//! The shell around the engines: threads, sockets, the clock. The only part with `unsafe`.
//!
//! Every worker is a thread with an engine and sockets of its own. On a single port all workers bind it with
//! `SO_REUSEPORT`; the kernel gives one remote address always to the same socket, which need not be that of the worker
//! hosting the transport. The server's ICE user fragments name the worker, so a datagram that came to the wrong socket
//! is handed over, and counted.

mod epoll;
pub mod pulse;
mod strays;
mod tcp;
mod udp;
mod worker;

pub use self::udp::interface_addresses;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::epoll::Waker;
use self::pulse::Pulse;
use self::udp::{Sharing, UdpSocket};
use self::worker::Worker;
use crate::certificate::Certificate;
use crate::command::{Candidate, CandidateProtocol, Command, Event};
use crate::engine::EngineConfig;
use crate::ice;
use crate::id::RoomId;
use crate::parameters::IceCredentials;
use crate::path::Path;
use crate::stats::{Counter, MediaStats, Stats};

/// Commands that may wait for a worker, which takes a few hundred of them in a turn.
const COMMANDS_MAX: usize = 1024;
/// Datagrams that may wait to be taken over.
const HANDED_MAX: usize = 1024;

/// Workers of a process at most: their number is a byte of the user fragments.
pub const WORKERS_MAX: usize = 255;

/// Which UDP ports the workers listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpPorts {
    /// One port for all workers, `SO_REUSEPORT`.
    Single(u16),
    /// Each worker takes one port of its own from this range, both ends included.
    Range(u16, u16),
}

/// What the worker threads of a process are started with.
#[derive(Clone)]
pub struct Config {
    /// Worker threads; 0 means one a core.
    pub workers: usize,
    /// Addresses to bind; empty means each of every interface.
    pub bind: Vec<IpAddr>,
    /// Addresses to name in candidates; empty means those bound, or of all interfaces that are up (loopback only if
    /// there is no other).
    pub advertise: Vec<IpAddr>,
    /// UDP ports to listen on.
    pub udp: UdpPorts,
    /// Port of passive ICE-TCP; `None` switches it off.
    pub tcp_port: Option<u16>,
    /// What all transports show in their handshakes.
    pub certificate: Certificate,
    /// What an operator may set of the media path.
    pub engine: EngineConfig,
}

/// Statistics that a worker shares with other threads.
struct SharedStats {
    stats: Mutex<Stats>,
    transports: AtomicUsize,
    subscriptions: AtomicUsize,
    pulse: Pulse,
    /// The thread has ended.
    ended: AtomicBool,
}

impl SharedStats {
    fn new(now: Instant) -> Self {
        let (stats, transports, subscriptions, ended) = Default::default();
        Self { stats, transports, subscriptions, pulse: Pulse::new(now), ended }
    }
}

/// Says that a worker's thread has ended, however it did.
struct Ending(Arc<SharedStats>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// What one worker passes to another: packets and connections of its clients that came to the wrong one, and which
/// addresses are its clients'.
enum Handed {
    Datagram {
        /// Who has handed it over.
        by: u8,
        from: Path,
        bytes: Vec<u8>,
    },
    /// The answer to a datagram that was handed over: the client at this address is connected to this worker.
    Shown {
        remote: SocketAddr,
        worker: u8,
    },
    Connection {
        stream: TcpStream,
        remote: SocketAddr,
        bytes: Vec<u8>,
    },
}

/// The queue of another worker.
#[derive(Clone)]
struct Neighbour {
    queue: SyncSender<Handed>,
    waker: Waker,
}

impl Neighbour {
    /// `false`: its queue is full.
    fn hand_over(&self, handed: Handed) -> bool {
        let taken = self.queue.try_send(handed).is_ok();
        if taken {
            self.waker.wake();
        }
        taken
    }
}

/// The worker threads.
pub struct Workers {
    handles: Vec<WorkerHandle>,
    threads: Vec<JoinHandle<()>>,
}

/// Sends commands to one worker and reads its statistics. Cheap to clone.
#[derive(Clone)]
pub struct WorkerHandle {
    index: u8,
    commands: SyncSender<Instruction>,
    waker: Waker,
    shared: Arc<SharedStats>,
    candidates: Arc<[Candidate]>,
}

/// An entry of a worker's queue of commands.
enum Instruction {
    Apply(Command),
    Stop,
}

/// Why a command was not queued.
#[derive(Debug)]
pub enum SendError {
    /// Try again shortly.
    Full(Command),
    /// The worker is gone.
    Gone,
}

impl Workers {
    /// Binds the sockets and starts the threads. `on_event` is called on worker threads and must not block.
    ///
    /// Fails if a port is taken or an address is not ours; the error names it.
    pub fn start(config: Config, on_event: impl Fn(RoomId, Event) + Clone + Send + 'static) -> io::Result<Workers> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if config.workers == 0 { cores } else { config.workers }.clamp(1, WORKERS_MAX);
        let addresses = bind_addresses(&config.bind)?;
        let advertised = advertised(&config, &addresses)?;

        let mut parts = Vec::new();
        let mut ports = config.udp;
        for number in 0..count {
            let sharing = match config.udp {
                UdpPorts::Single(_) if number > 0 => Sharing::OurOwn,
                UdpPorts::Single(_) | UdpPorts::Range(..) => Sharing::Nobodys,
            };
            let (sockets, port) = bind_udp(&addresses, &mut ports, sharing)?;
            let (handed_to, handed) = sync_channel(HANDED_MAX);
            let waker = Waker::new()?;
            parts.push((sockets, port, Neighbour { queue: handed_to, waker }, handed));
        }
        let neighbours: Vec<Neighbour> = parts.iter().map(|part| part.2.clone()).collect();

        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for (index, (sockets, port, neighbour, handed)) in parts.into_iter().enumerate() {
            let listeners = match config.tcp_port {
                Some(port) => bind_tcp(&addresses, port, if index > 0 { Sharing::OurOwn } else { Sharing::Nobodys })?,
                None => Vec::new(),
            };
            let index = u8::try_from(index).map_err(io::Error::other)?;
            let (commands_to, commands) = sync_channel(COMMANDS_MAX);
            let shared = Arc::new(SharedStats::new(Instant::now()));
            let handle = WorkerHandle {
                index,
                commands: commands_to,
                waker: neighbour.waker.clone(),
                shared: shared.clone(),
                candidates: candidates(&advertised, port, config.tcp_port),
            };
            let inboxes = Inboxes { commands, handed, waker: neighbour.waker };
            let worker = Worker::new(index, &config, sockets, listeners, inboxes, neighbours.clone(), shared.clone())?;
            let on_event = on_event.clone();
            let thread = std::thread::Builder::new().name(format!("sfu-{index}"));
            let ending = Ending(shared);
            threads.push(thread.spawn(move || {
                let _ending = ending;
                worker.run(on_event);
            })?);
            handles.push(handle);
        }
        Ok(Workers { handles, threads })
    }

    /// The workers, by their number.
    pub fn handles(&self) -> &[WorkerHandle] {
        &self.handles
    }

    /// Counters of all workers, summed; up to a second old.
    pub fn counters(&self) -> Vec<Counter> {
        let mut sum: Vec<Counter> = Vec::new();
        for handle in &self.handles {
            let Ok(stats) = handle.shared.stats.lock() else { continue };
            let counters = stats.counters();
            if sum.is_empty() {
                sum = counters;
            } else {
                for (total, counter) in sum.iter_mut().zip(counters) {
                    total.3 += counter.3;
                }
            }
        }
        sum
    }

    /// How streams fare on all workers; up to a second old.
    pub fn media(&self) -> MediaStats {
        let mut sum = MediaStats::default();
        for handle in &self.handles {
            if let Ok(stats) = handle.shared.stats.lock() {
                sum.add(&stats.media);
            }
        }
        sum
    }

    /// Stops and joins the threads.
    pub fn stop(self) {
        for handle in &self.handles {
            // The worker takes commands in every turn, so this waits for one turn at most.
            let _ = handle.commands.send(Instruction::Stop);
            handle.waker.wake();
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

impl WorkerHandle {
    /// Queues a command without waiting.
    pub fn try_send(&self, command: Command) -> Result<(), SendError> {
        self.try_queue(command).inspect(|()| self.waker.wake())
    }

    /// Queues a command that need not be carried out before the worker next wakes for another reason: half a second
    /// later at most, and before it reads the next datagram.
    pub fn try_queue(&self, command: Command) -> Result<(), SendError> {
        match self.commands.try_send(Instruction::Apply(command)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(Instruction::Apply(command))) => {
                self.waker.wake();
                Err(SendError::Full(command))
            }
            Err(_) => Err(SendError::Gone),
        }
    }

    /// New ICE credentials for a transport of this worker; the ufrag names the worker, so that any socket can hand a
    /// stray datagram over.
    pub fn new_credentials(&self) -> IceCredentials {
        ice::new_credentials(self.index)
    }

    /// Where clients reach this worker.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.candidates.to_vec()
    }

    /// Whether its thread runs. A worker whose thread has ended gets no more rooms.
    pub fn is_running(&self) -> bool {
        !self.shared.ended.load(Ordering::Relaxed)
    }

    /// For how long the current turn has lasted, if that is longer than [`pulse::STALL`]: meanwhile its clients get no
    /// media.
    pub fn stalled_for(&self, now: Instant) -> Option<Duration> {
        self.shared.pulse.stalled_for(now)
    }

    /// Transports now hosted, up to a second old: what placement goes by.
    pub fn load(&self) -> usize {
        self.shared.transports.load(Ordering::Relaxed)
    }

    /// Tracks that it sends now, once for each viewer; up to a second old.
    pub fn subscriptions(&self) -> usize {
        self.shared.subscriptions.load(Ordering::Relaxed)
    }
}

/// The receiving ends of a worker's queues.
struct Inboxes {
    commands: Receiver<Instruction>,
    handed: Receiver<Handed>,
    waker: Waker,
}

/// By default every address of every interface has a socket of its own. A socket on the wildcard would answer from
/// whichever address the route prefers, and a client takes no answer from another address than it asked (RFC 8445,
/// section 7.2.5.2.1).
fn bind_addresses(bind: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    if !bind.is_empty() {
        return Ok(bind.to_vec());
    }
    let mut addresses = udp::interface_addresses()?;
    addresses.retain(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()));
    addresses.dedup();
    // The index of a socket is kept in a byte.
    addresses.truncate(usize::from(u8::MAX));
    Ok(if addresses.is_empty() { vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] } else { addresses })
}

/// One socket an address, all on one port.
fn bind_udp(addresses: &[IpAddr], ports: &mut UdpPorts, sharing: Sharing) -> io::Result<(Vec<UdpSocket>, u16)> {
    loop {
        let port = match *ports {
            UdpPorts::Single(port) => port,
            UdpPorts::Range(first, last) if first <= last => first,
            UdpPorts::Range(..) => {
                let error = "too few ports of the UDP range are free: each worker takes one";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, error));
            }
        };
        let bound = bind_all(addresses, |address| UdpSocket::bind(SocketAddr::new(address, port), sharing));
        match (bound, &mut *ports) {
            (Ok(sockets), ports) => {
                if let UdpPorts::Range(first, _) = ports {
                    *first = first.saturating_add(1);
                }
                // Port 0 asks the kernel; all later sockets take what it gave.
                let port = sockets.first().map_or(Ok(port), UdpSocket::port)?;
                if let UdpPorts::Single(single) = ports {
                    *single = port;
                }
                return Ok((sockets, port));
            }
            (Err(_), UdpPorts::Range(first, last)) if *first < *last => *first += 1,
            (Err(error), _) => return Err(name_error(error, "UDP", port)),
        }
    }
}

fn bind_tcp(addresses: &[IpAddr], port: u16, sharing: Sharing) -> io::Result<Vec<std::net::TcpListener>> {
    bind_all(addresses, |address| tcp::listen(SocketAddr::new(address, port), sharing))
        .map_err(|error| name_error(error, "TCP", port))
}

/// Binds every address; a machine without IPv6 does without its wildcard.
fn bind_all<S>(addresses: &[IpAddr], bind: impl Fn(IpAddr) -> io::Result<S>) -> io::Result<Vec<S>> {
    let mut bound = Vec::new();
    for address in addresses {
        match bind(*address) {
            Ok(socket) => bound.push(socket),
            Err(_) if *address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !bound.is_empty() => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(io::Error::new(error.kind(), format!("is taken on {address}")));
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("cannot be used on {address}: {error}"))),
        }
    }
    Ok(bound)
}

fn name_error(error: io::Error, what: &str, port: u16) -> io::Error {
    io::Error::new(error.kind(), format!("{what} port {port} {error}"))
}

fn candidates(advertised: &[IpAddr], udp: u16, tcp: Option<u16>) -> Arc<[Candidate]> {
    let of = |protocol, port| {
        advertised.iter().map(move |address| Candidate { address: SocketAddr::new(*address, port), protocol })
    };
    let tcp = tcp.into_iter().flat_map(|port| of(CandidateProtocol::TcpPassive, port));
    of(CandidateProtocol::Udp, udp).chain(tcp).collect()
}

/// The addresses that clients are told.
fn advertised(config: &Config, bound: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    if !config.advertise.is_empty() {
        return Ok(config.advertise.clone());
    }
    let mut addresses = Vec::new();
    let interfaces = udp::interface_addresses()?;
    for address in bound {
        if address.is_unspecified() {
            let family = interfaces.iter().filter(|other| other.is_ipv4() == address.is_ipv4());
            addresses.extend(family.copied().filter(is_advertisable));
        } else if !config.bind.is_empty() || is_advertisable(address) {
            addresses.push(*address);
        }
    }
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    Ok(addresses)
}

/// Loopback reaches nobody else, link-local IPv6 needs a scope that SDP cannot carry.
fn is_advertisable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}
