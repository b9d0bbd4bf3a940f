//! Access tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA-256, as LiveKit's SDKs make them.
//!
//! [`Keys::verify`] turns a token into [`Claims`]; those of a joiner become [`Grants`] in [`crate::join`]. [`Signer`]
//! makes tokens: the refreshed ones that a session hands to its client, and ready ones for people who try the server.
//! A secret leaves this module inside a signature, or for another signer of the same process ([`Secret::bytes`]).
//!
//! Signatures and claims are `jsonwebtoken`'s work. Two fields of the header are read here first, because the library
//! takes a header whose algorithm it does not know for malformed, and one whose `crit` is null for one without, which
//! is not what callers are told. Times are judged by the clock of the caller, which the library does not take.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use livekit_protocol as proto;
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

    /// Whether a track of this kind may be of this source. Only where sources are listed: a video is no microphone
    /// then.
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
        Signer { api_key: api_key.as_str().into(), key: EncodingKey::from_secret(secret.bytes()) }
    }

    /// Verifies a token at the time `now`.
    ///
    /// # Errors
    /// In this order: [`TokenError::Malformed`], [`TokenError::UnknownKey`], [`TokenError::Algorithm`],
    /// [`TokenError::Extension`], [`TokenError::Signature`], [`TokenError::NoExpiry`], [`TokenError::Expired`],
    /// [`TokenError::NotYetValid`], [`TokenError::RoomConfig`].
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
        let raw = read_signed(token, secret)?;
        raw.check_time(now)?;
        raw.into_claims(issuer.iss)
    }
}

/// The claims of a token whose signature is that of this secret.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn read_signed(token: &str, secret: &Secret) -> Result<RawClaims, TokenError> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode(token, &DecodingKey::from_secret(secret.bytes()), &validation);
    decoded.map(|data| data.claims).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        _ => TokenError::Malformed,
    })
}

/// A part of a token (RFC 7515, section 7.1) before its signature is verified.
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
    key: EncodingKey,
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
    /// A token for resuming and joining again: what `grants` say now, valid for [`REFRESHED_LIFE_MIN`] or as long as
    /// the first token would have been.
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
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.key)
            .expect("claims are plain JSON and HMAC takes any key")
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

    pub(crate) fn serialize<S: Serializer>(
        config: &Option<proto::RoomConfiguration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        config.as_ref().map(protobuf_json::write).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<proto::RoomConfiguration>, D::Error> {
        let written: Option<serde_json::Value> = Option::deserialize(from)?;
        written.map(protobuf_json::read_value).transpose().map_err(D::Error::custom)
    }
}

/// Track sources as tokens spell them: `camera`, in any case.
mod source_names {
    use super::{Deserialize, Deserializer, proto};
    use serde::{Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(sources: &[proto::TrackSource], serializer: S) -> Result<S::Ok, S::Error> {
        let names: Vec<String> = sources.iter().map(|source| source.as_str_name().to_ascii_lowercase()).collect();
        names.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<proto::TrackSource>, D::Error> {
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
mod tests;
