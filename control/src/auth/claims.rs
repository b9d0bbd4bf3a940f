//! What a verified token says, and whether that is enough (stream API, sections 2.3 and 2.4).

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{AuthError, Reason};
use crate::clock::Timestamp;
use crate::store::stream::UserId;
use crate::text::{self, Schemes};
use crate::user::{Role, User};

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(30);

/// The claim that names the user where the token is OpenID's.
const SUBJECT: &str = "sub";

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
    pub(super) user_claim: String,
    /// The same of the role.
    pub(super) role_claim: String,
    /// API keys of the media server.
    pub(super) refused_issuers: HashSet<String>,
}

impl Rules {
    pub(super) fn user(&self, claims: &Claims, now: Timestamp) -> Result<User, AuthError> {
        self.check_origin(claims)?;
        let id = claims.at(&self.user_claim).and_then(|value| self.id(value)).ok_or(Reason::User)?;
        let expires_at = claims.time("exp")?.ok_or(Reason::Times)?;
        for not_before in ["iat", "nbf"] {
            if claims.time(not_before)?.is_some_and(|at| at > now.plus(LEEWAY)) {
                return Err(Reason::NotYetValid.into());
            }
        }
        if expires_at.plus(LEEWAY) <= now {
            return Err(AuthError::Expired);
        }
        let picture = claims.text("picture").and_then(|url| text::picture_url(url, Schemes::Https).ok().flatten());
        Ok(User { id, role: self.role(claims), name: name(claims), picture, expires_at })
    }

    /// A user's id: text, or a whole number as databases count them. `sub` is text always (RFC 7519, section 4.1.2).
    fn id(&self, value: &Value) -> Option<UserId> {
        match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) if self.user_claim != SUBJECT && (number.is_u64() || number.is_i64()) => {
                number.to_string().parse().ok()
            }
            Value::Number(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Issuer and audience, and that it is no media token.
    fn check_origin(&self, claims: &Claims) -> Result<(), Reason> {
        let issuer = claims.text("iss");
        let is_media_token =
            claims.0.contains_key("video") || issuer.is_some_and(|iss| self.refused_issuers.contains(iss));
        let issuer_fits = self.issuer.is_none() || self.issuer.as_deref() == issuer;
        let audience_fits = self.audience.as_deref().is_none_or(|wanted| names(claims.0.get("aud"), wanted));
        match (is_media_token, issuer_fits, audience_fits) {
            (true, ..) => Err(Reason::MediaToken),
            (_, false, _) => Err(Reason::Issuer),
            (.., false) => Err(Reason::Audience),
            (false, true, true) => Ok(()),
        }
    }

    fn role(&self, claims: &Claims) -> Role {
        if names(claims.at(&self.role_claim), "admin") { Role::Admin } else { Role::User }
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

    /// What stands at a path, its parts separated by dots, unless a claim has the whole as its name.
    fn at(&self, path: &str) -> Option<&Value> {
        self.0.get(path).or_else(|| {
            let mut parts = path.split('.');
            let first = self.0.get(parts.next()?)?;
            parts.try_fold(first, |value, part| value.get(part))
        })
    }

    /// A NumericDate (RFC 7519, section 2): seconds, perhaps with a fraction.
    fn time(&self, name: &str) -> Result<Option<Timestamp>, Reason> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let seconds = value.as_f64().filter(|seconds| seconds.is_finite()).ok_or(Reason::Times)?;
        // The cast saturates, and the range of times is smaller still.
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let millis = (seconds * 1000.0) as i64;
        Ok(Some(Timestamp::from_millis(millis)))
    }
}
