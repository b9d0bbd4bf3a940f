//! The record layer (RFC 6347, section 4.1) with AES-128-GCM as its cipher (RFC 5288).

use bytes::{Bytes, BytesMut};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::wire::{Reader, Writer};

/// Length of a record's header.
pub(super) const HEADER_LENGTH: usize = 13;
/// DTLS 1.2.
pub(super) const VERSION: u16 = 0xFEFD;
/// The first byte of every version of DTLS.
const VERSION_MAJOR: u16 = 0xFE;
/// The part of the nonce that travels with a record.
const EXPLICIT_NONCE_LENGTH: usize = 8;
const TAG_LENGTH: usize = 16;
const SEQUENCE_MAX: u64 = (1 << 48) - 1;

/// What a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    ChangeCipherSpec,
    Alert,
    Handshake,
    ApplicationData,
    Other,
}

impl Content {
    fn from_wire(id: u8) -> Self {
        match id {
            20 => Self::ChangeCipherSpec,
            21 => Self::Alert,
            22 => Self::Handshake,
            23 => Self::ApplicationData,
            _ => Self::Other,
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::ChangeCipherSpec => 20,
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::ApplicationData => 23,
            Self::Other => 0,
        }
    }
}

/// One record as it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub content: Content,
    pub epoch: u16,
    /// 48 bits.
    sequence: u64,
    /// Header and body.
    bytes: &'a [u8],
    pub body: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes the first record off a datagram.
    pub(super) fn split(datagram: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut reader = Reader(datagram);
        let content = Content::from_wire(reader.take_u8()?);
        let version = reader.take_u16()?;
        let numbers = u64::from_be_bytes(reader.take_array()?);
        let body = reader.take_u16_vector()?;
        let (bytes, rest) = datagram.split_at_checked(HEADER_LENGTH + body.len())?;
        let epoch = u16::try_from(numbers >> 48).ok()?;
        (version >> 8 == VERSION_MAJOR).then_some(())?;
        Some((Self { content, epoch, sequence: numbers & SEQUENCE_MAX, bytes, body }, rest))
    }

    /// Header and body, to be split again later.
    pub(super) fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Appends a record of epoch 0, which is not protected.
pub(super) fn put_plain(out: &mut Vec<u8>, content: Content, sequence: u64, body: &[u8]) {
    out.push(content.to_wire());
    out.put_u16(VERSION);
    out.extend_from_slice(&(sequence & SEQUENCE_MAX).to_be_bytes());
    out.put_u16_vector(body);
}

/// Additional data of an AEAD (RFC 5246, section 6.2.3.3).
fn additional_data(numbers: [u8; 8], content: Content, length: usize) -> Option<Aad<[u8; 13]>> {
    let mut data = [0; 13];
    let (front, back) = data.split_first_chunk_mut::<8>()?;
    *front = numbers;
    let [version_high, version_low] = VERSION.to_be_bytes();
    let [length_high, length_low] = u16::try_from(length).ok()?.to_be_bytes();
    back.copy_from_slice(&[content.to_wire(), version_high, version_low, length_high, length_low]);
    Some(Aad::from(data))
}

fn nonce(salt: [u8; 4], explicit: [u8; EXPLICIT_NONCE_LENGTH]) -> Nonce {
    let ([a, b, c, d], [e, f, g, h, i, j, k, l]) = (salt, explicit);
    Nonce::assume_unique_for_key([a, b, c, d, e, f, g, h, i, j, k, l])
}

fn gcm_key(key: &[u8; 16]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).expect("the key has the cipher's length"))
}

/// Protects our records of epoch 1.
pub(super) struct Sealer {
    key: LessSafeKey,
    salt: [u8; 4],
    next_sequence: u64,
}

impl Sealer {
    pub(super) fn new(key: &[u8; 16], salt: [u8; 4]) -> Self {
        Self { key: gcm_key(key), salt, next_sequence: 0 }
    }

    /// Appends a protected record. Nothing, if it is longer than a record can be or the numbers have run out.
    pub(super) fn put(&mut self, out: &mut Vec<u8>, content: Content, plaintext: &[u8]) {
        if self.next_sequence > SEQUENCE_MAX {
            return;
        }
        let numbers = ((1 << 48) | self.next_sequence).to_be_bytes();
        let sealed_length = u16::try_from(EXPLICIT_NONCE_LENGTH + plaintext.len() + TAG_LENGTH);
        let (Some(aad), Ok(sealed_length)) = (additional_data(numbers, content, plaintext.len()), sealed_length) else {
            return;
        };
        self.next_sequence += 1;

        out.reserve(HEADER_LENGTH + usize::from(sealed_length));
        out.push(content.to_wire());
        out.put_u16(VERSION);
        out.extend_from_slice(&numbers);
        out.put_u16(sealed_length);
        // The numbers are unique under this key, so that they can be the nonce too.
        out.extend_from_slice(&numbers);
        let start = out.len();
        out.extend_from_slice(plaintext);
        let (_, in_place) = out.split_at_mut(start);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.salt, numbers), aad, in_place)
            .expect("a record is shorter than what GCM takes");
        out.extend_from_slice(tag.as_ref());
    }
}

/// Opens the peer's records of epoch 1.
pub(super) struct Opener {
    key: LessSafeKey,
    salt: [u8; 4],
    window: ReplayWindow,
}

impl Opener {
    pub(super) fn new(key: &[u8; 16], salt: [u8; 4]) -> Self {
        Self { key: gcm_key(key), salt, window: ReplayWindow::default() }
    }

    /// The plaintext of an authentic record that has not come before.
    pub(super) fn open(&mut self, record: &Record<'_>) -> Option<Bytes> {
        if record.epoch != 1 || !self.window.is_new(record.sequence) {
            return None;
        }
        let (explicit, ciphertext) = record.body.split_first_chunk::<EXPLICIT_NONCE_LENGTH>()?;
        let length = ciphertext.len().checked_sub(TAG_LENGTH)?;
        let numbers = (u64::from(record.epoch) << 48 | record.sequence).to_be_bytes();
        let aad = additional_data(numbers, record.content, length)?;
        let mut in_place = BytesMut::from(ciphertext);
        self.key.open_in_place(nonce(self.salt, *explicit), aad, &mut in_place).ok()?;
        in_place.truncate(length);
        self.window.note(record.sequence);
        Some(in_place.freeze())
    }
}

/// Which of the last 64 records have come (RFC 6347, section 4.1.2.6).
#[derive(Debug, Default)]
struct ReplayWindow {
    /// One past the highest number seen.
    end: u64,
    /// Bit n stands for the record `end - 1 - n`.
    seen: u64,
}

impl ReplayWindow {
    fn is_new(&self, sequence: u64) -> bool {
        match self.end.checked_sub(sequence + 1) {
            None => true,
            Some(age) => age < 64 && self.seen >> age & 1 == 0,
        }
    }

    /// Notes one that [is new](Self::is_new).
    fn note(&mut self, sequence: u64) {
        match self.end.checked_sub(sequence + 1) {
            None => {
                let shift = u32::try_from(sequence + 1 - self.end).unwrap_or(u32::MAX);
                self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
                self.end = sequence + 1;
            }
            Some(age) => self.seen |= 1 << age,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 16] = [7; 16];
    const SALT: [u8; 4] = [1, 2, 3, 4];

    fn sealed(plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Sealer::new(&KEY, SALT).put(&mut out, Content::ApplicationData, plaintext);
        out
    }

    #[test]
    fn a_sealed_record_opens_once() {
        let bytes = sealed(b"hello");
        let (record, rest) = Record::split(&bytes).unwrap();
        let mut opener = Opener::new(&KEY, SALT);
        assert_eq!(rest, b"");
        assert_eq!(opener.open(&record).as_deref(), Some(&b"hello"[..]));
        assert_eq!(opener.open(&record), None);
    }

    #[test]
    fn a_record_with_any_byte_changed_or_missing_does_not_open() {
        let bytes = sealed(b"hello");
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 1;
            let opened = Record::split(&changed).and_then(|(record, _)| Opener::new(&KEY, SALT).open(&record));
            // The minor version in the header is not authenticated: the additional data has the negotiated one.
            assert_eq!(opened.is_some(), position == 2, "byte {position}");
            assert!(Record::split(&bytes[..position]).is_none());
        }
    }

    proptest! {
        #[test]
        fn the_window_takes_each_number_once_and_none_that_is_64_behind(numbers in prop::collection::vec(0u64..300, 0..400)) {
            let mut window = ReplayWindow::default();
            let mut taken = BTreeSet::new();
            for number in numbers {
                let fresh = taken.last().is_none_or(|newest| number + 64 > *newest) && !taken.contains(&number);
                prop_assert_eq!(window.is_new(number), fresh);
                if fresh {
                    window.note(number);
                    taken.insert(number);
                }
            }
        }
    }
}
