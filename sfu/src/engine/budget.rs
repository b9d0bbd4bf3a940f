//! What a transport's packets may cost its worker, whatever is in them, in time.
//!
//! The other bounds on what a client sends are each of one thing that somebody has thought of. This one also bounds
//! what nobody has thought of, by the time that a worker takes for DTLS, with SCTP inside of it, and RTCP. A packet of
//! media costs the same whatever is in it, and is not measured. The engine has no clock: the shell in [`crate::io`]
//! says how long a datagram took.

use std::time::{Duration, Instant};

/// A transport has this part of its worker's time: several times what the fastest sender of data takes.
const SHARE: u32 = 4;
/// Time that may be taken at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Time that is owed at most, so that one packet of terrible cost does not silence a client for good.
const OWED_MAX: Duration = Duration::from_secs(2);

/// Time that a transport has left.
#[derive(Debug)]
pub(super) struct Budget {
    /// Microseconds; below zero: owed.
    left: i64,
    filled: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: micros(AT_ONCE), filled: now }
    }

    /// Whether nothing is left.
    pub(super) fn is_spent(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.left <= 0
    }

    /// Takes what a datagram cost. Whether that was the last that was left.
    pub(super) fn charge(&mut self, now: Instant, cost: Duration) -> bool {
        self.fill(now);
        let had = self.left > 0;
        self.left = self.left.saturating_sub(micros(cost)).max(-micros(OWED_MAX));
        had && self.left <= 0
    }

    fn fill(&mut self, now: Instant) {
        let share = now.saturating_duration_since(self.filled) / SHARE;
        // Less than a microsecond waits for more.
        if share >= Duration::from_micros(1) {
            self.left = self.left.saturating_add(micros(share)).min(micros(AT_ONCE));
            self.filled = now;
        }
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_comes_back_at_the_share_and_what_is_owed_is_paid_first() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert!(!budget.charge(now, AT_ONCE - Duration::from_micros(1)));
        assert!(!budget.is_spent(now));
        assert!(budget.charge(now, Duration::from_secs(60)), "told once");
        assert!(!budget.charge(now, Duration::from_secs(60)), "and not again");
        assert!(budget.is_spent(now + OWED_MAX * SHARE));
        assert!(!budget.is_spent(now + OWED_MAX * SHARE + Duration::from_millis(1)));
    }

    #[test]
    fn a_budget_that_is_spent_to_the_last_microsecond_is_spent_and_told_of_once() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert!(budget.charge(now, AT_ONCE));
        assert!(budget.is_spent(now));
        assert!(!budget.charge(now, AT_ONCE), "told already");
    }

    #[test]
    fn who_takes_less_than_the_share_never_spends_it() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        for _ in 0..100_000 {
            now += Duration::from_micros(401);
            assert!(!budget.charge(now, Duration::from_micros(100)));
        }
    }
}
