//! What went wrong once with the library, or would with careless limits: one test each, so that it stays right.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use control::chat::{Chat, ConnectRefusal, Limits, Rate, UnreadLimits};
use control::clock::Timestamp;
use control::cluster::Cluster;
use control::config::product;
use control::rooms::{RoomBackend, RoomInfo, RoomsError, Session, TokenRequest};
use control::services::{Parts, Services};
use control::store::SharedStore;
use control::store::chat::ChatRange;
use control::store::embedded::Embedded;
use control::store::stream::Stream;
use serde_json::json;

use crate::raw::{PATIENCE, Raw};
use crate::server::{Options, Server, World, obey, user_named};

/// A live stream of an owner of its own.
async fn room(server: &Server) -> (Stream, String) {
    let owner = format!("owner-{}", ulid::Ulid::generate());
    let stream = server.world.go_live(&owner).await;
    let namespace = format!("/live:{}", stream.room_name);
    (stream, namespace)
}

fn unlimited() -> Limits {
    let rate = Rate::per_second(100_000, 100_000);
    Limits { message: rate, room: rate, waiting_per_socket: 1000, ..Limits::default() }
}

fn counter(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Waits for something that follows by itself.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Memory of this process in kilobytes.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_guessed_names_leave_nothing_behind() {
    let server = Server::start(Options::default()).await;
    let (_, namespace) = room(&server).await;
    let mut raw = Raw::join(server.address, &namespace, "ana").await.unwrap();
    let mut before = 0;
    for n in 0..11_000 {
        if n == 1000 {
            before = resident_kb();
        }
        raw.enter(&format!("/live:live_guess_{n}"), "ana").await;
        let answer = raw.text().await.unwrap();
        assert!(answer.starts_with("44") && answer.contains("Invalid namespace"), "{answer}");
    }
    let grown = resident_kb().saturating_sub(before);

    assert!(grown < 8192, "{grown} kB more after 10,000 names");
    assert_eq!(counter(&server.world.chat.counters().rooms), 1);
    raw.emit(&namespace, "chat:message", &json!({ "text": "still here" })).await;
    assert_eq!(raw.event("chat:message").await.unwrap()["text"], "still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sockets_of_one_address_are_bounded() {
    let server = Server::start(Options::default()).await;
    let (_, namespace) = room(&server).await;
    let (mut joined, mut told, mut shut_out) = (Vec::new(), Vec::new(), 0);
    for n in 0..1000 {
        let Ok(mut raw) = Raw::connect(server.address).await else {
            shut_out += 1;
            continue;
        };
        raw.enter(&namespace, &format!("u{n}")).await;
        match raw.event("chat:state").await {
            Ok(_) => joined.push(raw),
            Err(refused) => {
                assert!(refused.contains("too_many_connections"), "{refused}");
                told.push(raw);
            }
        }
    }

    assert_eq!((joined.len(), told.len(), shut_out), (200, 16, 784));
    let counters = server.world.chat.counters();
    assert_eq!(counter(&counters.refused_connections), 784);
    let refused = counters.not_connected().find(|(code, _)| *code == ConnectRefusal::TooManyConnections.name());
    assert_eq!(refused, Some(("too_many_connections", 16)));
    drop((joined, told));
    until("all connections are forgotten", || counter(&counters.connections) == 0).await;
    assert_eq!(counter(&counters.sockets), 0);
    Raw::join(server.address, &namespace, "late").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_is_dropped_and_delays_nobody() {
    let limits = Limits { unsent_packets: 64, ..unlimited() };
    let options = Options { limits, unread_max: Duration::from_secs(2), ..Options::default() };
    let server = Server::start(options).await;
    let (_, namespace) = room(&server).await;
    let mut stalled = Raw::connect_with(server.address, Some(4096)).await.unwrap();
    stalled.enter(&namespace, "stalled").await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    let counters = server.world.chat.counters();
    until("both are there", || counter(&counters.sockets) == 2).await;
    let begin = Instant::now();
    let mut sent = 0;
    while counter(&counters.sockets) == 2 {
        assert!(begin.elapsed() < PATIENCE, "it is still there");
        let text = format!("{sent} {}", "é".repeat(400));
        ana.emit(&namespace, "chat:message", &json!({ "text": text })).await;
        assert_eq!(ana.event("chat:message").await.unwrap()["text"], text.as_str());
        sent += 1;
    }

    assert!(counter(&counters.deliveries_lost) > 0, "its buffer has a bound");
    until("its connection is forgotten", || counter(&counters.connections) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_ends_although_a_client_does_not_read() {
    let limits = Limits { unsent_packets: 16, ..unlimited() };
    let server = Server::start(Options { limits, ..Options::default() }).await;
    let (stream, namespace) = room(&server).await;
    let mut stalled = Raw::connect_with(server.address, Some(4096)).await.unwrap();
    stalled.enter(&namespace, "stalled").await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    let counters = server.world.chat.counters();
    for n in 0.. {
        if counter(&counters.deliveries_lost) > 0 {
            break;
        }
        assert!(n < 20_000, "nothing is lost");
        ana.emit(&namespace, "chat:message", &json!({ "text": format!("{n} {}", "é".repeat(400)) })).await;
        ana.event("chat:message").await.unwrap();
    }

    server.world.end(stream.id).await;
    assert_eq!(ana.event("stream:ended").await.unwrap()["endReason"], "stopped");
    until("nobody is left", || counter(&counters.sockets) == 0).await;
    assert_eq!(counter(&counters.rooms), 0);
}

/// A media server that notes how many rooms of the chat are open when it deletes one of its own.
struct Door {
    chat: Chat,
    open_at_deletion: Mutex<Option<u64>>,
}

#[async_trait]
impl RoomBackend for Door {
    fn token(&self, _: &TokenRequest, now: Timestamp) -> (String, Timestamp) {
        (String::new(), now)
    }

    fn url(&self, _: Option<&str>) -> Option<String> {
        None
    }

    async fn create(&self, _: &str) -> Result<String, RoomsError> {
        Err(RoomsError::NotFound)
    }

    async fn delete(&self, _: &str) -> Result<(), RoomsError> {
        *self.open_at_deletion.lock().unwrap() = Some(counter(&self.chat.counters().rooms));
        Ok(())
    }

    async fn list(&self, _: &[String]) -> Result<Vec<RoomInfo>, RoomsError> {
        Ok(Vec::new())
    }

    async fn sessions(&self, _: &str) -> Result<Vec<Session>, RoomsError> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: &str, _: &str) -> Result<(), RoomsError> {
        Err(RoomsError::NotFound)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_media_of_a_stream_ends_after_its_chat() {
    let store: SharedStore = Arc::new(Embedded::in_memory().unwrap());
    let limits = Limits { store_patience: PATIENCE, ..Limits::default() };
    let server = Server::start(Options { store: Some(Arc::clone(&store)), limits, ..Options::default() }).await;
    let (stream, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    let World { chat, cache, away, .. } = &*server.world;
    let door = Arc::new(Door { chat: chat.clone(), open_at_deletion: Mutex::default() });
    let Services { streams, .. } = Services::new(Parts {
        config: product::Live::default(),
        cluster: Cluster::new("this one".to_owned(), Arc::clone(&store)),
        store,
        cache: cache.clone(),
        rooms: Arc::clone(&door) as _,
        chat: chat.clone(),
    });
    // Brings numbers for the next one.
    ana.emit(&namespace, "chat:message", &json!({ "text": "before" })).await;
    ana.event("chat:message").await.unwrap();
    away.set_silent(true);
    ana.emit(&namespace, "chat:message", &json!({ "text": "last" })).await;
    until("the chat is held up", || away.was_asked("chat_append")).await;

    let owner = user_named(stream.owner_id.as_str(), false, Timestamp::now());
    let ended = streams.stop(&owner, Some(stream.id)).await.unwrap();
    // Time for what does not wait for the chat.
    Raw::connect(server.address).await.unwrap();
    assert_eq!(*door.open_at_deletion.lock().unwrap(), None, "the room waits");
    away.set_silent(false);

    until("the room is deleted", || door.open_at_deletion.lock().unwrap().is_some()).await;
    assert_eq!(*door.open_at_deletion.lock().unwrap(), Some(0), "rooms of the chat");
    let told = ana.event("stream:ended").await.unwrap();
    assert_eq!(told, json!({ "endReason": "stopped", "endedAt": ended.stream.ended_at }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_clients_at_once_are_all_in_one_room() {
    let server = Server::start(Options { limits: unlimited(), ..Options::default() }).await;
    for round in 0..20 {
        let (_, namespace) = room(&server).await;
        let join = |n: u32| {
            let (address, namespace) = (server.address, namespace.clone());
            async move { Raw::join(address, &namespace, &format!("u{n}")).await.unwrap() }
        };
        let mut all = futures_util::future::join_all((0..16).map(join)).await;
        all[0].emit(&namespace, "chat:message", &json!({ "text": "to all" })).await;
        for (n, raw) in all.iter_mut().enumerate() {
            assert_eq!(raw.event("chat:message").await.unwrap()["text"], "to all", "client {n} in round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_namespace_ends() {
    let limits = Limits { connect_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(Options { limits, ..Options::default() }).await;
    let mut raw = Raw::connect(server.address).await.unwrap();

    while raw.text().await.is_ok() {}
    let counters = server.world.chat.counters();
    until("it is forgotten", || counter(&counters.connections) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_answers_no_ping_is_dropped() {
    let short = Duration::from_millis(200);
    let limits = Limits { ping_interval: short, ping_timeout: short, ..Limits::default() };
    let server = Server::start(Options { limits, ..Options::default() }).await;
    let (_, namespace) = room(&server).await;
    let mut raw = Raw::connect(server.address).await.unwrap();
    raw.enter(&namespace, "ana").await;
    let counters = server.world.chat.counters();
    until("it is there", || counter(&counters.sockets) == 1).await;

    until("it is dropped", || counter(&counters.sockets) == 0).await;
    drop(raw);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_packets_harm_nobody() {
    let server = Server::start(Options::default()).await;
    let (_, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    let deep = format!("42{namespace},[\"chat:message\",{}1{}]", "[".repeat(5000), "]".repeat(5000));
    let unclosed = format!("42{namespace},[\"chat:message\",");
    let packets = [
        "",
        "4",
        "42",
        "9",
        "42,[",
        "42/live:é,[\"x\"]",
        "45-",
        "451-[\"a\",{\"_placeholder\":true,\"num\":0}]",
        "43{namespace},99999999999999999999[]",
        "40{namespace},{\"token\":",
        "1",
        "5",
        "6",
        "\u{1e}",
        &deep,
        &unclosed,
        "42999999999999999999999[\"chat:message\"]",
    ];
    for packet in packets {
        let mut bad = Raw::connect(server.address).await.unwrap();
        bad.enter(&namespace, "bad").await;
        bad.event("chat:state").await.unwrap();
        bad.send(&packet.replace("{namespace}", &namespace)).await;
        bad.emit(&namespace, "chat:message", &json!({ "text": 5 })).await;
    }

    ana.emit(&namespace, "chat:message", &json!({ "text": "unharmed" })).await;
    assert_eq!(ana.event("chat:message").await.unwrap()["text"], "unharmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_holds_the_chat_up_once() {
    let limits = Limits { store_patience: Duration::from_millis(300), ..unlimited() };
    let server = Server::start(Options { limits, ..Options::default() }).await;
    let (stream, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    ana.emit(&namespace, "chat:message", &json!({ "text": "before" })).await;
    ana.event("chat:message").await.unwrap();
    server.world.away.set_silent(true);
    for n in 0..300 {
        ana.emit(&namespace, "chat:message", &json!({ "text": format!("during {n}") })).await;
        assert_eq!(ana.event("chat:message").await.unwrap()["text"], format!("during {n}"));
    }
    let counters = server.world.chat.counters();
    assert_eq!(counter(&counters.queued), 300);

    server.world.away.set_silent(false);
    until("the store has them", || counter(&counters.queued) == 0).await;
    let stored = server.world.store.chat_messages(stream.id, ChatRange::Newest, 1000).await.unwrap();
    let seqs: Vec<_> = stored.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (seqs[0]..seqs[0] + 301).collect::<Vec<_>>());
    ana.emit(&namespace, "chat:message", &json!({ "text": "after" })).await;
    let after = ana.event("chat:message").await.unwrap();
    assert!(after["seq"].as_i64().unwrap() > seqs[300]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_connection_that_was_refused_twenty_times_no_token_is_looked_at_any_more() {
    let server = Server::start(Options::default()).await;
    let (_, namespace) = room(&server).await;
    for (refusals, answer) in [(19, "chat:state"), (20, "server_busy")] {
        let mut raw = Raw::connect(server.address).await.unwrap();
        for n in 0..refusals {
            raw.enter(&namespace, "ana:bad").await;
            assert_eq!(raw.text().await.unwrap(), format!(r#"44{namespace},{{"message":"unauthenticated"}}"#), "{n}");
        }
        raw.enter(&namespace, "ana").await;
        let told = [raw.text().await.unwrap(), if refusals < 20 { raw.text().await.unwrap() } else { String::new() }];
        assert!(told.concat().contains(answer), "{told:?}");
    }
    Raw::join(server.address, &namespace, "ana").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hears_a_message_that_is_not_kept_yet() {
    let limits = Limits { store_patience: PATIENCE, ..Limits::default() };
    let server = Server::start(Options { limits, ..Options::default() }).await;
    let (_, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    let mut ben = Raw::join(server.address, &namespace, "ben").await.unwrap();
    // Brings numbers for the next one.
    ana.emit(&namespace, "chat:message", &json!({ "text": "before" })).await;
    ben.event("chat:message").await.unwrap();
    server.world.away.set_silent(true);
    ana.emit(&namespace, "chat:message", &json!({ "text": "first kept" })).await;
    until("the store is asked to keep it", || server.world.away.was_asked("chat_append")).await;

    // Refused where events arrive, so that this answer comes after whatever was sent before.
    ben.emit(&namespace, "chat:message", &json!(5)).await;
    let next = ben.text().await.unwrap();
    assert!(next.contains("chat:error"), "{next}");
    server.world.away.set_silent(false);
    assert_eq!(ben.event("chat:message").await.unwrap()["text"], "first kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_stream_the_newest_messages_are_kept() {
    let server = Server::start(Options { limits: Limits { kept: 4, ..unlimited() }, ..Options::default() }).await;
    let (stream, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    for n in 0..10 {
        ana.emit(&namespace, "chat:message", &json!({ "text": n.to_string() })).await;
        ana.event("chat:message").await.unwrap();
    }
    server.world.end(stream.id).await;

    let begin = Instant::now();
    let kept = loop {
        let kept = server.world.store.chat_messages(stream.id, ChatRange::Newest, 100).await.unwrap();
        if kept.len() < 10 {
            break kept;
        }
        assert!(begin.elapsed() < PATIENCE, "all are kept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(kept.iter().map(|message| message.text.as_str()).collect::<Vec<_>>(), ["6", "7", "8", "9"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_sent_at_once_is_taken_whole_while_the_room_waits_for_the_store() {
    let limits = Limits { store_patience: PATIENCE, ..Limits::default() };
    let server = Server::start(Options { limits, ..Options::default() }).await;
    let (_, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    let mut ben = Raw::join(server.address, &namespace, "ben").await.unwrap();
    server.world.away.set_silent(true);
    for n in 0..5 {
        ana.emit(&namespace, "chat:message", &json!({ "text": format!("message {n}") })).await;
    }
    for _ in 0..20 {
        ana.emit(&namespace, "reaction", &json!("🔥")).await;
    }
    // Refused where events arrive, so that all before it have arrived.
    ana.emit(&namespace, "chat:message", &json!(5)).await;
    assert_eq!(ana.event("chat:error").await.unwrap()["code"], "validation_failed");
    server.world.away.set_silent(false);

    for n in 0..5 {
        assert_eq!(ana.event("chat:message").await.unwrap()["text"], format!("message {n}"));
    }
    while ben.event("reactions").await.unwrap()["totals"]["🔥"] != 20 {}
    assert_eq!(counter(&server.world.chat.counters().reactions_dropped), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_says_that_nothing_can_be_stored_and_loses_nothing_it_took() {
    let limits = Limits { queued: 10, faults: 1000, ..unlimited() };
    let server = Server::start(Options { limits, ..Options::default() }).await;
    let (stream, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    ana.emit(&namespace, "chat:message", &json!({ "text": "before" })).await;
    ana.event("chat:message").await.unwrap();
    server.world.away.set_away(true);
    for n in 0..10 {
        ana.emit(&namespace, "chat:message", &json!({ "text": n.to_string() })).await;
        ana.event("chat:message").await.unwrap();
    }
    ana.emit(&namespace, "chat:message", &json!({ "text": "too many" })).await;
    let refusal = ana.event("chat:error").await.unwrap();
    assert_eq!((&refusal["code"], &refusal["retryAfterMs"]), (&json!("store_unavailable"), &json!(2000)));

    server.world.away.set_away(false);
    let counters = server.world.chat.counters();
    until("the store has them", || counter(&counters.queued) == 0).await;
    ana.emit(&namespace, "chat:message", &json!({ "text": "too many" })).await;
    ana.event("chat:message").await.unwrap();
    let stored = server.world.store.chat_messages(stream.id, ChatRange::Newest, 100).await.unwrap();
    assert_eq!(stored.len(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_waited_are_stored_by_the_next_process() {
    let store: SharedStore = Arc::new(Embedded::in_memory().unwrap());
    let directory = std::env::temp_dir().join(format!("onair-chat-{}", ulid::Ulid::generate()));
    let options = || Options {
        store: Some(Arc::clone(&store)),
        shared: true,
        directory: Some(directory.clone()),
        limits: unlimited(),
        ..Options::default()
    };
    let server = Server::start(options()).await;
    let (stream, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    ana.emit(&namespace, "chat:message", &json!({ "text": "before" })).await;
    ana.event("chat:message").await.unwrap();
    server.world.away.set_away(true);
    // More than are stored at once, so that the last of them still wait when the next process reads the history.
    const MESSAGES: usize = 900;
    let mut seqs = Vec::new();
    for n in 0..MESSAGES {
        ana.emit(&namespace, "chat:message", &json!({ "text": format!("during {n}") })).await;
        seqs.push(ana.event("chat:message").await.unwrap()["seq"].as_i64().unwrap());
    }
    drop((ana, server));

    let server = Server::start(options()).await;
    server.world.observe(stream.clone());
    let mut ana = Raw::connect(server.address).await.unwrap();
    ana.send(&format!(r#"40{namespace},{{"token":"ana","lastSeq":{}}}"#, seqs[MESSAGES - 100])).await;
    let state = ana.event("chat:state").await.unwrap();
    let history: Vec<_> = state["history"].as_array().unwrap().iter().map(|message| &message["seq"]).collect();
    assert_eq!(history, seqs[MESSAGES - 99..].iter().collect::<Vec<_>>(), "what waits is not lacking");
    ana.emit(&namespace, "chat:message", &json!({ "text": "after" })).await;
    let after = ana.event("chat:message").await.unwrap()["seq"].as_i64().unwrap();
    assert!(after > seqs[MESSAGES - 1], "no number is given twice");
    let counters = server.world.chat.counters();
    until("the store has them", || counter(&counters.queued) == 0).await;
    let stored = server.world.store.chat_messages(stream.id, ChatRange::Newest, 1000).await.unwrap();
    assert_eq!(stored[1..=MESSAGES].iter().map(|message| message.seq).collect::<Vec<_>>(), seqs);
    assert_eq!(stored.len(), MESSAGES + 2);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_that_keeps_nothing_is_cleared_all_the_same_and_does_not_claim_to_be_whole() {
    let store: SharedStore = Arc::new(Embedded::in_memory().unwrap());
    let config = product::Chat { persist: false, ..product::Chat::default() };
    let options = || Options { store: Some(Arc::clone(&store)), config: config.clone(), ..Options::default() };
    let server = Server::start(options()).await;
    let (stream, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    ana.emit(&namespace, "chat:message", &json!({ "text": "rude" })).await;
    let seq = ana.event("chat:message").await.unwrap()["seq"].as_i64().unwrap();
    let order = json!({
        "streamId": stream.id, "by": stream.owner_id, "userId": "ana", "seconds": 60, "deleteMessages": true,
    });
    obey(&server.world, "mute", &order).await.unwrap();
    assert_eq!(ana.event("chat:cleared").await.unwrap()["userId"], "ana");
    let ben = Raw::connect(server.address).await;
    assert_eq!(state_after(ben.unwrap(), &namespace, 0).await["history"], json!([]));

    let server = Server::start(options()).await;
    server.world.observe(stream.clone());
    let ben = Raw::connect(server.address).await;
    let state = state_after(ben.unwrap(), &namespace, seq).await;
    assert_eq!((&state["history"], &state["gap"]), (&json!([]), &json!(true)));
}

/// What a client is told that comes back with a last message.
async fn state_after(mut raw: Raw, namespace: &str, last_seq: i64) -> serde_json::Value {
    raw.send(&format!(r#"40{namespace},{{"token":"ben","lastSeq":{last_seq}}}"#)).await;
    raw.event("chat:state").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_room_gets_every_message_once_and_in_order() {
    let config = product::Chat { max_connections_per_ip: 0, ..product::Chat::default() };
    let server = Server::start(Options { config, limits: unlimited(), ..Options::default() }).await;
    let (_, namespace) = room(&server).await;
    let mut crowd = Vec::new();
    for n in 0..250 {
        crowd.push(Raw::join(server.address, &namespace, &format!("u{n}")).await.unwrap());
    }
    let mut newcomers = Vec::new();
    for (n, raw) in crowd.iter_mut().enumerate().take(40) {
        raw.emit(&namespace, "chat:message", &json!({ "text": n.to_string() })).await;
        if n % 4 == 0 {
            let mut raw = Raw::connect(server.address).await.unwrap();
            raw.enter(&namespace, &format!("new{n}")).await;
            newcomers.push(raw);
        }
    }

    for (n, raw) in crowd.iter_mut().enumerate() {
        for seq in 1..=40 {
            assert_eq!(raw.event("chat:message").await.unwrap()["seq"], seq, "client {n}");
        }
    }
    for raw in &mut newcomers {
        let state = raw.event("chat:state").await.unwrap();
        let known = state["history"].as_array().unwrap().len() as i64;
        for seq in known + 1..=40 {
            assert_eq!(raw.event("chat:message").await.unwrap()["seq"], seq);
        }
    }
}

fn http_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A guest that polls, and fetches only when it is told to.
struct Polling {
    http: reqwest::Client,
    url: String,
}

impl Polling {
    async fn connect(server: &Server, http: &reqwest::Client) -> Self {
        let url = format!("http://{}/socket.io/?EIO=4&transport=polling", server.address);
        let open = http.get(&url).send().await.unwrap().text().await.unwrap();
        let open: serde_json::Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
        Self { http: http.clone(), url: format!("{url}&sid={}", open["sid"].as_str().unwrap()) }
    }

    async fn post(&self, packets: String) -> u16 {
        self.http.post(&self.url).body(packets).send().await.unwrap().status().as_u16()
    }

    async fn fetch_until(&self, wanted: &str) {
        let fetching =
            async { while !self.http.get(&self.url).send().await.unwrap().text().await.unwrap().contains(wanted) {} };
        tokio::time::timeout(PATIENCE, fetching).await.expect("it comes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_guests_who_do_not_read_is_bounded_and_they_are_told_once_they_do() {
    let unread = UnreadLimits { of_connection: 100_000, of_guests: 200_000, ..UnreadLimits::default() };
    let server = Server::start(Options { limits: Limits { unread, ..unlimited() }, ..Options::default() }).await;
    let (_, namespace) = room(&server).await;
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    for n in 0..60 {
        ana.emit(&namespace, "chat:message", &json!({ "text": format!("{n} {}", "é".repeat(400)) })).await;
        ana.event("chat:message").await.unwrap();
    }
    let counters = server.world.chat.counters();
    let (http, mut guests) = (http_client(), Vec::new());
    for _ in 0..20 {
        let guest = Polling::connect(&server, &http).await;
        assert_eq!(guest.post(format!(r#"40{namespace},{{"lastSeq":0}}"#)).await, 200);
        guests.push(guest);
    }

    // Each state has more than 48,000 bytes, so that no more than four fit.
    until("those without room wait", || counter(&counters.states_held) >= 16).await;
    Raw::join(server.address, &namespace, "ben").await.expect("there is a reserve for those with a token");
    for guest in &guests {
        guest.fetch_until("chat:state").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_posts_and_fetches_nothing_is_not_answered_into_memory() {
    let server = Server::start(Options::default()).await;
    let guest = Polling::connect(&server, &http_client()).await;
    let unknown = || format!("40/{},", "x".repeat(40_000));

    assert_eq!([guest.post(unknown()).await, guest.post(unknown()).await], [200, 200]);
    assert_eq!(guest.post(unknown()).await, 429);
    guest.fetch_until("Invalid namespace").await;
    assert_eq!(guest.post(unknown()).await, 200);
    assert_eq!(counter(&server.world.chat.counters().unread_posts), 1);
}
