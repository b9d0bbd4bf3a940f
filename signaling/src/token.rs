//! Access tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA-256, as LiveKit's SDKs make them.
//!
//! [`Keys::verify`] turns a token into [`Claims`]; those of a joiner become [`Grants`] in [`crate::join`]. [`Signer`]
//! makes tokens: the refreshed ones that a session hands to its client, and ready ones for people who try the server.
//! A secret leaves this module inside a signature, or for another signer of the same process ([`Secret::bytes`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use livekit_protocol as proto;
use ring::hmac;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use shared::id::{ParticipantIdentity, RoomName};

use crate::protobuf_json::{self, ReadError};

/// How far the clocks of the token's maker and ours may differ, for `exp` and `nbf` alike.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// Shortest life of a refreshed token, so that a client which resumes late still finds it valid.
pub const REFRESHED_LIFE_MIN: Duration = Duration::from_secs(600);

/// Secrets shorter than this, in bytes, are warned about: HMAC-SHA-256 wants a key as long as its hash (RFC 2104).
pub const SECRET_BYTES_ADVISED: usize = 32;

/// Why a token is refused. The texts are part of the surface: clients show them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("invalid authorization token")]
    Malformed,
    #[error("invalid API key")]
    UnknownKey,
    #[error("invalid authorization token: token signature is invalid: signing method is not HS256")]
    Algorithm,
    /// RFC 7515, section 4.1.11.
    #[error("invalid authorization token: its header has crit, and no extension is known here")]
    Extension,
    #[error("invalid authorization token: token signature is invalid: signature is invalid")]
    Signature,
    #[error(
        "invalid authorization token: token has invalid claims: token is missing required claim: exp claim is required"
    )]
    NoExpiry,
    #[error("invalid authorization token: token has invalid claims: token is expired")]
    Expired,
    #[error("invalid authorization token: token has invalid claims: token is not valid yet")]
    NotYetValid,
    /// Not told before the signature has been verified.
    #[error("invalid authorization token: roomConfig: {0}")]
    RoomConfig(ReadError),
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// The API key whose secret signed the token.
    pub api_key: String,
    /// `sub`, or `jti` where that is empty. Empty in tokens for the server API.
    pub identity: String,
    pub name: String,
    pub metadata: String,
    pub attributes: HashMap<String, String>,
    pub kind: proto::participant_info::Kind,
    pub kind_details: Vec<proto::participant_info::KindDetail>,
    /// Absent: the token permits nothing with rooms.
    pub video: Option<VideoGrant>,
    pub sip: SipGrant,
    pub room_preset: String,
    pub room_config: Option<proto::RoomConfiguration>,
    pub expires_at: SystemTime,
    pub not_before: Option<SystemTime>,
}

/// What a participant may do and how it is described: the verified token of a joiner. Plain data, so that a session can
/// be written down and go on elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grants {
    pub identity: ParticipantIdentity,
    pub name: String,
    pub metadata: String,
    pub attributes: HashMap<String, String>,
    pub kind: proto::participant_info::Kind,
    pub kind_details: Vec<proto::participant_info::KindDetail>,
    pub video: VideoGrant,
    pub room_preset: String,
    /// Settings for the room, if this join creates it.
    #[serde(with = "room_configuration")]
    pub room_config: Option<proto::RoomConfiguration>,
    pub expires_at: SystemTime,
    pub not_before: Option<SystemTime>,
    pub api_key: String,
}

/// The `video` claim. Permissions stay `None` while nobody set them, so that a refreshed token
/// leaves out what the first one left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VideoGrant {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub room_create: bool,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub room_list: bool,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub room_record: bool,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub room_admin: bool,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub room_join: bool,
    /// Name of the room to join or administer; empty: none.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub room: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub destination_room: String,
    /// Absent means true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish: Option<bool>,
    /// Absent means true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe: Option<bool>,
    /// Absent means as `can_publish`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish_data: Option<bool>,
    /// Empty means all. Names that no source has restrict like any other and are kept as `Unknown`.
    #[serde(with = "source_names", skip_serializing_if = "Vec::is_empty")]
    pub can_publish_sources: Vec<proto::TrackSource>,
    /// Absent means false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_update_own_metadata: Option<bool>,
    /// Absent means false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe_metrics: Option<bool>,
    /// Absent means false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_manage_agent_session: Option<bool>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub ingress_admin: bool,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub hidden: bool,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub recorder: bool,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub agent: bool,
}

/// The `sip` claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SipGrant {
    #[serde(deserialize_with = "or_default")]
    pub admin: bool,
    #[serde(deserialize_with = "or_default")]
    pub call: bool,
}

impl VideoGrant {
    pub fn may_publish(&self) -> bool {
        self.can_publish.unwrap_or(true)
    }

    pub fn may_subscribe(&self) -> bool {
        self.can_subscribe.unwrap_or(true)
    }

    pub fn may_publish_data(&self) -> bool {
        self.can_publish_data.unwrap_or_else(|| self.may_publish())
    }

    pub fn may_update_own_metadata(&self) -> bool {
        self.can_update_own_metadata.unwrap_or(false)
    }

    /// Whether a track from this source may be published. A restricted participant may not leave the source unknown.
    pub fn may_publish_source(&self, source: proto::TrackSource) -> bool {
        self.may_publish()
            && (self.can_publish_sources.is_empty()
                || (source != proto::TrackSource::Unknown && self.can_publish_sources.contains(&source)))
    }

    /// Whether a track of this kind may be of this source. Only where sources are listed: a video is no microphone then.
    pub fn is_fitting(&self, source: proto::TrackSource, kind: proto::TrackType) -> bool {
        use proto::{TrackSource, TrackType};
        self.can_publish_sources.is_empty()
            || match source {
                TrackSource::Camera | TrackSource::ScreenShare => kind == TrackType::Video,
                TrackSource::Microphone | TrackSource::ScreenShareAudio => kind == TrackType::Audio,
                TrackSource::Unknown => true,
            }
    }

    /// Whether the server API may be used on this room.
    pub fn administers(&self, room: &str) -> bool {
        self.room_admin && self.room == room
    }

    /// The permissions as participants see them.
    pub fn permission(&self) -> proto::ParticipantPermission {
        #[expect(deprecated, reason = "older clients read `recorder` and `agent` here")]
        proto::ParticipantPermission {
            can_subscribe: self.may_subscribe(),
            can_publish: self.may_publish(),
            can_publish_data: self.may_publish_data(),
            can_publish_sources: self.can_publish_sources.iter().map(|&source| source as i32).collect(),
            hidden: self.hidden,
            recorder: self.recorder,
            can_update_metadata: self.may_update_own_metadata(),
            agent: self.agent,
            can_subscribe_metrics: self.can_subscribe_metrics.unwrap_or(false),
            can_manage_agent_session: self.can_manage_agent_session.unwrap_or(false),
        }
    }

    /// Replaces all permissions, as UpdateParticipant does.
    pub fn set_permission(&mut self, permission: &proto::ParticipantPermission) {
        self.can_subscribe = Some(permission.can_subscribe);
        self.can_publish = Some(permission.can_publish);
        self.can_publish_data = Some(permission.can_publish_data);
        self.can_publish_sources = permission
            .can_publish_sources
            .iter()
            .map(|&number| proto::TrackSource::try_from(number).unwrap_or(proto::TrackSource::Unknown))
            .collect();
        self.hidden = permission.hidden;
        self.can_update_own_metadata = Some(permission.can_update_metadata);
        self.can_subscribe_metrics = Some(permission.can_subscribe_metrics);
        self.can_manage_agent_session = Some(permission.can_manage_agent_session);
        #[expect(deprecated, reason = "server SDKs may still set them")]
        {
            self.recorder = permission.recorder;
            self.agent = permission.agent;
        }
    }
}

/// A key's secret. Its text is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// For signing, never for showing.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// API keys with their secrets, in configured order. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys(Arc<[(String, Secret)]>);

/// Keys that no server can run with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("there is no API key")]
    None,
    #[error("an API key has an empty name")]
    EmptyName,
    #[error("the API key {0:?} has an empty secret")]
    EmptySecret(String),
    #[error("the API key {0:?} is given twice")]
    Twice(String),
}

impl Keys {
    pub fn new(pairs: impl IntoIterator<Item = (String, Secret)>) -> Result<Self, KeysError> {
        let pairs: Vec<(String, Secret)> = pairs.into_iter().collect();
        if pairs.is_empty() {
            return Err(KeysError::None);
        }
        for (index, (name, secret)) in pairs.iter().enumerate() {
            if name.is_empty() {
                return Err(KeysError::EmptyName);
            }
            if secret.bytes().is_empty() {
                return Err(KeysError::EmptySecret(name.clone()));
            }
            if pairs.iter().take(index).any(|(earlier, _)| earlier == name) {
                return Err(KeysError::Twice(name.clone()));
            }
        }
        Ok(Self(pairs.into()))
    }

    /// Names of keys whose secret is shorter than [`SECRET_BYTES_ADVISED`].
    pub fn weak(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, secret)| secret.bytes().len() < SECRET_BYTES_ADVISED).map(|(name, _)| name.as_str())
    }

    fn secret(&self, key: &str) -> Option<&Secret> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, secret)| secret)
    }

    /// Signs with the first key.
    pub fn signer(&self) -> Signer {
        let (api_key, secret) = self.0.first().expect("`new` refuses an empty list");
        Signer { api_key: api_key.as_str().into(), key: secret.key() }
    }

    /// Verifies a token at the time `now`.
    ///
    /// # Errors
    /// In this order: [`TokenError::Malformed`], [`TokenError::UnknownKey`], [`TokenError::Algorithm`],
    /// [`TokenError::Extension`], [`TokenError::Signature`], [`TokenError::NoExpiry`], [`TokenError::Expired`], [`TokenError::NotYetValid`],
    /// [`TokenError::RoomConfig`].
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        let header: RawHeader = read_part(token, 0)?;
        let issuer: RawIssuer = read_part(token, 1)?;
        let secret = self.secret(&issuer.iss).ok_or(TokenError::UnknownKey)?;
        if header.alg != "HS256" {
            return Err(TokenError::Algorithm);
        }
        if header.crit {
            return Err(TokenError::Extension);
        }
        check_signature(token, &secret.key())?;
        let raw: RawClaims = read_part(token, 1)?;
        raw.check_time(now)?;
        raw.into_claims(issuer.iss)
    }
}

/// A token is its header, its claims, and the signature of both (RFC 7515, section 7.1).
fn check_signature(token: &str, key: &hmac::Key) -> Result<(), TokenError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    if signed.matches('.').count() != 1 {
        return Err(TokenError::Malformed);
    }
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
    hmac::verify(key, signed.as_bytes(), &signature).map_err(|_| TokenError::Signature)
}

fn read_part<T: for<'de> Deserialize<'de>>(token: &str, index: usize) -> Result<T, TokenError> {
    let mut parts = token.split('.');
    let part = parts.nth(index).ok_or(TokenError::Malformed)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

#[derive(Deserialize)]
struct RawHeader {
    alg: String,
    /// Whether the header names extensions that must be understood.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

#[derive(Deserialize)]
struct RawIssuer {
    #[serde(default, deserialize_with = "or_default")]
    iss: String,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct RawClaims {
    #[serde(deserialize_with = "or_default")]
    sub: String,
    #[serde(deserialize_with = "or_default")]
    jti: String,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    metadata: String,
    #[serde(deserialize_with = "or_default")]
    attributes: HashMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    kind_details: Vec<String>,
    video: Option<VideoGrant>,
    #[serde(deserialize_with = "or_default")]
    sip: SipGrant,
    #[serde(deserialize_with = "or_default")]
    room_preset: String,
    room_config: Option<serde_json::Value>,
}

impl RawClaims {
    fn check_time(&self, now: SystemTime) -> Result<(), TokenError> {
        let expires_at = self.exp.and_then(numeric_date).ok_or(TokenError::NoExpiry)?;
        if now > expires_at + LEEWAY {
            return Err(TokenError::Expired);
        }
        match self.nbf.and_then(numeric_date) {
            Some(not_before) if now + LEEWAY < not_before => Err(TokenError::NotYetValid),
            Some(_) | None => Ok(()),
        }
    }

    fn into_claims(self, api_key: String) -> Result<Claims, TokenError> {
        let room_config =
            self.room_config.map(protobuf_json::read_value).transpose().map_err(TokenError::RoomConfig)?;
        Ok(Claims {
            api_key,
            identity: if self.sub.is_empty() { self.jti } else { self.sub },
            name: self.name,
            metadata: self.metadata,
            attributes: self.attributes,
            kind: kind_named(&self.kind),
            kind_details: self.kind_details.iter().filter_map(|name| kind_detail_named(name)).collect(),
            video: self.video,
            sip: self.sip,
            room_preset: self.room_preset,
            room_config,
            expires_at: self.exp.and_then(numeric_date).unwrap_or(UNIX_EPOCH),
            not_before: self.nbf.and_then(numeric_date),
        })
    }
}

/// NumericDate of RFC 7519, section 2. Beyond the year 9999 is as good as that year, and keeps sums from overflowing.
fn numeric_date(seconds: f64) -> Option<SystemTime> {
    const YEAR_9999: f64 = 253_402_300_799.0;
    let since = Duration::try_from_secs_f64(seconds.clamp(0.0, YEAR_9999)).ok()?;
    UNIX_EPOCH.checked_add(since)
}

fn kind_named(name: &str) -> proto::participant_info::Kind {
    proto::participant_info::Kind::from_str_name(&name.to_ascii_uppercase())
        .unwrap_or(proto::participant_info::Kind::Standard)
}

fn kind_detail_named(name: &str) -> Option<proto::participant_info::KindDetail> {
    proto::participant_info::KindDetail::from_str_name(&name.to_ascii_uppercase())
}

/// Makes tokens with the server's first key. Cheap to clone.
#[derive(Clone)]
pub struct Signer {
    api_key: Arc<str>,
    key: hmac::Key,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("api_key", &self.api_key).finish_non_exhaustive()
    }
}

/// A token to join a room with, made for people who try the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub identity: ParticipantIdentity,
    pub room: RoomName,
    /// The participant is hidden and only records.
    pub recorder: bool,
    pub life: Duration,
}

impl Signer {
    /// A token for resuming and joining again: what `grants` say now, valid for [`REFRESHED_LIFE_MIN`] or as long as the
    /// first token would have been.
    pub fn refresh(&self, grants: &Grants, now: SystemTime) -> String {
        let expires_at = grants.expires_at.max(now + REFRESHED_LIFE_MIN);
        self.sign(&SignedClaims {
            iss: &self.api_key,
            sub: grants.identity.as_str(),
            identity: grants.identity.as_str(),
            nbf: unix_s(now),
            iat: unix_s(now),
            exp: unix_s(expires_at),
            name: &grants.name,
            kind: grants.kind.as_str_name().to_ascii_lowercase(),
            kind_details: grants.kind_details.iter().map(|detail| detail.as_str_name().to_ascii_lowercase()).collect(),
            metadata: &grants.metadata,
            attributes: &grants.attributes,
            video: &grants.video,
            room_config: grants.room_config.as_ref().map(protobuf_json::write),
            room_preset: &grants.room_preset,
        })
    }

    /// A token that lets somebody in with all a participant may do.
    pub fn create_join_token(&self, join: &JoinToken, now: SystemTime) -> String {
        let video = VideoGrant {
            room_join: true,
            room: join.room.as_str().to_owned(),
            can_publish: join.recorder.then_some(false),
            hidden: join.recorder,
            recorder: join.recorder,
            ..VideoGrant::default()
        };
        self.sign(&SignedClaims {
            iss: &self.api_key,
            sub: join.identity.as_str(),
            identity: join.identity.as_str(),
            nbf: unix_s(now),
            iat: unix_s(now),
            exp: unix_s(now + join.life),
            name: join.identity.as_str(),
            kind: "standard".to_owned(),
            kind_details: Vec::new(),
            metadata: "",
            attributes: &HashMap::new(),
            video: &video,
            room_config: None,
            room_preset: "",
        })
    }

    fn sign(&self, claims: &SignedClaims) -> String {
        let claims = serde_json::to_vec(claims).expect("claims are plain JSON");
        let mut token = BASE64_URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = hmac::sign(&self.key, token.as_bytes());
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SignedClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    identity: &'a str,
    nbf: u64,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kind_details: Vec<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    attributes: &'a HashMap<String, String>,
    video: &'a VideoGrant,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_config: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "str::is_empty")]
    room_preset: &'a str,
}

/// `null` and absent are the same to LiveKit.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A room's settings, in protobuf's JSON with values of enums that are newer than we are.
mod room_configuration {
    use super::{Deserialize, Deserializer, proto, protobuf_json};
    use serde::{Serialize, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(config: &Option<proto::RoomConfiguration>, to: S) -> Result<S::Ok, S::Error> {
        config.as_ref().map(protobuf_json::write).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<proto::RoomConfiguration>, D::Error> {
        let written: Option<serde_json::Value> = Option::deserialize(from)?;
        written.map(protobuf_json::read_value).transpose().map_err(D::Error::custom)
    }
}

/// Track sources as tokens spell them: `camera`, in any case.
mod source_names {
    use super::{Deserialize, Deserializer, proto};
    use serde::{Serialize, Serializer};

    pub fn serialize<S: Serializer>(sources: &[proto::TrackSource], serializer: S) -> Result<S::Ok, S::Error> {
        let names: Vec<String> = sources.iter().map(|source| source.as_str_name().to_ascii_lowercase()).collect();
        names.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<proto::TrackSource>, D::Error> {
        let names: Vec<String> = Option::deserialize(deserializer)?.unwrap_or_default();
        Ok(names
            .iter()
            .map(|name| {
                proto::TrackSource::from_str_name(&name.to_ascii_uppercase()).unwrap_or(proto::TrackSource::Unknown)
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header};

    use super::*;
    use serde_json::{Value, json};

    const NOW_S: u64 = 1_800_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW_S)
    }

    fn keys() -> Keys {
        Keys::new([("first".into(), Secret::new("one")), ("second".into(), Secret::new("two"))]).unwrap()
    }

    fn signed_as(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn signed(claims: &Value) -> String {
        signed_as(Algorithm::HS256, "one", claims)
    }

    fn verify(claims: &Value) -> Result<Claims, TokenError> {
        keys().verify(&signed(claims), now())
    }

    fn join_grants() -> Grants {
        Grants {
            identity: "alice".parse().unwrap(),
            name: "Alice".into(),
            metadata: "m".into(),
            attributes: [("a".to_owned(), "1".to_owned())].into(),
            kind: proto::participant_info::Kind::Agent,
            kind_details: vec![proto::participant_info::KindDetail::Forwarded],
            video: VideoGrant { room_join: true, room: "r".into(), can_publish: Some(false), ..VideoGrant::default() },
            room_preset: "p".into(),
            room_config: Some(proto::RoomConfiguration { max_participants: 3, ..proto::RoomConfiguration::default() }),
            expires_at: now() + Duration::from_secs(3600),
            not_before: None,
            api_key: "second".into(),
        }
    }

    #[test]
    fn any_configured_key_verifies_its_own_tokens_only() {
        let claims = json!({ "iss": "second", "sub": "a", "exp": NOW_S + 1 });

        assert!(keys().verify(&signed_as(Algorithm::HS256, "two", &claims), now()).is_ok());
        assert_eq!(keys().verify(&signed_as(Algorithm::HS256, "one", &claims), now()), Err(TokenError::Signature));
        assert_eq!(verify(&json!({ "iss": "third", "exp": NOW_S + 1 })), Err(TokenError::UnknownKey));
        assert_eq!(verify(&json!({ "exp": NOW_S + 1 })), Err(TokenError::UnknownKey));
    }

    #[test]
    fn a_header_that_demands_an_extension_is_refused() {
        let claims = json!({ "iss": "first", "sub": "a", "exp": NOW_S + 1 });
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        for crit in [json!(["exp"]), json!(["urn:example:unknown"]), json!([]), Value::Null] {
            let header = json!({ "alg": "HS256", "typ": "JWT", "crit": crit, "urn:example:unknown": 1 });
            let signed = format!("{}.{}", part(&header), part(&claims));
            let key = hmac::Key::new(hmac::HMAC_SHA256, b"one");
            let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
            assert_eq!(keys().verify(&format!("{signed}.{signature}"), now()), Err(TokenError::Extension), "{crit}");
        }
    }

    #[test]
    fn only_hs256_is_accepted() {
        let claims = json!({ "iss": "first", "sub": "a", "exp": NOW_S + 1 });
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let unsigned = format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims));

        assert_eq!(keys().verify(&unsigned, now()), Err(TokenError::Algorithm));
        for algorithm in [Algorithm::HS384, Algorithm::HS512] {
            assert_eq!(keys().verify(&signed_as(algorithm, "one", &claims), now()), Err(TokenError::Algorithm));
        }
    }

    #[test]
    fn a_changed_token_is_refused() {
        let token = signed(&json!({ "iss": "first", "sub": "a", "exp": NOW_S + 1 }));
        let other = signed(&json!({ "iss": "first", "sub": "b", "exp": NOW_S + 1 }));
        let payload_of = |token: &str| token.split('.').nth(1).unwrap().to_owned();
        let forged = token.replace(&payload_of(&token), &payload_of(&other));

        assert_eq!(keys().verify(&forged, now()), Err(TokenError::Signature));
    }

    #[test]
    fn what_is_no_token_is_malformed() {
        for text in ["", ".", "..", "garbage", "a.b.c", "e30.e30", "e30.e30.e30.e30", "\u{fffd}.\u{fffd}.\u{fffd}"] {
            assert_eq!(keys().verify(text, now()), Err(TokenError::Malformed), "{text}");
        }
    }

    #[test]
    fn expiry_is_required_and_has_a_minute_of_leeway() {
        assert_eq!(verify(&json!({ "iss": "first" })), Err(TokenError::NoExpiry));
        assert_eq!(verify(&json!({ "iss": "first", "exp": null })), Err(TokenError::NoExpiry));
        assert!(verify(&json!({ "iss": "first", "exp": NOW_S - 60 })).is_ok());
        assert_eq!(verify(&json!({ "iss": "first", "exp": NOW_S - 61 })), Err(TokenError::Expired));
        assert!(verify(&json!({ "iss": "first", "exp": 1e300 })).is_ok());
        assert_eq!(verify(&json!({ "iss": "first", "exp": -1e300 })), Err(TokenError::Expired));
    }

    #[test]
    fn the_beginning_has_a_minute_of_leeway_too() {
        let claims = |begin: u64| json!({ "iss": "first", "exp": NOW_S + 1000, "nbf": begin });

        assert!(verify(&claims(NOW_S + 60)).is_ok());
        assert_eq!(verify(&claims(NOW_S + 61)), Err(TokenError::NotYetValid));
    }

    #[test]
    fn the_identity_is_sub_or_else_jti() {
        let identity = |claims: Value| verify(&claims).unwrap().identity;

        assert_eq!(identity(json!({ "iss": "first", "exp": NOW_S, "sub": "a", "jti": "b" })), "a");
        assert_eq!(identity(json!({ "iss": "first", "exp": NOW_S, "sub": "", "jti": "b" })), "b");
    }

    #[test]
    fn what_a_token_leaves_open_is_permitted_and_data_follows_publishing() {
        let video =
            |grant: Value| verify(&json!({ "iss": "first", "exp": NOW_S, "video": grant })).unwrap().video.unwrap();

        let open = video(json!({ "roomJoin": true, "canPublish": null, "hidden": null }));
        assert!(open.may_publish() && open.may_subscribe() && open.may_publish_data() && !open.hidden);
        let closed = video(json!({ "canPublish": false, "canSubscribe": false }));
        assert!(!closed.may_publish() && !closed.may_subscribe() && !closed.may_publish_data());
        assert!(video(json!({ "canPublish": false, "canPublishData": true })).may_publish_data());
    }

    #[test]
    fn listed_sources_alone_may_be_published() {
        let grant: VideoGrant = serde_json::from_value(json!({ "canPublishSources": ["Camera", "hologram"] })).unwrap();

        assert!(grant.may_publish_source(proto::TrackSource::Camera));
        assert!(!grant.may_publish_source(proto::TrackSource::Microphone));
        assert!(!grant.may_publish_source(proto::TrackSource::Unknown));
        assert!(VideoGrant::default().may_publish_source(proto::TrackSource::Unknown));
        let silent = VideoGrant { can_publish: Some(false), ..grant.clone() };
        assert!(!silent.may_publish_source(proto::TrackSource::Camera));
        use proto::{TrackSource, TrackType};
        for (source, video, audio) in [
            (TrackSource::Camera, true, false),
            (TrackSource::ScreenShare, true, false),
            (TrackSource::Microphone, false, true),
            (TrackSource::ScreenShareAudio, false, true),
            (TrackSource::Unknown, true, true),
        ] {
            let fits = |kind| grant.is_fitting(source, kind);
            assert_eq!((fits(TrackType::Video), fits(TrackType::Audio)), (video, audio), "{source:?}");
        }
        assert!(VideoGrant::default().is_fitting(TrackSource::Microphone, TrackType::Video), "as LiveKit does");
    }

    #[test]
    fn an_administrator_is_one_of_its_room() {
        let grant = |room_admin, room: &str| VideoGrant { room_admin, room: room.into(), ..VideoGrant::default() };
        assert!(grant(true, "r").administers("r"));
        assert!(!grant(true, "r").administers("other") && !grant(false, "r").administers("r"));
    }

    /// What a token leaves out is not in the next one either.
    #[test]
    fn a_token_says_only_what_is_granted() {
        let claims_of = |grants: &Grants| -> Value {
            let token = keys().signer().refresh(grants, now());
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
        };
        let full = join_grants();
        let expected = json!({
            "iss": "first", "sub": "alice", "identity": "alice", "nbf": NOW_S, "iat": NOW_S, "exp": NOW_S + 3600,
            "name": "Alice", "kind": "agent", "kindDetails": ["forwarded"], "metadata": "m", "attributes": { "a": "1" },
            "video": { "roomJoin": true, "room": "r", "canPublish": false },
            "roomConfig": { "maxParticipants": 3 }, "roomPreset": "p",
        });
        assert_eq!(claims_of(&full), expected);
        let bare = Grants {
            name: String::new(),
            metadata: String::new(),
            attributes: HashMap::new(),
            kind: proto::participant_info::Kind::Standard,
            kind_details: Vec::new(),
            video: VideoGrant::default(),
            room_preset: String::new(),
            room_config: None,
            ..full
        };
        let expected = json!({
            "iss": "first", "sub": "alice", "identity": "alice", "nbf": NOW_S, "iat": NOW_S, "exp": NOW_S + 3600,
            "kind": "standard", "video": {},
        });
        assert_eq!(claims_of(&bare), expected);
    }

    #[test]
    fn a_refreshed_token_carries_all_grants_and_leaves_open_what_was_open() {
        let grants = join_grants();
        let claims = keys().verify(&keys().signer().refresh(&grants, now()), now()).unwrap();

        assert_eq!(claims.api_key, "first");
        assert_eq!(claims.video, Some(grants.video.clone()));
        assert_eq!(claims.video.unwrap().can_subscribe, None);
        assert_eq!(
            (claims.name, claims.metadata, claims.attributes),
            (grants.name, grants.metadata, grants.attributes)
        );
        assert_eq!((claims.kind, claims.kind_details), (grants.kind, grants.kind_details));
        assert_eq!((claims.room_preset, claims.room_config), (grants.room_preset, grants.room_config));
        assert_eq!(claims.expires_at, grants.expires_at);
    }

    #[test]
    fn a_refreshed_token_lasts_ten_minutes_at_least() {
        let grants = Grants { expires_at: now() - Duration::from_secs(7200), ..join_grants() };
        let claims = keys().verify(&keys().signer().refresh(&grants, now()), now()).unwrap();

        assert_eq!(claims.expires_at, now() + REFRESHED_LIFE_MIN);
    }

    #[test]
    fn a_token_made_for_people_lets_them_in_as_participants_or_hidden_as_recorders() {
        let life = Duration::from_secs(90);
        for recorder in [false, true] {
            let (identity, room) = ("alice".parse().unwrap(), "r".parse().unwrap());
            let token = keys().signer().create_join_token(&JoinToken { identity, room, recorder, life }, now());
            let video = VideoGrant {
                room_join: true,
                room: "r".into(),
                can_publish: recorder.then_some(false),
                hidden: recorder,
                recorder,
                ..VideoGrant::default()
            };
            let expected = Claims {
                api_key: "first".into(),
                identity: "alice".into(),
                name: "alice".into(),
                metadata: String::new(),
                attributes: HashMap::new(),
                kind: proto::participant_info::Kind::Standard,
                kind_details: Vec::new(),
                video: Some(video),
                sip: SipGrant::default(),
                room_preset: String::new(),
                room_config: None,
                expires_at: now() + life,
                not_before: Some(now()),
            };
            assert_eq!(keys().verify(&token, now()), Ok(expected));
        }
    }

    #[test]
    fn a_change_of_permissions_is_in_the_next_token() {
        let mut grants = join_grants();
        let permission = proto::ParticipantPermission { can_publish: true, ..proto::ParticipantPermission::default() };
        grants.video.set_permission(&permission);
        let claims = keys().verify(&keys().signer().refresh(&grants, now()), now()).unwrap();

        assert_eq!(claims.video.unwrap().permission(), permission);
    }

    #[test]
    fn a_room_configuration_is_read_in_any_spelling_and_an_impossible_one_refused_by_name() {
        let config = |config: Value| {
            verify(&json!({ "iss": "first", "exp": NOW_S, "roomConfig": config })).map(|claims| claims.room_config)
        };
        let wanted = proto::RoomConfiguration { empty_timeout: 60, max_participants: 3, ..Default::default() };
        for spelling in [
            json!({ "emptyTimeout": 60.0, "max_participants": 3.0 }),
            json!({ "empty_timeout": "60", "maxParticipants": "3.0", "metadata": null, "newer": 0.5 }),
            json!({ "emptyTimeout": "6e1", "maxParticipants": 3 }),
        ] {
            assert_eq!(config(spelling.clone()), Ok(Some(wanted.clone())), "{spelling}");
        }
        assert_eq!(config(Value::Null), Ok(None));
        assert_eq!(
            config(json!({ "emptyTimeout": 60.5 })).unwrap_err().to_string(),
            "invalid authorization token: roomConfig: emptyTimeout: 60.5 is not a whole number"
        );
    }

    #[test]
    fn a_newer_enum_value_in_a_room_configuration_is_in_the_next_token_too() {
        let settings = json!({ "egress": { "room": { "preset": 4711 } } });
        let claims = json!({ "iss": "first", "exp": NOW_S, "roomConfig": settings });
        let grants = Grants { room_config: verify(&claims).unwrap().room_config, ..join_grants() };
        let refreshed = keys().verify(&keys().signer().refresh(&grants, now()), now()).unwrap();

        assert!(grants.room_config.is_some());
        assert_eq!(refreshed.room_config, grants.room_config);
        let written = serde_json::to_string(&grants).unwrap();
        assert_eq!(serde_json::from_str::<Grants>(&written).unwrap(), grants);
    }

    #[test]
    fn grants_can_be_written_down_and_read_back() {
        let grants = join_grants();
        let written = serde_json::to_string(&grants).unwrap();

        assert_eq!(serde_json::from_str::<Grants>(&written).unwrap(), grants);
    }

    #[test]
    fn nothing_shows_a_secret() {
        assert!(!format!("{:?} {:?}", keys(), keys().signer()).contains("one"));
    }

    #[test]
    fn a_key_is_weak_whose_secret_is_shorter_than_the_hash() {
        let secret = |bytes| Secret::new(&"s".repeat(bytes));
        let lengths = [("shorter", 31), ("as long", 32), ("longer", 33), ("short", 1)];
        let keys = Keys::new(lengths.map(|(name, bytes)| (name.to_owned(), secret(bytes)))).unwrap();
        assert_eq!(keys.weak().collect::<Vec<_>>(), ["shorter", "short"]);
    }

    #[test]
    fn keys_need_names_and_secrets() {
        let keys = |pairs: &[(&str, &str)]| {
            Keys::new(pairs.iter().map(|(name, secret)| ((*name).to_owned(), Secret::new(secret)))).map(|_| ())
        };

        assert_eq!(keys(&[]), Err(KeysError::None));
        assert_eq!(keys(&[("", "s")]), Err(KeysError::EmptyName));
        assert_eq!(keys(&[("k", "")]), Err(KeysError::EmptySecret("k".into())));
        assert_eq!(keys(&[("k", "s"), ("k", "t")]), Err(KeysError::Twice("k".into())));
    }
}
