//! The routes of LiveKit's surface, and what holds for all of them: CORS, tokens, sizes.
//!
//! A join is carried out before the WebSocket is accepted, because clients decide by the status of a failed upgrade
//! whether to try again. Then the connection belongs to its [`Session`](crate::session::Session).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, AUTHORIZATION, CONTENT_TYPE, ORIGIN, RETRY_AFTER, UPGRADE, USER_AGENT, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use livekit_protocol::DisconnectReason;
use sfu::io::WorkerHandle;
use shared::log_limit::LogLimit;
use tower::Service as _;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{debug, info, warn};

use crate::api;
use crate::bodies::{Bodies, BodyError};
use crate::join::error::{Answer, Counted};
use crate::join::{self, ClientHints, Join, JoinError, JoinInput, Mode, Parameters, Purpose};
use crate::rooms::Rooms;
use crate::session::SessionEnd;
use crate::session_stats::{ApiCall, milliseconds};
use crate::token::{Claims, Grants, Keys, TokenError};
use crate::websocket::Upgrade;

/// Largest messages, in bytes; 0 means any size. LiveKit's `limit.signal_message_size_limit` and
/// `limit.max_api_request_body_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Of a client on its WebSocket.
    pub signal_message_max: usize,
    /// The body of a call of the server APIs.
    pub request_body_max: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { signal_message_max: 2 << 20, request_body_max: 10 << 20 }
    }
}

/// A limit of which 0 means none.
fn limit(bytes: usize) -> usize {
    if bytes == 0 { usize::MAX } else { bytes }
}

/// The client's address, where whoever serves the surface knows it better than the connection says: behind proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// How long a browser may remember a preflight, in seconds.
const PREFLIGHT_AGE_MAX_S: &str = "86400";

/// Asked before each join, resumes as well, of somebody with a good token. Refuses with [`JoinError::Forbidden`] or
/// [`JoinError::NotYet`]. Must not wait.
pub type Admit = Arc<dyn Fn(&Grants) -> Result<(), JoinError> + Send + Sync>;

/// What the routes work with. Cheap to clone.
#[derive(Clone)]
pub struct Surface {
    pub keys: Keys,
    pub rooms: Rooms,
    /// `room.auto_create`: whether anybody's join may create the room.
    pub auto_create: bool,
    /// Rules beyond the token, of whoever owns the rooms. Absent: a good token suffices.
    pub admit: Option<Admit>,
    pub sizes: Sizes,
    pub bodies: Arc<Bodies>,
    pub counters: Arc<Counters>,
}

/// What happened on the surface, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    pub joins_accepted: AtomicU64,
    pub joins_refused: AtomicU64,
    /// Of those refused: by [`Surface::admit`].
    pub joins_not_admitted: AtomicU64,
    /// Of those refused: because the same identity came too often ([`crate::rooms::JOINS_BURST`]).
    pub joins_too_often: AtomicU64,
    pub tokens_refused: AtomicU64,
    pub api_answered: AtomicU64,
    pub api_refused: AtomicU64,
    /// Ended connections of participants: by the client, by the room, because the client's description or state did not
    /// fit, and because of a message that cannot be read.
    pub ended_by_client: AtomicU64,
    pub ended_by_room: AtomicU64,
    pub ended_in_mismatch: AtomicU64,
    pub ended_unreadable: AtomicU64,
    /// Because its messages cost more than its budget, and went on.
    pub ended_abusive: AtomicU64,
    tokens_refused_log: LogLimit,
}

impl Counters {
    fn count_refused(&self, error: &JoinError) {
        self.joins_refused.fetch_add(1, Ordering::Relaxed);
        match error.answer().counted {
            Counted::Refused => {}
            Counted::NotAdmitted => drop(self.joins_not_admitted.fetch_add(1, Ordering::Relaxed)),
            Counted::TooOften => drop(self.joins_too_often.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn count(&self, end: SessionEnd) {
        let counter = match end {
            SessionEnd::Client => &self.ended_by_client,
            SessionEnd::Dismissed(DisconnectReason::StateMismatch) => &self.ended_in_mismatch,
            SessionEnd::Dismissed(_) | SessionEnd::Replaced => &self.ended_by_room,
            SessionEnd::Unreadable => &self.ended_unreadable,
            SessionEnd::Abusive => &self.ended_abusive,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The whole surface as one router. Serve it with connect info of [`SocketAddr`], or behind a layer that adds
/// [`ClientAddress`], so that clients have an address.
pub fn router(surface: Surface) -> Router {
    let routes = Router::new()
        .route("/", get(health))
        .route("/rtc", any(connect_v0))
        .route("/rtc/v1", any(connect_v1))
        .route("/rtc/validate", get(validate_v0))
        .route("/rtc/v1/validate", get(validate_v1))
        .route("/twirp/{service}/{method}", any(twirp))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(surface.clone(), authenticate))
        .with_state(surface);
    Router::new()
        .fallback(collapse_leading_slashes)
        .with_state(routes)
        .layer(middleware::from_fn(cors))
        .layer(CatchPanicLayer::new())
}

/// A plain-text answer.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, body.into()).into_response()
}

/// Whether the server is well: whatever probes LiveKit's servers asks here.
async fn health(State(surface): State<Surface>) -> Response {
    if surface.rooms.workers().iter().all(WorkerHandle::is_running) {
        return text(StatusCode::OK, "OK");
    }
    // LiveKit's status for a node that does not report.
    text(StatusCode::NOT_ACCEPTABLE, "Not Ready: a media worker is not running")
}

/// What an unknown path gets.
pub(crate) async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Users configure URLs with a slash at the end, and SDKs append theirs.
async fn collapse_leading_slashes(State(mut routes): State<Router>, mut request: Request) -> Response {
    if let Some(path_and_query) = request.uri().path_and_query()
        && path_and_query.as_str().starts_with("//")
    {
        let collapsed = format!("/{}", path_and_query.as_str().trim_start_matches('/'));
        match collapsed.parse::<Uri>() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(_) => return text(StatusCode::BAD_REQUEST, "malformed path"),
        }
    }
    match routes.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// CORS (Fetch standard) for every answer, errors too: browsers must be able to read why a join failed.
async fn cors(request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let asked = preflight_answer(&request);
    let mut response = match asked {
        Some(answer) => answer,
        None => next.run(request).await,
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    response
}

fn preflight_answer(request: &Request) -> Option<Response> {
    const METHODS: [&str; 6] = ["OPTIONS", "HEAD", "GET", "POST", "PATCH", "DELETE"];
    let headers = request.headers();
    let method = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    if request.method() != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let mut answer = StatusCode::NO_CONTENT.into_response();
    if METHODS.iter().any(|known| method.as_bytes() == known.as_bytes()) {
        answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        answer.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_AGE_MAX_S));
        if let Some(wanted) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
    }
    Some(answer)
}

/// The verified token of a request, if it carries one.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) Option<Arc<Claims>>);

/// A token that is there must be good, whatever the route. Without one, each route decides.
async fn authenticate(State(surface): State<Surface>, mut request: Request, next: Next) -> Response {
    match caller(&surface.keys, request.headers(), request.uri()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => {
            surface.counters.tokens_refused.fetch_add(1, Ordering::Relaxed);
            if let Some(left_out) = surface.counters.tokens_refused_log.admit(Instant::now()) {
                let (path, address) = (request.uri().path(), client_hints(&request).address);
                info!(reason = %error, path, address, left_out, "authentication failed");
            }
            text(StatusCode::UNAUTHORIZED, error.to_string())
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum AuthError {
    #[error("invalid authorization header. Must start with Bearer ")]
    NotBearer,
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// The header wins over the query.
fn caller(keys: &Keys, headers: &HeaderMap, uri: &Uri) -> Result<Caller, AuthError> {
    let from_query;
    let token = if let Some(value) = headers.get(AUTHORIZATION) {
        let value = value.to_str().map_err(|_| AuthError::NotBearer)?;
        value.strip_prefix("Bearer ").ok_or(AuthError::NotBearer)?
    } else {
        from_query = token_parameter(uri);
        &from_query
    };
    if token.is_empty() {
        return Ok(Caller(None));
    }
    Ok(Caller(Some(Arc::new(keys.verify(token, SystemTime::now())?))))
}

/// Spares the decoding of the other parameters, which may hold a whole offer, for a token that is written plainly.
fn token_parameter(uri: &Uri) -> String {
    let is_plain = |text: &&str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let mut pairs = uri.query().unwrap_or_default().split('&');
    match pairs.find_map(|pair| pair.strip_prefix("access_token=")).filter(is_plain) {
        Some(token) => token.to_owned(),
        None => parameters(uri).get("access_token").unwrap_or_default().to_owned(),
    }
}

fn parameters(uri: &Uri) -> Parameters {
    Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(pairs)| Parameters(pairs)).unwrap_or_default()
}

async fn connect_v0(State(surface): State<Surface>, request: Request) -> Response {
    connect(surface, Mode::V0, request).await
}

async fn connect_v1(State(surface): State<Surface>, request: Request) -> Response {
    connect(surface, Mode::V1, request).await
}

async fn validate_v0(State(surface): State<Surface>, request: Request) -> Response {
    validate(surface, Mode::V0, request).await
}

async fn validate_v1(State(surface): State<Surface>, request: Request) -> Response {
    validate(surface, Mode::V1, request).await
}

impl IntoResponse for JoinError {
    fn into_response(self) -> Response {
        let Answer { status, text: body, retry_after, counted: _ } = self.answer();
        let mut response = text(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), body);
        if let Some(wait) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
        }
        response
    }
}

/// Joins, and only then accepts the WebSocket.
async fn connect(surface: Surface, mode: Mode, request: Request) -> Response {
    if request.method() != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, HeaderValue::from_static("GET"))]).into_response();
    }
    if !asks_for_websocket(request.headers()) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let begin = Instant::now();
    let (mut parts, body) = request.into_parts();
    let upgrade = match Upgrade::read(&mut parts) {
        Ok(upgrade) => upgrade,
        Err(refusal) => return refusal,
    };
    // `Surface::admit` may take a place among the viewers: only a request that can be upgraded gets as far.
    let session = match admitted_join(&surface, mode, Purpose::Connect, &Request::from_parts(parts, body)) {
        Ok(join) => surface.rooms.join(join).await,
        Err(error) => Err(error),
    };
    match session {
        Ok(session) => {
            surface.rooms.stats().join_ms.observe(milliseconds(begin.elapsed()));
            let bytes_max = limit(surface.sizes.signal_message_max);
            let counters = surface.counters;
            counters.joins_accepted.fetch_add(1, Ordering::Relaxed);
            upgrade.accept(bytes_max, async move |socket| counters.count(session.run(socket).await))
        }
        Err(error) => {
            surface.counters.count_refused(&error);
            if error == JoinError::Unavailable {
                warn!(%error, "join failed");
            } else {
                debug!(%error, "join refused");
            }
            error.into_response()
        }
    }
}

/// Tells whether [`connect`] would be allowed, by the same checks of token and parameters.
async fn validate(surface: Surface, mode: Mode, request: Request) -> Response {
    let mut response = match admitted_join(&surface, mode, Purpose::Validate, &request) {
        Ok(join) if room_may_exist(&surface, &join).await => text(StatusCode::OK, "success"),
        Ok(_) => JoinError::RoomMissing.into_response(),
        Err(error) => error.into_response(),
    };
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

async fn room_may_exist(surface: &Surface, join: &Join) -> bool {
    let video = &join.grants.video;
    surface.auto_create
        || video.room_create
        || !surface.rooms.list_rooms(std::slice::from_ref(&video.room)).await.is_empty()
}

fn asks_for_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// What LiveKit checks, and then what the owner of the rooms checks.
fn admitted_join(surface: &Surface, mode: Mode, purpose: Purpose, request: &Request) -> Result<Join, JoinError> {
    let join = read_join(mode, purpose, request)?;
    if let Some(admit) = &surface.admit {
        admit(&join.grants)?;
    }
    Ok(join)
}

fn read_join(mode: Mode, purpose: Purpose, request: &Request) -> Result<Join, JoinError> {
    let claims = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
    join::read(JoinInput {
        mode,
        purpose,
        claims: claims.as_deref(),
        parameters: &parameters(request.uri()),
        hints: &client_hints(request),
    })
}

fn client_hints(request: &Request) -> ClientHints {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let told = request.extensions().get::<ClientAddress>().map(|ClientAddress(address)| *address);
    let peer = || request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let address = told.or_else(peer).map_or_else(String::new, |address| address.to_canonical().to_string());
    ClientHints { user_agent: header(USER_AGENT.as_str()).unwrap_or_default().to_owned(), address }
}

/// Server APIs. Tells apart what only HTTP knows; the rest is [`crate::api`]'s.
async fn twirp(State(surface): State<Surface>, request: Request) -> Response {
    let Some(route) = api::Route::of_path(request.uri().path()) else {
        return not_found().await;
    };
    let begin = Instant::now();
    let response = call(&surface, &route, request).await;
    if let Some((service, method)) = route.known() {
        let (service, method) = (service.to_owned(), method.to_owned());
        let call = ApiCall { service, method, status: response.status().as_u16() };
        surface.rooms.stats().answered(call, begin.elapsed());
    }
    counted(&surface, response)
}

async fn call(surface: &Surface, route: &api::Route, request: Request) -> Response {
    let address = client_hints(&request).address;
    let (parts, body) = request.into_parts();
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let encoding = match route.check(parts.method.as_str(), content_type) {
        Ok(encoding) => encoding,
        Err(error) => return error.into_response(),
    };
    let claims = parts.extensions.get::<Caller>().and_then(|caller| caller.0.clone());
    if let Err(error) = route.check_grant(claims.as_deref()) {
        return error.into_response();
    }
    let body = match surface.bodies.read(&address, body, limit(surface.sizes.request_body_max)).await {
        Ok(body) => body,
        Err(error) => return unread(error),
    };
    let call = api::Call { rooms: &surface.rooms, claims: claims.as_deref(), encoding, body, address };
    api::answer(route, call).await
}

fn counted(surface: &Surface, response: Response) -> Response {
    let counters = &surface.counters;
    let counter = if response.status().is_success() { &counters.api_answered } else { &counters.api_refused };
    counter.fetch_add(1, Ordering::Relaxed);
    response
}

fn unread(error: BodyError) -> Response {
    match error {
        BodyError::TooLarge => text(StatusCode::PAYLOAD_TOO_LARGE, "request body too large"),
        BodyError::TooSlow => text(StatusCode::REQUEST_TIMEOUT, "request body too slow"),
        BodyError::Busy => text(StatusCode::SERVICE_UNAVAILABLE, "too many unfinished request bodies; try again"),
    }
}
