//! Datagrams in: classify, find the transport, decrypt, bind to a layer, keep in the layer's history.

use std::time::{Duration, Instant};

use arrayvec::ArrayString;
use shared::media::Codec;
use tracing::warn;

use super::hosted::Stream;
use super::publications::STREAMS_MAX;
use super::serving::{Serving, Stage};
use super::{Engine, PATH_TAKEN};
use crate::audio::parse_audio_level;
use crate::codec::{Vp8Descriptor, is_keyframe_start};
use crate::command::Event;
use crate::demux::{Discard, PacketKind};
use crate::history::PacketInfo;
use crate::ice::{StunRefusal, is_response, local_ufrag_of};
use crate::id::TransportId;
use crate::key::TransportKey;
use crate::path::Path;
use crate::rtp::{RtpView, header_len};
use crate::run::{SendArena, Transmit};
use crate::section::{Mid, Rid, Ssrc};

/// Addresses from which one transport may have been checked.
const PATHS_MAX: usize = 16;
/// Longest RTP packet in bytes, as encrypted: senders keep to the MTU of their link. A longer one would count as one
/// packet, and cost its worker, the histories and each subscriber as much as dozens.
const RTP_BYTES_MAX: usize = 2048;

/// Time between two lines of the log that say that a budget is spent.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

impl Engine {
    /// Whether a transport of this worker is at this address for sure: it has had its DTLS handshake and goes on there.
    /// A check alone tells who sent it, not from where.
    pub fn holds(&self, path: &Path) -> bool {
        self.paths.get(path).is_some_and(|key| self.transports[*key].downlink.is_at(path))
    }

    /// The transport of this worker to which an authenticated check came this way.
    pub fn transport_at(&self, path: &Path) -> Option<TransportId> {
        let key = *self.paths.get(path)?;
        Some(self.transports[key].id)
    }

    /// Takes one datagram. What cannot be used is counted.
    pub fn receive<T: Transmit>(&mut self, now: Instant, from: Path, datagram: &mut [u8], out: &mut SendArena<T>) {
        self.stats.datagrams_received += 1;
        self.stats.bytes_received += datagram.len() as u64;
        self.serving = None;
        if let Err(discard) = self.try_receive(now, from, datagram, out) {
            self.stats.count(discard);
        }
    }

    /// Charges the transport of the datagram that was received last for the time that it took. To be called for DTLS
    /// and RTCP.
    pub fn charge(&mut self, now: Instant, cost: Duration) {
        self.stats.control_micros += u64::try_from(cost.as_micros()).unwrap_or(u64::MAX);
        let Some(Serving { key, stage }) = self.serving else { return };
        let Some(hosted) = self.transports.get_mut(key) else { return };
        if !hosted.budget.charge(now, cost) {
            return;
        }
        self.stats.budgets_spent += 1;
        if self.budget_warned_at.is_none_or(|at| now >= at + WARNING_PAUSE) {
            self.budget_warned_at = Some(now);
            let (room, transport) = (hosted.room, hosted.id);
            warn!(?room, ?transport, ?stage, ?cost, "a transport takes too much of its worker's time: it is slowed");
        }
    }

    fn try_receive<T: Transmit>(
        &mut self,
        now: Instant,
        from: Path,
        datagram: &mut [u8],
        out: &mut SendArena<T>,
    ) -> Result<(), Discard> {
        let kind = PacketKind::of(datagram).ok_or(Discard::UnknownProtocol)?;
        if kind == PacketKind::Stun {
            return self.receive_stun(now, from, datagram, out);
        }
        let key = *self.paths.get(&from).ok_or(Discard::UnknownSender)?;
        if kind != PacketKind::Rtp && self.transports[key].budget.is_spent(now) {
            return Err(Discard::OverBudget);
        }
        let stage = match kind {
            PacketKind::Rtp => Stage::Rtp,
            PacketKind::Rtcp => Stage::Rtcp,
            PacketKind::Dtls | PacketKind::Stun => Stage::Dtls,
        };
        self.serves(key, stage);
        let received = match kind {
            PacketKind::Rtp => self.receive_rtp(now, key, datagram),
            PacketKind::Rtcp => self.receive_rtcp(now, key, datagram, out),
            PacketKind::Dtls => {
                let result = self.transports[key].transport.on_dtls(now, from, datagram);
                self.after_transport(now, key, out);
                return result.map_err(|_| Discard::DtlsMalformed);
            }
            PacketKind::Stun => Ok(()),
        };
        if received.is_ok()
            && let Some(hosted) = self.transports.get_mut(key).filter(|hosted| hosted.downlink.path == Some(from))
        {
            hosted.transport.note_heard(now);
        }
        received
    }

    /// A connectivity check (RFC 8445, section 7.3), whose user fragment names the transport, or the answer to one of
    /// ours, which comes from an address that is known.
    fn receive_stun<T: Transmit>(
        &mut self,
        now: Instant,
        from: Path,
        datagram: &[u8],
        out: &mut SendArena<T>,
    ) -> Result<(), Discard> {
        let key = if is_response(datagram) {
            *self.paths.get(&from).ok_or(Discard::UnknownSender)?
        } else {
            let ufrag = local_ufrag_of(datagram).ok_or(Discard::StunMalformed)?;
            *self.ufrags.get(ufrag).ok_or(Discard::UnknownUfrag)?
        };
        if self.is_taken(now, &from, key) {
            return Err(Discard::PathTaken);
        }
        self.serves(key, Stage::ConnectivityCheck);
        self.datagram.clear();
        let mut reply = std::mem::take(&mut self.datagram);
        let outcome = self.transports[key].transport.on_stun(now, from, datagram, &mut reply);
        if !reply.is_empty() {
            out.single(from, &reply);
        }
        self.datagram = reply;
        let outcome = match outcome {
            Ok(outcome) => {
                self.stats.nominations_unproven += u64::from(outcome.waits_for_proof);
                self.stats.paths_moved +=
                    u64::from(outcome.path_changed && self.transports[key].downlink.path.is_some());
                Ok(())
            }
            Err(StunRefusal::WrongIntegrity | StunRefusal::UnknownUsername | StunRefusal::Unauthenticated) => {
                Err(Discard::StunIntegrity)
            }
            Err(StunRefusal::Malformed | StunRefusal::WrongFingerprint) => Err(Discard::StunMalformed),
            Err(StunRefusal::TooMany) => Err(Discard::OverBudget),
            Err(_) => Err(Discard::StunRefused),
        };
        if outcome.is_ok() {
            self.know_path(key, from);
        }
        self.after_transport(now, key, out);
        outcome
    }

    /// Whether another client is at this address. Datagrams tell clients apart by their address alone, so whoever
    /// joined could silence any other one by a check of their own with a forged source.
    fn is_taken(&self, now: Instant, path: &Path, key: TransportKey) -> bool {
        let Some(owner) = self.paths.get(path).filter(|owner| **owner != key) else { return false };
        let owner = &self.transports[*owner];
        let is_heard = owner.transport.last_heard().is_some_and(|heard| now < heard + PATH_TAKEN);
        owner.downlink.is_at(path) && owner.closes_at.is_none() && is_heard
    }

    /// From now on, what comes from this address belongs to this transport.
    fn know_path(&mut self, key: TransportKey, path: Path) {
        let hosted = &mut self.transports[key];
        hosted.downlink.path = hosted.transport.path();
        if self.paths.get(&path) == Some(&key) {
            return;
        }
        if hosted.paths.len() >= PATHS_MAX {
            // The oldest that is not in use.
            let oldest = hosted.paths.remove(usize::from(hosted.paths.first() == hosted.downlink.path.as_ref()));
            self.forget_path(key, oldest);
        }
        self.transports[key].paths.push(path);
        self.paths.insert(path, key);
    }

    fn receive_rtp(&mut self, now: Instant, key: TransportKey, datagram: &mut [u8]) -> Result<(), Discard> {
        if datagram.len() > RTP_BYTES_MAX {
            return Err(Discard::TooLarge);
        }
        let header = header_len(datagram).ok_or(Discard::RtpMalformed)?;
        let hosted = &mut self.transports[key];
        let receiver = hosted.receiver.as_mut().ok_or(Discard::NoKeys)?;
        let length = receiver.open_rtp(datagram, header)?;
        let packet = RtpView::parse(&datagram[..length]).ok_or(Discard::RtpMalformed)?;
        self.stats.rtp_received += 1;
        if let (Some(twcc), Some(id)) = (&mut hosted.twcc, hosted.receive_extensions.transport_cc)
            && let Some(&[high, low]) = packet.extension(id)
        {
            let arrival = now.saturating_duration_since(self.epoch);
            twcc.record(u16::from_be_bytes([high, low]), arrival, packet.ssrc());
        }
        let known = hosted.streams.iter().find(|(ssrc, _)| *ssrc == packet.ssrc()).map(|(_, stream)| *stream);
        let stream = match known {
            Some(stream) => stream,
            None => self.bind_stream(key, &packet).ok_or(Discard::UnknownStream)?,
        };
        self.accept_packet(now, stream, &packet)
    }

    /// Finds out what a new SSRC carries, by MID and RID (RFC 9143, RFC 8852), or by payload type where only one
    /// section can have sent it.
    fn bind_stream(&mut self, key: TransportKey, packet: &RtpView<'_>) -> Option<Stream> {
        let hosted = &self.transports[key];
        if hosted.streams.len() >= STREAMS_MAX {
            return None;
        }
        let ids = hosted.receive_extensions;
        let text = |id: Option<u8>| -> Option<ArrayString<16>> {
            ArrayString::from(std::str::from_utf8(packet.extension(id?)?).ok()?).ok()
        };
        let (mid, rid, repaired): (Option<Mid>, Option<Rid>, Option<Rid>) =
            (text(ids.mid), text(ids.rid), text(ids.repaired_rid));
        if let (None, None, Some(stream)) = (rid, repaired, self.stream_lacking(key, mid, packet)) {
            self.learn_stream(key, packet.ssrc(), stream);
            return Some(stream);
        }
        let mut candidates = self.transports[key].publications.iter().copied().filter(|key| {
            let section = &self.publications[*key].section;
            match mid {
                Some(mid) => section.mid == mid,
                None => section.codecs.iter().any(|codec| {
                    codec.payload_type == packet.payload_type() || codec.rtx == Some(packet.payload_type())
                }),
            }
        });
        let publication = candidates.next()?;
        if mid.is_none() && candidates.next().is_some() {
            return None;
        }
        let state = &self.publications[publication];
        let is_rtx = state.media_type_of_rtx(packet.payload_type()).is_some();
        let name = if is_rtx { repaired.or(rid) } else { rid };
        let layer = match name {
            Some(name) => state.layers.iter().position(|layer| layer.spec.rid == Some(name))?,
            None if state.layers.len() == 1 => 0,
            None => return None,
        };
        let stream = Stream { publication, layer: layer as u8, rtx: is_rtx };
        self.learn_stream(key, packet.ssrc(), stream);
        Some(stream)
    }

    /// What a retransmission that does not name its layer is of: the only layer that lacks its packet.
    fn stream_lacking(&self, key: TransportKey, mid: Option<Mid>, packet: &RtpView<'_>) -> Option<Stream> {
        let &[high, low, ..] = packet.payload() else { return None };
        let number = u16::from_be_bytes([high, low]);
        let mut streams = self.transports[key].publications.iter().flat_map(|&publication| {
            let state = &self.publications[publication];
            let is_possible = mid.is_none_or(|mid| state.section.mid == mid)
                && state.media_type_of_rtx(packet.payload_type()).is_some();
            let layers = (0..).zip(&state.layers).filter(move |(_, layer)| is_possible && layer.lacks(number));
            layers.map(move |(layer, _)| Stream { publication, layer, rtx: true })
        });
        let stream = streams.next()?;
        streams.next().is_none().then_some(stream)
    }

    fn learn_stream(&mut self, key: TransportKey, ssrc: u32, stream: Stream) {
        let layer = &mut self.publications[stream.publication].layers[usize::from(stream.layer)];
        match stream.rtx {
            true => layer.rtx_ssrc = Some(Ssrc(ssrc)),
            false => layer.ssrc = Some(Ssrc(ssrc)),
        }
        let streams = &mut self.transports[key].streams;
        // A layer that came back under a new SSRC replaces its old one.
        streams.retain(|(_, other)| *other != stream);
        streams.push((ssrc, stream));
    }

    /// Unwraps a retransmission, reads what forwarding needs, keeps the packet.
    pub(super) fn accept_packet(&mut self, now: Instant, stream: Stream, packet: &RtpView<'_>) -> Result<(), Discard> {
        let publication = &mut self.publications[stream.publication];
        let (payload_type, sequence, payload) = if stream.rtx {
            let media = publication.media_type_of_rtx(packet.payload_type()).ok_or(Discard::UnknownPayloadType)?;
            match packet.payload() {
                // Padding that probes for bandwidth.
                [] => return Ok(()),
                [high, low, rest @ ..] => (media, u16::from_be_bytes([*high, *low]), rest),
                [_] => return Err(Discard::RtpMalformed),
            }
        } else {
            (packet.payload_type(), packet.sequence(), packet.payload())
        };
        let codec = publication.codec_of(payload_type).ok_or(Discard::UnknownPayloadType)?;
        let layer = &mut publication.layers[usize::from(stream.layer)];
        let started = layer.last_packet.is_none();
        if started && stream.rtx {
            return Err(Discard::UnknownStream);
        }
        if stream.rtx && !layer.may_be_repeated(sequence) {
            return Err(Discard::RtpMalformed);
        }
        let ids = &publication.section.extensions;
        let descriptor = ids.dependency_descriptor.and_then(|id| packet.extension(id));
        let audio_level = ids.audio_level.and_then(|id| packet.extension(id)).and_then(|bytes| bytes.first().copied());
        let info = PacketInfo {
            sequence: layer.extend_sequence(sequence),
            arrival: layer.received(),
            timestamp: packet.timestamp(),
            payload_type,
            marker: packet.marker(),
            keyframe_start: is_keyframe_start(codec, payload, descriptor),
            audio_level,
            vp8: (codec == Codec::Vp8).then(|| Vp8Descriptor::parse(payload)).flatten(),
            hidden: false,
        };
        if !layer.keep(now, publication.section.kind, info, descriptor.unwrap_or(&[]), payload, stream.rtx) {
            return Err(Discard::Duplicate);
        }
        if let Some(due) = layer.nacks_due() {
            self.clock.nacks_due(Some(due));
            if !self.incomplete.contains(&stream.publication) {
                self.incomplete.push(stream.publication);
            }
        }
        self.on_kept(now, stream, &info, codec, started);
        Ok(())
    }

    /// What follows from a packet that a layer has kept: it is to be fanned out, and a room may have to hear of it.
    fn on_kept(&mut self, now: Instant, stream: Stream, info: &PacketInfo, codec: Codec, started: bool) {
        let publication = &mut self.publications[stream.publication];
        let (kind, layer) = (publication.section.kind, stream.layer);
        let ssrc = publication.layers[usize::from(layer)].ssrc.unwrap_or(Ssrc(0));
        let mut loudness = None;
        if let (Some(level), Some(activity)) = (info.audio_level, &mut publication.audio_level)
            && let Some((_, level)) = parse_audio_level(&[level])
            && !publication.muted
        {
            loudness = activity.observe(now, ssrc, info.timestamp, codec.clock_rate(), level);
        }
        if publication.pending_since.is_none() {
            publication.pending_since = Some(now);
            self.backlog.of(kind).push_back(stream.publication);
        }
        if let Some((level, active)) = loudness {
            self.emit(stream.publication, |publication| Event::AudioActivity { publication, level, active });
        }
        if started {
            self.emit(stream.publication, |publication| Event::LayerStarted { publication, layer, ssrc, codec });
            self.choose_layers(now, stream.publication);
        }
    }
}
