//! One client's transport: ICE-lite, DTLS and data channels behind one interface.
//!
//! Sans IO: datagrams and time go in, datagrams and [`TransportOutput`]s come out. The engine owns one per client,
//! finds it by address or ufrag, and gives it DTLS only from addresses that have passed a check. SRTP is not here: its
//! keys leave in [`TransportOutput::Connected`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::certificate::Certificate;
use crate::dtls::{Dtls, DtlsOutput};
use crate::ice::IceAgent;
use crate::id::TransportId;
use crate::parameters::{
    CONSENT_LOST, ChannelOpener, DataChannel, DtlsRole, Fingerprint, IceCredentials, TransportEnd,
};
use crate::sctp::{Sctp, SctpOutput};

pub use crate::dtls::DtlsRefusal;
pub use crate::ice::{StunOutcome, StunRefusal};
pub use crate::keying::{KeyingMaterial, SrtpProfile};
pub use crate::path::{Path, Via};
pub use crate::sctp::{DataDiscards, MESSAGE_BYTES_MAX, SendDataError};

/// How long a client may take from its first check to a verified certificate.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// SCTP packets kept until the client's certificate is verified: its INIT usually is the only one.
const UNVERIFIED_PACKETS_MAX: usize = 16;

/// What a transport has to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum TransportOutput {
    /// ICE and DTLS are up and the certificate is the one of the SDP. Comes once.
    Connected(KeyingMaterial),
    /// A data channel is open.
    ChannelOpen(DataChannel),
    /// A message of a channel that is not reliable; for the others see [`Transport::take_reliable`].
    Data(DataChannel, Bytes),
    /// Nothing comes after it. A transport that we close ourselves does not say so.
    Ended(TransportEnd),
}

/// How far DTLS and its verification have come.
enum Security {
    Handshaking,
    /// DTLS is up, and the SDP's fingerprint is not known yet.
    Unverified {
        peer: Fingerprint,
        keys: Box<KeyingMaterial>,
        packets: Vec<Bytes>,
    },
    Verified,
    Ended,
}

/// One client's association.
pub struct Transport {
    id: TransportId,
    ice: IceAgent,
    dtls: Dtls,
    sctp: Sctp,
    security: Security,
    /// The client's certificate by its SDP.
    fingerprint: Option<Fingerprint>,
    /// A check of ours to send, and where to.
    check: Option<Box<(Path, Vec<u8>)>>,
    outputs: VecDeque<TransportOutput>,
    /// Datagrams that were not sent, see [`Self::take_withheld`].
    withheld: u64,
}

impl Transport {
    /// A transport that waits for the client's checks, for as long as its room likes. It is the DTLS server, as towards
    /// every offer, until [`Self::set_dtls_role`] says otherwise.
    ///
    /// Nothing is timed until the first check. From `seed` follow the random numbers of our own checks.
    pub fn new(
        id: TransportId,
        local: IceCredentials,
        opener: ChannelOpener,
        certificate: &Certificate,
        seed: u64,
    ) -> Self {
        Self {
            id,
            ice: IceAgent::new(local, seed),
            dtls: Dtls::new(DtlsRole::Server, certificate),
            sctp: Sctp::new(opener),
            security: Security::Handshaking,
            fingerprint: None,
            check: None,
            outputs: VecDeque::new(),
            withheld: 0,
        }
    }

    /// The room's id of it.
    pub fn id(&self) -> TransportId {
        self.id
    }

    /// Our ufrag, and during an ICE restart the one before it too.
    pub fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        self.ice.local_ufrags()
    }

    /// Takes new credentials (RFC 8445, section 9). The path and the old ones serve until a check with the new ones
    /// nominates; DTLS goes on as if nothing had happened.
    pub fn restart_ice(&mut self, local: IceCredentials) {
        self.ice.restart(local);
    }

    /// Takes the client's ICE credentials, as its description tells them: a nominated address may wait for a check that
    /// is made with them.
    pub fn set_remote_credentials(&mut self, now: Instant, remote: IceCredentials) {
        self.ice.set_remote(remote);
        self.make_check(now);
    }

    /// The client's ICE credentials, if its description has told them.
    pub fn remote_credentials(&self) -> Option<&IceCredentials> {
        self.ice.remote()
    }

    /// Takes the DTLS role that an answer leaves to us. A client sends its ClientHello as soon as a check has shown the
    /// path. Once the handshake has begun the role stays as it is, through ICE restarts too (RFC 8842, section 4).
    pub fn set_dtls_role(&mut self, now: Instant, role: DtlsRole) {
        self.dtls.set_role(role);
        self.start_dtls(now);
    }

    /// Our role in the handshake.
    pub fn dtls_role(&self) -> DtlsRole {
        self.dtls.role()
    }

    fn start_dtls(&mut self, now: Instant) {
        if self.ice.path().is_some() && !self.has_ended() {
            self.dtls.start(now);
            self.take_from_dtls(now);
        }
    }

    /// The client's certificate by its SDP, if that is known.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// Names the client's certificate, as its SDP does. Once it is verified another name changes nothing.
    pub fn set_fingerprint(&mut self, now: Instant, fingerprint: Fingerprint) {
        self.fingerprint = Some(fingerprint);
        self.verify(now);
    }

    /// Takes in a STUN datagram from `from`.
    ///
    /// `reply` is cleared; what is in it afterwards is to be sent to `from`, also when the message was refused. `Ok`
    /// means that the sender knows our password: from now on DTLS may be taken from this path. A nomination of another
    /// path takes effect at once until there is something to transmit, and from then on when the address there has
    /// answered a check of ours ([`Self::poll_check`]).
    ///
    /// # Errors
    ///
    /// [`StunRefusal`] says why the message was no valid check.
    pub fn on_stun(
        &mut self,
        now: Instant,
        from: Path,
        datagram: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<StunOutcome, StunRefusal> {
        let outcome = self.ice.on_stun(now, from, datagram, reply)?;
        self.make_check(now);
        self.start_dtls(now);
        Ok(outcome)
    }

    fn make_check(&mut self, now: Instant) {
        let mut datagram = Vec::new();
        if let Some(path) = self.ice.poll_check(now, &mut datagram) {
            self.check = Some(Box::new((path, datagram)));
        }
    }

    /// The next check of ours, and where to send it.
    pub fn poll_check(&mut self) -> Option<(Path, Vec<u8>)> {
        self.check.take().map(|check| *check)
    }

    /// Takes a path without ICE: for simulations of the media path.
    pub(crate) fn assume_path(&mut self, path: Path) {
        self.ice.assume(path);
    }

    /// Takes in a DTLS datagram from an address whose checks were valid. Afterwards there may be something to transmit
    /// and to tell.
    ///
    /// # Errors
    ///
    /// [`DtlsRefusal`] if the datagram was of no use; a failed handshake comes as [`TransportOutput::Ended`] too.
    pub fn on_dtls(&mut self, now: Instant, from: Path, datagram: &[u8]) -> Result<(), DtlsRefusal> {
        if self.has_ended() {
            return Err(DtlsRefusal::Closed);
        }
        self.ice.note_received(from, datagram.len());
        let result = self.dtls.on_datagram(now, datagram);
        self.take_from_dtls(now);
        result
    }

    fn take_from_dtls(&mut self, now: Instant) {
        while let Some(output) = self.dtls.poll_output() {
            match output {
                DtlsOutput::Connected { peer, keys } => {
                    self.security = Security::Unverified { peer, keys: Box::new(keys), packets: Vec::new() };
                    self.verify(now);
                }
                DtlsOutput::Data(packet) => {
                    self.ice.note_heard(now);
                    self.on_sctp(now, packet);
                }
                DtlsOutput::ClosedByPeer => self.end(TransportEnd::ClosedByPeer),
                DtlsOutput::Failed => self.end(TransportEnd::HandshakeFailed),
            }
        }
    }

    fn on_sctp(&mut self, now: Instant, packet: Bytes) {
        match &mut self.security {
            Security::Verified => {
                self.sctp.on_packet(now, packet);
                self.take_from_sctp(now);
            }
            Security::Unverified { packets, .. } if packets.len() < UNVERIFIED_PACKETS_MAX => packets.push(packet),
            // SCTP sends again what is dropped.
            Security::Unverified { .. } | Security::Handshaking | Security::Ended => {}
        }
    }

    fn take_from_sctp(&mut self, now: Instant) {
        while let Some(packet) = self.sctp.poll_transmit() {
            self.dtls.send(now, &packet);
        }
        while let Some(output) = self.sctp.poll_output() {
            self.outputs.push_back(match output {
                SctpOutput::Open(channel) => TransportOutput::ChannelOpen(channel),
                SctpOutput::Data(channel, payload) => TransportOutput::Data(channel, payload),
            });
        }
    }

    /// Compares the client's certificate with its SDP, when both are known.
    fn verify(&mut self, now: Instant) {
        let (Security::Unverified { peer, .. }, Some(expected)) = (&self.security, self.fingerprint) else { return };
        if *peer != expected {
            self.dtls.close(now);
            self.end(TransportEnd::WrongFingerprint);
            return;
        }
        if let Security::Unverified { keys, packets, .. } = std::mem::replace(&mut self.security, Security::Verified) {
            self.outputs.push_back(TransportOutput::Connected(*keys));
            self.sctp.start(now, self.dtls.role());
            packets.into_iter().for_each(|packet| self.on_sctp(now, packet));
        }
    }

    /// A client that takes reliable messages more slowly than this, in bits a second, loses some; 0: none does.
    pub fn set_datachannel_slow_threshold(&mut self, bits_per_second: u32) {
        self.sctp.set_slow_threshold(bits_per_second);
    }

    /// Sends a message, or keeps it if it is reliable and the channel is not open yet (up to 100 KiB) or the client is
    /// behind (up to 16 MiB).
    ///
    /// # Errors
    ///
    /// [`SendDataError`] says why the message is lost.
    pub fn send_data(&mut self, now: Instant, channel: DataChannel, payload: &Bytes) -> Result<(), SendDataError> {
        self.send_data_within(now, channel, payload, usize::MAX)
    }

    /// As [`Self::send_data`]. Where `spare` is less than 15 MiB, no more than so many bytes beyond the first MiB wait
    /// for a client that is behind.
    ///
    /// # Errors
    ///
    /// [`SendDataError`] says why the message is lost.
    pub fn send_data_within(
        &mut self,
        now: Instant,
        channel: DataChannel,
        payload: &Bytes,
        spare: usize,
    ) -> Result<(), SendDataError> {
        if self.has_ended() {
            return Err(SendDataError::Closed);
        }
        let result = self.sctp.send(now, channel, payload, spare);
        self.take_from_sctp(now);
        result
    }

    /// Whether the client has sent a reliable message that was not taken.
    pub fn has_reliable(&self) -> bool {
        self.sctp.has_reliable()
    }

    /// Takes the client's next reliable message. Those that are not taken close its receive window, so that it waits.
    /// Afterwards there may be something to transmit.
    pub fn take_reliable(&mut self, now: Instant) -> Option<Bytes> {
        let payload = self.sctp.take_reliable(now)?;
        self.take_from_sctp(now);
        Some(payload)
    }

    /// Bytes of reliable messages that the client has not acknowledged, with what they take beside their payload.
    pub fn data_backlog(&self) -> usize {
        self.sctp.backlog_bytes()
    }

    /// Whether those who send to this client should wait: there is a threshold, the client takes reliable messages at
    /// that pace or faster, and nearly as much waits for it as may. `spare` as in [`Self::send_data_within`].
    pub fn is_behind(&mut self, now: Instant, spare: usize) -> bool {
        self.sctp.is_behind(now, spare)
    }

    /// Where to send to. Known from the first valid check on.
    pub fn path(&self) -> Option<Path> {
        self.ice.path()
    }

    /// Whether [`TransportOutput::Connected`] has come and [`TransportOutput::Ended`] has not.
    pub fn is_connected(&self) -> bool {
        matches!(self.security, Security::Verified)
    }

    fn has_ended(&self) -> bool {
        matches!(self.security, Security::Ended)
    }

    /// What the client sent on data channels and we dropped, since the last call.
    pub fn take_data_discards(&mut self) -> DataDiscards {
        self.sctp.take_discards()
    }

    /// Writes the next DTLS datagram for [`Self::path`] into `buf` (cleared first); false if there is none.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> bool {
        buf.clear();
        let is_stranger = matches!(self.security, Security::Handshaking);
        while let Some(datagram) = self.dtls.poll_transmit() {
            if is_stranger && !self.ice.may_send_to_stranger(datagram.len()) {
                // It is sent again in time, or when the client says its own again.
                self.withheld += 1;
                continue;
            }
            self.ice.settle();
            buf.extend_from_slice(&datagram);
            return true;
        }
        false
    }

    /// Datagrams of the handshake that were not sent since the last call, as too much had gone to an address already
    /// that has not shown that it receives.
    pub fn take_withheld(&mut self) -> u64 {
        std::mem::take(&mut self.withheld)
    }

    /// The next output; call until `None` after every input.
    pub fn poll_output(&mut self) -> Option<TransportOutput> {
        self.outputs.pop_front()
    }

    /// When [`Self::on_deadline`] is due: a retransmission, the end of a handshake's patience, or of consent, a check.
    pub fn deadline(&self) -> Option<Instant> {
        if self.has_ended() {
            return None;
        }
        [self.patience_ends(), self.consent_ends(), self.ice.deadline(), self.dtls.deadline(), self.sctp.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn patience_ends(&self) -> Option<Instant> {
        if self.is_connected() { None } else { self.ice.first_check().map(|check| check + HANDSHAKE_TIMEOUT) }
    }

    /// When the client was last heard on its path.
    pub fn last_heard(&self) -> Option<Instant> {
        self.ice.last_heard()
    }

    /// Notes that an authentic packet of media came by the path.
    pub fn note_heard(&mut self, now: Instant) {
        self.ice.note_heard(now);
    }

    fn consent_ends(&self) -> Option<Instant> {
        self.ice.last_heard().map(|heard| heard + CONSENT_LOST)
    }

    /// Does what is due at `now`. Early calls do nothing.
    pub fn on_deadline(&mut self, now: Instant) {
        if self.has_ended() {
            return;
        }
        if self.consent_ends().is_some_and(|end| now >= end) {
            self.dtls.close(now);
            self.end(TransportEnd::ConsentLost);
            return;
        }
        if self.patience_ends().is_some_and(|end| now >= end) {
            self.dtls.close(now);
            self.end(TransportEnd::HandshakeFailed);
            return;
        }
        self.make_check(now);
        if self.dtls.deadline().is_some_and(|deadline| now >= deadline) {
            self.dtls.on_deadline(now);
            self.take_from_dtls(now);
        }
        if self.sctp.deadline().is_some_and(|deadline| now >= deadline) {
            self.sctp.on_deadline(now);
            self.take_from_sctp(now);
        }
    }

    /// Ends the association. A close_notify may be left to transmit; nothing else will come.
    pub fn close(&mut self, now: Instant) {
        self.dtls.close(now);
        self.security = Security::Ended;
    }

    fn end(&mut self, end: TransportEnd) {
        if !self.has_ended() {
            self.security = Security::Ended;
            self.outputs.push_back(TransportOutput::Ended(end));
        }
    }
}
