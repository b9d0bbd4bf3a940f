//! What a client's packets cost `rtc-sctp`, which goes through all that it holds at many a chunk.
//!
//! Measured in steps: an element of a list that is walked. What the library holds is known from outside by what it has
//! taken and given, and by what its own acknowledgements say: they are right, so that errors of the count do not last.

use std::time::{Duration, Instant};

use super::limits::RECEIVE_WINDOW;

/// Steps of one association in a second: a hundredth or two of a core. A hundred megabits a second with the losses of a
/// bad line take half of it.
const STEPS_PER_SECOND: u64 = 4_000_000;
/// Steps that may come at once.
const STEPS_AT_ONCE: u64 = 2 * STEPS_PER_SECOND;
/// What an answer takes: a packet of its own, sealed and sent.
pub(super) const ANSWER: u64 = 1_000;
/// Chunks that may wait for the rest of their message, for those before it, or for a number before theirs: more than
/// fit into the receive window at sixteen bytes each.
const CHUNKS_HELD_MAX: u32 = 16_384;
/// Holes in the numbers that have arrived, beyond which only what fills them is taken in: an acknowledgement, which
/// names each, has to fit into one datagram (RFC 9260, section 3.3.4), also after one more packet of
/// [`super::inspect`]'s.
const GAPS_MAX: usize = 128;

/// Steps that an association may still take.
#[derive(Debug)]
pub(super) struct Steps {
    left: u64,
    filled: Option<Instant>,
}

impl Default for Steps {
    fn default() -> Self {
        Self { left: STEPS_AT_ONCE, filled: None }
    }
}

impl Steps {
    /// Takes so many. `false`: there are not as many now, and none is taken.
    pub(super) fn take(&mut self, now: Instant, steps: u64) -> bool {
        let elapsed = now.saturating_duration_since(*self.filled.get_or_insert(now));
        let more = STEPS_PER_SECOND * elapsed.min(Duration::from_secs(60)).as_millis() as u64 / 1_000;
        if more > 0 {
            self.left = (self.left + more).min(STEPS_AT_ONCE);
            self.filled = Some(now);
        }
        // A packet that needs more steps than the bucket holds is taken when the bucket is full.
        let granted = self.left >= steps.min(STEPS_AT_ONCE);
        if granted {
            self.left = self.left.saturating_sub(steps);
        }
        granted
    }
}

/// Which chunks of the client the library holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Of messages that were not read yet.
    unread: u32,
    /// Distances from the cumulative number of what our last acknowledgement names beyond it, rising: first and last.
    gaps: Vec<(u16, u16)>,
    /// How many chunks these are.
    ahead: u32,
}

impl Held {
    /// What one more chunk costs, in steps.
    pub(super) fn steps(&self) -> u64 {
        u64::from(self.unread) + u64::from(self.ahead)
    }

    pub(super) fn is_full(&self) -> bool {
        self.unread >= CHUNKS_HELD_MAX
    }

    /// Whether one that is so far beyond the cumulative number may make one hole too many.
    pub(super) fn has_too_many_gaps(&self, distance: u32) -> bool {
        self.gaps.len() >= GAPS_MAX && self.gaps.last().is_some_and(|(_, last)| distance > u32::from(*last) + 1)
    }

    /// A chunk comes whose number is so far beyond the cumulative one.
    pub(super) fn note_data(&mut self, distance: u32) {
        let after = self.gaps.partition_point(|(_, last)| u32::from(*last) < distance);
        let is_known = self.gaps.get(after).is_some_and(|(first, _)| u32::from(*first) <= distance);
        self.unread += u32::from(!is_known);
    }

    /// A message of so many chunks was read.
    pub(super) fn note_read(&mut self, chunks: usize) {
        self.unread = self.unread.saturating_sub(u32::try_from(chunks).unwrap_or(u32::MAX));
    }

    /// The library acknowledges what it has: `window` is what is free of the receive window, in bytes. No chunk has
    /// less than a byte.
    pub(super) fn note_acknowledgement(&mut self, window: u32, gaps: impl Iterator<Item = (u16, u16)>) {
        self.unread = self.unread.min(RECEIVE_WINDOW.saturating_sub(window));
        self.gaps.clear();
        self.gaps.extend(gaps);
        self.ahead = self.gaps.iter().map(|(first, last)| u32::from(last.saturating_sub(*first)) + 1).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_back_with_time_and_what_costs_more_than_all_waits_for_all() {
        let (mut steps, now) = (Steps::default(), Instant::now());
        assert!(steps.take(now, STEPS_AT_ONCE));
        assert!(!steps.take(now, 1));
        let later = now + Duration::from_secs(1);
        assert!(!steps.take(later, STEPS_PER_SECOND + 1));
        assert!(steps.take(later, STEPS_PER_SECOND));
        assert!(!steps.take(later + Duration::from_secs(1), u64::MAX));
        assert!(steps.take(later + Duration::from_secs(2), u64::MAX));
    }

    #[test]
    fn what_is_held_is_what_came_less_what_was_read_and_never_more_than_has_bytes() {
        let mut held = Held::default();
        (1..=10).for_each(|distance| held.note_data(distance));
        held.note_read(4);
        assert_eq!(held.steps(), 6);
        held.note_acknowledgement(RECEIVE_WINDOW - 5, [(2, 4), (8, 8)].into_iter());
        assert_eq!((held.unread, held.steps()), (5, 9));
        for known in [2, 3, 4, 8] {
            held.note_data(known);
        }
        assert_eq!(held.unread, 5);
        for new in [1, 5, 7, 9] {
            held.note_data(new);
        }
        assert_eq!(held.unread, 9);
        held.note_acknowledgement(RECEIVE_WINDOW, std::iter::empty());
        assert_eq!(held.steps(), 0);
    }

    #[test]
    fn holes_may_come_until_there_are_as_many_as_can_be_named() {
        let mut held = Held::default();
        let gaps = |count: u16| (1..=count).map(|gap| (3 * gap, 3 * gap));
        for count in [0, 1, 127] {
            held.note_acknowledgement(RECEIVE_WINDOW, gaps(count));
            assert!(!held.has_too_many_gaps(10_000), "{count} gaps, and one more");
        }
        held.note_acknowledgement(RECEIVE_WINDOW, gaps(128));
        let last = 3 * 128;
        assert!(held.has_too_many_gaps(last + 2));
        for fits in [1, 2, last - 1, last, last + 1] {
            assert!(!held.has_too_many_gaps(fits), "{fits} makes no further hole");
        }
    }
}
