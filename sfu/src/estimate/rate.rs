//! How the estimate falls at over-use and grows without it (`aimd_rate_control.cc` of libwebrtc).

/// What an estimate is at least and at most.
pub(super) const BPS_MIN: f64 = 50_000.0;
pub(super) const BPS_MAX: f64 = 20_000_000.0;

/// Growth a second far from the rate of the last over-use, and the bits of one step near it.
const GROWTH: f64 = 1.08;
/// The same after trains that arrived much faster.
const GROWTH_FAST: f64 = 1.5;
const STEP_BITS: f64 = 9_600.0;
const STEP_MIN: f64 = 4_000.0;
/// A second cut within this time goes deeper.
const AGAIN_US: u64 = 1_000_000;
/// What the last over-use tells of the link counts this long.
const CAPACITY_US: u64 = 20_000_000;
/// Weight of a new sample of the capacity, and bounds of its variance, per kbit/s, as libwebrtc has them.
const CAPACITY_WEIGHT: f64 = 0.05;
const VARIANCE_MIN: f64 = 0.4;
const VARIANCE_MAX: f64 = 2.5;

/// What is known of the link at an over-use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overuse {
    pub now_us: u64,
    /// Rate of arrival.
    pub acked: f64,
    /// Rate at which the last trains left the narrowest part.
    pub bottleneck: Option<f64>,
    /// Much less is sent than the estimate allows.
    pub app_limited: bool,
}

/// What is known of the link without over-use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    pub now_us: u64,
    pub elapsed_us: u64,
    pub rtt_us: u64,
    /// The estimate does not grow beyond.
    pub ceiling: f64,
    /// Growth as a share of the usual one.
    pub pace: f64,
    /// Trains arrive much faster than the estimate.
    pub fast: bool,
}

/// Rate of the link as over-use has shown it.
#[derive(Debug, Clone, Copy)]
struct Capacity {
    bps: f64,
    variance: f64,
    at_us: u64,
}

/// The estimate.
#[derive(Debug)]
pub(super) struct Rate {
    bps: f64,
    capacity: Option<Capacity>,
    cut_us: Option<u64>,
}

impl Rate {
    pub(super) fn new(bps: f64) -> Self {
        Self { bps, capacity: None, cut_us: None }
    }

    pub(super) fn bps(&self) -> f64 {
        self.bps
    }

    /// Sets the estimate, within its bounds.
    pub(super) fn set(&mut self, bps: f64) {
        self.bps = if bps.is_finite() { bps.clamp(BPS_MIN, BPS_MAX) } else { self.bps };
    }

    /// How long ago the last cut was.
    pub(super) fn since_cut_us(&self, now_us: u64) -> Option<u64> {
        self.cut_us.map(|at| now_us.saturating_sub(at))
    }

    pub(super) fn decrease(&mut self, overuse: &Overuse) {
        let again = self.since_cut_us(overuse.now_us).is_some_and(|ago| ago < AGAIN_US);
        let by_acked = 0.85 * overuse.acked;
        let next = match overuse.bottleneck {
            Some(bottleneck) if again => by_acked.min(0.9 * bottleneck),
            Some(bottleneck) => (0.95 * self.bps).min(0.9 * bottleneck),
            None if overuse.app_limited => by_acked.max(0.7 * self.bps),
            None => by_acked,
        };
        self.note_capacity(overuse.now_us, overuse.bottleneck.unwrap_or(overuse.acked));
        self.cut(overuse.now_us, next);
    }

    /// Lowers the estimate to this, if it is higher.
    pub(super) fn cut(&mut self, now_us: u64, bps: f64) {
        self.cut_us = Some(now_us);
        self.set(bps.min(self.bps));
    }

    pub(super) fn increase(&mut self, growth: &Growth) {
        let elapsed = growth.elapsed_us.min(1_000_000) as f64 / 1e6;
        let next = if self.is_near_capacity(growth.now_us) {
            let response = 2.0 * (growth.rtt_us.min(2_000_000) as f64 / 1e6 + 0.1);
            self.bps + (STEP_BITS / response).max(STEP_MIN) * elapsed * growth.pace
        } else {
            let a_second = if growth.fast { GROWTH_FAST } else { GROWTH };
            self.bps * a_second.powf(elapsed * growth.pace)
        };
        self.set(next.min(growth.ceiling).max(self.bps));
    }

    pub(super) fn note_capacity(&mut self, now_us: u64, bps: f64) {
        let known = self.capacity.filter(|capacity| capacity.is_about(bps, now_us));
        let Some(capacity) = known else {
            self.capacity = Some(Capacity { bps, variance: VARIANCE_MIN, at_us: now_us });
            return;
        };
        let mean = (1.0 - CAPACITY_WEIGHT) * capacity.bps + CAPACITY_WEIGHT * bps;
        let error = (bps - mean) / 1e3;
        let square = error * error / (mean / 1e3).max(1.0);
        let variance = (1.0 - CAPACITY_WEIGHT) * capacity.variance + CAPACITY_WEIGHT * square;
        let variance = variance.clamp(VARIANCE_MIN, VARIANCE_MAX);
        self.capacity = Some(Capacity { bps: mean, variance, at_us: now_us });
    }

    /// The way has changed: what over-use has shown is of another one.
    pub(super) fn forget(&mut self) {
        self.capacity = None;
        self.cut_us = None;
    }

    fn is_near_capacity(&self, now_us: u64) -> bool {
        self.capacity.is_some_and(|capacity| capacity.is_about(self.bps, now_us))
    }
}

impl Capacity {
    fn is_about(&self, bps: f64, now_us: u64) -> bool {
        let deviation = (self.variance * self.bps / 1e3).sqrt() * 1e3;
        let margin = (3.0 * deviation).max(0.15 * self.bps);
        now_us.saturating_sub(self.at_us) < CAPACITY_US && (bps - self.bps).abs() <= margin
    }
}
