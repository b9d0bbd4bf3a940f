//! Documents as `onair migrate` carries them between stores, where they are not simply the record.
//!
//! `livestreams` are [`Stream`](super::stream::Stream)s, `chat_messages`
//! [`StoredMessage`](super::chat::StoredMessage)s, `reports` [`Report`](super::moderation::Report)s, `bans`
//! [`Ban`](super::moderation::Ban)s, `audit` [`AuditEntry`](super::moderation::AuditEntry)s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chat::ChatTotals;
use super::presence::Presence;
use super::stream::{Block, StreamId, UserId};

/// A document of `presence`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamPresence {
    pub stream_id: StreamId,
    #[serde(flatten)]
    pub session: Presence,
}

/// A document of `owner_blocks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerBlock {
    pub owner_id: UserId,
    #[serde(flatten)]
    pub block: Block,
}

/// A document of `chat_totals`: [`ChatTotals`], with the users themselves, so that the other store counts on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamTotals {
    pub stream_id: StreamId,
    pub messages: u64,
    /// Sorted.
    pub chatters: Vec<UserId>,
    pub reactions: BTreeMap<String, u64>,
    pub last_seq: i64,
}

impl StreamTotals {
    pub fn new(stream_id: StreamId, totals: ChatTotals, chatters: Vec<UserId>) -> Self {
        Self { stream_id, messages: totals.messages, chatters, reactions: totals.reactions, last_seq: totals.last_seq }
    }
}
