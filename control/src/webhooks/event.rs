//! The body of a webhook: protobuf's JSON form, read leniently. Names may be in either spelling, numbers may be text,
//! enums may be numbers, `null` is absent, and what is not known is passed over.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer};

use crate::clock::Timestamp;
use crate::rooms::event::{Event, EventKind, Publisher};
use crate::rooms::{Session, SessionClaims, joined_at};

/// The body is not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the body is not JSON of the expected shape")]
    Json,
    #[error("the event has no {0}")]
    Missing(&'static str),
}

/// Reads an event. One that says nothing about streams is [`EventKind::Other`].
///
/// # Errors
/// [`Unreadable`]
pub fn read(body: &[u8]) -> Result<Event, Unreadable> {
    let event: Body = serde_json::from_slice(body).map_err(|_| Unreadable::Json)?;
    if event.event.is_empty() {
        return Err(Unreadable::Missing("event"));
    }
    let kind = match event.event.as_str() {
        "room_started" => EventKind::RoomStarted,
        "room_finished" => EventKind::RoomFinished,
        "participant_joined" => EventKind::Joined(session(event.participant)?),
        "participant_left" => EventKind::Left(session(event.participant)?),
        "participant_connection_aborted" => EventKind::Aborted(session(event.participant)?),
        "track_published" => {
            let participant = event.participant.ok_or(Unreadable::Missing("participant"))?;
            EventKind::TrackPublished(Publisher { identity: participant.identity })
        }
        "track_unpublished" => EventKind::TrackUnpublished,
        _ => EventKind::Other,
    };
    let room = event.room.unwrap_or_default();
    if room.name.is_empty() && kind != EventKind::Other {
        return Err(Unreadable::Missing("room.name"));
    }
    // Of a whole second its end: what it tells of happened before that.
    let at = match event.created_at.0 {
        ..=0 => Timestamp::default(),
        seconds => Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(999)),
    };
    Ok(Event {
        event_id: Some(event.id).filter(|id| !id.is_empty() && id.len() <= EVENT_ID_BYTES_MAX),
        room: room.name,
        room_sid: room.sid,
        at,
        kind,
    })
}

/// Longest id of an event that is remembered.
const EVENT_ID_BYTES_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Body {
    #[serde(deserialize_with = "or_default")]
    event: String,
    #[serde(deserialize_with = "or_default")]
    id: String,
    room: Option<Room>,
    participant: Option<Participant>,
    #[serde(alias = "created_at", deserialize_with = "or_default")]
    created_at: Int,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Room {
    #[serde(deserialize_with = "or_default")]
    sid: String,
    #[serde(deserialize_with = "or_default")]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Participant {
    #[serde(deserialize_with = "or_default")]
    sid: String,
    #[serde(deserialize_with = "or_default")]
    identity: String,
    #[serde(alias = "joined_at", deserialize_with = "or_default")]
    joined_at: Int,
    #[serde(alias = "joined_at_ms", deserialize_with = "or_default")]
    joined_at_ms: Int,
    #[serde(deserialize_with = "or_default")]
    kind: Kind,
    #[serde(deserialize_with = "or_default")]
    attributes: HashMap<String, String>,
    permission: Option<Permission>,
    tracks: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Permission {
    #[serde(deserialize_with = "or_default")]
    hidden: bool,
    #[serde(deserialize_with = "or_default")]
    recorder: bool,
}

/// A 64-bit number, or its text.
#[derive(Debug, Clone, Copy, Default)]
struct Int(i64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(i64),
            Float(f64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Int(number)),
            // Protobuf allows exponents; the cast saturates.
            #[expect(clippy::cast_possible_truncation, reason = "saturation is meant")]
            Form::Float(number) => Ok(Int(number as i64)),
            Form::Text(text) => text.trim().parse().map(Int).map_err(serde::de::Error::custom),
        }
    }
}

/// `ParticipantInfo.Kind`, of which one is a person's client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Standard,
    Other,
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(i64),
            Name(String),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Number(0) => Kind::Standard,
            Form::Name(name) if name.eq_ignore_ascii_case("STANDARD") => Kind::Standard,
            Form::Number(_) | Form::Name(_) => Kind::Other,
        })
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn session(participant: Option<Participant>) -> Result<Session, Unreadable> {
    let participant = participant.ok_or(Unreadable::Missing("participant"))?;
    if participant.sid.is_empty() {
        return Err(Unreadable::Missing("participant.sid"));
    }
    let SessionClaims { user, role } = SessionClaims::read(&participant.identity, &participant.attributes);
    let permission = participant.permission.unwrap_or_default();
    Ok(Session {
        sid: participant.sid,
        identity: participant.identity,
        user,
        role,
        standard: participant.kind == Kind::Standard,
        hidden: permission.hidden,
        recorder: permission.recorder,
        joined_at: joined_at(participant.joined_at_ms.0, participant.joined_at.0),
        active: true,
        publishes: participant.tracks.is_some_and(|tracks| !tracks.is_empty()),
    })
}
