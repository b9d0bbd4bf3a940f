//! What a subscriber counts about one received stream, and what it asks the server for again.
//!
//! Everything here comes from the headers; [`crate::transport`] adds what decrypted packets show.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::playback::{Playback, PlaybackCounts};
use crate::rtcp::ReceptionReport;

/// Packets back from the newest in which duplicates and late ones are recognised.
const WINDOW: u64 = 2_048;
/// Missing packets that are remembered for NACKs.
const MISSING_MAX: usize = 512;
/// Requests for one packet, as libwebrtc.
const REQUESTS_MAX: u8 = 10;
/// Between two requests for one packet; libwebrtc waits a round trip, 100 ms before it knows one.
const REQUEST_INTERVAL: Duration = Duration::from_millis(100);

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    Audio,
    Video,
}

/// What one packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    InOrder,
    /// Came after a later one, or by retransmission.
    Late,
    Duplicate,
}

#[derive(Debug)]
struct Missing {
    sequence: u64,
    requests: u8,
    next_request: Instant,
}

/// Counts by sequence number (RFC 3550, appendix A.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StreamCounts {
    /// From the first to the newest sequence number.
    pub expected: u64,
    /// Different packets, retransmitted ones included.
    pub received: u64,
    pub bytes: u64,
    pub late: u64,
    pub duplicates: u64,
    /// Received as retransmission.
    pub recovered: u64,
    /// Packets asked for with NACKs, repeats included.
    pub requested: u64,
    /// Holes in the order of arrival, and the packets that were missing in them at first.
    pub gaps: u64,
    pub gap_packets: u64,
}

/// One incoming SSRC.
#[derive(Debug)]
pub struct Stream {
    pub kind: MediaKind,
    pub ssrc: u32,
    pub rtx_ssrc: Option<u32>,
    pub track: Option<Arc<str>>,
    counts: StreamCounts,
    /// Sequence numbers extended to 64 bits; the first is at least 2^16, so that earlier ones stay positive.
    first: u64,
    highest: u64,
    seen: Box<[u64; (WINDOW / 64) as usize]>,
    missing: VecDeque<Missing>,
    jitter: f64,
    playback: Playback,
    /// Timestamp and transit time of the newest frame or audio packet.
    last_transit: Option<(u32, i64)>,
    last_report: Option<(u32, Instant)>,
    /// Expected and received at the last receiver report.
    reported: (u64, u64),
}

impl Stream {
    pub fn new(kind: MediaKind, ssrc: u32) -> Self {
        Self {
            kind,
            ssrc,
            rtx_ssrc: None,
            track: None,
            counts: StreamCounts::default(),
            first: 0,
            highest: 0,
            seen: Box::new([0; (WINDOW / 64) as usize]),
            missing: VecDeque::new(),
            jitter: 0.0,
            playback: Playback::default(),
            last_transit: None,
            last_report: None,
            reported: (0, 0),
        }
    }

    /// Counts up to now.
    pub fn counts(&self) -> StreamCounts {
        StreamCounts { expected: self.expected(), ..self.counts }
    }

    /// Whether any packet came.
    pub fn is_flowing(&self) -> bool {
        self.highest != 0
    }

    fn expected(&self) -> u64 {
        if self.highest == 0 { 0 } else { self.highest - self.first + 1 }
    }

    /// Counts a packet of `len` bytes.
    pub fn on_packet(&mut self, sequence: u16, len: usize, now: Instant) -> Arrival {
        if self.highest == 0 {
            self.first = (1 << 16) + u64::from(sequence);
            self.highest = self.first;
            return self.count(self.first, len, Arrival::InOrder);
        }
        let ahead = sequence.wrapping_sub(self.highest as u16) as i16;
        let extended = self.highest.saturating_add_signed(i64::from(ahead));
        if ahead > 0 {
            self.advance(extended, now);
            return self.count(extended, len, Arrival::InOrder);
        }
        if self.highest - extended >= WINDOW || self.is_seen(extended) {
            self.counts.duplicates += 1;
            return Arrival::Duplicate;
        }
        self.first = self.first.min(extended);
        self.missing.retain(|missing| missing.sequence != extended);
        self.counts.late += 1;
        self.count(extended, len, Arrival::Late)
    }

    /// Counts the original of a retransmitted packet.
    pub fn on_retransmission(&mut self, original: u16, len: usize, now: Instant) -> Arrival {
        if !self.is_flowing() {
            return Arrival::Duplicate;
        }
        let arrival = self.on_packet(original, len, now);
        if arrival != Arrival::Duplicate {
            self.counts.recovered += 1;
        }
        arrival
    }

    fn advance(&mut self, newest: u64, now: Instant) {
        let gap = newest - self.highest;
        self.counts.gaps += u64::from(gap > 1);
        self.counts.gap_packets += gap - 1;
        for sequence in self.highest + 1..newest.min(self.highest + WINDOW) {
            self.seen[slot(sequence)] &= !bit(sequence);
        }
        if gap >= WINDOW {
            self.seen.fill(0);
        }
        if self.kind == MediaKind::Video {
            let first_missing = (self.highest + 1).max(newest.saturating_sub(MISSING_MAX as u64));
            for sequence in first_missing..newest {
                if self.missing.len() >= MISSING_MAX {
                    self.missing.pop_front();
                }
                self.missing.push_back(Missing { sequence, requests: 0, next_request: now });
            }
        }
        self.highest = newest;
    }

    fn count(&mut self, sequence: u64, len: usize, arrival: Arrival) -> Arrival {
        self.seen[slot(sequence)] |= bit(sequence);
        self.counts.received += 1;
        self.counts.bytes += len as u64;
        arrival
    }

    fn is_seen(&self, sequence: u64) -> bool {
        self.seen[slot(sequence)] & bit(sequence) != 0
    }

    /// Whether [`Self::requests`] has something to ask for now.
    pub fn has_missing(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Sequence numbers to ask for now, in rising order.
    pub fn requests(&mut self, now: Instant) -> Vec<u16> {
        let oldest = self.highest.saturating_sub(WINDOW / 2);
        self.missing.retain(|missing| missing.requests < REQUESTS_MAX && missing.sequence >= oldest);
        let mut sequences = Vec::new();
        for missing in self.missing.iter_mut().filter(|missing| missing.next_request <= now) {
            missing.requests += 1;
            missing.next_request = now + REQUEST_INTERVAL;
            sequences.push(missing.sequence as u16);
        }
        self.counts.requested += sequences.len() as u64;
        sequences
    }

    fn clock_rate(&self) -> u64 {
        if self.kind == MediaKind::Video { 90_000 } else { 48_000 }
    }

    /// The interarrival jitter (RFC 3550, section 6.4.1).
    pub fn jitter_ms(&self) -> f64 {
        self.jitter * 1_000.0 / self.clock_rate() as f64
    }

    /// How the frames of a video stream came, up to that moment (`CLOCK_MONOTONIC`).
    pub fn playback_at(&self, now_ns: u64) -> PlaybackCounts {
        self.playback.counts_at(now_ns)
    }

    /// Takes the timing of a packet that came in order: jitter and, for video, frames.
    ///
    /// As in libwebrtc, only the first packet of a timestamp counts: the rest of a frame would hide how frames vary.
    /// Gives whether it was the first.
    pub fn on_timing(&mut self, timestamp: u32, arrival_ns: u64) -> bool {
        if self.last_transit.is_some_and(|(last, _)| last == timestamp) {
            return false;
        }
        if self.kind == MediaKind::Video {
            self.playback.on_frame(arrival_ns);
        }
        let rate = self.clock_rate();
        // Six years of nanoseconds fit.
        let arrival = (arrival_ns.wrapping_mul(rate / 1_000) / 1_000_000) as u32;
        let transit = i64::from(arrival.wrapping_sub(timestamp) as i32);
        if let Some((_, last)) = self.last_transit.replace((timestamp, transit)) {
            // A wrap or a new time base is no jitter.
            let change = (transit - last).unsigned_abs().min(rate) as f64;
            self.jitter += (change - self.jitter) / 16.0;
        }
        true
    }

    /// Remembers a sender report for the next receiver report.
    pub fn on_sender_report(&mut self, ntp: u64, now: Instant) {
        self.last_report = Some(((ntp >> 16) as u32, now));
    }

    /// The block for the next receiver report.
    pub fn report(&mut self, now: Instant) -> ReceptionReport {
        let (expected, received) = (self.expected(), self.counts.received);
        let (new_expected, new_received) = (expected - self.reported.0.min(expected), received - self.reported.1);
        self.reported = (expected, received);
        let newly_lost = new_expected.saturating_sub(new_received);
        let (last_sender_report, delay) = match self.last_report {
            Some((ntp, at)) => (ntp, (now.duration_since(at).as_secs_f64() * 65_536.0) as u32),
            None => (0, 0),
        };
        ReceptionReport {
            ssrc: self.ssrc,
            fraction_lost: (newly_lost * 256).checked_div(new_expected).unwrap_or(0).min(255) as u8,
            total_lost: expected.saturating_sub(received).min(0x7f_ffff) as u32,
            last_sequence_number: (self.highest - (1 << 16).min(self.highest)) as u32,
            jitter: self.jitter as u32,
            last_sender_report,
            delay,
        }
    }
}

fn slot(sequence: u64) -> usize {
    (sequence % WINDOW / 64) as usize
}

fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_of(sequences: impl IntoIterator<Item = u16>, now: Instant) -> Stream {
        let mut stream = Stream::new(MediaKind::Video, 1);
        for sequence in sequences {
            stream.on_packet(sequence, 100, now);
        }
        stream
    }

    #[test]
    fn an_unbroken_stream_across_the_wrap_loses_nothing() {
        let now = Instant::now();
        let mut stream = stream_of((65_000..=65_535).chain(0..3_000), now);
        let counts = stream.counts();
        assert_eq!((counts.expected, counts.received), (3_536, 3_536));
        assert!(stream.requests(now).is_empty());
    }

    #[test]
    fn a_gap_is_requested_at_once_then_every_100_ms_until_it_is_filled() {
        let now = Instant::now();
        let mut stream = stream_of([10, 11, 15], now);
        assert_eq!(stream.requests(now), [12, 13, 14]);
        assert!(stream.requests(now).is_empty());
        assert_eq!(stream.on_retransmission(13, 100, now), Arrival::Late);
        assert_eq!(stream.requests(now + REQUEST_INTERVAL), [12, 14]);
        let counts = stream.counts();
        assert_eq!((counts.expected, counts.received, counts.recovered), (6, 4, 1));
        assert_eq!((counts.gaps, counts.gap_packets), (1, 3));
    }

    #[test]
    fn requests_for_one_packet_are_bounded() {
        let now = Instant::now();
        let mut stream = stream_of([1, 3], now);
        let asked = (0..50).filter(|turn| !stream.requests(now + REQUEST_INTERVAL * *turn).is_empty()).count();
        assert_eq!(asked, usize::from(REQUESTS_MAX));
    }

    #[test]
    fn a_duplicate_counts_neither_as_received_nor_as_expected() {
        let now = Instant::now();
        let mut stream = stream_of([5, 6, 7], now);
        assert_eq!(stream.on_packet(6, 100, now), Arrival::Duplicate);
        let counts = stream.counts();
        assert_eq!((counts.expected, counts.received, counts.duplicates), (3, 3, 1));
    }

    #[test]
    fn a_packet_from_before_the_first_extends_the_stream_backwards() {
        let now = Instant::now();
        let mut stream = stream_of([1, 2], now);
        assert_eq!(stream.on_packet(65_535, 100, now), Arrival::Late);
        assert_eq!(stream.on_packet(0, 100, now), Arrival::Late);
        assert_eq!((stream.counts().expected, stream.counts().received), (4, 4));
    }

    #[test]
    fn a_jump_beyond_the_window_is_loss_and_its_requests_are_bounded() {
        let now = Instant::now();
        let mut stream = stream_of([0, 10_000], now);
        assert_eq!(stream.counts().expected - stream.counts().received, 9_999);
        assert!(stream.requests(now).len() <= MISSING_MAX);
    }

    #[test]
    fn jitter_follows_frames_and_not_the_packets_inside_them() {
        let mut stream = stream_of([0], Instant::now());
        for frame in 0..300_u32 {
            // Every other frame comes 2 ms late.
            let at_ns = 1_000_000_000 + u64::from(frame) * 40_000_000 + u64::from(frame % 2) * 2_000_000;
            for packet in 0..8 {
                stream.on_timing(frame * 3_600, at_ns + packet * 10_000);
            }
        }
        assert!((1.9..2.1).contains(&stream.jitter_ms()), "{}", stream.jitter_ms());
        assert_eq!(stream.playback_at(0).frames, 300);
    }

    #[test]
    fn a_report_gives_the_share_lost_since_the_last_one() {
        let now = Instant::now();
        let mut stream = stream_of([0, 1, 2, 3, 8], now);
        assert_eq!(stream.report(now).fraction_lost, (4 * 256 / 9) as u8);
        stream.on_packet(9, 100, now);
        assert_eq!(stream.report(now).fraction_lost, 0);
    }
}
