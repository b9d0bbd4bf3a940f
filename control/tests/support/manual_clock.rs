//! Time as a test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use control::clock::{Clock, Timestamp};

/// Cheap to clone; all copies show the same.
#[derive(Clone)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.millis())))
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(i64::try_from(seconds * 1000).unwrap(), Ordering::SeqCst);
    }

    /// As a clock that was ahead, and is set.
    #[allow(dead_code, reason = "not every suite needs it")]
    pub fn set_back(&self, seconds: u64) {
        self.0.fetch_sub(i64::try_from(seconds * 1000).unwrap(), Ordering::SeqCst);
    }

    /// For what is tested.
    pub fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}
