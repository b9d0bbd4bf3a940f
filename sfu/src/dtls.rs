//! DTLS 1.2 with one peer, as its server or its client (RFC 6347), which yields SRTP keys (RFC 5764) and carries SCTP
//! (RFC 8261).
//!
//! Sans IO, and no wider than WebRTC needs (RFC 8827, section 6.5): AES-128-GCM with ECDHE, our ECDSA certificate, and
//! always the extended master secret. The peer's certificate may be ECDSA or RSA. As a server we send no
//! HelloVerifyRequest: its cookie proves what an authenticated connectivity check has proved already, and datagrams
//! come only from addresses with one. As a client we answer those of others. Sessions are not resumed, nor
//! renegotiated.
//!
//! Every certificate is accepted whose key signed the handshake; that it is the one named in the SDP is for
//! [`crate::transport`] to check. It also gives up a peer that never finishes: here flights are repeated for ever.

mod alert;
mod client;
mod client_messages;
mod conversation;
pub(crate) mod der;
mod flight;
mod handshake;
mod keys;
mod messages;
mod reassembly;
mod record;
mod refusal;
mod server;
mod session;
mod wire;
mod x509;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::certificate::Certificate;
use crate::keying::KeyingMaterial;
use crate::parameters::{DtlsRole, Fingerprint};
use alert::Alert;
use conversation::{Established, Trouble};
use flight::Transmits;
use handshake::Handshake;
use record::Record;
pub use refusal::DtlsRefusal;
use session::{Heard, Session};

/// What the association has to tell.
pub(crate) enum DtlsOutput {
    /// The handshake is complete. The peer owns the certificate with this fingerprint.
    Connected {
        peer: Fingerprint,
        keys: KeyingMaterial,
    },
    /// A decrypted record.
    Data(Bytes),
    /// The peer sent close_notify, or a fatal alert.
    ClosedByPeer,
    Failed,
}

enum Stage {
    Handshake(Box<Handshake>),
    Connected(Box<Session>),
    Closed,
}

/// One DTLS association.
pub(crate) struct Dtls {
    role: DtlsRole,
    stage: Stage,
    outputs: VecDeque<DtlsOutput>,
    transmits: Transmits,
}

impl Dtls {
    /// A server waits for its client; a client for [`Self::start`].
    pub(crate) fn new(role: DtlsRole, certificate: &Certificate) -> Self {
        Self {
            role,
            stage: Stage::Handshake(Box::new(Handshake::new(role, certificate))),
            outputs: VecDeque::new(),
            transmits: VecDeque::new(),
        }
    }

    pub(crate) fn role(&self) -> DtlsRole {
        self.role
    }

    /// Takes another role. Without effect once the handshake has begun.
    pub(crate) fn set_role(&mut self, role: DtlsRole) {
        if let Stage::Handshake(handshake) = &mut self.stage
            && handshake.set_role(role)
        {
            self.role = role;
        }
    }

    /// Sends the ClientHello, if we are the client and have not done so.
    pub(crate) fn start(&mut self, now: Instant) {
        if let Stage::Handshake(handshake) = &mut self.stage
            && handshake.start(now, &mut self.transmits).is_err()
        {
            // The operating system gives no random bytes.
            self.end(DtlsOutput::Failed);
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
