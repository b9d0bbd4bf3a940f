//! How good a publisher's connection is, judged by what is lost on the way to us (docs/livekit.md 7.11).

use livekit_protocol::ConnectionQuality;
use sfu::command::ReceiveStats;
use shared::media::{Codec, MediaKind};

/// The best score; the worst is 1.
const SCORE_MAX: f32 = 4.5;

/// A quality with the score clients are shown, 1 to 4.5.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    pub quality: ConnectionQuality,
    pub score: f32,
}

impl Score {
    /// Before anything is known.
    pub const BEST: Score = Score { quality: ConnectionQuality::Excellent, score: SCORE_MAX };

    /// Judges what arrived of one publication in the last interval.
    pub fn of(codec: Codec, stats: &ReceiveStats) -> Self {
        let expected = stats.packets + stats.lost;
        if expected == 0 {
            return Self::BEST;
        }
        let lost_percent = 100.0 * stats.lost as f32 / expected as f32;
        Self::from_points((100.0 - lost_percent * weight(codec)).clamp(0.0, 100.0))
    }

    fn from_points(points: f32) -> Self {
        let quality = if points > 80.0 {
            ConnectionQuality::Excellent
        } else if points > 40.0 {
            ConnectionQuality::Good
        } else {
            ConnectionQuality::Poor
        };
        Self { quality, score: 1.0 + points / 100.0 * (SCORE_MAX - 1.0) }
    }
}

/// The worst of all; nothing at all is excellent.
pub fn worst(scores: impl Iterator<Item = Score>) -> Score {
    scores.fold(Score::BEST, |worst, score| if score.score < worst.score { score } else { worst })
}

/// Points that one percent of loss costs, as LiveKit weighs it.
fn weight(codec: Codec) -> f32 {
    match codec.kind() {
        MediaKind::Audio if codec == Codec::Red => 4.0,
        MediaKind::Audio => 8.0,
        MediaKind::Video => 10.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two hundred packets.
    fn lost(percent: u64) -> ReceiveStats {
        ReceiveStats { packets: 200 - 2 * percent, lost: 2 * percent, ..Default::default() }
    }

    /// The score says in 1 to 4.5 what is left of a hundred points.
    #[test]
    fn a_percent_of_loss_costs_ten_points_of_video_eight_of_audio_and_four_of_red() {
        use ConnectionQuality::{Excellent, Good, Poor};
        for (codec, percent, quality, points) in [
            (Codec::Vp8, 0, Excellent, 100.0),
            (Codec::Vp8, 1, Excellent, 90.0),
            (Codec::Vp8, 2, Good, 80.0),
            (Codec::Vp9 { profile: 0 }, 5, Good, 50.0),
            (Codec::H265, 6, Poor, 40.0),
            (Codec::Vp8, 20, Poor, 0.0),
            (Codec::Opus, 2, Excellent, 84.0),
            (Codec::Pcmu, 3, Good, 76.0),
            (Codec::Opus, 7, Good, 44.0),
            (Codec::Opus, 8, Poor, 36.0),
            (Codec::Red, 4, Excellent, 84.0),
            (Codec::Red, 5, Good, 80.0),
            (Codec::Red, 15, Poor, 40.0),
        ] {
            let score = Score::of(codec, &lost(percent));
            assert_eq!(score.quality, quality, "{codec:?}, {percent} %");
            let expected = 1.0 + 0.035 * points;
            assert!((score.score - expected).abs() < 1e-3, "{codec:?}, {percent} %: {} for {expected}", score.score);
        }
        assert_eq!(Score::of(Codec::Vp8, &lost(0)), Score::BEST);
    }

    #[test]
    fn the_worst_track_is_how_good_a_connection_is() {
        let scores = [1, 5, 0].map(|percent| Score::of(Codec::Vp8, &lost(percent)));
        assert_eq!(worst(scores.into_iter()), scores[1]);
    }

    #[test]
    fn silence_is_no_loss() {
        assert_eq!(Score::of(Codec::Opus, &ReceiveStats::default()), Score::BEST);
        assert_eq!(worst(std::iter::empty()), Score::BEST);
    }
}
