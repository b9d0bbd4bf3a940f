//! One transport of a simulated client: ICE, DTLS, SRTP, data channels and the media on it, without any socket.
//!
//! Datagrams and time go in; datagrams and events come out. Headers of received media are read in clear; a payload is
//! decrypted when the transport verifies everything, at the start of each frame until the first key frame has been
//! seen, and for retransmissions, whose original sequence number is inside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use crate::channels::{ChannelEvent, Channels};
use crate::clock::monotonic_ns;
use crate::codec::{VideoCodec, starts_key_frame};
use crate::delays::Delays;
use crate::dtls::{Dtls, DtlsEvent, DtlsRole, Identity, SrtpProfile, SrtpSession};
use crate::ice::{Credentials, IceAgent, IceEvent, IceRole};
use crate::playback::PlaybackCounts;
use crate::receiver::{Arrival, MediaKind, Stream, StreamCounts};
use crate::rtcp;
use crate::rtp::Header;
use crate::sdp::Setup;
use crate::sender::{Encoding, Outbound, Sender, SenderStats, Source};
use crate::stamp::Stamp;

/// Streams that a server may send on one transport.
const STREAMS_MAX: usize = 64;
/// Between two receiver reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Between two transport-wide feedbacks, libwebrtc's shortest.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(50);
/// Packets that one feedback covers at most.
const FEEDBACK_MAX: usize = 400;
/// A stream without key frame for this long asks for one, and again each second.
const KEY_FRAME_WAIT: Duration = Duration::from_millis(200);
const KEY_FRAME_REPEAT: Duration = Duration::from_secs(1);
/// Least bitrate that a bandwidth report claims.
const REMB_MIN_BPS: u64 = 1_000_000;

/// What a payload type means on this transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    Audio,
    Video(VideoCodec),
    /// Video of a codec whose key frames are not told apart.
    OtherVideo,
    Retransmission,
}

/// A stream that the server announced.
#[derive(Debug, Clone)]
pub struct ExpectedStream {
    pub kind: MediaKind,
    pub ssrc: u32,
    pub rtx_ssrc: Option<u32>,
    pub track: Arc<str>,
}

/// What the negotiation says about received media.
#[derive(Debug, Clone, Default)]
pub struct Reception {
    pub payloads: Vec<(u8, PayloadKind)>,
    pub streams: Vec<ExpectedStream>,
    /// Id of the transport-wide sequence number, if feedback on it was negotiated.
    pub transport_sequence_extension: Option<u8>,
    /// Whether the server wants bandwidth estimates (REMB).
    pub remb: bool,
}

/// The server's side of a transport.
#[derive(Debug, Clone)]
pub struct Remote {
    pub credentials: Credentials,
    /// `sha-256`, as in SDP.
    pub fingerprint: String,
    /// Our role in DTLS.
    pub role: DtlsRole,
    /// Our role in ICE.
    pub ice_role: IceRole,
}

/// How a transport behaves.
#[derive(Debug, Clone, Default)]
pub struct TransportOptions {
    /// Decrypt and authenticate every packet.
    pub verify: bool,
    /// Labels of the data channels to open.
    pub channels: Vec<String>,
    pub loss: Loss,
    /// Of its answers.
    pub setup: Setup,
}

/// Shares of RTP packets, 0 to 1, that get lost on purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Of those that arrive.
    pub down: f64,
    /// Of those that are sent.
    pub up: f64,
}

impl Loss {
    fn strikes(share: f64) -> bool {
        share > 0.0 && rand::random::<f64>() < share
    }
}

/// What a client learns from its transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportEvent {
    /// ICE and DTLS are up.
    Connected(SrtpProfile),
    Channel(ChannelEvent),
    Failed(String),
    Closed,
}

/// One received stream, as counted.
#[derive(Debug, Clone, Serialize)]
pub struct StreamStats {
    pub kind: MediaKind,
    pub ssrc: u32,
    pub track: Option<Arc<str>>,
    #[serde(flatten)]
    pub counts: StreamCounts,
    pub playback: PlaybackCounts,
    pub jitter_ms: f64,
    /// Padding and other packets of ours without a stamp, where payloads were decrypted.
    pub unstamped: u64,
    pub first_packet_ns: Option<u64>,
    pub newest_packet_ns: Option<u64>,
    pub first_key_frame_ns: Option<u64>,
    pub source: SourceStats,
}

/// Which packets of its source came, by the numbers inside them, where payloads were decrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SourceStats {
    pub received: u64,
    /// That were published from the first on that came, in layers that were left again.
    pub expected_before: u64,
    /// What comes now.
    pub run: Option<SourceRun>,
}

/// Packets of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SourceRun {
    pub layer: u8,
    /// Numbers of the lowest and of the highest packet that came.
    pub first: u32,
    pub last: u32,
}

impl SourceRun {
    fn expected(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }
}

/// What a transport counted since it began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TransportStats {
    pub profile: Option<SrtpProfile>,
    /// `CLOCK_MONOTONIC` when DTLS was established.
    pub connected_ns: Option<u64>,
    pub streams: Vec<StreamStats>,
    pub senders: Vec<SenderStats>,
    pub verified: u64,
    /// Packets that failed authentication.
    pub forged: u64,
    /// Authentic RTCP that is not well-formed.
    pub malformed_rtcp: u64,
    pub retransmissions: u64,
    pub sender_reports: u64,
    pub key_frame_requests_sent: u64,
    /// NACK messages; the packets that they name are counted by stream.
    pub nacks_sent: u64,
    /// Whether every packet is decrypted.
    pub verifies: bool,
    pub feedback_received: u64,
    /// Dropped by the kernel because the socket buffer was full.
    pub kernel_drops: u64,
    pub datagrams: u64,
    /// Received, but thrown away because of [`Loss::down`].
    pub lost_on_purpose: u64,
}

#[derive(Default)]
struct StreamMedia {
    unstamped: u64,
    first_packet_ns: Option<u64>,
    newest_packet_ns: Option<u64>,
    first_key_frame_ns: Option<u64>,
    first_packet_at: Option<Instant>,
    key_frame_asked: Option<Instant>,
    source: SourceStats,
}

impl SourceStats {
    /// Counts a packet of the source; a server may change the layer in between.
    fn on_stamp(&mut self, stamp: Stamp, timely: bool) {
        let begun = SourceRun { layer: stamp.layer, first: stamp.number, last: stamp.number };
        let run = self.run.get_or_insert(begun);
        if run.layer != stamp.layer {
            if !timely {
                // Of a run that has been closed already.
                return;
            }
            self.expected_before += std::mem::replace(run, begun).expected();
        } else {
            (run.first, run.last) = (run.first.min(stamp.number), run.last.max(stamp.number));
        }
        self.received += 1;
    }
}

/// A transport and what it carries.
pub struct Transport {
    identity: Identity,
    options: TransportOptions,
    ice: IceAgent,
    remote: Option<Remote>,
    dtls: Option<Dtls>,
    srtp: Option<SrtpSession>,
    channels: Option<Channels>,
    reception: Reception,
    payloads: Box<[Option<PayloadKind>; 128]>,
    streams: Vec<(Stream, StreamMedia)>,
    senders: Vec<Sender>,
    transport_sequence: u16,
    own_ssrc: u32,
    next_report: Option<Instant>,
    next_feedback: Option<Instant>,
    feedback_count: u8,
    /// Transport-wide sequence numbers with arrival in microseconds.
    arrivals: Vec<(u16, u64)>,
    feedback_from: Option<u16>,
    stats: TransportStats,
    bytes_reported: u64,
    out: Vec<(SocketAddr, Vec<u8>)>,
    events: Vec<TransportEvent>,
    /// Something but the reception of plain media happened since [`Self::take_stirred`].
    stirred: bool,
    dead: bool,
}

impl Transport {
    pub fn new(identity: Identity, local: Credentials, options: TransportOptions, now: Instant) -> Self {
        Self {
            identity,
            options,
            ice: IceAgent::new(local, now),
            remote: None,
            dtls: None,
            srtp: None,
            channels: None,
            reception: Reception::default(),
            payloads: Box::new([None; 128]),
            streams: Vec::new(),
            senders: Vec::new(),
            transport_sequence: rand::random(),
            own_ssrc: rand::random(),
            next_report: None,
            next_feedback: None,
            feedback_count: 0,
            arrivals: Vec::new(),
            feedback_from: None,
            stats: TransportStats::default(),
            bytes_reported: 0,
            out: Vec::new(),
            events: Vec::new(),
            stirred: false,
            dead: false,
        }
    }

    /// Whether datagrams brought anything but media in order: answers, events, another deadline.
    pub fn take_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    /// Whether ICE and DTLS are up.
    pub fn is_connected(&self) -> bool {
        self.srtp.is_some()
    }

    /// Datagrams to send, in order.
    pub fn take_out(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.out)
    }

    pub fn take_events(&mut self) -> Vec<TransportEvent> {
        std::mem::take(&mut self.events)
    }

    /// Learns the server's description; a repeated one changes nothing.
    pub fn set_remote(&mut self, remote: Remote, now: Instant) {
        self.ice.set_remote(remote.credentials.clone(), remote.ice_role, now);
        if self.dtls.is_none() {
            match Dtls::new(&self.identity, remote.role, remote.fingerprint.clone()) {
                Ok(dtls) => self.dtls = Some(dtls),
                Err(error) => self.fail(format!("DTLS: {error:#}")),
            }
            self.channels = Some(Channels::new(remote.role, self.options.channels.clone()));
        }
        self.remote = Some(remote);
    }

    pub fn add_candidate(&mut self, address: SocketAddr, now: Instant) {
        self.ice.add_candidate(address, now);
    }

    /// Learns which streams come and how; streams already flowing keep their counts.
    pub fn set_reception(&mut self, reception: Reception) {
        for &(payload_type, kind) in &reception.payloads {
            self.payloads[usize::from(payload_type & 0x7f)] = Some(kind);
        }
        for expected in &reception.streams {
            if let Some(stream) = self.stream(expected.kind, expected.ssrc) {
                stream.0.rtx_ssrc = expected.rtx_ssrc;
                stream.0.track = Some(expected.track.clone());
            }
        }
        self.reception = reception;
    }

    fn stream(&mut self, kind: MediaKind, ssrc: u32) -> Option<&mut (Stream, StreamMedia)> {
        let index = match self.streams.iter().position(|(stream, _)| stream.ssrc == ssrc) {
            Some(index) => index,
            None if self.streams.len() < STREAMS_MAX => {
                self.streams.push((Stream::new(kind, ssrc), StreamMedia::default()));
                self.streams.len() - 1
            }
            None => return None,
        };
        self.streams.get_mut(index)
    }

    /// Starts a track; it sends as soon as the transport is connected.
    pub fn publish(&mut self, source: Source, encoding: Encoding, now: Instant) {
        self.senders.push(Sender::new(source, encoding, now));
    }

    /// Ends the media of all tracks, or of the one with this SSRC.
    pub fn stop_sending(&mut self, ssrc: Option<u32>) {
        for sender in self.senders.iter_mut().filter(|sender| ssrc.is_none_or(|ssrc| ssrc == sender.ssrc())) {
            sender.stop();
        }
    }

    /// Sends on the data channel with this label; `false` if it is not open.
    pub fn send_data(&mut self, label: &str, message: &[u8], now: Instant) -> bool {
        let sent = self.channels.as_mut().is_some_and(|channels| channels.send(now, label, message));
        self.flush_channels(now);
        sent
    }

    /// Says goodbye on DTLS.
    pub fn close(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls {
            dtls.close(now);
        }
        self.flush_dtls();
        self.dead = true;
    }

    /// The counters; `kernel_drops` is the socket's.
    pub fn stats(&self) -> TransportStats {
        let now_ns = monotonic_ns();
        let streams = self
            .streams
            .iter()
            .filter(|(stream, _)| stream.is_flowing())
            .map(|(stream, media)| StreamStats {
                kind: stream.kind,
                ssrc: stream.ssrc,
                track: stream.track.clone(),
                counts: stream.counts(),
                playback: stream.playback_at(now_ns),
                jitter_ms: stream.jitter_ms(),
                unstamped: media.unstamped,
                first_packet_ns: media.first_packet_ns,
                newest_packet_ns: media.newest_packet_ns,
                first_key_frame_ns: media.first_key_frame_ns,
                source: media.source,
            })
            .collect();
        let senders = self.senders.iter().map(Sender::stats).collect();
        TransportStats { streams, senders, verifies: self.options.verify, ..self.stats.clone() }
    }

    /// When [`Self::on_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        if self.dead {
            return None;
        }
        let connected = self.srtp.is_some();
        let senders = self.senders.iter().filter(|_| connected).filter_map(Sender::deadline);
        senders
            .chain(self.ice.deadline())
            .chain(self.dtls.as_ref().and_then(Dtls::deadline))
            .chain(self.channels.as_ref().and_then(Channels::deadline))
            .chain(self.next_report)
            .chain(self.next_feedback)
            .min()
    }

    pub fn on_timeout(&mut self, now: Instant) {
        if self.dead {
            return;
        }
        let out = &mut self.out;
        let crypto = self.identity.provider.crypto();
        let event = self.ice.on_timeout(now, crypto, |to, datagram| out.push((to, datagram)));
        self.on_ice(event, now);
        if let Some(dtls) = &mut self.dtls
            && let Err(error) = dtls.on_timeout(now)
        {
            self.fail(format!("DTLS: {error:#}"));
        }
        self.flush_dtls();
        if let Some(channels) = &mut self.channels {
            let events = channels.on_timeout(now);
            self.events.extend(events.into_iter().map(TransportEvent::Channel));
            self.flush_channels(now);
        }
        if self.srtp.is_some() {
            self.send_media(now);
            self.send_feedback(now);
        }
    }

    fn send_media(&mut self, now: Instant) {
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

    /// Handles one datagram that arrived at `now`, the same moment as `now_ns`.
    pub fn on_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant, now_ns: u64, delays: &mut Delays) {
        self.stats.datagrams += 1;
        // The demultiplexing of RFC 9443.
        match datagram.first() {
            Some(0..=3) => self.on_stun(from, datagram, now),
            Some(20..=63) => self.on_dtls(datagram, now, now_ns),
            Some(128..=191) if datagram.get(1).is_some_and(|byte| (192..=223).contains(byte)) => {
                self.on_rtcp(datagram, now);
            }
            Some(128..=191) => {
                self.on_rtp(datagram, now, now_ns, delays);
                return;
            }
            _ => {}
        }
        self.stirred = true;
    }

    fn on_stun(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let out = &mut self.out;
        let crypto = self.identity.provider.crypto();
        let event = self.ice.on_datagram(from, datagram, now, crypto, |to, answer| out.push((to, answer)));
        self.on_ice(event, now);
    }

    fn on_ice(&mut self, event: Option<IceEvent>, now: Instant) {
        match event {
            Some(IceEvent::Nominated(_)) => {
                if let Some(dtls) = &mut self.dtls
                    && let Err(error) = dtls.start(now)
                {
                    self.fail(format!("DTLS: {error:#}"));
                }
                self.flush_dtls();
            }
            Some(IceEvent::Failed) => self.fail("ICE: no answer from the server".to_owned()),
            None => {}
        }
    }

    fn on_dtls(&mut self, datagram: &[u8], now: Instant, now_ns: u64) {
        let Some(dtls) = &mut self.dtls else { return };
        let events = match dtls.on_datagram(now, datagram) {
            Ok(events) => events,
            Err(error) => {
                // Once established, a bad record concerns nobody else.
                if self.srtp.is_none() {
                    self.fail(format!("DTLS: {error:#}"));
                }
                Vec::new()
            }
        };
        for event in events {
            match event {
                DtlsEvent::Established => self.on_established(now, now_ns),
                DtlsEvent::Data(data) => self.on_sctp(data.freeze(), now),
                DtlsEvent::Closed => {
                    self.dead = true;
                    self.events.push(TransportEvent::Closed);
                }
            }
        }
        self.flush_dtls();
    }

    fn on_established(&mut self, now: Instant, now_ns: u64) {
        match self.dtls.as_ref().map(Dtls::srtp) {
            Some(Ok(srtp)) => {
                self.stats.profile = Some(srtp.profile);
                self.stats.connected_ns = Some(now_ns);
                self.events.push(TransportEvent::Connected(srtp.profile));
                self.srtp = Some(srtp);
                self.next_report = Some(now + REPORT_INTERVAL);
            }
            Some(Err(error)) => self.fail(format!("SRTP: {error:#}")),
            None => {}
        }
        if let Some(channels) = &mut self.channels {
            channels.start(now);
        }
        self.flush_channels(now);
    }

    fn on_sctp(&mut self, packet: Bytes, now: Instant) {
        let Some(channels) = &mut self.channels else { return };
        let events = channels.on_packet(now, packet);
        self.events.extend(events.into_iter().map(TransportEvent::Channel));
        self.flush_channels(now);
    }

    fn flush_channels(&mut self, now: Instant) {
        let (Some(channels), Some(dtls)) = (&mut self.channels, &mut self.dtls) else { return };
        while let Some(packets) = channels.poll_transmit(now) {
            for packet in packets {
                // SCTP retransmits what an association that is not up refuses.
                let _ = dtls.write(now, &packet);
            }
        }
        self.flush_dtls();
    }

    fn flush_dtls(&mut self) {
        let (Some(dtls), Some(to)) = (&mut self.dtls, self.ice.nominated()) else { return };
        while let Some(datagram) = dtls.poll_transmit() {
            self.out.push((to, datagram.to_vec()));
        }
    }

    fn fail(&mut self, reason: String) {
        if !self.dead {
            self.dead = true;
            self.events.push(TransportEvent::Failed(reason));
        }
    }

    fn on_rtp(&mut self, packet: &[u8], now: Instant, now_ns: u64, delays: &mut Delays) {
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

    fn on_rtcp(&mut self, packet: &[u8], now: Instant) {
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

    fn send_nacks(&mut self, now: Instant) {
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

    fn send_feedback(&mut self, now: Instant) {
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

fn seal(srtp: &mut SrtpSession, to: SocketAddr, outbound: Outbound<'_>, out: &mut Vec<(SocketAddr, Vec<u8>)>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Pattern;

    /// Two transports that stand for a publisher and a subscriber without a server between them.
    struct Pair {
        ends: [Transport; 2],
        addresses: [SocketAddr; 2],
        now: Instant,
        start: Instant,
        delays: Delays,
        events: [Vec<TransportEvent>; 2],
        /// Counts media packets from the publisher; those for which it gives `true` are lost.
        lose: fn(u32) -> bool,
        media: u32,
    }

    fn credentials(name: &str) -> Credentials {
        Credentials { ufrag: name.into(), password: format!("{name}-password-of-enough-letters") }
    }

    impl Pair {
        fn new(verify: bool, lose: fn(u32) -> bool) -> Self {
            let now = Instant::now();
            let profiles = [SrtpProfile::Aes128CmSha1, SrtpProfile::Aes128Gcm];
            let identities = [Identity::generate(&profiles).unwrap(), Identity::generate(&profiles).unwrap()];
            let addresses = [SocketAddr::from(([127, 0, 0, 1], 1_000)), SocketAddr::from(([127, 0, 0, 1], 2_000))];
            let options = |channels: Vec<String>| TransportOptions { verify, channels, ..TransportOptions::default() };
            let mut ends = [
                Transport::new(identities[0].clone(), credentials("one"), options(vec!["_reliable".into()]), now),
                Transport::new(identities[1].clone(), credentials("two"), options(vec![]), now),
            ];
            for (index, role) in [DtlsRole::Client, DtlsRole::Server].into_iter().enumerate() {
                let other = 1 - index;
                let remote = Remote {
                    credentials: credentials(["one", "two"][other]),
                    fingerprint: identities[other].fingerprint.to_string(),
                    role,
                    ice_role: if index == 0 { IceRole::Controlling } else { IceRole::Controlled },
                };
                ends[index].set_remote(remote, now);
                ends[index].add_candidate(addresses[other], now);
            }
            ends[1].set_reception(Reception {
                payloads: vec![(96, PayloadKind::Video(VideoCodec::Vp8)), (97, PayloadKind::Retransmission)],
                streams: vec![ExpectedStream {
                    kind: MediaKind::Video,
                    ssrc: 5,
                    rtx_ssrc: Some(6),
                    track: "TR_V".into(),
                }],
                transport_sequence_extension: Some(3),
                remb: false,
            });
            let events = [Vec::new(), Vec::new()];
            Self { ends, addresses, now, start: now, delays: Delays::default(), events, lose, media: 0 }
        }

        fn publish(&mut self) {
            let encoding = Encoding {
                payload_type: 96,
                ssrc: 5,
                rtx: Some((97, 6)),
                mid: "0".into(),
                rid: None,
                rid_extension: None,
                repaired_rid_extension: None,
                mid_extension: Some(4),
                transport_sequence_extension: Some(3),
                audio_level_extension: None,
            };
            let pattern = Pattern::Steady { packets_per_second: 220, payload_len: 1_100 };
            self.ends[0].publish(Source::Video { codec: VideoCodec::Vp8, pattern }, encoding, self.now);
        }

        /// Runs both ends for `time`, 5 ms at a step.
        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now += Duration::from_millis(5);
                for transport in &mut self.ends {
                    if transport.deadline().is_some_and(|deadline| deadline <= self.now) {
                        transport.on_timeout(self.now);
                    }
                }
                while self.deliver(0) | self.deliver(1) {}
            }
        }

        fn deliver(&mut self, from: usize) -> bool {
            let datagrams = self.ends[from].take_out();
            let any = !datagrams.is_empty();
            let now_ns = crate::clock::monotonic_ns() + (self.now - self.start).as_nanos() as u64;
            for (to, datagram) in datagrams {
                assert_eq!(to, self.addresses[1 - from]);
                if self.is_lost(from, &datagram) {
                    continue;
                }
                let (now, delays) = (self.now, &mut self.delays);
                self.ends[1 - from].on_datagram(self.addresses[from], &datagram, now, now_ns, delays);
            }
            self.events[from].extend(self.ends[from].take_events());
            any
        }

        fn is_lost(&mut self, from: usize, datagram: &[u8]) -> bool {
            let is_media = from == 0 && datagram[0] & 0xc0 == 0x80 && datagram[1] & 0x7f == 96;
            self.media += u32::from(is_media);
            is_media && (self.lose)(self.media)
        }
    }

    #[test]
    fn two_transports_connect_and_count_every_packet() {
        let mut pair = Pair::new(true, |_| false);
        pair.publish();
        pair.run(Duration::from_secs(2));
        for events in &pair.events {
            assert!(events.contains(&TransportEvent::Connected(SrtpProfile::Aes128CmSha1)), "{events:?}");
        }
        let (sent, received) = (pair.ends[0].stats(), pair.ends[1].stats());
        let stream = &received.streams[0];
        assert!(sent.senders[0].counts.packets > 400);
        assert_eq!(stream.counts.received, sent.senders[0].counts.packets);
        assert_eq!(stream.counts.expected, sent.senders[0].counts.packets);
        let run = SourceRun { layer: 2, first: 0, last: stream.counts.expected as u32 - 1 };
        assert_eq!((stream.source.run, stream.source.received), (Some(run), stream.counts.received));
        assert_eq!(stream.track.as_deref(), Some("TR_V"));
        assert!(stream.first_key_frame_ns.is_some() && received.sender_reports > 0);
        assert!(sent.feedback_received > 20, "{}", sent.feedback_received);
        assert_eq!((received.verified, received.forged), (stream.counts.received, 0));
        assert!(!pair.delays.video.is_empty());
    }

    #[test]
    fn lost_packets_come_again_over_rtx_also_without_verification() {
        let mut pair = Pair::new(false, |number| number % 10 == 7);
        pair.publish();
        pair.run(Duration::from_secs(2));
        let (sent, received) = (pair.ends[0].stats(), pair.ends[1].stats());
        let counts = received.streams[0].counts;
        assert!(counts.recovered > 30, "{counts:?}");
        // The newest loss may still be unnoticed.
        assert!(counts.expected - counts.received <= 1, "{counts:?}");
        assert_eq!(counts.duplicates, 0);
        assert_eq!(sent.senders[0].counts.retransmitted, counts.recovered);
    }

    #[test]
    fn a_stream_that_lost_its_key_frame_asks_for_another() {
        let mut pair = Pair::new(false, |number| number < 10);
        pair.ends[1].set_reception(Reception {
            payloads: vec![(96, PayloadKind::Video(VideoCodec::Vp8))],
            ..Reception::default()
        });
        pair.publish();
        pair.run(Duration::from_secs(2));
        let (sent, received) = (pair.ends[0].stats(), pair.ends[1].stats());
        assert_eq!(received.key_frame_requests_sent, 1);
        assert_eq!((sent.senders[0].counts.key_frame_requests, sent.senders[0].counts.key_frames), (1, 2));
        assert!(received.streams[0].first_key_frame_ns.is_some());
    }

    #[test]
    fn data_goes_both_ways() {
        let mut pair = Pair::new(false, |_| false);
        pair.run(Duration::from_secs(1));
        let now = pair.now;
        assert!(pair.ends[0].send_data("_reliable", b"hello", now));
        pair.run(Duration::from_millis(20));
        let message = ChannelEvent::Message("_reliable".into(), Bytes::from_static(b"hello"));
        assert!(pair.events[1].contains(&TransportEvent::Channel(message)));
        assert!(!pair.ends[1].send_data("_lossy", b"", now));
    }

    #[test]
    fn garbage_changes_nothing() {
        let mut pair = Pair::new(true, |_| false);
        pair.publish();
        pair.run(Duration::from_secs(1));
        let before = pair.ends[1].stats().streams[0].counts;
        for first in 0..=255_u8 {
            for len in [0, 1, 2, 12, 40, 300] {
                let mut datagram = vec![first; len];
                if let Some(byte) = datagram.get_mut(1) {
                    *byte = first.wrapping_mul(7);
                }
                let (from, now) = (pair.addresses[0], pair.now);
                pair.ends[1].on_datagram(from, &datagram, now, 0, &mut pair.delays);
            }
        }
        pair.run(Duration::from_secs(1));
        let stream = &pair.ends[1].stats().streams[0];
        assert_eq!(stream.ssrc, 5);
        assert!(stream.counts.received > before.received + 200);
    }
}
