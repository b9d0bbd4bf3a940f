//! A participant with a camera in three layers and a microphone, who keeps to the rules of libwebrtc's sender.
//!
//! Not modelled: the sender's own estimate (the uplink is taken to be wide enough), layers that it stops, FEC.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sfu::rtcp::{Feedback, SenderReport, parse, write_sdes_cname, write_sender_report};

use super::pacer::Pacer;
use super::picture::{BYTES_MIN, Picture, PictureId};
use super::vp8::{Encoded, Encoder, WEIGHTS, temporal_layer};
use crate::media::{AUDIO, Rtp, VIDEO, VIDEO_RTX, extensions};

pub const FPS: u32 = 30;
const VIDEO_CLOCK: u64 = 90_000;
const AUDIO_CLOCK: u64 = 48_000;
/// Of Opus.
pub const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
const AUDIO_BYTES: usize = 80;
/// Requests for key frames that follow another one faster are ignored (libwebrtc, `EncoderRtcpFeedback`).
const KEYFRAME_INTERVAL_MIN: Duration = Duration::from_millis(300);
/// Times the size of a mean picture.
const KEYFRAME_SIZE: std::ops::Range<f64> = 5.0..8.0;
/// Of the logarithm of sizes.
const SIGMA: f64 = 0.25;
/// What a picture can save at most, to pay for those that were too large.
const SAVED_MAX: f64 = 0.25;
const PAYLOAD_MAX: usize = 1_150;
/// Packets that can be sent again (libwebrtc, `RtpPacketHistory`).
const HISTORY: usize = 1_000;
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Encoding takes that long a layer.
const ENCODING: Duration = Duration::from_millis(3);

pub const AUDIO_SSRC: u32 = 500;
pub const VIDEO_MID: &[u8] = b"0";
pub const AUDIO_MID: &[u8] = b"1";

/// An encoding of the camera.
#[derive(Debug, Clone, Copy)]
pub struct LayerConfig {
    pub rid: &'static str,
    pub height: u16,
    pub bps: u64,
}

/// Of a camera, lowest first.
pub const CAMERA: [LayerConfig; 3] = [
    LayerConfig { rid: "q", height: 180, bps: 150_000 },
    LayerConfig { rid: "h", height: 360, bps: 500_000 },
    LayerConfig { rid: "f", height: 720, bps: 1_700_000 },
];

/// What makes pictures of one layer. Other codecs join here.
enum Codec {
    Vp8(Encoder),
}

struct Layer {
    config: LayerConfig,
    codec: Codec,
    ssrc: u32,
    rtx_ssrc: u32,
    sequence: u16,
    rtx_sequence: u16,
    timestamp: u32,
    /// Bytes by which it is above its bitrate.
    debt: f64,
    history: VecDeque<Rtp>,
    /// Whether a report has named its SSRC: until then packets bear MID and RID, as they do in libwebrtc's `RtpSender`.
    is_bound: bool,
    is_rtx_bound: bool,
    sent: SenderReport,
}

/// A packet that leaves at a time.
pub type Leaving = (Duration, Rtp);

pub struct Publisher {
    rng: StdRng,
    layers: Vec<Layer>,
    pacer: Pacer,
    wants_keyframe: bool,
    keyframe_at: Option<Duration>,
    audio_sequence: u16,
    audio_sent: SenderReport,
    /// Transport-wide.
    next_number: u16,
    next_report: Duration,
    frames: u32,
    /// Whether packets of T1 and T2 are sent again: libwebrtc did not keep them before August 2023.
    pub repeats_upper_layers: bool,
    /// When requests for key frames came.
    pub requests: Vec<Duration>,
    pub keyframes: Vec<Duration>,
    pub nacked: u64,
    pub resent: u64,
    /// Pictures by what encoded them: time, layer, bytes.
    pub encoded: Vec<(Duration, u8, usize)>,
}

impl Publisher {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let layers = CAMERA.iter().zip(0..).map(|(config, index)| Layer::new(*config, index, &mut rng)).collect();
        Self {
            layers,
            pacer: Pacer::new(CAMERA.iter().map(|layer| layer.bps).sum::<u64>() * 5 / 4),
            wants_keyframe: true,
            keyframe_at: None,
            audio_sequence: rng.random(),
            audio_sent: SenderReport { ssrc: AUDIO_SSRC, ..SenderReport::default() },
            next_number: rng.random(),
            next_report: REPORT_INTERVAL,
            frames: 0,
            repeats_upper_layers: true,
            requests: Vec::new(),
            keyframes: Vec::new(),
            nacked: 0,
            resent: 0,
            encoded: Vec::new(),
            rng,
        }
    }

    /// When the next picture is taken.
    pub fn next_capture(&self) -> Duration {
        Duration::from_secs(1) * self.frames / FPS
    }

    /// One picture of the camera, in all layers.
    pub fn capture(&mut self, now: Duration) -> Vec<Leaving> {
        self.frames += 1;
        let is_key = std::mem::take(&mut self.wants_keyframe);
        if is_key {
            self.keyframes.push(now);
        }
        let mut leaving = Vec::new();
        for (index, ready) in (0..self.layers.len()).zip(1..) {
            let layer = &mut self.layers[index];
            let size = layer.size(is_key, &mut self.rng);
            self.encoded.push((now, index as u8, size));
            let encoded = layer.encode(now, is_key);
            layer.packetize(&encoded, size, now + ENCODING * ready, &mut self.pacer, &mut leaving);
        }
        leaving
    }

    /// The next packet of Opus.
    pub fn speak(&mut self, now: Duration) -> Rtp {
        self.audio_sequence = self.audio_sequence.wrapping_add(1);
        let picture = Picture {
            id: PictureId::default(),
            layer: 0,
            temporal: 0,
            height: 0,
            is_key: false,
            reads: [None; 3],
            writes: [false; 3],
            captured: now,
            sent: now,
        };
        let mut payload = Vec::new();
        picture.write(&mut payload, AUDIO_BYTES, false);
        count(&mut self.audio_sent, payload.len());
        Rtp {
            payload_type: AUDIO,
            marker: false,
            sequence: self.audio_sequence,
            timestamp: ticks(now, AUDIO_CLOCK),
            ssrc: AUDIO_SSRC,
            extensions: vec![(mid(), AUDIO_MID.to_vec())],
            payload,
        }
    }

    /// Gives a packet that leaves now its transport-wide number.
    pub fn number(&mut self, packet: &mut Rtp) {
        let id = extensions().transport_cc.expect("agreed");
        packet.extensions.push((id, self.next_number.to_be_bytes().to_vec()));
        self.next_number = self.next_number.wrapping_add(1);
    }

    /// Acts on RTCP of the server: packets to send again.
    pub fn on_rtcp(&mut self, now: Duration, compound: &[u8]) -> Vec<Leaving> {
        let mut leaving = Vec::new();
        for feedback in parse(compound).flatten() {
            match feedback {
                Feedback::Nack { media, pairs, .. } => self.resend(now, media, pairs, &mut leaving),
                Feedback::Pli { .. } | Feedback::Fir { .. } => self.on_keyframe_request(now),
                Feedback::ReceiverReport { blocks, .. } => blocks.for_each(|block| self.on_reported(block.ssrc)),
                Feedback::SenderReport(..)
                | Feedback::TransportCc(_)
                | Feedback::Remb { .. }
                | Feedback::Bye(_)
                | Feedback::Other(_) => {}
            }
        }
        leaving
    }

    /// One request, of whatever layer, makes key frames on all layers (libwebrtc, `libvpx_vp8_encoder.cc`).
    fn on_keyframe_request(&mut self, now: Duration) {
        self.requests.push(now);
        if self.keyframe_at.is_none_or(|at| now >= at + KEYFRAME_INTERVAL_MIN) {
            self.keyframe_at = Some(now);
            self.wants_keyframe = true;
        }
    }

    fn on_reported(&mut self, ssrc: u32) {
        for layer in &mut self.layers {
            layer.is_bound |= layer.ssrc == ssrc;
            layer.is_rtx_bound |= layer.rtx_ssrc == ssrc;
        }
    }

    fn resend(&mut self, now: Duration, media: u32, lost: impl Iterator<Item = u16>, leaving: &mut Vec<Leaving>) {
        let Some(layer) = self.layers.iter_mut().find(|layer| layer.ssrc == media) else { return };
        for sequence in lost {
            self.nacked += 1;
            if let Some(again) = layer.repeat(sequence, self.repeats_upper_layers) {
                self.resent += 1;
                leaving.push((self.pacer.leave(now, again.payload.len()), again));
            }
        }
    }

    /// Sender reports, when they are due.
    pub fn reports(&mut self, now: Duration) -> Option<Vec<u8>> {
        if now < self.next_report {
            return None;
        }
        self.next_report += REPORT_INTERVAL;
        let mut compound = Vec::new();
        let video = self.layers.iter().map(|layer| (layer.sent, VIDEO_CLOCK, layer.start()));
        for (report, clock, start) in video.chain([(self.audio_sent, AUDIO_CLOCK, 0)]) {
            let rtp = ticks(now, clock).wrapping_add(start);
            write_sender_report(&mut compound, &SenderReport { ntp: ntp(now), rtp, ..report }, &[]);
        }
        write_sdes_cname(&mut compound, AUDIO_SSRC, "publisher");
        Some(compound)
    }
}

impl Layer {
    fn new(config: LayerConfig, index: u8, rng: &mut StdRng) -> Self {
        let ssrc = 100 * (u32::from(index) + 1);
        Self {
            config,
            codec: Codec::Vp8(Encoder::new(index, config.height, rng.random())),
            ssrc,
            rtx_ssrc: ssrc + 1,
            sequence: rng.random(),
            rtx_sequence: rng.random(),
            timestamp: 0,
            debt: 0.0,
            history: VecDeque::new(),
            is_bound: false,
            is_rtx_bound: false,
            sent: SenderReport { ssrc, ..SenderReport::default() },
        }
    }

    /// Where its RTP clock starts.
    fn start(&self) -> u32 {
        self.ssrc.wrapping_mul(1_000_003)
    }

    fn encode(&mut self, now: Duration, is_key: bool) -> Encoded {
        self.timestamp = ticks(now, VIDEO_CLOCK).wrapping_add(self.start());
        match &mut self.codec {
            Codec::Vp8(encoder) => encoder.encode(now, is_key),
        }
    }

    /// Bytes of the next picture: log-normal around what its temporal layer gets. Rate control takes back from the
    /// pictures that follow what a key frame was too large.
    fn size(&mut self, is_key: bool, rng: &mut StdRng) -> usize {
        let Codec::Vp8(encoder) = &self.codec;
        let mean = self.config.bps as f64 / 8.0 / f64::from(FPS);
        let weight = WEIGHTS[usize::from(encoder.next_temporal())];
        let wished = mean * if is_key { rng.random_range(KEYFRAME_SIZE) } else { weight * log_normal(rng) };
        let saved = if is_key { 0.0 } else { self.debt.clamp(0.0, SAVED_MAX * wished) };
        let size = (wished - saved).max((BYTES_MIN + 6) as f64);
        self.debt += size - mean * if is_key { WEIGHTS[0] } else { weight };
        size as usize
    }

    /// Cuts a picture into packets of even size, as libwebrtc does.
    fn packetize(
        &mut self,
        encoded: &Encoded,
        size: usize,
        ready: Duration,
        pacer: &mut Pacer,
        leaving: &mut Vec<Leaving>,
    ) {
        let count = size.div_ceil(PAYLOAD_MAX);
        for number in 0..count {
            let length = size * (number + 1) / count - size * number / count;
            let leaves = pacer.leave(ready, length);
            self.sequence = self.sequence.wrapping_add(1);
            let packet = Rtp {
                payload_type: VIDEO,
                marker: number + 1 == count,
                sequence: self.sequence,
                timestamp: self.timestamp,
                ssrc: self.ssrc,
                extensions: self.names(self.is_bound, extensions().rid),
                payload: encoded.payload(number, length, leaves),
            };
            super::publisher::count(&mut self.sent, packet.payload.len());
            self.history.push_back(packet.clone());
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
            leaving.push((leaves, packet));
        }
    }

    /// MID and (repaired) RID, as long as the server may not know the SSRC.
    fn names(&self, is_bound: bool, rid: Option<u8>) -> Vec<(u8, Vec<u8>)> {
        if is_bound {
            return Vec::new();
        }
        vec![(mid(), VIDEO_MID.to_vec()), (rid.expect("agreed"), self.config.rid.as_bytes().to_vec())]
    }

    /// As RTX (RFC 4588).
    fn repeat(&mut self, sequence: u16, with_upper_layers: bool) -> Option<Rtp> {
        let original = self.history.iter().rev().find(|packet| packet.sequence == sequence)?;
        if !with_upper_layers && temporal_layer(&original.payload) > 0 {
            return None;
        }
        self.rtx_sequence = self.rtx_sequence.wrapping_add(1);
        Some(Rtp {
            payload_type: VIDEO_RTX,
            marker: original.marker,
            sequence: self.rtx_sequence,
            timestamp: original.timestamp,
            ssrc: self.rtx_ssrc,
            extensions: self.names(self.is_rtx_bound, extensions().repaired_rid),
            payload: [&sequence.to_be_bytes(), &original.payload[..]].concat(),
        })
    }
}

fn mid() -> u8 {
    extensions().mid.expect("agreed")
}

fn count(report: &mut SenderReport, octets: usize) {
    report.packets += 1;
    report.octets += u32::try_from(octets).expect("a packet");
}

/// A time on a media clock.
pub fn ticks(now: Duration, clock: u64) -> u32 {
    (now.as_nanos() * u128::from(clock) / 1_000_000_000) as u32
}

/// Seconds from a day in 2026 on.
pub fn ntp(now: Duration) -> u64 {
    (3_990_000_000 << 32) + (now.as_nanos() * (1 << 32) / 1_000_000_000) as u64
}

/// With the mean 1 (Box and Muller's method).
fn log_normal(rng: &mut StdRng) -> f64 {
    let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>() * std::f64::consts::TAU);
    let normal = (-2.0 * radius.ln()).sqrt() * angle.cos();
    (SIGMA * normal - SIGMA * SIGMA / 2.0).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn film(seconds: u32) -> (Publisher, Vec<Leaving>) {
        let mut publisher = Publisher::new(3);
        let leaving = (0..seconds * FPS).flat_map(|_| publisher.capture(publisher.next_capture())).collect();
        (publisher, leaving)
    }

    #[test]
    fn each_layer_keeps_its_bitrate() {
        let (_, leaving) = film(60);
        for (layer, index) in CAMERA.iter().zip(1..) {
            let of_layer = leaving.iter().filter(|(_, packet)| packet.ssrc == 100 * index);
            let bps = of_layer.map(|(_, packet)| packet.payload.len()).sum::<usize>() as f64 * 8.0 / 60.0;
            let ratio = bps / layer.bps as f64;
            assert!((0.97..1.03).contains(&ratio), "{}: {bps}", layer.rid);
        }
    }

    #[test]
    fn a_request_makes_key_frames_on_all_layers_and_300_ms_later_again() {
        let (mut publisher, _) = film(1);
        let mut pli = Vec::new();
        sfu::rtcp::write_pli(&mut pli, 1, 200);
        let mut keys = Vec::new();
        for _ in 0..30 {
            let now = publisher.next_capture();
            publisher.on_rtcp(now, &pli);
            let leaving = publisher.capture(now);
            let is_key = |(_, packet): &&Leaving| packet.payload[10] != 0x77 && packet.payload[6] == 0x10;
            keys.push(leaving.iter().filter(is_key).count());
        }
        assert!(keys.iter().all(|count| *count == 0 || *count == 3));
        assert_eq!(keys.iter().filter(|count| **count == 3).count(), 4);
    }

    #[test]
    fn packets_name_their_layer_until_a_report_has_named_them() {
        let (mut publisher, _) = film(1);
        let named = |publisher: &mut Publisher| {
            let leaving = publisher.capture(publisher.next_capture());
            let of_layer = |ssrc| leaving.iter().filter(move |(_, packet)| packet.ssrc == ssrc);
            [100, 200, 300].map(|ssrc| of_layer(ssrc).all(|(_, packet)| packet.extension(2).is_some()))
        };
        assert_eq!(named(&mut publisher), [true; 3]);
        let mut report = Vec::new();
        let block = sfu::rtcp::ReportBlock { ssrc: 200, ..Default::default() };
        sfu::rtcp::write_receiver_report(&mut report, 1, &[block]);
        publisher.on_rtcp(Duration::from_secs(1), &report);
        assert_eq!(named(&mut publisher), [true, false, true]);
    }

    #[test]
    fn what_is_asked_for_comes_again_with_the_name_of_its_layer() {
        let (mut publisher, leaving) = film(1);
        let (_, lost) = leaving.iter().find(|(_, packet)| packet.ssrc == 300).expect("some");
        let mut nack = Vec::new();
        sfu::rtcp::write_nack(&mut nack, 1, 300, [lost.sequence].into_iter());
        let again = publisher.on_rtcp(Duration::from_secs(1), &nack);
        let [(_, again)] = &again[..] else { panic!("{again:?}") };
        assert_eq!((again.ssrc, again.extension(3)), (301, Some(&b"f"[..])));
        assert_eq!(again.payload[2..], lost.payload);
    }
}
