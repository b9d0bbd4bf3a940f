//! Protobuf's JSON mapping as Twirp servers speak it: original snake_case names, defaults written out, 64-bit integers
//! as strings, enums by name, unset messages `null`.
//!
//! `livekit-protocol` writes the other dialect (camelCase, defaults left out). Requests are read by
//! [`crate::protobuf_json`].
//! Every message is taken apart completely, so that a field that LiveKit adds does not compile until it is here.

use std::collections::HashMap;

use livekit_protocol as proto;
use serde_json::{Map, Value, json};

/// A message that can be an answer.
pub(crate) trait TwirpJson {
    fn to_json(&self) -> Value;
}

macro_rules! empty_answers {
    ($($message:ident),+ $(,)?) => {
        $(impl TwirpJson for proto::$message {
            fn to_json(&self) -> Value {
                let Self {} = self;
                json!({})
            }
        })+
    };
}

empty_answers!(DeleteRoomResponse, RemoveParticipantResponse, UpdateSubscriptionsResponse, SendDataResponse);

impl TwirpJson for proto::ListRoomsResponse {
    fn to_json(&self) -> Value {
        let Self { rooms } = self;
        json!({ "rooms": list(rooms) })
    }
}

impl TwirpJson for proto::ListParticipantsResponse {
    fn to_json(&self) -> Value {
        let Self { participants } = self;
        json!({ "participants": list(participants) })
    }
}

impl TwirpJson for proto::MuteRoomTrackResponse {
    fn to_json(&self) -> Value {
        let Self { track } = self;
        json!({ "track": optional(track) })
    }
}

impl TwirpJson for proto::Room {
    fn to_json(&self) -> Value {
        let Self {
            sid,
            name,
            empty_timeout,
            departure_timeout,
            max_participants,
            creation_time,
            creation_time_ms,
            turn_password,
            enabled_codecs,
            metadata,
            num_participants,
            num_publishers,
            active_recording,
            version,
        } = self;
        json!({
            "sid": sid,
            "name": name,
            "empty_timeout": empty_timeout,
            "departure_timeout": departure_timeout,
            "max_participants": max_participants,
            "creation_time": int64(*creation_time),
            "creation_time_ms": int64(*creation_time_ms),
            "turn_password": turn_password,
            "enabled_codecs": list(enabled_codecs),
            "metadata": metadata,
            "num_participants": num_participants,
            "num_publishers": num_publishers,
            "active_recording": active_recording,
            "version": optional(version),
        })
    }
}

impl TwirpJson for proto::Codec {
    fn to_json(&self) -> Value {
        let Self { mime, fmtp_line } = self;
        json!({ "mime": mime, "fmtp_line": fmtp_line })
    }
}

impl TwirpJson for proto::TimedVersion {
    fn to_json(&self) -> Value {
        let Self { unix_micro, ticks } = self;
        json!({ "unix_micro": int64(*unix_micro), "ticks": ticks })
    }
}

impl TwirpJson for proto::ParticipantInfo {
    fn to_json(&self) -> Value {
        let Self {
            sid,
            identity,
            state,
            tracks,
            metadata,
            joined_at,
            joined_at_ms,
            name,
            version,
            permission,
            region,
            is_publisher,
            kind,
            attributes,
            disconnect_reason,
            kind_details,
            data_tracks,
            client_protocol,
            capabilities,
        } = self;
        json!({
            "sid": sid,
            "identity": identity,
            "state": named::<proto::participant_info::State>(*state),
            "tracks": list(tracks),
            "metadata": metadata,
            "joined_at": int64(*joined_at),
            "joined_at_ms": int64(*joined_at_ms),
            "name": name,
            "version": version,
            "permission": optional(permission),
            "region": region,
            "is_publisher": is_publisher,
            "kind": named::<proto::participant_info::Kind>(*kind),
            "attributes": texts(attributes),
            "disconnect_reason": named::<proto::DisconnectReason>(*disconnect_reason),
            "kind_details": all_named::<proto::participant_info::KindDetail>(kind_details),
            "data_tracks": list(data_tracks),
            "client_protocol": client_protocol,
            "capabilities": all_named::<proto::client_info::Capability>(capabilities),
        })
    }
}

impl TwirpJson for proto::ParticipantPermission {
    fn to_json(&self) -> Value {
        #[expect(deprecated, reason = "LiveKit still writes them")]
        let Self {
            can_subscribe,
            can_publish,
            can_publish_data,
            can_publish_sources,
            hidden,
            recorder,
            can_update_metadata,
            agent,
            can_subscribe_metrics,
            can_manage_agent_session,
        } = self;
        json!({
            "can_subscribe": can_subscribe,
            "can_publish": can_publish,
            "can_publish_data": can_publish_data,
            "can_publish_sources": all_named::<proto::TrackSource>(can_publish_sources),
            "hidden": hidden,
            "recorder": recorder,
            "can_update_metadata": can_update_metadata,
            "agent": agent,
            "can_subscribe_metrics": can_subscribe_metrics,
            "can_manage_agent_session": can_manage_agent_session,
        })
    }
}

impl TwirpJson for proto::TrackInfo {
    fn to_json(&self) -> Value {
        #[expect(deprecated, reason = "LiveKit still writes them")]
        let Self {
            sid,
            r#type,
            name,
            muted,
            width,
            height,
            simulcast,
            disable_dtx,
            source,
            layers,
            mime_type,
            mid,
            codecs,
            stereo,
            disable_red,
            encryption,
            stream,
            version,
            audio_features,
            backup_codec_policy,
            packet_trailer_features,
        } = self;
        json!({
            "sid": sid,
            "type": named::<proto::TrackType>(*r#type),
            "name": name,
            "muted": muted,
            "width": width,
            "height": height,
            "simulcast": simulcast,
            "disable_dtx": disable_dtx,
            "source": named::<proto::TrackSource>(*source),
            "layers": list(layers),
            "mime_type": mime_type,
            "mid": mid,
            "codecs": list(codecs),
            "stereo": stereo,
            "disable_red": disable_red,
            "encryption": named::<proto::encryption::Type>(*encryption),
            "stream": stream,
            "version": optional(version),
            "audio_features": all_named::<proto::AudioTrackFeature>(audio_features),
            "backup_codec_policy": named::<proto::BackupCodecPolicy>(*backup_codec_policy),
            "packet_trailer_features": all_named::<proto::PacketTrailerFeature>(packet_trailer_features),
        })
    }
}

impl TwirpJson for proto::SimulcastCodecInfo {
    fn to_json(&self) -> Value {
        let Self { mime_type, mid, cid, layers, video_layer_mode, sdp_cid } = self;
        json!({
            "mime_type": mime_type,
            "mid": mid,
            "cid": cid,
            "layers": list(layers),
            "video_layer_mode": named::<proto::video_layer::Mode>(*video_layer_mode),
            "sdp_cid": sdp_cid,
        })
    }
}

impl TwirpJson for proto::VideoLayer {
    fn to_json(&self) -> Value {
        let Self { quality, width, height, bitrate, ssrc, spatial_layer, rid, repair_ssrc } = self;
        json!({
            "quality": named::<proto::VideoQuality>(*quality),
            "width": width,
            "height": height,
            "bitrate": bitrate,
            "ssrc": ssrc,
            "spatial_layer": spatial_layer,
            "rid": rid,
            "repair_ssrc": repair_ssrc,
        })
    }
}

impl TwirpJson for proto::DataTrackInfo {
    fn to_json(&self) -> Value {
        let Self { pub_handle, sid, name, encryption, frame_encoding, schema } = self;
        let mut fields = json!({
            "pub_handle": pub_handle,
            "sid": sid,
            "name": name,
            "encryption": named::<proto::encryption::Type>(*encryption),
        });
        // Optional fields are written only when set.
        for (name, value) in [("frame_encoding", snake_cased(frame_encoding)), ("schema", snake_cased(schema))] {
            if !value.is_null() {
                fields[name] = value;
            }
        }
        fields
    }
}

fn list<M: TwirpJson>(messages: &[M]) -> Value {
    messages.iter().map(M::to_json).collect()
}

fn optional<M: TwirpJson>(message: &Option<M>) -> Value {
    message.as_ref().map_or(Value::Null, M::to_json)
}

/// JavaScript's numbers end at 2^53, so protobuf's JSON quotes.
fn int64(number: i64) -> Value {
    Value::String(number.to_string())
}

fn texts(map: &HashMap<String, String>) -> Value {
    map.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect::<Map<_, _>>().into()
}

/// The name of an enum's value; the number, if it is newer than we are.
fn named<E: TryFrom<i32> + EnumName>(number: i32) -> Value {
    E::try_from(number).map_or(Value::from(number), |value| Value::from(value.name()))
}

fn all_named<E: TryFrom<i32> + EnumName>(numbers: &[i32]) -> Value {
    numbers.iter().map(|&number| named::<E>(number)).collect()
}

trait EnumName {
    fn name(&self) -> &'static str;
}

macro_rules! enum_names {
    ($($name:path),+ $(,)?) => {
        $(impl EnumName for $name {
            fn name(&self) -> &'static str {
                self.as_str_name()
            }
        })+
    };
}

enum_names!(
    proto::AudioTrackFeature,
    proto::BackupCodecPolicy,
    proto::DisconnectReason,
    proto::PacketTrailerFeature,
    proto::TrackSource,
    proto::TrackType,
    proto::VideoQuality,
    proto::client_info::Capability,
    proto::encryption::Type,
    proto::participant_info::Kind,
    proto::participant_info::KindDetail,
    proto::participant_info::State,
    proto::video_layer::Mode,
);

/// A small message without defaults worth writing, with its names turned to snake_case.
fn snake_cased(message: &impl serde::Serialize) -> Value {
    fn rename(value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                fields.into_iter().map(|(key, field)| (snake_case(&key), rename(field))).collect::<Map<_, _>>().into()
            }
            Value::Array(items) => items.into_iter().map(rename).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
        }
    }
    serde_json::to_value(message).map_or(Value::Null, rename)
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_writes_defaults_and_quotes_large_integers() {
        let room = proto::Room { name: "hr".into(), creation_time: 1_795_357_747, ..proto::Room::default() }.to_json();

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

        assert_eq!(participant.to_json()["state"], json!("ACTIVE"));
        assert_eq!(participant.to_json()["capabilities"], json!(["CAP_PACKET_TRAILER", 9999]));
    }

    #[test]
    fn optional_parts_of_a_data_track_are_left_out_when_unset() {
        let track = proto::DataTrackInfo { name: "lidar".into(), ..proto::DataTrackInfo::default() };

        assert_eq!(track.to_json().get("schema"), None);
        assert_eq!(track.to_json()["encryption"], json!("NONE"));
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
        let written = track.to_json();
        assert_eq!(written["frame_encoding"], json!({ "well_known": "WELL_KNOWN_FRAME_ENCODING_JSON" }));
        assert_eq!(written["schema"], json!({ "name": "Pose" }));
    }
}
