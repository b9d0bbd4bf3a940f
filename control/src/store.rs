//! What is kept, and the operations on it, named by what they mean.
//!
//! One trait, two stores: [`embedded`] (SQLite, the default) and [`mongo`]. Both pass one suite
//! (`control/tests/store.rs`), so that a rule holds in both or in none. Every change of a stream is one conditional
//! write that raises its `rev`; no operation needs a transaction over several documents. A malformed id is simply not
//! found.

pub mod chat;
pub mod directory;
pub mod embedded;
pub mod error;
pub mod interchange;
pub mod moderation;
pub mod mongo;
pub mod nodes;
pub mod presence;
pub mod requests;
pub mod stream;
pub mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use chat::{ChatMessage, ChatRange, ChatSettings, ChatTotals, Mute, Relayed, StoredMessage};
use moderation::{AuditEntry, Ban, Filed, Report, ReportStatus};
use presence::{Presence, PresenceChange};
use stream::{
    Block, Edit, Outcome, PageEnd, StartScheduled, Stream, StreamFilter, StreamId, StreamOrder, StreamState,
    Transition, UserId,
};

pub use error::{Result, StoreError};
pub(crate) use nodes::{CLOCKS_APART, RELAYED_KEPT, SIGNS_MAX};
pub use nodes::{NODE_GONE, NodeSign};
pub use requests::{CLAIM_MAX, Claimed, DAY, IdempotencyKey, Taken};
pub use stream::CreateError;

/// A document of any collection, as `onair migrate` carries it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Exported {
    /// Sorts documents of one collection; to go on after it.
    pub key: String,
    pub document: serde_json::Value,
}

/// Collections of `onair migrate`, in the order in which they are copied.
pub const COLLECTIONS: [&str; 8] =
    ["livestreams", "presence", "chat_messages", "chat_totals", "reports", "bans", "owner_blocks", "audit"];

/// Everything that outlives the process.
///
/// Operations are atomic each, durable when they return, and may be repeated after an error.
///
/// A stream's `rev` and `updatedAt` rise if anything else of it really differs, and only then: an operation that would
/// write what is there already is [`Outcome::Unchanged`]. `updatedAt` never falls. What concerns a stream that is not
/// there is [`StoreError::NotFound`], unless said otherwise.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // ---- streams

    /// Inserts as given. A live stream competes for its owner, any with a room name for that name. Nothing happens if
    /// the id is there: that is a repeat.
    async fn create(&self, stream: &Stream) -> std::result::Result<(), CreateError>;

    async fn stream(&self, id: StreamId) -> Result<Option<Stream>>;

    async fn stream_of_room(&self, room_name: &str) -> Result<Option<Stream>>;

    async fn live_stream_of(&self, owner: &UserId) -> Result<Option<Stream>>;

    /// The stream of `owner` that ended last, whatever the reason but `never_started`: for the cool-down.
    async fn last_ended_of(&self, owner: &UserId) -> Result<Option<Stream>>;

    /// A page of at most `limit` streams after `after`.
    async fn streams(
        &self,
        filter: &StreamFilter,
        order: StreamOrder,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Stream>>;

    /// Scheduled streams of `owner` that are still to come.
    async fn count_scheduled(&self, owner: &UserId) -> Result<u32>;

    /// Streams with `updatedAt` at or after that time, oldest change first, at most `limit`. How a node hears of what
    /// others changed.
    async fn streams_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Stream>>;

    /// Sets state, `stateSince`, `updatedAt`; at the end also `endedAt`, `endReason` and `viewers = 0`. Unchanged if
    /// the state is final, whatever `from` says, or is the wanted one already.
    async fn transition(&self, id: StreamId, transition: &Transition) -> Result<Outcome>;

    /// `scheduled` → `starting`, with what a start adds; `at` becomes `startedAt`.
    async fn start_scheduled(&self, id: StreamId, start: &StartScheduled) -> std::result::Result<Stream, CreateError>;

    /// Notes the SFU's id of the room of a live stream. Another one replaces it: an SFU that started again made the
    /// room anew. Unchanged if it is noted already or the stream is not live.
    async fn note_room(&self, id: StreamId, room_sid: &str, at: Timestamp) -> Result<Outcome>;

    /// Changes what is shown, in one of the states `from`.
    async fn edit(&self, id: StreamId, edit: &Edit, from: &[StreamState], at: Timestamp) -> Result<Outcome>;

    async fn set_flagged(&self, id: StreamId, at: Timestamp) -> Result<Outcome>;

    /// Unchanged if the user is blocked already: the first entry stays.
    async fn block(&self, id: StreamId, block: &Block) -> Result<Outcome>;

    async fn unblock(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome>;

    // ---- the owners' own lists

    /// False: it was there.
    async fn owner_block(&self, owner: &UserId, block: &Block) -> Result<bool>;

    async fn owner_unblock(&self, owner: &UserId, user: &UserId) -> Result<bool>;

    /// Sorted by user, at most `limit`.
    async fn owner_blocks(&self, owner: &UserId, limit: usize) -> Result<Vec<Block>>;

    // ---- presence

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

    // ---- webhooks

    /// Whether an event was noted as handled within the last day.
    async fn webhook_handled(&self, event_id: &str, now: Timestamp) -> Result<bool>;

    async fn note_webhook(&self, event_id: &str, at: Timestamp) -> Result<()>;

    // ---- chat

    /// Reserves `count` numbers for messages of a stream; the first of them. No two calls get the same. The numbers are
    /// above `at_least` as well.
    async fn chat_reserve(&self, id: StreamId, count: u32, at_least: i64) -> Result<i64>;

    /// Stores messages and adds to the totals. A message whose id is there already is left as it is and counts once.
    async fn chat_append(&self, messages: &[StoredMessage]) -> Result<()>;

    /// At most `limit` messages that are not hidden, rising.
    async fn chat_messages(&self, id: StreamId, range: ChatRange, limit: usize) -> Result<Vec<ChatMessage>>;

    /// Also hidden ones.
    async fn chat_message(&self, id: StreamId, message_id: &str) -> Result<Option<StoredMessage>>;

    /// False: it was hidden already. [`StoreError::NotFound`] if there is no such message.
    async fn chat_hide(&self, id: StreamId, message_id: &str, by: &UserId) -> Result<bool>;

    /// Hides all messages of a user; how many.
    async fn chat_hide_user(&self, id: StreamId, user: &UserId, by: &UserId) -> Result<u64>;

    async fn chat_add_reactions(&self, id: StreamId, counts: &std::collections::BTreeMap<String, u64>) -> Result<()>;

    async fn chat_totals(&self, id: StreamId) -> Result<ChatTotals>;

    /// Keeps the newest `keep` messages of a stream, hidden ones included; how many are gone. The totals stay.
    async fn chat_trim(&self, id: StreamId, keep: usize) -> Result<u64>;

    async fn set_chat_settings(&self, id: StreamId, settings: &ChatSettings, at: Timestamp) -> Result<Outcome>;

    /// Replaces the mute of the same user.
    async fn mute(&self, id: StreamId, mute: &Mute, at: Timestamp) -> Result<Outcome>;

    async fn unmute(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome>;

    async fn pin(&self, id: StreamId, message: Option<&ChatMessage>, at: Timestamp) -> Result<Outcome>;

    // ---- between nodes

    /// Whether other processes can use this store at the same time.
    fn is_shared(&self) -> bool;

    async fn relay(&self, notes: &[Relayed]) -> Result<()>;

    /// Notes of these nodes, of each with `at` at or after the time beside it, oldest first, at most `limit`.
    async fn relayed_since(&self, since: &[NodeSign], limit: usize) -> Result<Vec<Relayed>>;

    /// Says that this node is there; what others said last, at most a thousand.
    async fn announce_node(&self, node: &str, now: Timestamp) -> Result<Vec<NodeSign>>;

    /// Whether a server is at work on this store. It takes up to [`NODE_GONE`] to know that one is not any more. A
    /// store of one process is kept from others by a lock.
    async fn is_served(&self) -> Result<bool> {
        Ok(false)
    }

    // ---- bans, reports, audit

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

    /// Without `note`, the note stays. `by` is kept while the report is resolved. A report that has this status and note
    /// stays as it is, with its `updated_at`; so does one that is to be opened again while the reporter has another open
    /// one for the same target.
    async fn update_report(
        &self,
        id: &str,
        status: ReportStatus,
        note: Option<&str>,
        by: &UserId,
        at: Timestamp,
    ) -> Result<Report>;

    /// An entry that is there already is left as it is.
    async fn append_audit(&self, entry: &AuditEntry) -> Result<()>;

    /// Newest first.
    async fn audit(&self, stream: Option<StreamId>, after: Option<&PageEnd>, limit: usize) -> Result<Vec<AuditEntry>>;

    // ---- requests

    /// `body` is a digest of the request. A claim that was never finished is given anew after a minute.
    async fn idempotency_claim(&self, key: &IdempotencyKey, body: &str, now: Timestamp) -> Result<Claimed>;

    async fn idempotency_finish(&self, key: &IdempotencyKey, answer: &serde_json::Value) -> Result<()>;

    /// The request failed: the next one with this key is carried out.
    async fn idempotency_release(&self, key: &IdempotencyKey) -> Result<()>;

    /// Takes one of `max` units within the last `window` (a sliding log of at most `max` times). A unit taken at `t` is
    /// free again at `t + window`.
    async fn limit_take(&self, key: &str, max: u32, window: Duration, now: Timestamp) -> Result<Taken>;

    /// Gives one unit taken at `taken` back, even if several were.
    async fn limit_give_back(&self, key: &str, taken: Timestamp) -> Result<()>;

    // ---- upkeep

    /// Whether the store answers.
    async fn ping(&self) -> Result<()>;

    /// The server stops: what is stored is brought into the form in which people copy it.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Removes what is past its time: idempotency keys, limits, webhook ids, relayed notes, chat of streams that ended
    /// longer than `chat_retention` ago. A store with expiry of its own may do nothing.
    async fn expire(&self, now: Timestamp, chat_retention: Duration) -> Result<()>;

    /// Documents of one of [`COLLECTIONS`] in the order of their keys, in the forms of [`interchange`]. Keys mean
    /// something to the store that gave them only.
    async fn export(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Vec<Exported>>;

    /// Writes exported documents; those that are there already are replaced.
    async fn import(&self, collection: &str, documents: &[Exported]) -> Result<()>;
}

/// The store that the server uses.
pub type SharedStore = Arc<dyn Store>;
