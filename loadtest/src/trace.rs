//! Frame sizes as an encoder produced them.
//!
//! `traces/` has 30 s of a synthetic scene (a talking head before a textured room, camera noise, a waving hand), drawn
//! for this purpose and encoded by libvpx and x264 in their real-time modes as three simulcast layers, 30 frames a
//! second, a key frame each 3 s. Replaying sizes needs no encoder and is the same in every run.

use std::sync::OnceLock;
use std::time::Duration;

use serde::Serialize;

use crate::codec::VideoCodec;

/// Frames a second.
pub const FRAME_RATE: u64 = 30;
/// Between two frames.
pub const FRAME_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / FRAME_RATE);
/// Frames from one key frame to the next.
pub const KEY_FRAME_INTERVAL: u64 = 3 * FRAME_RATE;

const VP8: &str = include_str!("../traces/camera-vp8.csv");
const H264: &str = include_str!("../traces/camera-h264.csv");

/// One encoding of a simulcast track, with the RID that LiveKit's clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    Low,
    Middle,
    /// The only one without simulcast.
    High,
}

impl Layer {
    /// From the smallest to the largest.
    pub const ALL: [Self; 3] = [Self::Low, Self::Middle, Self::High];

    pub fn rid(self) -> &'static str {
        match self {
            Self::Low => "q",
            Self::Middle => "h",
            Self::High => "f",
        }
    }

    /// Width and height in pixels.
    pub fn size(self) -> (u32, u32) {
        match self {
            Self::Low => (320, 180),
            Self::Middle => (640, 360),
            Self::High => (1_280, 720),
        }
    }

    /// The bitrate of this layer beside a high one of `high_bps`, in the proportions of the recording.
    pub fn bitrate_bps(self, high_bps: u64) -> u64 {
        match self {
            Self::Low => high_bps * 3 / 40,
            Self::Middle => high_bps / 4,
            Self::High => high_bps,
        }
    }

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        match self {
            Self::Low => 0,
            Self::Middle => 1,
            Self::High => 2,
        }
    }
}

/// How many packets of which size a track sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// The recorded frames of one layer, scaled to `bitrate_bps`, cut into payloads of at most `payload_max` bytes.
    Trace { layer: Layer, bitrate_bps: u64, payload_max: usize },
    /// Exactly so many packets of one size; every 90th frame is marked as key frame.
    Steady { packets_per_second: u32, payload_len: usize },
}

impl Pattern {
    /// Which layer it stands for.
    pub fn layer(self) -> Layer {
        match self {
            Self::Trace { layer, .. } => layer,
            Self::Steady { .. } => Layer::High,
        }
    }
}

/// One line of a recording: whether it is a key frame, and the bytes of each layer.
type Recorded = (bool, [u32; 3]);

fn recording(codec: VideoCodec) -> &'static [Recorded] {
    static RECORDINGS: [OnceLock<Vec<Recorded>>; 2] = [const { OnceLock::new() }; 2];
    match codec {
        VideoCodec::Vp8 => RECORDINGS[0].get_or_init(|| parse(VP8)),
        VideoCodec::H264 => RECORDINGS[1].get_or_init(|| parse(H264)),
    }
}

fn parse(text: &str) -> Vec<Recorded> {
    let line = |line: &str| -> Option<Recorded> {
        let mut fields = line.split(',').map(|field| field.parse::<u32>().ok());
        let mut next = || fields.next().flatten();
        Some((next()? == 1, [next()?, next()?, next()?]))
    };
    text.lines().filter_map(line).collect()
}

/// Gives the payload sizes of one frame after the other.
#[derive(Debug)]
pub struct FrameSource {
    pattern: Pattern,
    recording: &'static [Recorded],
    /// Place in the recording.
    position: usize,
    /// Frame sizes are multiplied with this.
    scale: f64,
    frame: u64,
    since_key_frame: u64,
    /// Packets owed by the steady pattern, in 1/30.
    credit: u64,
}

/// One frame, cut into packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub number: u64,
    pub key_frame: bool,
    pub payload_lens: Vec<usize>,
}

impl FrameSource {
    pub fn new(codec: VideoCodec, pattern: Pattern) -> Self {
        let recording = recording(codec);
        let layer = pattern.layer().index();
        let bytes: u64 = recording.iter().map(|(_, lens)| u64::from(lens[layer])).sum();
        let recorded_bps = bytes as f64 * 8.0 * FRAME_RATE as f64 / recording.len() as f64;
        let mut source = Self {
            pattern,
            recording,
            position: 0,
            scale: 1.0,
            frame: 0,
            since_key_frame: KEY_FRAME_INTERVAL,
            credit: 0,
        };
        source.scale = source.bitrate_bps() as f64 / recorded_bps;
        source
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
        let number = self.frame;
        self.frame += 1;
        let (key_frame, payload_lens) = match self.pattern {
            Pattern::Trace { layer, payload_max, .. } => {
                let (key_frame, len) = self.replay(layer, key_frame_wanted);
                (key_frame, cut(len, payload_max))
            }
            Pattern::Steady { packets_per_second, payload_len } => {
                let key_frame = key_frame_wanted || self.since_key_frame >= KEY_FRAME_INTERVAL;
                self.since_key_frame = if key_frame { 1 } else { self.since_key_frame + 1 };
                self.credit += u64::from(packets_per_second);
                let packets = self.credit / FRAME_RATE;
                self.credit %= FRAME_RATE;
                (key_frame, vec![payload_len; packets as usize])
            }
        };
        Frame { number, key_frame, payload_lens }
    }

    /// The next recorded frame; a wanted key frame is the next one in the recording, and what followed it follows.
    fn replay(&mut self, layer: Layer, key_frame_wanted: bool) -> (bool, usize) {
        if key_frame_wanted {
            let after = self.recording.get(self.position..).unwrap_or(&[]);
            self.position = after.iter().position(|(key, _)| *key).map_or(0, |ahead| self.position + ahead);
        }
        let Some((key_frame, lens)) = self.recording.get(self.position) else { return (true, 0) };
        self.position = (self.position + 1) % self.recording.len();
        (*key_frame, (f64::from(lens[layer.index()]) * self.scale) as usize)
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

    const STEADY: Pattern = Pattern::Steady { packets_per_second: 220, payload_len: 1_100 };

    fn trace(layer: Layer) -> Pattern {
        Pattern::Trace { layer, bitrate_bps: layer.bitrate_bps(2_000_000), payload_max: 1_100 }
    }

    fn len(frame: &Frame) -> usize {
        frame.payload_lens.iter().sum()
    }

    #[test]
    fn the_steady_pattern_sends_exactly_its_rate_every_second() {
        let mut source = FrameSource::new(VideoCodec::Vp8, STEADY);
        for _ in 0..5 {
            let packets: usize = (0..FRAME_RATE).map(|_| source.next(false).payload_lens.len()).sum();
            assert_eq!(packets, 220);
        }
    }

    #[test]
    fn every_layer_of_both_recordings_meets_its_bitrate_with_large_key_frames() {
        for codec in [VideoCodec::Vp8, VideoCodec::H264] {
            for layer in Layer::ALL {
                let mut source = FrameSource::new(codec, trace(layer));
                let frames: Vec<Frame> = (0..FRAME_RATE * 60).map(|_| source.next(false)).collect();
                let total: usize = frames.iter().map(len).sum();
                let error = (total * 8 / 60) as f64 / layer.bitrate_bps(2_000_000) as f64 - 1.0;
                assert!(error.abs() < 0.01, "{codec:?} {layer:?} {error}");

                let keys: Vec<&Frame> = frames.iter().filter(|frame| frame.key_frame).collect();
                assert_eq!(keys.len(), 20);
                let key_mean = keys.iter().map(|frame| len(frame)).sum::<usize>() / keys.len();
                assert!(key_mean > 3 * total / frames.len() / 2, "{codec:?} {layer:?} {key_mean}");
                assert!(frames.iter().flat_map(|frame| &frame.payload_lens).all(|len| *len <= 1_100));
            }
        }
    }

    #[test]
    fn a_wanted_key_frame_comes_at_once_and_restarts_the_interval() {
        for pattern in [STEADY, trace(Layer::High)] {
            let mut source = FrameSource::new(VideoCodec::H264, pattern);
            assert!(source.next(false).key_frame);
            assert!(!source.next(false).key_frame);
            assert!(source.next(true).key_frame);
            let until_next = (0..).take_while(|_| !source.next(false).key_frame).count() as u64;
            assert_eq!(until_next, KEY_FRAME_INTERVAL - 1);
        }
    }
}
