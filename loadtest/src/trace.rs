//! Frame sizes as an encoder produces them.
//!
//! A trace is generated, not recorded: 30 frames a second, a key frame every 3 s several times larger than the rest,
//! the others varying with slow changes of the scene. It is the same in every run.

use std::time::Duration;

/// Frames a second.
pub const FRAME_RATE: u64 = 30;
/// Between two frames.
pub const FRAME_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / FRAME_RATE);
/// Frames from one key frame to the next.
pub const KEY_FRAME_INTERVAL: u64 = 3 * FRAME_RATE;
/// Times a key frame is larger than a mean delta frame.
const KEY_FRAME_WEIGHT: f64 = 6.0;

/// How many packets of which size a track sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// Frames of varying size, together `bitrate_bps`, cut into payloads of at most `payload_max` bytes.
    Trace { bitrate_bps: u64, payload_max: usize },
    /// Exactly so many packets of one size; every 90th frame is marked as key frame.
    Steady { packets_per_second: u32, payload_len: usize },
}

/// Gives the payload sizes of one frame after the other.
#[derive(Debug)]
pub struct FrameSource {
    pattern: Pattern,
    frame: u64,
    since_key_frame: u64,
    /// Packets owed by the steady pattern, in 1/30.
    credit: u64,
    random: u64,
}

/// One frame, cut into packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub number: u64,
    pub key_frame: bool,
    pub payload_lens: Vec<usize>,
}

impl FrameSource {
    pub fn new(pattern: Pattern) -> Self {
        Self { pattern, frame: 0, since_key_frame: KEY_FRAME_INTERVAL, credit: 0, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Mean bitrate of the payloads.
    pub fn bitrate_bps(&self) -> u64 {
        match self.pattern {
            Pattern::Trace { bitrate_bps, .. } => bitrate_bps,
            Pattern::Steady { packets_per_second, payload_len } => {
                u64::from(packets_per_second) * payload_len as u64 * 8
            }
        }
    }

    /// The frame that is due; a key frame if it is time for one or `key_frame_wanted`.
    pub fn next(&mut self, key_frame_wanted: bool) -> Frame {
        let key_frame = key_frame_wanted || self.since_key_frame >= KEY_FRAME_INTERVAL;
        self.since_key_frame = if key_frame { 1 } else { self.since_key_frame + 1 };
        let number = self.frame;
        self.frame += 1;
        let payload_lens = match self.pattern {
            Pattern::Trace { bitrate_bps, payload_max } => cut(self.frame_len(bitrate_bps, key_frame), payload_max),
            Pattern::Steady { packets_per_second, payload_len } => {
                self.credit += u64::from(packets_per_second);
                let packets = self.credit / FRAME_RATE;
                self.credit %= FRAME_RATE;
                vec![payload_len; packets as usize]
            }
        };
        Frame { number, key_frame, payload_lens }
    }

    fn frame_len(&mut self, bitrate_bps: u64, key_frame: bool) -> usize {
        let frames = KEY_FRAME_INTERVAL as f64;
        let mean_delta = bitrate_bps as f64 / 8.0 * (frames / FRAME_RATE as f64) / (frames - 1.0 + KEY_FRAME_WEIGHT);
        // The scene swings over some 7 s, single frames by a quarter.
        let scene = 1.0 + 0.35 * (self.frame as f64 / 33.0).sin();
        let noise = 0.75 + 0.5 * self.random_unit();
        let weight = if key_frame { KEY_FRAME_WEIGHT } else { scene };
        ((mean_delta * weight * noise) as usize).max(200)
    }

    /// Uniform in 0..1; xorshift, so that every run sends the same.
    fn random_unit(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Cuts as packetisers do: parts that differ by one byte at most.
fn cut(len: usize, payload_max: usize) -> Vec<usize> {
    let parts = len.div_ceil(payload_max.max(1)).max(1);
    (0..parts).map(|part| len / parts + usize::from(part < len % parts)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_pattern_sends_exactly_its_rate_every_second() {
        let mut source = FrameSource::new(Pattern::Steady { packets_per_second: 220, payload_len: 1100 });
        for _ in 0..5 {
            let packets: usize = (0..FRAME_RATE).map(|_| source.next(false).payload_lens.len()).sum();
            assert_eq!(packets, 220);
        }
    }

    #[test]
    fn the_trace_meets_its_bitrate_and_its_key_frames_are_large() {
        let mut source = FrameSource::new(Pattern::Trace { bitrate_bps: 2_000_000, payload_max: 1100 });
        let frames: Vec<Frame> = (0..FRAME_RATE * 60).map(|_| source.next(false)).collect();
        let len = |frame: &Frame| frame.payload_lens.iter().sum::<usize>();
        let total: usize = frames.iter().map(len).sum();
        let bitrate_bps = total * 8 / 60;
        assert!((1_900_000..2_100_000).contains(&bitrate_bps), "{bitrate_bps}");

        let keys: Vec<&Frame> = frames.iter().filter(|frame| frame.key_frame).collect();
        assert_eq!(keys.len(), 20);
        let key_mean = keys.iter().map(|frame| len(frame)).sum::<usize>() / keys.len();
        let mean = total / frames.len();
        assert!((4 * mean..8 * mean).contains(&key_mean), "{key_mean} of {mean}");
        assert!(frames.iter().flat_map(|frame| &frame.payload_lens).all(|len| *len <= 1100));
    }

    #[test]
    fn a_wanted_key_frame_comes_at_once_and_restarts_the_interval() {
        let mut source = FrameSource::new(Pattern::Steady { packets_per_second: 60, payload_len: 100 });
        assert!(source.next(false).key_frame);
        assert!(!source.next(false).key_frame);
        assert!(source.next(true).key_frame);
        let until_next = (0..).take_while(|_| !source.next(false).key_frame).count() as u64;
        assert_eq!(until_next, KEY_FRAME_INTERVAL - 1);
    }
}
