//! One viewer of one publication: which packets it gets, and how they look to it.

mod rtx;

use std::cmp::Ordering;
use std::time::Instant;

use arrayvec::ArrayVec;
use shared::media::{Codec, MediaKind};

pub(crate) use self::rtx::{Refusal, RtxBudget};
use crate::audio::red_primary;
use crate::codec::rewrite_vp8;
use crate::history::{PacketInfo, StoredPacket};
use crate::id::SubscriptionId;
use crate::key::{PublicationKey, TransportKey};
use crate::rewrite::{Rewriter, Segment, Source, ticks};
use crate::rtcp::SenderReport;
use crate::section::{LayerId, PayloadCodec, SendSection};
use crate::temporal::TemporalCap;
use crate::trailer::without_trailer;

/// Payload types of a publication that a subscription tells apart.
const MAPPINGS_MAX: usize = 12;

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
#[derive(Debug, Clone, Copy)]
pub struct Outgoing {
    mapping: Mapping,
    /// Extended number it is sent under.
    pub number: u64,
    timestamp: u32,
    /// VP8's picture id and TL0PICIDX.
    picture: (u16, u8),
    /// Id of the extension for its transport-wide number, if it bears one.
    pub transport_cc: Option<u8>,
    /// Bytes of header and payload, unsealed and unpadded.
    pub length: usize,
}

/// What is known of a packet only as it leaves.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// For the absolute send time extension.
    pub send_time: u32,
    /// Transport-wide sequence number, for those that bear one.
    pub number: u16,
}

/// What [`Subscription::write`] wrote.
pub struct Written {
    /// Bytes of the header.
    pub header: usize,
    /// Bytes of header, payload and padding.
    pub length: usize,
    /// SSRC that it is sent under.
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

/// Which packets a subscription gets now, unless it is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Playout {
    /// None: it waits for a packet of the wanted layer to start with.
    Waiting,
    /// Those of the past, quickly: it has started with a key frame that arrived before it did.
    CatchingUp {
        /// The layer that it gets.
        layer: LayerId,
        /// Number of the source to go on with.
        next: u64,
    },
    /// Those that arrive.
    Live {
        /// The layer that it gets.
        layer: LayerId,
        /// Packets that had arrived before it was live. Those still to be fanned out it has had while it caught up.
        after_arrival: u64,
    },
}

impl Playout {
    /// The layer that it gets.
    pub fn layer(self) -> Option<LayerId> {
        match self {
            Self::Waiting => None,
            Self::CatchingUp { layer, .. } | Self::Live { layer, .. } => Some(layer),
        }
    }
}

/// One viewer of one publication.
pub struct Subscription {
    /// The room's id of it.
    pub id: SubscriptionId,
    /// What it shows.
    pub publication: PublicationKey,
    /// Where it goes to.
    pub sink: Sink,
    /// What is sent, by the description.
    pub section: SendSection,
    paused: bool,
    /// Highest layer that it may get.
    pub layer_max: u8,
    /// The layer that it should get.
    wanted: LayerId,
    playout: Playout,
    cap: TemporalCap,
    /// Highest number of the source that it has been given, of the layer that it gets.
    reached: u64,
    /// Whether it is in the engine's list of those to look after though nothing arrives.
    pub(crate) is_looked_after: bool,
    /// Bytes of the past with which it may start.
    pub(crate) late_bytes_max: usize,
    /// The numbers of what is sent.
    pub rewriter: Rewriter,
    mappings: ArrayVec<Mapping, MAPPINGS_MAX>,
    kind: MediaKind,
    rtx_next: u64,
    /// What may be sent again.
    pub(crate) rtx_budget: RtxBudget,
    packets: u32,
    octets: u32,
    /// When its next sender report may leave.
    pub report_due: Instant,
    /// Loss that its subscriber has reported so far.
    lost: i32,
}

impl Subscription {
    /// `first` and `rtx_first` are random: the first numbers of its packets and of retransmissions (RFC 3550, section
    /// 5.1).
    pub fn new(
        now: Instant,
        id: SubscriptionId,
        publication: PublicationKey,
        sink: Sink,
        section: SendSection,
        source: &[PayloadCodec],
        (first, rtx_first): (u16, u16),
    ) -> Self {
        let kind = source.first().map_or(MediaKind::Video, |codec| codec.codec.kind());
        let mut subscription = Self {
            id,
            publication,
            sink,
            section,
            paused: false,
            layer_max: u8::MAX,
            wanted: LayerId::whole(0),
            playout: Playout::Waiting,
            cap: TemporalCap::default(),
            reached: 0,
            is_looked_after: false,
            late_bytes_max: usize::MAX,
            rewriter: Rewriter::new(first),
            mappings: ArrayVec::new(),
            kind,
            rtx_next: u64::from(rtx_first & 0x7fff),
            rtx_budget: RtxBudget::new(now),
            packets: 0,
            octets: 0,
            lost: 0,
            report_due: now,
        };
        subscription.map(source);
        subscription
    }

    /// Whether it gets nothing for now.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Kind of media.
    pub fn kind(&self) -> MediaKind {
        self.kind
    }

    /// Extended number of the next packet that is sent again.
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

    /// Which packets it gets now.
    pub fn playout(&self) -> Playout {
        self.playout
    }

    /// The layer that it aims at.
    pub fn wanted(&self) -> LayerId {
        self.wanted
    }

    /// Index of the layer that it gets, or waits for.
    pub fn layer(&self) -> u8 {
        self.playout.layer().unwrap_or(self.wanted).spatial
    }

    /// Lets it aim at a layer, and at how much of it. It switches to another layer at the next packet with which it can
    /// start there; until then, what is too much for its link is thinned out to the lowest temporal layer.
    pub fn aim(&mut self, wanted: LayerId) {
        self.wanted = wanted;
        if let Playout::CatchingUp { layer, .. } | Playout::Live { layer, .. } = &mut self.playout {
            layer.temporal = match layer.spatial.cmp(&wanted.spatial) {
                Ordering::Less => layer.temporal,
                Ordering::Equal => wanted.temporal,
                Ordering::Greater => 0,
            };
        }
    }

    /// Whether it waits for a packet to start with in the layer that it aims at.
    pub fn awaits_start(&self) -> bool {
        !self.paused && self.playout.layer() != Some(self.wanted)
    }

    /// Whether it has a picture, and waits for a better one.
    pub fn is_rising(&self) -> bool {
        self.playout.layer().is_some_and(|layer| layer.spatial < self.wanted.spatial)
    }

    /// What it gets next is something that it can start with.
    pub fn restart(&mut self) {
        self.playout = Playout::Waiting;
    }

    /// Pauses it, or lets it go on afresh.
    pub fn set_paused(&mut self, paused: bool) {
        if self.paused && !paused {
            self.restart();
        }
        self.paused = paused;
    }

    /// Whether it is to be looked after although nothing arrives: it has not started, or is catching up.
    pub fn is_starting(&self) -> bool {
        matches!(self.playout, Playout::Waiting | Playout::CatchingUp { .. })
    }

    /// The packets of a layer that it gets: none, all, or those from the packet on with which it starts or switches.
    pub fn share<'a, 'p>(
        &mut self,
        now: Instant,
        index: u8,
        packets: &'a [StoredPacket<'p>],
    ) -> Option<&'a [StoredPacket<'p>]> {
        if self.paused {
            return None;
        }
        if self.playout.layer().is_some_and(|layer| layer.spatial == index) {
            return Some(packets);
        }
        let start = packets.iter().position(|packet| self.starts_with(index, &packet.info))?;
        self.start(now, &packets[start].info);
        Some(&packets[start..])
    }

    /// Whether this packet of a layer may start or switch the stream.
    fn starts_with(&self, index: u8, packet: &PacketInfo) -> bool {
        index == self.wanted.spatial && (self.kind == MediaKind::Audio || packet.keyframe_start)
    }

    /// Starts or switches: from `packet` on, it gets the layer that it aims at.
    pub fn start(&mut self, now: Instant, packet: &PacketInfo) {
        self.rewriter.begin(now, self.wanted.spatial, packet, self.clock_rate_of(packet));
        self.cap = TemporalCap::from(self.wanted.temporal, packet);
        self.reached = packet.sequence.saturating_sub(1);
        self.playout = Playout::Live { layer: self.wanted, after_arrival: 0 };
    }

    /// Whether it may start with a key frame of the past in the layer that it aims at: only when it has shown nothing
    /// yet, or time would run backwards.
    pub fn may_start_late(&self) -> bool {
        self.kind == MediaKind::Video && self.playout == Playout::Waiting && self.rewriter.current().is_none()
    }

    /// Starts with a key frame of the past; `present` is the source's newest timestamp.
    pub fn start_late(&mut self, now: Instant, keyframe: &PacketInfo, present: u32) {
        let rate = self.clock_rate_of(keyframe);
        self.rewriter.begin_in_the_past(now, self.wanted.spatial, keyframe, rate, present);
        self.cap = TemporalCap::from(self.wanted.temporal, keyframe);
        self.reached = keyframe.sequence.saturating_sub(1);
        self.playout = Playout::CatchingUp { layer: self.wanted, next: keyframe.sequence };
    }

    /// Highest number of the source that it has been given, of the layer that it gets.
    pub(crate) fn reached(&self) -> u64 {
        self.reached
    }

    /// What arrives is too much for its way at once: it goes on with this packet, at the pace of its way.
    pub(crate) fn fall_behind(&mut self, next: u64) {
        if let Playout::Live { layer, .. } = self.playout {
            self.playout = Playout::CatchingUp { layer, next };
        }
    }

    /// It lags too far behind: only the lowest temporal layer until it has caught up.
    pub(crate) fn thin_out(&mut self) {
        if let Playout::CatchingUp { layer, .. } = &mut self.playout {
            layer.temporal = 0;
        }
    }

    /// It has been sent what came before the packet with this number of the source.
    pub fn caught_up_to(&mut self, next: u64) {
        if let Playout::CatchingUp { layer, .. } = self.playout {
            self.playout = Playout::CatchingUp { layer, next };
        }
    }

    /// It has caught up: of the packets that have arrived until now, `arrivals` in all, nothing more is sent to it.
    pub fn go_live(&mut self, arrivals: u64) {
        if let Some(layer) = self.playout.layer() {
            self.playout = Playout::Live { layer, after_arrival: arrivals };
            self.aim(self.wanted);
        }
    }

    fn clock_rate_of(&self, packet: &PacketInfo) -> u32 {
        self.mapping_of(packet.payload_type).map_or(90_000, |mapping| mapping.codec.clock_rate())
    }

    /// Id of the extension with which its packets bear transport-wide numbers, if they do: audio only beside video, as
    /// it teaches nothing alone.
    pub fn transport_cc(&self, beside_video: bool) -> Option<u8> {
        self.section.extensions.transport_cc.filter(|_| self.kind == MediaKind::Video || beside_video)
    }

    /// Gives one packet of the current layer its number: `None` if this subscriber does not get it. One that it gets
    /// must be sent: the next one has the next number. `transport_cc`: see [`Subscription::transport_cc`].
    pub fn forward(&mut self, now: Instant, packet: &StoredPacket<'_>, transport_cc: Option<u8>) -> Option<Outgoing> {
        match self.playout {
            Playout::Live { after_arrival, .. } if packet.info.arrival < after_arrival => return None,
            Playout::Live { layer, .. } | Playout::CatchingUp { layer, .. }
                if packet.info.hidden || !self.cap.admits(layer.temporal, &packet.info) =>
            {
                self.reached = self.reached.max(packet.info.sequence);
                self.rewriter.omit(&packet.info);
                return None;
            }
            Playout::Waiting | Playout::Live { .. } | Playout::CatchingUp { .. } => {}
        }
        self.reached = self.reached.max(packet.info.sequence);
        let segment = self.rewriter.current()?;
        let number = segment.sent_number(packet.info.sequence)?;
        let mapping = self.mapping_of(packet.info.payload_type)?;
        let outgoing = self.outgoing(packet, segment, mapping, number, transport_cc);
        if number < self.rewriter.next() {
            self.rtx_budget.on_sent_late(now, number);
        }
        self.rewriter.sent(now, &packet.info, number);
        Some(outgoing)
    }

    fn outgoing(
        &self,
        packet: &StoredPacket<'_>,
        segment: &Segment,
        mapping: Mapping,
        number: u64,
        transport_cc: Option<u8>,
    ) -> Outgoing {
        let (id, tl0) = packet
            .info
            .vp8
            .map_or((0, 0), |vp8| (vp8.picture_id.map_or(0, |(id, _)| id), vp8.tl0_pic_idx.unwrap_or(0)));
        Outgoing {
            mapping,
            number,
            timestamp: segment.timestamp(packet.info.timestamp),
            picture: (segment.picture_id(packet.info.sequence, id), segment.tl0_pic_idx(tl0)),
            transport_cc,
            length: 12
                + self.elements(packet, &mapping, transport_cc).length()
                + self.payload_of(packet, &mapping).len(),
        }
    }

    /// Counts a packet that was sent, with so many bytes of payload, padding not counted.
    pub fn sent(&mut self, payload: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload as u32);
        self.rtx_budget.on_sent(payload);
    }

    /// Writes the packet with `padding` bytes behind it. `out` has room for all of it.
    pub fn write(
        &self,
        out: &mut [u8],
        packet: &StoredPacket<'_>,
        outgoing: &Outgoing,
        padding: usize,
        stamp: Stamp,
    ) -> Written {
        let ssrc = self.section.ssrc.0;
        let header =
            self.write_header(out, packet, outgoing, outgoing.mapping.payload_type, ssrc, outgoing.number, stamp);
        let mut length = header + self.write_payload(&mut out[header..], packet, outgoing);
        if padding > 0 {
            out[0] |= 0x20;
            out[length..length + padding].fill(0);
            length += padding;
            out[length - 1] = padding as u8;
        }
        Written { header, length, ssrc, index: outgoing.number }
    }

    /// Where a lost packet came from, if we may send it again: only with RTX (RFC 4588), because sealing another
    /// packet under the same number would break the cipher.
    pub fn lost_packet(&self, sequence: u16) -> Option<Source<'_>> {
        self.section.rtx_ssrc?;
        self.rewriter.source_of(sequence)
    }

    /// A packet that is sent again; its length is two bytes more, unsealed.
    pub fn retransmission(
        &self,
        packet: &StoredPacket<'_>,
        source: Source<'_>,
        transport_cc: Option<u8>,
    ) -> Option<Outgoing> {
        let mapping = self.mapping_of(packet.info.payload_type)?;
        mapping.rtx?;
        let outgoing = self.outgoing(packet, source.segment, mapping, source.number, transport_cc);
        Some(Outgoing { length: outgoing.length + 2, ..outgoing })
    }

    /// Writes a retransmission (RFC 4588, section 4).
    pub fn write_retransmission(
        &mut self,
        out: &mut [u8],
        packet: &StoredPacket<'_>,
        outgoing: &Outgoing,
        stamp: Stamp,
    ) -> Option<Written> {
        let (ssrc, payload_type) = (self.section.rtx_ssrc?.0, outgoing.mapping.rtx?);
        let index = self.rtx_next;
        self.rtx_next += 1;
        let header = self.write_header(out, packet, outgoing, payload_type, ssrc, index, stamp);
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
            let (picture_id, tl0) = outgoing.picture;
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
        stamp: Stamp,
    ) -> usize {
        let elements = self.elements(packet, &outgoing.mapping, outgoing.transport_cc);
        let extensions = elements.length();
        out[0] = if extensions > 0 { 0x90 } else { 0x80 };
        out[1] = payload_type | if packet.info.marker { 0x80 } else { 0 };
        out[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        out[4..8].copy_from_slice(&outgoing.timestamp.to_be_bytes());
        out[8..12].copy_from_slice(&ssrc.to_be_bytes());
        if extensions > 0 {
            elements.write(&mut out[12..12 + extensions], stamp);
        }
        12 + extensions
    }

    /// The extensions that go out with a packet: the transport-wide number; absolute send time on video, for the
    /// client's own estimate; the audio level; the dependency descriptor where layers of one stream depend on it. A descriptor of VP8 or H.264 would
    /// not survive a switch of layers, and nobody needs it there.
    fn elements<'p>(&self, packet: &StoredPacket<'p>, mapping: &Mapping, transport_cc: Option<u8>) -> Elements<'p> {
        let ids = &self.section.extensions;
        let scalable = matches!(mapping.codec, Codec::Av1 { .. } | Codec::Vp9 { .. });
        Elements {
            transport_cc,
            send_time: ids.abs_send_time.filter(|_| self.kind == MediaKind::Video),
            audio_level: ids.audio_level.zip(packet.info.audio_level),
            descriptor: ids
                .dependency_descriptor
                .filter(|_| scalable && !packet.dependency_descriptor.is_empty())
                .map(|id| (id, packet.dependency_descriptor)),
        }
    }

    /// Packets lost since the last report, given the reported sum (RFC 3550, section 6.4.1). Duplicates make it fall.
    pub fn newly_lost(&mut self, cumulative: i32) -> u64 {
        let newly = cumulative.saturating_sub(self.lost).max(0);
        self.lost = cumulative;
        u64::from(newly.unsigned_abs())
    }

    /// Our sender report (RFC 3550, section 6.4.1) on the publisher's clock, so that its tracks stay in step.
    pub fn sender_report(&self, now: Instant, report: &(SenderReport, Instant)) -> Option<SenderReport> {
        let segment = self.rewriter.current()?;
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
            rtp: segment.timestamp(theirs.rtp).wrapping_add(ticks(passed, rate)),
            packets: self.packets,
            octets: self.octets,
        })
    }
}

struct Elements<'p> {
    transport_cc: Option<u8>,
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
        let elements = self.transport_cc.map_or(0, |_| head + 2)
            + self.send_time.map_or(0, |_| head + 3)
            + self.audio_level.map_or(0, |_| head + 1)
            + self.descriptor.map_or(0, |(_, bytes)| head + bytes.len());
        if elements == 0 { 0 } else { 4 + elements.next_multiple_of(4) }
    }

    fn write(&self, out: &mut [u8], stamp: Stamp) {
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
        if let Some(id) = self.transport_cc {
            put(id, &stamp.number.to_be_bytes());
        }
        if let Some(id) = self.send_time {
            put(id, &stamp.send_time.to_be_bytes()[1..]);
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

#[cfg(test)]
mod tests;
