//! Bans, reports and the audit log as they are kept (stream API, sections 2 and 7).

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::Result;
use super::stream::{Block, Outcome, PageEnd, StreamId, UserId};
use crate::clock::Timestamp;

/// A user kept from the whole service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ban {
    pub user_id: UserId,
    pub reason: String,
    /// Absent: for good.
    pub until: Option<Timestamp>,
    pub by: UserId,
    pub at: Timestamp,
    /// A lifted ban stays, so that other nodes see that it was lifted.
    pub lifted_at: Option<Timestamp>,
}

impl Ban {
    pub fn holds(&self, now: Timestamp) -> bool {
        self.lifted_at.is_none() && self.until.is_none_or(|until| now < until)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportReason {
    Spam,
    Nudity,
    Violence,
    Harassment,
    SelfHarm,
    AnimalAbuse,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportStatus {
    Open,
    Resolved,
}

/// A report of abuse. Its target is the stream, or a message or a user in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// An ObjectId in hexadecimal.
    pub id: String,
    pub stream_id: StreamId,
    pub reporter: UserId,
    pub reason: ReportReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    pub status: ReportStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<UserId>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What [`ModerationStore::update_report`] has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewed {
    /// As it is now.
    pub report: Report,
    /// Whether it was otherwise before.
    pub changed: bool,
}

impl Report {
    /// Whether a review that says this would change nothing.
    pub(super) fn says(&self, status: ReportStatus, note: Option<&str>) -> bool {
        self.status == status && (note.is_none() || self.note.as_deref() == note)
    }
}

/// What became of a new report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// Of the one that is open now.
    pub id: String,
    /// The same reporter had one open for the same target.
    pub repeated: bool,
    /// Distinct reporters of the stream, whatever their reports' status.
    pub reporters: u32,
}

/// One line of the append-only log of what owners and administrators did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// An ObjectId in hexadecimal.
    pub id: String,
    pub at: Timestamp,
    pub actor: UserId,
    /// `stream.end`, `user.ban`, `chat.mute`, …
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<StreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Blocks, bans, reports and the audit log.
///
/// See [`Store`](super::Store) for what holds of all operations.
#[async_trait]
pub trait ModerationStore: Send + Sync + 'static {
    /// Unchanged if the user is blocked already: the first entry stays.
    async fn block(&self, id: StreamId, block: &Block) -> Result<Outcome>;

    async fn unblock(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome>;

    /// False: it was there.
    async fn owner_block(&self, owner: &UserId, block: &Block) -> Result<bool>;

    async fn owner_unblock(&self, owner: &UserId, user: &UserId) -> Result<bool>;

    /// Sorted by user, at most `limit`.
    async fn owner_blocks(&self, owner: &UserId, limit: usize) -> Result<Vec<Block>>;

    async fn set_ban(&self, ban: &Ban) -> Result<()>;

    /// False: there was none, or it was lifted.
    async fn lift_ban(&self, user: &UserId, at: Timestamp) -> Result<bool>;

    /// Also one that no longer holds.
    async fn ban(&self, user: &UserId) -> Result<Option<Ban>>;

    /// Bans set or lifted at or after that time.
    async fn bans_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Ban>>;

    async fn file_report(&self, report: &Report) -> Result<Filed>;

    /// The id of the open report of the same reporter for the same target, if there is one.
    async fn open_report(&self, like: &Report) -> Result<Option<String>>;

    /// Newest first.
    async fn reports(
        &self,
        status: Option<ReportStatus>,
        stream: Option<StreamId>,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Report>>;

    /// Without `note`, the note stays. `by` is kept while the report is resolved. A report that has this status and
    /// note stays as it is, with its `updated_at`; so does one that is to be opened again while the reporter has
    /// another open one for the same target.
    async fn update_report(
        &self,
        id: &str,
        status: ReportStatus,
        note: Option<&str>,
        by: &UserId,
        at: Timestamp,
    ) -> Result<Reviewed>;

    /// An entry that is there already is left as it is.
    async fn append_audit(&self, entry: &AuditEntry) -> Result<()>;

    /// Newest first.
    async fn audit(&self, stream: Option<StreamId>, after: Option<&PageEnd>, limit: usize) -> Result<Vec<AuditEntry>>;
}
