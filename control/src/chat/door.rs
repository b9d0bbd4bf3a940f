//! The door of the Socket.IO path: what is checked before a connection exists, and how many there are.
//!
//! A client over a limit is let in to be told so (`too_many_connections` is a message of the protocol inside); what
//! comes beyond that again gets an HTTP status.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::counters::{Counters, add, subtract};
use crate::http::client::Proxies;
use crate::http::origins::Origins;

/// Refused tokens of one connection.
const REFUSALS_MAX: u32 = 20;

/// Of those over a limit, so many are let in to be told.
const TOLD_MAX: u32 = 16;

#[derive(Clone)]
pub(crate) struct Door(Arc<Inner>);

struct Inner {
    origins: Origins,
    max: u32,
    /// 0: unlimited.
    max_per_address: u32,
    proxies: Proxies,
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
    pub fn new(origins: Origins, max: u32, max_per_address: u32, proxies: Proxies, counters: Arc<Counters>) -> Self {
        Self(Arc::new(Inner { origins, max, max_per_address, proxies, count: Mutex::default(), counters }))
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
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip());
    let client = door.0.proxies.client_of(peer, request.headers());
    if !door.0.origins.admit(request.headers(), client.called.as_deref()) {
        add(&door.0.counters.refused_at_door, 1);
        return (StatusCode::FORBIDDEN, "This origin may not connect; add it to http.cors_origins.").into_response();
    }
    if !continues(&request) {
        let Some(pass) = door.enter(client.address) else {
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

    fn door(max: u32, max_per_address: u32) -> Door {
        Door::new(Origins::default(), max, max_per_address, Proxies::default(), Arc::default())
    }

    #[test]
    fn connections_of_one_address_are_counted_until_they_end() {
        let door = door(1000, 2);
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
        let door = door(10, 0);
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
}
