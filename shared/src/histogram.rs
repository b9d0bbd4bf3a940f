//! Observations by size, as Prometheus' histograms want them.

use std::sync::{Mutex, PoisonError};

/// Bounds that a histogram may have.
pub const BOUNDS_MAX: usize = 16;

/// Counts observations by the first of its bounds that they do not exceed. Plain data without an allocation.
#[derive(Debug, Clone, Copy)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last is for what exceeds all.
    counts: [u64; BOUNDS_MAX + 1],
    sum: f64,
}

impl Histogram {
    /// The bounds rise; what lies beyond [`BOUNDS_MAX`] of them is one class.
    pub const fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: [0; BOUNDS_MAX + 1], sum: 0.0 }
    }

    fn bounds(&self) -> &'static [f64] {
        &self.bounds[..self.bounds.len().min(BOUNDS_MAX)]
    }

    pub fn observe(&mut self, value: f64) {
        let class = self.bounds().iter().position(|bound| value <= *bound).unwrap_or(self.bounds().len());
        self.counts[class] += 1;
        self.sum += value;
    }

    /// Adds what another histogram of the same bounds has counted.
    pub fn add(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// Each bound with the number of observations up to it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds().iter().zip(self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((*bound, *sum))
        })
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum(&self) -> f64 {
        self.sum
    }
}

/// A histogram that several threads fill, seldom enough for a lock.
#[derive(Debug)]
pub struct SharedHistogram(Mutex<Histogram>);

impl SharedHistogram {
    pub const fn new(bounds: &'static [f64]) -> Self {
        Self(Mutex::new(Histogram::new(bounds)))
    }

    pub fn observe(&self, value: f64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).observe(value);
    }

    pub fn snapshot(&self) -> Histogram {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_counts_for_every_bound_that_it_does_not_exceed() {
        let mut histogram = Histogram::new(&[1.0, 5.0]);
        for value in [0.5, 1.0, 3.0, 7.0] {
            histogram.observe(value);
        }

        assert_eq!(histogram.cumulative().collect::<Vec<_>>(), [(1.0, 2), (5.0, 3)]);
        assert_eq!((histogram.count(), histogram.sum()), (4, 11.5));
        let mut twice = histogram;
        twice.add(&histogram);
        assert_eq!(twice.cumulative().collect::<Vec<_>>(), [(1.0, 4), (5.0, 6)]);
    }
}
