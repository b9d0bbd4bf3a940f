//! Databases that stop, and products that are killed: what was acknowledged holds, and nothing happens twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::kept::Kept;
use crate::media_server::{MediaServer, deliver, try_deliver};
use crate::mongo::MongoServer;
use crate::product::{Product, eventually, token};
use crate::socket::Socket;

on_every_store! {
    what_was_acknowledged_holds_after_a_kill
    a_chat_client_that_comes_back_while_the_product_starts_is_not_sent_away
    a_stream_whose_room_went_while_the_product_was_down_does_not_stay_live
    an_owner_who_is_gone_for_the_window_ends_the_stream_and_one_who_comes_back_does_not
}

/// Streams under load, and people who write in each.
const STREAMS: usize = 4;
const WRITERS: usize = 12;

/// Messages that an outage lets through, at least: more than one of each writer's.
const SAID_WITHOUT_STORE: usize = 2 * STREAMS * WRITERS;

/// What the product said that it did.
#[derive(Debug, PartialEq)]
enum Acknowledged {
    Started { owner: String, id: String },
    Stopped { id: String, ended_at: String },
    Blocked { id: String, user: String },
    Said { id: String, message: String },
}

/// A live stream.
#[derive(Debug, Clone)]
struct Running {
    id: String,
    room: String,
    owner: String,
}

async fn start_stream(product: &Product, media: &MediaServer, owner: &str) -> Running {
    let started = product.go_live(owner).await;
    let text = |name: &str| started[name].as_str().expect("it is told").to_owned();
    let running = Running { id: text("streamId"), room: text("roomName"), owner: owner.to_owned() };
    media.owner_arrives(product, &running.room, owner).await;
    running
}

/// Starts, stops, blocks and messages, until the product no longer answers.
struct Load {
    url: String,
    calls: Arc<Product>,
    sender: mpsc::UnboundedSender<Acknowledged>,
    /// Messages acknowledged.
    said: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn note(&self, acknowledged: Acknowledged) {
        if matches!(acknowledged, Acknowledged::Said { .. }) {
            self.said.fetch_add(1, Ordering::Relaxed);
        }
        // The test has what it wanted.
        let _ = self.sender.send(acknowledged);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    async fn write(&self, stream: &Running, writer: usize) {
        let auth = json!({ "token": token(&format!("writer-{writer}")) });
        let Ok(socket) = Socket::connect_at(&self.url, &stream.room, auth).await else { return };
        for number in 0.. {
            let asked = socket.ask("chat:message", json!({ "text": format!("message {number} of {writer}") })).await;
            let Ok(ack) = asked else { return };
            match ack["id"].as_str() {
                Some(message) => self.note(Acknowledged::Said { id: stream.id.clone(), message: message.to_owned() }),
                // Limits: the next one in a moment.
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
            if self.is_over() {
                return;
            }
        }
    }

    async fn block(&self, stream: &Running) {
        for number in 0.. {
            let user = format!("pest-{number}");
            let path = format!("/live/{}/blocks/{user}", stream.id);
            let called = self.calls.try_call(Method::PUT, &path, Some(&token(&stream.owner)), Some(json!({}))).await;
            match called {
                Ok(answer) if answer.status == 200 => {
                    self.note(Acknowledged::Blocked { id: stream.id.clone(), user });
                }
                Ok(answer) => assert!(answer.status.is_server_error(), "{answer:?}"),
                Err(_) => return,
            }
            if self.is_over() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts and stops streams of users of its own.
    async fn come_and_go(&self, task: usize) {
        for number in 0.. {
            let owner = format!("short-{task}-{number}");
            let bearer = token(&owner);
            let started = self.calls.try_call(Method::POST, "/live/start", Some(&bearer), Some(json!({}))).await;
            let Ok(started) = started else { return };
            let Some(id) = started.body["streamId"].as_str().map(str::to_owned) else { continue };
            self.note(Acknowledged::Started { owner, id: id.clone() });
            if number % 2 == 0 {
                let stopped = self.calls.try_call(Method::POST, "/live/stop", Some(&bearer), Some(json!({}))).await;
                let Ok(stopped) = stopped else { return };
                if let Some(ended_at) = stopped.body["stream"]["endedAt"].as_str() {
                    self.note(Acknowledged::Stopped { id, ended_at: ended_at.to_owned() });
                }
            }
            if self.is_over() {
                return;
            }
        }
    }
}

/// Everything acknowledged until `enough` of it has been, and then whatever `strike` lets through, which is shown how
/// many messages have been.
async fn under_load(
    product: Arc<Product>,
    streams: &[Running],
    enough: usize,
    strike: impl AsyncFnOnce(&AtomicUsize),
) -> Vec<Acknowledged> {
    let (sender, mut acknowledged) = mpsc::unbounded_channel();
    let (said, over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let url = product.ports.url();
    let load = Arc::new(Load { url, calls: product, sender, said: Arc::clone(&said), over: Arc::clone(&over) });
    let mut tasks = tokio::task::JoinSet::new();
    for stream in streams {
        for writer in 0..WRITERS {
            let (load, stream) = (Arc::clone(&load), stream.clone());
            tasks.spawn(async move { load.write(&stream, writer).await });
        }
        let (load, stream) = (Arc::clone(&load), stream.clone());
        tasks.spawn(async move { load.block(&stream).await });
    }
    for task in 0..2 {
        let load = Arc::clone(&load);
        tasks.spawn(async move { load.come_and_go(task).await });
    }
    drop(load);
    let mut all = Vec::new();
    while all.len() < enough {
        all.push(acknowledged.recv().await.expect("the load goes on"));
    }
    strike(&said).await;
    over.store(true, Ordering::Relaxed);
    while let Some(one) = acknowledged.recv().await {
        all.push(one);
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no part of the load fails");
    }
    all
}

/// All message ids of a stream's history.
async fn history(product: &Product, id: &str, bearer: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut after = 0;
    loop {
        let page = product.get(&format!("/live/{id}/chat?after={after}&limit=100"), Some(bearer)).await.expect(200);
        let messages = page["messages"].as_array().expect("it is a list").clone();
        for message in &messages {
            assert!(all.insert(message["id"].as_str().expect("it has an id").to_owned()), "no message is kept twice");
            let seq = message["seq"].as_i64().expect("it has a number");
            assert!(seq > after, "numbers rise");
            after = seq;
        }
        if page["hasMore"] != json!(true) || messages.is_empty() {
            return all;
        }
    }
}

async fn blocked(product: &Product, stream: &Running) -> BTreeSet<String> {
    let answer = product.get(&format!("/live/{}/blocks", stream.id), Some(&token(&stream.owner))).await.expect(200);
    let users = answer["users"].as_array().expect("it is a list");
    users.iter().filter_map(|user| Some(user["userId"].as_str()?.to_owned())).collect()
}

/// Everything acknowledged is so.
async fn all_holds(product: &Product, streams: &[Running], acknowledged: &[Acknowledged]) {
    let mut said = BTreeMap::new();
    let mut blocks = BTreeMap::new();
    for stream in streams {
        said.insert(&stream.id, history(product, &stream.id, &token(&stream.owner)).await);
        blocks.insert(&stream.id, blocked(product, stream).await);
    }
    for one in acknowledged {
        match one {
            Acknowledged::Said { id, message } => assert!(said[id].contains(message), "{one:?} is lost"),
            Acknowledged::Blocked { id, user } => assert!(blocks[id].contains(user), "{one:?} is lost"),
            Acknowledged::Stopped { id, ended_at } => {
                let stream = product.get(&format!("/live/{id}"), None).await.expect(200);
                assert_eq!((&stream["isLive"], stream["endedAt"].as_str()), (&json!(false), Some(ended_at.as_str())));
            }
            Acknowledged::Started { owner, id } => {
                let stream = product.get(&format!("/live/{id}"), None).await.expect(200);
                assert_eq!(stream["ownerId"], json!(owner), "{one:?} is lost");
            }
        }
    }
}

/// Kinds of acknowledgements that came.
fn kinds(acknowledged: &[Acknowledged]) -> [usize; 4] {
    let count = |wanted: fn(&Acknowledged) -> bool| acknowledged.iter().filter(|one| wanted(one)).count();
    [
        count(|one| matches!(one, Acknowledged::Started { .. })),
        count(|one| matches!(one, Acknowledged::Stopped { .. })),
        count(|one| matches!(one, Acknowledged::Blocked { .. })),
        count(|one| matches!(one, Acknowledged::Said { .. })),
    ]
}

/// A product that is shared with the load and killed under it.
async fn killed_under_load(product: Product, media: &MediaServer) -> (Product, Vec<Running>, Vec<Acknowledged>) {
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        streams.push(start_stream(&product, media, &format!("owner-{number}")).await);
    }
    let id = product.process_id();
    let product = Arc::new(product);
    let strike = async |_: &AtomicUsize| crate::server::signal("KILL", &id.to_string());
    let acknowledged = under_load(Arc::clone(&product), &streams, 200, strike).await;
    assert!(kinds(&acknowledged).iter().all(|&count| count > 0), "{:?}", kinds(&acknowledged));
    let mut product = Arc::into_inner(product).expect("the load is over");
    product.kill();
    product.start_again().await;
    (product, streams, acknowledged)
}

async fn what_was_acknowledged_holds_after_a_kill(kept: Kept) {
    let media = MediaServer::start().await;
    let product = kept.product("kill", json!({ "sfu": media.config() })).await;
    let (product, streams, acknowledged) = killed_under_load(product, &media).await;
    all_holds(&product, &streams, &acknowledged).await;
    // Chats are open again, and go on with new numbers.
    for stream in &streams {
        let socket = Socket::connect(&product, &stream.room, json!({ "token": token("late") })).await;
        let socket = socket.unwrap_or_else(|message| panic!("refused: {message}"));
        let state = socket.event("chat:state", |_| true).await;
        let ack = socket.ask("chat:message", json!({ "text": "still here" })).await.expect("it is answered");
        assert!(ack["seq"].as_i64() > state["lastSeq"].as_i64(), "{ack} after {}", state["lastSeq"]);
    }
    // The same numbers everywhere: one viewer came, nobody else is there.
    let stream = &streams[0];
    media.viewer_arrives(&product, &stream.room, "vera").await;
    let shown = product.get(&format!("/live/{}", stream.id), None).await.expect(200);
    assert_eq!(shown["viewers"], 1);
    let stopped = product.post("/live/stop", &token(&stream.owner), json!({ "streamId": stream.id })).await.expect(200);
    assert_eq!(stopped["alreadyEnded"], false, "the kill ended nothing");
}

/// How a database goes away.
#[derive(Debug, Clone, Copy)]
enum Outage {
    /// Nobody listens.
    Killed,
    /// Connections stay, and nothing is answered.
    Frozen,
}

impl Outage {
    fn begin(self, mongo: &mut MongoServer) {
        match self {
            Outage::Killed => mongo.stop(),
            Outage::Frozen => mongo.freeze(),
        }
    }

    fn end(self, mongo: &mut MongoServer) {
        match self {
            Outage::Killed => mongo.start_again(),
            Outage::Frozen => mongo.thaw(),
        }
    }
}

/// `ONAIR_OUTAGE` makes outages as many seconds long; without it they last a moment.
fn outage_length() -> Duration {
    let seconds = std::env::var("ONAIR_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_while_the_database_is_stopped_and_started_under_load() {
    holds_after_an_outage("outage-killed", Outage::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_while_the_database_hangs_under_load() {
    holds_after_an_outage("outage-frozen", Outage::Frozen).await;
}

async fn holds_after_an_outage(name: &str, outage: Outage) {
    let (mut mongo, media) = (MongoServer::start(), MediaServer::start().await);
    let store = json!({ "mongodb_uri": mongo.uri(), "database": "onair_outage" });
    let config = json!({ "sfu": media.config(), "store": store, "live": { "reconcile_interval": 3 } });
    let product = Product::start(name, config).await;
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        streams.push(start_stream(&product, &media, &format!("owner-{number}")).await);
    }
    let viewer = media.viewer_arrives(&product, &streams[0].room, "vera").await;
    let product = Arc::new(product);
    let gone = streams[1].clone();
    let strike = async |said: &AtomicUsize| {
        outage.begin(&mut mongo);
        let begin = Instant::now();
        away(&product, &media, &streams[0], viewer).await;
        let before = said.load(Ordering::Relaxed);
        eventually("messages are acknowledged while the store is away", async || {
            (said.load(Ordering::Relaxed) >= before + SAID_WITHOUT_STORE).then_some(())
        })
        .await;
        assert_eq!(product.metric("onair_store_up", "").await, 0.0, "it was away all the time");
        while begin.elapsed() < outage_length() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            goes_on(&product, &streams[0]).await;
        }
        outage.end(&mut mongo);
    };
    let acknowledged = under_load(Arc::clone(&product), &streams, 100, strike).await;

    eventually("the store is seen to be back", async || {
        (product.metric("onair_store_up", "").await == 1.0).then_some(())
    })
    .await;
    eventually("the store is back", async || {
        let stopped = product.post("/live/stop", &token(&gone.owner), json!({ "streamId": gone.id })).await;
        (stopped.status == 200).then_some(())
    })
    .await;
    let backlog = async || {
        let mut missing = 0;
        for stream in &streams {
            let kept = history(&product, &stream.id, &token(&stream.owner)).await;
            missing += acknowledged
                .iter()
                .filter(|one| matches!(one, Acknowledged::Said { id, message } if *id == stream.id && !kept.contains(message)))
                .count();
        }
        (missing == 0).then_some(())
    };
    eventually("messages of the outage are kept", backlog).await;
    all_holds(&product, &streams, &acknowledged).await;
    let ids: BTreeSet<_> = acknowledged
        .iter()
        .filter_map(|one| match one {
            Acknowledged::Stopped { id, .. } => Some(id.clone()),
            _ => None,
        })
        .collect();
    let listed = product.get("/live/active?limit=100", None).await.expect(200);
    let live = listed["streams"].as_array().expect("it is a list");
    assert!(!live.iter().any(|stream| ids.contains(stream["streamId"].as_str().unwrap_or_default())), "ended for good");
    eventually("the viewer who left is not counted", async || {
        let stream = product.get(&format!("/live/{}", streams[0].id), None).await.expect(200);
        (stream["viewers"] == json!(0)).then_some(())
    })
    .await;
}

/// What is possible without the store, and what is refused.
async fn goes_on(product: &Product, stream: &Running) {
    eventually("the store is seen to be away", async || {
        (product.metric("onair_store_up", "").await == 0.0).then_some(())
    })
    .await;
    let refused = product.post("/live/start", &token("newcomer"), json!({})).await;
    refused.refused(503, "store_unavailable");
    assert!(refused.headers.contains_key("retry-after"));
    let watched = product.get(&format!("/live/{}/watch", stream.id), Some(&token("wanda"))).await;
    assert!(watched.body["token"].is_string(), "who watches needs no store: {}", watched.body);
    let listed = product.get("/live/active", None).await.expect(200);
    assert!(!listed["streams"].as_array().expect("it is a list").is_empty());
}

/// While the store is away: media and reads go on, writes say when to come back, and events are refused so that they
/// are sent again.
async fn away(product: &Product, media: &MediaServer, stream: &Running, viewer: livekit_protocol::ParticipantInfo) {
    goes_on(product, stream).await;
    let left = media.leave(&stream.room, viewer);
    let status = try_deliver(product, &left).await.expect("it answers");
    assert_eq!(status, 503, "not acknowledged before it is kept");
}

async fn a_stream_whose_room_went_while_the_product_was_down_does_not_stay_live(kept: Kept) {
    let media = MediaServer::start().await;
    let live = json!({ "reconcile_interval": 2, "reconnect_window": 5 });
    let mut product = kept.product("missed", json!({ "sfu": media.config(), "live": live })).await;
    let kept = start_stream(&product, &media, "kept").await;
    let lost = start_stream(&product, &media, "lost").await;
    product.kill();
    // Nobody is told.
    let _ = media.close(&lost.room);
    product.start_again().await;

    let ended = eventually("the lost stream ends", async || {
        let stream: Value = product.get(&format!("/live/{}", lost.id), None).await.expect(200);
        (stream["isLive"] == json!(false)).then_some(stream)
    });
    let ended = ended.await;
    assert!(["server_lost", "publisher_timeout"].contains(&ended["endReason"].as_str().unwrap_or_default()), "{ended}");
    let stream = product.get(&format!("/live/{}", kept.id), None).await.expect(200);
    assert_eq!(stream["state"], "live", "{stream}");
}

async fn a_chat_client_that_comes_back_while_the_product_starts_is_not_sent_away(kept: Kept) {
    let mut product = kept.product("early", json!({})).await;
    let mut rooms = Vec::new();
    for number in 0..20 {
        let started = product.go_live(&format!("owner-{number}")).await;
        rooms.push(started["roomName"].as_str().expect("it is told").to_owned());
    }
    product.kill();
    product.spawn();

    let url = product.ports.url();
    let back = rooms.iter().map(async |room| {
        for _ in 0..30_000 {
            match Socket::connect_at(&url, room, json!({ "token": token("bob") })).await {
                Ok(_) => return "connected".to_owned(),
                Err(refusal) if refusal == "Invalid namespace" => return refusal,
                // Nobody listens yet, or 503: clients try again by themselves.
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        "never".to_owned()
    });
    let back = future::join_all(back).await;
    assert!(back.iter().all(|end| end == "connected"), "{back:?}");
}

async fn an_owner_who_is_gone_for_the_window_ends_the_stream_and_one_who_comes_back_does_not(kept: Kept) {
    let media = MediaServer::start().await;
    let live = json!({ "reconnect_window": 4 });
    let product = kept.product("window", json!({ "sfu": media.config(), "live": live })).await;
    let (back, gone) =
        future::join(start_stream(&product, &media, "back"), start_stream(&product, &media, "gone")).await;
    for stream in [&back, &gone] {
        let session = owner_session(&media, stream);
        assert_eq!(deliver(&product, &media.leave(&stream.room, session)).await, 200);
        let shown = product.get(&format!("/live/{}", stream.id), None).await.expect(200);
        assert_eq!(shown["state"], "reconnecting");
    }
    let resumed = product.post("/live/start", &token("back"), json!({})).await.expect(200);
    assert_eq!((&resumed["streamId"], &resumed["resumed"]), (&json!(back.id), &json!(true)));
    media.owner_arrives(&product, &back.room, "back").await;

    let ended = eventually("the other one ends", async || {
        let stream: Value = product.get(&format!("/live/{}", gone.id), None).await.expect(200);
        (stream["isLive"] == json!(false)).then_some(stream)
    });
    assert_eq!(ended.await["endReason"], "publisher_timeout");
    eventually("its room is deleted", async || (!media.has_room(&gone.room)).then_some(())).await;
    let shown = product.get(&format!("/live/{}", back.id), None).await.expect(200);
    assert_eq!(shown["state"], "live");
}

fn owner_session(media: &MediaServer, stream: &Running) -> livekit_protocol::ParticipantInfo {
    media.participants(&stream.room).into_iter().flatten().next().expect("the owner is there")
}
