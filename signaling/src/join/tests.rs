use super::*;
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

fn read_with(mode: Mode, purpose: Purpose, claims: &Claims, pairs: &[(&str, &str)]) -> Result<Join, JoinError> {
    let parameters = Parameters(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect());
    let hints =
        ClientHints { user_agent: "Mozilla/5.0 (X11; Linux) Firefox/128.0".into(), address: "192.0.2.7".into() };
    read(JoinInput { mode, purpose, claims: Some(claims), parameters: &parameters, hints: &hints })
}

fn v0(claims: &Claims, pairs: &[(&str, &str)]) -> Result<Join, JoinError> {
    read_with(Mode::V0, Purpose::Connect, claims, pairs)
}

fn v1(claims: &Claims, encoded: &str) -> Result<Join, JoinError> {
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
    let empty = ["auto_subscribe", "adaptive_stream", "reconnect", "publish", "attributes", "join_request", "protocol"];
    for pairs in [&[][..], &empty.map(|name| (name, ""))] {
        let join = v0(&claims(), pairs).unwrap();

        assert!(join.auto_subscribe && !join.adaptive_stream && join.reconnect.is_none());
        assert_eq!((join.mode, join.protocol_version), (Mode::V0, 0));
        assert_eq!(join.grants, granted());
    }
}

#[test]
fn a_flag_is_set_by_1_and_true_and_a_number_is_none_below_nothing() {
    for (value, set) in [("1", true), ("true", true), ("True", true), ("0", false), ("false", false), ("yes", false)] {
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
    let offer = proto::SessionDescription { r#type: "offer".into(), sdp: "v=0".into(), id: 4, ..Default::default() };
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
    assert_eq!(v1(&claims(), &plain(&announcing(ADD_TRACKS_MAX + 1))), Err(JoinError::JoinRequestTooLarge));
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
        (String::new(), JoinError::JoinRequestMissing),
        ("a+b/".into(), JoinError::Base64),
        (unpadded, JoinError::Base64),
        (BASE64_URL_SAFE.encode([0xff; 4]), JoinError::Wrapper),
        (inner, JoinError::JoinRequest),
        (broken_gzip, JoinError::Gzip),
        ("A".repeat(JOIN_REQUEST_BYTES_MAX), JoinError::Wrapper),
        ("A".repeat(JOIN_REQUEST_BYTES_MAX + 1), JoinError::JoinRequestTooLarge),
        (gzipped(&vec![0; JOIN_REQUEST_BYTES_MAX + 1]), JoinError::JoinRequestTooLarge),
    ];
    for (encoded, refusal) in cases {
        assert_eq!(v1(&claims(), &encoded), Err(refusal));
    }
}

#[test]
fn what_a_join_request_unpacks_into_is_earned_by_what_was_sent() {
    let zeros = |length| gzipped(&vec![0; length]);
    assert_eq!(v1(&claims(), &zeros(UNPACKED_BYTES_FREE)), Err(JoinError::JoinRequest), "it is unpacked");
    assert_eq!(v1(&claims(), &zeros(UNPACKED_BYTES_FREE + 1)), Err(JoinError::JoinRequestTooLarge));

    // However much was sent.
    let padded = |length: usize| {
        let mut noise = 1_u32;
        let bytes = (0..length).map(|at| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if at < 8 << 10 { noise.to_be_bytes()[0] } else { 0 }
        });
        gzipped(&bytes.collect::<Vec<_>>())
    };
    assert_eq!(v1(&claims(), &padded(JOIN_REQUEST_BYTES_MAX)), Err(JoinError::JoinRequest), "it is unpacked");
    assert_eq!(v1(&claims(), &padded(JOIN_REQUEST_BYTES_MAX + 1)), Err(JoinError::JoinRequestTooLarge));

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
        (without_video, JoinError::NoPermission),
        (with_video(|video| video.room_join = false), JoinError::JoinNotGranted),
        (named(""), JoinError::NoIdentity),
        (named(&"x".repeat(257)), JoinError::IdentityTooLong),
        (in_room(""), JoinError::NoRoom),
        (in_room(&"x".repeat(257)), JoinError::RoomTooLong),
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

    assert_eq!(v1(&nothing, "!"), Err(JoinError::Base64));
    assert_eq!(v0(&nothing, &[]), Err(JoinError::JoinNotGranted));
    let nameless = Claims { identity: String::new(), ..with_video(|video| video.room = String::new()) };
    assert_eq!(v0(&nameless, &[]), Err(JoinError::NoIdentity));
}

#[test]
fn describing_oneself_needs_the_permission() {
    let attributes = BASE64_URL_SAFE.encode(r#"{"b":"2"}"#);
    let permitted = with_video(|video| video.can_update_own_metadata = Some(true));

    assert_eq!(v0(&claims(), &[("attributes", &attributes)]), Err(JoinError::NoPermission));
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

    assert_eq!(read_with(Mode::V0, Purpose::Validate, &claims(), &pairs), Err(JoinError::Attributes));
    assert!(v0(&claims(), &pairs).is_ok());
}

#[test]
fn a_legacy_publisher_gets_an_identity_beside_its_own() {
    let join = v0(&claims(), &[("publish", "cam")]).unwrap();

    assert_eq!(join.grants.identity.as_str(), "alice#cam");
    assert!(!join.grants.video.may_subscribe());
    let silent = with_video(|video| video.can_publish = Some(false));
    assert_eq!(v0(&silent, &[("publish", "cam")]), Err(JoinError::NoPermission));
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

#[test]
fn a_join_waits_in_as_much_memory_as_what_the_client_wrote() {
    let mut join = v0(&claims(), &[]).unwrap();
    join.grants.metadata.clear();
    assert_eq!(join.memory(), 0);
    join.publisher_offer = Some(proto::SessionDescription { sdp: "x".repeat(3_000), ..Default::default() });
    join.grants.metadata = "m".repeat(200);
    assert_eq!(join.memory(), 3_200);

    let cid = "c".repeat(50);
    join.add_tracks = vec![proto::AddTrackRequest { cid, ..Default::default() }; 4];
    let tracks = 4 * (size_of::<proto::AddTrackRequest>() + 52);
    assert_eq!(join.memory(), 3_200 + tracks);
    // Twenty tracks that take two bytes each, and more where they are kept.
    let publish_tracks = vec![proto::TrackPublishedResponse::default(); 20];
    join.sync_state = Some(proto::SyncState { publish_tracks, ..Default::default() });
    let state = 20 * (2 + size_of::<proto::TrackPublishedResponse>());
    assert_eq!(join.memory(), 3_200 + tracks + state);
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
