//! The rate of a link over time. Whole numbers throughout: work is counted in bits times nanoseconds of a second, so
//! that no rounding adds up.

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;
/// A ramp is a staircase with steps of this length.
const RAMP_STEP: Duration = Duration::from_millis(10);
/// Where a link stops for good: longer than any run.
const NEVER: Duration = Duration::from_secs(1 << 20);

/// Bits per second, as a function of the time since the start of a run.
#[derive(Debug, Clone)]
pub enum Rate {
    /// A wire that takes no time.
    Unlimited,
    /// From each time on, a rate. The first holds before its time too.
    Steps(Vec<(Duration, u64)>),
    /// From one rate to another, evenly between two times.
    Ramp { from: u64, to: u64, starts: Duration, ends: Duration },
}

impl Rate {
    pub fn constant(bps: u64) -> Self {
        Self::Steps(vec![(Duration::ZERO, bps)])
    }

    /// Bits a second now; `None`: unlimited.
    pub fn at(&self, now: Duration) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Steps(steps) => {
                let step = steps.iter().rev().find(|(from, _)| *from <= now).or(steps.first());
                Some(step.map_or(0, |(_, bps)| *bps))
            }
            Self::Ramp { from, to, starts, ends } => {
                let whole = (*ends - *starts).as_nanos().max(1);
                let step = now.saturating_sub(*starts).as_nanos() / RAMP_STEP.as_nanos() * RAMP_STEP.as_nanos();
                let (from, to, passed) = (i128::from(*from), i128::from(*to), step.min(whole) as i128);
                u64::try_from(from + (to - from) * passed / whole as i128).ok()
            }
        }
    }

    /// When the rate changes next.
    fn next_change(&self, now: Duration) -> Duration {
        match self {
            Self::Unlimited => NEVER,
            Self::Steps(steps) => steps.iter().map(|(from, _)| *from).find(|from| *from > now).unwrap_or(NEVER),
            Self::Ramp { starts, .. } if now < *starts => *starts,
            Self::Ramp { ends, .. } if now >= *ends => NEVER,
            Self::Ramp { starts, ends, .. } => {
                let steps = (now - *starts).as_nanos() / RAMP_STEP.as_nanos() + 1;
                (*starts + RAMP_STEP * u32::try_from(steps).unwrap_or(u32::MAX)).min(*ends)
            }
        }
    }

    /// When that many bits (times `NANOS`) are through that start now.
    pub fn finish(&self, start: Duration, mut work: u128) -> Duration {
        let mut now = start;
        while let Some(bps) = self.at(now) {
            let change = self.next_change(now);
            let done = u128::from(bps) * (change - now).as_nanos();
            if bps > 0 && work <= done {
                return now + nanos(work.div_ceil(u128::from(bps)));
            }
            if change >= NEVER {
                return NEVER;
            }
            work -= done;
            now = change;
        }
        now
    }

    /// Bits (times `NANOS`) that pass between two times; `None`: unlimited.
    pub fn between(&self, from: Duration, to: Duration) -> Option<u128> {
        let (mut now, mut work) = (from, 0);
        while now < to {
            let change = self.next_change(now).min(to);
            work += u128::from(self.at(now)?) * (change - now).as_nanos();
            now = change;
        }
        Some(work)
    }

    /// Mean bits a second between two times.
    pub fn mean(&self, from: Duration, to: Duration) -> Option<u64> {
        let work = self.between(from, to)?;
        u64::try_from(work / (to - from).as_nanos().max(1)).ok()
    }
}

/// Bytes as [`Rate::finish`] counts them.
pub fn work(bytes: usize) -> u128 {
    bytes as u128 * 8 * NANOS
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).expect("within a run"))
}
