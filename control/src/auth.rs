//! Who calls: the tokens of the app's identity service, verified (stream API, section 2).
//!
//! The algorithm comes from the configuration and the key, never from the token: a shared secret means HS256, a key of
//! the JWKS means the one algorithm of its type. Media tokens and user tokens never stand in for each other.

mod admins;
mod claims;
mod dev;
mod jwks;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};

pub use dev::{DevToken, DevTokens, random_secret};

use crate::clock::Timestamp;
use crate::config::product;
use crate::store::stream::UserId;
use crate::user::User;
use admins::Admins;
use claims::{Claims, Rules};
use jwks::Jwks;

/// Shortest shared secret: as long as the digest of HS256 (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Why a token says nothing about who calls. More is not told: it would help to forge one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("unauthenticated")]
    Unauthenticated,
    #[error("token_expired")]
    Expired,
}

/// Why the settings of users make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthConfigError {
    #[error(
        "JWT_SECRET (auth.jwt_secret) has {0} bytes: take at least {SECRET_BYTES_MIN} random ones, as from \
         `openssl rand -hex 32`"
    )]
    ShortSecret(usize),
    #[error(
        "JWT_SECRET (auth.jwt_secret) is also the secret of API key {0}: a token for a room would pass as a user's; \
         make another secret"
    )]
    SharedSecret(String),
    #[error("JWT_JWKS_URL (auth.jwks_url) is not usable: {0}")]
    JwksUrl(String),
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
            secret => Some(checked_secret(secret, sfu_keys)?),
        };
        let jwks = match config.jwks_url.as_str() {
            "" => None,
            url => Some(Arc::new(Jwks::new(url).map_err(AuthConfigError::JwksUrl)?)),
        };
        let not_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let rules = Rules {
            issuer: not_empty(&config.issuer),
            audience: not_empty(&config.audience),
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
        self.verify_at(token, now, Instant::now()).await
    }

    /// `instant` is for the age of fetched keys.
    async fn verify_at(&self, token: &str, now: Timestamp, instant: Instant) -> Result<User, AuthError> {
        let claims = self.signed_claims(token, instant).await.ok_or(AuthError::Unauthenticated)?;
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

    async fn signed_claims(&self, token: &str, instant: Instant) -> Option<Claims> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.alg == Algorithm::HS256 {
            return decode(token, self.secret.as_ref()?, Algorithm::HS256);
        }
        let keys = self.jwks.as_ref()?.keys(header.kid.as_deref(), instant).await;
        keys.iter()
            .filter(|key| key.algorithm == header.alg)
            .find_map(|key| decode(token, &key.decoding, key.algorithm))
    }
}

fn checked_secret(secret: &str, sfu_keys: &[(String, String)]) -> Result<DecodingKey, AuthConfigError> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(AuthConfigError::ShortSecret(secret.len()));
    }
    if let Some((name, _)) = sfu_keys.iter().find(|(_, sfu)| sfu == secret) {
        return Err(AuthConfigError::SharedSecret(name.clone()));
    }
    Ok(DecodingKey::from_secret(secret.as_bytes()))
}

/// The signature alone; times and names are judged by [`Rules`], with the clock of the caller.
fn decode(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Option<Claims> {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    jsonwebtoken::decode::<Claims>(token, key, &validation).ok().map(|data| data.claims)
}

#[cfg(test)]
mod key_set_tests;
#[cfg(test)]
mod tests;
