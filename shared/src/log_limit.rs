//! A bound for lines of the log that strangers can cause.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lines in a row.
const BURST: u32 = 20;

/// Time in which one more line is granted after them.
const REFILL: Duration = Duration::from_secs(1);

/// Grants [`BURST`] lines and then one each [`REFILL`], and counts those between.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the oldest of the granted lines is forgotten; absent before the first.
    full_again_at: Option<Instant>,
    left_out: u64,
}

impl LogLimit {
    pub const fn new() -> Self {
        Self(Mutex::new(State { full_again_at: None, left_out: 0 }))
    }

    /// Whether a line may be written now; if so, how many were left out since the last one.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().expect("no one panics with this lock");
        let full_again_at = state.full_again_at.map_or(now, |at| at.max(now));
        if full_again_at.duration_since(now) > REFILL * (BURST - 1) {
            state.left_out += 1;
            return None;
        }
        state.full_again_at = Some(full_again_at + REFILL);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_burst_and_then_one_line_a_second_that_says_how_many_are_missing() {
        let (limit, start) = (LogLimit::default(), Instant::now());

        let granted = (0..1_000).filter(|_| limit.admit(start).is_some()).count();
        assert_eq!(granted, BURST as usize);
        assert_eq!(limit.admit(start + REFILL), Some(980));
        assert_eq!(limit.admit(start + REFILL), None);
        assert_eq!(limit.admit(start + REFILL * 2), Some(1));
    }

    #[test]
    fn after_a_quiet_time_the_whole_burst_is_granted_again() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        while limit.admit(start).is_some() {}

        let later = start + REFILL * (BURST + 1);
        assert!((0..BURST).all(|_| limit.admit(later).is_some()));
        assert_eq!(limit.admit(later), None);
    }
}
