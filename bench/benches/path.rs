//! Each step of a packet's way, and whole turns of the engine.
//!
//! Items are packets, so `items/s` is the rate of one core, and its inverse the price of a packet.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench::broadcast::{Broadcast, FRAME_PACKETS, Publisher, TRANSPORT_CC, VIDEO, keys, sent};
use divan::Bencher;
use divan::counter::ItemsCount;
use ring::hmac;
use sfu::certificate::Certificate;
use sfu::command::{ChannelOpener, DtlsRole, IceCredentials, PayloadCodec, SubscriptionId, TransportId};
use sfu::history::{History, PacketInfo, StoredPacket};
use sfu::key::Key;
use sfu::rtcp::{self, Feedback, ReportBlock};
use sfu::rtp::{RtpView, header_len};
use sfu::srtp::{OVERHEAD_MAX, SrtpProfile, SrtpReceiver, SrtpSender};
use sfu::subscription::{Sink, Stamp, Subscription};
use sfu::transport::{Path, Transport, Via};
use sfu::twcc::recorder::TwccRecorder;
use shared::media::Codec;

/// Viewers whose keys take turns: more than the first-level cache holds.
const KEYS: u64 = 500;
/// Packets between two feedbacks of a stream of 260 packets a second.
const PACKETS_A_FEEDBACK: u16 = 26;
const PROFILES: [SrtpProfile; 2] = [SrtpProfile::AeadAes128Gcm, SrtpProfile::Aes128CmSha1_80];

fn main() {
    divan::main();
}

fn frame() -> Vec<Vec<u8>> {
    Publisher::new(SrtpProfile::AeadAes128Gcm).frame()
}

fn info(sequence: u64) -> PacketInfo {
    PacketInfo {
        sequence,
        arrival: 0,
        timestamp: 3_000,
        payload_type: VIDEO,
        marker: false,
        keyframe_start: true,
        audio_level: None,
        vp8: None,
        hidden: false,
    }
}

#[divan::bench]
fn rtp_header_read(bencher: Bencher) {
    let packet = frame().remove(0);
    bencher.counter(ItemsCount::new(1_usize)).bench(|| {
        let view = RtpView::parse(black_box(&packet)).expect("RTP");
        (view.ssrc(), view.sequence(), view.marker(), view.extension(TRANSPORT_CC), view.payload().len())
    });
}

#[divan::bench(args = PROFILES)]
fn open(bencher: Bencher, profile: SrtpProfile) {
    let mut publisher = Publisher::new(profile);
    let keys = keys(profile, 0);
    let mut receiver = SrtpReceiver::new(profile, &keys.receive_key, &keys.receive_salt);
    bencher.counter(ItemsCount::new(FRAME_PACKETS)).with_inputs(|| publisher.frame()).bench_local_refs(|frame| {
        for packet in frame {
            let header = header_len(packet).expect("RTP");
            receiver.open_rtp(packet, header).expect("authentic");
        }
    });
}

#[divan::bench]
fn history_keep(bencher: Bencher) {
    let mut history = History::for_video();
    let payload = [7; 1_100];
    // Goes round once, so that all of its memory is there.
    (1..=1_000).for_each(|sequence| _ = history.keep(info(sequence), &[], &payload));
    let mut sequence = 1_000;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        sequence += 1;
        history.keep(info(sequence), &[], black_box(&payload))
    });
}

/// Rewrites the header and copies the payload into where the packet will be sealed.
#[divan::bench]
fn rewrite_and_copy(bencher: Bencher) {
    let now = Instant::now();
    let source = [PayloadCodec { payload_type: VIDEO, codec: Codec::Vp8, rtx: Some(VIDEO + 1) }];
    let payload = [7; 1_100];
    let packet = |sequence| StoredPacket { info: info(sequence), dependency_descriptor: &[], payload: &payload };
    let mut subscriptions: Vec<Subscription> = (0..KEYS)
        .map(|number| {
            let mut subscription =
                Subscription::new(now, SubscriptionId(number), Key::NONE, Sink::Local, sent(number), &source, (1, 1));
            subscription.start(now, &info(1));
            subscription
        })
        .collect();
    // More than any packet here takes.
    let mut out = [0; 1_500];
    let mut turn = 0;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        turn += 1;
        let subscription = &mut subscriptions[(turn % KEYS) as usize];
        let packet = packet(turn / KEYS + 1);
        let outgoing = subscription.forward(now, black_box(&packet), None).expect("of its layer");
        let written = subscription.write(&mut out, &packet, &outgoing, 0, Stamp { send_time: 1, number: 0 });
        subscription.sent(packet.payload.len());
        black_box(&out);
        written.length
    });
}

#[divan::bench(args = [1_200, 120])]
fn seal_gcm_128(bencher: Bencher, bytes: usize) {
    seal(bencher, SrtpProfile::AeadAes128Gcm, bytes);
}

#[divan::bench(args = [1_200, 120])]
fn seal_cm_128_sha1(bencher: Bencher, bytes: usize) {
    seal(bencher, SrtpProfile::Aes128CmSha1_80, bytes);
}

fn seal(bencher: Bencher, profile: SrtpProfile, bytes: usize) {
    let senders: Vec<SrtpSender> = (0..KEYS)
        .map(|viewer| {
            let keys = keys(profile, viewer);
            SrtpSender::new(profile, &keys.send_key, &keys.send_salt)
        })
        .collect();
    let mut buffer = vec![7; bytes + OVERHEAD_MAX];
    let mut index = 0;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        index += 1;
        let sender = &senders[(index % KEYS) as usize];
        sender.seal_rtp(black_box(&mut buffer), 20, bytes, 1, index)
    });
}

/// A receiver report with a NACK of three packets, as a viewer sends it.
#[divan::bench]
fn nack_parse(bencher: Bencher) {
    let mut compound = Vec::new();
    let block = ReportBlock {
        ssrc: 7,
        fraction_lost: 1,
        cumulative_lost: 3,
        highest_sequence: 70_000,
        jitter: 5,
        last_sr: 1,
        delay_since_last_sr: 2,
    };
    rtcp::write_receiver_report(&mut compound, 1, &[block]);
    rtcp::write_nack(&mut compound, 1, 7, [100, 103, 140].into_iter());
    bencher.bench(|| {
        let mut lost = 0;
        for packet in rtcp::parse(black_box(&compound)) {
            if let Ok(Feedback::Nack { pairs, .. }) = packet {
                lost += pairs.map(u32::from).sum::<u32>();
            }
        }
        lost
    });
}

/// Notes 26 arrivals and reports them.
#[divan::bench]
fn twcc_record_and_feedback(bencher: Bencher) {
    let mut recorder = TwccRecorder::new(1);
    let mut out = Vec::with_capacity(2_048);
    let (mut sequence, mut arrival) = (0_u16, Duration::ZERO);
    bencher.counter(ItemsCount::new(usize::from(PACKETS_A_FEEDBACK))).bench_local(|| {
        for _ in 0..PACKETS_A_FEEDBACK {
            sequence = sequence.wrapping_add(1);
            arrival += Duration::from_micros(3_800);
            recorder.record(sequence, arrival, 7);
        }
        out.clear();
        recorder.write_feedback(&mut out)
    });
}

#[divan::bench]
fn stun_check(bencher: Bencher) {
    let (now, from) = (Instant::now(), Path { remote: ([10, 0, 0, 1], 5_000).into(), via: Via::Udp(0) });
    let local = IceCredentials { ufrag: "00abcdef".to_owned(), password: "p".repeat(32) };
    let check = binding_request(&local);
    let mut transport = Transport::new(TransportId(1), local, ChannelOpener::Client, &Certificate::generate(), 1);
    let mut reply = Vec::with_capacity(256);
    bencher.bench_local(|| {
        transport.on_stun(now, from, black_box(&check), &mut reply).expect("a valid check");
        reply.len()
    });
}

// What the handshake of a join costs: `dtls_server_*` in the one role, `dtls_client_*` in the other.

/// As the DTLS server: the flight up to ServerHelloDone.
#[divan::bench]
fn dtls_server_hello(bencher: Bencher) {
    let certificate = Certificate::generate();
    bencher
        .with_inputs(|| {
            let hello = sent_by(&mut dtls(DtlsRole::Client, &certificate));
            (dtls(DtlsRole::Server, &certificate), hello)
        })
        .bench_local_values(|(server, hello)| answer(server, &hello));
}

/// And the rest of it: the client's flight up to Finished.
#[divan::bench]
fn dtls_server_finished(bencher: Bencher) {
    let certificate = Certificate::generate();
    bencher
        .with_inputs(|| {
            let (mut client, mut server) = (dtls(DtlsRole::Client, &certificate), dtls(DtlsRole::Server, &certificate));
            sent_by(&mut client)
                .iter()
                .for_each(|hello| server.on_dtls(Instant::now(), client_path(), hello).expect("due"));
            sent_by(&mut server)
                .iter()
                .for_each(|flight| client.on_dtls(Instant::now(), client_path(), flight).expect("due"));
            (server, sent_by(&mut client))
        })
        .bench_local_values(|(server, flight)| answer(server, &flight));
}

/// As the DTLS client: the connectivity check that starts it, and the ClientHello. Of the check alone see `stun_check`.
#[divan::bench]
fn dtls_client_hello(bencher: Bencher) {
    let certificate = Certificate::generate();
    bencher.bench_local(|| sent_by(&mut dtls(DtlsRole::Client, black_box(&certificate))).len());
}

/// Its flight up to Finished.
#[divan::bench]
fn dtls_client_flight(bencher: Bencher) {
    let certificate = Certificate::generate();
    bencher
        .with_inputs(|| {
            let (mut client, mut server) = (dtls(DtlsRole::Client, &certificate), dtls(DtlsRole::Server, &certificate));
            sent_by(&mut client)
                .iter()
                .for_each(|hello| server.on_dtls(Instant::now(), client_path(), hello).expect("due"));
            (client, sent_by(&mut server))
        })
        .bench_local_values(|(client, flight)| answer(client, &flight));
}

/// And the server's Finished.
#[divan::bench]
fn dtls_client_finished(bencher: Bencher) {
    let certificate = Certificate::generate();
    bencher
        .with_inputs(|| {
            let (mut client, mut server) = (dtls(DtlsRole::Client, &certificate), dtls(DtlsRole::Server, &certificate));
            let deliver = |from: &mut Transport, to: &mut Transport| {
                sent_by(from)
                    .iter()
                    .for_each(|datagram| to.on_dtls(Instant::now(), client_path(), datagram).expect("due"));
            };
            deliver(&mut client, &mut server);
            deliver(&mut server, &mut client);
            deliver(&mut client, &mut server);
            (client, sent_by(&mut server))
        })
        .bench_local_values(|(client, finished)| answer(client, &finished));
}

/// A transport that a check has reached, so that a DTLS client has said its ClientHello.
fn dtls(role: DtlsRole, certificate: &Certificate) -> Transport {
    let (now, from) = (Instant::now(), client_path());
    let local = IceCredentials { ufrag: "00abcdef".to_owned(), password: "p".repeat(32) };
    let check = binding_request(&local);
    let mut transport = Transport::new(TransportId(1), local, ChannelOpener::Client, certificate, 1);
    transport.set_dtls_role(now, role);
    transport.on_stun(now, from, &check, &mut Vec::new()).expect("a valid check");
    transport
}

fn client_path() -> Path {
    Path { remote: ([10, 0, 0, 1], 5_000).into(), via: Via::Udp(0) }
}

fn sent_by(transport: &mut Transport) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    let mut buffer = Vec::new();
    while transport.poll_transmit(&mut buffer) {
        datagrams.push(buffer.clone());
    }
    datagrams
}

fn answer(mut transport: Transport, datagrams: &[Vec<u8>]) -> usize {
    datagrams
        .iter()
        .for_each(|datagram| transport.on_dtls(Instant::now(), client_path(), black_box(datagram)).expect("due"));
    sent_by(&mut transport).len()
}

/// A nominating connectivity check (RFC 8445, section 7.2) with integrity and fingerprint (RFC 8489).
fn binding_request(local: &IceCredentials) -> Vec<u8> {
    let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    message.extend([9; 12]);
    put_attribute(&mut message, 0x0006, format!("{}:remote00", local.ufrag).as_bytes());
    put_attribute(&mut message, 0xc057, &[0, 1, 0, 10]);
    put_attribute(&mut message, 0x802a, &[3; 8]);
    put_attribute(&mut message, 0x0025, &[]);
    put_attribute(&mut message, 0x0024, &[0x6e, 0, 0x1e, 0xff]);
    set_length(&mut message, 24);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, local.password.as_bytes());
    let tag = hmac::sign(&key, &message);
    put_attribute(&mut message, 0x0008, tag.as_ref());
    set_length(&mut message, 8);
    let fingerprint = crc32(&message) ^ 0x5354_554e;
    put_attribute(&mut message, 0x8028, &fingerprint.to_be_bytes());
    message
}

fn put_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Sets the length field as if `more` bytes of attributes followed.
fn set_length(message: &mut [u8], more: usize) {
    let length = (message.len() - 20 + more) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

/// Bit by bit, for one message.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 })
    })
}

/// A frame arrives, is decrypted, kept, rewritten, encrypted and put into runs for everybody; reports fall due.
#[divan::bench(args = [1, 100, 1_000, 3_000], sample_count = 50)]
fn turn(bencher: Bencher, subscribers: u64) {
    let profile = SrtpProfile::AeadAes128Gcm;
    let mut publisher = Publisher::new(profile);
    let mut broadcast = Broadcast::new(profile, subscribers, &mut publisher);
    bencher
        .counter(ItemsCount::new(subscribers * FRAME_PACKETS as u64))
        .with_inputs(|| publisher.frame())
        .bench_local_refs(|frame| broadcast.turn(frame));
}
