//! How loud a publication is: audio levels of its packets (RFC 6464) become activity for speaker detection.
//!
//! Rules and default values are livekit-server's. Levels are weighed over the audio that packets stand for, by their
//! RTP timestamps, and not over the time that passes: with DTX (RFC 7587, section 3.1.3) the first packet after a gap
//! stands for the gap too. Which participants hear of it is decided above.

use std::time::{Duration, Instant};

use crate::section::Ssrc;

/// Levels are reported in steps, so that a steady voice is no change.
const STEPS: f32 = 8.0;
/// Intervals without any packet after which the last level is forgotten.
const STALE_INTERVALS: u32 = 2;
/// [`AudioLevel::update`] is called by a timer that may be early by some of its own resolution.
const STALE_EARLY: Duration = Duration::from_millis(20);
/// Silence on the scale of RFC 6464, and its largest value.
pub const SILENCE: u8 = 127;
/// A packet so far behind the newest one is no straggler: the publisher's clock has jumped.
const STRAGGLER_MAX: Duration = Duration::from_secs(5);

/// LiveKit's configuration of speaker detection (`audio`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioConfig {
    /// A packet at most this far below full scale, in dB, counts as speech.
    pub active_level: u8,
    /// Share of an interval that must be speech, in percent.
    pub min_percentile: u8,
    /// How much audio one level is measured over, and how often [`AudioLevel::update`] is to be called. Zero: no
    /// speakers are detected.
    pub update_interval: Duration,
    /// Intervals that the exponential average is smoothed over; 0 means none.
    pub smooth_intervals: u32,
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self { active_level: 35, min_percentile: 40, update_interval: Duration::from_millis(400), smooth_intervals: 2 }
    }
}

/// Voice activity bit and level of the header extension; the level is in -dBov, 0 loudest, 127 silence. `None` if it is
/// empty.
pub fn parse_audio_level(extension: &[u8]) -> Option<(bool, u8)> {
    extension.first().map(|byte| (byte & 0x80 != 0, byte & 0x7F))
}

/// Primary block of a RED payload (RFC 2198, section 3): the last one, the newest audio. `None` if the block lengths
/// lead outside.
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
    config: AudioConfig,
    /// The stream that packets last came from and its highest timestamp.
    newest: Option<(Ssrc, u32)>,
    /// When a packet last came.
    heard: Option<Instant>,
    /// Audio of the interval that is under way, and how much of it was speech.
    observed: Duration,
    active: Duration,
    /// Loudest level of the active packets, in -dBov.
    loudest: u8,
    smoothed: f32,
    /// Steps last reported; 0 is silence.
    reported: u8,
    told_at: Option<Instant>,
}

impl AudioLevel {
    /// Levels of a publication that has been silent so far.
    pub fn new(config: AudioConfig) -> Self {
        let nothing = Duration::ZERO;
        Self {
            config,
            newest: None,
            heard: None,
            observed: nothing,
            active: nothing,
            loudest: SILENCE,
            smoothed: 0.0,
            reported: 0,
            told_at: None,
        }
    }

    /// A packet of this level, in -dBov. It stands for the audio since the newest packet before it, by its timestamp
    /// at this clock rate, in Hz; a packet that comes late stands for nothing. Level from 0 to 1 and whether the
    /// publication speaks, if this packet ends an interval and either changed; what changes within half an interval is
    /// left to [`Self::update`].
    pub fn observe(
        &mut self,
        now: Instant,
        ssrc: Ssrc,
        timestamp: u32,
        clock_rate: u32,
        level: u8,
    ) -> Option<(f32, bool)> {
        if self.config.update_interval.is_zero() {
            return None;
        }
        let duration = self.advance(ssrc, timestamp, clock_rate)?;
        self.heard = Some(now);
        self.observed += duration;
        if level <= self.config.active_level {
            self.active += duration;
            self.loudest = self.loudest.min(level);
        }
        if self.observed < self.config.update_interval {
            return None;
        }
        let smoothed = self.smooth();
        self.begin(smoothed);
        // The publisher's clock may run as it likes.
        let again = self.config.update_interval / 2;
        let lately = self.told_at.is_some_and(|at| now.saturating_duration_since(at) < again);
        if lately { None } else { self.report(now) }
    }

    /// Moves on to a timestamp. An interval at most, so that a click after a long silence is not a long speech. `None`:
    /// a straggler.
    fn advance(&mut self, ssrc: Ssrc, timestamp: u32, clock_rate: u32) -> Option<Duration> {
        let ticks = match self.newest {
            Some((known, newest)) if known == ssrc => timestamp.wrapping_sub(newest).cast_signed(),
            Some(_) | None => 0,
        };
        let length = Duration::from_secs(1).saturating_mul(ticks.unsigned_abs()) / clock_rate.max(1);
        if ticks < 0 && length <= STRAGGLER_MAX {
            return None;
        }
        self.newest = Some((ssrc, timestamp));
        Some(if ticks < 0 { Duration::ZERO } else { length.min(self.config.update_interval) })
    }

    /// Forgets a level for which no packet comes any more; to be called every [`AudioConfig::update_interval`]. As
    /// [`Self::observe`] it says what changed. Nothing changes in a single interval without packets.
    pub fn update(&mut self, now: Instant) -> Option<(f32, bool)> {
        let stale_after = self.config.update_interval.saturating_mul(STALE_INTERVALS).saturating_sub(STALE_EARLY);
        if self.heard.is_some_and(|heard| now.saturating_duration_since(heard) >= stale_after) {
            self.begin(0.0);
        }
        self.report(now)
    }

    /// Forgets everything, also what was reported: for a publication that is muted.
    pub fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    /// Begins the next interval.
    fn begin(&mut self, smoothed: f32) {
        self.smoothed = smoothed;
        self.observed = Duration::ZERO;
        self.active = Duration::ZERO;
        self.loudest = SILENCE;
    }

    /// The average with the interval that ends. An interval without enough speech ends the average.
    fn smooth(&self) -> f32 {
        let interval = self.config.update_interval;
        if self.active.is_zero() || self.active < interval * u32::from(self.config.min_percentile) / 100 {
            return 0.0;
        }
        let level = linear(self.loudest) * self.active.div_duration_f32(interval);
        match self.config.smooth_intervals {
            0 => level,
            intervals => self.smoothed + (level - self.smoothed) * 2.0 / (intervals as f32 + 1.0),
        }
    }

    fn report(&mut self, now: Instant) -> Option<(f32, bool)> {
        let audible = if self.smoothed >= linear(self.config.active_level) { self.smoothed } else { 0.0 };
        let steps = (audible * STEPS).ceil().clamp(0.0, STEPS) as u8;
        if steps == self.reported {
            return None;
        }
        self.reported = steps;
        self.told_at = Some(now);
        Some((f32::from(steps) / STEPS, steps > 0))
    }
}

/// A level in -dBov as a share of full scale.
fn linear(level: u8) -> f32 {
    10f32.powf(-f32::from(level) / 20.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(400);
    /// Opus of WebRTC.
    const CLOCK: u32 = 48_000;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// A publisher with its clock. Its first packet only sets the clock.
    struct Mic {
        level: AudioLevel,
        start: Instant,
        /// Since `start`.
        time: Duration,
        polled: Duration,
        reported: Vec<(f32, bool)>,
        /// When it was first reported that the publication speaks.
        spoke: Option<Duration>,
    }

    impl Mic {
        fn new() -> Self {
            Self::with(AudioConfig::default())
        }

        fn with(config: AudioConfig) -> Self {
            let mut mic = Self {
                level: AudioLevel::new(config),
                start: Instant::now(),
                time: Duration::ZERO,
                polled: Duration::ZERO,
                reported: Vec::new(),
                spoke: None,
            };
            mic.packet(127);
            mic
        }

        fn timestamp(&self) -> u32 {
            // Near the wrap, which no test notices.
            (u32::MAX - 9_600).wrapping_add((self.time.as_millis() * 48) as u32)
        }

        fn packet(&mut self, dbov: u8) {
            self.packet_at(Ssrc(1), self.timestamp(), dbov);
        }

        fn packet_at(&mut self, ssrc: Ssrc, timestamp: u32, dbov: u8) {
            let reported = self.level.observe(self.start + self.time, ssrc, timestamp, CLOCK, dbov);
            self.note(self.time, reported);
        }

        fn note(&mut self, at: Duration, reported: Option<(f32, bool)>) {
            self.reported.extend(reported);
            if reported.is_some_and(|(_, speaks)| speaks) {
                self.spoke.get_or_insert(at);
            }
        }

        /// Nothing is sent: time passes.
        fn pass(&mut self, time: Duration) {
            let end = self.time + time;
            while self.polled + INTERVAL <= end {
                self.polled += INTERVAL;
                let reported = self.level.update(self.start + self.polled);
                self.note(self.polled, reported);
            }
            self.time = end;
        }

        /// Packets of 20 ms of sound, each sent at its end.
        fn send(&mut self, dbov: u8, packets: usize) {
            for _ in 0..packets {
                self.pass(ms(20));
                self.packet(dbov);
            }
        }

        /// A gap that is only heard of by the next packet.
        fn skip(&mut self, time: Duration) {
            self.pass(time);
        }
    }

    #[test]
    fn the_extension_holds_a_voice_bit_and_a_level() {
        assert_eq!(parse_audio_level(&[0x80 | 35]), Some((true, 35)));
        assert_eq!(parse_audio_level(&[127, 0]), Some((false, 127)));
        assert_eq!(parse_audio_level(&[]), None);
    }

    #[test]
    fn a_steady_voice_rises_to_its_level_and_is_told_only_when_it_changes() {
        let mut mic = Mic::new();
        mic.send(6, 200);
        mic.pass(ms(0));
        // 10^(-6/20) is 0.501: two thirds of it, then nearly and at last all of it, rounded up to an eighth.
        assert_eq!(mic.reported, [(0.375, true), (0.5, true), (0.625, true)]);
    }

    #[test]
    fn beeps_with_dtx_between_them_are_speech() {
        // Chromium's fake microphone: 20 ms of sound twice a second. DTX falls silent 200 ms after it.
        let mut mic = Mic::new();
        for _ in 0..8 {
            mic.send(15, 1);
            mic.send(127, 10);
            mic.skip(ms(280));
        }
        // With the second beep, which is the first packet after 400 ms of audio.
        assert_eq!(mic.spoke, Some(ms(520)));
        assert!(mic.reported.last().unwrap().1);
    }

    #[test]
    fn a_publisher_whose_clock_runs_fast_is_told_of_no_more_than_thrice_an_interval() {
        let mut mic = Mic::new();
        for number in 0..1_000_u32 {
            mic.pass(ms(1));
            mic.packet_at(Ssrc(1), number.wrapping_mul(CLOCK), if number % 2 == 0 { 0 } else { 127 });
        }
        assert!((2..=9).contains(&mic.reported.len()), "{:?}", mic.reported);
    }

    #[test]
    fn silence_and_comfort_noise_are_no_speech() {
        let mut mic = Mic::new();
        mic.send(127, 100);
        for _ in 0..10 {
            mic.skip(ms(380));
            mic.send(70, 1);
        }
        mic.send(36, 100);
        assert_eq!(mic.reported, []);
    }

    #[test]
    fn a_voice_with_lost_packets_is_as_loud_as_without() {
        let mut whole = Mic::new();
        whole.send(6, 200);
        let mut holed = Mic::new();
        for _ in 0..40 {
            holed.send(6, 3);
            holed.skip(ms(20));
            holed.send(6, 1);
        }
        assert_eq!(holed.reported, whole.reported);
    }

    #[test]
    fn a_packet_that_comes_late_or_twice_counts_for_nothing() {
        let mut mic = Mic::new();
        for _ in 0..20 {
            mic.send(127, 1);
            let late = mic.timestamp().wrapping_sub(4 * 960);
            (0..20).for_each(|_| mic.packet_at(Ssrc(1), late, 0));
            mic.packet(0);
        }
        mic.pass(ms(400));
        assert_eq!(mic.reported, []);
    }

    #[test]
    fn a_publisher_whose_clock_jumps_is_heard_on() {
        for jump in [0x8000_0000_u32, 0x7000_0000, 0xff00_0000] {
            let mut mic = Mic::new();
            mic.send(127, 10);
            for number in 1..=60_u32 {
                mic.pass(ms(20));
                let timestamp = mic.timestamp().wrapping_add(jump);
                mic.packet_at(Ssrc(1), timestamp, 6);
                assert!(number < 60 || mic.reported.last().is_some_and(|reported| reported.1), "{jump:x}");
            }
        }
    }

    #[test]
    fn a_new_stream_starts_a_new_clock() {
        let mut mic = Mic::new();
        mic.send(127, 19);
        mic.pass(ms(20));
        mic.packet_at(Ssrc(2), mic.timestamp().wrapping_add(96_000), 0);
        mic.pass(ms(780));
        assert_eq!(mic.reported, []);
    }

    #[test]
    fn a_click_after_a_long_silence_counts_for_one_interval() {
        let mut mic = Mic::new();
        mic.skip(Duration::from_secs(60));
        mic.send(20, 1);
        mic.pass(ms(400));
        // 10^(-20/20) is 0.1, two thirds of it.
        assert_eq!(mic.reported, [(0.125, true)]);
    }

    #[test]
    fn speech_of_less_than_two_fifths_of_an_interval_is_silence() {
        let mut mic = Mic::new();
        mic.send(10, 7);
        mic.send(36, 13);
        mic.pass(ms(0));
        assert_eq!(mic.reported, []);
        mic.send(10, 8);
        mic.send(36, 12);
        mic.pass(ms(400));
        assert_eq!(mic.reported, [(0.125, true)]);
    }

    #[test]
    fn silence_is_told_at_once_and_once() {
        let mut mic = Mic::new();
        mic.send(0, 20);
        mic.send(127, 80);
        mic.pass(ms(0));
        assert_eq!(mic.reported, [(0.75, true), (0.0, false)]);
    }

    #[test]
    fn a_level_without_packets_is_forgotten_after_two_intervals() {
        let mut mic = Mic::new();
        mic.send(0, 20);
        mic.pass(ms(400));
        assert_eq!(mic.reported, [(0.75, true)]);
        mic.pass(ms(400));
        assert_eq!(mic.reported, [(0.75, true), (0.0, false)]);
        mic.pass(ms(4_000));
        assert_eq!(mic.reported.len(), 2);
    }

    #[test]
    fn the_settings_are_kept_to() {
        let sensitive =
            AudioConfig { active_level: 60, min_percentile: 10, smooth_intervals: 0, ..AudioConfig::default() };
        let mut mic = Mic::with(sensitive);
        mic.send(0, 2);
        mic.send(127, 18);
        mic.pass(ms(400));
        // A tenth of the interval, not smoothed.
        assert_eq!(mic.reported.first(), Some(&(0.125, true)));

        let mut off = Mic::with(AudioConfig { update_interval: Duration::ZERO, ..AudioConfig::default() });
        off.send(0, 200);
        assert_eq!(off.reported, []);
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
