//! Whether received video moved or stood still, by the arrival of its frames.
//!
//! A frame counts when its first packet comes; whether the rest of it came is told by the loss, not here.

use serde::Serialize;

/// Beyond the usual time between two frames, this makes a freeze (the `freezeCount` of webrtc-stats).
const FREEZE_NS: f64 = 150e6;
/// Weight of the newest interval in the usual one; webrtc-stats takes the mean of the last 30.
const INTERVAL_WEIGHT: f64 = 1.0 / 30.0;

/// What a viewer would have seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlaybackCounts {
    pub frames: u64,
    pub freezes: u64,
    /// Time of all freezes.
    pub frozen_ns: u64,
    /// From the first frame to the newest.
    pub span_ns: u64,
}

/// Watches the frames of one stream.
#[derive(Debug, Default)]
pub struct Playback {
    counts: PlaybackCounts,
    /// Arrival of the newest frame.
    newest_ns: Option<u64>,
    usual_ns: Option<f64>,
}

impl Playback {
    pub fn counts(&self) -> PlaybackCounts {
        self.counts
    }

    /// Takes the first packet of a frame.
    pub fn on_frame(&mut self, arrival_ns: u64) {
        self.counts.frames += 1;
        let Some(before_ns) = self.newest_ns.replace(arrival_ns) else { return };
        let interval_ns = arrival_ns.saturating_sub(before_ns);
        self.counts.span_ns += interval_ns;
        let usual = *self.usual_ns.get_or_insert(interval_ns as f64);
        if interval_ns as f64 > (3.0 * usual).max(usual + FREEZE_NS) {
            self.counts.freezes += 1;
            self.counts.frozen_ns += interval_ns;
        }
        self.usual_ns = Some(usual + (interval_ns as f64 - usual) * INTERVAL_WEIGHT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_NS: u64 = 33_333_333;

    /// Plays so many frames, those from the 30th on later by `pause_ns`.
    fn play(frames: u64, pause_ns: u64) -> PlaybackCounts {
        let mut playback = Playback::default();
        for number in 0..frames {
            playback.on_frame(number * FRAME_NS + if number >= 30 { pause_ns } else { 0 });
        }
        playback.counts()
    }

    #[test]
    fn frames_at_their_rate_never_freeze() {
        let counts = play(90, 0);
        assert_eq!(counts, PlaybackCounts { frames: 90, span_ns: 89 * FRAME_NS, ..PlaybackCounts::default() });
    }

    #[test]
    fn half_a_second_without_a_frame_is_a_freeze_and_140_ms_are_none() {
        let counts = play(60, 500_000_000);
        assert_eq!((counts.freezes, counts.frozen_ns), (1, 500_000_000 + FRAME_NS));
        assert_eq!(play(60, 140_000_000).freezes, 0);
    }
}
