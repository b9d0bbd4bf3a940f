//! One publisher and many subscribers on an engine, without sockets and handshakes.
//!
//! Shows what the engine itself costs: what it sends is thrown away.

use std::fmt;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use serde::Serialize;
use sfu::certificate::Certificate;
use sfu::command::{
    ChannelOpener, Command, ExtensionIds, IceCredentials, Layer, Mid, PayloadCodec, PublicationId, ReceiveSection,
    RoomId, SendSection, Ssrc, SubscriptionId, TransportId,
};
use sfu::engine::{Engine, EngineConfig};
use sfu::run::{Message, SendArena, Transmit};
use sfu::srtp::{OVERHEAD_MAX, SrtpProfile, SrtpSender};
use sfu::transport::{KeyingMaterial, Path, Via};
use shared::media::{Codec, MediaKind};

use crate::clock::thread_cpu;
use crate::stream::Media;
use crate::summary::Summary;

/// Packets of one frame, and so of one turn.
pub const FRAME_PACKETS: usize = 7;
/// Id of the transport-wide congestion control extension in what the publisher sends.
pub const TRANSPORT_CC: u8 = 4;
/// Payload type of the video.
pub const VIDEO: u8 = 96;

const PUBLISHER: TransportId = TransportId(0);
const PUBLICATION: PublicationId = PublicationId(1);
const SOURCE_SSRC: u32 = 100;
const FRAME_TIME: Duration = Duration::from_millis(33);

/// Where everything goes.
struct Nowhere;

impl Transmit for Nowhere {
    fn transmit(&mut self, bytes: &[u8], messages: &[Message]) {
        black_box((bytes, messages));
    }
}

/// Keys of a transport, different for each.
pub fn keys(profile: SrtpProfile, transport: u64) -> KeyingMaterial {
    let (key_bytes, salt_bytes) = match profile {
        SrtpProfile::AeadAes128Gcm => (16, 12),
        SrtpProfile::AeadAes256Gcm => (32, 12),
        SrtpProfile::Aes128CmSha1_80 => (16, 14),
    };
    let byte = |at: usize, of: u8| transport.to_be_bytes()[at % 8] ^ of ^ at as u8;
    let key = |of: u8| (0..key_bytes).map(|at| byte(at, of)).collect::<ArrayVec<u8, 32>>();
    let salt = |of: u8| (0..salt_bytes).map(|at| byte(at, of)).collect::<ArrayVec<u8, 14>>();
    KeyingMaterial { profile, receive_key: key(1), receive_salt: salt(2), send_key: key(3), send_salt: salt(4) }
}

fn path(transport: u64) -> Path {
    let [.., high, middle, low] = transport.to_be_bytes();
    Path { remote: SocketAddr::from(([10, high, middle, low], 5_000)), via: Via::Udp(0) }
}

/// The client that publishes: frames as they arrive from the network.
pub struct Publisher {
    cipher: SrtpSender,
    sequence: u64,
    timestamp: u32,
    picture: u16,
}

impl Publisher {
    pub fn new(profile: SrtpProfile) -> Self {
        let keys = keys(profile, PUBLISHER.0);
        let cipher = SrtpSender::new(profile, &keys.receive_key, &keys.receive_salt);
        Self { cipher, sequence: 1_000, timestamp: 0, picture: 0 }
    }

    /// The sealed packets of the next frame; the first is a key frame.
    pub fn frame(&mut self) -> Vec<Vec<u8>> {
        self.timestamp = self.timestamp.wrapping_add(3_000);
        self.picture = (self.picture + 1) & 0x7fff;
        (0..FRAME_PACKETS).map(|packet| self.packet(packet)).collect()
    }

    fn packet(&mut self, at: usize) -> Vec<u8> {
        self.sequence += 1;
        let mut bytes = self.clear_packet(at);
        let length = bytes.len();
        bytes.resize(length + OVERHEAD_MAX, 0);
        let sealed = self.cipher.seal_rtp(&mut bytes, 20, length, SOURCE_SSRC, self.sequence);
        bytes.truncate(sealed);
        bytes
    }

    /// Header, transport-wide sequence number, VP8 descriptor (RFC 7741) and payload.
    fn clear_packet(&self, at: usize) -> Vec<u8> {
        let [.., high, low] = self.sequence.to_be_bytes();
        let marker = if at + 1 == FRAME_PACKETS { 0x80 } else { 0 };
        let [picture_high, picture_low] = self.picture.to_be_bytes();
        let mut packet = vec![0x90, VIDEO | marker, high, low];
        packet.extend(self.timestamp.to_be_bytes());
        packet.extend(SOURCE_SSRC.to_be_bytes());
        packet.extend([0xbe, 0xde, 0, 1, TRANSPORT_CC << 4 | 1, high, low, 0]);
        let start_of_partition = if at == 0 { 0x10 } else { 0 };
        let inter_frame = u8::from(self.picture != 1);
        packet.extend([0x80 | start_of_partition, 0x80, 0x80 | picture_high, picture_low, inter_frame]);
        packet.resize(20 + Media::Video.payload_bytes(), 7);
        packet
    }
}

/// The engine with everybody joined and the first frame sent.
pub struct Broadcast {
    engine: Engine,
    out: SendArena<Nowhere>,
    now: Instant,
}

impl Broadcast {
    /// `subscribers` viewers of what `publisher` sends.
    pub fn new(profile: SrtpProfile, subscribers: u64, publisher: &mut Publisher) -> Self {
        let now = Instant::now();
        let engine = Engine::new(Certificate::generate(), EngineConfig::default(), 1, now);
        let mut broadcast = Self { engine, out: SendArena::new(Nowhere), now };
        broadcast.join(profile, PUBLISHER);
        let publish = Command::Publish { publication: PUBLICATION, transport: PUBLISHER, section: received() };
        broadcast.command(publish);
        for number in 1..=subscribers {
            let transport = TransportId(number);
            broadcast.join(profile, transport);
            let subscription = SubscriptionId(number);
            let section = sent(number);
            broadcast.command(Command::Subscribe { subscription, publication: PUBLICATION, transport, section });
        }
        broadcast.turn(&mut publisher.frame());
        broadcast
    }

    fn join(&mut self, profile: SrtpProfile, transport: TransportId) {
        let local = IceCredentials { ufrag: format!("00{}", transport.0), password: "p".repeat(32) };
        let opener = ChannelOpener::Client;
        self.command(Command::OpenTransport { transport, room: RoomId(1), local, opener });
        self.engine.establish(transport, path(transport.0), &keys(profile, transport.0));
    }

    fn command(&mut self, command: Command) {
        self.engine.handle(self.now, command, &mut self.out);
        self.settle();
    }

    fn settle(&mut self) {
        self.out.flush();
        while self.engine.poll_event().is_some() {}
    }

    /// Takes in a frame, decrypting it in place, forwards it to everybody, and does what a 30th of a second brings: the
    /// publisher's feedback, reports.
    pub fn turn(&mut self, frame: &mut [Vec<u8>]) {
        self.now += FRAME_TIME;
        for datagram in frame {
            self.engine.receive(self.now, path(PUBLISHER.0), datagram, &mut self.out);
        }
        while self.engine.forward(self.now, &mut self.out).is_some() {}
        self.engine.expire(self.now, &mut self.out);
        self.settle();
    }

    /// RTP packets forwarded until now.
    pub fn packets(&self) -> u64 {
        self.engine.stats.rtp_sent
    }

    /// Runs that they formed.
    pub fn runs(&self) -> u64 {
        self.engine.stats.runs_sent
    }
}

fn codecs() -> Vec<PayloadCodec> {
    vec![PayloadCodec { payload_type: VIDEO, codec: Codec::Vp8, rtx: Some(VIDEO + 1) }]
}

fn received() -> ReceiveSection {
    let ssrc = Some(Ssrc(SOURCE_SSRC));
    ReceiveSection {
        mid: Mid::from("0").expect("short"),
        kind: MediaKind::Video,
        codecs: codecs(),
        extensions: ExtensionIds { mid: Some(1), transport_cc: Some(TRANSPORT_CC), ..Default::default() },
        layers: vec![Layer { rid: None, ssrc, rtx_ssrc: Some(Ssrc(SOURCE_SSRC + 1)) }],
        nack: true,
    }
}

/// The section in which a subscriber gets the video.
pub fn sent(subscriber: u64) -> SendSection {
    let ssrc = 0x1000_0000 | (subscriber as u32) << 1;
    SendSection {
        mid: Mid::from("0").expect("short"),
        ssrc: Ssrc(ssrc),
        rtx_ssrc: Some(Ssrc(ssrc + 1)),
        codecs: codecs(),
        extensions: ExtensionIds { abs_send_time: Some(6), ..Default::default() },
        strips_trailers: false,
        cname: "PA_publisher".into(),
    }
}

/// Turns of one measurement that a price is taken of.
const SAMPLES: usize = 15;
/// Least packets forwarded for one price, so that the clock's step does not matter.
const SAMPLE_PACKETS: u64 = 40_000;

/// The engine's own price of a forwarded packet.
#[derive(Debug, Clone, Serialize)]
pub struct TurnCost {
    pub subscribers: u64,
    pub profile: String,
    /// CPU, its part of receiving the frame and of reports included.
    pub ns_per_packet: Summary,
    pub packets_per_run: f64,
}

impl fmt::Display for TurnCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subscribers, profile, ns_per_packet, packets_per_run } = self;
        write!(f, "{subscribers:>6}  {profile:<16} {ns_per_packet:>8.0}   {packets_per_run:.1}")
    }
}

/// Measures turns of [`FRAME_PACKETS`] video packets.
pub fn turn_cost(profile: SrtpProfile, subscribers: u64) -> Option<TurnCost> {
    let mut publisher = Publisher::new(profile);
    let mut broadcast = Broadcast::new(profile, subscribers, &mut publisher);
    let turns = (SAMPLE_PACKETS / (FRAME_PACKETS as u64 * subscribers)).clamp(1, 1_000);
    let mut costs = Vec::with_capacity(SAMPLES);
    // The first warms up and does not count.
    for sample in 0..=SAMPLES {
        let mut frames: Vec<_> = (0..turns).map(|_| publisher.frame()).collect();
        let (before, cpu) = (broadcast.packets(), thread_cpu());
        frames.iter_mut().for_each(|frame| broadcast.turn(frame));
        let used = thread_cpu() - cpu;
        let packets = broadcast.packets() - before;
        if sample > 0 && packets > 0 {
            costs.push(used.as_secs_f64() * 1e9 / packets as f64);
        }
    }
    let packets_per_run = broadcast.packets() as f64 / broadcast.runs().max(1) as f64;
    let profile = match profile {
        SrtpProfile::AeadAes128Gcm => "AES-128-GCM",
        SrtpProfile::AeadAes256Gcm => "AES-256-GCM",
        SrtpProfile::Aes128CmSha1_80 => "AES-128-CM SHA-1",
    };
    Some(TurnCost { subscribers, profile: profile.to_owned(), ns_per_packet: Summary::of(costs)?, packets_per_run })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_of_a_turn_goes_to_every_subscriber_in_one_run_each() {
        let mut publisher = Publisher::new(SrtpProfile::AeadAes128Gcm);
        let mut broadcast = Broadcast::new(SrtpProfile::AeadAes128Gcm, 20, &mut publisher);
        let (packets, runs) = (broadcast.packets(), broadcast.runs());
        broadcast.turn(&mut publisher.frame());
        assert_eq!(broadcast.packets() - packets, 20 * FRAME_PACKETS as u64);
        assert_eq!(broadcast.runs() - runs, 20);
    }

    #[test]
    fn the_keys_of_two_transports_differ() {
        let [one, other] = [1, 257].map(|transport| keys(SrtpProfile::AeadAes128Gcm, transport));
        assert_ne!(one.send_key, other.send_key);
    }
}
