//! Whether a worker gets through its turns. One that is held up in a turn gets no new rooms meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A turn that lasts longer holds up everybody's media: a hundred times what a turn of a full worker takes.
pub const STALL: Duration = Duration::from_millis(250);

/// Written by a worker, read by other threads.
pub(super) struct Pulse {
    start: Instant,
    /// Milliseconds from the start to the beginning of the turn under way, and one; 0: the worker waits for something
    /// to do.
    turn: AtomicU64,
}

impl Pulse {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, turn: AtomicU64::new(0) }
    }

    pub(super) fn begin(&self, now: Instant) {
        let since = now.saturating_duration_since(self.start).as_millis();
        self.turn.store(u64::try_from(since).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.turn.store(0, Ordering::Relaxed);
    }

    /// For how long the turn under way has lasted, if it stalls.
    pub(super) fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let since = self.turn.load(Ordering::Relaxed).checked_sub(1)?;
        let begun = self.start + Duration::from_millis(since);
        Some(now.saturating_duration_since(begun)).filter(|lasted| *lasted > STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_stalls_when_it_lasts_and_no_longer_than_it_does() {
        let start = Instant::now();
        let pulse = Pulse::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(pulse.stalled_for(at(10_000)), None, "it waits");
        pulse.begin(at(10_000));
        assert_eq!(pulse.stalled_for(at(10_250)), None);
        assert_eq!(pulse.stalled_for(at(12_000)), Some(Duration::from_secs(2)));
        pulse.end();
        assert_eq!(pulse.stalled_for(at(12_000)), None);
        pulse.begin(start);
        assert_eq!(pulse.stalled_for(at(1_000)), Some(Duration::from_secs(1)), "its first turn counts too");
    }
}
