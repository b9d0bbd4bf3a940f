//! HTTP/1.1 on a listener, with bounds for what strangers can hold open: connections by number and address, heads by
//! size and time, and messages of WebSockets likewise.

mod body;
mod connections;
mod counters;
mod head;
mod message;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::Service as _;
use tracing::{debug, warn};

use crate::descriptors;
use crate::http::client::{ClientKey, Proxies};
use crate::problem::{Code, Problem};
use body::Noted;
use connections::{Connections, Place, Refused};
use head::{BUSY, Progress, Watched};
use message::{MESSAGE_PATIENCE, Unfinished};

pub use connections::CONNECTIONS_MAX;
pub use counters::Counters;
pub use head::{Delivered, Delivery, HEADS_BYTES_MAX};

/// How long the head of a request may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may stay idle between two requests.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Longest head of a request, to within one read: a URL has up to 64 KiB, as a join brings a description in it. A head
/// of more than a hundred lines is refused as well, which is the library's bound.
const HEAD_BYTES_MAX: usize = 96 << 10;

/// How long what was sent may stay unacknowledged, or a full window closed, until the connection counts as dead. A
/// client that stops reading would else hold what waits for it for ever: a WebSocket's writer waits without a limit of
/// its own.
const UNREAD_MAX: Duration = Duration::from_secs(25);

/// What the kernel holds for a client beyond that it has acknowledged, in bytes. Left to itself it would grow to
/// megabytes for a client that does not read.
const UNSENT_MAX: usize = 128 * 1024;

/// Longest pause after an error of `accept`, such as too many open files: the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What may be set.
#[derive(Clone)]
pub struct Settings {
    /// How long a head may take from its first byte, and the first one from the connection on.
    pub head_patience: Duration,
    /// How long a large message of a WebSocket may take.
    pub message_patience: Duration,
    /// How long what was sent may stay unread.
    pub unread_max: Duration,
    /// Connections of one address (of IPv6: one /64) that are no WebSockets; 0 means any number.
    pub per_address: u32,
    /// Open files from which on only those near by are served.
    pub descriptors_max: i32,
    /// Whose connections are those of many clients.
    pub proxies: Proxies,
    pub counters: Arc<Counters>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            head_patience: HEAD_PATIENCE,
            message_patience: MESSAGE_PATIENCE,
            unread_max: UNREAD_MAX,
            per_address: 0,
            descriptors_max: descriptors::max_for_strangers(),
            proxies: Proxies::default(),
            counters: Arc::default(),
        }
    }
}

/// Serves until it is dropped, and with it the connections that are no WebSockets.
pub async fn serve(listener: TcpListener, router: Router, settings: Settings) -> Infallible {
    let (connections, mut tasks) = (Connections::default(), JoinSet::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &router, &settings, &connections, &mut tasks),
            Err(error) => {
                settings.counters.accept_pauses.fetch_add(1, Ordering::Relaxed);
                if let Some(left_out) = settings.counters.accept_log.admit(Instant::now()) {
                    warn!(%error, left_out, "cannot accept connections: raise the limit of open files");
                }
                if connections.end_oldest() {
                    // Its descriptor is free once its task is over.
                    let _ = tokio::time::timeout(ACCEPT_PAUSE, tasks.join_next()).await;
                } else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    router: &Router,
    settings: &Settings,
    connections: &Connections,
    tasks: &mut JoinSet<()>,
) {
    let progress = Arc::new(Progress::default());
    let counters = &settings.counters;
    let is_near = settings.proxies.is_near(peer.ip());
    // The system gives out the lowest descriptor that is free.
    if !is_near && stream.as_raw_fd() >= settings.descriptors_max {
        counters.refused_descriptors.fetch_add(1, Ordering::Relaxed);
        let _ = stream.try_write(BUSY);
        return;
    }
    match connections.enter(peer, &progress, &settings.proxies, settings.per_address) {
        Ok(place) => {
            let id = place.id();
            let stream = prepared(stream, settings.unread_max);
            let (delivery, patience) = (Delivery::default(), settings.head_patience);
            let address = (!is_near).then(|| ClientKey::from(peer.ip()));
            let unfinished = Unfinished::new(Arc::clone(&counters.messages), address, settings.message_patience);
            let (progress_of_head, counters) = (Arc::clone(&progress), Arc::clone(counters));
            let watched = Watched::new(stream, progress_of_head, counters, patience, unfinished, delivery.clone());
            let served = serve_connection(watched, peer, router.clone(), progress, delivery, place);
            connections.runs_as(id, tasks.spawn(served));
        }
        Err(refused) => {
            let counter = match refused {
                Refused::Share => &counters.refused_share,
                Refused::Full => &counters.refused_full,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            debug!(%peer, ?refused, "a connection is not served");
            // As much of it as the socket takes: the connection ends.
            let _ = stream.try_write(BUSY);
        }
    }
}

async fn serve_connection(
    stream: Watched,
    peer: SocketAddr,
    router: Router,
    progress: Arc<Progress>,
    delivery: Delivery,
    place: Place,
) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        progress.head_is_read();
        let progress = Arc::clone(&progress);
        let body = request.body().size_hint().exact();
        let refused = if !names_its_host(&request) {
            Some("Send one header Host.")
        } else if body != Some(0) && asks_for_websocket(request.headers()) {
            Some("Send no body with the handshake of a WebSocket.")
        } else {
            None
        };
        let (mut head, content) = request.into_parts();
        take_host_of_target(&mut head);
        let (content, ended) = Noted::new(content);
        let mut request = axum::extract::Request::from_parts(head, Body::new(content));
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(delivery.clone());
        let answer = match refused {
            None => Ok(router.clone().call(request)),
            Some(detail) => Err(Problem::new(Code::InvalidParameter, detail)),
        };
        async move {
            let mut answer = match answer {
                Ok(answer) => answer.await,
                Err(problem) => Ok(problem.response(None)),
            };
            match answer.as_ref().map(axum::response::Response::status) {
                Ok(StatusCode::SWITCHING_PROTOCOLS) => progress.is_upgraded(),
                _ => {
                    progress.is_answered(body);
                    if !ended.load(Ordering::Relaxed)
                        && let Ok(answer) = &mut answer
                    {
                        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                }
            }
            answer
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
    drop(place);
}

/// Whether a request has the one header that it must have, and once (RFC 9112, section 3.2): else who is in front of
/// this server may take it for another host's.
fn names_its_host(request: &hyper::Request<Incoming>) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    hosts == 1 || (hosts == 0 && request.version() < Version::HTTP_11)
}

/// What follows the head of such a request is frames to a server that takes it up, and a body to whoever else passes it
/// on (RFC 6455, section 4.1, knows none). Other protocols, such as `h2c`, are offered along with any request.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(header::UPGRADE).iter().filter_map(|line| line.to_str().ok());
    offered.flat_map(|line| line.split(',')).any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}

/// A target with an authority, `GET http://a/ HTTP/1.1`, names the host, whatever the header says (RFC 9112, section
/// 3.2.2). From here on the header says the same, and the target is a path like all others.
fn take_host_of_target(head: &mut Parts) {
    let Some(authority) = head.uri.authority() else { return };
    // It has no characters that a header could not have.
    let host = HeaderValue::from_str(authority.as_str()).unwrap_or(HeaderValue::from_static(""));
    head.headers.insert(header::HOST, host);
    if let Some(path) = head.uri.path_and_query().cloned() {
        head.uri = Uri::from(path);
    }
}

/// A socket without one of these options works, only slower or longer.
fn prepared(stream: TcpStream, unread_max: Duration) -> TcpStream {
    // Signalling messages are small and answer each other.
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(&stream);
    if let Err(error) = socket.set_tcp_user_timeout(Some(unread_max)) {
        debug!(%error, "clients that do not read are not noticed");
    }
    let _ = socket.set_send_buffer_size(UNSENT_MAX);
    stream
}

#[cfg(test)]
mod tests;
