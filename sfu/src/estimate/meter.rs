//! How many bits a second pass, over the last half second.

/// Buckets of a [`Meter`], and how long each one is.
const BUCKETS: usize = 8;
const BUCKET_US: i64 = 62_500;
/// Shorter spans are no measure: a frame leaves each 33 ms.
const SPAN_MIN_US: i64 = 200_000;
const SPAN_MAX_US: i64 = BUCKETS as i64 * BUCKET_US;
/// What goes back in time further than this is of another clock.
const BACK_MAX: i64 = SPAN_MAX_US / BUCKET_US;
/// More than any client has: keeps a rate finite whatever a report says.
const BPS_MAX: f64 = 1e9;

/// Counts bytes by their time on any one clock.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: [u32; BUCKETS],
    /// Number of the newest bucket: its time divided by [`BUCKET_US`].
    newest: i64,
    /// The first and the latest time counted.
    first_us: i64,
    last_us: i64,
    started: bool,
}

impl Meter {
    pub(super) fn add(&mut self, at_us: i64, bytes: u32) {
        let bucket = at_us.div_euclid(BUCKET_US);
        let behind = self.newest.saturating_sub(bucket);
        let ahead = bucket.saturating_sub(self.newest);
        if !self.started || behind > BACK_MAX || ahead > 2 * BUCKETS as i64 {
            *self = Self { newest: bucket, first_us: at_us, last_us: at_us, started: true, ..Self::default() };
        }
        self.advance(bucket);
        self.last_us = self.last_us.max(at_us);
        // A bucket that is gone already: its bytes still passed.
        let into = if bucket <= self.newest - BUCKETS as i64 { self.newest } else { bucket };
        let count = &mut self.bytes[slot(into)];
        *count = count.saturating_add(bytes);
    }

    /// Bits a second up to the latest time counted.
    pub(super) fn bps(&self) -> f64 {
        let span = self.span_us(self.last_us).max(SPAN_MIN_US);
        let bytes: f64 = self.bytes.iter().map(|&bytes| f64::from(bytes)).sum();
        (bytes * 8e6 / span as f64).min(BPS_MAX)
    }

    /// Bits a second up to this time, which may be later than what was counted.
    pub(super) fn bps_at(&mut self, now_us: i64) -> f64 {
        if !self.started {
            return 0.0;
        }
        self.advance(now_us.div_euclid(BUCKET_US));
        self.last_us = self.last_us.max(now_us);
        self.bps()
    }

    /// Whether it has counted for long enough that its rate means something.
    pub(super) fn is_full(&self) -> bool {
        self.started && self.last_us.saturating_sub(self.first_us) >= SPAN_MIN_US
    }

    fn advance(&mut self, bucket: i64) {
        let ahead = bucket.saturating_sub(self.newest);
        if ahead <= 0 {
            return;
        }
        for step in 1..=ahead.min(BUCKETS as i64) {
            self.bytes[slot(self.newest.wrapping_add(step))] = 0;
        }
        if ahead > BUCKETS as i64 {
            self.bytes = [0; BUCKETS];
        }
        self.newest = bucket;
    }

    /// How much time the buckets stand for, at most half a second.
    fn span_us(&self, now_us: i64) -> i64 {
        let oldest = self.newest.saturating_sub(BUCKETS as i64 - 1).saturating_mul(BUCKET_US);
        now_us.saturating_sub(oldest.max(self.first_us)).min(SPAN_MAX_US)
    }
}

fn slot(bucket: i64) -> usize {
    bucket.rem_euclid(BUCKETS as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_measured_within_a_tenth() {
        let mut meter = Meter::default();
        for frame in 0..60 {
            meter.add(1_000_000_000_000 + frame * 33_333, 4_167);
            if frame > 15 {
                assert!((900_000.0..1_100_000.0).contains(&meter.bps()), "{}", meter.bps());
            }
        }
    }

    #[test]
    fn silence_empties_it() {
        let mut meter = Meter::default();
        for packet in 0..50 {
            meter.add(packet * 10_000, 1_200);
        }
        assert!(meter.bps_at(800_000) < 960_000.0 / 2.0);
        assert_eq!(meter.bps_at(5_000_000), 0.0);
    }

    #[test]
    fn another_clock_starts_it_anew() {
        let mut meter = Meter::default();
        meter.add(i64::MAX, u32::MAX);
        meter.add(i64::MIN, u32::MAX);
        meter.add(0, 1_000);
        meter.add(10_000, 1_000);
        assert_eq!(meter.bps(), 2_000.0 * 8.0 / 0.2);
        assert!(!meter.is_full());
    }
}
