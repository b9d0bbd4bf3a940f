//! The attacks, by where they go.

pub(super) mod channels;
pub(super) mod crowds;
pub(super) mod doors;
pub(super) mod paths;
pub(super) mod signalling;

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lets a loop run so often a second, in small bursts.
struct Pace {
    next: Instant,
    step: Duration,
    burst: u32,
    done: u32,
}

impl Pace {
    /// Bursts of a hundredth of a second.
    fn per_second(rate: u32) -> Self {
        Self { next: Instant::now(), step: Duration::from_millis(10), burst: (rate / 100).max(1), done: 0 }
    }

    /// Waits at the end of a burst; gives whether it did.
    async fn step(&mut self) -> bool {
        self.done += 1;
        if self.done < self.burst {
            return false;
        }
        self.done = 0;
        self.next += self.step;
        sleep_until(self.next).await;
        // What a busy machine could not do is not made up for in one go.
        self.next = self.next.max(Instant::now() - self.step);
        true
    }
}

/// So many random bytes.
fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand::fill(&mut bytes[..]);
    bytes
}
