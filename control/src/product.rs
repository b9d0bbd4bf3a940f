//! The live-streaming product, put together: store, streams, chat and the API over them.
//!
//! It needs a media server alone, this process's own or another one; without it the process is a LiveKit server
//! (`sfu.mode: only`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use signaling::http::Admit;
use signaling::rooms::Rooms;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::{Authenticator, DevTokens, random_secret};
use crate::chat::{self, Chat, ChatModeration, Verify};
use crate::clock::Timestamp;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::config::product::{self as settings, SfuMode};
use crate::http::client::Proxies;
use crate::http::origins::Origins;
use crate::http::{self, Api, Phase};
use crate::lifecycle::Lifecycle;
use crate::moderation::Moderation;
use crate::problem::Problem;
use crate::reconcile::Reconciler;
use crate::rooms::builtin::{Builtin, admission};
use crate::rooms::external::External;
use crate::rooms::{RoomBackend, RoomTimes, TokenSigner};
use crate::services::{self, Services};
use crate::store::directory::{self, Claim, ClaimError};
use crate::store::embedded::{self, Durability, Embedded};
use crate::store::mongo::Mongo;
use crate::store::{SharedStore, StoreError};
use crate::store_watch::{self, StoreHealth};
use crate::stream_cache::StreamCache;
use crate::webhooks::{WebhookKeys, Webhooks};

/// How long a start waits for MongoDB.
const STORE_PATIENCE: Duration = Duration::from_secs(15);

/// How often what is past its time is removed.
const UPKEEP: Duration = Duration::from_secs(600);

/// The running product.
pub struct Product {
    lifecycle: Lifecycle,
    reconciler: Reconciler,
    /// Of a stream in a room of this process; 0: no cap.
    max_viewers: u32,
    chat: Chat,
    moderation: Moderation,
    http: Arc<http::Counters>,
    store_health: StoreHealth,
    phase: watch::Sender<Phase>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
    /// Until the process ends.
    _claim: Option<Claim>,
}

impl Product {
    /// Opens the store and starts all parts. Returns the routes to serve as well. Joins of rooms look into the same
    /// `cache` ([`crate::rooms::builtin::admission`]).
    ///
    /// # Errors
    /// Says what is in the way and what to do.
    pub async fn start(
        config: &Config,
        proxies: &Proxies,
        rooms: &Rooms,
        cache: StreamCache,
        node: &str,
    ) -> anyhow::Result<(Self, Router)> {
        if config.development && !config.bind_addresses.iter().all(std::net::IpAddr::is_loopback) {
            warn!("development mode beyond this machine: whoever reaches it can make tokens for any user");
        }
        if !config.live.enabled {
            info!("live streams are switched off (FEATURE_GO_LIVE): none starts and none is listed");
        }
        let claim = own_directory(config).as_deref().map(claim).transpose()?;
        let store = open_store(config).await?;
        let (auth, dev) = users(config)?;
        let backend = room_backend(config, rooms)?;
        let origins = Origins::new(&config.http.cors_origins, config.development)?;
        let cluster = Cluster::new(node.to_owned(), Arc::clone(&store));
        let chat = start_chat(config, (&origins, proxies), &store, &cache, &auth, &cluster)?;
        tighten(config);
        // Rooms of another server are told of, not asked about: `Viewers` sees to those.
        let max_viewers = if backend.is_local() { config.live.max_viewers } else { 0 };
        let services = Services::new(services::Parts {
            config: config.live.clone(),
            store: Arc::clone(&store),
            cache: cache.clone(),
            rooms: backend,
            chat: chat.clone(),
            cluster,
        });
        let (lifecycle, reconciler) = (services.lifecycle.clone(), services.reconciler.clone());
        let moderation = Moderation::new(lifecycle.clone(), services.streams.clone(), Arc::clone(&auth));
        let (phase, phases) = watch::channel(Phase::Starting);
        let store_health = StoreHealth::default();
        let counters = Arc::new(http::Counters::default());
        let api = Api {
            access: services.access.clone(),
            lifecycle: lifecycle.clone(),
            streams: services.streams.clone(),
            moderation: moderation.clone(),
            auth,
            dev,
            webhooks: Webhooks::new(webhook_keys(config), lifecycle.clone(), services.viewers.clone()),
            http: config.http.clone(),
            origins,
            proxies: proxies.clone(),
            live: config.live.clone(),
            chat: config.chat.clone(),
            development: config.development,
            phase: phases,
            store_health: store_health.clone(),
            workers: rooms.workers().to_vec(),
            counters: Arc::clone(&counters),
        };
        let observing = lifecycle.clone();
        let chat_routes = http::chat::routes(ChatModeration {
            chat: chat.clone(),
            store: Arc::clone(&store),
            cache,
            observe: Arc::new(move |stream| {
                observing.observe(stream);
            }),
            guest: config.chat.guest_access(config.development),
        });
        let sockets = chat.router().layer(from_fn_with_state(phase.subscribe(), while_serving));
        let router = http::router(api, chat_routes).merge(sockets);
        let shutdown = CancellationToken::new();
        let retention = Duration::from_secs(u64::from(config.chat.retention) * 24 * 3600);
        let upkeep = keep_up(Arc::clone(&store), UPKEEP, retention, shutdown.clone());
        let watching = store_watch::watch(Arc::clone(&store), store_health.clone(), shutdown.clone());
        let serving = run(services, moderation.clone(), phase.clone(), shutdown.clone());
        let running = tokio::spawn(async move {
            tokio::join!(serving, upkeep, watching);
        });
        let product = Self {
            lifecycle,
            reconciler,
            max_viewers,
            chat,
            moderation,
            http: counters,
            store_health,
            phase,
            shutdown,
            running,
            _claim: claim,
        };
        Ok((product, router))
    }

    /// Who may join rooms of this process.
    pub fn admission(&self, cache: StreamCache) -> Admit {
        let reconciler = self.reconciler.clone();
        admission(cache, self.max_viewers, move || reconciler.is_recovered(), Timestamp::now)
    }

    /// Where its numbers are.
    pub fn sources(&self) -> Sources {
        Sources {
            lifecycle: self.lifecycle.clone(),
            chat: self.chat.counters(),
            moderation: self.moderation.clone(),
            http: Arc::clone(&self.http),
            store_health: self.store_health.clone(),
        }
    }

    /// Refuses new requests from this call on. The returned future lets go of streams and chats without ending them,
    /// and takes at most `patience`; the process that starts next takes them over.
    pub fn stop(self, patience: Duration) -> impl Future<Output = ()> {
        self.phase.send_replace(Phase::Draining);
        // Before rooms are closed, so that their end is not taken for the end of the streams.
        self.shutdown.cancel();
        let Self { running, chat, lifecycle, _claim: claim, .. } = self;
        async move {
            let _until_all_is_written = claim;
            let let_go = async {
                if let Err(error) = running.await {
                    warn!(%error, "streams were not let go in order");
                }
                chat.shut_down().await;
                if let Err(error) = lifecycle.store().settle().await {
                    warn!(%error, "the newest of what is stored stays in files beside the database: keep them with it");
                }
            };
            if tokio::time::timeout(patience, let_go).await.is_err() {
                warn!(?patience, "what was under way is given up: the store or the media server does not answer");
            }
        }
    }
}

/// Numbers of the product, for metrics.
#[derive(Clone)]
pub struct Sources {
    pub lifecycle: Lifecycle,
    pub chat: Arc<chat::Counters>,
    pub moderation: Moderation,
    pub http: Arc<http::Counters>,
    pub store_health: StoreHealth,
}

/// Lets sockets connect only while the namespaces of all live streams are open. A client that is refused here tries
/// again by itself; one that asked for a namespace that is not open yet, or no more, would take its stream for ended.
async fn while_serving(
    State(phases): State<watch::Receiver<Phase>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let phase = *phases.borrow();
    match phase {
        Phase::Serving => Ok(next.run(request).await),
        Phase::Starting => Err(http::starting()),
        Phase::Draining => Err(http::draining()),
    }
}

/// Serves once the streams of an earlier process are taken over, and corrects streams until `shutdown`.
async fn run(services: Services, moderation: Moderation, phase: watch::Sender<Phase>, shutdown: CancellationToken) {
    let reconciler = services.reconciler.clone();
    let keeping = services.run(shutdown.clone());
    let opening = async {
        while !reconciler.is_recovered() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        if let Err(error) = moderation.recall_admins().await {
            warn!(%error, "administrators of earlier are not known: they can be blocked until they call");
        }
        phase.send_if_modified(|phase| {
            let starting = *phase == Phase::Starting;
            if starting {
                *phase = Phase::Serving;
            }
            starting
        });
    };
    tokio::join!(keeping, opening);
}

/// Removes what is past its time, now and each `interval`, until `shutdown`.
async fn keep_up(store: SharedStore, interval: Duration, chat_retention: Duration, shutdown: CancellationToken) {
    let for_ever = async {
        loop {
            if let Err(error) = store.expire(Timestamp::now(), chat_retention).await {
                warn!(%error, "what is past its time stays a while longer");
            }
            tokio::time::sleep(interval).await;
        }
    };
    shutdown.run_until_cancelled(for_ever).await;
}

async fn open_store(config: &Config) -> anyhow::Result<SharedStore> {
    let settings::Store { mongodb_uri, database, full_sync, .. } = &config.store;
    if !mongodb_uri.0.is_empty() {
        let database = (!database.is_empty()).then_some(database.as_str());
        let store = Mongo::connect(&mongodb_uri.0, database, STORE_PATIENCE).await.map_err(|error| {
            let text = text_of(error);
            anyhow::anyhow!("{text}. Its URI is store.mongodb_uri (MONGODB_URI)")
        })?;
        info!("everything is kept in MongoDB");
        return Ok(Arc::new(store));
    }
    let Some(directory) = own_directory(config) else {
        info!("everything is kept in memory, and gone when this process ends; --store.path DIRECTORY keeps it");
        return Ok(Arc::new(Embedded::in_memory().map_err(of_store)?));
    };
    let path = directory.join(embedded::FILE);
    let durability = if *full_sync { Durability::Full } else { Durability::Normal };
    let store = Embedded::open_alone(&path, &embedded::Options { durability }).map_err(of_store)?;
    info!(path = %path.display(), "everything is kept in the embedded store");
    Ok(Arc::new(store))
}

fn of_store(error: StoreError) -> anyhow::Error {
    anyhow::anyhow!("{}. Correct store.path (--store.path)", text_of(error))
}

fn text_of(error: StoreError) -> String {
    match error {
        StoreError::NotFound => "the store was not found".to_owned(),
        StoreError::Unavailable(text) | StoreError::Failed(text) => text,
    }
}

/// Where files are; `None` in development, unless told.
fn own_directory(config: &Config) -> Option<PathBuf> {
    match config.store.path.as_str() {
        "" if config.development => None,
        "" => Some(PathBuf::from(embedded::DIRECTORY)),
        path => Some(Path::new(path).to_owned()),
    }
}

/// Takes the files of the store from other users. They are open by now, and so known to be ours.
fn tighten(config: &Config) {
    let Some(directory) = own_directory(config) else { return };
    let mut files = vec![chat::QUEUE_FILE];
    if config.store.mongodb_uri.0.is_empty() {
        files.push(embedded::FILE);
        files.extend(embedded::FILES_BESIDE);
    }
    directory::tighten(&directory, &files);
}

/// Keeps a directory to this process.
fn claim(directory: &Path) -> anyhow::Result<Claim> {
    directory::claim(directory).map_err(|error| match error {
        ClaimError::InUse(_) => {
            anyhow::anyhow!("{error}: give each process its own directory as store.path (--store.path)")
        }
        ClaimError::Unusable { .. } => anyhow::anyhow!("{error}: correct store.path (--store.path)"),
    })
}

/// Who users are. In development there is a secret in any case, and tokens for whoever asks.
fn users(config: &Config) -> anyhow::Result<(Arc<Authenticator>, Option<DevTokens>)> {
    let mut auth = config.auth.clone();
    if config.development && auth.jwt_secret.0.is_empty() {
        auth.jwt_secret.0 = random_secret();
    }
    if auth.jwt_secret.0.is_empty() && auth.jwks_url.is_empty() {
        warn!(
            "nobody can go live: set JWT_SECRET or JWT_JWKS_URL, so that your users' tokens are known, or run a media \
             server alone with --sfu.mode only"
        );
    }
    let authenticator = Arc::new(Authenticator::new(&auth, &config.secrets_of_rooms())?);
    Ok((authenticator, config.development.then(|| DevTokens::new(&auth))))
}

/// Access to the rooms of streams.
fn room_backend(config: &Config, rooms: &Rooms) -> anyhow::Result<Arc<dyn RoomBackend>> {
    let times = RoomTimes::of(&config.live);
    let (key, secret) =
        config.key_of_streams().context("streams need an API key: set keys, or sfu.api_key and sfu.api_secret")?;
    let signer = TokenSigner::new(&key, &secret, times);
    let settings::Sfu { mode, url, public_url, .. } = &config.sfu;
    let public_url = (!public_url.is_empty()).then_some(public_url.as_str());
    Ok(match mode {
        SfuMode::External => Arc::new(External::new(url, public_url, signer)?),
        SfuMode::Builtin | SfuMode::Only => {
            let public_url = public_url.or((!url.is_empty()).then_some(url.as_str()));
            Arc::new(Builtin::new(rooms.clone(), signer, public_url.map(str::to_owned)))
        }
    })
}

/// Keys of servers whose webhooks are believed: the external one's, or ours.
fn webhook_keys(config: &Config) -> WebhookKeys {
    let keys = config.secrets_of_rooms();
    WebhookKeys::new(keys.iter().map(|(name, secret)| (name.as_str(), secret.as_str())))
}

fn start_chat(
    config: &Config,
    (origins, proxies): (&Origins, &Proxies),
    store: &SharedStore,
    cache: &StreamCache,
    auth: &Arc<Authenticator>,
    cluster: &Cluster,
) -> anyhow::Result<Chat> {
    let auth = Arc::clone(auth);
    let verify: Verify = Arc::new(move |token, now| {
        let auth = Arc::clone(&auth);
        Box::pin(async move { auth.verify(&token, now).await })
    });
    let directory = own_directory(config);
    Chat::start(chat::Parts {
        config: config.chat.clone(),
        guest: config.chat.guest_access(config.development),
        enabled: config.live.enabled,
        origins: origins.clone(),
        limits: chat::Limits::default(),
        store: Arc::clone(store),
        cache: cache.clone(),
        verify,
        proxies: proxies.clone(),
        directory: directory.clone(),
        cluster: cluster.clone(),
    })
    .with_context(|| format!("cannot keep messages in {}: correct store.path", directory.unwrap_or_default().display()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::body::Body;
    use axum::routing::get;
    use tower::Service as _;

    use super::*;

    #[tokio::test]
    async fn what_is_past_its_time_is_removed_at_the_start_and_again_and_again() {
        let store: SharedStore = Arc::new(Embedded::in_memory().unwrap());
        let (long_ago, shutdown) = (Timestamp::now().minus(Duration::from_secs(48 * 3600)), CancellationToken::new());
        let note = async || store.note_webhook("EV_1", long_ago).await.unwrap();
        note().await;
        let interval = Duration::from_millis(1);
        let upkeep = tokio::spawn(keep_up(Arc::clone(&store), interval, Duration::ZERO, shutdown.clone()));

        for _ in 0..3 {
            let begin = Instant::now();
            while store.webhook_handled("EV_1", long_ago).await.unwrap() {
                assert!(begin.elapsed() < Duration::from_secs(20), "it is still there");
                tokio::time::sleep(interval).await;
            }
            note().await;
        }
        shutdown.cancel();
        upkeep.await.unwrap();
    }

    #[test]
    fn in_development_nothing_is_kept_unless_it_is_said_where() {
        let directory = |development, path: &str| {
            let store = settings::Store { path: path.into(), ..settings::Store::default() };
            own_directory(&Config { development, store, ..Config::default() })
        };

        assert_eq!(directory(true, ""), None);
        assert_eq!(directory(true, "here"), Some("here".into()));
        assert_eq!(directory(false, ""), Some(embedded::DIRECTORY.into()));
    }

    #[tokio::test]
    async fn sockets_connect_only_while_the_namespaces_of_all_streams_are_open() {
        let (phase, phases) = watch::channel(Phase::Starting);
        let mut router = Router::new().route("/", get(|| async {})).layer(from_fn_with_state(phases, while_serving));
        for (now, status) in [(Phase::Starting, 503), (Phase::Serving, 200), (Phase::Draining, 503)] {
            phase.send_replace(now);
            let answer = router.call(Request::new(Body::empty())).await.unwrap();

            assert_eq!(answer.status().as_u16(), status, "{now:?}");
            assert_eq!(answer.headers().contains_key("retry-after"), status == 503);
        }
    }
}
