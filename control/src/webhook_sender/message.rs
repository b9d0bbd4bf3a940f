//! An event as LiveKit's webhooks write it, and its signature (docs/livekit.md 9).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use livekit_protocol as proto;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use signaling::event::{RoomEvent, RoomHappening};

/// How long a receiver accepts one try.
const LIFE: Duration = Duration::from_secs(300);

/// LiveKit's alphabet for ids.
const ID_ALPHABET: &[u8; 57] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// The event's name on the wire.
pub(super) fn name(what: &RoomHappening) -> &'static str {
    match what {
        RoomHappening::RoomStarted { .. } => "room_started",
        RoomHappening::RoomFinished { .. } => "room_finished",
        RoomHappening::ParticipantJoined { .. } => "participant_joined",
        RoomHappening::ParticipantLeft { .. } => "participant_left",
        RoomHappening::ParticipantConnectionAborted { .. } => "participant_connection_aborted",
        RoomHappening::TrackPublished { .. } => "track_published",
        RoomHappening::TrackUnpublished { .. } => "track_unpublished",
    }
}

/// The body: protobuf's JSON in camelCase, defaults left out.
pub(super) fn body(event: &RoomEvent) -> Bytes {
    let body = serde_json::to_vec(&message(event)).expect("a protobuf message is written as JSON");
    body.into()
}

fn message(event: &RoomEvent) -> proto::WebhookEvent {
    let seconds = event.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut message = proto::WebhookEvent {
        event: name(&event.what).to_owned(),
        id: id(event),
        created_at: i64::try_from(seconds).unwrap_or(i64::MAX),
        ..Default::default()
    };
    match &event.what {
        RoomHappening::RoomStarted { room } | RoomHappening::RoomFinished { room } => {
            message.room = Some(whole(room));
        }
        RoomHappening::ParticipantJoined { room, participant }
        | RoomHappening::ParticipantLeft { room, participant }
        | RoomHappening::ParticipantConnectionAborted { room, participant } => {
            message.room = Some(whole(room));
            message.participant = Some(participant.clone());
        }
        RoomHappening::TrackPublished { room, participant, track }
        | RoomHappening::TrackUnpublished { room, participant, track } => {
            message.room = Some(proto::Room { sid: room.sid.clone(), name: room.name.clone(), ..Default::default() });
            message.participant = Some(proto::ParticipantInfo {
                sid: participant.sid.clone(),
                identity: participant.identity.clone(),
                ..Default::default()
            });
            message.track = Some(track.clone());
        }
    }
    message
}

/// Counts stay out, as in LiveKit's events: they would be of another moment.
fn whole(room: &proto::Room) -> proto::Room {
    proto::Room { turn_password: String::new(), num_participants: 0, num_publishers: 0, ..room.clone() }
}

/// The same for every URL and every try, since it follows from the room and the event's number.
fn id(event: &RoomEvent) -> String {
    let digest =
        Sha256::new().chain_update(event.room_sid.as_str()).chain_update(event.number.to_be_bytes()).finalize();
    let letters = digest.iter().take(16).map(|byte| char::from(ID_ALPHABET[usize::from(*byte) % ID_ALPHABET.len()]));
    format!("EV_{}", letters.collect::<String>())
}

/// Signs bodies with one API key.
pub(super) struct Signer {
    api_key: String,
    key: EncodingKey,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    nbf: u64,
    iat: u64,
    exp: u64,
    /// Standard base64 of the digest of the exact body.
    sha256: String,
}

impl Signer {
    pub fn new(api_key: &str, secret: &[u8]) -> Self {
        Self { api_key: api_key.to_owned(), key: EncodingKey::from_secret(secret) }
    }

    /// The value of `Authorization`: the bare token.
    pub fn sign(&self, body: &[u8], now: SystemTime) -> String {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let sha256 = BASE64_STANDARD.encode(Sha256::digest(body));
        let claims = Claims { iss: &self.api_key, nbf: now, iat: now, exp: now + LIFE.as_secs(), sha256 };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key).expect("HMAC takes any key and claims")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, what: RoomHappening) -> RoomEvent {
        RoomEvent {
            room: "demo".parse().unwrap(),
            room_sid: "RM_abcdefghijkl".parse().unwrap(),
            number,
            client: None,
            at: UNIX_EPOCH + Duration::from_secs(1_767_323_045),
            what,
        }
    }

    fn room() -> proto::Room {
        proto::Room {
            sid: "RM_abcdefghijkl".into(),
            name: "demo".into(),
            num_participants: 3,
            turn_password: "x".into(),
            creation_time: 1_767_323_000,
            ..Default::default()
        }
    }

    #[test]
    fn a_body_is_camel_case_without_defaults_and_with_64_bit_numbers_as_text() {
        let body = body(&event(1, RoomHappening::RoomStarted { room: room() }));
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();

        assert_eq!(value["event"], "room_started");
        assert_eq!(value["createdAt"], "1767323045");
        let room = serde_json::json!({ "sid": "RM_abcdefghijkl", "name": "demo", "creationTime": "1767323000" });
        assert_eq!(value["room"], room);
        assert!(value["id"].as_str().unwrap().starts_with("EV_"));
        assert_eq!(value.get("participant"), None);
    }

    #[test]
    fn track_events_name_room_and_participant_only() {
        let participant = proto::ParticipantInfo {
            sid: "PA_1".into(),
            identity: "ana".into(),
            metadata: "m".into(),
            ..Default::default()
        };
        let track = proto::TrackInfo { sid: "TR_1".into(), ..Default::default() };
        let message = message(&event(2, RoomHappening::TrackPublished { room: room(), participant, track }));

        assert_eq!(message.room.unwrap().creation_time, 0);
        let participant = message.participant.unwrap();
        assert_eq!((participant.identity.as_str(), participant.metadata.as_str()), ("ana", ""));
        assert_eq!(message.track.unwrap().sid, "TR_1");
    }

    #[test]
    fn an_id_is_the_events_own_and_the_same_each_time() {
        let first = event(1, RoomHappening::RoomStarted { room: room() });
        let second = event(2, RoomHappening::RoomStarted { room: room() });

        assert_eq!(id(&first), id(&first.clone()));
        assert_ne!(id(&first), id(&second));
    }

    #[test]
    fn a_signature_names_the_key_and_the_digest_of_the_body() {
        let signer = Signer::new("devkey", b"a secret of at least thirty-two bytes");
        let token = signer.sign(b"{}", SystemTime::now());
        let mut validation = jsonwebtoken::Validation::new(Algorithm::HS256);
        validation.set_issuer(&["devkey"]);
        let key = jsonwebtoken::DecodingKey::from_secret(b"a secret of at least thirty-two bytes");
        let claims = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation).unwrap().claims;

        assert_eq!(claims["sha256"], "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=");
    }
}
