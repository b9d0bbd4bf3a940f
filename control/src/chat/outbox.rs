//! Bounds of what waits to be sent to clients of the chat, in bytes.
//!
//! The library bounds the number of packets that wait for a connection, but not their bytes. The state that a client is
//! sent when it joins contains the history, so that it is thousands of times longer than the request. So a state is
//! sent only while the bytes that wait for the connection, for its address and for all connections are below their
//! bounds; else later, when some have been delivered.
//!
//! Bytes that were written to the socket count as delivered: the kernel holds few of them. Broadcasts are not counted,
//! since all clients of a room share their bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::counters::{Counters, add};
use crate::http::client::ClientKey;
use crate::serve::Delivered;

/// What may wait.
#[derive(Debug, Clone, PartialEq)]
pub struct UnreadLimits {
    /// For one connection, in bytes. One answer may be longer, if it is all that waits.
    pub of_connection: u64,
    /// For the connections of one address, in bytes.
    pub of_address: u64,
    /// For all connections, in bytes, when a guest asks; the rest is for those with a token.
    pub of_guests: u64,
    pub of_all: u64,
    /// How long bytes may wait for a client before its connection is closed.
    pub time: Duration,
    /// What a polling connection may post, in bytes, before it fetches something: the library's answers to some packets
    /// contain the packet.
    pub posted: u64,
}

impl Default for UnreadLimits {
    fn default() -> Self {
        Self {
            of_connection: 512 << 10,
            of_address: 16 << 20,
            of_guests: 64 << 20,
            of_all: 128 << 20,
            time: Duration::from_secs(60),
            posted: 64 << 10,
        }
    }
}

/// The outboxes of all connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outboxes(Arc<Inner>);

struct Inner {
    limits: UnreadLimits,
    counters: Arc<Counters>,
    sums: Mutex<Sums>,
}

#[derive(Default)]
struct Sums {
    all: u64,
    of_address: HashMap<ClientKey, u64>,
    /// By the id of their connection.
    known: HashMap<String, Weak<Outbox>>,
}

/// What waits for one connection of Engine.IO, over either transport.
pub(crate) struct Outbox {
    outboxes: Outboxes,
    address: ClientKey,
    waiting: Mutex<Waiting>,
    id: OnceLock<String>,
}

struct Waiting {
    bytes: u64,
    /// Of these, the bytes that waited already at `since`.
    due: u64,
    since: Instant,
    /// Bytes posted by polling since something was fetched.
    posted: u64,
}

impl Outboxes {
    pub fn new(limits: UnreadLimits, counters: Arc<Counters>) -> Self {
        Self(Arc::new(Inner { limits, counters, sums: Mutex::default() }))
    }

    pub fn open(&self, address: ClientKey) -> Arc<Outbox> {
        let waiting = Mutex::new(Waiting { bytes: 0, due: 0, since: Instant::now(), posted: 0 });
        Arc::new(Outbox { outboxes: self.clone(), address, waiting, id: OnceLock::new() })
    }

    /// Sets the id by which later requests of the connection find its outbox.
    pub fn name(&self, outbox: &Arc<Outbox>, id: String) {
        if outbox.id.set(id.clone()).is_ok() {
            self.sums().known.insert(id, Arc::downgrade(outbox));
        }
    }

    pub fn find(&self, id: &str) -> Option<Arc<Outbox>> {
        self.sums().known.get(id)?.upgrade()
    }

    fn sums(&self) -> std::sync::MutexGuard<'_, Sums> {
        self.0.sums.lock().expect("no one panics with this lock")
    }
}

impl Sums {
    fn subtract(&mut self, address: ClientKey, bytes: u64) {
        self.all -= bytes;
        if let Some(here) = self.of_address.get_mut(&address) {
            *here -= bytes;
            if *here == 0 {
                self.of_address.remove(&address);
            }
        }
    }
}

impl Outbox {
    /// Counts bytes that are about to be sent. False: there is no room for them.
    pub fn offer(&self, bytes: u64, is_guest: bool, now: Instant) -> bool {
        let mut waiting = self.waiting();
        let mut sums = self.outboxes.sums();
        if !self.fits(bytes, is_guest, waiting.bytes, &sums) {
            return false;
        }
        if waiting.bytes == 0 {
            (waiting.due, waiting.since) = (bytes, now);
        }
        waiting.bytes += bytes;
        sums.all += bytes;
        *sums.of_address.entry(self.address).or_insert(0) += bytes;
        true
    }

    /// Takes back an offer of bytes that are not sent after all.
    pub fn withdraw(&self, bytes: u64) {
        let mut waiting = self.waiting();
        let bytes = bytes.min(waiting.bytes);
        waiting.bytes -= bytes;
        waiting.due = waiting.due.min(waiting.bytes);
        self.outboxes.sums().subtract(self.address, bytes);
    }

    /// Whether so many bytes could wait now.
    pub fn has_room(&self, bytes: u64, is_guest: bool) -> bool {
        let waiting = self.waiting();
        self.fits(bytes, is_guest, waiting.bytes, &self.outboxes.sums())
    }

    fn fits(&self, bytes: u64, is_guest: bool, waiting: u64, sums: &Sums) -> bool {
        let limits = &self.outboxes.0.limits;
        let here = sums.of_address.get(&self.address).copied().unwrap_or(0);
        let of_all = if is_guest { limits.of_guests } else { limits.of_all };
        let fits = |before: u64, max: u64| before == 0 || before + bytes <= max;
        fits(waiting, limits.of_connection) && fits(here, limits.of_address) && fits(sums.all, of_all)
    }

    /// Counts a body that a polling connection posts. False: it has posted too much since it fetched something.
    pub fn admits_post(&self, bytes: u64, now: Instant) -> bool {
        let limits = &self.outboxes.0.limits;
        let mut waiting = self.waiting();
        if waiting.posted > limits.posted || waiting.is_late(limits, now) {
            add(&self.outboxes.0.counters.unread_posts, 1);
            return false;
        }
        waiting.posted = waiting.posted.saturating_add(bytes);
        true
    }

    fn take(&self, bytes: u64, now: Instant) -> bool {
        let limits = &self.outboxes.0.limits;
        let mut waiting = self.waiting();
        waiting.posted = 0;
        if waiting.bytes == 0 {
            return true;
        }
        if waiting.is_late(limits, now) {
            add(&self.outboxes.0.counters.closed_unread, 1);
            return false;
        }
        let taken = bytes.min(waiting.bytes);
        waiting.bytes -= taken;
        waiting.due = waiting.due.saturating_sub(taken);
        if waiting.due == 0 {
            (waiting.due, waiting.since) = (waiting.bytes, now);
        }
        self.outboxes.sums().subtract(self.address, taken);
        true
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no one panics with this lock")
    }
}

impl Waiting {
    fn is_late(&self, limits: &UnreadLimits, now: Instant) -> bool {
        self.bytes > 0 && now.saturating_duration_since(self.since) > limits.time
    }
}

impl Delivered for Outbox {
    fn delivered(&self, bytes: usize) -> bool {
        self.take(bytes as u64, Instant::now())
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let left = self.waiting().bytes;
        let mut sums = self.outboxes.sums();
        sums.subtract(self.address, left);
        if let Some(id) = self.id.get() {
            sums.known.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn outboxes() -> Outboxes {
        let (time, posted) = (Duration::from_secs(60), 50);
        let limits = UnreadLimits { of_connection: 100, of_address: 250, of_guests: 400, of_all: 500, time, posted };
        Outboxes::new(limits, Arc::default())
    }

    fn address(n: u32) -> ClientKey {
        std::net::IpAddr::from(Ipv4Addr::from_bits(n)).into()
    }

    #[test]
    fn what_waits_is_bounded_for_a_connection_its_address_guests_and_all() {
        let (outboxes, now) = (outboxes(), Instant::now());
        let open = |n: u32| outboxes.open(address(n));
        let [one, two, three] = [1, 1, 1].map(open);

        assert!(one.offer(60, true, now) && !one.offer(60, true, now), "of a connection");
        assert!(one.offer(40, true, now) && two.offer(100, true, now));
        assert!(!three.offer(60, true, now), "of an address");
        let [four, five] = [2, 3].map(open);
        assert!(four.offer(200, true, now), "one answer may be longer");
        assert!(!five.offer(60, true, now) && five.offer(60, false, now), "of guests");
        assert!(!open(4).offer(60, false, now), "of all");

        drop(four);
        assert!(one.take(100, now));
        assert!(three.offer(60, true, now) && one.offer(40, false, now));
        drop((one, two, three, five));
        let sums = outboxes.sums();
        assert!(sums.all == 0 && sums.of_address.is_empty());
    }

    #[test]
    fn a_client_that_takes_a_little_now_and_then_is_late_all_the_same() {
        let (outboxes, start) = (outboxes(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (slow, steady) = (outboxes.open(address(1)), outboxes.open(address(2)));
        assert!(slow.offer(90, true, at(0)) && steady.offer(90, true, at(0)));

        assert!((1..=60).all(|second| slow.take(1, at(second))));
        assert!(!slow.take(1, at(61)));
        assert!((1..20).all(|n| steady.take(30, at(20 * n)) && steady.offer(30, true, at(20 * n))));
        assert_eq!(outboxes.0.counters.closed_unread.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[test]
    fn a_polling_connection_posts_little_until_it_fetches_something() {
        let (outboxes, now) = (outboxes(), Instant::now());
        let outbox = outboxes.open(address(1));

        assert!(outbox.admits_post(40, now) && outbox.admits_post(40, now));
        assert!(!outbox.admits_post(1, now));
        assert!(outbox.take(1, now));
        assert!(outbox.admits_post(40, now));
    }

    #[test]
    fn an_outbox_is_found_while_its_connection_is_there() {
        let outboxes = outboxes();
        let outbox = outboxes.open(address(1));
        outboxes.name(&outbox, "a".into());

        assert!(outboxes.find("a").is_some() && outboxes.find("b").is_none());
        drop(outbox);
        assert!(outboxes.find("a").is_none() && outboxes.sums().known.is_empty());
    }
}
