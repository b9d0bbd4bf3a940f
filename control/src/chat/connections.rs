//! Connections of Engine.IO: how many there are, and what is checked before there is one more.
//!
//! The first few connections over a limit are accepted, so that their clients can be refused by a message of Socket.IO
//! (`too_many_connections`). Further ones are refused with an HTTP status.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONTENT_LENGTH, UPGRADE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::admission::{Place, Quotas};
use super::counters::{Counters, add, subtract};
use super::outbox::{Outbox, Outboxes};
use crate::http::client::{ClientKey, Proxies};
use crate::http::origins::Origins;
use crate::serve::{Delivered, Delivery};

/// Refused tokens of one connection.
const REFUSALS_MAX: u32 = 20;

/// Connections over a limit that are accepted, so that their clients are sent `too_many_connections`.
const OVER_MAX: u32 = 16;

/// WebSockets that one polling connection may ask for at the same time: one, and another try.
const UPGRADES_PER_CONNECTION_MAX: u32 = 2;

/// Longest connection id, in bytes; the library's have 16.
const SID_BYTES_MAX: usize = 64;

/// Longest answer that gives a polling connection its id, in bytes; the library's have a hundred.
const OPEN_BYTES_MAX: usize = 4096;

/// Admits connections, and counts them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ConnectionGuard(Arc<Inner>);

struct Inner {
    origins: Origins,
    max: u32,
    /// 0: unlimited.
    max_per_address: u32,
    proxies: Proxies,
    count: Mutex<Count>,
    /// WebSockets of connections that began by polling.
    upgrades: Quotas<String>,
    upgrades_of_address: Quotas<ClientKey>,
    outboxes: Outboxes,
    counters: Arc<Counters>,
}

/// The place of a WebSocket whose connection began by polling. The request of the WebSocket keeps it while that is
/// open.
#[derive(Clone)]
struct Upgrade(#[expect(dead_code, reason = "held, not read")] Arc<[Place; 2]>);

#[derive(Default)]
struct Count {
    all: u32,
    of_address: HashMap<ClientKey, u32>,
}

/// The place of a connection. The request that opened the connection keeps it while that exists.
#[derive(Clone)]
pub(crate) struct Pass(Arc<PassInner>);

struct PassInner {
    guard: ConnectionGuard,
    address: IpAddr,
    over: bool,
    outbox: Arc<Outbox>,
    refusals: AtomicU32,
}

impl Pass {
    /// Whether it is one too many.
    pub fn is_over(&self) -> bool {
        self.0.over
    }

    /// Where it comes from.
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    /// What waits for it.
    pub fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.0.outbox)
    }

    /// Whether it was refused so often that no further token is looked at: each costs the check of a signature.
    pub fn is_spent(&self) -> bool {
        self.0.refusals.load(Ordering::Relaxed) >= REFUSALS_MAX
    }

    pub fn count_refusal(&self) {
        self.0.refusals.fetch_add(1, Ordering::Relaxed);
    }
}

impl ConnectionGuard {
    pub fn new(
        origins: Origins,
        max: u32,
        max_per_address: u32,
        proxies: Proxies,
        counters: Arc<Counters>,
        outboxes: Outboxes,
    ) -> Self {
        Self(Arc::new(Inner {
            origins,
            max,
            max_per_address,
            proxies,
            count: Mutex::default(),
            upgrades: Quotas::default(),
            upgrades_of_address: Quotas::default(),
            outboxes,
            counters,
        }))
    }

    /// Lets a connection that exists have a WebSocket. `None`: it, or its address, has too many.
    fn upgrade(&self, sid: &str, address: IpAddr) -> Option<Upgrade> {
        if sid.len() > SID_BYTES_MAX {
            return None;
        }
        let of_connection = self.0.upgrades.enter(sid.to_owned(), UPGRADES_PER_CONNECTION_MAX)?;
        let of_address = self.0.upgrades_of_address.enter(address.into(), self.per_address())?;
        Some(Upgrade(Arc::new([of_connection, of_address])))
    }

    fn per_address(&self) -> u32 {
        if self.0.max_per_address == 0 { u32::MAX } else { self.0.max_per_address }
    }

    fn enter(&self, address: IpAddr) -> Option<Pass> {
        let key = ClientKey::from(address);
        let per_address = self.per_address();
        let mut count = self.0.count.lock().expect("no one panics with this lock");
        let here = count.of_address.get(&key).copied().unwrap_or(0);
        let beyond = |count: u32, max: u32| count >= max.saturating_add(OVER_MAX);
        if beyond(count.all, self.0.max) || beyond(here, per_address) {
            return None;
        }
        let over = count.all >= self.0.max || here >= per_address;
        count.all += 1;
        count.of_address.insert(key, here + 1);
        add(&self.0.counters.connections, 1);
        let outbox = self.0.outboxes.open(key);
        Some(Pass(Arc::new(PassInner { guard: self.clone(), address, over, outbox, refusals: AtomicU32::new(0) })))
    }
}

impl Drop for PassInner {
    fn drop(&mut self) {
        let mut count = self.guard.0.count.lock().expect("no one panics with this lock");
        count.all = count.all.saturating_sub(1);
        let key = ClientKey::from(self.address);
        match count.of_address.get_mut(&key) {
            Some(here) if *here > 1 => *here -= 1,
            _ => {
                count.of_address.remove(&key);
            }
        }
        subtract(&self.guard.0.counters.connections, 1);
    }
}

/// Layer in front of the Socket.IO service.
pub(crate) async fn check_connection(
    State(guard): State<ConnectionGuard>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip());
    let client = guard.0.proxies.client_of(peer, request.headers());
    if !guard.0.origins.admit(request.headers(), client.called.as_deref()) {
        add(&guard.0.counters.refused_connections, 1);
        return (StatusCode::FORBIDDEN, "This origin may not connect; add it to http.cors_origins.").into_response();
    }
    let is_upgrade = request.headers().contains_key(UPGRADE);
    let is_post = request.method() == Method::POST;
    let (mut opened, mut outbox) = (None, None);
    let admitted = match connection_id(&request) {
        None => guard.enter(client.address).map(|pass| {
            outbox = Some(pass.outbox());
            opened = outbox.clone().filter(|_| !is_upgrade);
            request.extensions_mut().insert(pass);
        }),
        Some(sid) => {
            outbox = guard.0.outboxes.find(sid);
            if is_upgrade {
                let upgrade = guard.upgrade(sid, client.address);
                upgrade.map(|upgrade| drop(request.extensions_mut().insert(upgrade)))
            } else {
                Some(())
            }
        }
    };
    if admitted.is_none() {
        add(&guard.0.counters.refused_connections, 1);
        return (StatusCode::TOO_MANY_REQUESTS, "too_many_connections").into_response();
    }
    if is_post
        && let Some(outbox) = &outbox
        && !outbox.admits_post(length(request.headers()), Instant::now())
    {
        return (StatusCode::TOO_MANY_REQUESTS, "Fetch what waits for you.").into_response();
    }
    if let Some(delivery) = request.extensions().get::<Delivery>() {
        // The answer to a post carries nothing that waited in the outbox.
        let receiver = outbox.filter(|_| !is_post).map(|outbox| outbox as Arc<dyn Delivered>);
        delivery.report_to(receiver.as_ref().map(Arc::downgrade));
    }
    let answer = next.run(request).await;
    match opened {
        Some(outbox) => named(answer, &guard.0.outboxes, &outbox).await,
        None => answer,
    }
}

/// Length of a body in bytes; without a `Content-Length` the largest.
fn length(headers: &HeaderMap) -> u64 {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    announced.unwrap_or(u64::MAX)
}

/// Notes the id that a polling connection is given: it is in each of its further requests.
async fn named(answer: Response, outboxes: &Outboxes, outbox: &Arc<Outbox>) -> Response {
    #[derive(serde::Deserialize)]
    struct Open {
        sid: String,
    }
    let (head, body) = answer.into_parts();
    let Ok(body) = to_bytes(body, OPEN_BYTES_MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if let Some(Ok(open)) = body.strip_prefix(b"0").map(serde_json::from_slice::<Open>) {
        outboxes.name(outbox, open.sid);
    }
    Response::from_parts(head, Body::from(body))
}

/// Of the connection that a request belongs to, if it exists.
fn connection_id(request: &Request) -> Option<&str> {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').find_map(|pair| pair.strip_prefix("sid="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection_guard(max: u32, max_per_address: u32) -> ConnectionGuard {
        let outboxes = Outboxes::new(Default::default(), Arc::default());
        ConnectionGuard::new(Origins::default(), max, max_per_address, Proxies::default(), Arc::default(), outboxes)
    }

    #[test]
    fn connections_of_one_address_are_counted_until_they_end() {
        let guard = connection_guard(1000, 2);
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let passes: Vec<_> = (0..2).map(|_| guard.enter(one).unwrap()).collect();

        assert!(passes.iter().all(|pass| !pass.is_over()));
        assert!(guard.enter(one).unwrap().is_over());
        assert!(!guard.enter(other).unwrap().is_over());
        drop(passes);
        assert!(!guard.enter(one).unwrap().is_over());
        assert!(guard.0.count.lock().unwrap().of_address.is_empty());
    }

    #[test]
    fn a_few_connections_over_a_limit_are_accepted_and_the_rest_refused() {
        let guard = connection_guard(10, 0);
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(n));
        let passes: Vec<_> = (0..1000).filter_map(|n| guard.enter(address(n))).collect();

        assert_eq!(passes.len(), 26);
        assert_eq!(passes.iter().filter(|pass| pass.is_over()).count(), 16);
    }

    #[test]
    fn a_polling_connection_has_few_websockets_and_so_has_an_address() {
        let guard = connection_guard(1000, 3);
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let first: Vec<_> = (0..3).filter_map(|_| guard.upgrade("a", one)).collect();
        assert_eq!(first.len(), 2);
        let _more = guard.upgrade("b", one).unwrap();
        assert!(guard.upgrade("c", one).is_none());
        assert!(guard.upgrade("c", other).is_some());
        assert!(guard.upgrade(&"x".repeat(65), other).is_none());

        drop(first);
        assert!(guard.upgrade("c", one).is_some());
    }

    #[tokio::test]
    async fn websockets_of_a_polling_connection_are_counted_while_they_are_open() {
        use axum::body::Body;
        use tower::ServiceExt as _;
        // Keeps the heads of requests, as the library does with those of open WebSockets.
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&kept);
        let handler = move |request: Request| async move {
            keep.lock().unwrap().push(request.into_parts().0);
        };
        let router = axum::Router::new()
            .route("/socket.io/", axum::routing::get(handler))
            .layer(axum::middleware::from_fn_with_state(connection_guard(1000, 100), check_connection));
        let upgrade = async || {
            let uri = "/socket.io/?EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAA";
            let request = Request::get(uri).header("upgrade", "websocket").body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap().status().as_u16()
        };

        assert_eq!([upgrade().await, upgrade().await, upgrade().await], [200, 200, 429]);
        kept.lock().unwrap().clear();
        assert_eq!(upgrade().await, 200);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let guard = connection_guard(1000, 1);
        let is_over = |text: &str| guard.enter(text.parse().unwrap()).unwrap().is_over();
        let _pass = guard.enter("2001:db8:1:2::1".parse().unwrap()).unwrap();

        assert!(is_over("2001:db8:1:2:ffff::9"));
        assert!(!is_over("2001:db8:1:3::1"));
    }
}
