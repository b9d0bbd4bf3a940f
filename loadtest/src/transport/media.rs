//! Media in both directions: SRTP, streams, retransmissions, stamps.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::feedback::FEEDBACK_MAX;
use super::{Loss, PayloadKind, Transport};
use crate::codec::starts_key_frame;
use crate::delays::Delays;
use crate::dtls::SrtpSession;
use crate::receiver::{Arrival, MediaKind};
use crate::rtp::Header;
use crate::sender::Outbound;
use crate::stamp::Stamp;

/// Between two transport-wide feedbacks, libwebrtc's shortest.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(50);

impl Transport {
    pub(super) fn send_media(&mut self, now: Instant) {
        let Some(to) = self.ice.nominated() else { return };
        let Some(srtp) = &mut self.srtp else { return };
        let (out, loss) = (&mut self.out, self.options.loss.up);
        for sender in &mut self.senders {
            sender.on_timeout(now, &mut self.transport_sequence, |outbound| {
                let is_media = matches!(outbound, Outbound::Rtp(_));
                if !(is_media && Loss::strikes(loss)) {
                    seal(srtp, to, outbound, out);
                }
            });
        }
    }

    pub(super) fn on_rtp(&mut self, packet: &[u8], now: Instant, now_ns: u64, delays: &mut Delays) {
        let Some(header) = Header::parse(packet) else { return };
        if Loss::strikes(self.options.loss.down) {
            self.stats.lost_on_purpose += 1;
            return;
        }
        self.note_arrival(&header, packet, now, now_ns);
        let Some(payload) = self.payloads[usize::from(header.payload_type)] else { return };
        if payload == PayloadKind::Retransmission {
            self.on_retransmission(&header, packet, now, now_ns, delays);
            return;
        }
        let kind = if payload == PayloadKind::Audio { MediaKind::Audio } else { MediaKind::Video };
        let verify = self.options.verify;
        let Some((stream, media)) = self.stream(kind, header.ssrc) else { return };
        let arrival = stream.on_packet(header.sequence, packet.len(), now);
        if arrival == Arrival::Duplicate {
            return;
        }
        media.newest_packet_ns = Some(now_ns);
        if media.first_packet_ns.is_none() {
            media.first_packet_ns = Some(now_ns);
            media.first_packet_at = Some(now);
        }
        let begins_frame = arrival == Arrival::InOrder && stream.on_timing(header.timestamp, now_ns);
        // The first packet of a frame tells what it is; decrypting the rest would cost a starved client even more.
        let wants_key_frame =
            begins_frame && matches!(payload, PayloadKind::Video(_)) && media.first_key_frame_ns.is_none();
        if stream.has_missing() {
            self.stirred = true;
            self.send_nacks(now);
        }
        if (verify || wants_key_frame)
            && let Some(plain) = self.decrypt(packet)
        {
            let body = body(&header, &plain);
            self.on_payload(payload, header.ssrc, body, now_ns, arrival == Arrival::InOrder, delays);
        }
    }

    fn decrypt(&mut self, packet: &[u8]) -> Option<bytes::BytesMut> {
        match self.srtp.as_mut()?.inbound.decrypt_rtp(packet) {
            Ok(plain) => {
                self.stats.verified += 1;
                Some(plain)
            }
            Err(_) => {
                self.stats.forged += 1;
                None
            }
        }
    }

    fn on_payload(
        &mut self,
        payload: PayloadKind,
        ssrc: u32,
        body: &[u8],
        now_ns: u64,
        timely: bool,
        delays: &mut Delays,
    ) {
        let Some((_, media)) = self.streams.iter_mut().find(|(stream, _)| stream.ssrc == ssrc) else { return };
        if let PayloadKind::Video(codec) = payload
            && media.first_key_frame_ns.is_none()
            && starts_key_frame(codec, body)
        {
            media.first_key_frame_ns = Some(now_ns);
        }
        let Some(stamp) = Stamp::read(body) else {
            media.unstamped += 1;
            return;
        };
        media.source.on_stamp(stamp, timely);
        if timely && self.options.verify {
            let kind = if payload == PayloadKind::Audio { MediaKind::Audio } else { MediaKind::Video };
            delays.record(kind, now_ns.saturating_sub(stamp.sent_ns));
        }
    }

    fn on_retransmission(&mut self, header: &Header, packet: &[u8], now: Instant, now_ns: u64, delays: &mut Delays) {
        self.stats.retransmissions += 1;
        let Some(plain) = self.decrypt(packet) else { return };
        let Some((original, rest)) = body(header, &plain).split_first_chunk::<2>() else { return };
        let Some((stream, _)) = self.streams.iter_mut().find(|(stream, _)| stream.rtx_ssrc == Some(header.ssrc)) else {
            return;
        };
        let ssrc = stream.ssrc;
        if stream.on_retransmission(u16::from_be_bytes(*original), packet.len(), now) == Arrival::Duplicate {
            return;
        }
        let codec = self.payloads.iter().flatten().find(|kind| matches!(kind, PayloadKind::Video(_))).copied();
        if let Some(payload) = codec {
            self.on_payload(payload, ssrc, rest, now_ns, false, delays);
        }
    }

    fn note_arrival(&mut self, header: &Header, packet: &[u8], now: Instant, now_ns: u64) {
        let Some(id) = self.reception.transport_sequence_extension else { return };
        let Some(&[high, low]) = header.extension(packet, id) else { return };
        if self.arrivals.len() < FEEDBACK_MAX {
            self.arrivals.push((u16::from_be_bytes([high, low]), now_ns / 1_000));
            if self.next_feedback.is_none() {
                self.next_feedback = Some(now + FEEDBACK_INTERVAL);
                self.stirred = true;
            }
        }
    }
}

/// Encrypts a packet and puts it with those that leave.
pub(super) fn seal(
    srtp: &mut SrtpSession,
    to: SocketAddr,
    outbound: Outbound<'_>,
    out: &mut Vec<(SocketAddr, Vec<u8>)>,
) {
    let sealed = match outbound {
        Outbound::Rtp(packet) => srtp.outbound.encrypt_rtp(packet),
        Outbound::Rtcp(packet) => srtp.outbound.encrypt_rtcp(packet),
    };
    if let Ok(sealed) = sealed {
        out.push((to, sealed.to_vec()));
    }
}

/// The payload of a decrypted packet, without padding (RFC 3550, section 5.1).
fn body<'a>(header: &Header, plain: &'a [u8]) -> &'a [u8] {
    let payload = plain.get(header.len..).unwrap_or(&[]);
    match payload.last() {
        Some(&padding) if header.padded => payload.get(..payload.len().saturating_sub(padding.into())).unwrap_or(&[]),
        _ => payload,
    }
}
