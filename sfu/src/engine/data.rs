//! Data messages between clients and rooms.
//!
//! A room is given no more than it takes: what it has not said to have taken ([`Command::DataTaken`]) is bounded for each
//! client, each room and the whole worker. Reliable messages beyond that stay with the transport, whose receive window
//! closes; lossy ones are dropped and counted. So a client that sends faster than its room takes waits, and neither fills
//! the queues to the rooms nor keeps others from them. It waits as well while a client that it sends to is behind by
//! nearly as much as may wait, though fast enough to lose nothing.
//!
//! What one client sends goes to all others of its room, who may be thousands. So each has a rate for the work that its
//! messages make here ([`FanOut`]): beyond it reliable messages wait like those of a client whose room is slow, and lossy
//! ones are dropped and counted.
//!
//! [`Command::DataTaken`]: crate::command::Command::DataTaken

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Engine, Stage};
use crate::command::{DataChannel, Event, RoomId, TransportId};
use crate::key::TransportKey;
use crate::run::{SendArena, Transmit};

/// What a room may have of one client and not have taken, of each kind of data, and a message more. Some milliseconds of
/// the fastest client's, so that it does not wait for a room that takes it at once.
const CLIENT_MAX: Load = Load { messages: 256, bytes: 256 * 1024 };
/// The same of all clients of a room.
const ROOM_MAX: Load = Load { messages: ROOM_DATA_MESSAGES_MAX / 2, bytes: 1024 * 1024 };
/// The same of all rooms of a worker.
const WORKER_MAX: Load = Load { messages: WORKER_DATA_MESSAGES_MAX / 2, bytes: 64 * 1024 * 1024 };
/// Data messages that a room has not taken, at most.
pub const ROOM_DATA_MESSAGES_MAX: usize = 2_048;
/// Data messages that the rooms of a worker have not taken, at most.
pub const WORKER_DATA_MESSAGES_MAX: usize = 32_768;
/// Reliable messages that one client may give to its room before the next one has its turn.
const MESSAGES_A_TURN: usize = 64;
/// How often a client that waits for slower ones is looked after: little against the time that these take for what waits
/// for them.
const BEHIND_CHECK: Duration = Duration::from_millis(50);
/// Least time that a client waits that has made too much work.
const FAN_OUT_PAUSE: Duration = Duration::from_millis(10);
/// Clients whose being behind one sender waits for at a time; later ones are found when it goes on.
const BEHIND_MAX: usize = 16;
/// Reliable data that waits for the clients of one worker, in bytes: while there is more, only a MiB waits for each.
const BACKLOG_MAX: usize = 256 * 1024 * 1024;

/// Work that the messages of one client may make in a second: their bytes and [`MESSAGE_WORK`] for each, times the clients
/// that they go to. Twelve thousand receivers of ten short messages a second each; some half of a worker's time.
const FAN_OUT_PER_SECOND: u64 = 128 << 20;
/// So many seconds of it at once.
const FAN_OUT_AT_ONCE: Duration = Duration::from_secs(2);
/// What a message costs beside its bytes: a packet of SCTP and DTLS, and a system call's part.
const MESSAGE_WORK: usize = 1 << 10;

/// Messages and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Load {
    fn is_below(&self, limit: Load) -> bool {
        self.messages < limit.messages && self.bytes < limit.bytes
    }

    fn add(&mut self, other: Load) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    fn remove(&mut self, other: Load) {
        self.messages = self.messages.saturating_sub(other.messages);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// The load of each kind of data: neither takes the other's room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Loads {
    reliable: Load,
    lossy: Load,
}

impl Loads {
    fn of(&mut self, channel: DataChannel) -> &mut Load {
        match channel {
            DataChannel::Reliable => &mut self.reliable,
            DataChannel::Lossy | DataChannel::DataTrack => &mut self.lossy,
        }
    }

    fn sum(&self) -> Load {
        let mut sum = self.reliable;
        sum.add(self.lossy);
        sum
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What the messages of one client have made the worker do.
#[derive(Debug, Default)]
struct FanOut {
    /// When that is within [`FAN_OUT_PER_SECOND`].
    paid_at: Option<Instant>,
    /// Most clients that one of them went to.
    receivers: usize,
}

impl FanOut {
    /// Notes messages that went to so many clients.
    fn add(&mut self, now: Instant, receivers: usize, load: Load) {
        self.paid_at = Some(self.paid_at.map_or(now, |at| at.max(now)) + time_of(receivers, load));
        self.receivers = self.receivers.max(receivers);
    }

    /// Until when there is so much of it that the client has to wait, if what is on the way to the room goes to as many as
    /// its own has: before any of that is known, to all who are here.
    fn waits_until(&self, now: Instant, all: usize, untaken: Load) -> Option<Instant> {
        let receivers = if self.receivers == 0 { all } else { self.receivers };
        let paid_at = self.paid_at.map_or(now, |at| at.max(now)) + time_of(receivers, untaken);
        (paid_at > now + FAN_OUT_AT_ONCE).then(|| paid_at - FAN_OUT_AT_ONCE)
    }
}

/// How long such work takes at the rate.
fn time_of(receivers: usize, load: Load) -> Duration {
    let work = load.messages.saturating_mul(MESSAGE_WORK).saturating_add(load.bytes).saturating_mul(receivers) as u64;
    Duration::from_micros(work.saturating_mul(1_000_000) / FAN_OUT_PER_SECOND)
}

/// A client as a sender of data.
#[derive(Debug, Default)]
pub(super) struct Sender {
    fan_out: FanOut,
    /// What its room has not taken.
    untaken: Loads,
    /// It is in [`DataFlow::waiting`].
    waits: bool,
    /// Clients that were behind when it sent to them.
    behind: Vec<TransportKey>,
}

/// What the rooms of a worker have not taken, and who waits for that.
#[derive(Debug, Default)]
pub(super) struct DataFlow {
    rooms: HashMap<RoomId, Loads>,
    all: Loads,
    /// Clients with reliable messages for their room, in turn.
    waiting: VecDeque<TransportKey>,
    /// A room has taken something since they were last served.
    taken: bool,
    /// When those that wait for slower clients are looked after.
    check: Option<Instant>,
    /// Bytes of reliable data that clients have not acknowledged.
    pub(super) backlog: usize,
}

impl DataFlow {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.check
    }

    fn spare(&self) -> usize {
        BACKLOG_MAX.saturating_sub(self.backlog)
    }
}

impl Engine {
    /// Sends a message of `from`, or of nobody here, to clients.
    pub(super) fn send_data<T: Transmit>(
        &mut self,
        now: Instant,
        from: Option<TransportId>,
        to: &[TransportId],
        (channel, payload): (DataChannel, &Bytes),
        out: &mut SendArena<T>,
    ) {
        let sender = from.and_then(|from| self.peer_of.get(&from).copied());
        if let Some(sender) = sender {
            let load = Load { messages: 1, bytes: payload.len() };
            self.peers[sender].data.fan_out.add(now, to.len(), load);
        }
        for transport in to {
            let Some(slot) = self.peer_slot(*transport) else { continue };
            let spare = self.data.spare();
            let peer = &mut self.peers[slot];
            if let Err(why) = peer.transport.send_data_within(now, channel, payload, spare) {
                self.stats.data_dropped.count(why);
            }
            let is_behind = channel == DataChannel::Reliable && peer.transport.is_behind(now, spare);
            if is_behind && let Some(sender) = sender.and_then(|sender| self.peers.get_mut(sender)) {
                let behind = &mut sender.data.behind;
                if behind.len() < BEHIND_MAX && !behind.contains(&slot) {
                    behind.push(slot);
                }
            }
            self.after_transport(now, slot, out);
        }
    }

    /// Gives a message of a channel that is not reliable to the room, or drops it.
    pub(super) fn on_lossy_data(&mut self, now: Instant, slot: TransportKey, channel: DataChannel, payload: Bytes) {
        if self.makes_too_much_work_until(now, slot).is_some() {
            self.stats.data_received += 1;
            self.stats.data_over_rate += 1;
        } else if self.may_give(slot, channel) {
            self.give(slot, channel, payload);
        } else {
            self.stats.data_received += 1;
            self.stats.data_overflow += 1;
        }
    }

    /// Gives reliable messages of a client to its room, unless it waits for its turn.
    pub(super) fn on_reliable_data(&mut self, now: Instant, slot: TransportKey) {
        if self.peers[slot].closes_at.is_some() {
            // Nobody is there to hear of it.
            while self.peers[slot].transport.take_reliable(now).is_some() {}
        } else if !self.peers[slot].data.waits {
            let given = self.read_data(now, slot);
            let peer = &mut self.peers[slot];
            if peer.transport.has_reliable() {
                peer.data.waits = true;
                self.data.waiting.push_back(slot);
                // Its turn may have been all that it had to wait for.
                self.data.taken |= given;
            }
        }
    }

    /// Gives as much as may be of what a client that ends has left, and drops the rest: nobody would ask for it again.
    pub(super) fn on_last_data(&mut self, now: Instant, slot: TransportKey) {
        while let Some(payload) = self.peers[slot].transport.take_reliable(now) {
            if self.may_give(slot, DataChannel::Reliable) {
                self.give(slot, DataChannel::Reliable, payload);
            } else {
                self.stats.data_received += 1;
                self.stats.data_overflow += 1;
            }
        }
    }

    /// The room has done with so much.
    pub(super) fn on_data_taken(&mut self, room: RoomId, transport: TransportId, channel: DataChannel, taken: Load) {
        if let Some(slot) = self.peer_of.get(&transport) {
            self.peers[*slot].data.untaken.of(channel).remove(taken);
        }
        if let Some(loads) = self.data.rooms.get_mut(&room) {
            loads.of(channel).remove(taken);
            if loads.is_none() {
                self.data.rooms.remove(&room);
            }
            self.data.all.of(channel).remove(taken);
            self.data.taken = true;
        }
    }

    /// What a room that is no more has not taken, it never will.
    pub(super) fn forget_data_of(&mut self, room: RoomId) {
        let Some(Loads { reliable, lossy }) = self.data.rooms.remove(&room) else { return };
        self.data.all.reliable.remove(reliable);
        self.data.all.lossy.remove(lossy);
        self.data.taken = true;
    }

    /// Lets those who wait go on, in turn, as far as they may.
    pub(super) fn serve_waiting<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        let due = self.data.check.is_some_and(|at| at <= now);
        if !due && !self.data.taken {
            return;
        }
        self.data.taken = false;
        if due {
            self.data.check = None;
        }
        while self.serve_each(now, out) {}
    }

    /// Gives each who waits its turn; whether anybody had one. Who had none stays before those who had.
    fn serve_each<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) -> bool {
        let mut waiting = std::mem::take(&mut self.data.waiting);
        let mut served = VecDeque::new();
        let mut any = false;
        waiting.retain(|&slot| {
            if self.peers.get(slot).is_none() {
                return false;
            }
            self.serves(slot, Stage::Dtls);
            let given = self.read_data(now, slot);
            self.flush_transport(slot, out);
            let peer = &mut self.peers[slot];
            peer.data.waits = peer.transport.has_reliable();
            if peer.data.waits && given {
                served.push_back(slot);
            }
            any |= given;
            peer.data.waits && !given
        });
        waiting.append(&mut served);
        self.data.waiting = waiting;
        any
    }

    /// Gives a turn's worth of reliable messages to the room; whether there was one that could be given.
    fn read_data(&mut self, now: Instant, slot: TransportKey) -> bool {
        if self.waits_for_slower(now, slot) {
            return false;
        }
        if let Some(until) = self.makes_too_much_work_until(now, slot) {
            let until = until.max(now + FAN_OUT_PAUSE);
            self.data.check = Some(self.data.check.map_or(until, |at| at.min(until)));
            return false;
        }
        let mut given = 0;
        while given < MESSAGES_A_TURN
            && self.makes_too_much_work_until(now, slot).is_none()
            && self.may_give(slot, DataChannel::Reliable)
            && let Some(payload) = self.peers[slot].transport.take_reliable(now)
        {
            self.give(slot, DataChannel::Reliable, payload);
            given += 1;
        }
        given > 0
    }

    /// Whether a client that this one has sent to is behind.
    fn waits_for_slower(&mut self, now: Instant, slot: TransportKey) -> bool {
        if self.peers[slot].data.behind.is_empty() {
            return false;
        }
        let spare = self.data.spare();
        let mut behind = std::mem::take(&mut self.peers[slot].data.behind);
        behind.retain(|slot| self.peers.get_mut(*slot).is_some_and(|peer| peer.transport.is_behind(now, spare)));
        let waits = !behind.is_empty();
        self.peers[slot].data.behind = behind;
        if waits {
            self.data.check.get_or_insert(now + BEHIND_CHECK);
        }
        waits
    }

    /// Until when a client has to wait whose messages go to so many.
    fn makes_too_much_work_until(&self, now: Instant, slot: TransportKey) -> Option<Instant> {
        let peer = &self.peers[slot];
        // Of all who send to the room: what it sends on waits among the commands of every room.
        let untaken = self.data.rooms.get(&peer.room).map(Loads::sum).unwrap_or_default();
        peer.data.fan_out.waits_until(now, self.peers.len(), untaken)
    }

    fn may_give(&mut self, slot: TransportKey, channel: DataChannel) -> bool {
        let peer = &mut self.peers[slot];
        let of_room = self.data.rooms.get_mut(&peer.room).is_none_or(|room| room.of(channel).is_below(ROOM_MAX));
        of_room && peer.data.untaken.of(channel).is_below(CLIENT_MAX) && self.data.all.of(channel).is_below(WORKER_MAX)
    }

    fn give(&mut self, slot: TransportKey, channel: DataChannel, payload: Bytes) {
        let peer = &mut self.peers[slot];
        let load = Load { messages: 1, bytes: payload.len() };
        peer.data.untaken.of(channel).add(load);
        self.data.rooms.entry(peer.room).or_default().of(channel).add(load);
        self.data.all.of(channel).add(load);
        self.stats.data_received += 1;
        self.events.push_back((peer.room, Event::Data { transport: peer.id, channel, payload }));
    }
}
