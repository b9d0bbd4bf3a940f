//! Whether the store answers, and since when it does not.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::{SharedStore, StoreError};

/// How often the store is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a node may be without its store before it asks to be left alone: as long as counts may be wrong after a
/// crash (stream API, section 15). Until then what is in memory serves well, and a restarted database is back.
pub const AWAY_MAX: Duration = Duration::from_secs(30);

/// What is known of the store. Shared by readiness and metrics.
#[derive(Debug, Clone, Default)]
pub struct StoreHealth(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Since when it does not answer.
    away_since: Option<Instant>,
    /// Looks without an answer, or with an error.
    failures: u64,
}

impl StoreHealth {
    /// How long it has been away; `None` while it answers.
    pub fn away_for(&self, now: Instant) -> Option<Duration> {
        self.known().away_since.map(|since| now.saturating_duration_since(since))
    }

    /// Looks that failed, ever.
    pub fn failures(&self) -> u64 {
        self.known().failures
    }

    /// Takes in an answer, or why there was none.
    pub fn note(&self, answer: Result<(), StoreError>, now: Instant) {
        let mut known = self.known();
        match (answer, known.away_since) {
            (Ok(()), None) => {}
            (Ok(()), Some(since)) => {
                info!(seconds = now.saturating_duration_since(since).as_secs(), "the store is back");
                known.away_since = None;
            }
            (Err(error), since) => {
                known.failures += 1;
                if since.is_none() {
                    warn!(%error, "the store does not answer");
                    known.away_since = Some(now);
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("no one panics with this lock")
    }
}

/// Asks the store now and then until `shutdown`.
pub async fn watch(store: SharedStore, health: StoreHealth, shutdown: CancellationToken) {
    loop {
        let late = |_| Err(StoreError::Unavailable(format!("no answer within {PATIENCE:?}")));
        let answer = tokio::time::timeout(PATIENCE, store.ping()).await.unwrap_or_else(late);
        health.note(answer, Instant::now());
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

        let away = || Err(StoreError::Unavailable("a full disk".to_owned()));
        health.note(away(), at(1));
        health.note(away(), at(20));
        assert_eq!(health.away_for(at(31)), Some(Duration::from_secs(30)));

        health.note(Ok(()), at(32));
        assert_eq!((health.away_for(at(33)), health.failures()), (None, 2));
    }
}
