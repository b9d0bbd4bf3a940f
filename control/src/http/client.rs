//! Where a call comes from, and under which address we were called.
//!
//! Headers of proxies are believed only from proxies that the configuration names: anybody can write them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};

/// Addresses in `X-Forwarded-For` that are looked at, the nearest first.
const HOPS_MAX: usize = 16;

/// An address or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: u128,
    mask: u128,
}

/// The text is no address and no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a network such as 10.0.0.0/8")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| NotANetwork)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length: u32 = length.map_or(Ok(bits), |length| length.trim().parse().map_err(|_| NotANetwork))?;
        if length > bits {
            return Err(NotANetwork);
        }
        let mask = u128::MAX.checked_shl(bits - length).unwrap_or(0);
        Ok(Self { address: number(address) & mask, mask })
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        number(address) & self.mask == self.address
    }
}

/// IPv4 as IPv6 writes it (RFC 4291, section 2.5.5.2), so that both families compare.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A client for limits: an IPv4 address, or an IPv6 network of 64 bits, which is what one household has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey(u128);

impl From<IpAddr> for ClientKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() >> 64 << 64),
        }
    }
}

/// The proxies in front of us.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<Network>);

impl Proxies {
    /// # Errors
    /// The text that is no network.
    pub fn new(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| text.parse().map_err(|_| text.clone())).collect::<Result<_, _>>().map(Self)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// The address of the client: the last one that no trusted proxy has.
    pub fn client(&self, parts: &Parts) -> IpAddr {
        self.client_of(peer(parts), &parts.headers)
    }

    /// As [`Proxies::client`], of a TCP connection from `peer`.
    pub fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let mut client = peer;
        for address in forwarded_for(headers).take(HOPS_MAX) {
            let Some(address) = address else { break };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }

    /// Scheme and authority under which the client called.
    pub fn called(&self, parts: &Parts) -> Option<String> {
        let host = parts.headers.get(header::HOST)?.to_str().ok()?;
        let authority: Authority = host.parse().ok()?;
        let forwarded = parts.headers.get("x-forwarded-proto").filter(|_| self.trusts(peer(parts)));
        let scheme = if forwarded.is_some_and(|proto| proto == "https") { "https" } else { "http" };
        (!authority.as_str().contains('@')).then(|| format!("{scheme}://{authority}"))
    }
}

/// Of the TCP connection.
fn peer(parts: &Parts) -> IpAddr {
    let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |info| info.0.ip().to_canonical())
}

/// From the nearest proxy on; `None` for what is no address.
fn forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all("x-forwarded-for").into_iter().rev();
    lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(',')).map(|text| {
        let text = text.trim();
        let socket = || text.parse::<SocketAddr>().map(|socket| socket.ip());
        text.parse::<IpAddr>().or_else(|_| socket()).ok().map(|address| address.to_canonical())
    })
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(peer: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4000)));
        parts
    }

    fn proxies(texts: &[&str]) -> Proxies {
        Proxies::new(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_stranger_cannot_say_where_it_comes_from() {
        let parts = parts("203.0.113.5", &[("x-forwarded-for", "198.51.100.1")]);

        assert_eq!(proxies(&["10.0.0.0/8"]).client(&parts), "203.0.113.5".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let proxies = proxies(&["10.0.0.0/8", "fd00::/8"]);
        let seen = |list: &str| proxies.client(&parts("10.1.2.3", &[("x-forwarded-for", list)])).to_string();

        assert_eq!(seen("198.51.100.1, 203.0.113.5, 10.9.9.9"), "203.0.113.5");
        assert_eq!(seen("198.51.100.1:8080"), "198.51.100.1");
        assert_eq!(seen("2001:db8::7, fd00::1"), "2001:db8::7");
        assert_eq!(seen("forged, unknown"), "10.1.2.3");
        assert_eq!(seen(""), "10.1.2.3");
    }

    #[test]
    fn several_lines_are_one_list() {
        let parts = parts("10.0.0.1", &[("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.5")]);

        assert_eq!(proxies(&["10.0.0.1"]).client(&parts).to_string(), "203.0.113.5");
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_client() {
        let key = |text: &str| ClientKey::from(text.parse::<IpAddr>().unwrap());

        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }

    #[test]
    fn https_is_believed_of_a_trusted_proxy_only() {
        let headers = [("host", "live.example"), ("x-forwarded-proto", "https")];
        let called = |peer| proxies(&["10.0.0.1"]).called(&parts(peer, &headers));

        assert_eq!(called("10.0.0.1").as_deref(), Some("https://live.example"));
        assert_eq!(called("10.0.0.2").as_deref(), Some("http://live.example"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0", "::/129", "a/8", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }
}
