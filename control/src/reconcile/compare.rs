//! Compares a live stream with its room, and corrects the records of sessions, the state, and who is inside.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::{Reconciler, jittered};
use crate::agenda::Found;
use crate::clock::Timestamp;
use crate::lifecycle::Counters;
use crate::rooms::{RoomsError, Session, is_owners, presence_of};
use crate::store::StoreError;
use crate::store::presence::Presence;
use crate::store::stream::{EndReason, Stream, StreamId, StreamState};

/// A session younger than this is not corrected: its event may still be on the way.
const YOUNG: Duration = Duration::from_secs(10);

/// How long a room may be missing before its stream ends.
const MISSING_MAX: Duration = Duration::from_secs(30);

/// Pause after which a media server that did not answer is asked again.
const SFU_RETRY: Duration = Duration::from_secs(5);

/// Pause after which a store that did not answer is asked again.
const STORE_RETRY: Duration = Duration::from_secs(3);

/// Failures in a row after which a media server counts as away.
const SFU_FAILURES_MAX: u32 = 2;

/// Records that are written concurrently.
const WRITES_AT_ONCE: usize = 32;

/// Pause before a room that another process may host is looked for again. By then it is known whether that process has
/// ended.
const ELSEWHERE_RETRY: Duration = Duration::from_secs(8);

/// Why a comparison did not work.
enum NotCompared {
    Store(StoreError),
    Rooms(RoomsError),
}

impl From<StoreError> for NotCompared {
    fn from(error: StoreError) -> Self {
        NotCompared::Store(error)
    }
}

impl Reconciler {
    /// Compares a live stream with its room, and schedules the next comparison.
    pub(super) async fn reconcile(&self, id: StreamId) {
        let agenda = &self.0.agenda;
        let Some(stream) = self.0.cache.stream(id).filter(|stream| stream.is_live()) else {
            agenda.forget(id);
            return;
        };
        if agenda.store_is_away(self.now()) {
            agenda.again(id, self.now().plus(jittered(STORE_RETRY)));
            return;
        }
        let counters = self.counters();
        let (counter, pause) = match self.compare(&stream).await {
            Ok(pause) => (&counters.reconciliations, pause),
            Err(NotCompared::Store(error)) => {
                agenda.store_failed(&error, self.now());
                (&counters.reconciliations_failed, jittered(STORE_RETRY))
            }
            Err(NotCompared::Rooms(error)) => {
                (&counters.reconciliations_failed, self.sfu_failed(&stream, &error).await)
            }
        };
        agenda.again(id, self.now().plus(pause));
        Counters::add(counter);
    }

    /// Returns the pause before the next comparison.
    async fn compare(&self, stream: &Arc<Stream>) -> Result<Duration, NotCompared> {
        // Records are read before the room: a session that has a record and is not in the room has left, as it cannot
        // be one that is still to join.
        let open = self.0.store.presence_open(stream.id).await?;
        if self.0.store.is_shared()
            && let Some(newest) = self.0.store.stream(stream.id).await?
        {
            // The poll may have missed a change, as clocks of nodes differ.
            self.0.lifecycle.observe(newest);
        }
        match self.0.viewers.sessions_in(stream).await.map_err(NotCompared::Rooms)? {
            Some((room_sid, sessions)) => Ok(self.compare_with(stream, &open, &room_sid, &sessions).await?),
            None => Ok(self.room_missing(stream, &open).await?),
        }
    }

    async fn compare_with(
        &self,
        stream: &Arc<Stream>,
        open: &[Presence],
        room_sid: &str,
        sessions: &[Session],
    ) -> Result<Duration, StoreError> {
        let now = self.now();
        let found = self.0.agenda.found(stream.id);
        self.lease_room(stream).await?;
        if stream.room_sid.as_deref() != Some(room_sid) {
            let outcome = self.0.store.note_room(stream.id, room_sid, now).await?;
            self.0.lifecycle.observe(outcome.into_stream());
        }
        let young = |joined_at: Timestamp| is_young(joined_at, now);
        let active: Vec<&Session> = sessions.iter().filter(|session| session.active).collect();
        let inside: HashSet<&str> = active.iter().map(|session| session.sid.as_str()).collect();
        let recorded: HashSet<&str> = open.iter().map(|presence| presence.sid.as_str()).collect();
        let (gone_young, gone): (Vec<&Presence>, Vec<&Presence>) = open
            .iter()
            .filter(|presence| !inside.contains(presence.sid.as_str()))
            .partition(|presence| young(presence.joined_at));
        let (new_young, new): (Vec<&Session>, Vec<&Session>) = active
            .iter()
            .copied()
            .filter(|session| !recorded.contains(session.sid.as_str()))
            .partition(|session| young(session.joined_at));
        self.close(stream, &gone, found).await?;
        self.open(stream, &new).await?;
        let owner_is_young = gone_young.iter().any(|presence| presence.identity == stream.owner_id.as_str());
        self.correct_state(stream, &active, owner_is_young).await?;
        self.0.viewers.remove_unwanted(stream, sessions);
        self.0.cache.places().correct(stream, sessions, Instant::now());
        self.0.agenda.note(stream.id, Found { compared_at: Some(now), ..Found::default() });
        match gone_young.is_empty() && new_young.is_empty() {
            true => Ok(jittered(self.0.config.reconcile_interval())),
            false => Ok((YOUNG + Duration::from_secs(1)).min(self.0.config.reconcile_interval())),
        }
    }

    /// Closes the records of sessions that have left, at the time at which they were last seen.
    async fn close(&self, stream: &Stream, gone: &[&Presence], found: Found) -> Result<(), StoreError> {
        // Without an earlier comparison by this process, they were last seen when the stream last changed.
        let seen_at = found.compared_at.unwrap_or(stream.updated_at).min(self.now());
        stream::iter(gone.iter().copied())
            .map(Ok)
            .try_for_each_concurrent(WRITES_AT_ONCE, |presence| async move {
                let change = self.0.store.presence_leave(stream.id, presence, seen_at.max(presence.joined_at)).await?;
                self.count_difference(change.changed);
                self.0.lifecycle.observe(change.stream);
                Ok(())
            })
            .await
    }

    /// Opens records for sessions that have none.
    async fn open(&self, stream: &Stream, new: &[&Session]) -> Result<(), StoreError> {
        stream::iter(new.iter().copied())
            .map(Ok)
            .try_for_each_concurrent(WRITES_AT_ONCE, |session| async move {
                let change = self.0.store.presence_join(stream.id, &presence_of(stream, session)).await?;
                self.count_difference(change.changed);
                self.0.lifecycle.observe(change.stream);
                Ok(())
            })
            .await
    }

    async fn correct_state(
        &self,
        stream: &Stream,
        active: &[&Session],
        owner_is_young: bool,
    ) -> Result<(), StoreError> {
        let state = self.0.cache.stream(stream.id).map_or(stream.state, |stream| stream.state);
        let owner = active.iter().find(|session| is_owners(stream, session));
        let to = match (state, owner) {
            (StreamState::Starting, Some(owner)) if owner.publishes => StreamState::Live,
            (StreamState::Reconnecting, Some(_)) => StreamState::Live,
            (StreamState::Live, None) if !owner_is_young => StreamState::Reconnecting,
            (StreamState::Starting | StreamState::Live | StreamState::Reconnecting, _)
            | (StreamState::Scheduled | StreamState::Ended | StreamState::Cancelled, _) => return Ok(()),
        };
        let changed = self.0.lifecycle.turn(stream.id, &[state], to).await?;
        self.count_difference(changed);
        Ok(())
    }

    fn count_difference(&self, differs: bool) {
        if differs {
            Counters::add(&self.counters().reconciled_differences);
        }
    }

    /// Renews this node's lease of the room, if each node has its own rooms.
    async fn lease_room(&self, stream: &Stream) -> Result<(), StoreError> {
        if self.0.rooms.is_local() { self.0.cluster.lease_room(stream.id).await } else { Ok(()) }
    }

    /// Whether another node hosts the room, so that it is not missing. A room that this node had seen before was its
    /// own, and is gone.
    async fn is_hosted_elsewhere(&self, stream: &Stream) -> Result<bool, StoreError> {
        let was_here = self.0.agenda.found(stream.id).compared_at.is_some();
        if was_here || !self.0.rooms.is_local() {
            return Ok(false);
        }
        self.0.cluster.is_hosted_elsewhere(stream.id).await
    }

    /// Returns the pause before the next comparison.
    async fn room_missing(&self, stream: &Arc<Stream>, open: &[Presence]) -> Result<Duration, StoreError> {
        if self.is_hosted_elsewhere(stream).await? {
            return Ok(ELSEWHERE_RETRY.min(self.0.config.reconcile_interval()));
        }
        let (id, now) = (stream.id, self.now());
        let found = self.0.agenda.found(id);
        let since = found.missing_since.unwrap_or(now).min(now);
        let patience = self.patience_with_missing_rooms();
        if since.plus(patience) <= now {
            self.0.lifecycle.finish(id, &StreamState::LIVE, EndReason::ServerLost, None).await?;
            return Ok(self.0.config.reconcile_interval());
        }
        let gone: Vec<&Presence> = open.iter().filter(|presence| !is_young(presence.joined_at, now)).collect();
        self.close(stream, &gone, found).await?;
        let changed = self.0.lifecycle.turn(id, &[StreamState::Live], StreamState::Reconnecting).await?;
        self.count_difference(changed);
        let found = Found { missing_since: Some(since), sfu_failures: 0, ..found };
        self.0.agenda.note(id, found);
        Ok(since.plus(patience).since(now).min(self.0.config.reconcile_interval()))
    }

    pub(super) fn has_long_missed_room(&self, id: StreamId) -> bool {
        self.0.agenda.found(id).missing_since.is_some_and(|since| since.plus(MISSING_MAX) <= self.now())
    }

    /// How long a room may be missing. A media server that was restarted has no rooms, and owners have as long to come
    /// back as after any other loss (stream API, section 6, rule 7).
    fn patience_with_missing_rooms(&self) -> Duration {
        MISSING_MAX.max(Duration::from_secs(self.0.config.reconnect_window.into()))
    }

    /// Returns the pause before the next comparison. The time that the owner has to come back begins once the media
    /// server counts as away.
    async fn sfu_failed(&self, stream: &Stream, error: &RoomsError) -> Duration {
        let agenda = &self.0.agenda;
        let found = agenda.found(stream.id);
        let found = Found { sfu_failures: found.sfu_failures.saturating_add(1), ..found };
        agenda.note(stream.id, found);
        if found.sfu_failures == SFU_FAILURES_MAX {
            tracing::warn!(stream = %stream.id, %error, "a stream's room cannot be asked; it waits for its owner");
        }
        if found.sfu_failures >= SFU_FAILURES_MAX {
            let turned = self.0.lifecycle.turn(stream.id, &[StreamState::Live], StreamState::Reconnecting).await;
            if let Err(error) = turned {
                agenda.store_failed(&error, self.now());
            }
        }
        jittered(SFU_RETRY)
    }
}

/// Whether the event of its join or departure may still be on the way.
fn is_young(joined_at: Timestamp, now: Timestamp) -> bool {
    joined_at.plus(YOUNG) > now && !joined_at.is_far_ahead(now)
}
