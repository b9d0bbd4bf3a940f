//! Section 1: what all routes have in common.

use std::future::ready;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::{World, eventually, in_seconds, send, token};
use control::http::Phase;
use control::store::{SharedStore, StoreError};
use sfu::certificate::Certificate;
use sfu::command::{ChannelOpener, Command, Event, RoomId, TransportId};
use sfu::engine::EngineConfig;
use sfu::io::{UdpPorts, WorkerHandle, Workers};

/// [S] The base path is `/api`, bodies are JSON in camelCase.
pub async fn answers_are_json_in_camel_case(store: SharedStore) {
    let world = World::new(store).await;
    let started = world.post("/api/live/start", "u1", json!({ "title": "T", "coverUrl": "https://a.example/" })).await;

    assert_eq!(started.header("content-type"), Some("application/json"));
    let id = started.expect(201)["streamId"].clone();
    let stream = world.get(&format!("/api/live/{}", id.as_str().unwrap()), "").await.expect(200);
    assert_eq!(stream["coverUrl"], "https://a.example/");
    assert_eq!(stream["isLive"], true);
}

/// Rule 2: times are RFC 3339 in UTC with milliseconds; what is absent is left out.
pub async fn times_have_milliseconds_and_what_is_absent_is_left_out(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    let stream = world.get(&format!("/api/live/{id}"), "").await.expect(200);

    for name in ["startedAt", "createdAt", "updatedAt"] {
        let time = stream[name].as_str().unwrap();
        assert!(time.len() == 24 && time.as_bytes()[19] == b'.' && time.ends_with('Z'), "{name}: {time}");
    }
    let absent = ["title", "coverUrl", "endedAt", "endReason", "scheduledFor", "durationSeconds"];
    assert!(absent.iter().all(|name| stream.get(name).is_none()), "{stream}");
}

/// Rule 3: a typo never passes silently, in whichever body.
pub async fn an_unknown_field_is_refused(store: SharedStore) {
    let world = World::with(store, |settings| settings.development = true).await;
    let id = world.start("u1").await;
    let reports = format!("/api/live/{id}/reports");
    let filed = world.post(&reports, "u2", json!({ "reason": "spam" })).await.expect(202);
    let review = format!("/api/admin/reports/{}", filed["reportId"].as_str().unwrap());

    for (method, path, user, mut body) in [
        ("POST", "/api/live/start".to_owned(), "u1", json!({ "title": "T" })),
        ("POST", "/api/live/stop".to_owned(), "u1", json!({ "streamId": id })),
        ("POST", format!("/api/live/{id}/end"), "admin", json!({ "reason": "rude" })),
        ("PATCH", format!("/api/live/{id}"), "u1", json!({ "title": "T" })),
        ("POST", "/api/live/scheduled".to_owned(), "u1", json!({ "title": "T", "scheduledFor": in_seconds(3600) })),
        ("PUT", format!("/api/live/{id}/blocks/bad"), "u1", json!({ "reason": "rude" })),
        ("PUT", "/api/me/blocks/bad".to_owned(), "u1", json!({ "reason": "rude" })),
        ("POST", reports, "u3", json!({ "reason": "spam" })),
        ("PATCH", review, "admin", json!({ "status": "resolved" })),
        ("PUT", "/api/admin/users/bad/ban".to_owned(), "admin", json!({ "reason": "rude" })),
        ("POST", "/api/dev/token".to_owned(), "", json!({ "userId": "u1" })),
    ] {
        body["titel"] = json!("typo");
        let answer = world.call(method, &path, user, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "malformed_body"), "{method} {path}");
    }
}

/// Rule 3: what is not JSON, or of the wrong types, is refused whatever it is.
pub async fn what_is_no_json_is_refused(store: SharedStore) {
    let world = World::new(store).await;
    let deep = "[".repeat(10_000);
    for body in ["{", "[]", "[\"title\"]", "7", "\"x\"", "{\"title\": 7}", "{\"tags\": \"a\"}", "\u{0}", deep.as_str()]
    {
        let request = world.request("POST", "/api/live/start").bearer_auth(token("u1"));
        let answer = send(request.header("content-type", "application/json").body(body.to_owned())).await;
        answer.refused(400, "malformed_body");
    }
}

/// Rule 3: at most 64 KiB, with and without a declared length.
pub async fn a_large_body_is_refused(store: SharedStore) {
    let world = World::new(store).await;
    let body = |bytes: usize| format!("{{{}}}", " ".repeat(bytes - 2));
    let start = async |body: String| {
        let request = world.request("POST", "/api/live/start").bearer_auth(token("u1"));
        send(request.header("content-type", "application/json").body(body)).await
    };

    start(body(65_536)).await.expect(201);
    start(body(65_537)).await.refused(413, "body_too_large");
    assert_eq!(start_in_a_chunk(&world, &body(65_536)).await, "HTTP/1.1 200");
    assert_eq!(start_in_a_chunk(&world, &body(65_537)).await, "HTTP/1.1 413");
}

/// The status of a start by `u1` whose body does not say how long it will be.
async fn start_in_a_chunk(world: &World, body: &str) -> String {
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let request = format!(
        "POST /api/live/start HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        token("u1"),
        body.len(),
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    socket.read_exact(&mut status).await.unwrap();
    String::from_utf8_lossy(&status).into_owned()
}

/// Rule 3: JSON says that it is JSON.
pub async fn another_media_type_is_refused(store: SharedStore) {
    let world = World::new(store).await;
    let request = || world.request("POST", "/api/live/start").bearer_auth(token("u1")).body("{}");

    send(request()).await.refused(415, "unsupported_media_type");
    send(request().header("content-type", "text/plain")).await.refused(415, "unsupported_media_type");
    send(request().header("content-type", "application/json; charset=utf-8")).await.expect(201);
}

/// Rule 4: a malformed id is not found, and is never an error of ours.
pub async fn a_malformed_stream_id_is_not_found(store: SharedStore) {
    let world = World::new(store).await;
    for id in ["x", "6B02AAAAAAAAAAAAAAAAAAAA", "6b02", "%00", "%ff%fe", "..%2f..", &"a".repeat(5_000)] {
        let answer = world.get(&format!("/api/live/{id}"), "").await;
        assert_eq!(answer.status, 404, "{id}: {answer:?}");
        let answer = world.get(&format!("/api/live/{id}/watch"), "u1").await;
        assert_eq!(answer.status, 404, "{id}: {answer:?}");
    }
    world.get("/api/live/000000000000000000000000", "").await.refused(404, "stream_not_found");
}

/// Rule 7: every answer has a request id; a proper one of the client is taken over.
pub async fn every_answer_has_a_request_id(store: SharedStore) {
    let world = World::new(store).await;
    for path in ["/api/live/active", "/api/live/x", "/api/nothing", "/healthz", "/openapi.json", "/api/live/mine"] {
        let own = send(world.request("GET", path)).await;
        assert_eq!(own.header("x-request-id").map(str::len), Some(26), "{path}");
        let taken = send(world.request("GET", path).header("x-request-id", "client-id-1")).await;
        assert_eq!(taken.header("x-request-id"), Some("client-id-1"), "{path}");
        let improper = send(world.request("GET", path).header("x-request-id", "a b")).await;
        assert_ne!(improper.header("x-request-id"), Some("a b"), "{path}");
    }
}

/// Rule 8: caches keep nothing but the list of live streams and the settings.
pub async fn caches_keep_nothing_but_two_answers(store: SharedStore) {
    let world = World::new(store).await;
    for (path, control) in [
        ("/api/live/active", "public, max-age=2"),
        ("/api/config", "public, max-age=60"),
        ("/api/live/000000000000000000000000", "no-store"),
        ("/api/live/scheduled", "no-store"),
        ("/api/live/mine", "no-store"),
        ("/openapi.json", "no-store"),
        ("/docs/", "no-store"),
        ("/docs/swagger-ui.css", "no-store"),
    ] {
        assert_eq!(world.get(path, "").await.header("cache-control"), Some(control), "{path}");
    }
    // Least of all answers that hold a token, or are somebody's own.
    let started = world.post("/api/live/start", "u1", json!({})).await;
    let watch = format!("/api/live/{}/watch", started.expect(201)["streamId"].as_str().unwrap());
    for answer in [started, world.get(&watch, "u2").await, world.get("/api/live/mine", "u1").await] {
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    }
    let own_list = world.get("/api/live/active", "u2").await;
    assert_eq!(own_list.header("cache-control"), Some("private, no-cache"));
}

/// Rule 9: pages of listed origins may call, others not.
pub async fn only_listed_origins_may_call_from_a_page(store: SharedStore) {
    let world =
        World::with(store, |settings| settings.http.cors_origins = vec!["https://app.example".to_owned()]).await;
    let allowed = async |origin: &str, method: &str| {
        let mut request = world.request(method, "/api/live/start").header("origin", origin);
        if method == "OPTIONS" {
            request = request.header("access-control-request-method", "POST");
            request = request.header("access-control-request-headers", "authorization,content-type,idempotency-key");
        }
        send(request).await.header("access-control-allow-origin").map(str::to_owned)
    };

    for method in ["OPTIONS", "POST"] {
        assert_eq!(allowed("https://app.example", method).await.as_deref(), Some("https://app.example"), "{method}");
        assert_eq!(allowed("https://evil.example", method).await, None, "{method}");
    }
}

/// Rule 9: the same origin is the same however it is written, in the list and by the page.
pub async fn an_origin_has_one_reading(store: SharedStore) {
    let list = ["https://App.example:443/", "https://*.shop.example", "capacitor://localhost"];
    let world = World::with(store, |settings| settings.http.cors_origins = list.map(str::to_owned).to_vec()).await;

    for (origin, is_allowed) in [
        ("https://app.example", true),
        ("https://eu.shop.example", true),
        ("capacitor://localhost", true),
        ("http://app.example", false),
        ("https://shop.example", false),
        ("http://localhost:3000", false),
        ("null", false),
    ] {
        for method in ["OPTIONS", "POST"] {
            let request = world.request(method, "/api/live/start").header("origin", origin);
            let answer = send(request.header("access-control-request-method", "POST")).await;
            let expected = is_allowed.then_some(origin);
            assert_eq!(answer.header("access-control-allow-origin"), expected, "{method} {origin}");
        }
    }
}

/// Rule 9: without a list, only this server's own pages may.
pub async fn without_a_list_no_other_origin_may_call(store: SharedStore) {
    let world = World::new(store).await;

    let answer = send(world.request("GET", "/api/config").header("origin", "https://app.example")).await;

    assert_eq!(answer.header("access-control-allow-origin"), None);
}

/// Rule 10: each user has a bucket of its own.
pub async fn a_user_who_calls_too_often_is_told_to_wait(store: SharedStore) {
    let world = World::with(store, |settings| settings.http.calls_per_minute = 3).await;
    for _ in 0..3 {
        world.get("/api/live/mine", "u1").await.expect(200);
    }

    let refused = world.get("/api/live/mine", "u1").await;

    refused.refused(429, "rate_limited");
    let millis = refused.json()["retryAfterMs"].as_u64().unwrap();
    assert!((1_001..=20_000).contains(&millis), "three a minute, one in twenty seconds: {millis}");
    assert_eq!(refused.header("retry-after"), Some(millis.div_ceil(1000).to_string().as_str()));
    world.get("/api/live/mine", "u2").await.expect(200);
    world.get("/api/live/active", "").await.expect(200);
}

/// Rule 10: who is signed in has one bucket wherever the calls come from, and takes nothing from others at that
/// address.
pub async fn users_and_addresses_have_buckets_of_their_own(store: SharedStore) {
    let world = World::with(store, |settings| {
        settings.http.calls_per_minute = 2;
        settings.http.anonymous_calls_per_minute = 2;
    })
    .await;
    let calls = async |user: &str, addresses: [&str; 3]| {
        let mut statuses = Vec::new();
        for address in addresses {
            let mut request = world.request("GET", "/api/live/active").header("x-forwarded-for", address);
            if !user.is_empty() {
                request = request.bearer_auth(token(user));
            }
            statuses.push(send(request).await.status);
        }
        statuses
    };

    assert_eq!(calls("u1", ["198.51.100.1", "198.51.100.2", "198.51.100.3"]).await, [200, 200, 429]);
    assert_eq!(calls("", ["198.51.100.1"; 3]).await, [200, 200, 429]);
    assert_eq!(calls("u2", ["198.51.100.1"; 3]).await, [200, 200, 429]);
}

/// Rule 10: strangers share the bucket of their address, which only a trusted proxy may tell.
pub async fn an_address_is_believed_of_a_trusted_proxy_only(store: SharedStore) {
    let call = async |world: &World, from: &str| {
        send(world.request("GET", "/api/live/active").header("x-forwarded-for", from)).await.status
    };
    let strangers = World::with(store.clone(), |settings| {
        settings.http.anonymous_calls_per_minute = 1;
        settings.http.trusted_proxies = Vec::new();
    })
    .await;
    assert_eq!(call(&strangers, "198.51.100.1").await, 200);
    assert_eq!(call(&strangers, "198.51.100.2").await, 429);

    // Proxies on this machine are trusted by default.
    let behind_proxy = World::with(store, |settings| settings.http.anonymous_calls_per_minute = 1).await;
    assert_eq!(call(&behind_proxy, "198.51.100.1").await, 200);
    assert_eq!(call(&behind_proxy, "198.51.100.1").await, 429);
    assert_eq!(call(&behind_proxy, "198.51.100.2").await, 200);
    assert_eq!(call(&behind_proxy, "2001:db8:0:1::1").await, 200);
    assert_eq!(call(&behind_proxy, "2001:db8:0:1:ffff::2").await, 429);
}

/// Section 4: behind a proxy that speaks TLS, apps are told of the proxy, in whichever form it says how it was called.
pub async fn a_stream_is_reached_by_the_address_that_the_client_called(store: SharedStore) {
    let world = World::new(store).await;
    for (number, headers) in [
        &[("host", "live.example"), ("x-forwarded-for", "198.51.100.1"), ("x-forwarded-proto", "https")][..],
        &[("x-forwarded-host", "live.example"), ("x-forwarded-port", "443"), ("x-forwarded-proto", "https")],
        &[("forwarded", "for=\"[2001:db8::7]:4711\";proto=https;host=live.example:443")],
    ]
    .into_iter()
    .enumerate()
    {
        let mut request = world.request("POST", "/api/live/start").bearer_auth(token(&format!("u{number}")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let started = send(request.header("content-type", "application/json").body("{}")).await.expect(201);

        assert_eq!(started["url"], "wss://live.example", "{headers:?}");
    }
}

/// Section 1.1: the form of a refusal.
pub async fn a_refusal_is_problem_details(store: SharedStore) {
    let world = World::new(store).await;

    let refused = send(world.request("GET", "/api/live/mine").header("x-request-id", "request-1")).await;

    refused.refused(401, "unauthenticated");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    let body = refused.json();
    let detail = body["detail"].clone();
    assert_eq!(
        body,
        json!({ "type": "/problems/unauthenticated", "title": "Unauthorized", "status": 401,
            "code": "unauthenticated", "detail": detail, "requestId": "request-1" })
    );
}

/// Section 1.1: also what no route takes.
pub async fn unknown_addresses_and_methods_are_refused_in_the_same_form(store: SharedStore) {
    let world = World::new(store).await;

    for path in ["/api", "/api/", "/api/nothing", "/api/live/active/x/y", "/api/me", "/api/dev/token"] {
        world.get(path, "").await.refused(404, "not_found");
    }
    let refused = world.delete("/api/live/active", "u1").await;
    refused.refused(405, "method_not_allowed");
    assert!(refused.header("allow").unwrap().contains("GET"));
}

/// Section 1.1: while the server has not read its store, everything waits; while it stops, nothing new begins.
pub async fn a_server_that_starts_or_stops_says_so(store: SharedStore) {
    let world = World::new(store).await;

    world.phase.send_replace(Phase::Starting);
    for path in ["/api/live/active", "/readyz"] {
        let refused = world.get(path, "").await;
        refused.refused(503, "store_unavailable");
        assert_eq!(refused.retry_after_ms(), 2_000);
    }
    assert_eq!(world.get("/healthz", "").await.expect(200), json!({ "status": "ok" }));
    world.get("/api/config", "").await.expect(200);

    world.phase.send_replace(Phase::Draining);
    let soon = json!({ "title": "T", "scheduledFor": in_seconds(3600) });
    for refused in [
        world.post("/api/live/start", "u1", json!({})).await,
        world.post("/api/live/scheduled", "u1", soon).await,
        world.get("/readyz", "").await,
    ] {
        refused.refused(503, "shutting_down");
        assert_eq!(refused.retry_after_ms(), 5_000);
    }
    world.get("/api/live/active", "").await.expect(200);
    assert_eq!(world.get("/healthz", "").await.expect(200), json!({ "status": "ok" }));

    world.phase.send_replace(Phase::Serving);
    assert_eq!(world.get("/readyz", "").await.expect(200), json!({ "status": "ready", "store": "available" }));
}

/// Sections 1.1 and 15: a node without its store asks to be left alone when its counts may be wrong for longer than
/// half a minute.
pub async fn a_store_that_is_away_for_half_a_minute_makes_the_server_unready(store: SharedStore) {
    let world = World::new(store).await;
    let away = |seconds| {
        let error = Err(StoreError::Unavailable("away".into()));
        world.store_health.note(error, Instant::now() - Duration::from_secs(seconds));
    };

    away(0);
    let answer = world.get("/readyz", "").await.expect(200);
    assert_eq!(answer, json!({ "status": "ready", "store": "unavailable" }));

    world.store_health.note(Ok(()), Instant::now());
    away(31);
    let refused = world.get("/readyz", "").await;
    refused.refused(503, "store_unavailable");
    assert!(refused.header("retry-after").is_some());
    world.get("/healthz", "").await.expect(200);

    world.store_health.note(Ok(()), Instant::now());
    world.get("/readyz", "").await.expect(200);
}

/// Panics once more when it is dropped, so that nothing can catch it in time.
struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        panic!("a fault that ends the thread, made by the test");
    }
}

/// Two workers, and what they do where they have something to tell.
fn workers(on_event: impl Fn(RoomId, Event) + Clone + Send + 'static) -> Workers {
    let config = sfu::io::Config {
        workers: 2,
        bind: vec![[127, 0, 0, 1].into()],
        advertise: Vec::new(),
        udp: UdpPorts::Single(0),
        tcp_port: None,
        certificate: Certificate::generate(),
        engine: EngineConfig::default(),
    };
    Workers::start(config, on_event).unwrap()
}

/// Gives a worker something to tell.
fn prompt(worker: &WorkerHandle) {
    let (transport, local, opener) = (TransportId(1), worker.new_credentials(), ChannelOpener::Client);
    worker.try_send(Command::OpenTransport { transport, room: RoomId(1), local, opener }).unwrap();
    worker.try_send(Command::ExportTransport { transport }).unwrap();
}

/// Section 1.1: a node one of whose media workers has ended asks to be left alone, whatever else is well.
pub async fn a_media_worker_that_does_not_run_makes_the_server_unready(store: SharedStore) {
    let workers = workers(|_, _| std::panic::panic_any(Fatal));
    let world = World::with(store, |settings| settings.workers = workers.handles().to_vec()).await;
    world.get("/readyz", "").await.expect(200);

    let worker = &workers.handles()[0];
    prompt(worker);
    eventually("the worker has ended", || ready(!worker.is_running())).await;

    let refused = world.get("/readyz", "").await;
    refused.refused(503, "sfu_unavailable");
    assert!(refused.json()["detail"].as_str().unwrap().contains("media worker"));
    world.get("/healthz", "").await.expect(200);
    workers.stop();
}

/// Section 1.1: what holds a media worker up, whatever it is, shows.
pub async fn a_media_worker_that_stands_still_makes_the_server_unready_meanwhile(store: SharedStore) {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let workers = workers(move |_, _| {
        // Until the sender is dropped.
        let _ = held.lock().unwrap().recv();
    });
    let world = World::with(store, |settings| settings.workers = workers.handles().to_vec()).await;
    world.get("/readyz", "").await.expect(200);

    prompt(&workers.handles()[0]);
    eventually("the server is not ready", async || world.get("/readyz", "").await.status == 503).await;
    let refused = world.get("/readyz", "").await;
    refused.refused(503, "sfu_unavailable");
    assert!(refused.json()["detail"].as_str().unwrap().contains("stood still"));

    drop(release);
    eventually("the server is ready again", async || world.get("/readyz", "").await.status == 200).await;
    workers.stop();
}

/// Section 1.1: a body that never ends is not waited for.
pub async fn a_slow_body_is_given_up(store: SharedStore) {
    let world = World::new(store).await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "POST /api/live/start HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{{",
        token("u1")
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
}

/// A body that is refused unread ends its connection, and the answer says so: else the next call on it would get lost.
pub async fn a_connection_whose_body_was_not_read_says_that_it_ends(store: SharedStore) {
    let world = World::new(store).await;
    let start = async |user: &str, kind: &'static str, body: String| {
        let request = world.request("POST", "/api/live/start").bearer_auth(user).header("content-type", kind);
        let answer = send(request.body(body)).await;
        (answer.status, answer.header("connection").map(str::to_owned))
    };
    let (large, small) = (" ".repeat(300 << 10), "{".to_owned());
    let close = Some("close".to_owned());

    assert_eq!(start(&token("u1"), "application/json", large.clone()).await, (413, close.clone()));
    assert_eq!(start(&token("u1"), "text/plain", large.clone()).await, (415, close.clone()));
    assert_eq!(start("x", "application/json", large).await, (401, close));
    for (user, status) in [(token("u1"), 400), ("x".to_owned(), 401)] {
        assert_eq!(start(&user, "application/json", small.clone()).await, (status, None));
    }
}

/// Section 1.2: pages follow each other without a row given twice, while rows come.
pub async fn pages_follow_each_other(store: SharedStore) {
    let world = World::new(store).await;
    let mut started = Vec::new();
    for n in 0..5 {
        started.push(world.start(&format!("u{n}")).await);
    }

    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world.get(&format!("/api/admin/streams?limit=2{cursor}"), "admin").await.expect(200);
        let rows = page["streams"].as_array().unwrap();
        seen.extend(rows.iter().map(|row| row["streamId"].as_str().unwrap().to_owned()));
        world.start(&format!("late{}", seen.len())).await;
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }

    started.reverse();
    assert_eq!(seen, started);
}

/// Section 1.2: limits and cursors are checked.
pub async fn bad_pages_are_refused(store: SharedStore) {
    let world = World::new(store).await;
    for path in ["/api/live/active", "/api/live/mine", "/api/live/scheduled", "/api/admin/audit"] {
        for limit in ["0", "101", "x", ""] {
            let answer = world.get(&format!("{path}?limit={limit}"), "admin").await;
            answer.refused(400, "invalid_parameter");
        }
        for cursor in ["x", "AAAA", &"a".repeat(300)] {
            world.get(&format!("{path}?cursor={cursor}"), "admin").await.refused(400, "invalid_cursor");
        }
    }
}

/// Section 1.3: the same key and body give the first answer again, another body is refused.
pub async fn a_repeated_start_with_a_key_answers_as_the_first(store: SharedStore) {
    let world = World::new(store).await;
    let start = async |key: &str, body: Value| {
        let request = world.request("POST", "/api/live/start").bearer_auth(token("u1"));
        let request = request.header("idempotency-key", key).header("content-type", "application/json");
        send(request.body(body.to_string())).await
    };

    let first = start("key-1", json!({ "title": "A", "onConflict": "reject" })).await.expect(201);
    let again = start("key-1", json!({ "onConflict": "reject", "title": "A" })).await.expect(201);
    assert_eq!(first["streamId"], again["streamId"]);
    start("key-1", json!({ "title": "B" })).await.refused(422, "idempotency_key_reused");
    start("", json!({})).await.refused(400, "invalid_parameter");
    start(&"k".repeat(65), json!({})).await.refused(400, "invalid_parameter");
    start(&"k".repeat(64), json!({})).await.expect(200);
}

/// Answers and refusals are counted.
pub async fn answers_are_counted(store: SharedStore) {
    let world = World::new(store).await;
    world.get("/api/live/000000000000000000000000", "").await.refused(404, "stream_not_found");

    let answers = world.counters.answers();
    assert!(answers.iter().any(|row| row.path == "/api/live/{id}" && row.status == 404 && row.count == 1));
    assert!(world.counters.problems().any(|(code, count)| code.name() == "stream_not_found" && count == 1));
}
