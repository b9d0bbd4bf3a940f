use ring::hmac;
use serde_json::{Value, json};

use super::*;

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
    let video = |grant: Value| verify(&json!({ "iss": "first", "exp": NOW_S, "video": grant })).unwrap().video.unwrap();

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
    assert_eq!((claims.name, claims.metadata, claims.attributes), (grants.name, grants.metadata, grants.attributes));
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
