//! Who calls, and under which address we were called: the connection itself, or what proxies say of it.
//!
//! This is the only place that reads what proxies add: `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`, `X-Real-IP`,
//! and `Forwarded` (RFC 7239). Anybody can write these headers. So they are believed only of the proxies that the
//! configuration names (`http.trusted_proxies`, by default those on this machine), hop by hop from the nearest one on.

mod headers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use signaling::http::ClientAddress;
use tracing::warn;

use headers::Hop;

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

/// Where a call comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Of the client, as far as trusted proxies tell; else of the last proxy.
    pub address: IpAddr,
    /// Scheme and authority under which the client called, without a port that is the scheme's own.
    pub called: Option<String>,
    /// From this machine, and not for somebody elsewhere as far as can be seen.
    pub is_local: bool,
}

/// The text names no proxies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("http.trusted_proxies: {0:?} is no address and no network such as 10.0.0.0/8")]
pub struct NotAProxy(String);

/// The proxies in front of us. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    trusted: Vec<Network>,
    /// Whether the operator was told of a proxy that is not trusted, and of one that does not say for whom it calls.
    told_of_stranger: AtomicBool,
    told_of_silence: AtomicBool,
}

impl Proxies {
    /// # Errors
    /// [`NotAProxy`]
    pub fn new(texts: &[String]) -> Result<Self, NotAProxy> {
        let trusted = texts.iter().map(|text| text.trim().parse().map_err(|_| NotAProxy(text.clone())));
        Ok(Self(Arc::new(Inner { trusted: trusted.collect::<Result<_, _>>()?, ..Inner::default() })))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.trusted.iter().any(|network| network.contains(address))
    }

    /// Whether a TCP connection is one of this machine, or of a proxy, which brings many clients.
    pub fn is_near(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        peer.is_loopback() || self.trusts(peer)
    }

    /// Who sent a request.
    pub fn client(&self, parts: &Parts) -> Client {
        let client = self.client_of(peer(&parts.extensions), &parts.headers);
        Client { is_local: client.is_local && !is_old(parts.version), ..client }
    }

    /// As [`Proxies::client`], of a TCP connection from `peer`.
    pub fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> Client {
        let peer = peer.to_canonical();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if !self.trusts(peer) || !headers::forwarded(headers) {
            let is_local = peer.is_loopback() && !headers::forwarded(headers) && host.is_some_and(names_this_machine);
            return Client { address: peer, called: called(None, host, None), is_local };
        }
        let hops = headers::hops(headers);
        let (address, at) = self.origin(peer, &hops);
        // What the proxy nearest to the client said comes first.
        let of_hop = |read: fn(&Hop) -> Option<&str>| hops.iter().take(at + 1).rev().find_map(read);
        let port = of_hop(|hop| hop.port.as_deref());
        let proto = of_hop(|hop| hop.proto.as_deref()).or(port.filter(|port| *port == "443").map(|_| "https"));
        let host = of_hop(|hop| hop.host.as_deref()).or(host);
        Client { address, called: called(proto, host, port), is_local: false }
    }

    /// The last address that no trusted proxy has, and the number of the hop that told it, the nearest being 0.
    fn origin(&self, peer: IpAddr, hops: &[Hop]) -> (IpAddr, usize) {
        let mut found = (peer, 0);
        for (at, hop) in hops.iter().enumerate() {
            let Some(address) = hop.address else { break };
            found = (address, at);
            if !self.trusts(address) {
                break;
            }
        }
        found
    }

    /// Tells the operator once of what is probably a proxy that is not set up.
    fn advise(&self, peer: IpAddr, headers: &HeaderMap, version: Version) {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let once = |told: &AtomicBool| !told.swap(true, Ordering::Relaxed);
        let is_near = match peer {
            IpAddr::V4(v4) => v4.is_private() || v4.is_loopback(),
            IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback(),
        };
        if headers::forwarded(headers) && !self.trusts(peer) {
            // Strangers from afar may write what they like.
            if is_near && once(&self.0.told_of_stranger) {
                warn!(
                    %peer,
                    "somebody near by sends X-Forwarded-For or Forwarded and is not believed: if that is your proxy, name \
                     it in http.trusted_proxies; until then all its clients share one address"
                );
            }
        } else if peer.is_loopback()
            && !headers::forwarded(headers)
            && let Some(host) = host.filter(|host| !names_this_machine(host) || is_old(version))
            && once(&self.0.told_of_silence)
        {
            warn!(
                host,
                "a proxy on this machine does not say for whom it calls: let it send X-Forwarded-For and \
                 X-Forwarded-Proto; until then all its clients share one address and are given ws:// URLs"
            );
        }
    }
}

/// Adds the address of the client, for the signalling, which does not know of proxies, and looks for proxies that are
/// not set up. All requests pass here.
pub async fn identify(State(proxies): State<Proxies>, mut request: Request, next: Next) -> Response {
    let peer = peer(request.extensions());
    proxies.advise(peer, request.headers(), request.version());
    let address = proxies.client_of(peer, request.headers()).address;
    request.extensions_mut().insert(ClientAddress(address));
    next.run(request).await
}

/// Whether only a proxy that was told nothing calls like that: nginx, which then also sends none of the headers.
fn is_old(version: Version) -> bool {
    version < Version::HTTP_11
}

/// Of the TCP connection.
fn peer(extensions: &axum::http::Extensions) -> IpAddr {
    let info = extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |info| info.0.ip().to_canonical())
}

/// Scheme and authority, from what is known of them. `proto`: what the client spoke; else plain HTTP, as we do.
fn called(proto: Option<&str>, host: Option<&str>, port: Option<&str>) -> Option<String> {
    let secure = proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss"));
    let scheme = if secure { "https" } else { "http" };
    let authority = Authority::parse(host?.trim())?;
    let told = || port.and_then(|port| port.parse::<u16>().ok());
    let port = authority.port.or_else(told).filter(|port| Some(*port) != default_port(scheme));
    let host = authority.host;
    Some(port.map_or_else(|| format!("{scheme}://{host}"), |port| format!("{scheme}://{host}:{port}")))
}

/// What a Host header has: a host and perhaps a port, and nothing else (RFC 9110, section 7.2; RFC 3986, sections 3.2.2
/// and 3.2.3). The parser of URIs is not as strict: it takes what follows a bracket, user information and ports that
/// are none.
struct Authority {
    /// In lower case; an IPv6 address in brackets.
    host: String,
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Authority {
    fn parse(text: &str) -> Option<Self> {
        let end = match text.strip_prefix('[') {
            Some(rest) => rest.find(']')? + 2,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at_checked(end)?;
        let address = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(address) => Some(address.parse::<Ipv6Addr>().ok()?.into()),
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        };
        // Names of DNS have no need of escapes.
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
        if host.is_empty() || (address.is_none() && !host.bytes().all(in_name)) {
            return None;
        }
        // None at all may follow the colon.
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        Some(Self { host: host.to_ascii_lowercase(), address, port })
    }
}

/// The port that a URL of this scheme need not name.
pub(super) fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// Whether an authority names the machine that it is said on, whoever says it.
pub(super) fn names_this_machine(authority: &str) -> bool {
    Authority::parse(authority).is_some_and(|Authority { host, address, .. }| match address {
        Some(address) => address.to_canonical().is_loopback(),
        None => host == "localhost" || host.ends_with(".localhost"),
    })
}

/// Whether an authority is an address or `localhost`. Any other name can be made to lead here by whoever owns it (DNS
/// rebinding).
pub(super) fn is_no_name_of_dns(authority: &str) -> bool {
    Authority::parse(authority).is_some_and(|Authority { host, address, .. }| address.is_some() || host == "localhost")
}

#[cfg(test)]
mod tests;
