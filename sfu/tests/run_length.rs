//! How many packets share a message when a recorded camera is forwarded: the kernel charges by message.
//!
//! The turns are a worker's: what has arrived is taken in, and then forwarded as far as the engine likes.

mod media;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use media::*;

/// Frame sizes of a 720p camera at 30 frames a second, VP8: `key,q,h,f`.
const TRACE: &str = include_str!("../../loadtest/traces/camera-vp8.csv");
const BITRATE_BPS: usize = 2_000_000;
const FRAME_RATE: usize = 30;
const PAYLOAD_MAX: usize = 1_100;
/// Packets that arrive together, and the time until the next that do: a frame is rarely read at once.
const PIECE: usize = 3;
const PIECE_INTERVAL: Duration = Duration::from_micros(300);
/// A frame beyond this leaves its publisher in parts: libwebrtc paces at 2.5 times the bitrate, in bursts of 40 ms.
const BURST_PACKETS: usize = BITRATE_BPS * 5 / 2 / 8 / 25 / PAYLOAD_MAX;
const BURST_INTERVAL: Duration = Duration::from_millis(10);

const PUBLISHER: u64 = 1;
const VIEWERS: u64 = 50;

/// Whether each frame is a key frame, and the payload sizes of its packets: parts that differ by a byte.
fn frames() -> Vec<(bool, Vec<usize>)> {
    let recorded: Vec<(bool, usize)> = TRACE
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',');
            let key = fields.next()? == "1";
            Some((key, fields.nth(2)?.parse().ok()?))
        })
        .collect();
    let mean = recorded.iter().map(|(_, length)| length).sum::<usize>() / recorded.len();
    let scaled = |length: usize| length * BITRATE_BPS / (8 * FRAME_RATE * mean);
    recorded.into_iter().map(|(key, length)| (key, cut(scaled(length)))).collect()
}

fn cut(length: usize) -> Vec<usize> {
    let parts = length.div_ceil(PAYLOAD_MAX).max(1);
    (0..parts).map(|part| (length / parts + usize::from(part < length % parts)).max(16)).collect()
}

/// A publisher's packets with the times at which they arrive, since the beginning, in pieces.
fn arrivals() -> VecDeque<(Duration, Vec<Rtp>)> {
    let mut source = Source::new(100);
    let mut arrivals: Vec<(Duration, Vec<Rtp>)> = Vec::new();
    for (number, (key, sizes)) in frames().into_iter().enumerate() {
        let due = Duration::from_secs(1) * number as u32 / FRAME_RATE as u32;
        let mut packets = source.frame(key, sizes.len());
        for (packet, size) in packets.iter_mut().zip(&sizes) {
            packet.payload.resize(*size, 7);
        }
        for (burst, packets) in packets.chunks(BURST_PACKETS).enumerate() {
            for (piece, packets) in packets.chunks(PIECE).enumerate() {
                let late = BURST_INTERVAL * burst as u32 + PIECE_INTERVAL * piece as u32;
                arrivals.push((due + late, packets.to_vec()));
            }
        }
    }
    let audio = (0..frames().len() * 50 / FRAME_RATE).map(|number| {
        let packet = Rtp {
            payload_type: AUDIO,
            sequence: number as u16,
            timestamp: 960 * number as u32,
            ssrc: 200,
            payload: vec![1; 100],
            ..Rtp::default()
        };
        (Duration::from_millis(20) * number as u32 + Duration::from_millis(7), vec![packet])
    });
    arrivals.extend(audio);
    arrivals.sort_by_key(|(at, _)| *at);
    arrivals.into()
}

fn broadcast() -> World {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, video_section(100));
    world.publish(PUBLISHER, 2, audio_section(200));
    for n in 0..VIEWERS {
        world.join(10 + n);
        world.subscribe(10 + n, 2 * n, 1, send_section(1000 + 4 * n as u32, video_codecs()));
        world.subscribe(10 + n, 2 * n + 1, 2, send_section(1002 + 4 * n as u32, audio_codecs()));
    }
    world.out.transmitter().discard = true;
    world
}

/// Lets everything arrive at its time, and forwards when a worker would.
fn replay(world: &mut World, mut arrivals: VecDeque<(Duration, Vec<Rtp>)>) {
    let start = world.now;
    let mut again: Option<Instant> = None;
    loop {
        let arrival = arrivals.front().map(|(at, _)| start + *at);
        let Some(next) = arrival.into_iter().chain(again).min() else { return };
        world.pass(next.saturating_duration_since(world.now));
        while arrivals.front().is_some_and(|(at, _)| start + *at <= world.now) {
            let (_, packets) = arrivals.pop_front().expect("looked at");
            for packet in &packets {
                world.arrive_sealed(PUBLISHER, packet);
            }
        }
        again = world.turn_in_part();
    }
}

#[test]
fn a_recorded_camera_with_its_microphone_leaves_in_messages_of_more_than_three_packets() {
    let mut world = broadcast();
    let arrivals = arrivals();
    let packets: usize = arrivals.iter().map(|(_, packets)| packets.len()).sum();
    replay(&mut world, arrivals);
    let stats = &world.engine.stats;
    assert_eq!(stats.rtp_sent, packets as u64 * VIEWERS);
    let length = stats.rtp_sent as f64 / stats.runs_sent as f64;
    assert!(length > 3.0, "{length:.2} packets a message");
}
