use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{MapKey, Value as Field};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use serde_json::json;

use super::*;

/// Messages within messages that random ones have.
const DEPTH_MAX: usize = 4;

fn create_room(json: &str) -> Result<proto::CreateRoomRequest, ReadError> {
    read(json.as_bytes())
}

fn empty_timeout(spelling: &str) -> Result<u32, String> {
    let json = format!(r#"{{"name":"r","emptyTimeout":{spelling}}}"#);
    create_room(&json).map(|request| request.empty_timeout).map_err(|error| error.to_string())
}

#[test]
fn an_integer_is_read_in_any_spelling() {
    for spelling in ["60", "60.0", "6e1", "6E+1", "0.6e2", "600e-1", r#""60""#, r#""60.0""#, r#""6e1""#, r#""60.000""#]
    {
        assert_eq!(empty_timeout(spelling), Ok(60), "{spelling}");
    }
    for nought in ["0", "-0", "0.0", "0e5", r#""-0""#, "null"] {
        assert_eq!(empty_timeout(nought), Ok(0), "{nought}");
    }
}

#[test]
fn what_is_no_integer_is_refused_and_named() {
    assert_eq!(empty_timeout("60.5"), Err("emptyTimeout: 60.5 is not a whole number".into()));
    assert_eq!(empty_timeout("-1"), Err("emptyTimeout: -1 is out of range".into()));
    assert_eq!(empty_timeout("4294967296"), Err("emptyTimeout: 4294967296 is out of range".into()));
    assert_eq!(empty_timeout("1e300"), Err("emptyTimeout: 1e+300 is out of range".into()));
    for spelling in [
        r#""NaN""#,
        r#""Infinity""#,
        r#""""#,
        r#"" 60""#,
        r#""60 ""#,
        r#""+60""#,
        r#""060""#,
        r#""0x3c""#,
        r#""6e1.5""#,
        "true",
        "[]",
        "{}",
        r#""60.5""#,
        r#""5e-1""#,
        r#""1e-9223372036854775808""#,
    ] {
        assert!(empty_timeout(spelling).is_err_and(|error| error.starts_with("emptyTimeout: ")), "{spelling}");
    }
    assert!(create_room(r#"{"emptyTimeout":NaN}"#).is_err());
}

#[test]
fn a_spelling_has_so_many_digits() {
    let spelled = |length: usize| format!(r#""60.{}""#, "0".repeat(length - 3));
    assert_eq!(empty_timeout(&spelled(DIGITS_MAX)), Ok(60));
    for length in [DIGITS_MAX + 1, 10 * DIGITS_MAX] {
        assert!(empty_timeout(&spelled(length)).is_err(), "{length}");
    }
}

#[test]
fn a_refusal_shows_where_it_is_and_not_all_of_it() {
    let error = create_room(r#"{"egress":{"room":{"preset":0.5}}}"#).unwrap_err();
    assert_eq!(error.to_string(), "egress.room.preset: 0.5 is not a whole number");
    let long = empty_timeout(&format!(r#""{}""#, "x".repeat(10_000))).unwrap_err();
    assert!(long.len() < 100, "{long}");
}

#[test]
fn integers_of_64_bits_are_exact() {
    let ping = |spelling: &str| {
        let json = format!(r#"{{"pingReq":{{"timestamp":{spelling},"rtt":0}}}}"#);
        let Some(proto::signal_request::Message::PingReq(ping)) =
            read::<proto::SignalRequest>(json.as_bytes())?.message
        else {
            panic!("no ping")
        };
        Ok::<i64, ReadError>(ping.timestamp)
    };
    for spelling in ["9223372036854775807", r#""9223372036854775807""#, r#""9223372036854775807.0""#] {
        assert_eq!(ping(spelling), Ok(i64::MAX), "{spelling}");
    }
    assert_eq!(ping(r#""-9223372036854775808""#), Ok(i64::MIN));
    assert_eq!(ping("1e18"), Ok(1_000_000_000_000_000_000));
    assert!(ping("9223372036854775808").is_err());
    assert!(ping(r#""9223372036854775808.0""#).is_err());
}

#[test]
fn enums_are_open() {
    let kind = |spelling: &str| {
        let json = format!(r#"{{"room":"r","kind":{spelling}}}"#);
        read::<proto::SendDataRequest>(json.as_bytes()).map(|request| request.kind)
    };
    assert_eq!(kind(r#""LOSSY""#), Ok(1));
    assert_eq!(kind("1"), Ok(1));
    assert_eq!(kind("1.0"), Ok(1));
    assert_eq!(kind("9999"), Ok(9999));
    // A name that is newer than we are counts as absent.
    assert_eq!(kind(r#""TELEPATHIC""#), Ok(0));
    assert!(kind("1.5").is_err());
    assert!(kind("4294967296").is_err());
}

#[test]
fn an_enum_value_that_is_newer_than_we_are_is_written_as_a_number() {
    let request = proto::SendDataRequest { kind: 9999, ..Default::default() };
    assert_eq!(write(&request), json!({ "kind": 9999 }));
}

#[test]
fn bytes_are_read_in_both_alphabets_with_and_without_padding() {
    for spelling in ["+/8=", "+/8", "-_8=", "-_8"] {
        let json = json!({ "data": spelling }).to_string();
        assert_eq!(read::<proto::SendDataRequest>(json.as_bytes()).unwrap().data, [0xfb, 0xff], "{spelling}");
    }
    assert!(read::<proto::SendDataRequest>(br#"{"data":"?"}"#).is_err());
}

#[test]
fn names_are_read_in_both_spellings_unknown_ones_skipped_and_double_ones_refused() {
    let camel = create_room(r#"{"name":"a","emptyTimeout":30,"newField":{"x":[null]},"metadata":null}"#).unwrap();
    let snake = create_room(r#"{"name":"a","empty_timeout":30}"#).unwrap();
    assert_eq!(camel, snake);
    let twice = create_room(r#"{"emptyTimeout":1,"empty_timeout":2}"#).unwrap_err();
    assert!(matches!(twice, ReadError::Twice { .. }));
}

#[test]
fn what_is_no_message_is_refused() {
    for body in ["", "{not json", "[]", "null", "3", r#"{"name":3}"#, r#"{"tags":[]}"#, r#"{"egress":3}"#] {
        assert!(create_room(body).is_err(), "{body}");
    }
}

/// A random message, so that whatever its fields are, they are read.
fn random(message: &MessageDescriptor, rng: &mut StdRng, depth: usize) -> DynamicMessage {
    let mut made = DynamicMessage::new(message.clone());
    for field in message.fields() {
        let of_protobuf = field.kind().as_message().is_some_and(|inner| inner.package_name() == "google.protobuf");
        let deep = depth == 0 && field.kind().as_message().is_some();
        if of_protobuf || deep || rng.random_bool(0.4) {
            continue;
        }
        let count = rng.random_range(0..3);
        let value = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { continue };
            if depth == 0 && entry.map_entry_value_field().kind().as_message().is_some() {
                continue;
            }
            let pairs = (0..count).map(|_| {
                let key = random_key(&entry.map_entry_key_field().kind(), rng);
                (key, random_one(&entry.map_entry_value_field().kind(), rng, depth))
            });
            Field::Map(pairs.collect::<HashMap<_, _>>())
        } else if field.is_list() {
            Field::List((0..count).map(|_| random_one(&field.kind(), rng, depth)).collect())
        } else {
            random_one(&field.kind(), rng, depth)
        };
        made.set_field(&field, value);
    }
    made
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn random_key(kind: &Kind, rng: &mut StdRng) -> MapKey {
    match kind {
        Kind::String => MapKey::String(random_text(rng)),
        Kind::Uint32 => MapKey::U32(rng.random()),
        Kind::Int32 => MapKey::I32(rng.random()),
        other => panic!("no message has keys like {other:?}"),
    }
}

fn random_text(rng: &mut StdRng) -> String {
    // Texts that look like numbers must stay texts.
    ["", "60.0", "6e1", "null", "ACTIVE", "\"é\u{1F980}\\"][rng.random_range(0..6)].to_owned()
}

fn random_one(kind: &Kind, rng: &mut StdRng, depth: usize) -> Field {
    // Small numbers have more spellings.
    let small = rng.random_bool(0.5);
    match kind {
        Kind::Double => Field::F64(f64::from(rng.random::<i32>()) / 4.0),
        Kind::Float => Field::F32(f32::from(rng.random::<i16>()) / 4.0),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 if small => Field::I32(rng.random_range(-99..100) * 10),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Field::I32(rng.random()),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 if small => Field::I64(rng.random_range(-99..100) * 10),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Field::I64(rng.random()),
        Kind::Uint32 | Kind::Fixed32 if small => Field::U32(rng.random_range(0..100) * 10),
        Kind::Uint32 | Kind::Fixed32 => Field::U32(rng.random()),
        Kind::Uint64 | Kind::Fixed64 if small => Field::U64(rng.random_range(0..100) * 10),
        Kind::Uint64 | Kind::Fixed64 => Field::U64(rng.random()),
        Kind::Bool => Field::Bool(rng.random()),
        Kind::String => Field::String(random_text(rng)),
        Kind::Bytes => Field::Bytes((0..rng.random_range(0..5)).map(|_| rng.random::<u8>()).collect::<Vec<_>>().into()),
        Kind::Message(message) => Field::Message(random(message, rng, depth.saturating_sub(1))),
        Kind::Enum(names) => {
            let values: Vec<i32> = names.values().map(|value| value.number()).collect();
            Field::EnumNumber(values[rng.random_range(0..values.len())])
        }
    }
}

/// Another spelling of the same message.
fn respell(value: &mut Value, message: &MessageDescriptor, rng: &mut StdRng) {
    let Value::Object(fields) = value else { panic!("a message is an object") };
    let mut respelled = serde_json::Map::new();
    for (key, mut value) in std::mem::take(fields) {
        let field = message.get_field_by_json_name(&key).expect("canonical names");
        let kind = field.kind();
        match (&kind, &mut value) {
            (Kind::Message(entry), Value::Object(pairs)) if field.is_map() => {
                let kind = entry.map_entry_value_field().kind();
                pairs.values_mut().for_each(|value| respell_one(value, &kind, rng));
            }
            (_, Value::Array(items)) => items.iter_mut().for_each(|value| respell_one(value, &kind, rng)),
            (_, value) => respell_one(value, &kind, rng),
        }
        let name = if rng.random() { field.name() } else { field.json_name() };
        respelled.insert(name.to_owned(), value);
    }
    for absent in message.fields() {
        let is_there = respelled.contains_key(absent.name()) || respelled.contains_key(absent.json_name());
        if !is_there && rng.random_bool(0.3) {
            respelled.insert(absent.name().to_owned(), Value::Null);
        }
    }
    respelled.insert("notAFieldOfOurs".into(), json!([{ "x": 0.5 }]));
    *fields = respelled;
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn respell_one(value: &mut Value, kind: &Kind, rng: &mut StdRng) {
    match kind {
        Kind::Message(message) => respell(value, message, rng),
        Kind::Enum(names) => {
            if let Some(known) = value.as_str().and_then(|name| names.get_value_by_name(name)) {
                *value = [value.clone(), json!(known.number()), json!(f64::from(known.number()))]
                    [rng.random_range(0..3)]
                .clone();
            }
        }
        Kind::Bytes => {
            let bytes = BASE64_STANDARD.decode(value.as_str().expect("bytes are text")).expect("canonical");
            if rng.random() {
                *value = BASE64_URL_SAFE_NO_PAD.encode(bytes).into();
            }
        }
        Kind::Double | Kind::Float | Kind::Bool | Kind::String => {}
        _ => {
            let number: i128 =
                value.as_str().map_or_else(|| value.to_string(), str::to_owned).parse().expect("canonical");
            *value = respell_integer(number, rng);
        }
    }
}

fn respell_integer(number: i128, rng: &mut StdRng) -> Value {
    let exact_float = number.unsigned_abs() < 1 << 53;
    match rng.random_range(0..6) {
        0 => number.to_string().into(),
        1 => format!("{number}.0").into(),
        2 if number % 10 == 0 => format!("{}e1", number / 10).into(),
        3 => format!("{number}00E-2").into(),
        4 if exact_float => json!(number as f64),
        _ => match i64::try_from(number) {
            Ok(signed) => json!(signed),
            Err(_) => json!(u64::try_from(number).expect("of 64 bits")),
        },
    }
}

/// A random message, written by `pbjson`, is read as itself, and so is any other spelling of it.
fn is_read_in_any_spelling<M: Described + Serialize + PartialEq + std::fmt::Debug>(seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let made = random(&descriptor::<M>(), rng, DEPTH_MAX);
    let message: M = made.transcode_to().expect("the code knows what the descriptors do");
    assert_eq!(message.encoded_len(), made.encoded_len(), "the code drops fields that the descriptors have");

    let canonical = serde_json::to_value(&message).expect("known values only");
    assert_eq!(read_value::<M>(canonical.clone()).as_ref(), Ok(&message), "{canonical}");
    assert_eq!(read_value::<M>(write(&message)).as_ref(), Ok(&message));
    let mut respelled = canonical;
    respell(&mut respelled, &descriptor::<M>(), rng);
    assert_eq!(read_value::<M>(respelled.clone()), Ok(message), "{respelled}");
}

proptest! {
    #[test]
    fn any_spelling_of_a_message_is_read_as_that_message(seed: u64) {
        is_read_in_any_spelling::<proto::CreateRoomRequest>(seed);
        is_read_in_any_spelling::<proto::RoomConfiguration>(seed);
        is_read_in_any_spelling::<proto::SendDataRequest>(seed);
        is_read_in_any_spelling::<proto::SignalRequest>(seed);
        is_read_in_any_spelling::<proto::UpdateParticipantRequest>(seed);
        is_read_in_any_spelling::<proto::UpdateSubscriptionsRequest>(seed);
        is_read_in_any_spelling::<proto::CreateAgentDispatchRequest>(seed);
        is_read_in_any_spelling::<proto::ListRoomsRequest>(seed);
        is_read_in_any_spelling::<proto::PerformRpcRequest>(seed);
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200), text in "[0-9eE.+-]{0,30}") {
        let _ = read::<proto::CreateRoomRequest>(&body);
        let _ = whole(&text);
    }
}

#[test]
fn every_readable_message_has_its_descriptor() {
    macro_rules! found {
        ($($message:ident),+ $(,)?) => { $(assert_eq!(descriptor::<proto::$message>().full_name(), proto::$message::NAME);)+ };
    }
    found!(DeleteAgentDispatchRequest, DeleteRoomRequest, ForwardParticipantRequest, ListAgentDispatchRequest);
    found!(ListParticipantsRequest, MoveParticipantRequest, MuteRoomTrackRequest, RoomParticipantIdentity);
    found!(UpdateRoomMetadataRequest);
}
