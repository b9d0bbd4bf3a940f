//! The DTLS handshake against two independent clients, in both roles: its length, and what becomes of it on a bad
//! network.

mod support;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use sfu::command::{ChannelOpener, DataChannel, DtlsRole, Fingerprint, TransportEnd};
use sfu::ice;
use sfu::transport::{DtlsRefusal, HANDSHAKE_TIMEOUT, KeyingMaterial, SrtpProfile, TransportOutput};
use support::{Client, LIBWEBRTC_PROFILES, World, udp};

const SECOND: Duration = Duration::from_secs(1);
/// Two flights of each side, each of them 10 ms on its way.
const TWO_ROUND_TRIPS: Duration = Duration::from_millis(40);
/// Two flights of ours as a client with their answers, a third before them for the cookie, and the check that starts
/// it.
const THREE_ROUND_TRIPS: Duration = Duration::from_millis(61);

fn world(seed: u64, client: Client) -> World {
    let mut world = World::with_client(ChannelOpener::Client, seed, client);
    world.transport.set_fingerprint(world.now, world.client.fingerprint);
    world
}

/// Passive clients that say nothing after the handshake.
fn silent_rtc_dtls() -> Client {
    Client::passive(&LIBWEBRTC_PROFILES).waiting_for_init()
}

fn silent_dimpl() -> Client {
    Client::passive_robust(1).waiting_for_init()
}

fn keys(world: &World) -> Option<&KeyingMaterial> {
    world.outputs.iter().find_map(|output| match output {
        TransportOutput::Connected(keys) => Some(keys),
        _ => None,
    })
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

/// HelloRequest (RFC 5246, section 7.4.1.1) in a record of epoch 0.
const HELLO_REQUEST: [u8; 25] = [22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What is not sealed anybody can send; sessions are not negotiated anew.
#[test]
fn hellos_in_the_clear_after_the_handshake_are_not_answered_and_change_nothing() {
    for client in [Client::robust(1), Client::passive_robust(1)] {
        let mut world = World::connected_to(ChannelOpener::Client, 1, client);
        world.run_for(SECOND);
        let mut other = Client::robust(2);
        other.progress(support::epoch());
        let mut hellos = std::mem::take(&mut other.outgoing);
        hellos.push(HELLO_REQUEST.to_vec());
        let before = world.server_datagrams;
        for hello in hellos.iter().cycle().take(100) {
            assert_eq!(world.transport.on_dtls(world.now, udp(1), hello), Err(DtlsRefusal::LateHandshake));
            world.run_for(Duration::from_millis(10));
        }
        assert!(world.server_datagrams - before < 5, "{}", world.server_datagrams - before);

        let (now, stream) = (world.now, if world.transport.dtls_role() == DtlsRole::Server { 2 } else { 3 });
        world.client.send(now, stream, b"still here");
        let came = |world: &World| {
            let data = |output: &TransportOutput| matches!(output, TransportOutput::Data(DataChannel::Reliable, _));
            world.outputs.iter().any(data)
        };
        assert!(world.run_until(SECOND, came));
    }
}

#[test]
fn a_client_with_an_rsa_certificate_connects() {
    let mut world = world(1, Client::with_rsa_certificate());
    assert!(world.run_until(SECOND, |world| keys(world).is_some()), "{:?}", world.outputs);
    assert!(world.agrees(keys(&world).unwrap()));
}

#[test]
fn a_passive_client_gets_a_hello_with_the_first_check_and_takes_two_flights_besides_the_cookies() {
    let clients: [fn() -> Client; 2] = [silent_rtc_dtls, silent_dimpl];
    for client in clients {
        let mut world = world(1, client());
        assert!(world.run_until(THREE_ROUND_TRIPS, |world| keys(world).is_some()), "{:?}", world.outputs);
        assert!(world.client.seen.dtls_connected && world.agrees(keys(&world).unwrap()));
        assert_eq!(world.server_datagrams, 3);
        assert!(world.largest_datagram <= 1_200, "{}", world.largest_datagram);
    }
}

#[test]
fn a_client_known_as_passive_after_its_first_check_gets_a_hello_at_once() {
    let mut world = world(1, Client::passive_robust(1));
    world.checks_from = None;
    world.run_for(SECOND);
    assert_eq!(world.server_datagrams, 0, "no path to send a ClientHello to");
    world.checks_from = Some(udp(1));
    assert!(world.run_until(2 * SECOND, |world| keys(world).is_some()));
}

#[test]
fn a_passive_client_chooses_among_profiles_that_begin_with_gcm() {
    let mut world = world(1, Client::passive(&LIBWEBRTC_PROFILES));
    assert!(world.run_until(SECOND, |world| keys(world).is_some()));
    let gcm = [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm, SrtpProfile::Aes128CmSha1_80];
    assert!(gcm.contains(&keys(&world).unwrap().profile));

    let aes_cm = [SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80];
    let mut world = self::world(1, Client::passive(&aes_cm));
    assert!(world.run_until(SECOND, |world| keys(world).is_some()));
    assert_eq!(keys(&world).unwrap().profile, SrtpProfile::Aes128CmSha1_80);
    assert!(world.agrees(keys(&world).unwrap()));
}

#[test]
fn a_passive_client_with_an_rsa_certificate_connects() {
    let mut world = world(1, Client::passive_with_rsa_certificate());
    assert!(world.run_until(SECOND, |world| keys(world).is_some()), "{:?}", world.outputs);
    assert!(world.agrees(keys(&world).unwrap()));
}

#[test]
fn a_passive_client_without_extended_master_secret_is_refused() {
    let mut world = world(1, Client::passive_without_extended_master_secret());
    world.run_for(SECOND);
    assert_eq!(world.outputs, [TransportOutput::Ended(TransportEnd::HandshakeFailed)]);
}

#[test]
fn a_passive_client_is_known_by_its_fingerprint() {
    let mut world = world(1, Client::passive_robust(1));
    world.transport.set_fingerprint(world.now, Fingerprint([7; 32]));
    world.run_for(2 * SECOND);
    assert_eq!(world.outputs, [TransportOutput::Ended(TransportEnd::WrongFingerprint)]);
}

#[test]
fn a_certificate_without_its_key_is_worth_nothing() {
    for client in [Client::impostor(), Client::passive_impostor()] {
        let mut world = world(1, client);
        world.run_for(SECOND);
        assert_eq!(world.outputs, [TransportOutput::Ended(TransportEnd::HandshakeFailed)]);
    }
}

#[test]
fn every_fourth_datagram_may_be_lost_and_another_one_late() {
    for seed in 0..200 {
        for client in [Client::robust(seed), Client::passive_robust(seed)] {
            let setup = client.setup;
            let mut world = world(seed, client);
            (world.loss, world.reordering) = (0.25, 0.25);
            let up = world.run_until(20 * SECOND, |world| world.client.seen.dtls_connected && keys(world).is_some());
            assert!(up, "seed {seed}, {setup:?}: {:?}", world.outputs);
            assert!(world.agrees(keys(&world).unwrap()), "seed {seed}, {setup:?}");
        }
    }
}

#[test]
fn a_lost_hello_is_said_again() {
    let mut world = world(1, Client::passive_robust(1));
    world.loss = 1.0;
    world.run_for(Duration::from_millis(90));
    assert_eq!(world.server_datagrams, 1);
    world.loss = 0.0;
    assert!(world.run_until(Duration::from_millis(11) + THREE_ROUND_TRIPS, |world| keys(world).is_some()));
}

/// Finished overtakes what its keys come from; a client that had to say all of it again would take a second longer.
#[test]
fn the_last_flight_of_a_client_may_come_in_the_wrong_order() {
    let mut world = world(1, Client::robust_with_mtu(1, 400));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let recorder = seen.clone();
    let is_hello = |datagram: &[u8]| datagram[13] == 1;
    world.tamper = Some(Box::new(move |_, datagram| {
        if !is_hello(datagram) {
            recorder.borrow_mut().push(std::mem::take(datagram));
        }
    }));
    world.run_for(Duration::from_millis(30));
    let flight = seen.take();
    assert!(flight.len() >= 2, "{} datagrams", flight.len());
    assert!(keys(&world).is_none());
    for datagram in flight.iter().rev() {
        let _ = world.transport.on_dtls(world.now, udp(1), datagram);
    }
    world.tamper = Some(Box::new(|_, datagram| datagram.clear()));
    world.run_for(Duration::from_millis(1));
    assert!(keys(&world).is_some());
}

/// Whoever has seen a hello can send it again, and each would bring a flight of ours.
#[test]
fn a_hello_said_again_and_again_brings_a_flight_in_40_ms_and_no_more() {
    let mut world = world(1, Client::robust(1));
    world.tamper = Some(Box::new(|number, datagram| {
        if number > 0 {
            datagram.clear();
        }
    }));
    let mut hello = flights(Client::robust(1)).remove(0);
    world.run_for(Duration::from_millis(15));
    assert_eq!(world.server_datagrams, 1);
    for number in 0..1_000 {
        // Records of other numbers: it may be the client that says it again.
        hello[9..11].copy_from_slice(&u16::to_be_bytes(100 + number));
        let _ = world.transport.on_dtls(world.now, udp(1), &hello);
        if number % 100 == 99 {
            world.run_for(Duration::from_millis(4));
        }
    }
    assert_eq!(world.server_datagrams, 2, "40 ms have passed");
}

/// A server that says the end of its flight again has not had our answer, and need not wait for our timer.
#[test]
fn a_server_that_says_the_end_of_its_flight_again_is_answered_again_before_our_timer() {
    let mut world = world(1, Client::passive_robust_with_mtu(1, 300).waiting_for_init());
    let seen = Rc::new(RefCell::new(Vec::new()));
    let recorder = seen.clone();
    world.tamper = Some(Box::new(move |_, datagram| recorder.borrow_mut().push(datagram.clone())));
    // Two hellos and the answer to the server's flight.
    assert!(world.run_until(THREE_ROUND_TRIPS, |world| world.server_datagrams == 3));
    world.tamper = Some(Box::new(|_, datagram| datagram.clear()));
    // But for the request of a cookie, and what it says to our answer.
    let flight = seen.borrow()[1..].to_vec();
    assert!(flight.len() >= 3, "{} datagrams", flight.len());
    world.run_for(Duration::from_millis(45));
    assert_eq!(world.server_datagrams, 3, "it is too early to say it again unasked");
    for (datagram, expected) in [(&flight[0], 3), (&flight[1], 3), (flight.last().unwrap(), 4)] {
        let _ = world.transport.on_dtls(world.now, udp(1), datagram);
        world.run_for(Duration::from_millis(1));
        assert_eq!(world.server_datagrams, expected);
    }
}

/// Servers send their flight in fragments where datagrams are short.
#[test]
fn the_flight_of_a_passive_client_may_come_in_fragments() {
    let mut world = world(1, Client::passive_robust_with_mtu(1, 300));
    assert!(world.run_until(SECOND, |world| keys(world).is_some()), "{:?}", world.outputs);
    assert!(world.agrees(keys(&world).unwrap()));
}

#[test]
fn a_passive_client_that_never_answers_is_given_up_after_few_hellos() {
    let mut world = world(1, Client::passive_robust(1));
    world.loss = 1.0;
    world.run_for(HANDSHAKE_TIMEOUT + SECOND);
    assert_eq!(world.outputs, [TransportOutput::Ended(TransportEnd::HandshakeFailed)]);
    // After 100, 200, 400, 800 ms, then every 1.6 s.
    assert!((12..=18).contains(&world.server_datagrams), "{}", world.server_datagrams);
}

#[test]
fn the_role_stays_through_an_ice_restart_and_another_answer() {
    let mut world = World::connected_to(ChannelOpener::Server, 1, Client::passive_robust(1));
    world.run_for(SECOND);
    let sent = world.server_datagrams;
    let new = ice::new_credentials(0);
    world.transport.restart_ice(new.clone());
    world.local = new;
    world.checks_from = Some(udp(2));
    world.transport.set_dtls_role(world.now, DtlsRole::Server);
    world.run_for(2 * SECOND);
    assert_eq!(world.transport.path(), Some(udp(2)));
    assert_eq!((world.transport.dtls_role(), world.server_datagrams), (DtlsRole::Client, sent));
    let text = Bytes::from_static(b"still here");
    world.transport.send_data(world.now, DataChannel::Reliable, &text).unwrap();
    world.run_for(SECOND);
    assert_eq!(world.client.seen.messages, [(0, text.to_vec())]);
    assert_eq!(world.outputs.len(), 4, "connected once, and three channels");
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
    assert!(world.run_until(THREE_ROUND_TRIPS, |world| keys(world).is_some()));
    seen.take()
}

/// Where nothing is authenticated: record headers, ChangeCipherSpec, and HelloVerifyRequest, of which the server checks
/// the cookie. There is no other such byte.
fn unprotected(datagram: &[u8]) -> Vec<Range<usize>> {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    const HANDSHAKE: u8 = 22;
    const HELLO_VERIFY_REQUEST: u8 = 3;
    let (mut ranges, mut start) = (Vec::new(), 0);
    while start < datagram.len() {
        let body = start + 13;
        let end = body + usize::from(u16::from_be_bytes([datagram[start + 11], datagram[start + 12]]));
        let is_open = match datagram[start] {
            CHANGE_CIPHER_SPEC => true,
            HANDSHAKE => datagram[body] == HELLO_VERIFY_REQUEST,
            _ => false,
        };
        ranges.push(start..if is_open { end } else { body });
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
                assert!(world.agrees(keys), "byte {position} of datagram {number}");
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
fn no_changed_byte_of_a_passive_client_yields_keys_with_dimpl() {
    no_changed_byte_yields_keys(silent_dimpl);
}

#[test]
fn no_changed_byte_of_a_passive_client_yields_keys_with_rtc_dtls() {
    no_changed_byte_yields_keys(silent_rtc_dtls);
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
        sfu::fuzzing::dtls_client(&bytes);
    }

    /// Every four bytes alter one byte of a server's datagrams.
    #[test]
    fn an_altered_server_yields_no_keys_but_its_own(
        changes in prop::collection::vec((0u8..3, 0u16..1_200, any::<u8>()), 1..4),
    ) {
        let bytes = changes.into_iter().flat_map(|(which, at, value)| {
            let [high, low] = at.to_be_bytes();
            [which, high, low, value]
        });
        sfu::fuzzing::dtls_client(&bytes.collect::<Vec<_>>());
    }
}
