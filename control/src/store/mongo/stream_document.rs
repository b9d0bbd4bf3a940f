//! A stream as a document of `livestreams`: the fields of the application's schema under their names, and ours beside
//! them.
//!
//! Documents that another application wrote are read with defaults for what they lack. Who is blocked is said by
//! `blockedUserIds`, which that application knows; `blocks` has the details.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};

use super::record::{date, document, read_user, record, user};
use crate::clock::Timestamp;
use crate::store::chat::ChatSettings;
use crate::store::stream::{Block, OwnerProfile, Stream, StreamId, StreamState, UserId, Visibility};
use crate::store::{Result, StoreError};

/// What stands for the room of a stream that has none: room names are unique, and so are missing ones.
fn no_room(id: StreamId) -> String {
    format!("scheduled_{id}")
}

/// The room's name as it is written.
pub(super) fn room(id: StreamId, name: &str) -> String {
    if name.is_empty() { no_room(id) } else { name.to_owned() }
}

/// # Errors
/// [`StoreError::Failed`] if a part of it has no form as a document.
pub(super) fn write(stream: &Stream) -> Result<Document> {
    let mut fields = doc! {
        "_id": stream.id,
        "ownerId": user(&stream.owner_id),
        "ownerProfile": document(&stream.owner_profile)?,
        "roomName": room(stream.id, &stream.room_name),
        "tags": &stream.tags,
        "isLive": stream.is_live(),
        "state": stream.state.name(),
        "visibility": visibility(stream.visibility),
        "stateSince": date(stream.state_since),
        "viewers": i64::from(stream.viewers),
        "peakViewers": i64::from(stream.peak_viewers),
        "uniqueViewers": i64::from(stream.unique_viewers),
        "flagged": stream.flagged,
        "mutes": documents(&stream.mutes)?,
        "chatSettings": document(&stream.chat_settings)?,
        "createdAt": date(stream.created_at),
        "updatedAt": date(stream.updated_at),
        "rev": stream.rev,
    };
    fields.extend(blocks(&stream.blocks)?);
    write_optional(stream, &mut fields)?;
    Ok(fields)
}

fn write_optional(stream: &Stream, fields: &mut Document) -> Result<()> {
    let texts = [
        ("roomSid", stream.room_sid.as_deref()),
        ("title", stream.title.as_deref()),
        ("coverUrl", stream.cover_url.as_deref()),
        ("endReason", stream.end_reason.map(|reason| reason.name())),
    ];
    let times =
        [("scheduledFor", stream.scheduled_for), ("startedAt", stream.started_at), ("endedAt", stream.ended_at)];
    for (name, text) in texts {
        if let Some(text) = text {
            fields.insert(name, text);
        }
    }
    for (name, time) in times {
        if let Some(time) = time {
            fields.insert(name, date(time));
        }
    }
    if let Some(pinned) = &stream.pinned {
        fields.insert("pinned", document(pinned)?);
    }
    Ok(())
}

/// Both fields that say who is blocked.
pub(super) fn blocks(blocks: &[Block]) -> Result<Document> {
    let users: Vec<_> = blocks.iter().map(|block| user(&block.user_id)).collect();
    Ok(doc! { "blockedUserIds": users, "blocks": documents(blocks)? })
}

fn documents<T: serde::Serialize>(records: &[T]) -> Result<Vec<Document>> {
    records.iter().map(document).collect()
}

fn visibility(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Public => "public",
        Visibility::Private => "private",
    }
}

/// # Errors
/// [`StoreError::Failed`] if it has no id, no owner, or no room.
pub(super) fn read(document: &Document) -> Result<Stream> {
    let Ok(id) = document.get_object_id("_id").map(StreamId::from) else {
        return Err(StoreError::Failed("a stream's _id is no ObjectId".into()));
    };
    let Some(owner_id) = document.get("ownerId").and_then(read_user) else {
        return Err(StoreError::Failed(format!("the stream {id} has no ownerId that is an ObjectId or a string")));
    };
    let Some(room_name) = optional(document, "roomName") else {
        return Err(StoreError::Failed(format!("the stream {id} has no roomName")));
    };
    let state = state(document);
    let started_at = time(document, "startedAt");
    let ended_at = time(document, "endedAt");
    let created_at = time(document, "createdAt").unwrap_or_else(|| born(id));
    let since = if state.is_live() { started_at } else { ended_at };
    let viewers = count(document, "viewers").unwrap_or(0);
    Ok(Stream {
        id,
        owner_profile: nested(document, "ownerProfile").unwrap_or_else(OwnerProfile::default),
        room_name: Some(room_name).filter(|name| *name != no_room(id)).unwrap_or_default(),
        room_sid: optional(document, "roomSid"),
        title: optional(document, "title"),
        cover_url: optional(document, "coverUrl"),
        tags: array(document, "tags")
            .iter()
            .filter_map(Bson::as_str)
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect(),
        state,
        visibility: if text(document, "visibility").as_deref() == Some("private") {
            Visibility::Private
        } else {
            Visibility::Public
        },
        end_reason: text(document, "endReason").and_then(|name| serde_json::from_value(name.into()).ok()),
        scheduled_for: time(document, "scheduledFor"),
        started_at,
        ended_at,
        state_since: time(document, "stateSince").or(since).unwrap_or(created_at),
        viewers,
        peak_viewers: count(document, "peakViewers").unwrap_or(viewers),
        unique_viewers: count(document, "uniqueViewers").unwrap_or(0),
        flagged: document.get_bool("flagged").unwrap_or(false),
        blocks: read_blocks(document, &owner_id, created_at),
        mutes: sorted(all_nested(document, "mutes"), |mute: &crate::store::chat::Mute| mute.user_id.clone()),
        chat_settings: nested(document, "chatSettings").unwrap_or_else(ChatSettings::default),
        pinned: nested(document, "pinned"),
        created_at,
        updated_at: time(document, "updatedAt").unwrap_or(created_at),
        rev: document.get("rev").and_then(integer).unwrap_or(0),
        owner_id,
    })
}

/// Who is blocked, with the details that are known.
fn read_blocks(document: &Document, owner: &UserId, created_at: Timestamp) -> Vec<Block> {
    let details: Vec<Block> = all_nested(document, "blocks");
    let detailed = |user_id: UserId| {
        // The last one: an application that knows of no details leaves those of former blocks behind.
        let known = details.iter().rev().find(|block| block.user_id == user_id).cloned();
        known.unwrap_or(Block { user_id, blocked_at: created_at, by: owner.clone(), reason: None })
    };
    let mut blocks = sorted(
        array(document, "blockedUserIds").iter().filter_map(read_user).map(detailed).collect(),
        |block: &Block| block.user_id.clone(),
    );
    blocks.dedup_by(|later, earlier| later.user_id == earlier.user_id);
    blocks
}

/// An application that knows no `state` ends a stream by `isLive` alone.
fn state(document: &Document) -> StreamState {
    let written = text(document, "state").and_then(|name| serde_json::from_value::<StreamState>(name.into()).ok());
    match (written, document.get_bool("isLive").ok()) {
        (Some(state), Some(false)) if state.is_live() => StreamState::Ended,
        (Some(state), _) => state,
        (None, Some(true)) => StreamState::Live,
        (None, Some(false) | None) => StreamState::Ended,
    }
}

/// When the id was made, to the second.
fn born(id: StreamId) -> Timestamp {
    Timestamp::from_millis(ObjectId::from(id).timestamp().timestamp_millis())
}

fn sorted<T, K: Ord>(mut records: Vec<T>, key: impl FnMut(&T) -> K) -> Vec<T> {
    records.sort_by_key(key);
    records
}

/// An optional text of a stream; an empty one is as good as none.
fn optional(document: &Document, name: &str) -> Option<String> {
    text(document, name).filter(|text| !text.is_empty())
}

pub(super) fn text(document: &Document, name: &str) -> Option<String> {
    document.get_str(name).ok().map(str::to_owned)
}

pub(super) fn time(document: &Document, name: &str) -> Option<Timestamp> {
    document.get_datetime(name).ok().map(|time| Timestamp::from_millis(time.timestamp_millis()))
}

/// A number, in any of the types that drivers write numbers with.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
pub(super) fn integer(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

fn count(document: &Document, name: &str) -> Option<u32> {
    let number = document.get(name).and_then(integer)?;
    Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

fn array<'a>(document: &'a Document, name: &str) -> &'a [Bson] {
    document.get_array(name).map_or(&[], Vec::as_slice)
}

fn nested<T: serde::de::DeserializeOwned>(document: &Document, name: &str) -> Option<T> {
    record(document.get_document(name).ok()?).ok()
}

fn all_nested<T: serde::de::DeserializeOwned>(document: &Document, name: &str) -> Vec<T> {
    array(document, name).iter().filter_map(|value| record(value.as_document()?).ok()).collect()
}

/// A condition that holds in these states, also for documents that have no `state`, or one that is no state.
pub(super) fn in_states(states: &[StreamState]) -> Document {
    let names = |states: &[StreamState]| states.iter().map(|state| state.name()).collect::<Vec<_>>();
    let (live, others): (Vec<_>, Vec<_>) = states.iter().copied().partition(|state| state.is_live());
    let unknown = names(&StreamState::ALL);
    let mut any = Vec::new();
    if !others.is_empty() {
        any.push(doc! { "state": { "$in": names(&others) } });
    }
    if !live.is_empty() {
        any.push(doc! { "state": { "$in": names(&live) }, "isLive": { "$ne": false } });
    }
    if states.contains(&StreamState::Live) {
        any.push(doc! { "state": { "$nin": &unknown }, "isLive": true });
    }
    if states.contains(&StreamState::Ended) {
        any.push(doc! { "state": { "$nin": &unknown }, "isLive": { "$ne": true } });
        any.push(doc! { "state": { "$in": names(&StreamState::LIVE) }, "isLive": false });
    }
    match any.len() {
        0 => doc! { "state": { "$in": [] } },
        1 => any.remove(0),
        _ => doc! { "$or": any },
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::DateTime;

    use super::*;

    #[test]
    fn a_document_of_the_application_is_read_with_defaults() {
        let (id, owner, blocked) = (ObjectId::new(), ObjectId::new(), ObjectId::new());
        let stream = read(&doc! {
            "_id": id, "ownerId": owner, "roomName": "live_x_1", "isLive": true,
            "startedAt": DateTime::from_millis(5_000), "viewers": 3.0, "tags": ["pet"], "blockedUserIds": [blocked],
            "createdAt": DateTime::from_millis(4_000), "updatedAt": DateTime::from_millis(6_000), "__v": 0,
        })
        .expect("it has all that is needed");

        assert_eq!(stream.owner_id.as_str(), owner.to_hex());
        assert_eq!((stream.state, stream.state_since.millis()), (StreamState::Live, 5_000));
        assert_eq!((stream.viewers, stream.peak_viewers, stream.unique_viewers, stream.rev), (3, 3, 0, 0));
        assert_eq!(stream.blocks.len(), 1);
        assert_eq!(stream.blocks[0].user_id.as_str(), blocked.to_hex());
        assert_eq!(stream.chat_settings, ChatSettings::default());
    }

    /// `ILiveStream` of the product's description, as mongoose writes it.
    fn document_of_the_schema(id: ObjectId, owner: ObjectId, blocked: ObjectId) -> Document {
        let time = |seconds: i64| DateTime::from_millis(1_767_323_000_000 + seconds * 1000);
        doc! {
            "_id": id, "ownerId": owner, "roomName": "live_x_1", "title": "My Stream",
            "coverUrl": "https://a.example/c.png", "isLive": false, "startedAt": time(2), "endedAt": time(9),
            "viewers": 3_i64, "tags": ["pet", "live"], "blockedUserIds": [blocked], "createdAt": time(1),
            "updatedAt": time(10),
        }
    }

    #[test]
    fn a_stream_has_the_fields_of_the_applications_schema_read_and_written() {
        let (id, owner, blocked) = (ObjectId::new(), ObjectId::new(), ObjectId::new());
        let document = document_of_the_schema(id, owner, blocked);

        let stream = read(&document).expect("it has all that is needed");

        let at = |seconds: i64| Timestamp::from_millis(1_767_323_000_000 + seconds * 1000);
        assert_eq!((ObjectId::from(stream.id), stream.owner_id.as_str()), (id, owner.to_hex().as_str()));
        assert_eq!((stream.room_name.as_str(), stream.title.as_deref()), ("live_x_1", Some("My Stream")));
        assert_eq!(stream.cover_url.as_deref(), Some("https://a.example/c.png"));
        assert_eq!((stream.started_at, stream.ended_at), (Some(at(2)), Some(at(9))));
        assert_eq!((stream.created_at, stream.updated_at), (at(1), at(10)));
        assert_eq!((stream.viewers, stream.tags.as_slice()), (3, ["pet".to_owned(), "live".to_owned()].as_slice()));
        let written = write(&stream).expect("it has a form as a document");
        for (name, value) in &document {
            assert_eq!(written.get(name), Some(value), "{name}");
        }
        let live = write(&Stream { state: StreamState::Starting, ..stream }).expect("it has one too");
        assert_eq!(live.get("isLive"), Some(&Bson::Boolean(true)));
    }

    #[test]
    fn a_document_that_is_hardly_one_of_a_stream_is_no_panic() {
        let id = ObjectId::new();
        let odd = doc! {
            "_id": id, "ownerId": "u", "roomName": "r", "viewers": -4, "tags": "no", "state": "dreaming", "blocks": [1],
            "pinned": 7, "blockedUserIds": [1, "v"], "endReason": "tired", "chatSettings": { "enabled": 1 },
        };

        let stream = read(&odd).expect("it has an owner and a room");

        assert_eq!((stream.state, stream.viewers), (StreamState::Ended, 0));
        assert_eq!(stream.blocks.len(), 1);
        for lacking in [doc! { "_id": id }, doc! { "_id": id, "ownerId": "u", "roomName": "" }] {
            assert!(matches!(read(&lacking), Err(StoreError::Failed(_))), "{lacking}");
        }
        assert!(matches!(read(&doc! {}), Err(StoreError::Failed(_))));
    }

    #[test]
    fn a_stream_without_a_room_has_a_name_of_its_own_in_the_database_only() {
        let id = StreamId::generate();
        let written = doc! { "_id": id, "ownerId": "u", "roomName": room(id, "") };

        assert_eq!(read(&written).expect("it has an owner").room_name, "");
        assert_ne!(room(id, ""), room(StreamId::generate(), ""));
    }
}
