//! Which transport is being served: if that panics, it is closed (`engine/fault.rs`).

use crate::key::TransportKey;
use crate::publication::Origin;

/// What an engine is at while it serves one transport, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A STUN message.
    ConnectivityCheck,
    /// Handshake, and SCTP inside of it.
    Dtls,
    /// A packet of media.
    Rtp,
    /// Reports and feedback that came.
    Rtcp,
    /// A decision of its room.
    Command,
    /// What time brings.
    Timer,
    /// Sending on what the transport publishes.
    Forwarding,
    /// Periodic feedback and reports about what the transport publishes.
    Feedback,
}

/// The transport that is being served, by its key, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Serving {
    pub(super) key: TransportKey,
    pub(super) stage: Stage,
}

impl Serving {
    /// What is done for a publication is its transport's, if it has one.
    pub(super) fn of(origin: Origin, stage: Stage) -> Option<Self> {
        match origin {
            Origin::Transport(key) => Some(Self { key, stage }),
            Origin::Local(_) => None,
        }
    }
}
