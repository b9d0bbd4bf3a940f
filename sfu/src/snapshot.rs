//! A session's state as plain data that can be written down and read back (ARCHITECTURE.md, invariant 13). Keys never
//! leave.

use serde::{Deserialize, Serialize};

use crate::id::{PublicationId, RoomId, SubscriptionId, TransportId};
use crate::parameters::{DtlsRole, Fingerprint, IceCredentials};
use crate::rewrite::Rewriter;
use crate::section::{ReceiveSection, SendSection, Ssrc};

/// One client's transport, with what it publishes and what it gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransportState {
    /// Its id, which it keeps.
    pub transport: TransportId,
    /// Its room.
    pub room: RoomId,
    /// The client's certificate, if its description has come.
    pub fingerprint: Option<Fingerprint>,
    /// The client's, by that description.
    pub remote: Option<IceCredentials>,
    /// Ours. DTLS starts anew elsewhere, in the role that the descriptions agreed on.
    pub role: DtlsRole,
    /// What it publishes.
    pub publications: Vec<PublicationState>,
    /// What it gets.
    pub subscriptions: Vec<SubscriptionState>,
}

/// A publication of the transport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublicationState {
    /// Its id.
    pub publication: PublicationId,
    /// What is received.
    pub section: ReceiveSection,
    /// Whether nothing is forwarded.
    pub muted: bool,
    /// Of each layer that flowed: its SSRC and the extended number received last.
    pub layers: Vec<Option<(Ssrc, u64)>>,
}

/// A subscription of the transport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionState {
    /// Its id.
    pub subscription: SubscriptionId,
    /// What it shows, of this transport or of another.
    pub publication: PublicationId,
    /// What is sent.
    pub section: SendSection,
    /// Whether it gets nothing.
    pub paused: bool,
    /// Highest layer wanted.
    pub layer_max: u8,
    /// The numbers and offsets of what was sent.
    pub rewriter: Rewriter,
    /// Extended number of the next packet that is sent again.
    pub rtx_next: u64,
}
