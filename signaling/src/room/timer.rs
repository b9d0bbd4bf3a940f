//! The time of an input, and the deadlines that a room waits for.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

use shared::id::ParticipantSid;

/// The moment of an input, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub at: Instant,
    pub wall: SystemTime,
}

impl Now {
    /// Milliseconds since 1970.
    pub fn unix_ms(&self) -> i64 {
        i64::try_from(self.since_1970().as_millis()).unwrap_or(i64::MAX)
    }

    /// Microseconds since 1970.
    pub fn unix_us(&self) -> i64 {
        i64::try_from(self.since_1970().as_micros()).unwrap_or(i64::MAX)
    }

    fn since_1970(&self) -> Duration {
        self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

/// What is due at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// Nobody came, or nobody is left.
    Empty,
    /// Participant counts may be sent again.
    Counts,
    /// Connection quality.
    Quality,
    /// Collected updates about listeners of a large room.
    Batch,
    /// A participant should be ACTIVE by now.
    Join(ParticipantSid),
    /// A participant without media should have joined anew by now.
    Rejoin(ParticipantSid),
    RefreshToken(ParticipantSid),
    /// Our next offer (v0) or request for one (v1).
    Negotiate(ParticipantSid),
    /// Our offer should be answered by now.
    Answer(ParticipantSid),
    /// Our answer should have been read by now.
    Receipt(ParticipantSid),
    /// Subscriptions wait for tracks nobody knows.
    MissingTracks(ParticipantSid),
    /// A simulated speaker stops.
    Speaker(ParticipantSid),
}

/// At most one deadline for each [`Timer`].
#[derive(Debug, Default)]
pub struct Timers {
    queue: BTreeSet<(Instant, Timer)>,
    due: HashMap<Timer, Instant>,
}

impl Timers {
    /// Replaces an earlier deadline.
    pub fn set(&mut self, timer: Timer, at: Instant) {
        self.clear(&timer);
        self.due.insert(timer.clone(), at);
        self.queue.insert((at, timer));
    }

    /// Keeps an earlier deadline.
    pub fn set_if_unset(&mut self, timer: Timer, at: Instant) {
        if !self.due.contains_key(&timer) {
            self.set(timer, at);
        }
    }

    pub fn clear(&mut self, timer: &Timer) {
        if let Some(at) = self.due.remove(timer) {
            self.queue.remove(&(at, timer.clone()));
        }
    }

    pub fn is_set(&self, timer: &Timer) -> bool {
        self.due.contains_key(timer)
    }

    /// Forgets everything about a participant.
    pub fn clear_participant(&mut self, sid: &ParticipantSid) {
        for make in [
            Timer::Join,
            Timer::Rejoin,
            Timer::RefreshToken,
            Timer::Negotiate,
            Timer::Answer,
            Timer::Receipt,
            Timer::MissingTracks,
            Timer::Speaker,
        ] {
            self.clear(&make(sid.clone()));
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out the next timer that is due.
    pub fn pop(&mut self, now: Instant) -> Option<Timer> {
        if self.deadline()? > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.due.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_once_at_its_last_deadline() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(Timer::Empty, start + Duration::from_secs(1));
        timers.set(Timer::Empty, start + Duration::from_secs(2));
        timers.set_if_unset(Timer::Empty, start);

        assert_eq!(timers.pop(start + Duration::from_secs(1)), None);
        assert!(timers.is_set(&Timer::Empty) && !timers.is_set(&Timer::Counts));
        assert_eq!(timers.pop(start + Duration::from_secs(2)), Some(Timer::Empty));
        assert!(!timers.is_set(&Timer::Empty));
        assert_eq!(timers.deadline(), None);
    }

    #[test]
    fn who_is_gone_is_waited_for_no_more() {
        let of: [fn(ParticipantSid) -> Timer; 8] = [
            Timer::Join,
            Timer::Rejoin,
            Timer::RefreshToken,
            Timer::Negotiate,
            Timer::Answer,
            Timer::Receipt,
            Timer::MissingTracks,
            Timer::Speaker,
        ];
        let (gone, other): (ParticipantSid, ParticipantSid) = ("PA_gone".parse().unwrap(), "PA_x".parse().unwrap());
        let start = Instant::now();
        let mut timers = Timers::default();
        for (timer, seconds) in of.iter().zip(1..) {
            timers.set(timer(gone.clone()), start + Duration::from_secs(seconds));
            timers.set(timer(other.clone()), start + Duration::from_secs(2 * seconds));
        }
        timers.clear_participant(&gone);
        let left: Vec<_> = std::iter::from_fn(|| timers.pop(start + Duration::from_secs(60))).collect();
        assert_eq!(left, of.map(|timer| timer(other.clone())));
    }

    #[test]
    fn unix_times_are_those_of_the_wall_clock() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(1_800_000_000_123_456);
        let now = Now { at: Instant::now(), wall };
        assert_eq!((now.unix_ms(), now.unix_us()), (1_800_000_000_123, 1_800_000_000_123_456));
    }
}
