//! TLS towards the server, by the roots of the system or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.

use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, anyhow, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Finishes the handshake with a server of that name, or of that address.
///
/// # Errors
///
/// When the machine has no roots, or the server's certificate is not valid for them and the name.
pub async fn connect(host: &str, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
    /// Reading the roots costs some milliseconds, a join much less.
    static CONNECTOR: OnceLock<Result<TlsConnector, String>> = OnceLock::new();
    let connector = CONNECTOR.get_or_init(|| connector().map_err(|error| format!("{error:#}")));
    let connector = connector.as_ref().map_err(|error| anyhow!("{error}"))?;
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is no name for TLS"))?;
    connector.connect(name, stream).await.context("the TLS handshake with the server")
}

fn connector() -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        bail!("there are no CA certificates on this system: install them, or name a file as SSL_CERT_FILE");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
