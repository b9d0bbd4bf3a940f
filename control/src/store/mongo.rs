//! The store on MongoDB, for several nodes, and for databases of applications that were there before.
//!
//! Each change is one conditional write; no operation needs a transaction over several documents, so that a stand-alone
//! server will do. What is acknowledged is on the disks of a majority, unless the URI says otherwise. A database that
//! is away makes operations fail with [`StoreError::Unavailable`](super::StoreError::Unavailable) within seconds, and
//! they work again once it is back.

mod chat;
mod connection;
mod earlier;
mod fault;
mod indexes;
mod moderation;
mod nodes;
mod ownership;
mod page;
mod presence;
mod record;
mod requests;
mod stream_document;
mod streams;
mod transfer;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};

use super::chat::{ChatMessage, ChatRange, ChatSettings, ChatTotals, Mute, Relayed, StoredMessage};
use super::moderation::{AuditEntry, Ban, Filed, Report, ReportStatus};
use super::presence::{Presence, PresenceChange};
use super::stream::{
    Block, Edit, Outcome, PageEnd, StartScheduled, Stream, StreamFilter, StreamId, StreamOrder, StreamState,
    Transition, UserId,
};
use super::{Claimed, CreateError, Exported, IdempotencyKey, NodeSign, Result, Store, Taken};
use crate::clock::Timestamp;

/// The collections (stream API, section 13).
mod collections {
    /// Of the names of all collections but [`STREAMS`]: the database may be the application's own.
    pub const PREFIX: &str = "onair_";

    /// Shared with an application that keeps its streams there (docs/from-express.md).
    pub const STREAMS: &str = "livestreams";
    pub const PRESENCE: &str = "onair_presence";
    pub const WEBHOOKS: &str = "onair_webhook_events";
    pub const MESSAGES: &str = "onair_chat_messages";
    pub const TOTALS: &str = "onair_chat_totals";
    /// Who wrote in a chat and whose messages are removed.
    pub const CHATTERS: &str = "onair_chatters";
    pub const RELAY: &str = "onair_relay";
    pub const NODES: &str = "onair_nodes";
    pub const REPORTS: &str = "onair_reports";
    pub const BANS: &str = "onair_bans";
    pub const OWNER_BLOCKS: &str = "onair_owner_blocks";
    pub const AUDIT: &str = "onair_audit";
    pub const IDEMPOTENCY: &str = "onair_idempotency";
    pub const LIMITS: &str = "onair_limits";
    /// Which collections are Onair's.
    pub const META: &str = "onair_meta";

    /// Those that nobody else uses, [`META`] excepted.
    pub const OWN: [&str; 13] = [
        PRESENCE,
        WEBHOOKS,
        MESSAGES,
        TOTALS,
        CHATTERS,
        RELAY,
        NODES,
        REPORTS,
        BANS,
        OWNER_BLOCKS,
        AUDIT,
        IDEMPOTENCY,
        LIMITS,
    ];
}

/// A connected database.
#[derive(Debug)]
pub struct Mongo {
    database: Database,
    unique: indexes::Unique,
    recounts: presence::Recounts,
    /// Whether there were streams whose `createdAt` is no date when this process began: lists look for them then.
    has_undated: bool,
}

impl Mongo {
    /// Connects, takes over what earlier versions kept, and makes the indexes that are missing.
    ///
    /// The database is `database`, else the one of the URI, else `onair`. A server that is away is awaited for `time`.
    /// Afterwards it may come and go.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](super::StoreError::Unavailable) if no server answered in time, and
    /// [`StoreError::Failed`](super::StoreError::Failed) if the URI or the credentials are wrong, a collection with a
    /// name of ours is somebody else's, or an index cannot be made. The text says what to do, and holds no password.
    pub async fn connect(uri: &str, database: Option<&str>, time: Duration) -> Result<Mongo> {
        let mut mongo = Self::reach(uri, database, time).await?;
        mongo.prepare().await?;
        Ok(mongo)
    }

    /// As [`Mongo::connect`], but writes nothing: to read what is there, or to look before [`Mongo::prepare`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](super::StoreError::Unavailable) if no server answered in time, and
    /// [`StoreError::Failed`](super::StoreError::Failed) if the URI or the credentials are wrong.
    pub async fn reach(uri: &str, database: Option<&str>, time: Duration) -> Result<Mongo> {
        connection::reach(uri, database, time).await
    }

    /// # Errors
    /// [`StoreError::Failed`](super::StoreError::Failed) if no server of this version has kept anything here.
    pub async fn require_data(&self) -> Result<()> {
        ownership::require_settled(&self.database).await
    }

    fn of(&self, collection: &str) -> Collection<Document> {
        self.database.collection(collection)
    }

    /// Makes an empty document that a write did not find. Several may find it missing at the same moment; upserts that
    /// give the document back are not answered alike then by all servers.
    async fn make_missing(&self, collection: &str, id: Bson) -> Result<()> {
        match fault::run(self.of(collection).insert_one(doc! { "_id": id })).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.duplicate().is_some() => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }
}

#[async_trait]
impl Store for Mongo {
    async fn create(&self, stream: &Stream) -> std::result::Result<(), CreateError> {
        self.create_stream(stream).await
    }

    async fn stream(&self, id: StreamId) -> Result<Option<Stream>> {
        self.stream_by_id(id).await
    }

    async fn stream_of_room(&self, room_name: &str) -> Result<Option<Stream>> {
        self.stream_by_room(room_name).await
    }

    async fn live_stream_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        self.live_stream_by_owner(owner).await
    }

    async fn last_ended_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        self.last_ended_by_owner(owner).await
    }

    async fn streams(
        &self,
        filter: &StreamFilter,
        order: StreamOrder,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Stream>> {
        self.page_of_streams(filter, order, after, limit).await
    }

    async fn count_scheduled(&self, owner: &UserId) -> Result<u32> {
        self.count_scheduled_by(owner).await
    }

    async fn streams_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Stream>> {
        self.changed_since(since, limit).await
    }

    async fn transition(&self, id: StreamId, transition: &Transition) -> Result<Outcome> {
        self.change_state(id, transition).await
    }

    async fn start_scheduled(&self, id: StreamId, start: &StartScheduled) -> std::result::Result<Stream, CreateError> {
        self.start_one_scheduled(id, start).await
    }

    async fn note_room(&self, id: StreamId, room_sid: &str, at: Timestamp) -> Result<Outcome> {
        self.set_room_sid(id, room_sid, at).await
    }

    async fn edit(&self, id: StreamId, edit: &Edit, from: &[StreamState], at: Timestamp) -> Result<Outcome> {
        self.edit_stream(id, edit, from, at).await
    }

    async fn set_flagged(&self, id: StreamId, at: Timestamp) -> Result<Outcome> {
        self.flag(id, at).await
    }

    async fn block(&self, id: StreamId, block: &Block) -> Result<Outcome> {
        self.block_user(id, block).await
    }

    async fn unblock(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        self.unblock_user(id, user, at).await
    }

    async fn owner_block(&self, owner: &UserId, block: &Block) -> Result<bool> {
        self.add_owner_block(owner, block).await
    }

    async fn owner_unblock(&self, owner: &UserId, user: &UserId) -> Result<bool> {
        self.remove_owner_block(owner, user).await
    }

    async fn owner_blocks(&self, owner: &UserId, limit: usize) -> Result<Vec<Block>> {
        self.list_owner_blocks(owner, limit).await
    }

    async fn presence_join(&self, id: StreamId, session: &Presence) -> Result<PresenceChange> {
        self.session_joined(id, session).await
    }

    async fn presence_leave(&self, id: StreamId, session: &Presence, at: Timestamp) -> Result<PresenceChange> {
        self.session_left(id, session, at).await
    }

    async fn presence_open(&self, id: StreamId) -> Result<Vec<Presence>> {
        self.open_sessions(id).await
    }

    async fn presence_of(&self, id: StreamId, user: &UserId) -> Result<bool> {
        self.has_open_session(id, user).await
    }

    async fn presence_all(&self, id: StreamId, limit: usize) -> Result<Vec<Presence>> {
        self.all_sessions(id, limit).await
    }

    async fn webhook_handled(&self, event_id: &str, now: Timestamp) -> Result<bool> {
        self.is_webhook_noted(event_id, now).await
    }

    async fn note_webhook(&self, event_id: &str, at: Timestamp) -> Result<()> {
        self.write_webhook(event_id, at).await
    }

    async fn chat_reserve(&self, id: StreamId, count: u32, at_least: i64) -> Result<i64> {
        self.reserve(id, count, at_least).await
    }

    async fn chat_append(&self, messages: &[StoredMessage]) -> Result<()> {
        self.append(messages).await
    }

    async fn chat_messages(&self, id: StreamId, range: ChatRange, limit: usize) -> Result<Vec<ChatMessage>> {
        self.messages_in(id, range, limit).await
    }

    async fn chat_message(&self, id: StreamId, message_id: &str) -> Result<Option<StoredMessage>> {
        self.message(id, message_id).await
    }

    async fn chat_hide(&self, id: StreamId, message_id: &str, by: &UserId) -> Result<bool> {
        self.hide(id, message_id, by).await
    }

    async fn chat_hide_user(&self, id: StreamId, user: &UserId, by: &UserId) -> Result<u64> {
        self.hide_all_of(id, user, by).await
    }

    async fn chat_add_reactions(&self, id: StreamId, counts: &BTreeMap<String, u64>) -> Result<()> {
        self.add_reactions(id, counts).await
    }

    async fn chat_totals(&self, id: StreamId) -> Result<ChatTotals> {
        self.totals(id).await
    }

    async fn chat_trim(&self, id: StreamId, keep: usize) -> Result<u64> {
        self.trim(id, keep).await
    }

    async fn set_chat_settings(&self, id: StreamId, settings: &ChatSettings, at: Timestamp) -> Result<Outcome> {
        self.change_chat_settings(id, settings, at).await
    }

    async fn mute(&self, id: StreamId, mute: &Mute, at: Timestamp) -> Result<Outcome> {
        self.mute_user(id, mute, at).await
    }

    async fn unmute(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        self.unmute_user(id, user, at).await
    }

    async fn pin(&self, id: StreamId, message: Option<&ChatMessage>, at: Timestamp) -> Result<Outcome> {
        self.pin_message(id, message, at).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn relay(&self, notes: &[Relayed]) -> Result<()> {
        self.write_notes(notes).await
    }

    async fn relayed_since(&self, since: &[NodeSign], limit: usize) -> Result<Vec<Relayed>> {
        self.read_notes(since, limit).await
    }

    async fn announce_node(&self, node: &str, now: Timestamp) -> Result<Vec<NodeSign>> {
        self.announce(node, now).await
    }

    async fn is_served(&self) -> Result<bool> {
        self.has_nodes_at_work().await
    }

    async fn set_ban(&self, ban: &Ban) -> Result<()> {
        self.write_ban(ban).await
    }

    async fn lift_ban(&self, user: &UserId, at: Timestamp) -> Result<bool> {
        self.end_ban(user, at).await
    }

    async fn ban(&self, user: &UserId) -> Result<Option<Ban>> {
        self.ban_of(user).await
    }

    async fn bans_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Ban>> {
        self.changed_bans(since, limit).await
    }

    async fn file_report(&self, report: &Report) -> Result<Filed> {
        self.file(report).await
    }

    async fn open_report(&self, like: &Report) -> Result<Option<String>> {
        self.find_open_report(like).await
    }

    async fn reports(
        &self,
        status: Option<ReportStatus>,
        stream: Option<StreamId>,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Report>> {
        self.page_of_reports(status, stream, after, limit).await
    }

    async fn update_report(
        &self,
        id: &str,
        status: ReportStatus,
        note: Option<&str>,
        by: &UserId,
        at: Timestamp,
    ) -> Result<Report> {
        self.change_report(id, status, note, by, at).await
    }

    async fn append_audit(&self, entry: &AuditEntry) -> Result<()> {
        self.write_audit(entry).await
    }

    async fn audit(&self, stream: Option<StreamId>, after: Option<&PageEnd>, limit: usize) -> Result<Vec<AuditEntry>> {
        self.page_of_audit(stream, after, limit).await
    }

    async fn idempotency_claim(&self, key: &IdempotencyKey, body: &str, now: Timestamp) -> Result<Claimed> {
        self.claim(key, body, now).await
    }

    async fn idempotency_finish(&self, key: &IdempotencyKey, answer: &serde_json::Value) -> Result<()> {
        self.finish(key, answer).await
    }

    async fn idempotency_release(&self, key: &IdempotencyKey) -> Result<()> {
        self.release(key).await
    }

    async fn limit_take(&self, key: &str, max: u32, window: Duration, now: Timestamp) -> Result<Taken> {
        self.take(key, max, window, now).await
    }

    async fn limit_give_back(&self, key: &str, taken: Timestamp) -> Result<()> {
        self.give_back(key, taken).await
    }

    async fn ping(&self) -> Result<()> {
        self.ping_once().await
    }

    async fn expire(&self, now: Timestamp, chat_retention: Duration) -> Result<()> {
        self.remove_expired(now, chat_retention).await
    }

    async fn export(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Vec<Exported>> {
        self.export_page(collection, after, limit).await
    }

    async fn import(&self, collection: &str, documents: &[Exported]) -> Result<()> {
        self.import_all(collection, documents).await
    }
}
