//! Presence: who is in a stream's room, one record a session of the SFU (stream API, section 6).

use serde::{Deserialize, Serialize};

use super::stream::{Stream, UserId};
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
