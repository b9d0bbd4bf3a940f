//! Records as BSON.
//!
//! A record goes through its serialized form, and what that form only has as text gets its own type by the name of its
//! field: times are dates, ids of streams are ObjectIds, and ids of users are ObjectIds if they look like one (stream
//! API, section 1, rule 5). The way back goes by type alone.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::store::stream::{StreamId, UserId};
use crate::store::{Result, StoreError};

const TIMES: [&str; 9] =
    ["at", "until", "liftedAt", "joinedAt", "leftAt", "sentAt", "createdAt", "updatedAt", "blockedAt"];

const USERS: [&str; 7] = ["userId", "ownerId", "by", "reporter", "actor", "resolvedBy", "hiddenBy"];

const STREAM: &str = "streamId";

/// The document of a record. Absent values are left out.
///
/// # Errors
/// [`StoreError::Failed`] if the record has no form as a document.
pub(super) fn document(record: &impl Serialize) -> Result<Document> {
    match serde_json::to_value(record) {
        Ok(Value::Object(fields)) => Ok(document_of(fields)),
        Ok(other) => Err(StoreError::Failed(format!("a record is written as {other}, not as fields"))),
        Err(error) => Err(StoreError::Failed(format!("a record cannot be written: {error}"))),
    }
}

/// The record of a document. Fields that the record does not know are passed over.
///
/// # Errors
/// [`StoreError::Failed`] if a field is missing or of another type.
pub(super) fn record<T: DeserializeOwned>(document: &Document) -> Result<T> {
    serde_json::from_value(json(document)).map_err(|error| {
        let id = document.get("_id").map_or_else(|| "?".into(), Bson::to_string);
        StoreError::Failed(format!("the document {id} cannot be read: {error}"))
    })
}

impl From<ObjectId> for StreamId {
    fn from(id: ObjectId) -> Self {
        StreamId::from_bytes(id.bytes())
    }
}

impl From<StreamId> for ObjectId {
    fn from(id: StreamId) -> Self {
        ObjectId::from_bytes(id.bytes())
    }
}

impl From<StreamId> for Bson {
    fn from(id: StreamId) -> Self {
        Bson::ObjectId(id.into())
    }
}

/// A user's id as it is written.
pub(super) fn user(id: &UserId) -> Bson {
    match object_id(id.as_str()) {
        Some(id) => Bson::ObjectId(id),
        None => Bson::String(id.to_string()),
    }
}

/// All forms in which others may have written a user's id.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
pub(super) fn forms(id: &UserId) -> Vec<Bson> {
    let text = Bson::String(id.to_string());
    match user(id) {
        object @ Bson::ObjectId(_) => vec![object, text],
        _ => vec![text],
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
pub(super) fn read_user(value: &Bson) -> Option<UserId> {
    match value {
        Bson::ObjectId(id) => id.to_hex().parse().ok(),
        Bson::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// An id of 24 lower-case digits. Upper-case ones, which no id of a user has, would not come back as they were.
pub(super) fn object_id(text: &str) -> Option<ObjectId> {
    let lower = text.len() == 24 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if lower { ObjectId::parse_str(text).ok() } else { None }
}

pub(super) fn date(time: Timestamp) -> DateTime {
    DateTime::from_millis(time.millis())
}

/// One key of two parts; no two pairs have the same. Keys with one `first` are sorted by `second`.
pub(super) fn joined(first: &str, second: &str) -> String {
    format!("{}:{first}/{second}", first.len())
}

fn document_of(fields: Map<String, Value>) -> Document {
    fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| field(name, value)).collect()
}

fn field(name: String, value: Value) -> (String, Bson) {
    let value = bson(&name, value);
    (name, value)
}

fn bson(name: &str, value: Value) -> Bson {
    match value {
        Value::Null => Bson::Null,
        Value::Bool(flag) => Bson::Boolean(flag),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Bson::Int64(integer),
            None => Bson::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => bson_of_text(name, text),
        Value::Array(values) => values.into_iter().map(|value| bson(name, value)).collect(),
        Value::Object(fields) => Bson::Document(document_of(fields)),
    }
}

fn bson_of_text(name: &str, text: String) -> Bson {
    if TIMES.contains(&name) {
        if let Ok(time) = Timestamp::parse(&text) {
            return Bson::DateTime(date(time));
        }
    } else if (name == STREAM || USERS.contains(&name))
        && let Some(id) = object_id(&text)
    {
        return Bson::ObjectId(id);
    }
    Bson::String(text)
}

fn json(document: &Document) -> Value {
    Value::Object(document.iter().map(|(name, value)| (name.clone(), json_of(value))).collect())
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn json_of(value: &Bson) -> Value {
    match value {
        Bson::Boolean(flag) => Value::Bool(*flag),
        Bson::Int32(number) => Value::from(*number),
        Bson::Int64(number) => Value::from(*number),
        // To some drivers every number is one of these.
        #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
        Bson::Double(number) if number.fract() == 0.0 => Value::from(*number as i64),
        Bson::Double(number) => Value::from(*number),
        Bson::String(text) => Value::String(text.clone()),
        Bson::DateTime(time) => Value::String(Timestamp::from_millis(time.timestamp_millis()).to_string()),
        Bson::ObjectId(id) => Value::String(id.to_hex()),
        Bson::Array(values) => values.iter().map(json_of).collect(),
        Bson::Document(document) => json(document),
        // Nothing that is written here has another type.
        _ => Value::Null,
    }
}

/// Whether a document has no other fields than these.
pub(super) fn has_only(document: &Document, fields: &[&str]) -> bool {
    document.keys().all(|field| fields.contains(&field.as_str()))
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;
    use crate::store::moderation::Ban;

    fn user_id(text: &str) -> UserId {
        text.parse().expect("a user id")
    }

    #[test]
    fn a_user_of_24_hexadecimal_digits_is_an_object_id_and_any_other_a_string() {
        for spelling in ["64b7f3a2c1d2e3f4a5b6c7d8", "64B7F3A2C1D2E3F4A5B6C7D8"] {
            assert_eq!(user(&user_id(spelling)).as_object_id().unwrap().to_hex(), "64b7f3a2c1d2e3f4a5b6c7d8");
        }
        assert_eq!(user(&user_id("u_42")), Bson::String("u_42".to_owned()));
    }

    #[test]
    fn a_user_is_read_in_either_form() {
        let id = user_id("64b7f3a2c1d2e3f4a5b6c7d8");

        for form in forms(&id) {
            assert_eq!(read_user(&form), Some(id.clone()));
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let ban = Ban {
            user_id: user_id("64b7f3a2c1d2e3f4a5b6c7d8"),
            reason: "2026-01-02T03:04:05.678Z".into(),
            until: Some(Timestamp::from_millis(1_767_323_045_678)),
            by: user_id("an admin"),
            at: Timestamp::from_millis(1),
            lifted_at: None,
        };

        let written = document(&ban).expect("it has fields");

        assert_eq!(written.get("reason"), Some(&Bson::String(ban.reason.clone())));
        assert_eq!(written.get("at"), Some(&Bson::DateTime(DateTime::from_millis(1))));
        assert!(!written.contains_key("liftedAt"));
        assert_eq!(record::<Ban>(&written).expect("it is readable"), ban);
    }

    /// Other drivers write whole numbers as any of the three.
    #[test]
    fn a_whole_number_of_any_type_is_read() {
        let counted = |seq: Bson| record::<Counted>(&doc! { "seq": seq }).ok().map(|counted| counted.seq);

        for seq in [Bson::Int32(7), Bson::Int64(7), Bson::Double(7.0)] {
            assert_eq!(counted(seq.clone()), Some(7), "{seq:?}");
        }
        assert_eq!(counted(Bson::Double(7.5)), None, "it is no whole number");
        assert_eq!(json(&doc! { "share": 7.5 }), serde_json::json!({ "share": 7.5 }));
    }

    #[derive(Debug, serde::Deserialize)]
    struct Counted {
        seq: i64,
    }

    #[test]
    fn a_document_without_a_needed_field_is_a_failure_and_no_panic() {
        assert!(matches!(record::<Ban>(&doc! { "_id": 1, "at": "?" }), Err(StoreError::Failed(_))));
    }

    #[test]
    fn keys_of_two_parts_are_told_apart() {
        assert_ne!(joined("a/b", "c"), joined("a", "b/c"));
        assert_ne!(joined("1:a", "b"), joined("1", "a/b"));
    }
}
