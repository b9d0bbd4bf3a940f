//! Who joins, where a test wants nothing particular of it, and the API key that its tokens are signed with.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use livekit_protocol as proto;
use signaling::join::{Join, Mode};
use signaling::token::{Grants, Keys, Secret, VideoGrant};

pub const KEY: &str = "key";
pub const SECRET: &str = "a secret that is long enough for HMAC";

pub fn keys() -> Keys {
    Keys::new([(KEY.to_owned(), Secret::new(SECRET))]).unwrap()
}

/// Until the year 2096.
pub fn grants(identity: &str) -> Grants {
    Grants {
        identity: identity.parse().unwrap(),
        name: String::new(),
        metadata: String::new(),
        attributes: HashMap::new(),
        kind: proto::participant_info::Kind::Standard,
        kind_details: Vec::new(),
        video: VideoGrant { room_join: true, room: "room".into(), ..VideoGrant::default() },
        room_preset: String::new(),
        room_config: None,
        expires_at: SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000),
        not_before: None,
        api_key: KEY.into(),
    }
}

pub fn join(identity: &str, mode: Mode) -> Join {
    Join {
        mode,
        grants: grants(identity),
        bearer: identity.parse().unwrap(),
        client: proto::ClientInfo { client_protocol: 2, ..Default::default() },
        protocol_version: 17,
        auto_subscribe: true,
        adaptive_stream: false,
        reconnect: None,
        add_tracks: Vec::new(),
        publisher_offer: None,
        sync_state: None,
    }
}
