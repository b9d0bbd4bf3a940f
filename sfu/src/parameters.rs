//! What descriptions agree on for a transport: ICE credentials, certificate, roles, data channels; and how one ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One side's ICE user fragment and password (RFC 8445, section 5.3).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceCredentials {
    /// The user fragment, which checks name.
    pub ufrag: String,
    /// The password, which checks are authenticated with.
    pub password: String,
}

impl std::fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// SHA-256 of a DTLS certificate (RFC 8122).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

/// Our side of a DTLS handshake (RFC 8842, section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DtlsRole {
    /// The peer is passive: we send the ClientHello.
    Client,
    /// The peer is active.
    Server,
}

/// The three data channels of a LiveKit transport, by label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DataChannel {
    /// `_reliable`: ordered, complete.
    Reliable,
    /// `_lossy`: unordered, never retransmitted.
    Lossy,
    /// `_data_track`: unordered, never retransmitted.
    DataTrack,
}

/// Who opens the data channels of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelOpener {
    /// The client does.
    Client,
    /// We do, reliable, lossy, data track in this order (a v0 subscriber transport).
    Server,
}

/// Why a transport ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TransportEnd {
    /// Nothing authentic from the client for [`CONSENT_LOST`] (cf. RFC 7675).
    ConsentLost,
    /// The handshake failed, or timed out.
    HandshakeFailed,
    /// The certificate is not the one that the SDP names.
    WrongFingerprint,
    /// The client closed the DTLS association.
    ClosedByPeer,
    /// A fault in the program: while this transport was being served, or so that its worker had to begin anew.
    InternalError,
}

/// Silence after which a transport counts as lost: the reference's 10 s to "disconnected" and 5 s to "failed".
pub const CONSENT_LOST: Duration = Duration::from_secs(15);
