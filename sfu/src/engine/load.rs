//! How many data messages are on the way, and how much work they make. Who waits for what is in `engine/data.rs`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::id::RoomId;
use crate::key::TransportKey;
use crate::parameters::DataChannel;

/// Data messages that a room has not taken, at most.
pub const ROOM_DATA_MESSAGES_MAX: usize = 2_048;
/// Data messages that the rooms of a worker have not taken, at most.
pub const WORKER_DATA_MESSAGES_MAX: usize = 32_768;
/// Reliable data that waits for the clients of one worker, in bytes: while there is more, only a MiB waits for each.
const BACKLOG_MAX: usize = 256 * 1024 * 1024;

/// Work that the messages of one client may make in a second: their bytes and [`MESSAGE_WORK`] for each, times the
/// clients that they go to. Twelve thousand receivers of ten short messages a second each; some half of a worker's
/// time.
const FAN_OUT_PER_SECOND: u64 = 128 << 20;
/// How much of it may be made at once, as time at that rate.
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
    pub(super) fn is_below(&self, limit: Load) -> bool {
        self.messages < limit.messages && self.bytes < limit.bytes
    }

    pub(super) fn add(&mut self, other: Load) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    pub(super) fn remove(&mut self, other: Load) {
        self.messages = self.messages.saturating_sub(other.messages);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// The load of each kind of data: neither takes the other's room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Loads {
    pub(super) reliable: Load,
    pub(super) lossy: Load,
}

impl Loads {
    pub(super) fn of(&mut self, channel: DataChannel) -> &mut Load {
        match channel {
            DataChannel::Reliable => &mut self.reliable,
            DataChannel::Lossy | DataChannel::DataTrack => &mut self.lossy,
        }
    }

    pub(super) fn sum(&self) -> Load {
        let mut sum = self.reliable;
        sum.add(self.lossy);
        sum
    }

    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What the messages of one client have made the worker do.
#[derive(Debug, Default)]
pub(super) struct FanOut {
    /// When that is within [`FAN_OUT_PER_SECOND`].
    paid_at: Option<Instant>,
    /// Most clients that one of them went to.
    receivers: usize,
}

impl FanOut {
    /// Notes messages that went to so many clients.
    pub(super) fn add(&mut self, now: Instant, receivers: usize, load: Load) {
        self.paid_at = Some(self.paid_at.map_or(now, |at| at.max(now)) + time_of(receivers, load));
        self.receivers = self.receivers.max(receivers);
    }

    /// Until when the client has to wait because its messages make too much work; `None`: it need not. What its room
    /// has not taken yet (`untaken`) is expected to go to as many clients as its earlier messages did or, while there
    /// were none, to `all` who are here.
    pub(super) fn waits_until(&self, now: Instant, all: usize, untaken: Load) -> Option<Instant> {
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
    pub(super) fan_out: FanOut,
    /// What its room has not taken.
    pub(super) untaken: Loads,
    /// It is in [`DataFlow::waiting`].
    pub(super) waits: bool,
    /// Clients that were behind when it sent to them.
    pub(super) behind: Vec<TransportKey>,
}

/// What the rooms of a worker have not taken, and who waits for that.
#[derive(Debug, Default)]
pub(super) struct DataFlow {
    pub(super) rooms: HashMap<RoomId, Loads>,
    pub(super) all: Loads,
    /// Clients with reliable messages for their room, in turn.
    pub(super) waiting: VecDeque<TransportKey>,
    /// A room has taken something since they were last served.
    pub(super) taken: bool,
    /// When those that wait for slower clients are looked after.
    pub(super) check: Option<Instant>,
    /// Bytes of reliable data that clients have not acknowledged.
    pub(super) backlog: usize,
}

impl DataFlow {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.check
    }

    pub(super) fn spare(&self) -> usize {
        BACKLOG_MAX.saturating_sub(self.backlog)
    }
}
