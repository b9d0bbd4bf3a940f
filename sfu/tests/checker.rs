//! The checker that looks at all that clients are sent: which faults it finds.

mod media;

use std::panic::{AssertUnwindSafe, catch_unwind};

use media::*;
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;

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
    let mut frame = Source::new(100).frame(true, 6);
    frame.remove(2);
    world.send(PUBLISHER, &frame);
    world.send(PUBLISHER, &Source::new(300).frame(true, 6));
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
