//! Access tokens for the simulated participants.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

/// Lifetime of a token.
const LIFETIME_S: u64 = 6 * 3_600;

/// An API key with its secret.
#[derive(Clone)]
pub struct ApiKey {
    pub key: String,
    pub secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    name: &'a str,
    nbf: u64,
    exp: u64,
    video: VideoGrant<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VideoGrant<'a> {
    room_join: bool,
    room: &'a str,
    can_publish: bool,
    can_subscribe: bool,
    can_publish_data: bool,
    can_update_own_metadata: bool,
}

impl ApiKey {
    /// A token that lets `identity` join `room` with every right of a participant.
    ///
    /// # Errors
    ///
    /// When the clock is before 1970 or signing fails.
    pub fn token(&self, room: &str, identity: &str) -> anyhow::Result<String> {
        self.sign(room, identity, false)
    }

    /// One that lets it change its own name, metadata and attributes besides.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn token_to_change_oneself(&self, room: &str, identity: &str) -> anyhow::Result<String> {
        self.sign(room, identity, true)
    }

    fn sign(&self, room: &str, identity: &str, can_update_own_metadata: bool) -> anyhow::Result<String> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).context("reading the clock")?.as_secs();
        let video = VideoGrant {
            room_join: true,
            room,
            can_publish: true,
            can_subscribe: true,
            can_publish_data: true,
            can_update_own_metadata,
        };
        let claims =
            Claims { iss: &self.key, sub: identity, name: identity, nbf: now_s - 10, exp: now_s + LIFETIME_S, video };
        let key = EncodingKey::from_secret(self.secret.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).context("signing a token")
    }
}
