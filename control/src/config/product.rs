//! Settings of the live-streaming product: streams, chat, users, store, and where rooms are.

use serde::{Deserialize, Serialize};

use super::Hidden;

/// Streams (stream API, sections 3, 4 and 11).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Live {
    /// `FEATURE_GO_LIVE`: off, no stream starts and none is listed; running ones go on.
    pub enabled: bool,
    /// Seconds that a stream may stay without its owner's first track.
    pub start_timeout: u32,
    /// Seconds that a stream waits for an owner who is gone.
    pub reconnect_window: u32,
    /// Seconds; 0 means unlimited.
    pub max_duration: u32,
    /// Viewers of a stream; 0 means unlimited.
    pub max_viewers: u32,
    /// Whether viewers may send data messages in the SFU, which go round the moderation of the chat.
    pub viewer_data: bool,
    /// New streams of a user within an hour; 0 means unlimited.
    pub starts_per_hour: u32,
    /// Seconds from the end of a stream to the owner's next.
    pub start_cooldown: u32,
    /// Seconds between two comparisons of a live stream with its room.
    pub reconcile_interval: u32,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            enabled: true,
            start_timeout: 60,
            reconnect_window: 60,
            max_duration: 12 * 3600,
            max_viewers: 0,
            viewer_data: true,
            starts_per_hour: 5,
            start_cooldown: 30,
            reconcile_interval: 30,
        }
    }
}

/// What somebody without a token may do in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestAccess {
    Off,
    Read,
    /// In development only: nobody could be moderated.
    Write,
}

/// Chat (stream API, section 8).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chat {
    /// Absent: `read`, in development `write`.
    pub guest: Option<GuestAccess>,
    /// Whether messages are kept: before they are sent, for newcomers and reviewers.
    pub persist: bool,
    /// Days that messages stay after the end of their stream.
    pub retention: u32,
    /// Emoji that may be sent; empty means any.
    pub reactions: Vec<String>,
    /// Sockets of this process.
    pub max_connections: u32,
    /// Sockets of one address; 0 means unlimited.
    pub max_connections_per_ip: u32,
}

impl Default for Chat {
    fn default() -> Self {
        Self {
            guest: None,
            persist: true,
            retention: 7,
            reactions: Vec::new(),
            max_connections: 50_000,
            max_connections_per_ip: 200,
        }
    }
}

/// Who users are: tokens of the app's identity service (stream API, section 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// `JWT_SECRET`: of HS256 tokens, at least 32 bytes. Empty: none are accepted.
    pub jwt_secret: Hidden,
    /// `JWT_JWKS_URL`: of the keys of RS256, ES256 and EdDSA tokens. Empty: none are accepted.
    pub jwks_url: String,
    /// `JWT_ISSUER`: `iss` must be this. Empty: any.
    pub issuer: String,
    /// `JWT_AUDIENCE`: `aud` must contain this. Empty: any.
    pub audience: String,
    /// Where the role stands in a token, parts separated by dots.
    pub role_claim: String,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            jwt_secret: Hidden::default(),
            jwks_url: String::new(),
            issuer: String::new(),
            audience: String::new(),
            role_claim: "role".into(),
        }
    }
}

/// The HTTP side of the product (stream API, section 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// Origins whose pages may call; empty means this server's own alone, `*` any (in development only).
    pub cors_origins: Vec<String>,
    /// Addresses or networks (`10.0.0.0/8`) whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// Calls of a user in a minute.
    pub calls_per_minute: u32,
    /// Calls without a token from one address in a minute.
    pub anonymous_calls_per_minute: u32,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            calls_per_minute: 300,
            anonymous_calls_per_minute: 120,
        }
    }
}

/// Where things are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// `MONGODB_URI`. Empty: the embedded store.
    pub mongodb_uri: Hidden,
    /// Of MongoDB; empty means the one that the URI names, or `onair`.
    pub database: String,
    /// Directory of the embedded store, and of writes that wait for MongoDB. Empty: in development memory, else
    /// `onair-data` where the server was started.
    pub path: String,
    /// Whether the embedded store waits for the disk at each write, so that a power failure loses nothing either.
    pub full_sync: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self { mongodb_uri: Hidden::default(), database: String::new(), path: String::new(), full_sync: false }
    }
}

/// Whose rooms the streams are in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SfuMode {
    /// This process's own.
    #[default]
    Builtin,
    /// Those of another LiveKit-compatible server, which sends its webhooks here.
    External,
    /// No streams at all: a media server alone.
    Only,
}

/// The media server of the streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sfu {
    pub mode: SfuMode,
    /// `LIVEKIT_URL`: of the external server; what apps are given, unless `public_url` is set.
    pub url: String,
    /// What apps are given to connect to. Empty: `url`, or the address under which this server was called.
    pub public_url: String,
    /// `LIVEKIT_API_KEY`. Empty: the first of `keys`.
    pub api_key: String,
    /// `LIVEKIT_API_SECRET`.
    pub api_secret: Hidden,
}
