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
    /// From the first frame on.
    pub span_ns: u64,
}

impl PlaybackCounts {
    fn take_interval(&mut self, interval_ns: u64, usual_ns: f64) {
        self.span_ns += interval_ns;
        if interval_ns as f64 > (3.0 * usual_ns).max(usual_ns + FREEZE_NS) {
            self.freezes += 1;
            self.frozen_ns += interval_ns;
        }
    }
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
    /// Up to that moment (`CLOCK_MONOTONIC`): a stream that has stood still until then is in a freeze.
    pub fn counts_at(&self, now_ns: u64) -> PlaybackCounts {
        let mut counts = self.counts;
        if let (Some(newest_ns), Some(usual_ns)) = (self.newest_ns, self.usual_ns) {
            counts.take_interval(now_ns.saturating_sub(newest_ns), usual_ns);
        }
        counts
    }

    /// Takes the first packet of a frame.
    pub fn on_frame(&mut self, arrival_ns: u64) {
        self.counts.frames += 1;
        let Some(before_ns) = self.newest_ns.replace(arrival_ns) else { return };
        let interval_ns = arrival_ns.saturating_sub(before_ns);
        let usual = *self.usual_ns.get_or_insert(interval_ns as f64);
        self.counts.take_interval(interval_ns, usual);
        self.usual_ns = Some(usual + (interval_ns as f64 - usual) * INTERVAL_WEIGHT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_NS: u64 = 33_333_333;

    /// Plays so many frames, those from the 30th on later by `pause_ns`.
    fn play(frames: u64, pause_ns: u64) -> Playback {
        let mut playback = Playback::default();
        for number in 0..frames {
            playback.on_frame(number * FRAME_NS + if number >= 30 { pause_ns } else { 0 });
        }
        playback
    }

    #[test]
    fn frames_at_their_rate_never_freeze() {
        let counts = play(90, 0).counts_at(89 * FRAME_NS);
        assert_eq!(counts, PlaybackCounts { frames: 90, span_ns: 89 * FRAME_NS, ..PlaybackCounts::default() });
    }

    #[test]
    fn half_a_second_without_a_frame_is_a_freeze_and_140_ms_are_none() {
        let counts = play(60, 500_000_000).counts_at(0);
        assert_eq!((counts.freezes, counts.frozen_ns), (1, 500_000_000 + FRAME_NS));
        assert_eq!(play(60, 140_000_000).counts_at(0).freezes, 0);
    }

    #[test]
    fn a_stream_that_ends_stands_still_from_then_on() {
        let playback = play(30, 0);
        let counts = playback.counts_at(29 * FRAME_NS + 2_000_000_000);
        assert_eq!(
            (counts.freezes, counts.frozen_ns, counts.span_ns),
            (1, 2_000_000_000, 29 * FRAME_NS + 2_000_000_000)
        );
        assert_eq!(playback.counts_at(29 * FRAME_NS + 140_000_000).freezes, 0);
    }
}
