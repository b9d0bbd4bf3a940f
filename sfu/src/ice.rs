//! ICE-lite (RFC 8445, section 2.5): answers a client's connectivity checks and follows its nominations.
//!
//! A lite agent sends no checks. The client is always controlling: it tries our host candidates and names the pair to
//! use by USE-CANDIDATE; the newest valid nomination wins. The arrival of checks is the client's consent (RFC 7675).

mod stun;

use std::time::Instant;

use rand::RngExt;
use ring::hmac;

use self::stun::{BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, MAGIC_COOKIE, Response, StunMessage};
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
