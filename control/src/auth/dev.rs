//! Tokens for trying the server without an identity service (stream API, section 2.6).

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rand::RngExt as _;
use serde_json::json;

use crate::clock::Timestamp;
use crate::config::product;
use crate::store::stream::UserId;
use crate::user::Role;

/// How long a token for trying lasts.
const LIFE: Duration = Duration::from_secs(3600);

/// Signs tokens for whoever asks: in development only.
pub struct DevTokens {
    key: EncodingKey,
    config: product::Auth,
}

/// A signed token.
#[derive(Clone, PartialEq, Eq)]
pub struct DevToken {
    pub token: String,
    pub expires_at: Timestamp,
}

impl DevTokens {
    /// Signs with the shared secret of `config`, so that [`super::Authenticator`] takes the tokens.
    pub fn new(config: &product::Auth) -> Self {
        Self { key: EncodingKey::from_secret(config.jwt_secret.0.as_bytes()), config: config.clone() }
    }

    pub fn sign(&self, user: &UserId, role: Role, name: Option<&str>, now: Timestamp) -> DevToken {
        let expires_at = now.plus(LIFE);
        let mut claims = json!({ "iat": now.millis() / 1000, "exp": expires_at.millis() / 1000 });
        claims[&self.config.user_claim] = json!(user);
        claims[&self.config.role_claim] = json!(role);
        let optional =
            [("name", name.unwrap_or_default()), ("iss", &self.config.issuer), ("aud", &self.config.audience)];
        for (claim, value) in optional.into_iter().filter(|(_, value)| !value.is_empty()) {
            claims[claim] = json!(value);
        }
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)
            .expect("a JSON object is signed with any secret");
        DevToken { token, expires_at: Timestamp::from_millis(expires_at.millis() / 1000 * 1000) }
    }
}

/// A secret for development where none is configured: tokens end with the process.
pub fn random_secret() -> String {
    let mut rng = rand::rng();
    (0..4).map(|_| format!("{:016x}", rng.random::<u64>())).collect()
}
