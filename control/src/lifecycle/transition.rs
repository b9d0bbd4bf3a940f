//! Changes of a stream's state, its end among them. Each is one conditional write. Of two ends the first one counts,
//! and is the answer to both.
//!
//! An end by a user takes effect on this node even if the store does not take it ([`Lifecycle::hold`]).

use std::sync::Arc;

use super::Lifecycle;
use super::unstored::Unstored;
use crate::problem::{Code, Problem};
use crate::store::StoreError;
use crate::store::stream::{EndReason, Outcome, Stream, StreamId, StreamState, Transition, UserId};
use crate::stream_cache::Decision;

#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub stream: Arc<Stream>,
    pub already_ended: bool,
    /// The stream ended on this node alone, as the store did not take the end.
    pub unstored: Option<Unstored>,
}

impl Ended {
    /// # Errors
    /// The end is not stored; says why.
    pub(crate) fn stored(self) -> Result<Self, Problem> {
        match self.unstored {
            None => Ok(self),
            Some(unstored) => Err(unstored.problem),
        }
    }
}

impl Lifecycle {
    /// Ends the live stream of a banned user, if there is one.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(super) async fn end_for_ban(&self, user: &UserId) -> Result<(), Problem> {
        if let Some(stream) = self.newest_live_of(user).await? {
            self.end_started(stream, EndReason::Banned).await?.stored()?;
        }
        Ok(())
    }

    /// Ends a stream by a decision of a user or an administrator.
    ///
    /// # Errors
    /// `conflict` for one that was not started, `store_unavailable`.
    pub(crate) async fn end_started(&self, stream: Stream, reason: EndReason) -> Result<Ended, Problem> {
        if stream.state == StreamState::Scheduled {
            self.observe(stream);
            return Err(Problem::new(Code::Conflict, "This stream has not started; cancel it with DELETE instead."));
        }
        let (id, held) = (stream.id, self.0.cache.held_end(stream.id));
        let was_held = held.is_some();
        let end = held.unwrap_or_else(|| self.end_now(&StreamState::LIVE, reason, None));
        match self.store_end(id, &end).await {
            Ok(outcome) => {
                let already_ended = was_held || !outcome.changed();
                // The answer is the copy with the end, not a later one.
                let stream = self.observe(outcome.into_stream());
                Ok(Ended { stream, already_ended, unstored: None })
            }
            Err(error) => {
                self.observe(stream);
                let unstored = self.hold(Decision::End(id, end), error)?;
                let stream = self.0.cache.stream(id).ok_or_else(Problem::stream_not_found)?;
                Ok(Ended { stream, already_ended: was_held, unstored: Some(unstored) })
            }
        }
    }

    fn end_now(&self, from: &[StreamState], reason: EndReason, room_sid: Option<String>) -> Transition {
        Transition { from: from.to_vec(), to: StreamState::Ended, at: self.now(), end_reason: Some(reason), room_sid }
    }

    /// Ends a stream if it is in one of these states and, if `room_sid` is given, has that room.
    pub(crate) async fn finish(
        &self,
        id: StreamId,
        from: &[StreamState],
        reason: EndReason,
        room_sid: Option<String>,
    ) -> Result<Outcome, StoreError> {
        // An end by a user that is not stored yet was first, and its reason counts.
        let held = self.0.cache.held_end(id);
        self.store_end(id, &held.unwrap_or_else(|| self.end_now(from, reason, room_sid))).await
    }

    pub(super) async fn store_end(&self, id: StreamId, end: &Transition) -> Result<Outcome, StoreError> {
        let outcome = self.0.store.transition(id, end).await?;
        if outcome.changed()
            && let Some(reason) = end.end_reason
        {
            self.0.counters.count_end(reason);
            let Stream { owner_id, room_name, .. } = outcome.stream();
            let (owner, room) = (owner_id.as_str(), room_name.as_str());
            tracing::info!(stream = %id, owner, room, reason = reason.name(), "stream ended");
        }
        self.observe(outcome.stream().clone());
        Ok(outcome)
    }

    /// Changes the state of a stream to another live one, if it is in one of `from`. Returns whether it did.
    pub(crate) async fn turn(&self, id: StreamId, from: &[StreamState], to: StreamState) -> Result<bool, StoreError> {
        let transition = Transition { from: from.to_vec(), to, at: self.now(), end_reason: None, room_sid: None };
        let outcome = self.0.store.transition(id, &transition).await?;
        let changed = outcome.changed();
        if changed {
            let Stream { owner_id, room_name, .. } = outcome.stream();
            let (owner, room) = (owner_id.as_str(), room_name.as_str());
            tracing::info!(stream = %id, owner, room, state = to.name(), "stream changed");
        }
        self.observe(outcome.into_stream());
        Ok(changed)
    }
}
