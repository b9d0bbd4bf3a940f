//! One worker: a loop of turns around an engine.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use tracing::{error, trace};

use super::epoll::{Epoll, Interest};
use super::tcp::{CONNECTIONS_MAX, Connection, Connections, ReadOutcome};
use super::udp::{Outlet, ReceiveBatch, UdpSocket};
use super::{Board, Handed, Inboxes, Instruction, Neighbour};
use crate::certificate::Certificate;
use crate::command::{Event, RoomId};
use crate::demux::{Discard, PacketKind};
use crate::engine::Engine;
use crate::ice::{local_ufrag_of, worker_of};
use crate::run::SendArena;
use crate::transport::{Path, Via};

/// Batches read from one socket in a turn, so that a flood cannot keep others waiting.
const BATCHES_MAX: usize = 8;
/// Commands carried out in a turn before media gets its turn again.
const COMMANDS_A_TURN: usize = 256;
/// Remote addresses known to belong to another worker; they are learned again from the next check.
const STRAYS_MAX: usize = 65_536;
/// How often counters are shown and idle connections closed.
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
    inboxes: Inboxes,
    neighbours: Vec<Neighbour>,
    /// Where strays belong: remote address to worker.
    strays: HashMap<SocketAddr, u8>,
    board: Arc<Board>,
    housekeeping: Instant,
    stopping: bool,
}

impl Worker {
    pub(super) fn new(
        index: u8,
        certificate: &Certificate,
        sockets: Vec<UdpSocket>,
        listeners: Vec<TcpListener>,
        inboxes: Inboxes,
        neighbours: Vec<Neighbour>,
        board: Arc<Board>,
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
            engine: Engine::new(certificate.clone(), now),
            out: SendArena::new(Outlet::new(&sockets)),
            epoll,
            sockets,
            listeners,
            connections: Connections::new(),
            inboxes,
            neighbours,
            strays: HashMap::new(),
            board,
            housekeeping: now,
            stopping: false,
        })
    }

    /// Turns until told to stop. A panic ends the transport that led to it, not the worker.
    pub(super) fn run(mut self, on_event: impl Fn(RoomId, Event)) {
        let mut batch = ReceiveBatch::new();
        let mut ready = Vec::with_capacity(128);
        // When there is something to forward that this turn left.
        let mut again: Option<Instant> = None;
        loop {
            ready.clear();
            if let Err(error) = self.epoll.wait(Some(self.timeout(again)), &mut ready) {
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
        }
    }

    /// Takes in what has arrived, sends what follows from it, and does what is due. Returns when there is more to forward.
    fn turn(&mut self, ready: &[u64], batch: &mut ReceiveBatch, on_event: &impl Fn(RoomId, Event)) -> Option<Instant> {
        let now = Instant::now();
        for token in ready {
            self.on_ready(now, *token, batch);
        }
        self.obey(now);
        if self.stopping {
            self.out.flush();
            return None;
        }
        self.take_over(now);
        let again = self.engine.forward_some(now, &mut self.out);
        self.engine.expire(now, &mut self.out);
        self.out.flush();
        self.send_frames();
        while let Some((room, event)) = self.engine.poll_event() {
            on_event(room, event);
        }
        if now >= self.housekeeping {
            self.keep_house(now);
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
        // Whatever a destructor still says, the engine is gone.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
        error!(worker, transports, "a fault that no transport is known to have led to: all of this worker are closed");
    }

    fn timeout(&self, again: Option<Instant>) -> Duration {
        let now = Instant::now();
        let until = |at: Instant| at.saturating_duration_since(now);
        let due = self.engine.deadline().map_or(HOUSEKEEPING, until).min(HOUSEKEEPING);
        again.map_or(due, |at| due.min(until(at)))
    }

    fn on_ready(&mut self, now: Instant, token: u64, batch: &mut ReceiveBatch) {
        let number = (token & !TOKEN_KIND) as usize;
        match token & TOKEN_KIND {
            TOKEN_UDP => self.receive(now, number, batch),
            TOKEN_LISTENER => self.accept(now, number),
            TOKEN_CONNECTION => self.read_connection(now, number),
            _ => self.inboxes.waker.clear(),
        }
    }

    fn receive(&mut self, now: Instant, number: usize, batch: &mut ReceiveBatch) {
        let via = Via::Udp(number as u8);
        for _ in 0..BATCHES_MAX {
            let more = batch.fill(&self.sockets[number]);
            // A check may have been quicker than this turn: the transport that it is for was ordered before the client
            // could know of it.
            self.obey(now);
            let Self { engine, out, strays, neighbours, index, .. } = self;
            batch.for_each(|remote, datagram| {
                let from = Path { remote, via };
                let settled = neighbours.len() > 1 && engine.knows(&from);
                match owner(*index, neighbours.len(), settled, strays, remote, datagram) {
                    None => engine.receive(now, from, datagram, out),
                    Some(worker) => {
                        let handed = Handed::Datagram { from, bytes: datagram.to_vec() };
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
    fn obey(&mut self, now: Instant) {
        for _ in 0..COMMANDS_A_TURN {
            match self.inboxes.commands.try_recv() {
                Ok(Instruction::Obey(command)) => self.engine.handle(now, command, &mut self.out),
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
            self.obey(now);
            self.engine.stats.taken_over += 1;
            match handed {
                Handed::Datagram { from, mut bytes } => self.engine.receive(now, from, &mut bytes, &mut self.out),
                Handed::Connection { stream, remote, bytes } => {
                    if let Ok(connection) = Connection::new(now, stream, remote, bytes) {
                        self.adopt(now, connection);
                    }
                }
            }
        }
    }

    fn accept(&mut self, now: Instant, number: usize) {
        while let Ok((stream, remote)) = self.listeners[number].accept() {
            if let Ok(connection) = Connection::new(now, stream, remote, Vec::new()) {
                self.adopt(now, connection);
            }
        }
    }

    fn adopt(&mut self, now: Instant, connection: Connection) {
        if self.connections.len() >= CONNECTIONS_MAX {
            self.engine.stats.count(Discard::HandOverFull);
            return;
        }
        let fd = connection.fd();
        let slot = self.connections.insert(connection);
        if self.epoll.add(fd, TOKEN_CONNECTION | slot as u64, Interest::Read).is_err() {
            self.connections.remove(slot);
            return;
        }
        self.read_frames(now, slot);
    }

    fn read_connection(&mut self, now: Instant, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let outcome = connection.read(now);
        self.obey(now);
        self.read_frames(now, slot);
        self.flush_connection(slot);
        if outcome == ReadOutcome::Closed {
            self.connections.try_remove(slot);
        }
    }

    /// Gives a connection's frames to the engine, or the connection to the worker that its first check names.
    fn read_frames(&mut self, now: Instant, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if !connection.settled {
            let check = match connection.peek_frame() {
                Ok(Some(frame)) => local_ufrag_of(frame).and_then(worker_of),
                Ok(None) => return,
                Err(()) => None,
            };
            match check {
                Some(worker) if worker == self.index => connection.settled = true,
                Some(worker) => return self.give_away(slot, worker),
                None => {
                    self.engine.stats.count(Discard::UnknownProtocol);
                    self.connections.remove(slot);
                    return;
                }
            }
        }
        while let Some(connection) = self.connections.get_mut(slot) {
            match connection.next_frame() {
                Ok(Some(mut frame)) => {
                    let from = Path { remote: connection.remote, via: Via::Tcp(slot as u32) };
                    self.engine.receive(now, from, &mut frame, &mut self.out);
                }
                Ok(None) => return,
                Err(()) => {
                    self.engine.stats.count(Discard::TooLarge);
                    self.connections.remove(slot);
                }
            }
        }
    }

    fn give_away(&mut self, slot: usize, worker: u8) {
        let (stream, remote, bytes) = self.connections.remove(slot).into_parts();
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
        for (slot, frame) in frames {
            let slot = slot as usize;
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            if !connection.queue(&frame) {
                self.engine.stats.losses.send_buffer += 1;
            }
            self.flush_connection(slot);
        }
    }

    fn flush_connection(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let interest = match connection.flush() {
            Ok(true) => Interest::ReadWrite,
            Ok(false) => Interest::Read,
            Err(_) => {
                self.connections.remove(slot);
                return;
            }
        };
        // Registered when it was adopted; a failure shows at the next write.
        let _ = self.epoll.change(connection.fd(), TOKEN_CONNECTION | slot as u64, interest);
    }

    fn keep_house(&mut self, now: Instant) {
        self.housekeeping = now + HOUSEKEEPING;
        let idle: Vec<usize> =
            self.connections.iter().filter(|(_, connection)| connection.is_idle(now)).map(|(slot, _)| slot).collect();
        for slot in idle {
            self.connections.remove(slot);
        }
        let losses = &mut self.engine.stats.losses;
        losses.add(std::mem::take(&mut self.out.transmitter().losses));
        losses.receive_buffer = self.sockets.iter().map(UdpSocket::dropped).sum();
        self.board.transports.store(self.engine.transports(), Ordering::Relaxed);
        // A reader holds the lock now and then; the next snapshot is half a second away.
        if let Ok(mut stats) = self.board.stats.try_lock() {
            stats.clone_from(&self.engine.stats);
        }
    }
}

/// The other worker that a datagram belongs to, if any.
fn owner(
    index: u8,
    workers: usize,
    settled: bool,
    strays: &mut HashMap<SocketAddr, u8>,
    remote: SocketAddr,
    datagram: &[u8],
) -> Option<u8> {
    if workers < 2 {
        return None;
    }
    if PacketKind::of(datagram) != Some(PacketKind::Stun) {
        // What an authenticated check has settled, a forged one for another worker must not divert.
        return strays.get(&remote).copied().filter(|_| !settled);
    }
    // A ufrag that names no worker is for the engine to refuse: the sender's other packets must not go astray by it.
    let worker = local_ufrag_of(datagram).and_then(worker_of).filter(|worker| usize::from(*worker) < workers)?;
    if worker == index {
        strays.remove(&remote);
        return None;
    }
    if strays.len() >= STRAYS_MAX {
        strays.clear();
    }
    strays.insert(remote, worker);
    Some(worker)
}
