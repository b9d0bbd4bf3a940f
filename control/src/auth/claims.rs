//! What a verified token says, and whether that is enough (stream API, sections 2.3 and 2.4).

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::AuthError;
use crate::clock::Timestamp;
use crate::text::{self, Schemes};
use crate::user::{Role, User};

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(30);

/// Longest name that is shown, in characters.
const NAME_CHARS_MAX: usize = 64;

/// The claims of a token whose signature is right.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Claims(Map<String, Value>);

/// What tokens must say.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
    /// Parts separated by dots, unless a claim has the whole as its name.
    pub(super) role_claim: String,
    /// API keys of the media server.
    pub(super) refused_issuers: HashSet<String>,
}

impl Rules {
    pub(super) fn user(&self, claims: &Claims, now: Timestamp) -> Result<User, AuthError> {
        self.check_origin(claims)?;
        let id = claims.text("sub").and_then(|sub| sub.parse().ok()).ok_or(AuthError::Unauthenticated)?;
        let expires_at = claims.time("exp")?.ok_or(AuthError::Unauthenticated)?;
        for not_before in ["iat", "nbf"] {
            if claims.time(not_before)?.is_some_and(|at| at > now.plus(LEEWAY)) {
                return Err(AuthError::Unauthenticated);
            }
        }
        if expires_at.plus(LEEWAY) <= now {
            return Err(AuthError::Expired);
        }
        let picture = claims.text("picture").and_then(|url| text::picture_url(url, Schemes::Https).ok().flatten());
        Ok(User { id, role: self.role(claims), name: name(claims), picture, expires_at })
    }

    /// Issuer and audience, and that it is no media token.
    fn check_origin(&self, claims: &Claims) -> Result<(), AuthError> {
        let issuer = claims.text("iss");
        let is_media_token =
            claims.0.contains_key("video") || issuer.is_some_and(|iss| self.refused_issuers.contains(iss));
        let issuer_fits = self.issuer.is_none() || self.issuer.as_deref() == issuer;
        let audience_fits = self.audience.as_deref().is_none_or(|wanted| names(claims.0.get("aud"), wanted));
        if is_media_token || !issuer_fits || !audience_fits { Err(AuthError::Unauthenticated) } else { Ok(()) }
    }

    fn role(&self, claims: &Claims) -> Role {
        let role = claims.0.get(&self.role_claim).or_else(|| {
            let mut parts = self.role_claim.split('.');
            let first = claims.0.get(parts.next()?)?;
            parts.try_fold(first, |value, part| value.get(part))
        });
        if names(role, "admin") { Role::Admin } else { Role::User }
    }
}

fn name(claims: &Claims) -> Option<String> {
    let name = text::plain(claims.text("name")?)?;
    text::plain(&name.chars().take(NAME_CHARS_MAX).collect::<String>())
}

/// Whether a claim is that text, or a list with it.
fn names(claim: Option<&Value>, wanted: &str) -> bool {
    match claim {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Array(list)) => list.iter().any(|item| item.as_str() == Some(wanted)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => false,
    }
}

impl Claims {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A NumericDate (RFC 7519, section 2): seconds, perhaps with a fraction.
    fn time(&self, name: &str) -> Result<Option<Timestamp>, AuthError> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let seconds = value.as_f64().filter(|seconds| seconds.is_finite()).ok_or(AuthError::Unauthenticated)?;
        // The cast saturates, and the range of times is smaller still.
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let millis = (seconds * 1000.0) as i64;
        Ok(Some(Timestamp::from_millis(millis)))
    }
}
