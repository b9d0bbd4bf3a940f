//! Simulcast: layers are known by RID, the highest that flows is forwarded, switches leave no seam.

mod media;

use std::time::Duration;

use media::*;
use sfu::command::*;
use shared::media::Codec;

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

/// A subscriber asks a round trip after the loss, when it may get another layer already.
#[test]
fn what_was_lost_before_a_switch_comes_again_from_the_layer_that_it_was_of() {
    let (mut world, mut sources) = world();
    let mut got = Vec::new();
    for source in &mut sources {
        world.send(1, &source.frame(true, 3));
        got.extend(world.media(10));
    }
    assert_eq!(got.len(), 9, "each layer took over");
    let mut request = Vec::new();
    sfu::rtcp::write_nack(&mut request, 4, 1000, [1, 4, 7].map(|at: usize| got[at].sequence).into_iter());
    world.send_rtcp(10, &request);
    let again = world.media(10);
    let payloads = [1, 4, 7].map(|at: usize| [&got[at].sequence.to_be_bytes()[..], &got[at].payload].concat());
    assert_eq!(again.iter().map(|packet| &packet.payload).collect::<Vec<_>>(), payloads.iter().collect::<Vec<_>>());
    assert!(again.iter().zip([1, 4, 7]).all(|(packet, at)| packet.timestamp == got[at].timestamp));
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

/// Sections that say nothing of SSRCs: a camera's and a microphone's.
fn undeclared() -> World {
    let mut world = World::new();
    world.join(1);
    world.join(10);
    let layers = vec![Layer { rid: None, ssrc: None, rtx_ssrc: None }];
    world.publish(1, 1, ReceiveSection { layers: layers.clone(), ..video_section(0) });
    world.publish(1, 2, ReceiveSection { layers, ..audio_section(0) });
    world.subscribe(10, 1, 1, send_section(1000, video_codecs()));
    world.subscribe(10, 2, 2, SendSection { rtx_ssrc: None, ..send_section(2000, audio_codecs()) });
    world
}

/// As RTX sends it again (RFC 4588, section 4), with these extensions.
fn again(packet: &Rtp, ssrc: u32, sequence: u16, extensions: &[(u8, &str)]) -> Rtp {
    let payload = [&packet.sequence.to_be_bytes(), &packet.payload[..]].concat();
    let extensions = extensions.iter().map(|(id, value)| (*id, value.as_bytes().to_vec())).collect();
    Rtp { payload_type: VIDEO_RTX, ssrc, sequence, payload, extensions, ..packet.clone() }
}

fn unknown(world: &World) -> u64 {
    world.engine.stats.discards(sfu::demux::Discard::UnknownStream)
}

#[test]
fn without_a_mid_a_stream_is_that_of_the_only_section_with_its_payload_type() {
    let mut world = undeclared();
    let mut frame = Source::new(555).frame(true, 4);
    frame.iter_mut().for_each(|packet| packet.extensions.clear());
    let word = Rtp { payload_type: AUDIO, sequence: 5, ssrc: 777, payload: vec![1; 40], ..Rtp::default() };
    world.send(1, &[&frame[..2], &frame[3..], &[word]].concat());
    let got = world.media(10);
    assert_eq!(got.iter().filter(|packet| packet.ssrc == 1000).count(), 3);
    assert_eq!(got.iter().filter(|packet| packet.ssrc == 2000).count(), 1);

    // So are those that are sent again.
    world.send(1, &[again(&frame[2], 556, 1, &[])]);
    assert_eq!(world.media(10)[0].payload, frame[2].payload);
    assert_eq!(unknown(&world), 0);
    world.send(1, &[Rtp { payload_type: 50, ssrc: 778, payload: vec![1; 40], ..Rtp::default() }]);
    assert_eq!(unknown(&world), 1, "a payload type of no section");
}

#[test]
fn where_two_sections_have_a_payload_type_the_mid_tells_which_one_it_is() {
    let mut world = undeclared();
    let layers = vec![Layer { rid: None, ssrc: None, rtx_ssrc: None }];
    world.publish(1, 3, ReceiveSection { mid: text("2"), layers, ..video_section(0) });
    world.subscribe(10, 3, 3, send_section(3000, video_codecs()));
    let mut source = Source::new(555);
    let mut unnamed = |mid: Option<&str>| {
        let mut frame = source.frame(true, 2);
        frame.iter_mut().for_each(|packet| packet.extensions.clear());
        frame[0].extensions.extend(mid.map(|mid| (1, mid.as_bytes().to_vec())));
        frame
    };
    world.send(1, &unnamed(None));
    assert!(world.media(10).is_empty());
    assert_eq!(unknown(&world), 2);

    world.send(1, &unnamed(Some("2")));
    let got = world.media(10);
    assert_eq!(
        got.iter().map(|packet| packet.ssrc).collect::<Vec<_>>(),
        [3000, 3000],
        "named once, known from then on"
    );
}

/// RFC 8852, section 4.3.
#[test]
fn what_is_sent_again_is_of_the_layer_whose_repaired_rid_or_rid_it_names() {
    for extensions in [&[(1, "0"), (3, "h")][..], &[(1, "0"), (2, "h")], &[(1, "0"), (2, "q"), (3, "h")]] {
        let (mut world, [mut low, mut middle, _]) = world();
        world.send(1, &low.frame(true, 1));
        let frame = middle.frame(true, 4);
        world.send(1, &[&frame[..2], &frame[3..]].concat());
        world.pass(Duration::from_millis(300));
        world.send(1, &middle.frame(true, 1));
        world.media(10);
        let frame = middle.frame(false, 3);
        world.send(1, &[frame[0].clone(), frame[2].clone()]);
        assert_eq!(world.media(10).len(), 2);

        world.send(1, &[again(&frame[1], 201, 1, extensions)]);
        let got = world.media(10);
        assert_eq!(got.len(), 1, "{extensions:?}");
        assert_eq!(got[0].payload[6..], frame[1].payload[6..]);
        // It tells of its layer no more than the others do.
        world.send(1, &middle.frame(false, 2));
        assert_eq!(world.media(10).len(), 2);
    }
    let (mut world, [mut low, ..]) = world();
    let frame = low.frame(true, 2);
    world.send(1, &frame[..1]);
    world.send(1, &[again(&frame[1], 201, 1, &[(1, "0")])]);
    assert_eq!(unknown(&world), 1, "of one of three layers, and it does not say which");
}

/// libwebrtc names the layer of its retransmissions until a report has named their SSRC, others in the first ones alone.
#[test]
fn the_ssrc_of_what_is_sent_again_is_known_still_after_a_new_description() {
    let (mut world, [_, mut middle, _]) = world();
    world.send(1, &middle.frame(true, 4));
    world.checker.sent_again(201, 200);
    let mut repair = |world: &mut World, number: u16, extensions: &[(u8, &str)]| {
        let frame = middle.frame(false, 3);
        world.send(1, &[frame[0].clone(), frame[2].clone()]);
        world.media(10);
        world.send(1, &[again(&frame[1], 201, number, extensions)]);
        world.media(10).len()
    };
    assert_eq!(repair(&mut world, 1, &[(1, "0"), (3, "h")]), 1);
    assert_eq!(repair(&mut world, 2, &[]), 1);
    world.publish(1, 1, simulcast_section());
    assert_eq!(repair(&mut world, 3, &[]), 1);
}

#[test]
fn what_is_sent_again_without_a_name_is_of_the_layer_that_lacks_it() {
    for extensions in [&[][..], &[(1, "0")]] {
        let (mut world, [mut low, mut middle, _]) = world();
        world.checker.sent_again(201, 200);
        // Of the same codec.
        world.publish(1, 2, ReceiveSection { mid: text("1"), ..video_section(400) });
        world.send(1, &Source::new(400).frame(true, 2));
        world.send(1, &low.frame(true, 4));
        middle.sequence = 40_000;
        world.send(1, &middle.frame(true, 4));
        world.pass(Duration::from_millis(300));
        let frame = middle.frame(true, 3);
        world.send(1, &[frame[0].clone(), frame[2].clone()]);
        world.media(10);
        world.send(1, &[again(&frame[0], 201, 1, extensions)]);
        assert_eq!((world.media(10).len(), unknown(&world)), (0, 1), "nothing lacks that");
        world.send(1, &[again(&frame[1], 201, 2, extensions)]);
        assert_eq!((world.media(10).len(), unknown(&world)), (1, 1), "{extensions:?}");
    }
}

#[test]
fn a_layer_that_comes_back_under_another_ssrc_replaces_itself() {
    let (mut world, [mut low, ..]) = world();
    world.send(1, &low.frame(true, 2));
    let mut stale = low.frame(false, 1);
    stale[0].extensions.clear();
    (low.ssrc, low.sequence, low.picture) = (150, low.sequence.wrapping_sub(1), low.picture - 1);
    world.send(1, &low.frame(true, 2));
    assert_eq!(world.media(10).len(), 4);
    world.send(1, &stale);
    assert!(world.media(10).is_empty());
    assert_eq!(unknown(&world), 1, "the old one is known no more");
    world.send(1, &low.frame(false, 2));
    assert_eq!(world.media(10).len(), 2);
}

/// Another track comes, or a codec goes: nobody should see it of the tracks that go on.
#[test]
fn streams_that_go_on_in_a_new_description_go_on_without_a_seam() {
    let single = |ssrc: Option<u32>| ReceiveSection {
        layers: vec![Layer { rid: None, ssrc: ssrc.map(Ssrc), rtx_ssrc: None }],
        ..video_section(0)
    };
    for (before, after) in [
        (single(Some(100)), single(Some(100))),
        (single(None), single(None)),
        // What was known by its packets is now declared.
        (single(None), single(Some(100))),
        (simulcast_section(), simulcast_section()),
        // A layer goes, and the others change places.
        (
            simulcast_section(),
            ReceiveSection { layers: simulcast_section().layers.split_off(1), ..simulcast_section() },
        ),
    ] {
        let mut world = World::new();
        world.join(1);
        world.publish(1, 1, before);
        world.join(10);
        world.subscribe(10, 1, 1, send_section(1000, video_codecs()));
        let mut source = if after.layers.len() == 1 { Source::new(100) } else { Source::layer(100, "f") };
        world.send(1, &source.frame(true, 3));
        world.pass(Duration::from_millis(300));
        assert_eq!((world.media(10).len(), started(&world).len()), (3, 1));

        world.publish(1, 1, after.clone());
        world.send(1, &source.frame(false, 3));
        world.pass(Duration::from_millis(300));
        let layers = after.layers.len();
        assert_eq!(started(&world).len(), 1, "{layers} layers");
        // The place of a layer has changed: its viewers need a key frame.
        let goes_on = layers != 2;
        assert_eq!(world.media(10).len(), if goes_on { 3 } else { 0 }, "{layers} layers");
        world.send(1, &source.frame(true, 3));
        assert_eq!(world.media(10).len(), 3, "{layers} layers");
    }
}

/// Of the publisher, and of the viewer.
#[test]
fn payload_types_of_a_new_description_hold_from_then_on() {
    let of = |payload_type| vec![PayloadCodec { payload_type, codec: Codec::Vp8, rtx: None }];
    let mut world = World::new();
    world.join(1);
    world.publish(1, 1, video_section(100));
    world.join(10);
    world.subscribe(10, 1, 1, send_section(1000, video_codecs()));
    let mut source = Source::new(100);
    for (theirs, ours) in [(VIDEO, VIDEO), (VIDEO, 120), (121, 120), (121, 122)] {
        world.publish(1, 1, ReceiveSection { codecs: of(theirs), ..video_section(100) });
        world.subscribe(10, 1, 1, send_section(1000, of(ours)));
        let mut frame = source.frame(true, 2);
        frame.iter_mut().for_each(|packet| packet.payload_type = theirs);
        world.send(1, &frame);
        let got: Vec<u8> = world.media(10).iter().map(|packet| packet.payload_type).collect();
        assert_eq!(got, [ours, ours], "from {theirs}");
    }
}

#[test]
fn another_ssrc_in_a_new_description_is_another_stream() {
    let mut world = World::new();
    world.join(1);
    world.publish(1, 1, video_section(100));
    world.join(10);
    world.subscribe(10, 1, 1, send_section(1000, video_codecs()));
    world.send(1, &Source::new(100).frame(true, 3));
    world.publish(1, 1, video_section(300));
    world.send(1, &Source::new(300).frame(true, 3));
    assert_eq!(started(&world), [0, 0]);
    let layers: Vec<u32> = world
        .events
        .iter()
        .filter_map(|event| if let Event::LayerStarted { ssrc, .. } = event { Some(ssrc.0) } else { None })
        .collect();
    assert_eq!(layers, [100, 300]);
}
