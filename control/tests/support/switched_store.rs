//! A store that a test can take away and give back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use control::clock::Timestamp;
use control::store::chat::{ChatMessage, ChatRange, ChatSettings, ChatTotals, Mute, Relayed, StoredMessage};
use control::store::moderation::{AuditEntry, Ban, Filed, Report, ReportStatus, Reviewed};
use control::store::presence::{Presence, PresenceChange};
use control::store::stream::{
    Block, Edit, Outcome, PageEnd, StartScheduled, Stream, StreamFilter, StreamId, StreamOrder, StreamState,
    Transition, UserId,
};
use control::store::{
    ChatStore, Claimed, CreateError, Exported, IdempotencyKey, Lease, ModerationStore, NodeSign, NodeStore,
    PresenceStore, RequestStore, Result, SharedStore, Store, StoreError, StreamStore, Taken,
};

/// Operations that write nothing.
const READS: [&str; 22] = [
    "stream",
    "stream_of_room",
    "live_stream_of",
    "last_ended_of",
    "streams",
    "count_scheduled",
    "streams_changed_since",
    "owner_blocks",
    "presence_open",
    "presence_of",
    "presence_all",
    "webhook_handled",
    "chat_messages",
    "chat_message",
    "chat_totals",
    "relayed_since",
    "room_lease",
    "ban",
    "bans_changed_since",
    "open_report",
    "reports",
    "audit",
];

/// Passes everything on, unless it is away.
pub struct Switched {
    store: SharedStore,
    away: AtomicBool,
    silent: AtomicBool,
    full: AtomicBool,
    refused: Mutex<Option<&'static str>>,
    /// What it was asked for while it was silent.
    unanswered: Mutex<BTreeSet<&'static str>>,
    shared: bool,
}

impl Switched {
    /// `shared`: as if other processes could use it.
    pub fn new(store: SharedStore, shared: bool) -> Arc<Self> {
        let (away, silent, full) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
        let (refused, unanswered) = (Mutex::new(None), Mutex::default());
        Arc::new(Self { store, away, silent, full, refused, unanswered, shared })
    }

    #[allow(dead_code, reason = "not every suite needs it")]
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Away without an answer, as a server behind a broken network.
    #[allow(dead_code, reason = "not every suite needs it")]
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    /// As with a full disk: it is read, and takes nothing.
    #[allow(dead_code, reason = "not every suite needs it")]
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// Whether that operation was asked for while it was silent.
    #[allow(dead_code, reason = "not every suite needs it")]
    pub fn was_asked(&self, operation: &str) -> bool {
        self.unanswered.lock().unwrap().contains(operation)
    }

    /// Away for the operation of that name alone.
    #[allow(dead_code, reason = "not every suite needs it")]
    pub fn refuse(&self, operation: Option<&'static str>) {
        *self.refused.lock().unwrap() = operation;
    }

    async fn there(&self, operation: &'static str) -> Result<&SharedStore> {
        while self.silent.load(Ordering::SeqCst) {
            self.unanswered.lock().unwrap().insert(operation);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let is_full = self.full.load(Ordering::SeqCst) && !READS.contains(&operation);
        match self.away.load(Ordering::SeqCst) || is_full || *self.refused.lock().unwrap() == Some(operation) {
            true => Err(StoreError::Unavailable("taken away by the test".into())),
            false => Ok(&self.store),
        }
    }
}

/// Each operation once more, as it is in the trait.
macro_rules! pass_on {
    ($trait:ident { $($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)* } $($rest:tt)*) => {
        #[async_trait]
        impl $trait for Switched {
            $(async fn $name(&self, $($arg: $type),*) -> $result {
                self.there(stringify!($name)).await?.$name($($arg),*).await
            })*

            $($rest)*
        }
    };
}

pass_on! { StreamStore {
    create(stream: &Stream) -> std::result::Result<(), CreateError>;
    stream(id: StreamId) -> Result<Option<Stream>>;
    stream_of_room(room_name: &str) -> Result<Option<Stream>>;
    live_stream_of(owner: &UserId) -> Result<Option<Stream>>;
    last_ended_of(owner: &UserId) -> Result<Option<Stream>>;
    streams(filter: &StreamFilter, order: StreamOrder, after: Option<&PageEnd>, limit: usize) -> Result<Vec<Stream>>;
    count_scheduled(owner: &UserId) -> Result<u32>;
    streams_changed_since(since: Timestamp, limit: usize) -> Result<Vec<Stream>>;
    transition(id: StreamId, transition: &Transition) -> Result<Outcome>;
    start_scheduled(id: StreamId, start: &StartScheduled) -> std::result::Result<Stream, CreateError>;
    note_room(id: StreamId, room_sid: &str, at: Timestamp) -> Result<Outcome>;
    edit(id: StreamId, edit: &Edit, from: &[StreamState], at: Timestamp) -> Result<Outcome>;
    set_flagged(id: StreamId, at: Timestamp) -> Result<Outcome>;
} }

pass_on! { PresenceStore {
    presence_join(id: StreamId, session: &Presence) -> Result<PresenceChange>;
    presence_leave(id: StreamId, session: &Presence, at: Timestamp) -> Result<PresenceChange>;
    presence_open(id: StreamId) -> Result<Vec<Presence>>;
    presence_of(id: StreamId, user: &UserId) -> Result<bool>;
    presence_all(id: StreamId, limit: usize) -> Result<Vec<Presence>>;
} }

pass_on! { ChatStore {
    chat_reserve(id: StreamId, count: u32, at_least: i64) -> Result<i64>;
    chat_append(messages: &[StoredMessage]) -> Result<()>;
    chat_messages(id: StreamId, range: ChatRange, limit: usize) -> Result<Vec<ChatMessage>>;
    chat_message(id: StreamId, message_id: &str) -> Result<Option<StoredMessage>>;
    chat_hide(id: StreamId, message_id: &str, by: &UserId) -> Result<bool>;
    chat_hide_user(id: StreamId, user: &UserId, by: &UserId) -> Result<u64>;
    chat_add_reactions(id: StreamId, counts: &BTreeMap<String, u64>) -> Result<()>;
    chat_totals(id: StreamId) -> Result<ChatTotals>;
    chat_trim(id: StreamId, keep: usize) -> Result<u64>;
    set_chat_settings(id: StreamId, settings: &ChatSettings, at: Timestamp) -> Result<Outcome>;
    mute(id: StreamId, mute: &Mute, at: Timestamp) -> Result<Outcome>;
    unmute(id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome>;
    pin(id: StreamId, message: Option<&ChatMessage>, at: Timestamp) -> Result<Outcome>;
} }

pass_on! { ModerationStore {
    block(id: StreamId, block: &Block) -> Result<Outcome>;
    unblock(id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome>;
    owner_block(owner: &UserId, block: &Block) -> Result<bool>;
    owner_unblock(owner: &UserId, user: &UserId) -> Result<bool>;
    owner_blocks(owner: &UserId, limit: usize) -> Result<Vec<Block>>;
    set_ban(ban: &Ban) -> Result<()>;
    lift_ban(user: &UserId, at: Timestamp) -> Result<bool>;
    ban(user: &UserId) -> Result<Option<Ban>>;
    bans_changed_since(since: Timestamp, limit: usize) -> Result<Vec<Ban>>;
    file_report(report: &Report) -> Result<Filed>;
    open_report(like: &Report) -> Result<Option<String>>;
    reports(status: Option<ReportStatus>, stream: Option<StreamId>, after: Option<&PageEnd>, limit: usize) -> Result<Vec<Report>>;
    update_report(id: &str, status: ReportStatus, note: Option<&str>, by: &UserId, at: Timestamp) -> Result<Reviewed>;
    append_audit(entry: &AuditEntry) -> Result<()>;
    audit(stream: Option<StreamId>, after: Option<&PageEnd>, limit: usize) -> Result<Vec<AuditEntry>>;
} }

pass_on! { RequestStore {
    webhook_handled(event_id: &str, now: Timestamp) -> Result<bool>;
    note_webhook(event_id: &str, at: Timestamp) -> Result<()>;
    idempotency_claim(key: &IdempotencyKey, body: &str, now: Timestamp) -> Result<Claimed>;
    idempotency_finish(key: &IdempotencyKey, answer: &serde_json::Value) -> Result<()>;
    idempotency_release(key: &IdempotencyKey) -> Result<()>;
    limit_take(key: &str, max: u32, window: Duration, now: Timestamp) -> Result<Taken>;
    limit_give_back(key: &str, taken: Timestamp) -> Result<()>;
} }

pass_on! { NodeStore {
    relay(notes: &[Relayed]) -> Result<()>;
    relayed_since(since: &[NodeSign], limit: usize) -> Result<Vec<Relayed>>;
    announce_node(node: &str, now: Timestamp) -> Result<Vec<NodeSign>>;
    lease_room(stream: StreamId, node: &str, now: Timestamp) -> Result<Lease>;
    room_lease(stream: StreamId, now: Timestamp) -> Result<Option<Lease>>;
}
    fn is_shared(&self) -> bool {
        self.shared
    }
}

pass_on! { Store {
    ping() -> Result<()>;
    expire(now: Timestamp, chat_retention: Duration) -> Result<()>;
    export(collection: &str, after: Option<&str>, limit: usize) -> Result<Vec<Exported>>;
    import(collection: &str, documents: &[Exported]) -> Result<()>;
} }
