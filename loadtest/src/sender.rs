//! One published track: frames cut into packets, paced, kept for retransmission.
//!
//! Pacing follows libwebrtc: 2.5 times the bitrate in bursts of 40 ms, so that a delta frame leaves at once and a key
//! frame in parts. Audio is not paced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clock::{monotonic_ns, ntp_now};
use crate::codec::{Place, VideoCodec, write_head};
use crate::rtcp;
use crate::rtp::Outgoing;
use crate::stamp::{STAMP_LEN, Stamp};
use crate::trace::{FRAME_INTERVAL, FrameSource, Layer, Pattern};

/// Packets kept for retransmission.
const HISTORY: usize = 1_024;
/// Between two key frames made on request.
const KEY_FRAME_GAP: Duration = Duration::from_millis(300);
/// Between two sender reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const PACE_FACTOR: f64 = 2.5;
const BURST: Duration = Duration::from_millis(40);
/// Between two looks at a frame that does not fit into a burst.
const PACE_INTERVAL: Duration = Duration::from_millis(10);
/// A source that fell further behind than this starts anew instead of catching up.
const LAG_MAX: Duration = Duration::from_millis(500);
/// Opus without DTX sends a packet each 20 ms.
const AUDIO_TIMESTAMP_RATE: u64 = 48_000;
const VIDEO_TIMESTAMP_RATE: u64 = 90_000;
/// Opus table of contents: CELT, full band, 20 ms, mono.
const OPUS_HEAD: u8 = 0xf8;

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    Video { codec: VideoCodec, pattern: Pattern },
    Audio { packets_per_second: u32, payload_len: usize },
}

impl Source {
    fn layer(&self) -> Layer {
        match self {
            Self::Video { pattern, .. } => pattern.layer(),
            Self::Audio { .. } => Layer::High,
        }
    }
}

/// How packets of the track look, as negotiated.
#[derive(Debug, Clone, Default)]
pub struct Encoding {
    pub payload_type: u8,
    pub ssrc: u32,
    /// Payload type and SSRC of retransmissions (RFC 4588).
    pub rtx: Option<(u8, u32)>,
    pub mid: String,
    /// The layer's name on simulcast tracks (RFC 8852).
    pub rid: Option<&'static str>,
    pub mid_extension: Option<u8>,
    pub rid_extension: Option<u8>,
    /// For the RID on retransmissions.
    pub repaired_rid_extension: Option<u8>,
    pub transport_sequence_extension: Option<u8>,
    pub audio_level_extension: Option<u8>,
}

/// What was sent and asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SenderCounts {
    pub packets: u64,
    pub bytes: u64,
    pub key_frames: u64,
    pub retransmitted: u64,
    pub packets_nacked: u64,
    pub key_frame_requests: u64,
}

/// One published layer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SenderStats {
    pub ssrc: u32,
    /// As stamps name it.
    pub layer: u8,
    #[serde(flatten)]
    pub counts: SenderCounts,
}

#[derive(Debug, Clone)]
struct Packet {
    sequence: u16,
    timestamp: u32,
    marker: bool,
    payload: Vec<u8>,
}

/// A source and its RTP state.
pub struct Sender {
    source: Source,
    frames: Option<FrameSource>,
    encoding: Encoding,
    counts: SenderCounts,
    sequence: u16,
    rtx_sequence: u16,
    /// Added to the media time of every packet.
    timestamp_start: u32,
    units: u64,
    number: u32,
    started: Option<Instant>,
    next_unit: Instant,
    next_report: Instant,
    queue: VecDeque<Packet>,
    budget: f64,
    budget_at: Instant,
    history: Vec<Option<Packet>>,
    key_frame_wanted: bool,
    key_frame_last: Option<Instant>,
    last_timestamp: u32,
    stopped: bool,
}

impl Sender {
    pub fn new(source: Source, encoding: Encoding, now: Instant) -> Self {
        let frames = match source {
            Source::Video { codec, pattern } => Some(FrameSource::new(codec, pattern)),
            Source::Audio { .. } => None,
        };
        Self {
            source,
            frames,
            encoding,
            counts: SenderCounts::default(),
            sequence: rand::random(),
            rtx_sequence: rand::random(),
            timestamp_start: rand::random(),
            units: 0,
            number: 0,
            started: None,
            next_unit: now,
            next_report: now + REPORT_INTERVAL,
            queue: VecDeque::new(),
            budget: 0.0,
            budget_at: now,
            history: vec![None; HISTORY],
            key_frame_wanted: false,
            key_frame_last: None,
            last_timestamp: 0,
            stopped: false,
        }
    }

    pub fn stats(&self) -> SenderStats {
        SenderStats { ssrc: self.ssrc(), layer: self.layer(), counts: self.counts }
    }

    /// As stamps name it.
    fn layer(&self) -> u8 {
        self.source.layer().index() as u8
    }

    pub fn ssrc(&self) -> u32 {
        self.encoding.ssrc
    }

    /// Sends nothing more, but still answers NACKs.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.queue.clear();
    }

    /// When [`Self::on_timeout`] sends.
    pub fn deadline(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let paced = (!self.queue.is_empty()).then(|| self.budget_at + PACE_INTERVAL);
        let media = paced.map_or(self.next_unit, |paced| paced.min(self.next_unit));
        Some(media.min(self.next_report))
    }

    /// Hands the packets that are due to `send`, unencrypted.
    pub fn on_timeout(&mut self, now: Instant, transport_sequence: &mut u16, mut send: impl FnMut(Outbound<'_>)) {
        if self.stopped {
            return;
        }
        if self.started.is_none() {
            self.started = Some(now);
            self.next_unit = now;
            self.budget_at = now;
            self.budget = self.burst_bytes();
        }
        if now.saturating_duration_since(self.next_unit) > LAG_MAX {
            self.next_unit = now;
        }
        while self.next_unit <= now {
            self.make_unit(now);
        }
        self.release(now, transport_sequence, &mut send);
        if self.next_report <= now {
            self.next_report = now + REPORT_INTERVAL;
            send(Outbound::Rtcp(&self.report()));
        }
    }

    fn make_unit(&mut self, now: Instant) {
        match self.source {
            Source::Audio { packets_per_second, payload_len } => {
                let rate = packets_per_second.max(1);
                self.next_unit += Duration::from_secs(1) / rate;
                let media_time = self.units * AUDIO_TIMESTAMP_RATE / u64::from(rate);
                let mut payload = vec![0x5a; payload_len.max(1 + STAMP_LEN)];
                payload[0] = OPUS_HEAD;
                self.enqueue(media_time, false, payload);
            }
            Source::Video { codec, .. } => {
                self.next_unit += FRAME_INTERVAL;
                self.make_frame(codec, now);
            }
        }
        self.units += 1;
    }

    fn make_frame(&mut self, codec: VideoCodec, now: Instant) {
        let requested = self.key_frame_wanted
            && self.key_frame_last.is_none_or(|last| now.saturating_duration_since(last) >= KEY_FRAME_GAP);
        let Some(frame) = self.frames.as_mut().map(|frames| frames.next(requested)) else { return };
        if frame.key_frame {
            self.key_frame_wanted = false;
            self.key_frame_last = Some(now);
            self.counts.key_frames += 1;
        }
        let media_time = self.units * VIDEO_TIMESTAMP_RATE * FRAME_INTERVAL.as_nanos() as u64 / 1_000_000_000;
        let last = frame.payload_lens.len().saturating_sub(1);
        for (index, &len) in frame.payload_lens.iter().enumerate() {
            let mut payload = vec![0x5a; len.max(40)];
            let place =
                Place { first: index == 0, last: index == last, key_frame: frame.key_frame, frame: frame.number };
            write_head(codec, place, &mut payload);
            self.enqueue(media_time, index == last, payload);
        }
    }

    fn enqueue(&mut self, media_time: u64, marker: bool, payload: Vec<u8>) {
        let timestamp = self.timestamp_start.wrapping_add(media_time as u32);
        self.last_timestamp = timestamp;
        self.queue.push_back(Packet { sequence: 0, timestamp, marker, payload });
    }

    fn release(&mut self, now: Instant, transport_sequence: &mut u16, send: &mut impl FnMut(Outbound<'_>)) {
        let paced = self.frames.is_some();
        if paced {
            let elapsed = now.saturating_duration_since(self.budget_at).as_secs_f64();
            self.budget = (self.budget + elapsed * self.pace_bytes()).min(self.burst_bytes());
            self.budget_at = now;
        }
        while !paced || self.budget > 0.0 {
            let Some(mut packet) = self.queue.pop_front() else { return };
            packet.sequence = self.sequence;
            self.sequence = self.sequence.wrapping_add(1);
            let stamp = Stamp { layer: self.layer(), number: self.number, sent_ns: monotonic_ns() };
            stamp.write(&mut packet.payload);
            self.number = self.number.wrapping_add(1);
            self.budget -= packet.payload.len() as f64;
            self.counts.packets += 1;
            self.counts.bytes += packet.payload.len() as u64;
            send(Outbound::Rtp(&self.packet(&packet, transport_sequence)));
            let slot = usize::from(packet.sequence) % HISTORY;
            self.history[slot] = Some(packet);
        }
    }

    fn pace_bytes(&self) -> f64 {
        self.frames.as_ref().map_or(0.0, |frames| frames.bitrate_bps() as f64 / 8.0 * PACE_FACTOR)
    }

    fn burst_bytes(&self) -> f64 {
        self.pace_bytes() * BURST.as_secs_f64()
    }

    fn packet(&self, packet: &Packet, transport_sequence: &mut u16) -> Vec<u8> {
        let mut out = Vec::with_capacity(packet.payload.len() + 40);
        let encoding = &self.encoding;
        self.write_header(
            packet,
            (encoding.payload_type, encoding.ssrc, packet.sequence),
            transport_sequence,
            &mut out,
        );
        out.extend_from_slice(&packet.payload);
        out
    }

    /// Writes a header with its own payload type, SSRC and sequence number.
    fn write_header(
        &self,
        packet: &Packet,
        (payload_type, ssrc, sequence): (u8, u32, u16),
        transport_sequence: &mut u16,
        out: &mut Vec<u8>,
    ) {
        let encoding = &self.encoding;
        let wide = transport_sequence.to_be_bytes();
        let level = [0x80 | 20];
        let mut extensions: Vec<(u8, &[u8])> = Vec::with_capacity(4);
        if let Some(id) = encoding.mid_extension {
            extensions.push((id, encoding.mid.as_bytes()));
        }
        let repairs = encoding.rtx.is_some_and(|(_, repair)| repair == ssrc);
        let rid_extension = if repairs { encoding.repaired_rid_extension } else { encoding.rid_extension };
        if let (Some(id), Some(rid)) = (rid_extension, encoding.rid) {
            extensions.push((id, rid.as_bytes()));
        }
        if let Some(id) = encoding.transport_sequence_extension {
            extensions.push((id, &wide));
            *transport_sequence = transport_sequence.wrapping_add(1);
        }
        if let Some(id) = encoding.audio_level_extension {
            extensions.push((id, &level));
        }
        let (marker, timestamp) = (packet.marker, packet.timestamp);
        Outgoing { payload_type, marker, sequence, timestamp, ssrc, extensions: &extensions }.write(out);
    }

    fn report(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (packets, bytes) = (self.counts.packets as u32, self.counts.bytes as u32);
        rtcp::write_sender_report(&mut out, self.encoding.ssrc, ntp_now(), self.last_timestamp, packets, bytes);
        out
    }

    /// A viewer needs a key frame.
    pub fn on_key_frame_request(&mut self) {
        self.counts.key_frame_requests += 1;
        self.key_frame_wanted = true;
    }

    /// Resends what is still in the history, through RTX if that was negotiated.
    pub fn on_nack(&mut self, sequences: &[u16], transport_sequence: &mut u16, mut send: impl FnMut(Outbound<'_>)) {
        self.counts.packets_nacked += sequences.len() as u64;
        for &sequence in sequences {
            let slot = usize::from(sequence) % HISTORY;
            let Some(packet) = self.history[slot].take() else { continue };
            if packet.sequence == sequence {
                let again = self.retransmission(&packet, transport_sequence);
                self.counts.retransmitted += 1;
                send(Outbound::Rtp(&again));
            }
            self.history[slot] = Some(packet);
        }
    }

    fn retransmission(&mut self, packet: &Packet, transport_sequence: &mut u16) -> Vec<u8> {
        let Some((payload_type, ssrc)) = self.encoding.rtx else { return self.packet(packet, transport_sequence) };
        let mut out = Vec::with_capacity(packet.payload.len() + 42);
        self.write_header(packet, (payload_type, ssrc, self.rtx_sequence), transport_sequence, &mut out);
        self.rtx_sequence = self.rtx_sequence.wrapping_add(1);
        out.extend_from_slice(&packet.sequence.to_be_bytes());
        out.extend_from_slice(&packet.payload);
        out
    }
}

/// A packet to encrypt and send.
pub enum Outbound<'a> {
    Rtp(&'a [u8]),
    Rtcp(&'a [u8]),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::starts_key_frame;
    use crate::rtp::Header;

    fn encoding() -> Encoding {
        Encoding {
            payload_type: 96,
            ssrc: 1,
            rtx: Some((97, 2)),
            mid: "7".into(),
            rid: Some("h"),
            mid_extension: Some(4),
            rid_extension: Some(10),
            repaired_rid_extension: Some(11),
            transport_sequence_extension: Some(3),
            audio_level_extension: None,
        }
    }

    fn video(now: Instant) -> Sender {
        let pattern = Pattern::Steady { packets_per_second: 220, payload_len: 1_100 };
        Sender::new(Source::Video { codec: VideoCodec::Vp8, pattern }, encoding(), now)
    }

    fn run(sender: &mut Sender, start: Instant, time: Duration, transport_sequence: &mut u16) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut now = start;
        while now < start + time {
            sender.on_timeout(now, transport_sequence, |outbound| {
                if let Outbound::Rtp(packet) = outbound {
                    packets.push(packet.to_vec());
                }
            });
            now = sender.deadline().unwrap();
        }
        packets
    }

    #[test]
    fn a_second_has_220_consecutive_packets_that_begin_with_a_key_frame() {
        let now = Instant::now();
        let packets = run(&mut video(now), now, Duration::from_millis(999), &mut 0);
        assert_eq!(packets.len(), 220);
        let headers: Vec<Header> = packets.iter().map(|packet| Header::parse(packet).unwrap()).collect();
        assert!(headers.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
        assert!(starts_key_frame(VideoCodec::Vp8, &packets[0][headers[0].len..]));
        let stamp = Stamp::read(packets.last().unwrap()).unwrap();
        assert_eq!(stamp.number, 219);
    }

    #[test]
    fn a_nack_is_answered_over_rtx_with_the_original_sequence_number() {
        let now = Instant::now();
        let mut sender = video(now);
        let mut transport_sequence = 0;
        let packets = run(&mut sender, now, Duration::from_millis(200), &mut transport_sequence);
        let original = Header::parse(&packets[3]).unwrap();
        let mut again = Vec::new();
        sender.on_nack(
            &[original.sequence, original.sequence.wrapping_add(5_000)],
            &mut transport_sequence,
            |outbound| {
                if let Outbound::Rtp(packet) = outbound {
                    again.push(packet.to_vec());
                }
            },
        );
        assert_eq!(again.len(), 1);
        let header = Header::parse(&again[0]).unwrap();
        assert_eq!((header.payload_type, header.ssrc, header.timestamp), (97, 2, original.timestamp));
        assert_eq!(again[0][header.len..header.len + 2], original.sequence.to_be_bytes());
        assert_eq!((header.extension(&again[0], 10), header.extension(&again[0], 11)), (None, Some(&b"h"[..])));
        assert_eq!(original.extension(&packets[3], 10), Some(&b"h"[..]));
        assert_eq!(again[0][header.len + 2..], packets[3][original.len..]);
    }

    #[test]
    fn key_frame_requests_within_300_ms_give_one_key_frame() {
        let now = Instant::now();
        let mut sender = video(now);
        run(&mut sender, now, Duration::from_millis(400), &mut 0);
        for turn in 0..9 {
            sender.on_key_frame_request();
            run(&mut sender, now + Duration::from_millis(400 + 34 * turn), Duration::from_millis(34), &mut 0);
        }
        assert_eq!(sender.counts.key_frames, 2);
    }

    #[test]
    fn a_key_frame_is_paced_and_the_rate_still_met() {
        let start = Instant::now();
        let pattern = Pattern::Trace { layer: Layer::High, bitrate_bps: 2_000_000, payload_max: 1_100 };
        let mut sender = Sender::new(Source::Video { codec: VideoCodec::H264, pattern }, encoding(), start);
        let (mut total, mut largest, mut now) = (0, 0, start);
        while now < start + Duration::from_secs(30) {
            let mut at_once = 0;
            sender.on_timeout(now, &mut 0, |outbound| {
                if let Outbound::Rtp(packet) = outbound {
                    at_once += packet.len();
                }
            });
            (total, largest) = (total + at_once, largest.max(at_once));
            now = sender.deadline().unwrap();
        }
        // A key frame has some 110 kB; 40 ms at 2.5 times the bitrate have 25, beside the headers.
        assert!((20_000..28_000).contains(&largest), "{largest}");
        assert!((7_400_000..8_000_000).contains(&total), "{total}");
    }
}
