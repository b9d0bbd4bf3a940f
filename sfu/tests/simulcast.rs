//! Simulcast: layers are known by RID, the highest that flows is forwarded, switches leave no seam.

mod media;

use std::time::Duration;

use media::*;
use sfu::command::*;

fn world() -> (World, [Source; 3]) {
    let mut world = World::new();
    world.join(1);
    world.publish(1, 1, simulcast_section());
    world.join(10);
    world.subscribe(10, 1, 1, send_section(1000, video_codecs()));
    (world, [Source::layer(100, "q"), Source::layer(200, "h"), Source::layer(300, "f")])
}

/// 15-bit picture id of a packet from [`vp8`].
fn picture(packet: &Rtp) -> u16 {
    u16::from_be_bytes([packet.payload[2] & 0x7f, packet.payload[3]])
}

fn started(world: &World) -> Vec<u8> {
    let layers = world.events.iter().filter_map(|event| match event {
        Event::LayerStarted { layer, .. } => Some(*layer),
        _ => None,
    });
    layers.collect()
}

#[test]
fn layers_are_told_apart_by_rid_and_each_is_announced_once() {
    let (mut world, mut sources) = world();
    for index in [0, 2, 1] {
        world.send(1, &sources[index].frame(true, 2));
        world.send(1, &sources[index].frame(false, 2));
    }
    assert_eq!(started(&world), [0, 2, 1]);
}

#[test]
fn the_highest_layer_that_flows_is_forwarded_and_a_switch_leaves_no_seam() {
    let (mut world, mut sources) = world();
    world.send(1, &sources[0].frame(true, 2));
    for round in 0..20 {
        for source in &mut sources {
            let frame = source.frame(round % 5 == 0, 2);
            world.send(1, &frame);
        }
        world.pass(Duration::from_millis(33));
    }
    let got = world.media(10);
    assert!(got.len() >= 38, "{}", got.len());
    assert!(got.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
    for pair in got.windows(2) {
        let step = picture(&pair[1]).wrapping_sub(picture(&pair[0])) & 0x7fff;
        assert_eq!(step, u16::from(pair[0].marker), "picture ids go on by one with each frame");
        let time = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
        assert!(time < 90_000, "timestamps go on: {time}");
    }
    // It has arrived at the highest layer: what comes there comes out, and nothing else does.
    world.send(1, &sources[0].frame(false, 3));
    assert!(world.media(10).is_empty());
    world.send(1, &sources[2].frame(false, 3));
    assert_eq!(world.media(10).len(), 3);
}

#[test]
fn when_the_highest_layer_stops_the_next_one_takes_over_at_its_key_frame() {
    let (mut world, mut sources) = world();
    for source in &mut sources {
        world.send(1, &source.frame(true, 2));
    }
    world.send(1, &sources[2].frame(true, 2));
    world.media(10);
    for _ in 0..40 {
        for source in &mut sources[..2] {
            world.send(1, &source.frame(false, 1));
        }
        world.pass(Duration::from_millis(50));
    }
    assert!(plis(&world.received(1).1).contains(&200));
    assert!(world.media(10).is_empty());
    world.send(1, &sources[1].frame(true, 2));
    assert_eq!(world.media(10).len(), 2);
}

#[test]
fn a_limit_keeps_a_subscriber_at_its_layer() {
    let (mut world, mut sources) = world();
    world.command(Command::SetSubscription { subscription: SubscriptionId(1), paused: false, layer_max: 1 });
    for source in &mut sources {
        world.send(1, &source.frame(true, 2));
    }
    for _ in 0..10 {
        world.pass(Duration::from_millis(100));
        for source in &mut sources {
            world.send(1, &source.frame(true, 2));
        }
    }
    world.media(10);
    world.send(1, &sources[2].frame(true, 4));
    assert!(world.media(10).is_empty());
    world.send(1, &sources[1].frame(false, 4));
    assert_eq!(world.media(10).len(), 4);
}

#[test]
fn a_packet_of_no_known_section_or_layer_is_counted_and_dropped() {
    let (mut world, _) = world();
    let mut stranger = Source::layer(900, "x");
    world.send(1, &stranger.frame(true, 1));
    assert_eq!(world.engine.stats.discards(sfu::demux::Discard::UnknownStream), 1);
}
