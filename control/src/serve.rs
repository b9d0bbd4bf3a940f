//! HTTP/1.1 on a listener, with bounds for what strangers can hold open: connections that say nothing, and their number.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::Service as _;
use tracing::{debug, warn};

/// How long a connection may take for the head of a request, and stay idle between two.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// Connections of one listener that are not (or not yet) WebSockets. Idle ones end after [`HEAD_PATIENCE`], so a full
/// house clears by itself; until then new ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

/// How long what was sent may stay unacknowledged, or a full window closed, until the connection counts as dead. A client
/// that stops reading would else hold what waits for it for ever: a WebSocket's writer waits without a limit of its own.
const UNREAD_MAX: Duration = Duration::from_secs(25);

/// What the kernel holds for a client beyond that it has acknowledged, in bytes. Left to itself it would grow to
/// megabytes for a client that does not read.
const UNSENT_MAX: usize = 128 * 1024;

/// Pause after an error of `accept`, such as too many open files: the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until it is dropped, and with it the connections that are no WebSockets.
pub async fn serve(listener: TcpListener, router: Router) -> Infallible {
    serve_with(listener, router, UNREAD_MAX).await
}

/// The same with another patience for clients that do not read.
pub async fn serve_with(listener: TcpListener, router: Router, unread_max: Duration) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn(serve_connection(stream, peer, router.clone(), unread_max));
            }
            Err(error) => {
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, router: Router, unread_max: Duration) {
    prepare(&stream, unread_max);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}

/// A socket without one of these options works, only slower or longer.
fn prepare(stream: &TcpStream, unread_max: Duration) {
    // Signalling messages are small and answer each other.
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(stream);
    if let Err(error) = socket.set_tcp_user_timeout(Some(unread_max)) {
        debug!(%error, "clients that do not read are not noticed");
    }
    let _ = socket.set_send_buffer_size(UNSENT_MAX);
}
