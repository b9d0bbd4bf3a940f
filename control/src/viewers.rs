//! Who is in the rooms of streams, counted exactly (stream API, sections 5.3 and 6).
//!
//! Viewers are not counted up and down: each session has a record, and the number follows from the open records. So an
//! event may come twice, late, or in the wrong order. Events of webhooks and of this process's own rooms take the same
//! way: [`Viewers::apply`] or [`Viewers::send`], the room's queue, `Viewers::handle`. What an event that is not handled
//! would have changed, [`crate::reconcile`] finds by comparing the stream with its room.

mod queues;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use signaling::event::RoomEvent;
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use crate::agenda::Agenda;
use crate::clock::Timestamp;
use crate::lifecycle::{Counters, Lifecycle};
use crate::rooms::event::{Event, EventKind};
use crate::rooms::name::PREFIX;
use crate::rooms::{RoomBackend, RoomsError, Session, is_owners, presence_of};
use crate::store::presence::Presence;
use crate::store::stream::{EndReason, Stream, StreamId, StreamState, UserId};
use crate::store::{SharedStore, StoreError};
use crate::stream_cache::StreamCache;

use queues::{Job, Queues};

/// Counts viewers. Cheap to clone.
#[derive(Clone)]
pub struct Viewers(Arc<Parts>);

struct Parts {
    lifecycle: Lifecycle,
    store: SharedStore,
    cache: StreamCache,
    rooms: Arc<dyn RoomBackend>,
    agenda: Agenda,
    queues: Queues,
    /// Of a stream; 0: no cap.
    max_viewers: u32,
}

impl Viewers {
    /// Must be called inside a tokio runtime. The tasks of its queues run until the last handle is dropped.
    pub(crate) fn new(lifecycle: Lifecycle, rooms: Arc<dyn RoomBackend>, agenda: Agenda, max_viewers: u32) -> Self {
        let (store, cache) = (SharedStore::clone(lifecycle.store()), lifecycle.cache().clone());
        let (queues, receivers) = Queues::new();
        let viewers = Arc::new(Parts { lifecycle, store, cache, rooms, agenda, queues, max_viewers });
        receivers.serve(&viewers);
        Self(viewers)
    }

    /// Queues work behind the events of a room that came before. Never waits. False: the queue is full.
    #[must_use]
    pub(crate) fn in_order(&self, room: &str, work: impl Future<Output = ()> + Send + 'static) -> bool {
        self.0.queues.push(room, Job::Work(Box::pin(work)))
    }

    /// Queues an event of a room of this process. Never waits.
    pub(crate) fn send(&self, event: Event) {
        if !is_ours(&event) {
            return;
        }
        let room = event.room.clone();
        if self.0.max_viewers > 0
            && let Some(stream) = self.0.cache.of_room(&room).filter(|stream| stream.is_live())
        {
            self.0.cache.places().hear(&stream, &event, Instant::now());
        }
        if !self.0.queues.push(&room, Job::Event { event: Box::new(event), reply: None }) {
            Counters::add(&self.counters().events_deferred);
            self.missed(&room);
        }
    }

    /// Queues the event of a webhook, and waits until it is in the store.
    pub(crate) async fn apply(&self, event: Event) -> Handled {
        if !is_ours(&event) {
            Counters::add(&self.counters().events_not_ours);
            return Handled::NotOurs;
        }
        let room = event.room.clone();
        let (reply, handled) = oneshot::channel();
        if !self.0.queues.push(&room, Job::Event { event: Box::new(event), reply: Some(reply) }) {
            Counters::add(&self.counters().events_deferred);
            self.missed(&room);
            return Handled::Deferred;
        }
        handled.await.unwrap_or(Handled::Deferred)
    }

    /// Receives the events of rooms of this process until `shutdown`. When some are lost, every stream is compared with
    /// its room.
    pub(crate) async fn listen(&self, mut events: broadcast::Receiver<RoomEvent>, shutdown: CancellationToken) {
        loop {
            let event = events.recv();
            let Some(event) = shutdown.run_until_cancelled(event).await else { return };
            // It may have come after that, of a room that only closes with the process.
            if shutdown.is_cancelled() {
                return;
            }
            match event {
                Ok(event) => self.send(event.into()),
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    tracing::warn!(count, "events of rooms were missed; all streams are compared with their rooms");
                    self.0.cache.places().doubt_all();
                    self.0.agenda.all_soon(self.now());
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.0.lifecycle.now()
    }

    fn counters(&self) -> &Counters {
        self.0.lifecycle.counters()
    }

    /// An event of this room was not handled: its stream is compared with the room soon.
    fn missed(&self, room: &str) {
        if let Some(stream) = self.0.cache.of_room(room) {
            self.0.agenda.soon(stream.id, self.now());
        }
    }

    /// Whether the order of this event among others of its kind does not matter, which holds for sessions of viewers.
    fn commutes(&self, event: &Event) -> bool {
        let session = match &event.kind {
            EventKind::Joined(session) | EventKind::Left(session) | EventKind::Aborted(session) => session,
            EventKind::RoomStarted
            | EventKind::RoomFinished
            | EventKind::TrackPublished(_)
            | EventKind::TrackUnpublished
            | EventKind::Other => return false,
        };
        self.0.cache.of_room(&event.room).is_some_and(|stream| !is_owners(&stream, session))
    }

    /// Handles one event. Handling it again changes nothing.
    async fn handle(&self, event: &Event) -> Handled {
        if self.0.agenda.store_is_away(self.now()) {
            self.missed(&event.room);
            return Handled::Deferred;
        }
        match self.handle_with_store(event).await {
            Ok(handled) => handled,
            Err(StoreError::NotFound) => Handled::NotOurs,
            Err(error) => {
                self.0.agenda.store_failed(&error, self.now());
                self.missed(&event.room);
                Handled::Deferred
            }
        }
    }

    async fn handle_with_store(&self, event: &Event) -> Result<Handled, StoreError> {
        if let Some(id) = &event.event_id
            && self.0.store.webhook_handled(id, self.now()).await?
        {
            return Ok(Handled::Repeated);
        }
        let Some(stream) = self.0.lifecycle.stream_of_room(&event.room).await? else {
            return Ok(Handled::NotOurs);
        };
        self.apply_to(&stream, event).await?;
        if let Some(id) = &event.event_id {
            self.0.store.note_webhook(id, self.now()).await?;
        }
        Ok(Handled::Applied)
    }

    async fn apply_to(&self, stream: &Stream, event: &Event) -> Result<(), StoreError> {
        let id = stream.id;
        match &event.kind {
            EventKind::RoomStarted if !stream.is_live() => {
                // It was made by a join with an old token.
                self.0.lifecycle.close_room_later(stream);
                Ok(())
            }
            EventKind::RoomStarted => self.note_room(stream, &event.room_sid).await,
            // Only the noted room ends its stream (stream API, section 5.3), and this may be an older one.
            EventKind::RoomFinished if event.room_sid.is_empty() => {
                self.0.agenda.soon(id, self.now());
                Ok(())
            }
            EventKind::RoomFinished => {
                let sid = Some(event.room_sid.clone());
                self.0.lifecycle.finish(id, &StreamState::LIVE, EndReason::RoomFinished, sid).await.map(drop)
            }
            EventKind::Joined(session) => self.joined(stream, session).await,
            EventKind::Left(session) => self.left(stream, session, self.end_of(session, event.at)).await,
            // The session never was ACTIVE, so that it has no record. Its place was freed in [`Viewers::send`].
            EventKind::Aborted(_) => Ok(()),
            EventKind::TrackPublished(publisher) if publisher.identity == stream.owner_id.as_str() => {
                // Not from `Reconnecting`: an owner who is back has joined again, and this event may be from before.
                self.0.lifecycle.turn(id, &[StreamState::Starting], StreamState::Live).await.map(drop)
            }
            EventKind::TrackPublished(_) | EventKind::TrackUnpublished | EventKind::Other => Ok(()),
        }
    }

    /// Notes the sid of the stream's room. If another one is noted, the room that exists counts, as this event may be a
    /// late one of an older room.
    async fn note_room(&self, stream: &Stream, room_sid: &str) -> Result<(), StoreError> {
        let mut sid = room_sid.to_owned();
        if stream.room_sid.as_deref().is_some_and(|noted| noted != room_sid) {
            match self.0.rooms.list(std::slice::from_ref(&stream.room_name)).await {
                Ok(rooms) => match rooms.into_iter().next() {
                    Some(room) => sid = room.sid,
                    None => return Ok(()),
                },
                Err(_) => {
                    self.0.agenda.soon(stream.id, self.now());
                    return Ok(());
                }
            }
        }
        if sid.is_empty() || !stream.is_live() {
            return Ok(());
        }
        let outcome = self.0.store.note_room(stream.id, &sid, self.now()).await?;
        self.0.lifecycle.observe(outcome.into_stream());
        Ok(())
    }

    async fn joined(&self, stream: &Stream, session: &Session) -> Result<(), StoreError> {
        let presence = presence_of(stream, session);
        let change = self.0.store.presence_join(stream.id, &presence).await?;
        let stream = self.0.lifecycle.observe(change.stream);
        if is_owners(&stream, session) {
            // A repeated event may come after the session has left.
            let is_open = change.changed || {
                let open = self.0.store.presence_open(stream.id).await?;
                open.iter().any(|open| open.sid == presence.sid)
            };
            return match is_open {
                true => self.turn_if(&stream, &[StreamState::Reconnecting], StreamState::Live).await,
                false => Ok(()),
            };
        }
        if self.is_unwanted(&stream, &presence.user_id) {
            self.0.lifecycle.remove_later(stream, vec![session.identity.clone()]);
            return Ok(());
        }
        self.remove_excess(&stream, &presence).await
    }

    /// Removes users from the room who are beyond `max_viewers` because of this session. Rooms of this process admit
    /// nobody without a place ([`crate::places::Places`]); those of another server admit everybody who has a token, and
    /// say so afterwards.
    ///
    /// Who came first stays, by the server's clock, whichever of two events is handled first: the one that is handled
    /// last finds both records, and also removes those who came later than its own session.
    async fn remove_excess(&self, stream: &Arc<Stream>, session: &Presence) -> Result<(), StoreError> {
        let max = self.0.max_viewers;
        if self.0.rooms.is_local() || max == 0 || stream.viewers <= max || !session.counts {
            return Ok(());
        }
        let mut open = self.0.store.presence_open(stream.id).await?;
        open.retain(|presence| presence.counts);
        let excess = excess_of(&mut open, session, usize::try_from(max).unwrap_or(usize::MAX));
        if !excess.is_empty() {
            self.0.lifecycle.remove_later(Arc::clone(stream), excess);
        }
        Ok(())
    }

    async fn left(&self, stream: &Stream, session: &Session, at: Timestamp) -> Result<(), StoreError> {
        self.leave(stream.id, &presence_of(stream, session), at).await?;
        if is_owners(stream, session) && stream.is_live() {
            let open = self.0.store.presence_open(stream.id).await?;
            if !open.iter().any(|presence| presence.identity == stream.owner_id.as_str()) {
                return self.turn_if(stream, &[StreamState::Live], StreamState::Reconnecting).await;
            }
        }
        Ok(())
    }

    async fn leave(&self, id: StreamId, presence: &Presence, at: Timestamp) -> Result<(), StoreError> {
        let change = self.0.store.presence_leave(id, presence, at).await?;
        self.0.lifecycle.observe(change.stream);
        Ok(())
    }

    /// Changes the state, unless the stream is over, which saves a write that would change nothing.
    async fn turn_if(&self, stream: &Stream, from: &[StreamState], to: StreamState) -> Result<(), StoreError> {
        if !stream.is_live() {
            return Ok(());
        }
        self.0.lifecycle.turn(stream.id, from, to).await.map(drop)
    }

    /// When a session ended: not before it began, and not in the future. Clocks of senders differ from ours, and some
    /// count whole seconds.
    fn end_of(&self, session: &Session, at: Timestamp) -> Timestamp {
        at.max(session.joined_at).min(self.now().max(session.joined_at))
    }

    fn is_unwanted(&self, stream: &Stream, user: &UserId) -> bool {
        stream.blocks(user) || self.0.cache.ban(user, self.now()).is_some()
    }

    /// Removes blocked and banned users from a room.
    pub(crate) fn remove_unwanted(&self, stream: &Arc<Stream>, sessions: &[Session]) {
        let unwanted: HashSet<&str> = sessions
            .iter()
            .filter(|session| session.user.as_ref().is_some_and(|user| self.is_unwanted(stream, user)))
            .map(|session| session.identity.as_str())
            .collect();
        if !unwanted.is_empty() {
            self.0.lifecycle.remove_later(Arc::clone(stream), unwanted.into_iter().map(str::to_owned).collect());
        }
    }

    /// The sid of a stream's room and the sessions in it. `None`: there is no such room.
    pub(crate) async fn sessions_in(&self, stream: &Stream) -> Result<Option<(String, Vec<Session>)>, RoomsError> {
        let rooms = self.0.rooms.list(std::slice::from_ref(&stream.room_name)).await?;
        let Some(room) = rooms.into_iter().find(|room| room.name == stream.room_name) else {
            return Ok(None);
        };
        Ok(Some((room.sid, self.0.rooms.sessions(&stream.room_name).await?)))
    }
}

fn is_ours(event: &Event) -> bool {
    event.room.starts_with(PREFIX) && event.kind != EventKind::Other
}

/// The identities of users beyond `max` who joined with `session` or after it. Further sessions of a user who joined
/// before are not counted.
fn excess_of(open: &mut [Presence], session: &Presence, max: usize) -> Vec<String> {
    open.sort_by(|a, b| (a.joined_at, &a.sid).cmp(&(b.joined_at, &b.sid)));
    let mut seen = HashSet::new();
    let firsts: Vec<&Presence> = open.iter().filter(|presence| seen.insert(&presence.user_id)).collect();
    let Some(place) = firsts.iter().position(|first| first.sid == session.sid) else { return Vec::new() };
    let excess: HashSet<&UserId> = firsts.iter().skip(place.max(max)).map(|first| &first.user_id).collect();
    open.iter()
        .filter(|presence| excess.contains(&presence.user_id))
        .map(|presence| presence.identity.clone())
        .collect()
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// Its effect is in the store.
    Applied,
    /// It was handled before.
    Repeated,
    /// Of a room or a kind that has nothing to do with streams.
    NotOurs,
    /// The store is away, or too much waits: whoever tells again later is served then.
    Deferred,
}

impl Handled {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Handled::Applied => "applied",
            Handled::Repeated => "repeated",
            Handled::NotOurs => "not_ours",
            Handled::Deferred => "deferred",
        }
    }

    fn counter(self, counters: &Counters) -> &AtomicU64 {
        match self {
            Handled::Applied => &counters.events_applied,
            Handled::Repeated => &counters.events_repeated,
            Handled::NotOurs => &counters.events_not_ours,
            Handled::Deferred => &counters.events_deferred,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session by its `sid`, which begins with the letter of its user.
    fn session(sid: &str, joined_at: i64) -> Presence {
        Presence {
            sid: sid.into(),
            identity: format!("{sid}-identity"),
            user_id: sid[..1].parse().unwrap(),
            counts: true,
            joined_at: Timestamp::from_millis(joined_at),
            left_at: None,
        }
    }

    /// Who is put out of two places because of this session, in any order of the list.
    fn excess(all: &[Presence], sid: &str) -> Vec<String> {
        let told = all.iter().find(|session| session.sid == sid).cloned().unwrap_or_else(|| session(sid, 0));
        let (mut forth, mut back) = (all.to_vec(), all.iter().rev().cloned().collect::<Vec<_>>());
        let excess = excess_of(&mut forth, &told, 2);
        assert_eq!(excess, excess_of(&mut back, &told, 2));
        excess.iter().map(|identity| identity.replace("-identity", "")).collect()
    }

    #[test]
    fn who_comes_when_all_places_are_taken_is_put_out() {
        let full = [session("a1", 1), session("b1", 2)];
        assert_eq!(excess(&full, "a1"), [""; 0]);
        assert_eq!(excess(&full, "b1"), [""; 0]);

        let crowded = [&full[..], &[session("c1", 3)]].concat();
        assert_eq!(excess(&crowded, "c1"), ["c1"]);
        let two_devices = [&crowded[..], &[session("c2", 4)]].concat();
        assert_eq!(excess(&two_devices, "c1"), ["c1", "c2"]);
    }

    #[test]
    fn an_event_that_is_late_puts_those_out_who_came_after_it() {
        let crowded = [session("a1", 1), session("b1", 2), session("c1", 3), session("d1", 4)];

        assert_eq!(excess(&crowded, "a1"), ["c1", "d1"]);
        assert_eq!(excess(&crowded, "c1"), ["c1", "d1"]);
        assert_eq!(excess(&crowded, "d1"), ["d1"], "c's own event is still to come");
    }

    #[test]
    fn of_those_who_came_at_one_moment_the_same_ones_stay_whoever_looks() {
        let crowded = [session("a1", 1), session("b1", 1), session("c1", 1)];

        assert_eq!(excess(&crowded, "c1"), ["c1"]);
        assert_eq!(excess(&crowded, "b1"), ["c1"]);
    }

    #[test]
    fn a_further_session_of_who_was_there_and_one_that_has_left_make_nobody_one_too_many() {
        let crowded = [session("a1", 1), session("b1", 2), session("c1", 3), session("a2", 4)];

        assert_eq!(excess(&crowded, "a2"), [""; 0]);
        assert_eq!(excess(&crowded, "d1"), [""; 0]);
    }
}
