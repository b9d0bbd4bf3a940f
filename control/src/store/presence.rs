//! Presence: who is in a stream's room, one record a session of the SFU (stream API, section 6).

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::Result;
use super::stream::{Stream, StreamId, UserId};
use crate::clock::Timestamp;

/// One session, keyed by stream and `sid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    /// The SFU's id of the session (`PA_…`).
    pub sid: String,
    /// In the room.
    pub identity: String,
    pub user_id: UserId,
    /// Whether the session is a viewer's: neither owner, publisher, agent, recorder nor hidden.
    pub counts: bool,
    pub joined_at: Timestamp,
    /// Absent while the session is open.
    pub left_at: Option<Timestamp>,
}

/// What a change of presence did to its stream.
#[derive(Debug, Clone, PartialEq)]
pub struct PresenceChange {
    /// With `viewers`, `peakViewers` and `uniqueViewers` as they are now.
    pub stream: Stream,
    /// False: a repeat, nothing was written.
    pub changed: bool,
}

/// Who is in the rooms of streams.
///
/// See [`Store`](super::Store) for what holds of all operations.
#[async_trait]
pub trait PresenceStore: Send + Sync + 'static {
    /// Creates the session's record unless it exists, and counts anew (viewers: distinct users with an open session
    /// that counts; peak; unique: distinct users that ever had one that counts). Numbers of a stream that is not live
    /// stay; its records are still written. When they change, `updatedAt` is the store's own time, since a session's
    /// times may lie back.
    async fn presence_join(&self, id: StreamId, session: &Presence) -> Result<PresenceChange>;

    /// Sets `left_at` of the record unless it is set, creating the record if need be.
    async fn presence_leave(&self, id: StreamId, session: &Presence, at: Timestamp) -> Result<PresenceChange>;

    /// Sessions without `left_at`, in the order of joining.
    async fn presence_open(&self, id: StreamId) -> Result<Vec<Presence>>;

    /// Whether the user has a session without `left_at` that counts.
    async fn presence_of(&self, id: StreamId, user: &UserId) -> Result<bool>;

    /// All sessions in the order of joining, at most `limit`.
    async fn presence_all(&self, id: StreamId, limit: usize) -> Result<Vec<Presence>>;
}
