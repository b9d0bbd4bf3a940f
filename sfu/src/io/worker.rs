//! One worker: a loop of turns around an engine.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use tracing::{error, trace, warn};

use super::epoll::{Epoll, Interest};
use super::pulse::STALL;
use super::strays::{Place, Strays};
use super::tcp::{
    BadFrame, Connection, ConnectionId, Connections, FRAMES_A_TURN, ReadOutcome, UNAUTHENTICATED_FRAMES_MAX,
};
use super::udp::{Outlet, ReceiveBatch, UdpSocket};
use super::{Config, Handed, Inboxes, Instruction, Neighbour, SharedStats};
use crate::command::{Command, Event};
use crate::demux::{Discard, PacketKind};
use crate::engine::Engine;
use crate::ice::{is_response, local_ufrag_of, worker_of};
use crate::id::RoomId;
use crate::path::{Path, Via};
use crate::run::{SendArena, Transmit};

/// Batches read from one socket in a turn, so that a flood cannot keep others waiting.
const BATCHES_MAX: usize = 8;
/// Commands that are applied in a row; then what has arrived comes first.
const COMMANDS_A_TURN: usize = 256;
/// Clients that data is sent to in a turn, which takes some 20 ms; commands beyond that wait for the next turn.
const DATA_RECEIVERS_A_TURN: usize = 4_096;
/// How long no connection is accepted after the process had no descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Time between two lines of the log that say the same.
const WARNING_PAUSE: Duration = Duration::from_secs(60);
/// How often statistics are shared and idle connections closed.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

const TOKEN_WAKER: u64 = 0;
const TOKEN_UDP: u64 = 1 << 32;
const TOKEN_LISTENER: u64 = 2 << 32;
const TOKEN_CONNECTION: u64 = 3 << 32;
const TOKEN_KIND: u64 = !0 << 32;

pub(super) struct Worker {
    index: u8,
    engine: Engine,
    out: SendArena<Outlet>,
    epoll: Epoll,
    sockets: Vec<UdpSocket>,
    listeners: Vec<TcpListener>,
    connections: Connections,
    /// Connections whose frames were more than a turn takes.
    unread: VecDeque<ConnectionId>,
    /// Until when no connection is accepted: the process has no descriptor left.
    accept_after: Option<Instant>,
    /// When that was last logged.
    accept_warned_at: Option<Instant>,
    inboxes: Inboxes,
    neighbours: Vec<Neighbour>,
    strays: Strays,
    shared: Arc<SharedStats>,
    housekeeping: Instant,
    /// Clients that data was sent to in this turn.
    data_receivers: usize,
    /// When the current turn began, or the last one.
    turn_began: Instant,
    /// When a turn that lasted too long was last logged.
    stall_warned_at: Option<Instant>,
    stopping: bool,
}

impl Worker {
    pub(super) fn new(
        index: u8,
        config: &Config,
        sockets: Vec<UdpSocket>,
        listeners: Vec<TcpListener>,
        inboxes: Inboxes,
        neighbours: Vec<Neighbour>,
        shared: Arc<SharedStats>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(inboxes.waker.fd(), TOKEN_WAKER, Interest::Read)?;
        for (number, socket) in sockets.iter().enumerate() {
            epoll.add(socket.fd(), TOKEN_UDP | number as u64, Interest::Read)?;
        }
        for (number, listener) in listeners.iter().enumerate() {
            epoll.add(listener.as_raw_fd(), TOKEN_LISTENER | number as u64, Interest::Read)?;
        }
        let now = Instant::now();
        Ok(Self {
            index,
            engine: Engine::new(config.certificate.clone(), config.engine, rand::random(), now),
            out: SendArena::new(Outlet::new(&sockets)),
            epoll,
            sockets,
            listeners,
            connections: Connections::default(),
            unread: VecDeque::new(),
            accept_after: None,
            accept_warned_at: None,
            inboxes,
            neighbours,
            strays: Strays::default(),
            shared,
            housekeeping: now,
            data_receivers: 0,
            turn_began: now,
            stall_warned_at: None,
            stopping: false,
        })
    }

    /// Turns until told to stop. A panic ends the transport that led to it, not the worker.
    pub(super) fn run(mut self, on_event: impl Fn(RoomId, Event)) {
        let mut batch = ReceiveBatch::new();
        let mut ready = Vec::with_capacity(128);
        // When there is something to forward that this turn left.
        let mut again: Option<Instant> = None;
        self.turn_began = Instant::now();
        loop {
            ready.clear();
            let timeout = self.timeout(again);
            if let Err(error) = self.epoll.wait(Some(timeout), &mut ready) {
                error!(worker = self.index, %error, "cannot wait for sockets: the worker stops");
                return;
            }
            // What a panic may leave half done is closed or made anew before it is looked at again.
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn(&ready, &mut batch, &on_event)));
            if self.stopping {
                return;
            }
            again = turn.unwrap_or_else(|_| {
                self.recover();
                Some(Instant::now())
            });
            self.shared.pulse.end();
        }
    }

    /// Takes in what has arrived, sends what follows from it, and does what is due. Returns when there is more to
    /// forward.
    fn turn(&mut self, ready: &[u64], batch: &mut ReceiveBatch, on_event: &impl Fn(RoomId, Event)) -> Option<Instant> {
        let now = Instant::now();
        self.shared.pulse.begin(now);
        self.turn_began = now;
        self.data_receivers = 0;
        for token in ready {
            self.on_ready(now, *token, batch);
        }
        for _ in 0..self.unread.len() {
            let Some(id) = self.unread.pop_front() else { break };
            self.read_frames(now, id);
        }
        self.apply_commands(now);
        if self.stopping {
            self.out.flush();
            return None;
        }
        self.take_over(now);
        let mut again = self.engine.forward(now, &mut self.out);
        if !self.unread.is_empty() {
            again = Some(now);
        }
        self.engine.expire(now, &mut self.out);
        self.out.flush();
        self.send_frames();
        while let Some(id) = self.engine.poll_unused_connection() {
            self.connections.remove(ConnectionId(id));
        }
        while let Some((room, event)) = self.engine.poll_event() {
            on_event(room, event);
        }
        if now >= self.housekeeping {
            self.do_housekeeping(now);
        }
        again
    }

    /// Goes on after a panic: without the transport that was being served, or without any.
    fn recover(&mut self) {
        self.out.discard();
        let worker = self.index;
        if let Ok(Some((room, transport, stage))) = catch_unwind(AssertUnwindSafe(|| self.engine.end_served())) {
            error!(worker, ?room, ?transport, ?stage, "a fault while a transport was served: it is closed");
            return;
        }
        let broken = self.engine.restart(Instant::now());
        let transports = broken.transports();
        // A panic of a destructor changes nothing: the engine is gone.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
        error!(worker, transports, "a fault that no transport is known to have led to: all of this worker are closed");
    }

    fn timeout(&mut self, again: Option<Instant>) -> Duration {
        let now = Instant::now();
        self.note_stall(now.saturating_duration_since(self.turn_began));
        let until = |at: Instant| at.saturating_duration_since(now);
        let due = self.engine.deadline().map_or(HOUSEKEEPING, until).min(HOUSEKEEPING);
        again.map_or(due, |at| due.min(until(at)))
    }

    /// Counts a turn that has held up everybody.
    fn note_stall(&mut self, lasted: Duration) {
        if lasted <= STALL {
            return;
        }
        self.engine.stats.stalls += 1;
        if self.stall_warned_at.is_none_or(|at| self.turn_began >= at + WARNING_PAUSE) {
            self.stall_warned_at = Some(self.turn_began);
            warn!(worker = self.index, ?lasted, "a turn took so long that all clients of this worker had to wait");
        }
    }

    fn on_ready(&mut self, now: Instant, token: u64, batch: &mut ReceiveBatch) {
        let number = (token & !TOKEN_KIND) as usize;
        match token & TOKEN_KIND {
            TOKEN_UDP => self.receive(now, number, batch),
            TOKEN_LISTENER => self.accept(now, number),
            TOKEN_CONNECTION => self.read_connection(now, ConnectionId(number as u32)),
            _ => self.inboxes.waker.clear(),
        }
    }

    fn receive(&mut self, now: Instant, number: usize, batch: &mut ReceiveBatch) {
        let via = Via::Udp(number as u8);
        for _ in 0..BATCHES_MAX {
            let more = batch.fill(&self.sockets[number]);
            // A check may have been quicker than this turn: the transport that it is for was ordered before the client
            // could know of it.
            self.apply_commands(now);
            let Self { engine, out, strays, neighbours, index, .. } = self;
            batch.for_each(|remote, datagram| {
                let from = Path { remote, via };
                let settled = neighbours.len() > 1 && engine.holds(&from);
                let place = Place { index: *index, workers: neighbours.len(), settled };
                match strays.owner(now, place, remote, datagram) {
                    Err(discard) => engine.stats.count(discard),
                    Ok(None) => receive_timed(engine, now, from, datagram, out),
                    Ok(Some(worker)) => {
                        let handed = Handed::Datagram { by: *index, from, bytes: datagram.to_vec() };
                        let taken = neighbours.get(usize::from(worker)).is_some_and(|other| other.hand_over(handed));
                        if taken {
                            engine.stats.handed_over += 1;
                        } else {
                            engine.stats.count(Discard::HandOverFull);
                        }
                    }
                }
            });
            match more {
                Ok(true) if !self.stopping => {}
                Ok(true) => return,
                Ok(false) => return,
                Err(error) => {
                    trace!(%error, "receive");
                    return;
                }
            }
        }
    }

    /// Carries out what rooms decided.
    fn apply_commands(&mut self, now: Instant) {
        for _ in 0..COMMANDS_A_TURN {
            if self.data_receivers >= DATA_RECEIVERS_A_TURN {
                break;
            }
            match self.inboxes.commands.try_recv() {
                Ok(Instruction::Apply(command)) => {
                    if let Command::SendData { transports, .. } = &command {
                        self.data_receivers += transports.len();
                    }
                    self.engine.handle(now, command, &mut self.out);
                }
                Ok(Instruction::Stop) | Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
        // There may be more: come back at once.
        self.inboxes.waker.wake();
    }

    /// Takes what came to other workers' sockets.
    fn take_over(&mut self, now: Instant) {
        while let Ok(handed) = self.inboxes.handed.try_recv() {
            self.apply_commands(now);
            match handed {
                Handed::Datagram { by, from, mut bytes } => {
                    self.engine.stats.taken_over += 1;
                    // The last flight of a handshake and each check from then on.
                    let may_show = match PacketKind::of(&bytes) {
                        Some(PacketKind::Stun) => !is_response(&bytes),
                        kind => kind == Some(PacketKind::Dtls),
                    };
                    receive_timed(&mut self.engine, now, from, &mut bytes, &mut self.out);
                    if may_show && self.engine.holds(&from) {
                        let shown = Handed::Shown { remote: from.remote, worker: self.index };
                        // If the queue is full, the next check says it again.
                        let _ = self.neighbours.get(usize::from(by)).is_some_and(|other| other.hand_over(shown));
                    }
                }
                Handed::Shown { remote, worker } => self.strays.show(now, remote, worker),
                Handed::Connection { stream, remote, bytes } => {
                    self.engine.stats.taken_over += 1;
                    if let Ok(connection) = Connection::new(now, stream, remote, bytes) {
                        self.adopt(now, connection);
                    }
                }
            }
        }
    }

    fn accept(&mut self, now: Instant, number: usize) {
        loop {
            match self.listeners[number].accept() {
                Ok((stream, remote)) => {
                    if let Ok(connection) = Connection::new(now, stream, remote, Vec::new()) {
                        self.adopt(now, connection);
                    }
                }
                Err(error) if is_out_of_descriptors(&error) => return self.pause_accepting(now, &error),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// A listener that cannot accept stays ready: asking it again at once would take the whole core.
    fn pause_accepting(&mut self, now: Instant, error: &io::Error) {
        self.engine.stats.accept_pauses += 1;
        if self.accept_warned_at.is_none_or(|at| now >= at + WARNING_PAUSE) {
            self.accept_warned_at = Some(now);
            warn!(worker = self.index, %error, "no ICE-TCP connection is accepted: raise the limit of open files");
        }
        self.accept_after = Some(now + ACCEPT_PAUSE);
        self.watch_listeners(Interest::None);
    }

    fn watch_listeners(&self, interest: Interest) {
        for (number, listener) in self.listeners.iter().enumerate() {
            // Registered at the start; a failure shows when the next connection is not accepted.
            let _ = self.epoll.change(listener.as_raw_fd(), TOKEN_LISTENER | number as u64, interest);
        }
    }

    fn adopt(&mut self, now: Instant, connection: Connection) {
        let fd = connection.fd();
        let Some(id) = self.connections.insert(connection) else {
            self.engine.stats.count(Discard::TcpConnectionsFull);
            return;
        };
        if self.epoll.add(fd, TOKEN_CONNECTION | u64::from(id.0), Interest::Read).is_err() {
            self.connections.remove(id);
            return;
        }
        self.read_frames(now, id);
    }

    fn read_connection(&mut self, now: Instant, id: ConnectionId) {
        if self.unread.contains(&id) {
            // Frames already read come first. What stays in the kernel's buffer slows the sender down.
            return;
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let outcome = connection.read(now);
        self.apply_commands(now);
        self.read_frames(now, id);
        self.flush_connection(id);
        if outcome == ReadOutcome::Closed && !self.unread.contains(&id) {
            self.connections.remove(id);
        }
    }

    /// Gives a connection's frames to the engine, or the connection to the worker that its first check names.
    fn read_frames(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !connection.settled {
            let check = match connection.peek_frame() {
                Ok(Some(frame)) => local_ufrag_of(frame).and_then(worker_of),
                Ok(None) => return,
                Err(_) => None,
            };
            match check {
                Some(worker) if worker == self.index => connection.settled = true,
                Some(worker) => return self.give_away(id, worker),
                None => return self.refuse_connection(id, Discard::UnknownProtocol),
            }
        }
        for _ in 0..FRAMES_A_TURN {
            match self.read_frame(now, id) {
                Ok(true) => {}
                Ok(false) => return,
                Err(discard) => return self.refuse_connection(id, discard),
            }
        }
        self.unread.push_back(id);
    }

    /// Gives the next frame to the engine. `Ok(false)`: there is none.
    fn read_frame(&mut self, now: Instant, id: ConnectionId) -> Result<bool, Discard> {
        let Self { connections, engine, out, .. } = self;
        let Some(connection) = connections.get_mut(id) else { return Ok(false) };
        let Some(range) = connection.next_frame().map_err(|bad| match bad {
            BadFrame::TooLong => Discard::TooLarge,
            BadFrame::Empty => Discard::FrameRefused,
        })?
        else {
            return Ok(false);
        };
        let from = Path { remote: connection.remote, via: Via::Tcp(id.0) };
        if connection.is_authenticated() {
            receive_timed(engine, now, from, connection.frame_mut(range), out);
            return Ok(true);
        }
        connection.unauthenticated_frames += 1;
        let frame = connection.frame_mut(range);
        if PacketKind::of(frame) != Some(PacketKind::Stun) {
            return Err(Discard::FrameRefused);
        }
        engine.receive(now, from, frame, out);
        if let Some(transport) = engine.transport_at(&from) {
            if !connections.authenticate(id, transport) {
                return Err(Discard::TcpConnectionsFull);
            }
        } else if connection.unauthenticated_frames >= UNAUTHENTICATED_FRAMES_MAX {
            return Err(Discard::Unauthenticated);
        }
        Ok(true)
    }

    fn refuse_connection(&mut self, id: ConnectionId, discard: Discard) {
        self.engine.stats.count(discard);
        // An error response may say why.
        self.out.flush();
        self.send_frames();
        self.connections.remove(id);
    }

    fn give_away(&mut self, id: ConnectionId, worker: u8) {
        let Some((stream, remote, bytes)) = self.connections.remove(id) else { return };
        let handed = Handed::Connection { stream, remote, bytes };
        let taken = self.neighbours.get(usize::from(worker)).is_some_and(|other| other.hand_over(handed));
        if taken {
            self.engine.stats.handed_over += 1;
        } else {
            self.engine.stats.count(Discard::HandOverFull);
        }
    }

    /// Writes what the turn made for TCP connections.
    fn send_frames(&mut self) {
        let outlet = self.out.transmitter();
        if outlet.tcp.is_empty() {
            return;
        }
        let frames = std::mem::take(&mut outlet.tcp);
        for (id, frame) in frames {
            let id = ConnectionId(id);
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if !connection.queue(&frame) {
                self.engine.stats.losses.send_buffer += 1;
            }
            self.flush_connection(id);
        }
    }

    fn flush_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let interest = match connection.flush() {
            Ok(true) => Interest::ReadWrite,
            Ok(false) => Interest::Read,
            Err(_) => {
                self.connections.remove(id);
                return;
            }
        };
        // Registered when it was adopted; a failure shows at the next write.
        let _ = self.epoll.change(connection.fd(), TOKEN_CONNECTION | u64::from(id.0), interest);
    }

    fn do_housekeeping(&mut self, now: Instant) {
        self.housekeeping = now + HOUSEKEEPING;
        for id in self.connections.overdue(now) {
            let unauthenticated = self.connections.get_mut(id).is_some_and(|connection| !connection.is_authenticated());
            if unauthenticated {
                self.engine.stats.count(Discard::Unauthenticated);
            }
            self.connections.remove(id);
        }
        if self.accept_after.is_some_and(|at| at <= now) {
            self.accept_after = None;
            self.watch_listeners(Interest::Read);
        }
        let losses = &mut self.engine.stats.losses;
        losses.add(std::mem::take(&mut self.out.transmitter().losses));
        losses.receive_buffer = self.sockets.iter().map(UdpSocket::dropped).sum();
        self.shared.transports.store(self.engine.transports(), Ordering::Relaxed);
        self.shared.subscriptions.store(self.engine.subscriptions(), Ordering::Relaxed);
        self.engine.count_subscriptions();
        // A reader holds the lock now and then; the next snapshot is half a second away.
        if let Ok(mut stats) = self.shared.stats.try_lock() {
            stats.clone_from(&self.engine.stats);
        }
    }
}

/// Gives a datagram to the engine, and says how long it took unless it is media or a connectivity check, whose cost
/// does not depend on what is in them: the clock is not read for these.
fn receive_timed<T: Transmit>(
    engine: &mut Engine,
    now: Instant,
    from: Path,
    datagram: &mut [u8],
    out: &mut SendArena<T>,
) {
    let is_timed = matches!(PacketKind::of(datagram), Some(PacketKind::Dtls | PacketKind::Rtcp));
    let begun = is_timed.then(Instant::now);
    engine.receive(now, from, datagram, out);
    if let Some(begun) = begun {
        engine.charge(now, begun.elapsed());
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
