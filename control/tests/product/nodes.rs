//! Two products on one MongoDB and one media server: what one does, the other one shows.

use std::collections::BTreeSet;

use futures_util::future;
use reqwest::Method;
use serde_json::{Value, json};

use crate::media_server::{MediaServer, deliver};
use crate::mongo;
use crate::product::{Product, admin, eventually, token};
use crate::socket::{Said, Socket, user};

/// Two nodes, and what they share.
struct Nodes {
    a: Product,
    b: Product,
    media: MediaServer,
}

impl Nodes {
    async fn start(name: &str) -> Self {
        let media = MediaServer::start().await;
        let config = json!({
            "store": { "mongodb_uri": mongo::shared_uri(), "database": mongo::fresh_database() }, "sfu": media.config(),
        });
        let a = Product::start(&format!("{name}-a"), config.clone()).await;
        let b = Product::start(&format!("{name}-b"), config).await;
        for node in [&a, &b] {
            eventually("each node knows of the other", async || {
                node.whole_log().contains("other nodes use the same store").then_some(())
            })
            .await;
        }
        Self { a, b, media }
    }

    /// A live stream that both know: its id and room.
    async fn stream(&self, owner: &str) -> (String, String) {
        let started = self.a.go_live(owner).await;
        let id = started["streamId"].as_str().expect("it is told").to_owned();
        let room = started["roomName"].as_str().expect("it is told").to_owned();
        self.media.owner_arrives(&self.a, &room, owner).await;
        eventually("the other node knows the stream", async || {
            let listed = self.b.get("/live/active", None).await.expect(200);
            listed["streams"].as_array()?.iter().find(|stream| stream["streamId"] == json!(id)).map(|_| ())
        })
        .await;
        (id, room)
    }
}

/// Messages that a socket got, as (seq, text).
fn messages(socket: &Socket) -> Vec<(i64, String)> {
    let said = socket.all();
    let messages = said.iter().filter_map(|said| match said {
        Said::Event { name, payload } if name == "chat:message" => {
            Some((payload["seq"].as_i64()?, payload["text"].as_str()?.to_owned()))
        }
        _ => None,
    });
    messages.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_starts_on_two_nodes_give_one_live_stream_to_each_owner() {
    let nodes = Nodes::start("races").await;
    for number in 0..5 {
        let owner = format!("racer-{number}");
        let starts = (0..8).map(|turn| {
            let node = if turn % 2 == 0 { &nodes.a } else { &nodes.b };
            let bearer = token(&owner);
            async move { node.post("/live/start", &bearer, json!({})).await }
        });
        let answers = future::join_all(starts).await;
        let created = answers.iter().filter(|answer| answer.status == 201).count();
        let ids: BTreeSet<_> = answers.iter().map(|answer| answer.body["streamId"].to_string()).collect();

        assert!(answers.iter().all(|answer| answer.status.is_success()), "{answers:?}");
        assert_eq!((created, ids.len()), (1, 1), "{answers:?}");
    }
    for node in [&nodes.a, &nodes.b] {
        eventually("five streams are listed", async || {
            let listed = node.get("/live/active", None).await.expect(200);
            (listed["streams"].as_array()?.len() == 5).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_who_is_told_of_a_new_stream_by_the_other_node_finds_its_chat_there() {
    let nodes = Nodes::start("new").await;
    for number in 0..5 {
        let started = nodes.a.go_live(&format!("owner-{number}")).await;
        let path = format!("/live/{}/watch", started["streamId"].as_str().expect("it is told"));
        let watched = nodes.b.get(&path, Some(&token("bob"))).await.expect(200);

        assert_eq!(watched["chat"]["namespace"], format!("/live:{}", started["roomName"].as_str().unwrap()));
        user(&nodes.b, started["roomName"].as_str().unwrap(), &token("bob")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_on_one_node_closes_the_chat_on_the_other() {
    let nodes = Nodes::start("ends").await;
    let (id, room) = nodes.stream("ana").await;
    let socket = user(&nodes.b, &room, &token("bob")).await;

    nodes.a.post("/live/stop", &token("ana"), json!({ "streamId": id })).await.expect(200);
    let ended = socket.event("stream:ended", |_| true).await;
    assert_eq!(ended["endReason"], "stopped");
    socket.disconnected().await;
    let refusal = Socket::connect(&nodes.b, &room, json!({ "token": token("bob") })).await.err();
    assert_eq!(refusal.as_deref(), Some("Invalid namespace"));
    nodes.b.get(&format!("/live/{id}/watch"), Some(&token("bob"))).await.refused(410, "stream_ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_on_one_node_removes_the_user_from_the_other() {
    let nodes = Nodes::start("blocks").await;
    let (id, room) = nodes.stream("ana").await;
    nodes.media.viewer_arrives(&nodes.b, &room, "bob").await;
    let bob = user(&nodes.b, &room, &token("bob")).await;
    let carol = user(&nodes.b, &room, &token("carol")).await;

    let path = format!("/live/{id}/blocks/bob");
    nodes.a.call(Method::PUT, &path, Some(&token("ana")), Some(json!({}))).await.expect(200);
    bob.event("moderation:blocked", |_| true).await;
    bob.disconnected().await;
    nodes.b.get(&format!("/live/{id}/watch"), Some(&token("bob"))).await.refused(403, "blocked");
    eventually("bob is out of the room", async || {
        (!nodes.media.identities(&room).iter().any(|identity| identity.starts_with("bob"))).then_some(())
    })
    .await;
    assert!(!carol.is_over(), "others stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_on_one_node_drops_the_user_from_the_other() {
    let nodes = Nodes::start("bans").await;
    let (_, room) = nodes.stream("ana").await;
    let bob = user(&nodes.b, &room, &token("bob")).await;

    let path = "/admin/users/bob/ban";
    nodes.a.call(Method::PUT, path, Some(&admin("root")), Some(json!({ "reason": "spam" }))).await;
    bob.disconnected().await;
    eventually("the other node refuses bob", async || {
        let refused = nodes.b.post("/live/start", &token("bob"), json!({})).await;
        (refused.code() == "banned").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_crosses_nodes_and_everybody_sees_one_order() {
    let nodes = Nodes::start("chat").await;
    let (id, room) = nodes.stream("ana").await;
    let mut sockets = Vec::new();
    for number in 0..8 {
        let node = if number % 2 == 0 { &nodes.a } else { &nodes.b };
        sockets.push(user(node, &room, &token(&format!("guest-{number}"))).await);
    }
    let asked = sockets.iter().enumerate().flat_map(|(number, socket)| {
        (0..4).map(move |turn| socket.ask("chat:message", json!({ "text": format!("{number}/{turn}") })))
    });
    let acks = future::join_all(asked).await;
    let sent: BTreeSet<i64> = acks.iter().filter_map(|ack| ack.as_ref().ok()?["seq"].as_i64()).collect();
    assert_eq!(sent.len(), 32, "all are taken, under different numbers: {acks:?}");

    for (number, socket) in sockets.iter().enumerate() {
        let node = if number % 2 == 0 { &nodes.a } else { &nodes.b };
        // What a slow store tells too late for its place in the order is counted, and stands in the history alone.
        eventually("every message arrives", async || {
            let late = node.metric("onair_chat_lost_total", "relayed_late").await;
            (messages(socket).len() as f64 + late >= 32.0).then_some(())
        })
        .await;
        let seqs: Vec<i64> = messages(socket).into_iter().map(|(seq, _)| seq).collect();
        assert!(seqs.is_sorted_by(|one, next| one < next), "in order, each once: {seqs:?}");
        assert!(seqs.iter().all(|seq| sent.contains(seq)), "{seqs:?} of {sent:?}");
    }
    for node in [&nodes.a, &nodes.b] {
        eventually("the history is whole", async || {
            let page = node.get(&format!("/live/{id}/chat?after=0&limit=100"), Some(&token("ana"))).await.expect(200);
            let told = page["messages"].as_array()?.iter().filter_map(|message| message["seq"].as_i64());
            (told.collect::<BTreeSet<_>>() == sent).then_some(())
        })
        .await;
    }
    sockets[0].emit("reaction", json!("❤️"));
    let totals = sockets[1].event("reactions", |reactions| !reactions["totals"]["❤️"].is_null()).await;
    assert_eq!(totals["totals"]["❤️"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_both_nodes_are_told_of_counts_once() {
    let nodes = Nodes::start("events").await;
    let (id, room) = nodes.stream("ana").await;
    let session = nodes.media.session("bob:abcdefgh", "bob", "viewer");
    let joined = nodes.media.join(&room, session.clone());
    let (first, second) = future::join(deliver(&nodes.a, &joined), deliver(&nodes.b, &joined)).await;
    assert_eq!((first.as_u16(), second.as_u16()), (200, 200));
    for node in [&nodes.a, &nodes.b] {
        viewers_become(node, &id, 1).await;
    }

    let left = nodes.media.leave(&room, session);
    future::join(deliver(&nodes.b, &left), deliver(&nodes.a, &left)).await;
    for node in [&nodes.a, &nodes.b] {
        viewers_become(node, &id, 0).await;
    }
}

async fn viewers_become(node: &Product, id: &str, wanted: u64) {
    eventually("the number of viewers is right", async || {
        let stream: Value = node.get(&format!("/live/{id}"), None).await.expect(200);
        (stream["viewers"] == json!(wanted)).then_some(())
    })
    .await;
}
