//! One transport of a simulated client: ICE, DTLS, SRTP, data channels and the media on it, without any socket.
//!
//! Datagrams and time go in; datagrams and events come out. Headers of received media are read in clear; a payload is
//! decrypted when the transport verifies everything, at the start of each frame until the first key frame has been
//! seen, and for retransmissions, whose original sequence number is inside.

mod association;
mod feedback;
mod media;
mod stats;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use self::stats::StreamMedia;
pub use self::stats::{SourceRun, SourceStats, StreamStats, TransportStats};
use crate::channels::{ChannelEvent, Channels};
use crate::clock::monotonic_ns;
use crate::codec::VideoCodec;
use crate::delays::Delays;
use crate::dtls::{Dtls, DtlsRole, Identity, SrtpProfile, SrtpSession};
use crate::ice::{Credentials, IceAgent, IceRole};
use crate::receiver::{MediaKind, Stream};
use crate::sdp::Setup;
use crate::sender::{Encoding, Sender, Source};

/// Streams that a server may send on one transport.
const STREAMS_MAX: usize = 64;

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

    fn fail(&mut self, reason: String) {
        if !self.dead {
            self.dead = true;
            self.events.push(TransportEvent::Failed(reason));
        }
    }
}

#[cfg(test)]
mod tests;
