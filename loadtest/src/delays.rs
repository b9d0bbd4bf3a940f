//! Delays of both kinds of media, apart: a server that fans a picture out to many may keep a word waiting.

use crate::histogram::Histogram;
use crate::receiver::MediaKind;

/// Delays in nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Delays {
    pub audio: Histogram,
    pub video: Histogram,
}

impl Delays {
    pub fn record(&mut self, kind: MediaKind, delay_ns: u64) {
        match kind {
            MediaKind::Audio => self.audio.record(delay_ns),
            MediaKind::Video => self.video.record(delay_ns),
        }
    }

    /// What was recorded after `earlier`, see [`Histogram::since`].
    pub fn since(&self, earlier: &Self) -> Self {
        Self { audio: self.audio.since(&earlier.audio), video: self.video.since(&earlier.video) }
    }

    /// Both kinds together.
    pub fn all(&self) -> Histogram {
        let mut all = self.audio.clone();
        all.merge(&self.video);
        all
    }
}
