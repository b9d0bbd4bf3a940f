//! When frames are shown: libwebrtc's `timing.cc`. Its extrapolation of timestamps is an average here.

use std::time::Duration;

use super::assembly::Frame;
use super::jitter::Jitter;
use super::unwrap::Unwrapper;

const RENDERING_MS: f64 = 10.0;
/// The delay changes by so much in a second at most, as far as frames are not late.
const CHANGE_MAX: f64 = 0.1;
/// Frames that the average goes back.
const AVERAGE: f64 = 64.0;

pub struct Playout {
    timestamps: Unwrapper,
    frames: f64,
    /// Between the media clock and arrivals, on average.
    offset_ms: f64,
    /// Behind that.
    delay_ms: Option<f64>,
    jitter: Jitter,
    /// When the last frame was taken, and whole.
    last: Option<(f64, f64)>,
}

impl Default for Playout {
    fn default() -> Self {
        Self {
            timestamps: Unwrapper::new(32),
            frames: 0.0,
            offset_ms: 0.0,
            delay_ms: None,
            jitter: Jitter::default(),
            last: None,
        }
    }
}

impl Playout {
    fn media_ms(&mut self, timestamp: u32) -> f64 {
        self.timestamps.unwrap(timestamp.into()) as f64 / 90.0
    }

    /// A whole frame came.
    pub fn on_frame(&mut self, frame: &Frame) {
        let sample = ms(frame.complete_at) - self.media_ms(frame.timestamp);
        if !frame.is_repeated || self.frames == 0.0 {
            self.frames = (self.frames + 1.0).min(AVERAGE);
            self.offset_ms += (sample - self.offset_ms) / self.frames;
        }
    }

    /// When it is to be shown.
    pub fn due(&mut self, timestamp: u32) -> Duration {
        let delay = self.delay_ms.unwrap_or(0.0);
        let due = self.media_ms(timestamp) + self.offset_ms + delay;
        Duration::from_micros((due.max(0.0) * 1_000.0) as u64)
    }

    /// It was shown. Frames that had to be asked for again tell nothing of the way.
    pub fn on_shown(&mut self, now: Duration, frame: &Frame) {
        let late = ms(now.saturating_sub(self.due(frame.timestamp)));
        let media = self.media_ms(frame.timestamp);
        let before = self.last.map_or(media, |(media, _)| media);
        if !frame.is_repeated {
            let complete = ms(frame.complete_at);
            let (last_media, last_complete) = self.last.replace((media, complete)).unwrap_or((media, complete));
            self.jitter.on_frame((complete - last_complete) - (media - last_media), frame.bytes as f64);
        }
        let target = self.jitter.estimate_ms() + RENDERING_MS;
        let delay = self.delay_ms.unwrap_or(target);
        let change = ((media - before) * CHANGE_MAX).max(0.0);
        let delay = delay + (target - delay).clamp(-change, change);
        self.delay_ms = Some((delay + late).min(target.max(delay)));
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
