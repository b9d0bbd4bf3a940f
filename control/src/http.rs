//! The stream API over HTTP: its routes, and what all of them share (stream API, section 1).
//!
//! From the outside in, a call passes [`envelope`] (request id, problem details, counting), CORS, a catch for panics,
//! [`admission`] (who calls, how often, is the server up, is the feature on), and its handler. Handlers read and check
//! what came ([`body`], [`page`], [`path`], [`fields`]), call [`Streams`] or [`Moderation`], and write what clients
//! see ([`shape`]). Every refusal is a [`Problem`]; every route describes itself for [`openapi`].

mod active;
mod admin;
mod admission;
mod blocks;
pub mod body;
pub mod caller;
pub mod chat;
pub mod client;
mod counters;
mod docs;
mod envelope;
pub mod fields;
mod figures;
mod limit;
pub mod openapi;
pub mod origins;
pub mod page;
pub mod path;
mod reports;
mod scheduled;
mod service;
mod shape;
mod streams;
mod webhook;

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::request::Parts;
use axum::http::{HeaderName, Method, header};
use axum::middleware::from_fn_with_state;
use axum::routing::any;
use sfu::io::WorkerHandle;
use tokio::sync::{Semaphore, watch};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
use tracing::{Instrument as _, Span};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use admission::starting;
pub use counters::{Answers, Counters};

use crate::access::Access;
use crate::auth::{Authenticator, DevTokens};
use crate::config::product;
use crate::lifecycle::Lifecycle;
use crate::moderation::Moderation;
use crate::problem::{Code, Problem};
use crate::store::stream::UserId;
use crate::store_watch::StoreHealth;
use crate::streams::Streams;
use crate::webhooks::Webhooks;
use client::Proxies;
use limit::Limits;
use origins::Origins;

/// Analyses that are computed at the same time; others wait.
const ANALYSES_MAX: usize = 2;

/// Where the server is between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The store has not been read yet.
    Starting,
    Serving,
    /// No new streams; those under way go on until the end.
    Draining,
}

/// What the API is made of.
pub struct Api {
    pub access: Access,
    pub lifecycle: Lifecycle,
    pub streams: Streams,
    pub moderation: Moderation,
    pub auth: Arc<Authenticator>,
    /// In development only.
    pub dev: Option<DevTokens>,
    pub webhooks: Webhooks,
    pub http: product::Http,
    /// Of `http`, read.
    pub origins: Origins,
    pub proxies: Proxies,
    pub live: product::Live,
    pub chat: product::Chat,
    pub development: bool,
    pub phase: watch::Receiver<Phase>,
    pub store_health: StoreHealth,
    /// Those that carry the media of this process.
    pub workers: Vec<WorkerHandle>,
    pub counters: Arc<Counters>,
}

/// What handlers have.
struct Front {
    api: Api,
    limits: Limits,
    snapshots: active::Snapshots,
    analyses: Semaphore,
}

impl Deref for Front {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Front {
    fn phase(&self) -> Phase {
        *self.api.phase.borrow()
    }

    fn refuse_when_draining(&self) -> Result<(), Problem> {
        if self.phase() == Phase::Draining { Err(draining()) } else { Ok(()) }
    }
}

/// What the lines of the log that belong to a call have in common.
fn call_span(parts: &Parts, address: IpAddr, user: Option<&UserId>) -> Span {
    let request_id = parts.extensions.get::<caller::RequestId>().map(|id| &*id.0);
    tracing::info_span!("call", request_id, user = user.map(UserId::as_str), %address)
}

pub(crate) fn draining() -> Problem {
    Problem::new(Code::ShuttingDown, "This server is stopping; try again in a moment.")
        .retry_after(Duration::from_secs(5))
}

/// All routes of the API, `/healthz`, `/readyz`, `/openapi.json` and `/docs`. `chat` are the routes of section 8.5,
/// with their full paths; they get the same layers.
pub fn router(api: Api, chat: OpenApiRouter) -> Router {
    let cors = cors(&api.origins);
    let counters = Arc::clone(&api.counters);
    let front = Arc::new(Front {
        limits: Limits::new(api.http.calls_per_minute, api.http.anonymous_calls_per_minute),
        snapshots: active::Snapshots::default(),
        analyses: Semaphore::new(ANALYSES_MAX),
        api,
    });
    let (routes, description) = describe(&front, chat).split_for_parts();
    let identify = from_fn_with_state(Arc::clone(&front), admission::identify);
    let nothing = Router::new()
        .route("/api", any(nothing_here))
        .route("/api/", any(nothing_here))
        .route("/api/{*rest}", any(nothing_here))
        .layer(identify)
        .with_state(Arc::clone(&front));
    let mut router = routes.merge(nothing).merge(docs::router(&description));
    router = router.layer(CatchPanicLayer::custom(envelope::panicked));
    if let Some(cors) = cors {
        router = router.layer(cors);
    }
    router.layer(from_fn_with_state(counters, envelope::wrap))
}

/// The routes that describe themselves, with their layers.
fn describe(front: &Arc<Front>, chat: OpenApiRouter) -> OpenApiRouter {
    let identify = from_fn_with_state(Arc::clone(front), admission::identify);
    let recovered = from_fn_with_state(Arc::clone(front), admission::wait_for_recovery);
    let enabled = from_fn_with_state(Arc::clone(front), admission::check_feature);
    let limited = from_fn_with_state(Arc::clone(front), admission::limit_acts);
    let live_acts = OpenApiRouter::new().routes(routes!(blocks::block, blocks::unblock)).with_state(Arc::clone(front));
    let live = live_routes().with_state(Arc::clone(front));
    let live = live.merge(live_acts.merge(chat).layer(limited.clone())).layer(enabled);
    let own_acts = OpenApiRouter::new().routes(routes!(blocks::own_block, blocks::own_unblock));
    let lasting = lasting_routes().merge(own_acts.layer(limited)).with_state(Arc::clone(front));
    let known = live.merge(lasting).layer(recovered.clone());
    let anybody =
        OpenApiRouter::new().routes(routes!(service::config)).merge(dev_routes(front)).with_state(Arc::clone(front));
    let outside = OpenApiRouter::new()
        .routes(routes!(service::healthz))
        .routes(routes!(service::readyz))
        .with_state(Arc::clone(front));
    let webhooks =
        OpenApiRouter::new().routes(routes!(webhook::receive)).with_state(Arc::clone(front)).layer(recovered);
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .merge(known.merge(anybody).layer(identify))
        .merge(webhooks)
        .merge(outside)
}

/// Those that end with the feature flag.
fn live_routes() -> OpenApiRouter<Arc<Front>> {
    OpenApiRouter::new()
        .routes(routes!(streams::start))
        .routes(routes!(active::active))
        .routes(routes!(streams::mine))
        .routes(routes!(scheduled::schedule, scheduled::list))
        .routes(routes!(streams::read, streams::edit, scheduled::cancel))
        .routes(routes!(streams::watch))
        .routes(routes!(blocks::blocks))
        .routes(routes!(reports::file))
        .routes(routes!(figures::analytics))
}

/// Those that stay when the feature is switched off: streams under way can be ended.
fn lasting_routes() -> OpenApiRouter<Arc<Front>> {
    OpenApiRouter::new()
        .routes(routes!(streams::stop))
        .routes(routes!(streams::end))
        .routes(routes!(blocks::own_blocks))
        .routes(routes!(reports::list))
        .routes(routes!(reports::review))
        .routes(routes!(admin::ban, admin::lift_ban))
        .routes(routes!(admin::streams))
        .routes(routes!(admin::audit))
}

/// Outside of development the path is like any other that is not there.
fn dev_routes(front: &Front) -> OpenApiRouter<Arc<Front>> {
    if front.dev.is_some() { OpenApiRouter::new().routes(routes!(service::dev_token)) } else { OpenApiRouter::new() }
}

async fn nothing_here(axum::extract::State(front): axum::extract::State<Arc<Front>>, uri: axum::http::Uri) -> Problem {
    match front.access.feature() {
        Err(denied) if uri.path().starts_with("/api/live/") => denied.into(),
        Ok(_) | Err(_) => Problem::new(Code::NotFound, "There is nothing at this address."),
    }
}

/// Which pages may call (stream API, section 1, rule 9). `None`: this server's own only.
fn cors(origins: &Origins) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let idempotency_key = HeaderName::from_static("idempotency-key");
    let layer = CorsLayer::new()
        .allow_origin(origins.cors())
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            idempotency_key,
            envelope::REQUEST_ID,
        ])
        .expose_headers([envelope::REQUEST_ID, header::ETAG, header::RETRY_AFTER])
        .max_age(Duration::from_secs(600));
    Some(layer)
}

/// Carries a change out also if the client hangs up meanwhile: half a change would be worse than either.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(change.in_current_span()).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a change panicked");
        Err(envelope::internal())
    })
}
