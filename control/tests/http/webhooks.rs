//! Section 5: webhooks, as far as HTTP is concerned. What they do is tested with the streams.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::{Answer, SFU_KEY, SFU_SECRET, World, seconds_now, send, sign_with};
use control::store::SharedStore;

fn signature(body: &str, secret: &str) -> String {
    let sha256 = BASE64_STANDARD.encode(Sha256::digest(body.as_bytes()));
    let now = seconds_now();
    sign_with(&json!({ "iss": SFU_KEY, "nbf": now, "exp": now + 300, "sha256": sha256 }), secret)
}

async fn tell(world: &World, body: &str, authorization: &str, kind: &str) -> Answer {
    let request = world.request("POST", "/api/webhooks/livekit").header("authorization", authorization);
    send(request.header("content-type", kind).body(body.to_owned())).await
}

fn event(name: &str, room: &Value) -> String {
    json!({ "event": name, "id": format!("EV_{name}"), "createdAt": seconds_now().to_string(), "room": room })
        .to_string()
}

const KIND: &str = "application/webhook+json";

/// A viewer comes into the room of a stream, and the media server tells.
pub async fn a_viewer_arrives(world: &World, stream: &str, user: &str) {
    let id = stream.parse().unwrap();
    let stream = world.lifecycle.store().stream(id).await.unwrap().unwrap();
    let (sid, joined_at) = (format!("PA_{user}_{id}"), seconds_now().to_string());
    let event = json!({
        "event": "participant_joined",
        "id": format!("EV_{sid}"),
        "createdAt": joined_at,
        "room": { "name": stream.room_name, "sid": stream.room_sid },
        "participant": {
            "sid": sid, "identity": format!("{user}:aaaaaaaa"), "state": "ACTIVE", "kind": "STANDARD",
            "joinedAt": joined_at, "attributes": { "app.userId": user, "app.role": "viewer" },
        },
    });
    let event = event.to_string();
    tell(world, &event, &signature(&event, SFU_SECRET), KIND).await.expect(200);
}

/// [S] `room_finished` ends the stream.
pub async fn a_finished_room_ends_its_stream(store: SharedStore) {
    let world = World::new(store).await;
    let answer = world.post("/api/live/start", "u1", json!({})).await.expect(201);
    let id = answer["streamId"].as_str().unwrap();
    let sid = world.lifecycle.store().stream(id.parse().unwrap()).await.unwrap().unwrap().room_sid;
    let body = event("room_finished", &json!({ "name": answer["roomName"], "sid": sid }));

    tell(&world, &body, &signature(&body, SFU_SECRET), KIND).await.expect(200);

    let stream = world.get(&format!("/api/live/{id}"), "").await.expect(200);
    assert_eq!((&stream["isLive"], stream["endReason"].as_str()), (&json!(false), Some("room_finished")));
    assert!(stream["endedAt"].is_string(), "{stream}");
}

/// Whatever is not signed for this very body is refused.
pub async fn a_webhook_must_be_signed(store: SharedStore) {
    let world = World::new(store).await;
    let body = event("room_started", &json!({ "name": "x", "sid": "RM_x" }));
    let good = signature(&body, SFU_SECRET);

    tell(&world, &body, &good, KIND).await.expect(200);
    tell(&world, &body, &format!("Bearer {good}"), "application/json").await.expect(200);
    for bad in [signature("{}", SFU_SECRET), signature(&body, "another secret of more than 32 bytes"), "x".into()] {
        let refused = tell(&world, &body, &bad, KIND).await;
        refused.refused(401, "unauthenticated");
        assert!(!refused.text.contains(&bad) || bad == "x");
    }
}

/// What is signed and no event is refused; what is none of our business is not.
pub async fn a_webhook_must_be_readable(store: SharedStore) {
    let world = World::new(store).await;
    let tell_signed = async |body: &str, kind: &str| tell(&world, body, &signature(body, SFU_SECRET), kind).await;

    tell_signed("nonsense", KIND).await.refused(400, "malformed_body");
    tell_signed("{}", "text/plain").await.refused(415, "unsupported_media_type");
    let event = event("room_started", &json!({ "name": "x", "sid": "RM_x" }));
    let padded = |bytes: usize| format!("{event}{}", " ".repeat(bytes - event.len()));
    tell_signed(&padded(262_144), KIND).await.expect(200);
    tell_signed(&padded(262_145), KIND).await.refused(413, "body_too_large");
    let unknown = json!({ "event": "something_new", "id": "EV_1", "newField": 7 }).to_string();
    tell_signed(&unknown, KIND).await.expect(200);
}

/// A stranger's webhook is refused before its body has come.
pub async fn a_webhooks_token_is_looked_at_before_its_body(store: SharedStore) {
    let world = World::new(store).await;
    let now = seconds_now();
    let expired = sign_with(&json!({ "iss": SFU_KEY, "exp": now - 300, "sha256": "x" }), SFU_SECRET);
    let stranger = signature("{}", "another secret of more than 32 bytes");
    let key = EncodingKey::from_secret(SFU_SECRET.as_bytes());
    let header = Header { crit: Some(vec!["exp".into()]), ..Header::new(Algorithm::HS256) };
    let extended = jsonwebtoken::encode(&header, &json!({ "iss": SFU_KEY, "exp": now + 300 }), &key).unwrap();
    let genuine = signature("{}", SFU_SECRET);
    let refused = ["", "x", &expired, &stranger, &extended].map(|token| (token, 200_000, "HTTP/1.1 401"));
    // Of a body that is too large nothing is taken either.
    for (token, length, expected) in refused.into_iter().chain([(&*genuine, 300 << 10, "HTTP/1.1 413")]) {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        let head = format!(
            "POST /api/webhooks/livekit HTTP/1.1\r\nhost: a\r\nauthorization: {token}\r\ncontent-type: {KIND}\r\n\
             content-length: {length}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        socket.read_exact(&mut status).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&status), expected, "{length} bytes with the token {token:?}");
    }
}

/// Who sends forged webhooks all the time is slowed down, and nobody else is.
pub async fn forged_webhooks_are_limited(store: SharedStore) {
    let world = World::new(store).await;
    let forge = async |from: &str| {
        let request = world.request("POST", "/api/webhooks/livekit").header("x-forwarded-for", from);
        send(request.header("authorization", "x").header("content-type", KIND).body("{}")).await
    };
    let mut refused = 0;
    let limited = loop {
        let answer = forge("198.51.100.1").await;
        if answer.status != 401 {
            break answer;
        }
        refused += 1;
        assert!(refused < 1_000, "there is no limit");
    };

    assert!(refused >= 60, "{refused}");
    limited.refused(429, "rate_limited");
    forge("198.51.100.2").await.refused(401, "unauthenticated");
    let body = event("room_started", &json!({ "name": "x", "sid": "RM_x" }));
    tell(&world, &body, &signature(&body, SFU_SECRET), KIND).await.expect(200);
}
