//! ICE-lite (RFC 8445, section 2.5): answers a client's connectivity checks and follows its nominations.
//!
//! A lite agent sends no checks. The client is always controlling: it tries our host candidates and names the pair to
//! use by USE-CANDIDATE; the newest valid nomination wins. The arrival of checks is the client's consent (RFC 7675).
//! STUN (RFC 8489) is read and written in place here; only the binding method exists.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use arrayvec::ArrayVec;
use rand::RngExt;
use ring::hmac;

use crate::command::IceCredentials;
use crate::transport::Path;

/// Characters of ICE credentials (RFC 8839, section 5.4).
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Random characters of a ufrag after the worker's number: 84 bits, so that nobody guesses one.
const UFRAG_RANDOM_LENGTH: usize = 14;
/// 192 bits; RFC 8445, section 5.3 demands 128.
const PASSWORD_LENGTH: usize = 32;

/// New random credentials. The first two characters of the ufrag are the worker's number in hexadecimal.
pub fn new_credentials(worker: u8) -> IceCredentials {
    let ufrag = format!("{worker:02x}{}", random_ice_chars(UFRAG_RANDOM_LENGTH));
    IceCredentials { ufrag, password: random_ice_chars(PASSWORD_LENGTH) }
}

fn random_ice_chars(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ICE_CHARS[rng.random_range(0..ICE_CHARS.len())])).collect()
}

/// The worker whose transport made this local ufrag.
pub fn worker_of(ufrag: &str) -> Option<u8> {
    let digits = ufrag.get(..2)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Whether a datagram is STUN, by its first byte (RFC 7983) and magic cookie.
pub fn is_stun(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(0..=3)) && datagram.get(4..8) == Some(&MAGIC_COOKIE.to_be_bytes())
}

/// Our ufrag in the USERNAME of a STUN request (RFC 8445, section 7.2.2). Nothing about the sender is verified.
pub fn local_ufrag_of(datagram: &[u8]) -> Option<&str> {
    let message = StunMessage::parse(datagram).ok()?;
    if message.kind != BINDING_REQUEST {
        return None;
    }
    message.local_ufrag()
}

/// Why a STUN message was not accepted as a check. For some there is a reply all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StunRefusal {
    #[error("not a well-formed STUN message")]
    Malformed,
    #[error("wrong FINGERPRINT")]
    WrongFingerprint,
    /// A response, an indication, or another method. We send no requests, so we expect no answers.
    #[error("not a binding request")]
    NotARequest,
    /// Answered 400.
    #[error("USERNAME or MESSAGE-INTEGRITY is missing")]
    Unauthenticated,
    /// Answered 401.
    #[error("USERNAME is not of this transport")]
    UnknownUsername,
    /// Answered 401.
    #[error("wrong MESSAGE-INTEGRITY")]
    WrongIntegrity,
    /// Answered 420.
    #[error("an attribute that must be understood is not")]
    UnknownAttribute,
    /// The client claims to be controlled, which only we are. Answered 487.
    #[error("role conflict")]
    RoleConflict,
}

/// What a valid check did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StunOutcome {
    /// The path to send on is another one than before (or there was none).
    pub path_changed: bool,
}

/// One set of our credentials, with the key of its password.
struct Local {
    credentials: IceCredentials,
    key: hmac::Key,
}

impl Local {
    fn new(credentials: IceCredentials) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, credentials.password.as_bytes());
        Self { credentials, key }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nomination {
    /// A valid check came this way; the client may still choose another.
    Provisional,
    Nominated,
}

/// The ICE-lite agent of one transport.
pub(crate) struct IceAgent {
    current: Local,
    /// Credentials from before a restart: they serve until a check with the current ones nominates.
    previous: Option<Local>,
    path: Option<(Path, Nomination)>,
    first_check: Option<Instant>,
    last_check: Option<Instant>,
}

impl IceAgent {
    pub(crate) fn new(local: IceCredentials) -> Self {
        Self { current: Local::new(local), previous: None, path: None, first_check: None, last_check: None }
    }

    /// Takes new credentials (RFC 8445, section 9). Those in use go on serving; a second restart before the first was
    /// completed drops the ones in between.
    pub(crate) fn restart(&mut self, local: IceCredentials) {
        if local == self.current.credentials {
            return;
        }
        let replaced = std::mem::replace(&mut self.current, Local::new(local));
        self.previous.get_or_insert(replaced);
    }

    /// Ours, the current first.
    pub(crate) fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.current).chain(&self.previous).map(|local| local.credentials.ufrag.as_str())
    }

    pub(crate) fn path(&self) -> Option<Path> {
        self.path.map(|(path, _)| path)
    }

    pub(crate) fn first_check(&self) -> Option<Instant> {
        self.first_check
    }

    /// When the last valid check arrived.
    pub(crate) fn last_check(&self) -> Option<Instant> {
        self.last_check
    }

    /// Takes in a STUN message and writes the reply, if there is one, into `reply` (cleared first).
    ///
    /// Nothing but MESSAGE-INTEGRITY decides whether the sender is the client; nothing changes before it was verified.
    pub(crate) fn on_stun(
        &mut self,
        now: Instant,
        from: Path,
        datagram: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<StunOutcome, StunRefusal> {
        reply.clear();
        let message = StunMessage::parse(datagram)?;
        if message.kind != BINDING_REQUEST {
            return Err(StunRefusal::NotARequest);
        }
        let (Some(ufrag), Some(integrity)) = (message.local_ufrag(), &message.integrity) else {
            Response::new(BINDING_ERROR, message.transaction, reply).error(400, "Bad Request").finish(None);
            return Err(StunRefusal::Unauthenticated);
        };
        let is_current = ufrag == self.current.credentials.ufrag;
        let previous = self.previous.as_ref().filter(|previous| ufrag == previous.credentials.ufrag);
        let Some(local) = is_current.then_some(&self.current).or(previous) else {
            Response::new(BINDING_ERROR, message.transaction, reply).error(401, "Unauthorized").finish(None);
            return Err(StunRefusal::UnknownUsername);
        };
        if !integrity.verify(&local.key) {
            Response::new(BINDING_ERROR, message.transaction, reply).error(401, "Unauthorized").finish(None);
            return Err(StunRefusal::WrongIntegrity);
        }
        if !message.unknown.is_empty() {
            Response::new(BINDING_ERROR, message.transaction, reply)
                .error(420, "Unknown Attribute")
                .unknown_attributes(&message.unknown)
                .finish(Some(&local.key));
            return Err(StunRefusal::UnknownAttribute);
        }
        if message.controlled {
            Response::new(BINDING_ERROR, message.transaction, reply)
                .error(487, "Role Conflict")
                .finish(Some(&local.key));
            return Err(StunRefusal::RoleConflict);
        }
        Response::new(BINDING_SUCCESS, message.transaction, reply).mapped_address(from.remote).finish(Some(&local.key));

        self.first_check.get_or_insert(now);
        self.last_check = Some(now);
        let use_candidate = message.use_candidate;
        Ok(StunOutcome { path_changed: self.follow(from, use_candidate, is_current) })
    }

    /// Decides on the path after a valid check; true if it changed.
    fn follow(&mut self, from: Path, use_candidate: bool, is_current: bool) -> bool {
        let before = self.path();
        match (use_candidate, self.path) {
            (true, _) => {
                self.path = Some((from, Nomination::Nominated));
                if is_current {
                    self.previous = None;
                }
            }
            (false, None) => self.path = Some((from, Nomination::Provisional)),
            (false, Some((_, Nomination::Provisional | Nomination::Nominated))) => {}
        }
        self.path() != before
    }
}

// STUN, RFC 8489.

const MAGIC_COOKIE: u32 = 0x2112_A442;
const HEADER_LENGTH: usize = 20;
/// Longest message we read. Checks are about 100 bytes; RFC 8489 wants them below the path's MTU.
const MESSAGE_BYTES_MAX: usize = 1_500;

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

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
/// Unknown attributes named in a 420; a client that sends more learns of the rest later.
const UNKNOWN_MAX: usize = 8;

/// What an agent needs to know of a message.
struct StunMessage<'a> {
    kind: u16,
    transaction: [u8; 12],
    username: Option<&'a str>,
    integrity: Option<Integrity<'a>>,
    use_candidate: bool,
    controlled: bool,
    unknown: ArrayVec<u16, UNKNOWN_MAX>,
}

/// A MESSAGE-INTEGRITY and the bytes it covers.
struct Integrity<'a> {
    /// The message before the attribute, header included.
    covered: &'a [u8],
    tag: &'a [u8],
}

impl Integrity<'_> {
    fn verify(&self, key: &hmac::Key) -> bool {
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
    fn parse(datagram: &'a [u8]) -> Result<Self, StunRefusal> {
        let (header, mut attributes) = datagram.split_first_chunk::<HEADER_LENGTH>().ok_or(StunRefusal::Malformed)?;
        let [k0, k1, l0, l1, c0, c1, c2, c3, transaction @ ..] = *header;
        let kind = u16::from_be_bytes([k0, k1]);
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let has_cookie = [c0, c1, c2, c3] == MAGIC_COOKIE.to_be_bytes();
        if kind >= 0x4000
            || !has_cookie
            || length != attributes.len()
            || !length.is_multiple_of(4)
            || datagram.len() > MESSAGE_BYTES_MAX
        {
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

    fn local_ufrag(&self) -> Option<&'a str> {
        let (local, _) = self.username?.split_once(':')?;
        Some(local)
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

/// Writes a response.
struct Response<'a> {
    out: &'a mut Vec<u8>,
    transaction: [u8; 12],
}

impl<'a> Response<'a> {
    fn new(kind: u16, transaction: [u8; 12], out: &'a mut Vec<u8>) -> Self {
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

    fn error(mut self, code: u16, reason: &str) -> Self {
        let mut value = ArrayVec::<u8, 64>::new();
        value.extend([0, 0, (code / 100) as u8, (code % 100) as u8]);
        value.extend(reason.bytes().take(60));
        self.attribute(ERROR_CODE, &value);
        self
    }

    fn unknown_attributes(mut self, unknown: &[u16]) -> Self {
        let value: ArrayVec<u8, { 2 * UNKNOWN_MAX }> =
            unknown.iter().take(UNKNOWN_MAX).flat_map(|attribute| attribute.to_be_bytes()).collect();
        self.attribute(UNKNOWN_ATTRIBUTES, &value);
        self
    }

    fn mapped_address(mut self, address: SocketAddr) -> Self {
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

    fn set_length(&mut self, length: usize) {
        let length = u16::try_from(length).expect("a response has about 100 bytes");
        if let Some(field) = self.out.get_mut(2..4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Adds MESSAGE-INTEGRITY if the requester proved to know the password, and FINGERPRINT.
    fn finish(mut self, key: Option<&hmac::Key>) {
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
