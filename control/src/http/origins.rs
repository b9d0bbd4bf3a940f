//! Which pages may call from elsewhere (`http.cors_origins`; stream API, section 1, rule 9): one list with one reading,
//! for the API and its preflights and for the handshake of the chat.
//!
//! An entry is an origin as browsers write it, `https://app.example`; letters of either case, a slash at the end and
//! the scheme's own port make no difference. `https://*.app.example` allows every name below `app.example`, but not
//! that name itself. Apps in a web view have schemes of their own, such as `capacitor://localhost`. `*` allows any
//! page, in development only, where pages of this machine may call in any case.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, header};
use tower_http::cors::AllowOrigin;
use url::{Host, Url};

use super::client::{default_port, names_this_machine};

/// The text is no entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnOrigin {
    #[error(
        "http.cors_origins: {0:?} is no origin; write it as browsers do, such as https://app.example, \
         https://*.app.example or capacitor://localhost"
    )]
    Malformed(String),
    #[error(
        "http.cors_origins: {0:?} has more than scheme, host and port; pages of an origin can be let in only together: \
         write {1:?}"
    )]
    Path(String, String),
    #[error(
        "http.cors_origins: {0:?} may have a * only as the whole first part of the host, such as https://*.app.example"
    )]
    Wildcard(String),
    #[error(
        "http.cors_origins: \"null\" is what every page without an origin says, such as a file's or a sandboxed frame's; \
         serve the page, or give it the scheme of your app"
    )]
    Opaque,
    #[error(
        "http.cors_origins may be \"*\" in development only: it lets every page on the internet call with its visitor's \
         token; list the origins of your pages"
    )]
    Any,
}

/// The pages that may call. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Origins(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// As [`Origin::text`] writes them.
    exact: Vec<String>,
    /// Of wildcards: scheme, the end of the host with its dot, port.
    below: Vec<(String, String, Option<u16>)>,
    any: bool,
    /// Pages of this machine, on any port.
    this_machine: bool,
}

/// An origin (RFC 6454) with the scheme's own port left out.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origins {
    /// # Errors
    /// The first entry that cannot be used.
    pub fn new(entries: &[String], development: bool) -> Result<Self, NotAnOrigin> {
        let mut origins = Inner { this_machine: development, ..Inner::default() };
        for entry in entries.iter().map(|entry| entry.trim()) {
            match entry {
                "*" if development => origins.any = true,
                "*" => return Err(NotAnOrigin::Any),
                "null" => return Err(NotAnOrigin::Opaque),
                _ => origins.add(entry)?,
            }
        }
        Ok(Self(Arc::new(origins)))
    }

    /// Whether nobody but this server's own pages may call.
    pub fn is_empty(&self) -> bool {
        let Inner { exact, below, any, this_machine } = &*self.0;
        exact.is_empty() && below.is_empty() && !any && !this_machine
    }

    /// Whether pages of this origin may call.
    pub fn allow(&self, origin: &HeaderValue) -> bool {
        if self.0.any {
            return true;
        }
        let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else {
            return false;
        };
        let Inner { exact, below, this_machine, .. } = &*self.0;
        let is_below = |(scheme, end, port): &(String, String, Option<u16>)| {
            origin.scheme == *scheme && origin.port == *port && origin.host.ends_with(end.as_str())
        };
        (*this_machine && origin.is_web() && names_this_machine(&origin.host))
            || exact.contains(&origin.text())
            || below.iter().any(is_below)
    }

    /// Whether a request may be answered: it comes from no page, from one of this server, or from one that is allowed.
    /// `called`: scheme and authority under which this server was called, as proxies tell.
    pub fn admit(&self, headers: &HeaderMap, called: Option<&str>) -> bool {
        let Some(value) = headers.get(header::ORIGIN) else {
            return true;
        };
        self.allow(value) || is_own(value, headers.get(header::HOST), called)
    }

    /// The same list for a layer of CORS.
    pub fn cors(&self) -> AllowOrigin {
        let origins = self.clone();
        AllowOrigin::predicate(move |origin, _| origins.allow(origin))
    }
}

/// Whether a page came from the host that it calls. The scheme is not compared: a proxy may have spoken TLS for us.
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>, called: Option<&str>) -> bool {
    let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else {
        return false;
    };
    let host = host.and_then(|host| host.to_str().ok()).map(|host| format!("{}://{host}", origin.scheme));
    let names = [host.as_deref(), called].into_iter().flatten().filter_map(Origin::parse);
    names.into_iter().any(|ours| (&ours.host, ours.port) == (&origin.host, origin.port))
}

impl Inner {
    fn add(&mut self, entry: &str) -> Result<(), NotAnOrigin> {
        let malformed = || NotAnOrigin::Malformed(entry.to_owned());
        let (scheme, rest) = entry.split_once("://").ok_or_else(malformed)?;
        let (wildcard, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if rest.contains('*') {
            return Err(NotAnOrigin::Wildcard(entry.to_owned()));
        }
        let origin = Origin::parse(&format!("{scheme}://{rest}"));
        let Some(origin) = origin else {
            return Err(match rest.split_once(['/', '?', '#']) {
                Some((host, path)) if !path.is_empty() && Origin::parse(&format!("{scheme}://{host}")).is_some() => {
                    let wildcard = if wildcard { "*." } else { "" };
                    NotAnOrigin::Path(entry.to_owned(), format!("{scheme}://{wildcard}{host}"))
                }
                _ => malformed(),
            });
        };
        if !wildcard {
            self.exact.push(origin.text());
        } else if origin.is_web() && origin.host.contains('.') && origin.host.parse::<std::net::IpAddr>().is_err() {
            self.below.push((origin.scheme, format!(".{}", origin.host), origin.port));
        } else {
            return Err(NotAnOrigin::Wildcard(entry.to_owned()));
        }
        Ok(())
    }
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        let host = match url.host()? {
            Host::Domain(name) => name.to_ascii_lowercase(),
            address @ (Host::Ipv4(_) | Host::Ipv6(_)) => address.to_string(),
        };
        let port = url.port().filter(|port| Some(*port) != default_port(url.scheme()));
        (!host.is_empty()).then(|| Self { scheme: url.scheme().to_owned(), host, port })
    }

    fn is_web(&self) -> bool {
        matches!(self.scheme.as_str(), "http" | "https")
    }

    fn text(&self) -> String {
        let Self { scheme, host, port } = self;
        port.map_or_else(|| format!("{scheme}://{host}"), |port| format!("{scheme}://{host}:{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(entries: &[&str], development: bool) -> Result<Origins, NotAnOrigin> {
        Origins::new(&entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>(), development)
    }

    fn allow(entries: &[&str], origin: &'static str) -> bool {
        origins(entries, false).unwrap().allow(&HeaderValue::from_static(origin))
    }

    #[test]
    fn an_entry_has_many_spellings() {
        for entry in ["https://app.example", "https://app.example/", "https://APP.example:443", " HTTPS://App.Example "]
        {
            assert!(allow(&[entry], "https://app.example"), "{entry}");
            for other in ["http://app.example", "https://app.example:8443", "https://x.app.example", "null"] {
                assert!(!allow(&[entry], other), "{entry} {other}");
            }
        }
        assert!(allow(&["http://10.0.0.7:8081"], "http://10.0.0.7:8081"));
        assert!(allow(&["http://[2001:DB8::1]:80"], "http://[2001:db8::1]"));
        assert!(allow(&["https://bücher.example"], "https://xn--bcher-kva.example"));
    }

    #[test]
    fn a_wildcard_allows_what_is_below_it() {
        let entries = &["https://*.app.example", "http://*.app.example:8080"];

        for origin in ["https://www.app.example", "https://a.b.app.example", "http://x.app.example:8080"] {
            assert!(allow(entries, origin), "{origin}");
        }
        for origin in [
            "https://app.example",
            "https://evilapp.example",
            "https://app.example.evil.example",
            "https://x.app.example:8443",
            "http://x.app.example",
            "https://evil.example",
        ] {
            assert!(!allow(entries, origin), "{origin}");
        }
    }

    #[test]
    fn apps_in_a_web_view_have_schemes_of_their_own() {
        for origin in ["capacitor://localhost", "ionic://localhost", "tauri://localhost", "app://my.app"] {
            assert!(allow(&[origin], origin) && !allow(&["https://app.example"], origin), "{origin}");
        }
        assert!(allow(&["Capacitor://Localhost/"], "capacitor://localhost"));
        assert!(!allow(&["capacitor://localhost"], "capacitor://localhost:3000"));
    }

    #[test]
    fn in_development_pages_of_this_machine_may_call() {
        let development = origins(&[], true).unwrap();
        let allow = |origin: &'static str| development.allow(&HeaderValue::from_static(origin));

        for origin in ["http://localhost:8081", "https://localhost", "http://127.0.0.1:19006", "http://[::1]:3000"] {
            assert!(allow(origin) && !self::allow(&["https://app.example"], origin), "{origin}");
        }
        for origin in ["http://localhost.evil.example", "http://10.0.0.7:8081", "null", "https://evil.example"] {
            assert!(!allow(origin), "{origin}");
        }
        assert!(origins(&["*"], true).unwrap().allow(&HeaderValue::from_static("null")));
        assert!(origins(&[], false).unwrap().is_empty() && !development.is_empty());
    }

    #[test]
    fn what_is_no_origin_is_refused_with_what_to_write() {
        let refused = |entry: &str| origins(&[entry], false).unwrap_err().to_string();

        assert!(refused("app.example").contains("https://app.example"));
        assert!(refused("https://app.example/page").contains("write \"https://app.example\""));
        assert!(refused("https://*").contains("first part"));
        assert!(refused("https://*.example").contains("first part"));
        assert!(refused("https://www.*.example").contains("first part"));
        assert!(refused("https://*.10.0.0.1").contains("first part"));
        assert!(refused("http://localhost:*").contains("first part"));
        assert!(refused("null").contains("without an origin"));
        assert!(refused("*").contains("in development only"));
        for entry in ["", "https://", "://x", "https://user@app.example", "localhost:3000", "https://a b"] {
            assert!(refused(entry).contains("is no origin"), "{entry}");
        }
    }

    #[test]
    fn pages_of_this_server_need_not_be_listed() {
        let admit = |origin: &str, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            headers.insert(header::HOST, host.parse().unwrap());
            origins(&["https://app.example"], false).unwrap().admit(&headers, Some("https://live.example"))
        };

        assert!(admit("https://chat.example:8443", "chat.example:8443"));
        assert!(admit("https://chat.example", "chat.example:443"));
        assert!(admit("https://chat.example", "Chat.example"));
        assert!(admit("http://chat.example", "chat.example:80"));
        assert!(admit("https://app.example", "chat.example"));
        assert!(admit("https://live.example", "127.0.0.1:7880"));
        for (origin, host) in [
            ("https://evil.example", "chat.example"),
            ("https://chat.example", "chat.example:8443"),
            ("null", "chat.example"),
            ("https://chat.example", "evil.example@chat.example"),
        ] {
            assert!(!admit(origin, host), "{origin} {host}");
        }
        assert!(origins(&[], false).unwrap().admit(&HeaderMap::new(), None));
    }
}
