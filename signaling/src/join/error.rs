//! Why nobody joined.

use std::time::Duration;

/// Why nobody joined. Tokens and parameters were checked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("the room is full")]
    RoomFull,
    /// It does not exist, `room.auto_create` is off and the token may not create it.
    #[error("requested room does not exist")]
    RoomMissing,
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The same identity came more often than [`crate::rooms::JOINS_BURST`]; how long to wait.
    #[error("this identity joins too often")]
    TooOften(Duration),
    #[error("node has exceeded its configured limit")]
    NodeFull,
    /// Names what exceeds its limit.
    #[error("{0} exceeds its size limit")]
    TooLarge(&'static str),
    #[error("no worker can host the room")]
    Unavailable,
}
