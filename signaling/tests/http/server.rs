//! A server on a port of its own, tokens for it, and a plain HTTP client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sfu::certificate::Certificate;
use sfu::io::Workers;
use signaling::http::{Admit, Counters, Sizes, Surface};
use signaling::rooms::Rooms;
use signaling::settings::RoomsConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::joins::{KEY, SECRET, keys};
use crate::workers::loopback;

/// Serves until the test's runtime ends.
pub struct Server {
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    pub rooms: Rooms,
    pub workers: Option<Workers>,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut RoomsConfig)) -> Self {
        Self::start_admitting(None, change).await
    }

    pub async fn start_admitting(admit: Option<Admit>, change: impl FnOnce(&mut RoomsConfig)) -> Self {
        let keys = keys();
        let certificate = Certificate::generate();
        let mut config = RoomsConfig::new("ND_test".into(), keys.signer(), certificate.fingerprint);
        change(&mut config);
        let auto_create = config.auto_create;
        let (on_event, events) = signaling::media::worker_events();
        let workers = Workers::start(loopback(certificate), on_event).unwrap();
        let rooms = Rooms::start(config, workers.handles().to_vec(), events);
        let counters = Arc::new(Counters::default());
        let surface = Surface {
            keys,
            rooms: rooms.clone(),
            auto_create,
            admit,
            sizes: Sizes::default(),
            bodies: Arc::default(),
            counters: Arc::clone(&counters),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = signaling::http::router(surface).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { address, counters, rooms, workers: Some(workers) }
    }

    /// Sends one request and reads the answer.
    pub async fn send(&self, request: Request<'_>) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = request.head(self.address);
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses a body may close before it has read it.
        let _ = stream.write_all(request.body).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        Answer::parse(&bytes)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request { path, ..Request::default() }).await
    }

    /// Calls a method of a Twirp service with JSON.
    pub async fn call(&self, method: &str, token: &str, body: &Value) -> Answer {
        let path = format!("/twirp/livekit.{method}");
        let authorization = format!("Bearer {token}");
        let mut headers = vec![("Content-Type", "application/json")];
        if !token.is_empty() {
            headers.push(("Authorization", &authorization));
        }
        self.send(Request { method: "POST", path: &path, headers: &headers, body: body.to_string().as_bytes() }).await
    }
}

pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self { method: "GET", path: "/", headers: &[], body: b"" }
    }
}

impl Request<'_> {
    fn head(&self, address: SocketAddr) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {address}\r\n", self.method, self.path);
        for (name, value) in self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Connection")) {
            head += "Connection: close\r\n";
        }
        head + &format!("Content-Length: {}\r\n\r\n", self.body.len())
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned()));
        Self { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status and text, the form in which most answers are compared.
    pub fn said(&self) -> (u16, String) {
        (self.status, self.text())
    }

    /// Status and code of a Twirp error.
    pub fn code(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap().to_owned())
    }
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token with these claims beside the usual ones; claims given here win.
pub fn token(claims: Value) -> String {
    token_signed(SECRET, claims)
}

pub fn token_signed(secret: &str, claims: Value) -> String {
    let mut all = json!({ "iss": KEY, "exp": now_s() + 600, "sub": "alice" });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &all, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// A token that joins `room`.
pub fn join_token(room: &str) -> String {
    token(json!({ "video": { "roomJoin": true, "room": room } }))
}

/// A token with this grant for the server API.
pub fn granting(video: Value) -> String {
    token(json!({ "sub": "", "video": video }))
}
