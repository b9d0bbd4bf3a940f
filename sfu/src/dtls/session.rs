//! What is left when the handshake is over: two record keys, and for a while our last flight.

use std::time::Instant;

use bytes::Bytes;

use super::alert::{self, Alert};
use super::flight::{REPEAT_INTERVAL_MIN, Transmits};
use super::reassembly::{Fragment, Kind};
use super::record::{Content, Opener, Record, Sealer, put_plain};
use super::refusal::DtlsRefusal;

/// What the peer has said.
pub(super) enum Heard {
    Data(Bytes),
    Closed,
    Nothing,
}

/// A server's ChangeCipherSpec and Finished, until the client has shown that they have come.
///
/// Not only for a time: a client that has doubled its intervals under heavy loss asks late.
struct LastFlight {
    finished: Vec<u8>,
    next_record: u64,
    sent: Instant,
}

pub(super) struct Session {
    opener: Opener,
    sealer: Sealer,
    last_flight: Option<LastFlight>,
    /// When the peer last asked for a new handshake and was told that there is none.
    refused: Option<Instant>,
}

impl Session {
    pub(super) fn new(opener: Opener, sealer: Sealer) -> Self {
        Self { opener, sealer, last_flight: None, refused: None }
    }

    /// Ends a server's handshake with its message, which may have to be repeated. `next_record` is a number of epoch 0.
    pub(super) fn finish(&mut self, now: Instant, finished: Vec<u8>, next_record: u64, transmits: &mut Transmits) {
        let mut flight = LastFlight { finished, next_record, sent: now };
        transmits.push_back(flight.write(&mut self.sealer));
        self.last_flight = Some(flight);
    }

    pub(super) fn on_record(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        transmits: &mut Transmits,
    ) -> Result<Heard, DtlsRefusal> {
        if record.epoch == 0 {
            // Not authentic: all it can be is the peer's last flight again.
            return match record.content {
                Content::Handshake => self.repeat(now, transmits).map(|()| Heard::Nothing),
                Content::ChangeCipherSpec => Ok(Heard::Nothing),
                Content::Alert | Content::ApplicationData | Content::Other => Err(DtlsRefusal::NotAuthentic),
            };
        }
        let plaintext = self.opener.open(record).ok_or(DtlsRefusal::NotAuthentic)?;
        match record.content {
            Content::ApplicationData => {
                self.last_flight = None;
                Ok(if plaintext.is_empty() { Heard::Nothing } else { Heard::Data(plaintext) })
            }
            Content::Alert if alert::is_ending(&plaintext) => Ok(Heard::Closed),
            Content::Alert => Ok(Heard::Nothing),
            Content::Handshake => self.on_handshake(now, &plaintext, transmits).map(|()| Heard::Nothing),
            Content::ChangeCipherSpec | Content::Other => Err(DtlsRefusal::Unexpected),
        }
    }

    fn on_handshake(&mut self, now: Instant, body: &[u8], transmits: &mut Transmits) -> Result<(), DtlsRefusal> {
        match Fragment::split(body).map(|(fragment, _)| fragment.kind) {
            Some(Kind::Finished) => self.repeat(now, transmits),
            Some(Kind::ClientHello | Kind::HelloRequest)
                if self.refused.is_none_or(|refused| now >= refused + REPEAT_INTERVAL_MIN) =>
            {
                self.refused = Some(now);
                self.send_alert(Alert::NoRenegotiation, transmits);
                Err(DtlsRefusal::LateHandshake)
            }
            _ => Err(DtlsRefusal::LateHandshake),
        }
    }

    /// The client has not got our last flight.
    fn repeat(&mut self, now: Instant, transmits: &mut Transmits) -> Result<(), DtlsRefusal> {
        let flight = self.last_flight.as_mut().ok_or(DtlsRefusal::LateHandshake)?;
        if now >= flight.sent + REPEAT_INTERVAL_MIN {
            flight.sent = now;
            transmits.push_back(flight.write(&mut self.sealer));
        }
        Ok(())
    }

    pub(super) fn send(&mut self, payload: &[u8], transmits: &mut Transmits) {
        self.put(Content::ApplicationData, payload, transmits);
    }

    pub(super) fn send_alert(&mut self, alert: Alert, transmits: &mut Transmits) {
        self.put(Content::Alert, &alert.to_wire(), transmits);
    }

    fn put(&mut self, content: Content, plaintext: &[u8], transmits: &mut Transmits) {
        let mut datagram = Vec::new();
        self.sealer.put(&mut datagram, content, plaintext);
        if !datagram.is_empty() {
            transmits.push_back(datagram);
        }
    }
}

impl LastFlight {
    fn write(&mut self, sealer: &mut Sealer) -> Vec<u8> {
        let mut datagram = Vec::new();
        put_plain(&mut datagram, Content::ChangeCipherSpec, self.next_record, &[1]);
        self.next_record += 1;
        sealer.put(&mut datagram, Content::Handshake, &self.finished);
        datagram
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dtls::reassembly::whole_message;

    const KEY: [u8; 16] = [5; 16];
    const SALT: [u8; 4] = [6; 4];

    /// A session that has just sent its Finished, and what the client seals its records with.
    fn session(now: Instant) -> (Session, Sealer) {
        let mut session = Session::new(Opener::new(&KEY, SALT), Sealer::new(&KEY, SALT));
        session.finish(now, whole_message(Kind::Finished, 5, &[0; 12]), 5, &mut Transmits::new());
        (session, Sealer::new(&KEY, SALT))
    }

    /// How many datagrams a record is answered with.
    fn answers(session: &mut Session, now: Instant, datagram: &[u8]) -> usize {
        let mut transmits = Transmits::new();
        let (record, _) = Record::split(datagram).unwrap();
        let _ = session.on_record(now, &record, &mut transmits);
        transmits.len()
    }

    fn sealed(client: &mut Sealer, content: Content, plaintext: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        client.put(&mut datagram, content, plaintext);
        datagram
    }

    #[test]
    fn the_last_flight_is_repeated_on_demand_until_the_client_sends_data() {
        let begin = Instant::now();
        let (mut session, mut client) = session(begin);
        let mut again = Vec::new();
        put_plain(&mut again, Content::Handshake, 7, &whole_message(Kind::Certificate, 1, b""));
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(answers(&mut session, at(39), &again), 0);
        assert_eq!(answers(&mut session, at(40), &again), 1);
        assert_eq!(answers(&mut session, at(41), &again), 0);
        let finished = sealed(&mut client, Content::Handshake, &whole_message(Kind::Finished, 4, &[0; 12]));
        assert_eq!(answers(&mut session, at(100), &finished), 1);

        let data = sealed(&mut client, Content::ApplicationData, b"sctp");
        assert_eq!(answers(&mut session, at(150), &data), 0);
        assert_eq!(answers(&mut session, at(200), &again), 0);
    }

    /// A client drops what it takes for a record that came before (RFC 6347, section 4.1.2.6).
    #[test]
    fn records_of_a_flight_that_is_repeated_have_numbers_of_their_own() {
        let begin = Instant::now();
        let (mut session, _) = session(begin);
        let mut again = Vec::new();
        put_plain(&mut again, Content::Handshake, 7, &whole_message(Kind::Certificate, 1, b""));
        let (record, _) = Record::split(&again).unwrap();
        let mut transmits = Transmits::new();
        for time in [100, 200, 300] {
            assert!(session.on_record(begin + Duration::from_millis(time), &record, &mut transmits).is_ok());
        }
        let numbers = |datagram: &[u8]| {
            let (plain, rest) = Record::split(datagram).unwrap();
            let (sealed, _) = Record::split(rest).unwrap();
            [plain, sealed].map(|record| u64::from_be_bytes(record.as_bytes()[3..11].try_into().unwrap()))
        };
        let numbers: Vec<_> = transmits.iter().map(|datagram| numbers(datagram)).collect();
        // The first time had 5, and 0 of epoch 1.
        assert_eq!(numbers, [1, 2, 3].map(|time| [5 + time, (1 << 48) + time]));
    }

    #[test]
    fn a_new_handshake_is_refused_with_a_warning_at_most_every_40_ms() {
        let begin = Instant::now();
        for kind in [Kind::ClientHello, Kind::HelloRequest] {
            let (mut session, mut client) = session(begin);
            let hello = whole_message(kind, 0, b"");
            for (ms, expected) in [(0, 1), (39, 0), (40, 1)] {
                let datagram = sealed(&mut client, Content::Handshake, &hello);
                assert_eq!(answers(&mut session, begin + Duration::from_millis(ms), &datagram), expected);
            }
        }
    }

    #[test]
    fn an_alert_in_the_clear_ends_nothing_and_a_sealed_one_does() {
        let now = Instant::now();
        let (mut session, mut client) = session(now);
        let mut forged = Vec::new();
        put_plain(&mut forged, Content::Alert, 7, &[2, 40]);
        let (record, _) = Record::split(&forged).unwrap();
        assert!(session.on_record(now, &record, &mut Transmits::new()).is_err());

        // Warnings that nothing follows from, and what is no alert.
        for alert in [&[1, 100][..], &[1, 90], &[2], &[1, 0, 0], &[]] {
            let datagram = sealed(&mut client, Content::Alert, alert);
            let (record, _) = Record::split(&datagram).unwrap();
            let heard = session.on_record(now, &record, &mut Transmits::new());
            assert!(matches!(heard, Ok(Heard::Nothing)), "{alert:?}");
        }
        for alert in [Alert::CloseNotify.to_wire(), Alert::HandshakeFailure.to_wire(), [2, 0]] {
            let datagram = sealed(&mut client, Content::Alert, &alert);
            let (record, _) = Record::split(&datagram).unwrap();
            let heard = session.on_record(now, &record, &mut Transmits::new());
            assert!(matches!(heard, Ok(Heard::Closed)), "{alert:?}");
        }
    }

    #[test]
    fn a_session_is_small() {
        assert!(size_of::<Session>() <= 1_408, "{}", size_of::<Session>());
    }
}
