//! What an operator reads: a line for each thing that the product's description lists, in either form of the log.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::kept::Kept;
use crate::product::{API_KEY, API_SECRET, Answer, JWT_SECRET, Product, admin, eventually, signed_with, token};
use crate::script::Script;
use crate::socket::Socket;

/// A line of the log.
type Line = Map<String, Value>;

/// All lines so far, which are JSON objects from the first to the last.
fn lines(product: &Product) -> Vec<Line> {
    let log = product.whole_log();
    // The last one may be half written.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let read =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON object: {line}: {error}"));
    whole.lines().map(read).collect()
}

/// Waits for a line with that message, and these texts in its fields.
async fn says(product: &Product, message: &str, fields: &[(&str, &str)]) -> Line {
    let fits = |line: &Line| {
        line["message"] == message && fields.iter().all(|(name, text)| line.get(*name).is_some_and(|it| it == text))
    };
    eventually(&format!("{message} {fields:?}"), async || lines(product).into_iter().find(fits)).await
}

fn has(line: &Line, names: &[&str]) {
    for name in names {
        assert!(line.contains_key(*name), "{name} is not in {line:?}");
    }
}

/// Calls LiveKit's server API.
async fn administer(product: &Product, method: &str, body: Value) -> Answer {
    let video = json!({ "roomCreate": true, "roomAdmin": true, "room": body["room"] });
    let claims = json!({ "iss": API_KEY, "exp": crate::product::now() + 60, "video": video });
    let token = signed_with(jsonwebtoken::Algorithm::HS256, API_SECRET, &claims);
    let url = format!("{}/twirp/livekit.RoomService/{method}", product.ports.url());
    let request = product.http().post(url).bearer_auth(token).header("content-type", "application/json");
    crate::product::answer(request.body(body.to_string()).send().await.expect("it answers")).await.expect("it is read")
}

/// [S] Stream start and stop, participants joining and leaving, webhooks, authentication failures, admin acts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_of_the_description_is_a_line_with_who_stream_room_and_address() {
    let ports = crate::product::Ports::free();
    // It tells itself what happens in its rooms, so that webhooks go out and come in.
    let hook = format!("{}/api/webhooks/livekit", ports.url());
    let config = json!({ "logging": { "json": true }, "webhook": { "api_key": API_KEY, "urls": [hook] } });
    let mut product = Product::start_on(ports, "logs", config).await;
    let script = Script::python("product_publish.py", &[]);
    let script = script.with("PRODUCT_URL", &product.ports.url()).with("PRODUCT_JWT_SECRET", JWT_SECRET);
    script.passes_on(&mut product);

    let listening = says(&product, "listening", &[("level", "INFO")]).await;
    assert!(listening["http"].as_str().is_some_and(|http| http.contains(&product.ports.http.to_string())));
    let started = says(&product, "stream started", &[("owner", "ana"), ("address", "127.0.0.1")]).await;
    has(&started, &["stream", "room", "request_id"]);
    let text = |name: &str| started[name].as_str().expect("it is a text");
    let (stream, room) = (("stream", text("stream")), ("room", text("room")));
    for message in ["participant joined", "participant left"] {
        let line = says(&product, message, &[("participant", "ana"), ("address", "127.0.0.1"), stream, room]).await;
        has(&line, &["sid"]);
    }
    let left = says(&product, "participant left", &[stream]).await;
    has(&left, &["reason", "seconds"]);
    says(&product, "stream ended", &[stream, room, ("owner", "ana"), ("reason", "ended_by_admin")]).await;
    let ended = [("action", "stream.end"), ("actor", "root"), ("address", "127.0.0.1"), stream];
    says(&product, "moderated", &ended).await;
    for message in ["webhook delivered", "webhook received"] {
        says(&product, message, &[("event", "participant_joined"), room]).await;
    }

    product
        .call(Method::PUT, "/admin/users/mallory/ban", Some(&admin("root")), Some(json!({ "reason": "spam" })))
        .await;
    says(&product, "moderated", &[("action", "user.ban"), ("actor", "root"), ("target", "mallory")]).await;
    administer(&product, "CreateRoom", json!({ "name": "lobby" })).await.expect(200);
    administer(&product, "DeleteRoom", json!({ "room": "lobby" })).await.expect(200);
    let administered = [("action", "DeleteRoom"), ("actor", API_KEY), ("room", "lobby"), ("address", "127.0.0.1")];
    says(&product, "room administered", &administered).await;

    for line in lines(&product) {
        has(&line, &["timestamp", "level", "logger", "message"]);
        assert!(line.values().all(|value| !value.is_object() && !value.is_array()), "not flat: {line:?}");
        assert!(!line.values().any(|value| value.as_str().is_some_and(|text| text.contains("Some("))), "{line:?}");
    }
}

/// [S] Authentication failures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_authentication_failure_is_a_line_with_its_reason_and_never_the_token() {
    let product = Product::start("auth-logs", json!({ "logging": { "json": true } })).await;
    let forged =
        signed_with(jsonwebtoken::Algorithm::HS256, "not-the-secret-0123456789-0123456789", &json!({ "sub": "eve" }));
    let live = product.go_live("ana").await;
    let room = live["roomName"].as_str().expect("it is told");

    product.get("/live/mine", Some(&forged)).await.refused(401, "unauthenticated");
    product.get("/live/mine", None).await.refused(401, "unauthenticated");
    let url = product.ports.url();
    let signal =
        product.http().get(format!("{url}/rtc/validate?access_token={forged}")).send().await.expect("it answers");
    assert_eq!(signal.status(), 401);
    let hook = product.http().post(format!("{url}/api/webhooks/livekit")).header("authorization", &forged);
    let hook = hook.header("content-type", "application/webhook+json").body("{}").send().await.expect("it answers");
    assert_eq!(hook.status(), 401);
    assert!(Socket::connect(&product, room, json!({ "token": forged })).await.is_err());

    let address = ("address", "127.0.0.1");
    for fields in
        [[("path", "/api/live/mine"), address], [("path", "/rtc/validate"), address], [("of", "webhook"), address]]
    {
        has(&says(&product, "authentication failed", &fields).await, &["reason"]);
    }
    says(&product, "authentication failed", &[("reason", "there is no token")]).await;
    let chat = format!("/live:{room}");
    let of_chat = [("chat", chat.as_str()), ("reason", "wrong_signature"), address];
    has(&says(&product, "authentication failed", &of_chat).await, &["stream"]);
    let lines = lines(&product);
    let is_told = |line: &&Line| line.get("reason").is_some_and(|reason| reason == "wrong_signature");
    let told = lines.iter().filter(is_told).filter(|line| !line.contains_key("path"));
    assert_eq!(told.count(), 1, "a token is refused in one line");
    let (log, parts) = (product.whole_log(), forged.split('.').collect::<BTreeSet<_>>());
    assert!(parts.iter().all(|part| !log.contains(part)), "a part of a token is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_tokens_does_not_flood_the_log() {
    let product = Product::start("flood-logs", json!({ "logging": { "json": true } })).await;
    let failures = || lines(&product).iter().filter(|line| line["message"] == "authentication failed").count();
    let begin = std::time::Instant::now();
    for _ in 0..500 {
        product.get("/live/mine", Some("no.good.token")).await.refused(401, "unauthenticated");
    }

    let granted = 20 + begin.elapsed().as_secs() as usize + 1;
    assert!((1..=granted).contains(&failures()), "{} lines", failures());
}

/// The library that speaks Socket.IO logs each refusal that finds no place in the queue to its client, as an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_knocks_at_thousands_of_chats_does_not_flood_the_log() {
    let product = Product::start("flood-chats", json!({ "logging": { "json": true } })).await;
    let errors = || lines(&product).iter().filter(|line| line["level"] == "ERROR").count();
    let url = format!("{}/socket.io/?EIO=4&transport=polling", product.ports.url());
    let begin = std::time::Instant::now();
    for _ in 0..3 {
        let opened = product.http().get(&url).send().await.expect("it answers").text().await.expect("it is text");
        let opened: Value = serde_json::from_str(&opened[1..]).expect("it is JSON");
        let packets = "40/live:x,\u{1e}".repeat(3_000) + "2";
        let session = format!("{url}&sid={}", opened["sid"].as_str().expect("it is told"));
        product.http().post(session).body(packets).send().await.expect("it answers");
    }
    product.get("/live/mine", Some("no.good.token")).await.refused(401, "unauthenticated");
    says(&product, "authentication failed", &[]).await;

    let granted = 20 + begin.elapsed().as_secs() as usize + 1;
    assert!((1..=granted).contains(&errors()), "{} lines", errors());
}

/// Whoever holds a token can be refused as often as they like; what happened, at level `info`, is told each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_again_and_again_at_one_place_does_not_flood_the_log() {
    let config = json!({ "logging": { "json": true, "level": "debug" } });
    let product = Product::start("flood-refusals", config).await;
    let begin = std::time::Instant::now();
    let refused = async || {
        product.get("/live/0123456789abcdef01234567", Some(&token("ana"))).await.refused(404, "stream_not_found");
    };
    for number in 0..250 {
        refused().await;
        if number < 30 {
            administer(&product, "CreateRoom", json!({ "name": format!("room-{number}") })).await.expect(200);
        }
    }
    let granted = 20 + begin.elapsed().as_secs() as usize + 1;
    let count = |message: &str| lines(&product).iter().filter(|line| line["message"] == message).count();
    eventually("all rooms are told of", async || (count("room started") == 30).then_some(())).await;
    assert!((1..=granted).contains(&count("refused")), "{} lines", count("refused"));
    eventually("a later line says how many are missing", async || {
        refused().await;
        let left_out =
            lines(&product).into_iter().find(|line| line["message"] == "lines like the next one were left out")?;
        (left_out["of"] == "control::http::envelope" && left_out["left_out"].as_u64() > Some(100)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_left_out_where_they_are_not_wanted() {
    for json in [true, false] {
        let config = json!({ "logging": { "json": json, "addresses": false } });
        let product = Product::start(&format!("private-log-{json}"), config).await;
        product.go_live("ana").await;
        product.get("/live/mine", Some("no.good.token")).await.refused(401, "unauthenticated");
        eventually("both are logged", async || {
            let log = product.whole_log();
            (log.contains("stream started") && log.contains("authentication failed")).then_some(())
        })
        .await;

        assert!(!product.whole_log().contains("address"), "{}", product.whole_log());
    }
}

/// Lines are read by people and programs alike; clients must not be able to make up one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_can_forge_no_line() {
    let product = Kept::Embedded.product("forged-lines", json!({})).await;
    let identity = "eve\n2001-01-01T00:00:00Z  INFO control: stream ended";
    administer(&product, "CreateRoom", json!({ "name": identity })).await.expect(200);
    product.get("/live/mine", Some(&token("eve"))).await.expect(200);

    eventually("the room is logged", async || product.whole_log().contains("room started").then_some(())).await;
    assert!(!product.whole_log().lines().any(|line| line.starts_with("2001-01-01")), "{}", product.whole_log());
}
