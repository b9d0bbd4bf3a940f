//! A DTLS 1.2 server for one client (RFC 6347), which yields SRTP keys (RFC 5764) and carries SCTP (RFC 8261).
//!
//! Sans IO, and no wider than WebRTC needs (RFC 8827, section 6.5): one cipher suite, AES-128-GCM with ECDHE and ECDSA,
//! and always the extended master secret. The client's certificate may be ECDSA or RSA. A handshake costs one round
//! trip and a half, for there is no HelloVerifyRequest: its cookie proves what an authenticated connectivity check has
//! proved already, and datagrams come only from addresses with one. Sessions are not resumed, nor renegotiated.
//!
//! Every client certificate is accepted whose key signed the handshake; that it is the one named in the SDP is for
//! [`crate::transport`] to check. So is the patience with a client that never finishes: flights are repeated for ever.

mod alert;
pub(crate) mod der;
mod handshake;
mod keys;
mod messages;
mod reassembly;
mod record;
mod session;
mod wire;
mod x509;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use bytes::Bytes;

use crate::certificate::Certificate;
use crate::command::Fingerprint;
use alert::Alert;
use handshake::{Established, Handshake, Trouble};
use record::Record;
use session::{Heard, Session};

/// Longest datagram of a handshake, in bytes: every path carries it.
const DATAGRAM_BYTES_MAX: usize = 1_200;
/// Shortest time between two repetitions that a client can provoke. libwebrtc repeats itself after 50 ms.
const REPEAT_INTERVAL_MIN: Duration = Duration::from_millis(40);

/// Datagrams to be sent, in order.
type Transmits = VecDeque<Vec<u8>>;

/// How SRTP packets are protected (RFC 5764, RFC 7714).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    AeadAes128Gcm,
    AeadAes256Gcm,
    Aes128CmSha1_80,
}

impl SrtpProfile {
    /// Cheapest per packet first.
    pub const PREFERENCE: [Self; 3] = [Self::AeadAes128Gcm, Self::AeadAes256Gcm, Self::Aes128CmSha1_80];

    /// Length of a master key, in bytes.
    pub fn key_length(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::Aes128CmSha1_80 => 16,
            Self::AeadAes256Gcm => 32,
        }
    }

    /// Length of a master salt, in bytes.
    pub fn salt_length(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
            Self::Aes128CmSha1_80 => 14,
        }
    }

    fn from_wire(id: u16) -> Option<Self> {
        match id {
            0x0001 => Some(Self::Aes128CmSha1_80),
            0x0007 => Some(Self::AeadAes128Gcm),
            0x0008 => Some(Self::AeadAes256Gcm),
            _ => None,
        }
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::Aes128CmSha1_80 => 0x0001,
            Self::AeadAes128Gcm => 0x0007,
            Self::AeadAes256Gcm => 0x0008,
        }
    }
}

/// SRTP master keys and salts of both directions. We decrypt with the client's, encrypt with the server's.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyingMaterial {
    pub profile: SrtpProfile,
    pub client_key: ArrayVec<u8, 32>,
    pub client_salt: ArrayVec<u8, 14>,
    pub server_key: ArrayVec<u8, 32>,
    pub server_salt: ArrayVec<u8, 14>,
}

impl KeyingMaterial {
    /// Cuts exported bytes: client key, server key, client salt, server salt (RFC 5764, section 4.2).
    fn split(profile: SrtpProfile, exported: &[u8]) -> Option<Self> {
        let (client_key, rest) = exported.split_at_checked(profile.key_length())?;
        let (server_key, rest) = rest.split_at_checked(profile.key_length())?;
        let (client_salt, server_salt) = rest.split_at_checked(profile.salt_length())?;
        Some(Self {
            profile,
            client_key: client_key.try_into().ok()?,
            client_salt: client_salt.try_into().ok()?,
            server_key: server_key.try_into().ok()?,
            server_salt: server_salt.try_into().ok()?,
        })
    }
}

impl fmt::Debug for KeyingMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyingMaterial").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// Why a datagram from a DTLS port was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DtlsRefusal {
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
    /// The client offers nothing that we take, or broke the handshake, or gave it up.
    #[error("the handshake failed")]
    HandshakeFailed,
    #[error("a handshake record after the handshake")]
    LateHandshake,
    #[error("the association is closed")]
    Closed,
}

/// What the association has to tell.
pub(crate) enum DtlsOutput {
    /// The handshake is complete. The client owns the certificate with this fingerprint.
    Connected {
        peer: Fingerprint,
        keys: KeyingMaterial,
    },
    /// A decrypted record.
    Data(Bytes),
    /// The client sent close_notify, or a fatal alert.
    ClosedByPeer,
    Failed,
}

enum Stage {
    Handshake(Box<Handshake>),
    Connected(Box<Session>),
    Closed,
}

/// One DTLS association.
pub(crate) struct DtlsServer {
    stage: Stage,
    outputs: VecDeque<DtlsOutput>,
    transmits: Transmits,
}

impl DtlsServer {
    pub(crate) fn new(certificate: &Certificate) -> Self {
        Self {
            stage: Stage::Handshake(Box::new(Handshake::new(certificate))),
            outputs: VecDeque::new(),
            transmits: VecDeque::new(),
        }
    }

    /// Takes in a datagram: every record of it, even if one is of no use.
    pub(crate) fn on_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsRefusal> {
        let mut result = if datagram.is_empty() { Err(DtlsRefusal::Malformed) } else { Ok(()) };
        let mut rest = datagram;
        while !rest.is_empty() {
            let Some((record, after)) = Record::split(rest) else {
                return result.and(Err(DtlsRefusal::Malformed));
            };
            result = result.and(self.on_record(now, &record));
            rest = after;
        }
        result
    }

    fn on_record(&mut self, now: Instant, record: &Record<'_>) -> Result<(), DtlsRefusal> {
        match &mut self.stage {
            Stage::Handshake(handshake) => match handshake.on_record(now, record, &mut self.transmits) {
                Ok(None) => Ok(()),
                Ok(Some(established)) => {
                    self.on_established(established);
                    Ok(())
                }
                Err(Trouble::Ignored(refusal)) => Err(refusal),
                Err(Trouble::Fatal(alert)) => {
                    handshake.send_alert(alert, &mut self.transmits);
                    self.end(DtlsOutput::Failed);
                    Err(DtlsRefusal::HandshakeFailed)
                }
                Err(Trouble::GivenUp) => {
                    self.end(DtlsOutput::Failed);
                    Err(DtlsRefusal::HandshakeFailed)
                }
            },
            Stage::Connected(session) => {
                match session.on_record(now, record, &mut self.transmits)? {
                    Heard::Data(data) => self.outputs.push_back(DtlsOutput::Data(data)),
                    Heard::Closed => self.end(DtlsOutput::ClosedByPeer),
                    Heard::Nothing => {}
                }
                Ok(())
            }
            Stage::Closed => Err(DtlsRefusal::Closed),
        }
    }

    fn on_established(&mut self, established: Established) {
        let Established { peer, keys, session } = established;
        self.stage = Stage::Connected(Box::new(session));
        self.outputs.push_back(DtlsOutput::Connected { peer, keys });
    }

    /// Encrypts a record. Without effect unless connected.
    pub(crate) fn send(&mut self, _now: Instant, payload: &[u8]) {
        if let Stage::Connected(session) = &mut self.stage {
            session.send(payload, &mut self.transmits);
        }
    }

    /// Queues a close_notify, if there is an association to close.
    pub(crate) fn close(&mut self, _now: Instant) {
        if let Stage::Connected(session) = &mut self.stage {
            session.send_alert(Alert::CloseNotify, &mut self.transmits);
        }
        self.stage = Stage::Closed;
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    pub(crate) fn poll_output(&mut self) -> Option<DtlsOutput> {
        self.outputs.pop_front()
    }

    /// When a flight of the handshake is to be sent again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Handshake(handshake) => handshake.deadline(),
            Stage::Connected(_) | Stage::Closed => None,
        }
    }

    pub(crate) fn on_deadline(&mut self, now: Instant) {
        if let Stage::Handshake(handshake) = &mut self.stage {
            handshake.on_deadline(now, &mut self.transmits);
        }
    }

    fn end(&mut self, output: DtlsOutput) {
        self.stage = Stage::Closed;
        self.outputs.push_back(output);
    }
}

/// Whether a datagram is DTLS, by its first byte (RFC 7983).
pub fn is_dtls(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(20..=63))
}
