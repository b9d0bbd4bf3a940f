//! RTCP in both directions: reports, NACKs, requests for key frames, transport-wide feedback, bandwidth estimates.

use std::time::{Duration, Instant};

use super::media::seal;
use super::{PayloadKind, Transport};
use crate::receiver::MediaKind;
use crate::rtcp;
use crate::sender::Outbound;

/// Between two receiver reports.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Packets that one feedback covers at most.
pub(super) const FEEDBACK_MAX: usize = 400;
/// A stream without key frame for this long asks for one, and again each second.
const KEY_FRAME_WAIT: Duration = Duration::from_millis(200);
const KEY_FRAME_REPEAT: Duration = Duration::from_secs(1);
/// Least bitrate that a bandwidth report claims.
const REMB_MIN_BPS: u64 = 1_000_000;

impl Transport {
    pub(super) fn on_rtcp(&mut self, packet: &[u8], now: Instant) {
        let Some(srtp) = &mut self.srtp else { return };
        let Ok(plain) = srtp.inbound.decrypt_rtcp(packet) else {
            self.stats.forged += 1;
            return;
        };
        let Some(packets) = rtcp::parse(&plain) else {
            self.stats.malformed_rtcp += 1;
            return;
        };
        for packet in packets {
            self.on_report(packet, now);
        }
    }

    fn on_report(&mut self, packet: rtcp::Packet, now: Instant) {
        match packet {
            rtcp::Packet::SenderReport { ssrc, ntp } => {
                self.stats.sender_reports += 1;
                if let Some((stream, _)) = self.streams.iter_mut().find(|(stream, _)| stream.ssrc == ssrc) {
                    stream.on_sender_report(ntp, now);
                }
            }
            rtcp::Packet::Nack { media_ssrc, sequences } => {
                let (Some(to), Some(srtp)) = (self.ice.nominated(), &mut self.srtp) else { return };
                if let Some(sender) = self.senders.iter_mut().find(|sender| sender.ssrc() == media_ssrc) {
                    let (counter, out) = (&mut self.transport_sequence, &mut self.out);
                    sender.on_nack(&sequences, counter, |outbound| seal(srtp, to, outbound, out));
                }
            }
            rtcp::Packet::KeyFrameRequest { media_ssrc } => {
                if let Some(sender) = self.senders.iter_mut().find(|sender| sender.ssrc() == media_ssrc) {
                    sender.on_key_frame_request();
                }
            }
            rtcp::Packet::TransportFeedback | rtcp::Packet::Remb { .. } => self.stats.feedback_received += 1,
            rtcp::Packet::Other => {}
        }
    }

    pub(super) fn send_nacks(&mut self, now: Instant) {
        let mut compound = Vec::new();
        for (stream, _) in &mut self.streams {
            let sequences = stream.requests(now);
            // A NACK of 17 sequence numbers an entry stays far below a datagram for every bound of the receiver.
            if !sequences.is_empty() {
                rtcp::write_nack(&mut compound, self.own_ssrc, stream.ssrc, &sequences);
                self.stats.nacks_sent += 1;
            }
        }
        self.send_rtcp(&compound);
    }

    pub(super) fn send_feedback(&mut self, now: Instant) {
        if self.streams.iter().any(|(stream, _)| stream.has_missing()) {
            self.send_nacks(now);
        }
        if self.next_feedback.is_some_and(|at| at <= now) {
            self.next_feedback = None;
            self.send_transport_feedback();
        }
        if self.next_report.is_some_and(|at| at <= now) {
            self.next_report = Some(now + REPORT_INTERVAL);
            self.send_report(now);
        }
    }

    fn send_transport_feedback(&mut self) {
        let arrivals = std::mem::take(&mut self.arrivals);
        let Some(&(newest, _)) = arrivals.last() else { return };
        let oldest =
            arrivals.iter().map(|(sequence, _)| *sequence).min_by_key(|sequence| sequence.wrapping_sub(newest) as i16);
        let first = self.feedback_from.or(oldest).unwrap_or(newest);
        let last =
            arrivals.iter().map(|(sequence, _)| sequence.wrapping_sub(first)).filter(|ahead| *ahead < 0x8000).max();
        let Some(len) = last.map(|ahead| usize::from(ahead) + 1) else { return };
        self.feedback_from = Some(first.wrapping_add(len as u16));
        let mut times = vec![None; len.min(FEEDBACK_MAX)];
        for (sequence, at) in arrivals {
            if let Some(time) = times.get_mut(usize::from(sequence.wrapping_sub(first))) {
                *time = Some(at);
            }
        }
        let media_ssrc = self.streams.first().map_or(0, |(stream, _)| stream.ssrc);
        let mut compound = Vec::new();
        rtcp::write_transport_feedback(&mut compound, self.own_ssrc, media_ssrc, first, self.feedback_count, &times);
        self.feedback_count = self.feedback_count.wrapping_add(1);
        self.send_rtcp(&compound);
    }

    fn send_report(&mut self, now: Instant) {
        let blocks: Vec<_> = self
            .streams
            .iter_mut()
            .filter(|(stream, _)| stream.is_flowing())
            // A report has at most 31 blocks.
            .take(31)
            .map(|(stream, _)| stream.report(now))
            .collect();
        if blocks.is_empty() {
            return;
        }
        let mut compound = Vec::new();
        rtcp::write_receiver_report(&mut compound, self.own_ssrc, blocks);
        self.request_key_frames(now, &mut compound);
        if self.reception.remb {
            self.write_remb(&mut compound);
        }
        self.send_rtcp(&compound);
    }

    fn request_key_frames(&mut self, now: Instant, compound: &mut Vec<u8>) {
        let known = self.payloads.iter().flatten().any(|kind| matches!(kind, PayloadKind::Video(_)));
        for (stream, media) in self.streams.iter_mut().filter(|(stream, _)| known && stream.kind == MediaKind::Video) {
            let waiting = media.first_key_frame_ns.is_none()
                && media.first_packet_at.is_some_and(|at| now.saturating_duration_since(at) >= KEY_FRAME_WAIT);
            let due = media.key_frame_asked.is_none_or(|at| now.saturating_duration_since(at) >= KEY_FRAME_REPEAT);
            if waiting && due {
                media.key_frame_asked = Some(now);
                self.stats.key_frame_requests_sent += 1;
                rtcp::write_picture_loss(compound, self.own_ssrc, stream.ssrc);
            }
        }
    }

    fn write_remb(&mut self, compound: &mut Vec<u8>) {
        let bytes: u64 = self.streams.iter().map(|(stream, _)| stream.counts().bytes).sum();
        let bitrate_bps = (bytes - self.bytes_reported) * 8;
        self.bytes_reported = bytes;
        let Some((video, _)) = self.streams.iter().find(|(stream, _)| stream.kind == MediaKind::Video) else { return };
        // Without congestion libwebrtc's estimate stops at one and a half times what comes in.
        rtcp::write_remb(compound, self.own_ssrc, video.ssrc, (bitrate_bps * 3 / 2).max(REMB_MIN_BPS));
    }

    fn send_rtcp(&mut self, compound: &[u8]) {
        let (Some(to), Some(srtp)) = (self.ice.nominated(), &mut self.srtp) else { return };
        if !compound.is_empty() {
            seal(srtp, to, Outbound::Rtcp(compound), &mut self.out);
        }
    }
}
