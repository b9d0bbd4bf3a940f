//! Moderation of a chat over HTTP (stream API, 8.5): who may do what, and its entry in the audit log.
//!
//! Every act is written to the store first. Settings, mutes and the pinned message are in the stream's document, from
//! whose change every node derives what clients are sent; deletions are passed to the room of this node, which passes
//! them on to other nodes.

use std::sync::Arc;
use std::time::Duration;

use crate::access::{Admitted, Denied};
use crate::clock::Timestamp;
use crate::config::product::GuestAccess;
use crate::problem::{Code, Problem};
use crate::store::SharedStore;
use crate::store::chat::{ChatMessage, ChatRange, ChatSettings, Mute, StoredMessage, WordFilter};
use crate::store::moderation::AuditEntry;
use crate::store::stream::{Outcome, Stream, StreamId, StreamState, UserId};
use crate::stream_cache::StreamCache;
use crate::user::{Caller, User};

use super::Chat;

/// Most users who are muted in one chat at a time: a stream's document is read and written as a whole.
const MUTES_MAX: usize = 1_000;

/// Called with each stream that was written.
pub type Observe = Arc<dyn Fn(Stream) + Send + Sync>;

/// What owners and administrators do in chats. Cheap to clone.
#[derive(Clone)]
pub struct ChatModeration {
    pub chat: Chat,
    pub store: SharedStore,
    pub cache: StreamCache,
    pub observe: Observe,
    pub guest: GuestAccess,
}

/// A change of the settings, validated (see `http`); absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsChange {
    pub enabled: Option<bool>,
    pub slow_mode_seconds: Option<u32>,
    pub max_length: Option<u32>,
    pub links_allowed: Option<bool>,
    pub emoji_only: Option<bool>,
    pub filter: Option<WordFilter>,
}

/// Messages of a chat, rising.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    pub messages: Vec<ChatMessage>,
    /// There are more in the direction that was asked for.
    pub has_more: bool,
}

impl ChatModeration {
    /// A page of messages, for whoever may read the chat. `admitted`: absent for guests.
    ///
    /// # Errors
    /// `stream_not_found`, `unauthenticated`, `blocked`, `store_unavailable`
    pub async fn history(
        &self,
        admitted: Option<&Admitted>,
        stream: StreamId,
        range: ChatRange,
        limit: usize,
    ) -> Result<HistoryPage, Problem> {
        let stream = self.stream(stream).await?;
        self.may_read(admitted, &stream)?;
        let mut messages = self.store.chat_messages(stream.id, range, limit.saturating_add(1)).await?;
        let has_more = messages.len() > limit;
        match range {
            ChatRange::Newest | ChatRange::Before(_) => {
                messages.drain(..messages.len().saturating_sub(limit));
            }
            ChatRange::After(_) => messages.truncate(limit),
        }
        Ok(HistoryPage { messages, has_more })
    }

    fn may_read(&self, admitted: Option<&Admitted>, stream: &Stream) -> Result<(), Problem> {
        match admitted {
            None if self.guest == GuestAccess::Off => {
                Err(Problem::new(Code::Unauthenticated, "Sign in to read this chat."))
            }
            None => Ok(()),
            Some(admitted) => refuse_blocked(admitted, stream),
        }
    }

    /// Hides a message from clients: its author's, or anybody's for owner and administrators, who may be banned.
    ///
    /// # Errors
    /// `stream_not_found`, `not_found`, `forbidden`, `banned`, `store_unavailable`
    pub async fn delete(
        &self,
        caller: &Caller,
        standing: Result<Admitted, Denied>,
        stream: StreamId,
        message: &str,
    ) -> Result<(), Problem> {
        let stream = self.stream(stream).await?;
        let StoredMessage { message, .. } = self.message(&stream, message).await?;
        if message.user_id == caller.user.id {
            refuse_blocked(&standing?, &stream)?;
        } else if !moderates(&caller.user, &stream) {
            return Err(Problem::new(Code::Forbidden, "Only its author, the owner and administrators may delete it."));
        }
        let is_new = self.store.chat_hide(stream.id, &message.id, &caller.user.id).await?;
        self.unpin_if(caller, &stream, |pinned| pinned.id == message.id).await?;
        if is_new {
            self.chat.deleted(stream.id, message.id.clone(), message.seq).await;
            self.audit(caller, "chat.delete", &stream, Some(message.id), serde_json::Value::Null).await?;
        }
        Ok(())
    }

    /// # Errors
    /// `stream_not_found`, `not_owner`, `stream_ended`, `store_unavailable`
    pub async fn change_settings(
        &self,
        caller: &Admitted,
        stream: StreamId,
        change: &SettingsChange,
    ) -> Result<ChatSettings, Problem> {
        let stream = self.moderated(caller, stream).await?;
        let settings = change.applied(&stream.chat_settings);
        let outcome = self.store.set_chat_settings(stream.id, &settings, Timestamp::now()).await?;
        let details = serde_json::to_value(&settings).unwrap_or_default();
        self.done(caller, outcome, "chat.settings", None, details).await?;
        Ok(settings)
    }

    /// Keeps a user from writing until then.
    ///
    /// # Errors
    /// `stream_not_found`, `not_owner`, `stream_ended`, `forbidden`, `conflict` when too many are muted,
    /// `store_unavailable`
    pub async fn mute(
        &self,
        caller: &Admitted,
        stream: StreamId,
        user: &UserId,
        length: Duration,
        delete_messages: bool,
    ) -> Result<Timestamp, Problem> {
        let stream = self.moderated(caller, stream).await?;
        if user == &stream.owner_id {
            return Err(Problem::new(Code::Forbidden, "The owner of a stream can't be muted in it."));
        }
        let now = Timestamp::now();
        let others = stream.mutes.iter().filter(|mute| mute.user_id != *user && now < mute.until);
        if others.count() >= MUTES_MAX {
            let detail = format!("{MUTES_MAX} users are muted already; unmute some first, or block this one.");
            return Err(Problem::new(Code::Conflict, detail));
        }
        let mute = Mute { user_id: user.clone(), until: now.plus(length) };
        let outcome = self.store.mute(stream.id, &mute, now).await?;
        let details = serde_json::json!({ "until": mute.until, "deleteMessages": delete_messages });
        self.done(caller, outcome, "chat.mute", Some(user), details).await?;
        if delete_messages {
            self.clear(caller, &stream, user).await?;
        }
        Ok(mute.until)
    }

    async fn clear(&self, caller: &Caller, stream: &Stream, user: &UserId) -> Result<(), Problem> {
        self.store.chat_hide_user(stream.id, user, &caller.user.id).await?;
        self.unpin_if(caller, stream, |pinned| &pinned.user_id == user).await?;
        // Also if the store had none to hide: with `chat.persist` off, clients have what the store has not.
        self.chat.cleared(stream.id, user.clone()).await;
        Ok(())
    }

    /// # Errors
    /// `stream_not_found`, `not_owner`, `stream_ended`, `store_unavailable`
    pub async fn unmute(&self, caller: &Admitted, stream: StreamId, user: &UserId) -> Result<(), Problem> {
        let stream = self.moderated(caller, stream).await?;
        let outcome = self.store.unmute(stream.id, user, Timestamp::now()).await?;
        self.done(caller, outcome, "chat.unmute", Some(user), serde_json::Value::Null).await
    }

    /// Shows a message above the chat, in place of the one before.
    ///
    /// # Errors
    /// `stream_not_found`, `not_found`, `not_owner`, `stream_ended`, `store_unavailable`
    pub async fn pin(&self, caller: &Admitted, stream: StreamId, message: &str) -> Result<ChatMessage, Problem> {
        let stream = self.moderated(caller, stream).await?;
        let StoredMessage { message, hidden_by, .. } = self.message(&stream, message).await?;
        if hidden_by.is_some() {
            return Err(no_message());
        }
        let outcome = self.store.pin(stream.id, Some(&message), Timestamp::now()).await?;
        let details = serde_json::json!({ "messageId": message.id });
        self.done(caller, outcome, "chat.pin", Some(&message.user_id), details).await?;
        Ok(message)
    }

    /// # Errors
    /// `stream_not_found`, `not_owner`, `stream_ended`, `store_unavailable`
    pub async fn unpin(&self, caller: &Admitted, stream: StreamId) -> Result<(), Problem> {
        let stream = self.moderated(caller, stream).await?;
        let outcome = self.store.pin(stream.id, None, Timestamp::now()).await?;
        self.done(caller, outcome, "chat.unpin", None, serde_json::Value::Null).await
    }

    /// Unpins the pinned message if it was hidden.
    async fn unpin_if(
        &self,
        caller: &Caller,
        stream: &Stream,
        hidden: impl FnOnce(&ChatMessage) -> bool,
    ) -> Result<(), Problem> {
        // In the newest copy, which may have been pinned a moment ago.
        let newest = self.cache.stream(stream.id);
        let pinned = newest.as_ref().map_or(&stream.pinned, |newest| &newest.pinned).as_ref();
        if !pinned.is_some_and(hidden) {
            return Ok(());
        }
        let outcome = self.store.pin(stream.id, None, Timestamp::now()).await?;
        self.done(caller, outcome, "chat.unpin", None, serde_json::Value::Null).await
    }

    async fn stream(&self, id: StreamId) -> Result<Arc<Stream>, Problem> {
        let stream = match self.cache.stream(id) {
            Some(stream) => stream,
            None => Arc::new(self.store.stream(id).await?.ok_or_else(Problem::stream_not_found)?),
        };
        match stream.state {
            // Scheduled ones have no chat yet, and may be nobody else's business.
            StreamState::Scheduled | StreamState::Cancelled => Err(Problem::stream_not_found()),
            StreamState::Starting | StreamState::Live | StreamState::Reconnecting | StreamState::Ended => Ok(stream),
        }
    }

    /// The stream, if the caller may moderate its chat and it is not over.
    async fn moderated(&self, caller: &Caller, id: StreamId) -> Result<Arc<Stream>, Problem> {
        let stream = self.stream(id).await?;
        if !moderates(&caller.user, &stream) {
            return Err(Problem::new(Code::NotOwner, "Only the owner and administrators may moderate this chat."));
        }
        if !stream.is_live() {
            return Err(Problem::new(Code::StreamEnded, "The stream is over, and its chat with it."));
        }
        Ok(stream)
    }

    async fn message(&self, stream: &Stream, id: &str) -> Result<StoredMessage, Problem> {
        self.store.chat_message(stream.id, id).await?.ok_or_else(no_message)
    }

    /// Passes a changed stream on, and writes the act to the audit log.
    async fn done(
        &self,
        caller: &Caller,
        outcome: Outcome,
        action: &'static str,
        target: Option<&UserId>,
        details: serde_json::Value,
    ) -> Result<(), Problem> {
        let changed = outcome.changed();
        let stream = outcome.into_stream();
        (self.observe)(stream.clone());
        if changed {
            self.audit(caller, action, &stream, target.map(ToString::to_string), details).await?;
        }
        Ok(())
    }

    async fn audit(
        &self,
        caller: &Caller,
        action: &'static str,
        stream: &Stream,
        target: Option<String>,
        details: serde_json::Value,
    ) -> Result<(), Problem> {
        let entry = AuditEntry {
            id: StreamId::generate().to_string(),
            at: Timestamp::now(),
            actor: caller.user.id.clone(),
            action: action.into(),
            stream_id: Some(stream.id),
            target,
            details,
            request_id: Some(caller.request_id.clone()),
        };
        entry.log(Some(&stream.room_name));
        Ok(self.store.append_audit(&entry).await?)
    }
}

fn refuse_blocked(admitted: &Admitted, stream: &Stream) -> Result<(), Problem> {
    match stream.blocks(&admitted.user.id) {
        true => Err(Problem::new(Code::Blocked, "You can't read this chat.")),
        false => Ok(()),
    }
}

fn moderates(user: &User, stream: &Stream) -> bool {
    user.is_admin() || user.id == stream.owner_id
}

fn no_message() -> Problem {
    Problem::new(Code::NotFound, "There is no such message in this chat.")
}

impl SettingsChange {
    fn applied(&self, settings: &ChatSettings) -> ChatSettings {
        ChatSettings {
            enabled: self.enabled.unwrap_or(settings.enabled),
            slow_mode_seconds: self.slow_mode_seconds.unwrap_or(settings.slow_mode_seconds),
            max_length: self.max_length.unwrap_or(settings.max_length),
            links_allowed: self.links_allowed.unwrap_or(settings.links_allowed),
            emoji_only: self.emoji_only.unwrap_or(settings.emoji_only),
            filter: self.filter.unwrap_or(settings.filter),
        }
    }
}
