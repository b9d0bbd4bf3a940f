//! Access tokens → [`Grants`].

use std::collections::HashMap;
use std::time::SystemTime;

use livekit_protocol as proto;
use serde::{Deserialize, Serialize};
use shared::id::ParticipantIdentity;

/// What a token allows, and who it names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grants {
    pub identity: ParticipantIdentity,
    pub name: String,
    pub metadata: String,
    pub attributes: HashMap<String, String>,
    pub kind: proto::participant_info::Kind,
    pub kind_details: Vec<proto::participant_info::KindDetail>,
    pub video: VideoGrant,
    pub room_config: Option<proto::RoomConfiguration>,
    pub expires_at: SystemTime,
    pub not_before: Option<SystemTime>,
    pub api_key: String,
}

/// The `video` claim.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VideoGrant {
    pub room_create: bool,
    pub room_list: bool,
    pub room_record: bool,
    pub room_admin: bool,
    pub room_join: bool,
    pub room: String,
    pub can_publish: Option<bool>,
    pub can_subscribe: Option<bool>,
    pub can_publish_data: Option<bool>,
    pub can_publish_sources: Vec<proto::TrackSource>,
    pub can_update_own_metadata: Option<bool>,
    pub can_subscribe_metrics: Option<bool>,
    pub can_manage_agent_session: Option<bool>,
    pub hidden: bool,
    pub recorder: bool,
    pub agent: bool,
}

/// Signs refresh tokens.
#[derive(Clone, Default)]
pub struct Signer {}

impl Signer {
    /// A token with the same grants, good for a later resume.
    pub fn refresh(&self, _grants: &Grants, _now: SystemTime) -> String {
        String::new()
    }
}
