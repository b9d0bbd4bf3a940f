//! What is left when the handshake is over: two record keys, and for a while our last flight.

use std::time::Instant;

use bytes::Bytes;

use super::alert::{self, Alert};
use super::reassembly::{Fragment, Kind};
use super::record::{Content, Opener, Record, Sealer, put_plain};
use super::{DtlsRefusal, REPEAT_INTERVAL_MIN, Transmits};

/// What the client has said.
pub(super) enum Heard {
    Data(Bytes),
    Closed,
    Nothing,
}

/// Our ChangeCipherSpec and Finished, until the client has shown that they have come.
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
    /// When the client last asked for a new handshake and was told that there is none.
    refused: Option<Instant>,
}

impl Session {
    pub fn new(opener: Opener, sealer: Sealer) -> Self {
        Self { opener, sealer, last_flight: None, refused: None }
    }

    /// Ends the handshake with our message, which may have to be repeated. `next_record` is a number of epoch 0.
    pub fn finish(&mut self, now: Instant, finished: Vec<u8>, next_record: u64, transmits: &mut Transmits) {
        let mut flight = LastFlight { finished, next_record, sent: now };
        transmits.push_back(flight.write(&mut self.sealer));
        self.last_flight = Some(flight);
    }

    pub fn on_record(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        transmits: &mut Transmits,
    ) -> Result<Heard, DtlsRefusal> {
        if record.epoch == 0 {
            // Not authentic: all it can be is the client's last flight again.
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
            Some(Kind::ClientHello) if self.refused.is_none_or(|refused| now >= refused + REPEAT_INTERVAL_MIN) => {
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

    pub fn send(&mut self, payload: &[u8], transmits: &mut Transmits) {
        self.put(Content::ApplicationData, payload, transmits);
    }

    pub fn send_alert(&mut self, alert: Alert, transmits: &mut Transmits) {
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
