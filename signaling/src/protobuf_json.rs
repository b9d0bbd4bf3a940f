//! Reads LiveKit's messages from protobuf's JSON mapping (ProtoJSON), in every spelling that it allows.
//!
//! `pbjson`'s code in `livekit-protocol` reads the canonical spelling and little else: it refuses `60.0`, `6e1` and
//! numbers of enums that are newer than itself. `prost-reflect` reads from descriptors, so open enums, both base64
//! alphabets, both spellings of names and nulls are its work; it lacks fractions and exponents in quoted integers and
//! takes a field that is there twice, so `normalize` goes before it. Answers of the server APIs are another dialect,
//! which is in `api`.
//!
//! `livekit.binpb` describes the messages. It is made of the `.proto` files in the crate `livekit-protocol`, in their
//! directory, by `protoc --include_imports --descriptor_set_out=livekit.binpb livekit_room.proto livekit_rtc.proto
//! livekit_agent_dispatch.proto`; a test compares messages of its own with the crate's code, so that it is made anew
//! when that crate's version changes.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use livekit_protocol as proto;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Number, Value};

use crate::wire_bounds::json::measure_json;
use crate::wire_bounds::refused::Refused;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!("livekit.binpb").as_slice()).expect("the descriptors are made by protoc")
});

/// Characters of a value that an error shows.
const SHOWN_MAX: usize = 40;
/// Digits that a spelling of an integer may have: those of any 64-bit integer, and as many noughts as anybody writes.
const DIGITS_MAX: usize = 400;

/// Why something is no message. The text names the field, as the sender wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("not JSON")]
    NotJson,
    #[error("not a JSON object")]
    NotAnObject,
    #[error(transparent)]
    Refused(Refused),
    #[error("{path}: {text} is not a whole number")]
    NotWhole { path: String, text: String },
    #[error("{path}: {text} is out of range")]
    OutOfRange { path: String, text: String },
    #[error("{path} is there twice")]
    Twice { path: String },
    #[error("{0}")]
    Other(String),
}

impl ReadError {
    /// The same, of a field within another one.
    fn within(mut self, outer: &str) -> Self {
        if let Self::NotWhole { path, .. } | Self::OutOfRange { path, .. } | Self::Twice { path } = &mut self {
            *path = if path.is_empty() { outer.to_owned() } else { format!("{outer}.{path}") };
        }
        self
    }
}

/// A message that the descriptors name. The name is the one in its `.proto` file.
pub trait Described: prost::Message + Default {
    const NAME: &'static str;
}

macro_rules! described {
    ($($message:ident),+ $(,)?) => {
        $(impl Described for proto::$message {
            const NAME: &'static str = concat!("livekit.", stringify!($message));
        })+
    };
}

described!(
    CreateAgentDispatchRequest,
    CreateRoomRequest,
    DataPacket,
    DataTrackInfo,
    DeleteAgentDispatchRequest,
    DeleteRoomRequest,
    DeleteRoomResponse,
    ForwardParticipantRequest,
    JoinRequest,
    ListAgentDispatchRequest,
    ListParticipantsRequest,
    ListParticipantsResponse,
    ListRoomsRequest,
    ListRoomsResponse,
    MoveParticipantRequest,
    MuteRoomTrackRequest,
    MuteRoomTrackResponse,
    ParticipantInfo,
    PerformRpcRequest,
    RemoveParticipantResponse,
    Room,
    RoomConfiguration,
    RoomParticipantIdentity,
    SendDataRequest,
    SendDataResponse,
    SignalRequest,
    UpdateParticipantRequest,
    UpdateRoomMetadataRequest,
    UpdateSubscriptionsRequest,
    UpdateSubscriptionsResponse,
    WrappedJoinRequest,
);

/// Reads a message. Keys that it does not know, and names of enum values that it does not know, count as absent.
///
/// # Errors
/// [`ReadError`] says what is wrong with it, and where.
pub fn read<M: Described>(json: &[u8]) -> Result<M, ReadError> {
    measure_json(json).map_err(ReadError::Refused)?;
    read_value(serde_json::from_slice(json).map_err(|_| ReadError::NotJson)?)
}

/// As [`read`], of a value that was parsed already.
///
/// # Errors
/// [`ReadError`] says what is wrong with it, and where.
pub fn read_value<M: Described>(mut value: Value) -> Result<M, ReadError> {
    let descriptor = descriptor::<M>();
    if !value.is_object() {
        return Err(ReadError::NotAnObject);
    }
    normalize(&mut value, &descriptor)?;
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor, value, &options)
        .map_err(|error| ReadError::Other(error.to_string()))?;
    message.transcode_to().map_err(|error| ReadError::Other(error.to_string()))
}

/// Writes a message canonically, values of enums that are newer than we are as numbers.
pub fn write<M: Described>(message: &M) -> Value {
    serde_json::to_value(reflect(message)).expect("a message is plain JSON")
}

/// The message by its descriptor.
pub(crate) fn reflect<M: Described>(message: &M) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic.transcode_from(message).expect("the descriptors are those of the code");
    dynamic
}

/// Descriptors of all messages.
pub(crate) fn pool() -> &'static DescriptorPool {
    &POOL
}

fn descriptor<M: Described>() -> MessageDescriptor {
    POOL.get_message_by_name(M::NAME).expect("the descriptors name every readable message")
}

/// Writes all integers as such. `serde_json` bounds how deep a value nests, and with it this recursion.
fn normalize(value: &mut Value, message: &MessageDescriptor) -> Result<(), ReadError> {
    let Value::Object(fields) = value else { return Ok(()) };
    let mut seen = HashSet::new();
    for (key, value) in fields.iter_mut().filter(|(_, value)| !value.is_null()) {
        let field = message.get_field_by_json_name(key).or_else(|| message.get_field_by_name(key));
        let Some(field) = field else { continue };
        if !seen.insert(field.number()) {
            return Err(ReadError::Twice { path: key.clone() });
        }
        normalize_field(value, &field).map_err(|error| error.within(key))?;
    }
    Ok(())
}

fn normalize_field(value: &mut Value, field: &FieldDescriptor) -> Result<(), ReadError> {
    match (field.kind(), value) {
        (Kind::Message(entry), Value::Object(fields)) if field.is_map() => {
            let kind = entry.map_entry_value_field().kind();
            fields
                .iter_mut()
                .try_for_each(|(key, value)| normalize_one(value, &kind).map_err(|error| error.within(key)))
        }
        (kind, Value::Array(items)) if field.is_list() => {
            items.iter_mut().try_for_each(|value| normalize_one(value, &kind))
        }
        (kind, value) => normalize_one(value, &kind),
    }
}

fn normalize_one(value: &mut Value, kind: &Kind) -> Result<(), ReadError> {
    let range = match kind {
        // Messages of protobuf itself have spellings of their own, all without integers of JSON.
        Kind::Message(message) if message.package_name() == "google.protobuf" => return Ok(()),
        Kind::Message(message) => return normalize(value, message),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => i32::MIN.into()..=i32::MAX.into(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => i64::MIN.into()..=i64::MAX.into(),
        Kind::Uint32 | Kind::Fixed32 => 0..=u32::MAX.into(),
        Kind::Uint64 | Kind::Fixed64 => 0..=u64::MAX.into(),
        // A quoted one is a name.
        Kind::Enum(_) if value.is_number() => i32::MIN.into()..=i32::MAX.into(),
        Kind::Enum(_) | Kind::Double | Kind::Float | Kind::Bool | Kind::String | Kind::Bytes => return Ok(()),
    };
    *value = Value::Number(integer(value, range)?);
    Ok(())
}

/// The integer that a value spells.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn integer(value: &Value, range: RangeInclusive<i128>) -> Result<Number, ReadError> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let shown = || text.chars().take(SHOWN_MAX).collect::<String>();
    let not_whole = || ReadError::NotWhole { path: String::new(), text: shown() };
    let out_of_range = || ReadError::OutOfRange { path: String::new(), text: shown() };
    match whole(&text).ok_or_else(not_whole)? {
        Whole::Number(number) if range.contains(&number) => match (i64::try_from(number), u64::try_from(number)) {
            (Ok(signed), _) => Ok(signed.into()),
            (_, Ok(unsigned)) => Ok(unsigned.into()),
            (Err(_), Err(_)) => Err(out_of_range()),
        },
        Whole::Number(_) | Whole::Huge => Err(out_of_range()),
    }
}

/// A number without a fraction.
#[derive(Debug, PartialEq, Eq)]
enum Whole {
    Number(i128),
    /// Beyond any integer of protobuf.
    Huge,
}

/// Reads a number of JSON (RFC 8259, section 6) exactly. `None`: it is none, or has a fraction.
fn whole(text: &str) -> Option<Whole> {
    let is_number =
        text.parse::<Number>().is_ok() && text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    if !is_number || text.len() > DIGITS_MAX {
        return None;
    }
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let negative = whole.starts_with('-');
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(Whole::Number(0));
    }
    let exponent: i64 = exponent.parse().ok()?;
    // Noughts that follow the significant digits, before the point.
    let shift = (digits.len() - significant.len()) as i64 - fraction.len() as i64;
    let noughts = exponent.saturating_add(shift);
    if noughts < 0 {
        return None;
    }
    let noughts = u32::try_from(noughts).unwrap_or(u32::MAX);
    let number = significant.parse::<i128>().ok().zip(10_i128.checked_pow(noughts));
    let number = number.and_then(|(significant, power)| significant.checked_mul(power));
    Some(number.map_or(Whole::Huge, |number| Whole::Number(if negative { -number } else { number })))
}

#[cfg(test)]
mod tests;
