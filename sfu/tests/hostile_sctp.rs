//! What a client with a correct handshake may send inside of its association: no panic, no growth, no stall, and the next
//! client's association is as good as ever.
#![expect(clippy::disallowed_methods, reason = "tests have clocks and sockets of their own")]

mod support;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sfu::command::{ChannelOpener, DataChannel};
use sfu::transport::TransportOutput;
use support::World;

fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + body.len()).unwrap();
    let mut chunk = [&[kind, flags][..], &length.to_be_bytes(), body].concat();
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// Whether a message of the client still arrives.
fn is_alive(world: &mut World) -> bool {
    let messages = |world: &World| {
        let of_reliable = |output: &&TransportOutput| matches!(output, TransportOutput::Data(DataChannel::Reliable, _));
        world.outputs.iter().filter(of_reliable).count()
    };
    let before = messages(world);
    world.client.send(world.now, 2, b"still here");
    world.run_until(Duration::from_secs(20), |world| messages(world) > before)
}

/// Chunks of every kind, of likely and unlikely lengths, with numbers near and far.
fn random_chunks(rng: &mut StdRng) -> Vec<u8> {
    const KINDS: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 64, 130, 192];
    let mut bytes = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        let length = *[0, 3, 4, 8, 12, 16, 20, 24, 40, 200].get(rng.random_range(0..10usize)).unwrap();
        let mut body: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        if rng.random_bool(0.5) {
            // Parameters and causes: a kind that exists, a length that is about right.
            let kinds: [u16; 11] = [1, 5, 7, 9, 13, 16, 32770, 32771, 32772, 32776, 49152];
            let kind = kinds[rng.random_range(0..kinds.len())];
            let inner = u16::try_from(length).unwrap().wrapping_add_signed(rng.random_range(-6..6));
            for (at, byte) in kind.to_be_bytes().into_iter().chain(inner.to_be_bytes()).enumerate() {
                if let Some(place) = body.get_mut(at) {
                    *place = byte;
                }
            }
        }
        let mut one = chunk(KINDS[rng.random_range(0..KINDS.len())], rng.random_range(0..8), &body);
        if rng.random_bool(0.1) {
            let at = rng.random_range(0..one.len());
            one[at] = rng.random();
        }
        bytes.extend(one);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn chunks_of_any_kind_and_length_panic_nowhere(seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::connected(ChannelOpener::Client, seed);
        for _ in 0..200 {
            let chunks = random_chunks(&mut rng);
            world.client.send_chunks(world.now, &chunks);
            world.run_for(Duration::from_millis(25));
        }
    }
}

#[test]
fn causes_that_are_longer_than_their_chunk_are_refused() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    world.client.send_chunks(world.now, &chunk(9, 0, &[0, 1, 0xFF, 0xFF]));
    assert!(is_alive(&mut world));
    assert_eq!(world.transport.take_data_discards().malformed, 1);
}

#[test]
fn an_abort_in_any_form_ends_the_association() {
    for body in [&[][..], &[0, 12, 0, 4], &[0, 1, 0xFF, 0xFF]] {
        let mut world = World::connected(ChannelOpener::Client, 2);
        world.client.send_chunks(world.now, &chunk(6, 0, body));
        world.run_for(Duration::from_secs(1));
        let payload = bytes::Bytes::from_static(b"nobody reads it");
        assert!(world.transport.send_data(world.now, DataChannel::Lossy, &payload).is_err(), "{body:?}");
    }
}

/// As many steps as numbers would take seconds; the test would time out.
#[test]
fn forwarding_by_two_billion_numbers_ends_the_association_at_once() {
    let mut world = World::connected(ChannelOpener::Client, 3);
    let begin = Instant::now();
    for far in [1 << 30, 0x7fff_ffff, 1 << 31, 3 << 30] {
        world.client.send_chunks(world.now, &chunk(192, 0, &u32::to_be_bytes(far)));
        world.run_for(Duration::from_millis(50));
    }
    // Two billion steps of a hash table take minutes without optimisation.
    assert!(begin.elapsed() < Duration::from_secs(60));
}

/// Requests from the future, each of which would be kept.
#[test]
fn resets_from_the_future_are_refused_beyond_a_few() {
    let mut world = World::connected(ChannelOpener::Client, 4);
    // Numbers begin anywhere: of two that are half of them apart, one is in the future.
    for number in 0..4_000_u32 {
        let last = (number % 2) << 31;
        let numbers = [number.to_be_bytes(), [0; 4], last.to_be_bytes()].concat();
        let reset = [&[0, 13, 0, 18][..], &numbers, &[0, 9]].concat();
        world.client.send_chunks(world.now, &chunk(130, 0, &reset));
    }
    world.run_for(Duration::from_secs(1));
    let refused = world.transport.take_data_discards().malformed;
    assert_eq!(refused, 2_000 - 256);
    assert!(is_alive(&mut world));
}
