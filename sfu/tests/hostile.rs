//! Bytes from outside: counted, never a panic, no effect on others.

mod media;
mod support;

use std::time::Duration;

use media::*;
use proptest::prelude::*;
use sfu::command::IceCredentials;
use sfu::demux::{Discard, PacketKind};
use support::{check, raw_attribute};

fn discarded(world: &World) -> u64 {
    Discard::ALL.iter().map(|reason| world.engine.stats.discards(*reason)).sum()
}

proptest! {
    #[test]
    fn garbage_from_anywhere_is_dropped_and_counted(
        garbage in proptest::collection::vec((0u64..3, proptest::collection::vec(any::<u8>(), 0..200)), 1..40),
    ) {
        let (mut world, mut source) = World::watched();
        for (client, bytes) in garbage {
            // A record of DTLS may be one to wait for, or one that says nothing; all else has nothing to be.
            let is_counted = client == 2 || PacketKind::of(&bytes) != Some(PacketKind::Dtls);
            let before = discarded(&world);
            world.arrive([1, 10, 99][client as usize], bytes);
            world.turn();
            let counted = discarded(&world) - before;
            prop_assert!(counted == 1 || (!is_counted && counted == 0), "{counted}");
        }
        let before = world.media(10).len();
        world.send(1, &source.frame(true, 3));
        prop_assert_eq!(before, 0);
        prop_assert_eq!(world.media(10).len(), 3);
    }

    #[test]
    fn authenticated_garbage_leaves_the_others_their_media(
        garbage in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..120)), 1..30),
    ) {
        let (mut world, mut source) = World::watched();
        world.checker.garbage = true;
        for (n, (rtcp, bytes)) in garbage.into_iter().enumerate() {
            if rtcp {
                let mut packet = vec![0x81, 192 + (n as u8 % 20), 0, 2, 0, 0, 0, 4];
                packet.extend(bytes);
                world.send_rtcp(10, &packet);
            } else {
                let packet = Rtp { payload_type: VIDEO, sequence: n as u16, ssrc: 100, payload: bytes, ..Rtp::default() };
                world.send(1, &[packet]);
            }
        }
        world.media(10);
        source.sequence = 200;
        world.send(1, &source.frame(true, 3));
        prop_assert_eq!(world.media(10).iter().filter(|packet| packet.payload.len() >= 400).count(), 3);
    }
}

#[test]
fn rtp_longer_than_any_link_takes_whole_is_not_decrypted() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 1));
    assert_eq!(world.media(10).len(), 1);
    for (payload, expected) in [(1_900, 1), (2_100, 0), (60_000, 0)] {
        let before = world.engine.stats.discards(Discard::TooLarge);
        world.send(1, &[Rtp { payload: vec![0; payload], ..source.frame(false, 1).remove(0) }]);

        assert_eq!(world.media(10).len(), expected, "{payload} bytes");
        assert_eq!(world.engine.stats.discards(Discard::TooLarge) - before, 1 - expected as u64);
        if expected == 0 {
            // It was never there.
            source.sequence -= 1;
        }
    }
}

#[test]
fn a_replayed_packet_is_refused() {
    let (mut world, mut source) = World::watched();
    let keys = keys(1);
    let provider = rtc_crypto::default_provider().expect("a provider");
    let profile = rtc_srtp::protection_profile::ProtectionProfile::AeadAes128Gcm;
    let mut cipher =
        rtc_srtp::context::Context::new(&keys.receive_key, &keys.receive_salt, profile, None, None, provider.crypto())
            .expect("a context");
    let packet = source.frame(true, 1).remove(0);
    let sealed = cipher.encrypt_rtp(&packet.bytes()).expect("seals").to_vec();
    world.checker.published(address(1), &packet);
    for _ in 0..3 {
        world.arrive(1, sealed.clone());
    }
    world.turn();
    assert_eq!(world.engine.stats.discards(Discard::SrtpReplay), 2);
    assert_eq!(world.media(10).len(), 1);
}

#[test]
fn a_stranger_gets_no_answer() {
    let (mut world, _) = World::watched();
    world.arrive(77, vec![0x80; 100]);
    world.arrive(77, vec![22; 100]);
    world.arrive(77, vec![0; 20]);
    world.turn();
    assert!(world.out.transmitter().datagrams.is_empty());
    assert_eq!(world.engine.stats.discards(Discard::UnknownSender), 2);
    assert_eq!(world.engine.stats.discards(Discard::StunMalformed), 1);
}

#[test]
fn one_client_cannot_bind_streams_without_bound() {
    let (mut world, _) = World::watched();
    for ssrc in 0..500 {
        let packet = Rtp {
            payload_type: VIDEO,
            sequence: 1,
            ssrc: 10_000 + ssrc,
            payload: vp8(true, true, 1, 50),
            ..Rtp::default()
        };
        world.send(1, &[packet]);
    }
    assert!(world.engine.stats.discards(Discard::TooManyStreams) > 400);
}

/// A check with USE-CANDIDATE by somebody who knows the credentials of this client's transport.
fn nomination(client: u64) -> Vec<u8> {
    let local = IceCredentials { ufrag: format!("00ufrag{client}"), password: "p".repeat(32) };
    check(&local, vec![raw_attribute(0x25, &[])])
}

#[test]
fn nobody_takes_the_address_of_another_client_by_a_check_of_their_own() {
    let (mut world, mut source) = World::watched();
    world.join(66);
    world.arrive(1, nomination(1));
    world.send(1, &source.frame(true, 3));
    assert_eq!(world.media(10).len(), 3);

    // An attacker who has joined, and forges the publisher's address.
    world.arrive(1, nomination(66));
    world.send(1, &source.frame(false, 3));
    assert_eq!(world.media(10).len(), 3, "the publisher is still heard at its address");
    assert_eq!(world.engine.stats.discards(Discard::PathTaken), 1);
}

#[test]
fn a_client_is_answered_so_many_checks_from_whatever_addresses() {
    let (mut world, _) = World::watched();
    world.join(66);
    let forged = {
        let local = IceCredentials { ufrag: "00ufrag66".into(), password: "q".repeat(32) };
        check(&local, vec![raw_attribute(0x25, &[])])
    };
    for address in 1_000..1_400 {
        world.arrive(address, forged.clone());
    }
    assert_eq!(world.engine.stats.discards(Discard::OverBudget), 0, "those of others use none up");

    for address in 1_000..1_400 {
        world.arrive(address, nomination(66));
    }
    assert_eq!(world.engine.stats.discards(Discard::OverBudget), 400 - 256);
    world.arrive(1, nomination(1));
    world.pass(Duration::from_secs(1));
    for address in 1_000..1_200 {
        world.arrive(address, nomination(66));
    }
    let refused = world.engine.stats.discards(Discard::OverBudget);
    assert_eq!(refused, 400 - 256 + 200 - 100, "a hundred a second, and none of another client's");
}

#[test]
fn an_address_that_a_client_has_left_is_the_next_ones() {
    let (mut world, _) = World::watched();
    world.join(66);
    world.arrive(1, nomination(1));
    // The first one checks no more.
    world.pass(Duration::from_secs(7));
    world.arrive(1, nomination(66));
    assert_eq!(world.engine.stats.discards(Discard::PathTaken), 0);
}
