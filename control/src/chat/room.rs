//! The chat of one live stream: who may write, in which order messages are sent, and which events clients are sent
//! (stream API, section 8).
//!
//! A state machine: inputs and the time go in, events for clients come out. The [task](super::task) around it has the
//! sockets, the store and the clock.

pub(crate) mod authors;
pub(crate) mod history;
pub(crate) mod numbers;
pub(crate) mod reactions;
pub(crate) mod sequence;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt as _;

use crate::clock::Timestamp;
use crate::store::chat::{ChatMessage, ChatNote, ChatRole, ChatTotals};
use crate::store::stream::{Stream, UserId};

use super::limits::{Bucket, Limits};
use super::refusal::{Refusal, RefusalCode};
use super::wire::{Event, MessageIn, State, You};
use super::words;
use authors::Authors;
use history::History;
use numbers::Numbers;
use reactions::Reactions;
use sequence::Sequence;

/// Longest `clientId`, in characters.
const CLIENT_ID_MAX: usize = 36;

/// Length of a message's id, a ULID, in bytes.
const MESSAGE_ID_LENGTH: usize = 26;

/// Without the store, nodes that number messages cannot agree who uses which numbers. So each skips a random multiple
/// of [`LEAP`], from 1 to [`LEAPS`], which is more than the messages that can wait for the store. No number comes near
/// 2^53, up to which JavaScript counts exactly.
const LEAP: i64 = 100_000;
const LEAPS: i64 = 100_000;

/// One socket of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SocketKey(pub u64);

/// Who is behind a socket.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    pub user: UserId,
    pub role: ChatRole,
    pub name: String,
    /// Guests may be readers only.
    pub may_write: bool,
    /// Of the token; guests have none.
    pub expires_at: Option<Timestamp>,
}

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub at: Instant,
    pub wall: Timestamp,
}

impl Now {
    pub fn new() -> Self {
        Self { at: Instant::now(), wall: Timestamp::now() }
    }
}

/// An effect that the task carries out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Out {
    All(Event),
    One(SocketKey, Event),
    /// Send the client the event, if there is one, and disconnect it.
    Disconnect(SocketKey, Option<Event>),
    /// Send everybody the event, disconnect all, and close the room.
    Close(Event),
}

/// A message that was accepted, without its number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft(ChatMessage);

#[derive(Debug)]
pub(crate) struct Room {
    stream: Arc<Stream>,
    limits: Arc<Limits>,
    /// Emoji that may be sent; empty: any.
    emoji: Arc<[String]>,
    members: HashMap<SocketKey, Member>,
    pub numbers: Numbers,
    history: History,
    sequence: Sequence,
    authors: Authors,
    all_messages: Bucket,
    reactions: Reactions,
    viewers_sent: ViewersSent,
}

/// The number of viewers as clients were sent it last, and when.
#[derive(Debug, Default)]
struct ViewersSent {
    at: Option<Instant>,
    viewers: u32,
    peak: u32,
}

impl Room {
    pub fn new(stream: Arc<Stream>, limits: Arc<Limits>, emoji: Arc<[String]>) -> Self {
        let viewers_sent = ViewersSent { at: None, viewers: stream.viewers, peak: stream.peak_viewers };
        Self {
            history: History::new(limits.history_max),
            stream,
            limits,
            emoji,
            members: HashMap::new(),
            numbers: Numbers::default(),
            sequence: Sequence::default(),
            authors: Authors::default(),
            all_messages: Bucket::default(),
            reactions: Reactions::default(),
            viewers_sent,
        }
    }

    /// Starts without messages, since none are kept. A client that was here before is told of a gap, as it may have
    /// missed some.
    pub fn load_nothing(&mut self, totals: ChatTotals) {
        self.history.forget_up_to(totals.last_seq);
        self.reactions.load(totals.reactions);
    }

    /// Starts with what the store has.
    pub fn load(&mut self, totals: ChatTotals, messages: Vec<ChatMessage>) {
        let complete = messages.len() < self.limits.history_max;
        let last = messages.last().map_or(0, |message| message.seq);
        self.history.load(messages, complete);
        self.sequence.start_at(last);
        self.reactions.load(totals.reactions);
    }

    #[cfg(test)]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    // ---- members

    /// A client has joined. Returns the state that it is sent first. `last_seq`: the number of the last message that it
    /// has, if it comes back.
    pub fn on_join(&mut self, key: SocketKey, member: Member, last_seq: Option<i64>, now: Now) -> Out {
        if self.stream.blocks(&member.user) {
            return Out::Disconnect(key, Some(Event::Blocked {}));
        }
        let recent = self.history.recent(last_seq, self.limits.history);
        let state = State {
            you: self.you(&member, now),
            settings: self.stream.chat_settings.clone(),
            pinned: self.stream.pinned.clone(),
            viewers: self.stream.viewers,
            history: recent.messages,
            last_seq: self.history.last(),
            gap: recent.gap,
            reaction_totals: self.reactions.totals(&self.limits),
        };
        self.members.insert(key, member);
        Out::One(key, Event::State(Box::new(state)))
    }

    pub fn on_leave(&mut self, key: SocketKey) {
        self.members.remove(&key);
    }

    fn you(&self, member: &Member, now: Now) -> You {
        let muted_until = self.muted_until(&member.user, now);
        let can_write = member.may_write && muted_until.is_none() && self.stream.chat_settings.enabled;
        You { user_id: member.user.clone(), role: member.role, can_write, muted_until }
    }

    fn muted_until(&self, user: &UserId, now: Now) -> Option<Timestamp> {
        let mute = self.stream.mutes.iter().find(|mute| &mute.user_id == user)?;
        Some(mute.until).filter(|until| *until > now.wall)
    }

    /// The sockets of a user.
    fn sockets_of(&self, user: &UserId) -> Vec<SocketKey> {
        self.members.iter().filter(|(_, member)| &member.user == user).map(|(key, _)| *key).collect()
    }

    /// Disconnects a user who was banned.
    pub fn on_ban(&mut self, user: &UserId) -> Vec<Out> {
        self.sockets_of(user).into_iter().map(|key| Out::Disconnect(key, None)).collect()
    }

    // ---- messages

    /// Accepts a message, or says why not.
    pub fn on_message(&mut self, member: &Member, message: MessageIn, now: Now) -> Result<Draft, Refusal> {
        self.may_write(member, now)?;
        check_references(&message)?;
        let settings = &self.stream.chat_settings;
        let text = words::checked(&message.text, settings)?;
        let slow_mode = match member.role {
            ChatRole::Owner | ChatRole::Admin => Duration::ZERO,
            ChatRole::User | ChatRole::Guest => Duration::from_secs(settings.slow_mode_seconds.into()),
        };
        self.authors.may_write(&member.user, &text, slow_mode, &self.limits, now.at)?;
        self.all_messages.take(self.limits.room, now.at).map_err(|wait| Refusal::busy().after(wait))?;
        self.authors.sent(&member.user, &text, now.at);
        Ok(Draft(ChatMessage {
            id: ulid::Ulid::generate().to_string(),
            seq: 0,
            text,
            user_id: member.user.clone(),
            name: member.name.clone(),
            role: member.role,
            sent_at: now.wall,
            client_id: message.client_id,
            reply_to: message.reply_to,
        }))
    }

    fn may_write(&self, member: &Member, now: Now) -> Result<(), Refusal> {
        if !self.stream.is_live() {
            return Err(Refusal::over());
        }
        if !member.may_write {
            return Err(Refusal::new(RefusalCode::Unauthenticated, "Sign in to write here."));
        }
        if member.expires_at.is_some_and(|at| at <= now.wall) {
            return Err(Refusal::new(RefusalCode::TokenExpired, "Connect again with a new token to write here."));
        }
        if self.stream.blocks(&member.user) {
            return Err(Refusal::new(RefusalCode::Blocked, "You can't write here."));
        }
        if let Some(until) = self.muted_until(&member.user, now) {
            let refusal = Refusal::new(RefusalCode::Muted, "You are muted for a while.");
            return Err(refusal.after(until.since(now.wall)));
        }
        if !self.stream.chat_settings.enabled {
            return Err(Refusal::new(RefusalCode::ChatDisabled, "The chat is switched off."));
        }
        Ok(())
    }

    /// Gives accepted messages their numbers. `None`: the store was never reached, so no numbers are known to be free.
    /// `alone`: no other node numbers messages of this room.
    pub fn number(&mut self, drafts: Vec<Draft>, alone: bool) -> Option<Vec<Arc<ChatMessage>>> {
        let leap = || if alone { 0 } else { rand::rng().random_range(1..=LEAPS) * LEAP };
        self.numbers.go_on_alone(drafts.len(), self.sequence.highest(), leap);
        let number = |Draft(message)| Some(Arc::new(ChatMessage { seq: self.numbers.take()?, ..message }));
        drafts.into_iter().map(number).collect()
    }

    /// The highest number that was seen here, also from nodes that numbered without the store. The store must give
    /// higher ones: a message with a lower number would come too late to be shown.
    pub fn last_number(&self) -> i64 {
        self.numbers.used().max(self.sequence.highest())
    }

    /// A message that was accepted could not be kept, and is not sent: its author may try again.
    pub fn on_unsent(&mut self, author: &Member) {
        self.authors.unsent(&author.user);
    }

    /// Messages of this node that are stored by now. `alone`: no other node numbers messages of this room.
    pub fn on_sent(&mut self, messages: &[Arc<ChatMessage>], alone: bool, now: Now) -> Vec<Out> {
        if alone {
            let mut out = self.released(now);
            out.extend(messages.iter().map(|message| {
                self.sequence.start_at(message.seq);
                self.shown(message)
            }));
            return out;
        }
        for message in messages {
            self.insert(Arc::clone(message), now);
        }
        self.released(now)
    }

    /// Puts a message into the order of all nodes' messages. False: one with a higher number was sent before, so that
    /// it is added to the history alone, for clients that ask for what they missed.
    fn insert(&mut self, message: Arc<ChatMessage>, now: Now) -> bool {
        let fresh = self.sequence.push(Arc::clone(&message), now.at);
        if !fresh && !self.sequence.is_waiting(message.seq) {
            self.history.add_late(message);
        }
        fresh
    }

    fn released(&mut self, now: Now) -> Vec<Out> {
        let mut out = Vec::new();
        while let Some(message) = self.sequence.next(self.limits.hold, now.at) {
            out.push(self.shown(&message));
        }
        out
    }

    fn shown(&mut self, message: &Arc<ChatMessage>) -> Out {
        self.history.push(Arc::clone(message));
        Out::All(Event::Message(Arc::clone(message)))
    }

    // ---- reactions

    /// `Ok(None)`: it is counted, but not sent as an event of its own.
    ///
    /// # Errors
    /// `None`: beyond the user's limit, and dropped without an answer.
    pub fn on_reaction(&mut self, member: &Member, emoji: &str, now: Now) -> Result<Option<Out>, Option<Refusal>> {
        self.may_write(member, now)?;
        let allowed = match &*self.emoji {
            [] => words::is_one_emoji(emoji),
            some => some.iter().any(|one| one == emoji),
        };
        if !allowed {
            return Err(Some(Refusal::new(RefusalCode::ValidationFailed, "This is no emoji that may be sent here.")));
        }
        if !self.authors.may_react(&member.user, &self.limits, now.at) {
            return Err(None);
        }
        let single = self.reactions.add(emoji, &self.limits, now.at);
        Ok(single.then(|| Out::All(Event::Reaction(emoji.to_owned()))))
    }

    pub fn reactions(&mut self) -> &mut Reactions {
        &mut self.reactions
    }

    // ---- moderation and other nodes

    pub fn on_deleted(&mut self, id: String, seq: i64) -> Out {
        self.history.remove(&id);
        Out::All(Event::Deleted { id, seq })
    }

    pub fn on_cleared(&mut self, user_id: UserId) -> Out {
        self.history.remove_of(&user_id);
        Out::All(Event::Cleared { user_id })
    }

    /// A note of another node. `Err`: a message that came too late to be shown in order.
    pub fn on_note(&mut self, note: ChatNote, now: Now) -> Result<Vec<Out>, ()> {
        match note {
            ChatNote::Message { message } => {
                let fresh = self.insert(Arc::new(message), now);
                let out = self.released(now);
                if fresh { Ok(out) } else { Err(()) }
            }
            ChatNote::Deleted { id, seq } => Ok(vec![self.on_deleted(id, seq)]),
            ChatNote::Cleared { user_id } => Ok(vec![self.on_cleared(user_id)]),
            ChatNote::Reactions { counts } => {
                self.reactions.add_of_others(&counts, &self.limits, now.at);
                Ok(Vec::new())
            }
        }
    }

    /// Adds the newest messages of the store, of which clients here may not have been sent all. Those that are too late
    /// to be shown in order are added to the history alone.
    pub fn backfill(&mut self, stored: Vec<ChatMessage>, now: Now) -> Vec<Out> {
        let mut late = Vec::new();
        for message in stored {
            let message = Arc::new(message);
            if !self.sequence.push(Arc::clone(&message), now.at) {
                late.push(ChatMessage::clone(&message));
            }
        }
        self.history.load(late, true);
        self.released(now)
    }

    // ---- the stream, and time

    /// The stream changed; a newer copy of it.
    pub fn on_stream(&mut self, stream: Arc<Stream>, now: Now) -> Vec<Out> {
        let before = std::mem::replace(&mut self.stream, stream);
        let after = Arc::clone(&self.stream);
        if !after.is_live() {
            return vec![Out::Close(Event::Ended { end_reason: after.end_reason, ended_at: after.ended_at })];
        }
        let mut out = Vec::new();
        self.disconnect_blocked(&before, &mut out);
        self.send_mutes(&before, now, &mut out);
        if before.chat_settings != after.chat_settings {
            out.push(Out::All(Event::Settings(after.chat_settings.clone())));
        }
        if before.pinned != after.pinned {
            out.push(Out::All(Event::Pinned(after.pinned.clone())));
        }
        if (&before.title, &before.tags, &before.cover_url) != (&after.title, &after.tags, &after.cover_url) {
            let (title, tags, cover_url) = (after.title.clone(), after.tags.clone(), after.cover_url.clone());
            out.push(Out::All(Event::Updated { title, tags, cover_url }));
        }
        if before.state != after.state {
            out.push(Out::All(Event::StreamState { state: after.state }));
        }
        out.extend(self.viewers(now));
        out
    }

    fn disconnect_blocked(&self, before: &Stream, out: &mut Vec<Out>) {
        for block in self.stream.blocks.iter().filter(|block| !before.blocks(&block.user_id)) {
            let sockets = self.sockets_of(&block.user_id);
            out.extend(sockets.into_iter().map(|key| Out::Disconnect(key, Some(Event::Blocked {}))));
        }
    }

    fn send_mutes(&self, before: &Stream, now: Now, out: &mut Vec<Out>) {
        let until = |stream: &Stream, user: &UserId| {
            let mute = stream.mutes.iter().find(|mute| &mute.user_id == user)?;
            Some(mute.until).filter(|until| *until > now.wall)
        };
        if before.mutes == self.stream.mutes {
            return;
        }
        for (key, member) in &self.members {
            let (was, is) = (until(before, &member.user), until(&self.stream, &member.user));
            if was != is {
                out.push(Out::One(*key, Event::Muted { until: is }));
            }
        }
    }

    /// The number of viewers, if it has changed and it is time.
    fn viewers(&mut self, now: Now) -> Option<Out> {
        if !self.viewers_changed() || self.viewers_due().is_some_and(|due| due > now.at) {
            return None;
        }
        let (viewers, peak) = (self.stream.viewers, self.stream.peak_viewers);
        self.viewers_sent = ViewersSent { at: Some(now.at), viewers, peak };
        Some(Out::All(Event::Viewers { viewers, peak_viewers: peak }))
    }

    fn viewers_changed(&self) -> bool {
        (self.viewers_sent.viewers, self.viewers_sent.peak) != (self.stream.viewers, self.stream.peak_viewers)
    }

    /// When the number of viewers may be sent next. `None`: at once, as none was sent before.
    fn viewers_due(&self) -> Option<Instant> {
        self.viewers_sent.at.map(|at| at + self.limits.viewers_interval)
    }

    /// When [`Room::on_time`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let viewers = self.viewers_due().filter(|_| self.viewers_changed());
        let deadlines = [self.reactions.due(), viewers, self.sequence.deadline(self.limits.hold)];
        deadlines.into_iter().flatten().min()
    }

    pub fn on_time(&mut self, now: Now) -> Vec<Out> {
        let mut out = self.released(now);
        if let Some((counts, totals)) = self.reactions.take_window(&self.limits, now.at) {
            let window_ms = u64::try_from(self.limits.reaction_window.as_millis()).unwrap_or(u64::MAX);
            out.push(Out::All(Event::Reactions { window_ms, counts, totals }));
        }
        out.extend(self.viewers(now));
        out
    }
}

fn check_references(message: &MessageIn) -> Result<(), Refusal> {
    let invalid = |text: &'static str| Err(Refusal::new(RefusalCode::ValidationFailed, text));
    let shown = |id: &String| id.chars().count() <= CLIENT_ID_MAX && !id.chars().any(char::is_control);
    if !message.client_id.as_ref().is_none_or(shown) {
        return invalid("clientId has at most 36 characters.");
    }
    let is_id = |id: &String| id.len() == MESSAGE_ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !message.reply_to.as_ref().is_none_or(is_id) {
        return invalid("replyTo is the id of a message.");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
