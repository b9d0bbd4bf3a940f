//! Entry functions of the fuzz targets; the ordinary tests call them too, with the committed corpora.
//!
//! Each takes any bytes and must neither panic nor run long, and what is said twice must agree. A new one gets its line
//! in [`TARGETS`], a file in `fuzz/fuzz_targets` and a corpus in `fuzz/corpus`, all of one name.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use shared::media::Codec;

use crate::certificate::Certificate;
use crate::demux::PacketKind;
use crate::dtls::{Dtls, DtlsOutput};
use crate::ice::IceAgent;
use crate::keying::KeyingMaterial;
use crate::parameters::{DtlsRole, IceCredentials};
use crate::path::{Path, Via};
use crate::rtp::header_len;
use crate::srtp::{SrtpProfile, SrtpReceiver, SrtpSender};
use crate::twcc::TransportCc;
use crate::twcc::recorder::TwccRecorder;
use crate::{audio, codec, ice, rtcp, rtp};

/// What a fuzz target calls with its input.
pub type Entry = fn(&[u8]);

/// Every entry function by the name of its target.
pub const TARGETS: &[(&str, Entry)] = &[
    ("audio", audio),
    ("codec", codec),
    ("dtls", dtls),
    ("dtls_client", dtls_client),
    ("rtcp", rtcp),
    ("rtp", rtp),
    ("srtp", srtp),
    ("stun", stun),
    ("twcc", twcc),
];

/// Header, extensions and payload of an RTP packet.
pub fn rtp(bytes: &[u8]) {
    let Some(view) = rtp::RtpView::parse(bytes) else { return };
    assert!(view.header_len() + view.payload().len() <= bytes.len());
    for (id, _) in view.extensions() {
        assert!(view.extension(id).is_some());
    }
}

/// Every packet of a compound, every element of it.
pub fn rtcp(bytes: &[u8]) {
    for packet in rtcp::parse(bytes).flatten() {
        match packet {
            rtcp::Feedback::SenderReport(_, blocks) | rtcp::Feedback::ReceiverReport { blocks, .. } => {
                assert!(blocks.count() <= 31);
            }
            rtcp::Feedback::Nack { pairs, .. } => assert!(pairs.count() <= 17 * bytes.len() / 4),
            rtcp::Feedback::Fir { entries, .. } => assert!(entries.count() <= bytes.len() / 8),
            rtcp::Feedback::TransportCc(feedback) => {
                assert_eq!(feedback.statuses().count(), usize::from(feedback.status_count));
            }
            rtcp::Feedback::Remb { ssrcs, .. } | rtcp::Feedback::Bye(ssrcs) => assert!(ssrcs.count() <= 255),
            rtcp::Feedback::Pli { .. } | rtcp::Feedback::Other(_) => {}
        }
    }
}

const CODECS: [Codec; 5] = [
    Codec::Vp8,
    Codec::Vp9 { profile: 0 },
    Codec::H264 { packetization_mode: 1, profile: [0x42, 0xE0] },
    Codec::Av1 { profile: 0 },
    Codec::H265,
];

/// Payload descriptors of all codecs.
pub fn codec(bytes: &[u8]) {
    for kind in CODECS {
        codec::is_keyframe_start(kind, bytes, None);
        codec::is_keyframe_start(kind, &[], Some(bytes));
    }
    let mut structure = None;
    let _ = codec::DependencyDescriptor::parse(bytes, &mut structure);
    // Once more with the templates that the first half may bring.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let _ = codec::DependencyDescriptor::parse(first, &mut structure);
    let _ = codec::DependencyDescriptor::parse(second, &mut structure);
    if let Some(descriptor) = codec::Vp9Descriptor::parse(bytes) {
        assert!(descriptor.header_len <= bytes.len());
    }
    if let Some(descriptor) = codec::Vp8Descriptor::parse(bytes) {
        let mut copy = bytes.to_vec();
        codec::rewrite_vp8(&descriptor, &mut copy, 0x1234, 0x56, 0x0A);
        assert_eq!(copy.get(descriptor.header_len..), bytes.get(descriptor.header_len..));
    }
}

/// Feedback for congestion control: bytes are read as the body of a packet, and played to a recorder as arrivals.
pub fn twcc(bytes: &[u8]) {
    if let Some(feedback) = TransportCc::parse(1, 2, bytes) {
        assert_eq!(feedback.statuses().count(), usize::from(feedback.status_count));
    }
    let mut recorder = TwccRecorder::new(1);
    let mut arrival = Duration::ZERO;
    let mut out = Vec::new();
    for &[high, low, pause, round] in bytes.as_chunks::<4>().0 {
        arrival += Duration::from_micros(u64::from(pause) << (round & 0x1F));
        recorder.record(u16::from_be_bytes([high, low]), arrival, 2);
        if round & 0x80 != 0 {
            write_and_read(&mut recorder, &mut out);
        }
    }
    write_and_read(&mut recorder, &mut out);
}

/// What the recorder writes must be read back: at least as many packets as were pending, all of them received.
fn write_and_read(recorder: &mut TwccRecorder, out: &mut Vec<u8>) {
    let pending = recorder.pending();
    out.clear();
    assert_eq!(recorder.write_feedback(out), pending > 0);
    let mut received = 0;
    for packet in rtcp::parse(out) {
        let Ok(rtcp::Feedback::TransportCc(feedback)) = packet else { panic!("what we write is not what we read") };
        received += feedback.statuses().filter(|status| status.arrival_us.is_some()).count();
    }
    assert!(received >= pending);
}

/// Levels and redundancy of audio.
pub fn audio(bytes: &[u8]) {
    let _ = audio::parse_audio_level(bytes);
    if let Some(primary) = audio::red_primary(bytes) {
        assert!(primary.len() < bytes.len());
    }
}

/// A ClientHello of libwebrtc.
const CLIENT_HELLO: &[u8] = include_bytes!("../fuzz/corpus/dtls/libwebrtc_hello");

static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(Certificate::generate);

/// Datagrams, each behind its length in two bytes, played to a DTLS server that knows of no client, and to one that has
/// answered a ClientHello.
#[allow(clippy::disallowed_methods, reason = "time has to begin somewhere")]
pub fn dtls(bytes: &[u8]) {
    let now = Instant::now();
    for before in [&[], CLIENT_HELLO] {
        let mut server = Dtls::new(DtlsRole::Server, &CERTIFICATE);
        for datagram in datagrams(before).chain(datagrams(bytes)) {
            let _ = server.on_datagram(now, datagram);
            nobody_connects(now, &mut server);
        }
    }
}

/// Datagrams as above, played to a DTLS client that has sent its ClientHello. Then the bytes say how those of a real
/// server are altered on their way to another client.
#[allow(clippy::disallowed_methods, reason = "time has to begin somewhere")]
pub fn dtls_client(bytes: &[u8]) {
    let now = Instant::now();
    let mut client = Dtls::new(DtlsRole::Client, &CERTIFICATE);
    client.start(now);
    for datagram in datagrams(bytes) {
        let _ = client.on_datagram(now, datagram);
        nobody_connects(now, &mut client);
    }
    altered_server(now, bytes);
}

fn nobody_connects(now: Instant, dtls: &mut Dtls) {
    dtls.on_deadline(dtls.deadline().unwrap_or(now));
    while let Some(sent) = dtls.poll_transmit() {
        assert!(sent.len() <= 1_200);
    }
    while let Some(output) = dtls.poll_output() {
        // Nobody finishes a handshake without having seen our random numbers.
        assert!(!matches!(output, DtlsOutput::Connected { .. } | DtlsOutput::Data(_)));
    }
}

/// A handshake between a client and a server of ours. Every four bytes alter one byte of a datagram of the server:
/// which one, where, and its new value. Only keys that both have may come of it.
fn altered_server(now: Instant, bytes: &[u8]) {
    let mut client = Dtls::new(DtlsRole::Client, &CERTIFICATE);
    let mut server = Dtls::new(DtlsRole::Server, &CERTIFICATE);
    client.start(now);
    let mut number = 0;
    for _round in 0..3 {
        while let Some(datagram) = client.poll_transmit() {
            let _ = server.on_datagram(now, &datagram);
        }
        while let Some(mut datagram) = server.poll_transmit() {
            for &[_, high, low, value] in bytes.as_chunks::<4>().0.iter().filter(|[which, ..]| *which == number) {
                let position = usize::from(u16::from_be_bytes([high, low])) % datagram.len().max(1);
                if let Some(byte) = datagram.get_mut(position) {
                    *byte = value;
                }
            }
            number = number.wrapping_add(1);
            let _ = client.on_datagram(now, &datagram);
        }
    }
    if let (Some(client), Some(server)) = (keys_of(&mut client), keys_of(&mut server)) {
        assert!(client.send_key == server.receive_key && client.receive_key == server.send_key);
        assert!(client.send_salt == server.receive_salt && client.receive_salt == server.send_salt);
    }
}

fn keys_of(dtls: &mut Dtls) -> Option<KeyingMaterial> {
    std::iter::from_fn(|| dtls.poll_output()).find_map(|output| match output {
        DtlsOutput::Connected { keys, .. } => Some(keys),
        DtlsOutput::Data(_) | DtlsOutput::ClosedByPeer | DtlsOutput::Failed => None,
    })
}

fn datagrams(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (datagram, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some(datagram)
    })
}

/// Bytes as a STUN message, to an agent whose credentials the corpus knows: well-formed checks get all the way.
#[allow(clippy::disallowed_methods, reason = "time has to begin somewhere")]
pub fn stun(bytes: &[u8]) {
    let local = IceCredentials { ufrag: "00fuzz".into(), password: "a-password-of-the-corpus".into() };
    let from = Path { remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)), via: Via::Udp(0) };
    let mut agent = IceAgent::new(local, 1);
    let mut reply = Vec::new();
    let ufrag = ice::local_ufrag_of(bytes);
    if let Ok(outcome) = agent.on_stun(Instant::now(), from, bytes, &mut reply) {
        assert_eq!(ufrag, Some("00fuzz"));
        assert!(outcome.path_changed, "the first valid check gives the path");
        assert_eq!(reply.first_chunk(), Some(&[1, 1]), "a valid check is answered with success");
    }
    assert!(reply.is_empty() || PacketKind::of(&reply) == Some(PacketKind::Stun));
    // A reply amplifies nothing: whoever forges a sender gains no more than the names of what we did not know.
    assert!(reply.len() <= bytes.len() + 64);
}

/// Bytes as SRTP and as SRTCP: a stranger's authenticate with no profile, ours with each.
pub fn srtp(bytes: &[u8]) {
    for (profile, salt) in
        [(SrtpProfile::AeadAes128Gcm, 12), (SrtpProfile::AeadAes256Gcm, 12), (SrtpProfile::Aes128CmSha1_80, 14)]
    {
        let key = if profile == SrtpProfile::AeadAes256Gcm { 32 } else { 16 };
        let (key, salt) = (vec![7; key], vec![9; salt]);
        let mut receiver = SrtpReceiver::new(profile, &key, &salt);
        let mut packet = bytes.to_vec();
        if let Some(header) = header_len(&packet) {
            assert!(receiver.open_rtp(&mut packet, header).is_err(), "nobody guesses a tag");
        }
        assert!(receiver.open_rtcp(&mut bytes.to_vec()).is_err(), "nobody guesses a tag");
        seal_and_open(bytes, &mut SrtpSender::new(profile, &key, &salt), &mut receiver);
    }
}

/// What is sealed opens once, and is a replay the second time.
fn seal_and_open(bytes: &[u8], sender: &mut SrtpSender, receiver: &mut SrtpReceiver) {
    let Some(view) = rtp::RtpView::parse(bytes) else { return };
    let (header, ssrc, index) = (view.header_len(), view.ssrc(), u64::from(view.sequence()));
    let mut sealed = bytes.to_vec();
    sealed.resize(bytes.len() + sender.rtp_overhead(), 0);
    let length = sender.seal_rtp(&mut sealed, header, bytes.len(), ssrc, index);
    sealed.truncate(length);
    let replay = sealed.clone();
    assert_eq!(receiver.open_rtp(&mut sealed, header), Ok(bytes.len()));
    assert_eq!(sealed.get(..bytes.len()), Some(bytes));
    assert!(receiver.open_rtp(&mut replay.clone(), header).is_err());
}
