//! The DTLS handshake against two independent clients: its length, and what becomes of it on a bad network.

mod support;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use sfu::command::{ChannelOpener, TransportEnd};
use sfu::transport::{KeyingMaterial, TransportOutput};
use support::{Client, LIBWEBRTC_PROFILES, World};

const SECOND: Duration = Duration::from_secs(1);
/// Two flights of each side, each of them 10 ms on its way.
const TWO_ROUND_TRIPS: Duration = Duration::from_millis(40);

fn world(seed: u64, client: Client) -> World {
    let mut world = World::with_client(ChannelOpener::Client, seed, client);
    world.transport.set_fingerprint(world.now, world.client.fingerprint);
    world
}

fn keys(world: &World) -> Option<&KeyingMaterial> {
    world.outputs.iter().find_map(|output| match output {
        TransportOutput::Connected(keys) => Some(keys),
        _ => None,
    })
}

/// Whether the client exports the keys that we do.
fn agrees(world: &World, keys: &KeyingMaterial) -> bool {
    let ours = [&keys.client_key[..], &keys.server_key, &keys.client_salt, &keys.server_salt].concat();
    ours == world.client.keying_material(ours.len())
}

#[test]
fn a_handshake_takes_one_answer_and_one_finished_of_ours() {
    let clients: [fn() -> Client; 2] = [|| Client::new(&LIBWEBRTC_PROFILES), || Client::robust(1)];
    for client in clients {
        let mut world = world(1, client());
        assert!(world.run_until(TWO_ROUND_TRIPS, |world| world.client.seen.dtls_connected));
        assert_eq!(world.server_datagrams, 2);
    }
}

#[test]
fn a_client_with_an_rsa_certificate_connects() {
    let mut world = world(1, Client::with_rsa_certificate());
    assert!(world.run_until(SECOND, |world| keys(world).is_some()), "{:?}", world.outputs);
    assert!(agrees(&world, keys(&world).unwrap()));
}

#[test]
fn a_certificate_without_its_key_is_worth_nothing() {
    let mut world = world(1, Client::impostor());
    world.run_for(SECOND);
    assert_eq!(world.outputs, [TransportOutput::Ended(TransportEnd::HandshakeFailed)]);
}

#[test]
fn every_fourth_datagram_may_be_lost() {
    for seed in 0..200 {
        let mut world = world(seed, Client::robust(seed));
        world.loss = 0.25;
        let up = world.run_until(20 * SECOND, |world| world.client.seen.dtls_connected);
        assert!(up && keys(&world).is_some(), "seed {seed}: {:?}", world.outputs);
        assert!(agrees(&world, keys(&world).unwrap()), "seed {seed}");
    }
}

#[test]
fn a_silent_client_is_reminded_at_ever_longer_intervals() {
    let mut world = world(1, Client::robust(1));
    world.tamper = Some(Box::new(|number, datagram| {
        if number > 0 {
            datagram.clear();
        }
    }));
    world.run_for(Duration::from_secs(10));
    // 100, 200, 400, 800 ms, then every 1.6 s; and the client's own repetitions of nothing.
    assert!((8..=12).contains(&world.server_datagrams), "{}", world.server_datagrams);
}

/// The datagrams of a client's undisturbed handshake.
fn flights(client: Client) -> Vec<Vec<u8>> {
    let mut world = world(1, client);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let recorder = seen.clone();
    world.tamper = Some(Box::new(move |_, datagram| recorder.borrow_mut().push(datagram.clone())));
    assert!(world.run_until(TWO_ROUND_TRIPS, |world| keys(world).is_some()));
    seen.take()
}

/// Where nothing is authenticated: record headers, and ChangeCipherSpec. There is no other such byte.
fn unprotected(datagram: &[u8]) -> Vec<Range<usize>> {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    let (mut ranges, mut start) = (Vec::new(), 0);
    while start < datagram.len() {
        let body = start + 13;
        let end = body + usize::from(u16::from_be_bytes([datagram[start + 11], datagram[start + 12]]));
        ranges.push(start..if datagram[start] == CHANGE_CIPHER_SPEC { end } else { body });
        start = end;
    }
    ranges
}

fn no_changed_byte_yields_keys(client: fn() -> Client) {
    for (number, datagram) in flights(client()).into_iter().enumerate() {
        for position in 0..datagram.len() {
            let mut world = world(1, client());
            let protected = Rc::new(Cell::new(false));
            let found = protected.clone();
            world.tamper = Some(Box::new(move |sent, datagram| {
                // Signatures vary in length by a byte or two, so that the last bytes may be missing.
                if sent == number && position < datagram.len() {
                    found.set(!unprotected(datagram).iter().any(|range| range.contains(&position)));
                    datagram[position] ^= 1 << (position % 8);
                }
            }));
            // Too short for either side to say anything twice.
            world.run_for(2 * TWO_ROUND_TRIPS);
            if let Some(keys) = keys(&world) {
                assert!(agrees(&world, keys), "byte {position} of datagram {number}");
                assert!(!protected.get(), "byte {position} of datagram {number}");
            }
        }
    }
}

#[test]
fn no_changed_byte_yields_keys_with_dimpl() {
    no_changed_byte_yields_keys(|| Client::robust(1));
}

#[test]
fn no_changed_byte_yields_keys_with_rtc_dtls() {
    no_changed_byte_yields_keys(|| Client::new(&LIBWEBRTC_PROFILES));
}

#[test]
fn a_handshake_that_fails_says_so_to_both_sides() {
    let mut world = world(1, Client::robust(1));
    world.tamper = Some(Box::new(|number, datagram| {
        if number > 0 {
            // In the middle of the certificate.
            datagram[100] ^= 1;
        }
    }));
    world.run_for(2 * TWO_ROUND_TRIPS);
    assert_eq!(world.outputs, [TransportOutput::Ended(TransportEnd::HandshakeFailed)]);
    // Our first flight, and the alert.
    assert_eq!(world.server_datagrams, 2);
}

fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/fuzz/corpus/dtls/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

proptest! {
    #[test]
    fn altered_handshakes_neither_panic_nor_connect(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
        name in prop::sample::select(vec!["chromium_handshake", "libwebrtc_handshake", "finished_first"]),
    ) {
        let mut bytes = recorded(name);
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        sfu::fuzzing::dtls(&bytes);
        sfu::fuzzing::dtls(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn any_bytes_neither_panic_nor_connect(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        sfu::fuzzing::dtls(&bytes);
    }
}
