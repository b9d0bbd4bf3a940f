//! Puts the messages of several nodes into the order of their numbers.
//!
//! A message is released after the one before it. If that one is missing, the message waits a moment, since the missing
//! one may be on its way from another node; after that its number is taken for one that was never used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::chat::ChatMessage;

#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The highest number that was released.
    last: i64,
    waiting: BTreeMap<i64, (Instant, Arc<ChatMessage>)>,
}

impl Sequence {
    /// Most messages that wait; beyond, the first ones are released.
    const WAITING_MAX: usize = 2000;

    /// Notes that messages up to this number were released before.
    pub fn start_at(&mut self, last: i64) {
        self.last = self.last.max(last);
    }

    /// Adds a message. False: a higher number was released before, or it is here already.
    pub fn push(&mut self, message: Arc<ChatMessage>, now: Instant) -> bool {
        if message.seq <= self.last || self.waiting.contains_key(&message.seq) {
            return false;
        }
        self.waiting.insert(message.seq, (now, message));
        true
    }

    /// The highest number that was seen here.
    pub fn highest(&self) -> i64 {
        self.waiting.last_key_value().map_or(self.last, |(&seq, _)| seq.max(self.last))
    }

    /// Whether a message of that number waits to be released.
    pub fn is_waiting(&self, seq: i64) -> bool {
        self.waiting.contains_key(&seq)
    }

    /// The next message to release. `hold`: the longest wait for a missing one.
    pub fn next(&mut self, hold: Duration, now: Instant) -> Option<Arc<ChatMessage>> {
        let (&number, (at, _)) = self.waiting.first_key_value()?;
        let ready = number == self.last + 1 || *at + hold <= now || self.waiting.len() > Self::WAITING_MAX;
        if !ready {
            return None;
        }
        self.last = number;
        self.waiting.pop_first().map(|(_, (_, message))| message)
    }

    /// When the next message is released although one before it is missing.
    pub fn deadline(&self, hold: Duration) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, (at, _))| *at + hold)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;

    const HOLD: Duration = Duration::from_millis(500);

    fn drain(sequence: &mut Sequence, now: Instant) -> Vec<i64> {
        std::iter::from_fn(|| sequence.next(HOLD, now)).map(|message| message.seq).collect()
    }

    #[test]
    fn messages_of_two_nodes_go_out_in_the_order_of_their_numbers() {
        let now = Instant::now();
        let mut sequence = Sequence::default();
        for seq in [3, 1] {
            assert!(sequence.push(Arc::new(message(seq)), now));
        }
        assert_eq!(drain(&mut sequence, now), [1]);
        assert!(sequence.push(Arc::new(message(2)), now));
        assert!(!sequence.push(Arc::new(message(2)), now), "a repeat");

        assert_eq!(drain(&mut sequence, now), [2, 3]);
    }

    #[test]
    fn a_gap_is_waited_for_half_a_second() {
        let start = Instant::now();
        let mut sequence = Sequence::default();
        sequence.start_at(10);
        sequence.push(Arc::new(message(12)), start);
        sequence.push(Arc::new(message(13)), start + Duration::from_millis(400));

        assert_eq!(drain(&mut sequence, start + Duration::from_millis(499)), [0; 0]);
        assert_eq!(sequence.deadline(HOLD), Some(start + HOLD));
        assert_eq!(drain(&mut sequence, start + HOLD), [12, 13]);
        assert!(!sequence.push(Arc::new(message(11)), start + HOLD), "too late");
    }
}
