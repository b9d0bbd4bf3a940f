//! Which secrets the tokens of users may be signed with.

/// Shortest shared secret: as long as the digest of HS256 (RFC 7518, section 3.2).
pub(super) const SECRET_BYTES_MIN: usize = 32;

/// Why the settings of users make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthConfigError {
    #[error(
        "JWT_SECRET (auth.jwt_secret) has {0} bytes: take at least {SECRET_BYTES_MIN} random ones, as from \
         `openssl rand -hex 32`"
    )]
    ShortSecret(usize),
    #[error(
        "JWT_SECRET (auth.jwt_secret) is also the secret of API key {0}: a user could then make tokens for the media \
         server; take two different secrets"
    )]
    SharedSecret(String),
    #[error("JWT_JWKS_URL (auth.jwks_url) is not usable: {0}")]
    JwksUrl(String),
}

/// Whether a shared secret may be the one of users' tokens, beside the API keys (name, secret) of the media server. An
/// empty one stands for none.
///
/// # Errors
/// [`AuthConfigError`]
pub fn check_secret(secret: &str, sfu_keys: &[(String, String)]) -> Result<(), AuthConfigError> {
    if secret.is_empty() {
        return Ok(());
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(AuthConfigError::ShortSecret(secret.len()));
    }
    if let Some((name, _)) = sfu_keys.iter().find(|(_, sfu)| sfu == secret) {
        return Err(AuthConfigError::SharedSecret(name.clone()));
    }
    Ok(())
}
