//! Whether the store answers, and since when it does not.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::SharedStore;

/// How often the store is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a node may be without its store before it asks to be left alone: as long as counts may be wrong after a crash
/// (stream API, section 15). Until then what is in memory serves well, and a restarted database is back.
pub const AWAY_MAX: Duration = Duration::from_secs(30);

/// What is known of the store. Shared by readiness and metrics.
#[derive(Debug, Clone, Default)]
pub struct StoreHealth(Arc<Mutex<Option<Instant>>>);

impl StoreHealth {
    /// How long it has been away; `None` while it answers.
    pub fn away_for(&self, now: Instant) -> Option<Duration> {
        self.away_since().map(|since| now.saturating_duration_since(since))
    }

    /// Takes in an answer, or that there was none.
    pub fn note(&self, answers: bool, now: Instant) {
        let mut since = self.0.lock().expect("no one panics with this lock");
        match (answers, *since) {
            (true, Some(from)) => {
                info!(seconds = now.saturating_duration_since(from).as_secs(), "the store is back");
                *since = None;
            }
            (false, None) => {
                warn!("the store does not answer");
                *since = Some(now);
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    fn away_since(&self) -> Option<Instant> {
        *self.0.lock().expect("no one panics with this lock")
    }
}

/// Asks the store now and then until `shutdown`.
pub async fn watch(store: SharedStore, health: StoreHealth, shutdown: CancellationToken) {
    loop {
        let answered = tokio::time::timeout(PATIENCE, store.ping()).await;
        health.note(answered.is_ok_and(|answer| answer.is_ok()), Instant::now());
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_away_from_its_first_missing_answer_until_the_next_one() {
        let (health, start) = (StoreHealth::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(health.away_for(at(0)), None);

        health.note(false, at(1));
        health.note(false, at(20));
        assert_eq!(health.away_for(at(31)), Some(Duration::from_secs(30)));

        health.note(true, at(32));
        assert_eq!(health.away_for(at(33)), None);
    }
}
