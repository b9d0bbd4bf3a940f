//! Section 2: who is calling.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::{SFU_KEY, SFU_SECRET, World, eventually, in_seconds, seconds_now, send, sign, sign_with};
use control::clock::Timestamp;
use control::store::SharedStore;

async fn mine(world: &World, token: &str) -> super::world::Answer {
    send(world.request("GET", "/api/live/mine").bearer_auth(token)).await
}

fn claims() -> Value {
    json!({ "sub": "u1", "exp": seconds_now() + 600 })
}

fn with(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[claim] = value;
    claims
}

/// Rules 1 and 3: users come with a signed token that names them and ends.
pub async fn a_token_must_be_signed_and_whole(store: SharedStore) {
    let world = World::new(store).await;

    mine(&world, &sign(&claims())).await.expect(200);
    for token in [
        sign_with(&claims(), "another secret of more than 32 bytes"),
        sign(&json!({ "sub": "u1" })),
        sign(&json!({ "exp": seconds_now() + 600 })),
        sign(&with("sub", json!(""))),
        sign(&with("sub", json!("x".repeat(129)))),
        sign(&with("nbf", json!(seconds_now() + 3600))),
        "x".to_owned(),
    ] {
        let refused = mine(&world, &token).await;
        refused.refused(401, "unauthenticated");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    mine(&world, &sign(&with("exp", json!(seconds_now() - 60)))).await.refused(401, "token_expired");
    let basic = world.request("GET", "/api/live/mine").header("authorization", "Basic dTpw");
    send(basic).await.refused(401, "unauthenticated");
}

/// Rule 1: whoever sets the identity service up is told what does not fit; whoever forges tokens learns nothing by it.
pub async fn a_refused_token_comes_with_the_reason(store: SharedStore) {
    let world = World::with(store, |settings| settings.auth.audience = "live".to_owned()).await;
    let reason = async |token: &str| mine(&world, token).await.json()["reason"].clone();
    let whole = with("aud", json!("live"));

    mine(&world, &sign(&whole)).await.expect(200);
    assert_eq!(reason("x").await, "malformed");
    assert_eq!(reason(&sign_with(&whole, "another secret of more than 32 bytes")).await, "wrong_signature");
    assert_eq!(reason(&sign(&claims())).await, "wrong_audience");
    assert_eq!(reason(&sign(&json!({ "aud": "live", "userId": "u1", "exp": seconds_now() + 600 }))).await, "no_user");
    assert_eq!(reason(&sign(&json!({ "aud": "live", "sub": "u1" }))).await, "no_expiry");
    let expired = sign(&json!({ "aud": "live", "sub": "u1", "exp": seconds_now() - 60 }));
    assert_eq!(reason(&expired).await, "expired");
    assert_eq!(world.get("/api/live/mine", "").await.json().get("reason"), None);
}

/// Rule 2: a good token is not refused because its key could not be fetched since the start, so that apps sign nobody
/// out.
pub async fn without_keys_of_the_identity_service_a_call_is_to_be_repeated(store: SharedStore) {
    let nobody = format!("http://{}/keys", std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let world = World::with(store, |settings| {
        settings.auth.jwks_url = nobody;
        settings.http.anonymous_calls_per_minute = 40;
    })
    .await;
    // {"alg":"ES256","kid":"a"}
    let head = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ";
    let token = format!("{head}.{}.AA", sign(&claims()).split('.').nth(1).unwrap());

    for path in ["/api/live/mine", "/api/live/active"] {
        let answer = send(world.request("GET", path).bearer_auth(&token)).await;
        answer.refused(503, "store_unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
        assert_eq!((answer.header("www-authenticate"), &answer.json()["reason"]), (None, &json!("keys_unavailable")));
    }
    mine(&world, &sign(&claims())).await.expect(200);
    mine(&world, "x").await.refused(401, "unauthenticated");
    assert!(send(world.request("GET", "/api/live/active")).await.status == 200, "guests need no token");
}

/// Section 1, rule 10: guesses are limited by address, calls of users by user.
pub async fn refused_tokens_keep_nobody_else_behind_their_address_out(store: SharedStore) {
    let world = World::with(store, |settings| settings.http.anonymous_calls_per_minute = 5).await;
    for _ in 0..5 {
        mine(&world, "x.y.z").await.refused(401, "unauthenticated");
    }

    mine(&world, "x.y.z").await.refused(429, "rate_limited");
    let forged = format!("{}x", sign(&claims()));
    mine(&world, &forged).await.refused(429, "rate_limited");
    mine(&world, &sign(&claims())).await.expect(200);
}

/// Rule 2: the algorithm is not the token's choice; `none` least of all.
pub async fn a_token_without_a_signature_is_refused(store: SharedStore) {
    let world = World::new(store).await;
    let body = sign(&claims()).split('.').nth(1).unwrap().to_owned();

    // {"alg":"none"}, {"alg":"RS256"}
    for head in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJSUzI1NiJ9"] {
        mine(&world, &format!("{head}.{body}.")).await.refused(401, "unauthenticated");
    }
}

/// Rule 4: tokens of the media server are not those of users.
pub async fn a_media_token_is_no_user_token(store: SharedStore) {
    let world = World::new(store).await;
    let video = json!({ "room": "r", "roomJoin": true });

    let by_the_media_server = sign_with(&with("video", video.clone()), SFU_SECRET);
    for token in [by_the_media_server, sign(&with("video", video)), sign(&with("iss", json!(SFU_KEY)))] {
        mine(&world, &token).await.refused(401, "unauthenticated");
    }
}

/// [S] There are two roles, `user` and `admin`; only administrators end streams of others.
pub async fn there_are_users_and_administrators(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    world.post(&format!("/api/live/{id}/end"), "u2", json!({})).await.refused(403, "forbidden");
    for path in ["/api/admin/streams", "/api/admin/reports", "/api/admin/audit"] {
        world.get(path, "u2").await.refused(403, "forbidden");
        world.get(path, "").await.refused(401, "unauthenticated");
        world.get(path, "admin").await.expect(200);
    }
    world.post(&format!("/api/live/{id}/end"), "admin", json!({})).await.expect(200);
}

/// Rule 5: a ban refuses start, watching and reports, ends the user's stream, and may be lifted.
pub async fn a_ban_keeps_a_user_from_everything(store: SharedStore) {
    let world = World::new(store).await;
    let other = world.start("u1").await;
    let own = world.start("bad").await;

    let ban = json!({ "reason": "spam" });
    let answer = world.put("/api/admin/users/bad/ban", "admin", ban).await.expect(200);
    assert_eq!((answer["userId"].as_str(), answer["reason"].as_str()), (Some("bad"), Some("spam")));

    world.post("/api/live/start", "bad", json!({})).await.refused(403, "banned");
    world.get(&format!("/api/live/{other}/watch"), "bad").await.refused(403, "banned");
    let report = json!({ "reason": "spam" });
    world.post(&format!("/api/live/{other}/reports"), "bad", report).await.refused(403, "banned");
    eventually("the stream of a banned user ends", || async {
        world.get(&format!("/api/live/{own}"), "").await.expect(200)["endReason"] == "banned"
    })
    .await;

    world.delete("/api/admin/users/bad/ban", "admin").await.expect(204);
    world.delete("/api/admin/users/bad/ban", "admin").await.expect(204);
    world.get(&format!("/api/live/{other}/watch"), "bad").await.expect(200);
}

/// Rule 5: who may ban, whom, and until when.
pub async fn a_ban_is_checked(store: SharedStore) {
    let world = World::new(store).await;
    let ban = async |user: &str, body: Value| world.put("/api/admin/users/bad/ban", user, body).await;

    ban("u1", json!({ "reason": "x" })).await.refused(403, "forbidden");
    ban("admin", json!({})).await.refused(400, "malformed_body");
    assert_eq!(ban("admin", json!({ "reason": " " })).await.wrong_fields(), ["reason"]);
    assert_eq!(ban("admin", json!({ "reason": "x", "until": in_seconds(-10) })).await.wrong_fields(), ["until"]);
    let until = in_seconds(3600);
    assert_eq!(ban("admin", json!({ "reason": "x", "until": until })).await.expect(200)["until"], until);
    let own = world.put("/api/admin/users/admin/ban", "admin", json!({ "reason": "x" })).await;
    own.refused(422, "cannot_block_admin");
}

/// Rule 6: tokens for trying, in development alone.
pub async fn in_development_anybody_gets_a_token(store: SharedStore) {
    let world = World::with(store.clone(), |settings| settings.development = true).await;
    let get = async |body: Value| world.post("/api/dev/token", "", body).await;

    let before = seconds_now();
    let answer = get(json!({ "userId": "dev", "role": "admin", "name": "Dev" })).await.expect(200);
    let token = answer["token"].as_str().unwrap();
    let expires_at = Timestamp::parse(answer["expiresAt"].as_str().unwrap()).unwrap().millis() / 1000;
    assert!((before + 3600..=seconds_now() + 3600).contains(&expires_at), "for an hour from {before}: {answer}");
    let body = token.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
    assert_eq!((&claims["sub"], &claims["name"], &claims["exp"]), (&json!("dev"), &json!("Dev"), &json!(expires_at)));
    send(world.request("GET", "/api/admin/streams").bearer_auth(token)).await.expect(200);
    assert_eq!(get(json!({ "userId": "" })).await.wrong_fields(), ["userId"]);
    get(json!({ "userId": "u", "role": "root" })).await.refused(400, "malformed_body");

    let under = async |host: &str| {
        let request = world.request("POST", "/api/dev/token").header("host", host);
        let request = request.header("x-forwarded-host", "localhost").header("content-type", "application/json");
        send(request.body(json!({ "userId": "dev" }).to_string())).await
    };
    for host in ["rebound.example:7880", "127.0.0.1.rebound.example", "localhost.rebound.example"] {
        under(host).await.refused(403, "forbidden");
    }
    for host in ["localhost:7880", "192.168.1.20:7880", "[::1]:7880", "203.0.113.9"] {
        under(host).await.expect(200);
    }

    // As the connection says, whoever wrote the header.
    let raw = async |line: &str, host: &str| {
        let body = json!({ "userId": "dev" }).to_string();
        let rest = "Content-Type: application/json\r\nConnection: close\r\nContent-Length";
        let request = format!("POST {line}\r\n{host}{rest}: {}\r\n\r\n{body}", body.len());
        let mut socket = tokio::net::TcpStream::connect(world.served_by_us).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(raw("/api/dev/token HTTP/1.1", "Host: localhost\r\n").await, "200");
    assert_eq!(raw("http://localhost/api/dev/token HTTP/1.1", "Host: localhost\r\n").await, "200");
    assert_eq!(raw("http://rebound.example/api/dev/token HTTP/1.1", "Host: localhost\r\n").await, "403");
    assert_eq!(raw("/api/dev/token HTTP/1.1", "").await, "400");
    assert_eq!(raw("/api/dev/token HTTP/1.0", "").await, "403");
    assert_eq!(raw("/api/dev/token HTTP/1.0", "Host: localhost\r\n").await, "200");

    let production = World::new(store).await;
    production.post("/api/dev/token", "", json!({ "userId": "dev" })).await.refused(404, "not_found");
}

/// Rule 7: what needs no token. One that is there must be valid all the same.
pub async fn public_routes_need_no_token(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    for path in ["/api/live/active", "/api/live/scheduled", "/api/config", "/healthz", "/readyz", "/openapi.json"] {
        world.get(path, "").await.expect(200);
    }
    world.get(&format!("/api/live/{id}"), "").await.expect(200);
    for path in ["/api/live/active", "/api/live/scheduled"] {
        send(world.request("GET", path).bearer_auth("x")).await.refused(401, "unauthenticated");
    }
    for (method, path) in [
        ("POST", "/api/live/start".to_owned()),
        ("POST", "/api/live/stop".to_owned()),
        ("GET", format!("/api/live/{id}/watch")),
        ("POST", format!("/api/live/{id}/end")),
        ("GET", format!("/api/live/{id}/analytics")),
        ("GET", format!("/api/live/{id}/blocks")),
        ("GET", "/api/me/blocks".to_owned()),
        ("DELETE", format!("/api/live/{id}")),
    ] {
        world.call(method, &path, "", Value::Null).await.refused(401, "unauthenticated");
    }
}

/// In tokens, paths and bodies, with every store.
pub async fn a_user_whose_id_is_an_object_id_is_one_in_any_spelling(store: SharedStore) {
    let world = World::new(store).await;
    let (lower, upper, mixed) = ("64b7f3a2c1d2e3f4a5b6c7d8", "64B7F3A2C1D2E3F4A5B6C7D8", "64b7f3a2C1D2E3F4A5B6C7D8");
    let viewer = ("a4b7f3a2c1d2e3f4a5b6c7d8", "A4B7F3A2C1D2E3F4A5B6C7D8");
    let id = world.start(upper).await;
    let watch = format!("/api/live/{id}/watch");

    assert_eq!(world.get(&format!("/api/live/{id}"), "").await.expect(200)["ownerId"], lower);
    assert_eq!(world.post("/api/live/start", lower, json!({})).await.expect(200)["resumed"], true);
    world.put(&format!("/api/live/{id}/blocks/{mixed}"), lower, Value::Null).await.refused(422, "cannot_block_owner");
    world.put(&format!("/api/live/{id}/blocks/{}", viewer.1), mixed, Value::Null).await.expect(200);
    world.get(&watch, viewer.0).await.refused(403, "blocked");
    world.delete(&format!("/api/live/{id}/blocks/{}", viewer.0), lower).await.expect(204);
    world.get(&watch, viewer.1).await.expect(200);
    let report = async |user: &str| {
        let body = json!({ "reason": "spam", "userId": user });
        world.post(&format!("/api/live/{id}/reports"), viewer.0, body).await
    };
    let first = report(upper).await.expect(202);
    assert_eq!(report(lower).await.expect(200)["reportId"], first["reportId"]);
    world.put(&format!("/api/admin/users/{upper}/ban"), "admin", json!({ "reason": "spam" })).await.expect(200);
    world.post("/api/live/start", lower, json!({})).await.refused(403, "banned");
    world.delete(&format!("/api/admin/users/{lower}/ban"), "admin").await.expect(204);
    eventually("the stream is over", || async { world.get(&watch, upper).await.status == 410 }).await;
}
