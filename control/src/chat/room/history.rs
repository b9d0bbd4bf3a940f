//! The newest messages of a room, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::store::chat::ChatMessage;
use crate::store::stream::UserId;

/// In the order of their numbers.
#[derive(Debug)]
pub(crate) struct History {
    messages: VecDeque<Arc<ChatMessage>>,
    max: usize,
    /// The highest number of a message that is not here any more; 0: all messages are here.
    forgotten: i64,
    last: i64,
}

/// The messages that a client is sent when it joins.
#[derive(Debug, PartialEq)]
pub(crate) struct Recent {
    pub messages: Vec<Arc<ChatMessage>>,
    /// The client has missed messages that are not among these.
    pub gap: bool,
}

impl History {
    pub fn new(max: usize) -> Self {
        Self { messages: VecDeque::new(), max, forgotten: 0, last: 0 }
    }

    /// Adds the newest messages of the store, in rising order. `complete`: the store has no earlier ones.
    pub fn load(&mut self, stored: Vec<ChatMessage>, complete: bool) {
        if !complete && let Some(first) = stored.first() {
            self.forgotten = self.forgotten.max(first.seq - 1);
        }
        let known: Vec<_> = std::mem::take(&mut self.messages).into();
        for message in stored {
            if !known.iter().any(|known| known.seq == message.seq) {
                self.push(Arc::new(message));
            }
        }
        for message in known {
            self.push(message);
        }
    }

    /// Notes that messages with numbers up to this may be missing.
    pub fn forget_up_to(&mut self, seq: i64) {
        self.forgotten = self.forgotten.max(seq);
    }

    pub fn push(&mut self, message: Arc<ChatMessage>) {
        self.last = self.last.max(message.seq);
        let at = self.messages.partition_point(|known| known.seq < message.seq);
        self.messages.insert(at, message);
        if self.messages.len() > self.max
            && let Some(oldest) = self.messages.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest.seq);
        }
    }

    /// Adds a message that came too late to be shown, unless it is here already.
    pub fn add_late(&mut self, message: Arc<ChatMessage>) {
        let is_known = self.messages.binary_search_by_key(&message.seq, |known| known.seq).is_ok();
        if !is_known && message.seq > self.forgotten {
            self.push(message);
        }
    }

    /// For a client that has messages up to `after`, or for a newcomer the last `newcomers`.
    pub fn recent(&self, after: Option<i64>, newcomers: usize) -> Recent {
        let from = match after {
            Some(after) => self.messages.partition_point(|message| message.seq <= after),
            None => self.messages.len().saturating_sub(newcomers),
        };
        let messages = self.messages.range(from..).cloned().collect();
        // Numbers begin at 1: a client that claims less has no message.
        Recent { messages, gap: after.is_some_and(|after| after.max(0) < self.forgotten) }
    }

    pub fn last(&self) -> i64 {
        self.last
    }

    pub fn remove(&mut self, id: &str) {
        self.messages.retain(|message| message.id != id);
    }

    pub fn remove_of(&mut self, user: &UserId) {
        self.messages.retain(|message| &message.user_id != user);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;

    fn numbers(recent: &Recent) -> Vec<i64> {
        recent.messages.iter().map(|message| message.seq).collect()
    }

    #[test]
    fn a_newcomer_gets_the_last_and_a_returning_client_what_it_lacks() {
        let mut history = History::new(5);
        history.load(vec![message(1), message(2)], true);
        for seq in 3..=4 {
            history.push(Arc::new(message(seq)));
        }

        assert_eq!(numbers(&history.recent(None, 2)), [3, 4]);
        let back = history.recent(Some(1), 2);
        assert_eq!(numbers(&back), [2, 3, 4]);
        assert!(!back.gap);
        assert_eq!(numbers(&history.recent(Some(99), 2)), [0; 0]);
    }

    #[test]
    fn a_client_that_was_away_too_long_is_told_of_the_gap() {
        let mut history = History::new(3);
        for seq in 1..=10 {
            history.push(Arc::new(message(seq)));
        }

        assert!(history.recent(Some(6), 2).gap);
        assert_eq!(numbers(&history.recent(Some(6), 2)), [8, 9, 10]);
        assert!(!history.recent(Some(7), 2).gap);
    }

    #[test]
    fn nobody_lacks_what_there_never_was() {
        let mut history = History::new(3);
        assert!(!history.recent(Some(-1), 2).gap);
        for seq in 1..=4 {
            history.push(Arc::new(message(seq)));
        }

        assert!(history.recent(Some(-1), 2).gap);
    }

    #[test]
    fn a_late_message_takes_its_place_once() {
        let mut history = History::new(3);
        for seq in [1, 2, 4, 6] {
            history.push(Arc::new(message(seq)));
        }
        history.remove("id-2");
        for seq in [5, 5, 1] {
            history.add_late(Arc::new(message(seq)));
        }

        assert_eq!(numbers(&history.recent(Some(0), 2)), [4, 5, 6]);
    }

    #[test]
    fn deleted_messages_leave_no_gap() {
        let mut history = History::new(3);
        for seq in 1..=3 {
            history.push(Arc::new(message(seq)));
        }
        history.remove("id-2");

        assert_eq!(numbers(&history.recent(Some(1), 2)), [3]);
        assert!(!history.recent(Some(1), 2).gap);
        assert_eq!(history.last(), 3);
    }
}
