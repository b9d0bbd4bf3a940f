//! Whom a webhook is believed, and what may stand in it (stream API, section 5).

use std::sync::atomic::Ordering;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use control::clock::Timestamp;
use control::problem::Code;
use control::rooms::event::EventKind;
use control::viewers::Handled;
use control::webhooks::{self, Unbelieved, Unreadable, WebhookKeys, read};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::world::{SECRET, World, keys, signed, signed_with, with_token};

const BODY: &[u8] = br#"{"event":"room_started"}"#;

fn now() -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000)
}

fn hash() -> String {
    BASE64_STANDARD.encode(Sha256::digest(BODY))
}

/// Both halves at once.
fn verify(keys: &WebhookKeys, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), Unbelieved> {
    webhooks::verify(keys, headers, now)?.check(body)
}

#[test]
fn a_body_signed_by_any_of_our_keys_is_believed() {
    let with_other_key =
        signed_with("another secret that is long enough", json!({ "iss": "old", "sha256": hash() }), now());
    let bearer = signed(BODY, now())["authorization"].to_str().map(|token| format!("Bearer {token}")).unwrap();

    for headers in [signed(BODY, now()), with_other_key, with_token(&bearer)] {
        assert_eq!(verify(&keys(), &headers, BODY, now()), Ok(()));
    }
}

#[test]
fn whatever_is_wrong_with_a_token_is_found() {
    let claims = |change: Value| {
        let mut claims = json!({ "sha256": hash() });
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        signed_with(SECRET, claims, now())
    };
    let seconds = now().millis() / 1000;
    let plain = signed(BODY, now())["authorization"].to_str().unwrap().to_owned();
    let none = {
        let payload = plain.split('.').nth(1).unwrap();
        let header = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        with_token(&format!("{header}.{payload}."))
    };
    let cases = [
        (HeaderMap::new(), Unbelieved::NoToken),
        (with_token("Bearer "), Unbelieved::NoToken),
        (with_token("x"), Unbelieved::Malformed),
        (with_token(&"x".repeat(5_000)), Unbelieved::Malformed),
        (claims(json!({ "iss": "stranger" })), Unbelieved::UnknownKey),
        (claims(json!({ "iss": "old" })), Unbelieved::Signature),
        (none, Unbelieved::Signature),
        (claims(json!({ "exp": null })), Unbelieved::Malformed),
        (claims(json!({ "exp": seconds - 61 })), Unbelieved::Time),
        (claims(json!({ "nbf": seconds + 61 })), Unbelieved::Time),
        (claims(json!({ "sha256": "" })), Unbelieved::Body),
        (claims(json!({ "sha256": BASE64_STANDARD.encode(Sha256::digest(b"other")) })), Unbelieved::Body),
    ];
    for (headers, expected) in cases {
        assert_eq!(verify(&keys(), &headers, BODY, now()), Err(expected), "{headers:?}");
    }
    for change in [json!({ "exp": seconds - 60 }), json!({ "nbf": seconds + 60 })] {
        assert_eq!(verify(&keys(), &claims(change), BODY, now()), Ok(()));
    }
}

#[test]
fn a_token_whose_parts_were_exchanged_is_not_believed() {
    let seed: u64 = 11;
    let mut rng = StdRng::seed_from_u64(seed);
    let token = signed(BODY, now())["authorization"].to_str().unwrap().to_owned();
    for _ in 0..500 {
        let mut changed = token.clone().into_bytes();
        let at = rng.random_range(0..changed.len() - 1);
        let to = rng.random_range(b'!'..b'~');
        if changed[at] == to {
            continue;
        }
        changed[at] = to;
        let headers = with_token(&String::from_utf8(changed).unwrap());

        assert!(verify(&keys(), &headers, BODY, now()).is_err(), "seed {seed}, byte {at}");
    }
}

#[test]
fn both_spellings_and_both_forms_of_numbers_are_read() {
    let camel = json!({
        "event": "participant_joined", "id": "EV_1", "createdAt": "1767225600", "numDropped": 0,
        "room": { "sid": "RM_1", "name": "live_a_1", "creationTime": "1" },
        "participant": {
            "sid": "PA_1", "identity": "bo:x", "joinedAt": "1767225599", "joinedAtMs": "1767225599123",
            "kind": "STANDARD", "attributes": { "app.userId": "bo", "app.role": "viewer" },
            "permission": { "canPublish": false }, "tracks": [], "somethingNew": { "deep": [1, 2] }
        }
    });
    let snake = json!({
        "event": "participant_joined", "id": "EV_1", "created_at": 1_767_225_600, "egress_info": null,
        "room": { "sid": "RM_1", "name": "live_a_1" },
        "participant": {
            "sid": "PA_1", "identity": "bo:x", "joined_at": 1_767_225_599, "joined_at_ms": 1_767_225_599_123_i64,
            "kind": 0, "attributes": { "app.userId": "bo", "app.role": "viewer" }, "permission": null
        }
    });

    let read_one = read(camel.to_string().as_bytes()).unwrap();

    assert_eq!(read(snake.to_string().as_bytes()).unwrap(), read_one);
    assert_eq!((read_one.room.as_str(), read_one.room_sid.as_str()), ("live_a_1", "RM_1"));
    let EventKind::Joined(session) = read_one.kind else { panic!("a join") };
    assert_eq!(session.joined_at, Timestamp::from_millis(1_767_225_599_123));
    assert_eq!((session.user.unwrap().as_str(), session.standard), ("bo", true));
}

#[test]
fn an_event_without_what_it_needs_cannot_be_read() {
    for (body, missing) in [
        (json!({}), "event"),
        (json!({ "event": "room_finished" }), "room.name"),
        (json!({ "event": "participant_left", "room": { "name": "live_a_1" } }), "participant"),
        (json!({ "event": "participant_left", "room": { "name": "r" }, "participant": {} }), "participant.sid"),
    ] {
        assert_eq!(read(body.to_string().as_bytes()), Err(Unreadable::Missing(missing)), "{body}");
    }
    let unknown = json!({ "event": "agent_job_started", "job": {} });
    assert_eq!(read(unknown.to_string().as_bytes()).unwrap().kind, EventKind::Other);
}

/// Bytes cut, exchanged or put in anywhere end in an error or an event, never in a panic.
#[test]
fn garbage_is_refused_and_does_no_harm() {
    let event = json!({
        "event": "participant_left", "id": "EV_1", "createdAt": "1767225600",
        "room": { "sid": "RM_1", "name": "live_a_1" },
        "participant": { "sid": "PA_1", "identity": "a:b", "joinedAt": "-9223372036854775808", "kind": "AGENT",
            "attributes": { "app.userId": "a" }, "permission": { "hidden": true }, "tracks": [{}] }
    })
    .to_string();
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(3);
    eprintln!("SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..5_000 {
        let mut bytes = event.clone().into_bytes();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = rng.random(),
                2 => bytes.insert(at, *b"{}[]\",:0-eE.null".get(rng.random_range(0..16)).unwrap()),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        let _ = read(&bytes);
    }
    for deep in ["[".repeat(100_000), format!("{{\"participant\":{}", "{\"a\":".repeat(50_000))] {
        assert_eq!(read(deep.as_bytes()), Err(Unreadable::Json));
    }
    for number in ["1e300", "-1e300", "\"99999999999999999999\"", "\"\"", "true", "[]"] {
        let _ = read(format!(r#"{{"event":"room_started","room":{{"name":"r"}},"createdAt":{number}}}"#).as_bytes());
    }
}

#[tokio::test]
async fn a_webhook_that_is_not_believed_changes_nothing_and_is_counted() {
    let world = World::new(crate::stores::embedded().await);
    let stream = world.live("ana").await;
    let body = world.event("room_finished", &stream, None).to_string();
    let other = world.event("participant_joined", &stream, Some(&world.viewer("bo"))).to_string();

    let refused = world.webhook(&signed(other.as_bytes(), now()), body.as_bytes()).await;
    assert_eq!(refused.unwrap_err().code, Code::Unauthenticated);
    let garbled = world.webhook(&signed(b"{", world.clock.now()), b"{").await;
    assert_eq!(garbled.unwrap_err().code, Code::MalformedBody);

    assert!(world.stored(stream.id).await.is_live());
    let counters = world.lifecycle.counters();
    assert_eq!(counters.webhooks_refused.load(Ordering::SeqCst), 1);
    assert_eq!(counters.webhooks_malformed.load(Ordering::SeqCst), 1);
    assert_eq!(world.tell("room_finished", &stream, None).await, Handled::Applied);
}
