//! Who a participant is for us: read from what the SFU tells of it.

use std::collections::HashMap;

use livekit_protocol as proto;
use signaling::token::Grants;

use crate::clock::Timestamp;
use crate::store::presence::Presence;
use crate::store::stream::{Stream, UserId};

/// Attributes of tokens and participants that say who somebody is for us.
pub const USER_ATTRIBUTE: &str = "app.userId";
pub const ROLE_ATTRIBUTE: &str = "app.role";

/// Who somebody is in a room, written into the attributes of the token (`app.userId`, `app.role`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomRole {
    Publisher,
    Viewer,
}

impl RoomRole {
    pub fn name(self) -> &'static str {
        match self {
            RoomRole::Publisher => "publisher",
            RoomRole::Viewer => "viewer",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        match name {
            "publisher" => Some(RoomRole::Publisher),
            "viewer" => Some(RoomRole::Viewer),
            _ => None,
        }
    }
}

/// A session in a room, as the SFU tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub sid: String,
    pub identity: String,
    /// Of the attributes, else of the identity before its last `:`.
    pub user: Option<UserId>,
    pub role: Option<RoomRole>,
    /// A person's client: neither agent, egress, ingress nor SIP.
    pub standard: bool,
    pub hidden: bool,
    pub recorder: bool,
    pub joined_at: Timestamp,
    /// Connected, not only admitted: what webhooks call joined.
    pub active: bool,
    /// Publishes something.
    pub publishes: bool,
}

/// The user of a participant or a token: of the attributes, else of the identity before its last `:`.
pub(crate) fn user_of(identity: &str, attributes: &HashMap<String, String>) -> Option<UserId> {
    if let Some(user) = attributes.get(USER_ATTRIBUTE).and_then(|user| user.parse().ok()) {
        return Some(user);
    }
    identity.rsplit_once(':').map_or(identity, |(user, _)| user).parse().ok()
}

/// What identity and attributes say.
pub(crate) struct SessionClaims {
    pub user: Option<UserId>,
    pub role: Option<RoomRole>,
}

impl SessionClaims {
    pub fn read(identity: &str, attributes: &HashMap<String, String>) -> Self {
        let role = attributes.get(ROLE_ATTRIBUTE).and_then(|role| RoomRole::named(role));
        Self { user: user_of(identity, attributes), role }
    }
}

pub(crate) fn session_of(info: &proto::ParticipantInfo) -> Session {
    let SessionClaims { user, role } = SessionClaims::read(&info.identity, &info.attributes);
    let permission = info.permission.clone().unwrap_or_default();
    #[expect(deprecated, reason = "recorders are known by it")]
    let recorder = permission.recorder;
    Session {
        sid: info.sid.clone(),
        identity: info.identity.clone(),
        user,
        role,
        standard: info.kind() == proto::participant_info::Kind::Standard,
        hidden: permission.hidden,
        recorder,
        joined_at: joined_at(info.joined_at_ms, info.joined_at),
        active: info.state() == proto::participant_info::State::Active,
        publishes: !info.tracks.is_empty(),
    }
}

/// The session that somebody asks for; it has no sid yet.
pub(crate) fn session_to_be(grants: &Grants, now: Timestamp) -> Session {
    let SessionClaims { user, role } = SessionClaims::read(grants.identity.as_str(), &grants.attributes);
    Session {
        sid: String::new(),
        identity: grants.identity.as_str().to_owned(),
        user,
        role,
        standard: grants.kind == proto::participant_info::Kind::Standard,
        hidden: grants.video.hidden,
        recorder: grants.video.recorder,
        joined_at: now,
        active: false,
        publishes: false,
    }
}

/// Milliseconds if the SFU tells them, else seconds.
pub(crate) fn joined_at(millis: i64, seconds: i64) -> Timestamp {
    Timestamp::from_millis(if millis > 0 { millis } else { seconds.saturating_mul(1000) })
}

/// Whether a session is the one that the owner streams from, rather than a preview on another device.
pub(crate) fn is_owners(stream: &Stream, session: &Session) -> bool {
    session.identity == stream.owner_id.as_str()
}

pub(crate) fn presence_of(stream: &Stream, session: &Session) -> Presence {
    // A session without a usable user is a guest of its own.
    let user_id = session
        .user
        .clone()
        .or_else(|| session.identity.parse().ok())
        .or_else(|| session.sid.parse().ok())
        .unwrap_or_else(|| stream.owner_id.clone());
    let counts = session.standard
        && !session.hidden
        && !session.recorder
        && user_id != stream.owner_id
        && session.role == Some(RoomRole::Viewer);
    Presence {
        sid: session.sid.clone(),
        identity: session.identity.clone(),
        user_id,
        counts,
        joined_at: session.joined_at,
        left_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn the_attributes_name_the_user_before_the_identity() {
        let named = attributes(&[(USER_ATTRIBUTE, "auth0:7")]);

        assert_eq!(user_of("x:abcd1234", &named).unwrap().as_str(), "auth0:7");
        assert_eq!(user_of("auth0:7:abcd1234", &HashMap::new()).unwrap().as_str(), "auth0:7");
        assert_eq!(user_of("ana", &HashMap::new()).unwrap().as_str(), "ana");
        assert_eq!(user_of(":abcd1234", &HashMap::new()), None);
        assert_eq!(user_of(&"x".repeat(200), &HashMap::new()), None);
    }

    #[test]
    fn an_unknown_role_is_none() {
        assert_eq!(SessionClaims::read("a", &attributes(&[(ROLE_ATTRIBUTE, "guest")])).role, None);
        assert_eq!(SessionClaims::read("a", &attributes(&[(ROLE_ATTRIBUTE, "viewer")])).role, Some(RoomRole::Viewer));
    }
}
