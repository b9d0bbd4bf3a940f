//! Counters of the chat, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use shared::log_limit::LogLimit;

use super::refusal::{ConnectRefusal, RefusalCode};

/// Counts since the start of the process. Connections, sockets, rooms and waiting messages are current numbers.
#[derive(Debug, Default)]
pub struct Counters {
    /// Engine.IO connections.
    pub connections: AtomicU64,
    /// Sockets: connections times their namespaces.
    pub sockets: AtomicU64,
    pub rooms: AtomicU64,
    pub messages: AtomicU64,
    pub reactions: AtomicU64,
    /// Reactions beyond a user's limit.
    pub reactions_dropped: AtomicU64,
    /// Packets lost to clients that read too slowly.
    pub deliveries_lost: AtomicU64,
    /// Sockets closed for too many refused or malformed events.
    pub closed_for_faults: AtomicU64,
    /// States of rooms that were delayed, since too many bytes waited for the client or for others.
    pub states_held: AtomicU64,
    /// Requests of polling connections that were refused, and connections that were closed, since their clients did not
    /// read what waited for them.
    pub unread_posts: AtomicU64,
    pub closed_unread: AtomicU64,
    /// Messages that wait for the store.
    pub queued: AtomicU64,
    /// Messages that the store would not take, given up.
    pub queue_lost: AtomicU64,
    /// Notes of other nodes.
    pub relayed: AtomicU64,
    /// Messages of other nodes that came too late to be shown in order.
    pub relayed_late: AtomicU64,
    /// Requests refused before there was a connection, for their origin or since there are too many connections.
    pub refused_connections: AtomicU64,
    refused: [AtomicU64; RefusalCode::ALL.len()],
    pub(crate) unauthenticated_log: LogLimit,
    /// Of messages that the store, or the queue in front of it, did not take.
    pub(crate) not_kept_log: LogLimit,
    not_connected: [AtomicU64; ConnectRefusal::ALL.len()],
}

impl Counters {
    /// Refused events by code.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RefusalCode::ALL.iter().map(|code| code.name()).zip(self.refused.iter().map(|n| n.load(Ordering::Relaxed)))
    }

    /// Refused connections by code.
    pub fn not_connected(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.not_connected.iter().map(|n| n.load(Ordering::Relaxed));
        ConnectRefusal::ALL.iter().map(|code| code.name()).zip(counts)
    }

    pub(crate) fn count_refused(&self, code: RefusalCode) {
        add(&self.refused[code as usize], 1);
    }

    pub(crate) fn count_not_connected(&self, code: ConnectRefusal) {
        add(&self.not_connected[code as usize], 1);
    }
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

pub(crate) fn subtract(counter: &AtomicU64, count: u64) {
    counter.fetch_sub(count, Ordering::Relaxed);
}
