//! What proxies write: the lists of `X-Forwarded-*`, and `Forwarded` (RFC 7239).

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

/// Hops that are looked at, the nearest first.
const HOPS_MAX: usize = 16;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const HOST: &str = "x-forwarded-host";
const PORT: &str = "x-forwarded-port";
const REAL_IP: &str = "x-real-ip";
const FORWARDED: &str = "forwarded";

/// What one proxy says of who called it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hop {
    /// Absent: it does not say, or in words that are no address (`unknown`, `_hidden`, `unix:`).
    pub(super) address: Option<IpAddr>,
    pub(super) proto: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<String>,
}

/// Whether a request came through a proxy, or says so.
pub(super) fn forwarded(headers: &HeaderMap) -> bool {
    [FOR, PROTO, HOST, REAL_IP, FORWARDED].iter().any(|name| headers.contains_key(*name))
}

/// The hops of a request, from the nearest on.
///
/// A proxy that writes one of the two forms passes the other one on as the client sent it. So where both are there and
/// do not tell of the same address, neither is believed.
pub(super) fn hops(headers: &HeaderMap) -> Vec<Hop> {
    let old = listed(headers);
    let Some(new) = elements(headers) else {
        return old;
    };
    let told = headers.contains_key(FOR) || headers.contains_key(REAL_IP);
    match (told, old.first(), new.first()) {
        (true, Some(old_hop), Some(new_hop)) if old_hop.address == new_hop.address => {
            let proto = old_hop.proto.clone().or_else(|| new_hop.proto.clone());
            let host = old_hop.host.clone().or_else(|| new_hop.host.clone());
            let nearest = Hop { proto, host, ..old_hop.clone() };
            std::iter::once(nearest).chain(old.into_iter().skip(1)).collect()
        }
        (true, ..) => vec![Hop::default()],
        (false, ..) => new,
    }
}

/// `X-Forwarded-*`. Each proxy adds to the end of the list of addresses; of the other lists there may be fewer entries,
/// since many proxies replace them: one that is alone holds for all hops.
fn listed(headers: &HeaderMap) -> Vec<Hop> {
    let mut addresses = list(headers, FOR);
    if addresses.is_empty() {
        addresses = list(headers, REAL_IP);
    }
    let others = [PROTO, HOST, PORT].map(|name| list(headers, name));
    let hops = addresses.len().max(1);
    let of = |values: &[String], at: usize| if values.len() == hops { values.get(at) } else { values.first() }.cloned();
    (0..hops)
        .map(|at| Hop {
            address: addresses.get(at).and_then(|text| address(text)),
            proto: of(&others[0], at),
            host: of(&others[1], at),
            port: of(&others[2], at),
        })
        .collect()
}

/// The values of all lines of a header, from the last one on.
fn list(headers: &HeaderMap, name: &str) -> Vec<String> {
    let lines = headers.get_all(name).into_iter().rev();
    let values = lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
    values.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).take(HOPS_MAX).collect()
}

/// `Forwarded`, if it is there.
fn elements(headers: &HeaderMap) -> Option<Vec<Hop>> {
    let lines: Vec<&str> = headers.get_all(FORWARDED).iter().map(|line| line.to_str().unwrap_or("?")).collect();
    if lines.is_empty() {
        return None;
    }
    let all = lines.join(",");
    let mut elements: Vec<&str> = split(&all, ',');
    elements.reverse();
    Some(elements.into_iter().take(HOPS_MAX).map(element).collect())
}

/// One element: pairs with semicolons between, whose names may have any case (RFC 7239, section 4).
fn element(text: &str) -> Hop {
    let mut hop = Hop::default();
    for pair in split(text, ';') {
        let Some((name, value)) = pair.split_once('=') else { continue };
        let value = unquoted(value.trim());
        match name.trim().to_ascii_lowercase().as_str() {
            "for" => hop.address = address(&value),
            "proto" => hop.proto = Some(value),
            "host" => hop.host = Some(value),
            _ => {}
        }
    }
    hop
}

/// Parts between separators that are not in quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|letter: char| {
        let ends = letter == separator && !quoted;
        if letter == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && letter == '\\' && !escaped;
        ends
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

/// A token as it is, or what a quoted string holds (RFC 9110, section 5.6.4).
fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return text.to_owned();
    };
    let mut letters = inner.chars();
    let mut plain = String::with_capacity(inner.len());
    while let Some(letter) = letters.next() {
        plain.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    plain
}

/// An address with or without a port; of IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_in_many_ways() {
        let parsed = |text: &str| address(text).map(|address| address.to_string());

        assert_eq!(parsed("192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(parsed("192.0.2.1:4711").as_deref(), Some("192.0.2.1"));
        assert_eq!(parsed("2001:db8::7").as_deref(), Some("2001:db8::7"));
        assert_eq!(parsed("[2001:db8::7]").as_deref(), Some("2001:db8::7"));
        assert_eq!(parsed("[2001:db8::7]:4711").as_deref(), Some("2001:db8::7"));
        assert_eq!(parsed("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1"));
        for nothing in ["", "unknown", "_hidden", "unix:", "192.0.2", "[]", "a.example"] {
            assert_eq!(parsed(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn separators_in_quotes_separate_nothing() {
        assert_eq!(split(r#"for="a,b";proto=http, for=c"#, ','), [r#"for="a,b";proto=http"#, "for=c"]);
        assert_eq!(split(r#"a="\";";b=c"#, ';'), [r#"a="\";""#, "b=c"]);
        assert_eq!(unquoted(r#""a\"b""#), r#"a"b"#);
    }

    proptest::proptest! {
        /// Whatever a header holds, it is read to its end.
        #[test]
        fn any_header_is_read(text in ".{0,200}") {
            let _ = element(&text);
            proptest::prop_assert!(split(&text, ',').iter().all(|part| text.contains(part)));
        }
    }
}
