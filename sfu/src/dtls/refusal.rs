//! Why datagrams are refused.

/// Why a datagram from a DTLS port was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DtlsRefusal {
    /// No DTLS records.
    #[error("not a sequence of DTLS records")]
    Malformed,
    /// Anything but a ClientHello where one is due.
    #[error("no ClientHello")]
    NotAClientHello,
    /// A record that has no place here: another message or epoch, or beyond the bounds of reassembly.
    #[error("a record that is not due")]
    Unexpected,
    /// Forged, altered, or replayed.
    #[error("not authentic")]
    NotAuthentic,
    /// The peer offers nothing that we take, or broke the handshake, or gave it up.
    #[error("the handshake failed")]
    HandshakeFailed,
    /// A message of the handshake after its end.
    #[error("a handshake record after the handshake")]
    LateHandshake,
    /// After the end of the association.
    #[error("the association is closed")]
    Closed,
}
