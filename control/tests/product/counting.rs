//! Counts after a storm: joins, leaves, reconnects and crashes at random, whose webhooks come twice, late, in any order
//! or not at all, with a crash of the product in the middle.
//!
//! `ONAIR_SOAK` sets the number of operations, `ONAIR_SEED` repeats a run.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use control::store::SharedStore;
use futures_util::{StreamExt as _, stream};
use livekit_protocol as proto;
use livekit_protocol::participant_info::Kind;
use serde_json::{Value, json};

use crate::kept::Kept;
use crate::media_server::{MediaServer, deliver, try_deliver};
use crate::product::{Product, eventually, token};
use crate::socket::Socket;

on_every_store! {
    numbers_are_true_everywhere_after_a_storm_of_joins_leaves_crashes_and_shuffled_webhooks
    a_webhook_of_somebody_else_changes_nothing_and_is_counted
    viewers_beyond_the_places_are_put_out_of_a_room_elsewhere
}

const STREAMS: usize = 100;
const OPERATIONS: usize = 20_000;
/// The MongoDB of the tests takes some 80 events a second.
const OPERATIONS_ON_MONGODB: usize = 2_000;
/// People who come and go in one stream.
const PEOPLE: u64 = 40;
/// Sessions in one stream from which on more leave than come.
const CROWD: usize = 50;
/// Events that are shuffled together.
const SHUFFLED: usize = 100;
/// Webhooks on the way at a time.
const AT_A_TIME: usize = 16;

/// Small numbers at random, the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("it is below a length")
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.index(end + 1));
        }
    }
}

/// One stream and who is in its room, its owner's first session aside.
struct Audience {
    id: String,
    room: String,
    owner: String,
    inside: Vec<proto::ParticipantInfo>,
}

struct Storm {
    media: MediaServer,
    dice: Dice,
    audiences: Vec<Audience>,
    /// Webhooks that are not sent yet.
    events: Vec<proto::WebhookEvent>,
}

impl Storm {
    fn step(&mut self) {
        let at = self.dice.index(self.audiences.len());
        let crowded = self.audiences[at].inside.len() > CROWD;
        match self.dice.below(100) {
            0..45 if !crowded => self.joins(at),
            0..82 => self.leaves(at, true),
            82..90 => self.reconnects(at),
            90..94 => self.somebody_else_joins(at),
            94..97 => self.gives_up(at),
            _ => self.leaves(at, false),
        }
    }

    fn joins(&mut self, at: usize) {
        let user = format!("viewer-{}", self.dice.below(PEOPLE));
        let identity = format!("{user}:{:08}", self.dice.below(100_000_000));
        let session = self.media.session(&identity, &user, "viewer");
        self.enters(at, session);
    }

    fn enters(&mut self, at: usize, session: proto::ParticipantInfo) {
        let audience = &mut self.audiences[at];
        let event = self.media.join(&audience.room, session.clone());
        audience.inside.push(session);
        self.events.push(event);
    }

    /// Untold: the sender of webhooks crashed, or gave up.
    fn leaves(&mut self, at: usize, told: bool) {
        let audience = &mut self.audiences[at];
        if audience.inside.is_empty() {
            return;
        }
        let session = audience.inside.swap_remove(self.dice.index(audience.inside.len()));
        let event = self.media.leave(&audience.room, session);
        if told {
            self.events.push(event);
        }
    }

    /// The new session may be told of before the end of the old one.
    fn reconnects(&mut self, at: usize) {
        let audience = &self.audiences[at];
        if audience.inside.is_empty() {
            return;
        }
        let old = audience.inside[self.dice.index(audience.inside.len())].clone();
        let sid = self.media.session("", "", "").sid;
        let new = proto::ParticipantInfo { sid, ..old.clone() };
        self.audiences[at].inside.retain(|session| session.sid != old.sid);
        let left = self.media.leave(&self.audiences[at].room, old);
        self.events.push(left);
        self.enters(at, new);
    }

    /// People and programs that are no viewers.
    #[expect(deprecated, reason = "media servers still say so")]
    fn somebody_else_joins(&mut self, at: usize) {
        let owner = self.audiences[at].owner.clone();
        let number = self.dice.below(1_000_000);
        let mut session = self.media.session(&format!("other-{number}:x"), &format!("other-{number}"), "viewer");
        let permission = session.permission.get_or_insert_default();
        match self.dice.below(5) {
            0 => permission.hidden = true,
            1 => permission.recorder = true,
            2 => session.kind = Kind::Agent as i32,
            3 => session.kind = Kind::Egress as i32,
            _ => {
                session.identity = format!("{owner}:{number}");
                session.attributes.insert("app.userId".into(), owner);
            }
        }
        self.enters(at, session);
    }

    /// A join that never completed.
    fn gives_up(&mut self, at: usize) {
        let session = self.media.session("late:1", "late", "viewer");
        let room = &self.audiences[at].room;
        self.events.push(self.media.event("participant_connection_aborted", room, Some(session)));
    }

    /// What is due, as it arrives: some twice, some never, in any order.
    fn due(&mut self) -> Vec<proto::WebhookEvent> {
        let mut due = Vec::with_capacity(2 * self.events.len());
        for event in std::mem::take(&mut self.events) {
            match self.dice.below(100) {
                0..2 => continue,
                2..17 => due.extend([event.clone(), event]),
                _ => due.push(event),
            }
        }
        self.dice.shuffle(&mut due);
        due
    }

    /// Distinct people who watch each stream.
    fn truth(&self) -> HashMap<String, usize> {
        let watching = |audience: &Audience| {
            let counted = audience.inside.iter().filter(|session| counts(session, &audience.owner));
            counted.map(|session| &session.attributes["app.userId"]).collect::<BTreeSet<_>>().len()
        };
        self.audiences.iter().map(|audience| (audience.id.clone(), watching(audience))).collect()
    }
}

#[expect(deprecated, reason = "media servers still say so")]
fn counts(session: &proto::ParticipantInfo, owner: &str) -> bool {
    let permission = session.permission.clone().unwrap_or_default();
    session.kind == Kind::Standard as i32
        && !permission.hidden
        && !permission.recorder
        && session.attributes["app.userId"] != owner
}

/// Sends the events several at a time. One that is not taken is sent again, as media servers do.
async fn send(product: &Product, events: Vec<proto::WebhookEvent>) {
    let send = async |event: proto::WebhookEvent| {
        for _ in 0..100 {
            match try_deliver(product, &event).await {
                Ok(status) if status.is_success() => return,
                Ok(status) => assert!(status.is_server_error(), "{} was refused: {status}", event.event),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} was never taken", event.event);
    };
    stream::iter(events).map(send).buffer_unordered(AT_A_TIME).collect::<()>().await;
}

async fn viewers(product: &Product, id: &str) -> usize {
    let stream = product.get(&format!("/live/{id}"), None).await.expect(200);
    usize::try_from(stream["viewers"].as_u64().expect("a live stream has viewers")).expect("they are few")
}

/// All pages of the public list: id to viewers.
async fn listed(product: &Product) -> HashMap<String, usize> {
    let mut all = HashMap::new();
    let mut cursor = String::new();
    loop {
        let page = product.get(&format!("/live/active?limit=30{cursor}"), None).await.expect(200);
        for stream in page["streams"].as_array().expect("it is a list") {
            let id = stream["streamId"].as_str().expect("it has an id").to_owned();
            let viewers = stream["viewers"].as_u64().expect("it has viewers") as usize;
            assert_eq!(all.insert(id, viewers), None, "no stream is listed twice");
        }
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

async fn storm(product: &Product, media: &MediaServer, seed: u64) -> Storm {
    let mut audiences = Vec::new();
    for number in 0..STREAMS {
        let owner = format!("owner-{number}");
        let started = product.go_live(&owner).await;
        let text = |name: &str| started[name].as_str().expect("it is told").to_owned();
        let (id, room) = (text("streamId"), text("roomName"));
        media.owner_arrives(product, &room, &owner).await;
        audiences.push(Audience { id, room, owner, inside: Vec::new() });
    }
    Storm { media: media.clone(), dice: Dice(seed), audiences, events: Vec::new() }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn numbers_are_true_everywhere_after_a_storm_of_joins_leaves_crashes_and_shuffled_webhooks(kept: Kept) {
    let default = if kept == Kept::Mongodb { OPERATIONS_ON_MONGODB } else { OPERATIONS };
    let (operations, seed) = (number("ONAIR_SOAK", default), number("ONAIR_SEED", 20_260_102) as u64);
    println!("{operations} operations, seed {seed}");
    let media = MediaServer::start().await;
    let config = json!({
        "sfu": media.config(), "live": { "reconcile_interval": 3 }, "logging": { "level": "warn" },
        "chat": { "max_connections_per_ip": 0 },
    });
    let mut product = kept.product("counting", config).await;
    let mut storm = storm(&product, &media, seed).await;
    for batch in 0..operations / SHUFFLED {
        for _ in 0..SHUFFLED {
            storm.step();
        }
        let due = storm.due();
        if batch == operations / SHUFFLED / 2 {
            product.kill();
            product.start_again().await;
        }
        send(&product, due).await;
    }

    let truth = storm.truth();
    assert!(truth.values().sum::<usize>() > STREAMS, "the storm left somebody");
    eventually("the API's numbers are true", async || (listed(&product).await == truth).then_some(())).await;
    numbers_agree(&product, &storm, &truth).await;
    product.kill();
    kept_numbers_agree(kept.open(&product).await, &storm, &truth).await;
}

/// One by one, in the chat and in the metrics.
async fn numbers_agree(product: &Product, storm: &Storm, truth: &HashMap<String, usize>) {
    for audience in &storm.audiences {
        assert_eq!(viewers(product, &audience.id).await, truth[&audience.id], "{}", audience.id);
        let socket = Socket::connect(product, &audience.room, Value::Null).await.expect("guests may read");
        let state = socket.event("chat:state", |_| true).await;
        assert_eq!(state["viewers"], json!(truth[&audience.id]), "chat of {}", audience.id);
    }
    let all: usize = truth.values().sum();
    assert_eq!(product.metric("onair_stream_viewers", "").await as usize, all, "viewers in the metrics");
    assert_eq!(product.metric("onair_streams_live", "").await as usize, STREAMS, "streams in the metrics");
}

/// In the store, read without the product.
async fn kept_numbers_agree(store: SharedStore, storm: &Storm, truth: &HashMap<String, usize>) {
    for audience in &storm.audiences {
        let id = audience.id.parse().expect("it is an id");
        let stream = store.stream(id).await.expect("the store answers").expect("it is kept");
        assert_eq!(stream.viewers as usize, truth[&audience.id], "kept of {}", audience.id);
        let open = store.presence_open(id).await.expect("the store answers");
        let watching: BTreeSet<_> = open.iter().filter(|record| record.counts).map(|record| &record.user_id).collect();
        assert_eq!(watching.len(), truth[&audience.id], "open sessions of {}", audience.id);
    }
}

async fn a_webhook_of_somebody_else_changes_nothing_and_is_counted(kept: Kept) {
    let media = MediaServer::start().await;
    let product = kept.product("foreign", json!({ "sfu": media.config() })).await;
    let room = product.go_live("ana").await["roomName"].as_str().expect("it is told").to_owned();
    media.owner_arrives(&product, &room, "ana").await;
    let unknown = media.event("participant_joined", "another-app", Some(media.session("x", "x", "viewer")));
    let odd = media.event("something_new", &room, None);

    assert_eq!(deliver(&product, &unknown).await, 200);
    assert_eq!(deliver(&product, &odd).await, 200);
    let mut forged = media.event("room_finished", &room, None);
    forged.room.get_or_insert_default().sid = "RM_another".into();
    assert_eq!(deliver(&product, &forged).await, 200);
    let listed = product.get("/live/active", None).await.expect(200);
    assert_eq!(listed["streams"].as_array().map(Vec::len), Some(1));
}

/// Another server lets everybody in who has a token; here all have theirs before anybody joins.
async fn viewers_beyond_the_places_are_put_out_of_a_room_elsewhere(kept: Kept) {
    let media = MediaServer::start().await;
    let config = json!({ "sfu": media.config(), "live": { "max_viewers": 2 } });
    let product = kept.product("places", config).await;
    let live = product.go_live("ana").await;
    let text = |name: &str| live[name].as_str().expect("it is told");
    let (id, room) = (text("streamId"), text("roomName"));
    media.owner_arrives(&product, room, "ana").await;
    let names = ["u1", "u2", "u3", "u4", "u5", "u6"];
    for name in names {
        product.get(&format!("/live/{id}/watch"), Some(&token(name))).await.expect(200);
    }

    let sessions = names.map(|name| media.session(&format!("{name}:abcdefgh"), name, "viewer"));
    let second = media.session("u1:ijklmnop", "u1", "viewer");
    let events: Vec<_> = sessions.iter().map(|session| media.join(room, session.clone())).collect();
    stream::iter(&events)
        .for_each_concurrent(AT_A_TIME, async |event| assert_eq!(deliver(&product, event).await, 200))
        .await;
    assert_eq!(deliver(&product, &media.join(room, second)).await, 200);

    let stay = ["ana", "u1:abcdefgh", "u1:ijklmnop", "u2:abcdefgh"];
    eventually("who came first stays", async || {
        let inside: BTreeSet<String> = media.identities(room).into_iter().collect();
        inside.iter().map(String::as_str).eq(stay).then_some(())
    })
    .await;
    for session in sessions.into_iter().skip(2) {
        assert_eq!(deliver(&product, &media.leave(room, session)).await, 200);
    }
    assert_eq!(viewers(&product, id).await, 2);
}
