//! Reliable messages that wait for their turn in an association.
//!
//! `rtc-sctp` takes any amount and keeps some 200 bytes for each chunk beside its payload, so it gets little at a time.
//! What waits here is shared with the other subscribers that have not had it yet.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes that a message takes beside its payload, at most.
const MESSAGE_OVERHEAD: usize = 64;
/// Bytes that an association is given ahead of their acknowledgement: 20 Mbit/s at a round trip of 100 ms.
const GIVEN_BYTES_MAX: usize = 256 * 1024;
/// The same in messages, for those of a few bytes.
const GIVEN_MESSAGES_MAX: usize = 2_048;

/// Messages in order: first those that the association has, then those that it has not.
#[derive(Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// Lengths of messages that the association has not had acknowledged, oldest first.
    given: VecDeque<usize>,
    given_bytes: usize,
}

impl Backlog {
    /// Bytes that are not acknowledged, with what they take beside their payload.
    pub(super) fn bytes(&self) -> usize {
        self.waiting_bytes + self.given_bytes + (self.waiting.len() + self.given.len()) * MESSAGE_OVERHEAD
    }

    /// What a message adds to [`Self::bytes`].
    pub(super) fn cost(payload: &Bytes) -> usize {
        payload.len() + MESSAGE_OVERHEAD
    }

    pub(super) fn push(&mut self, payload: Bytes) {
        self.waiting_bytes += payload.len();
        self.waiting.push_back(payload);
    }

    /// The association has so many bytes that are not acknowledged.
    pub(super) fn settle(&mut self, buffered: usize) {
        while let Some(oldest) = self.given.front()
            && (buffered == 0 || self.given_bytes - oldest >= buffered)
        {
            self.given_bytes -= oldest;
            self.given.pop_front();
        }
    }

    /// The next message for the association, if it may have one.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.given_bytes >= GIVEN_BYTES_MAX || self.given.len() >= GIVEN_MESSAGES_MAX {
            return None;
        }
        let payload = self.waiting.pop_front()?;
        self.waiting_bytes -= payload.len();
        self.given_bytes += payload.len();
        self.given.push_back(payload.len());
        Some(payload)
    }

    /// Forgets the messages that are not acknowledged: their association is gone.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_association_is_given_a_bounded_amount_ahead() {
        for length in [1, 1_000, 65_535] {
            let mut backlog = Backlog::default();
            (0..5_000).for_each(|_| backlog.push(Bytes::from(vec![0; length])));
            let given = std::iter::from_fn(|| backlog.next()).count();
            assert!(given <= GIVEN_MESSAGES_MAX && given * length < GIVEN_BYTES_MAX + length, "{given} of {length}");
            assert_eq!(backlog.bytes(), 5_000 * (length + MESSAGE_OVERHEAD));
        }
    }

    #[test]
    fn what_is_acknowledged_makes_room_in_order() {
        let mut backlog = Backlog::default();
        (0..2).for_each(|_| backlog.push(Bytes::from(vec![0; 1_000])));
        while backlog.next().is_some() {}
        backlog.settle(1_500);
        assert_eq!(backlog.bytes(), 2 * (1_000 + MESSAGE_OVERHEAD));
        backlog.settle(1_000);
        assert_eq!(backlog.bytes(), 1_000 + MESSAGE_OVERHEAD);
        backlog.push(Bytes::new());
        while backlog.next().is_some() {}
        backlog.settle(0);
        assert_eq!(backlog.bytes(), 0);
    }
}
