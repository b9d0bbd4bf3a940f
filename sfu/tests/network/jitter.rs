//! How much later than on average a frame may come: libwebrtc's `jitter_estimator.cc`, with its Kalman filter
//! (`frame_delay_variation_kalman_filter.cc`). Milliseconds and bytes.

const MEAN_SIZE_WEIGHT: f64 = 0.97;
const LARGEST_SIZE_WEIGHT: f64 = 0.9999;
const STARTUP_FRAMES: u32 = 30;
/// In standard deviations: a delay that is an outlier, a size that is one, and where a delay is cut off.
const DELAY_OUTLIER: f64 = 15.0;
const SIZE_OUTLIER: f64 = 3.0;
const DELAY_MAX: f64 = 3.5;
/// A frame that is smaller than the one before by this share of the largest has waited for that one.
const CONGESTION: f64 = -0.25;
const NOISE_FRAMES_MAX: f64 = 400.0;
const NOISE_DEVIATIONS: f64 = 2.33;
const NOISE_OFFSET_MS: f64 = 30.0;
const SLOPE_MIN: f64 = 1e-6;
const OPERATING_SYSTEM_MS: f64 = 10.0;

pub struct Jitter {
    frames: u32,
    sizes: f64,
    mean_size: f64,
    size_variance: f64,
    largest_size: f64,
    last_size: Option<f64>,
    noise_frames: f64,
    noise_mean: f64,
    noise_variance: f64,
    filter: Kalman,
    estimate_ms: f64,
}

impl Default for Jitter {
    fn default() -> Self {
        Self {
            frames: 0,
            sizes: 0.0,
            mean_size: 500.0,
            size_variance: 100.0,
            largest_size: 500.0,
            last_size: None,
            noise_frames: 1.0,
            noise_mean: 0.0,
            noise_variance: 4.0,
            filter: Kalman::default(),
            estimate_ms: 0.0,
        }
    }
}

impl Jitter {
    /// A frame: how much later than the one before it came than it was taken, and its size.
    pub fn on_frame(&mut self, delay_ms: f64, size: f64) {
        self.note_size(size);
        let Some(before) = self.last_size.replace(size) else { return };
        let growth = size - before;
        let limit = DELAY_MAX * self.noise_variance.sqrt() + 0.5;
        let delay_ms = delay_ms.clamp(-limit, limit);
        let deviation = delay_ms - self.filter.expected(growth);
        let is_usual = deviation.abs() < DELAY_OUTLIER * self.noise_variance.sqrt();
        if is_usual || size > self.mean_size + SIZE_OUTLIER * self.size_variance.sqrt() {
            if growth > CONGESTION * self.largest_size {
                self.note_noise(deviation);
                self.filter.update(delay_ms, growth, self.largest_size, self.noise_variance);
            }
        } else {
            self.note_noise(DELAY_OUTLIER.copysign(deviation) * self.noise_variance.sqrt());
        }
        self.frames += 1;
        if self.frames > STARTUP_FRAMES || self.estimate_ms == 0.0 {
            self.estimate_ms = self.calculate();
        }
    }

    fn note_size(&mut self, size: f64) {
        if self.frames < STARTUP_FRAMES {
            self.sizes += size;
            self.mean_size = self.sizes / f64::from(self.frames + 1);
        }
        let mean = MEAN_SIZE_WEIGHT * self.mean_size + (1.0 - MEAN_SIZE_WEIGHT) * size;
        // Key frames are left out.
        if size < self.mean_size + 2.0 * self.size_variance.sqrt() {
            self.mean_size = mean;
        }
        let variance = MEAN_SIZE_WEIGHT * self.size_variance + (1.0 - MEAN_SIZE_WEIGHT) * (size - mean).powi(2);
        self.size_variance = variance.max(1.0);
        self.largest_size = (LARGEST_SIZE_WEIGHT * self.largest_size).max(size);
    }

    fn note_noise(&mut self, deviation: f64) {
        let weight = (self.noise_frames - 1.0) / self.noise_frames;
        self.noise_frames = (self.noise_frames + 1.0).min(NOISE_FRAMES_MAX);
        self.noise_mean = weight * self.noise_mean + (1.0 - weight) * deviation;
        let variance = weight * self.noise_variance + (1.0 - weight) * (deviation - self.noise_mean).powi(2);
        self.noise_variance = variance.max(1.0);
    }

    fn calculate(&self) -> f64 {
        let noise = (NOISE_DEVIATIONS * self.noise_variance.sqrt() - NOISE_OFFSET_MS).max(1.0);
        (self.filter.slope() * (self.largest_size - self.mean_size) + noise).clamp(1.0, 10_000.0)
    }

    /// By how much frames are to be shown later.
    pub fn estimate_ms(&self) -> f64 {
        self.estimate_ms + OPERATING_SYSTEM_MS
    }
}

/// Delay as a line over growth of size: milliseconds a byte, and milliseconds.
struct Kalman {
    line: [f64; 2],
    covariance: [[f64; 2]; 2],
}

impl Default for Kalman {
    fn default() -> Self {
        // The slope of 512 kbit/s.
        Self { line: [1.0 / (512e3 / 8.0), 0.0], covariance: [[1e-4, 0.0], [0.0, 1e2]] }
    }
}

impl Kalman {
    fn expected(&self, growth: f64) -> f64 {
        self.line[0] * growth + self.line[1]
    }

    fn slope(&self) -> f64 {
        self.line[0]
    }

    fn update(&mut self, delay_ms: f64, growth: f64, largest_size: f64, noise_variance: f64) {
        let [[a, b], [c, d]] = &mut self.covariance;
        *a += 2.5e-10;
        *d += 1e-10;
        let projected = [*a * growth + *b, *c * growth + *d];
        let doubt = (300.0 * (-growth.abs() / largest_size).exp() + 1.0) * noise_variance.sqrt();
        let variance = growth * projected[0] + projected[1] + doubt.max(1.0);
        let gain = projected.map(|one| one / variance);
        let innovation = delay_ms - (self.line[0] * growth + self.line[1]);
        self.line[0] = (self.line[0] + gain[0] * innovation).max(SLOPE_MIN);
        self.line[1] += gain[1] * innovation;
        let (upper, lower) = ([*a, *b], [*c, *d]);
        (*a, *b) = combine(1.0 - gain[0] * growth, upper, -gain[0], lower);
        (*c, *d) = combine(1.0 - gain[1], lower, -gain[1] * growth, upper);
    }
}

fn combine(one: f64, row: [f64; 2], other: f64, other_row: [f64; 2]) -> (f64, f64) {
    (one * row[0] + other * other_row[0], one * row[1] + other * other_row[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_stream_needs_little_and_an_uneven_one_more() {
        let after = |delay: fn(u32) -> f64| {
            let mut jitter = Jitter::default();
            (0..600).for_each(|frame| jitter.on_frame(delay(frame), 5_000.0 + f64::from(frame % 3) * 100.0));
            jitter.estimate_ms()
        };
        let even = after(|_| 0.0);
        assert!(even < 15.0, "{even} ms");
        // Each fifth frame comes 60 ms late.
        let uneven = after(|frame| [60.0, -60.0, 0.0, 0.0, 0.0][frame as usize % 5]);
        assert!(uneven > 40.0, "{uneven} ms");
    }
}
