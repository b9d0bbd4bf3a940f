//! Access to the metrics: for everybody, or with a password if one is configured.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use shared::log_limit::LogLimit;
use shared::rate::Buckets;
use tracing::info;

use crate::config::Prometheus;
use crate::http::client::{ClientKey, Proxies};

/// Wrong passwords from one address at once, and after how long one more.
const GUESSES: u32 = 20;
const GUESS_EVERY: Duration = Duration::from_secs(3);
/// Addresses whose guesses are counted apart.
const ADDRESSES_MAX: usize = 10_000;

/// Checks the password of those who scrape the metrics.
pub(super) struct ScrapeGuard {
    /// `user:password` in base64.
    expected: Option<String>,
    proxies: Proxies,
    guesses: Mutex<Buckets<ClientKey>>,
    /// Bounds what is logged of callers without the password.
    refusals: Arc<LogLimit>,
}

/// Why the metrics are not shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No password, or a wrong one.
    Unauthorized,
    /// Too many wrong ones came from there: no further one is looked at for so long.
    TooOften(Duration),
}

impl ScrapeGuard {
    pub(super) fn new(settings: &Prometheus, proxies: Proxies, refusals: Arc<LogLimit>) -> Self {
        let expected = (!settings.username.is_empty())
            .then(|| BASE64_STANDARD.encode(format!("{}:{}", settings.username, settings.password.0)));
        Self { expected, proxies, guesses: Mutex::new(Buckets::new(GUESSES, GUESS_EVERY, ADDRESSES_MAX)), refusals }
    }

    /// # Errors
    /// Why not.
    pub(super) fn admit(&self, parts: &Parts, now: Instant) -> Result<(), Refused> {
        let Some(expected) = &self.expected else { return Ok(()) };
        let client = ClientKey::from(self.proxies.client(parts).address);
        let mut guesses = self.guesses.lock().expect("no one panics with this lock");
        guesses.wait(&client, now).map_err(Refused::TooOften)?;
        if presents(&parts.headers, expected) {
            return Ok(());
        }
        if parts.headers.contains_key(AUTHORIZATION) {
            // It is refused anyway.
            let _ = guesses.take(client, now);
        }
        if let Some(left_out) = self.refusals.admit(now) {
            info!(reason = "wrong or no password", path = "metrics", left_out, "authentication failed");
        }
        Err(Refused::Unauthorized)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthorized => {
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Basic realm=\"metrics\"")]).into_response()
            }
            Self::TooOften(wait) => {
                let seconds = wait.as_secs().max(1).to_string();
                (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, seconds)]).into_response()
            }
        }
    }
}

/// Basic authentication (RFC 7617). Compared in a time that does not tell how much was right.
fn presents(headers: &HeaderMap, expected: &str) -> bool {
    let presented = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Basic "));
    let Some(presented) = presented else {
        return false;
    };
    let difference = presented.iter().zip(expected.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    presented.len() == expected.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::extract::ConnectInfo;
    use axum::http::Request;

    use super::*;
    use crate::config::Hidden;

    fn with_password() -> ScrapeGuard {
        let settings =
            Prometheus { username: "scraper".into(), password: Hidden("pass".into()), ..Prometheus::default() };
        ScrapeGuard::new(&settings, Proxies::default(), Arc::default())
    }

    fn from(peer: &str, password: &str) -> Parts {
        let mut request = Request::get("/metrics");
        if !password.is_empty() {
            let presented = format!("Basic {}", BASE64_STANDARD.encode(password));
            request = request.header(AUTHORIZATION, presented);
        }
        let peer: SocketAddr = peer.parse().unwrap();
        request.extension(ConnectInfo(peer)).body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_the_right_password_opens_the_metrics() {
        let (guard, now) = (with_password(), Instant::now());
        assert_eq!(guard.admit(&from("192.0.2.1:9", "scraper:pass"), now), Ok(()));
        for wrong in ["", "scraper:pasS", "scraper:passing", "scraper:pas"] {
            assert_eq!(guard.admit(&from("192.0.2.1:9", wrong), now), Err(Refused::Unauthorized), "{wrong}");
        }
        let open = ScrapeGuard::new(&Prometheus::default(), Proxies::default(), Arc::default());
        assert_eq!(open.admit(&from("192.0.2.1:9", ""), now), Ok(()));
    }

    #[test]
    fn after_too_many_wrong_passwords_an_address_waits_and_no_other() {
        let (guard, now) = (with_password(), Instant::now());
        for _ in 0..GUESSES {
            assert_eq!(guard.admit(&from("192.0.2.1:9", "scraper:guess"), now), Err(Refused::Unauthorized));
        }
        for password in ["scraper:guess", "scraper:pass"] {
            assert_eq!(guard.admit(&from("192.0.2.1:9", password), now), Err(Refused::TooOften(GUESS_EVERY)));
        }
        assert_eq!(guard.admit(&from("192.0.2.2:9", "scraper:pass"), now), Ok(()));
        assert_eq!(guard.admit(&from("192.0.2.1:9", "scraper:pass"), now + GUESS_EVERY), Ok(()));
    }
}
