//! Chat as it is kept (stream API, sections 8 and 13).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stream::{StreamId, UserId};
use crate::clock::Timestamp;

/// Who writes in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatRole {
    Owner,
    Admin,
    User,
    Guest,
}

/// A message, as clients get it; the two fields of the store are left out there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatMessage {
    /// A ULID.
    pub id: String,
    /// Counts up by one in its stream.
    pub seq: i64,
    pub text: String,
    pub user_id: UserId,
    pub name: String,
    pub role: ChatRole,
    pub sent_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
}

/// A message with its stream, and whether it may still be shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredMessage {
    pub stream_id: StreamId,
    #[serde(flatten)]
    pub message: ChatMessage,
    /// Who deleted it; hidden from clients, kept for review.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_by: Option<UserId>,
}

/// What happens to words that are filtered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WordFilter {
    #[default]
    Off,
    Mask,
    Reject,
}

/// The owner's rules of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatSettings {
    pub enabled: bool,
    /// 0 to 120.
    pub slow_mode_seconds: u32,
    /// In characters, 1 to 500.
    pub max_length: u32,
    pub links_allowed: bool,
    pub emoji_only: bool,
    pub filter: WordFilter,
}

impl Default for ChatSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            slow_mode_seconds: 0,
            max_length: 500,
            links_allowed: true,
            emoji_only: false,
            filter: WordFilter::Off,
        }
    }
}

/// A user who may read a chat but not write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mute {
    pub user_id: UserId,
    pub until: Timestamp,
}

/// Which messages of a stream: strictly before or after a number, in rising order either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatRange {
    /// The last ones.
    Newest,
    /// The last ones below that number.
    Before(i64),
    /// The first ones above that number.
    After(i64),
}

/// Sums of a stream's chat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatTotals {
    /// Hidden ones included.
    pub messages: u64,
    pub chatters: u64,
    pub reactions: BTreeMap<String, u64>,
    /// The highest number reserved; 0 before the first.
    pub last_seq: i64,
}

/// What one node tells the others of a chat. State of the stream itself needs no note: every node watches that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ChatNote {
    Message { message: ChatMessage },
    Deleted { id: String, seq: i64 },
    Cleared { user_id: UserId },
    Reactions { counts: BTreeMap<String, u64> },
}

/// A [`ChatNote`] on its way between nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relayed {
    /// A ULID: notes may be read twice, and are told apart by it.
    pub id: String,
    pub node: String,
    pub stream_id: StreamId,
    pub at: Timestamp,
    pub note: ChatNote,
}
