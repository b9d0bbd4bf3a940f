//! The task that drives a [`Room`]: clock, channels, worker. It has no rules of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use livekit_protocol as proto;
use sfu::command::{Command, Event, RoomId, TransportId};
use sfu::io::{SendError, WorkerHandle};
use tokio::sync::{broadcast, mpsc};

use super::input::RoomInput;
use super::timer::Now;
use super::{Room, RoomEffect};
use crate::counts::CountedRoom;
use crate::event::RoomEvent;
use crate::id::ConnectionId;
use crate::outbox::{Outbound, Outbox};
use crate::wire::Outgoing;

/// How long to wait before a full worker queue is tried again: a worker applies hundreds of commands every turn.
const WORKER_RETRY: Duration = Duration::from_millis(1);
/// Retries (about ten seconds) after which a worker that takes nothing counts as dead.
const WORKER_RETRIES_MAX: u32 = 10_000;
/// Inputs handled in a row: what they cause goes out together, and other events get their turn after them.
const INPUTS_IN_A_ROW: usize = 64;
/// Worker events handled in a row.
const EVENTS_IN_A_ROW: usize = 64;
/// Bytes of decoded requests that are handled before other tasks of the thread get their turn: some milliseconds.
const WORK_IN_A_ROW: usize = 64 << 10;

/// A room with its channels.
pub struct RoomTask {
    pub room: Room,
    pub id: RoomId,
    pub worker: WorkerHandle,
    pub inputs: mpsc::Receiver<RoomInput>,
    pub events: mpsc::Receiver<Event>,
    pub listeners: broadcast::Sender<RoomEvent>,
    pub counted: CountedRoom,
    outboxes: HashMap<ConnectionId, Outbox>,
    worker_gone: bool,
}

/// What a [`RoomTask`] is made of.
pub struct RoomChannels {
    pub inputs: mpsc::Receiver<RoomInput>,
    pub events: mpsc::Receiver<Event>,
    pub listeners: broadcast::Sender<RoomEvent>,
    pub counted: CountedRoom,
}

impl RoomTask {
    pub fn new(room: Room, id: RoomId, worker: WorkerHandle, channels: RoomChannels) -> Self {
        let RoomChannels { inputs, events, listeners, counted } = channels;
        Self { room, id, worker, inputs, events, listeners, counted, outboxes: HashMap::new(), worker_gone: false }
    }

    /// Runs until the room is closed.
    pub async fn run(mut self) {
        self.apply_effects().await;
        let mut inputs = Vec::with_capacity(INPUTS_IN_A_ROW);
        let mut events = Vec::with_capacity(EVENTS_IN_A_ROW);
        while !self.room.is_closed() {
            let deadline = self.room.deadline().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                count = self.inputs.recv_many(&mut inputs, INPUTS_IN_A_ROW) => {
                    if count == 0 {
                        self.room.close(now(), proto::DisconnectReason::ServerShutdown);
                    }
                    self.handle_all(&mut inputs).await;
                }
                1.. = self.events.recv_many(&mut events, EVENTS_IN_A_ROW) => {
                    let now = now();
                    events.drain(..).for_each(|event| self.room.on_event(now, event));
                }
                () = tokio::time::sleep_until(deadline.into()) => self.room.on_deadline(now()),
            }
            self.apply_effects().await;
        }
        // Who comes to a closed room finds its channel closed, or gets no answer, and tries a new one.
    }

    /// Other tasks of the thread get their turn after every bit of work, whatever one room is asked to do.
    async fn handle_all(&mut self, inputs: &mut Vec<RoomInput>) {
        let mut work = 0;
        for input in inputs.drain(..) {
            work += input.work();
            self.handle(input);
            if work > WORK_IN_A_ROW {
                work = 0;
                self.apply_effects().await;
                tokio::task::yield_now().await;
            }
        }
    }

    fn handle(&mut self, input: RoomInput) {
        let now = now();
        match input {
            RoomInput::Join { join, outbox, reply, place: _place } => {
                let result = self.room.join(now, *join);
                if let Ok(connection) = &result {
                    self.outboxes.insert(*connection, outbox);
                }
                // If nobody waits for the answer any more, the client is gone: its connection is closed like any other.
                if let Err(Ok(connection)) = reply.send(result) {
                    self.room.on_connection_closed(now, connection);
                }
            }
            RoomInput::Request { connection, request, cost: _, place: _place } => {
                self.room.on_request(now, connection, *request);
            }
            RoomInput::Receipt { connection, offer } => self.room.on_receipt(connection, offer),
            RoomInput::ConnectionClosed { connection } => {
                self.outboxes.remove(&connection);
                self.room.on_connection_closed(now, connection);
            }
            RoomInput::Call(call) => call(&mut self.room, now),
        }
    }

    async fn apply_effects(&mut self) {
        let mut pending = Pending::default();
        loop {
            let effects = self.room.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.apply(effect, &mut pending).await;
            }
            self.flush(&mut pending.batch);
            for command in std::mem::take(&mut pending.commands) {
                let wakes = !pending.is_awaited_by_nobody(&command);
                self.command(command, wakes).await;
            }
        }
        self.counted.set(self.room.view().members.len(), self.room.track_count());
    }

    async fn apply(&mut self, effect: RoomEffect, pending: &mut Pending) {
        match effect {
            // The worker is ready before the client can know of it.
            RoomEffect::Command(command @ Command::OpenTransport { transport, .. }) => {
                pending.opened.push(transport);
                self.command(command, false).await;
            }
            RoomEffect::Command(command @ Command::RestartIce { .. }) => self.command(command, true).await,
            // A client hears of a section before the worker sends in it.
            RoomEffect::Command(command) => pending.commands.push(command),
            RoomEffect::Send { to, message } => pending.batch.add(to, &message),
            RoomEffect::AskReceipt(connection, offer) => {
                self.flush(&mut pending.batch);
                self.send(connection, Outbound::AskReceipt(offer));
            }
            RoomEffect::CloseConnection(connection) => {
                self.flush(&mut pending.batch);
                self.send(connection, Outbound::Close);
                self.outboxes.remove(&connection);
            }
            RoomEffect::Charge { connection, cost } => {
                if let Some(outbox) = self.outboxes.get(&connection) {
                    outbox.charge(cost);
                }
            }
            RoomEffect::Event(event) => {
                self.counted.note(&event);
                // Nobody listens: fine.
                let _ = self.listeners.send(*event);
            }
            RoomEffect::TrackRefused => self.counted.note_refused_track(),
            RoomEffect::Quality(scores) => self.counted.judge(&scores),
            RoomEffect::Delta(_) | RoomEffect::Closed => {}
        }
    }

    fn flush(&mut self, batch: &mut Batch) {
        for (connection, messages) in batch.0.drain() {
            self.send(connection, Outbound::Messages(messages));
        }
    }

    /// A connection that does not keep up is closed; the client resumes.
    fn send(&mut self, connection: ConnectionId, message: Outbound) {
        let Some(outbox) = self.outboxes.get(&connection) else { return };
        if outbox.send(message).is_err() {
            self.outboxes.remove(&connection);
            self.room.on_connection_closed(now(), connection);
        }
    }

    async fn command(&mut self, mut command: Command, wakes: bool) {
        if self.worker_gone {
            return;
        }
        for _ in 0..WORKER_RETRIES_MAX {
            let sent = if wakes { self.worker.try_send(command) } else { self.worker.try_queue(command) };
            match sent {
                Ok(()) => return,
                Err(SendError::Full(refused)) => {
                    command = refused;
                    tokio::time::sleep(WORKER_RETRY).await;
                }
                Err(SendError::Gone) => break,
            }
        }
        tracing::error!(room = self.id.0, "the worker of this room is gone, the room closes");
        self.worker_gone = true;
        self.room.close(now(), proto::DisconnectReason::ServerShutdown);
    }
}

/// What the inputs that were handled in a row have caused, until it is applied.
#[derive(Default)]
struct Pending {
    batch: Batch,
    /// For the worker, after all messages have been sent.
    commands: Vec<Command>,
    opened: Vec<TransportId>,
}

impl Pending {
    /// Whether the worker need not be woken: the client of a transport that was opened with it has not heard of it
    /// yet, and its first datagram will wake the worker.
    fn is_awaited_by_nobody(&self, command: &Command) -> bool {
        matches!(
            command,
            Command::SetFingerprint { transport, .. } | Command::SetRemoteCredentials { transport, .. }
                if self.opened.contains(transport)
        )
    }
}

/// Messages by connection. However many they are, they take one place in an outbox, so that the first messages in a
/// room of a thousand tracks do not fill it.
#[derive(Default)]
struct Batch(HashMap<ConnectionId, Vec<Arc<Outgoing>>>);

impl Batch {
    fn add(&mut self, to: Vec<ConnectionId>, message: &Arc<Outgoing>) {
        for connection in to {
            self.0.entry(connection).or_default().push(Arc::clone(message));
        }
    }
}

/// Both clocks; the only place of the rooms that reads them.
pub fn now() -> Now {
    Now { at: Instant::now(), wall: SystemTime::now() }
}

#[cfg(test)]
mod tests {
    use sfu::command::{DtlsRole, Fingerprint, IceCredentials};

    use super::*;

    #[test]
    fn a_worker_is_woken_for_all_but_what_a_new_transport_needs_before_its_client_comes() {
        let pending = Pending { opened: vec![TransportId(1)], ..Pending::default() };
        let is_woken = |command: &Command| !pending.is_awaited_by_nobody(command);
        for (number, woken) in [(1, false), (2, true)] {
            let transport = TransportId(number);
            let remote = IceCredentials { ufrag: "clnt".into(), password: "p".repeat(22) };
            let (fingerprint, role) = (Fingerprint([7; 32]), DtlsRole::Server);
            assert_eq!(is_woken(&Command::SetFingerprint { transport, fingerprint, role }), woken);
            assert_eq!(is_woken(&Command::SetRemoteCredentials { transport, remote }), woken);
            assert!(is_woken(&Command::CloseTransport { transport, after: Duration::ZERO }));
        }
    }
}
