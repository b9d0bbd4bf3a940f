//! The signalling socket: joining over `/rtc/v1` or `/rtc`, protobuf frames both ways.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::Uri;

use crate::{dial, tls};

/// The signalling protocol version that clients of 2026 speak.
const PROTOCOL: i32 = 17;
/// Shown to the server as the version of the SDK.
const SDK_VERSION: &str = "2.23.0";

/// How to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Two transports; the server offers what it sends.
    V0,
    /// One transport; only the client offers. Falls back to v0 where the server answers 404.
    #[default]
    V1,
}

/// A connection to the server, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

type WebSocket = WebSocketStream<Box<dyn Stream>>;

/// An open signalling socket.
pub struct SignalSocket {
    socket: WebSocket,
    pub protocol: Protocol,
    /// What the server has sent.
    pub received: Arc<SignalCounts>,
}

/// Counts the server's signalling.
#[derive(Debug, Default)]
pub struct SignalCounts {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl SignalCounts {
    fn add(&self, len: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
    }

    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Bytes of the messages, without the WebSocket's framing.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What a join needs.
pub struct JoinCall<'a> {
    /// `ws://host:port` or `http://host:port`; `wss` or `https` for TLS.
    pub url: &'a str,
    pub token: &'a str,
    pub protocol: Protocol,
    pub auto_subscribe: bool,
    /// The offer that goes with a v1 join.
    pub offer: proto::SessionDescription,
    /// Local address to connect from; `None` leaves it to the kernel.
    pub from: Option<IpAddr>,
}

impl SignalSocket {
    /// Connects; the first message is the server's join response.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses; the text has its status and reason.
    pub async fn connect(call: JoinCall<'_>) -> anyhow::Result<Self> {
        let base = websocket_base(call.url);
        let mut protocol = call.protocol;
        let socket = match protocol {
            Protocol::V0 => open(&v0_url(&base, call.auto_subscribe), call.token, call.from).await?,
            Protocol::V1 => match open(&v1_url(&base, &call), call.token, call.from).await {
                Err(Refusal::NotFound) => {
                    protocol = Protocol::V0;
                    open(&v0_url(&base, call.auto_subscribe), call.token, call.from).await?
                }
                other => other?,
            },
        };
        Ok(Self { socket, protocol, received: Arc::default() })
    }

    /// Sends one request.
    ///
    /// # Errors
    ///
    /// When the socket is closed.
    pub async fn send(&mut self, request: Request) -> anyhow::Result<()> {
        self.send_bytes(proto::SignalRequest { message: Some(request) }.encode_to_vec()).await
    }

    /// Sends a binary message, whether it is a request or not.
    ///
    /// # Errors
    ///
    /// When the socket is closed.
    pub async fn send_bytes(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        self.socket.send(tungstenite::Message::Binary(bytes.into())).await.context("sending on the signal socket")
    }

    /// The next response; `None` when the server has closed.
    ///
    /// # Errors
    ///
    /// When the socket breaks or a frame is no response.
    pub async fn receive(&mut self) -> anyhow::Result<Option<Response>> {
        while let Some(frame) = self.socket.next().await {
            match frame.context("reading the signal socket")? {
                tungstenite::Message::Binary(bytes) => {
                    self.received.add(bytes.len());
                    let response = proto::SignalResponse::decode(bytes).context("an undecodable signal response")?;
                    if let Some(message) = response.message {
                        return Ok(Some(message));
                    }
                }
                tungstenite::Message::Close(_) => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Closes the socket.
    pub async fn close(mut self) {
        // The server may have closed first.
        let _ = self.socket.close(None).await;
    }
}

fn websocket_base(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.strip_prefix("http") {
        Some(rest) => format!("ws{rest}"),
        None => url.to_owned(),
    }
}

fn v0_url(base: &str, auto_subscribe: bool) -> String {
    let auto_subscribe = u8::from(auto_subscribe);
    format!(
        "{base}/rtc?auto_subscribe={auto_subscribe}&adaptive_stream=0&sdk=js&version={SDK_VERSION}\
         &protocol={PROTOCOL}&client_protocol=2"
    )
}

fn v1_url(base: &str, call: &JoinCall<'_>) -> String {
    let request = proto::JoinRequest {
        client_info: Some(proto::ClientInfo {
            sdk: proto::client_info::Sdk::Js.into(),
            version: SDK_VERSION.to_owned(),
            protocol: PROTOCOL,
            client_protocol: 2,
            ..Default::default()
        }),
        connection_settings: Some(proto::ConnectionSettings {
            auto_subscribe: call.auto_subscribe,
            ..Default::default()
        }),
        publisher_offer: Some(call.offer.clone()),
        ..Default::default()
    };
    let wrapped = proto::WrappedJoinRequest { join_request: request.encode_to_vec(), ..Default::default() };
    let encoded = base64::engine::general_purpose::URL_SAFE.encode(wrapped.encode_to_vec());
    // Padding is the only character of this alphabet that a query reserves.
    format!("{base}/rtc/v1?join_request={}", encoded.replace('=', "%3D"))
}

enum Refusal {
    NotFound,
    Other(anyhow::Error),
}

impl From<Refusal> for anyhow::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => anyhow!("the server answered 404"),
            Refusal::Other(error) => error,
        }
    }
}

async fn open(url: &str, token: &str, from: Option<IpAddr>) -> Result<WebSocket, Refusal> {
    let request = authorised(url, token).map_err(Refusal::Other)?;
    let stream = stream_to(request.uri(), from).await.map_err(Refusal::Other)?;
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) if response.status().as_u16() == 404 => Err(Refusal::NotFound),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            Err(Refusal::Other(anyhow!("the server refused the join: {} {}", response.status(), body.trim())))
        }
        Err(error) => Err(Refusal::Other(anyhow::Error::new(error).context("connecting to the server"))),
    }
}

async fn stream_to(uri: &Uri, from: Option<IpAddr>) -> anyhow::Result<Box<dyn Stream>> {
    let host = uri.host().context("the server's URL has no host")?.trim_matches(['[', ']']);
    let is_secure = uri.scheme_str() == Some("wss");
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let stream = dial::connect(host, port, from).await.context("connecting to the server")?;
    // Messages are small and answer each other.
    stream.set_nodelay(true).context("connecting to the server")?;
    Ok(if is_secure { Box::new(tls::connect(host, stream).await?) } else { Box::new(stream) })
}

fn authorised(url: &str, token: &str) -> anyhow::Result<tungstenite::handshake::client::Request> {
    let mut request = url.into_client_request().context("the server's URL")?;
    let Ok(value) = format!("Bearer {token}").parse() else { bail!("the token is not fit for a header") };
    request.headers_mut().insert("Authorization", value);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers two connections, 404 first, and gives the paths that were asked for.
    async fn refuse_twice(listener: tokio::net::TcpListener) -> Vec<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut paths = Vec::new();
        for answer in
            ["404 Not Found\r\nContent-Length: 0\r\n\r\n", "401 Unauthorized\r\nContent-Length: 4\r\n\r\nnope"]
        {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let text = String::from_utf8(request).unwrap();
            paths.push(text.split(['?', ' ']).nth(1).unwrap().to_owned());
            stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
        }
        paths
    }

    #[tokio::test]
    async fn a_server_without_v1_is_asked_for_v0_and_its_refusal_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(refuse_twice(listener));
        let call = JoinCall {
            url: &url,
            token: "token",
            protocol: Protocol::V1,
            auto_subscribe: true,
            offer: proto::SessionDescription::default(),
            from: None,
        };
        let error = SignalSocket::connect(call).await.err().unwrap().to_string();
        assert!(error.contains("401") && error.contains("nope"), "{error}");
        assert_eq!(server.await.unwrap(), ["/rtc/v1", "/rtc"]);
    }

    #[test]
    fn http_urls_become_websocket_urls() {
        assert_eq!(websocket_base("http://127.0.0.1:7880/"), "ws://127.0.0.1:7880");
        assert_eq!(websocket_base("https://a.example"), "wss://a.example");
        assert_eq!(websocket_base("ws://127.0.0.1:7880"), "ws://127.0.0.1:7880");
    }
}
