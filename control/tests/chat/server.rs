//! The chat in this process, on a free port of loopback, with streams that a test starts and ends at will.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use control::access::Access;
use control::auth::{AuthError, Reason};
use control::chat::{Chat, ChatModeration, Limits, Parts, SettingsChange, Verify};
use control::clock::Timestamp;
use control::cluster::Cluster;
use control::config::product::{self, GuestAccess};
use control::http::caller::{Call, Identity, RequestId};
use control::http::client::{ClientKey, Proxies};
use control::http::origins::Origins;
use control::problem::Problem;
use control::serve::{Settings, serve};
use control::store::SharedStore;
use control::store::embedded::Embedded;
use control::store::moderation::Ban;
use control::store::stream::*;
use control::stream_cache::StreamCache;
use control::user::{Caller, Role, User};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::switched_store::Switched;

/// What a test chooses.
pub struct Options {
    pub limits: Limits,
    pub config: product::Chat,
    pub guest: GuestAccess,
    pub enabled: bool,
    pub origins: Origins,
    pub unread_max: Duration,
    pub directory: Option<std::path::PathBuf>,
    /// Absent: a fresh one.
    pub store: Option<SharedStore>,
    /// As if other processes could use the store, whatever it says.
    pub shared: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            config: product::Chat::default(),
            guest: GuestAccess::Read,
            enabled: true,
            origins: Origins::default(),
            unread_max: Duration::from_secs(25),
            directory: None,
            store: None,
            shared: false,
        }
    }
}

/// A server under test. It ends with this value.
pub struct Server {
    pub address: SocketAddr,
    pub world: Arc<World>,
    task: JoinHandle<()>,
}

/// What stands behind the chat.
pub struct World {
    access: Access,
    pub chat: Chat,
    pub cache: StreamCache,
    pub store: SharedStore,
    pub away: Arc<Switched>,
    moderation: ChatModeration,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(options: Options) -> Self {
        let inner = options.store.unwrap_or_else(|| Arc::new(Embedded::in_memory().unwrap()));
        let shared = options.shared || inner.is_shared();
        let away = Switched::new(inner, shared);
        let store: SharedStore = away.clone();
        let cache = StreamCache::default();
        let cluster = Cluster::new(StreamId::generate().to_string(), Arc::clone(&store));
        let parts = Parts {
            config: options.config,
            guest: options.guest,
            enabled: options.enabled,
            origins: options.origins,
            limits: options.limits,
            store: Arc::clone(&store),
            cache: cache.clone(),
            verify: verify(),
            proxies: Proxies::default(),
            directory: options.directory,
            cluster: cluster.clone(),
        };
        let chat = Chat::start(parts).unwrap();
        let observe = {
            let (chat, cache) = (chat.clone(), cache.clone());
            Arc::new(move |stream| {
                let _ = cache.observe(stream, |change| chat.observe(change));
            })
        };
        let (chat_of, cache_of) = (chat.clone(), cache.clone());
        let moderation =
            ChatModeration { chat: chat_of, store: Arc::clone(&store), cache: cache_of, observe, guest: options.guest };
        let api: Router = control::http::chat::routes(moderation.clone()).split_for_parts().0;
        let access = Access::new(cache.clone(), true, Arc::new(Timestamp::now));
        let world = Arc::new(World { access: access.clone(), chat: chat.clone(), cache, store, away, moderation });
        let router =
            chat.router().merge(api.layer(from_fn_with_state(access, identify))).merge(orders(Arc::clone(&world)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = Settings { unread_max: options.unread_max, ..Settings::default() };
        let task = tokio::spawn(async move {
            tokio::join!(cluster.run(CancellationToken::new()), async {
                match serve(listener, router, settings).await {}
            });
        });
        Self { address, world, task }
    }
}

/// Tokens of tests are `<user>` or `<user>:<what>`: `admin`, `expired`, `bad`, or seconds until it expires.
fn verify() -> Verify {
    Arc::new(|token, now| {
        Box::pin(async move {
            let (user, what) = token.split_once(':').unwrap_or((&token, ""));
            let life = match what {
                "bad" => return Err(Reason::Signature.into()),
                "expired" => return Err(AuthError::Expired),
                seconds => Duration::from_millis((seconds.parse::<f64>().unwrap_or(3600.0) * 1000.0) as u64),
            };
            Ok(user_named(user, what == "admin", now.plus(life)))
        })
    })
}

/// As the layers of the API do, with the tokens of tests.
async fn identify(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let token = request.headers().get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let identity = match token.map(str::to_owned) {
        None => Identity::Guest,
        Some(token) => match verify()(token, Timestamp::now()).await {
            Ok(user) => Identity::User(Arc::new(user)),
            Err(error) => Identity::Refused(error),
        },
    };
    let client = ClientKey::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    request.extensions_mut().insert(Call { identity, client, called: None, development: false });
    request.extensions_mut().insert(access.feature().unwrap());
    request.extensions_mut().insert(access);
    request.extensions_mut().insert(RequestId("request-1".into()));
    next.run(request).await
}

pub fn user_named(id: &str, admin: bool, expires_at: Timestamp) -> User {
    let role = if admin { Role::Admin } else { Role::User };
    User { id: id.parse().unwrap(), role, name: Some(format!("{id}'s name")), picture: None, expires_at }
}

pub fn stream_of(owner: &str, room_name: &str) -> Stream {
    let now = Timestamp::now();
    Stream {
        room_name: room_name.into(),
        state: StreamState::Live,
        started_at: Some(now),
        ..Stream::new(owner.parse().unwrap(), now)
    }
}

impl World {
    pub fn observe(&self, stream: Stream) {
        let _ = self.cache.observe(stream, |change| self.chat.observe(change));
    }

    /// A new live stream.
    pub async fn go_live(&self, owner: &str) -> Stream {
        let stream = stream_of(owner, &format!("live_{owner}_{}", StreamId::generate()));
        self.store.create(&stream).await.unwrap();
        self.observe(stream.clone());
        stream
    }

    pub async fn end(&self, id: StreamId) {
        let transition = Transition {
            from: StreamState::LIVE.to_vec(),
            to: StreamState::Ended,
            at: Timestamp::now(),
            end_reason: Some(EndReason::Stopped),
            room_sid: None,
        };
        let outcome = self.store.transition(id, &transition).await.unwrap();
        self.observe(outcome.into_stream());
        self.chat.closed(id).await;
    }

    /// Changes the copy in memory alone, as if another node had written.
    fn touch(&self, id: StreamId, change: impl FnOnce(&mut Stream)) {
        let mut stream = Stream::clone(&self.cache.stream(id).unwrap());
        stream.rev += 1;
        change(&mut stream);
        self.observe(stream);
    }
}

/// What scripts ask for: `POST /test/<what>` with a JSON body.
fn orders(world: Arc<World>) -> Router {
    Router::new().route("/test/{what}", post(order)).with_state(world)
}

async fn order(
    State(world): State<Arc<World>>,
    axum::extract::Path(what): axum::extract::Path<String>,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    match obey(&world, &what, &body).await {
        Ok(answer) => (StatusCode::OK, Json(answer)),
        Err(problem) => (problem.code.status(), Json(json!({ "code": problem.code.name() }))),
    }
}

/// The same, without HTTP.
pub async fn obey(world: &World, what: &str, body: &Value) -> Result<Value, Problem> {
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    let id = || text("streamId").parse::<StreamId>().unwrap();
    let user = || text("userId").parse::<UserId>().unwrap();
    let by = if text("by").is_empty() { "owner" } else { text("by") };
    let admin = body["admin"].as_bool().unwrap_or(false);
    let caller = Caller { user: user_named(by, admin, Timestamp::now()), request_id: "request-1".into() };
    let moderation = &world.moderation;
    let standing = world.access.admit(world.access.feature()?, caller.clone());
    let admitted = standing.clone();
    Ok(match what {
        "live" => {
            let stream = world.go_live(text("owner")).await;
            json!({ "streamId": stream.id, "namespace": format!("/live:{}", stream.room_name) })
        }
        "end" => {
            world.end(id()).await;
            Value::Null
        }
        "block" => {
            let block = Block { user_id: user(), blocked_at: Timestamp::now(), by: caller.user.id, reason: None };
            world.observe(world.store.block(id(), &block).await?.into_stream());
            Value::Null
        }
        "ban" => {
            let (by, at) = (caller.user.id, Timestamp::now());
            world.cache.observe_ban(Ban {
                user_id: user(),
                reason: String::new(),
                until: None,
                by,
                at,
                lifted_at: None,
            });
            world.chat.disconnect_user(&user());
            Value::Null
        }
        "viewers" => {
            let viewers = body["viewers"].as_u64().unwrap_or(0) as u32;
            world.touch(id(), |stream| (stream.viewers, stream.peak_viewers) = (viewers, viewers));
            Value::Null
        }
        "title" => {
            world.touch(id(), |stream| stream.title = Some(text("title").to_owned()));
            Value::Null
        }
        "state" => {
            world.touch(id(), |stream| stream.state = serde_json::from_value(body["state"].clone()).unwrap());
            Value::Null
        }
        "store" => {
            world.away.set_away(body["away"].as_bool().unwrap_or(false));
            Value::Null
        }
        "settings" => {
            let change = SettingsChange {
                enabled: body["enabled"].as_bool(),
                slow_mode_seconds: body["slowModeSeconds"].as_u64().map(|n| n as u32),
                max_length: body["maxLength"].as_u64().map(|n| n as u32),
                links_allowed: body["linksAllowed"].as_bool(),
                emoji_only: body["emojiOnly"].as_bool(),
                filter: serde_json::from_value(body["filter"].clone()).ok(),
            };
            serde_json::to_value(moderation.change_settings(&admitted?, id(), &change).await?).unwrap()
        }
        "mute" => {
            let length = Duration::from_secs(body["seconds"].as_u64().unwrap_or(10));
            let clear = body["deleteMessages"].as_bool().unwrap_or(false);
            json!({ "until": moderation.mute(&admitted?, id(), &user(), length, clear).await? })
        }
        "unmute" => json!(moderation.unmute(&admitted?, id(), &user()).await?),
        "pin" => serde_json::to_value(moderation.pin(&admitted?, id(), text("messageId")).await?).unwrap(),
        "unpin" => json!(moderation.unpin(&admitted?, id()).await?),
        "delete" => json!(moderation.delete(&caller, standing, id(), text("messageId")).await?),
        other => panic!("no test order {other}"),
    })
}
