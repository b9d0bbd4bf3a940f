//! What follows from a change, in the same way on every node: first for the chat, in the order of the changes, and then
//! for rooms.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use super::{Counters, Lifecycle};
use crate::rooms::RoomsError;
use crate::store::moderation::Ban;
use crate::store::stream::{Stream, StreamId, UserId};
use crate::stream_cache::Change;

/// Longest wait for the chat of a stream that ended to close before the room is deleted, so that clients of the chat
/// are sent the end first.
const CHAT_PATIENCE: Duration = Duration::from_secs(10);

/// Rooms that are searched for one user at the same time.
const ROOMS_AT_ONCE: usize = 8;

impl Lifecycle {
    /// Adds a copy of a stream that was read or written to the cache, and carries out what follows from the change. A
    /// copy that is not newer changes nothing. Returns the newest copy known.
    pub fn observe(&self, stream: Stream) -> Arc<Stream> {
        let chat = &self.0.chat;
        let change = self.0.cache.observe(stream, |change| {
            chat.observe(change);
            change.clone()
        });
        match change {
            Ok(change) => {
                self.follow(&change);
                change.after
            }
            Err(newest) => newest,
        }
    }

    pub(super) fn follow(&self, change: &Change) {
        let stream = &change.after;
        if change.was_live() && !stream.is_live() {
            self.0.agenda.forget(stream.id);
            self.0.cache.places().forget(&stream.room_name);
            self.close_room_later(stream);
        }
        if stream.is_live() {
            self.0.agenda.add(stream.id, self.now().plus(self.0.reconcile_interval));
            let before = change.before.as_ref();
            let new: HashSet<UserId> = match before {
                Some(before) => new_blocks(before, stream),
                None => HashSet::new(),
            };
            if !new.is_empty() {
                let (lifecycle, stream) = (self.clone(), Arc::clone(stream));
                self.spawn(async move { lifecycle.remove_users(&stream, &new).await });
            }
        }
    }

    /// Deletes the room of a stream that ended, after its chat has closed. Does not wait for it.
    pub(crate) fn close_room_later(&self, stream: &Stream) {
        let (lifecycle, id, room) = (self.clone(), stream.id, stream.room_name.clone());
        self.spawn(async move { lifecycle.close_room(id, &room).await });
    }

    async fn close_room(&self, id: StreamId, room: &str) {
        if tokio::time::timeout(CHAT_PATIENCE, self.0.chat.closed(id)).await.is_err() {
            tracing::warn!(stream = %id, "the chat does not close; its room is deleted all the same");
        }
        if room.is_empty() {
            return;
        }
        match self.0.rooms.delete(room).await {
            Ok(()) => Counters::add(&self.0.counters.rooms_deleted),
            Err(RoomsError::NotFound) => {}
            // The reconciler deletes it later.
            Err(error) => tracing::info!(stream = %id, %error, "the room of an ended stream stays for now"),
        }
    }

    /// Removes all sessions of these users from a stream's room.
    async fn remove_users(&self, stream: &Stream, users: &HashSet<UserId>) {
        let sessions = match self.0.rooms.sessions(&stream.room_name).await {
            Ok(sessions) => sessions,
            Err(RoomsError::NotFound) => return,
            Err(error) => {
                tracing::warn!(stream = %stream.id, %error, "blocked users stay in the room until it can be asked");
                self.0.agenda.soon(stream.id, self.now());
                return;
            }
        };
        for session in sessions.iter().filter(|session| session.user.as_ref().is_some_and(|user| users.contains(user)))
        {
            self.remove_session(stream, &session.identity).await;
        }
    }

    /// Removes sessions from a stream's room. Does not wait for it.
    pub(crate) fn remove_later(&self, stream: Arc<Stream>, identities: Vec<String>) {
        let lifecycle = self.clone();
        self.spawn(async move {
            for identity in identities {
                lifecycle.remove_session(&stream, &identity).await;
            }
        });
    }

    async fn remove_session(&self, stream: &Stream, identity: &str) {
        match self.0.rooms.remove(&stream.room_name, identity).await {
            Ok(()) => Counters::add(&self.0.counters.sessions_removed),
            Err(RoomsError::NotFound) => {}
            Err(error) => {
                tracing::warn!(stream = %stream.id, %error, "a session stays in the room until it can be removed");
                self.0.agenda.soon(stream.id, self.now());
            }
        }
    }

    /// Adds a ban that was set, lifted or read to the cache. One that is new and holds ends the user's stream,
    /// disconnects the user's sockets of chats and removes the user's sessions from rooms.
    pub fn observe_ban(&self, ban: Ban) {
        let (user, holds) = (ban.user_id.clone(), ban.holds(self.now()));
        if !self.0.cache.observe_ban(ban) || !holds {
            return;
        }
        self.0.chat.disconnect_user(&user);
        let lifecycle = self.clone();
        self.spawn(async move {
            if let Err(problem) = lifecycle.end_for_ban(&user).await {
                // It is tried again: a banned owner is one of the deadlines (`reconcile::deadline`).
                tracing::warn!(%problem, "the stream of a banned user goes on for now");
            }
            lifecycle.remove_everywhere(&user).await;
        });
    }

    async fn remove_everywhere(&self, user: &UserId) {
        let users = HashSet::from([user.clone()]);
        stream::iter(self.0.cache.all())
            .for_each_concurrent(ROOMS_AT_ONCE, |stream| {
                let users = &users;
                async move { self.remove_users(&stream, users).await }
            })
            .await;
    }
}

fn new_blocks(before: &Stream, after: &Stream) -> HashSet<UserId> {
    let known: HashSet<&UserId> = before.blocks.iter().map(|block| &block.user_id).collect();
    after.blocks.iter().map(|block| &block.user_id).filter(|user| !known.contains(user)).cloned().collect()
}
