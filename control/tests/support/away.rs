//! A store that can be sent away: every operation fails until it is back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use control::clock::Timestamp;
use control::store::chat::*;
use control::store::moderation::*;
use control::store::stream::*;
use control::store::viewer::*;
use control::store::*;

/// Stands before another store.
pub struct Away {
    inner: SharedStore,
    away: AtomicBool,
    /// Whether operations are answered late instead of refused.
    silent: AtomicBool,
    /// Whether it says that other processes may use it.
    shared: bool,
}

impl Away {
    pub fn new(inner: SharedStore, shared: bool) -> Arc<Self> {
        Arc::new(Self { inner, away: AtomicBool::new(false), silent: AtomicBool::new(false), shared })
    }

    pub fn set(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Away without an answer, as a server behind a broken network.
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    async fn answer(&self) -> Result<()> {
        while self.silent.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if self.away.load(Ordering::SeqCst) {
            Err(StoreError::Unavailable("sent away by the test".into()))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Store for Away {
    async fn create(&self, stream: &Stream) -> std::result::Result<(), CreateError> {
        self.answer().await?;
        self.inner.create(stream).await
    }

    async fn stream(&self, id: StreamId) -> Result<Option<Stream>> {
        self.answer().await?;
        self.inner.stream(id).await
    }

    async fn stream_of_room(&self, room_name: &str) -> Result<Option<Stream>> {
        self.answer().await?;
        self.inner.stream_of_room(room_name).await
    }

    async fn live_stream_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        self.answer().await?;
        self.inner.live_stream_of(owner).await
    }

    async fn last_ended_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        self.answer().await?;
        self.inner.last_ended_of(owner).await
    }

    async fn streams(
        &self,
        filter: &StreamFilter,
        order: StreamOrder,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Stream>> {
        self.answer().await?;
        self.inner.streams(filter, order, after, limit).await
    }

    async fn count_scheduled(&self, owner: &UserId) -> Result<u32> {
        self.answer().await?;
        self.inner.count_scheduled(owner).await
    }

    async fn streams_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Stream>> {
        self.answer().await?;
        self.inner.streams_changed_since(since, limit).await
    }

    async fn transition(&self, id: StreamId, transition: &Transition) -> Result<Outcome> {
        self.answer().await?;
        self.inner.transition(id, transition).await
    }

    async fn start_scheduled(&self, id: StreamId, start: &StartScheduled) -> std::result::Result<Stream, CreateError> {
        self.answer().await?;
        self.inner.start_scheduled(id, start).await
    }

    async fn note_room(&self, id: StreamId, room_sid: &str, at: Timestamp) -> Result<Outcome> {
        self.answer().await?;
        self.inner.note_room(id, room_sid, at).await
    }

    async fn edit(&self, id: StreamId, edit: &Edit, from: &[StreamState], at: Timestamp) -> Result<Outcome> {
        self.answer().await?;
        self.inner.edit(id, edit, from, at).await
    }

    async fn set_flagged(&self, id: StreamId, at: Timestamp) -> Result<Outcome> {
        self.answer().await?;
        self.inner.set_flagged(id, at).await
    }

    async fn block(&self, id: StreamId, block: &Block) -> Result<Outcome> {
        self.answer().await?;
        self.inner.block(id, block).await
    }

    async fn unblock(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        self.answer().await?;
        self.inner.unblock(id, user, at).await
    }

    async fn owner_block(&self, owner: &UserId, block: &Block) -> Result<bool> {
        self.answer().await?;
        self.inner.owner_block(owner, block).await
    }

    async fn owner_unblock(&self, owner: &UserId, user: &UserId) -> Result<bool> {
        self.answer().await?;
        self.inner.owner_unblock(owner, user).await
    }

    async fn owner_blocks(&self, owner: &UserId, limit: usize) -> Result<Vec<Block>> {
        self.answer().await?;
        self.inner.owner_blocks(owner, limit).await
    }

    async fn presence_join(&self, id: StreamId, session: &Presence) -> Result<PresenceChange> {
        self.answer().await?;
        self.inner.presence_join(id, session).await
    }

    async fn presence_leave(&self, id: StreamId, session: &Presence, at: Timestamp) -> Result<PresenceChange> {
        self.answer().await?;
        self.inner.presence_leave(id, session, at).await
    }

    async fn presence_open(&self, id: StreamId) -> Result<Vec<Presence>> {
        self.answer().await?;
        self.inner.presence_open(id).await
    }

    async fn presence_all(&self, id: StreamId, limit: usize) -> Result<Vec<Presence>> {
        self.answer().await?;
        self.inner.presence_all(id, limit).await
    }

    async fn webhook_handled(&self, event_id: &str, now: Timestamp) -> Result<bool> {
        self.answer().await?;
        self.inner.webhook_handled(event_id, now).await
    }

    async fn note_webhook(&self, event_id: &str, at: Timestamp) -> Result<()> {
        self.answer().await?;
        self.inner.note_webhook(event_id, at).await
    }

    async fn chat_reserve(&self, id: StreamId, count: u32, at_least: i64) -> Result<i64> {
        self.answer().await?;
        self.inner.chat_reserve(id, count, at_least).await
    }

    async fn chat_append(&self, messages: &[StoredMessage]) -> Result<()> {
        self.answer().await?;
        self.inner.chat_append(messages).await
    }

    async fn chat_messages(&self, id: StreamId, range: ChatRange, limit: usize) -> Result<Vec<ChatMessage>> {
        self.answer().await?;
        self.inner.chat_messages(id, range, limit).await
    }

    async fn chat_message(&self, id: StreamId, message_id: &str) -> Result<Option<StoredMessage>> {
        self.answer().await?;
        self.inner.chat_message(id, message_id).await
    }

    async fn chat_hide(&self, id: StreamId, message_id: &str, by: &UserId) -> Result<bool> {
        self.answer().await?;
        self.inner.chat_hide(id, message_id, by).await
    }

    async fn chat_hide_user(&self, id: StreamId, user: &UserId, by: &UserId) -> Result<u64> {
        self.answer().await?;
        self.inner.chat_hide_user(id, user, by).await
    }

    async fn chat_add_reactions(&self, id: StreamId, counts: &BTreeMap<String, u64>) -> Result<()> {
        self.answer().await?;
        self.inner.chat_add_reactions(id, counts).await
    }

    async fn chat_totals(&self, id: StreamId) -> Result<ChatTotals> {
        self.answer().await?;
        self.inner.chat_totals(id).await
    }

    async fn chat_trim(&self, id: StreamId, keep: usize) -> Result<u64> {
        self.answer().await?;
        self.inner.chat_trim(id, keep).await
    }

    async fn set_chat_settings(&self, id: StreamId, settings: &ChatSettings, at: Timestamp) -> Result<Outcome> {
        self.answer().await?;
        self.inner.set_chat_settings(id, settings, at).await
    }

    async fn mute(&self, id: StreamId, mute: &Mute, at: Timestamp) -> Result<Outcome> {
        self.answer().await?;
        self.inner.mute(id, mute, at).await
    }

    async fn unmute(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        self.answer().await?;
        self.inner.unmute(id, user, at).await
    }

    async fn pin(&self, id: StreamId, message: Option<&ChatMessage>, at: Timestamp) -> Result<Outcome> {
        self.answer().await?;
        self.inner.pin(id, message, at).await
    }

    fn is_shared(&self) -> bool {
        self.shared || self.inner.is_shared()
    }

    async fn relay(&self, notes: &[Relayed]) -> Result<()> {
        self.answer().await?;
        self.inner.relay(notes).await
    }

    async fn relayed_since(&self, since: Timestamp, node: &str, limit: usize) -> Result<Vec<Relayed>> {
        self.answer().await?;
        self.inner.relayed_since(since, node, limit).await
    }

    async fn announce_node(&self, node: &str, now: Timestamp, within: Duration) -> Result<u32> {
        self.answer().await?;
        self.inner.announce_node(node, now, within).await
    }

    async fn set_ban(&self, ban: &Ban) -> Result<()> {
        self.answer().await?;
        self.inner.set_ban(ban).await
    }

    async fn lift_ban(&self, user: &UserId, at: Timestamp) -> Result<bool> {
        self.answer().await?;
        self.inner.lift_ban(user, at).await
    }

    async fn ban(&self, user: &UserId) -> Result<Option<Ban>> {
        self.answer().await?;
        self.inner.ban(user).await
    }

    async fn bans_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Ban>> {
        self.answer().await?;
        self.inner.bans_changed_since(since, limit).await
    }

    async fn file_report(&self, report: &Report) -> Result<Filed> {
        self.answer().await?;
        self.inner.file_report(report).await
    }

    async fn open_report(&self, like: &Report) -> Result<Option<String>> {
        self.answer().await?;
        self.inner.open_report(like).await
    }

    async fn reports(
        &self,
        status: Option<ReportStatus>,
        stream: Option<StreamId>,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Report>> {
        self.answer().await?;
        self.inner.reports(status, stream, after, limit).await
    }

    async fn update_report(
        &self,
        id: &str,
        status: ReportStatus,
        note: Option<&str>,
        by: &UserId,
        at: Timestamp,
    ) -> Result<Report> {
        self.answer().await?;
        self.inner.update_report(id, status, note, by, at).await
    }

    async fn append_audit(&self, entry: &AuditEntry) -> Result<()> {
        self.answer().await?;
        self.inner.append_audit(entry).await
    }

    async fn audit(&self, stream: Option<StreamId>, after: Option<&PageEnd>, limit: usize) -> Result<Vec<AuditEntry>> {
        self.answer().await?;
        self.inner.audit(stream, after, limit).await
    }

    async fn idempotency_claim(&self, key: &IdempotencyKey, body: &str, now: Timestamp) -> Result<Claimed> {
        self.answer().await?;
        self.inner.idempotency_claim(key, body, now).await
    }

    async fn idempotency_finish(&self, key: &IdempotencyKey, answer: &serde_json::Value) -> Result<()> {
        self.answer().await?;
        self.inner.idempotency_finish(key, answer).await
    }

    async fn idempotency_release(&self, key: &IdempotencyKey) -> Result<()> {
        self.answer().await?;
        self.inner.idempotency_release(key).await
    }

    async fn limit_take(&self, key: &str, max: u32, window: Duration, now: Timestamp) -> Result<Taken> {
        self.answer().await?;
        self.inner.limit_take(key, max, window, now).await
    }

    async fn limit_give_back(&self, key: &str, taken: Timestamp) -> Result<()> {
        self.answer().await?;
        self.inner.limit_give_back(key, taken).await
    }

    async fn ping(&self) -> Result<()> {
        self.answer().await?;
        self.inner.ping().await
    }

    async fn expire(&self, now: Timestamp, chat_retention: Duration) -> Result<()> {
        self.answer().await?;
        self.inner.expire(now, chat_retention).await
    }

    async fn export(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Vec<Exported>> {
        self.answer().await?;
        self.inner.export(collection, after, limit).await
    }

    async fn import(&self, collection: &str, documents: &[Exported]) -> Result<()> {
        self.answer().await?;
        self.inner.import(collection, documents).await
    }
}
