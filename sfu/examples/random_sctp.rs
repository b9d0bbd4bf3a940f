//! Random and mutated SCTP packets over real associations, and what each of them costs the server in CPU time.
//!
//! `cargo run --release -p onair-sfu --example random_sctp -- [PACKETS] [SEED]`, 300,000 and 1 by default. Fails where
//! a packet takes longer than [`PACKET_MAX`]. No test, since what it says depends on the machine.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a program of its own, with a clock and an output")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sfu::command::{ChannelOpener, DataChannel};
use sfu::transport::SendDataError;
use support::World;

/// A tenth of what stalls a worker.
const PACKET_MAX: Duration = Duration::from_millis(25);
/// Packets that are told of.
const WORST: usize = 5;
/// An association that has had so many makes room for a new one: some states are only reached early.
const ASSOCIATION_PACKETS_MAX: usize = 5_000;
const PACKET_BYTES_MAX: usize = 1_100;
const KINDS: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 64, 130, 192];
const DATA: u8 = 0;
const SACK: u8 = 3;

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; this clock exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + body.len()).expect("short");
    let mut chunk = [&[kind, flags][..], &length.to_be_bytes(), body].concat();
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// Numbers that the association is at, so that random ones are near them.
#[derive(Default)]
struct Numbers {
    clients: u32,
    servers: u32,
}

impl Numbers {
    fn note(&mut self, packet: &[u8]) {
        match packet.get(12) {
            Some(&SACK) => self.clients = number_at(packet, 16).unwrap_or(self.clients),
            Some(&DATA) => self.servers = number_at(packet, 16).unwrap_or(self.servers),
            _ => {}
        }
    }
}

fn number_at(packet: &[u8], at: usize) -> Option<u32> {
    packet.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn near(rng: &mut StdRng, number: u32) -> [u8; 4] {
    let distances: [i32; 6] = [3, 60, 1_000, 20_000, 70_000, i32::MAX];
    let distance = distances[rng.random_range(0..distances.len())];
    number.wrapping_add_signed(rng.random_range(-distance / 2..=distance)).to_be_bytes()
}

/// One chunk that is right but for its numbers, or nothing but random.
fn random_chunk(rng: &mut StdRng, numbers: &Numbers) -> Vec<u8> {
    let random = |rng: &mut StdRng, length: usize| -> Vec<u8> { (0..length).map(|_| rng.random()).collect() };
    match rng.random_range(0..8) {
        0 | 1 => {
            let length = [0, 1, 1, 1, 2, 30, 500][rng.random_range(0..7usize)];
            let stream = [0, rng.random_range(0..6), 0, rng.random_range(0..4)];
            let identifier = [0, 0, 0, [50, 51, 53, 56, 57, 0][rng.random_range(0..6usize)]];
            let body = [&near(rng, numbers.clients)[..], &stream, &identifier, &random(rng, length)].concat();
            chunk(DATA, rng.random_range(0..16), &body)
        }
        2 => {
            let gaps = rng.random_range(0..250_u16);
            let twice = rng.random_range(0..3_u16);
            let blocks = (0..gaps).flat_map(|_| {
                let first: u16 = if rng.random_bool(0.5) { 2 } else { rng.random() };
                let last = first.wrapping_add(rng.random_range(0..2_000));
                [first.to_be_bytes(), last.to_be_bytes()].concat()
            });
            let blocks: Vec<u8> = blocks.collect();
            let head = [near(rng, numbers.servers), rng.random()].concat();
            let counts = [gaps.to_be_bytes(), twice.to_be_bytes()].concat();
            chunk(SACK, 0, &[&head[..], &counts, &blocks, &random(rng, usize::from(twice) * 4)].concat())
        }
        3 => {
            let streams = rng.random_range(0..270);
            let stream = [0, rng.random_range(0..6), 0xFF, rng.random()].repeat(streams);
            chunk(192, 0, &[&near(rng, numbers.clients)[..], &stream].concat())
        }
        4 => {
            let request = [near(rng, numbers.clients), near(rng, numbers.servers), near(rng, numbers.clients)].concat();
            let streams = rng.random_range(0..200);
            let length = u16::try_from(16 + 2 * streams).expect("few");
            let kind = rng.random_range(13..19);
            let parameter = [&[0, kind][..], &length.to_be_bytes(), &request, &random(rng, 2 * streams)].concat();
            chunk(130, 0, &parameter)
        }
        5 => chunk(4, 0, &[0, 1, 0, 4]),
        _ => {
            let length = [0, 3, 4, 8, 12, 16, 20, 24, 40, 200][rng.random_range(0..10usize)];
            let body = random(rng, length);
            let mut one = chunk(KINDS[rng.random_range(0..KINDS.len())], rng.random_range(0..8), &body);
            if rng.random_bool(0.2) {
                let at = rng.random_range(0..one.len());
                one[at] = rng.random();
            }
            one
        }
    }
}

/// Chunks of one packet: some, many of a kind, or those of a packet of the server with bytes that were changed.
fn random_chunks(rng: &mut StdRng, numbers: &Numbers, seen: &[Bytes]) -> Vec<u8> {
    if !seen.is_empty() && rng.random_bool(0.2) {
        let mut chunks = seen[rng.random_range(0..seen.len())][12..].to_vec();
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(0..chunks.len().max(1));
            if let Some(byte) = chunks.get_mut(at) {
                *byte = rng.random();
            }
        }
        return chunks;
    }
    let count = if rng.random_bool(0.2) { 100 } else { rng.random_range(1..6) };
    let mut chunks = Vec::new();
    for _ in 0..count {
        let next = random_chunk(rng, numbers);
        if chunks.len() + next.len() > PACKET_BYTES_MAX {
            break;
        }
        chunks.extend(next);
    }
    chunks
}

/// What a packet cost, and the beginning of it.
struct Cost {
    time: Duration,
    packet: usize,
    length: usize,
    head: Vec<u8>,
}

struct Run {
    rng: StdRng,
    world: World,
    numbers: Numbers,
    seen: Vec<Bytes>,
    /// Packets of this association.
    age: usize,
    associations: usize,
    refused: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let (rng, world) = (StdRng::seed_from_u64(seed), World::connected(ChannelOpener::Client, seed));
        Self { rng, world, numbers: Numbers::default(), seen: Vec::new(), age: 0, associations: 1, refused: 0 }
    }

    fn send(&mut self, packet: usize) -> Cost {
        let chunks = random_chunks(&mut self.rng, &self.numbers, &self.seen);
        let now = self.world.now;
        let before = std::mem::take(&mut self.world.client.outgoing);
        self.world.client.send_chunks(now, &chunks);
        let datagrams = std::mem::replace(&mut self.world.client.outgoing, before);
        let begun = cpu_time();
        for datagram in datagrams {
            let _ = self.world.transport.on_dtls(now, support::udp(1), &datagram);
        }
        let time = cpu_time() - begun;
        Cost { time, packet, length: chunks.len(), head: chunks.into_iter().take(64).collect() }
    }

    /// Lets a millisecond pass, in which the server has something to send as well.
    fn go_on(&mut self) {
        self.age += 1;
        let payload = Bytes::from_static(b"something to acknowledge");
        let sent = self.world.transport.send_data(self.world.now, DataChannel::Lossy, &payload);
        let _ = self.world.transport.send_data(self.world.now, DataChannel::Reliable, &payload);
        self.world.run_for(Duration::from_millis(1));
        self.world.outputs.clear();
        self.refused += self.world.transport.take_data_discards().total();
        let packets = std::mem::take(&mut self.world.client.seen.sctp_packets);
        packets.iter().for_each(|packet| self.numbers.note(packet));
        self.seen.extend(packets);
        let old = self.seen.len().saturating_sub(64);
        self.seen.drain(..old);
        if sent == Err(SendDataError::NotOpen)
            || sent == Err(SendDataError::Closed)
            || self.age >= ASSOCIATION_PACKETS_MAX
        {
            self.world = World::connected(ChannelOpener::Client, self.rng.random());
            (self.numbers, self.age, self.associations) = (Numbers::default(), 0, self.associations + 1);
            self.seen.clear();
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (packets, seed) = (arguments.next().unwrap_or(300_000), arguments.next().unwrap_or(1));
    let mut run = Run::new(seed);
    let mut worst: Vec<Cost> = Vec::new();
    let mut all = Duration::ZERO;
    for packet in 0..packets as usize {
        let cost = run.send(packet);
        all += cost.time;
        worst.push(cost);
        worst.sort_by_key(|cost| std::cmp::Reverse(cost.time));
        worst.truncate(WORST);
        run.go_on();
    }
    let (associations, refused) = (run.associations, run.refused);
    println!("{packets} packets, seed {seed}, {associations} associations, {refused} refused, {all:?} of CPU");
    for Cost { time, packet, length, head } in &worst {
        println!("{time:?} for packet {packet} of {length} bytes: {head:02x?}");
    }
    match worst.first().is_some_and(|cost| cost.time > PACKET_MAX) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}
