//! A worker's turns: a large audience is served in parts, and nobody else waits for the whole of it.

mod media;

use std::time::Duration;

use media::*;
use sfu::command::*;

const PUBLISHER: u64 = 1;
const FIRST: u64 = 10;

/// A camera and a microphone with so many viewers, in the middle of a stream.
fn watched(viewers: u64) -> (World, Source) {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, video_section(100));
    world.publish(PUBLISHER, 2, audio_section(200));
    let mut source = Source::new(100);
    for n in FIRST..FIRST + viewers {
        world.join(n);
        world.subscribe(n, 2 * n, 1, send_section(4 * n as u32, video_codecs()));
        world.subscribe(n, 2 * n + 1, 2, send_section(4 * n as u32 + 2, audio_codecs()));
    }
    world.send(PUBLISHER, &source.frame(true, 3));
    world.send(PUBLISHER, &[word(0)]);
    world.out.transmitter().datagrams.clear();
    (world, source)
}

fn word(sequence: u16) -> Rtp {
    let extensions = vec![(5, vec![sequence as u8])];
    Rtp { payload_type: AUDIO, sequence, ssrc: 200, extensions, payload: vec![1; 100], ..Rtp::default() }
}

fn arrive(world: &mut World, packets: &[Rtp]) {
    for packet in packets {
        world.arrive_sealed(PUBLISHER, packet);
    }
}

/// Packets of either kind that a viewer got since the last call.
fn counts(world: &mut World, viewer: u64) -> (usize, usize) {
    let got = world.media(viewer);
    let audio = got.iter().filter(|packet| packet.payload_type == AUDIO).count();
    (audio, got.len() - audio)
}

#[test]
fn a_word_overtakes_a_frame_that_is_on_its_way_to_many() {
    let (mut world, mut source) = watched(300);
    arrive(&mut world, &source.frame(false, 7));
    assert_eq!(world.turn_in_part(), Some(world.now));
    arrive(&mut world, &[word(1)]);
    world.turn_in_part();
    let (last, first) = (FIRST + 299, FIRST);
    assert_eq!((counts(&mut world, first), counts(&mut world, last)), ((1, 7), (1, 0)));
    while world.turn_in_part().is_some() {}
    assert_eq!((counts(&mut world, first), counts(&mut world, last)), ((0, 0), (0, 7)));
}

#[test]
fn a_flood_of_words_does_not_stop_the_picture() {
    let (mut world, mut source) = watched(300);
    arrive(&mut world, &source.frame(false, 7));
    for sequence in 1..=5 {
        arrive(&mut world, &[word(sequence), word(sequence + 100)]);
        world.turn_in_part();
    }
    assert_eq!(counts(&mut world, FIRST + 299).1, 7);
}

#[test]
fn a_small_audience_does_not_wait_for_a_large_one() {
    let (mut world, mut source) = watched(300);
    world.join(2);
    world.publish(2, 3, video_section(300));
    world.join(1000);
    world.subscribe(1000, 5000, 3, send_section(90_000, video_codecs()));
    let mut other = Source::new(300);
    world.send(2, &other.frame(true, 2));
    world.out.transmitter().datagrams.clear();
    arrive(&mut world, &source.frame(false, 7));
    for packet in other.frame(false, 2) {
        world.arrive_sealed(2, &packet);
    }
    world.turn_in_part();
    world.turn_in_part();
    assert_eq!(counts(&mut world, 1000), (0, 2));
    assert_eq!(counts(&mut world, FIRST + 299), (0, 0));
}

#[test]
fn who_comes_and_goes_during_a_fan_out_takes_no_turn_from_others() {
    let (mut world, mut source) = watched(300);
    arrive(&mut world, &source.frame(false, 7));
    world.turn_in_part();
    let served: Vec<u64> = (FIRST..FIRST + 20).collect();
    for viewer in &served {
        assert_eq!(counts(&mut world, *viewer), (0, 7));
        world.command(Command::Unsubscribe { subscription: SubscriptionId(2 * viewer) });
    }
    world.join(1000);
    world.subscribe(1000, 5000, 1, send_section(90_000, video_codecs()));
    arrive(&mut world, &source.frame(false, 4));
    while world.turn_in_part().is_some() {}
    world.pass(Duration::from_millis(20));
    for viewer in FIRST + 20..FIRST + 300 {
        assert_eq!(counts(&mut world, viewer), (0, 11), "{viewer}");
    }
    // From the key frame on.
    assert_eq!(counts(&mut world, 1000), (0, 14));
}

#[test]
fn the_rest_of_a_frame_is_awaited_for_a_millisecond_although_others_speak() {
    let (mut world, mut source) = watched(30);
    let frame = source.frame(false, 6);
    arrive(&mut world, &frame[..4]);
    arrive(&mut world, &[word(1)]);
    let end = world.now + Duration::from_millis(1);
    assert_eq!(world.turn_in_part(), Some(end));
    assert_eq!(counts(&mut world, FIRST), (1, 0));
    world.pass(Duration::from_micros(400));
    arrive(&mut world, &frame[4..]);
    world.out.transmitter().messages = 0;
    assert_eq!(world.turn_in_part(), None);
    assert_eq!((counts(&mut world, FIRST), world.out.transmitter().messages), ((0, 6), 30));
    arrive(&mut world, &source.frame(false, 6)[..4]);
    world.turn_in_part();
    world.pass(Duration::from_millis(1));
    assert_eq!(world.turn_in_part(), None);
    assert_eq!(counts(&mut world, FIRST), (0, 4));
}

#[test]
fn an_audience_that_cannot_be_served_in_time_goes_on_with_the_next_key_frame() {
    let (mut world, mut source) = watched(30);
    world.send(PUBLISHER, &source.frame(false, 5));
    let before = world.media(FIRST);
    world.received(PUBLISHER);
    // Nobody is served meanwhile.
    for _ in 0..100 {
        arrive(&mut world, &source.frame(false, 7));
    }
    world.turn();
    assert!(world.media(FIRST).is_empty());
    assert!(world.engine.stats.losses.overrun >= 30 * 500);
    world.pass(Duration::from_millis(400));
    assert_eq!(plis(&world.received(PUBLISHER).1), [100]);
    world.send(PUBLISHER, &source.frame(false, 5));
    assert!(world.media(FIRST).is_empty());
    world.send(PUBLISHER, &source.frame(true, 5));
    let after = world.media(FIRST);
    assert_eq!(after.len(), 5);
    assert_eq!(after[0].sequence, before[4].sequence.wrapping_add(1));
}

#[test]
fn words_that_came_too_late_are_left_out() {
    let (mut world, _) = watched(30);
    for sequence in 1..=120 {
        arrive(&mut world, &[word(sequence)]);
    }
    world.turn();
    assert_eq!(counts(&mut world, FIRST), (0, 0));
    arrive(&mut world, &[word(121)]);
    world.turn_in_part();
    assert_eq!(counts(&mut world, FIRST), (1, 0));
}

#[test]
fn an_audience_that_is_a_little_late_gets_all_of_it() {
    let (mut world, mut source) = watched(30);
    for sequence in 1..=90 {
        arrive(&mut world, &[word(sequence)]);
    }
    for _ in 0..50 {
        arrive(&mut world, &source.frame(false, 7));
    }
    while world.turn_in_part().is_some() {
        world.pass(Duration::from_millis(1));
    }
    for viewer in [FIRST, FIRST + 29] {
        assert_eq!(counts(&mut world, viewer), (90, 350));
    }
    assert_eq!(world.engine.stats.losses.overrun, 0);
}
