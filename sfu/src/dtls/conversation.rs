//! What both sides of a handshake have in common: what was said, what is agreed on, and how it ends.

use ring::agreement::{self, EphemeralPrivateKey};

use super::alert::Alert;
use super::flight::Flight;
use super::keys::{MasterSecret, Randoms, sha256};
use super::reassembly::{Kind, whole_message};
use super::record::{Opener, Sealer};
use super::refusal::DtlsRefusal;
use super::session::Session;
use crate::certificate::Certificate;
use crate::keying::{KeyingMaterial, SrtpProfile};
use crate::parameters::{DtlsRole, Fingerprint};

/// Why a record did not help.
pub(super) enum Trouble {
    /// It is as if it had not come.
    Ignored(DtlsRefusal),
    /// The handshake is over.
    Fatal(Alert),
    /// The peer says that it is over.
    GivenUp,
}

impl From<Alert> for Trouble {
    fn from(alert: Alert) -> Self {
        Self::Fatal(alert)
    }
}

/// The outcome.
pub(super) struct Established {
    pub peer: Fingerprint,
    pub keys: KeyingMaterial,
    pub session: Session,
}

/// What is agreed on in the Hellos, and our half of the key exchange.
pub(super) struct Exchange {
    pub profile: SrtpProfile,
    pub randoms: Randoms,
    pub secret: EphemeralPrivateKey,
}

/// What is known once the key exchange is complete.
pub(super) struct Secured {
    pub profile: SrtpProfile,
    pub randoms: Randoms,
    pub master: MasterSecret,
    pub opener: Opener,
    pub sealer: Sealer,
}

/// What a message leads to.
pub(super) enum Step<Due> {
    Due(Due),
    Established(Box<Established>),
}

impl<Due> Step<Due> {
    pub(super) fn map<Other>(self, into: impl FnOnce(Due) -> Other) -> Step<Other> {
        match self {
            Self::Due(due) => Step::Due(into(due)),
            Self::Established(established) => Step::Established(established),
        }
    }
}

/// What has been said so far, and what we say now.
pub(super) struct Conversation {
    pub certificate: Certificate,
    /// All messages so far, as they count for signatures and checks.
    pub transcript: Vec<u8>,
    pub flight: Flight,
    next_message: u16,
}

impl Conversation {
    pub(super) fn new(certificate: Certificate) -> Self {
        Self { certificate, transcript: Vec::new(), flight: Flight::default(), next_message: 0 }
    }

    /// Adds a message to our flight.
    pub(super) fn say(&mut self, kind: Kind, body: &[u8]) {
        let message = self.next_message(kind, body);
        self.flight.messages.push(message);
    }

    /// Our next message, as it counts for the transcript.
    pub(super) fn next_message(&mut self, kind: Kind, body: &[u8]) -> Vec<u8> {
        let message = whole_message(kind, self.next_message, body);
        self.next_message = self.next_message.wrapping_add(1);
        self.transcript.extend_from_slice(&message);
        message
    }
}

impl Exchange {
    /// Derives all keys from the peer's half; the transcript ends with the ClientKeyExchange.
    pub(super) fn complete(self, role: DtlsRole, peer_public_key: &[u8], transcript: &[u8]) -> Result<Secured, Alert> {
        let Self { profile, randoms, secret } = self;
        let public_key = agreement::UnparsedPublicKey::new(secret.algorithm(), peer_public_key);
        let session_hash = sha256(transcript);
        let master = agreement::agree_ephemeral(secret, &public_key, |shared| MasterSecret::new(shared, &session_hash))
            .map_err(|_| Alert::IllegalParameter)?;
        let (opener, sealer) = master.record_keys(&randoms, role);
        Ok(Secured { profile, randoms, master, opener, sealer })
    }
}
