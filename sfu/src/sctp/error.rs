//! Why messages are not sent.

use super::limits::MESSAGE_BYTES_MAX;

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SendDataError {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// A lossy channel that is not open, or a reliable one for which 100 KiB are kept already.
    #[error("the channel is not open")]
    NotOpen,
    /// The client takes reliable messages more slowly than `rtc.datachannel_slow_threshold`.
    #[error("the client is slower than the threshold")]
    Slow,
    /// The client is fast enough, but so much waits for it already that there is no room.
    #[error("too much is waiting for acknowledgement")]
    Full,
    /// A lossy message that would come too late.
    #[error("the message would come too late")]
    Late,
    /// The transport has ended.
    #[error("the transport is closed")]
    Closed,
}
