//! The embedded store, on SQLite: one file, nothing to run beside the server.
//!
//! One thread writes (`embedded/writer.rs`), a few connections read beside it (`embedded/readers.rs`). What is
//! reported as done is in the file: a crash of the process loses nothing. A crash of the machine may lose the last
//! moments, unless [`Durability::Full`] is chosen; it damages nothing either way.

mod chat;
mod file;
mod list;
mod moderation;
mod nodes;
mod presence;
mod readers;
mod requests;
mod row;
mod schema;
mod streams;
mod transfer;
mod value;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::Connection;

use super::chat::{ChatMessage, ChatRange, ChatSettings, ChatTotals, Mute, Relayed, StoredMessage};
use super::moderation::{AuditEntry, Ban, Filed, Report, ReportStatus};
use super::presence::{Presence, PresenceChange};
use super::stream::{
    Block, Edit, Outcome, PageEnd, StartScheduled, Stream, StreamFilter, StreamId, StreamOrder, StreamState,
    Transition, UserId,
};
use super::{Claimed, CreateError, Exported, IdempotencyKey, NodeSign, Result, Store, StoreError, Taken};
use crate::clock::Timestamp;
use file::DatabaseFile;
use readers::Readers;
use writer::Writer;

/// Directory of the file, where the server was started, if the configuration names none.
pub const DIRECTORY: &str = "onair-data";

/// Name of the file in the directory that the configuration names.
pub const FILE: &str = "onair.db";

/// What SQLite puts beside it.
pub(crate) const FILES_BESIDE: [&str; 2] = ["onair.db-wal", "onair.db-shm"];

/// How long a connection waits for another process that uses the file, such as a backup or a shell.
const BUSY_MAX: Duration = Duration::from_secs(2);
/// How long a write shows that others are possible: each costs a page of the log beside the file.
const PROVEN_FOR: Duration = Duration::from_secs(5);
/// Statements that a connection keeps ready: all that there are.
const STATEMENTS_KEPT: usize = 128;

/// What survives a crash of the machine. A crash of the process is survived by everything in both cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// All but the last moments.
    #[default]
    Normal,
    /// Everything that was reported as done; each commit waits for the disk.
    Full,
}

/// How a file is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub durability: Durability,
}

/// The store of one process, in one file.
pub struct Embedded {
    writer: Writer,
    /// Absent in memory: such a database belongs to one connection.
    readers: Option<Arc<Readers>>,
    /// Absent in memory.
    file: Option<Arc<DatabaseFile>>,
    proof: Proof,
}

/// When a write for its own sake was last seen to be done.
#[derive(Default)]
struct Proof(Mutex<Option<Instant>>);

impl Proof {
    fn is_due(&self, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|at| now >= at + PROVEN_FOR)
    }

    fn note(&self, at: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

impl Embedded {
    /// Opens a file, or creates it with its folder, readable by this user only.
    ///
    /// # Errors
    /// What the system or SQLite says, with the path.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        Self::open_if(path, options, |_| Ok(()))
    }

    /// As [`Self::open`], and keeps the file to this process for as long as it is open.
    ///
    /// # Errors
    /// As above, or that another process has it.
    pub fn open_alone(path: &Path, options: &Options) -> Result<Self> {
        Self::open_if(path, options, DatabaseFile::claim)
    }

    fn open_if(path: &Path, options: &Options, may: impl FnOnce(&DatabaseFile) -> io::Result<()>) -> Result<Self> {
        let at_path = |error: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("cannot open the database {}: {error}", path.display()))
        };
        let file = DatabaseFile::open(path).map_err(|error| at_path(&error))?;
        may(&file).map_err(|error| at_path(&error))?;
        let file = Arc::new(file);
        let mut connection = Connection::open(path).map_err(|error| at_path(&error))?;
        prepare(&connection).map_err(|error| at_path(&error))?;
        schema::check_ours(&connection).map_err(|error| at_path(&error))?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(|error| at_path(&error))?;
        let synchronous = match options.durability {
            Durability::Normal => "NORMAL",
            Durability::Full => "FULL",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        schema::bring_up_to_date(&mut connection).map_err(|error| at_path(&error))?;
        let readers = Some(Readers::of(Arc::clone(&file)));
        Ok(Self {
            writer: Writer::start(connection, Arc::clone(&file))?,
            readers,
            file: Some(file),
            proof: Proof::default(),
        })
    }

    /// A store that is gone with the process.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the system gives no memory or no thread.
    pub fn in_memory() -> Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        prepare(&connection)?;
        schema::bring_up_to_date(&mut connection)?;
        Ok(Self { writer: Writer::start(connection, ())?, readers: None, file: None, proof: Proof::default() })
    }

    async fn read<T: Send + 'static>(&self, job: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        match &self.readers {
            Some(readers) => readers.read(job).await,
            None => self.writer.write(job).await,
        }
    }

    async fn write<T, E>(
        &self,
        job: impl FnOnce(&Connection) -> std::result::Result<T, E> + Send + 'static,
    ) -> std::result::Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.writer.write(job).await
    }
}

fn prepare(connection: &Connection) -> Result<()> {
    connection.busy_timeout(BUSY_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(())
}

#[async_trait]
impl Store for Embedded {
    async fn create(&self, stream: &Stream) -> std::result::Result<(), CreateError> {
        let stream = stream.clone();
        self.write(move |c| streams::create(c, &stream)).await
    }

    async fn stream(&self, id: StreamId) -> Result<Option<Stream>> {
        self.read(move |c| streams::by_id(c, id)).await
    }

    async fn stream_of_room(&self, room_name: &str) -> Result<Option<Stream>> {
        let room_name = room_name.to_owned();
        self.read(move |c| streams::of_room(c, &room_name)).await
    }

    async fn live_stream_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        let owner = owner.clone();
        self.read(move |c| streams::live_of(c, &owner)).await
    }

    async fn last_ended_of(&self, owner: &UserId) -> Result<Option<Stream>> {
        let owner = owner.clone();
        self.read(move |c| streams::last_ended_of(c, &owner)).await
    }

    async fn streams(
        &self,
        filter: &StreamFilter,
        order: StreamOrder,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Stream>> {
        let (filter, after) = (filter.clone(), after.cloned());
        self.read(move |c| streams::page(c, &filter, order, after.as_ref(), limit)).await
    }

    async fn count_scheduled(&self, owner: &UserId) -> Result<u32> {
        let owner = owner.clone();
        self.read(move |c| streams::count_scheduled(c, &owner)).await
    }

    async fn streams_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Stream>> {
        self.read(move |c| streams::changed_since(c, since, limit)).await
    }

    async fn transition(&self, id: StreamId, transition: &Transition) -> Result<Outcome> {
        let transition = transition.clone();
        self.write(move |c| streams::transition(c, id, &transition)).await
    }

    async fn start_scheduled(&self, id: StreamId, start: &StartScheduled) -> std::result::Result<Stream, CreateError> {
        let start = start.clone();
        self.write(move |c| streams::start_scheduled(c, id, &start)).await
    }

    async fn note_room(&self, id: StreamId, room_sid: &str, at: Timestamp) -> Result<Outcome> {
        let room_sid = room_sid.to_owned();
        self.write(move |c| streams::note_room(c, id, &room_sid, at)).await
    }

    async fn edit(&self, id: StreamId, edit: &Edit, from: &[StreamState], at: Timestamp) -> Result<Outcome> {
        let (edit, from) = (edit.clone(), from.to_vec());
        self.write(move |c| streams::edit(c, id, edit, &from, at)).await
    }

    async fn set_flagged(&self, id: StreamId, at: Timestamp) -> Result<Outcome> {
        self.write(move |c| streams::change(c, id, at, |stream| stream.flagged = true)).await
    }

    async fn block(&self, id: StreamId, block: &Block) -> Result<Outcome> {
        let block = block.clone();
        self.write(move |c| moderation::block(c, id, block)).await
    }

    async fn unblock(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        let user = user.clone();
        self.write(move |c| moderation::unblock(c, id, &user, at)).await
    }

    async fn owner_block(&self, owner: &UserId, block: &Block) -> Result<bool> {
        let (owner, block) = (owner.clone(), block.clone());
        self.write(move |c| moderation::owner_block(c, &owner, &block)).await
    }

    async fn owner_unblock(&self, owner: &UserId, user: &UserId) -> Result<bool> {
        let (owner, user) = (owner.clone(), user.clone());
        self.write(move |c| moderation::owner_unblock(c, &owner, &user)).await
    }

    async fn owner_blocks(&self, owner: &UserId, limit: usize) -> Result<Vec<Block>> {
        let owner = owner.clone();
        self.read(move |c| moderation::owner_blocks(c, &owner, limit)).await
    }

    async fn presence_join(&self, id: StreamId, session: &Presence) -> Result<PresenceChange> {
        let session = session.clone();
        self.write(move |c| presence::join(c, id, &session)).await
    }

    async fn presence_leave(&self, id: StreamId, session: &Presence, at: Timestamp) -> Result<PresenceChange> {
        let session = session.clone();
        self.write(move |c| presence::leave(c, id, &session, at)).await
    }

    async fn presence_open(&self, id: StreamId) -> Result<Vec<Presence>> {
        self.read(move |c| presence::open(c, id)).await
    }

    async fn presence_of(&self, id: StreamId, user: &UserId) -> Result<bool> {
        let user = user.clone();
        self.read(move |c| presence::is_there(c, id, &user)).await
    }

    async fn presence_all(&self, id: StreamId, limit: usize) -> Result<Vec<Presence>> {
        self.read(move |c| presence::all(c, id, limit)).await
    }

    async fn webhook_handled(&self, event_id: &str, now: Timestamp) -> Result<bool> {
        let event_id = event_id.to_owned();
        self.read(move |c| requests::webhook_handled(c, &event_id, now)).await
    }

    async fn note_webhook(&self, event_id: &str, at: Timestamp) -> Result<()> {
        let event_id = event_id.to_owned();
        self.write(move |c| requests::note_webhook(c, &event_id, at)).await
    }

    async fn chat_reserve(&self, id: StreamId, count: u32, at_least: i64) -> Result<i64> {
        self.write(move |c| chat::reserve(c, id, count, at_least)).await
    }

    async fn chat_append(&self, messages: &[StoredMessage]) -> Result<()> {
        let messages = messages.to_vec();
        self.write(move |c| chat::append(c, &messages)).await
    }

    async fn chat_messages(&self, id: StreamId, range: ChatRange, limit: usize) -> Result<Vec<ChatMessage>> {
        self.read(move |c| chat::messages(c, id, range, limit)).await
    }

    async fn chat_message(&self, id: StreamId, message_id: &str) -> Result<Option<StoredMessage>> {
        let message_id = message_id.to_owned();
        self.read(move |c| chat::message(c, id, &message_id)).await
    }

    async fn chat_hide(&self, id: StreamId, message_id: &str, by: &UserId) -> Result<bool> {
        let (message_id, by) = (message_id.to_owned(), by.clone());
        self.write(move |c| chat::hide(c, id, &message_id, &by)).await
    }

    async fn chat_hide_user(&self, id: StreamId, user: &UserId, by: &UserId) -> Result<u64> {
        let (user, by) = (user.clone(), by.clone());
        self.write(move |c| chat::hide_user(c, id, &user, &by)).await
    }

    async fn chat_add_reactions(&self, id: StreamId, counts: &BTreeMap<String, u64>) -> Result<()> {
        let counts = counts.clone();
        self.write(move |c| chat::add_reactions(c, id, &counts)).await
    }

    async fn chat_totals(&self, id: StreamId) -> Result<ChatTotals> {
        self.read(move |c| chat::totals(c, id)).await
    }

    async fn chat_trim(&self, id: StreamId, keep: usize) -> Result<u64> {
        self.write(move |c| chat::trim(c, id, keep)).await
    }

    async fn set_chat_settings(&self, id: StreamId, settings: &ChatSettings, at: Timestamp) -> Result<Outcome> {
        let settings = settings.clone();
        self.write(move |c| chat::set_settings(c, id, settings, at)).await
    }

    async fn mute(&self, id: StreamId, mute: &Mute, at: Timestamp) -> Result<Outcome> {
        let mute = mute.clone();
        self.write(move |c| chat::mute(c, id, mute, at)).await
    }

    async fn unmute(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        let user = user.clone();
        self.write(move |c| chat::unmute(c, id, &user, at)).await
    }

    async fn pin(&self, id: StreamId, message: Option<&ChatMessage>, at: Timestamp) -> Result<Outcome> {
        let message = message.cloned();
        self.write(move |c| chat::pin(c, id, message, at)).await
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn relay(&self, notes: &[Relayed]) -> Result<()> {
        let notes = notes.to_vec();
        self.write(move |c| nodes::relay(c, &notes)).await
    }

    async fn relayed_since(&self, since: &[NodeSign], limit: usize) -> Result<Vec<Relayed>> {
        let since = since.to_vec();
        self.read(move |c| nodes::relayed_since(c, &since, limit)).await
    }

    async fn announce_node(&self, node: &str, now: Timestamp) -> Result<Vec<NodeSign>> {
        let node = node.to_owned();
        self.write(move |c| nodes::announce_node(c, &node, now)).await
    }

    async fn set_ban(&self, ban: &Ban) -> Result<()> {
        let ban = ban.clone();
        self.write(move |c| moderation::set_ban(c, &ban)).await
    }

    async fn lift_ban(&self, user: &UserId, at: Timestamp) -> Result<bool> {
        let user = user.clone();
        self.write(move |c| moderation::lift_ban(c, &user, at)).await
    }

    async fn ban(&self, user: &UserId) -> Result<Option<Ban>> {
        let user = user.clone();
        self.read(move |c| moderation::ban(c, &user)).await
    }

    async fn bans_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Ban>> {
        self.read(move |c| moderation::bans_changed_since(c, since, limit)).await
    }

    async fn file_report(&self, report: &Report) -> Result<Filed> {
        let report = report.clone();
        self.write(move |c| moderation::file_report(c, &report)).await
    }

    async fn open_report(&self, like: &Report) -> Result<Option<String>> {
        let like = like.clone();
        self.read(move |c| moderation::open_report(c, &like)).await
    }

    async fn reports(
        &self,
        status: Option<ReportStatus>,
        stream: Option<StreamId>,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Report>> {
        let after = after.cloned();
        self.read(move |c| moderation::reports(c, status, stream, after.as_ref(), limit)).await
    }

    async fn update_report(
        &self,
        id: &str,
        status: ReportStatus,
        note: Option<&str>,
        by: &UserId,
        at: Timestamp,
    ) -> Result<Report> {
        let (id, note, by) = (id.to_owned(), note.map(str::to_owned), by.clone());
        self.write(move |c| moderation::update_report(c, &id, status, note, &by, at)).await
    }

    async fn append_audit(&self, entry: &AuditEntry) -> Result<()> {
        let entry = entry.clone();
        self.write(move |c| moderation::append_audit(c, &entry)).await
    }

    async fn audit(&self, stream: Option<StreamId>, after: Option<&PageEnd>, limit: usize) -> Result<Vec<AuditEntry>> {
        let after = after.cloned();
        self.read(move |c| moderation::audit(c, stream, after.as_ref(), limit)).await
    }

    async fn idempotency_claim(&self, key: &IdempotencyKey, body: &str, now: Timestamp) -> Result<Claimed> {
        let (key, body) = (key.clone(), body.to_owned());
        self.write(move |c| requests::claim(c, &key, &body, now)).await
    }

    async fn idempotency_finish(&self, key: &IdempotencyKey, answer: &serde_json::Value) -> Result<()> {
        let (key, answer) = (key.clone(), answer.clone());
        self.write(move |c| requests::finish(c, &key, &answer)).await
    }

    async fn idempotency_release(&self, key: &IdempotencyKey) -> Result<()> {
        let key = key.clone();
        self.write(move |c| requests::release(c, &key)).await
    }

    async fn limit_take(&self, key: &str, max: u32, window: Duration, now: Timestamp) -> Result<Taken> {
        let key = key.to_owned();
        self.write(move |c| requests::take(c, &key, max, window, now)).await
    }

    async fn limit_give_back(&self, key: &str, taken: Timestamp) -> Result<()> {
        let key = key.to_owned();
        self.write(move |c| requests::give_back(c, &key, taken)).await
    }

    /// Asks the writer, since a store that cannot write is of no use: now and then for a page, as a full disk shows at
    /// nothing less.
    async fn ping(&self) -> Result<()> {
        let now = Instant::now();
        let (file, is_due) = (self.file.clone(), self.proof.is_due(now));
        let pinged = self
            .write(move |c| {
                file.map_or(Ok(()), |file| file.require_in_place())?;
                if is_due { schema::write_again(c) } else { Ok(c.query_row("SELECT 1", [], |_| Ok(()))?) }
            })
            .await;
        if is_due || pinged.is_err() {
            self.proof.note(pinged.is_ok().then_some(now));
        }
        pinged
    }

    async fn settle(&self) -> Result<()> {
        match &self.file {
            Some(_) => self.writer.checkpoint().await,
            None => Ok(()),
        }
    }

    async fn expire(&self, now: Timestamp, chat_retention: Duration) -> Result<()> {
        while self.write(move |c| requests::expire(c, now, chat_retention)).await? {}
        Ok(())
    }

    async fn export(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Vec<Exported>> {
        let (collection, after) = (collection.to_owned(), after.map(str::to_owned));
        self.read(move |c| transfer::export(c, &collection, after.as_deref(), limit)).await
    }

    async fn import(&self, collection: &str, documents: &[Exported]) -> Result<()> {
        let (collection, documents) = (collection.to_owned(), documents.to_vec());
        self.write(move |c| transfer::import(c, &collection, &documents)).await
    }
}
