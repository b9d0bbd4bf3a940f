//! Protobuf's JSON mapping as Twirp servers speak it: original snake_case names, defaults written out, 64-bit integers
//! as strings, enums by name, unset messages `null`.
//!
//! `prost-reflect` writes it from the descriptors, but for the nulls, which are put in afterwards.

use prost_reflect::{Kind, MessageDescriptor, ReflectMessage as _, SerializeOptions};
use serde_json::Value;

use crate::protobuf_json::{Described, reflect};

/// A message as the body of an answer.
pub(super) fn to_json<M: Described>(message: &M) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    let message = reflect(message);
    let mut value =
        message.serialize_with_options(serde_json::value::Serializer, &options).expect("a message is plain JSON");
    write_nulls(&mut value, &message.descriptor());
    value
}

/// Writes `null` where a message is not set. What is `optional` or in a `oneof` is written only as far as it is set.
fn write_nulls(value: &mut Value, message: &MessageDescriptor) {
    let Value::Object(written) = value else { return };
    for field in message.fields().filter(|field| field.containing_oneof().is_none() && !field.is_map()) {
        let Kind::Message(inner) = field.kind() else { continue };
        match written.get_mut(field.name()) {
            Some(Value::Array(items)) => items.iter_mut().for_each(|item| write_nulls(item, &inner)),
            Some(item) => write_nulls(item, &inner),
            None => drop(written.insert(field.name().to_owned(), Value::Null)),
        }
    }
}

#[cfg(test)]
mod tests {
    use livekit_protocol as proto;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_writes_defaults_and_quotes_large_integers() {
        let room = proto::Room { name: "hr".into(), creation_time: 1_795_357_747, ..proto::Room::default() };
        let room = to_json(&room);

        assert_eq!(room["num_participants"], json!(0));
        assert_eq!(room["enabled_codecs"], json!([]));
        assert_eq!(room["version"], Value::Null);
        assert_eq!(room["creation_time"], json!("1795357747"));
    }

    #[test]
    fn an_answer_names_enum_values_and_passes_on_newer_ones_as_numbers() {
        let participant = proto::ParticipantInfo {
            state: proto::participant_info::State::Active as i32,
            capabilities: vec![1, 9999],
            ..proto::ParticipantInfo::default()
        };

        assert_eq!(to_json(&participant)["state"], json!("ACTIVE"));
        assert_eq!(to_json(&participant)["capabilities"], json!(["CAP_PACKET_TRAILER", 9999]));
    }

    #[test]
    fn optional_parts_of_a_data_track_are_left_out_when_unset() {
        let track = proto::DataTrackInfo { name: "lidar".into(), ..proto::DataTrackInfo::default() };

        assert_eq!(to_json(&track).get("schema"), None);
        assert_eq!(to_json(&track)["encryption"], json!("NONE"));
    }

    #[test]
    fn optional_parts_of_a_data_track_have_their_original_names() {
        use proto::data_track_frame_encoding::{Value as FrameEncoding, WellKnownFrameEncoding};
        let value = FrameEncoding::WellKnown(WellKnownFrameEncoding::Json as i32);
        let track = proto::DataTrackInfo {
            frame_encoding: Some(proto::DataTrackFrameEncoding { value: Some(value) }),
            schema: Some(proto::DataTrackSchemaId { name: "Pose".into(), ..Default::default() }),
            ..proto::DataTrackInfo::default()
        };
        let written = to_json(&track);
        assert_eq!(written["frame_encoding"], json!({ "well_known": "WELL_KNOWN_FRAME_ENCODING_JSON" }));
        assert_eq!(written["schema"], json!({ "name": "Pose" }));
    }
}
