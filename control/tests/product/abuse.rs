//! What strangers send: wrong tokens, bodies and packets that no client makes, guesses and crowds. All of it is refused
//! at little cost, and nobody else notices.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use futures_util::{StreamExt as _, stream};
use jsonwebtoken::{Algorithm, Header};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::media_server::{MediaServer, signed_webhook};
use crate::product::{API_KEY, API_SECRET, JWT_SECRET, Product, admin, eventually, now, signed, signed_with, token};
use crate::socket::{Said, Socket, user};

/// Memory that a bout of abuse may leave behind: caches and allocator, not one entry an attempt.
const GROWTH_MAX_KIB: u64 = 24 << 10;

/// A token with any header and a signature of zeros.
fn forged(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), BASE64.encode([0; 32]))
}

/// Tokens that nobody may come in with, each with why.
fn wrong_tokens() -> Vec<(&'static str, String)> {
    let good = json!({ "sub": "ana", "exp": now() + 3600 });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signed(&claims)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("claims are a map").remove(name);
        signed(&claims)
    };
    let video = json!({ "roomJoin": true, "room": "live_x_1" });
    let sfu = json!({ "iss": API_KEY, "sub": "ana", "exp": now() + 3600, "video": video });
    let webhook = json!({ "iss": API_KEY, "sub": "ana", "exp": now() + 3600, "sha256": BASE64.encode([0; 32]) });
    let mut cut = signed(&good);
    cut.truncate(cut.len() - 4);
    vec![
        ("empty", String::new()),
        ("no token", "hello".into()),
        ("three dots", "...".into()),
        ("half a signature", cut),
        ("another secret", signed_with(Algorithm::HS256, "another secret of the same good length", &good)),
        ("the SFU's secret", signed_with(Algorithm::HS256, API_SECRET, &good)),
        ("no algorithm", forged(&json!({ "alg": "none", "typ": "JWT" }), &good)),
        ("no algorithm, written oddly", forged(&json!({ "alg": "nOnE" }), &good)),
        ("an algorithm that is not configured", signed_with(Algorithm::HS512, JWT_SECRET, &good)),
        ("a public key's algorithm", forged(&json!({ "alg": "RS256" }), &good)),
        ("a key of the token's own", forged(&json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "AA" } }), &good)),
        ("no subject", without("sub")),
        ("an empty subject", with("sub", json!(""))),
        ("a subject of 129 bytes", with("sub", json!("x".repeat(129)))),
        ("a subject that is no text", with("sub", json!(7))),
        ("no expiry", without("exp")),
        ("an expiry that is no number", with("exp", json!("tomorrow"))),
        ("not valid yet", with("nbf", json!(now() + 3600))),
        ("made in the future", with("iat", json!(now() + 3600))),
        ("an SFU token", signed_with(Algorithm::HS256, API_SECRET, &sfu)),
        ("an SFU token signed with our secret", signed(&sfu)),
        ("a video grant", with("video", video.clone())),
        ("an SFU key as issuer", with("iss", json!(API_KEY))),
        ("a webhook's token", signed_with(Algorithm::HS256, API_SECRET, &webhook)),
        ("a webhook's token signed with our secret", signed(&webhook)),
    ]
}

#[tokio::test]
async fn wrong_tokens_of_every_kind_are_refused_over_http_and_in_the_chat() {
    let product = Product::start("tokens", json!({})).await;
    let room = product.go_live("ana").await["roomName"].as_str().expect("it is told").to_owned();
    for (why, wrong) in wrong_tokens() {
        let answer = product.post("/live/start", &wrong, json!({})).await;
        answer.refused(401, "unauthenticated");
        assert!(answer.headers.contains_key(header::WWW_AUTHENTICATE), "{why}");
        let connected = Socket::connect(&product, &room, json!({ "token": wrong })).await;
        assert_eq!(connected.err().as_deref(), Some("unauthenticated"), "{why}");
    }
    let old = signed(&json!({ "sub": "ana", "exp": now() - 60 }));
    product.post("/live/start", &old, json!({})).await.refused(401, "token_expired");
    let connected = Socket::connect(&product, &room, json!({ "token": old })).await;
    assert_eq!(connected.err().as_deref(), Some("token_expired"));
    product.call(Method::POST, "/live/start", None, Some(json!({}))).await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn a_users_token_opens_no_door_of_the_media_server() {
    let product = Product::start("doors", json!({})).await;
    let url = product.ports.url();
    for bearer in [token("ana"), admin("root"), signed(&json!({ "sub": "ana", "exp": now() + 60, "video": {} }))] {
        let joined = product.http().get(format!("{url}/rtc/validate?access_token={bearer}")).send().await;
        assert_eq!(joined.expect("it answers").status(), StatusCode::UNAUTHORIZED);
        let listed = product
            .http()
            .post(format!("{url}/twirp/livekit.RoomService/ListRooms"))
            .bearer_auth(&bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .body("{}")
            .send()
            .await;
        assert_eq!(listed.expect("it answers").status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn tokens_and_secrets_are_in_no_log() {
    let product = Product::start("log", json!({ "logging": { "level": "trace" } })).await;
    let started = product.go_live("ana").await;
    let (sfu_token, room) = (started["token"].as_str().expect("it is told"), started["roomName"].as_str().unwrap());
    let (good, old) = (token("bob"), signed(&json!({ "sub": "bob", "exp": now() - 600 })));
    user(&product, room, &good).await.ask("chat:message", json!({ "text": "hello" })).await.expect("it is answered");
    Socket::connect(&product, room, json!({ "token": old })).await.err().expect("it is refused");
    product.post("/live/start", &old, json!({})).await.refused(401, "token_expired");
    product.http().get(format!("{}/rtc/validate?access_token={sfu_token}", product.ports.url())).send().await.unwrap();

    let log = product.whole_log();
    for secret in [JWT_SECRET, API_SECRET, sfu_token, &good, &old] {
        let signature = secret.rsplit('.').next().unwrap_or(secret);
        assert!(!log.contains(signature), "the log has {}…", &secret[..8]);
    }
}

#[tokio::test]
async fn bodies_that_no_client_makes_are_refused_with_a_problem() {
    let product = Product::start("bodies", json!({})).await;
    let url = format!("{}/api/live/start", product.ports.url());
    let send = async |kind: &'static str, body: Vec<u8>| {
        let request = product.http().post(&url).bearer_auth(token("ana")).header(header::CONTENT_TYPE, kind);
        let answer = request.body(body).send().await.expect("it answers");
        let (status, kind) = (answer.status().as_u16(), answer.headers()[header::CONTENT_TYPE].clone());
        let body: Value = serde_json::from_slice(&answer.bytes().await.expect("it has a body")).expect("it is JSON");
        assert_eq!(kind, "application/problem+json");
        (status, body["code"].as_str().expect("it has a code").to_owned())
    };
    let json = "application/json";
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(send(json, b"{".to_vec()).await, refused(400, "malformed_body"));
    assert_eq!(send(json, b"\xff\xfe\x00".to_vec()).await, refused(400, "malformed_body"));
    assert_eq!(send(json, b"[]".to_vec()).await, refused(400, "malformed_body"));
    assert_eq!(send(json, br#"{"titel":"x"}"#.to_vec()).await, refused(400, "malformed_body"));
    assert_eq!(send(json, br#"{"title":7}"#.to_vec()).await, refused(400, "malformed_body"));
    assert_eq!(send(json, "[".repeat(60_000).into_bytes()).await, refused(400, "malformed_body"));
    let nested = format!(r#"{{"tags":{}1{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    assert_eq!(send(json, nested.into_bytes()).await, refused(400, "malformed_body"));
    assert_eq!(send(json, vec![b' '; 65 << 10]).await, refused(413, "body_too_large"));
    assert_eq!(send("text/plain", b"{}".to_vec()).await, refused(415, "unsupported_media_type"));
    assert_eq!(send("application/x-www-form-urlencoded", b"title=x".to_vec()).await.0, 415);
    product
        .post("/live/start", &token("ana"), json!({ "title": "x".repeat(121) }))
        .await
        .refused(422, "validation_failed");
    // Refused before it is read: the answer may be lost to a client that goes on writing.
    let endless = product.http().post(&url).bearer_auth(token("ana")).header(header::CONTENT_TYPE, json);
    if let Ok(answer) = endless.body(vec![b'x'; 16 << 20]).send().await {
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    let long = product.post("/live/start", &token("ana"), json!({ "title": "x".repeat(121) })).await;
    long.refused(422, "validation_failed");
    product.go_live("ana").await;
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_hold_a_connection_for_ever() {
    let product = Product::start("slow", json!({})).await;
    let mut connection = TcpStream::connect(("127.0.0.1", product.ports.http)).await.expect("it listens");
    let head = format!(
        "POST /api/live/start HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        token("ana")
    );
    connection.write_all(head.as_bytes()).await.expect("it is read");
    let mut answer = Vec::new();
    let read = connection.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(40), read).await.expect("it ends").expect("it is read");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

/// What a webhook's token says of its body.
fn digest_of(authorization: &header::HeaderValue) -> String {
    let claims = authorization.to_str().expect("it is text").split('.').nth(1).expect("a token has three parts");
    let claims: Value = serde_json::from_slice(&BASE64.decode(claims).expect("base64")).expect("JSON");
    claims["sha256"].as_str().expect("it says").to_owned()
}

#[tokio::test]
async fn webhooks_that_nobody_signed_are_refused_and_counted() {
    let media = MediaServer::start().await;
    let product = Product::start("forged", json!({ "sfu": media.config() })).await;
    let room = product.go_live("ana").await["roomName"].as_str().expect("it is told").to_owned();
    let owner = media.owner_arrives(&product, &room, "ana").await;
    let event = media.event("room_finished", &room, None);
    let (body, headers) = signed_webhook(&event);
    let (_, others) = signed_webhook(&media.event("participant_left", &room, Some(owner)));
    let url = format!("{}/api/webhooks/livekit", product.ports.url());
    let send = async |authorization: Option<String>, body: Vec<u8>| {
        let mut request = product.http().post(&url).header(header::CONTENT_TYPE, "application/webhook+json");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(body).send().await.expect("it answers").status().as_u16()
    };
    let text = |value: &header::HeaderValue| value.to_str().expect("it is text").to_owned();
    let claims = |digest: &str| json!({ "iss": API_KEY, "exp": now() + 300, "sha256": digest });
    let mut changed = body.clone();
    changed.push(b' ');
    assert_eq!(send(None, body.clone()).await, 401);
    assert_eq!(send(Some(token("ana")), body.clone()).await, 401);
    assert_eq!(send(Some(text(&others[header::AUTHORIZATION])), body.clone()).await, 401, "of another body");
    assert_eq!(send(Some(text(&headers[header::AUTHORIZATION])), changed).await, 401, "the body was changed");
    let key = |secret, digest: &str| Some(signed_with(Algorithm::HS256, secret, &claims(digest)));
    assert_eq!(send(key(API_SECRET, "x"), body.clone()).await, 401, "no such digest");
    let digest = digest_of(&headers[header::AUTHORIZATION]);
    assert_eq!(send(key(JWT_SECRET, &digest), body.clone()).await, 401, "the right digest by another secret");
    assert_eq!(send(Some(forged(&json!({ "alg": "none" }), &claims(&digest))), body.clone()).await, 401);
    assert_eq!(send(Some(text(&headers[header::AUTHORIZATION])), vec![b' '; 300 << 10]).await, 413);

    let listed = product.get("/live/active", None).await.expect(200);
    assert_eq!(listed["streams"][0]["state"], "live", "none of them did anything");
    assert!(product.metric("onair_webhooks_refused_total", "").await >= 6.0, "they are counted");
    assert_eq!(send(Some(text(&headers[header::AUTHORIZATION])), body).await, 200, "the true one is taken");
}

/// What becomes of a packet that no client sends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// `chat:error`, or an acknowledgement that says no: the socket goes on.
    Refused,
    /// Nothing is said of it.
    Ignored,
    /// The connection ends.
    Ends,
}

#[tokio::test]
async fn packets_that_no_client_sends_are_refused_or_end_their_socket_and_touch_no_other() {
    let product = Product::start("packets", json!({})).await;
    let room = product.go_live("ana").await["roomName"].as_str().expect("it is told").to_owned();
    let witness = user(&product, &room, &token("witness")).await;
    let namespace = format!("/live:{room}");
    let nested = format!("42{namespace},[\"chat:message\",{}{}]", "[".repeat(7_000), "]".repeat(7_000));
    let packets = [
        (nested, Fate::Refused),
        (format!("42{namespace},"), Fate::Ends),
        (format!("42{namespace},[]"), Fate::Ends),
        (format!("42{namespace},[7,8]"), Fate::Ends),
        (format!("42{namespace},99999999999999999999999[\"chat:message\",{{\"text\":7}}]"), Fate::Refused),
        (format!("42{namespace},[\"chat:message\",{{\"text\":{}}}]", json!("\u{0}\u{202e}")), Fate::Refused),
        ("4".into(), Fate::Ends),
        ("49".into(), Fate::Ends),
        ("9".into(), Fate::Ends),
        ("é".into(), Fate::Ends),
        ("42/€,[\"x\"]".into(), Fate::Ignored),
        (format!("451-{namespace},[\"chat:message\",{{\"_placeholder\":true,\"num\":0}}]"), Fate::Ends),
        (format!("45999999999-{namespace},[\"chat:message\"]"), Fate::Ends),
        (format!("42{namespace},[\"chat:message\",{{\"text\":\"{}\"}}]", "x".repeat(300_000)), Fate::Ends),
    ];
    let mut other = Vec::new();
    for (packet, expected) in &packets {
        let socket = user(&product, &room, &token("mallory")).await;
        socket.send(packet);
        let fate = match expected {
            // At times only after what is sent behind it was answered.
            Fate::Ends => {
                socket.ended().await;
                Fate::Ends
            }
            Fate::Refused | Fate::Ignored => fate(&socket).await,
        };
        if fate != *expected {
            other.push(format!("{packet:.60}: {fate:?}, not {expected:?}"));
        }
    }
    assert!(other.is_empty(), "{}", other.join("\n"));
    assert!(!witness.is_over());

    let ack = witness.ask("chat:message", json!({ "text": "still here" })).await.expect("it is answered");
    assert_eq!((&ack["ok"], &ack["seq"]), (&json!(true), &json!(1)), "nothing of it was said");
    assert!(product.is_ready().await);
}

/// What became of what the socket sent last: a question behind it is answered in its turn.
async fn fate(socket: &Socket) -> Fate {
    let Ok(behind) = socket.ask("reaction", json!("no emoji")).await else { return Fate::Ends };
    assert_eq!(behind["ok"], false, "{behind}");
    let refused = |said: &Said| match said {
        Said::Event { name, .. } => name == "chat:error",
        Said::Ack { id, payload } => *id != 0 && payload[0]["ok"] == json!(false),
        Said::Connected | Said::Refused(_) | Said::Disconnected | Said::Closed => false,
    };
    if socket.all().iter().any(refused) { Fate::Refused } else { Fate::Ignored }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_guessed_namespaces_are_refused_and_leave_nothing_behind() {
    let product = Product::start("guesses", json!({ "chat": { "max_connections_per_ip": 0 } })).await;
    let room = product.go_live("ana").await["roomName"].as_str().expect("it is told").to_owned();
    guesses(&product, "warm-up", 5_000).await;
    let before = product.resident_kib();
    guesses(&product, "guess", 10_000).await;
    let grown = product.resident_kib().saturating_sub(before);

    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more");
    user(&product, &room, &token("bob")).await;
    eventually("connections without a room end", async || {
        (product.metric("onair_chat_connections", "").await <= 1.0).then_some(())
    })
    .await;
}

/// Ten to a connection.
async fn guesses(product: &Product, prefix: &str, count: usize) {
    let guess = async |number: usize| {
        let rooms: Vec<String> = (0..10).map(|turn| format!("{prefix}_{number}_{turn}")).collect();
        let refusals = crate::socket::guess(product, &rooms).await;
        assert_eq!(refusals, vec![r#"{"message":"Invalid namespace"}"#; 10]);
    };
    stream::iter(0..count / 10).map(guess).buffer_unordered(16).collect::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sockets_of_one_address_do_not_get_in() {
    let product = Product::start("crowd", json!({ "chat": { "max_connections_per_ip": 50 } })).await;
    let room = product.go_live("ana").await["roomName"].as_str().expect("it is told").to_owned();
    let connect = async |_| Socket::connect(&product, &room, Value::Null).await;
    let tried: Vec<_> = stream::iter(0..1_000).map(connect).buffer_unordered(100).collect().await;
    let inside = tried.iter().filter(|socket| socket.is_ok()).count();

    assert_eq!(inside, 50);
    assert!(product.metric("onair_chat_turned_away_total", "door").await >= 900.0, "the others are counted");
    drop(tried);
    eventually("there is room again", async || Socket::connect(&product, &room, Value::Null).await.ok()).await;
}

#[test]
fn the_forged_tokens_are_well_formed() {
    let header = jsonwebtoken::decode_header(forged(&json!({ "alg": "RS256" }), &json!({})));
    assert_eq!(header.expect("it is read"), Header { typ: None, ..Header::new(Algorithm::RS256) });
}

/// A process that starts reads live streams alone: it knows nothing of the one that the ban has ended.
#[tokio::test]
async fn a_banned_owners_old_token_opens_no_room_after_a_restart() {
    let mut product = Product::start("old-token", json!({})).await;
    let token = product.go_live("ana").await["token"].as_str().expect("it is told").to_owned();
    let knock = async |product: &Product| {
        let url = format!("{}/rtc/validate?access_token={token}", product.ports.url());
        product.http().get(url).send().await.expect("it answers").status()
    };
    assert_eq!(knock(&product).await, StatusCode::OK);
    let ban = json!({ "reason": "spam" });
    product.call(Method::PUT, "/admin/users/ana/ban", Some(&admin("root")), Some(ban)).await.expect(200);
    assert_eq!(knock(&product).await, StatusCode::FORBIDDEN);
    product.kill();
    product.start_again().await;

    // So soon after its start it could be another node's, so 503 says the same for a few seconds.
    let status = knock(&product).await;
    assert!([StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE].contains(&status), "{status}");
}
