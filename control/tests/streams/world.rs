//! Streams with a clock, a store and a media server that a test holds in its hand.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use control::access::{Access, Admitted};
use control::chat::Chat;
use control::clock::Timestamp;
use control::cluster::Cluster;
use control::config::product;
use control::lifecycle::Lifecycle;
use control::problem::{Code, Problem};
use control::reconcile::Reconciler;
use control::rooms::{RoomRole, Session};
use control::services::{Parts, Services};
use control::store::SharedStore;
use control::store::stream::{Block, Edit, Stream, StreamId, StreamState, UserId};
use control::stream_cache::StreamCache;
use control::streams::{OnConflict, ScheduleRequest, StartRequest, Started, Streams, Watching};
use control::user::{Caller, Role, User};
use control::viewers::Handled;
use control::webhooks::{WebhookKeys, Webhooks};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::door::FakeDoor;
use crate::manual_clock::ManualClock;
use crate::switched_store::Switched;

pub const KEY: &str = "key";
pub const SECRET: &str = "a secret that is long enough for HMAC";

/// The beginning of 2026.
const BEGIN_MS: i64 = 1_767_225_600_000;

/// Longest wait for something that happens by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub access: Access,
    pub lifecycle: Lifecycle,
    pub streams: Streams,
    pub reconciler: Reconciler,
    pub webhooks: Webhooks,
    pub door: Arc<FakeDoor>,
    pub clock: ManualClock,
    pub store: Arc<Switched>,
    config: product::Live,
    /// Until they run.
    services: Mutex<Option<Services>>,
}

impl World {
    pub fn new(store: SharedStore) -> Self {
        Self::with(store, product::Live::default())
    }

    pub fn with(store: SharedStore, config: product::Live) -> Self {
        let shared = store.is_shared();
        Self::build(store, shared, config)
    }

    /// As if other processes could use the store.
    pub fn sharing(store: SharedStore) -> Self {
        Self::build(store, true, product::Live::default())
    }

    /// As if no other process could use the store.
    pub fn alone(store: SharedStore) -> Self {
        Self::build(store, false, product::Live::default())
    }

    fn build(store: SharedStore, shared: bool, config: product::Live) -> Self {
        let store = Switched::new(store, shared);
        let clock = ManualClock::at(Timestamp::from_millis(BEGIN_MS));
        Self::of(Arc::new(FakeDoor::default()), clock, store, config)
    }

    fn of(door: Arc<FakeDoor>, clock: ManualClock, store: Arc<Switched>, config: product::Live) -> Self {
        let time = clock.clock();
        let parts = Parts {
            config: config.clone(),
            cluster: Cluster::with_clock(sid(), store.clone(), Arc::clone(&time)),
            store: store.clone(),
            cache: StreamCache::default(),
            rooms: door.clone(),
            chat: Chat::default(),
        };
        let services = Services::with_clock(parts, time);
        Self {
            access: services.access.clone(),
            lifecycle: services.lifecycle.clone(),
            streams: services.streams.clone(),
            reconciler: services.reconciler.clone(),
            webhooks: Webhooks::new(keys(), services.lifecycle.clone(), services.viewers.clone()),
            door,
            clock,
            store,
            config,
            services: Mutex::new(Some(services)),
        }
    }

    /// Takes in what happens in its rooms, and keeps streams true, until `shutdown`. Once.
    pub fn run(&self, shutdown: &CancellationToken) -> JoinHandle<()> {
        let services = self.services.lock().unwrap().take().expect("it does not run yet");
        tokio::spawn(services.run(shutdown.clone()))
    }

    /// Another process, or the next one, with the same store and media server.
    pub fn node(&self) -> Self {
        Self::of(Arc::clone(&self.door), self.clock.clone(), Arc::clone(&self.store), self.config.clone())
    }

    /// Another process, which has no part in the rooms of this one.
    pub fn node_with_rooms_of_its_own(&self) -> Self {
        self.with_rooms_of_its_own(self.clock.clone())
    }

    /// The same, with a clock that is so many seconds ahead.
    pub fn node_with_rooms_of_its_own_and_a_clock_ahead(&self, seconds: u64) -> Self {
        let clock = ManualClock::at(self.clock.now());
        clock.advance(seconds);
        self.with_rooms_of_its_own(clock)
    }

    fn with_rooms_of_its_own(&self, clock: ManualClock) -> Self {
        Self::of(Arc::new(FakeDoor::default()), clock, Arc::clone(&self.store), self.config.clone())
    }

    /// Another process, which compares every second.
    pub fn hasty_node(&self) -> Self {
        let config = product::Live { reconcile_interval: 1, ..self.config.clone() };
        Self::of(Arc::clone(&self.door), self.clock.clone(), Arc::clone(&self.store), config)
    }

    // ---- streams

    pub async fn start(&self, owner: &str) -> Arc<Stream> {
        self.try_start(owner).await.expect("the start is granted").stream
    }

    pub async fn try_start(&self, owner: &str) -> Result<Started, Problem> {
        self.start_as(&user(owner), StartRequest::default()).await
    }

    pub async fn try_start_on(&self, owner: &str, on_conflict: OnConflict) -> Result<Started, Problem> {
        self.start_as(&user(owner), StartRequest { on_conflict, ..StartRequest::default() }).await
    }

    /// As a request of this user is let in.
    pub fn admit(&self, user: &User) -> Result<Admitted, Problem> {
        let caller = Caller { user: user.clone(), request_id: "request-1".into() };
        Ok(self.access.admit(self.access.feature()?, caller)?)
    }

    pub async fn start_as(&self, user: &User, request: StartRequest) -> Result<Started, Problem> {
        self.streams.start(&self.admit(user)?, request).await
    }

    pub async fn watch_as(&self, user: &User, id: StreamId, called: Option<&str>) -> Result<Watching, Problem> {
        self.streams.watch(&self.admit(user)?, id, called).await
    }

    pub async fn schedule_as(&self, user: &User, request: ScheduleRequest) -> Result<Arc<Stream>, Problem> {
        self.streams.schedule(&self.admit(user)?, request).await
    }

    pub async fn edit_as(&self, user: &User, id: StreamId, edit: Edit) -> Result<Arc<Stream>, Problem> {
        self.streams.edit(self.access.feature()?, user, id, edit).await
    }

    pub async fn cancel_as(&self, user: &User, id: StreamId) -> Result<Arc<Stream>, Problem> {
        self.streams.cancel(self.access.feature()?, user, id).await
    }

    /// Started, the owner inside and publishing.
    pub async fn live(&self, owner: &str) -> Arc<Stream> {
        let stream = self.start(owner).await;
        let publisher = self.publisher(owner);
        self.enter(&stream, &publisher).await;
        self.tell("track_published", &stream, Some(&publisher)).await;
        assert_eq!(self.stored(stream.id).await.state, StreamState::Live);
        stream
    }

    /// As the store has it.
    pub async fn stored(&self, id: StreamId) -> Stream {
        self.lifecycle.store().stream(id).await.expect("the store is there").expect("the stream is there")
    }

    pub async fn viewers(&self, stream: &Stream) -> u32 {
        self.stored(stream.id).await.viewers
    }

    pub async fn state(&self, stream: &Stream) -> StreamState {
        self.stored(stream.id).await.state
    }

    pub async fn block(&self, stream: &Stream, blocked: &str) {
        let block =
            Block { user_id: id(blocked), blocked_at: self.clock.now(), by: stream.owner_id.clone(), reason: None };
        let outcome = self.lifecycle.store().block(stream.id, &block).await.unwrap();
        self.lifecycle.observe(outcome.into_stream());
    }

    // ---- sessions

    pub fn publisher(&self, owner: &str) -> Session {
        Session { identity: owner.to_owned(), role: Some(RoomRole::Publisher), publishes: true, ..self.viewer(owner) }
    }

    pub fn viewer(&self, user: &str) -> Session {
        let sid = sid();
        Session {
            identity: format!("{user}:{sid}"),
            sid,
            user: Some(id(user)),
            role: Some(RoomRole::Viewer),
            standard: true,
            hidden: false,
            recorder: false,
            joined_at: self.clock.now(),
            active: true,
            publishes: false,
        }
    }

    /// Comes in, and the media server tells.
    pub async fn enter(&self, stream: &Stream, session: &Session) {
        self.door.put_in(&stream.room_name, session.clone());
        self.tell("participant_joined", stream, Some(session)).await;
    }

    pub async fn leave(&self, stream: &Stream, session: &Session) {
        self.door.take_out(&stream.room_name, &session.sid);
        self.tell("participant_left", stream, Some(session)).await;
    }

    // ---- webhooks

    /// Tells an event that must be taken.
    pub async fn tell(&self, event: &str, stream: &Stream, session: Option<&Session>) -> Handled {
        let body = self.event(event, stream, session);
        self.send(&body).await.expect("the event is taken")
    }

    pub fn event(&self, event: &str, stream: &Stream, session: Option<&Session>) -> Value {
        let mut body = json!({
            "event": event,
            "id": format!("EV_{}", sid()),
            "createdAt": (self.clock.now().millis() / 1000).to_string(),
            "room": { "name": stream.room_name, "sid": stream.room_sid },
        });
        if let Some(session) = session {
            body["participant"] = participant(session);
        }
        body
    }

    pub async fn send(&self, body: &Value) -> Result<Handled, Problem> {
        let body = body.to_string();
        self.webhook(&signed(body.as_bytes(), self.clock.now()), body.as_bytes()).await
    }

    /// A webhook with these headers and this body.
    pub async fn webhook(&self, headers: &HeaderMap, body: &[u8]) -> Result<Handled, Problem> {
        let hash = self.webhooks.check_token(headers)?;
        self.webhooks.receive(&hash, body).await
    }

    // ---- time

    /// Lets seconds pass one by one, each with what it brings.
    pub async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(1);
            self.reconciler.tick();
            tokio::task::yield_now().await;
        }
    }

    /// Waits until what is due for a stream is done: events of its room are handled after it.
    pub async fn settle(&self, stream: &Stream) {
        self.tell("room_started", stream, None).await;
    }

    /// Compares all live streams with their rooms now, and waits until that is done.
    pub async fn compare(&self) {
        let counters = self.lifecycle.counters();
        let done =
            || counters.reconciliations.load(Ordering::SeqCst) + counters.reconciliations_failed.load(Ordering::SeqCst);
        let wanted = done() + u64::try_from(self.lifecycle.cache().live_count()).unwrap();
        self.clock.advance(40);
        self.reconciler.tick();
        eventually("all streams are compared", async || done() >= wanted).await;
    }
}

/// Waits for something that happens by itself.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn id(user: &str) -> UserId {
    user.parse().unwrap()
}

pub fn user(name: &str) -> User {
    User {
        id: id(name),
        role: Role::User,
        name: Some(name.to_uppercase()),
        picture: None,
        expires_at: Timestamp::from_millis(BEGIN_MS * 2),
    }
}

pub fn admin(name: &str) -> Caller {
    Caller { user: User { role: Role::Admin, ..user(name) }, request_id: "request-1".into() }
}

pub fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> Code {
    result.expect_err("it is refused").code
}

/// A text that no other call gives.
pub fn sid() -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    format!("PA_{}", CALLS.fetch_add(1, Ordering::Relaxed))
}

pub fn participant(session: &Session) -> Value {
    let mut attributes = json!({});
    if let Some(user) = &session.user {
        attributes["app.userId"] = user.as_str().into();
    }
    if let Some(role) = session.role {
        attributes["app.role"] = role.name().into();
    }
    json!({
        "sid": session.sid,
        "identity": session.identity,
        "state": "ACTIVE",
        "joinedAt": (session.joined_at.millis() / 1000).to_string(),
        "joinedAtMs": session.joined_at.millis().to_string(),
        "kind": if session.standard { "STANDARD" } else { "AGENT" },
        "attributes": attributes,
        "permission": { "canSubscribe": true, "hidden": session.hidden, "recorder": session.recorder },
        "region": "somewhere",
    })
}

pub fn keys() -> WebhookKeys {
    WebhookKeys::new([("old", "another secret that is long enough"), (KEY, SECRET)])
}

pub fn signed(body: &[u8], now: Timestamp) -> HeaderMap {
    signed_with(SECRET, json!({ "sha256": BASE64_STANDARD.encode(Sha256::digest(body)) }), now)
}

/// A token with these claims beside the usual ones; claims given here win.
pub fn signed_with(secret: &str, claims: Value, now: Timestamp) -> HeaderMap {
    let seconds = now.millis() / 1000;
    let mut all = json!({ "iss": KEY, "nbf": seconds, "exp": seconds + 300 });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &all, &key).unwrap();
    with_token(&token)
}

pub fn with_token(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(token).unwrap());
    headers
}

/// Waits for a future from two sides at once.
pub async fn both<T>(a: impl Future<Output = T>, b: impl Future<Output = T>) -> (T, T) {
    tokio::join!(a, b)
}
