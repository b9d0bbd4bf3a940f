//! A flight of ours: what we say before the peer has to answer, and when we say it again (RFC 6347, section 4.2.4).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::record::{Content, HEADER_LENGTH, Sealer, put_plain};

/// Longest datagram of a handshake, in bytes: every path carries it.
pub(super) const DATAGRAM_BYTES_MAX: usize = 1_200;
/// Shortest time between two repetitions that a peer can provoke. libwebrtc repeats itself after 50 ms.
pub(super) const REPEAT_INTERVAL_MIN: Duration = Duration::from_millis(40);

/// Datagrams to be sent, in order.
pub(super) type Transmits = VecDeque<Vec<u8>>;

/// When a flight is sent again. Clients repeat theirs after 50 ms to 1 s.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// The interval doubles up to this one. How long it goes on is for the owner to say.
const REPEAT_AFTER_MAX: Duration = Duration::from_millis(1_600);
/// What ChangeCipherSpec and Finished take in a datagram, in bytes.
const FINISHED_LENGTH: usize = 75;

#[derive(Default)]
pub(super) struct Flight {
    /// Of epoch 0.
    pub messages: Vec<Vec<u8>>,
    /// Follows them, protected, behind a ChangeCipherSpec.
    pub finished: Option<Vec<u8>>,
    next_record: u64,
    sent: Option<Instant>,
    repeat_after: Duration,
}

impl Flight {
    /// Sends it for the first time. `sealer` is for its Finished.
    pub(super) fn begin(&mut self, now: Instant, sealer: Option<&mut Sealer>, transmits: &mut Transmits) {
        self.repeat_after = REPEAT_AFTER;
        self.send(now, sealer, transmits);
    }

    /// Sends it because its time has come.
    pub(super) fn send_again(&mut self, now: Instant, sealer: Option<&mut Sealer>, transmits: &mut Transmits) {
        self.repeat_after = (2 * self.repeat_after).min(REPEAT_AFTER_MAX);
        self.send(now, sealer, transmits);
    }

    pub(super) fn send(&mut self, now: Instant, sealer: Option<&mut Sealer>, transmits: &mut Transmits) {
        self.sent = Some(now);
        let mut datagram: Vec<u8> = Vec::new();
        for message in &self.messages {
            flush_before(HEADER_LENGTH + message.len(), &mut datagram, transmits);
            put_plain(&mut datagram, Content::Handshake, self.next_record, message);
            self.next_record += 1;
        }
        if let (Some(finished), Some(sealer)) = (&self.finished, sealer) {
            flush_before(FINISHED_LENGTH, &mut datagram, transmits);
            put_plain(&mut datagram, Content::ChangeCipherSpec, self.next_record, &[1]);
            self.next_record += 1;
            sealer.put(&mut datagram, Content::Handshake, finished);
        }
        transmits.push_back(datagram);
    }

    /// Leaves room for the next flight; numbers of records go on.
    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.finished = None;
        self.sent = None;
    }

    pub(super) fn sent(&self) -> Option<Instant> {
        self.sent
    }

    /// The number of the next record of epoch 0.
    pub(super) fn next_record(&self) -> u64 {
        self.next_record
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sent.map(|sent| sent + self.repeat_after)
    }
}

/// Starts another datagram if this one has no room for `length` more bytes.
fn flush_before(length: usize, datagram: &mut Vec<u8>, transmits: &mut Transmits) {
    if !datagram.is_empty() && datagram.len() + length > DATAGRAM_BYTES_MAX {
        transmits.push_back(std::mem::take(datagram));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::record::Record;

    /// The records of each datagram of a flight: epoch, content and number.
    fn records(flight: &mut Flight) -> Vec<Vec<(u16, Content, u64)>> {
        let (mut sealer, mut transmits) = (Sealer::new(&[7; 16], [1; 4]), Transmits::new());
        flight.begin(Instant::now(), Some(&mut sealer), &mut transmits);
        let split = |mut datagram: &[u8]| {
            let mut records = Vec::new();
            while let Some((record, rest)) = Record::split(datagram) {
                let numbers = u64::from_be_bytes(record.as_bytes()[3..11].try_into().unwrap());
                records.push((record.epoch, record.content, numbers & 0xFFFF));
                datagram = rest;
            }
            assert!(datagram.is_empty());
            records
        };
        transmits.iter().map(|datagram| split(datagram)).collect()
    }

    #[test]
    fn a_flight_is_in_as_few_datagrams_as_it_fits_into_in_order() {
        let message = |length: usize| vec![1; length - HEADER_LENGTH];
        let rest = DATAGRAM_BYTES_MAX - 700 - 300;
        let plain = |number| (0, Content::Handshake, number);
        for (lengths, expected) in [
            (&[700, 300, rest][..], vec![vec![plain(0), plain(1), plain(2)]]),
            (&[700, 300, rest + 1], vec![vec![plain(0), plain(1)], vec![plain(2)]]),
            // What is longer than a datagram alone goes alone.
            (&[DATAGRAM_BYTES_MAX + 1, 100], vec![vec![plain(0)], vec![plain(1)]]),
        ] {
            let messages = lengths.iter().map(|length| message(*length)).collect();
            assert_eq!(records(&mut Flight { messages, ..Flight::default() }), expected, "{lengths:?}");
        }
    }

    #[test]
    fn finished_follows_in_the_same_datagram_if_it_fits() {
        // Header, verify_data (RFC 5246, section 7.4.9), and what protects them.
        let finished = [(0, Content::ChangeCipherSpec, 1), (1, Content::Handshake, 0)];
        let plain = (0, Content::Handshake, 0);
        for (spare, expected) in
            [(75, vec![[&[plain][..], &finished].concat()]), (74, vec![vec![plain], finished.to_vec()])]
        {
            let messages = vec![vec![1; DATAGRAM_BYTES_MAX - spare - HEADER_LENGTH]];
            let mut flight = Flight { messages, finished: Some(vec![20; 24]), ..Flight::default() };
            assert_eq!(records(&mut flight), expected, "{spare} bytes are left");
            assert_eq!(flight.next_record(), 2);
        }
    }
}
