//! What the simulator itself must notice: each mutant here is a fault that a server could have.

use std::time::Duration;

use sfu::rtcp::{Feedback, parse};

use super::decoder::DecoderError;
use super::link::{LinkConfig, Loss};
use super::publisher::Publisher;
use super::rate::Rate;
use super::score;
use super::viewer::{Streams, TICK, Viewer};
use super::vp8::temporal_layer;
use super::world::World;
use crate::media::Rtp;

const STREAMS: Streams = Streams { video: 1_000, video_rtx: 1_001, audio: 2_000 };
const SECONDS: u32 = 10;
const END: Duration = Duration::from_secs(SECONDS as u64);
const WAY: Duration = Duration::from_millis(10);

/// A packet with its descriptor's numbers apart.
#[derive(Clone)]
struct Sent {
    at: Duration,
    layer: usize,
    packet: Rtp,
}

impl Sent {
    fn temporal(&self) -> u8 {
        temporal_layer(&self.packet.payload)
    }

    fn picture_id(&self) -> u16 {
        u16::from_be_bytes([self.packet.payload[2] & 0x7f, self.packet.payload[3]])
    }

    fn set_picture_id(&mut self, id: u16) {
        let [high, low] = (id & 0x7fff).to_be_bytes();
        (self.packet.payload[2], self.packet.payload[3]) = (0x80 | high, low);
    }
}

/// All layers of a camera.
fn film() -> Vec<Sent> {
    let mut publisher = Publisher::new(5);
    let pictures = (0..SECONDS * 30).flat_map(|_| publisher.capture(publisher.next_capture()));
    let sent = |(at, packet): (Duration, Rtp)| Sent { at, layer: (packet.ssrc / 100 - 1) as usize, packet };
    let mut film: Vec<Sent> = pictures.map(sent).collect();
    film.sort_by_key(|sent| sent.at);
    film
}

/// One layer, as a server that forwards it.
fn layer(layer: usize) -> Vec<Sent> {
    film().into_iter().filter(|sent| sent.layer == layer).collect()
}

/// With numbers that leave no gap, as if what is missing had never been.
fn renumbered(mut stream: Vec<Sent>) -> Vec<Sent> {
    let (mut id, mut tl0, mut before) = (100u16, 10u8, None);
    for (sequence, sent) in (1_000..).zip(&mut stream) {
        let picture = (sent.layer, sent.picture_id());
        if before.replace(picture) != Some(picture) {
            id += 1;
            tl0 = tl0.wrapping_add(u8::from(sent.temporal() == 0));
        }
        sent.set_picture_id(id);
        sent.packet.payload[4] = tl0;
        sent.packet.sequence = sequence;
        sent.packet.timestamp = (sent.at.as_millis() / 33 * 33 * 90) as u32;
    }
    // One timestamp a picture: that of its first packet.
    for at in 1..stream.len() {
        if stream[at].picture_id() == stream[at - 1].picture_id() {
            stream[at].packet.timestamp = stream[at - 1].packet.timestamp;
        }
    }
    stream
}

fn view(stream: &[Sent]) -> Viewer {
    let mut viewer = Viewer::new(Duration::ZERO, STREAMS);
    let mut tick = Duration::ZERO;
    for sent in stream {
        while tick <= sent.at {
            viewer.on_tick(tick);
            tick += TICK;
        }
        show_until(&mut viewer, sent.at);
        viewer.on_rtp(sent.at, &Rtp { ssrc: STREAMS.video, ..sent.packet.clone() }, 1_200);
    }
    // What waits for its time is shown after the end.
    show_until(&mut viewer, END * 2);
    viewer
}

fn show_until(viewer: &mut Viewer, end: Duration) {
    while let Some(due) = viewer.next_show().filter(|due| *due <= end) {
        viewer.show(due);
    }
}

fn errors(viewer: &Viewer) -> Vec<DecoderError> {
    viewer.errors().iter().map(|(_, error)| *error).collect()
}

#[test]
fn a_faultless_stream_is_shown_whole() {
    for stream in [layer(2), layer(0), renumbered(layer(1))] {
        let viewer = view(&stream);
        assert_eq!((viewer.shown.len(), errors(&viewer)), (300, vec![]));
        assert_eq!((viewer.plis.len(), viewer.nacked.len()), (0, 0));
        assert_eq!(score::freezes(&viewer.shown, END), []);
    }
}

#[test]
fn a_hole_in_a_base_frame_stops_the_picture_and_is_asked_for() {
    let mut stream = layer(2);
    let hole = stream.iter().position(|sent| sent.at > Duration::from_secs(2) && sent.temporal() == 0);
    stream.remove(hole.expect("some") + 1);
    let viewer = view(&stream);
    assert!(viewer.shown.len() < 70, "{} are shown", viewer.shown.len());
    assert_eq!(viewer.nacked.len(), 10);
    assert_eq!(viewer.plis.len(), 2, "each 3 s");
    assert_eq!(score::freezes(&viewer.shown, END).len(), 1);
    assert_eq!(errors(&viewer), []);
}

#[test]
fn a_hole_in_a_frame_of_an_upper_layer_holds_such_frames_back_until_a_sync_frame() {
    let mut stream = layer(2);
    let hole = stream.iter().position(|sent| sent.at > Duration::from_secs(2) && sent.temporal() == 2);
    let hole = stream[hole.expect("some")].picture_id();
    stream.retain(|sent| sent.picture_id() != hole);
    let viewer = view(&stream);
    assert!((292..=299).contains(&viewer.shown.len()), "{} are shown", viewer.shown.len());
    assert_eq!(errors(&viewer), []);
}

#[test]
fn a_hole_that_is_renumbered_away_is_a_missing_reference() {
    let mut stream = layer(2);
    let hole = stream.iter().position(|sent| sent.at > Duration::from_secs(2) && sent.temporal() == 0);
    let hole = stream[hole.expect("some")].picture_id();
    stream.retain(|sent| sent.picture_id() != hole);
    let viewer = view(&renumbered(stream));
    assert_eq!(errors(&viewer).first(), Some(&DecoderError::MissingReference));
}

/// Nothing refers to T2: a server may leave it out without a trace.
#[test]
fn frames_of_the_highest_temporal_layer_can_be_left_out() {
    let stream: Vec<Sent> = layer(2).into_iter().filter(|sent| sent.temporal() < 2).collect();
    let viewer = view(&renumbered(stream));
    assert_eq!((viewer.shown.len(), errors(&viewer)), (150, vec![]));
}

#[test]
fn a_switch_without_a_key_frame_is_a_missing_reference() {
    let at = Duration::from_secs(3);
    let switched = film().into_iter().filter(|sent| sent.layer == if sent.at < at { 0 } else { 1 }).collect();
    let viewer = view(&renumbered(switched));
    assert_eq!(errors(&viewer).first(), Some(&DecoderError::MissingReference));
}

#[test]
fn packets_of_two_layers_in_one_picture_are_noticed() {
    let mut stream = layer(2);
    let other = layer(1);
    let at = stream.iter().position(|sent| sent.at > Duration::from_secs(2) && !sent.packet.marker).expect("some") + 1;
    let stray = other.iter().find(|sent| sent.at > Duration::from_secs(2)).expect("some");
    let numbers = stream[at].packet.payload[..6].to_vec();
    stream[at].packet.payload[6..50].copy_from_slice(&stray.packet.payload[6..50]);
    assert_eq!(stream[at].packet.payload[..6], numbers);
    assert!(errors(&view(&stream)).contains(&DecoderError::Mixed));
}

#[test]
fn a_repeated_timestamp_is_noticed() {
    let mut stream = layer(2);
    let step = |sent: &Sent| sent.at.as_millis() / 3_000;
    let timestamps: Vec<u32> = stream.iter().map(|sent| sent.packet.timestamp).collect();
    for at in 1..stream.len() {
        let goes_back = step(&stream[at]) > 0;
        stream[at].packet.timestamp = timestamps[at].wrapping_sub(if goes_back { 90_000 } else { 0 });
    }
    assert!(errors(&view(&stream)).contains(&DecoderError::TimestampBackwards));
}

#[test]
fn a_picture_id_that_goes_back_is_noticed() {
    let mut stream = layer(2);
    for sent in stream.iter_mut().filter(|sent| sent.at > Duration::from_secs(3)) {
        sent.set_picture_id(sent.picture_id().wrapping_sub(30));
    }
    assert!(errors(&view(&stream)).contains(&DecoderError::PictureIdBackwards));
}

/// Once packets bear transport-wide numbers, arrivals are told by them, each 100 ms, and REMB is not.
#[test]
fn feedback_follows_the_extension_that_is_sent() {
    for is_numbered in [false, true] {
        let mut viewer = Viewer::new(Duration::ZERO, STREAMS);
        let (mut statuses, mut rembs) = (0, 0);
        for (number, sent) in (0..500u16).zip(layer(2)) {
            let mut packet = Rtp { ssrc: STREAMS.video, ..sent.packet };
            let time = (sent.at.as_micros() << 18) / 1_000_000;
            packet.extensions = vec![(6, (time as u32).to_be_bytes()[1..].to_vec())];
            packet.extensions.extend(is_numbered.then(|| (4, number.to_be_bytes().to_vec())));
            viewer.on_rtp(sent.at, &packet, 1_200);
            viewer.on_tick(sent.at);
            for compound in viewer.take_rtcp() {
                for feedback in parse(&compound).flatten() {
                    statuses +=
                        if let Feedback::TransportCc(report) = &feedback { report.statuses().count() } else { 0 };
                    rembs += usize::from(matches!(feedback, Feedback::Remb { .. }));
                }
            }
        }
        assert_eq!((statuses > 400, rembs > 5), (is_numbered, !is_numbered), "{statuses}, {rembs}");
    }
}

fn run(seed: u64, down: LinkConfig, feedback: Loss) -> World {
    let near = LinkConfig::wire(WAY);
    let mut world = World::new(seed, LinkConfig { jitter: WAY / 4, ..near.clone() }, near.clone());
    world.view(LinkConfig { loss: feedback, ..near }, down);
    world.run(END);
    world
}

fn lossy() -> LinkConfig {
    LinkConfig { loss: Loss::Uniform(0.03), ..LinkConfig::limited(Rate::constant(5_000_000), WAY) }
}

#[test]
fn one_seed_is_one_run_to_the_byte_and_another_seed_another() {
    let [first, again, other] = [1, 1, 2].map(|seed| run(seed, lossy(), Loss::None));
    let differs = first.trace.iter().zip(&again.trace).position(|(one, other)| one != other);
    assert_eq!((differs, first.trace.len()), (None, again.trace.len()), "the first datagram that differs");
    assert!(first.trace.len() > 5_000 && first.trace != other.trace);
    let figures = |world: &World| {
        let viewer = &world.seats[0].viewer;
        (viewer.shown.clone(), viewer.came.clone(), viewer.nacked.clone(), viewer.plis.clone())
    };
    assert_eq!(figures(&first), figures(&again));
    assert_ne!(figures(&first), figures(&other));
}

#[test]
fn who_is_never_heard_sees_what_loss_leaves() {
    let [heard, unheard] = [Loss::None, Loss::Uniform(1.0)].map(|feedback| {
        let world = run(1, lossy(), feedback);
        world.seats[0].viewer.shown.len()
    });
    assert!(heard > 240, "{heard} of 300 with NACKs");
    assert!(unheard < heard / 2, "{unheard} without, {heard} with");
}
