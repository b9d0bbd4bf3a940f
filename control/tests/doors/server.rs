//! A media server in this process, on loopback, and phones that connect to it.

#[path = "../../../signaling/tests/support/workers.rs"]
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::chat::Chat;
use control::clock::Timestamp;
use control::cluster::Cluster;
use control::config::product;
use control::rooms::builtin::{Builtin, admission};
use control::rooms::{RoomTimes, TokenSigner};
use control::services::{Parts, Services};
use control::store::SharedStore;
use control::store::embedded::Embedded;
use control::stream_cache::StreamCache;
use loadtest::client::{Client, ClientOptions, TrackSpec};
use loadtest::dtls::{Identity, SrtpProfile};
use loadtest::media::{MediaOptions, MediaThread};
use loadtest::sender::Source;
use sfu::certificate::Certificate;
use sfu::io::Workers;
use signaling::http::{Counters, Sizes, Surface};
use signaling::rooms::Rooms;
use signaling::settings::RoomsConfig;
use signaling::token::{Keys, Secret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub const KEY: &str = "key";
pub const SECRET: &str = "a secret that is long enough for HMAC";

/// Longest wait for something that happens by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves until the test's runtime ends.
pub struct Server {
    address: SocketAddr,
    pub rooms: Rooms,
    /// What its door knows of streams.
    cache: StreamCache,
    config: product::Live,
    media: MediaThread,
    identity: Identity,
    _workers: Workers,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(product::Live::default()).await
    }

    pub async fn start_with(live_config: product::Live) -> Self {
        let keys = Keys::new([(KEY.to_owned(), Secret::new(SECRET))]).unwrap();
        let certificate = Certificate::generate();
        let config = RoomsConfig::new("ND_test".into(), keys.signer(), certificate.fingerprint);
        let (on_event, events) = signaling::media::worker_events();
        let workers = Workers::start(workers::loopback(certificate), on_event).unwrap();
        let rooms = Rooms::start(config, workers.handles().to_vec(), events);
        let cache = StreamCache::default();
        let surface = Surface {
            keys,
            rooms: rooms.clone(),
            auto_create: true,
            admit: Some(admission(cache.clone(), live_config.max_viewers, || true, Timestamp::now)),
            bodies: Arc::default(),
            sizes: Sizes::default(),
            counters: Arc::new(Counters::default()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = signaling::http::router(surface).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        let media = MediaThread::spawn("phones", MediaOptions::default()).unwrap();
        let identity = Identity::generate(&[SrtpProfile::Aes128Gcm]).unwrap();
        Self { address, rooms, cache, config: live_config, media, identity, _workers: workers }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Streams in the rooms of this server.
    pub fn services(&self) -> Services {
        let config = self.config.clone();
        let signer = TokenSigner::new(KEY, SECRET, RoomTimes::of(&config));
        let store: SharedStore = Arc::new(Embedded::in_memory().unwrap());
        Services::new(Parts {
            config,
            cluster: Cluster::new("this one".to_owned(), Arc::clone(&store)),
            store,
            cache: self.cache.clone(),
            rooms: Arc::new(Builtin::new(self.rooms.clone(), signer, Some(self.url()))),
            chat: Chat::default(),
        })
    }

    /// Connects, until media could flow.
    pub async fn join(&self, token: &str) -> anyhow::Result<Phone> {
        let options = ClientOptions::new(self.url(), token);
        Ok(Phone(Client::join(&self.media, &self.identity, options).await?))
    }

    /// Opens the signalling connection and nothing more.
    pub async fn knock(&self, token: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        tokio_tungstenite::connect_async(self.join_url(token)).await.unwrap().0
    }

    /// The same, and goes away at once; false if it is not let in.
    pub async fn try_knock(&self, token: &str) -> bool {
        tokio_tungstenite::connect_async(self.join_url(token)).await.is_ok()
    }

    /// The answer to a handshake that is not in order.
    pub async fn handshake_without_a_key(&self, token: &str) -> String {
        let path = self.join_url(token).split_off(self.url().len());
        let head = "Host: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn join_url(&self, token: &str) -> String {
        format!("{}/rtc?protocol=17&sdk=js&access_token={token}", self.url())
    }

    /// Status and text of a join that is refused.
    pub async fn refused(&self, token: &str) -> (u16, String) {
        match tokio_tungstenite::connect_async(self.join_url(token)).await {
            Err(Error::Http(answer)) => {
                let (status, body) = (answer.status().as_u16(), answer.into_body().unwrap_or_default());
                (status, String::from_utf8(body).unwrap())
            }
            Ok(_) => panic!("let in"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A client that connects and, if told to, publishes.
pub struct Phone(Client);

impl Phone {
    pub async fn publish(&self) {
        let source = Source::Audio { packets_per_second: 50, payload_len: 40 };
        self.0.publish(TrackSpec { name: "microphone".into(), source, simulcast: false }).await.unwrap();
    }

    pub fn end_reason(&self) -> Option<&str> {
        self.0.end_reason()
    }

    pub async fn leave(self) {
        self.0.leave().await;
    }
}

/// Waits for something that happens by itself.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
