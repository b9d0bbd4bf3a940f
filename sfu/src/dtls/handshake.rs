//! The full handshake of either side, both of which show a certificate (RFC 5246, section 7.3).
//!
//! Here is what the two have in common: records, reassembly, the transcript, repetition. What each says and hears is in
//! [`super::server`] and [`super::client`]. Messages are taken strictly in order, and everything of the handshake is
//! dropped when it is over.

use std::time::Instant;

use arrayvec::ArrayVec;

use super::alert::{self, Alert};
use super::conversation::{Conversation, Established, Secured, Step, Trouble};
use super::flight::{REPEAT_INTERVAL_MIN, Transmits};
use super::reassembly::{Arrival, Fragment, Kind, Reassembly, whole_message};
use super::record::{Content, Record, put_plain};
use super::refusal::DtlsRefusal;
use super::{client, server};
use crate::certificate::Certificate;
use crate::parameters::DtlsRole;

/// Protected records kept because they overtook the messages that the keys come from. There is one Finished.
const EARLY_RECORDS_MAX: usize = 4;
/// Longest record that is kept, in bytes. A Finished takes 61.
const EARLY_RECORD_BYTES_MAX: usize = 256;

/// The message that is due next, by our role.
pub(super) enum Due {
    Server(server::Due),
    Client(client::Due),
}

impl Due {
    fn secured(&mut self) -> Option<&mut Secured> {
        match self {
            Self::Server(due) => due.secured(),
            Self::Client(due) => due.secured(),
        }
    }

    /// Why a record is refused that has no place now.
    fn refusal(&self) -> DtlsRefusal {
        match self {
            Self::Server(server::Due::ClientHello) => DtlsRefusal::NotAClientHello,
            Self::Server(_) | Self::Client(_) => DtlsRefusal::Unexpected,
        }
    }

    /// Whether the peer, by repeating this message, shows that it has not received our flight.
    fn asks_for_repetition(&self, kind: Kind) -> bool {
        match self {
            // The rest of the client's flight is what we wait for.
            Self::Server(_) => kind == Kind::ClientHello,
            // The end of the server's flight: had only a part of it come, we would not have answered it.
            Self::Client(_) => kind == Kind::ServerHelloDone,
        }
    }
}

pub(super) struct Handshake {
    due: Due,
    conversation: Conversation,
    reassembly: Reassembly,
    early: ArrayVec<Vec<u8>, EARLY_RECORDS_MAX>,
}

impl Handshake {
    pub(super) fn new(role: DtlsRole, certificate: &Certificate) -> Self {
        Self {
            due: match role {
                DtlsRole::Server => Due::Server(server::Due::ClientHello),
                DtlsRole::Client => Due::Client(client::Due::Start),
            },
            conversation: Conversation::new(certificate.clone()),
            reassembly: Reassembly::default(),
            early: ArrayVec::new(),
        }
    }

    /// Takes another role, unless a message has been taken or sent; says whether it did.
    pub(super) fn set_role(&mut self, role: DtlsRole) -> bool {
        let is_fresh = matches!(self.due, Due::Server(server::Due::ClientHello) | Due::Client(client::Due::Start));
        if is_fresh {
            *self = Self::new(role, &self.conversation.certificate);
        }
        is_fresh
    }

    /// Sends the ClientHello, if we are the client and have not done so.
    pub(super) fn start(&mut self, now: Instant, transmits: &mut Transmits) -> Result<(), Alert> {
        if matches!(self.due, Due::Client(client::Due::Start)) {
            self.due = Due::Client(client::Due::start(&mut self.conversation)?);
            self.conversation.flight.begin(now, None, transmits);
        }
        Ok(())
    }

    /// Takes in a record. What there is to say goes to `transmits`.
    pub(super) fn on_record(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        transmits: &mut Transmits,
    ) -> Result<Option<Established>, Trouble> {
        match (record.epoch, record.content) {
            _ if matches!(self.due, Due::Client(client::Due::Start)) => {
                return Err(Trouble::Ignored(DtlsRefusal::Unexpected));
            }
            (0, Content::Handshake) => self.on_fragments(now, 0, record.body, transmits)?,
            (0, Content::Alert) if alert::is_ending(record.body) => return Err(Trouble::GivenUp),
            // The epoch of a record says all that ChangeCipherSpec does.
            (0, Content::ChangeCipherSpec | Content::Alert) => {}
            (1, _) => self.on_protected(now, record, transmits)?,
            _ => return Err(Trouble::Ignored(self.due.refusal())),
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
            Content::Alert | Content::ChangeCipherSpec | Content::ApplicationData | Content::Other => {
                Err(Trouble::Ignored(DtlsRefusal::Unexpected))
            }
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
                Arrival::Repeated if self.due.asks_for_repetition(fragment.kind) => self.repeat(now, transmits),
                Arrival::Repeated => {}
                Arrival::Refused => return Err(Trouble::Ignored(self.due.refusal())),
            }
        }
        Ok(())
    }

    /// The peer has not seen our flight.
    fn repeat(&mut self, now: Instant, transmits: &mut Transmits) {
        let flight = &mut self.conversation.flight;
        if flight.sent().is_some_and(|sent| now >= sent + REPEAT_INTERVAL_MIN) {
            flight.send(now, self.due.secured().map(|secured| &mut secured.sealer), transmits);
        }
    }

    /// Takes all messages that are complete and due.
    fn progress(&mut self, now: Instant, transmits: &mut Transmits) -> Result<Option<Established>, Trouble> {
        while let Some((kind, sequence, body)) = self.reassembly.take_next() {
            let before = self.conversation.transcript.len();
            self.conversation.transcript.extend_from_slice(&whole_message(kind, sequence, &body));
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
                // The peer repeats what is of no use now.
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
        let conversation = &mut self.conversation;
        let next = match &mut self.due {
            Due::Server(due) => {
                let due = std::mem::replace(due, server::Due::Nothing);
                due.on_message(conversation, now, kind, body, before, transmits)?.map(Due::Server)
            }
            Due::Client(due) => {
                let due = std::mem::replace(due, client::Due::Nothing);
                due.on_message(conversation, now, kind, body, before, transmits)?.map(Due::Client)
            }
        };
        match next {
            Step::Due(due) => {
                self.due = due;
                Ok(None)
            }
            Step::Established(established) => Ok(Some(*established)),
        }
    }

    /// When our flight is to be sent again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.conversation.flight.deadline()
    }

    pub(super) fn on_deadline(&mut self, now: Instant, transmits: &mut Transmits) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            let sealer = self.due.secured().map(|secured| &mut secured.sealer);
            self.conversation.flight.send_again(now, sealer, transmits);
        }
    }

    /// Says why the handshake is over.
    pub(super) fn send_alert(&mut self, alert: Alert, transmits: &mut Transmits) {
        let mut datagram = Vec::new();
        put_plain(&mut datagram, Content::Alert, self.conversation.flight.next_record(), &alert.to_wire());
        transmits.push_back(datagram);
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{MasterSecret, Randoms};
    use super::*;
    use crate::keying::SrtpProfile;
    use crate::parameters::Fingerprint;

    const ROLES: [DtlsRole; 2] = [DtlsRole::Client, DtlsRole::Server];

    /// A handshake of ours in this role where only the peer's Finished is missing, and the check that belongs in it.
    fn before_finished(role: DtlsRole) -> (Handshake, Vec<u8>) {
        let mut handshake = Handshake::new(role, &Certificate::generate());
        let randoms = Randoms { client: [1; 32], server: [2; 32] };
        let master = MasterSecret::new(b"shared", &[3; 32]);
        let (opener, sealer) = master.record_keys(&randoms, role);
        let peer = match role {
            DtlsRole::Client => DtlsRole::Server,
            DtlsRole::Server => DtlsRole::Client,
        };
        let check = master.verify_data(peer, &handshake.conversation.transcript).to_vec();
        let secured = Secured { profile: SrtpProfile::AeadAes128Gcm, randoms, master, opener, sealer };
        handshake.due = match role {
            DtlsRole::Client => Due::Client(client::Due::Finished(Box::new(secured), Fingerprint([0; 32]))),
            DtlsRole::Server => Due::Server(server::Due::Finished(Box::new(secured), Fingerprint([0; 32]))),
        };
        (handshake, check)
    }

    #[test]
    fn finished_must_check_the_whole_transcript() {
        let (now, mut transmits) = (Instant::now(), Transmits::new());
        for role in ROLES {
            let (mut handshake, check) = before_finished(role);
            assert!(matches!(handshake.on_message(now, Kind::Finished, &check, 0, &mut transmits), Ok(Some(_))));

            let mut wrong = check.clone();
            wrong[11] ^= 1;
            for body in [&wrong[..], &check[..11], &[]] {
                let (mut handshake, _) = before_finished(role);
                let result = handshake.on_message(now, Kind::Finished, body, 0, &mut transmits);
                assert!(matches!(result, Err(Trouble::Fatal(Alert::DecryptError))));
            }

            let (mut handshake, _) = before_finished(role);
            handshake.conversation.transcript.extend_from_slice(b"a message that the peer has not seen");
            let before = handshake.conversation.transcript.len();
            let result = handshake.on_message(now, Kind::Finished, &check, before, &mut transmits);
            assert!(matches!(result, Err(Trouble::Fatal(Alert::DecryptError))));
        }
        // The server's own.
        assert_eq!(transmits.len(), 1);
    }

    #[test]
    fn finished_counts_only_if_it_is_protected() {
        let (now, mut transmits) = (Instant::now(), Transmits::new());
        for role in ROLES {
            let (mut handshake, check) = before_finished(role);
            let mut datagram = Vec::new();
            put_plain(&mut datagram, Content::Handshake, 9, &whole_message(Kind::Finished, 0, &check));
            let (record, _) = Record::split(&datagram).unwrap();
            let result = handshake.on_record(now, &record, &mut transmits);
            assert!(matches!(result, Err(Trouble::Ignored(DtlsRefusal::Unexpected))));
        }
        assert!(transmits.is_empty());
    }

    #[test]
    fn an_alert_ends_the_handshake_if_it_is_no_warning_in_the_clear_or_sealed() {
        let (now, mut transmits) = (Instant::now(), Transmits::new());
        for role in ROLES {
            for (alert, ends) in [([1, 100], false), ([1, 0], true), ([2, 40], true)] {
                let (mut handshake, _) = before_finished(role);
                let mut datagram = Vec::new();
                put_plain(&mut datagram, Content::Alert, 9, &alert);
                let (record, _) = Record::split(&datagram).unwrap();
                let heard = handshake.on_record(now, &record, &mut transmits);
                assert_eq!(matches!(heard, Err(Trouble::GivenUp)), ends, "{alert:?}");
                assert_eq!(matches!(heard, Ok(None)), !ends, "{alert:?}");

                let peer = if role == DtlsRole::Client { DtlsRole::Server } else { DtlsRole::Client };
                let randoms = Randoms { client: [1; 32], server: [2; 32] };
                let (_, mut sealer) = MasterSecret::new(b"shared", &[3; 32]).record_keys(&randoms, peer);
                let mut datagram = Vec::new();
                sealer.put(&mut datagram, Content::Alert, &alert);
                let (record, _) = Record::split(&datagram).unwrap();
                let heard = handshake.on_record(now, &record, &mut transmits);
                assert_eq!(matches!(heard, Err(Trouble::GivenUp)), ends, "{alert:?}, sealed");
                let is_ignored = matches!(heard, Err(Trouble::Ignored(DtlsRefusal::Unexpected)));
                assert_eq!(is_ignored, !ends, "{alert:?}, sealed");
            }
        }
    }

    #[test]
    fn no_message_can_be_left_out() {
        const KINDS: [Kind; 11] = [
            Kind::HelloRequest,
            Kind::ClientHello,
            Kind::HelloVerifyRequest,
            Kind::ServerHello,
            Kind::Certificate,
            Kind::ServerKeyExchange,
            Kind::CertificateRequest,
            Kind::ServerHelloDone,
            Kind::ClientKeyExchange,
            Kind::CertificateVerify,
            Kind::Other,
        ];
        let (now, mut transmits) = (Instant::now(), Transmits::new());
        let mut is_unexpected = |mut handshake: Handshake, kind| {
            let result = handshake.on_message(now, kind, &[0; 64], 0, &mut transmits);
            assert!(matches!(result, Err(Trouble::Fatal(Alert::UnexpectedMessage))), "{kind:?}");
        };
        for kind in KINDS.into_iter().filter(|kind| *kind != Kind::ClientHello).chain([Kind::Finished]) {
            is_unexpected(Handshake::new(DtlsRole::Server, &Certificate::generate()), kind);
        }
        let answers = [Kind::ServerHello, Kind::HelloVerifyRequest];
        for kind in KINDS.into_iter().filter(|kind| !answers.contains(kind)).chain([Kind::Finished]) {
            let mut handshake = Handshake::new(DtlsRole::Client, &Certificate::generate());
            assert!(handshake.start(now, &mut Transmits::new()).is_ok());
            is_unexpected(handshake, kind);
        }
        for kind in KINDS {
            ROLES.into_iter().for_each(|role| is_unexpected(before_finished(role).0, kind));
        }
    }

    #[test]
    fn the_role_may_change_until_the_first_message() {
        let (now, certificate) = (Instant::now(), Certificate::generate());
        let mut handshake = Handshake::new(DtlsRole::Server, &certificate);
        assert!(handshake.set_role(DtlsRole::Client) && handshake.set_role(DtlsRole::Server));
        assert!(handshake.set_role(DtlsRole::Client));
        let mut transmits = Transmits::new();
        assert!(handshake.start(now, &mut transmits).is_ok() && handshake.start(now, &mut transmits).is_ok());
        assert_eq!(transmits.len(), 1);
        assert!(!handshake.set_role(DtlsRole::Server));
    }
}
