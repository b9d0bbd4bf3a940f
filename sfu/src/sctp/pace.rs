//! How fast a client takes what a data channel sends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The past that a pace is of.
const MEMORY: Duration = Duration::from_secs(2);
/// Pieces in which the past is forgotten.
const PIECE: Duration = Duration::from_millis(100);
/// Time with something to send before there is a pace: several round trips, so that a client is not judged by the
/// beginning of its association, when SCTP sends little.
const BUSY_MIN: Duration = Duration::from_secs(1);

struct Piece {
    start: Instant,
    taken: u64,
    busy: Duration,
}

/// Bytes that were acknowledged in the time in which some were not. Time with nothing to send says nothing about a
/// client, so it does not count.
#[derive(Default)]
pub(super) struct Pace {
    pieces: VecDeque<Piece>,
    /// When [`Pace::note`] was last called, and whether anything waited for acknowledgement then.
    last: Option<(Instant, bool)>,
}

impl Pace {
    /// So many bytes were acknowledged since the last call, and something waits for acknowledgement, or nothing does.
    pub(super) fn note(&mut self, now: Instant, taken: usize, waits: bool) {
        let busy = match self.last.replace((now, waits)) {
            Some((last, true)) => now.saturating_duration_since(last),
            Some((_, false)) | None => Duration::ZERO,
        };
        if taken == 0 && busy.is_zero() {
            return;
        }
        match self.pieces.back_mut().filter(|piece| now.saturating_duration_since(piece.start) < PIECE) {
            Some(piece) => {
                piece.taken += taken as u64;
                piece.busy += busy;
            }
            None => self.pieces.push_back(Piece { start: now, taken: taken as u64, busy }),
        }
        while self.pieces.front().is_some_and(|piece| now.saturating_duration_since(piece.start) > MEMORY) {
            self.pieces.pop_front();
        }
    }

    /// Bits a second. `None` while too little is known.
    pub(super) fn bps(&self) -> Option<u64> {
        let busy: Duration = self.pieces.iter().map(|piece| piece.busy).sum();
        let taken: u64 = self.pieces.iter().map(|piece| piece.taken).sum();
        (busy >= BUSY_MIN).then(|| (taken as f64 * 8.0 / busy.as_secs_f64()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_client_is_as_fast_as_it_acknowledges_while_something_waits() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.note(start, 0, true);
        for step in 1..=100 {
            pace.note(start + ms(50) * step, 500, true);
        }
        assert_eq!(pace.bps(), Some(80_000));
    }

    #[test]
    fn time_with_nothing_to_send_does_not_count() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for second in 0..20 {
            let at = start + Duration::from_secs(second);
            pace.note(at, 0, true);
            pace.note(at + ms(5), 500, false);
        }
        assert_eq!(pace.bps(), None);
    }

    #[test]
    fn who_acknowledges_nothing_has_no_pace_at_first_and_then_none_at_all() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.note(start, 0, true);
        pace.note(start + ms(900), 0, true);
        assert_eq!(pace.bps(), None);
        pace.note(start + ms(1_100), 0, true);
        assert_eq!(pace.bps(), Some(0));
    }

    #[test]
    fn the_past_is_forgotten_and_takes_little_room() {
        for (step, last) in [(100, 80_000), (730, 10_958), (130_000, 61)] {
            let start = Instant::now();
            let mut pace = Pace::default();
            let steps = 10_000_000 / step;
            for number in 0..steps {
                let taken = if number < steps / 2 { 1_000 } else { 1 };
                pace.note(start + Duration::from_micros(step.into()) * number, taken, true);
                assert!(pace.pieces.len() <= 22);
            }
            assert_eq!(pace.bps(), Some(last), "every {step} µs");
        }
    }
}
