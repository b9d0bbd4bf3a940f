//! Counters tell what happened: as many packets and bytes as peers have sent, and as they got.

mod media;

use std::time::Duration;

use media::*;
use rtc_rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_shared::marshal::Marshal;
use sfu::command::*;
use sfu::rtcp::{Feedback, parse, write_nack, write_receiver_report};

const PUBLISHER: u64 = 1;
const VIEWERS: [u64; 2] = [10, 11];
/// What sealing adds to a packet of media, and of RTCP.
const RTP_TAG: usize = 16;
const RTCP_TAG: usize = 20;

fn watched() -> (World, Source) {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, video_section(100));
    for viewer in VIEWERS {
        world.join(viewer);
        world.subscribe(viewer, viewer, 1, send_section(100 * viewer as u32, video_codecs()));
    }
    (world, Source::new(100))
}

/// As an operator sees it.
fn counted(world: &World, name: &str) -> u64 {
    let counters = world.engine.stats.counters();
    counters.iter().filter(|(known, ..)| *known == name).map(|(.., value)| value).sum()
}

fn count_of(datagrams: &[Vec<u8>]) -> (u64, u64) {
    (datagrams.len() as u64, datagrams.iter().map(Vec::len).sum::<usize>() as u64)
}

#[test]
fn what_arrives_and_what_is_forwarded_is_counted_by_packets_and_bytes() {
    let (mut world, mut source) = watched();
    let frames = [source.frame(true, 5), source.frame(false, 3)];
    let packets: Vec<&Rtp> = frames.iter().flatten().collect();
    let bytes: usize = packets.iter().map(|packet| packet.bytes().len() + RTP_TAG).sum();
    world.out.transmitter().messages = 0;
    for frame in &frames {
        world.send(PUBLISHER, frame);
    }
    let mut report = Vec::new();
    write_receiver_report(&mut report, 4, &[]);
    (0..3).for_each(|_| world.send_rtcp(VIEWERS[0], &report));
    world.arrive(77, vec![1, 2, 3]);

    assert_eq!(counted(&world, "rtp_received_total"), 8);
    assert_eq!(counted(&world, "rtcp_received_total"), 3);
    assert_eq!(counted(&world, "datagrams_received_total"), 8 + 3 + 1);
    let expected = bytes + 3 * (report.len() + RTCP_TAG) + 3;
    assert_eq!(counted(&world, "bytes_received_total"), expected as u64);
    assert_eq!(counted(&world, "runs_sent_total"), world.out.transmitter().messages as u64);
    assert_eq!(counted(&world, "runs_sent_total"), 4, "a frame is one message to each");
    let sent = VIEWERS.map(|viewer| count_of(&world.sent_to(viewer)));
    assert_eq!(counted(&world, "rtp_sent_total"), sent[0].0 + sent[1].0);
    assert_eq!(counted(&world, "bytes_sent_total"), sent[0].1 + sent[1].1);
    assert_eq!(counted(&world, "rtp_retransmitted_total"), 0);
}

#[test]
fn bytes_of_publications_are_those_of_their_payloads() {
    let (mut world, mut source) = watched();
    let frames = [source.frame(true, 5), source.frame(false, 3)];
    for frame in &frames {
        world.send(PUBLISHER, frame);
        world.pass(STATS_INTERVAL);
    }
    let bytes: usize = frames.iter().flatten().map(|packet| packet.payload.len()).sum();
    assert_eq!(counted(&world, "rtp_bytes_received_total"), bytes as u64);
}

#[test]
fn packets_asked_for_again_are_counted_by_whether_they_were_still_there() {
    let (mut world, mut source) = watched();
    world.send(PUBLISHER, &source.frame(true, 2));
    let viewer = VIEWERS[0];
    let too_old = world.media(viewer)[0].sequence;
    for _ in 0..120 {
        world.send(PUBLISHER, &source.frame(false, 5));
    }
    let got = world.media(viewer);
    let sent = counted(&world, "rtp_sent_total");
    let mut packet = Vec::new();
    let recent = got[got.len() - 1].sequence;
    let lost = [too_old, recent.wrapping_sub(2), recent.wrapping_sub(1), recent];
    write_nack(&mut packet, 4, 100 * viewer as u32, lost.into_iter());
    world.send_rtcp(viewer, &packet);

    let again = count_of(&world.sent_to(viewer));
    assert_eq!((counted(&world, "rtp_retransmitted_total"), counted(&world, "bytes_retransmitted_total")), again);
    assert_eq!(again.0, 3);
    assert_eq!((counted(&world, "nacks_received_total"), counted(&world, "nacks_missed_total")), (4, 1));
    assert_eq!(counted(&world, "rtp_sent_total"), sent, "what is sent again is not counted with the rest");
}

#[test]
fn packets_that_publishers_are_asked_for_are_counted() {
    let (mut world, mut source) = watched();
    let mut frame = source.frame(true, 8);
    frame.drain(2..5);
    world.send(PUBLISHER, &frame);
    world.pass(Duration::from_millis(300));
    let control = world.received(PUBLISHER).1;
    let asked: usize = control
        .iter()
        .flat_map(|compound| parse(compound))
        .map(|feedback| if let Ok(Feedback::Nack { pairs, .. }) = feedback { pairs.count() } else { 0 })
        .sum();
    assert!(asked >= 6, "{asked}");
    assert_eq!(counted(&world, "nacks_sent_total"), asked as u64);
}

#[test]
fn requests_for_key_frames_are_counted_as_they_come_and_as_they_leave() {
    let (mut world, mut source) = watched();
    world.send(PUBLISHER, &source.frame(true, 2));
    world.pass(Duration::from_secs(3));
    world.received(PUBLISHER);
    let before = counted(&world, "keyframe_requests_sent_total");
    let entry = FirEntry { ssrc: 1_000, sequence_number: 1 };
    let of_nobody = FirEntry { ssrc: 9_999, ..entry };
    let fir = FullIntraRequest { sender_ssrc: 4, media_ssrc: 0, fir: vec![entry, of_nobody] };
    let pli = PictureLossIndication { sender_ssrc: 4, media_ssrc: 1_000 }.marshal().expect("a PLI");
    world.send_rtcp(VIEWERS[0], &fir.marshal().expect("a FIR"));
    (0..3).for_each(|_| world.send_rtcp(VIEWERS[0], &pli));
    world.pass(Duration::from_millis(300));

    assert_eq!(counted(&world, "keyframe_requests_received_total"), 5);
    assert_eq!(counted(&world, "firs_received_total"), 2);
    let asked = plis(&world.received(PUBLISHER).1).len() as u64;
    assert_eq!((asked, counted(&world, "keyframe_requests_sent_total") - before), (1, 1), "one for all");
}

#[test]
fn packets_of_the_past_are_counted_when_a_late_viewer_gets_them() {
    let (mut world, mut source) = watched();
    world.send(PUBLISHER, &source.frame(true, 60));
    world.pass(Duration::from_millis(500));
    let before = counted(&world, "rtp_caught_up_total");
    world.join(12);
    world.subscribe(12, 12, 1, send_section(5_000, video_codecs()));
    world.pass(Duration::from_millis(100));
    assert_eq!(counted(&world, "rtp_caught_up_total") - before, world.media(12).len() as u64);
    assert_eq!(counted(&world, "rtp_sent_total"), 3 * 60);
}

#[test]
fn subscriptions_are_counted_by_kind() {
    let (mut world, _) = watched();
    world.publish(PUBLISHER, 2, audio_section(200));
    world.subscribe(VIEWERS[0], 12, 2, send_section(5_000, audio_codecs()));
    world.engine.count_subscriptions();
    let now = &world.engine.stats.media.subscriptions;
    assert_eq!((now.audio, now.video), (1, 2));

    world.command(Command::Unsubscribe { subscription: SubscriptionId(VIEWERS[1]) });
    world.engine.count_subscriptions();
    let now = &world.engine.stats.media.subscriptions;
    assert_eq!((now.audio, now.video), (1, 1));
}

#[test]
fn the_time_that_control_takes_is_counted() {
    let (mut world, _) = watched();
    for micros in [7, 30] {
        world.engine.charge(world.now, Duration::from_micros(micros));
    }
    assert_eq!(counted(&world, "control_microseconds_total"), 37);
    assert_eq!(counted(&world, "handshakes_total"), 3);
}
