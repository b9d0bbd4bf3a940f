//! How many bytes may leave to a client now: a bucket of tokens, filled at the pace of its way.

use std::time::{Duration, Instant};

/// What may leave at once after a moment of rest.
const BURST: Duration = Duration::from_millis(25);
const BURST_BYTES_MIN: f64 = 3_000.0;

/// Tokens in bytes: audio and retransmissions take them too, and may leave it in debt.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pacer {
    tokens: f64,
    burst: f64,
    filled: Option<Instant>,
}

impl Pacer {
    /// Fills up at so many bytes a second.
    pub(super) fn refill(&mut self, now: Instant, bytes_per_second: f64) {
        self.burst = (bytes_per_second * BURST.as_secs_f64()).max(BURST_BYTES_MIN);
        let passed = self.filled.replace(now).map_or(BURST, |filled| now.saturating_duration_since(filled));
        self.tokens = (self.tokens + bytes_per_second * passed.as_secs_f64()).min(self.burst);
    }

    /// Bytes that may leave now.
    pub(super) fn bytes(&self) -> usize {
        self.tokens.max(0.0) as usize
    }

    /// So many bytes have left.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.tokens = (self.tokens - bytes as f64).max(-self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_keeps_the_pace() {
        let mut now = Instant::now();
        let mut pacer = Pacer::default();
        let mut left = 0;
        for _ in 0..100 {
            pacer.refill(now, 100_000.0);
            let bytes = pacer.bytes();
            pacer.spend(bytes);
            left += bytes;
            now += Duration::from_millis(20);
        }
        assert!((198_000..=203_000).contains(&left), "{left} bytes in two seconds");
    }

    #[test]
    fn rest_saves_no_more_than_a_burst_and_debts_are_bounded() {
        let mut now = Instant::now();
        let mut pacer = Pacer::default();
        pacer.refill(now, 100_000.0);
        now += Duration::from_secs(60);
        pacer.refill(now, 100_000.0);
        assert_eq!(pacer.bytes(), 3_000);
        pacer.spend(1_000_000);
        assert_eq!(pacer.bytes(), 0);
        pacer.refill(now + Duration::from_millis(60), 100_000.0);
        assert_eq!(pacer.bytes(), 3_000);
    }
}
