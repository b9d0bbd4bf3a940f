//! Chat as it is kept (stream API, sections 8 and 13).

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::Result;
use super::stream::{Outcome, StreamId, UserId};
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

/// Messages of chats, and what of a chat stands in its stream.
///
/// See [`Store`](super::Store) for what holds of all operations.
#[async_trait]
pub trait ChatStore: Send + Sync + 'static {
    /// Reserves `count` numbers for messages of a stream; the first of them. No two calls get the same. The numbers are
    /// above `at_least` as well.
    async fn chat_reserve(&self, id: StreamId, count: u32, at_least: i64) -> Result<i64>;

    /// Stores messages and adds to the totals. A message whose id is there already is left as it is and counts once.
    async fn chat_append(&self, messages: &[StoredMessage]) -> Result<()>;

    /// At most `limit` messages that are not hidden, rising.
    async fn chat_messages(&self, id: StreamId, range: ChatRange, limit: usize) -> Result<Vec<ChatMessage>>;

    /// Also hidden ones.
    async fn chat_message(&self, id: StreamId, message_id: &str) -> Result<Option<StoredMessage>>;

    /// False: it was hidden already. [`StoreError::NotFound`](super::StoreError::NotFound) if there is no such message.
    async fn chat_hide(&self, id: StreamId, message_id: &str, by: &UserId) -> Result<bool>;

    /// Hides all messages of a user; how many.
    async fn chat_hide_user(&self, id: StreamId, user: &UserId, by: &UserId) -> Result<u64>;

    async fn chat_add_reactions(&self, id: StreamId, counts: &BTreeMap<String, u64>) -> Result<()>;

    async fn chat_totals(&self, id: StreamId) -> Result<ChatTotals>;

    /// Keeps the newest `keep` messages of a stream, hidden ones included; how many are gone. The totals stay.
    async fn chat_trim(&self, id: StreamId, keep: usize) -> Result<u64>;

    async fn set_chat_settings(&self, id: StreamId, settings: &ChatSettings, at: Timestamp) -> Result<Outcome>;

    /// Replaces the mute of the same user.
    async fn mute(&self, id: StreamId, mute: &Mute, at: Timestamp) -> Result<Outcome>;

    async fn unmute(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome>;

    async fn pin(&self, id: StreamId, message: Option<&ChatMessage>, at: Timestamp) -> Result<Outcome>;
}
