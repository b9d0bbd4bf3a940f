//! Alerts (RFC 5246, section 7.2).

/// What we say when something is wrong, and in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alert {
    CloseNotify,
    UnexpectedMessage,
    HandshakeFailure,
    UnsupportedCertificate,
    IllegalParameter,
    DecodeError,
    DecryptError,
    ProtocolVersion,
    InternalError,
    NoRenegotiation,
    UnsupportedExtension,
}

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;

impl Alert {
    /// Level and description.
    pub(super) fn to_wire(self) -> [u8; 2] {
        match self {
            Self::CloseNotify => [WARNING, CLOSE_NOTIFY],
            Self::UnexpectedMessage => [FATAL, 10],
            Self::HandshakeFailure => [FATAL, 40],
            Self::UnsupportedCertificate => [FATAL, 43],
            Self::IllegalParameter => [FATAL, 47],
            Self::DecodeError => [FATAL, 50],
            Self::DecryptError => [FATAL, 51],
            Self::ProtocolVersion => [FATAL, 70],
            Self::InternalError => [FATAL, 80],
            Self::NoRenegotiation => [WARNING, 100],
            Self::UnsupportedExtension => [FATAL, 110],
        }
    }
}

/// Whether an alert of the peer ends the association: it is fatal, or its close_notify.
pub(super) fn is_ending(body: &[u8]) -> bool {
    matches!(body, [FATAL, _] | [_, CLOSE_NOTIFY])
}
