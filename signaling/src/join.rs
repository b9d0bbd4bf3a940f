//! What a client asks for when it opens `/rtc` (query parameters, two transports) or `/rtc/v1` (a `join_request`, one
//! transport), read into one [`Join`].
//!
//! The checks, their order and their texts are those of LiveKit, because clients decide by them whether to try again.
//! Which path and method were used is known to [`crate::http`]; whether the room has a place, to [`crate::rooms`].

use std::collections::HashMap;
use std::io::Read;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_URL_SAFE;
use livekit_protocol as proto;
use shared::id::ParticipantIdentity;

use crate::protobuf_json::Readable;
use crate::token::{Claims, Grants};
use crate::wire_bounds::{self, Refused, Source};

/// Longest join request, in bytes, encoded as well as unpacked.
pub const JOIN_REQUEST_BYTES_MAX: usize = 1 << 20;

/// Whatever it is packed in, a join request may unpack into so many bytes. More have to be earned by bytes sent.
const UNPACKED_BYTES_FREE: usize = 64 << 10;

/// Most bytes that one packed byte may become above [`UNPACKED_BYTES_FREE`]. Offers of a hundred sections are packed 60 to
/// 1; what is made for it, 1,000 to 1 (deflate's limit), which costs its sender nothing and us 2 ms.
const UNPACKED_BYTES_PER_PACKED: usize = 200;

/// Most tracks that a join request announces. A participant publishes up to 64.
const ADD_TRACKS_MAX: usize = 128;

/// Longest identity and longest room name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

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
    /// Whom the token names; the session is somebody else beside it where it only publishes (`publish`).
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

/// A resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconnect {
    /// The client's own sid, as it says. May be empty, or no sid at all.
    pub participant_sid: String,
    pub reason: proto::ReconnectReason,
}

/// Why a request is turned away before anything was changed. Display is the body of the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no permissions to access the room")]
    NoPermission,
    #[error("permissions denied")]
    JoinNotGranted,
    #[error("join_request is required")]
    JoinRequestMissing,
    #[error("cannot decode attributes")]
    Attributes,
    #[error("cannot base64 decode wrapped join request")]
    Base64,
    #[error("cannot unmarshal wrapped join request")]
    Wrapper,
    #[error("cannot unmarshal join request")]
    JoinRequest,
    #[error("cannot read decompressed join request")]
    Gzip,
    #[error("join request too large")]
    TooLarge,
    #[error("identity cannot be empty")]
    NoIdentity,
    #[error("participant identity length exceeds limits: max length {NAME_BYTES_MAX}")]
    IdentityTooLong,
    #[error("no room name")]
    NoRoom,
    #[error("room name length exceeds limits: max length {NAME_BYTES_MAX}")]
    RoomTooLong,
}

impl Refusal {
    /// Status of the HTTP answer.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::NoPermission | Refusal::JoinNotGranted => 401,
            Refusal::JoinRequestMissing
            | Refusal::Attributes
            | Refusal::Base64
            | Refusal::Wrapper
            | Refusal::JoinRequest
            | Refusal::Gzip
            | Refusal::TooLarge
            | Refusal::NoIdentity
            | Refusal::IdentityTooLong
            | Refusal::NoRoom
            | Refusal::RoomTooLong => 400,
        }
    }
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
/// The first [`Refusal`] that applies, in LiveKit's order.
pub fn read(input: JoinInput) -> Result<Join, Refusal> {
    let claims = input.claims.ok_or(Refusal::NoPermission)?;
    let video = claims.video.as_ref().ok_or(Refusal::NoPermission)?;
    let mut wish = read_wish(input)?;
    if !video.room_join {
        return Err(Refusal::JoinNotGranted);
    }
    check_identity(&claims.identity)?;
    check_room(&video.room)?;
    complete_client(&mut wish.client, input.hints);
    let grants = apply(claims, &mut wish)?;
    Ok(Join {
        mode: wish.mode,
        grants,
        bearer: claims.identity.parse().map_err(|_| Refusal::IdentityTooLong)?,
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

fn check_identity(identity: &str) -> Result<(), Refusal> {
    match identity.len() {
        0 => Err(Refusal::NoIdentity),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(Refusal::IdentityTooLong),
    }
}

fn check_room(name: &str) -> Result<(), Refusal> {
    match name.len() {
        0 => Err(Refusal::NoRoom),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(Refusal::RoomTooLong),
    }
}

/// Lays the wish over the token, where the token allows it.
fn apply(claims: &Claims, wish: &mut Wish) -> Result<Grants, Refusal> {
    let mut video = claims.video.clone().ok_or(Refusal::NoPermission)?;
    let mut identity = claims.identity.clone();
    if let Some(suffix) = wish.publish_as.take() {
        if !video.may_publish() {
            return Err(Refusal::NoPermission);
        }
        identity = format!("{identity}#{suffix}");
        video.can_subscribe = Some(false);
    }
    let identity: ParticipantIdentity = identity.parse().map_err(|_| Refusal::IdentityTooLong)?;
    let describes_itself = !wish.metadata.is_empty() || !wish.attributes.is_empty();
    if describes_itself && !video.may_update_own_metadata() {
        return Err(Refusal::NoPermission);
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

fn read_wish(input: JoinInput) -> Result<Wish, Refusal> {
    match (input.parameters.get("join_request").filter(|text| !text.is_empty()), input.mode) {
        (Some(encoded), Mode::V0 | Mode::V1) => Ok(wish_of_request(unwrap_join_request(encoded)?)),
        (None, Mode::V1) => Err(Refusal::JoinRequestMissing),
        (None, Mode::V0) => wish_of_parameters(input.parameters, input.purpose),
    }
}

/// Unpacks base64 (URL-safe, padded), the wrapper, gzip, and the request itself.
fn unwrap_join_request(encoded: &str) -> Result<proto::JoinRequest, Refusal> {
    if encoded.len() > JOIN_REQUEST_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    let bytes = BASE64_URL_SAFE.decode(encoded).map_err(|_| Refusal::Base64)?;
    let wrapped: proto::WrappedJoinRequest = decode(bytes, Refusal::Wrapper)?;
    let unpacked = match wrapped.compression() {
        proto::wrapped_join_request::Compression::None => wrapped.join_request,
        proto::wrapped_join_request::Compression::Gzip => gunzip(&wrapped.join_request)?,
    };
    let request: proto::JoinRequest = decode(unpacked, Refusal::JoinRequest)?;
    if request.add_track_requests.len() > ADD_TRACKS_MAX {
        return Err(Refusal::TooLarge);
    }
    Ok(request)
}

fn decode<M: Readable>(bytes: Vec<u8>, malformed: Refusal) -> Result<M, Refusal> {
    wire_bounds::decode(Source::Join, bytes.into(), &wire_bounds::JOIN).map_err(|refused| match refused {
        Refused::Malformed => malformed,
        Refused::Bytes(_) | Refused::Elements(_) | Refused::Memory(_) | Refused::Depth => Refusal::TooLarge,
    })
}

/// RFC 1952, with a bound: a small request must not unpack into a large one.
fn gunzip(packed: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut unpacked = Vec::new();
    let earned = packed.len().saturating_mul(UNPACKED_BYTES_PER_PACKED);
    let bound = earned.clamp(UNPACKED_BYTES_FREE, JOIN_REQUEST_BYTES_MAX);
    let mut unpacking = flate2::read::GzDecoder::new(packed).take(bound as u64 + 1);
    unpacking.read_to_end(&mut unpacked).map_err(|_| Refusal::Gzip)?;
    if unpacked.len() > bound {
        return Err(Refusal::TooLarge);
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

fn wish_of_parameters(parameters: &Parameters, purpose: Purpose) -> Result<Wish, Refusal> {
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
fn attributes_of(parameters: &Parameters) -> Result<HashMap<String, String>, Refusal> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &alphabet::URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let Some(encoded) = parameters.get("attributes").filter(|value| !value.is_empty()) else {
        return Ok(HashMap::new());
    };
    let json = BASE64.decode(encoded).map_err(|_| Refusal::Attributes)?;
    serde_json::from_slice(&json).map_err(|_| Refusal::Attributes)
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
mod tests {
    use super::*;
    use prost::Message as _;
    use std::io::Write as _;
    use std::time::UNIX_EPOCH;

    use crate::token::VideoGrant;

    fn claims() -> Claims {
        Claims {
            api_key: "k".into(),
            identity: "alice".into(),
            name: "Alice".into(),
            metadata: "token".into(),
            attributes: [("a".to_owned(), "1".to_owned())].into(),
            kind: proto::participant_info::Kind::Standard,
            kind_details: Vec::new(),
            video: Some(VideoGrant { room_join: true, room: "r".into(), ..VideoGrant::default() }),
            sip: crate::token::SipGrant::default(),
            room_preset: String::new(),
            room_config: None,
            expires_at: UNIX_EPOCH,
            not_before: None,
        }
    }

    fn with_video(change: impl FnOnce(&mut VideoGrant)) -> Claims {
        let mut claims = claims();
        claims.video.as_mut().map(change).unwrap();
        claims
    }

    fn read_with(mode: Mode, purpose: Purpose, claims: &Claims, pairs: &[(&str, &str)]) -> Result<Join, Refusal> {
        let parameters = Parameters(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect());
        let hints =
            ClientHints { user_agent: "Mozilla/5.0 (X11; Linux) Firefox/128.0".into(), address: "192.0.2.7".into() };
        read(JoinInput { mode, purpose, claims: Some(claims), parameters: &parameters, hints: &hints })
    }

    fn v0(claims: &Claims, pairs: &[(&str, &str)]) -> Result<Join, Refusal> {
        read_with(Mode::V0, Purpose::Connect, claims, pairs)
    }

    fn v1(claims: &Claims, encoded: &str) -> Result<Join, Refusal> {
        read_with(Mode::V1, Purpose::Connect, claims, &[("join_request", encoded)])
    }

    fn wrap(compression: proto::wrapped_join_request::Compression, join_request: Vec<u8>) -> String {
        let wrapped = proto::WrappedJoinRequest { compression: compression as i32, join_request };
        BASE64_URL_SAFE.encode(wrapped.encode_to_vec())
    }

    fn plain(request: &proto::JoinRequest) -> String {
        wrap(proto::wrapped_join_request::Compression::None, request.encode_to_vec())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn gzipped(bytes: &[u8]) -> String {
        wrap(proto::wrapped_join_request::Compression::Gzip, gzip(bytes))
    }

    /// What the token alone grants.
    fn granted() -> Grants {
        let claims = claims();
        Grants {
            identity: "alice".parse().unwrap(),
            name: claims.name,
            metadata: claims.metadata,
            attributes: claims.attributes,
            kind: claims.kind,
            kind_details: claims.kind_details,
            video: claims.video.unwrap(),
            room_preset: claims.room_preset,
            room_config: claims.room_config,
            expires_at: claims.expires_at,
            not_before: claims.not_before,
            api_key: claims.api_key,
        }
    }

    #[test]
    fn parameters_of_v0_are_read() {
        let pairs = [
            ("auto_subscribe", "0"),
            ("adaptive_stream", "1"),
            ("sdk", "python"),
            ("version", "1.0.13"),
            ("protocol", "18"),
            ("os", "darwin"),
            ("os_version", "15.6"),
            ("device_model", "Mac16,1"),
            ("browser", "none"),
            ("browser_version", "0.1"),
            ("network", "wifi"),
            ("client_protocol", "2"),
            ("capabilities", "CAP_PACKET_TRAILER, CAP_OF_TOMORROW"),
            ("reconnect", "1"),
            ("sid", "PA_x"),
            ("reconnect_reason", "3"),
            ("no_such_parameter", "x"),
        ];
        let client = proto::ClientInfo {
            sdk: proto::client_info::Sdk::Python as i32,
            version: "1.0.13".into(),
            protocol: 18,
            os: "darwin".into(),
            os_version: "15.6".into(),
            device_model: "Mac16,1".into(),
            browser: "none".into(),
            browser_version: "0.1".into(),
            address: "192.0.2.7".into(),
            network: "wifi".into(),
            other_sdks: String::new(),
            client_protocol: 2,
            capabilities: vec![proto::client_info::Capability::CapPacketTrailer as i32],
        };
        let reason = proto::ReconnectReason::RrSubscriberFailed;
        let expected = Join {
            mode: Mode::V0,
            grants: granted(),
            bearer: "alice".parse().unwrap(),
            client,
            protocol_version: 18,
            auto_subscribe: false,
            adaptive_stream: true,
            reconnect: Some(Reconnect { participant_sid: "PA_x".into(), reason }),
            add_tracks: Vec::new(),
            publisher_offer: None,
            sync_state: None,
        };
        assert_eq!(v0(&claims(), &pairs), Ok(expected));
    }

    #[test]
    fn absent_and_empty_parameters_of_v0_have_defaults() {
        let empty =
            ["auto_subscribe", "adaptive_stream", "reconnect", "publish", "attributes", "join_request", "protocol"];
        for pairs in [&[][..], &empty.map(|name| (name, ""))] {
            let join = v0(&claims(), pairs).unwrap();

            assert!(join.auto_subscribe && !join.adaptive_stream && join.reconnect.is_none());
            assert_eq!((join.mode, join.protocol_version), (Mode::V0, 0));
            assert_eq!(join.grants, granted());
        }
    }

    #[test]
    fn a_flag_is_set_by_1_and_true_and_a_number_is_none_below_nothing() {
        for (value, set) in
            [("1", true), ("true", true), ("True", true), ("0", false), ("false", false), ("yes", false)]
        {
            let join = v0(&claims(), &[("auto_subscribe", value), ("adaptive_stream", value)]).unwrap();
            assert_eq!((join.auto_subscribe, join.adaptive_stream), (set, set), "{value}");
        }
        assert_eq!(v0(&claims(), &[("protocol", "-3")]).unwrap().protocol_version, 0);
    }

    /// Who runs in a browser is known by its `User-Agent`.
    #[test]
    fn each_sdk_is_known_by_its_name() {
        use proto::client_info::Sdk;
        for (name, sdk, in_browser) in [
            ("js", Sdk::Js, true),
            ("reactnative", Sdk::ReactNative, true),
            ("ios", Sdk::Swift, false),
            ("swift", Sdk::Swift, false),
            ("android", Sdk::Android, false),
            ("flutter", Sdk::Flutter, true),
            ("go", Sdk::Go, false),
            ("unity", Sdk::Unity, true),
            ("unityweb", Sdk::UnityWeb, true),
            ("rust", Sdk::Rust, false),
            ("python", Sdk::Python, false),
            ("cpp", Sdk::Cpp, false),
            ("node", Sdk::Node, false),
            ("unreal", Sdk::Unreal, false),
            ("esp32", Sdk::Esp32, false),
            ("dotnet", Sdk::Dotnet, false),
            ("", Sdk::Unknown, true),
            ("of tomorrow", Sdk::Unknown, true),
        ] {
            let client = v0(&claims(), &[("sdk", name)]).unwrap().client;
            let browser = if in_browser { "Firefox" } else { "" };
            assert_eq!((client.sdk(), client.browser.as_str()), (sdk, browser), "{name}");
        }
    }

    #[test]
    fn what_a_join_request_asks_for_is_read() {
        let add_track = proto::AddTrackRequest { cid: "mic".into(), ..Default::default() };
        let offer =
            proto::SessionDescription { r#type: "offer".into(), sdp: "v=0".into(), id: 4, ..Default::default() };
        let sync_state = proto::SyncState { track_sids_disabled: vec!["TR_x".into()], ..Default::default() };
        let client = proto::ClientInfo {
            sdk: proto::client_info::Sdk::Rust as i32,
            protocol: 17,
            version: "0.7.1".into(),
            address: "of another".into(),
            ..Default::default()
        };
        let settings = proto::ConnectionSettings { auto_subscribe: true, adaptive_stream: true, ..Default::default() };
        let request = proto::JoinRequest {
            client_info: Some(client.clone()),
            connection_settings: Some(settings),
            metadata: "mine".into(),
            participant_attributes: [("b".to_owned(), "2".to_owned())].into(),
            add_track_requests: vec![add_track.clone()],
            publisher_offer: Some(offer.clone()),
            reconnect: true,
            reconnect_reason: proto::ReconnectReason::RrPublisherFailed as i32,
            participant_sid: "PA_x".into(),
            sync_state: Some(sync_state.clone()),
        };
        let permitted = with_video(|video| video.can_update_own_metadata = Some(true));
        let both = [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let expected = Join {
            mode: Mode::V1,
            grants: Grants {
                metadata: "mine".into(),
                attributes: both.into(),
                video: permitted.video.clone().unwrap(),
                ..granted()
            },
            bearer: "alice".parse().unwrap(),
            client: proto::ClientInfo { address: "192.0.2.7".into(), ..client },
            protocol_version: 17,
            auto_subscribe: true,
            adaptive_stream: true,
            reconnect: Some(Reconnect {
                participant_sid: "PA_x".into(),
                reason: proto::ReconnectReason::RrPublisherFailed,
            }),
            add_tracks: vec![add_track],
            publisher_offer: Some(offer),
            sync_state: Some(sync_state),
        };
        assert_eq!(v1(&permitted, &plain(&request)), Ok(expected));
    }

    #[test]
    fn a_join_request_announces_so_many_tracks() {
        let announcing = |count| proto::JoinRequest {
            add_track_requests: vec![proto::AddTrackRequest::default(); count],
            ..Default::default()
        };
        assert_eq!(v1(&claims(), &plain(&announcing(ADD_TRACKS_MAX))).unwrap().add_tracks.len(), ADD_TRACKS_MAX);
        assert_eq!(v1(&claims(), &plain(&announcing(ADD_TRACKS_MAX + 1))), Err(Refusal::TooLarge));
    }

    #[test]
    fn a_join_request_is_read_plain_and_gzipped() {
        let request = proto::JoinRequest {
            client_info: Some(proto::ClientInfo { protocol: 17, ..proto::ClientInfo::default() }),
            publisher_offer: Some(proto::SessionDescription { sdp: "v=0".into(), ..Default::default() }),
            ..proto::JoinRequest::default()
        };
        let join = v1(&claims(), &plain(&request)).unwrap();

        assert_eq!((join.mode, join.auto_subscribe, join.protocol_version), (Mode::V1, false, 17));
        assert_eq!(join.publisher_offer.as_ref().unwrap().sdp, "v=0");
        assert_eq!(v1(&claims(), &gzipped(&request.encode_to_vec())), Ok(join.clone()));
        assert_eq!(v0(&claims(), &[("join_request", &plain(&request))]), Ok(join));
    }

    #[test]
    fn each_broken_join_request_has_its_refusal() {
        let broken_gzip = wrap(proto::wrapped_join_request::Compression::Gzip, b"no gzip".to_vec());
        let inner = wrap(proto::wrapped_join_request::Compression::None, vec![0xff; 4]);
        let unpadded = plain(&proto::JoinRequest { reconnect: true, ..Default::default() }).replace('=', "");
        let cases = [
            (String::new(), Refusal::JoinRequestMissing),
            ("a+b/".into(), Refusal::Base64),
            (unpadded, Refusal::Base64),
            (BASE64_URL_SAFE.encode([0xff; 4]), Refusal::Wrapper),
            (inner, Refusal::JoinRequest),
            (broken_gzip, Refusal::Gzip),
            ("A".repeat(JOIN_REQUEST_BYTES_MAX), Refusal::Wrapper),
            ("A".repeat(JOIN_REQUEST_BYTES_MAX + 1), Refusal::TooLarge),
            (gzipped(&vec![0; JOIN_REQUEST_BYTES_MAX + 1]), Refusal::TooLarge),
        ];
        for (encoded, refusal) in cases {
            assert_eq!(v1(&claims(), &encoded), Err(refusal));
        }
    }

    #[test]
    fn what_a_join_request_unpacks_into_is_earned_by_what_was_sent() {
        let zeros = |length| gzipped(&vec![0; length]);
        assert_eq!(v1(&claims(), &zeros(UNPACKED_BYTES_FREE)), Err(Refusal::JoinRequest), "it is unpacked");
        assert_eq!(v1(&claims(), &zeros(UNPACKED_BYTES_FREE + 1)), Err(Refusal::TooLarge));

        // However much was sent.
        let padded = |length: usize| {
            let mut noise = 1_u32;
            let bytes = (0..length).map(|at| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at < 8 << 10 { noise.to_be_bytes()[0] } else { 0 }
            });
            gzipped(&bytes.collect::<Vec<_>>())
        };
        assert_eq!(v1(&claims(), &padded(JOIN_REQUEST_BYTES_MAX)), Err(Refusal::JoinRequest), "it is unpacked");
        assert_eq!(v1(&claims(), &padded(JOIN_REQUEST_BYTES_MAX + 1)), Err(Refusal::TooLarge));

        let section = |number: u32| {
            let codecs: String = (96..127).map(|codec| format!("a=rtcp-fb:{codec} nack pli\r\n")).collect();
            let ids = format!("a=mid:{number}\r\na=msid:- {:x}\r\na=ssrc:{}\r\n", number * 7_919, number * 104_729);
            format!("m=video 9 UDP/TLS/RTP/SAVPF 96\r\n{}{ids}", codecs.repeat(4))
        };
        let sdp: String = (1_000..1_150).map(section).collect();
        assert!(sdp.len() > 4 * UNPACKED_BYTES_FREE);
        let publisher_offer = Some(proto::SessionDescription { r#type: "offer".into(), sdp, ..Default::default() });
        let request = proto::JoinRequest { publisher_offer: publisher_offer.clone(), ..Default::default() };
        let join = v1(&claims(), &gzipped(&request.encode_to_vec())).unwrap();
        assert_eq!(join.publisher_offer, publisher_offer);
    }

    #[test]
    fn a_token_must_grant_joining_a_named_room_under_a_name() {
        let without_video = Claims { video: None, ..claims() };
        let named = |identity: &str| Claims { identity: identity.into(), ..claims() };
        let in_room = |room: &str| with_video(|video| video.room = room.into());
        let cases = [
            (without_video, Refusal::NoPermission),
            (with_video(|video| video.room_join = false), Refusal::JoinNotGranted),
            (named(""), Refusal::NoIdentity),
            (named(&"x".repeat(257)), Refusal::IdentityTooLong),
            (in_room(""), Refusal::NoRoom),
            (in_room(&"x".repeat(257)), Refusal::RoomTooLong),
        ];
        for (claims, refusal) in cases {
            assert_eq!(v0(&claims, &[]), Err(refusal));
        }
        let longest = Claims { identity: "x".repeat(256), ..with_video(|video| video.room = "y".repeat(256)) };
        let join = v0(&longest, &[]).unwrap();
        assert_eq!((join.grants.identity.as_str().len(), join.grants.video.room.len()), (256, 256));
    }

    #[test]
    fn checks_come_in_livekits_order() {
        let nothing = Claims { identity: String::new(), ..with_video(|video| *video = VideoGrant::default()) };

        assert_eq!(v1(&nothing, "!"), Err(Refusal::Base64));
        assert_eq!(v0(&nothing, &[]), Err(Refusal::JoinNotGranted));
        let nameless = Claims { identity: String::new(), ..with_video(|video| video.room = String::new()) };
        assert_eq!(v0(&nameless, &[]), Err(Refusal::NoIdentity));
    }

    #[test]
    fn describing_oneself_needs_the_permission() {
        let attributes = BASE64_URL_SAFE.encode(r#"{"b":"2"}"#);
        let permitted = with_video(|video| video.can_update_own_metadata = Some(true));

        assert_eq!(v0(&claims(), &[("attributes", &attributes)]), Err(Refusal::NoPermission));
        let join = v0(&permitted, &[("attributes", &attributes)]).unwrap();
        let both = [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(join.grants.attributes, HashMap::from(both));
        let request = proto::JoinRequest { metadata: "mine".into(), ..Default::default() };
        let silent = proto::JoinRequest { reconnect: true, ..Default::default() };
        assert_eq!(v1(&permitted, &plain(&request)).unwrap().grants.metadata, "mine");
        assert_eq!(v1(&permitted, &plain(&silent)).unwrap().grants.metadata, "token");
    }

    #[test]
    fn undecodable_attributes_fail_validation_and_not_a_join() {
        let pairs = [("attributes", "!")];

        assert_eq!(read_with(Mode::V0, Purpose::Validate, &claims(), &pairs), Err(Refusal::Attributes));
        assert!(v0(&claims(), &pairs).is_ok());
    }

    #[test]
    fn a_legacy_publisher_gets_an_identity_beside_its_own() {
        let join = v0(&claims(), &[("publish", "cam")]).unwrap();

        assert_eq!(join.grants.identity.as_str(), "alice#cam");
        assert!(!join.grants.video.may_subscribe());
        let silent = with_video(|video| video.can_publish = Some(false));
        assert_eq!(v0(&silent, &[("publish", "cam")]), Err(Refusal::NoPermission));
    }

    #[test]
    fn browsers_are_known_by_their_user_agent_and_others_by_what_they_say() {
        let browser = v0(&claims(), &[("sdk", "js")]).unwrap().client;
        assert_eq!((browser.browser.as_str(), browser.browser_version.as_str()), ("Firefox", "128.0"));
        assert_eq!((browser.os.as_str(), browser.address.as_str()), ("Linux", "192.0.2.7"));

        assert_eq!(v0(&claims(), &[("sdk", "python")]).unwrap().client.browser, "");
        let told = [("sdk", "js"), ("browser", "Chrome"), ("os", "Windows")];
        let told = v0(&claims(), &told).unwrap().client;
        assert_eq!((told.browser.as_str(), told.browser_version.as_str(), told.os.as_str()), ("Chrome", "", "Windows"));
    }

    #[test]
    fn each_browser_and_system_has_its_mark() {
        for (user_agent, browser, system) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 \
                 Safari/537.36 Edg/140.0.3485.54",
                Some(("Edge", "140.0.3485.54")),
                Some("Windows"),
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/139.0.0.0 Safari/537.36 OPR/123.0.0.0",
                Some(("Opera", "123.0.0.0")),
                Some("Mac OS X"),
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SAMSUNG SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) \
                 SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
                Some(("Samsung Browser", "28.0")),
                Some("Android"),
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0",
                Some(("Firefox", "142.0")),
                Some("Linux"),
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                 FxiOS/142.0 Mobile/15E148 Safari/605.1.15",
                Some(("Firefox", "142.0")),
                Some("iOS"),
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                 CriOS/140.0.7339.95 Mobile/15E148 Safari/604.1",
                Some(("Chrome", "140.0.7339.95")),
                Some("iOS"),
            ),
            (
                "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 \
                 Safari/537.36",
                Some(("Chrome", "140.0.0.0")),
                Some("Chrome OS"),
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) AppleWebKit/605 Version/18.4 Safari/605",
                Some(("Safari", "18.4")),
                Some("Mac OS X"),
            ),
            ("okhttp/5.1.0", None, None),
        ] {
            let found = browser_of(user_agent);
            let found = found.as_ref().map(|(browser, version)| (*browser, version.as_str()));
            assert_eq!((found, os_of(user_agent)), (browser, system), "{user_agent}");
        }
    }

    proptest::proptest! {
        /// Whatever a client sends as join_request, it gets a session or a refusal.
        #[test]
        fn no_join_request_panics(bytes: Vec<u8>, packed: bool) {
            let compression = if packed {
                proto::wrapped_join_request::Compression::Gzip
            } else {
                proto::wrapped_join_request::Compression::None
            };
            let _ = v1(&claims(), &wrap(compression, bytes.clone()));
            let _ = v1(&claims(), &BASE64_URL_SAFE.encode(&bytes));
            let _ = v1(&claims(), &String::from_utf8_lossy(&bytes));
        }
    }
}
