//! A media server without media: the RoomService that the product calls, and signed webhooks to the product.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use jsonwebtoken::Algorithm;
use livekit_protocol as proto;
use livekit_protocol::participant_info::Kind;
use reqwest::header;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::product::{API_KEY, API_SECRET, Product, now, signed_with};

/// Handle; cheap to clone. Its HTTP server ends with the test's runtime.
#[derive(Clone)]
pub struct MediaServer(Arc<Shared>);

struct Shared {
    port: u16,
    state: Mutex<Rooms>,
}

#[derive(Default)]
struct Rooms {
    rooms: HashMap<String, Room>,
    /// Answers nothing while true.
    away: bool,
    made: u64,
}

#[derive(Clone)]
struct Room {
    sid: String,
    /// By sid.
    participants: BTreeMap<String, proto::ParticipantInfo>,
}

impl MediaServer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let server = Self(Arc::new(Shared { port, state: Mutex::default() }));
        let router =
            Router::new().route("/twirp/livekit.RoomService/{method}", post(answer)).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    /// The configuration of a product that uses it.
    pub fn config(&self) -> Value {
        json!({
            "mode": "external", "url": format!("http://127.0.0.1:{}", self.0.port),
            "api_key": API_KEY, "api_secret": API_SECRET,
        })
    }

    /// Fails every call while `away`.
    pub fn set_away(&self, away: bool) {
        self.state(|state| state.away = away);
    }

    /// Forgets all rooms, as after a crash.
    pub fn crash(&self) {
        self.state(|state| state.rooms.clear());
    }

    pub fn has_room(&self, name: &str) -> bool {
        self.state(|state| state.rooms.contains_key(name))
    }

    /// Identities in the room.
    pub fn identities(&self, room: &str) -> Vec<String> {
        self.state(|state| {
            let room = state.rooms.get(room);
            room.into_iter().flat_map(|room| room.participants.values().map(|one| one.identity.clone())).collect()
        })
    }

    /// Lets somebody in, and makes the room if need be; the event that tells of it.
    pub fn join(&self, room: &str, participant: proto::ParticipantInfo) -> proto::WebhookEvent {
        let joined = participant.clone();
        self.state(|state| {
            state.made += 1;
            let sid = format!("RM_{:012}", state.made);
            let room = state.rooms.entry(room.to_owned()).or_insert(Room { sid, participants: BTreeMap::new() });
            room.participants.insert(participant.sid.clone(), participant);
        });
        self.event("participant_joined", room, Some(joined))
    }

    /// Lets somebody go; the event that tells of it.
    pub fn leave(&self, room: &str, participant: proto::ParticipantInfo) -> proto::WebhookEvent {
        self.state(|state| {
            if let Some(room) = state.rooms.get_mut(room) {
                room.participants.remove(&participant.sid);
            }
        });
        let mut gone = participant;
        gone.state = proto::participant_info::State::Disconnected as i32;
        gone.tracks.clear();
        self.event("participant_left", room, Some(gone))
    }

    /// Closes the room; the event that tells of it.
    pub fn close(&self, room: &str) -> proto::WebhookEvent {
        let event = self.event("room_finished", room, None);
        self.state(|state| state.rooms.remove(room));
        event
    }

    pub fn publish(&self, room: &str, participant: &proto::ParticipantInfo) -> proto::WebhookEvent {
        let track =
            proto::TrackInfo { sid: format!("TR_{}", participant.sid), name: "camera".into(), ..Default::default() };
        self.state(|state| {
            let room = state.rooms.get_mut(room).expect("the product made it");
            if let Some(member) = room.participants.get_mut(&participant.sid) {
                member.tracks.push(track.clone());
                member.is_publisher = true;
            }
        });
        proto::WebhookEvent { track: Some(track), ..self.event("track_published", room, Some(participant.clone())) }
    }

    /// An event with an id of its own.
    pub fn event(&self, name: &str, room: &str, who: Option<proto::ParticipantInfo>) -> proto::WebhookEvent {
        self.state(|state| {
            state.made += 1;
            let sid = state.rooms.get(room).map_or_else(String::new, |room| room.sid.clone());
            proto::WebhookEvent {
                event: name.to_owned(),
                room: Some(proto::Room { sid, name: room.to_owned(), ..Default::default() }),
                participant: who,
                id: format!("EV_{:012}", state.made),
                created_at: i64::try_from(now()).expect("it is not that late"),
                ..Default::default()
            }
        })
    }

    /// A new session of that identity.
    pub fn session(&self, identity: &str, user: &str, role: &str) -> proto::ParticipantInfo {
        let number = self.state(|state| {
            state.made += 1;
            state.made
        });
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_millis();
        let attributes = [("app.userId", user), ("app.role", role)];
        proto::ParticipantInfo {
            sid: format!("PA_{number:012}"),
            identity: identity.to_owned(),
            state: proto::participant_info::State::Active as i32,
            joined_at: i64::try_from(now()).expect("it is not that late"),
            joined_at_ms: i64::try_from(millis).expect("it is not that late"),
            kind: Kind::Standard as i32,
            permission: Some(proto::ParticipantPermission { can_subscribe: true, ..Default::default() }),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Default::default()
        }
    }

    /// The owner joins and publishes, and the product hears of it.
    pub async fn owner_arrives(&self, product: &Product, room: &str, owner: &str) -> proto::ParticipantInfo {
        let session = self.session(owner, owner, "publisher");
        for event in [self.join(room, session.clone()), self.publish(room, &session)] {
            assert_eq!(deliver(product, &event).await, StatusCode::OK);
        }
        session
    }

    /// A viewer joins, and the product hears of it.
    pub async fn viewer_arrives(&self, product: &Product, room: &str, user: &str) -> proto::ParticipantInfo {
        let session = self.session(&format!("{user}:abcdefgh"), user, "viewer");
        assert_eq!(deliver(product, &self.join(room, session.clone())).await, StatusCode::OK);
        session
    }

    fn state<T>(&self, with: impl FnOnce(&mut Rooms) -> T) -> T {
        with(&mut self.0.state.lock().unwrap())
    }

    pub fn create(&self, name: &str) -> proto::Room {
        self.state(|state| {
            state.made += 1;
            let sid = format!("RM_{:012}", state.made);
            let room = Room { sid, participants: BTreeMap::new() };
            let room = state.rooms.entry(name.to_owned()).or_insert(room);
            proto::Room { sid: room.sid.clone(), name: name.to_owned(), ..Default::default() }
        })
    }

    fn list(&self, names: &[String]) -> Vec<proto::Room> {
        self.state(|state| {
            let wanted = state.rooms.iter().filter(|(name, _)| names.is_empty() || names.contains(name));
            let room = |(name, room): (&String, &Room)| proto::Room {
                sid: room.sid.clone(),
                name: name.clone(),
                num_participants: u32::try_from(room.participants.len()).unwrap_or(u32::MAX),
                ..Default::default()
            };
            wanted.map(room).collect()
        })
    }

    fn remove(&self, room: &str, identity: &str) -> bool {
        self.state(|state| {
            let Some(room) = state.rooms.get_mut(room) else { return false };
            let before = room.participants.len();
            room.participants.retain(|_, one| one.identity != identity);
            room.participants.len() < before
        })
    }

    pub fn participants(&self, room: &str) -> Option<Vec<proto::ParticipantInfo>> {
        self.state(|state| state.rooms.get(room).map(|room| room.participants.values().cloned().collect()))
    }
}

/// The methods that the product needs.
async fn answer(State(server): State<MediaServer>, Path(method): Path<String>, body: Bytes) -> Response {
    if server.state(|state| state.away) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    match method.as_str() {
        "CreateRoom" => said(&server.create(&read::<proto::CreateRoomRequest>(body).name)),
        "ListRooms" => {
            let rooms = server.list(&read::<proto::ListRoomsRequest>(body).names);
            said(&proto::ListRoomsResponse { rooms })
        }
        "DeleteRoom" => {
            let name = read::<proto::DeleteRoomRequest>(body).room;
            let gone = server.state(|state| state.rooms.remove(&name).is_some());
            if gone { said(&proto::DeleteRoomResponse {}) } else { not_found() }
        }
        "ListParticipants" => match server.participants(&read::<proto::ListParticipantsRequest>(body).room) {
            Some(participants) => said(&proto::ListParticipantsResponse { participants }),
            // As LiveKit: a room that is not there has nobody.
            None => said(&proto::ListParticipantsResponse::default()),
        },
        "RemoveParticipant" => {
            let proto::RoomParticipantIdentity { room, identity, .. } = read(body);
            if server.remove(&room, &identity) { said(&proto::RemoveParticipantResponse {}) } else { not_found() }
        }
        other => panic!("the product called {other}"),
    }
}

fn read<M: prost::Message + Default>(body: Bytes) -> M {
    M::decode(body).expect("the product calls with protobuf bodies")
}

fn said(message: &impl prost::Message) -> Response {
    ([("content-type", "application/protobuf")], message.encode_to_vec()).into_response()
}

fn not_found() -> Response {
    let body = r#"{"code":"not_found","msg":"no such room or participant"}"#;
    (StatusCode::NOT_FOUND, [("content-type", "application/json")], body).into_response()
}

/// A webhook as a media server would send it: the body and its headers.
pub fn signed_webhook(event: &proto::WebhookEvent) -> (Vec<u8>, HeaderMap) {
    let body = serde_json::to_vec(event).expect("protobuf has a JSON form");
    let sha256 = BASE64_STANDARD.encode(Sha256::digest(&body));
    let claims = json!({ "iss": API_KEY, "nbf": now(), "exp": now() + 300, "sha256": sha256 });
    let token = signed_with(Algorithm::HS256, API_SECRET, &claims);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/webhook+json".parse().expect("it is a header"));
    headers.insert(header::AUTHORIZATION, token.parse().expect("it is a header"));
    (body, headers)
}

/// Sends an event to the product, once.
pub async fn try_deliver(product: &Product, event: &proto::WebhookEvent) -> reqwest::Result<StatusCode> {
    let (body, headers) = signed_webhook(event);
    let url = format!("{}/api/webhooks/livekit", product.ports.url());
    Ok(product.http().post(url).headers(headers).body(body).send().await?.status())
}

pub async fn deliver(product: &Product, event: &proto::WebhookEvent) -> StatusCode {
    try_deliver(product, event).await.expect("the product answers")
}
