//! Limits of the chat, and the counters that enforce them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::outbox::UnreadLimits;

/// All limits of the chat that are not settings. The defaults are the contract's (stream API, section 8); tests and
/// benchmarks use others.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Sockets of one user in one room.
    pub sockets_per_user: u32,
    /// Namespaces of one connection.
    pub namespaces_per_connection: u32,
    /// Events of one socket that wait for its room.
    pub waiting_per_socket: u32,
    /// Events of all sockets that wait for one room.
    pub waiting_per_room: usize,
    /// Packets that wait for one connection; beyond, they are lost to it.
    pub unsent_packets: usize,
    /// The same in bytes.
    pub unread: UnreadLimits,
    /// Longest packet of a client, in bytes; a longer one is refused.
    pub packet_bytes: usize,
    /// Longest frame that is read at all, in bytes, announced as `maxPayload`: a connection that sends a longer one is
    /// closed. It is far longer than a packet, so that a packet which is too long can be answered. Beyond this bound
    /// there is no answer: the WebSocket library stops reading at the head of the frame, and Engine.IO's reports
    /// nothing but that the connection is closed. The bound is not higher, since each connection may take that much
    /// memory.
    pub frame_bytes: usize,
    pub message: Rate,
    pub reaction: Rate,
    /// Rate of all messages of a room.
    pub room: Rate,
    /// Rate of reactions that are sent as single events.
    pub singles: Rate,
    /// How long the same text of the same user is refused.
    pub duplicate_window: Duration,
    /// Refused or malformed events within a minute after which a socket is closed.
    pub faults: usize,
    /// Messages in `chat:state` for a newcomer.
    pub history: usize,
    /// Messages in `chat:state` for somebody who comes back, and messages kept in memory.
    pub history_max: usize,
    pub reaction_window: Duration,
    /// Different emoji that are counted in one room: all of Unicode's list.
    pub emoji_kinds: usize,
    /// Kinds of emoji whose counts an event contains: the most frequent ones.
    pub emoji_sent: usize,
    pub viewers_interval: Duration,
    /// Numbers taken from the store at once.
    pub block: u32,
    /// How long a message of another node waits for the ones before it.
    pub hold: Duration,
    /// Messages kept of a stream in the store.
    pub kept: usize,
    /// Longest wait for the store before a batch goes to the queue on disk.
    pub store_patience: Duration,
    /// Messages that wait for the store, of all rooms.
    pub queued: usize,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// How long a connection may stay without any namespace.
    pub connect_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sockets_per_user: 5,
            namespaces_per_connection: 20,
            // The burst, and what the rates allow while the room waits for the store.
            waiting_per_socket: 64,
            waiting_per_room: 4096,
            unsent_packets: 256,
            unread: UnreadLimits::default(),
            packet_bytes: 16 * 1024,
            frame_bytes: 256 * 1024,
            message: Rate::per_second(1, 5),
            reaction: Rate::per_second(10, 20),
            room: Rate::per_second(50, 50),
            singles: Rate::per_second(10, 10),
            duplicate_window: Duration::from_secs(10),
            faults: 50,
            history: 50,
            history_max: 200,
            reaction_window: Duration::from_millis(500),
            emoji_kinds: 8_000,
            emoji_sent: 50,
            viewers_interval: Duration::from_secs(2),
            block: 100,
            hold: Duration::from_millis(500),
            kept: 1000,
            store_patience: Duration::from_millis(1500),
            queued: 20_000,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// A token bucket: a burst, and then so many events a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub interval: Duration,
    pub burst: u32,
}

impl Rate {
    /// `per_second` must not be 0.
    pub fn per_second(per_second: u32, burst: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second, burst }
    }

    /// How long an empty bucket takes to become full.
    fn depth(self) -> Duration {
        self.interval * self.burst
    }
}

/// One party's use of a [`Rate`]: the time at which its bucket is full again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one unit, or says how long until there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + rate.interval;
        let ahead = full_at.duration_since(now);
        match ahead.checked_sub(rate.depth()) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.full_at = Some(full_at);
                Ok(())
            }
        }
    }

    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

/// Refused and malformed events of one socket within the last minute.
#[derive(Debug, Default)]
pub(crate) struct Faults(VecDeque<Instant>);

impl Faults {
    const WINDOW: Duration = Duration::from_secs(60);

    /// Counts one; true: that was too many.
    pub fn add(&mut self, max: usize, now: Instant) -> bool {
        while self.0.front().is_some_and(|at| now.duration_since(*at) >= Self::WINDOW) {
            self.0.pop_front();
        }
        if self.0.len() < max {
            self.0.push_back(now);
        }
        self.0.len() >= max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let rate = Rate::per_second(1, 5);
        let mut bucket = Bucket::default();

        for _ in 0..5 {
            assert_eq!(bucket.take(rate, start), Ok(()));
        }
        assert_eq!(bucket.take(rate, start), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(rate, start + Duration::from_millis(400)), Err(Duration::from_millis(600)));
        assert_eq!(bucket.take(rate, start + Duration::from_secs(1)), Ok(()));
        assert!(bucket.take(rate, start + Duration::from_secs(1)).is_err());
        assert!(!bucket.is_full(start + Duration::from_secs(5)));
        assert!(bucket.is_full(start + Duration::from_secs(6)));
    }

    /// Section 8. Rates have tests of their own.
    #[test]
    fn the_bounds_are_those_of_the_contract() {
        let limits = Limits::default();

        assert_eq!((limits.sockets_per_user, limits.namespaces_per_connection), (5, 20));
        assert_eq!((limits.packet_bytes, limits.unsent_packets), (16_384, 256));
        let seconds = [limits.connect_timeout, limits.ping_interval, limits.ping_timeout].map(|time| time.as_secs());
        assert_eq!(seconds, [10, 25, 20]);
        assert_eq!((limits.history, limits.history_max, limits.kept), (50, 200, 1_000));
        assert_eq!((limits.block, limits.faults, limits.queued), (100, 50, 20_000));
    }

    #[test]
    fn what_a_user_may_send_while_the_room_waits_for_the_store_finds_a_place() {
        let Limits { message, reaction, store_patience, waiting_per_socket, .. } = Limits::default();
        let meanwhile =
            |rate: Rate| u32::try_from(store_patience.as_nanos().div_ceil(rate.interval.as_nanos())).unwrap();
        let most = message.burst + reaction.burst + meanwhile(message) + meanwhile(reaction);

        assert!(most <= waiting_per_socket, "{most}");
    }

    #[test]
    fn fifty_faults_within_a_minute_are_too_many() {
        let start = Instant::now();
        let mut slow = Faults::default();
        let mut fast = Faults::default();

        for n in 0..200 {
            assert!(!slow.add(50, start + Duration::from_millis(1300) * n), "fault {n}");
        }
        for n in 0..49 {
            assert!(!fast.add(50, start + Duration::from_millis(100) * n), "fault {n}");
        }
        assert!(fast.add(50, start + Duration::from_secs(5)));
    }
}
