//! A DTLS 1.2 server for one client (RFC 6347), which yields SRTP keys (RFC 5764) and carries SCTP (RFC 8261).
//!
//! The protocol is that of `rtc-dtls`; this file is the only one that drives it. It adds what the crate leaves open:
//!
//! - The crate takes the client's first SRTP profile, and libwebrtc lists AES-CM first. So the ClientHello is read
//!   here, and the handshake runs with settings that offer only the profile we prefer among the client's.
//! - The crate forgets its retransmission timer when a client repeats its ClientHello, so that one lost flight would end
//!   the handshake. A repeated ClientHello is not shown to it, but taken for what it says: send that flight again.
//! - Its buffers are bounded in megabytes: what a peer may send before and after the handshake is bounded here.
//!
//! Every client certificate is accepted whose key signed the handshake; that it is the one named in the SDP is for
//! [`crate::transport`] to check. Datagrams come only from addresses with an authenticated connectivity check.

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use bytes::{Bytes, BytesMut};
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_shared::TransportProtocol;

use crate::certificate::{Certificate, fingerprint_of};
use crate::command::Fingerprint;

/// Label of the SRTP keying material (RFC 5764, section 4.2).
const EXPORTER_LABEL: &str = "EXTRACTOR-dtls_srtp";
/// What a client may send until the handshake is complete, in bytes. A handshake takes 2 to 5 KiB; the rest is for
/// retransmissions and long certificate chains.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// Longest ClientHello, in bytes. Post-quantum key shares make them about 1.5 KiB.
const CLIENT_HELLO_BYTES_MAX: usize = 8 * 1024;
/// Handshake records a client may send after the handshake: repetitions of its last flight.
const LATE_HANDSHAKE_RECORDS_MAX: u32 = 64;
/// Shortest time between two retransmissions that a client can provoke. libwebrtc repeats itself after 50 ms.
const REPEAT_INTERVAL_MIN: Duration = Duration::from_millis(40);
/// Length of a DTLS record's header (RFC 6347, section 4.1).
const RECORD_HEADER_LENGTH: usize = 13;
/// Length of a handshake message's header (RFC 6347, section 4.2.2).
const HANDSHAKE_HEADER_LENGTH: usize = 12;

/// `rtc-dtls` tells associations apart by address. There is one, and its real address may change: this stands for it.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

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
    /// The client offers none of [`SrtpProfile::PREFERENCE`], or sent too much, or broke the handshake.
    #[error("the handshake failed")]
    HandshakeFailed,
    #[error("too many handshake records after the handshake")]
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
    /// Waiting for the whole ClientHello, perhaps in several datagrams.
    Hello(ClientHelloCollector),
    Handshake {
        endpoint: Box<Endpoint>,
        profile: SrtpProfile,
        received: usize,
        /// Our HelloVerifyRequest.
        verify_request: Option<BytesMut>,
        /// When our ServerHello was last sent.
        hello_sent: Option<Instant>,
        /// The second ClientHello, until it is whole.
        parts: Vec<u8>,
    },
    Connected {
        endpoint: Box<Endpoint>,
        late_records: u32,
    },
    Closed,
}

/// One DTLS association.
pub(crate) struct DtlsServer {
    certificate: Certificate,
    stage: Stage,
    outputs: VecDeque<DtlsOutput>,
    transmits: VecDeque<BytesMut>,
}

impl DtlsServer {
    pub(crate) fn new(certificate: &Certificate) -> Self {
        Self {
            certificate: certificate.clone(),
            stage: Stage::Hello(ClientHelloCollector::default()),
            outputs: VecDeque::new(),
            transmits: VecDeque::new(),
        }
    }

    /// Takes in a datagram.
    pub(crate) fn on_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsRefusal> {
        let handshake_records = count_handshake_records(datagram).ok_or(DtlsRefusal::Malformed)?;
        match &mut self.stage {
            Stage::Hello(collector) => {
                let Some(hello) = collector.collect(datagram)? else { return Ok(()) };
                let Some(profile) = hello.profile else {
                    return self.fail(DtlsRefusal::HandshakeFailed);
                };
                let endpoint =
                    Endpoint::new(PEER, TransportProtocol::UDP, Some(self.certificate.settings_for(profile)));
                self.stage = Stage::Handshake {
                    endpoint: Box::new(endpoint),
                    profile,
                    received: 0,
                    verify_request: None,
                    hello_sent: None,
                    parts: Vec::new(),
                };
                self.on_handshake(now, &hello.datagrams.concat())
            }
            Stage::Handshake { .. } => self.on_handshake(now, datagram),
            Stage::Connected { late_records, .. } => {
                *late_records = late_records.saturating_add(handshake_records);
                if handshake_records > 0 && *late_records > LATE_HANDSHAKE_RECORDS_MAX {
                    return Err(DtlsRefusal::LateHandshake);
                }
                self.on_record(now, datagram)
            }
            Stage::Closed => Err(DtlsRefusal::Closed),
        }
    }

    fn on_handshake(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsRefusal> {
        let Stage::Handshake { endpoint, received, verify_request, hello_sent, parts, .. } = &mut self.stage else {
            return self.on_record(now, datagram);
        };
        *received += datagram.len();
        if *received > HANDSHAKE_BYTES_MAX {
            return self.fail(DtlsRefusal::HandshakeFailed);
        }
        let hello = client_hello_sequence(datagram);
        // Given a part of the second ClientHello, the crate takes it for a repeated first one.
        let whole;
        let mut datagram = datagram;
        if hello == Some(1) && hello_sent.is_none() {
            parts.extend_from_slice(datagram);
            if !ends_message(datagram) {
                return Ok(());
            }
            whole = std::mem::take(parts);
            datagram = &whole;
        }
        match (hello, &verify_request, *hello_sent) {
            (Some(0), Some(request), None) => {
                self.transmits.push_back(request.clone());
                return Ok(());
            }
            (Some(_), _, Some(sent)) => {
                if now >= sent + REPEAT_INTERVAL_MIN {
                    self.send_again(now);
                }
                return Ok(());
            }
            _ => {}
        }
        let events = endpoint.read(now, PEER, None, BytesMut::from(datagram));
        let before = self.transmits.len();
        self.collect_transmits();
        if let (Some(hello), Some(sent)) = (hello, self.transmits.get(before))
            && let Stage::Handshake { verify_request, hello_sent, .. } = &mut self.stage
        {
            match hello {
                0 => *verify_request = Some(sent.clone()),
                _ => *hello_sent = Some(now),
            }
        }
        let Ok(events) = events else { return self.fail(DtlsRefusal::HandshakeFailed) };
        events.into_iter().try_for_each(|event| self.on_event(event))
    }

    /// Sends the last flight of the handshake again.
    fn send_again(&mut self, now: Instant) {
        let Stage::Handshake { endpoint, hello_sent, .. } = &mut self.stage else { return };
        *hello_sent = hello_sent.map(|_| now);
        // The crate does so when its timer is due, and only then.
        let due = endpoint.poll_timeout(&PEER).map_or(now, |timer| timer.max(now));
        let result = endpoint.handle_timeout(PEER, due);
        self.collect_transmits();
        if result.is_err() {
            self.end(DtlsOutput::Failed);
        }
    }

    fn on_record(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsRefusal> {
        let Stage::Connected { endpoint, .. } = &mut self.stage else { return Err(DtlsRefusal::Closed) };
        let events = endpoint.read(now, PEER, None, BytesMut::from(datagram));
        self.collect_transmits();
        match events {
            Ok(events) => events.into_iter().try_for_each(|event| self.on_event(event)),
            // Once connected, only an authenticated alert (or nonsense under authentication) makes the crate fail.
            Err(_) => {
                self.end(DtlsOutput::ClosedByPeer);
                Ok(())
            }
        }
    }

    fn on_event(&mut self, event: EndpointEvent) -> Result<(), DtlsRefusal> {
        match event {
            EndpointEvent::HandshakeComplete => self.on_complete(),
            EndpointEvent::ApplicationData(data) => {
                self.outputs.push_back(DtlsOutput::Data(data.freeze()));
                Ok(())
            }
            EndpointEvent::PeerClosed => {
                self.end(DtlsOutput::ClosedByPeer);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_complete(&mut self) -> Result<(), DtlsRefusal> {
        let Stage::Handshake { endpoint, profile, .. } = std::mem::replace(&mut self.stage, Stage::Closed) else {
            return Err(DtlsRefusal::Closed);
        };
        let Some((peer, keys)) = export(&endpoint, profile) else {
            return self.fail(DtlsRefusal::HandshakeFailed);
        };
        self.stage = Stage::Connected { endpoint, late_records: 0 };
        self.outputs.push_back(DtlsOutput::Connected { peer, keys });
        Ok(())
    }

    /// Encrypts a record. Without effect unless connected.
    pub(crate) fn send(&mut self, now: Instant, record: &[u8]) {
        if let Stage::Connected { endpoint, .. } = &mut self.stage
            && endpoint.write(now, PEER, record).is_ok()
        {
            self.collect_transmits();
        }
    }

    /// Queues a close_notify, if there is an association to close.
    pub(crate) fn close(&mut self, now: Instant) {
        if let Stage::Connected { endpoint, .. } = &mut self.stage {
            // Closing cannot fail: the crate queues the alert and forgets the association.
            let _ = endpoint.close(now);
            self.collect_transmits();
        }
        self.stage = Stage::Closed;
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.transmits.pop_front()
    }

    pub(crate) fn poll_output(&mut self) -> Option<DtlsOutput> {
        self.outputs.pop_front()
    }

    /// When a flight of the handshake is to be sent again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Handshake { endpoint, .. } => endpoint.poll_timeout(&PEER),
            Stage::Hello(_) | Stage::Connected { .. } | Stage::Closed => None,
        }
    }

    pub(crate) fn on_deadline(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.send_again(now);
        }
    }

    fn collect_transmits(&mut self) {
        if let Stage::Handshake { endpoint, .. } | Stage::Connected { endpoint, .. } = &mut self.stage {
            while let Some(transmit) = endpoint.poll_transmit() {
                self.transmits.push_back(transmit.message);
            }
        }
    }

    fn fail(&mut self, refusal: DtlsRefusal) -> Result<(), DtlsRefusal> {
        self.end(DtlsOutput::Failed);
        Err(refusal)
    }

    fn end(&mut self, output: DtlsOutput) {
        self.stage = Stage::Closed;
        self.outputs.push_back(output);
    }
}

fn export(endpoint: &Endpoint, profile: SrtpProfile) -> Option<(Fingerprint, KeyingMaterial)> {
    let state = endpoint.get_connection_state(PEER)?;
    let peer = fingerprint_of(state.peer_certificates.first()?);
    let length = 2 * (profile.key_length() + profile.salt_length());
    let exported = state.export_keying_material(EXPORTER_LABEL, &[], length).ok()?;
    Some((peer, KeyingMaterial::split(profile, exported.as_ref())?))
}

/// Whether a datagram is DTLS, by its first byte (RFC 7983).
pub fn is_dtls(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(20..=63))
}

const HANDSHAKE_RECORD: u8 = 22;

/// One record of a datagram: content type, epoch, body.
struct Record<'a> {
    content_type: u8,
    epoch: u16,
    body: &'a [u8],
}

/// Takes the first record off a datagram.
fn split_record(datagram: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (header, rest) = datagram.split_first_chunk::<RECORD_HEADER_LENGTH>()?;
    let [content_type, _, _, epoch_high, epoch_low, _, _, _, _, _, _, length_high, length_low] = *header;
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    let (body, rest) = rest.split_at_checked(length)?;
    Some((Record { content_type, epoch: u16::from_be_bytes([epoch_high, epoch_low]), body }, rest))
}

/// Number of the ClientHello that a datagram begins with, or with a fragment of: 0 for a client's first, 1 for the one
/// that answers our HelloVerifyRequest.
fn client_hello_sequence(datagram: &[u8]) -> Option<u16> {
    const CLIENT_HELLO: u8 = 1;
    let (record, _) = split_record(datagram)?;
    let ([kind, _, _, _, high, low], _) = record.body.split_first_chunk::<6>()?;
    (record.content_type == HANDSHAKE_RECORD && record.epoch == 0 && *kind == CLIENT_HELLO)
        .then_some(u16::from_be_bytes([*high, *low]))
}

/// Whether the first handshake fragment of a datagram reaches its message's end.
fn ends_message(datagram: &[u8]) -> bool {
    let Some((record, _)) = split_record(datagram) else { return true };
    let Some((header, _)) = record.body.split_first_chunk::<HANDSHAKE_HEADER_LENGTH>() else { return true };
    let [_, l2, l1, l0, _, _, o2, o1, o0, f2, f1, f0] = *header;
    let [total, offset, length] =
        [[l2, l1, l0], [o2, o1, o0], [f2, f1, f0]].map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]));
    offset + length >= total
}

/// How many handshake records a datagram holds; `None` if it does not consist of whole records.
fn count_handshake_records(datagram: &[u8]) -> Option<u32> {
    let mut rest = datagram;
    let mut count = 0;
    while !rest.is_empty() {
        let (record, after) = split_record(rest)?;
        count += u32::from(record.content_type == HANDSHAKE_RECORD);
        rest = after;
    }
    (!datagram.is_empty()).then_some(count)
}

/// A whole ClientHello.
struct ClientHello {
    /// The one we prefer among those offered.
    profile: Option<SrtpProfile>,
    /// As they came, for the association to be created.
    datagrams: Vec<Vec<u8>>,
}

/// Puts the first ClientHello together from its fragments, to read its SRTP profiles.
#[derive(Default)]
struct ClientHelloCollector {
    datagrams: Vec<Vec<u8>>,
    body: Vec<u8>,
    /// Ranges of `body` that have arrived, in order and not touching each other.
    filled: Vec<(usize, usize)>,
}

impl ClientHelloCollector {
    fn collect(&mut self, datagram: &[u8]) -> Result<Option<ClientHello>, DtlsRefusal> {
        let (record, _) = split_record(datagram).ok_or(DtlsRefusal::Malformed)?;
        if record.content_type != HANDSHAKE_RECORD || record.epoch != 0 {
            return Err(DtlsRefusal::NotAClientHello);
        }
        let stored: usize = self.datagrams.iter().map(Vec::len).sum();
        if stored + datagram.len() > CLIENT_HELLO_BYTES_MAX {
            // A client that starts over deserves a new chance.
            *self = Self::default();
        }
        let mut rest = datagram;
        while let Some((record, after)) = split_record(rest) {
            self.collect_fragments(record.body)?;
            rest = after;
        }
        self.datagrams.push(datagram.to_vec());
        if self.filled != [(0, self.body.len())] {
            return Ok(None);
        }
        let collected = std::mem::take(self);
        Ok(Some(ClientHello { profile: preferred_profile(&collected.body), datagrams: collected.datagrams }))
    }

    fn collect_fragments(&mut self, mut fragments: &[u8]) -> Result<(), DtlsRefusal> {
        while let Some((header, rest)) = fragments.split_first_chunk::<HANDSHAKE_HEADER_LENGTH>() {
            let [kind, l2, l1, l0, sequence_high, sequence_low, o2, o1, o0, f2, f1, f0] = *header;
            let [total, offset, length] =
                [[l2, l1, l0], [o2, o1, o0], [f2, f1, f0]].map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]) as usize);
            let (fragment, after) = rest.split_at_checked(length).ok_or(DtlsRefusal::Malformed)?;
            if (kind, sequence_high, sequence_low) != (1, 0, 0) || total > CLIENT_HELLO_BYTES_MAX {
                return Err(DtlsRefusal::NotAClientHello);
            }
            if self.body.len() != total {
                self.body = vec![0; total];
                self.filled.clear();
            }
            let target = self.body.get_mut(offset..offset + length).ok_or(DtlsRefusal::Malformed)?;
            target.copy_from_slice(fragment);
            self.note_filled(offset, offset + length);
            fragments = after;
        }
        Ok(())
    }

    fn note_filled(&mut self, start: usize, end: usize) {
        self.filled.push((start, end));
        self.filled.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(self.filled.len());
        for &(start, end) in &self.filled {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        self.filled = merged;
    }
}

/// The profile we like best among those of a ClientHello's `use_srtp` (RFC 5764, section 4.1.1).
fn preferred_profile(hello: &[u8]) -> Option<SrtpProfile> {
    const EXTENSION_USE_SRTP: u16 = 14;

    let mut reader = Reader(hello);
    reader.take(2 + 32)?; // version, random
    reader.take_u8_vector()?; // session id
    reader.take_u8_vector()?; // cookie
    reader.take_u16_vector()?; // cipher suites
    reader.take_u8_vector()?; // compression methods
    let mut extensions = Reader(reader.take_u16_vector()?);
    while let Some(kind) = extensions.take_u16() {
        let body = extensions.take_u16_vector()?;
        if kind == EXTENSION_USE_SRTP {
            let offered = Reader(body).take_u16_vector()?;
            let offers = |profile: &SrtpProfile| {
                let (ids, _) = offered.as_chunks::<2>();
                ids.iter().any(|id| SrtpProfile::from_wire(u16::from_be_bytes(*id)) == Some(*profile))
            };
            return SrtpProfile::PREFERENCE.into_iter().find(offers);
        }
    }
    None
}

/// Takes TLS fields off the front of a message (RFC 5246, section 4.3).
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn take_u16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*taken))
    }

    fn take_u8_vector(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        self.0 = rest;
        self.take(usize::from(length))
    }

    fn take_u16_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.take_u16()?;
        self.take(usize::from(length))
    }
}
