//! Chat: messages, their numbers, and the sums that outlive them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, named_params, params};

use super::Embedded;
use super::list::list;
use super::row;
use super::value::{Json, Word, rows};
use crate::clock::Timestamp;
use crate::store::chat::{ChatMessage, ChatRange, ChatSettings, ChatStore, ChatTotals, Mute, StoredMessage};
use crate::store::stream::{Outcome, StreamId, UserId};
use crate::store::{Result, StoreError};

pub const COLUMNS: &str = "stream_id, id, seq, text, user_id, name, role, sent_at, client_id, reply_to, hidden_by";

#[async_trait]
impl ChatStore for Embedded {
    async fn chat_reserve(&self, id: StreamId, count: u32, at_least: i64) -> Result<i64> {
        self.write(move |connection| {
            let sql = "INSERT INTO chat_totals (stream_id, last_seq) VALUES (?1, max(0, ?3) + ?2) \
               ON CONFLICT (stream_id) DO UPDATE SET last_seq = max(last_seq, ?3) + ?2 RETURNING last_seq";
            let last: i64 =
                connection.prepare_cached(sql)?.query_row(params![id, count, at_least], |row| row.get(0))?;
            Ok(last - i64::from(count) + 1)
        })
        .await
    }

    async fn chat_append(&self, messages: &[StoredMessage]) -> Result<()> {
        let messages = messages.to_vec();
        self.write(move |connection| {
            for message in &messages {
                if !insert(connection, message, "ON CONFLICT (stream_id, id) DO NOTHING")? {
                    continue;
                }
                let new_chatter = note_chatter(connection, message.stream_id, &message.message.user_id)?;
                let sql = "INSERT INTO chat_totals (stream_id, messages, chatters) VALUES (?1, 1, ?2) \
                   ON CONFLICT (stream_id) DO UPDATE SET messages = messages + 1, chatters = chatters + ?2";
                connection.prepare_cached(sql)?.execute(params![message.stream_id, new_chatter])?;
            }
            Ok(())
        })
        .await
    }

    async fn chat_messages(&self, id: StreamId, range: ChatRange, limit: usize) -> Result<Vec<ChatMessage>> {
        self.read(move |connection| {
            let (bound, direction) = match range {
                ChatRange::Newest => (i64::MAX, "seq <= ?2 ORDER BY seq DESC"),
                ChatRange::Before(seq) => (seq, "seq < ?2 ORDER BY seq DESC"),
                ChatRange::After(seq) => (seq, "seq > ?2 ORDER BY seq"),
            };
            let sql = format!(
                "SELECT {COLUMNS} FROM chat_messages WHERE stream_id = ?1 AND hidden_by IS NULL AND {direction} \
                 LIMIT ?3"
            );
            let stored = list(connection, "chat_messages", &sql, &[&id, &bound], limit, row::message)?;
            let mut messages: Vec<_> = stored.into_iter().map(|stored| stored.message).collect();
            messages.sort_by_key(|message| message.seq);
            Ok(messages)
        })
        .await
    }

    async fn chat_message(&self, id: StreamId, message_id: &str) -> Result<Option<StoredMessage>> {
        let message_id = message_id.to_owned();
        self.read(move |c| message(c, id, &message_id)).await
    }

    async fn chat_hide(&self, id: StreamId, message_id: &str, by: &UserId) -> Result<bool> {
        let (message_id, by) = (message_id.to_owned(), by.clone());
        self.write(move |connection| {
            let sql = "UPDATE chat_messages SET hidden_by = ?3 WHERE stream_id = ?1 AND id = ?2 AND hidden_by IS NULL";
            if connection.prepare_cached(sql)?.execute(params![id, message_id, by])? > 0 {
                return Ok(true);
            }
            message(connection, id, &message_id)?.map(|_| false).ok_or(StoreError::NotFound)
        })
        .await
    }

    async fn chat_hide_user(&self, id: StreamId, user: &UserId, by: &UserId) -> Result<u64> {
        let (user, by) = (user.clone(), by.clone());
        self.write(move |connection| {
            let sql =
                "UPDATE chat_messages SET hidden_by = ?3 WHERE stream_id = ?1 AND user_id = ?2 AND hidden_by IS NULL";
            Ok(connection.prepare_cached(sql)?.execute(params![id, user, by])? as u64)
        })
        .await
    }

    async fn chat_add_reactions(&self, id: StreamId, counts: &BTreeMap<String, u64>) -> Result<()> {
        let counts = counts.clone();
        self.write(move |connection| {
            if counts.is_empty() {
                return Ok(());
            }
            let mut reactions = totals(connection, id)?.reactions;
            for (emoji, count) in counts {
                let sum = reactions.entry(emoji.clone()).or_default();
                *sum = sum.saturating_add(count);
            }
            let sql = "INSERT INTO chat_totals (stream_id, reactions) VALUES (?1, ?2) \
               ON CONFLICT (stream_id) DO UPDATE SET reactions = excluded.reactions";
            connection.prepare_cached(sql)?.execute(params![id, Json(reactions)])?;
            Ok(())
        })
        .await
    }

    async fn chat_totals(&self, id: StreamId) -> Result<ChatTotals> {
        self.read(move |c| totals(c, id)).await
    }

    async fn chat_trim(&self, id: StreamId, keep: usize) -> Result<u64> {
        self.write(move |connection| {
            let sql = "DELETE FROM chat_messages WHERE stream_id = ?1 AND seq <= \
               (SELECT seq FROM chat_messages WHERE stream_id = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)";
            Ok(connection.prepare_cached(sql)?.execute(params![id, rows(keep)])? as u64)
        })
        .await
    }

    async fn set_chat_settings(&self, id: StreamId, settings: &ChatSettings, at: Timestamp) -> Result<Outcome> {
        let settings = settings.clone();
        self.write(move |connection| {
            super::streams::change(connection, id, at, |stream| stream.chat_settings = settings)
        })
        .await
    }

    async fn mute(&self, id: StreamId, mute: &Mute, at: Timestamp) -> Result<Outcome> {
        let mute = mute.clone();
        self.write(move |connection| {
            super::streams::change(connection, id, at, |stream| {
                if stream.mutes.contains(&mute) {
                    return;
                }
                // Expired ones go, so that the list does not grow for ever.
                stream.mutes.retain(|other| other.user_id != mute.user_id && at < other.until);
                let place = stream.mutes.partition_point(|other| other.user_id < mute.user_id);
                stream.mutes.insert(place, mute);
            })
        })
        .await
    }

    async fn unmute(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        let user = user.clone();
        self.write(move |connection| {
            super::streams::change(connection, id, at, |stream| stream.mutes.retain(|mute| mute.user_id != user))
        })
        .await
    }

    async fn pin(&self, id: StreamId, message: Option<&ChatMessage>, at: Timestamp) -> Result<Outcome> {
        let message = message.cloned();
        self.write(move |connection| super::streams::change(connection, id, at, |stream| stream.pinned = message)).await
    }
}

/// False: the user was known.
pub fn note_chatter(connection: &Connection, id: StreamId, user: &UserId) -> Result<bool> {
    let sql = "INSERT INTO chatters (stream_id, user_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    Ok(connection.prepare_cached(sql)?.execute(params![id, user])? > 0)
}

pub fn insert(connection: &Connection, stored: &StoredMessage, on_conflict: &str) -> Result<bool> {
    let sql = format!(
        "INSERT INTO chat_messages ({COLUMNS}) VALUES (:stream_id, :id, :seq, :text, :user_id, :name, :role, \
         :sent_at, :client_id, :reply_to, :hidden_by) {on_conflict}"
    );
    let message = &stored.message;
    let written = connection.prepare_cached(&sql)?.execute(named_params! {
        ":stream_id": stored.stream_id,
        ":id": message.id,
        ":seq": message.seq,
        ":text": message.text,
        ":user_id": message.user_id,
        ":name": message.name,
        ":role": Word(message.role),
        ":sent_at": message.sent_at,
        ":client_id": message.client_id,
        ":reply_to": message.reply_to,
        ":hidden_by": stored.hidden_by,
    })?;
    Ok(written > 0)
}

pub fn message(connection: &Connection, id: StreamId, message_id: &str) -> Result<Option<StoredMessage>> {
    let sql = format!("SELECT {COLUMNS} FROM chat_messages WHERE stream_id = ?1 AND id = ?2");
    Ok(connection.prepare_cached(&sql)?.query_row(params![id, message_id], row::message).optional()?)
}

pub fn totals(connection: &Connection, id: StreamId) -> Result<ChatTotals> {
    let sql = "SELECT messages, chatters, reactions, last_seq FROM chat_totals WHERE stream_id = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(ChatTotals {
            messages: number(row.get(0)?),
            chatters: number(row.get(1)?),
            reactions: row.get::<_, Json<_>>(2)?.0,
            last_seq: row.get(3)?,
        })
    };
    Ok(connection.prepare_cached(sql)?.query_row([id], read).optional()?.unwrap_or_default())
}

fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
