//! What an attack works with: the server, a key, its time, and a tally of what it did.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::options::Options;
use super::stranger::{Line, Target};
use crate::token::ApiKey;

/// Notes kept of one attack.
const NOTES_MAX: usize = 8;

/// What an attack did, and how it was received.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    pub attack: String,
    /// Packets, messages or requests.
    pub sent: u64,
    pub bytes: u64,
    /// Answers that refuse, and connections that were not taken or closed.
    pub refused: u64,
    /// Answers that grant.
    pub granted: u64,
    /// What an address got that had shown nothing but one connectivity check.
    pub unproven_bytes: Option<u64>,
    /// Sessions that one token opened.
    pub sessions_of_one: Option<u64>,
    /// What others were told for it, in bytes a second.
    pub told_bytes_per_s: Option<u64>,
    pub notes: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attack, sent, bytes, refused, granted, .. } = self;
        write!(out, "{attack}: {sent} sent, {:.1} MB, {refused} refused, {granted} granted", *bytes as f64 / 1e6)?;
        if let Some(bytes) = self.unproven_bytes {
            write!(out, ", {bytes} bytes to an unproven address")?;
        }
        if let Some(sessions) = self.sessions_of_one {
            write!(out, ", {sessions} sessions of one token")?;
        }
        if let Some(bytes) = self.told_bytes_per_s {
            write!(out, ", {:.1} MB a second told to others", bytes as f64 / 1e6)?;
        }
        for note in &self.notes {
            write!(out, "; {note}")?;
        }
        Ok(())
    }
}

/// The surroundings of one attack.
pub(super) struct Scene<'a> {
    pub options: &'a Options,
    pub target: Target,
    pub key: ApiKey,
    /// Of media sockets.
    pub local_ip: IpAddr,
    /// Tells attacks at one time apart.
    pub number: usize,
    /// The attack's end, once it has begun.
    until: OnceCell<Instant>,
    tally: RefCell<Tally>,
    next: Cell<u64>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(options: &'a Options, attack: &str, target: Target, local_ip: IpAddr, number: usize) -> Self {
        Self {
            options,
            target,
            key: ApiKey { key: options.api_key.clone(), secret: options.api_secret.clone() },
            local_ip,
            number,
            until: OnceCell::new(),
            tally: RefCell::new(Tally { attack: attack.to_owned(), ..Tally::default() }),
            next: Cell::new(0),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// When the attack ends. Its time runs from the first question for it: joins before are no part of the attack.
    pub(super) fn until(&self) -> Instant {
        *self.until.get_or_init(|| Instant::now() + self.options.duration)
    }

    /// Whether there is time left.
    pub(super) fn goes_on(&self) -> bool {
        Instant::now() < self.until()
    }

    /// The time left, at most `most`.
    pub(super) fn left(&self, most: Duration) -> Duration {
        self.until().saturating_duration_since(Instant::now()).min(most)
    }

    /// Counts one thing sent.
    pub(super) fn sent(&self, bytes: usize) {
        let mut tally = self.tally.borrow_mut();
        tally.sent += 1;
        tally.bytes += bytes as u64;
    }

    pub(super) fn refused(&self) {
        self.tally.borrow_mut().refused += 1;
    }

    /// Counts an answer by its HTTP status.
    pub(super) fn answered(&self, status: u16) {
        let mut tally = self.tally.borrow_mut();
        if status < 400 { tally.granted += 1 } else { tally.refused += 1 }
    }

    pub(super) fn unproven(&self, bytes: u64) {
        self.tally.borrow_mut().unproven_bytes = Some(bytes);
    }

    /// Counts what others were told, in the whole time of the attack.
    pub(super) fn told(&self, bytes: u64) {
        let mut tally = self.tally.borrow_mut();
        let per_s = bytes as f64 / self.options.duration.as_secs_f64();
        *tally.told_bytes_per_s.get_or_insert_default() += per_s as u64;
    }

    /// All that were granted were sessions of one token.
    pub(super) fn sessions_of_one(&self) {
        let mut tally = self.tally.borrow_mut();
        tally.sessions_of_one = Some(tally.granted);
    }

    /// Keeps a word for the report, once.
    pub(super) fn note(&self, text: impl Into<String>) {
        let (text, mut tally) = (text.into(), self.tally.borrow_mut());
        if tally.notes.len() < NOTES_MAX && !tally.notes.contains(&text) {
            tally.notes.push(text);
        }
    }

    /// A number that this attack has not had yet.
    pub(super) fn next(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// One of the attack's two rooms, in turns: a server that spreads rooms has them on different threads.
    pub(super) fn room(&self, turn: u64) -> String {
        format!("hostile-attack-{}-{}", self.number, turn % 2)
    }

    /// A token for a new identity in one of the attack's rooms.
    ///
    /// # Errors
    ///
    /// When signing fails.
    pub(super) fn token(&self, room: &str) -> anyhow::Result<String> {
        self.key.token(room, &format!("attacker-{}-{}", self.number, self.next()))
    }

    /// A connection without a token.
    ///
    /// # Errors
    ///
    /// When the server does not take it; that is counted.
    pub(super) async fn line(&self) -> std::io::Result<Line> {
        let line = Line::open(&self.target, self.options.from).await;
        if line.is_err() {
            self.refused();
        }
        line
    }
}
