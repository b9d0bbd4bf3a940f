//! What a stream costs in memory once it flows: nothing for a packet, little for a viewer.

#[path = "support/allocations.rs"]
mod allocations;
mod media;

use std::time::Duration;

use media::*;
use sfu::certificate::Certificate;
use sfu::command::{ExtensionIds, SendSection};
use sfu::engine::{Engine, EngineConfig};
use sfu::twcc::recorder::TwccRecorder;

/// A camera and a microphone with so many viewers, who agree to tell when packets arrive.
fn broadcast(viewers: u64) -> World {
    let mut world = World::new();
    world.join(1);
    world.publish(1, 1, video_section(100));
    world.publish(1, 2, audio_section(200));
    for n in 0..viewers {
        world.join(10 + n);
        world.subscribe(10 + n, n, 1, numbered(send_section(1000 + 4 * n as u32, video_codecs())));
        world.subscribe(10 + n, 1000 + n, 2, numbered(send_section(1002 + 4 * n as u32, audio_codecs())));
    }
    world.out.transmitter().discard = true;
    world
}

fn numbered(section: SendSection) -> SendSection {
    let transport_cc = extensions().transport_cc;
    SendSection { extensions: ExtensionIds { transport_cc, ..section.extensions }, ..section }
}

/// Sealed frames of seven video packets, each with an audio packet.
fn sealed_frames(count: u16) -> Vec<Vec<Vec<u8>>> {
    let mut source = Source::new(100);
    let mut publisher = publisher_cipher();
    let frame = |sequence| {
        let mut packets = source.frame(sequence == 1, 7);
        packets.push(Rtp { payload_type: AUDIO, sequence, ssrc: 200, payload: vec![1; 100], ..Rtp::default() });
        packets.iter().map(|packet| publisher.encrypt_rtp(&packet.bytes()).expect("seals").to_vec()).collect()
    };
    (1..=count).map(frame).collect()
}

/// A frame's packets to a viewer.
const PACKETS: u16 = 8;

/// Between two frames: slow enough for a way of which nothing is known.
const FRAME: Duration = Duration::from_millis(100);

/// What a viewer says of so many frames: sealed, a report a frame.
fn sealed_reports(viewer: u64, frames: u16) -> Vec<Vec<u8>> {
    let (mut recorder, mut cipher) = (TwccRecorder::new(4), Ciphers::new(viewer).to_server);
    let report = |frame: u16| {
        for n in 0..PACKETS {
            let arrival = FRAME * u32::from(frame) + Duration::from_micros(300 * u64::from(n));
            recorder.record(frame * PACKETS + n, arrival, 1);
        }
        let mut bytes = Vec::new();
        recorder.write_feedback(&mut bytes);
        cipher.encrypt_rtcp(&bytes).expect("seals").to_vec()
    };
    (0..frames).map(report).collect()
}

fn forward(world: &mut World, frame: &mut [Vec<u8>]) {
    let path = sfu::transport::Path { remote: address(1), via: sfu::transport::Via::Udp(0) };
    for datagram in frame {
        world.engine.receive(world.now, path, datagram, &mut world.out);
    }
    while world.engine.forward(world.now, &mut world.out).is_some() {}
    world.out.flush();
    while world.engine.poll_event().is_some() {}
}

#[test]
fn a_forwarded_packet_allocates_nothing_in_steady_state() {
    let mut world = broadcast(50);
    let (mut warm, mut sent) = (0, 0);
    for (number, frame) in sealed_frames(60).iter_mut().enumerate() {
        if number == 30 {
            (warm, sent) = (allocations::count(), world.engine.stats.rtp_sent);
        }
        forward(&mut world, frame);
    }
    let forwarded = world.engine.stats.rtp_sent - sent;
    assert_eq!(forwarded, 30 * 8 * 50);
    assert_eq!(allocations::count() - warm, 0, "allocations while {forwarded} packets were forwarded");
}

#[test]
fn a_report_on_when_packets_arrived_allocates_nothing_in_steady_state() {
    let mut world = broadcast(20);
    let mut reports: Vec<_> = (0..20).map(|n| sealed_reports(10 + n, 60)).collect();
    let mut warm = 0;
    for (number, frame) in sealed_frames(60).iter_mut().enumerate() {
        if number == 30 {
            warm = allocations::count();
        }
        forward(&mut world, frame);
        // What is too much at once leaves with the steps of the media clock.
        for _ in 0..5 {
            world.now += FRAME / 5;
            world.engine.expire(world.now, &mut world.out);
            world.out.flush();
        }
        for (viewer, reports) in (10..).zip(&mut reports) {
            world.engine.receive(world.now, path(viewer), &mut reports[number], &mut world.out);
        }
    }
    assert_eq!(world.engine.stats.feedback_received, 60 * 20);
    assert_eq!(allocations::count() - warm, 0, "allocations while reports came");
}

/// Bytes that an engine holds when its history has been full for a while.
fn held(viewers: u64) -> usize {
    let mut world = broadcast(viewers);
    for frame in &mut sealed_frames(150) {
        forward(&mut world, frame);
    }
    assert_eq!(world.engine.stats.rtp_sent, 150 * 8 * viewers);
    let fresh = Engine::new(Certificate::generate(), EngineConfig::default(), 1, world.now);
    let engine = std::mem::replace(&mut world.engine, fresh);
    allocations::bytes_of(engine)
}

/// More than a viewer's keys, transport, two subscriptions and the estimate of its way take, and far less than the history of the 720p stream
/// that it watches, half a mebibyte.
const VIEWER_BYTES_MAX: usize = 13 << 10;

#[test]
fn memory_grows_with_viewers_and_with_history_but_not_with_their_product() {
    let (some, twice) = (held(64), held(128));
    let each = (twice - some) / 64;
    println!("{some} bytes with 64 viewers, {twice} with 128: {each} a viewer");
    assert!(each < VIEWER_BYTES_MAX, "{each} bytes a viewer");
    assert!(some - 64 * each > 512 << 10, "the history was not full: {some} bytes");
}

fn publisher_cipher() -> rtc_srtp::context::Context {
    let keys = keys(1);
    let provider = rtc_crypto::default_provider().expect("a provider");
    let profile = rtc_srtp::protection_profile::ProtectionProfile::AeadAes128Gcm;
    rtc_srtp::context::Context::new(&keys.receive_key, &keys.receive_salt, profile, None, None, provider.crypto())
        .expect("a context")
}
