//! Which packets a viewer asks for: libwebrtc's `nack_requester.cc`.

use std::collections::BTreeMap;
use std::time::Duration;

/// Between two requests. Who sends no media knows no round trip: libwebrtc then takes this (`kDefaultRttMs`).
const ROUND_TRIP: Duration = Duration::from_millis(100);
const TRIES_MAX: u32 = 10;
const MISSING_MAX: usize = 1_000;

struct Missing {
    asked_at: Option<Duration>,
    tries: u32,
}

#[derive(Default)]
pub struct NackList {
    newest: Option<i64>,
    missing: BTreeMap<i64, Missing>,
}

impl NackList {
    /// A packet came. `false`: more is missing than can be asked for, and a key frame is needed.
    pub fn on_packet(&mut self, sequence: i64) -> bool {
        let newest = *self.newest.get_or_insert(sequence);
        if sequence <= newest {
            self.missing.remove(&sequence);
            return true;
        }
        self.newest = Some(sequence);
        if self.missing.len() + (sequence - newest) as usize > MISSING_MAX {
            self.missing.clear();
            return false;
        }
        let new = newest + 1..sequence;
        self.missing.extend(new.map(|sequence| (sequence, Missing { asked_at: None, tries: 0 })));
        true
    }

    /// What has not been asked for yet: after each packet.
    pub fn unasked(&mut self, now: Duration) -> Vec<i64> {
        self.ask(now, |missing| missing.asked_at.is_none())
    }

    /// What was asked for long enough ago to ask again: from time to time.
    pub fn due(&mut self, now: Duration) -> Vec<i64> {
        self.ask(now, |missing| missing.asked_at.is_none_or(|at| now >= at + ROUND_TRIP))
    }

    fn ask(&mut self, now: Duration, is_due: impl Fn(&Missing) -> bool) -> Vec<i64> {
        let mut asked = Vec::new();
        self.missing.retain(|sequence, missing| {
            if is_due(missing) {
                asked.push(*sequence);
                missing.asked_at = Some(now);
                missing.tries += 1;
            }
            missing.tries < TRIES_MAX
        });
        asked
    }

    /// What is older than a frame that could be decoded is not needed any more.
    pub fn clear_to(&mut self, sequence: i64) {
        self.missing = self.missing.split_off(&sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_asked_for_at_once_then_each_round_trip_ten_times() {
        let mut list = NackList::default();
        list.on_packet(10);
        list.on_packet(12);
        let asked: Vec<u32> =
            (0..2_000).filter(|ms| !list.due(Duration::from_millis(*ms)).is_empty()).map(|ms| ms as u32).collect();
        assert_eq!(asked, (0..10).map(|n| n * 100).collect::<Vec<_>>());
    }

    #[test]
    fn what_comes_or_is_decoded_without_is_not_asked_for_again() {
        let mut list = NackList::default();
        [10, 12, 14, 16].into_iter().for_each(|sequence| assert!(list.on_packet(sequence)));
        assert_eq!(list.unasked(Duration::ZERO), [11, 13, 15]);
        list.on_packet(15);
        list.clear_to(12);
        assert_eq!(list.unasked(ROUND_TRIP), []);
        assert_eq!(list.due(ROUND_TRIP), [13]);
    }

    #[test]
    fn beyond_a_thousand_a_key_frame_is_needed() {
        let mut list = NackList::default();
        list.on_packet(10);
        assert!(list.on_packet(1_000));
        assert!(!list.on_packet(1_100));
        assert!(list.due(Duration::ZERO).is_empty());
    }
}
