//! One viewer of one publication: which packets it gets, and how they look to it.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use shared::media::{Codec, MediaKind};

use crate::audio::red_primary;
use crate::codec::rewrite_vp8;
use crate::command::{PayloadCodec, SendSection, SubscriptionId};
use crate::history::{PacketInfo, StoredPacket};
use crate::key::{PublicationKey, TransportKey};
use crate::rewrite::{Rewriter, Stretch, ticks};
use crate::rtcp::SenderReport;
use crate::trailer::without_trailer;

/// Payload types of a publication that a subscription tells apart.
const MAPPINGS_MAX: usize = 12;

/// Retransmissions that one subscription may ask for between two refills: a whole key frame, and no more, so that a
/// flood of NACKs is not amplified.
const RTX_BUDGET: u16 = 256;
const RTX_REFILL: Duration = Duration::from_millis(200);

/// How one payload type of the publisher goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    source: u8,
    payload_type: u8,
    rtx: Option<u8>,
    codec: Codec,
    /// The subscriber takes no RED: only the primary block goes out, as Opus.
    unwrap_red: bool,
}

/// A packet about to be sent.
#[derive(Clone, Copy)]
pub struct Outgoing {
    mapping: Mapping,
    stretch: Stretch,
    /// Extended number it is sent under.
    pub number: u64,
    /// Bytes of header and payload, unsealed and unpadded.
    pub length: usize,
}

/// What [`Subscription::write`] wrote.
pub struct Written {
    pub header: usize,
    pub length: usize,
    pub ssrc: u32,
    /// For the cipher: extended sequence number.
    pub index: u64,
}

/// Where the packets of a subscription go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// A client.
    Transport(TransportKey),
    /// This process ([`crate::local`]).
    Local,
}

pub struct Subscription {
    pub id: SubscriptionId,
    pub publication: PublicationKey,
    pub sink: Sink,
    pub section: SendSection,
    pub paused: bool,
    pub layer_max: u8,
    /// The layer that it should get.
    pub wanted: u8,
    /// The layer that it gets; `None`: waiting for a packet to start with.
    pub current: Option<u8>,
    pub rewriter: Rewriter,
    /// Next source number to send while it catches up with a stream that it started in the past.
    pub catch_up: Option<u64>,
    /// Arrivals of its layer before it had caught up: what fan-out still has of these, it must not get again.
    caught_up: u64,
    mappings: ArrayVec<Mapping, MAPPINGS_MAX>,
    kind: MediaKind,
    rtx_next: u64,
    rtx_budget: u16,
    rtx_refilled: Instant,
    packets: u32,
    octets: u32,
    pub report_due: Instant,
    /// Loss that its subscriber has reported so far.
    lost: i32,
}

impl Subscription {
    pub fn new(
        now: Instant,
        id: SubscriptionId,
        publication: PublicationKey,
        sink: Sink,
        section: SendSection,
        source: &[PayloadCodec],
    ) -> Self {
        let kind = source.first().map_or(MediaKind::Video, |codec| codec.codec.kind());
        let mut subscription = Self {
            id,
            publication,
            sink,
            section,
            paused: false,
            layer_max: u8::MAX,
            wanted: 0,
            current: None,
            rewriter: Rewriter::new(rand::random()),
            catch_up: None,
            caught_up: 0,
            mappings: ArrayVec::new(),
            kind,
            rtx_next: u64::from(rand::random::<u16>() & 0x7fff),
            rtx_budget: RTX_BUDGET,
            rtx_refilled: now,
            packets: 0,
            octets: 0,
            lost: 0,
            report_due: now,
        };
        subscription.map(source);
        subscription
    }

    pub fn kind(&self) -> MediaKind {
        self.kind
    }

    pub fn rtx_next(&self) -> u64 {
        self.rtx_next
    }

    /// Continues the numbering of an exported subscription.
    pub fn resume_at(&mut self, rewriter: Rewriter, rtx_next: u64) {
        self.rewriter = rewriter;
        self.rtx_next = rtx_next;
    }

    /// Replaces the section, or the publisher's codecs, after a renegotiation.
    pub fn renegotiate(&mut self, section: SendSection, source: &[PayloadCodec]) {
        self.section = section;
        self.map(source);
    }

    fn map(&mut self, source: &[PayloadCodec]) {
        let section = &self.section;
        self.mappings = source.iter().filter_map(|from| mapping(from, &section.codecs)).take(MAPPINGS_MAX).collect();
    }

    fn mapping_of(&self, payload_type: u8) -> Option<Mapping> {
        self.mappings.iter().find(|mapping| mapping.source == payload_type).copied()
    }

    /// Whether this packet of `layer` may start or switch the stream.
    pub fn starts_with(&self, layer: u8, packet: &PacketInfo) -> bool {
        layer == self.wanted && (self.kind == MediaKind::Audio || packet.keyframe_start)
    }

    /// Starts or switches: from `packet` on, this subscription gets `layer`.
    pub fn start(&mut self, now: Instant, layer: u8, packet: &PacketInfo) {
        let rate = self.mapping_of(packet.payload_type).map_or(90_000, |mapping| mapping.codec.clock_rate());
        self.rewriter.begin(now, layer, packet, rate);
        self.current = Some(layer);
        (self.catch_up, self.caught_up) = (None, 0);
    }

    /// Whether it may start with a key frame of the past: only when it has shown nothing yet, or time would run backwards.
    pub fn may_start_late(&self, layer: u8) -> bool {
        self.kind == MediaKind::Video
            && layer == self.wanted
            && self.current.is_none()
            && self.rewriter.current().is_none()
    }

    /// Starts with a key frame of the past; `present` is the source's newest timestamp.
    pub fn start_late(&mut self, now: Instant, layer: u8, keyframe: &PacketInfo, present: u32) {
        let rate = self.mapping_of(keyframe.payload_type).map_or(90_000, |mapping| mapping.codec.clock_rate());
        self.rewriter.begin_in_the_past(now, layer, keyframe, rate, present);
        self.current = Some(layer);
        self.catch_up = Some(keyframe.sequence);
    }

    /// Notes that it has met the present: packets that arrived before so many others it has got, or will not.
    pub fn caught_up(&mut self, arrivals: u64) {
        (self.catch_up, self.caught_up) = (None, arrivals);
    }

    /// Decides on one packet of the current layer: `None` if this subscriber does not get it.
    pub fn forward(&self, packet: &StoredPacket<'_>) -> Option<Outgoing> {
        let stretch = *self.rewriter.current()?;
        if packet.info.arrival < self.caught_up {
            return None;
        }
        let number = stretch.sent_number(packet.info.sequence)?;
        let mapping = self.mapping_of(packet.info.payload_type)?;
        let length = 12 + self.extension_length(packet, &mapping) + self.payload_of(packet, &mapping).len();
        Some(Outgoing { mapping, stretch, number, length })
    }

    /// Notes that a packet of the current stretch went out, with so many bytes of payload, padding not counted.
    pub fn sent(&mut self, now: Instant, packet: &PacketInfo, payload: usize) {
        self.rewriter.sent(now, packet);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload as u32);
    }

    /// Writes the packet with `padding` bytes behind it. `out` has room for all of it.
    pub fn write(
        &self,
        out: &mut [u8],
        packet: &StoredPacket<'_>,
        outgoing: &Outgoing,
        padding: usize,
        send_time: u32,
    ) -> Written {
        let ssrc = self.section.ssrc.0;
        let header =
            self.write_header(out, packet, outgoing, outgoing.mapping.payload_type, ssrc, outgoing.number, send_time);
        let mut length = header + self.write_payload(&mut out[header..], packet, outgoing);
        if padding > 0 {
            out[0] |= 0x20;
            out[length..length + padding].fill(0);
            length += padding;
            out[length - 1] = padding as u8;
        }
        Written { header, length, ssrc, index: outgoing.number }
    }

    /// Takes one retransmission from the budget.
    pub fn may_retransmit(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.rtx_refilled) >= RTX_REFILL {
            (self.rtx_budget, self.rtx_refilled) = (RTX_BUDGET, now);
        }
        let may = self.rtx_budget > 0;
        self.rtx_budget = self.rtx_budget.saturating_sub(1);
        may
    }

    /// Where a lost packet came from, if we may send it again: only with RTX (RFC 4588), because sealing another
    /// packet under the same number would break the cipher.
    pub fn lost_packet(&self, sequence: u16) -> Option<(Stretch, u64, u64)> {
        self.section.rtx_ssrc?;
        self.rewriter.source_of(sequence)
    }

    /// Length of a retransmission, unsealed.
    pub fn retransmission(&self, packet: &StoredPacket<'_>, stretch: Stretch, number: u64) -> Option<Outgoing> {
        let mapping = self.mapping_of(packet.info.payload_type)?;
        mapping.rtx?;
        let length = 12 + self.extension_length(packet, &mapping) + 2 + self.payload_of(packet, &mapping).len();
        Some(Outgoing { mapping, stretch, number, length })
    }

    /// Writes a retransmission (RFC 4588, section 4).
    pub fn write_retransmission(
        &mut self,
        out: &mut [u8],
        packet: &StoredPacket<'_>,
        outgoing: &Outgoing,
        send_time: u32,
    ) -> Option<Written> {
        let (ssrc, payload_type) = (self.section.rtx_ssrc?.0, outgoing.mapping.rtx?);
        let index = self.rtx_next;
        self.rtx_next += 1;
        let header = self.write_header(out, packet, outgoing, payload_type, ssrc, index, send_time);
        out[header..header + 2].copy_from_slice(&(outgoing.number as u16).to_be_bytes());
        let length = header + 2 + self.write_payload(&mut out[header + 2..], packet, outgoing);
        Some(Written { header, length, ssrc, index })
    }

    /// The payload that goes out: all of it, the primary block of RED, or what comes before a trailer.
    fn payload_of<'p>(&self, packet: &StoredPacket<'p>, mapping: &Mapping) -> &'p [u8] {
        let payload = match mapping.unwrap_red {
            true => red_primary(packet.payload).unwrap_or(&[]),
            false => packet.payload,
        };
        if self.section.strips_trailers && packet.info.marker { without_trailer(payload) } else { payload }
    }

    fn write_payload(&self, out: &mut [u8], packet: &StoredPacket<'_>, outgoing: &Outgoing) -> usize {
        let payload = self.payload_of(packet, &outgoing.mapping);
        out[..payload.len()].copy_from_slice(payload);
        if let Some(vp8) = &packet.info.vp8 {
            let stretch = &outgoing.stretch;
            let picture_id = stretch.picture_id(vp8.picture_id.map_or(0, |(id, _)| id));
            let tl0 = stretch.tl0_pic_idx(vp8.tl0_pic_idx.unwrap_or(0));
            rewrite_vp8(vp8, &mut out[..payload.len()], picture_id, tl0, vp8.keyidx.unwrap_or(0));
        }
        payload.len()
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one RTP header")]
    fn write_header(
        &self,
        out: &mut [u8],
        packet: &StoredPacket<'_>,
        outgoing: &Outgoing,
        payload_type: u8,
        ssrc: u32,
        number: u64,
        send_time: u32,
    ) -> usize {
        let extensions = self.extension_length(packet, &outgoing.mapping);
        out[0] = if extensions > 0 { 0x90 } else { 0x80 };
        out[1] = payload_type | if packet.info.marker { 0x80 } else { 0 };
        out[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        out[4..8].copy_from_slice(&outgoing.stretch.timestamp(packet.info.timestamp).to_be_bytes());
        out[8..12].copy_from_slice(&ssrc.to_be_bytes());
        if extensions > 0 {
            self.write_extensions(&mut out[12..12 + extensions], packet, &outgoing.mapping, send_time);
        }
        12 + extensions
    }

    /// The extensions that go out with a packet: absolute send time on video, for the client's estimate; the audio
    /// level; the dependency descriptor where layers of one stream depend on it. A descriptor of VP8 or H.264 would
    /// not survive a switch of layers, and nobody needs it there.
    fn elements<'p>(&self, packet: &StoredPacket<'p>, mapping: &Mapping) -> Elements<'p> {
        let ids = &self.section.extensions;
        let scalable = matches!(mapping.codec, Codec::Av1 { .. } | Codec::Vp9 { .. });
        Elements {
            send_time: ids.abs_send_time.filter(|_| self.kind == MediaKind::Video),
            audio_level: ids.audio_level.zip(packet.info.audio_level),
            descriptor: ids
                .dependency_descriptor
                .filter(|_| scalable && !packet.dependency_descriptor.is_empty())
                .map(|id| (id, packet.dependency_descriptor)),
        }
    }

    fn extension_length(&self, packet: &StoredPacket<'_>, mapping: &Mapping) -> usize {
        self.elements(packet, mapping).length()
    }

    fn write_extensions(&self, out: &mut [u8], packet: &StoredPacket<'_>, mapping: &Mapping, send_time: u32) {
        self.elements(packet, mapping).write(out, send_time);
    }

    /// Packets lost since the last report, given the reported sum (RFC 3550, section 6.4.1). Duplicates make it fall.
    pub fn newly_lost(&mut self, cumulative: i32) -> u64 {
        let newly = cumulative.saturating_sub(self.lost).max(0);
        self.lost = cumulative;
        u64::from(newly.unsigned_abs())
    }

    /// Our sender report (RFC 3550, section 6.4.1) on the publisher's clock, so that its tracks stay in step.
    pub fn sender_report(&self, now: Instant, report: &(SenderReport, Instant)) -> Option<SenderReport> {
        let stretch = self.rewriter.current()?;
        if self.packets == 0 {
            return None;
        }
        let rate = self.mappings.first()?.codec.clock_rate();
        let (theirs, at) = report;
        let passed = now.saturating_duration_since(*at);
        let ntp = theirs.ntp.wrapping_add((passed.as_nanos() * (1 << 32) / 1_000_000_000) as u64);
        Some(SenderReport {
            ssrc: self.section.ssrc.0,
            ntp,
            rtp: stretch.timestamp(theirs.rtp).wrapping_add(ticks(passed, rate)),
            packets: self.packets,
            octets: self.octets,
        })
    }
}

struct Elements<'p> {
    send_time: Option<u8>,
    audio_level: Option<(u8, u8)>,
    descriptor: Option<(u8, &'p [u8])>,
}

impl Elements<'_> {
    /// One-byte elements hold 1 to 16 bytes (RFC 8285, section 4.2); a descriptor with its structure is longer.
    fn two_byte(&self) -> bool {
        self.descriptor.is_some_and(|(_, bytes)| bytes.len() > 16)
    }

    fn length(&self) -> usize {
        let head = if self.two_byte() { 2 } else { 1 };
        let elements = self.send_time.map_or(0, |_| head + 3)
            + self.audio_level.map_or(0, |_| head + 1)
            + self.descriptor.map_or(0, |(_, bytes)| head + bytes.len());
        if elements == 0 { 0 } else { 4 + elements.next_multiple_of(4) }
    }

    fn write(&self, out: &mut [u8], send_time: u32) {
        let two_byte = self.two_byte();
        let words = (out.len() - 4) / 4;
        out[..2].copy_from_slice(&(if two_byte { 0x1000u16 } else { 0xbede }).to_be_bytes());
        out[2..4].copy_from_slice(&(words as u16).to_be_bytes());
        let mut at = 4;
        let mut put = |id: u8, bytes: &[u8]| {
            if two_byte {
                (out[at], out[at + 1]) = (id, bytes.len() as u8);
                at += 2;
            } else {
                out[at] = (id << 4) | (bytes.len() as u8 - 1);
                at += 1;
            }
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(id) = self.send_time {
            put(id, &send_time.to_be_bytes()[1..]);
        }
        if let Some((id, level)) = self.audio_level {
            put(id, &[level]);
        }
        if let Some((id, bytes)) = self.descriptor {
            put(id, bytes);
        }
        out[at..].fill(0);
    }
}

/// How a publisher's payload type goes out in a section with these codecs.
fn mapping(from: &PayloadCodec, to: &[PayloadCodec]) -> Option<Mapping> {
    let find = |wanted: Codec| to.iter().find(|codec| codec.codec == wanted);
    let make = |found: &PayloadCodec, unwrap_red| Mapping {
        source: from.payload_type,
        payload_type: found.payload_type,
        rtx: found.rtx,
        codec: found.codec,
        unwrap_red,
    };
    if let Some(found) = find(from.codec) {
        return Some(make(found, false));
    }
    match from.codec {
        Codec::Red => find(Codec::Opus).map(|opus| make(opus, true)),
        // Profiles differ in what they may use, not in how packets look: a decoder of the same packetization mode
        // takes what it can.
        Codec::H264 { packetization_mode, .. } => to
            .iter()
            .find(|codec| matches!(codec.codec, Codec::H264 { packetization_mode: mode, .. } if mode == packetization_mode))
            .map(|found| make(found, false)),
        Codec::Vp9 { .. } => {
            to.iter().find(|codec| matches!(codec.codec, Codec::Vp9 { .. })).map(|found| make(found, false))
        }
        Codec::Av1 { .. } => {
            to.iter().find(|codec| matches!(codec.codec, Codec::Av1 { .. })).map(|found| make(found, false))
        }
        Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::Vp8 | Codec::H265 => None,
    }
}
