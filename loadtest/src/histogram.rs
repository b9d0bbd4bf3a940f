//! Percentiles of many values in little memory.

use serde::Serialize;

/// Sub-buckets of each power of two: values are kept to about 3 %.
const SUB_BITS: u32 = 5;

/// Counts values in buckets whose width grows with the value.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// Three points of a distribution, in the unit of the field it is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Histogram {
    pub fn record(&mut self, value: u64) {
        let bucket = bucket(value);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// What was recorded after `earlier`, a former state of this histogram; all of it if it is none.
    ///
    /// The largest value is that of the whole.
    pub fn since(&self, earlier: &Self) -> Self {
        if earlier.total > self.total || earlier.counts.len() > self.counts.len() {
            return self.clone();
        }
        let before = earlier.counts.iter().chain(std::iter::repeat(&0));
        let counts: Vec<u64> =
            self.counts.iter().zip(before).map(|(count, before)| count.saturating_sub(*before)).collect();
        Self { total: counts.iter().sum(), counts, max: self.max }
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Percentiles divided by `unit`; `None` without values.
    pub fn percentiles(&self, unit: f64) -> Option<Percentiles> {
        let at = |share: f64| self.quantile(share) as f64 / unit;
        (self.total > 0).then(|| Percentiles {
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
            max: self.max as f64 / unit,
        })
    }

    fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_edge(bucket).min(self.max);
            }
        }
        self.max
    }
}

impl FromIterator<u64> for Histogram {
    fn from_iter<T: IntoIterator<Item = u64>>(values: T) -> Self {
        let mut histogram = Self::default();
        values.into_iter().for_each(|value| histogram.record(value));
        histogram
    }
}

fn bucket(value: u64) -> usize {
    let shift = (64 - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    ((u64::from(shift) << SUB_BITS) + (value >> shift)) as usize
}

fn upper_edge(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    let part = bucket - (shift << SUB_BITS);
    ((part + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_4_percent() {
        for value in (0..2_000).chain((1..50).map(|power| 3_u64.pow(power % 30))) {
            let edge = upper_edge(bucket(value));
            assert!(edge >= value && edge <= value + value / 31 + 1, "{value} {edge}");
        }
    }

    #[test]
    fn percentiles_follow_the_ranks() {
        let percentiles = (1..=100).collect::<Histogram>().percentiles(1.0).unwrap();
        assert!((50.0..=51.0).contains(&percentiles.p50), "{percentiles:?}");
        assert!((95.0..=97.0).contains(&percentiles.p95));
        assert_eq!(percentiles.max, 100.0);
        assert_eq!(Histogram::default().percentiles(1.0), None);
    }
}
