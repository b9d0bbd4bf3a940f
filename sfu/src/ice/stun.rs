//! STUN messages (RFC 8489), read and written in place. Only the binding method exists.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use ring::hmac;

const MAGIC_COOKIE: u32 = 0x2112_A442;
const HEADER_LENGTH: usize = 20;
/// Longest message we read. Checks are about 100 bytes; RFC 8489 wants them below the path's MTU.
const MESSAGE_BYTES_MAX: usize = 1_500;

pub(super) const BINDING_REQUEST: u16 = 0x0001;
pub(super) const BINDING_SUCCESS: u16 = 0x0101;
pub(super) const BINDING_ERROR: u16 = 0x0111;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;

const INTEGRITY_LENGTH: usize = 20;
const FINGERPRINT_XOR: u32 = 0x5354_554E;
/// Attribute types from here on may be ignored when unknown (section 14).
const COMPREHENSION_OPTIONAL: u16 = 0x8000;
/// Of a peer-reflexive candidate of component 1 (RFC 8445, section 5.1.2.1), which is what a check announces.
const CHECK_PRIORITY: u32 = (110 << 24) | (65_535 << 8) | 255;
/// Unknown attributes named in a 420; a client that sends more learns of the rest later.
const UNKNOWN_MAX: usize = 8;

/// Why a STUN message was not accepted as a check. For some there is a reply all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StunRefusal {
    /// Cut off, or lengths that do not fit.
    #[error("not a well-formed STUN message")]
    Malformed,
    /// Not what the bytes before it give.
    #[error("wrong FINGERPRINT")]
    WrongFingerprint,
    /// An error response, an indication, or another method.
    #[error("not a binding request")]
    NotARequest,
    /// A response to no check of ours.
    #[error("an answer to nothing")]
    NotAsked,
    /// Answered 400.
    #[error("USERNAME or MESSAGE-INTEGRITY is missing")]
    Unauthenticated,
    /// Answered 401.
    #[error("USERNAME is not of this transport")]
    UnknownUsername,
    /// Answered 401.
    #[error("wrong MESSAGE-INTEGRITY")]
    WrongIntegrity,
    /// In order, but one of too many.
    #[error("too many checks")]
    TooMany,
    /// Answered 420.
    #[error("an attribute that must be understood is not")]
    UnknownAttribute,
    /// The client claims to be controlled, which only we are. Answered 487.
    #[error("role conflict")]
    RoleConflict,
}

/// What an agent needs to know of a message.
pub(super) struct StunMessage<'a> {
    pub kind: u16,
    pub transaction: [u8; 12],
    username: Option<&'a str>,
    pub integrity: Option<Integrity<'a>>,
    pub use_candidate: bool,
    pub controlled: bool,
    pub unknown: ArrayVec<u16, UNKNOWN_MAX>,
}

/// A MESSAGE-INTEGRITY and the bytes it covers.
pub(super) struct Integrity<'a> {
    /// The message before the attribute, header included.
    covered: &'a [u8],
    tag: &'a [u8],
}

impl Integrity<'_> {
    pub(super) fn verify(&self, key: &hmac::Key) -> bool {
        // Covered is the message as if it ended with this attribute (section 14.5), so the length is another one.
        let length = self.covered.len() - HEADER_LENGTH + 4 + INTEGRITY_LENGTH;
        let Ok(length) = u16::try_from(length) else { return false };
        let mut message = ArrayVec::<u8, MESSAGE_BYTES_MAX>::new();
        if message.try_extend_from_slice(self.covered).is_err() {
            return false;
        }
        let Some(field) = message.get_mut(2..4) else { return false };
        field.copy_from_slice(&length.to_be_bytes());
        hmac::verify(key, &message, self.tag).is_ok()
    }
}

impl<'a> StunMessage<'a> {
    pub(super) fn parse(datagram: &'a [u8]) -> Result<Self, StunRefusal> {
        let (header, mut attributes) = datagram.split_first_chunk::<HEADER_LENGTH>().ok_or(StunRefusal::Malformed)?;
        let [k0, k1, l0, l1, c0, c1, c2, c3, transaction @ ..] = *header;
        let kind = u16::from_be_bytes([k0, k1]);
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let has_cookie = [c0, c1, c2, c3] == MAGIC_COOKIE.to_be_bytes();
        if kind >= 0x4000 || !has_cookie || length != attributes.len() || datagram.len() > MESSAGE_BYTES_MAX {
            return Err(StunRefusal::Malformed);
        }
        let mut message = Self {
            kind,
            transaction,
            username: None,
            integrity: None,
            use_candidate: false,
            controlled: false,
            unknown: ArrayVec::new(),
        };
        while !attributes.is_empty() {
            let covered = datagram.get(..datagram.len() - attributes.len()).ok_or(StunRefusal::Malformed)?;
            let (attribute, value, rest) = split_attribute(attributes).ok_or(StunRefusal::Malformed)?;
            message.take_attribute(attribute, value, covered)?;
            attributes = rest;
            if attribute == FINGERPRINT && !attributes.is_empty() {
                return Err(StunRefusal::Malformed);
            }
        }
        Ok(message)
    }

    fn take_attribute(&mut self, attribute: u16, value: &'a [u8], covered: &'a [u8]) -> Result<(), StunRefusal> {
        if attribute == FINGERPRINT {
            let expected = fingerprint_of_message(covered).to_be_bytes();
            return if value == expected { Ok(()) } else { Err(StunRefusal::WrongFingerprint) };
        }
        if self.integrity.is_some() {
            // Nothing after MESSAGE-INTEGRITY but FINGERPRINT counts (section 14.5).
            return Ok(());
        }
        match attribute {
            USERNAME => self.username = Some(std::str::from_utf8(value).map_err(|_| StunRefusal::Malformed)?),
            MESSAGE_INTEGRITY if value.len() == INTEGRITY_LENGTH => {
                self.integrity = Some(Integrity { covered, tag: value });
            }
            MESSAGE_INTEGRITY => return Err(StunRefusal::Malformed),
            USE_CANDIDATE => self.use_candidate = true,
            ICE_CONTROLLED => self.controlled = true,
            PRIORITY => {}
            other if other < COMPREHENSION_OPTIONAL => {
                // Full: the list is cut, the request refused all the same.
                let _ = self.unknown.try_push(other);
            }
            _ => {}
        }
        Ok(())
    }

    /// The ufrag of the receiver, and that of the sender (RFC 8445, section 7.2.2).
    pub(super) fn ufrags(&self) -> Option<(&'a str, &'a str)> {
        self.username?.split_once(':')
    }
}

fn split_attribute(attributes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (header, rest) = attributes.split_first_chunk::<4>()?;
    let [t0, t1, l0, l1] = *header;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let (padded, rest) = rest.split_at_checked(length.next_multiple_of(4))?;
    Some((u16::from_be_bytes([t0, t1]), padded.get(..length)?, rest))
}

/// FINGERPRINT over a message without it. Its length field already counts the attribute (section 14.7).
fn fingerprint_of_message(covered: &[u8]) -> u32 {
    crc32(covered) ^ FINGERPRINT_XOR
}

const CRC32_TABLE: [u32; 256] = crc32_table();

const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

/// CRC-32 of ITU V.42.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| {
        let [low, ..] = crc.to_le_bytes();
        CRC32_TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// Writes a message.
pub(super) struct StunWriter<'a> {
    out: &'a mut Vec<u8>,
    transaction: [u8; 12],
}

impl<'a> StunWriter<'a> {
    pub(super) fn new(kind: u16, transaction: [u8; 12], out: &'a mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        out.extend_from_slice(&transaction);
        Self { out, transaction }
    }

    fn attribute(&mut self, attribute: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("we write only short attributes");
        self.out.extend_from_slice(&attribute.to_be_bytes());
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(value);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }

    pub(super) fn error(mut self, code: u16, reason: &str) -> Self {
        let mut value = ArrayVec::<u8, 64>::new();
        value.extend([0, 0, (code / 100) as u8, (code % 100) as u8]);
        value.extend(reason.bytes().take(60));
        self.attribute(ERROR_CODE, &value);
        self
    }

    pub(super) fn unknown_attributes(mut self, unknown: &[u16]) -> Self {
        let value: ArrayVec<u8, { 2 * UNKNOWN_MAX }> =
            unknown.iter().take(UNKNOWN_MAX).flat_map(|attribute| attribute.to_be_bytes()).collect();
        self.attribute(UNKNOWN_ATTRIBUTES, &value);
        self
    }

    pub(super) fn mapped_address(mut self, address: SocketAddr) -> Self {
        let [c0, c1, c2, c3] = MAGIC_COOKIE.to_be_bytes();
        let [p0, p1] = address.port().to_be_bytes();
        let mut value = ArrayVec::<u8, 20>::new();
        // A socket for both families names IPv4 peers by mapped addresses; on the wire they are IPv4.
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                value.extend([0, 1, p0 ^ c0, p1 ^ c1, a ^ c0, b ^ c1, c ^ c2, d ^ c3]);
            }
            IpAddr::V6(ip) => {
                value.extend([0, 2, p0 ^ c0, p1 ^ c1]);
                let mask = [c0, c1, c2, c3].into_iter().chain(self.transaction);
                value.extend(ip.octets().into_iter().zip(mask).map(|(byte, mask)| byte ^ mask));
            }
        }
        self.attribute(XOR_MAPPED_ADDRESS, &value);
        self
    }

    /// What a check says beside its integrity (RFC 8445, section 7.2.2). We are lite, and so always controlled.
    pub(super) fn check(mut self, username: &str, tie_breaker: u64) -> Self {
        self.attribute(USERNAME, username.as_bytes());
        self.attribute(PRIORITY, &CHECK_PRIORITY.to_be_bytes());
        self.attribute(ICE_CONTROLLED, &tie_breaker.to_be_bytes());
        self
    }

    fn set_length(&mut self, length: usize) {
        let length = u16::try_from(length).expect("a message has a few hundred bytes");
        if let Some(field) = self.out.get_mut(2..4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Adds MESSAGE-INTEGRITY, if a key is shared with the receiver, and FINGERPRINT.
    pub(super) fn finish(mut self, key: Option<&hmac::Key>) {
        if let Some(key) = key {
            self.set_length(self.out.len() - HEADER_LENGTH + 4 + INTEGRITY_LENGTH);
            let tag = hmac::sign(key, self.out);
            self.attribute(MESSAGE_INTEGRITY, tag.as_ref());
        }
        self.set_length(self.out.len() - HEADER_LENGTH + 8);
        let fingerprint = fingerprint_of_message(self.out);
        self.attribute(FINGERPRINT, &fingerprint.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use rtc_stun::message::{Getter, Message};
    use rtc_stun::xoraddr::XorMappedAddress;

    use super::*;

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"the password")
    }

    /// A request with what is written into it, its integrity and fingerprint.
    fn request(write: impl FnOnce(&mut StunWriter<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = StunWriter::new(BINDING_REQUEST, [7; 12], &mut out).check("ours:theirs", 5);
        write(&mut writer);
        writer.finish(Some(&key()));
        out
    }

    fn refusal(datagram: &[u8]) -> Option<StunRefusal> {
        StunMessage::parse(datagram).err()
    }

    /// With another length in its header, and so another fingerprint than it would have.
    fn with_length(mut datagram: Vec<u8>, length: usize) -> Vec<u8> {
        datagram[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        datagram
    }

    #[test]
    fn what_contradicts_itself_is_malformed() {
        let whole = request(|_| {});
        assert_eq!(refusal(&whole), None);
        let length = whole.len() - HEADER_LENGTH;
        for other in [0, length - 4, length - 1, length + 1, length + 4] {
            assert_eq!(refusal(&with_length(whole.clone(), other)), Some(StunRefusal::Malformed), "{other}");
        }
        let longer = with_length([&whole[..], &[0; 2]].concat(), length + 2);
        assert_ne!(refusal(&longer), None, "not of whole words");
        for position in [0, 4, 5, 6, 7] {
            let mut other = whole.clone();
            other[position] ^= 0x40;
            assert_eq!(refusal(&other), Some(StunRefusal::Malformed), "byte {position}");
        }
        let behind = with_length([&whole[..], &[0x80, 0x22, 0, 0]].concat(), length + 4);
        assert_ne!(refusal(&behind), None, "nothing comes after the fingerprint");
        let short = request(|writer| writer.attribute(MESSAGE_INTEGRITY, &[1; 16]));
        assert_eq!(refusal(&short), Some(StunRefusal::Malformed), "an integrity of another length");
    }

    #[test]
    fn a_message_is_no_longer_than_a_datagram() {
        const SOFTWARE: u16 = 0x8022;
        let spare = MESSAGE_BYTES_MAX - request(|writer| writer.attribute(SOFTWARE, &[])).len();
        let filled = request(|writer| writer.attribute(SOFTWARE, &vec![b'x'; spare]));
        assert_eq!(refusal(&filled), None);
        assert!(StunMessage::parse(&filled).is_ok_and(|message| message.integrity.is_some_and(|i| i.verify(&key()))));
        let beyond = request(|writer| writer.attribute(SOFTWARE, &vec![b'x'; spare + 1]));
        assert_eq!(refusal(&beyond), Some(StunRefusal::Malformed));
    }

    /// RFC 8489, section 14.5: whoever is on the way could have added it.
    #[test]
    fn nothing_behind_the_integrity_counts() {
        let mut out = Vec::new();
        let mut writer = StunWriter::new(BINDING_REQUEST, [7; 12], &mut out).check("ours:theirs", 5);
        writer.set_length(writer.out.len() - HEADER_LENGTH + 4 + INTEGRITY_LENGTH);
        let tag = hmac::sign(&key(), writer.out);
        writer.attribute(MESSAGE_INTEGRITY, tag.as_ref());
        writer.attribute(USE_CANDIDATE, &[]);
        writer.attribute(USERNAME, b"others:theirs");
        writer.attribute(0x7ABC, &[]);
        writer.finish(None);
        let message = StunMessage::parse(&out).expect("a message");
        assert!(message.integrity.is_some_and(|integrity| integrity.verify(&key())));
        assert_eq!((message.use_candidate, message.unknown.len()), (false, 0));
        assert_eq!(message.username, Some("ours:theirs"));
    }

    #[test]
    fn unknown_attributes_are_named_unless_they_may_be_ignored() {
        let unknown = |kinds: &[u16]| {
            let datagram = request(|writer| kinds.iter().for_each(|kind| writer.attribute(*kind, &[1])));
            StunMessage::parse(&datagram).expect("a message").unknown.to_vec()
        };
        assert_eq!(unknown(&[0x7FFF, 0x8000, 0x0007, 0xC057]), [0x7FFF, 0x0007]);
        let many: Vec<u16> = (0x7000..0x7010).collect();
        assert_eq!(unknown(&many), many[..UNKNOWN_MAX]);

        let mut out = Vec::new();
        StunWriter::new(BINDING_ERROR, [7; 12], &mut out).unknown_attributes(&many[..UNKNOWN_MAX]).finish(None);
        let mut message = Message::new();
        message.unmarshal_binary(&out).expect("the oracle reads it");
        let mut theirs = rtc_stun::uattrs::UnknownAttributes(Vec::new());
        theirs.get_from(&message).expect("they are named");
        assert_eq!(theirs.0.iter().map(|kind| kind.0).collect::<Vec<_>>(), many[..UNKNOWN_MAX]);
    }

    /// The address as another implementation reads it.
    fn mapped(address: SocketAddr, transaction: [u8; 12]) -> SocketAddr {
        let mut out = Vec::new();
        StunWriter::new(BINDING_SUCCESS, transaction, &mut out).mapped_address(address).finish(None);
        let mut message = Message::new();
        message.unmarshal_binary(&out).expect("the oracle reads it");
        let mut read = XorMappedAddress::default();
        read.get_from(&message).expect("an address");
        SocketAddr::new(read.ip, read.port)
    }

    proptest! {
        #[test]
        fn any_address_means_the_same_to_the_oracle(v4: u32, v6: u128, port: u16, transaction: [u8; 12]) {
            let v4 = SocketAddr::from((Ipv4Addr::from(v4), port));
            prop_assert_eq!(mapped(v4, transaction), v4);
            // Not one of the mapped ones, which are IPv4 on the wire.
            let v6 = SocketAddr::from((Ipv6Addr::from(v6 | 1 << 127), port));
            prop_assert_eq!(mapped(v6, transaction), v6);
            let IpAddr::V4(ip) = v4.ip() else { unreachable!() };
            prop_assert_eq!(mapped(SocketAddr::from((ip.to_ipv6_mapped(), port)), transaction), v4);
        }
    }
}
