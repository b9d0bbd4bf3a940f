//! Percentiles of many values in little memory.

use hdrhistogram::Histogram as Counts;
use serde::Serialize;

/// Decimal digits to which values are kept: to 1 %.
const DIGITS: u8 = 2;

/// Counts values by size.
#[derive(Debug, Clone)]
pub struct Histogram(Counts<u64>);

/// Three points of a distribution and its end, in the unit of the field it is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self(Counts::new(DIGITS).expect("as many digits as it takes"))
    }
}

impl Histogram {
    pub fn record(&mut self, value: u64) {
        // It grows as its values do, so that it refuses none.
        let _ = self.0.record(value);
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        let _ = self.0.add(&other.0);
    }

    /// What was recorded after `earlier`, a former state of this histogram; all of it if it is none.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut later = self.0.clone();
        match later.subtract(&earlier.0) {
            Ok(()) => Self(later),
            Err(_) => self.clone(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Percentiles divided by `unit`; `None` without values.
    pub fn percentiles(&self, unit: f64) -> Option<Percentiles> {
        let max = self.0.max();
        let at = |share: f64| self.0.value_at_quantile(share).min(max) as f64 / unit;
        (!self.is_empty()).then(|| Percentiles { p50: at(0.50), p95: at(0.95), p99: at(0.99), max: max as f64 / unit })
    }
}

impl FromIterator<u64> for Histogram {
    fn from_iter<T: IntoIterator<Item = u64>>(values: T) -> Self {
        let mut histogram = Self::default();
        values.into_iter().for_each(|value| histogram.record(value));
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_follow_the_ranks_to_one_percent() {
        let percentiles = (1..=1_000_000).collect::<Histogram>().percentiles(1_000.0).unwrap();
        assert!((500.0..=505.0).contains(&percentiles.p50), "{percentiles:?}");
        assert!((950.0..=960.0).contains(&percentiles.p95));
        assert!((1_000.0..=1_010.0).contains(&percentiles.max));
        assert_eq!(Histogram::default().percentiles(1.0), None);
    }

    #[test]
    fn what_came_after_a_moment_is_what_was_not_there_before() {
        let before: Histogram = (1..=100).collect();
        let mut all = before.clone();
        all.merge(&(1_000..=1_009).collect());
        let after = all.since(&before).percentiles(1.0).unwrap();
        assert!((1_000.0..=1_010.0).contains(&after.p50), "{after:?}");
        assert_eq!(before.since(&all).percentiles(1.0), before.percentiles(1.0));
    }
}
