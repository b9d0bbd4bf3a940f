//! HTTP calls to other servers: the identity service, another media server, receivers of webhooks.
//!
//! Servers behind https are trusted by the system's CA certificates, or those that `SSL_CERT_FILE` or `SSL_CERT_DIR`
//! name, as with OpenSSL. MongoDB's driver brings certificates of its own, and takes others by `tlsCAFile` in the URI.

use std::error::Error;

use reqwest::{Client, ClientBuilder, redirect};
use url::Url;

/// Why no calls can be made.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error(
        "{server} cannot be called: there are no CA certificates on this system, which https needs{why}; install them \
         (the package ca-certificates), or name a file of them as SSL_CERT_FILE"
    )]
    NoCaCertificates { server: String, why: String },
    #[error("cannot make HTTP calls: {0}")]
    Client(String),
}

/// A client for calls to these servers. It follows no redirect: what is sent is for the configured server alone.
///
/// # Errors
/// [`OutboundError::NoCaCertificates`] where one of the servers is behind https and nothing says whom to trust; servers
/// without https can be called all the same. [`OutboundError::Client`] for anything else.
pub fn client<'a>(
    servers: impl IntoIterator<Item = &'a Url>,
    settings: impl Fn(ClientBuilder) -> ClientBuilder,
) -> Result<Client, OutboundError> {
    // The provider of the process; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || settings(Client::builder().redirect(redirect::Policy::none()));
    let error = match builder().build() {
        Ok(client) => return Ok(client),
        Err(error) => reason(error),
    };
    let system = rustls_native_certs::load_native_certs();
    if !system.certs.is_empty() {
        return Err(OutboundError::Client(error));
    }
    match servers.into_iter().find(|server| server.scheme() == "https") {
        Some(server) => Err(OutboundError::NoCaCertificates {
            server: server.host_str().unwrap_or_default().to_owned(),
            why: system.errors.first().map(|error| format!(" ({error})")).unwrap_or_default(),
        }),
        None => builder().tls_certs_only([]).build().map_err(|error| OutboundError::Client(reason(error))),
    }
}

/// Why a call failed, with the causes that [`reqwest::Error`] leaves out, and without the URL, which may be secret.
pub fn reason(error: reqwest::Error) -> String {
    with_causes(&error.without_url())
}

/// An error's text and that of its causes.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_call_says_why_and_not_where() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = Url::parse(&format!("http://{closed}/secret-path")).unwrap();
        let client = client([&url], |builder| builder.no_proxy()).unwrap();

        let said = reason(client.get(url).send().await.unwrap_err());

        assert!(said.contains("Connection refused") && !said.contains("secret-path"), "{said}");
    }
}
