//! Two chats on one store of each kind, as two processes would be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use control::chat::{Limits, Rate};
use control::clock::Timestamp;
use control::store::SharedStore;
use control::store::chat::{ChatNote, ChatRange, Relayed};
use control::store::stream::{Stream, UserId};
use serde_json::{Value, json};

use crate::raw::Raw;
use crate::server::{Options, Server, obey};

/// Longest wait for a store that is there: it may be slow for want of processors. Clients of tests wait longer.
const STORE_PATIENCE: Duration = Duration::from_secs(20);

struct Pair {
    nodes: [Server; 2],
    stream: Stream,
    namespace: String,
}

impl Pair {
    /// Two nodes that know of each other and of one live stream.
    async fn on(store: SharedStore) -> Self {
        Self::with_hold(store, Limits::default().hold).await
    }

    /// The same, for messages that come one between the other: a message waits so long for the one before it, which is
    /// on its way from the other node.
    async fn patient_on(store: SharedStore) -> Self {
        Self::with_hold(store, STORE_PATIENCE).await
    }

    async fn with_hold(store: SharedStore, hold: Duration) -> Self {
        let rate = Rate::per_second(100_000, 100_000);
        let limits = Limits {
            message: rate,
            room: rate,
            waiting_per_socket: 1000,
            // No number is left out, which would be waited for as well.
            block: 1,
            hold,
            store_patience: STORE_PATIENCE,
            ..Limits::default()
        };
        let options =
            || Options { store: Some(Arc::clone(&store)), shared: true, limits: limits.clone(), ..Options::default() };
        let nodes = [Server::start(options()).await, Server::start(options()).await];
        let stream = nodes[0].world.go_live("owner").await;
        nodes[1].world.observe(stream.clone());
        let namespace = format!("/live:{}", stream.room_name);
        let pair = Self { nodes, stream, namespace };
        pair.meet().await;
        pair
    }

    /// Waits until what is said on either node arrives on the other, and what was said for that has arrived.
    async fn meet(&self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let (mut from, mut to) = (self.join(from, "meeter").await, self.join(to, "listener").await);
            for n in 0..200 {
                from.emit(&self.namespace, "chat:message", &json!({ "text": format!("meet {n}") })).await;
                from.event("chat:message").await.unwrap();
                let arrived = tokio::time::timeout(Duration::from_millis(100), to.event("chat:message")).await;
                if arrived.is_ok() {
                    break;
                }
                assert!(n < 199, "they do not hear of each other");
            }
            from.emit(&self.namespace, "chat:message", &json!({ "text": "met" })).await;
            for raw in [&mut from, &mut to] {
                while raw.event("chat:message").await.unwrap()["text"] != "met" {}
            }
        }
    }

    async fn join(&self, node: usize, user: &str) -> Raw {
        Raw::join(self.nodes[node].address, &self.namespace, user).await.unwrap()
    }

    async fn ask(&self, node: usize, what: &str, mut body: Value) {
        body["streamId"] = json!(self.stream.id);
        obey(&self.nodes[node].world, what, &body).await.unwrap();
    }
}

async fn messages_of_both_nodes_are_seen_on_both_in_one_order(store: SharedStore) {
    let pair = Pair::patient_on(store).await;
    let [mut ana, mut ben] = [pair.join(0, "ana").await, pair.join(1, "ben").await];
    const EACH: usize = 100;
    let write = async |raw: &mut Raw, name: &str| {
        for n in 0..EACH {
            raw.emit(&pair.namespace, "chat:message", &json!({ "text": format!("{name} {n}") })).await;
        }
        let mut seen = Vec::new();
        while seen.len() < 2 * EACH {
            let message = raw.event("chat:message").await.unwrap();
            seen.push((message["seq"].as_i64().unwrap(), message["text"].as_str().unwrap().to_owned()));
        }
        seen
    };
    let (of_ana, of_ben) = tokio::join!(write(&mut ana, "ana"), write(&mut ben, "ben"));

    assert_eq!(of_ana, of_ben);
    assert!(of_ana.is_sorted_by(|a, b| a.0 < b.0), "{of_ana:?}");
    for name in ["ana", "ben"] {
        let own: Vec<_> = of_ana.iter().filter(|(_, text)| text.starts_with(name)).map(|(_, text)| text).collect();
        assert_eq!(own, (0..EACH).map(|n| format!("{name} {n}")).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
    let numbers: BTreeSet<_> = of_ana.iter().map(|(seq, _)| seq).collect();
    assert_eq!(numbers.len(), 2 * EACH);
}

async fn deletions_and_reactions_cross_over(store: SharedStore) {
    let pair = Pair::on(store).await;
    let [mut ana, mut ben] = [pair.join(0, "ana").await, pair.join(1, "ben").await];
    ana.emit(&pair.namespace, "chat:message", &json!({ "text": "oops" })).await;
    let id = ben.event("chat:message").await.unwrap()["id"].clone();
    pair.ask(0, "delete", json!({ "messageId": id })).await;
    assert_eq!(ben.event("chat:deleted").await.unwrap()["id"], id);
    ana.emit(&pair.namespace, "chat:message", &json!({ "text": "more" })).await;
    ben.event("chat:message").await.unwrap();
    pair.ask(1, "mute", json!({ "userId": "ana", "seconds": 60, "deleteMessages": true })).await;
    assert_eq!(ana.event("chat:cleared").await.unwrap()["userId"], "ana");

    ben.emit(&pair.namespace, "reaction", &json!("🔥")).await;
    loop {
        if ana.event("reactions").await.unwrap()["totals"]["🔥"] == 1 {
            break;
        }
    }
}

async fn the_end_reaches_the_other_node_with_the_stream(store: SharedStore) {
    let pair = Pair::on(store).await;
    let mut ben = pair.join(1, "ben").await;
    pair.nodes[0].world.end(pair.stream.id).await;
    let ended = pair.nodes[1].world.store.stream(pair.stream.id).await.unwrap().unwrap();
    pair.nodes[1].world.observe(ended);

    assert_eq!(ben.event("stream:ended").await.unwrap()["endReason"], "stopped");
    pair.nodes[1].world.chat.closed(pair.stream.id).await;
    let ana: UserId = "ana".parse().unwrap();
    pair.nodes[1].world.chat.disconnect_user(&ana);
}

async fn a_node_that_is_written_on_all_the_time_hears_of_the_other(store: SharedStore) {
    let pair = Pair::on(store).await;
    let [mut ana, mut ben] = [pair.join(0, "ana").await, pair.join(1, "ben").await];
    let counters = pair.nodes[0].world.chat.counters();
    let heard = || counters.relayed.load(Ordering::Relaxed);
    let before = heard();
    for n in 0..500 {
        if n == 20 {
            ben.emit(&pair.namespace, "chat:message", &json!({ "text": "ben" })).await;
        }
        ana.emit(&pair.namespace, "chat:message", &json!({ "text": format!("ana {n}") })).await;
        // Less than there is between two looks for news.
        let pause = tokio::time::sleep(Duration::from_millis(20));
        let read = tokio::time::timeout(Duration::from_millis(50), ana.event("chat:message"));
        let ((), _) = tokio::join!(pause, read);
        if heard() > before {
            return;
        }
    }
    panic!("it hears of nothing while it is written on");
}

async fn nodes_without_the_store_give_out_no_number_twice(store: SharedStore) {
    let pair = Pair::on(store).await;
    let mut writers = [pair.join(0, "ana").await, pair.join(1, "ben").await];
    for node in &pair.nodes {
        node.world.away.set_away(true);
    }
    let mut told = BTreeSet::new();
    for n in 0..5 {
        for raw in &mut writers {
            let text = format!("during {n}");
            raw.emit(&pair.namespace, "chat:message", &json!({ "text": text })).await;
            let message = raw.event("chat:message").await.unwrap();
            assert_eq!(message["text"], text);
            assert!(told.insert((message["seq"].as_i64().unwrap(), message["id"].as_str().unwrap().to_owned())));
        }
    }
    for node in &pair.nodes {
        node.world.away.set_away(false);
    }

    assert_eq!(told.iter().map(|(seq, _)| seq).collect::<BTreeSet<_>>().len(), 10, "{told:?}");
    let mut stored = BTreeSet::new();
    for _ in 0..200 {
        let messages = pair.nodes[0].world.store.chat_messages(pair.stream.id, ChatRange::Newest, 10).await.unwrap();
        stored = messages.into_iter().map(|message| (message.seq, message.id)).collect();
        if stored == told {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stored, told, "they keep the numbers under which they were shown");
}

async fn a_node_is_heard_beside_one_that_numbers_without_the_store(store: SharedStore) {
    let pair = Pair::on(store).await;
    let [mut ana, mut ben] = [pair.join(0, "ana").await, pair.join(1, "ben").await];
    pair.nodes[0].world.away.refuse(Some("chat_reserve"));
    ana.emit(&pair.namespace, "chat:message", &json!({ "text": "far above" })).await;
    for raw in [&mut ana, &mut ben] {
        assert_eq!(raw.event("chat:message").await.unwrap()["text"], "far above");
    }
    ben.emit(&pair.namespace, "chat:message", &json!({ "text": "above that" })).await;

    for raw in [&mut ana, &mut ben] {
        assert_eq!(raw.event("chat:message").await.unwrap()["text"], "above that");
    }
}

async fn the_store_hears_of_numbers_that_it_did_not_give(store: SharedStore) {
    let pair = Pair::on(store).await;
    let mut ana = pair.join(0, "ana").await;
    pair.nodes[0].world.away.refuse(Some("chat_reserve"));
    ana.emit(&pair.namespace, "chat:message", &json!({ "text": "far above" })).await;
    let seq = ana.event("chat:message").await.unwrap()["seq"].as_i64().unwrap();
    pair.nodes[0].world.away.refuse(None);

    let mut last = 0;
    for _ in 0..200 {
        last = pair.nodes[1].world.store.chat_totals(pair.stream.id).await.unwrap().last_seq;
        if last >= seq {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(last >= seq, "the next number of the store would be {}, and {seq} is taken", last + 1);
}

async fn what_is_said_on_a_node_without_the_store_is_heard_on_the_other_later(store: SharedStore) {
    let pair = Pair::on(store).await;
    let [mut ana, mut ben] = [pair.join(0, "ana").await, pair.join(1, "ben").await];
    pair.nodes[0].world.away.set_away(true);
    for n in 0..3 {
        ana.emit(&pair.namespace, "chat:message", &json!({ "text": format!("during {n}") })).await;
        ana.event("chat:message").await.unwrap();
    }
    ana.emit(&pair.namespace, "reaction", &json!("🔥")).await;
    ana.event("reactions").await.unwrap();
    pair.nodes[0].world.away.set_away(false);

    for n in 0..3 {
        assert_eq!(ben.event("chat:message").await.unwrap()["text"], format!("during {n}"));
    }
    assert_eq!(ben.event("reactions").await.unwrap()["totals"]["🔥"], 1);
}

/// Makes a test of each rule, in the store of that name.
/// Clocks of two machines are not compared: it is there as it goes on saying so, and is read by its own times.
async fn a_node_whose_clock_lags_is_heard(store: SharedStore) {
    // Longer than anything is waited for.
    const LAG: Duration = Duration::from_secs(600);
    let pair = Pair::on(Arc::clone(&store)).await;
    let mut ana = pair.join(0, "ana").await;
    let stream_id = pair.stream.id;
    let lagging = tokio::spawn(async move {
        for n in 0.. {
            let at = Timestamp::now().minus(LAG);
            store.announce_node("lagging", at).await.unwrap();
            let note = ChatNote::Cleared { user_id: "eve".parse().unwrap() };
            let note = Relayed { id: format!("lagging-{n}"), node: "lagging".into(), stream_id, at, note };
            store.relay(&[note]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });

    let heard = ana.event("chat:cleared").await;

    lagging.abort();
    assert_eq!(heard.unwrap()["userId"], "eve");
}

macro_rules! rules {
    ($store:ident: $($rule:ident)*) => {
        mod $store {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $rule() {
                    super::$rule(crate::stores::$store().await).await;
                }
            )*
        }
    };
}

macro_rules! every_rule {
    ($($store:ident)*) => {
        $(rules! { $store:
            messages_of_both_nodes_are_seen_on_both_in_one_order
            deletions_and_reactions_cross_over
            the_end_reaches_the_other_node_with_the_stream
            a_node_that_is_written_on_all_the_time_hears_of_the_other
            a_node_whose_clock_lags_is_heard
            nodes_without_the_store_give_out_no_number_twice
            a_node_is_heard_beside_one_that_numbers_without_the_store
            the_store_hears_of_numbers_that_it_did_not_give
            what_is_said_on_a_node_without_the_store_is_heard_on_the_other_later
        })*
    };
}

every_rule! { embedded mongodb }
