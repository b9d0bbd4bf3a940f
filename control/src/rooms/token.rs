//! Tokens for rooms, signed with the SFU's key, as LiveKit's SDKs make them (docs/livekit.md 2).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use livekit_protocol as proto;
use serde::Serialize;
use signaling::token::VideoGrant;

use super::session::{ROLE_ATTRIBUTE, RoomRole, USER_ATTRIBUTE};
use crate::clock::Timestamp;
use crate::store::stream::UserId;

/// Life of a token for one call of the server API.
const CALL_LIFE: Duration = Duration::from_secs(60);

/// How long rooms of ours stay without participants. Longer than streams wait, so that the stream decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomTimes {
    /// Before the first one.
    pub empty: Duration,
    /// After the last one.
    pub departure: Duration,
}

impl RoomTimes {
    /// What a room stays longer than its stream waits.
    const MARGIN: Duration = Duration::from_secs(300);

    pub fn of(config: &crate::config::product::Live) -> Self {
        let after = |seconds: u32| Duration::from_secs(seconds.into()) + Self::MARGIN;
        Self { empty: after(config.start_timeout), departure: after(config.reconnect_window) }
    }

    /// What makes a room that stays so long.
    pub(super) fn request(self, room: &str) -> proto::CreateRoomRequest {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        proto::CreateRoomRequest {
            name: room.to_owned(),
            empty_timeout: seconds(self.empty),
            departure_timeout: seconds(self.departure),
            ..proto::CreateRoomRequest::default()
        }
    }
}

/// What a token for a room says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    pub room: String,
    pub identity: String,
    pub name: Option<String>,
    pub user: UserId,
    pub role: RoomRole,
    pub may_publish: bool,
    pub may_publish_data: bool,
    pub life: Duration,
}

/// Signs with one API key. Cheap to clone.
#[derive(Clone)]
pub struct TokenSigner {
    api_key: String,
    key: EncodingKey,
    times: RoomTimes,
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSigner").field("api_key", &self.api_key).finish_non_exhaustive()
    }
}

impl TokenSigner {
    /// `times` are those of rooms that a join makes, because the SFU was restarted.
    pub fn new(api_key: &str, api_secret: &str, times: RoomTimes) -> Self {
        Self { api_key: api_key.to_owned(), key: EncodingKey::from_secret(api_secret.as_bytes()), times }
    }

    pub(super) fn times(&self) -> RoomTimes {
        self.times
    }

    /// Lets somebody into a room; when it expires.
    pub(super) fn join(&self, request: &TokenRequest, now: Timestamp) -> (String, Timestamp) {
        let expires_at = now.plus(request.life);
        let attributes =
            BTreeMap::from([(USER_ATTRIBUTE, request.user.as_str()), (ROLE_ATTRIBUTE, request.role.name())]);
        let token = self.sign(&Claims {
            sub: &request.identity,
            name: request.name.as_deref(),
            attributes: Some(attributes),
            video: VideoGrant {
                room_join: true,
                room: request.room.clone(),
                can_publish: Some(request.may_publish),
                can_subscribe: Some(true),
                can_publish_data: Some(request.may_publish_data),
                ..VideoGrant::default()
            },
            room_config: Some(RoomConfig {
                empty_timeout: self.times.empty.as_secs(),
                departure_timeout: self.times.departure.as_secs(),
            }),
            ..self.claims(now, expires_at)
        });
        (token, whole_second(expires_at))
    }

    /// For one call of the server API, about `room` if it is about one.
    pub(super) fn call(&self, room: Option<&str>, now: Timestamp) -> String {
        self.sign(&Claims {
            video: VideoGrant {
                room_create: true,
                room_list: true,
                room_admin: room.is_some(),
                room: room.unwrap_or_default().to_owned(),
                ..VideoGrant::default()
            },
            ..self.claims(now, now.plus(CALL_LIFE))
        })
    }

    fn claims(&self, now: Timestamp, expires_at: Timestamp) -> Claims<'_> {
        let seconds = |at: Timestamp| at.millis() / 1000;
        Claims {
            iss: &self.api_key,
            sub: "",
            nbf: seconds(now),
            exp: seconds(expires_at),
            name: None,
            attributes: None,
            video: VideoGrant::default(),
            room_config: None,
        }
    }

    fn sign(&self, claims: &Claims) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.key)
            .expect("claims are plain JSON and HMAC takes any key")
    }
}

/// Tokens count in seconds.
fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.millis() / 1000 * 1000)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Claims<'a> {
    iss: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub: &'a str,
    nbf: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<BTreeMap<&'a str, &'a str>>,
    video: VideoGrant,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_config: Option<RoomConfig>,
}

/// Of a room that the join makes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoomConfig {
    empty_timeout: u64,
    departure_timeout: u64,
}
