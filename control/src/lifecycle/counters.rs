//! What happened to streams in this process, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use shared::log_limit::LogLimit;

use crate::store::stream::EndReason;

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    pub started: AtomicU64,
    pub resumed: AtomicU64,
    pub scheduled: AtomicU64,
    pub cancelled: AtomicU64,
    pub watch_tokens: AtomicU64,
    ended: [AtomicU64; END_REASONS.len()],
    /// Events of rooms, from webhooks or from this process.
    pub events_applied: AtomicU64,
    pub events_repeated: AtomicU64,
    /// Events that concern no stream, by their room or kind.
    pub events_not_ours: AtomicU64,
    /// Events that were not handled, since the store was away or the queue full. Reconciliation makes up for them.
    pub events_deferred: AtomicU64,
    /// Webhooks with a bad signature.
    pub webhooks_refused: AtomicU64,
    pub(crate) webhooks_refused_log: LogLimit,
    /// Signed webhooks that cannot be read.
    pub webhooks_malformed: AtomicU64,
    pub reconciliations: AtomicU64,
    pub reconciliations_failed: AtomicU64,
    /// Records of sessions that a comparison opened or closed, and states that it corrected.
    pub reconciled_differences: AtomicU64,
    pub sessions_removed: AtomicU64,
    pub rooms_deleted: AtomicU64,
}

/// All reasons, in the order in which they are counted.
pub const END_REASONS: [EndReason; 9] = [
    EndReason::Stopped,
    EndReason::EndedByAdmin,
    EndReason::RoomFinished,
    EndReason::NeverStarted,
    EndReason::PublisherTimeout,
    EndReason::Replaced,
    EndReason::MaxDuration,
    EndReason::ServerLost,
    EndReason::Banned,
];

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_end(&self, reason: EndReason) {
        Self::add(&self.ended[index(reason)]);
    }

    /// Streams that this process ended for this reason.
    pub fn ended(&self, reason: EndReason) -> u64 {
        self.ended[index(reason)].load(Ordering::Relaxed)
    }

    /// Streams ended by reason.
    pub fn ends(&self) -> impl Iterator<Item = (&'static str, u64)> {
        END_REASONS.iter().map(|&reason| (reason.name(), self.ended(reason)))
    }
}

fn index(reason: EndReason) -> usize {
    match reason {
        EndReason::Stopped => 0,
        EndReason::EndedByAdmin => 1,
        EndReason::RoomFinished => 2,
        EndReason::NeverStarted => 3,
        EndReason::PublisherTimeout => 4,
        EndReason::Replaced => 5,
        EndReason::MaxDuration => 6,
        EndReason::ServerLost => 7,
        EndReason::Banned => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_by_itself() {
        for (position, &reason) in END_REASONS.iter().enumerate() {
            assert_eq!(index(reason), position);
        }
    }
}
