//! Decisions of people that the store did not take, as on a full disk. They hold in this process all the same, over
//! whatever copy of a stream comes, until they are stored.

use crate::clock::Timestamp;
use crate::store::moderation::Ban;
use crate::store::stream::{Block, Stream, StreamId, StreamState, Transition, UserId};

/// Most that are held.
const HELD_MAX: usize = 1_000;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    End(StreamId, Transition),
    Block(StreamId, Block),
    Ban(Ban),
}

impl Decision {
    /// Whether both have the same effect, whoever decided when.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::End(id, _), Self::End(other, _)) => id == other,
            (Self::Block(id, block), Self::Block(other, other_block)) => {
                id == other && block.user_id == other_block.user_id
            }
            (Self::Ban(ban), Self::Ban(other)) => {
                (&ban.user_id, &ban.reason, ban.until) == (&other.user_id, &other.reason, other.until)
            }
            (Self::End(..) | Self::Block(..) | Self::Ban(_), _) => false,
        }
    }
}

/// What became of a decision that was to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    New,
    /// One like it is held.
    Known,
    Full,
}

#[derive(Default)]
pub(super) struct Held(Vec<Decision>);

impl Held {
    pub fn all(&self) -> &[Decision] {
        &self.0
    }

    pub fn push(&mut self, decision: Decision) -> Push {
        if self.0.iter().any(|held| held.is_like(&decision)) {
            return Push::Known;
        }
        if let Decision::Ban(ban) = &decision {
            self.remove_ban(&ban.user_id);
        }
        if self.0.len() >= HELD_MAX {
            return Push::Full;
        }
        self.0.push(decision);
        Push::New
    }

    pub fn remove(&mut self, decision: &Decision) {
        self.0.retain(|held| held != decision);
    }

    /// False: it was not held.
    pub fn remove_block(&mut self, id: StreamId, user: &UserId) -> bool {
        self.remove_if(|held| matches!(held, Decision::Block(of, block) if *of == id && block.user_id == *user))
    }

    /// False: it was not held.
    pub fn remove_ban(&mut self, user: &UserId) -> bool {
        self.remove_if(|held| matches!(held, Decision::Ban(ban) if ban.user_id == *user))
    }

    fn remove_if(&mut self, is_it: impl Fn(&Decision) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|held| !is_it(held));
        self.0.len() < before
    }

    pub fn end_of(&self, id: StreamId) -> Option<&Transition> {
        self.0.iter().find_map(|held| match held {
            Decision::End(of, transition) if *of == id => Some(transition),
            Decision::End(..) | Decision::Block(..) | Decision::Ban(_) => None,
        })
    }

    pub fn ban_of(&self, user: &UserId, now: Timestamp) -> Option<&Ban> {
        self.0.iter().find_map(|held| match held {
            Decision::Ban(ban) if ban.user_id == *user && ban.holds(now) => Some(ban),
            Decision::End(..) | Decision::Block(..) | Decision::Ban(_) => None,
        })
    }

    /// A copy of a stream as it would be had the store taken what is held.
    pub fn applied(&self, mut stream: Stream) -> Stream {
        for held in &self.0 {
            match held {
                Decision::End(id, transition) if *id == stream.id && stream.is_live() => {
                    stream.state = StreamState::Ended;
                    stream.state_since = transition.at;
                    stream.ended_at = Some(transition.at);
                    stream.end_reason = transition.end_reason;
                    stream.viewers = 0;
                    stream.updated_at = stream.updated_at.max(transition.at);
                }
                Decision::Block(id, block) if *id == stream.id => {
                    if let Err(place) = stream.blocks.binary_search_by(|other| other.user_id.cmp(&block.user_id)) {
                        stream.blocks.insert(place, block.clone());
                    }
                }
                Decision::End(..) | Decision::Block(..) | Decision::Ban(_) => {}
            }
        }
        stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::stream::EndReason;

    fn ban(user: usize, reason: &str) -> Decision {
        let (user_id, by) = (user.to_string().parse().unwrap(), "admin".parse().unwrap());
        let at = Timestamp::default();
        Decision::Ban(Ban { user_id, reason: reason.into(), until: None, by, at, lifted_at: None })
    }

    fn end(stream: StreamId, seconds: i64) -> Decision {
        let at = Timestamp::from_millis(seconds * 1_000);
        let (from, end_reason) = (StreamState::LIVE.to_vec(), Some(EndReason::Stopped));
        Decision::End(stream, Transition { from, to: StreamState::Ended, at, end_reason, room_sid: None })
    }

    fn block(stream: StreamId, user: &str) -> Decision {
        let (user_id, by) = (user.parse().unwrap(), "ana".parse().unwrap());
        Decision::Block(stream, Block { user_id, blocked_at: Timestamp::default(), by, reason: None })
    }

    fn live(owner: &str) -> Stream {
        let at = Timestamp::default();
        Stream { state: StreamState::Live, started_at: Some(at), viewers: 3, ..Stream::new(owner.parse().unwrap(), at) }
    }

    #[test]
    fn what_is_stored_is_held_no_more_and_all_else_is() {
        let (one, other) = (StreamId::generate(), StreamId::generate());
        let all = [end(one, 1), end(other, 1), block(one, "bo"), block(one, "cy"), ban(1, "spam"), ban(2, "spam")];
        for stored in &all {
            let mut held = Held::default();
            for decision in &all {
                assert_eq!(held.push(decision.clone()), Push::New);
            }

            held.remove(stored);

            let rest: Vec<_> = all.iter().filter(|decision| *decision != stored).cloned().collect();
            assert_eq!(held.all(), rest);
        }
    }

    #[test]
    fn the_same_end_or_block_of_the_same_stream_is_known() {
        let (one, other) = (StreamId::generate(), StreamId::generate());
        let mut held = Held::default();
        for decision in [end(one, 1), end(other, 1), block(one, "bo"), block(other, "bo"), block(one, "cy")] {
            assert_eq!(held.push(decision), Push::New);
        }

        for decision in [end(one, 2), block(one, "bo"), block(other, "bo")] {
            assert_eq!(held.push(decision), Push::Known);
        }
        assert!(matches!(held.end_of(one), Some(end) if end.at == Timestamp::from_millis(1_000)), "the first one");
        assert_eq!(held.end_of(StreamId::generate()), None);
    }

    #[test]
    fn what_is_taken_back_is_held_no_more() {
        let (one, other) = (StreamId::generate(), StreamId::generate());
        let mut held = Held::default();
        for decision in [block(one, "bo"), block(one, "cy"), block(other, "bo"), ban(1, "spam"), ban(2, "spam")] {
            assert_eq!(held.push(decision), Push::New);
        }
        let (bo, first) = ("bo".parse().unwrap(), "1".parse().unwrap());

        assert_eq!([held.remove_block(one, &bo), held.remove_block(one, &bo)], [true, false]);
        assert_eq!([held.remove_ban(&first), held.remove_ban(&first)], [true, false]);
        assert_eq!(held.all(), [block(one, "cy"), block(other, "bo"), ban(2, "spam")]);
    }

    #[test]
    fn a_held_ban_is_of_its_user_and_until_its_time() {
        let at = Timestamp::from_millis;
        let Decision::Ban(ban) = ban(1, "spam") else { unreachable!("it is one") };
        let mut held = Held::default();
        held.push(Decision::Ban(Ban { until: Some(at(1_000)), ..ban }));
        let holds = |user: &str, now| held.ban_of(&user.parse().unwrap(), at(now)).is_some();

        assert!(holds("1", 999) && !holds("1", 1_000) && !holds("2", 999));
    }

    #[test]
    fn a_copy_of_a_stream_is_as_if_what_is_held_were_stored() {
        let (stream, other) = (live("ana"), live("bo"));
        let mut held = Held::default();
        for decision in [end(stream.id, 1), block(stream.id, "cy"), block(stream.id, "bad"), block(other.id, "dan")] {
            held.push(decision);
        }

        let known = held.applied(stream.clone());

        assert_eq!((known.state, known.end_reason, known.viewers), (StreamState::Ended, Some(EndReason::Stopped), 0));
        let at = Timestamp::from_millis(1_000);
        assert_eq!((known.ended_at, known.state_since, known.updated_at), (Some(at), at, at));
        assert_eq!(known.blocks.iter().map(|block| block.user_id.as_str()).collect::<Vec<_>>(), ["bad", "cy"]);
        assert_eq!(held.applied(known.clone()), known, "once is enough");
        let ended = Stream { state: StreamState::Ended, end_reason: Some(EndReason::Banned), ..stream };
        assert_eq!(held.applied(ended).end_reason, Some(EndReason::Banned), "the store's end counts");
        let other = held.applied(other);
        assert!(other.is_live() && other.blocks.len() == 1);
    }

    #[test]
    fn so_many_decisions_are_held_and_each_once() {
        let mut held = Held::default();
        for user in 0..HELD_MAX {
            assert_eq!(held.push(ban(user, "spam")), Push::New);
        }

        assert_eq!(held.push(ban(7, "spam")), Push::Known);
        assert_eq!(held.push(ban(7, "worse")), Push::New, "in place of the other one");
        assert_eq!(held.push(ban(HELD_MAX, "spam")), Push::Full);
        assert_eq!(held.all().len(), HELD_MAX);
    }
}
