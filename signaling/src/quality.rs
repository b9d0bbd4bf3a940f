//! How good a publisher's connection is, judged by what is lost on the way to us (livekit-surface 7.11).

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
    match codec {
        Codec::Red => 4.0,
        _ if codec.kind() == MediaKind::Audio => 8.0,
        _ => 10.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(lost: u64) -> ReceiveStats {
        ReceiveStats { packets: 100 - lost, lost, ..Default::default() }
    }

    #[test]
    fn the_more_is_lost_the_worse() {
        assert_eq!(Score::of(Codec::Vp8, &lost(0)), Score::BEST);
        assert_eq!(Score::of(Codec::Vp8, &lost(3)).quality, ConnectionQuality::Good);
        assert_eq!(Score::of(Codec::Vp8, &lost(20)).quality, ConnectionQuality::Poor);
        assert_eq!(Score::of(Codec::Red, &lost(3)).quality, ConnectionQuality::Excellent);
    }

    #[test]
    fn silence_is_no_loss() {
        assert_eq!(Score::of(Codec::Opus, &ReceiveStats::default()), Score::BEST);
        assert_eq!(worst(std::iter::empty()), Score::BEST);
    }
}
