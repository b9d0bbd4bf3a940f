//! What a client asks for when it opens `/rtc` (query parameters, two transports) or `/rtc/v1` (a `join_request`, one
//! transport), read into one [`Join`].
//!
//! The checks, their order and their texts are those of LiveKit, because clients decide by them whether to try again.
//! Which path and method were used is known to [`crate::http`]; whether the room has a place, to [`crate::rooms`].

pub(crate) mod error;

use std::collections::HashMap;
use std::io::Read;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_URL_SAFE;
use livekit_protocol as proto;
use prost::Message as _;
use shared::id::ParticipantIdentity;

use crate::protobuf_json::Described;
use crate::token::{Claims, Grants};
use crate::wire_bounds::{self, JOIN_REQUEST_BYTES_MAX, Refused, Source};
pub use error::{JoinError, NAME_BYTES_MAX};

/// Whatever it is packed in, a join request may unpack into so many bytes. More have to be earned by bytes sent.
const UNPACKED_BYTES_FREE: usize = 64 << 10;

/// Most bytes that one packed byte may become above [`UNPACKED_BYTES_FREE`]. Offers of a hundred sections are packed 60
/// to 1; what is made for it, 1,000 to 1 (deflate's limit), which costs its sender nothing and us 2 ms.
const UNPACKED_BYTES_PER_PACKED: usize = 200;

/// Most tracks that a join request announces. A participant publishes up to 64.
const ADD_TRACKS_MAX: usize = 128;

/// How many transports the session has, and who offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    /// `/rtc`: the client offers on one transport, we on the other.
    V0,
    /// `/rtc/v1`: one transport, the client offers.
    V1,
}

/// A request to join a room, or to take up a session again, that has passed all checks.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    pub mode: Mode,
    /// `video.room` names the room, 1 to 256 bytes. The metadata and attributes of the request are already laid
    /// over those of the token.
    pub grants: Grants,
    /// The identity in the token. A session that only publishes (`publish`) has another one of its own.
    pub bearer: ParticipantIdentity,
    pub client: proto::ClientInfo,
    /// Version of the signalling protocol that the client speaks; 0 when it did not say. May be newer than ours.
    pub protocol_version: u32,
    pub auto_subscribe: bool,
    pub adaptive_stream: bool,
    /// Set when the client takes up an earlier session.
    pub reconnect: Option<Reconnect>,
    pub add_tracks: Vec<proto::AddTrackRequest>,
    pub publisher_offer: Option<proto::SessionDescription>,
    pub sync_state: Option<proto::SyncState>,
}

impl Join {
    /// About what it takes while it waits, in bytes: what the client wrote.
    pub(crate) fn memory(&self) -> usize {
        let offer = self.publisher_offer.as_ref().map_or(0, |offer| offer.sdp.len());
        let tracks: usize = self.add_tracks.iter().map(|track| size_of_val(track) + track.encoded_len()).sum();
        let state = self.sync_state.as_ref().map_or(0, |state| {
            state.encoded_len() + state.publish_tracks.len() * size_of::<proto::TrackPublishedResponse>()
        });
        offer + tracks + state + self.grants.metadata.len()
    }
}

/// A resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconnect {
    /// The client's own sid, as it says. May be empty, or no sid at all.
    pub participant_sid: String,
    pub reason: proto::ReconnectReason,
}

/// What the request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Connect,
    /// Only tell whether connecting would be allowed.
    Validate,
}

/// Decoded query parameters in their order. Of a repeated one the first counts.
#[derive(Debug, Clone, Default)]
pub struct Parameters(pub Vec<(String, String)>);

impl Parameters {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).filter(|value| !value.is_empty()).map(|value| value == "1" || value.eq_ignore_ascii_case("true"))
    }

    fn number(&self, name: &str) -> i32 {
        self.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

/// What the HTTP request says of the client beside its parameters.
#[derive(Debug, Clone, Default)]
pub struct ClientHints {
    pub user_agent: String,
    /// Where it connects from, as far as proxies tell.
    pub address: String,
}

/// A request to `/rtc` or `/rtc/v1`.
#[derive(Debug, Clone, Copy)]
pub struct JoinInput<'a> {
    /// The mode of the path. A `join_request` on `/rtc` is a V1 join all the same.
    pub mode: Mode,
    pub purpose: Purpose,
    /// Of the verified token, if there was one.
    pub claims: Option<&'a Claims>,
    pub parameters: &'a Parameters,
    pub hints: &'a ClientHints,
}

/// What the client wants, from either form, before the token is applied.
struct Wish {
    mode: Mode,
    client: proto::ClientInfo,
    auto_subscribe: bool,
    adaptive_stream: bool,
    reconnect: Option<Reconnect>,
    metadata: String,
    attributes: HashMap<String, String>,
    /// Legacy: join a second time, to publish only, under `<identity>#<this>`.
    publish_as: Option<String>,
    add_tracks: Vec<proto::AddTrackRequest>,
    publisher_offer: Option<proto::SessionDescription>,
    sync_state: Option<proto::SyncState>,
}

/// Reads and checks a request.
///
/// # Errors
/// The first [`JoinError`] that applies, in LiveKit's order.
pub fn read(input: JoinInput) -> Result<Join, JoinError> {
    let claims = input.claims.ok_or(JoinError::NoPermission)?;
    let video = claims.video.as_ref().ok_or(JoinError::NoPermission)?;
    let mut wish = read_wish(input)?;
    if !video.room_join {
        return Err(JoinError::JoinNotGranted);
    }
    check_identity(&claims.identity)?;
    check_room(&video.room)?;
    complete_client(&mut wish.client, input.hints);
    let grants = apply(claims, &mut wish)?;
    Ok(Join {
        mode: wish.mode,
        grants,
        bearer: claims.identity.parse().map_err(|_| JoinError::IdentityTooLong)?,
        protocol_version: u32::try_from(wish.client.protocol).unwrap_or(0),
        client: wish.client,
        auto_subscribe: wish.auto_subscribe,
        adaptive_stream: wish.adaptive_stream,
        reconnect: wish.reconnect,
        add_tracks: wish.add_tracks,
        publisher_offer: wish.publisher_offer,
        sync_state: wish.sync_state,
    })
}

fn check_identity(identity: &str) -> Result<(), JoinError> {
    match identity.len() {
        0 => Err(JoinError::NoIdentity),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(JoinError::IdentityTooLong),
    }
}

fn check_room(name: &str) -> Result<(), JoinError> {
    match name.len() {
        0 => Err(JoinError::NoRoom),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(JoinError::RoomTooLong),
    }
}

/// Lays the wish over the token, where the token allows it.
fn apply(claims: &Claims, wish: &mut Wish) -> Result<Grants, JoinError> {
    let mut video = claims.video.clone().ok_or(JoinError::NoPermission)?;
    let mut identity = claims.identity.clone();
    if let Some(suffix) = wish.publish_as.take() {
        if !video.may_publish() {
            return Err(JoinError::NoPermission);
        }
        identity = format!("{identity}#{suffix}");
        video.can_subscribe = Some(false);
    }
    let identity: ParticipantIdentity = identity.parse().map_err(|_| JoinError::IdentityTooLong)?;
    let describes_itself = !wish.metadata.is_empty() || !wish.attributes.is_empty();
    if describes_itself && !video.may_update_own_metadata() {
        return Err(JoinError::NoPermission);
    }
    let mut attributes = claims.attributes.clone();
    attributes.extend(wish.attributes.drain());
    let metadata = if wish.metadata.is_empty() { claims.metadata.clone() } else { std::mem::take(&mut wish.metadata) };
    Ok(Grants {
        identity,
        name: claims.name.clone(),
        metadata,
        attributes,
        kind: claims.kind,
        kind_details: claims.kind_details.clone(),
        video,
        room_preset: claims.room_preset.clone(),
        room_config: claims.room_config.clone(),
        expires_at: claims.expires_at,
        not_before: claims.not_before,
        api_key: claims.api_key.clone(),
    })
}

fn read_wish(input: JoinInput) -> Result<Wish, JoinError> {
    match (input.parameters.get("join_request").filter(|text| !text.is_empty()), input.mode) {
        (Some(encoded), Mode::V0 | Mode::V1) => Ok(wish_of_request(unwrap_join_request(encoded)?)),
        (None, Mode::V1) => Err(JoinError::JoinRequestMissing),
        (None, Mode::V0) => wish_of_parameters(input.parameters, input.purpose),
    }
}

/// Unpacks base64 (URL-safe, padded), the wrapper, gzip, and the request itself.
fn unwrap_join_request(encoded: &str) -> Result<proto::JoinRequest, JoinError> {
    if encoded.len() > JOIN_REQUEST_BYTES_MAX {
        return Err(JoinError::JoinRequestTooLarge);
    }
    let bytes = BASE64_URL_SAFE.decode(encoded).map_err(|_| JoinError::Base64)?;
    let wrapped: proto::WrappedJoinRequest = decode(bytes, JoinError::Wrapper)?;
    let unpacked = match wrapped.compression() {
        proto::wrapped_join_request::Compression::None => wrapped.join_request,
        proto::wrapped_join_request::Compression::Gzip => gunzip(&wrapped.join_request)?,
    };
    let request: proto::JoinRequest = decode(unpacked, JoinError::JoinRequest)?;
    if request.add_track_requests.len() > ADD_TRACKS_MAX {
        return Err(JoinError::JoinRequestTooLarge);
    }
    Ok(request)
}

fn decode<M: Described>(bytes: Vec<u8>, malformed: JoinError) -> Result<M, JoinError> {
    wire_bounds::decode(Source::Join, bytes.into(), &wire_bounds::JOIN).map_err(|refused| match refused {
        Refused::Malformed => malformed,
        Refused::Bytes(_) | Refused::Elements(_) | Refused::Memory(_) | Refused::Depth => {
            JoinError::JoinRequestTooLarge
        }
    })
}

/// RFC 1952, with a bound: a small request must not unpack into a large one.
fn gunzip(packed: &[u8]) -> Result<Vec<u8>, JoinError> {
    let mut unpacked = Vec::new();
    let earned = packed.len().saturating_mul(UNPACKED_BYTES_PER_PACKED);
    let bound = earned.clamp(UNPACKED_BYTES_FREE, JOIN_REQUEST_BYTES_MAX);
    let mut unpacking = flate2::read::GzDecoder::new(packed).take(bound as u64 + 1);
    unpacking.read_to_end(&mut unpacked).map_err(|_| JoinError::Gzip)?;
    if unpacked.len() > bound {
        return Err(JoinError::JoinRequestTooLarge);
    }
    Ok(unpacked)
}

fn wish_of_request(request: proto::JoinRequest) -> Wish {
    let settings = request.connection_settings.unwrap_or_default();
    let reconnect = request.reconnect.then(|| Reconnect {
        participant_sid: request.participant_sid,
        reason: reconnect_reason(request.reconnect_reason),
    });
    Wish {
        mode: Mode::V1,
        client: request.client_info.unwrap_or_default(),
        auto_subscribe: settings.auto_subscribe,
        adaptive_stream: settings.adaptive_stream,
        reconnect,
        metadata: request.metadata,
        attributes: request.participant_attributes,
        publish_as: None,
        add_tracks: request.add_track_requests,
        publisher_offer: request.publisher_offer,
        sync_state: request.sync_state,
    }
}

fn wish_of_parameters(parameters: &Parameters, purpose: Purpose) -> Result<Wish, JoinError> {
    let attributes = match (attributes_of(parameters), purpose) {
        (Ok(attributes), _) => attributes,
        (Err(refusal), Purpose::Validate) => return Err(refusal),
        (Err(_), Purpose::Connect) => HashMap::new(),
    };
    let reconnect = parameters.flag("reconnect").unwrap_or(false).then(|| Reconnect {
        participant_sid: parameters.text("sid"),
        reason: reconnect_reason(parameters.number("reconnect_reason")),
    });
    Ok(Wish {
        mode: Mode::V0,
        client: client_of_parameters(parameters),
        auto_subscribe: parameters.flag("auto_subscribe").unwrap_or(true),
        adaptive_stream: parameters.flag("adaptive_stream").unwrap_or(false),
        reconnect,
        metadata: String::new(),
        attributes,
        publish_as: parameters.get("publish").filter(|value| !value.is_empty()).map(str::to_owned),
        add_tracks: Vec::new(),
        publisher_offer: None,
        sync_state: None,
    })
}

/// The `attributes` parameter: base64url of a JSON object of strings. Padding may be left out.
fn attributes_of(parameters: &Parameters) -> Result<HashMap<String, String>, JoinError> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &alphabet::URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let Some(encoded) = parameters.get("attributes").filter(|value| !value.is_empty()) else {
        return Ok(HashMap::new());
    };
    let json = BASE64.decode(encoded).map_err(|_| JoinError::Attributes)?;
    serde_json::from_slice(&json).map_err(|_| JoinError::Attributes)
}

fn client_of_parameters(parameters: &Parameters) -> proto::ClientInfo {
    let capabilities = parameters.get("capabilities").unwrap_or_default();
    proto::ClientInfo {
        sdk: sdk_named(parameters.get("sdk").unwrap_or_default()) as i32,
        version: parameters.text("version"),
        protocol: parameters.number("protocol"),
        os: parameters.text("os"),
        os_version: parameters.text("os_version"),
        device_model: parameters.text("device_model"),
        browser: parameters.text("browser"),
        browser_version: parameters.text("browser_version"),
        network: parameters.text("network"),
        client_protocol: parameters.number("client_protocol"),
        capabilities: capabilities
            .split(',')
            .filter_map(|name| proto::client_info::Capability::from_str_name(name.trim()))
            .map(|capability| capability as i32)
            .collect(),
        ..proto::ClientInfo::default()
    }
}

fn sdk_named(name: &str) -> proto::client_info::Sdk {
    use proto::client_info::Sdk;
    match name {
        "js" => Sdk::Js,
        "reactnative" => Sdk::ReactNative,
        "ios" | "swift" => Sdk::Swift,
        "android" => Sdk::Android,
        "flutter" => Sdk::Flutter,
        "go" => Sdk::Go,
        "unity" => Sdk::Unity,
        "unityweb" => Sdk::UnityWeb,
        "rust" => Sdk::Rust,
        "python" => Sdk::Python,
        "cpp" => Sdk::Cpp,
        "node" => Sdk::Node,
        "unreal" => Sdk::Unreal,
        "esp32" => Sdk::Esp32,
        "dotnet" => Sdk::Dotnet,
        _ => Sdk::Unknown,
    }
}

fn reconnect_reason(number: i32) -> proto::ReconnectReason {
    proto::ReconnectReason::try_from(number).unwrap_or(proto::ReconnectReason::RrUnknown)
}

/// Fills in what the client did not say of itself.
fn complete_client(client: &mut proto::ClientInfo, hints: &ClientHints) {
    use proto::client_info::Sdk;
    client.address.clone_from(&hints.address);
    let runs_in_browser = match client.sdk() {
        Sdk::Unknown | Sdk::Js | Sdk::ReactNative | Sdk::Flutter | Sdk::Unity | Sdk::UnityWeb => true,
        Sdk::Swift | Sdk::Android | Sdk::Go | Sdk::Rust | Sdk::Python => false,
        Sdk::Cpp | Sdk::Node | Sdk::Unreal | Sdk::Esp32 | Sdk::Dotnet => false,
    };
    if !runs_in_browser {
        return;
    }
    if client.browser.is_empty()
        && let Some((browser, version)) = browser_of(&hints.user_agent)
    {
        client.browser = browser.to_owned();
        client.browser_version = version;
    }
    if client.os.is_empty() {
        client.os = os_of(&hints.user_agent).unwrap_or_default().to_owned();
    }
}

/// Browser and version of a `User-Agent`. Browsers name those they descend from, so the order matters.
fn browser_of(user_agent: &str) -> Option<(&'static str, String)> {
    const MARKS: [(&str, &str); 8] = [
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Browser"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Version/", "Safari"),
    ];
    MARKS.iter().find_map(|&(mark, name)| {
        let (_, rest) = user_agent.split_once(mark)?;
        let version = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').take(32).collect();
        Some((name, version))
    })
}

/// Operating system of a `User-Agent`: Android says Linux too, iOS says Mac OS X too.
fn os_of(user_agent: &str) -> Option<&'static str> {
    const MARKS: [(&str, &str); 7] = [
        ("Android", "Android"),
        ("iPhone", "iOS"),
        ("iPad", "iOS"),
        ("Windows", "Windows"),
        ("Mac OS X", "Mac OS X"),
        ("CrOS", "Chrome OS"),
        ("Linux", "Linux"),
    ];
    MARKS.iter().find(|(mark, _)| user_agent.contains(mark)).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests;
