//! Drives a [`Session`](crate::session::Session) over a WebSocket, whichever library speaks it.

use bytes::Bytes;

/// One WebSocket message. Fragments are joined and sizes limited before (2 MiB, livekit-surface 1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Binary(Bytes),
    Text(String),
    Ping(Bytes),
    Pong(Bytes),
    /// Normal closure, code 1000.
    Close,
}
