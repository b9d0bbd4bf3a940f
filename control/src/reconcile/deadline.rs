//! Ends by time-out: streams that never became live, whose owner is lost, or that are too long. Also streams of banned
//! owners.

use std::time::Duration;

use super::Reconciler;
use crate::clock::Timestamp;
use crate::lifecycle::Counters;
use crate::rooms::is_owners;
use crate::store::StoreError;
use crate::store::stream::{EndReason, Stream, StreamId, StreamState};

/// An end that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DueEnd {
    from: &'static [StreamState],
    reason: EndReason,
}

impl Reconciler {
    pub(super) fn due_end(&self, stream: &Stream, now: Timestamp) -> Option<DueEnd> {
        let config = &self.0.config;
        let over = |since: Timestamp, seconds: u32| since.plus(Duration::from_secs(seconds.into())) <= now;
        // A time far ahead was noted by a clock that was wrong. The time-out then runs from when this was first seen.
        let since = match stream.state_since.is_far_ahead(now) {
            true => self.0.agenda.seen_ahead(stream.id, stream.state_since, now),
            false => stream.state_since,
        };
        let waited = |seconds: u32| over(since, seconds);
        if self.0.cache.ban(&stream.owner_id, now).is_some() {
            return Some(DueEnd { from: &StreamState::LIVE, reason: EndReason::Banned });
        }
        let started_at = stream.started_at.unwrap_or(stream.created_at);
        if config.max_duration > 0 && over(started_at, config.max_duration) {
            return Some(DueEnd { from: &StreamState::LIVE, reason: EndReason::MaxDuration });
        }
        match stream.state {
            StreamState::Starting if waited(config.start_timeout) => {
                Some(DueEnd { from: &[StreamState::Starting], reason: EndReason::NeverStarted })
            }
            StreamState::Reconnecting if waited(config.reconnect_window) => {
                Some(DueEnd { from: &[StreamState::Reconnecting], reason: EndReason::PublisherTimeout })
            }
            StreamState::Starting
            | StreamState::Live
            | StreamState::Reconnecting
            | StreamState::Scheduled
            | StreamState::Ended
            | StreamState::Cancelled => None,
        }
    }

    /// Ends a stream whose time-out has passed, unless the store or the room shows that the owner is there.
    pub(super) async fn check_deadline(&self, id: StreamId) {
        let agenda = &self.0.agenda;
        if !agenda.store_is_away(self.now())
            && let Err(error) = self.end_if_due(id).await
        {
            agenda.store_failed(&error, self.now());
        }
        agenda.end_deadline(id);
    }

    async fn end_if_due(&self, id: StreamId) -> Result<(), StoreError> {
        let Some(stream) = self.0.store.stream(id).await? else { return Ok(()) };
        let stream = self.0.lifecycle.observe(stream);
        if !stream.is_live() {
            return Ok(());
        }
        let Some(mut due) = self.due_end(&stream, self.now()) else { return Ok(()) };
        if matches!(due.reason, EndReason::NeverStarted | EndReason::PublisherTimeout) {
            match self.0.viewers.sessions_in(&stream).await {
                Ok(Some((_, sessions))) => {
                    let owner = sessions.iter().find(|session| session.active && is_owners(&stream, session));
                    let there = owner.is_some_and(|owner| owner.publishes || stream.state == StreamState::Reconnecting);
                    if there {
                        Counters::add(&self.counters().reconciled_differences);
                        self.0.agenda.soon(id, self.now());
                        return self.0.lifecycle.turn(id, due.from, StreamState::Live).await.map(drop);
                    }
                }
                // A room that has been missing for long was lost. One that closed by itself has just gone.
                Ok(None) if due.reason == EndReason::PublisherTimeout && self.has_long_missed_room(id) => {
                    due.reason = EndReason::ServerLost;
                }
                Ok(None) => {}
                // It cannot be known whether the owner is back.
                Err(_) if due.reason == EndReason::PublisherTimeout => due.reason = EndReason::ServerLost,
                Err(_) => {}
            }
        }
        self.0.lifecycle.finish(id, due.from, due.reason, None).await.map(drop)
    }
}
