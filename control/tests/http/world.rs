//! The API on a port of its own, with a store, a media server that is only a list, and tokens for anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use control::auth::{Authenticator, DevTokens};
use control::chat::Chat;
use control::clock::{Clock, Timestamp};
use control::cluster::Cluster;
use control::config::{Hidden, product};
use control::http::client::Proxies;
use control::http::origins::Origins;
use control::http::{Api, Counters, Phase};
use control::lifecycle::Lifecycle;
use control::moderation::Moderation;
use control::rooms::{RoomBackend, RoomInfo, RoomsError, Session, TokenRequest};
use control::serve::{self, serve};
use control::services::{Parts, Services};
use control::store::SharedStore;
use control::store_watch::StoreHealth;
use control::stream_cache::StreamCache;
use control::webhooks::{WebhookKeys, Webhooks};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};
use sfu::io::WorkerHandle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::manual_clock::ManualClock;

pub const SECRET: &str = "the secret of the users of these tests";
pub const SFU_KEY: &str = "APItest";
pub const SFU_SECRET: &str = "the secret of the media server of these tests";

/// Longest wait for something that happens by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A media server that is nothing but a list of rooms. Its tokens are the requests for them, as text.
#[derive(Default)]
pub struct Rooms {
    rooms: Mutex<BTreeSet<String>>,
    removed: Mutex<Vec<(String, String)>>,
    inside: Mutex<BTreeMap<String, Vec<Session>>>,
    sids: AtomicU32,
    away: AtomicBool,
}

impl Rooms {
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub fn has(&self, room: &str) -> bool {
        self.rooms.lock().unwrap().contains(room)
    }

    pub fn enter(&self, room: &str, session: Session) {
        self.inside.lock().unwrap().entry(room.to_owned()).or_default().push(session);
    }

    pub fn removed(&self) -> Vec<(String, String)> {
        self.removed.lock().unwrap().clone()
    }

    fn check(&self) -> Result<(), RoomsError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(RoomsError::Unavailable("switched off by the test".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl RoomBackend for Rooms {
    fn token(&self, request: &TokenRequest, now: Timestamp) -> (String, Timestamp) {
        let text = json!({
            "room": request.room, "identity": request.identity, "user": request.user,
            "publish": request.may_publish, "data": request.may_publish_data,
            "seconds": request.life.as_secs(),
        });
        (text.to_string(), now.plus(request.life))
    }

    fn url(&self, called: Option<&str>) -> Option<String> {
        Some(called?.replacen("http", "ws", 1))
    }

    async fn create(&self, room: &str) -> Result<String, RoomsError> {
        self.check()?;
        self.rooms.lock().unwrap().insert(room.to_owned());
        Ok(format!("RM_{}", self.sids.fetch_add(1, Ordering::SeqCst)))
    }

    async fn delete(&self, room: &str) -> Result<(), RoomsError> {
        self.check()?;
        self.rooms.lock().unwrap().remove(room);
        Ok(())
    }

    async fn list(&self, _: &[String]) -> Result<Vec<RoomInfo>, RoomsError> {
        self.check()?;
        let rooms = self.rooms.lock().unwrap();
        Ok(rooms.iter().map(|name| RoomInfo { name: name.clone(), sid: "RM_1".into() }).collect())
    }

    async fn sessions(&self, room: &str) -> Result<Vec<Session>, RoomsError> {
        self.check()?;
        Ok(self.inside.lock().unwrap().get(room).cloned().unwrap_or_default())
    }

    async fn remove(&self, room: &str, identity: &str) -> Result<(), RoomsError> {
        self.check()?;
        self.removed.lock().unwrap().push((room.to_owned(), identity.to_owned()));
        Ok(())
    }
}

/// What a test may set.
#[derive(Default)]
pub struct Settings {
    pub auth: product::Auth,
    pub live: product::Live,
    pub http: product::Http,
    pub development: bool,
    pub workers: Vec<WorkerHandle>,
    /// Of streams and moderation; the time of day if absent. Tokens are always read by the time of day.
    pub clock: Option<ManualClock>,
}

pub struct World {
    pub address: SocketAddr,
    /// The same by the product's own server.
    pub served_by_us: SocketAddr,
    pub lifecycle: Lifecycle,
    pub moderation: Moderation,
    pub rooms: Arc<Rooms>,
    pub counters: Arc<Counters>,
    pub phase: watch::Sender<Phase>,
    pub store_health: StoreHealth,
    client: reqwest::Client,
    server: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Of a refusal.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("no refusal: {self:?}")).to_owned()
    }

    /// The JSON of an answer with this status.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!(body.get("errors").is_some(), code == "validation_failed", "{self:?}");
        let wait = body.get("retryAfterMs").and_then(Value::as_u64);
        assert!(wait.is_none() || status == 429 || status == 503, "{self:?}");
        let seconds = wait.map(|millis| millis.div_ceil(1000).to_string());
        assert_eq!(self.header("retry-after"), seconds.as_deref(), "{self:?}");
    }

    /// Of a refusal: when to come back.
    pub fn retry_after_ms(&self) -> u64 {
        self.json()["retryAfterMs"].as_u64().unwrap_or_else(|| panic!("it does not say when: {self:?}"))
    }

    /// Of a validation: the fields that are named.
    pub fn wrong_fields(&self) -> Vec<String> {
        self.refused(422, "validation_failed");
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    }
}

impl World {
    pub async fn new(store: SharedStore) -> Self {
        Self::with(store, |_| ()).await
    }

    pub async fn with(store: SharedStore, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        settings.auth.jwt_secret = Hidden(SECRET.into());
        // Limits have tests of their own.
        settings.live.starts_per_hour = 0;
        settings.live.start_cooldown = 0;
        settings.http.calls_per_minute = 0;
        settings.http.anonymous_calls_per_minute = 0;
        set(&mut settings);
        Self::build(store, settings).await
    }

    async fn build(store: SharedStore, settings: Settings) -> Self {
        let Settings { auth, live, http, development, workers, clock } = settings;
        let clock = clock.map_or_else(|| Arc::new(Timestamp::now) as Clock, |clock| clock.clock());
        let rooms = Arc::new(Rooms::default());
        let door: Arc<dyn RoomBackend> = Arc::clone(&rooms) as _;
        let (known, chat) = (StreamCache::default(), Chat::default());
        let cluster = Cluster::with_clock("this one".to_owned(), Arc::clone(&store), Arc::clone(&clock));
        let parts = Parts { config: live.clone(), store, cache: known, rooms: door, chat, cluster };
        let Services { access, lifecycle, streams, viewers, .. } = Services::with_clock(parts, clock);
        let dev = development.then(|| DevTokens::new(&auth));
        let keys = [(SFU_KEY.to_owned(), SFU_SECRET.to_owned())];
        let auth = Arc::new(Authenticator::new(&auth, &keys).unwrap());
        let moderation = Moderation::new(lifecycle.clone(), streams.clone(), Arc::clone(&auth));
        let (phase, phases) = watch::channel(Phase::Serving);
        let counters = Arc::new(Counters::default());
        let store_health = StoreHealth::default();
        let api = Api {
            access,
            lifecycle: lifecycle.clone(),
            streams,
            moderation: moderation.clone(),
            auth,
            dev,
            webhooks: Webhooks::new(WebhookKeys::new([(SFU_KEY, SFU_SECRET)]), lifecycle.clone(), viewers),
            origins: Origins::new(&http.cors_origins, development).unwrap(),
            proxies: Proxies::new(&http.trusted_proxies).unwrap(),
            http,
            live,
            chat: product::Chat::default(),
            development,
            phase: phases,
            store_health: store_health.clone(),
            workers,
            counters: Arc::clone(&counters),
        };
        let router = control::http::router(api, utoipa_axum::router::OpenApiRouter::new());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ours = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let served_by_us = ours.local_addr().unwrap();
        let by_us = serve(ours, router.clone(), serve::Settings::default());
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move {
            tokio::select! {
                served = async { axum::serve(listener, service).await } => served.unwrap(),
                never = by_us => match never {},
            }
        });
        Self {
            address,
            served_by_us,
            lifecycle,
            moderation,
            rooms,
            counters,
            phase,
            store_health,
            client: client(),
            server,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request that a test completes.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), self.url(path))
    }

    /// `user`: a name, of an administrator if it begins with `admin`; empty for nobody.
    pub async fn call(&self, method: &str, path: &str, user: &str, body: Value) -> Answer {
        let mut request = self.request(method, path);
        if !user.is_empty() {
            request = request.header("authorization", format!("Bearer {}", token(user)));
        }
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        send(request).await
    }

    pub async fn get(&self, path: &str, user: &str) -> Answer {
        self.call("GET", path, user, Value::Null).await
    }

    pub async fn post(&self, path: &str, user: &str, body: Value) -> Answer {
        self.call("POST", path, user, body).await
    }

    pub async fn put(&self, path: &str, user: &str, body: Value) -> Answer {
        self.call("PUT", path, user, body).await
    }

    pub async fn patch(&self, path: &str, user: &str, body: Value) -> Answer {
        self.call("PATCH", path, user, body).await
    }

    pub async fn delete(&self, path: &str, user: &str) -> Answer {
        self.call("DELETE", path, user, Value::Null).await
    }

    /// Starts a stream; its id.
    pub async fn start(&self, owner: &str) -> String {
        self.start_with(owner, json!({})).await
    }

    pub async fn start_with(&self, owner: &str, body: Value) -> String {
        let started = self.post("/api/live/start", owner, body).await.expect(201);
        started["streamId"].as_str().unwrap().to_owned()
    }

    /// Schedules a stream for in an hour; its id.
    pub async fn schedule(&self, owner: &str, visibility: &str) -> String {
        let body = json!({ "title": "Soon", "scheduledFor": in_seconds(3600), "visibility": visibility });
        let stream = self.post("/api/live/scheduled", owner, body).await.expect(201);
        stream["streamId"].as_str().unwrap().to_owned()
    }
}

/// Waits until something holds that happens by itself.
pub async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE, "it never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

/// Text of a time from now.
pub fn in_seconds(seconds: i64) -> String {
    Timestamp::from_millis(Timestamp::now().millis() + seconds * 1000).to_string()
}

pub fn seconds_now() -> i64 {
    Timestamp::now().millis() / 1000
}

/// A valid token.
pub fn token(user: &str) -> String {
    let role = if user.starts_with("admin") { "admin" } else { "user" };
    sign(&json!({ "sub": user, "exp": seconds_now() + 600, "role": role, "name": format!("Name of {user}") }))
}

pub fn sign(claims: &Value) -> String {
    sign_with(claims, SECRET)
}

pub fn sign_with(claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}
