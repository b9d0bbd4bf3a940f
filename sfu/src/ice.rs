//! ICE-lite (RFC 8445, section 2.5): answers a client's connectivity checks and follows its nominations.
//!
//! The client is always controlling: it tries our host candidates and names the pair to use by USE-CANDIDATE; the
//! newest valid nomination wins. What it sends from there, checks or authentic media and data, is its consent (cf. RFC
//! 7675).
//!
//! Whoever knows our password can nominate any address by a check with a forged sender. So once something has been sent
//! beyond replies, a nomination of another address takes effect when that address has answered a check of ours
//! (`ice/path_check.rs`). Until then all goes where it went. The first address need not answer: it gets a part of what
//! came from there until the handshake has shown that the client receives what we send.

mod path_check;
mod stun;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ring::hmac;

use self::path_check::{AMPLIFICATION_MAX, PathCheck};
pub use self::stun::StunRefusal;
use self::stun::{BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, StunMessage, StunWriter};
use crate::parameters::IceCredentials;
use crate::path::{Path, Via};

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

/// Our ufrag in the USERNAME of a STUN request (RFC 8445, section 7.2.2). Nothing about the sender is verified.
pub fn local_ufrag_of(datagram: &[u8]) -> Option<&str> {
    let message = StunMessage::parse(datagram).ok()?;
    if message.kind != BINDING_REQUEST {
        return None;
    }
    message.ufrags().map(|(ours, _)| ours)
}

/// Whether a datagram says that it answers a check of ours. Nothing about the sender is verified.
pub fn is_response(datagram: &[u8]) -> bool {
    matches!(datagram, [1, 0x01 | 0x11, ..])
}

/// Checks of a client at once: more than it has pairs of candidates, each of which it tries a few times in a second.
const CHECKS_AT_ONCE: u32 = 256;

/// How long it takes after them until one more is answered. Full agents pace theirs by 20 to 50 ms (RFC 8445, section
/// 14.2).
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Limits the checks of a client that are answered, from whatever addresses: each may bring a new path to keep.
#[derive(Debug, Default)]
struct Checks {
    /// When [`CHECKS_AT_ONCE`] may come at once again.
    full_at: Option<Instant>,
}

impl Checks {
    /// False: not this one.
    fn take(&mut self, now: Instant) -> bool {
        let from = self.full_at.map_or(now, |at| at.max(now));
        if from + CHECK_INTERVAL > now + CHECK_INTERVAL * CHECKS_AT_ONCE {
            return false;
        }
        self.full_at = Some(from + CHECK_INTERVAL);
        true
    }
}

/// What a valid check did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StunOutcome {
    /// The path to send on is another one than before (or there was none).
    pub path_changed: bool,
    /// Another address was nominated, which has to answer a check first.
    pub waits_for_proof: bool,
}

/// One set of our credentials, with the key of its password.
struct Local {
    credentials: IceCredentials,
    key: hmac::Key,
}

impl Local {
    fn new(credentials: IceCredentials) -> Self {
        let key = key_of(&credentials.password);
        Self { credentials, key }
    }
}

/// Bytes that an address gets beside [`AMPLIFICATION_MAX`] times those from there, before the client has shown that it
/// receives: our first flight of a handshake, so that it waits for nothing.
const FREE_BYTES: usize = 1_200;

/// What came from the first address and what went there.
#[derive(Debug, Default)]
struct Exchanged {
    received: usize,
    sent: usize,
}

impl Exchanged {
    /// Whether so many bytes more may be sent. Notes them if they may.
    fn may_send(&mut self, length: usize) -> bool {
        let sent = self.sent.saturating_add(length);
        let may = sent <= FREE_BYTES.saturating_add(self.received.saturating_mul(AMPLIFICATION_MAX));
        if may {
            self.sent = sent;
        }
        may
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
    /// What the random numbers of the next check follow from.
    seed: u64,
    current: Local,
    /// Credentials from before a restart: they serve until a check with the current ones nominates.
    previous: Option<Local>,
    /// The client's, by its description.
    remote: Option<Box<IceCredentials>>,
    /// The client's from before its last restart: addresses that it had then still check with them.
    previous_remote: Option<Box<IceCredentials>>,
    path: Option<(Path, Nomination)>,
    /// More than replies was sent to the path: from now on another one needs proof.
    settled: bool,
    exchanged: Exchanged,
    /// The client has answered a check of ours from the path.
    has_answered: bool,
    /// A nominated address that has not answered yet.
    unproven: Option<Box<PathCheck>>,
    first_check: Option<Instant>,
    last_heard: Option<Instant>,
    checks: Checks,
}

impl IceAgent {
    pub(crate) fn new(local: IceCredentials, seed: u64) -> Self {
        Self {
            seed,
            current: Local::new(local),
            previous: None,
            remote: None,
            previous_remote: None,
            path: None,
            settled: false,
            exchanged: Exchanged::default(),
            has_answered: false,
            unproven: None,
            first_check: None,
            last_heard: None,
            checks: Checks::default(),
        }
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

    /// Takes the client's credentials, which its description has told.
    pub(crate) fn set_remote(&mut self, remote: IceCredentials) {
        if self.remote() != Some(&remote) {
            self.previous_remote = self.remote.replace(Box::new(remote));
        }
    }

    pub(crate) fn remote(&self) -> Option<&IceCredentials> {
        self.remote.as_deref()
    }

    /// Notes that more than replies goes to the path.
    pub(crate) fn settle(&mut self) {
        self.settled |= self.path.is_some();
    }

    /// Notes bytes that came from an address, whoever sent them.
    pub(crate) fn note_received(&mut self, from: Path, length: usize) {
        if self.path() == Some(from) {
            self.exchanged.received = self.exchanged.received.saturating_add(length);
        }
    }

    /// Whether so many bytes more of a handshake may be sent to the path, which are noted if they may.
    pub(crate) fn may_send_to_stranger(&mut self, length: usize) -> bool {
        self.has_answered || self.path().is_some_and(|path| !needs_proof(path)) || self.exchanged.may_send(length)
    }

    /// Takes a path without a check: for simulations.
    pub(crate) fn assume(&mut self, path: Path) {
        (self.path, self.settled) = (Some((path, Nomination::Nominated)), true);
    }

    pub(crate) fn path(&self) -> Option<Path> {
        self.path.map(|(path, _)| path)
    }

    pub(crate) fn first_check(&self) -> Option<Instant> {
        self.first_check
    }

    /// When the client was last heard on the path: by a valid check, or by [`Self::note_heard`].
    pub(crate) fn last_heard(&self) -> Option<Instant> {
        self.last_heard
    }

    /// Notes that something authentic came by the path. Full agents need not check it once it is nominated: libnice
    /// sends nothing but indications then (RFC 8445, section 11), and media.
    pub(crate) fn note_heard(&mut self, now: Instant) {
        if self.last_heard.is_some() {
            self.last_heard = Some(now);
        }
    }

    /// When [`IceAgent::poll_check`] is next due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.unproven.as_ref().filter(|check| self.remote_of(check).is_some())?.due()
    }

    /// The client's credentials that an address is checked with, once its description has told them.
    fn remote_of(&self, check: &PathCheck) -> Option<&IceCredentials> {
        let known = self.remote.iter().chain(&self.previous_remote);
        known.map(Box::as_ref).find(|remote| remote.ufrag == check.ufrags.1)
    }

    /// Writes the next check of ours, if one is due, and tells where to.
    pub(crate) fn poll_check(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Path> {
        self.deadline().filter(|due| *due <= now)?;
        let check = self.unproven.as_deref()?;
        let key = key_of(&self.remote_of(check)?.password);
        let (ours, theirs) = &check.ufrags;
        StunWriter::new(BINDING_REQUEST, check.transaction, out)
            .check(&format!("{theirs}:{ours}"), check.tie_breaker)
            .finish(Some(&key));
        let check = self.unproven.as_mut()?;
        check.transmit(now, out.len()).then_some(check.path)
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
        match message.kind {
            BINDING_REQUEST => {}
            BINDING_SUCCESS => return self.on_answer(now, from, &message),
            _ => return Err(StunRefusal::NotARequest),
        }
        let (Some((ufrag, theirs)), Some(integrity)) = (message.ufrags(), &message.integrity) else {
            StunWriter::new(BINDING_ERROR, message.transaction, reply).error(400, "Bad Request").finish(None);
            return Err(StunRefusal::Unauthenticated);
        };
        let is_current = ufrag == self.current.credentials.ufrag;
        let previous = self.previous.as_ref().filter(|previous| ufrag == previous.credentials.ufrag);
        let Some(local) = is_current.then_some(&self.current).or(previous) else {
            StunWriter::new(BINDING_ERROR, message.transaction, reply).error(401, "Unauthorized").finish(None);
            return Err(StunRefusal::UnknownUsername);
        };
        if !integrity.verify(&local.key) {
            StunWriter::new(BINDING_ERROR, message.transaction, reply).error(401, "Unauthorized").finish(None);
            return Err(StunRefusal::WrongIntegrity);
        }
        // Of those that are the client's alone: nobody else uses them up.
        if !self.checks.take(now) {
            return Err(StunRefusal::TooMany);
        }
        if !message.unknown.is_empty() {
            StunWriter::new(BINDING_ERROR, message.transaction, reply)
                .error(420, "Unknown Attribute")
                .unknown_attributes(&message.unknown)
                .finish(Some(&local.key));
            return Err(StunRefusal::UnknownAttribute);
        }
        if message.controlled {
            StunWriter::new(BINDING_ERROR, message.transaction, reply)
                .error(487, "Role Conflict")
                .finish(Some(&local.key));
            return Err(StunRefusal::RoleConflict);
        }
        StunWriter::new(BINDING_SUCCESS, message.transaction, reply)
            .mapped_address(from.remote)
            .finish(Some(&local.key));

        self.first_check.get_or_insert(now);
        let before = self.path();
        let waited = self.unproven.as_ref().map(|check| check.path);
        if message.use_candidate {
            self.nominate(from);
            if is_current {
                self.previous = None;
            }
        } else if before.is_none() {
            self.path = Some((from, Nomination::Provisional));
        }
        if let Some(check) = self.unproven.as_mut().filter(|check| check.path == from) {
            check.on_check(now, (ufrag, theirs), datagram.len(), reply.len());
        }
        if self.path() == Some(from) {
            self.last_heard = Some(now);
        }
        if self.path() != before {
            self.exchanged = Exchanged::default();
        }
        if self.path() == Some(from) {
            self.note_received(from, datagram.len());
            self.exchanged.sent = self.exchanged.sent.saturating_add(reply.len());
        }
        let waits = self.unproven.as_ref().map(|check| check.path);
        Ok(StunOutcome { path_changed: self.path() != before, waits_for_proof: waits == Some(from) && waits != waited })
    }

    /// Follows a nomination, at once or when the address has answered.
    fn nominate(&mut self, from: Path) {
        let is_elsewhere = self.path().is_some_and(|path| path != from);
        if !(is_elsewhere && self.settled && needs_proof(from)) {
            (self.path, self.unproven) = (Some((from, Nomination::Nominated)), None);
        } else if self.unproven.as_ref().is_none_or(|check| check.path != from) {
            let mut rng = StdRng::seed_from_u64(self.seed);
            self.unproven = Some(Box::new(PathCheck::new(from, &mut rng)));
            self.seed = rng.random();
        }
    }

    /// The answer to a check of ours (RFC 8445, section 7.2.5.2).
    fn on_answer(&mut self, now: Instant, from: Path, answer: &StunMessage<'_>) -> Result<StunOutcome, StunRefusal> {
        let check = self.unproven.as_deref().ok_or(StunRefusal::NotAsked)?;
        let remote = self.remote_of(check).ok_or(StunRefusal::NotAsked)?;
        if check.path != from || check.transaction != answer.transaction {
            return Err(StunRefusal::NotAsked);
        }
        let integrity = answer.integrity.as_ref().ok_or(StunRefusal::Unauthenticated)?;
        if !integrity.verify(&key_of(&remote.password)) {
            return Err(StunRefusal::WrongIntegrity);
        }
        (self.path, self.unproven) = (Some((from, Nomination::Nominated)), None);
        (self.has_answered, self.last_heard) = (true, Some(now));
        Ok(StunOutcome { path_changed: true, waits_for_proof: false })
    }
}

/// The handshake of a TCP connection has shown that its client receives.
fn needs_proof(path: Path) -> bool {
    match path.via {
        Via::Udp(_) => true,
        Via::Tcp(_) => false,
    }
}

fn key_of(password: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
}
