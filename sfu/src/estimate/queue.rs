//! The standing queue of the way to a client, and when it says that too much is sent.
//!
//! Video leaves in bursts, one a frame, and a burst waits behind itself. So it is the first packet of each run that is
//! looked at, and of those the one that waited least within [`BIN_US`]: a queue that drains between two frames is none.
//! The trend is libwebrtc's (`trendline_estimator.cc`) over these instead of over groups of packets.

/// Sending time that gives one sample: more than a frame at 30 fps.
const BIN_US: u64 = 50_000;
const BINS: usize = 10;
/// A sample is compared with the highest one among this many.
const PEAK_BINS: usize = 6;
/// The least delay is looked for over two of these, so that drift of the clocks does not add up.
const BASE_US: u64 = 5_000_000;
/// A delay that changes by this much at once is another clock.
const CLOCK_STEP_US: i64 = 3_000_000;
/// Two samples above this are over-use, unless the queue drains.
const HIGH_US: i64 = 60_000;
/// Below this the trend is not asked.
const LOW_US: i64 = 15_000;
/// A queue that is going to be below [`HIGH_US`] within this time drains.
const DRAIN_US: f64 = 1_000_000.0;
/// Less than this between two samples is no fall.
const FALL_US: i64 = 1_000;
/// How long a queue that we did not make is put up with, and how much above its least.
const FOREIGN_US: u64 = 10_000_000;
const FOREIGN_MARGIN: f64 = 1.2;

/// γ of the trend: where it starts, its bounds, how it follows in each direction (a millisecond), and up to where.
const THRESHOLD: f64 = 12.5;
const THRESHOLD_MIN: f64 = 6.0;
const THRESHOLD_MAX: f64 = 600.0;
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;
const THRESHOLD_JUMP: f64 = 15.0;
/// What a slope is multiplied by: at most 60 deltas, and 4.
const GAIN: f64 = 4.0;
const DELTAS_MAX: f64 = 60.0;
const DELTAS_PER_BIN: f64 = 6.0;

/// The run that waited least among those sent in [`BIN_US`].
#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    start_us: u64,
    /// Arrival less sending: has the offset of the clocks in it.
    delay_us: i64,
    arrival_us: i64,
}

/// What a head told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// It waited for this long behind others.
    Waited(i64),
    /// The clock of the client has changed: nothing before is comparable.
    Reset,
    /// It says nothing.
    Ignored,
}

/// Delay of heads on the way to one client.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bins: [Bin; BINS],
    len: usize,
    open: Option<Bin>,
    /// Least delay of this bucket and of the one before.
    base_us: [Option<i64>; 2],
    base_until_us: u64,
    last: Option<(u64, i64)>,
    threshold: f64,
    /// Samples in a row whose trend was too steep.
    rising: u8,
    overused: bool,
    /// Only what was sent from then on counts as over-use.
    fence_us: u64,
    /// A queue that others keep full: only what is above it counts, until then.
    foreign_us: i64,
    foreign_until_us: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { threshold: THRESHOLD, ..Self::default() }
    }

    /// The first packet of a run. `gap_us`: after a silence of that length the trend begins anew.
    pub(super) fn on_head(&mut self, sent_us: u64, head_us: i64, gap_us: u64) -> Head {
        let delay = head_us.saturating_sub_unsigned(sent_us);
        if let Some((sent, before)) = self.last {
            if sent_us < sent {
                return Head::Ignored;
            }
            if delay.abs_diff(before) > CLOCK_STEP_US as u64 {
                *self = Self { last: Some((sent_us, delay)), threshold: self.threshold, ..Self::new() };
                return Head::Reset;
            }
            if sent_us - sent > gap_us {
                (self.len, self.open, self.rising) = (0, None, 0);
            }
        }
        self.last = Some((sent_us, delay));
        self.lower_base(sent_us, delay);
        self.sample(Bin { start_us: sent_us, delay_us: delay, arrival_us: head_us });
        Head::Waited(self.above_base(delay))
    }

    /// How long a packet waits behind others, as far as it is known.
    pub(super) fn waiting_us(&self) -> i64 {
        let newest = self.bins[..self.len].last();
        let least = newest.into_iter().chain(&self.open).map(|bin| bin.delay_us).min();
        least.map_or(0, |delay| self.above_base(delay))
    }

    /// Whether too much was sent, since this was last asked.
    pub(super) fn take_overused(&mut self) -> bool {
        std::mem::take(&mut self.overused)
    }

    /// When the last head was sent.
    pub(super) fn last_sent_us(&self) -> u64 {
        self.last.map_or(0, |(sent, _)| sent)
    }

    /// Sending less begins to show in what is sent from `sent_us` on.
    pub(super) fn fence(&mut self, sent_us: u64) {
        self.fence_us = sent_us;
        self.rising = 0;
        self.overused = false;
    }

    /// Sending less has not helped: others keep the queue full.
    pub(super) fn accept_foreign(&mut self) {
        let least = self.bins[..self.len].iter().map(|bin| self.above_base(bin.delay_us)).min().unwrap_or(0);
        self.foreign_us = (least as f64 * FOREIGN_MARGIN) as i64;
        self.foreign_until_us = self.last_sent_us().saturating_add(FOREIGN_US);
    }

    fn above_base(&self, delay_us: i64) -> i64 {
        let base = self.base_us.iter().flatten().min().copied().unwrap_or(delay_us);
        delay_us.saturating_sub(base).max(0)
    }

    fn lower_base(&mut self, sent_us: u64, delay_us: i64) {
        if sent_us >= self.base_until_us {
            self.base_us = [None, self.base_us[0]];
            self.base_until_us = sent_us.saturating_add(BASE_US);
        }
        let least = &mut self.base_us[0];
        *least = Some(least.map_or(delay_us, |before| before.min(delay_us)));
    }

    fn sample(&mut self, head: Bin) {
        match &mut self.open {
            Some(open) if head.start_us < open.start_us.saturating_add(BIN_US) => {
                if head.delay_us < open.delay_us {
                    *open = Bin { start_us: open.start_us, ..head };
                }
            }
            _ => {
                if let Some(closed) = self.open.replace(head) {
                    self.close(closed);
                }
            }
        }
    }

    fn close(&mut self, bin: Bin) {
        if self.len == BINS {
            self.bins.copy_within(1.., 0);
            self.len -= 1;
        }
        self.bins[self.len] = bin;
        self.len += 1;
        let Some(before) = self.len.checked_sub(2).map(|at| self.bins[at]) else { return };
        let steep = self.follow_trend(bin, before);
        if bin.start_us < self.fence_us {
            self.rising = 0;
            return;
        }
        let foreign = if bin.start_us < self.foreign_until_us { self.foreign_us } else { 0 };
        let (now, then) = (self.above_base(bin.delay_us), self.above_base(before.delay_us));
        let grows = steep && now + FALL_US > then && now.min(then) > LOW_US.max(foreign);
        self.rising = if grows { self.rising.saturating_add(1) } else { 0 };
        let high = HIGH_US.max(foreign);
        let stands = now.min(then) > high && before.start_us >= self.fence_us && !self.drains(high);
        self.overused |= self.rising >= 2 || stands;
    }

    /// Whether the newest sample will be below `high` soon, by its fall from the highest one of late.
    fn drains(&self, high: i64) -> bool {
        let late = &self.bins[self.len.saturating_sub(PEAK_BINS)..self.len];
        let (Some(newest), Some(peak)) = (late.last(), late.iter().max_by_key(|bin| bin.delay_us)) else {
            return false;
        };
        let fall = peak.delay_us.saturating_sub(newest.delay_us) as f64;
        let time = newest.arrival_us.saturating_sub(peak.arrival_us) as f64;
        time > 0.0 && (self.above_base(newest.delay_us) as f64) - fall / time * DRAIN_US < high as f64
    }

    /// Whether the delay rises by more than is usual on this way.
    fn follow_trend(&mut self, bin: Bin, before: Bin) -> bool {
        let Some(slope) = slope(&self.bins[..self.len]) else { return false };
        let trend = (self.len as f64 * DELTAS_PER_BIN).min(DELTAS_MAX) * slope * GAIN;
        let steep = trend > self.threshold;
        let off = trend.abs() - self.threshold;
        if off <= THRESHOLD_JUMP {
            let elapsed_ms = (bin.start_us.saturating_sub(before.start_us) as f64 / 1e3).min(100.0);
            let follow = if off > 0.0 { THRESHOLD_UP } else { THRESHOLD_DOWN };
            let next = self.threshold + (elapsed_ms * follow).min(1.0) * off;
            self.threshold = next.clamp(THRESHOLD_MIN, THRESHOLD_MAX);
        }
        steep
    }
}

/// Least squares of delay over arrival, without unit.
fn slope(bins: &[Bin]) -> Option<f64> {
    if bins.len() < 4 {
        return None;
    }
    let first = bins[0];
    let n = bins.len() as f64;
    let point = |bin: &Bin| {
        let at = bin.arrival_us.saturating_sub(first.arrival_us) as f64;
        (at, bin.delay_us.saturating_sub(first.delay_us) as f64)
    };
    let sum = bins.iter().map(point).fold((0.0, 0.0), |sum, at| (sum.0 + at.0, sum.1 + at.1));
    let mean = (sum.0 / n, sum.1 / n);
    let (mut both, mut square) = (0.0, 0.0);
    for (at, delay) in bins.iter().map(point) {
        both += (at - mean.0) * (delay - mean.1);
        square += (at - mean.0) * (at - mean.0);
    }
    (square > 0.0).then(|| both / square)
}
