//! One published track: its layers, their loss, its key-frame requests.

mod hiding;
mod missing;

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use shared::media::{Codec, MediaKind};

use self::hiding::Hiding;
use self::missing::{MISSING_MAX, MissingPackets};
use crate::audio::{AudioConfig, AudioLevel};
use crate::codec::Vp8Descriptor;
use crate::command::ReceiveStats;
use crate::history::{History, PacketInfo};
use crate::id::{PublicationId, RoomId};
use crate::key::{SubscriptionKey, TransportKey};
use crate::rates::{LayerRates, RUNGS_MAX, Rung, TEMPORAL_RUNGS};
use crate::rtcp::{ReportBlock, SenderReport};
use crate::rtp::ExtendedSequence;
use crate::section::{LAYERS_MAX, Layer, LayerId, ReceiveSection, Ssrc};

/// Shortest time between two key-frame requests for one layer: the reference's throttle for its lowest layer. A key
/// frame costs its publisher several times an ordinary one.
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(500);

/// Shortest time between two requests that only serve viewers who could get a better layer: one key frame serves all who
/// have come to wait for it.
const RISE_INTERVAL: Duration = Duration::from_secs(2);

/// How far a retransmission may be ahead of the newest packet that came: a burst of those that went before it was lost.
/// Further ahead it is a mistake, and would make all that follows look old.
const REPEATED_AHEAD_MAX: i16 = 1_024;

/// Silence after which a simulcast layer counts as stopped: five frames at 5 fps, the slowest screen share.
const LAYER_SILENCE: Duration = Duration::from_secs(1);

/// Packets of the past that a new subscriber is sent at most: about a second of 2 Mbit/s, which a slow link carries in
/// less than two. Older key frames are asked for anew, at most every [`KEYFRAME_INTERVAL`].
const LATE_START_MAX: u64 = 200;

/// Packets of a layer that are fanned out together; more are taken in several rounds.
pub const ROUND: usize = 64;

/// A key frame is five to eight times as large as another frame, but comes seldom: of its bytes so much counts as the
/// rate of a layer, so that a moment with several of them does not look like a layer that nobody can be given.
const KEYFRAME_SHARE: usize = 4;

/// Bytes that a packet takes beside its payload: IP and UDP, the RTP header with some extensions, the cipher's tag.
pub(crate) const PACKET_OVERHEAD: usize = 28 + 24 + 16;

/// One encoding that arrives.
pub struct LayerState {
    /// What descriptions say of it.
    pub spec: Layer,
    /// SSRC of its packets, by its description or by the packets themselves.
    pub ssrc: Option<Ssrc>,
    /// SSRC of its retransmissions, by the packets themselves.
    pub rtx_ssrc: Option<Ssrc>,
    /// Recent packets; made with the first one, so that announced layers that never come cost nothing.
    pub history: Option<Box<History>>,
    /// Extended numbers of packets that arrived and wait for their round.
    pub pending: Vec<u64>,
    /// Those that are being fanned out, and how many of the publication's subscriptions have had their turn.
    pub round: Vec<u64>,
    /// Subscriptions that have had their turn in this round.
    pub served: usize,
    /// When a packet last arrived; `None`: none ever did.
    pub last_packet: Option<Instant>,
    sequence: ExtendedSequence,
    first: u64,
    highest: u64,
    received: u64,
    bytes: u64,
    rates: LayerRates,
    keyframe_timestamp: Option<u32>,
    jitter: f64,
    /// Timestamp and time of the last packet, for the jitter.
    last_arrival: Option<(u32, Instant)>,
    missing: MissingPackets,
    hiding: Hiding,
    /// Where the last key frame starts.
    keyframe: Option<u64>,
    keyframe_at: Option<Instant>,
    report: Option<(SenderReport, Instant)>,
    keyframe_wanted: bool,
    rise_wanted: bool,
    keyframe_asked: Option<Instant>,
    expected_prior: u64,
    received_prior: u64,
    stats_prior: (u64, u64, u64, u64),
    out_of_order: u64,
}

impl LayerState {
    fn new(spec: Layer) -> Self {
        Self {
            ssrc: spec.ssrc,
            rtx_ssrc: None,
            spec,
            history: None,
            pending: Vec::with_capacity(ROUND),
            round: Vec::with_capacity(ROUND),
            served: 0,
            last_packet: None,
            sequence: ExtendedSequence::default(),
            first: 0,
            highest: 0,
            received: 0,
            bytes: 0,
            rates: LayerRates::new(),
            keyframe_timestamp: None,
            jitter: 0.0,
            last_arrival: None,
            missing: MissingPackets::default(),
            hiding: Hiding::default(),
            keyframe: None,
            keyframe_at: None,
            report: None,
            keyframe_wanted: false,
            rise_wanted: false,
            keyframe_asked: None,
            expected_prior: 0,
            received_prior: 0,
            stats_prior: (0, 0, 0, 0),
            out_of_order: 0,
        }
    }

    /// Whether packets have arrived lately.
    pub fn flows(&self, now: Instant) -> bool {
        self.last_packet.is_some_and(|at| now.saturating_duration_since(at) < LAYER_SILENCE)
    }

    /// Extends a sequence number by the rollovers so far.
    pub fn extend_sequence(&mut self, sequence: u16) -> u64 {
        self.sequence.unwrap(sequence)
    }

    /// Whether a packet that is sent again may have been sent before: one or the other may overtake the newest that
    /// came.
    pub fn may_be_repeated(&self, sequence: u16) -> bool {
        let ahead = sequence.wrapping_sub(self.highest as u16) as i16;
        ahead <= REPEATED_AHEAD_MAX
    }

    /// Highest extended sequence number that arrived.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Packets that arrived until now, see [`PacketInfo::arrival`].
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Continues the numbering of an exported layer.
    pub fn resume_at(&mut self, ssrc: Ssrc, highest: u64) {
        self.ssrc = Some(ssrc);
        self.sequence = ExtendedSequence::starting_at(highest);
        self.highest = highest;
        self.first = highest + 1;
    }

    /// Keeps a packet that arrived. `false`: it had arrived before, or is too old.
    pub fn keep(
        &mut self,
        now: Instant,
        kind: MediaKind,
        mut info: PacketInfo,
        descriptor: &[u8],
        payload: &[u8],
        recovered: bool,
    ) -> bool {
        if recovered && info.temporal() > 0 {
            self.hiding.on_asked(info.temporal(), true);
        }
        let is_wanted = info.sequence <= self.highest || self.hide_lost(&info);
        info.hidden = match info.sequence > self.highest {
            true => self.hiding.hides(&info),
            false => self.hiding.hides_late(&info),
        };
        let history = self.history.get_or_insert_with(|| {
            Box::new(match kind {
                MediaKind::Audio => History::for_audio(),
                MediaKind::Video => History::for_video(),
            })
        });
        if !history.keep(info, descriptor, payload) {
            return false;
        }
        if self.received == 0 && self.highest == 0 {
            (self.first, self.highest) = (info.sequence, info.sequence);
        }
        self.received += 1;
        self.bytes += payload.len() as u64;
        self.last_packet = Some(now);
        // With so many before it, this one is skipped too, see `is_overrun`.
        if self.pending.len() < history.capacity() {
            self.pending.push(info.sequence);
        }
        if info.keyframe_start && self.keyframe.is_none_or(|before| before < info.sequence) {
            self.keyframe = Some(info.sequence);
            self.keyframe_at = Some(now);
            // It serves all who have asked for one.
            self.keyframe_wanted = false;
        }
        if !recovered {
            self.out_of_order += u64::from(info.sequence < self.highest);
        }
        self.note_loss(now, &info, (recovered, is_wanted));
        if !recovered {
            self.note_jitter(now, info.timestamp, kind);
        }
        self.count_rate(now, &info, payload.len() + PACKET_OVERHEAD);
        true
    }

    fn count_rate(&mut self, now: Instant, info: &PacketInfo, bytes: usize) {
        if info.keyframe_start {
            self.keyframe_timestamp = Some(info.timestamp);
        }
        let is_keyframe = self.keyframe_timestamp == Some(info.timestamp);
        self.rates.count(now, info.temporal(), if is_keyframe { bytes / KEYFRAME_SHARE } else { bytes });
    }

    /// Hides what was lost in front of a packet that is newer than all others, if that is better than to wait for it.
    /// Whether it is to be asked for.
    fn hide_lost(&mut self, next: &PacketInfo) -> bool {
        let is_gap = (1..=MISSING_MAX as u64).contains(&(next.sequence - self.highest - 1));
        let Some(history) = self.history.as_deref_mut().filter(|_| is_gap) else { return true };
        let Some(last) = history.find(self.highest) else { return true };
        let Some(damage) = self.hiding.hides_gap(&last.info, next) else { return true };
        for (sequence, number) in (self.highest + 1..next.sequence).zip(0..) {
            // It does not matter which of them began a picture, since none will be sent.
            let first = number < damage.pictures;
            let temporal = Some((damage.temporal, false));
            let vp8 = Some(Vp8Descriptor { first, temporal, ..Vp8Descriptor::default() });
            if history.hide(PacketInfo {
                sequence,
                arrival: self.received,
                marker: false,
                keyframe_start: false,
                vp8,
                ..*next
            }) && self.pending.len() < history.capacity()
            {
                self.pending.push(sequence);
            }
        }
        // Whether the publisher sends such packets again is found out by asking.
        !self.hiding.is_repaired(damage.temporal)
    }

    fn note_loss(&mut self, now: Instant, packet: &PacketInfo, (recovered, is_wanted): (bool, bool)) {
        let sequence = packet.sequence;
        if sequence <= self.highest {
            return self.missing.on_late(now, sequence, recovered);
        }
        let gap = sequence - self.highest - 1;
        if gap as usize > MISSING_MAX {
            self.missing.clear();
            self.keyframe_wanted = true;
        } else {
            let first = if is_wanted { self.highest + 1 } else { sequence };
            self.missing.on_gap(now, first..sequence, packet.vp8.is_some_and(|vp8| vp8.first));
        }
        self.highest = sequence;
    }

    /// RFC 3550, appendix A.8, in seconds of the media clock.
    fn note_jitter(&mut self, now: Instant, timestamp: u32, kind: MediaKind) {
        let rate = match kind {
            MediaKind::Audio => 48_000.0,
            MediaKind::Video => 90_000.0,
        };
        let Some((last_timestamp, last_at)) = self.last_arrival.replace((timestamp, now)) else { return };
        let media = f64::from(timestamp.wrapping_sub(last_timestamp).cast_signed()) / rate;
        let wall = now.saturating_duration_since(last_at).as_secs_f64();
        let difference = (wall - media).abs().min(10.0);
        self.jitter += (difference * rate - self.jitter) / 16.0;
    }

    /// Lost packets to ask for now, oldest first; those asked for too often are given up, for a key frame.
    pub fn due_nacks(&mut self, now: Instant, due: &mut Vec<u16>) {
        due.clear();
        let Self { missing, history, hiding, .. } = self;
        let gives_up = |sequence| {
            let temporal = history.as_deref().and_then(|history| hiding.upper_layer_of_lost(history, sequence));
            temporal.inspect(|temporal| hiding.on_asked(*temporal, false)).is_some()
        };
        if missing.take_due(now, due, gives_up) {
            self.keyframe_wanted = true;
        }
    }

    /// Whether the packet with this number has been missed.
    pub fn lacks(&self, sequence: u16) -> bool {
        self.missing.contains(sequence)
    }

    /// When [`LayerState::due_nacks`] has something to ask for, if nothing else arrives.
    pub fn nacks_due(&self) -> Option<Instant> {
        self.missing.due()
    }

    /// Where a new subscriber may start: the last key frame, while history holds it and what followed is little enough
    /// to send quickly, at most so many bytes.
    pub fn late_start(&self, bytes_max: usize) -> Option<u64> {
        let keyframe = self.keyframe?;
        let bytes = self.history.as_deref()?.bytes_from(keyframe)?;
        (self.highest - keyframe <= LATE_START_MAX && bytes <= bytes_max).then_some(keyframe)
    }

    /// Whether the last packet that arrived is in the middle of a frame.
    pub fn is_within_frame(&self) -> bool {
        let last = self.pending.last().and_then(|sequence| self.history.as_deref()?.find(*sequence));
        last.is_some_and(|packet| !packet.info.marker)
    }

    /// Begins the next round, if the last one is over. `false`: there is nothing to fan out.
    pub fn begin_round(&mut self) -> bool {
        if self.round.is_empty() {
            self.served = 0;
            let count = self.pending.len().min(ROUND);
            self.round.extend(self.pending.drain(..count));
        }
        !self.round.is_empty()
    }

    /// Whether so much waits that history is about to lose it: the worker has too little CPU.
    pub fn is_overrun(&self) -> bool {
        self.history.as_deref().is_some_and(|history| self.pending.len() > history.capacity() / 4 * 3)
    }

    /// Forgets what waits to be fanned out.
    pub fn drop_pending(&mut self) {
        self.pending.clear();
        self.round.clear();
    }

    /// Asks for a key frame at the next step of the media clock.
    pub fn want_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    /// Whether a key frame has come within this time: who has asked for one without it may not have seen it yet.
    pub fn has_fresh_keyframe(&self, now: Instant, within: Duration) -> bool {
        self.keyframe_at.is_some_and(|at| now < at + within)
    }

    /// Asks for a key frame to rise with, for somebody who has a picture.
    pub fn want_rise(&mut self) {
        self.rise_wanted = true;
    }

    /// Whether to ask for a key frame now: somebody wants one, and the last request is long enough ago.
    pub fn keyframe_due(&mut self, now: Instant) -> bool {
        let interval = match (self.keyframe_wanted, self.rise_wanted) {
            (true, _) => KEYFRAME_INTERVAL,
            (false, true) => RISE_INTERVAL,
            (false, false) => return false,
        };
        let due =
            self.ssrc.is_some() && self.keyframe_asked.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        if due {
            (self.keyframe_wanted, self.rise_wanted) = (false, false);
            self.keyframe_asked = Some(now);
        }
        due
    }

    /// Takes a sender report of the publisher.
    pub fn accept_report(&mut self, now: Instant, report: SenderReport) {
        self.report = Some((report, now));
    }

    /// The publisher's last sender report and its arrival.
    pub fn report(&self) -> Option<&(SenderReport, Instant)> {
        self.report.as_ref()
    }

    /// The block of a receiver report on this layer (RFC 3550, section 6.4.1).
    pub fn report_block(&mut self, now: Instant) -> Option<ReportBlock> {
        let ssrc = self.ssrc?;
        if self.received == 0 {
            return None;
        }
        let expected = self.highest + 1 - self.first;
        let lost = expected.saturating_sub(self.received);
        let expected_interval = expected - self.expected_prior.min(expected);
        let received_interval = self.received - self.received_prior;
        let lost_interval = expected_interval.saturating_sub(received_interval);
        (self.expected_prior, self.received_prior) = (expected, self.received);
        let fraction_lost = (lost_interval * 256).checked_div(expected_interval).unwrap_or(0).min(255) as u8;
        let (last_sr, delay_since_last_sr) = match &self.report {
            Some((report, at)) => {
                let delay = now.saturating_duration_since(*at).as_secs_f64() * 65_536.0;
                ((report.ntp >> 16) as u32, delay as u32)
            }
            None => (0, 0),
        };
        Some(ReportBlock {
            ssrc: ssrc.0,
            fraction_lost,
            cumulative_lost: lost.min(0x7f_ffff) as i32,
            highest_sequence: self.highest as u32,
            jitter: self.jitter as u32,
            last_sr,
            delay_since_last_sr,
        })
    }

    fn stats_since_last(&mut self, clock_rate: u32) -> ReceiveStats {
        let lost = (self.highest + 1).saturating_sub(self.first).saturating_sub(self.received);
        let lost = if self.received == 0 { 0 } else { lost };
        let total = (self.received, self.bytes, lost, self.out_of_order);
        let before = std::mem::replace(&mut self.stats_prior, total);
        ReceiveStats {
            packets: total.0 - before.0,
            bytes: total.1 - before.1,
            lost: total.2.saturating_sub(before.2),
            out_of_order: total.3 - before.3,
            jitter_us: (self.jitter * 1e6 / f64::from(clock_rate)) as u32,
        }
    }
}

/// Where the packets of a publication come from, and requests for lost packets and key frames go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client.
    Transport(TransportKey),
    /// This process, for a room ([`crate::local`]).
    Local(RoomId),
}

/// One published track.
pub struct Publication {
    /// The room's id of it.
    pub id: PublicationId,
    /// Where it comes from.
    pub origin: Origin,
    /// What is received, by its description.
    pub section: ReceiveSection,
    /// Whether nothing is forwarded.
    pub muted: bool,
    /// Its encodings, lowest quality first.
    pub layers: ArrayVec<LayerState, LAYERS_MAX>,
    /// What it can be shown in, cheapest first: see [`Publication::measure`].
    pub(crate) rungs: ArrayVec<Rung, RUNGS_MAX>,
    /// Who watches it, in the order of their turns.
    pub subscriptions: Vec<SubscriptionKey>,
    /// When the first packet came that is in the engine's backlog; `None` while there are none.
    pub pending_since: Option<Instant>,
    /// Levels, if it is audio.
    pub audio_level: Option<AudioLevel>,
}

impl Publication {
    /// One of which nothing has arrived.
    pub fn new(id: PublicationId, origin: Origin, section: ReceiveSection, audio: AudioConfig) -> Self {
        let layers = section.layers.iter().take(LAYERS_MAX).map(|spec| LayerState::new(*spec)).collect();
        let audio_level = (section.kind == MediaKind::Audio).then(|| AudioLevel::new(audio));
        Self {
            id,
            origin,
            section,
            muted: false,
            layers,
            rungs: ArrayVec::new(),
            subscriptions: Vec::new(),
            pending_since: None,
            audio_level,
        }
    }

    /// Replaces the section after a renegotiation. Layers that go on keep their state.
    pub fn renegotiate(&mut self, section: ReceiveSection) {
        let mut before = std::mem::take(&mut self.layers);
        for spec in section.layers.iter().take(LAYERS_MAX) {
            let same = before.iter().position(|layer| {
                layer.spec.rid == spec.rid && (spec.rid.is_some() || spec.ssrc.is_none() || layer.ssrc == spec.ssrc)
            });
            let mut layer = match same {
                Some(at) => before.remove(at),
                None => LayerState::new(*spec),
            };
            layer.spec = *spec;
            self.layers.push(layer);
        }
        self.section = section;
    }

    /// Takes a subscription off its list.
    pub fn forget_subscription(&mut self, key: SubscriptionKey) {
        let Some(position) = self.subscriptions.iter().position(|other| *other == key) else { return };
        self.subscriptions.remove(position);
        for layer in &mut self.layers {
            layer.served -= usize::from(position < layer.served);
        }
    }

    /// The codec that a payload type stands for.
    pub fn codec_of(&self, payload_type: u8) -> Option<Codec> {
        self.section.codecs.iter().find(|codec| codec.payload_type == payload_type).map(|codec| codec.codec)
    }

    /// The payload type whose retransmissions come with this one.
    pub fn media_type_of_rtx(&self, payload_type: u8) -> Option<u8> {
        self.section.codecs.iter().find(|codec| codec.rtx == Some(payload_type)).map(|codec| codec.payload_type)
    }

    /// Finds out what it can be shown in, and what that takes.
    ///
    /// Layers that flow count, and of the lowest of them each temporal layer: 7 frames a second of a better picture are
    /// worse than 30 of a lesser one. Until a layer has been measured only the lowest is offered.
    pub fn measure(&mut self, now: Instant) {
        self.rungs.clear();
        let mut lowest = None;
        for (spatial, layer) in (0..).zip(&mut self.layers) {
            if !layer.flows(now) {
                continue;
            }
            lowest.get_or_insert(spatial);
            let Some(bps) = layer.rates.bps(now) else { continue };
            add_rungs(&mut self.rungs, spatial, &bps);
        }
        if let (true, Some(spatial)) = (self.rungs.is_empty(), lowest) {
            self.rungs.push(Rung { layer: LayerId::whole(spatial), bps: 0 });
        }
    }

    /// Bits a second that it takes at least, or as audio.
    pub(crate) fn lowest_bps(&self) -> u64 {
        self.rungs.first().map_or(0, |rung| rung.bps)
    }

    /// The highest layer up to `layer_max` that flows; the highest that ever did if none does now.
    pub fn best_layer(&self, now: Instant, layer_max: u8) -> LayerId {
        let eligible = || self.layers.iter().enumerate().take(usize::from(layer_max) + 1).rev();
        eligible()
            .find(|(_, layer)| layer.flows(now))
            .or_else(|| eligible().find(|(_, layer)| layer.last_packet.is_some()))
            .map_or(LayerId::whole(0), |(index, _)| LayerId::whole(index as u8))
    }

    /// What arrived since the last call, all layers together.
    pub fn stats(&mut self) -> ReceiveStats {
        let clock_rate = self.section.codecs.first().map_or(90_000, |codec| codec.codec.clock_rate());
        self.layers.iter_mut().fold(ReceiveStats::default(), |sum, layer| {
            let stats = layer.stats_since_last(clock_rate);
            ReceiveStats {
                packets: sum.packets + stats.packets,
                bytes: sum.bytes + stats.bytes,
                lost: sum.lost + stats.lost,
                out_of_order: sum.out_of_order + stats.out_of_order,
                jitter_us: sum.jitter_us.max(stats.jitter_us),
            }
        })
    }
}

/// Adds what a layer offers; `bps` are bits a second of its temporal layers up to each.
fn add_rungs(rungs: &mut ArrayVec<Rung, RUNGS_MAX>, spatial: u8, bps: &[u64]) {
    let all = bps.last().copied().unwrap_or(0);
    let temporal_max = bps.iter().position(|up_to| *up_to == all).unwrap_or(0).min(TEMPORAL_RUNGS - 1);
    let least = usize::from(!rungs.is_empty()).min(temporal_max);
    for temporal in least..=temporal_max {
        let is_whole = temporal == temporal_max;
        let layer = if is_whole { LayerId::whole(spatial) } else { LayerId { spatial, temporal: temporal as u8 } };
        let bps = if is_whole { all } else { bps[temporal] };
        // What costs more than something better is no choice.
        while rungs.last().is_some_and(|rung| rung.bps >= bps && bps > 0) {
            rungs.pop();
        }
        rungs.push(Rung { layer, bps });
    }
}
