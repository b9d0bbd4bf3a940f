//! The load tester against a server that speaks TLS, with a certificate of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Refuses every join with a word. Gives its port, and a file with its certificate.
async fn refuse_over_tls(name: &str) -> (u16, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.pem"));
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("localhost", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust us hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 12\r\n\r\nnot by me ok";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, file)
}

async fn join(port: u16, roots: PathBuf) -> Output {
    let run = move || {
        Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(["--url", &format!("wss://localhost:{port}"), "--quiet", "--duration", "1s"])
            .env("SSL_CERT_FILE", roots)
            .output()
    };
    tokio::task::spawn_blocking(run).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_reached_over_tls() {
    let (port, file) = refuse_over_tls("reached").await;
    let output = join(port, file).await;
    let said = String::from_utf8_lossy(&output.stderr);

    assert!(said.contains("401") && said.contains("not by me"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (port, _) = refuse_over_tls("stranger").await;
    let (_, other) = refuse_over_tls("other").await;
    let output = join(port, other).await;
    let said = String::from_utf8_lossy(&output.stderr);

    assert!(!output.status.success() && said.contains("certificate"), "{said}");
}
