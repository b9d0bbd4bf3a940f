//! Webhooks of a LiveKit-compatible server (stream API, section 5): who signed them, what they say.
//!
//! [`verify`] and [`read`] are pure; [`Webhooks::check_token`] and [`Webhooks::receive`] do both, and wait until the
//! effect is in the store.

mod event;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::lifecycle::{Counters, Lifecycle};
use crate::problem::{Code, Problem, STORE_RETRY};
use crate::rooms::event::{Event, EventKind};
use crate::viewers::{Handled, Viewers};

pub use event::{Unreadable, read};

/// Largest body, in bytes.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// How far the sender's clock may differ from ours.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// Longest token, in bytes: a webhook's claims are few.
const TOKEN_BYTES_MAX: usize = 4_096;

/// API keys of servers that may send webhooks; several for rotation. Cheap to clone.
#[derive(Clone)]
pub struct WebhookKeys(Arc<[(String, DecodingKey)]>);

impl WebhookKeys {
    /// Pairs of API key and secret. Without any, no webhook is accepted.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let keys = pairs.into_iter().filter(|(key, secret)| !key.is_empty() && !secret.is_empty());
        Self(keys.map(|(key, secret)| (key.to_owned(), DecodingKey::from_secret(secret.as_bytes()))).collect())
    }

    fn secret(&self, api_key: &str) -> Option<&DecodingKey> {
        self.0.iter().find(|(key, _)| key == api_key).map(|(_, secret)| secret)
    }
}

impl fmt::Debug for WebhookKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

/// Why a webhook is not believed. For the log; the sender is told nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unbelieved {
    #[error("there is no token")]
    NoToken,
    #[error("the token cannot be read")]
    Malformed,
    #[error("the token is signed by an unknown key")]
    UnknownKey,
    /// RFC 7515, section 4.1.11.
    #[error("the token's header has crit, and no extension is known here")]
    Extension,
    #[error("the token is not signed with HMAC-SHA-256 by that key")]
    Signature,
    #[error("the token is expired or not valid yet")]
    Time,
    #[error("the body is not the one that was signed")]
    Body,
}

/// The hash of the body that a valid token names, in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHash(String);

impl SignedHash {
    /// Checks that this is the body that was signed.
    ///
    /// # Errors
    /// [`Unbelieved::Body`]
    pub fn check(&self, body: &[u8]) -> Result<(), Unbelieved> {
        let hash = BASE64_STANDARD.encode(Sha256::digest(body));
        if is_equal(self.0.as_bytes(), hash.as_bytes()) { Ok(()) } else { Err(Unbelieved::Body) }
    }
}

/// Checks that a webhook's token was signed by one of `keys`, before its body has come.
///
/// # Errors
/// The first [`Unbelieved`] that applies, in the order of its variants.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
pub fn verify(keys: &WebhookKeys, headers: &HeaderMap, now: Timestamp) -> Result<SignedHash, Unbelieved> {
    let token = headers.get(AUTHORIZATION).ok_or(Unbelieved::NoToken)?.to_str().map_err(|_| Unbelieved::Malformed)?;
    let token = token.strip_prefix("Bearer ").unwrap_or(token).trim();
    if token.is_empty() {
        return Err(Unbelieved::NoToken);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Unbelieved::Malformed);
    }
    let issuer: Issuer = part(token, 1)?;
    let secret = keys.secret(&issuer.iss).ok_or(Unbelieved::UnknownKey)?;
    let header: Header = part(token, 0)?;
    if header.alg != "HS256" {
        return Err(Unbelieved::Signature);
    }
    if header.crit.is_some() {
        return Err(Unbelieved::Extension);
    }
    let claims = jsonwebtoken::decode::<Claims>(token, secret, &signature_only())
        .map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => Unbelieved::Signature,
            _ => Unbelieved::Malformed,
        })?
        .claims;
    check_time(&claims, now)?;
    Ok(SignedHash(claims.sha256))
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

#[derive(Deserialize)]
struct Claims {
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    sha256: String,
}

fn part<T: for<'de> Deserialize<'de>>(token: &str, index: usize) -> Result<T, Unbelieved> {
    let part = token.split('.').nth(index).ok_or(Unbelieved::Malformed)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Unbelieved::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Unbelieved::Malformed)
}

/// Times are checked here, because the library would read the clock itself.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

/// Exact for every time of this age: 2^53 ms are 285,000 years.
#[expect(clippy::cast_precision_loss, reason = "times are far below 2^53")]
fn check_time(claims: &Claims, now: Timestamp) -> Result<(), Unbelieved> {
    let now = now.millis() as f64 / 1000.0;
    let leeway = LEEWAY.as_secs_f64();
    let expired = now > claims.exp + leeway;
    let early = claims.nbf.is_some_and(|nbf| now + leeway < nbf);
    if expired || early { Err(Unbelieved::Time) } else { Ok(()) }
}

/// Takes as long for any two texts of one length.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Fills in times that the sender left out.
fn complete_times(event: &mut Event, now: Timestamp) {
    if event.at == Timestamp::default() {
        event.at = now;
    }
    let at = event.at.min(now);
    if let EventKind::Joined(session) | EventKind::Left(session) | EventKind::Aborted(session) = &mut event.kind
        && session.joined_at == Timestamp::default()
    {
        session.joined_at = at;
    }
}

/// Where webhooks are received. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    keys: WebhookKeys,
    lifecycle: Lifecycle,
    viewers: Viewers,
}

impl Webhooks {
    /// Accepts what is signed with one of `keys`.
    pub fn new(keys: WebhookKeys, lifecycle: Lifecycle, viewers: Viewers) -> Self {
        Self { keys, lifecycle, viewers }
    }

    /// Looks at a webhook's token, before its body has come.
    ///
    /// # Errors
    /// `unauthenticated`
    pub fn check_token(&self, headers: &HeaderMap) -> Result<SignedHash, Problem> {
        verify(&self.keys, headers, self.lifecycle.now()).map_err(|cause| self.unbelieved(cause))
    }

    fn unbelieved(&self, cause: Unbelieved) -> Problem {
        Counters::add(&self.lifecycle.counters().webhooks_refused);
        if let Some(left_out) = self.lifecycle.counters().webhooks_refused_log.admit(Instant::now()) {
            tracing::info!(reason = %cause, of = "webhook", left_out, "authentication failed");
        }
        Problem::new(Code::Unauthenticated, "This webhook is not signed with a key of this server.")
    }

    /// Takes a webhook in. `Ok`: answer 200; its effect is in the store, or it is a repeat, or none of our business.
    ///
    /// # Errors
    /// `unauthenticated`, `body_too_large`, `malformed_body`; `store_unavailable`, so that the sender tries again.
    pub async fn receive(&self, hash: &SignedHash, body: &[u8]) -> Result<Handled, Problem> {
        if body.len() > BODY_BYTES_MAX {
            return Err(Problem::new(Code::BodyTooLarge, "A webhook has at most 256 KiB."));
        }
        hash.check(body).map_err(|cause| self.unbelieved(cause))?;
        let mut event = read(body).map_err(|error| {
            Counters::add(&self.lifecycle.counters().webhooks_malformed);
            tracing::info!(%error, "a signed webhook cannot be read");
            Problem::new(Code::MalformedBody, "The body is not a webhook event in JSON.")
        })?;
        complete_times(&mut event, self.lifecycle.now());
        let (room, name) = (event.room.clone(), event.kind.name());
        let participant = event.kind.participant().map(str::to_owned);
        let stream = self.lifecycle.cache().of_room(&room).map(|stream| tracing::field::display(stream.id));
        let handled = self.viewers.apply(event).await;
        tracing::info!(event = name, room, stream, participant, result = handled.name(), "webhook received");
        match handled {
            Handled::Deferred => {
                Err(Problem::new(Code::StoreUnavailable, "The event could not be kept; send it again in a moment.")
                    .retry_after(STORE_RETRY))
            }
            handled @ (Handled::Applied | Handled::Repeated | Handled::NotOurs) => Ok(handled),
        }
    }
}
