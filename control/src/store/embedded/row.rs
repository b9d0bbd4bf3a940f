//! Rows to documents and back.

use rusqlite::{Connection, Row, named_params};

use super::value::{Json, Word};
use crate::store::chat::{ChatMessage, StoredMessage};
use crate::store::presence::Presence;
use crate::store::stream::{Block, Stream};

/// What [`stream`] reads.
pub const COLUMNS: &str = "id, owner_id, owner_profile, room_name, room_sid, title, cover_url, tags, state, visibility, \
     end_reason, scheduled_for, started_at, ended_at, state_since, viewers, peak_viewers, unique_viewers, flagged, \
     blocks, mutes, chat_settings, pinned, created_at, updated_at, rev";

macro_rules! insert_stream {
    () => {
        "INSERT INTO streams (id, owner_id, owner_profile, room_name, room_sid, title, cover_url, tags, state, \
         visibility, end_reason, scheduled_for, started_at, ended_at, state_since, viewers, peak_viewers, \
         unique_viewers, flagged, blocks, mutes, chat_settings, pinned, created_at, updated_at, rev) \
         VALUES (:id, :owner_id, :owner_profile, :room_name, :room_sid, :title, :cover_url, :tags, :state, \
         :visibility, :end_reason, :scheduled_for, :started_at, :ended_at, :state_since, :viewers, :peak_viewers, \
         :unique_viewers, :flagged, :blocks, :mutes, :chat_settings, :pinned, :created_at, :updated_at, :rev)"
    };
}

const INSERT: &str = insert_stream!();
const INSERT_OR_REPLACE: &str = concat!(
    insert_stream!(),
    " ON CONFLICT (id) DO UPDATE SET owner_id = excluded.owner_id, owner_profile = excluded.owner_profile, \
     room_name = excluded.room_name, room_sid = excluded.room_sid, title = excluded.title, \
     cover_url = excluded.cover_url, tags = excluded.tags, state = excluded.state, visibility = excluded.visibility, \
     end_reason = excluded.end_reason, scheduled_for = excluded.scheduled_for, started_at = excluded.started_at, \
     ended_at = excluded.ended_at, state_since = excluded.state_since, viewers = excluded.viewers, \
     peak_viewers = excluded.peak_viewers, unique_viewers = excluded.unique_viewers, flagged = excluded.flagged, \
     blocks = excluded.blocks, mutes = excluded.mutes, chat_settings = excluded.chat_settings, \
     pinned = excluded.pinned, created_at = excluded.created_at, updated_at = excluded.updated_at, rev = excluded.rev"
);

/// Unique indexes hold; their violation is the error.
pub fn insert(connection: &Connection, stream: &Stream) -> rusqlite::Result<()> {
    write(connection, INSERT, stream)
}

/// Puts the stream in the place of the one with its id, if there is one.
pub fn replace(connection: &Connection, stream: &Stream) -> rusqlite::Result<()> {
    write(connection, INSERT_OR_REPLACE, stream)
}

fn write(connection: &Connection, sql: &str, stream: &Stream) -> rusqlite::Result<()> {
    let values = named_params! {
        ":id": stream.id,
        ":owner_id": stream.owner_id,
        ":owner_profile": Json(&stream.owner_profile),
        ":room_name": stream.room_name,
        ":room_sid": stream.room_sid,
        ":title": stream.title,
        ":cover_url": stream.cover_url,
        ":tags": Json(&stream.tags),
        ":state": Word(stream.state),
        ":visibility": Word(stream.visibility),
        ":end_reason": stream.end_reason.map(Word),
        ":scheduled_for": stream.scheduled_for,
        ":started_at": stream.started_at,
        ":ended_at": stream.ended_at,
        ":state_since": stream.state_since,
        ":viewers": stream.viewers,
        ":peak_viewers": stream.peak_viewers,
        ":unique_viewers": stream.unique_viewers,
        ":flagged": stream.flagged,
        ":blocks": Json(&stream.blocks),
        ":mutes": Json(&stream.mutes),
        ":chat_settings": Json(&stream.chat_settings),
        ":pinned": stream.pinned.as_ref().map(Json),
        ":created_at": stream.created_at,
        ":updated_at": stream.updated_at,
        ":rev": stream.rev,
    };
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

pub fn stream(row: &Row<'_>) -> rusqlite::Result<Stream> {
    Ok(Stream {
        id: row.get("id")?,
        owner_id: row.get("owner_id")?,
        owner_profile: row.get::<_, Json<_>>("owner_profile")?.0,
        room_name: row.get("room_name")?,
        room_sid: row.get("room_sid")?,
        title: row.get("title")?,
        cover_url: row.get("cover_url")?,
        tags: row.get::<_, Json<_>>("tags")?.0,
        state: row.get::<_, Word<_>>("state")?.0,
        visibility: row.get::<_, Word<_>>("visibility")?.0,
        end_reason: row.get::<_, Option<Word<_>>>("end_reason")?.map(|word| word.0),
        scheduled_for: row.get("scheduled_for")?,
        started_at: row.get("started_at")?,
        ended_at: row.get("ended_at")?,
        state_since: row.get("state_since")?,
        viewers: row.get("viewers")?,
        peak_viewers: row.get("peak_viewers")?,
        unique_viewers: row.get("unique_viewers")?,
        flagged: row.get("flagged")?,
        blocks: row.get::<_, Json<_>>("blocks")?.0,
        mutes: row.get::<_, Json<_>>("mutes")?.0,
        chat_settings: row.get::<_, Json<_>>("chat_settings")?.0,
        pinned: row.get::<_, Option<Json<_>>>("pinned")?.map(|json| json.0),
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
        rev: row.get("rev")?,
    })
}

pub fn block(row: &Row<'_>) -> rusqlite::Result<Block> {
    Ok(Block {
        user_id: row.get("user_id")?,
        blocked_at: row.get("blocked_at")?,
        by: row.get("by")?,
        reason: row.get("reason")?,
    })
}

pub fn presence(row: &Row<'_>) -> rusqlite::Result<Presence> {
    Ok(Presence {
        sid: row.get("sid")?,
        identity: row.get("identity")?,
        user_id: row.get("user_id")?,
        counts: row.get("counts")?,
        joined_at: row.get("joined_at")?,
        left_at: row.get("left_at")?,
    })
}

pub fn message(row: &Row<'_>) -> rusqlite::Result<StoredMessage> {
    Ok(StoredMessage {
        stream_id: row.get("stream_id")?,
        message: ChatMessage {
            id: row.get("id")?,
            seq: row.get("seq")?,
            text: row.get("text")?,
            user_id: row.get("user_id")?,
            name: row.get("name")?,
            role: row.get::<_, Word<_>>("role")?.0,
            sent_at: row.get("sent_at")?,
            client_id: row.get("client_id")?,
            reply_to: row.get("reply_to")?,
        },
        hidden_by: row.get("hidden_by")?,
    })
}
