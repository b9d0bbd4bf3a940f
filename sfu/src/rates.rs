//! How many bits a second each temporal layer of an encoding takes.

use std::time::{Duration, Instant};

use crate::section::{LAYERS_MAX, LayerId};

/// Temporal layers that are told apart: VP8 can name no more (RFC 7741, section 4.2).
pub(crate) const TEMPORAL_MAX: usize = 4;

/// Temporal layers that make a rung of their own: 7, 15 and 30 frames a second of a camera.
pub(crate) const TEMPORAL_RUNGS: usize = 3;
/// Rungs of one track at most.
pub(crate) const RUNGS_MAX: usize = LAYERS_MAX * TEMPORAL_RUNGS;
/// Something that a track can be shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rung {
    pub(crate) layer: LayerId,
    /// Bits a second on the wire.
    pub(crate) bps: u64,
}

/// A slot of the window.
const SLOT: Duration = Duration::from_millis(250);
/// Two seconds: a key frame, five to eight times as large as another frame, adds a tenth or so.
const SLOTS: usize = 8;

/// What has arrived of one encoding in the last two seconds, by temporal layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerRates {
    /// Bytes that arrived, headers included; the slot at `at` is being filled.
    slots: [[u32; TEMPORAL_MAX]; SLOTS],
    at: usize,
    /// When the slot at `at` began; `None`: nothing has arrived yet.
    since: Option<Instant>,
    /// Slots that are whole.
    filled: usize,
}

impl LayerRates {
    /// Nothing has arrived.
    pub(crate) const fn new() -> Self {
        Self { slots: [[0; TEMPORAL_MAX]; SLOTS], at: 0, since: None, filled: 0 }
    }

    /// Counts a packet of a temporal layer.
    pub(crate) fn count(&mut self, now: Instant, temporal: u8, bytes: usize) {
        self.advance(now);
        let slot = &mut self.slots[self.at][usize::from(temporal).min(TEMPORAL_MAX - 1)];
        *slot = slot.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn advance(&mut self, now: Instant) {
        let Some(since) = &mut self.since else {
            self.since = Some(now);
            return;
        };
        let passed = now.saturating_duration_since(*since);
        if passed >= SLOT * SLOTS as u32 * 2 {
            *self = Self { since: Some(now), ..Self::new() };
            return;
        }
        for _ in 0..passed.as_micros() / SLOT.as_micros() {
            *since += SLOT;
            self.at = (self.at + 1) % SLOTS;
            self.slots[self.at] = [0; TEMPORAL_MAX];
            self.filled = (self.filled + 1).min(SLOTS - 1);
        }
    }

    /// Bits a second of the temporal layers up to each index, `None` until a quarter of a second has been seen.
    pub(crate) fn bps(&mut self, now: Instant) -> Option<[u64; TEMPORAL_MAX]> {
        self.advance(now);
        if self.filled == 0 {
            return None;
        }
        let mut sum = [0u64; TEMPORAL_MAX];
        for slot in 0..self.filled {
            let slot = &self.slots[(self.at + SLOTS - 1 - slot) % SLOTS];
            for (sum, bytes) in sum.iter_mut().zip(slot) {
                *sum += u64::from(*bytes);
            }
        }
        let millis = SLOT.as_millis() as u64 * self.filled as u64;
        let mut below = 0;
        Some(sum.map(|bytes| {
            below += bytes * 8_000 / millis;
            below
        }))
    }
}

impl Default for LayerRates {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn temporal_layers_add_up() {
        let start = Instant::now();
        let mut rates = LayerRates::new();
        for frame in 0..120u64 {
            let temporal = [0, 2, 1, 2][frame as usize % 4];
            rates.count(start + ms(frame * 1000 / 30), temporal, 1_000);
        }
        let [t0, t1, t2, t3] = rates.bps(start + ms(4_000)).expect("seen");
        assert_eq!(t2, t3);
        assert!(t2.abs_diff(240_000) <= 6_000, "{t2}");
        assert!(t0.abs_diff(60_000) <= 6_000 && t1.abs_diff(120_000) <= 6_000, "{t0} {t1}");
    }

    #[test]
    fn what_stopped_has_no_rate() {
        let start = Instant::now();
        let mut rates = LayerRates::new();
        assert_eq!(rates.bps(start), None);
        rates.count(start, 0, 1_000);
        assert_eq!(rates.bps(start + ms(100)), None);
        assert_eq!(rates.bps(start + ms(300)), Some([32_000; TEMPORAL_MAX]));
        assert_eq!(rates.bps(start + ms(2_500)), Some([0; TEMPORAL_MAX]));
        rates.count(start + ms(60_000), 9, 1_000);
        assert_eq!(rates.bps(start + ms(60_250)), Some([0, 0, 0, 32_000]));
    }
}
