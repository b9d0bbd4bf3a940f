//! WebSockets as the frames that sessions speak (RFC 6455): the server's half of the handshake, and the library's
//! messages.
//!
//! The library writes a message from where it is, in frames of a bounded size. One that copies messages into a buffer
//! of its own keeps the largest, a description of 16 KiB, for as long as the viewer stays.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{StatusCode, request};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Sink, Stream};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use ring::digest;
use tokio_websockets::{CloseCode, Config, Error, Limits, Message, ServerBuilder, WebSocketStream};
use tracing::{debug, info};

use crate::framing::Frame;

/// Payload of one outgoing WebSocket frame; longer messages are fragmented (RFC 6455, section 5.4).
const FRAME_BYTES_MAX: usize = 16 << 10;

/// What the accept key is made with (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request to open a WebSocket whose handshake is in order, not answered yet.
pub(crate) struct Upgrade {
    accept: HeaderValue,
    upgrade: OnUpgrade,
}

impl Upgrade {
    /// Reads the handshake. An error is the answer to send.
    #[expect(clippy::result_large_err, reason = "the answer goes out at once")]
    pub(crate) fn read(parts: &mut request::Parts) -> Result<Self, Response> {
        let refuse = |status: StatusCode, text: &'static str| (status, text).into_response();
        if parts.headers.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(b"13") {
            let mut answer = refuse(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is needed");
            answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return Err(answer);
        }
        let accept = accept_of(&parts.headers)
            .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "the header Sec-WebSocket-Key is missing"))?;
        let upgrade = parts
            .extensions
            .remove::<OnUpgrade>()
            .ok_or_else(|| refuse(StatusCode::UPGRADE_REQUIRED, "this connection cannot become a WebSocket"))?;
        Ok(Self { accept, upgrade })
    }

    /// Accepts, and runs `serve` on the socket once it is open. Messages of more than `bytes_max` close it.
    pub(crate) fn accept<F>(self, bytes_max: usize, serve: impl FnOnce(Frames) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let upgrade = self.upgrade;
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => serve(Frames::new(upgraded, bytes_max)).await,
                Err(error) => debug!(%error, "the client left before the upgrade"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        response
    }
}

fn accept_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(headers.get(SEC_WEBSOCKET_KEY)?.as_bytes());
    hash.update(GUID);
    HeaderValue::from_str(&BASE64_STANDARD.encode(hash.finish())).ok()
}

/// An open WebSocket.
pub(crate) struct Frames(WebSocketStream<TokioIo<Upgraded>>);

impl Frames {
    fn new(upgraded: Upgraded, bytes_max: usize) -> Self {
        let config = Config::default().frame_size(FRAME_BYTES_MAX);
        let limits = Limits::default().max_payload_len(Some(bytes_max));
        Self(ServerBuilder::new().config(config).limits(limits).serve(TokioIo::new(upgraded)))
    }
}

impl Stream for Frames {
    type Item = Result<Frame, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context).map(|message| match message? {
            Ok(message) => Some(Ok(frame_of(message))),
            Err(error @ (Error::Protocol(_) | Error::PayloadTooLong { .. })) => {
                info!(%error, "a WebSocket frame is refused");
                Some(Ok(Frame::Malformed))
            }
            // The connection broke, which is nobody's fault.
            Err(error) => Some(Err(error)),
        })
    }
}

impl Sink<Frame> for Frames {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_ready(context)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Frame) -> Result<(), Error> {
        Pin::new(&mut self.0).start_send(message_of(frame))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_close(context)
    }
}

fn frame_of(message: Message) -> Frame {
    if let Some(text) = message.as_text() {
        return Frame::Text(text.to_owned());
    }
    if message.is_close() {
        return Frame::Close;
    }
    let (ping, pong) = (message.is_ping(), message.is_pong());
    let payload = Bytes::from(message.into_payload());
    match (ping, pong) {
        (true, _) => Frame::Ping(payload),
        (_, true) => Frame::Pong(payload),
        (false, false) => Frame::Binary(payload),
    }
}

fn message_of(frame: Frame) -> Message {
    match frame {
        Frame::Binary(bytes) => Message::binary(bytes),
        Frame::Text(text) => Message::text(text),
        Frame::Ping(bytes) => Message::ping(bytes),
        Frame::Pong(bytes) => Message::pong(bytes),
        Frame::Close => Message::close(Some(CloseCode::NORMAL_CLOSURE), ""),
        // Sessions read it and never write it.
        Frame::Malformed => Message::close(Some(CloseCode::PROTOCOL_ERROR), ""),
    }
}
