//! How loud a publication is: audio levels of its packets (RFC 6464) become activity for speaker detection.
//!
//! Rules and values are those of LiveKit's defaults. Which participants are told is decided above.

use std::time::{Duration, Instant};

/// How often [`AudioLevel::update`] is to be called.
pub const UPDATE_INTERVAL: Duration = Duration::from_millis(400);
/// Length of a packet when the codec does not tell: Opus in WebRTC.
pub const PACKET_DURATION: Duration = Duration::from_millis(20);
/// A packet at most this far below full scale, in dB, counts as speech.
const ACTIVE_LEVEL: u8 = 35;
/// Share of an interval that must be speech, in percent.
const ACTIVE_PERCENT_MIN: u32 = 40;
/// Intervals that the exponential average is smoothed over.
const SMOOTH_INTERVALS: f32 = 2.0;
/// Levels are told in steps, so that a steady voice is no change.
const STEPS: f32 = 8.0;
/// Intervals without any packet after which the last level is forgotten.
const STALE_INTERVALS: u32 = 2;
/// Update calls come from a timer that may be early by some of its own resolution.
const STALE_AFTER: Duration = UPDATE_INTERVAL.saturating_mul(STALE_INTERVALS).saturating_sub(Duration::from_millis(20));
/// Silence on the scale of RFC 6464.
const SILENCE: u8 = 127;

/// Voice activity bit and level of the header extension; the level is in -dBov, 0 loudest, 127 silence. `None` if it is
/// empty.
pub fn parse_audio_level(extension: &[u8]) -> Option<(bool, u8)> {
    extension.first().map(|byte| (byte & 0x80 != 0, byte & 0x7F))
}

/// Primary block of a RED payload (RFC 2198, section 3): the last one, the newest audio. `None` if the block lengths lead
/// outside.
pub fn red_primary(payload: &[u8]) -> Option<&[u8]> {
    let mut rest = payload;
    let mut redundant = 0;
    loop {
        match rest {
            [head, _, high, low, after @ ..] if head & 0x80 != 0 => {
                redundant += usize::from(u16::from_be_bytes([high & 0x03, *low]));
                rest = after;
            }
            [head, blocks @ ..] if head & 0x80 == 0 => return blocks.get(redundant..),
            _ => return None,
        }
    }
}

/// Loudness of one publication.
#[derive(Debug, Clone)]
pub struct AudioLevel {
    /// Of the interval that is under way.
    observed: Duration,
    active: Duration,
    /// Loudest level of the active packets, in -dBov.
    loudest: u8,
    smoothed: f32,
    /// End of the last interval with packets.
    heard: Option<Instant>,
    /// Steps last told; 0 is silence.
    told: u8,
}

impl Default for AudioLevel {
    fn default() -> Self {
        Self::new()
    }
}

impl AudioLevel {
    pub fn new() -> Self {
        let nothing = Duration::ZERO;
        Self { observed: nothing, active: nothing, loudest: SILENCE, smoothed: 0.0, heard: None, told: 0 }
    }

    /// A packet of this level, in -dBov, and this length.
    pub fn observe(&mut self, level: u8, duration: Duration) {
        self.observed = self.observed.saturating_add(duration);
        if level <= ACTIVE_LEVEL {
            self.active = self.active.saturating_add(duration);
            self.loudest = self.loudest.min(level);
        }
    }

    /// Ends an interval; to be called every [`UPDATE_INTERVAL`]. Level from 0 to 1 and whether the publication speaks,
    /// if either changed. Nothing changes in a single interval without packets.
    pub fn update(&mut self, now: Instant) -> Option<(f32, bool)> {
        if self.observed.is_zero() {
            let stale = self.heard.is_some_and(|heard| now.saturating_duration_since(heard) >= STALE_AFTER);
            if !stale {
                return None;
            }
            self.smoothed = 0.0;
        } else {
            self.heard = Some(now);
            self.smoothed = self.smooth();
        }
        self.observed = Duration::ZERO;
        self.active = Duration::ZERO;
        self.loudest = SILENCE;
        self.tell()
    }

    /// The average with the interval under way. An interval without enough speech ends the average.
    fn smooth(&self) -> f32 {
        if self.active < UPDATE_INTERVAL * ACTIVE_PERCENT_MIN / 100 {
            return 0.0;
        }
        let share = (self.active.as_secs_f32() / UPDATE_INTERVAL.as_secs_f32()).min(1.0);
        let level = 10f32.powf(-f32::from(self.loudest) / 20.0) * share;
        self.smoothed + (level - self.smoothed) * 2.0 / (SMOOTH_INTERVALS + 1.0)
    }

    fn tell(&mut self) -> Option<(f32, bool)> {
        let steps = (self.smoothed * STEPS).ceil().clamp(0.0, STEPS) as u8;
        if steps == self.told {
            return None;
        }
        self.told = steps;
        Some((f32::from(steps) / STEPS, steps > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speak(level: &mut AudioLevel, dbov: u8, packets: usize) {
        (0..packets).for_each(|_| level.observe(dbov, PACKET_DURATION));
    }

    #[test]
    fn the_extension_holds_a_voice_bit_and_a_level() {
        assert_eq!(parse_audio_level(&[0x80 | 35]), Some((true, 35)));
        assert_eq!(parse_audio_level(&[127, 0]), Some((false, 127)));
        assert_eq!(parse_audio_level(&[]), None);
    }

    #[test]
    fn a_steady_voice_rises_to_its_level_and_is_told_only_when_it_changes() {
        let start = Instant::now();
        let mut level = AudioLevel::new();
        let mut told = Vec::new();
        for interval in 1..=10 {
            speak(&mut level, 6, 20);
            told.extend(level.update(start + UPDATE_INTERVAL * interval));
        }
        // 10^(-6/20) is 0.501: two thirds of it, then nearly and at last all of it, rounded up to an eighth.
        assert_eq!(told, [(0.375, true), (0.5, true), (0.625, true)]);
    }

    #[test]
    fn speech_of_less_than_two_fifths_of_an_interval_is_silence() {
        let now = Instant::now();
        let mut level = AudioLevel::new();
        speak(&mut level, 10, 7);
        speak(&mut level, 36, 13);
        assert_eq!(level.update(now), None);
        speak(&mut level, 10, 8);
        speak(&mut level, 36, 12);
        assert_eq!(level.update(now + UPDATE_INTERVAL), Some((0.125, true)));
    }

    #[test]
    fn silence_is_told_at_once_and_once() {
        let start = Instant::now();
        let mut level = AudioLevel::new();
        speak(&mut level, 0, 20);
        assert_eq!(level.update(start), Some((0.75, true)));
        speak(&mut level, 127, 20);
        assert_eq!(level.update(start + UPDATE_INTERVAL), Some((0.0, false)));
        speak(&mut level, 127, 20);
        assert_eq!(level.update(start + UPDATE_INTERVAL * 2), None);
    }

    #[test]
    fn a_level_without_packets_is_forgotten_after_two_intervals() {
        let start = Instant::now();
        let mut level = AudioLevel::new();
        speak(&mut level, 0, 20);
        assert!(level.update(start).is_some());
        assert_eq!(level.update(start + UPDATE_INTERVAL), None);
        assert_eq!(level.update(start + UPDATE_INTERVAL * 2), Some((0.0, false)));
        assert_eq!(level.update(start + UPDATE_INTERVAL * 3), None);
    }

    #[test]
    fn the_primary_block_of_red_is_its_last() {
        assert_eq!(red_primary(&[111, 1, 2]), Some(&[1, 2][..]));
        assert_eq!(red_primary(&[0x80 | 111, 0, 0, 3, 111, 9, 9, 9, 1, 2]), Some(&[1, 2][..]));
        assert_eq!(red_primary(&[0x80 | 111, 0, 4, 2, 0x80 | 111, 0, 0, 1, 111, 9, 9, 8, 1]), Some(&[1][..]));
        assert_eq!(red_primary(&[0x80 | 111, 0, 0, 4, 111, 9, 9, 9]), None);
        assert_eq!(red_primary(&[0x80 | 111, 0, 0]), None);
        assert_eq!(red_primary(&[]), None);
    }
}
