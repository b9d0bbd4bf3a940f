//! The media clock: when each periodic duty is next due.

use std::time::{Duration, Instant};

use crate::command::STATS_INTERVAL;

/// When each periodic duty is next due.
pub(super) struct MediaClock {
    pub(super) tick: Instant,
    /// Requests for lost packets do not wait for a step.
    pub(super) nacks: Option<Instant>,
    pub(super) twcc: Instant,
    pub(super) receiver_reports: Instant,
    pub(super) layers: Instant,
    pub(super) audio: Instant,
    pub(super) stats: Instant,
}

impl MediaClock {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tick: now,
            nacks: None,
            twcc: now,
            receiver_reports: now,
            layers: now,
            audio: now,
            stats: now + STATS_INTERVAL,
        }
    }

    pub(super) fn next(&self) -> Instant {
        self.nacks.map_or(self.tick, |nacks| nacks.min(self.tick))
    }

    /// Requests are due then, or before.
    pub(super) fn nacks_due(&mut self, at: Option<Instant>) {
        self.nacks = self.nacks.into_iter().chain(at).min();
    }
}

/// Whether a duty is due; if so it is next due an interval from now.
pub(super) fn due(at: &mut Instant, now: Instant, interval: Duration) -> bool {
    let due = now >= *at;
    if due {
        *at = now + interval;
    }
    due
}
