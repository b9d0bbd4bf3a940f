//! What this node knows of streams and bans: a copy in memory, by which reads are answered, joins admitted and rooms
//! matched with their streams, also while the store is away.
//!
//! Every stream that is read from or written to the store passes [`StreamCache::observe`], which keeps the newest copy
//! by its `rev`. What follows from a change (chat, rooms) is derived from the two copies, on every node alike: the node
//! that wrote it, and those that saw it when they looked for changes. So an effect needs no message between nodes.
//!
//! What people decided and the store did not take holds here as well ([`StreamCache::hold`]), on this node alone.

mod held;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::places::Places;
use crate::store::moderation::Ban;
use crate::store::stream::{Stream, StreamId, Transition, UserId};

pub(crate) use held::Decision;
use held::{Held, Push};

/// How long a stream that ended is kept here, so that late copies of it are recognised.
const ENDED_KEPT: Duration = Duration::from_secs(600);

/// A stream before and after a change.
#[derive(Debug, Clone)]
pub struct Change {
    /// Absent: not known here before.
    pub before: Option<Arc<Stream>>,
    pub after: Arc<Stream>,
}

impl Change {
    pub fn was_live(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.is_live())
    }
}

/// What became of a decision that was to be held here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold<T> {
    /// With what followed, if it changes a stream.
    New(Option<T>),
    /// One like it is held.
    Known,
    /// It concerns no live stream, or too many are held.
    Not,
}

/// The newest copy of each stream, and bans. Cheap to clone.
#[derive(Clone, Default)]
pub struct StreamCache {
    known: Arc<RwLock<Known>>,
    places: Places,
}

#[derive(Default)]
struct Known {
    streams: HashMap<StreamId, Arc<Stream>>,
    rooms: HashMap<String, StreamId>,
    owners: HashMap<UserId, StreamId>,
    /// Live ones by start, for lists.
    live: BTreeMap<(Timestamp, StreamId), Arc<Stream>>,
    /// Ended ones by their last change, to forget them.
    ended: BTreeMap<(Timestamp, StreamId), ()>,
    bans: HashMap<UserId, Ban>,
    /// Not stored yet.
    held: Held,
    /// Raised by every change, for snapshots.
    version: u64,
}

impl StreamCache {
    /// Takes a copy over if it is newer than the known one, and calls `then` with the change before any other change
    /// can be seen. `then` must not call back here.
    ///
    /// # Errors
    /// It is no newer: the newest copy known.
    pub fn observe<T>(&self, stream: Stream, then: impl FnOnce(&Change) -> T) -> Result<T, Arc<Stream>> {
        let mut known = self.known.write().expect("no one panics with this lock");
        let before = known.streams.get(&stream.id).cloned();
        if let Some(newest) = before.as_ref().filter(|before| before.rev >= stream.rev) {
            return Err(Arc::clone(newest));
        }
        let change = Change { before, after: Arc::new(known.held.applied(stream)) };
        known.replace(&change);
        Ok(then(&change))
    }

    /// Has a decision hold that the store did not take: over a live stream that is known here, or everywhere. Calls
    /// `then` with the change as [`StreamCache::observe`] does.
    pub(crate) fn hold<T>(&self, decision: Decision, then: impl FnOnce(&Change) -> T) -> Hold<T> {
        let mut known = self.known.write().expect("no one panics with this lock");
        let before = match &decision {
            Decision::Ban(_) => None,
            Decision::End(id, _) | Decision::Block(id, _) => {
                let is_ended = known.held.end_of(*id).is_some();
                match known.streams.get(id).filter(|stream| stream.is_live() || is_ended) {
                    Some(stream) => Some(Arc::clone(stream)),
                    None => return Hold::Not,
                }
            }
        };
        match known.held.push(decision) {
            Push::New => {}
            Push::Known => return Hold::Known,
            Push::Full => return Hold::Not,
        }
        let Some(before) = before else { return Hold::New(None) };
        let after = Arc::new(known.held.applied(Stream::clone(&before)));
        if after == before {
            return Hold::New(None);
        }
        let change = Change { before: Some(before), after };
        known.replace(&change);
        Hold::New(Some(then(&change)))
    }

    /// What waits to be stored, in the order in which it was decided.
    pub(crate) fn held(&self) -> Vec<Decision> {
        self.read(|known| known.held.all().to_vec())
    }

    pub(crate) fn held_count(&self) -> usize {
        self.read(|known| known.held.all().len())
    }

    pub(crate) fn held_end(&self, id: StreamId) -> Option<Transition> {
        self.read(|known| known.held.end_of(id).cloned())
    }

    /// The decision is stored: copies that the store gives from now on have it.
    pub(crate) fn release(&self, decision: &Decision) {
        self.known.write().expect("no one panics with this lock").held.remove(decision);
    }

    /// A block is taken back. If it was held, it is removed from the known copy of the stream too: as it was never
    /// stored, no newer copy would say that it is gone.
    pub(crate) fn release_block<T>(&self, id: StreamId, user: &UserId, then: impl FnOnce(&Change) -> T) -> Option<T> {
        let mut known = self.known.write().expect("no one panics with this lock");
        if !known.held.remove_block(id, user) {
            return None;
        }
        let before = known.streams.get(&id).cloned()?;
        let mut after = Stream::clone(&before);
        after.blocks.retain(|block| block.user_id != *user);
        let change = Change { before: Some(before), after: Arc::new(after) };
        known.replace(&change);
        Some(then(&change))
    }

    /// Removes a ban from those that are held; as one that is known here it stays. False: it was not held.
    pub(crate) fn release_ban(&self, user: &UserId) -> bool {
        self.known.write().expect("no one panics with this lock").held.remove_ban(user)
    }

    /// Who has a place in rooms of this process.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    pub fn stream(&self, id: StreamId) -> Option<Arc<Stream>> {
        self.read(|known| known.streams.get(&id).cloned())
    }

    pub fn of_room(&self, room_name: &str) -> Option<Arc<Stream>> {
        self.read(|known| known.streams.get(known.rooms.get(room_name)?).cloned())
    }

    /// The owner's live stream.
    pub fn of_owner(&self, owner: &UserId) -> Option<Arc<Stream>> {
        self.read(|known| known.streams.get(known.owners.get(owner)?).cloned())
    }

    /// All live streams, the newest first.
    pub fn all(&self) -> Vec<Arc<Stream>> {
        self.read(|known| known.live.values().rev().cloned().collect())
    }

    pub fn live_count(&self) -> usize {
        self.read(|known| known.live.len())
    }

    /// Viewers of all live streams.
    pub fn viewers(&self) -> u64 {
        self.read(|known| known.live.values().map(|stream| u64::from(stream.viewers)).sum())
    }

    /// Raised by every change of a stream.
    pub fn version(&self) -> u64 {
        self.read(|known| known.version)
    }

    /// True: it was not known.
    pub fn observe_ban(&self, ban: Ban) -> bool {
        let mut known = self.known.write().expect("no one panics with this lock");
        if known.bans.get(&ban.user_id) == Some(&ban) {
            return false;
        }
        known.bans.insert(ban.user_id.clone(), ban);
        true
    }

    /// The ban that holds for a user now.
    pub fn ban(&self, user: &UserId, now: Timestamp) -> Option<Ban> {
        self.read(|known| {
            let stored = known.bans.get(user).filter(|ban| ban.holds(now));
            known.held.ban_of(user, now).or(stored).cloned()
        })
    }

    /// Forgets streams that ended long ago, and bans that no longer hold.
    pub fn forget_old(&self, now: Timestamp) {
        let mut known = self.known.write().expect("no one panics with this lock");
        let before = now.minus(ENDED_KEPT);
        while let Some((&(at, id), ())) = known.ended.first_key_value() {
            if at >= before {
                break;
            }
            known.ended.remove(&(at, id));
            if let Some(stream) = known.streams.remove(&id) {
                known.rooms.remove(&stream.room_name);
            }
        }
        known.bans.retain(|_, ban| ban.holds(now) || ban.lifted_at.is_some_and(|at| at >= before));
    }

    fn read<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.known.read().expect("no one panics with this lock"))
    }
}

impl Known {
    fn replace(&mut self, change: &Change) {
        self.version += 1;
        if let Some(before) = &change.before {
            self.live.remove(&(before.started_at.unwrap_or_default(), before.id));
            self.ended.remove(&(before.updated_at, before.id));
            if self.owners.get(&before.owner_id) == Some(&before.id) {
                self.owners.remove(&before.owner_id);
            }
        }
        let stream = &change.after;
        if stream.is_live() {
            self.live.insert((stream.started_at.unwrap_or_default(), stream.id), Arc::clone(stream));
            self.owners.insert(stream.owner_id.clone(), stream.id);
        } else {
            self.ended.insert((stream.updated_at, stream.id), ());
        }
        if !stream.room_name.is_empty() {
            self.rooms.insert(stream.room_name.clone(), stream.id);
        }
        self.streams.insert(stream.id, Arc::clone(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::stream::StreamState;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    fn stream(owner: &str, state: StreamState, changed: u64) -> Stream {
        Stream {
            room_name: format!("live_{owner}_1"),
            state,
            started_at: Some(at(0)),
            updated_at: at(changed),
            ..Stream::new(owner.parse().unwrap(), at(0))
        }
    }

    fn ban(user: &str) -> Ban {
        let by = "root".parse().unwrap();
        Ban { user_id: user.parse().unwrap(), reason: "spam".into(), until: None, by, at: at(0), lifted_at: None }
    }

    /// The poll reads each change several times.
    #[test]
    fn a_stream_that_ended_is_known_for_ten_minutes() {
        let cache = StreamCache::default();
        let (ended, on_air) = (stream("ana", StreamState::Ended, 100), stream("bo", StreamState::Live, 0));
        for stream in [&ended, &on_air] {
            assert!(cache.observe(stream.clone(), |_| ()).is_ok());
        }

        cache.forget_old(at(700));
        assert!(cache.observe(ended.clone(), |_| ()).is_err(), "it is known");
        assert!(cache.stream(ended.id).is_some() && cache.of_room(&ended.room_name).is_some());
        cache.forget_old(at(701));
        assert!(cache.stream(ended.id).is_none() && cache.of_room(&ended.room_name).is_none());
        cache.forget_old(at(1_000_000));
        assert!(cache.of_room(&on_air.room_name).is_some(), "it is live");
    }

    #[test]
    fn a_ban_that_holds_is_not_forgotten_and_a_lifted_one_is_no_news_for_ten_minutes() {
        let cache = StreamCache::default();
        let (for_ever, over) = (ban("ana"), Ban { until: Some(at(100)), ..ban("bo") });
        let lifted = Ban { lifted_at: Some(at(100)), ..ban("cy") };
        for ban in [&for_ever, &over, &lifted] {
            assert!(cache.observe_ban(ban.clone()));
        }

        cache.forget_old(at(99));
        assert!(!cache.observe_ban(over.clone()), "it holds");
        cache.forget_old(at(700));
        assert!(!cache.observe_ban(lifted.clone()));
        cache.forget_old(at(701));
        assert!(cache.ban(&for_ever.user_id, at(701)).is_some());
        assert!(cache.observe_ban(lifted) && cache.observe_ban(over), "nothing is kept of them");
    }
}
