//! Who calls: the tokens of the app's identity service, verified (stream API, section 2).
//!
//! The algorithm comes from the configuration and the key, never from the token: a shared secret means HS256, a key of
//! the JWKS means the one algorithm of its type. Media tokens and user tokens never stand in for each other.

mod admins;
mod claims;
mod dev;
mod jwks;
pub mod secret;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode_header};

pub use dev::{DevToken, DevTokens, random_secret};

use crate::clock::Timestamp;
use crate::config::product;
use crate::store::stream::UserId;
use crate::user::User;
use admins::Admins;
use claims::{Claims, Rules};
use jwks::Jwks;
use secret::{AuthConfigError, check_secret};

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Keys of the set that may have signed one token. A token that names no key id, of a service with more keys, is
/// refused: each try costs as much as a valid token.
const KEYS_TRIED_MAX: usize = 4;

/// How long a client waits before it tries again when there are no keys yet: they may have been fetched by then.
pub const KEYS_RETRY: Duration = jwks::RETRY;

/// Why a token says nothing about who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("unauthenticated")]
    Unauthenticated(Reason),
    #[error("token_expired")]
    Expired,
    /// Only a key of `JWT_JWKS_URL` could tell, and none was ever fetched: the token may be good.
    #[error("keys_unavailable")]
    KeysUnavailable,
}

impl AuthError {
    /// The reason as a code, for logs and answers.
    pub fn reason(self) -> &'static str {
        match self {
            AuthError::Unauthenticated(reason) => reason.code(),
            AuthError::Expired => "expired",
            AuthError::KeysUnavailable => "keys_unavailable",
        }
    }
}

/// What is wrong with a token that never was valid here. It helps whoever sets an identity service up, and nobody who
/// forges tokens: without the key they come no further than [`Reason::Signature`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No token: another scheme than `Bearer`, not three parts, not JSON, too long.
    Malformed,
    /// Signed in a way for which there is no key: `HS256` without `JWT_SECRET`, anything else without a fitting key of
    /// `JWT_JWKS_URL`.
    Key,
    Signature,
    /// Its header names extensions that must be understood (RFC 7515, section 4.1.11): none is.
    Extension,
    /// A token for rooms.
    MediaToken,
    Issuer,
    Audience,
    /// No text and no whole number of 1 to 128 bytes where `auth.user_claim` says that the user's id is.
    User,
    /// Without `exp`, or with times that are no numbers.
    Times,
    NotYetValid,
}

impl Reason {
    pub fn code(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::Key => "unknown_key",
            Reason::Signature => "wrong_signature",
            Reason::Extension => "unknown_extension",
            Reason::MediaToken => "media_token",
            Reason::Issuer => "wrong_issuer",
            Reason::Audience => "wrong_audience",
            Reason::User => "no_user",
            Reason::Times => "no_expiry",
            Reason::NotYetValid => "not_yet_valid",
        }
    }

    /// For people: what is wrong.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Malformed => "it is no JSON Web Token",
            Reason::Key => "there is no key here for its algorithm and key id",
            Reason::Signature => "its signature is wrong",
            Reason::Extension => "its header demands an extension (crit) that is not known here",
            Reason::MediaToken => "it is a token for rooms, not one of a user",
            Reason::Issuer => "it is of another issuer (iss)",
            Reason::Audience => "it is for another audience (aud)",
            Reason::User => "it names no user where auth.user_claim says",
            Reason::Times => "it has no end (exp), or a time that is no number",
            Reason::NotYetValid => "it is not valid yet (iat, nbf)",
        }
    }
}

impl From<Reason> for AuthError {
    fn from(reason: Reason) -> Self {
        AuthError::Unauthenticated(reason)
    }
}

/// Verifies tokens of users. Shared by HTTP and chat.
pub struct Authenticator {
    secret: Option<DecodingKey>,
    jwks: Option<Arc<Jwks>>,
    rules: Rules,
    admins: Admins,
}

impl Authenticator {
    /// With the API keys (name, secret) of the media server, whose tokens are refused.
    ///
    /// # Errors
    /// [`AuthConfigError`]
    pub fn new(config: &product::Auth, sfu_keys: &[(String, String)]) -> Result<Self, AuthConfigError> {
        let secret = match config.jwt_secret.0.as_str() {
            "" => None,
            secret => {
                check_secret(secret, sfu_keys)?;
                Some(DecodingKey::from_secret(secret.as_bytes()))
            }
        };
        let jwks = match config.jwks_url.as_str() {
            "" => None,
            url => Some(Arc::new(Jwks::new(url).map_err(AuthConfigError::JwksUrl)?)),
        };
        let not_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let rules = Rules {
            issuer: not_empty(&config.issuer),
            audience: not_empty(&config.audience),
            user_claim: config.user_claim.clone(),
            role_claim: config.role_claim.clone(),
            refused_issuers: sfu_keys.iter().map(|(name, _)| name.clone()).collect::<HashSet<_>>(),
        };
        Ok(Self { secret, jwks, rules, admins: Admins::default() })
    }

    /// Who holds this token.
    ///
    /// # Errors
    /// [`AuthError`]
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<User, AuthError> {
        self.verify_at(token, now, Instant::now(), KEYS_TRIED_MAX).await
    }

    /// The same at the least cost: a token that several keys might have signed is refused.
    ///
    /// # Errors
    /// [`AuthError`]
    pub async fn verify_with_one_key(&self, token: &str, now: Timestamp) -> Result<User, AuthError> {
        self.verify_at(token, now, Instant::now(), 1).await
    }

    /// `instant` is for the age of fetched keys.
    async fn verify_at(
        &self,
        token: &str,
        now: Timestamp,
        instant: Instant,
        keys_max: usize,
    ) -> Result<User, AuthError> {
        let claims = self.signed_claims(token, instant, keys_max).await?;
        let user = self.rules.user(&claims, now)?;
        if user.is_admin() {
            self.admins.note(&user.id);
        }
        Ok(user)
    }

    /// Whether somebody showed this process an administrator's token for this user. Roles stand in tokens only, so of
    /// an administrator who never called nothing is known.
    pub fn is_known_admin(&self, user: &UserId) -> bool {
        self.admins.contains(user)
    }

    /// Remembers an administrator from before this process started.
    pub fn note_admin(&self, user: &UserId) {
        self.admins.note(user);
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
    async fn signed_claims(&self, token: &str, instant: Instant, keys_max: usize) -> Result<Claims, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Reason::Malformed.into());
        }
        let header = decode_header(token).map_err(|error| match error.kind() {
            // `none`, and algorithms that nobody should use.
            ErrorKind::Json(_) | ErrorKind::InvalidAlgorithmName => Reason::Key,
            _ => Reason::Malformed,
        })?;
        if header.crit.is_some() {
            return Err(Reason::Extension.into());
        }
        if header.alg == Algorithm::HS256 {
            let secret = self.secret.as_ref().ok_or(Reason::Key)?;
            return Ok(decode(token, secret, Algorithm::HS256)?);
        }
        let jwks = self.jwks.as_ref().filter(|_| jwks::ALGORITHMS.contains(&header.alg)).ok_or(Reason::Key)?;
        let keys = jwks.keys(header.kid.as_deref(), instant).await;
        let keys = keys.map_err(|jwks::NeverFetched| AuthError::KeysUnavailable)?;
        // One algorithm for each type of key.
        let fitting: Vec<_> = keys.iter().filter(|key| key.algorithm == header.alg).collect();
        if fitting.len() > keys_max {
            return Err(Reason::Key.into());
        }
        let mut refused = Reason::Key;
        for key in fitting {
            match decode(token, &key.decoding, key.algorithm) {
                Ok(claims) => return Ok(claims),
                Err(reason) => refused = reason,
            }
        }
        Err(refused.into())
    }
}

/// The signature alone; times and names are judged by [`Rules`], with the clock of the caller.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn decode(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Claims, Reason> {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode::<Claims>(token, key, &validation);
    decoded.map(|data| data.claims).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => Reason::Signature,
        _ => Reason::Malformed,
    })
}

#[cfg(test)]
mod key_set_tests;
#[cfg(test)]
mod tests;
