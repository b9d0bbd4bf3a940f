//! The limits of each user in a room, over all the user's sockets.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use crate::chat::limits::{Bucket, Limits};
use crate::chat::refusal::{Refusal, RefusalCode};
use crate::store::stream::UserId;

/// How long a user is remembered after the last event: as long as the longest slow mode.
const MEMORY: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(crate) struct Authors {
    authors: HashMap<UserId, Author>,
    hasher: RandomState,
    pruned_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Author {
    messages: Bucket,
    reactions: Bucket,
    /// The last message's text, as a hash, and its time.
    last: Option<(u64, Instant)>,
}

impl Authors {
    /// Whether the user may send this text now. If it is sent, [`Authors::sent`] notes that.
    ///
    /// `slow_mode`: shortest time between two messages.
    pub fn may_write(
        &mut self,
        user: &UserId,
        text: &str,
        slow_mode: Duration,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.prune(now);
        let hash = self.hasher.hash_one(text);
        let author = self.authors.entry(user.clone()).or_default();
        author
            .messages
            .take(limits.message, now)
            .map_err(|wait| Refusal::new(RefusalCode::RateLimited, "You are writing too fast.").after(wait))?;
        if let Some((last_hash, at)) = author.last {
            let since = now.duration_since(at);
            if let Some(wait) = slow_mode.checked_sub(since).filter(|wait| !wait.is_zero()) {
                return Err(Refusal::new(RefusalCode::SlowMode, "This chat is in slow mode.").after(wait));
            }
            if last_hash == hash
                && let Some(wait) = limits.duplicate_window.checked_sub(since).filter(|wait| !wait.is_zero())
            {
                return Err(Refusal::new(RefusalCode::DuplicateMessage, "You have just sent this.").after(wait));
            }
        }
        Ok(())
    }

    pub fn sent(&mut self, user: &UserId, text: &str, now: Instant) {
        let hash = self.hasher.hash_one(text);
        self.authors.entry(user.clone()).or_default().last = Some((hash, now));
    }

    /// The last message was not sent after all: the user may try it again at once.
    pub fn unsent(&mut self, user: &UserId) {
        if let Some(author) = self.authors.get_mut(user) {
            author.last = None;
        }
    }

    pub fn may_react(&mut self, user: &UserId, limits: &Limits, now: Instant) -> bool {
        self.prune(now);
        self.authors.entry(user.clone()).or_default().reactions.take(limits.reaction, now).is_ok()
    }

    /// Forgets users whom no limit concerns any more, so that the map is bounded by the recent events.
    fn prune(&mut self, now: Instant) {
        if self.pruned_at.is_some_and(|at| now.duration_since(at) < MEMORY) {
            return;
        }
        self.pruned_at = Some(now);
        self.authors.retain(|_, author| {
            let wrote = author.last.is_some_and(|(_, at)| now.duration_since(at) < MEMORY);
            wrote || !author.messages.is_full(now) || !author.reactions.is_full(now)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Chat {
        authors: Authors,
        limits: Limits,
        start: Instant,
    }

    impl Chat {
        fn new() -> Self {
            Self { authors: Authors::default(), limits: Limits::default(), start: Instant::now() }
        }

        fn send(&mut self, user: &str, text: &str, at_ms: u64, slow_s: u64) -> Result<(), (RefusalCode, u64)> {
            let now = self.start + Duration::from_millis(at_ms);
            let user = user.parse().unwrap();
            self.authors
                .may_write(&user, text, Duration::from_secs(slow_s), &self.limits, now)
                .map_err(|refusal| (refusal.code, refusal.retry_after_ms.unwrap()))?;
            self.authors.sent(&user, text, now);
            Ok(())
        }
    }

    #[test]
    fn a_user_writes_five_messages_at_once_and_then_one_a_second() {
        let mut chat = Chat::new();
        for n in 0..5 {
            assert_eq!(chat.send("ana", &n.to_string(), 0, 0), Ok(()));
        }
        assert_eq!(chat.send("ana", "5", 300, 0), Err((RefusalCode::RateLimited, 700)));
        assert_eq!(chat.send("ben", "5", 300, 0), Ok(()));
        assert_eq!(chat.send("ana", "5", 1000, 0), Ok(()));
    }

    #[test]
    fn the_same_text_is_refused_for_ten_seconds() {
        let mut chat = Chat::new();
        assert_eq!(chat.send("ana", "hi", 0, 0), Ok(()));
        assert_eq!(chat.send("ana", "hi", 4000, 0), Err((RefusalCode::DuplicateMessage, 6000)));
        assert_eq!(chat.send("ben", "hi", 4000, 0), Ok(()));
        assert_eq!(chat.send("ana", "hi", 10_000, 0), Ok(()));
    }

    #[test]
    fn slow_mode_counts_from_the_last_message_that_was_sent() {
        let mut chat = Chat::new();
        assert_eq!(chat.send("ana", "a", 0, 30), Ok(()));
        assert_eq!(chat.send("ana", "b", 10_000, 30), Err((RefusalCode::SlowMode, 20_000)));
        assert_eq!(chat.send("ana", "b", 20_000, 30), Err((RefusalCode::SlowMode, 10_000)));
        assert_eq!(chat.send("ana", "b", 30_000, 30), Ok(()));
    }

    #[test]
    fn reactions_are_limited_by_themselves() {
        let mut chat = Chat::new();
        let ana: UserId = "ana".parse().unwrap();
        let granted = (0..100).filter(|_| chat.authors.may_react(&ana, &chat.limits, chat.start)).count();

        assert_eq!(granted, 20);
        assert_eq!(chat.send("ana", "hi", 0, 0), Ok(()));
        // And then ten a second.
        let mut may_react = |ms| chat.authors.may_react(&ana, &chat.limits, chat.start + Duration::from_millis(ms));
        assert_eq!([may_react(99), may_react(100), may_react(199), may_react(200)], [false, true, false, true]);
    }

    #[test]
    fn users_who_did_nothing_lately_are_forgotten() {
        let mut chat = Chat::new();
        for n in 0..1000 {
            chat.send(&format!("u{n}"), "hi", 0, 0).unwrap();
        }
        chat.send("ana", "hi", 121_000, 0).unwrap();

        assert_eq!(chat.authors.authors.len(), 1);
    }
}
