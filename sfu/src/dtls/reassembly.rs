//! Puts handshake messages together from fragments, in whatever order they come (RFC 6347, section 4.2).

use std::collections::VecDeque;

use super::wire::{Reader, Writer};

/// Longest message, in bytes. A ClientHello with post-quantum key shares has about 1.5 KiB, a certificate chain can
/// have several.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of all messages that are not complete, by the lengths they claim.
const PENDING_BYTES_MAX: usize = 24 * 1024;
/// How far a message may be ahead of the next one: the longest flight, that of a server, has five.
const WINDOW: u16 = 5;
/// Pieces that a message may be in, not counting those that touch.
const PIECES_MAX: usize = 32;
/// The length of the header of a message and of each of its fragments.
const HEADER_LENGTH: usize = 12;

/// A kind of handshake message (RFC 5246, section 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    HelloRequest,
    ClientHello,
    ServerHello,
    HelloVerifyRequest,
    Certificate,
    ServerKeyExchange,
    CertificateRequest,
    ServerHelloDone,
    CertificateVerify,
    ClientKeyExchange,
    Finished,
    /// None that a peer of ours sends.
    Other,
}

impl Kind {
    fn from_wire(id: u8) -> Self {
        match id {
            0 => Self::HelloRequest,
            1 => Self::ClientHello,
            2 => Self::ServerHello,
            3 => Self::HelloVerifyRequest,
            11 => Self::Certificate,
            12 => Self::ServerKeyExchange,
            13 => Self::CertificateRequest,
            14 => Self::ServerHelloDone,
            15 => Self::CertificateVerify,
            16 => Self::ClientKeyExchange,
            20 => Self::Finished,
            _ => Self::Other,
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::HelloRequest => 0,
            Self::ClientHello => 1,
            Self::ServerHello => 2,
            Self::HelloVerifyRequest => 3,
            Self::Certificate => 11,
            Self::ServerKeyExchange => 12,
            Self::CertificateRequest => 13,
            Self::ServerHelloDone => 14,
            Self::CertificateVerify => 15,
            Self::ClientKeyExchange => 16,
            Self::Finished => 20,
            Self::Other => 255,
        }
    }
}

/// A whole message with its header, in the form that counts for the transcript: as if it had come in one piece.
pub(super) fn whole_message(kind: Kind, sequence: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LENGTH + body.len());
    message.push(kind.to_wire());
    message.put_u24(body.len());
    message.put_u16(sequence);
    message.put_u24(0);
    message.put_u24_vector(body);
    message
}

/// A piece of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fragment<'a> {
    pub kind: Kind,
    pub sequence: u16,
    /// Length of the whole message's body.
    total: usize,
    offset: usize,
    bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Takes the first fragment off a record's body.
    pub(super) fn split(body: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut reader = Reader(body);
        let kind = Kind::from_wire(reader.take_u8()?);
        let total = reader.take_u24()?;
        let sequence = reader.take_u16()?;
        let offset = reader.take_u24()?;
        let bytes = reader.take_u24_vector()?;
        (offset + bytes.len() <= total).then_some(())?;
        Some((Self { kind, sequence, total, offset, bytes }, reader.0))
    }
}

/// What became of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    Kept,
    /// Of a message that has been taken out already: the peer says it again.
    Repeated,
    /// Too long, too far ahead, in too many pieces, or at odds with what came before.
    Refused,
}

/// A message in the making.
struct Partial {
    kind: Kind,
    body: Vec<u8>,
    /// Ranges of `body` that have come, in order and not touching each other.
    filled: Vec<(usize, usize)>,
}

impl Partial {
    fn is_complete(&self) -> bool {
        self.body.is_empty() || self.filled == [(0, self.body.len())]
    }

    fn fill(&mut self, fragment: &Fragment<'_>) -> Arrival {
        let range = (fragment.offset, fragment.offset + fragment.bytes.len());
        let Some(target) = self.body.get_mut(range.0..range.1) else { return Arrival::Refused };
        let before = self.filled.partition_point(|(_, end)| *end < range.0);
        let touching = self.filled.iter().skip(before).take_while(|(start, _)| *start <= range.1);
        let (count, merged) = touching
            .fold((0, range), |(count, merged), (start, end)| (count + 1, (merged.0.min(*start), merged.1.max(*end))));
        if count == 0 && self.filled.len() >= PIECES_MAX {
            return Arrival::Refused;
        }
        target.copy_from_slice(fragment.bytes);
        self.filled.splice(before..before + count, [merged]);
        Arrival::Kept
    }
}

/// The peer's messages that are not taken out yet.
#[derive(Default)]
pub(super) struct Reassembly {
    /// Number of the message at the front of `window`.
    next: u16,
    window: VecDeque<Option<Partial>>,
}

impl Reassembly {
    pub(super) fn insert(&mut self, fragment: &Fragment<'_>) -> Arrival {
        let Some(ahead) = fragment.sequence.checked_sub(self.next) else { return Arrival::Repeated };
        if ahead >= WINDOW || fragment.total > MESSAGE_BYTES_MAX {
            return Arrival::Refused;
        }
        let pending: usize = self.window.iter().flatten().map(|partial| partial.body.len()).sum();
        let index = usize::from(ahead);
        while self.window.len() <= index {
            self.window.push_back(None);
        }
        let Some(slot) = self.window.get_mut(index) else { return Arrival::Refused };
        if slot.is_none() && pending + fragment.total > PENDING_BYTES_MAX {
            return Arrival::Refused;
        }
        let partial = slot.get_or_insert_with(|| Partial {
            kind: fragment.kind,
            body: vec![0; fragment.total],
            filled: Vec::new(),
        });
        if (partial.kind, partial.body.len()) != (fragment.kind, fragment.total) {
            return Arrival::Refused;
        }
        partial.fill(fragment)
    }

    /// The next message, if it is complete: its kind, number and body.
    pub(super) fn take_next(&mut self) -> Option<(Kind, u16, Vec<u8>)> {
        let partial = self.window.front_mut()?.take_if(|partial| partial.is_complete())?;
        self.window.pop_front();
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        Some((partial.kind, sequence, partial.body))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fragment(sequence: u16, total: usize, offset: usize, bytes: &[u8]) -> Fragment<'_> {
        Fragment { kind: Kind::Certificate, sequence, total, offset, bytes }
    }

    #[test]
    fn messages_come_out_in_order_and_only_once() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.insert(&fragment(1, 2, 0, b"cd")), Arrival::Kept);
        assert!(reassembly.take_next().is_none());
        assert_eq!(reassembly.insert(&fragment(0, 2, 0, b"ab")), Arrival::Kept);
        assert_eq!(reassembly.take_next(), Some((Kind::Certificate, 0, b"ab".to_vec())));
        assert_eq!(reassembly.take_next(), Some((Kind::Certificate, 1, b"cd".to_vec())));
        assert!(reassembly.take_next().is_none());
        assert_eq!(reassembly.insert(&fragment(0, 2, 0, b"ab")), Arrival::Repeated);
    }

    #[test]
    fn what_a_client_can_make_us_keep_is_bounded() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.insert(&fragment(0, MESSAGE_BYTES_MAX + 1, 0, b"a")), Arrival::Refused);
        assert_eq!(reassembly.insert(&fragment(WINDOW, 1, 0, b"a")), Arrival::Refused);
        assert_eq!(reassembly.insert(&fragment(0, MESSAGE_BYTES_MAX, 0, b"a")), Arrival::Kept);
        assert_eq!(reassembly.insert(&fragment(1, MESSAGE_BYTES_MAX, 0, b"a")), Arrival::Refused);
        let pieces =
            (1..1_000).filter(|n| reassembly.insert(&fragment(0, MESSAGE_BYTES_MAX, 2 * n, b"a")) == Arrival::Kept);
        assert_eq!(pieces.count(), PIECES_MAX - 1);
        assert_eq!(reassembly.insert(&fragment(0, 5, 0, b"a")), Arrival::Refused, "of another length");
    }

    #[test]
    fn messages_are_kept_as_long_as_they_fit_together() {
        let spare = PENDING_BYTES_MAX - MESSAGE_BYTES_MAX;
        let insert = |total| {
            let mut reassembly = Reassembly::default();
            assert_eq!(reassembly.insert(&fragment(0, MESSAGE_BYTES_MAX, 0, b"a")), Arrival::Kept);
            assert_eq!(reassembly.insert(&fragment(2, 100, 0, b"a")), Arrival::Kept);
            let arrival = reassembly.insert(&fragment(1, total, 0, b"a"));
            // What is kept already may go on to come.
            assert_eq!(reassembly.insert(&fragment(0, MESSAGE_BYTES_MAX, 1, b"b")), Arrival::Kept);
            arrival
        };
        assert_eq!(insert(spare - 100), Arrival::Kept);
        assert_eq!(insert(spare - 99), Arrival::Refused);
    }

    #[test]
    fn a_message_of_no_bytes_is_whole_at_once() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.insert(&fragment(0, 0, 0, b"")), Arrival::Kept);
        assert_eq!(reassembly.take_next(), Some((Kind::Certificate, 0, Vec::new())));
    }

    #[test]
    fn a_fragment_does_not_reach_beyond_its_message() {
        let mut bytes = whole_message(Kind::Certificate, 0, b"abc");
        assert!(Fragment::split(&bytes).is_some());
        bytes[8] = 1;
        assert!(Fragment::split(&bytes).is_none());
    }

    proptest! {
        #[test]
        fn a_message_is_whole_when_all_its_bytes_have_come(
            length in 1usize..200,
            cuts in prop::collection::vec((0usize..200, 0usize..50), 0..60),
        ) {
            let body: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut reassembly = Reassembly::default();
            let mut missing = vec![true; length];
            for (offset, size) in cuts {
                let (start, end) = (offset.min(length), (offset + size).min(length));
                if reassembly.insert(&fragment(0, length, start, &body[start..end])) == Arrival::Kept {
                    missing[start..end].fill(false);
                }
                match reassembly.take_next() {
                    Some((_, _, whole)) => {
                        prop_assert!(missing.iter().all(|missing| !missing));
                        prop_assert_eq!(whole, body);
                        return Ok(());
                    }
                    None => prop_assert!(missing.contains(&true)),
                }
            }
        }
    }
}
