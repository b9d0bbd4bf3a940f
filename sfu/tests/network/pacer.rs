//! Chrome's pacer: packets leave at 2.5 times the target bitrate, in bursts of 40 ms.

use std::time::Duration;

const FACTOR: f64 = 2.5;
/// `kDefaultPacingBurst`, as PeerConnection sets it.
const BURST: Duration = Duration::from_millis(40);

#[derive(Debug)]
pub struct Pacer {
    bps: f64,
    /// When all that has been sent would have left at the pacing rate.
    drained: Duration,
}

impl Pacer {
    pub fn new(target_bps: u64) -> Self {
        Self { bps: target_bps as f64 * FACTOR, drained: Duration::ZERO }
    }

    /// When a packet leaves that is ready now.
    pub fn leave(&mut self, now: Duration, bytes: usize) -> Duration {
        let leaves = now.max(self.drained.saturating_sub(BURST));
        self.drained = self.drained.max(leaves) + Duration::from_secs_f64(bytes as f64 * 8.0 / self.bps);
        leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_leaves_at_once_and_the_rest_at_the_pacing_rate() {
        let mut pacer = Pacer::new(1_000_000);
        let leaves: Vec<Duration> = (0..100).map(|_| pacer.leave(Duration::ZERO, 1_250)).collect();
        // 4 ms each.
        assert_eq!(leaves.iter().filter(|at| at.is_zero()).count(), 11);
        assert_eq!(leaves[99], Duration::from_millis(4 * 99 - 40));
    }
}
