//! All documents out and in, for `onair migrate`.

use rusqlite::types::ToSql;
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::value::{Json, rows};
use super::{chat, moderation, presence, row};
use crate::store::interchange::{OwnerBlock, StreamPresence, StreamTotals};
use crate::store::moderation::{AuditEntry, Ban, Report};
use crate::store::stream::{Stream, StreamId, UserId};
use crate::store::{Exported, Result, StoreError};

pub fn export(connection: &Connection, collection: &str, after: Option<&str>, limit: usize) -> Result<Vec<Exported>> {
    let source = Source { connection, after: after.unwrap_or_default(), limit };
    match collection {
        "livestreams" => source.by_id("streams", row::COLUMNS, "id", row::stream, |stream| stream.id.to_string()),
        "reports" => source
            .by_id("reports", moderation::REPORT_COLUMNS, "id", moderation::read_report, |report| report.id.clone()),
        "bans" => source
            .by_id("bans", moderation::BAN_COLUMNS, "user_id", moderation::read_ban, |ban| ban.user_id.to_string()),
        "audit" => {
            source.by_id("audit", moderation::AUDIT_COLUMNS, "id", moderation::read_audit, |entry| entry.id.clone())
        }
        "presence" => source.presence(),
        "chat_messages" => source.chat_messages(),
        "chat_totals" => source.chat_totals(),
        "owner_blocks" => source.owner_blocks(),
        _ => Err(unknown(collection)),
    }
}

fn unknown(collection: &str) -> StoreError {
    StoreError::Failed(format!("there is no collection {collection:?}"))
}

struct Source<'a> {
    connection: &'a Connection,
    after: &'a str,
    limit: usize,
}

impl Source<'_> {
    fn by_id<T: Serialize>(
        &self,
        table: &str,
        columns: &str,
        id: &str,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
        key: fn(&T) -> String,
    ) -> Result<Vec<Exported>> {
        let sql = format!("SELECT {columns} FROM {table} WHERE {id} > ?1 ORDER BY {id} LIMIT ?2");
        exported(self.read(&sql, &[&self.after, &rows(self.limit)], read)?, key)
    }

    fn presence(&self) -> Result<Vec<Exported>> {
        let (stream, sid) = self.after.split_once('/').unwrap_or_default();
        let sql = "SELECT * FROM presence WHERE (stream_id, sid) > (?1, ?2) ORDER BY stream_id, sid LIMIT ?3";
        let read =
            |row: &Row<'_>| Ok(StreamPresence { stream_id: row.get("stream_id")?, session: row::presence(row)? });
        let sessions = self.read(sql, &[&stream, &sid, &rows(self.limit)], read)?;
        exported(sessions, |document| format!("{}/{}", document.stream_id, document.session.sid))
    }

    fn chat_messages(&self) -> Result<Vec<Exported>> {
        let (stream, id) = self.after.split_once('/').unwrap_or_default();
        let sql = "SELECT * FROM chat_messages WHERE (stream_id, id) > (?1, ?2) ORDER BY stream_id, id LIMIT ?3";
        let messages = self.read(sql, &[&stream, &id, &rows(self.limit)], row::message)?;
        exported(messages, |stored| format!("{}/{}", stored.stream_id, stored.message.id))
    }

    fn chat_totals(&self) -> Result<Vec<Exported>> {
        let sql = "SELECT stream_id FROM chat_totals WHERE stream_id > ?1 ORDER BY stream_id LIMIT ?2";
        let ids: Vec<StreamId> = self.read(sql, &[&self.after, &rows(self.limit)], |row| row.get(0))?;
        let with_totals = ids.into_iter().map(|id| {
            let sql = "SELECT user_id FROM chatters WHERE stream_id = ?1 ORDER BY user_id";
            let chatters: Vec<UserId> = self.read(sql, &[&id], |row| row.get(0))?;
            Ok(StreamTotals::new(id, chat::totals(self.connection, id)?, chatters))
        });
        exported(with_totals.collect::<Result<_>>()?, |totals| totals.stream_id.to_string())
    }

    /// Ids of users may hold any character; in hexadecimal, the parts of a key can be told apart.
    fn owner_blocks(&self) -> Result<Vec<Exported>> {
        let (owner, user) = self.after.split_once('/').unwrap_or_default();
        let (owner, user) = (from_hex(owner)?, from_hex(user)?);
        let sql = "SELECT * FROM owner_blocks WHERE (owner_id, user_id) > (?1, ?2) ORDER BY owner_id, user_id LIMIT ?3";
        let read = |row: &Row<'_>| Ok(OwnerBlock { owner_id: row.get("owner_id")?, block: row::block(row)? });
        let blocks = self.read(sql, &[&owner, &user, &rows(self.limit)], read)?;
        exported(blocks, |document| format!("{}/{}", hex(&document.owner_id), hex(&document.block.user_id)))
    }

    fn read<T>(
        &self,
        sql: &str,
        values: &[&dyn ToSql],
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_map(values, |row| read(row))?.collect::<rusqlite::Result<_>>()?;
        Ok(found)
    }
}

fn exported<T: Serialize>(documents: Vec<T>, key: impl Fn(&T) -> String) -> Result<Vec<Exported>> {
    let one = |document: T| Ok(Exported { key: key(&document), document: serde_json::to_value(&document)? });
    documents.into_iter().map(one).collect()
}

fn hex(user: &UserId) -> String {
    user.as_str().bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<String> {
    let broken = || StoreError::Failed("the key to go on after is none of this store".to_owned());
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    String::from_utf8(bytes.ok_or_else(broken)?).map_err(|_| broken())
}

pub fn import(connection: &Connection, collection: &str, documents: &[Exported]) -> Result<()> {
    let write = match collection {
        "livestreams" => livestream,
        "presence" => session,
        "chat_messages" => message,
        "chat_totals" => totals,
        "reports" => report,
        "bans" => ban,
        "owner_blocks" => owner_block,
        "audit" => audit_entry,
        _ => return Err(unknown(collection)),
    };
    for document in documents {
        write(connection, &document.document).map_err(|error| match error {
            StoreError::Failed(text) => StoreError::Failed(format!("{collection} {:?}: {text}", document.key)),
            StoreError::NotFound | StoreError::Unavailable(_) => error,
        })?;
    }
    Ok(())
}

fn read<T: DeserializeOwned>(document: &serde_json::Value) -> Result<T> {
    Ok(T::deserialize(document)?)
}

fn livestream(connection: &Connection, document: &serde_json::Value) -> Result<()> {
    Ok(row::replace(connection, &read::<Stream>(document)?)?)
}

fn session(connection: &Connection, document: &serde_json::Value) -> Result<()> {
    let StreamPresence { stream_id, session } = read(document)?;
    presence::replace(connection, stream_id, &session)
}

fn message(connection: &Connection, document: &serde_json::Value) -> Result<()> {
    let stored: crate::store::chat::StoredMessage = read(document)?;
    let sql = "DELETE FROM chat_messages WHERE stream_id = ?1 AND id = ?2";
    connection.prepare_cached(sql)?.execute(params![stored.stream_id, stored.message.id])?;
    chat::insert(connection, &stored, "")?;
    Ok(())
}

fn totals(connection: &Connection, document: &serde_json::Value) -> Result<()> {
    let totals: StreamTotals = read(document)?;
    connection.prepare_cached("DELETE FROM chatters WHERE stream_id = ?1")?.execute([totals.stream_id])?;
    for user in &totals.chatters {
        chat::note_chatter(connection, totals.stream_id, user)?;
    }
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let sql = "INSERT OR REPLACE INTO chat_totals (stream_id, last_seq, messages, chatters, reactions) \
               VALUES (?1, ?2, ?3, (SELECT count(*) FROM chatters WHERE stream_id = ?1), ?4)";
    let values = params![totals.stream_id, totals.last_seq, number(totals.messages), Json(&totals.reactions)];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

fn report(connection: &Connection, document: &serde_json::Value) -> Result<()> {
    Ok(moderation::write_report(connection, &read::<Report>(document)?)?)
}

fn ban(connection: &Connection, document: &serde_json::Value) -> Result<()> {
    moderation::set_ban(connection, &read::<Ban>(document)?)
}

fn owner_block(connection: &Connection, document: &serde_json::Value) -> Result<()> {
    let OwnerBlock { owner_id, block } = read(document)?;
    super::moderation::owner_unblock(connection, &owner_id, &block.user_id)?;
    super::moderation::owner_block(connection, &owner_id, &block)?;
    Ok(())
}

fn audit_entry(connection: &Connection, document: &serde_json::Value) -> Result<()> {
    moderation::write_audit(connection, &read::<AuditEntry>(document)?, "INSERT OR REPLACE")
}
