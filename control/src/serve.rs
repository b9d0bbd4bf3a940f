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

/// Pause after an error of `accept`, such as too many open files: the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until it is dropped, and with it the connections that are no WebSockets.
pub(crate) async fn serve(listener: TcpListener, router: Router) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.spawn(serve_connection(stream, peer, router.clone()));
            }
            Err(error) => {
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    // Signalling messages are small and answer each other. A socket without the option works, only slower.
    let _ = stream.set_nodelay(true);
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
