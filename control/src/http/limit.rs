//! How often somebody may call (stream API, section 1, rule 10): a token bucket for each user and each client address.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use shared::rate;

use super::client::ClientKey;
use crate::problem::{Code, Problem};
use crate::store::stream::UserId;

/// Buckets of one kind that are kept. Those who come when all are taken share one.
const BUCKETS_MAX: usize = 100_000;

/// Calls between two looks for buckets that are full again, which need not be kept.
const SWEEP_EVERY: u64 = 16_384;

/// Webhooks of one address in a minute whose signature is wrong.
const FORGED_PER_MINUTE: u32 = 60;

/// Acts of moderation of one user at once, as when a stream is raided. Each is a line of the audit log, which stays.
const ACTS_AT_ONCE: NonZeroU32 = NonZeroU32::new(600).expect("it is not zero");

/// How many more there may be in each hour after them.
const ACTS_PER_HOUR: NonZeroU32 = NonZeroU32::new(60).expect("it is not zero");

/// The limits of one process.
pub(super) struct Limits {
    users: Buckets<UserId>,
    clients: Buckets<ClientKey>,
    forgers: Buckets<ClientKey>,
    acts: Buckets<UserId>,
    /// Refused tokens.
    refused: Option<Mutex<rate::Buckets<ClientKey>>>,
}

impl Limits {
    /// 0 means unlimited.
    pub(super) fn new(user_per_minute: u32, client_per_minute: u32) -> Self {
        Self {
            users: Buckets::new(user_per_minute),
            clients: Buckets::new(client_per_minute),
            forgers: Buckets::new(FORGED_PER_MINUTE),
            acts: Buckets::of(Some(Quota::per_hour(ACTS_PER_HOUR).allow_burst(ACTS_AT_ONCE))),
            refused: NonZeroU32::new(client_per_minute).map(|units| {
                let refill = Duration::from_secs(60) / units.get();
                Mutex::new(rate::Buckets::new(units.get(), refill, BUCKETS_MAX))
            }),
        }
    }

    pub(super) fn call_of_user(&self, user: &UserId) -> Result<(), Problem> {
        self.users.take(user).map_err(too_often)
    }

    pub(super) fn call_of_client(&self, client: ClientKey) -> Result<(), Problem> {
        self.clients.take(&client).map_err(too_often)
    }

    /// Not after too many tokens from there that were refused.
    pub(super) fn may_guess(&self, client: ClientKey, now: Instant) -> Result<(), Problem> {
        let Some(refused) = &self.refused else { return Ok(()) };
        refused.lock().expect("no one panics with this lock").wait(&client, now).map_err(too_often)
    }

    /// A token from there was refused.
    pub(super) fn note_refused(&self, client: ClientKey, now: Instant) {
        if let Some(refused) = &self.refused {
            // It was refused anyway.
            let _ = refused.lock().expect("no one panics with this lock").take(client, now);
        }
    }

    /// Somebody blocks, mutes, deletes, or takes it back.
    pub(super) fn act_of_user(&self, user: &UserId) -> Result<(), Problem> {
        self.acts.take(user).map_err(|wait| {
            let detail = format!(
                "Not more than {ACTS_AT_ONCE} acts of moderation at once, and {ACTS_PER_HOUR} an hour; wait a little."
            );
            Problem::new(Code::RateLimited, detail).retry_after(wait)
        })
    }

    /// A webhook whose signature is wrong.
    pub(super) fn forged(&self, client: ClientKey) -> Result<(), Problem> {
        self.forgers.take(&client).map_err(too_often)
    }
}

fn too_often(wait: Duration) -> Problem {
    Problem::new(Code::RateLimited, "Too many calls; slow down.").retry_after(wait)
}

struct Buckets<K: Hash + Eq + Clone>(Option<Kept<K>>);

struct Kept<K: Hash + Eq + Clone> {
    buckets: DefaultKeyedRateLimiter<Option<K>>,
    clock: DefaultClock,
    calls: AtomicU64,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// 0 means unlimited.
    fn new(per_minute: u32) -> Self {
        Self::of(NonZeroU32::new(per_minute).map(Quota::per_minute))
    }

    fn of(quota: Option<Quota>) -> Self {
        Self(quota.map(|quota| Kept {
            buckets: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            calls: AtomicU64::new(0),
        }))
    }

    /// # Errors
    /// How long to wait for the next unit.
    fn take(&self, key: &K) -> Result<(), Duration> {
        let Some(kept) = &self.0 else {
            return Ok(());
        };
        kept.sweep();
        let key = (kept.buckets.len() < BUCKETS_MAX).then(|| key.clone());
        kept.buckets.check_key(&key).map_err(|refused| refused.wait_time_from(kept.clock.now()))
    }
}

impl<K: Hash + Eq + Clone> Kept<K> {
    fn sweep(&self) {
        if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_EVERY) {
            self.buckets.retain_recent();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        name.parse().unwrap()
    }

    #[test]
    fn each_user_has_a_bucket() {
        let limits = Limits::new(2, 1);

        assert!(limits.call_of_user(&user("a")).is_ok());
        assert!(limits.call_of_user(&user("a")).is_ok());
        let refused = limits.call_of_user(&user("a")).unwrap_err();
        assert_eq!(refused.code, Code::RateLimited);
        assert!(refused.retry_after.is_some_and(|after| after <= Duration::from_secs(30)));
        assert!(limits.call_of_user(&user("b")).is_ok());
    }

    #[test]
    fn units_come_back_one_by_one_over_the_time_of_all() {
        let limits = Limits::new(2, 3);
        let client = ClientKey::from("192.0.2.1".parse::<std::net::IpAddr>().unwrap());
        let waits = |name: &str, at_once: u32, call: &dyn Fn() -> Result<(), Problem>, wait_secs: u64| {
            assert!((0..at_once).all(|_| call().is_ok()), "{name}: {at_once} at once");
            let wait = call().expect_err(name).retry_after.expect("it says how long");
            let expected = Duration::from_secs(wait_secs);
            // The clock has gone on since the first call.
            assert!(
                wait <= expected && wait > expected / 2,
                "{name}: one in {expected:?}, but it is back after {wait:?}"
            );
        };
        waits("calls of a user", 2, &|| limits.call_of_user(&user("a")), 30);
        waits("calls of an address", 3, &|| limits.call_of_client(client), 20);
        waits("acts of moderation", ACTS_AT_ONCE.get(), &|| limits.act_of_user(&user("a")), 60);
    }

    #[test]
    fn after_too_many_refused_tokens_an_address_waits_and_no_other() {
        let (limits, now) = (Limits::new(0, 3), Instant::now());
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<std::net::IpAddr>().unwrap().into());
        for _ in 0..3 {
            assert!(limits.may_guess(one, now).is_ok());
            limits.note_refused(one, now);
        }

        for waited in [0, 19] {
            let refused = limits.may_guess(one, now + Duration::from_secs(waited)).map_err(|problem| problem.code);
            assert_eq!(refused, Err(Code::RateLimited), "after {waited} s of 20");
        }
        assert!(limits.may_guess(other, now).is_ok());
        assert!(limits.may_guess(one, now + Duration::from_secs(20)).is_ok());
    }

    #[test]
    fn zero_means_unlimited() {
        let limits = Limits::new(0, 0);

        assert!((0..10_000).all(|_| limits.call_of_user(&user("a")).is_ok()));
        assert!(limits.refused.is_none());
    }

    #[test]
    fn buckets_do_not_grow_without_a_bound() {
        let buckets: Buckets<u64> = Buckets::new(1);

        for key in 0..(BUCKETS_MAX as u64 + 50_000) {
            let _ = buckets.take(&key);
        }

        assert!(buckets.0.unwrap().buckets.len() <= BUCKETS_MAX + 1);
    }
}
