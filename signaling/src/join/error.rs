//! Why nobody joined, how that is answered, and what counts it.

use std::borrow::Cow;
use std::time::Duration;

/// Longest identity and longest room name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// Why nobody joined: a request that is refused before anything was changed, or a room or server without a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("no permissions to access the room")]
    NoPermission,
    #[error("permissions denied")]
    JoinNotGranted,
    #[error("join_request is required")]
    JoinRequestMissing,
    #[error("cannot decode attributes")]
    Attributes,
    #[error("cannot base64 decode wrapped join request")]
    Base64,
    #[error("cannot unmarshal wrapped join request")]
    Wrapper,
    #[error("cannot unmarshal join request")]
    JoinRequest,
    #[error("cannot read decompressed join request")]
    Gzip,
    #[error("join request too large")]
    JoinRequestTooLarge,
    #[error("identity cannot be empty")]
    NoIdentity,
    #[error("participant identity length exceeds limits: max length {NAME_BYTES_MAX}")]
    IdentityTooLong,
    #[error("no room name")]
    NoRoom,
    #[error("room name length exceeds limits: max length {NAME_BYTES_MAX}")]
    RoomTooLong,
    /// By the rules of whoever owns the rooms ([`crate::http::Surface::admit`]), for good.
    #[error("{0}")]
    Forbidden(Cow<'static, str>),
    /// By the same rules it is not known yet; clients that reconnect try again.
    #[error("{0}")]
    NotYet(Cow<'static, str>),
    /// It does not exist, `room.auto_create` is off and the token may not create it.
    #[error("requested room does not exist")]
    RoomMissing,
    /// The same identity came more often than [`crate::rooms::JOINS_BURST`]; how long to wait.
    #[error("this identity joins too often")]
    TooOften(Duration),
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("node has exceeded its configured limit")]
    NodeFull,
    #[error("the room is full")]
    RoomFull,
    /// Names what exceeds its limit.
    #[error("{0} exceeds its size limit")]
    TooLarge(&'static str),
    #[error("no worker can host the room")]
    Unavailable,
}

/// What a client that does not join is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Of HTTP. Clients take 4xx for final.
    pub(crate) status: u16,
    pub(crate) text: Cow<'static, str>,
    pub(crate) retry_after: Option<Duration>,
    /// What counts it beside `joins_refused`.
    pub(crate) counted: Counted,
}

/// By which of [`crate::http::Counters`] a refusal is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Refused,
    NotAdmitted,
    TooOften,
}

impl JoinError {
    /// How it is answered and counted: all reasons as one table.
    pub(crate) fn answer(&self) -> Answer {
        let (status, counted) = match self {
            Self::NoPermission | Self::JoinNotGranted => (401, Counted::Refused),
            Self::JoinRequestMissing
            | Self::Attributes
            | Self::Base64
            | Self::Wrapper
            | Self::JoinRequest
            | Self::Gzip
            | Self::JoinRequestTooLarge
            | Self::NoIdentity
            | Self::IdentityTooLong
            | Self::NoRoom
            | Self::RoomTooLong => (400, Counted::Refused),
            Self::Forbidden(_) => (403, Counted::NotAdmitted),
            Self::NotYet(_) => (503, Counted::NotAdmitted),
            Self::RoomMissing => (404, Counted::Refused),
            // Not 429, which clients would take for final.
            Self::TooOften(_) => (503, Counted::TooOften),
            Self::ShuttingDown | Self::NodeFull => (503, Counted::Refused),
            Self::RoomFull | Self::TooLarge(_) | Self::Unavailable => (500, Counted::Refused),
        };
        let text = match status {
            // LiveKit's one answer to whatever else keeps a session from starting.
            500 => "connection closed by media".into(),
            _ => self.to_string().into(),
        };
        let retry_after = if let Self::TooOften(wait) = self { Some(*wait) } else { None };
        Answer { status, text, retry_after, counted }
    }
}
