//! The checker that looks at all that clients are sent: which faults it finds.

mod media;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use media::checker::Checker;
use media::*;
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;
use sfu::command::*;
use shared::media::Codec;

const PUBLISHER: u64 = 1;
const VIEWER: u64 = 10;

/// What the checker says of a packet that the viewer would get, had a broken engine sent it.
fn verdict(world: &mut World, packet: &Rtp) -> Result<(), String> {
    let keys = keys(VIEWER);
    let provider = rtc_crypto::default_provider().expect("a provider");
    let mut cipher =
        Context::new(&keys.send_key, &keys.send_salt, ProtectionProfile::AeadAes128Gcm, None, None, provider.crypto())
            .expect("a context");
    let sealed = cipher.encrypt_rtp(&packet.bytes()).expect("seals");
    let World { checker, now, .. } = world;
    let checked = catch_unwind(AssertUnwindSafe(|| checker.check(*now, address(VIEWER), &sealed)));
    checked.map_err(|panic| *panic.downcast::<String>().expect("a message"))
}

/// Two cameras that one viewer watches, and the last packet that it got of each. The first camera has lost a packet.
fn cameras() -> (World, [Rtp; 2]) {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.join(VIEWER);
    for (publication, ssrc) in [(1, 100), (2, 300)] {
        world.publish(PUBLISHER, publication, video_section(ssrc));
        world.subscribe(VIEWER, publication, publication, send_section(10 * ssrc, video_codecs()));
    }
    let mut frames = [100, 300].map(|ssrc| Source::new(ssrc).frame(true, 6));
    frames[0].remove(2);
    for frame in &frames {
        world.send(PUBLISHER, frame);
        // Others like the last one that the viewer has not got.
        let last = frame.last().expect("a packet");
        (1..=4).for_each(|ahead| world.checker.published(address(PUBLISHER), &moved(last, ahead)));
    }
    let got = world.media(VIEWER);
    let last = |ssrc| got.iter().rfind(|packet| packet.ssrc == ssrc).expect("of both").clone();
    let last = [last(1_000), last(3_000)];
    (world, last)
}

fn moved(packet: &Rtp, ahead: i16) -> Rtp {
    Rtp { sequence: packet.sequence.wrapping_add_signed(ahead), ..packet.clone() }
}

#[test]
fn as_many_numbers_may_be_skipped_as_the_publisher_skips_in_this_publication() {
    for index in [0, 1] {
        let (mut world, last) = cameras();
        assert_eq!(verdict(&mut world, &moved(&last[index], 1)), Ok(()));

        let skipped = verdict(&mut world, &moved(&last[index], 3)).expect_err("a gap");
        assert!(skipped.contains("by the publisher"), "{skipped}");
        let again = verdict(&mut world, &last[index]).expect_err("sent before");
        assert!(again.contains("was sent before"), "{again}");
    }
}

#[test]
fn a_packet_that_comes_late_fills_a_gap() {
    let (mut world, [first, second]) = cameras();
    // Of six packets the third is missing.
    assert_eq!(verdict(&mut world, &moved(&first, -3)), Ok(()));
    for (last, late) in [(first, -9), (second, -9)] {
        let behind = verdict(&mut world, &moved(&last, late)).expect_err("behind all");
        assert!(behind.contains("fills no gap"), "{behind}");
    }
}

#[test]
fn a_payload_of_vp8_is_the_publishers_but_for_picture_id_and_tl0picidx() {
    let (mut world, [last, other]) = cameras();
    // Descriptor, extension, picture id of two bytes, TL0PICIDX, and the payload proper.
    for at in [0, 1, 5, 6, last.payload.len() - 1] {
        let mut packet = moved(&last, 1);
        packet.payload[at] ^= 0x20;
        let changed = verdict(&mut world, &packet).expect_err("another payload");
        assert!(changed.contains("no packet of its publisher's"), "{at}: {changed}");
    }
    let mut shorter = moved(&last, 1);
    shorter.payload.pop();
    for packet in [shorter, Rtp { payload: other.payload, ..moved(&last, 1) }] {
        let changed = verdict(&mut world, &packet).expect_err("another payload");
        assert!(changed.contains("no packet of its publisher's"), "{changed}");
    }
    let mut next = moved(&last, 1);
    next.timestamp += 1;
    let id = u16::from_be_bytes([next.payload[2], next.payload[3]]).wrapping_add(1) | 0x8000;
    next.payload[2..4].copy_from_slice(&id.to_be_bytes());
    next.payload[4] = next.payload[4].wrapping_add(1);
    assert_eq!(verdict(&mut world, &next), Ok(()));
}

/// RFC 6464: by its subscriber's number, 9.
#[test]
fn the_audio_level_is_that_of_the_packet() {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, audio_section(200));
    world.join(VIEWER);
    let extensions = ExtensionIds { audio_level: Some(9), ..ExtensionIds::default() };
    world.subscribe(VIEWER, 1, 1, SendSection { extensions, ..send_section(3_000, audio_codecs()) });
    let word = |sequence, level| Rtp {
        payload_type: AUDIO,
        sequence,
        ssrc: 200,
        extensions: vec![(5, vec![level])],
        payload: vec![1; 40],
        ..Rtp::default()
    };
    world.send(PUBLISHER, &[word(1, 20)]);
    let [got] = &world.media(VIEWER)[..] else { panic!("one packet") };

    world.checker.published(address(PUBLISHER), &word(2, 35));
    let next = moved(got, 1);
    for extensions in [vec![], vec![(9, vec![20])], vec![(9, vec![36])]] {
        let other = verdict(&mut world, &Rtp { extensions, ..next.clone() }).expect_err("no level, or another's");
        assert!(other.contains("no packet of its publisher's"), "{other}");
    }
    let other = verdict(&mut world, &Rtp { payload: vec![2; 40], ..next.clone() }).expect_err("another payload");
    assert!(other.contains("no packet of its publisher's"), "{other}");
    assert_eq!(verdict(&mut world, &Rtp { extensions: vec![(9, vec![35])], ..next }), Ok(()));
}

#[test]
fn the_dependency_descriptor_goes_along_with_av1_and_not_with_vp8() {
    for (codec, is_sent) in [(Codec::Av1 { profile: 0 }, true), (Codec::Vp8, false)] {
        let codecs = vec![PayloadCodec { payload_type: VIDEO, codec, rtx: None }];
        let mut world = World::new();
        world.join(PUBLISHER);
        let extensions = ExtensionIds { dependency_descriptor: Some(8), ..extensions() };
        world.publish(PUBLISHER, 1, ReceiveSection { codecs: codecs.clone(), extensions, ..video_section(100) });
        world.join(VIEWER);
        let extensions = ExtensionIds { dependency_descriptor: Some(12), ..ExtensionIds::default() };
        world.subscribe(VIEWER, 1, 1, SendSection { extensions, rtx_ssrc: None, ..send_section(1_000, codecs) });

        let descriptor = vec![0x40, 0, 2];
        let extensions = vec![(8, descriptor.clone())];
        let payload = vec![0x10, 0x30, 7, 7];
        let packet = Rtp { payload_type: VIDEO, sequence: 1, ssrc: 100, extensions, payload, ..Rtp::default() };
        world.checker.published(address(PUBLISHER), &packet);
        let [with, without] = [vec![(12, descriptor)], vec![]].map(|extensions| {
            let packet = Rtp { ssrc: 1_000, extensions, ..packet.clone() };
            verdict(&mut world, &packet).is_ok()
        });
        assert_eq!((with, without), (is_sent, !is_sent), "{codec:?}");
    }
}

#[test]
fn a_report_lacks_what_is_on_its_way_only_where_there_is_a_network() {
    for is_networked in [false, true] {
        let mut world = World::new();
        if is_networked {
            world.checker = Checker::networked();
        }
        world.join(PUBLISHER);
        world.publish(PUBLISHER, 1, video_section(100));
        let frame = Source::new(100).frame(true, 4);
        world.send(PUBLISHER, &[frame[0].clone(), frame[2].clone()]);
        world.checker.published(address(PUBLISHER), &frame[3]);

        let reported = catch_unwind(AssertUnwindSafe(|| world.pass(Duration::from_secs(2))));
        assert_eq!(reported.is_ok(), is_networked);
    }
}
