//! Data messages between clients and rooms.
//!
//! What a room has been given and has not acknowledged ([`Command::DataTaken`]) is bounded for each client, each room
//! and the whole worker. Reliable messages beyond that stay with the transport, whose receive window closes; lossy ones
//! are dropped and counted. So a client that sends faster than its room takes waits, and neither fills the queues to
//! the rooms nor keeps others from them. It also waits while a client that it sends to, though fast enough to lose
//! nothing, has nearly as much waiting as it may have.
//!
//! What one client sends goes to all others of its room, who may be thousands. So each has a rate for the work that its
//! messages make here ([`super::load::FanOut`]): beyond it reliable messages wait like those of a client whose room is
//! slow, and lossy ones are dropped and counted.
//!
//! [`FanOut`]: super::load::FanOut
//! [`Command::DataTaken`]: crate::command::Command::DataTaken

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Engine;
use super::load::{Load, Loads, ROOM_DATA_MESSAGES_MAX, WORKER_DATA_MESSAGES_MAX};
use super::serving::Stage;
use crate::command::Event;
use crate::id::{RoomId, TransportId};
use crate::key::TransportKey;
use crate::parameters::DataChannel;
use crate::run::{SendArena, Transmit};

/// What a room may have been given of one client and not have taken yet, of each kind of data; the last message may go
/// beyond that. The fastest client sends as much in some milliseconds, so that it does not wait for a room that takes
/// messages at once.
const CLIENT_MAX: Load = Load { messages: 256, bytes: 256 * 1024 };
/// The same of all clients of a room.
const ROOM_MAX: Load = Load { messages: ROOM_DATA_MESSAGES_MAX / 2, bytes: 1024 * 1024 };
/// The same of all rooms of a worker.
const WORKER_MAX: Load = Load { messages: WORKER_DATA_MESSAGES_MAX / 2, bytes: 64 * 1024 * 1024 };
/// Reliable messages that one client may give to its room before the next one has its turn.
const MESSAGES_A_TURN: usize = 64;
/// How often it is checked whether a sender still has to wait for slower receivers: a short time beside the one that
/// these need for what waits for them.
const BEHIND_CHECK: Duration = Duration::from_millis(50);
/// Least time that a client waits that has made too much work.
const FAN_OUT_PAUSE: Duration = Duration::from_millis(10);
/// Slow receivers for which one sender waits at a time; it finds any others when it goes on.
const BEHIND_MAX: usize = 16;

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
        let sender = from.and_then(|from| self.transport_keys.get(&from).copied());
        if let Some(sender) = sender {
            let load = Load { messages: 1, bytes: payload.len() };
            self.transports[sender].data.fan_out.add(now, to.len(), load);
        }
        for transport in to {
            let Some(key) = self.transport_key(*transport) else { continue };
            let spare = self.data.spare();
            let hosted = &mut self.transports[key];
            if let Err(why) = hosted.transport.send_data_within(now, channel, payload, spare) {
                self.stats.data_dropped.count(why);
            }
            let is_behind = channel == DataChannel::Reliable && hosted.transport.is_behind(now, spare);
            if is_behind && let Some(sender) = sender.and_then(|sender| self.transports.get_mut(sender)) {
                let behind = &mut sender.data.behind;
                if behind.len() < BEHIND_MAX && !behind.contains(&key) {
                    behind.push(key);
                }
            }
            self.after_transport(now, key, out);
        }
    }

    /// Gives a message of a channel that is not reliable to the room, or drops it.
    pub(super) fn on_lossy_data(&mut self, now: Instant, key: TransportKey, channel: DataChannel, payload: Bytes) {
        if self.makes_too_much_work_until(now, key).is_some() {
            self.stats.data_received += 1;
            self.stats.data_over_rate += 1;
        } else if self.may_give(key, channel) {
            self.give(key, channel, payload);
        } else {
            self.stats.data_received += 1;
            self.stats.data_overflow += 1;
        }
    }

    /// Gives reliable messages of a client to its room, unless it waits for its turn.
    pub(super) fn on_reliable_data(&mut self, now: Instant, key: TransportKey) {
        if self.transports[key].closes_at.is_some() {
            // Nobody is there to hear of it.
            while self.transports[key].transport.take_reliable(now).is_some() {}
        } else if !self.transports[key].data.waits {
            let given = self.read_data(now, key);
            let hosted = &mut self.transports[key];
            if hosted.transport.has_reliable() {
                hosted.data.waits = true;
                self.data.waiting.push_back(key);
                // Its turn may have been all that it had to wait for.
                self.data.taken |= given;
            }
        }
    }

    /// Gives the room what a transport that ends has left, as far as the bounds allow, and drops the rest: nobody would
    /// ask for it again.
    pub(super) fn on_last_data(&mut self, now: Instant, key: TransportKey) {
        while let Some(payload) = self.transports[key].transport.take_reliable(now) {
            if self.may_give(key, DataChannel::Reliable) {
                self.give(key, DataChannel::Reliable, payload);
            } else {
                self.stats.data_received += 1;
                self.stats.data_overflow += 1;
            }
        }
    }

    /// The room has handled so much of what it was given.
    pub(super) fn on_data_taken(&mut self, room: RoomId, transport: TransportId, channel: DataChannel, taken: Load) {
        if let Some(key) = self.transport_keys.get(&transport) {
            self.transports[*key].data.untaken.of(channel).remove(taken);
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

    /// Forgets what a room that no longer exists had not taken.
    pub(super) fn forget_data_of(&mut self, room: RoomId) {
        let Some(Loads { reliable, lossy }) = self.data.rooms.remove(&room) else { return };
        self.data.all.reliable.remove(reliable);
        self.data.all.lossy.remove(lossy);
        self.data.taken = true;
    }

    /// Reads on from the clients that wait, in turn, as far as the bounds allow.
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

    /// Gives each client that waits its turn, and returns whether any could use it. Those that could not stay ahead of
    /// those that could.
    fn serve_each<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) -> bool {
        let mut waiting = std::mem::take(&mut self.data.waiting);
        let mut served = VecDeque::new();
        let mut any = false;
        waiting.retain(|&key| {
            if self.transports.get(key).is_none() {
                return false;
            }
            self.serves(key, Stage::Dtls);
            let given = self.read_data(now, key);
            self.flush_transport(key, out);
            let hosted = &mut self.transports[key];
            hosted.data.waits = hosted.transport.has_reliable();
            if hosted.data.waits && given {
                served.push_back(key);
            }
            any |= given;
            hosted.data.waits && !given
        });
        waiting.append(&mut served);
        self.data.waiting = waiting;
        any
    }

    /// Gives a turn's worth of reliable messages to the room; whether there was one that could be given.
    fn read_data(&mut self, now: Instant, key: TransportKey) -> bool {
        if self.waits_for_slower(now, key) {
            return false;
        }
        if let Some(until) = self.makes_too_much_work_until(now, key) {
            let until = until.max(now + FAN_OUT_PAUSE);
            self.data.check = Some(self.data.check.map_or(until, |at| at.min(until)));
            return false;
        }
        let mut given = 0;
        while given < MESSAGES_A_TURN
            && self.makes_too_much_work_until(now, key).is_none()
            && self.may_give(key, DataChannel::Reliable)
            && let Some(payload) = self.transports[key].transport.take_reliable(now)
        {
            self.give(key, DataChannel::Reliable, payload);
            given += 1;
        }
        given > 0
    }

    /// Whether a client that this one has sent to is behind.
    fn waits_for_slower(&mut self, now: Instant, key: TransportKey) -> bool {
        if self.transports[key].data.behind.is_empty() {
            return false;
        }
        let spare = self.data.spare();
        let mut behind = std::mem::take(&mut self.transports[key].data.behind);
        behind.retain(|key| self.transports.get_mut(*key).is_some_and(|hosted| hosted.transport.is_behind(now, spare)));
        let waits = !behind.is_empty();
        self.transports[key].data.behind = behind;
        if waits {
            self.data.check.get_or_insert(now + BEHIND_CHECK);
        }
        waits
    }

    /// Until when a client has to wait whose messages go to so many.
    fn makes_too_much_work_until(&self, now: Instant, key: TransportKey) -> Option<Instant> {
        let hosted = &self.transports[key];
        // Of all who send to the room: what it sends on waits among the commands of every room.
        let untaken = self.data.rooms.get(&hosted.room).map(Loads::sum).unwrap_or_default();
        hosted.data.fan_out.waits_until(now, self.transports.len(), untaken)
    }

    fn may_give(&mut self, key: TransportKey, channel: DataChannel) -> bool {
        let hosted = &mut self.transports[key];
        let of_room = self.data.rooms.get_mut(&hosted.room).is_none_or(|room| room.of(channel).is_below(ROOM_MAX));
        of_room
            && hosted.data.untaken.of(channel).is_below(CLIENT_MAX)
            && self.data.all.of(channel).is_below(WORKER_MAX)
    }

    fn give(&mut self, key: TransportKey, channel: DataChannel, payload: Bytes) {
        let hosted = &mut self.transports[key];
        let load = Load { messages: 1, bytes: payload.len() };
        hosted.data.untaken.of(channel).add(load);
        self.data.rooms.entry(hosted.room).or_default().of(channel).add(load);
        self.data.all.of(channel).add(load);
        self.stats.data_received += 1;
        self.events.push_back((hosted.room, Event::Data { transport: hosted.id, channel, payload }));
    }
}
