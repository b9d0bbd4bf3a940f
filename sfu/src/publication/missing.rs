//! Packets that a layer lacks, and when to ask its publisher for them (RFC 4585, section 6.2.1).

use std::ops::Range;
use std::time::{Duration, Instant};

/// Lost packets that we ask for at a time; more at once is an outage, mended by a key frame.
pub(super) const MISSING_MAX: usize = 256;

/// A gap may be reordering: wait this long before asking, or until a packet has arrived that is so many numbers ahead.
const REORDERED_FOR: Duration = Duration::from_millis(10);
const REORDERED_BY: u64 = 3;

/// Of a publisher that has not sent anything again yet.
const ROUND_TRIP_UNKNOWN: Duration = Duration::from_millis(64);
/// A request is repeated after a round trip and a quarter, and each time a quarter later than before.
const INTERVAL_MIN: Duration = Duration::from_millis(20);
const INTERVAL_MAX: Duration = Duration::from_millis(400);
/// Requests before a packet is given up that no other layer depends on.
const TRIES_OF_UPPER_LAYERS: u8 = 3;
/// Requests before any other packet is given up; fewer if it has been missing for so long.
const TRIES_MAX: u8 = 8;
const TRIES_MIN: u8 = 4;
const MISSING_FOR: Duration = Duration::from_millis(600);

struct Missing {
    sequence: u64,
    since: Instant,
    asked: Option<Instant>,
    due: Instant,
    tries: u8,
}

/// What a layer lacks, oldest first.
#[derive(Default)]
pub(super) struct MissingPackets {
    packets: Vec<Missing>,
    /// From a request to what is sent again, smoothed.
    round_trip: Option<Duration>,
}

impl MissingPackets {
    /// When the next request is due, if any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.packets.iter().map(|missing| missing.due).min()
    }

    pub(super) fn contains(&self, sequence: u16) -> bool {
        // Truncation gives the number on the wire.
        self.packets.iter().any(|missing| missing.sequence as u16 == sequence)
    }

    pub(super) fn clear(&mut self) {
        self.packets.clear();
    }

    /// A packet behind all others arrived; what is between it and them is missing. If it `begins_picture`, that was
    /// sent so long before that no reordering explains it.
    pub(super) fn on_gap(&mut self, now: Instant, gap: Range<u64>, begins_picture: bool) {
        let highest = gap.end;
        for sequence in gap {
            if self.packets.len() >= MISSING_MAX {
                self.packets.remove(0);
            }
            let due = if begins_picture { now } else { now + REORDERED_FOR };
            self.packets.push(Missing { sequence, since: now, asked: None, due, tries: 0 });
        }
        for missing in self.packets.iter_mut().rev().take_while(|missing| missing.tries == 0) {
            if missing.sequence + REORDERED_BY <= highest {
                missing.due = missing.due.min(now);
            }
        }
    }

    /// A packet arrived late, maybe because it was asked for.
    pub(super) fn on_late(&mut self, now: Instant, sequence: u64, recovered: bool) {
        let Ok(at) = self.packets.binary_search_by_key(&sequence, |missing| missing.sequence) else { return };
        let missing = self.packets.remove(at);
        // What was asked for twice may be the answer to either.
        if let (true, 1, Some(asked)) = (recovered, missing.tries, missing.asked) {
            let measured = now.saturating_duration_since(asked);
            self.round_trip = Some(self.round_trip.map_or(measured, |before| (before * 7 + measured) / 8));
        }
    }

    /// Packets to ask for now, oldest first. Whether any was asked for too often, and is given up. `gives_up` is asked
    /// of those of which nothing was heard for a while, whether they are of upper temporal layers, and may be
    /// given up in silence.
    pub(super) fn take_due(&mut self, now: Instant, due: &mut Vec<u16>, mut gives_up: impl FnMut(u64) -> bool) -> bool {
        let first = (self.round_trip.unwrap_or(ROUND_TRIP_UNKNOWN) * 5 / 4).clamp(INTERVAL_MIN, INTERVAL_MAX);
        let mut given_up = false;
        self.packets.retain_mut(|missing| {
            if missing.due > now {
                return true;
            }
            if missing.tries >= TRIES_OF_UPPER_LAYERS && gives_up(missing.sequence) {
                return false;
            }
            if missing.is_hopeless(now) {
                given_up = true;
                return false;
            }
            let interval = missing.interval().map_or(first, |last| (last * 5 / 4).min(INTERVAL_MAX));
            (missing.asked, missing.due) = (Some(now), now + interval);
            missing.tries += 1;
            // Truncation gives the number on the wire.
            due.push(missing.sequence as u16);
            true
        });
        given_up
    }
}

impl Missing {
    fn is_hopeless(&self, now: Instant) -> bool {
        self.tries >= TRIES_MAX || self.tries >= TRIES_MIN && now >= self.since + MISSING_FOR
    }

    /// Between the last request and the next.
    fn interval(&self) -> Option<Duration> {
        Some(self.due.saturating_duration_since(self.asked?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// When packet 7 is asked for, in milliseconds, if it never arrives.
    fn requests(missing: &mut MissingPackets, start: Instant) -> Vec<u64> {
        let mut due = Vec::new();
        let mut asked = Vec::new();
        for at in 0..5_000 {
            missing.take_due(start + ms(at), &mut due, |_| false);
            asked.extend(due.drain(..).map(|_| at));
        }
        asked
    }

    #[test]
    fn a_single_gap_is_asked_for_after_10_ms_and_then_less_and_less_often() {
        let start = Instant::now();
        let mut missing = MissingPackets::default();
        missing.on_gap(start, 7..8, false);
        assert_eq!(requests(&mut missing, start), [10, 90, 190, 315, 472], "of an unknown publisher");
        missing.on_gap(start, 8..9, false);
        missing.take_due(start + ms(10), &mut Vec::new(), |_| false);
        missing.on_late(start + ms(34), 8, true);
        missing.on_gap(start, 9..10, false);
        assert_eq!(requests(&mut missing, start), [10, 40, 78, 125, 184, 258, 350, 465], "24 ms away");
    }

    #[test]
    fn what_is_three_packets_behind_is_asked_for_at_once() {
        let start = Instant::now();
        let mut missing = MissingPackets::default();
        let mut due = Vec::new();
        missing.on_gap(start, 7..8, false);
        missing.on_gap(start, 9..9, false);
        missing.take_due(start, &mut due, |_| false);
        assert_eq!(due, []);
        missing.on_gap(start, 10..10, false);
        missing.take_due(start, &mut due, |_| false);
        assert_eq!(due, [7]);
    }

    proptest! {
        /// Each missing number is asked for until it arrives, and given up in the end; nothing else is.
        #[test]
        fn what_is_missing_is_asked_for_at_most_eight_times(
            arrives in vec((0u64..4, any::<bool>(), 0u64..40), 1..200),
        ) {
            let mut now = Instant::now();
            let mut missing = MissingPackets::default();
            let (mut highest, mut lost, mut asked) = (100, Vec::new(), std::collections::HashMap::new());
            let mut due = Vec::new();
            for (gap, is_repaired, pause) in arrives {
                now += ms(pause);
                missing.on_gap(now, highest + 1..highest + 1 + gap, false);
                lost.extend(highest + 1..highest + 1 + gap);
                highest += gap + 1;
                missing.take_due(now, &mut due, |_| false);
                for sequence in due.drain(..) {
                    let sequence = u64::from(sequence);
                    prop_assert!(lost.contains(&sequence));
                    *asked.entry(sequence).or_insert(0) += 1;
                    if is_repaired {
                        missing.on_late(now, sequence, true);
                        lost.retain(|other| *other != sequence);
                    }
                }
            }
            for _ in 0..1_000 {
                now += ms(10);
                missing.take_due(now, &mut due, |_| false);
                due.drain(..).for_each(|sequence| *asked.entry(u64::from(sequence)).or_insert(0) += 1);
            }
            prop_assert_eq!(missing.due(), None);
            prop_assert!(asked.values().all(|tries| *tries <= TRIES_MAX));
            prop_assert!(lost.iter().all(|sequence| asked.get(sequence).is_some_and(|tries| *tries >= TRIES_MIN)));
        }
    }
}
