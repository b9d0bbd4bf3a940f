//! The door of the Socket.IO path: what is checked before a connection exists, and how many there are.
//!
//! A client over a limit is let in to be told so (`too_many_connections` is a message of the protocol inside); what
//! comes beyond that again gets an HTTP status.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::counters::{Counters, add, subtract};

/// Finds the address of a client behind proxies.
pub type ClientAddress = Arc<dyn Fn(SocketAddr, &HeaderMap) -> IpAddr + Send + Sync>;

/// Refused tokens of one connection.
const REFUSALS_MAX: u32 = 20;

/// Of those over a limit, so many are let in to be told.
const TOLD_MAX: u32 = 16;

#[derive(Clone)]
pub(crate) struct Door(Arc<Inner>);

struct Inner {
    /// Empty: pages of this server alone.
    origins: Vec<String>,
    max: u32,
    /// 0: unlimited.
    max_per_address: u32,
    address: ClientAddress,
    count: Mutex<Count>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Count {
    all: u32,
    of_address: HashMap<IpAddr, u32>,
}

/// A connection, counted until the last copy is gone. It travels with the request that opened the connection.
#[derive(Clone)]
pub(crate) struct Pass(Arc<PassInner>);

struct PassInner {
    door: Door,
    address: IpAddr,
    over: bool,
    refusals: AtomicU32,
}

impl Pass {
    /// Whether it is one too many.
    pub fn is_over(&self) -> bool {
        self.0.over
    }

    /// Where it comes from; of IPv6 the network.
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    /// Whether it was refused so often that no further token is looked at: each costs the check of a signature.
    pub fn is_spent(&self) -> bool {
        self.0.refusals.load(Ordering::Relaxed) >= REFUSALS_MAX
    }

    pub fn count_refusal(&self) {
        self.0.refusals.fetch_add(1, Ordering::Relaxed);
    }
}

impl Door {
    pub fn new(
        origins: Vec<String>,
        max: u32,
        max_per_address: u32,
        address: ClientAddress,
        counters: Arc<Counters>,
    ) -> Self {
        Self(Arc::new(Inner { origins, max, max_per_address, address, count: Mutex::default(), counters }))
    }

    fn enter(&self, address: IpAddr) -> Option<Pass> {
        let address = network(address);
        let per_address = if self.0.max_per_address == 0 { u32::MAX } else { self.0.max_per_address };
        let mut count = self.0.count.lock().expect("no one panics with this lock");
        let here = count.of_address.get(&address).copied().unwrap_or(0);
        let beyond = |count: u32, max: u32| count >= max.saturating_add(TOLD_MAX);
        if beyond(count.all, self.0.max) || beyond(here, per_address) {
            return None;
        }
        let over = count.all >= self.0.max || here >= per_address;
        count.all += 1;
        count.of_address.insert(address, here + 1);
        add(&self.0.counters.connections, 1);
        Some(Pass(Arc::new(PassInner { door: self.clone(), address, over, refusals: AtomicU32::new(0) })))
    }

    /// Whether a page of that origin may connect. What is no page sends none.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return true;
        };
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        if self.0.origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin)) {
            return true;
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_some_and(|authority| host.is_some_and(|host| host.eq_ignore_ascii_case(authority)))
    }
}

impl Drop for PassInner {
    fn drop(&mut self) {
        let mut count = self.door.0.count.lock().expect("no one panics with this lock");
        count.all = count.all.saturating_sub(1);
        match count.of_address.get_mut(&self.address) {
            Some(here) if *here > 1 => *here -= 1,
            _ => {
                count.of_address.remove(&self.address);
            }
        }
        subtract(&self.door.0.counters.connections, 1);
    }
}

/// One client: an IPv4 address, or an IPv6 /64, of which every household has at least one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Layer in front of the Socket.IO service.
pub(crate) async fn guard(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    if !door.admits(request.headers()) {
        add(&door.0.counters.refused_at_door, 1);
        return (StatusCode::FORBIDDEN, "This origin may not connect; add it to http.cors_origins.").into_response();
    }
    if !continues(&request) {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |ConnectInfo(peer)| *peer);
        let address = (door.0.address)(peer, request.headers());
        let Some(pass) = door.enter(address) else {
            add(&door.0.counters.refused_at_door, 1);
            return (StatusCode::TOO_MANY_REQUESTS, "too_many_connections").into_response();
        };
        request.extensions_mut().insert(pass);
    }
    next.run(request).await
}

/// Whether a request belongs to a connection that exists.
fn continues(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| pair.starts_with("sid="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(origins: &[&str], max: u32, max_per_address: u32) -> Door {
        let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        Door::new(origins, max, max_per_address, Arc::new(|peer, _| peer.ip()), Arc::default())
    }

    #[test]
    fn connections_of_one_address_are_counted_until_they_end() {
        let door = door(&[], 1000, 2);
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let passes: Vec<_> = (0..2).map(|_| door.enter(one).unwrap()).collect();

        assert!(passes.iter().all(|pass| !pass.is_over()));
        assert!(door.enter(one).unwrap().is_over());
        assert!(!door.enter(other).unwrap().is_over());
        drop(passes);
        assert!(!door.enter(one).unwrap().is_over());
        assert!(door.0.count.lock().unwrap().of_address.is_empty());
    }

    #[test]
    fn few_of_those_over_a_limit_are_told_and_the_rest_refused() {
        let door = door(&[], 10, 0);
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(n));
        let passes: Vec<_> = (0..1000).filter_map(|n| door.enter(address(n))).collect();

        assert_eq!(passes.len(), 26);
        assert_eq!(passes.iter().filter(|pass| pass.is_over()).count(), 16);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();

        assert_eq!(network(parse("2001:db8:1:2::1")), network(parse("2001:db8:1:2:ffff::9")));
        assert_ne!(network(parse("2001:db8:1:2::1")), network(parse("2001:db8:1:3::1")));
        assert_eq!(network(parse("::ffff:192.0.2.1")), parse("192.0.2.1"));
    }

    #[test]
    fn pages_of_other_origins_need_to_be_listed() {
        let headers = |origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "chat.example:8443".parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            headers
        };
        let listed = door(&["https://app.example"], 1, 1);

        assert!(listed.admits(&headers(None)));
        assert!(listed.admits(&headers(Some("https://app.example"))));
        assert!(listed.admits(&headers(Some("https://chat.example:8443"))));
        assert!(!listed.admits(&headers(Some("https://evil.example"))));
        assert!(!listed.admits(&headers(Some("null"))));
        assert!(door(&["*"], 1, 1).admits(&headers(Some("https://evil.example"))));
    }
}
