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
    pub transport: TransportId,
    pub room: RoomId,
    /// The client's certificate, if its description has come.
    pub fingerprint: Option<Fingerprint>,
    /// The client's, by that description.
    pub remote: Option<IceCredentials>,
    /// Ours. DTLS starts anew elsewhere, in the role that the descriptions agreed on.
    pub role: DtlsRole,
    pub publications: Vec<PublicationState>,
    pub subscriptions: Vec<SubscriptionState>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublicationState {
    pub publication: PublicationId,
    pub section: ReceiveSection,
    pub muted: bool,
    /// Of each layer that flowed: its SSRC and the extended number received last.
    pub layers: Vec<Option<(Ssrc, u64)>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionState {
    pub subscription: SubscriptionId,
    pub publication: PublicationId,
    pub section: SendSection,
    pub paused: bool,
    pub layer_max: u8,
    /// The numbers and offsets of what was sent.
    pub rewriter: Rewriter,
    pub rtx_next: u64,
}
