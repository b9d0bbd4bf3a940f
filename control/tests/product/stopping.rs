//! Stops that something is in the way of: a database that hangs, a receiver of webhooks that never answers, a start
//! that is not over.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_response::Message as Response;
use serde_json::json;
use signaling::token::{JoinToken, Keys, Secret};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::kept::Kept;
use crate::media_server::MediaServer;
use crate::mongo::MongoServer;
use crate::product::{API_KEY, API_SECRET, Product, eventually, token};
use crate::server::signal;
use crate::socket::user;

on_every_store! {
    a_stop_in_order_ends_no_stream_and_the_next_process_goes_on_with_all
}

async fn a_stop_in_order_ends_no_stream_and_the_next_process_goes_on_with_all(kept: Kept) {
    let media = MediaServer::start().await;
    let mut product = kept.product("in-order", json!({ "sfu": media.config() })).await;
    let started = product.go_live("ana").await;
    let path = format!("/live/{}", started["streamId"].as_str().expect("it is told"));
    let room = started["roomName"].as_str().expect("it is told");
    media.owner_arrives(&product, room, "ana").await;
    media.viewer_arrives(&product, room, "vera").await;
    let before = product.get(&path, None).await.expect(200);
    assert_eq!((&before["state"], &before["viewers"]), (&json!("live"), &json!(1)));

    assert!(product.terminate().success());
    product.start_again().await;

    // Before anybody asks for the stream, by which it would become known.
    user(&product, room, &token("bob")).await;
    let after = product.get(&path, None).await.expect(200);
    for field in ["state", "viewers", "roomName", "startedAt"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert!(media.has_room(room));
}

/// Calls that are answered after one that the database keeps waiting was sent.
const CALLS_AFTER: usize = 20;

/// A participant of a room that is no stream's.
async fn join(product: &Product) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let keys = Keys::new([(API_KEY.to_owned(), Secret::new(API_SECRET))]).expect("the key is usable");
    let join = JoinToken {
        identity: "guest".parse().expect("it is an identity"),
        room: "lobby".parse().expect("it is a room's name"),
        recorder: false,
        life: Duration::from_secs(600),
    };
    let token = keys.signer().create_join_token(&join, SystemTime::now());
    let url = format!("ws://127.0.0.1:{}/rtc?protocol=17&access_token={token}", product.ports.http);
    tokio_tungstenite::connect_async(url).await.expect("the token joins").0
}

async fn last_message(mut socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Option<Response> {
    let mut last = None;
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            last = proto::SignalResponse::decode(bytes).expect("it is a message").message;
        }
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_keeps_nobody_from_being_told_to_come_back() {
    let mongo = MongoServer::start();
    let store = json!({ "mongodb_uri": mongo.uri(), "database": "onair_stopping" });
    let mut product = Product::start("stopping", json!({ "store": store, "drain_timeout": 1 })).await;
    let socket = join(&product).await;
    mongo.freeze();
    let url = format!("{}/api/live/start", product.ports.url());
    let start = product.http().post(url).bearer_auth(token("ana")).header("content-type", "application/json");
    let start = tokio::spawn(start.body("{}").send());
    for _ in 0..CALLS_AFTER {
        product.get("/config", None).await.expect(200);
    }
    signal("TERM", &product.process_id().to_string());

    let Either::Left((told, _)) = select(Box::pin(last_message(socket)), start).await else {
        panic!("what waits for the database was waited for first")
    };
    let Some(Response::Leave(leave)) = told else { panic!("no leave, but {told:?}") };
    assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
    assert!(product.wait().success());
    let log = product.whole_log();
    assert!(log.contains("what was under way is given up"), "drain_timeout holds for all of it: {log}");
    mongo.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_wait_for_receivers_of_webhooks() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let url = format!("http://{}/", receiver.local_addr().expect("it has an address"));
    let webhook = json!({ "api_key": API_KEY, "urls": [url] });
    let mut product = Product::start("second-signal", json!({ "webhook": webhook })).await;
    let socket = join(&product).await;
    // Taken, and never answered.
    let _delivery = receiver.accept().await.expect("the room's beginning is told");
    signal("TERM", &product.process_id().to_string());
    last_message(socket).await;
    signal("INT", &product.process_id().to_string());

    assert_eq!(product.wait().code(), Some(1));
    let log = product.whole_log();
    assert!(log.contains("stopped at once") && !log.contains("webhooks are left unsent"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_a_start_that_waits_for_the_database() {
    let database = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let uri = format!("mongodb://{}/", database.local_addr().expect("it has an address"));
    let mut product = Product::prepared(
        crate::product::Ports::free(),
        "signal-at-start",
        json!({ "store": { "mongodb_uri": uri, "database": "onair" } }),
    );
    product.spawn();
    let _asked = database.accept().await.expect("the database is asked");
    signal("TERM", &product.process_id().to_string());

    assert!(product.wait().success());
    eventually("it says so", async || product.whole_log().contains("stopped").then_some(())).await;
}
