//! ICE as a browser plays it (RFC 8445), for one local socket.
//!
//! Where we offer, or the server is lite, we control: every server candidate is checked with USE-CANDIDATE and the
//! first that answers carries the media. Where a full server offers (v0's subscriber transport), it nominates and we
//! follow. Consent is renewed every 2.5 s (RFC 7675).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rtc_crypto::RTCCrypto;
use rtc_stun::attributes::{ATTR_USERNAME, AttrType};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{BINDING_REQUEST, BINDING_SUCCESS, Message, Setter, TransactionId};
use rtc_stun::textattrs::Username;
use rtc_stun::xoraddr::XorMappedAddress;

const ATTR_PRIORITY: AttrType = AttrType(0x0024);
const ATTR_USE_CANDIDATE: AttrType = AttrType(0x0025);
const ATTR_ICE_CONTROLLED: AttrType = AttrType(0x8029);
const ATTR_ICE_CONTROLLING: AttrType = AttrType(0x802a);

/// Between two checks of an unanswered candidate.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Between two consent checks; libwebrtc's strong-connectivity interval.
const CONSENT_INTERVAL: Duration = Duration::from_millis(2_500);
/// Silence after which consent has expired (RFC 7675, section 5.1).
const CONSENT_MAX: Duration = Duration::from_secs(30);
/// Time in which the first check must succeed.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// More candidates of one server than this are not tried.
const CANDIDATES_MAX: usize = 16;
/// Priority of a peer-reflexive candidate on component 1 (RFC 8445, section 5.1.2).
const PRIORITY: u32 = 110 << 24 | 65_535 << 8 | 255;

/// User fragment and password of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub ufrag: String,
    pub password: String,
}

/// Who nominates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IceRole {
    Controlling,
    Controlled,
}

/// What a datagram or a timer did to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IceEvent {
    /// Media may flow to this address.
    Nominated(SocketAddr),
    /// No candidate answered in time, or consent expired.
    Failed,
}

#[derive(Debug)]
struct Candidate {
    address: SocketAddr,
    next_check: Instant,
    /// A check of ours was answered.
    valid: bool,
    /// The controlling server wants this one.
    chosen: bool,
}

/// One agent with one local socket.
pub struct IceAgent {
    local: Credentials,
    remote: Option<Credentials>,
    role: IceRole,
    tie_breaker: u64,
    candidates: Vec<Candidate>,
    /// Transaction of the newest checks and where they went.
    checks: Vec<(TransactionId, SocketAddr)>,
    nominated: Option<SocketAddr>,
    started: Instant,
    last_answer: Instant,
    next_consent: Instant,
    failed: bool,
}

impl IceAgent {
    pub fn new(local: Credentials, now: Instant) -> Self {
        Self {
            local,
            remote: None,
            role: IceRole::Controlling,
            tie_breaker: rand::random(),
            candidates: Vec::new(),
            checks: Vec::new(),
            nominated: None,
            started: now,
            last_answer: now,
            next_consent: now,
            failed: false,
        }
    }

    /// Learns the server's credentials; changed ones restart the checks.
    pub fn set_remote(&mut self, remote: Credentials, role: IceRole, now: Instant) {
        self.role = role;
        if self.remote.as_ref() == Some(&remote) {
            return;
        }
        self.remote = Some(remote);
        self.started = now;
        for candidate in &mut self.candidates {
            candidate.next_check = now;
        }
    }

    /// Adds a server candidate, once, up to a bound.
    pub fn add_candidate(&mut self, address: SocketAddr, now: Instant) {
        let known = self.candidates.iter().any(|candidate| candidate.address == address);
        if !known && self.candidates.len() < CANDIDATES_MAX {
            self.candidates.push(Candidate { address, next_check: now, valid: false, chosen: false });
        }
    }

    /// The address that media goes to, once there is one.
    pub fn nominated(&self) -> Option<SocketAddr> {
        self.nominated
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        if self.failed || self.remote.is_none() {
            return None;
        }
        match self.nominated {
            Some(_) => Some(self.next_consent),
            None => {
                self.candidates.iter().map(|candidate| candidate.next_check).min().or(Some(self.started + CONNECT_MAX))
            }
        }
    }

    /// Sends the checks that are due through `send`.
    pub fn on_timeout(
        &mut self,
        now: Instant,
        crypto: &dyn RTCCrypto,
        mut send: impl FnMut(SocketAddr, Vec<u8>),
    ) -> Option<IceEvent> {
        if self.failed || self.remote.is_none() {
            return None;
        }
        if self.is_silent(now) {
            self.failed = true;
            return Some(IceEvent::Failed);
        }
        for address in self.due(now) {
            if let Some(check) = self.check(address, crypto) {
                send(address, check);
            }
        }
        None
    }

    fn is_silent(&self, now: Instant) -> bool {
        match self.nominated {
            Some(_) => now.duration_since(self.last_answer) > CONSENT_MAX,
            None => now.duration_since(self.started) > CONNECT_MAX,
        }
    }

    fn due(&mut self, now: Instant) -> Vec<SocketAddr> {
        if let Some(address) = self.nominated {
            if now < self.next_consent {
                return Vec::new();
            }
            self.next_consent = now + CONSENT_INTERVAL;
            return vec![address];
        }
        let mut due = Vec::new();
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.next_check <= now) {
            candidate.next_check = now + CHECK_INTERVAL;
            due.push(candidate.address);
        }
        due
    }

    fn check(&mut self, address: SocketAddr, crypto: &dyn RTCCrypto) -> Option<Vec<u8>> {
        let remote = self.remote.as_ref()?;
        let transaction = TransactionId::new();
        // An answer older than this many checks no longer counts.
        if self.checks.len() >= 4 * CANDIDATES_MAX {
            self.checks.remove(0);
        }
        self.checks.push((transaction, address));
        let mut message = message(BINDING_REQUEST, transaction);
        Username::new(ATTR_USERNAME, format!("{}:{}", remote.ufrag, self.local.ufrag)).add_to(&mut message).ok()?;
        let tie_breaker = self.tie_breaker.to_be_bytes();
        match self.role {
            IceRole::Controlling => {
                message.add(ATTR_ICE_CONTROLLING, &tie_breaker);
                message.add(ATTR_USE_CANDIDATE, &[]);
            }
            IceRole::Controlled => message.add(ATTR_ICE_CONTROLLED, &tie_breaker),
        }
        message.add(ATTR_PRIORITY, &PRIORITY.to_be_bytes());
        seal(message, &remote.password, crypto)
    }

    /// Handles one STUN datagram from `from`; an answer to a check of the server goes out through `send`.
    ///
    /// Whatever fails MESSAGE-INTEGRITY is ignored.
    pub fn on_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        crypto: &dyn RTCCrypto,
        mut send: impl FnMut(SocketAddr, Vec<u8>),
    ) -> Option<IceEvent> {
        let mut message = Message { raw: datagram.to_vec(), ..Message::default() };
        message.decode().ok()?;
        if message.typ == BINDING_REQUEST {
            MessageIntegrity::check(&mut message, self.local.password.as_bytes(), crypto).ok()?;
            send(from, answer(&message, from, &self.local.password, crypto)?);
            self.on_check(from, message.contains(ATTR_USE_CANDIDATE), now)
        } else if message.typ == BINDING_SUCCESS {
            self.on_answer(message, now, crypto)
        } else {
            None
        }
    }

    /// A check of a full server may come from an address that no candidate named.
    fn on_check(&mut self, from: SocketAddr, chosen: bool, now: Instant) -> Option<IceEvent> {
        self.add_candidate(from, now);
        if !chosen || self.role == IceRole::Controlling {
            return None;
        }
        let candidate = self.candidates.iter_mut().find(|candidate| candidate.address == from)?;
        candidate.chosen = true;
        if candidate.valid { self.nominate(from, now) } else { None }
    }

    fn on_answer(&mut self, mut message: Message, now: Instant, crypto: &dyn RTCCrypto) -> Option<IceEvent> {
        let remote = self.remote.as_ref()?;
        MessageIntegrity::check(&mut message, remote.password.as_bytes(), crypto).ok()?;
        let index = self.checks.iter().position(|(transaction, _)| *transaction == message.transaction_id)?;
        let (_, address) = self.checks.remove(index);
        self.last_answer = now;
        let candidate = self.candidates.iter_mut().find(|candidate| candidate.address == address)?;
        candidate.valid = true;
        match self.role {
            IceRole::Controlled if !candidate.chosen => None,
            IceRole::Controlled | IceRole::Controlling => self.nominate(address, now),
        }
    }

    fn nominate(&mut self, address: SocketAddr, now: Instant) -> Option<IceEvent> {
        if self.nominated.is_some() {
            return None;
        }
        self.nominated = Some(address);
        self.next_consent = now + CONSENT_INTERVAL;
        Some(IceEvent::Nominated(address))
    }
}

fn message(typ: rtc_stun::message::MessageType, transaction: TransactionId) -> Message {
    let mut message = Message::new();
    message.set_type(typ);
    message.transaction_id = transaction;
    message.write_header();
    message
}

fn answer(request: &Message, from: SocketAddr, password: &str, crypto: &dyn RTCCrypto) -> Option<Vec<u8>> {
    let mut message = message(BINDING_SUCCESS, request.transaction_id);
    XorMappedAddress { ip: from.ip(), port: from.port() }.add_to(&mut message).ok()?;
    seal(message, password, crypto)
}

fn seal(mut message: Message, password: &str, crypto: &dyn RTCCrypto) -> Option<Vec<u8>> {
    MessageIntegrity::new_short_term_integrity_with_provider(password.to_owned(), crypto).add_to(&mut message).ok()?;
    FINGERPRINT.add_to(&mut message).ok()?;
    Some(message.raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(name: &str) -> Credentials {
        Credentials { ufrag: name.into(), password: format!("{name}-password-of-enough-letters") }
    }

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 7882))
    }

    fn agent(now: Instant) -> IceAgent {
        let mut agent = IceAgent::new(credentials("client"), now);
        agent.set_remote(credentials("server"), IceRole::Controlling, now);
        agent.add_candidate(address(), now);
        agent
    }

    fn check_of_server(use_candidate: bool) -> Vec<u8> {
        let provider = rtc_crypto::default_provider().unwrap();
        let mut request = message(BINDING_REQUEST, TransactionId::new());
        if use_candidate {
            request.add(ATTR_USE_CANDIDATE, &[]);
        }
        seal(request, &credentials("client").password, provider.crypto()).unwrap()
    }

    fn checks(agent: &mut IceAgent, now: Instant) -> Vec<Vec<u8>> {
        let provider = rtc_crypto::default_provider().unwrap();
        let mut sent = Vec::new();
        assert_eq!(agent.on_timeout(now, provider.crypto(), |_, datagram| sent.push(datagram)), None);
        sent
    }

    fn answer_to(check: &[u8], password: &str) -> Vec<u8> {
        let provider = rtc_crypto::default_provider().unwrap();
        let mut request = Message { raw: check.to_vec(), ..Message::default() };
        request.decode().unwrap();
        MessageIntegrity::check(&mut request, credentials("server").password.as_bytes(), provider.crypto()).unwrap();
        answer(&request, address(), password, provider.crypto()).unwrap()
    }

    fn receive(agent: &mut IceAgent, datagram: &[u8], now: Instant) -> Option<IceEvent> {
        let provider = rtc_crypto::default_provider().unwrap();
        agent.on_datagram(address(), datagram, now, provider.crypto(), |_, _| ())
    }

    #[test]
    fn an_answered_check_nominates_and_consent_follows_after_2500_ms() {
        let now = Instant::now();
        let mut agent = agent(now);
        let sent = checks(&mut agent, now);
        let answer = answer_to(&sent[0], &credentials("server").password);

        assert_eq!(receive(&mut agent, &answer, now), Some(IceEvent::Nominated(address())));
        assert_eq!(agent.deadline(), Some(now + CONSENT_INTERVAL));
        assert!(checks(&mut agent, now).is_empty());
        assert_eq!(checks(&mut agent, now + CONSENT_INTERVAL).len(), 1);
    }

    #[test]
    fn an_answer_with_a_wrong_password_is_ignored() {
        let now = Instant::now();
        let mut agent = agent(now);
        let sent = checks(&mut agent, now);
        assert_eq!(receive(&mut agent, &answer_to(&sent[0], "something else"), now), None);
    }

    #[test]
    fn an_unanswered_check_is_repeated_and_fails_after_15_s() {
        let now = Instant::now();
        let mut agent = agent(now);
        assert_eq!(checks(&mut agent, now).len(), 1);
        assert_eq!(checks(&mut agent, now + CHECK_INTERVAL).len(), 1);
        let provider = rtc_crypto::default_provider().unwrap();
        let late = now + CONNECT_MAX + Duration::from_millis(1);
        assert_eq!(agent.on_timeout(late, provider.crypto(), |_, _| ()), Some(IceEvent::Failed));
        assert_eq!(agent.deadline(), None);
    }

    #[test]
    fn a_check_of_a_full_ice_server_is_answered() {
        let now = Instant::now();
        let mut client = agent(now);
        let provider = rtc_crypto::default_provider().unwrap();
        let mut answers = Vec::new();
        let check = check_of_server(true);
        client.on_datagram(address(), &check, now, provider.crypto(), |_, datagram| answers.push(datagram));
        assert_eq!(answers.len(), 1);
        assert_eq!(client.nominated(), None);
    }

    #[test]
    fn a_controlled_agent_waits_for_the_choice_of_the_server() {
        let now = Instant::now();
        let mut client = agent(now);
        client.set_remote(credentials("server"), IceRole::Controlled, now);
        let sent = checks(&mut client, now);
        let mut check = Message { raw: sent[0].clone(), ..Message::default() };
        check.decode().unwrap();
        assert!(!check.contains(ATTR_USE_CANDIDATE) && check.contains(ATTR_ICE_CONTROLLED));

        assert_eq!(receive(&mut client, &check_of_server(false), now), None);
        assert_eq!(receive(&mut client, &answer_to(&sent[0], &credentials("server").password), now), None);
        assert_eq!(receive(&mut client, &check_of_server(true), now), Some(IceEvent::Nominated(address())));
    }
}
