//! A world for the media path: one engine, virtual time, clients that know nothing of it but its packets.
//!
//! The clients' SRTP is that of `rtc-srtp`, so that the two ends share no mistake.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::disallowed_methods, reason = "tests have clocks and sockets of their own")]

pub mod checker;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use checker::Checker;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_shared::marshal::{Marshal, Unmarshal};
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;
use sfu::certificate::Certificate;
use sfu::command::*;
use sfu::engine::{Engine, EngineConfig};
use sfu::run::{Message, SendArena, Transmit};
use sfu::srtp::SrtpProfile;
use sfu::transport::{KeyingMaterial, Path, Via};
use shared::media::{Codec, MediaKind};

pub const ROOM: RoomId = RoomId(1);

/// What left, datagram by datagram.
#[derive(Default)]
pub struct Wire {
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
    pub messages: usize,
    /// The same, until the checker has seen it.
    unchecked: Vec<(SocketAddr, Vec<u8>)>,
    /// Count only, keep nothing: for measuring.
    pub discard: bool,
}

impl Wire {
    /// What left since the last call, for worlds without a [`Checker`].
    pub fn take(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.unchecked.clear();
        std::mem::take(&mut self.datagrams)
    }
}

impl Transmit for Wire {
    fn transmit(&mut self, bytes: &[u8], messages: &[Message]) {
        self.messages += messages.len();
        if self.discard {
            return;
        }
        for message in messages {
            for segment in bytes[message.start..message.start + message.length].chunks(message.segment) {
                self.datagrams.push((message.path.remote, segment.to_vec()));
                self.unchecked.push((message.path.remote, segment.to_vec()));
            }
        }
    }
}

pub struct World {
    pub now: Instant,
    pub engine: Engine,
    pub out: SendArena<Wire>,
    pub events: Vec<Event>,
    clients: HashMap<SocketAddr, Ciphers>,
    pub checker: Checker,
}

/// The two directions of a client.
pub struct Ciphers {
    pub to_server: Context,
    pub from_server: Context,
}

impl Ciphers {
    pub fn new(client: u64) -> Self {
        let keys = keys(client);
        Self {
            to_server: context(&keys.receive_key, &keys.receive_salt),
            from_server: context(&keys.send_key, &keys.send_salt),
        }
    }
}

pub fn address(client: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, (client >> 8) as u8, client as u8], 5000))
}

pub fn path(client: u64) -> Path {
    Path { remote: address(client), via: Via::Udp(0) }
}

/// Those that the server has for a client.
pub fn credentials(client: u64) -> IceCredentials {
    IceCredentials { ufrag: format!("00ufrag{client}"), password: "p".repeat(32) }
}

pub fn keys(client: u64) -> KeyingMaterial {
    let bytes = |salt: u8, length: usize| -> Vec<u8> { (0..length).map(|n| n as u8 ^ salt ^ client as u8).collect() };
    let key = |salt| ArrayVec::try_from(&bytes(salt, 16)[..]).expect("fits");
    let salt = |salt| ArrayVec::try_from(&bytes(salt, 12)[..]).expect("fits");
    KeyingMaterial {
        profile: SrtpProfile::AeadAes128Gcm,
        receive_key: key(1),
        receive_salt: salt(2),
        send_key: key(3),
        send_salt: salt(4),
    }
}

fn context(key: &[u8], salt: &[u8]) -> Context {
    let provider = rtc_crypto::default_provider().expect("a provider");
    Context::new(key, salt, ProtectionProfile::AeadAes128Gcm, None, None, provider.crypto()).expect("a context")
}

/// An RTP packet as the tests write and read it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rtp {
    pub payload_type: u8,
    pub marker: bool,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub payload: Vec<u8>,
}

impl Rtp {
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = rtc_rtp::header::Header {
            version: 2,
            marker: self.marker,
            payload_type: self.payload_type,
            sequence_number: self.sequence,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
            ..Default::default()
        };
        for (id, bytes) in &self.extensions {
            header.set_extension(*id, bytes.clone().into()).expect("an extension");
        }
        let packet = rtc_rtp::packet::Packet { header, payload: self.payload.clone().into() };
        packet.marshal().expect("a packet").to_vec()
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let packet = rtc_rtp::packet::Packet::unmarshal(&mut &bytes[..]).expect("RTP");
        Self {
            payload_type: packet.header.payload_type,
            marker: packet.header.marker,
            sequence: packet.header.sequence_number,
            timestamp: packet.header.timestamp,
            ssrc: packet.header.ssrc,
            extensions: packet.header.extensions.iter().map(|one| (one.id, one.payload.to_vec())).collect(),
            payload: packet.payload.to_vec(),
        }
    }

    pub fn extension(&self, id: u8) -> Option<&[u8]> {
        self.extensions.iter().find(|(one, _)| *one == id).map(|(_, bytes)| bytes.as_slice())
    }
}

pub const VIDEO: u8 = 96;
pub const VIDEO_RTX: u8 = 97;
pub const AUDIO: u8 = 111;

pub fn video_codecs() -> Vec<PayloadCodec> {
    vec![PayloadCodec { payload_type: VIDEO, codec: Codec::Vp8, rtx: Some(VIDEO_RTX) }]
}

pub fn audio_codecs() -> Vec<PayloadCodec> {
    vec![PayloadCodec { payload_type: AUDIO, codec: Codec::Opus, rtx: None }]
}

pub fn text(text: &str) -> Mid {
    Mid::from(text).expect("short")
}

pub fn extensions() -> ExtensionIds {
    ExtensionIds {
        mid: Some(1),
        rid: Some(2),
        repaired_rid: Some(3),
        transport_cc: Some(4),
        audio_level: Some(5),
        abs_send_time: Some(6),
        ..Default::default()
    }
}

/// A single video layer with a declared SSRC.
pub fn video_section(ssrc: u32) -> ReceiveSection {
    ReceiveSection {
        mid: text("0"),
        kind: MediaKind::Video,
        codecs: video_codecs(),
        extensions: extensions(),
        layers: vec![Layer { rid: None, ssrc: Some(Ssrc(ssrc)), rtx_ssrc: Some(Ssrc(ssrc + 1)) }],
        nack: true,
    }
}

pub fn simulcast_section() -> ReceiveSection {
    let layer = |rid| Layer { rid: Some(text(rid)), ssrc: None, rtx_ssrc: None };
    ReceiveSection { layers: vec![layer("q"), layer("h"), layer("f")], ..video_section(0) }
}

pub fn audio_section(ssrc: u32) -> ReceiveSection {
    ReceiveSection {
        mid: text("1"),
        kind: MediaKind::Audio,
        codecs: audio_codecs(),
        extensions: extensions(),
        layers: vec![Layer { rid: None, ssrc: Some(Ssrc(ssrc)), rtx_ssrc: None }],
        nack: false,
    }
}

pub fn send_section(ssrc: u32, codecs: Vec<PayloadCodec>) -> SendSection {
    let is_audio = codecs.iter().any(|codec| codec.codec.kind() == MediaKind::Audio);
    let audio_level = is_audio.then_some(5);
    SendSection {
        mid: text("0"),
        ssrc: Ssrc(ssrc),
        rtx_ssrc: Some(Ssrc(ssrc + 1)),
        codecs,
        extensions: ExtensionIds { abs_send_time: Some(6), audio_level, ..Default::default() },
        strips_trailers: false,
        cname: "PA_a".into(),
    }
}

/// A VP8 payload (RFC 7741): descriptor with a 15-bit picture id and TL0PICIDX, and the frame header's first byte.
/// Every frame is of the base layer.
pub fn vp8(keyframe: bool, first: bool, picture_id: u16, length: usize) -> Vec<u8> {
    let start = 0x80 | if first { 0x10 } else { 0 };
    let mut payload = vec![start, 0xc0, 0x80 | (picture_id >> 8) as u8, picture_id as u8, picture_id as u8];
    payload.push(if keyframe { 0 } else { 1 });
    payload.resize(length, 7);
    payload
}

impl World {
    pub fn new() -> Self {
        let seed = rand::random();
        println!("seed {seed}");
        Self::with_seed(seed)
    }

    pub fn with_seed(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            engine: Engine::new(Certificate::generate(), EngineConfig::default(), seed, now),
            out: SendArena::new(Wire::default()),
            events: Vec::new(),
            clients: HashMap::new(),
            checker: Checker::default(),
        }
    }

    /// The camera of client 1 with SSRC 100, and client 10, which watches it as SSRC 1000.
    pub fn watched() -> (Self, Source) {
        let mut world = Self::new();
        world.join(1);
        world.publish(1, 1, video_section(100));
        world.join(10);
        world.subscribe(10, 1, 1, send_section(1000, video_codecs()));
        (world, Source::new(100))
    }

    pub fn command(&mut self, command: Command) {
        self.engine.handle(self.now, command, &mut self.out);
        self.settle();
    }

    /// A connected client.
    pub fn join(&mut self, client: u64) {
        let local = credentials(client);
        let transport = TransportId(client);
        self.command(Command::OpenTransport { transport, room: ROOM, local, opener: ChannelOpener::Client });
        self.connect(client);
    }

    pub fn connect(&mut self, client: u64) {
        let keys = keys(client);
        self.engine.establish(TransportId(client), path(client), &keys);
        self.checker.join(address(client), context(&keys.send_key, &keys.send_salt));
        self.clients.insert(address(client), Ciphers::new(client));
    }

    pub fn publish(&mut self, client: u64, publication: u64, section: ReceiveSection) {
        let (publication, transport) = (PublicationId(publication), TransportId(client));
        self.checker.publish(address(client), publication, &section);
        self.command(Command::Publish { publication, transport, section });
    }

    pub fn subscribe(&mut self, client: u64, subscription: u64, publication: u64, section: SendSection) {
        let (subscription, publication) = (SubscriptionId(subscription), PublicationId(publication));
        self.checker.subscribe(address(client), publication, &section);
        self.command(Command::Subscribe { subscription, publication, transport: TransportId(client), section });
    }

    /// Bytes as they are, from a client's address.
    pub fn arrive(&mut self, client: u64, mut datagram: Vec<u8>) {
        self.engine.receive(self.now, path(client), &mut datagram, &mut self.out);
    }

    /// RTP packets of a client that arrive in one turn.
    pub fn send(&mut self, client: u64, packets: &[Rtp]) {
        for packet in packets {
            self.arrive_sealed(client, packet);
        }
        self.turn();
    }

    /// An RTP packet of a client, without the turn that follows.
    pub fn arrive_sealed(&mut self, client: u64, packet: &Rtp) {
        self.checker.published(address(client), packet);
        let sealed = self.ciphers(client).to_server.encrypt_rtp(&packet.bytes()).expect("seals");
        self.arrive(client, sealed.to_vec());
    }

    pub fn send_rtcp(&mut self, client: u64, packet: &[u8]) {
        self.checker.reported(self.now, packet);
        let sealed = self.ciphers(client).to_server.encrypt_rtcp(packet).expect("seals");
        self.arrive(client, sealed.to_vec());
        self.turn();
    }

    fn ciphers(&mut self, client: u64) -> &mut Ciphers {
        self.clients.get_mut(&address(client)).expect("joined")
    }

    pub fn turn(&mut self) {
        // The beginning of a frame may wait for its end: not here.
        let mut now = self.now;
        while let Some(again) = self.engine.forward(now, &mut self.out) {
            now = again;
        }
        self.settle();
    }

    /// A worker's turn: tells when it wants the next one.
    pub fn turn_in_part(&mut self) -> Option<Instant> {
        let again = self.engine.forward(self.now, &mut self.out);
        self.settle();
        again
    }

    /// Datagrams to an address since the last call, as they are.
    pub fn sent_to(&mut self, client: u64) -> Vec<Vec<u8>> {
        let wire = self.out.transmitter();
        let (there, others) =
            std::mem::take(&mut wire.datagrams).into_iter().partition(|(to, _)| *to == address(client));
        wire.datagrams = others;
        let there: Vec<(SocketAddr, Vec<u8>)> = there;
        there.into_iter().map(|(_, datagram)| datagram).collect()
    }

    fn settle(&mut self) {
        self.out.flush();
        for (to, datagram) in std::mem::take(&mut self.out.transmitter().unchecked) {
            self.checker.check(self.now, to, &datagram);
        }
        while let Some((_, event)) = self.engine.poll_event() {
            self.events.push(event);
        }
    }

    /// Lets time pass, with all that falls due on the way.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.engine.deadline().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.engine.expire(self.now, &mut self.out);
            self.settle();
        }
        self.now = until;
    }

    /// What a client was sent since the last call: media, and RTCP in clear.
    pub fn received(&mut self, client: u64) -> (Vec<Rtp>, Vec<Vec<u8>>) {
        let wire = self.out.transmitter();
        let (mine, others) =
            std::mem::take(&mut wire.datagrams).into_iter().partition(|(to, _)| *to == address(client));
        wire.datagrams = others;
        let mine: Vec<(SocketAddr, Vec<u8>)> = mine;
        let ciphers = self.clients.get_mut(&address(client)).expect("joined");
        let (mut media, mut control) = (Vec::new(), Vec::new());
        for (_, datagram) in mine {
            if (192..224).contains(&datagram[1]) {
                control.push(ciphers.from_server.decrypt_rtcp(&datagram).expect("opens").to_vec());
            } else {
                media.push(Rtp::parse(&ciphers.from_server.decrypt_rtp(&datagram).expect("opens")));
            }
        }
        (media, control)
    }

    pub fn media(&mut self, client: u64) -> Vec<Rtp> {
        self.received(client).0
    }
}

/// A publisher's video stream.
pub struct Source {
    pub ssrc: u32,
    pub rid: Option<&'static str>,
    pub sequence: u16,
    pub timestamp: u32,
    pub picture: u16,
}

impl Source {
    pub fn new(ssrc: u32) -> Self {
        Self { ssrc, rid: None, sequence: 65_500, timestamp: ssrc.wrapping_mul(7919), picture: (ssrc as u16) & 0x7fff }
    }

    pub fn layer(ssrc: u32, rid: &'static str) -> Self {
        Self { rid: Some(rid), ..Self::new(ssrc) }
    }

    /// One frame of so many packets.
    pub fn frame(&mut self, keyframe: bool, packets: usize) -> Vec<Rtp> {
        self.picture = (self.picture + 1) & 0x7fff;
        self.timestamp = self.timestamp.wrapping_add(3000);
        (0..packets)
            .map(|n| {
                self.sequence = self.sequence.wrapping_add(1);
                let mut extensions = vec![(1, b"0".to_vec())];
                extensions.extend(self.rid.map(|rid| (2, rid.as_bytes().to_vec())));
                let length = if n + 1 == packets { 400 } else { 1100 - n % 2 };
                let mut payload = vp8(keyframe, n == 0, self.picture, length);
                // No two packets have the same payload.
                payload[6..10].copy_from_slice(&self.ssrc.to_be_bytes());
                payload[10..12].copy_from_slice(&self.sequence.to_be_bytes());
                Rtp {
                    payload_type: VIDEO,
                    marker: n + 1 == packets,
                    sequence: self.sequence,
                    timestamp: self.timestamp,
                    ssrc: self.ssrc,
                    extensions,
                    payload,
                }
            })
            .collect()
    }
}

/// Media SSRCs of the PLIs in a client's RTCP.
pub fn plis(control: &[Vec<u8>]) -> Vec<u32> {
    let mut found = Vec::new();
    for compound in control {
        let packets = rtc_rtcp::packet::unmarshal(&mut &compound[..]).expect("RTCP that others can read");
        let plis = packets.iter().filter_map(|packet| packet.as_any().downcast_ref::<PictureLossIndication>());
        found.extend(plis.map(|pli| pli.media_ssrc));
    }
    found
}
