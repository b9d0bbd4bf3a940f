//! What owners and administrators decide about others: blocks, bans, reports, and the log of it (stream API, sections
//! 2.5 and 7).
//!
//! A decision is stored first, then handed to [`Lifecycle`], from where it takes effect on chat and rooms, on every
//! node. Then it is written to the audit log, unless it changed nothing. If the store fails in between, the caller is
//! told to repeat the call, and the line waits here ([`Unwritten`]): the next call writes it, also one that changes
//! nothing. Where the store takes nothing at all, an end, a block or a ban takes effect on this node all the same
//! ([`Lifecycle::hold`]).
//!
//! That somebody is an administrator stands in tokens only. Administrators whom this process has not seen yet are known
//! from the log, as far as [`Moderation::recall_admins`] looks back; any other one can be blocked until their next
//! call. An administrator who was blocked before that can watch the stream all the same, and is then taken off its list
//! of blocked users.

mod bans;
mod blocks;
mod reports;
mod unwritten;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

pub use reports::NewReport;
use unwritten::Unwritten;

use crate::auth::Authenticator;
use crate::clock::Timestamp;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::transition::Ended;
use crate::lifecycle::unstored::Unstored;
use crate::problem::{Code, Problem};
use crate::store::moderation::AuditEntry;
use crate::store::stream::{PageEnd, Stream, StreamId, UserId};
use crate::store::{SharedStore, StoreError};
use crate::streams::Streams;
use crate::user::{Caller, User};

/// Entries of a list of blocked users.
pub const BLOCKS_MAX: usize = 5_000;

/// Lines of the log that are searched for administrators, and how many of them at once.
const RECALLED_MAX: usize = 2_000;
const RECALLED_AT_ONCE: usize = 200;

/// Actions that only administrators are able to do.
const ADMIN_ACTIONS: [&str; 4] = ["stream.end", "user.ban", "user.unban", "report.review"];

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct Moderation(Arc<Parts>);

struct Parts {
    lifecycle: Lifecycle,
    streams: Streams,
    auth: Arc<Authenticator>,
    counters: Counters,
    unwritten: Unwritten,
}

/// For metrics.
#[derive(Debug, Default)]
pub struct Counters {
    pub blocks: AtomicU64,
    pub bans: AtomicU64,
    pub reports: AtomicU64,
    /// Streams that enough users reported.
    pub flagged: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What goes into the log beside who and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Act {
    /// `stream.end`, `user.ban`, `chat.mute`, …
    pub action: &'static str,
    pub stream: Option<StreamId>,
    pub target: Option<String>,
    pub details: Value,
}

impl Moderation {
    pub fn new(lifecycle: Lifecycle, streams: Streams, auth: Arc<Authenticator>) -> Self {
        let (counters, unwritten) = (Counters::default(), Unwritten::default());
        Self(Arc::new(Parts { lifecycle, streams, auth, counters, unwritten }))
    }

    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    fn lifecycle(&self) -> &Lifecycle {
        &self.0.lifecycle
    }

    fn store(&self) -> &SharedStore {
        self.0.lifecycle.store()
    }

    fn now(&self) -> Timestamp {
        self.lifecycle().now()
    }

    /// Learns from the log who administrators are. Call it once, when the store answers.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn recall_admins(&self) -> Result<(), StoreError> {
        let mut after = None;
        for _ in 0..RECALLED_MAX / RECALLED_AT_ONCE {
            let entries = self.store().audit(None, after.as_ref(), RECALLED_AT_ONCE).await?;
            for entry in entries.iter().filter(|entry| ADMIN_ACTIONS.contains(&entry.action.as_str())) {
                self.0.auth.note_admin(&entry.actor);
            }
            match entries.last() {
                Some(last) if entries.len() == RECALLED_AT_ONCE => {
                    after = Some(PageEnd { key: last.at.millis(), id: last.id.clone() });
                }
                Some(_) | None => break,
            }
        }
        Ok(())
    }

    /// Ends anybody's stream.
    ///
    /// # Errors
    /// Those of [`Streams::end`]. With `store_unavailable` it may have ended here, which the text says.
    pub async fn end(&self, caller: &Caller, id: StreamId, reason: Option<String>) -> Result<Ended, Problem> {
        let ended = self.0.streams.end(caller, id).await?;
        let details = json!({ "reason": reason, "alreadyEnded": ended.already_ended });
        let act = Act { action: "stream.end", stream: Some(id), target: None, details };
        if let Some(unstored) = ended.unstored {
            return Err(self.unstored(unstored, caller, act));
        }
        self.log_if(!ended.already_ended, caller, act).await?;
        Ok(ended)
    }

    /// A decision holds that the store did not take; its line of the log waits as well.
    fn unstored(&self, unstored: Unstored, caller: &Caller, act: Act) -> Problem {
        if unstored.is_new {
            self.0.unwritten.keep(self.line(caller, act));
        }
        unstored.problem
    }

    /// Writes a line of the log, if there was a change, and those that still wait.
    ///
    /// # Errors
    /// `store_unavailable`: the caller should repeat what it did.
    async fn log_if(&self, changed: bool, caller: &Caller, act: Act) -> Result<(), Problem> {
        if changed {
            self.0.unwritten.keep(self.line(caller, act));
        }
        Ok(self.0.unwritten.write(self.store().as_ref()).await?)
    }

    fn line(&self, caller: &Caller, act: Act) -> AuditEntry {
        let Act { action, stream, target, details } = act;
        let entry = AuditEntry {
            id: StreamId::generate().to_string(),
            at: self.now(),
            actor: caller.user.id.clone(),
            action: action.to_owned(),
            stream_id: stream,
            target,
            details,
            request_id: Some(caller.request_id.clone()),
        };
        let room = stream.and_then(|id| self.lifecycle().cache().stream(id)).map(|stream| stream.room_name.clone());
        entry.log(room.as_deref());
        entry
    }

    /// The newest copy of a stream, for its owner or an administrator.
    async fn moderated(&self, user: &User, id: StreamId) -> Result<Stream, Problem> {
        let stream = self.lifecycle().newest(id).await?.ok_or_else(Problem::stream_not_found)?;
        if stream.owner_id == user.id || user.is_admin() {
            return Ok(stream);
        }
        match stream.is_visible_to(None) {
            true => Err(Problem::new(Code::NotOwner, "Only the owner and administrators may do this.")),
            false => Err(Problem::stream_not_found()),
        }
    }

    /// Whether `user` is an administrator, as far as is known here.
    fn is_admin(&self, caller: &User, user: &UserId) -> bool {
        (caller.is_admin() && caller.id == *user) || self.0.auth.is_known_admin(user)
    }
}

impl AuditEntry {
    /// Says it in the log of the process as well. `room` is that of the stream.
    pub(crate) fn log(&self, room: Option<&str>) {
        let (action, actor, target) = (self.action.as_str(), self.actor.as_str(), self.target.as_deref());
        let stream = self.stream_id.map(tracing::field::display);
        tracing::info!(action, actor, target, stream, room, request_id = self.request_id.as_deref(), "moderated");
    }
}
