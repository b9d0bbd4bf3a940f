//! The full handshake of a server that asks for a certificate (RFC 5246, section 7.3): two flights of ours.
//!
//! Its messages are taken strictly in order, and everything of it is dropped when it is over.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use ring::agreement::{self, EphemeralPrivateKey};
use ring::error::Unspecified;
use ring::rand::{SystemRandom, generate};

use super::alert::{self, Alert};
use super::keys::{MasterSecret, Randoms, Side, same, sha256};
use super::messages::{self, ClientHello};
use super::reassembly::{Arrival, Fragment, Kind, Reassembly, whole_message};
use super::record::{Content, HEADER_LENGTH, Opener, Record, Sealer, put_plain};
use super::session::Session;
use super::x509::PublicKey;
use super::{DATAGRAM_BYTES_MAX, DtlsRefusal, KeyingMaterial, REPEAT_INTERVAL_MIN, SrtpProfile, Transmits};
use crate::certificate::{Certificate, fingerprint_of};
use crate::command::Fingerprint;

/// When our first flight is sent again. Clients repeat theirs after 50 ms to 1 s.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// The interval doubles up to this one. How long it goes on is for the owner to say.
const REPEAT_AFTER_MAX: Duration = Duration::from_millis(1_600);
/// Protected records kept because they overtook the messages that the keys come from. There is one Finished.
const EARLY_RECORDS_MAX: usize = 4;
/// Longest record that is kept, in bytes. A Finished takes 61.
const EARLY_RECORD_BYTES_MAX: usize = 256;

/// Why a record did not help.
pub(super) enum Trouble {
    /// It is as if it had not come.
    Ignored(DtlsRefusal),
    /// The handshake is over.
    Fatal(Alert),
    /// The client says that it is over.
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
struct Exchange {
    profile: SrtpProfile,
    randoms: Randoms,
    secret: EphemeralPrivateKey,
}

/// What is known once the key exchange is complete.
struct Secured {
    profile: SrtpProfile,
    randoms: Randoms,
    master: MasterSecret,
    opener: Opener,
    sealer: Sealer,
}

/// The message that is due next, and what it needs.
enum Due {
    ClientHello,
    Certificate(Exchange),
    ClientKeyExchange(Exchange, Fingerprint, PublicKey),
    CertificateVerify(Box<Secured>, Fingerprint, PublicKey),
    Finished(Box<Secured>, Fingerprint),
    /// Everything is over.
    Nothing,
}

impl Due {
    fn secured(&mut self) -> Option<&mut Secured> {
        match self {
            Self::CertificateVerify(secured, ..) | Self::Finished(secured, _) => Some(secured),
            Self::ClientHello | Self::Certificate(_) | Self::ClientKeyExchange(..) | Self::Nothing => None,
        }
    }
}

/// Our messages of epoch 0, and when they go out.
#[derive(Default)]
struct Flight {
    messages: Vec<Vec<u8>>,
    next_record: u64,
    sent: Option<Instant>,
    repeat_after: Duration,
}

impl Flight {
    fn send(&mut self, now: Instant, transmits: &mut Transmits) {
        self.sent = Some(now);
        let mut datagram: Vec<u8> = Vec::new();
        for message in &self.messages {
            if !datagram.is_empty() && datagram.len() + HEADER_LENGTH + message.len() > DATAGRAM_BYTES_MAX {
                transmits.push_back(std::mem::take(&mut datagram));
            }
            put_plain(&mut datagram, Content::Handshake, self.next_record, message);
            self.next_record += 1;
        }
        transmits.push_back(datagram);
    }
}

pub(super) struct Handshake {
    certificate: Certificate,
    due: Due,
    reassembly: Reassembly,
    /// All messages so far, as they count for signatures and checks.
    transcript: Vec<u8>,
    flight: Flight,
    early: ArrayVec<Vec<u8>, EARLY_RECORDS_MAX>,
}

impl Handshake {
    pub fn new(certificate: &Certificate) -> Self {
        Self {
            certificate: certificate.clone(),
            due: Due::ClientHello,
            reassembly: Reassembly::default(),
            transcript: Vec::new(),
            flight: Flight::default(),
            early: ArrayVec::new(),
        }
    }

    /// Takes in a record. What there is to say goes to `transmits`.
    pub fn on_record(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        transmits: &mut Transmits,
    ) -> Result<Option<Established>, Trouble> {
        match (record.epoch, record.content) {
            (0, Content::Handshake) => self.on_fragments(now, 0, record.body, transmits)?,
            (0, Content::Alert) if alert::is_ending(record.body) => return Err(Trouble::GivenUp),
            // The epoch of a record says all that ChangeCipherSpec does.
            (0, Content::ChangeCipherSpec | Content::Alert) => {}
            (1, _) => self.on_protected(now, record, transmits)?,
            _ if matches!(self.due, Due::ClientHello) => return Err(Trouble::Ignored(DtlsRefusal::NotAClientHello)),
            _ => return Err(Trouble::Ignored(DtlsRefusal::Unexpected)),
        }
        self.progress(now, transmits)
    }

    fn on_protected(&mut self, now: Instant, record: &Record<'_>, transmits: &mut Transmits) -> Result<(), Trouble> {
        let Some(secured) = self.due.secured() else {
            if record.as_bytes().len() <= EARLY_RECORD_BYTES_MAX && !self.early.is_full() {
                self.early.push(record.as_bytes().to_vec());
            }
            return Ok(());
        };
        let plaintext = secured.opener.open(record).ok_or(Trouble::Ignored(DtlsRefusal::NotAuthentic))?;
        match record.content {
            Content::Handshake => self.on_fragments(now, 1, &plaintext, transmits),
            Content::Alert if alert::is_ending(&plaintext) => Err(Trouble::GivenUp),
            // Until Finished is verified nothing else is taken, whoever sealed it.
            _ => Err(Trouble::Ignored(DtlsRefusal::Unexpected)),
        }
    }

    fn on_fragments(
        &mut self,
        now: Instant,
        epoch: u16,
        mut body: &[u8],
        transmits: &mut Transmits,
    ) -> Result<(), Trouble> {
        while !body.is_empty() {
            let (fragment, rest) = Fragment::split(body).ok_or(Trouble::Ignored(DtlsRefusal::Malformed))?;
            body = rest;
            // Finished is the one protected message. In the clear it would be forged by whoever knows the transcript.
            if (fragment.kind == Kind::Finished) != (epoch == 1) {
                return Err(Trouble::Ignored(DtlsRefusal::Unexpected));
            }
            match self.reassembly.insert(&fragment) {
                Arrival::Kept => {}
                Arrival::Repeated if fragment.kind == Kind::ClientHello => self.repeat(now, transmits),
                // The rest of that flight is what we wait for.
                Arrival::Repeated => {}
                Arrival::Refused if matches!(self.due, Due::ClientHello) => {
                    return Err(Trouble::Ignored(DtlsRefusal::NotAClientHello));
                }
                Arrival::Refused => return Err(Trouble::Ignored(DtlsRefusal::Unexpected)),
            }
        }
        Ok(())
    }

    /// The client has not seen our flight.
    fn repeat(&mut self, now: Instant, transmits: &mut Transmits) {
        if self.flight.sent.is_some_and(|sent| now >= sent + REPEAT_INTERVAL_MIN) {
            self.flight.send(now, transmits);
        }
    }

    /// Takes all messages that are complete and due.
    fn progress(&mut self, now: Instant, transmits: &mut Transmits) -> Result<Option<Established>, Trouble> {
        while let Some((kind, sequence, body)) = self.reassembly.take_next() {
            let before = self.transcript.len();
            self.transcript.extend_from_slice(&whole_message(kind, sequence, &body));
            if let Some(established) = self.on_message(now, kind, &body, before, transmits)? {
                return Ok(Some(established));
            }
            if self.due.secured().is_some() {
                self.take_early(now, transmits);
            }
        }
        Ok(None)
    }

    fn take_early(&mut self, now: Instant, transmits: &mut Transmits) {
        for bytes in std::mem::take(&mut self.early) {
            if let Some((record, _)) = Record::split(&bytes) {
                // The client repeats what is of no use now.
                let _ = self.on_protected(now, &record, transmits);
            }
        }
    }

    /// Takes the next message; the transcript up to `before` does not have it.
    fn on_message(
        &mut self,
        now: Instant,
        kind: Kind,
        body: &[u8],
        before: usize,
        transmits: &mut Transmits,
    ) -> Result<Option<Established>, Trouble> {
        let due = std::mem::replace(&mut self.due, Due::Nothing);
        self.due = match (due, kind) {
            (Due::ClientHello, Kind::ClientHello) => {
                let exchange = self.answer(body)?;
                self.flight.repeat_after = REPEAT_AFTER;
                self.flight.send(now, transmits);
                Due::Certificate(exchange)
            }
            (Due::Certificate(exchange), Kind::Certificate) => {
                let certificate = messages::parse_certificate(body)?;
                let key = PublicKey::of_certificate(certificate).ok_or(Alert::UnsupportedCertificate)?;
                Due::ClientKeyExchange(exchange, fingerprint_of(certificate), key)
            }
            (Due::ClientKeyExchange(exchange, peer, key), Kind::ClientKeyExchange) => {
                let public_key = messages::parse_client_key_exchange(body)?;
                let secured = exchange.complete(public_key, &self.transcript)?;
                Due::CertificateVerify(Box::new(secured), peer, key)
            }
            (Due::CertificateVerify(secured, peer, key), Kind::CertificateVerify) => {
                let (scheme, signature) = messages::parse_certificate_verify(body)?;
                let (signed, _) = self.transcript.split_at(before);
                if !key.has_signed(scheme, signed, signature) {
                    return Err(Alert::DecryptError.into());
                }
                Due::Finished(secured, peer)
            }
            (Due::Finished(secured, peer), Kind::Finished) => {
                return self.finish(now, *secured, peer, body, before, transmits).map(Some);
            }
            _ => return Err(Alert::UnexpectedMessage.into()),
        };
        Ok(None)
    }

    /// Answers a ClientHello: writes our flight up to ServerHelloDone.
    fn answer(&mut self, hello: &[u8]) -> Result<Exchange, Alert> {
        let hello = ClientHello::parse(hello)?;
        let random = SystemRandom::new();
        let internal = |_: Unspecified| Alert::InternalError;
        let secret = EphemeralPrivateKey::generate(hello.group.algorithm(), &random).map_err(internal)?;
        let public_key = secret.compute_public_key().map_err(internal)?;
        let server: [u8; 32] = generate(&random).map_err(internal)?.expose();
        let randoms = Randoms { client: hello.random, server };
        let params = messages::key_exchange_params(hello.group, public_key.as_ref());
        let signature = self.certificate.sign(&messages::signed_params(&randoms, &params)).map_err(internal)?;

        self.say(Kind::ServerHello, &messages::server_hello(&hello, &server));
        self.say(Kind::Certificate, &messages::certificate(self.certificate.der()));
        self.say(Kind::ServerKeyExchange, &messages::server_key_exchange(&params, signature.as_ref()));
        self.say(Kind::CertificateRequest, &messages::certificate_request());
        self.say(Kind::ServerHelloDone, &[]);
        Ok(Exchange { profile: hello.profile, randoms, secret })
    }

    /// Adds a message to our flight.
    fn say(&mut self, kind: Kind, body: &[u8]) {
        let sequence = u16::try_from(self.flight.messages.len()).expect("our flight has five messages");
        let message = whole_message(kind, sequence, body);
        self.transcript.extend_from_slice(&message);
        self.flight.messages.push(message);
    }

    fn finish(
        &mut self,
        now: Instant,
        secured: Secured,
        peer: Fingerprint,
        check: &[u8],
        before: usize,
        transmits: &mut Transmits,
    ) -> Result<Established, Trouble> {
        let (checked, _) = self.transcript.split_at(before);
        if !same(check, &secured.master.verify_data(Side::Client, checked)) {
            return Err(Alert::DecryptError.into());
        }
        let keys = secured.master.srtp_keys(secured.profile, &secured.randoms).ok_or(Alert::InternalError)?;
        let own_check = secured.master.verify_data(Side::Server, &self.transcript);
        let sequence = u16::try_from(self.flight.messages.len()).expect("our flight has five messages");
        let finished = whole_message(Kind::Finished, sequence, &own_check);
        let mut session = Session::new(secured.opener, secured.sealer);
        session.finish(now, finished, self.flight.next_record, transmits);
        Ok(Established { peer, keys, session })
    }

    /// When our flight is to be sent again.
    pub fn deadline(&self) -> Option<Instant> {
        self.flight.sent.map(|sent| sent + self.flight.repeat_after)
    }

    pub fn on_deadline(&mut self, now: Instant, transmits: &mut Transmits) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.flight.repeat_after = (2 * self.flight.repeat_after).min(REPEAT_AFTER_MAX);
            self.flight.send(now, transmits);
        }
    }

    /// Says why the handshake is over.
    pub fn send_alert(&mut self, alert: Alert, transmits: &mut Transmits) {
        let mut datagram = Vec::new();
        put_plain(&mut datagram, Content::Alert, self.flight.next_record, &alert.to_wire());
        transmits.push_back(datagram);
    }
}

impl Exchange {
    /// Derives all keys from the client's half; the transcript ends with it.
    fn complete(self, public_key: &[u8], transcript: &[u8]) -> Result<Secured, Alert> {
        let Self { profile, randoms, secret } = self;
        let public_key = agreement::UnparsedPublicKey::new(secret.algorithm(), public_key);
        let session_hash = sha256(transcript);
        let master = agreement::agree_ephemeral(secret, &public_key, |shared| MasterSecret::new(shared, &session_hash))
            .map_err(|_| Alert::IllegalParameter)?;
        let (opener, sealer) = master.record_keys(&randoms);
        Ok(Secured { profile, randoms, master, opener, sealer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A handshake where only the client's Finished is missing, and the check that belongs in it.
    fn before_finished(now: Instant) -> (Handshake, Vec<u8>) {
        let mut handshake = Handshake::new(&Certificate::generate());
        let randoms = Randoms { client: [1; 32], server: [2; 32] };
        let master = MasterSecret::new(b"shared", &[3; 32]);
        let (opener, sealer) = master.record_keys(&randoms);
        let check = master.verify_data(Side::Client, &handshake.transcript).to_vec();
        let secured = Secured { profile: SrtpProfile::AeadAes128Gcm, randoms, master, opener, sealer };
        handshake.due = Due::Finished(Box::new(secured), Fingerprint([0; 32]));
        handshake.flight.sent = Some(now);
        (handshake, check)
    }

    #[test]
    fn finished_must_check_the_whole_transcript() {
        let (now, mut transmits) = (Instant::now(), Transmits::new());
        let (mut handshake, check) = before_finished(now);
        assert!(matches!(handshake.on_message(now, Kind::Finished, &check, 0, &mut transmits), Ok(Some(_))));
        assert_eq!(transmits.len(), 1);

        let mut wrong = check.clone();
        wrong[11] ^= 1;
        for body in [&wrong[..], &check[..11], &[]] {
            let (mut handshake, _) = before_finished(now);
            let result = handshake.on_message(now, Kind::Finished, body, 0, &mut transmits);
            assert!(matches!(result, Err(Trouble::Fatal(Alert::DecryptError))));
        }

        let (mut handshake, _) = before_finished(now);
        handshake.transcript.extend_from_slice(b"a message that the client has not seen");
        let before = handshake.transcript.len();
        let result = handshake.on_message(now, Kind::Finished, &check, before, &mut transmits);
        assert!(matches!(result, Err(Trouble::Fatal(Alert::DecryptError))));
    }

    #[test]
    fn finished_counts_only_if_it_is_protected() {
        let (now, mut transmits) = (Instant::now(), Transmits::new());
        let (mut handshake, check) = before_finished(now);
        let mut datagram = Vec::new();
        put_plain(&mut datagram, Content::Handshake, 9, &whole_message(Kind::Finished, 0, &check));
        let (record, _) = Record::split(&datagram).unwrap();
        let result = handshake.on_record(now, &record, &mut transmits);
        assert!(matches!(result, Err(Trouble::Ignored(DtlsRefusal::Unexpected))));
        assert!(transmits.is_empty());
    }

    #[test]
    fn no_message_can_be_left_out() {
        let (now, mut transmits) = (Instant::now(), Transmits::new());
        for kind in [Kind::Certificate, Kind::ClientKeyExchange, Kind::CertificateVerify, Kind::Finished, Kind::Other] {
            let mut handshake = Handshake::new(&Certificate::generate());
            let result = handshake.on_message(now, kind, &[0; 64], 0, &mut transmits);
            assert!(matches!(result, Err(Trouble::Fatal(Alert::UnexpectedMessage))), "{kind:?}");
        }
        for kind in [Kind::ClientHello, Kind::Certificate, Kind::ClientKeyExchange, Kind::CertificateVerify] {
            let (mut handshake, _) = before_finished(now);
            let result = handshake.on_message(now, kind, &[0; 64], 0, &mut transmits);
            assert!(matches!(result, Err(Trouble::Fatal(Alert::UnexpectedMessage))), "{kind:?}");
        }
    }
}
