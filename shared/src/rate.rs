//! How often somebody may do something: a bucket for each, filled again as time passes (ITU-T I.371, GCRA).

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Least time between two looks for buckets that are full again, which need not be kept.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Buckets of one size, a bounded number of them. Those who come when all are taken share one.
#[derive(Debug)]
pub struct Buckets<K> {
    burst: u32,
    refill: Duration,
    buckets_max: usize,
    /// When each is full again.
    full_at: HashMap<K, Instant>,
    shared_full_at: Option<Instant>,
    swept: Option<Instant>,
}

impl<K: Eq + Hash> Buckets<K> {
    /// Of `burst` units each; one more comes after each `refill`.
    pub fn new(burst: u32, refill: Duration, buckets_max: usize) -> Self {
        Self { burst, refill, buckets_max, full_at: HashMap::new(), shared_full_at: None, swept: None }
    }

    /// Takes a unit.
    ///
    /// # Errors
    /// How long to wait for the next one.
    pub fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        self.wait(&key, now)?;
        if self.full_at.len() >= self.buckets_max && !self.full_at.contains_key(&key) {
            self.sweep(now);
        }
        let has_place = self.full_at.len() < self.buckets_max || self.full_at.contains_key(&key);
        let full_at = self.full_at_of(&key).map_or(now, |at| at.max(now)) + self.refill;
        if has_place {
            self.full_at.insert(key, full_at);
        } else {
            self.shared_full_at = Some(full_at);
        }
        Ok(())
    }

    /// Looks whether there is a unit, and takes none.
    ///
    /// # Errors
    /// How long to wait for one.
    pub fn wait(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let missing = self.full_at_of(key).map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let excess = (missing + self.refill).saturating_sub(self.refill * self.burst);
        if excess.is_zero() { Ok(()) } else { Err(excess) }
    }

    fn full_at_of(&self, key: &K) -> Option<Instant> {
        let own = self.full_at.get(key).copied();
        own.or(self.shared_full_at.filter(|_| self.full_at.len() >= self.buckets_max))
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY) {
            self.swept = Some(now);
            self.full_at.retain(|_, at| *at > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_granted_and_then_one_unit_each_refill_to_everybody_alone() {
        let (mut buckets, now) = (Buckets::new(3, SECOND, 10), Instant::now());
        for _ in 0..3 {
            assert_eq!(buckets.wait(&"a", now), Ok(()));
            assert_eq!(buckets.take("a", now), Ok(()));
        }
        assert_eq!(buckets.take("a", now), Err(SECOND));
        assert_eq!(buckets.wait(&"a", now + SECOND / 2), Err(SECOND / 2));
        assert_eq!(buckets.take("b", now), Ok(()));

        assert_eq!(buckets.take("a", now + SECOND), Ok(()));
        assert_eq!(buckets.take("a", now + SECOND), Err(SECOND));
        assert!((0..3).all(|_| buckets.take("a", now + SECOND * 60).is_ok()));
    }

    #[test]
    fn buckets_are_bounded_and_those_without_one_share() {
        let (mut buckets, now) = (Buckets::new(2, SECOND, 100), Instant::now());
        let granted = (0..1_000).filter(|key| buckets.take(*key, now).is_ok()).count();

        assert_eq!((granted, buckets.full_at.len()), (102, 100));
        assert!(buckets.take(5_000, now + SECOND * 10).is_ok());
        assert_eq!(buckets.full_at.len(), 1, "full ones are forgotten");
    }
}
