//! Loss in both directions: retransmission from the shared history, requests to the publisher.

mod media;

use std::time::Duration;

use media::*;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_shared::marshal::Marshal;
use sfu::command::*;
use sfu::demux::Discard;
use sfu::rtcp::{Feedback, ReportBlock, SenderReport, parse, write_nack, write_receiver_report, write_sender_report};
use shared::media::Codec;

fn nack(world: &mut World, lost: &[u16]) {
    let mut packet = Vec::new();
    write_nack(&mut packet, 4, 1000, lost.iter().copied());
    world.send_rtcp(10, &packet);
}

/// Sequence numbers that the publisher is asked for.
fn asked(world: &mut World) -> Vec<u16> {
    let control = world.received(1).1;
    control
        .iter()
        .flat_map(|compound| parse(compound))
        .flat_map(|feedback| match feedback {
            Ok(Feedback::Nack { media: 100, pairs, .. }) => pairs.collect::<Vec<_>>(),
            _ => Vec::new(),
        })
        .collect()
}

#[test]
fn a_lost_packet_comes_again_as_a_retransmission_of_its_number() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 6));
    let got = world.media(10);
    nack(&mut world, &[got[2].sequence, got[4].sequence]);
    let again = world.media(10);
    assert_eq!(again.len(), 2);
    for (again, lost) in again.iter().zip([&got[2], &got[4]]) {
        assert_eq!((again.ssrc, again.payload_type, again.timestamp), (1001, VIDEO_RTX, lost.timestamp));
        assert_eq!(again.payload[..2], lost.sequence.to_be_bytes());
        assert_eq!(again.payload[2..], lost.payload[..]);
    }
    assert_ne!(again[0].sequence, again[1].sequence);
}

#[test]
fn of_two_streams_that_a_client_gets_the_one_that_it_names_is_sent_again() {
    let (mut world, mut source) = World::watched();
    world.publish(1, 2, ReceiveSection { mid: text("1"), ..video_section(300) });
    world.subscribe(10, 2, 2, send_section(2000, video_codecs()));
    let mut other = Source::new(300);
    world.send(1, &source.frame(true, 2));
    world.send(1, &other.frame(true, 2));
    let got = world.media(10);
    for ssrc in [1000, 2000] {
        let lost = got.iter().find(|packet| packet.ssrc == ssrc).expect("of both");
        let mut packet = Vec::new();
        write_nack(&mut packet, 4, ssrc, [lost.sequence].into_iter());
        world.send_rtcp(10, &packet);
        let [again] = &world.media(10)[..] else { panic!("one packet") };
        assert_eq!((again.ssrc, &again.payload[2..]), (ssrc + 1, &lost.payload[..]));
    }
}

/// A decoder of scalable AV1 shows nothing of a packet without it.
#[test]
fn a_retransmission_has_the_dependency_descriptor_of_its_packet() {
    let codecs = vec![PayloadCodec { payload_type: 45, codec: Codec::Av1 { profile: 0 }, rtx: Some(46) }];
    let mut world = World::new();
    world.join(1);
    let extensions = ExtensionIds { dependency_descriptor: Some(8), ..extensions() };
    world.publish(1, 1, ReceiveSection { codecs: codecs.clone(), extensions, ..video_section(100) });
    world.join(10);
    let extensions = ExtensionIds { dependency_descriptor: Some(12), ..ExtensionIds::default() };
    world.subscribe(10, 1, 1, SendSection { extensions, ..send_section(1000, codecs) });
    let packet = Rtp {
        payload_type: 45,
        marker: true,
        sequence: 1,
        ssrc: 100,
        extensions: vec![(8, vec![0x80, 0, 1, 0x10])],
        payload: vec![0x18, 0x30, 7, 7],
        ..Rtp::default()
    };
    world.send(1, &[packet]);
    let lost = world.media(10)[0].sequence;
    nack(&mut world, &[lost]);
    let [again] = &world.media(10)[..] else { panic!("one packet") };
    assert_eq!((again.ssrc, again.extension(12)), (1001, Some(&[0x80, 0, 1, 0x10][..])));
}

/// Bytes of retransmissions that a subscription gets in all of a minute, whatever it asks for: a key frame's, 30 % of
/// what it is sent, 8 kB a second.
#[test]
fn a_flood_of_nacks_gets_no_more_than_a_share_of_what_is_sent() {
    let (mut world, mut source) = World::watched();
    let bytes = |packets: &[Rtp]| packets.iter().map(|packet| packet.payload.len()).sum::<usize>();
    let (mut sent, mut again, mut recent) = (0, 0, Vec::new());
    for frame in 0..600 {
        world.send(1, &source.frame(frame == 0, 3));
        let got = world.media(10);
        sent += bytes(&got);
        recent.extend(got.iter().map(|packet| packet.sequence));
        let last = recent.len().saturating_sub(200);
        nack(&mut world, &recent[last..]);
        again += bytes(&world.media(10));
        world.pass(Duration::from_millis(100));
    }
    let most = (64 << 10) + sent * 3 / 10 + 60 * 8_000;
    assert!((most / 2..=most).contains(&again), "{again} bytes, of {most}; {sent} were sent");
    let stats = &world.engine.stats;
    assert!(stats.nacks_over_budget > 50_000, "{}", stats.nacks_over_budget);
}

#[test]
fn a_packet_is_sent_again_once_in_a_round_trip() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 6));
    let lost = world.media(10)[0].sequence;
    for _ in 0..5_000 {
        nack(&mut world, &[lost]);
    }
    assert_eq!((world.media(10).len(), world.engine.stats.nacks_repeated), (1, 4_999));
    world.pass(Duration::from_millis(60));
    nack(&mut world, &[lost]);
    assert_eq!(world.media(10).len(), 1);
}

#[test]
fn who_has_asked_for_too_much_is_answered_again_a_moment_later() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 2));
    let mut got = world.media(10);
    for _ in 0..100 {
        world.send(1, &source.frame(false, 3));
        got.extend(world.media(10));
    }
    let lost: Vec<u16> = got.iter().map(|packet| packet.sequence).collect();
    nack(&mut world, &lost);
    nack(&mut world, &lost);
    assert!(world.media(10).len() < lost.len());
    assert_eq!(plis(&world.received(1).1), []);
    world.pass(Duration::from_millis(520));
    assert_eq!(plis(&world.received(1).1), [100], "a key frame is cheaper");
    nack(&mut world, &lost[..2]);
    assert_eq!(world.media(10).len(), 2);
}

/// At 2 Mbit/s that is two seconds: a round trip to the other side of the world, and several tries.
#[test]
fn what_was_lost_five_hundred_packets_ago_comes_again() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 2));
    let lost = world.media(10)[0].sequence;
    for _ in 0..166 {
        world.send(1, &source.frame(false, 3));
    }
    world.media(10);
    nack(&mut world, &[lost]);
    assert_eq!(world.media(10).len(), 1, "the history still holds it");
}

#[test]
fn numbers_never_sent_are_not_answered() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 2));
    let got = world.media(10);
    nack(&mut world, &[got[1].sequence.wrapping_add(1), got[0].sequence.wrapping_sub(1)]);
    assert!(world.media(10).is_empty());
}

#[test]
fn a_gap_is_asked_for_again_until_it_is_filled_and_the_late_packet_is_forwarded_in_its_place() {
    let (mut world, mut source) = World::watched();
    let frame = source.frame(true, 5);
    let (lost, rest): (Vec<Rtp>, Vec<Rtp>) =
        frame.into_iter().enumerate().fold(Default::default(), |mut all, (n, p)| {
            if n == 2 {
                all.0.push(p)
            } else {
                all.1.push(p)
            }
            all
        });
    world.send(1, &rest);
    world.pass(Duration::from_millis(300));
    let asked_for = asked(&mut world);
    assert!(asked_for.len() >= 2 && asked_for.iter().all(|number| *number == lost[0].sequence), "{asked_for:?}");

    let got = world.media(10);
    assert_eq!(got[2].sequence, got[1].sequence.wrapping_add(2));
    // It comes back by RTX (RFC 4588).
    let mut payload = lost[0].sequence.to_be_bytes().to_vec();
    payload.extend_from_slice(&lost[0].payload);
    let rtx = Rtp { payload_type: VIDEO_RTX, ssrc: 101, sequence: 9, payload, ..lost[0].clone() };
    world.send(1, &[rtx]);
    let late = world.media(10);
    assert_eq!((late[0].sequence, late[0].payload_type), (got[1].sequence.wrapping_add(1), VIDEO));
    assert_eq!(late[0].payload, lost[0].payload);
    world.pass(Duration::from_millis(500));
    assert!(asked(&mut world).is_empty());
}

#[test]
fn a_retransmission_of_what_was_never_sent_stops_nothing() {
    let (mut world, mut source) = World::watched();
    let frame = source.frame(true, 3);
    world.send(1, &frame);
    assert_eq!(world.media(10).len(), 3);
    for ahead in [1_100, 30_000] {
        let mut payload = frame[2].sequence.wrapping_add(ahead).to_be_bytes().to_vec();
        payload.extend_from_slice(&frame[2].payload);
        world.send(1, &[Rtp { payload_type: VIDEO_RTX, ssrc: 101, sequence: ahead, payload, ..frame[2].clone() }]);
        assert!(world.media(10).is_empty());
    }

    world.send(1, &source.frame(false, 3));
    assert_eq!(world.media(10).len(), 3);
    assert_eq!(world.engine.stats.discards(Discard::RtpMalformed), 2);
}

#[test]
fn packets_that_others_overtook_are_counted_and_those_sent_again_are_not() {
    let (mut world, mut source) = World::watched();
    let mut frame = source.frame(true, 6);
    let lost = frame.remove(4);
    frame.swap(1, 2);
    world.send(1, &frame);
    let mut payload = lost.sequence.to_be_bytes().to_vec();
    payload.extend_from_slice(&lost.payload);
    world.send(1, &[Rtp { payload_type: VIDEO_RTX, ssrc: 101, sequence: 9, payload, ..lost }]);
    world.pass(STATS_INTERVAL);

    let video = &world.engine.stats.media.received.video;
    assert_eq!((video.lost, video.out_of_order), (0, 1));
    assert!((video.out_of_order_percent.sum() - 100.0 / 6.0).abs() < 0.01, "{}", video.out_of_order_percent.sum());
}

#[test]
fn an_outage_asks_for_a_key_frame_instead_of_a_thousand_packets() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 2));
    world.pass(Duration::from_secs(1));
    world.received(1);
    source.sequence = source.sequence.wrapping_add(1000);
    world.send(1, &source.frame(false, 2));
    world.pass(Duration::from_millis(200));
    let control = world.received(1).1;
    assert_eq!(plis(&control), [100]);
    assert_eq!(world.engine.stats.nacks_sent, 0);
}

/// What lacks a packet for good stays broken until the next key frame, which may be minutes away.
#[test]
fn what_is_asked_for_in_vain_is_given_up_for_a_key_frame() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 2));
    world.pass(Duration::from_secs(1));
    world.received(1);
    let mut frame = source.frame(false, 3);
    let lost = frame.remove(1).sequence;
    world.send(1, &frame);
    world.pass(Duration::from_millis(500));
    let control = world.received(1).1;
    assert!(plis(&control).is_empty(), "it may still come");
    world.pass(Duration::from_millis(500));
    let control = world.received(1).1;
    assert_eq!(plis(&control), [100]);
    world.pass(Duration::from_secs(2));
    assert!(!asked(&mut world).contains(&lost));
}

#[test]
fn a_packet_twice_is_forwarded_once() {
    let (mut world, mut source) = World::watched();
    let frame = source.frame(true, 2);
    world.send(1, &frame);
    let mut payload = frame[0].sequence.to_be_bytes().to_vec();
    payload.extend_from_slice(&frame[0].payload);
    world.send(1, &[Rtp { payload_type: VIDEO_RTX, ssrc: 101, sequence: 1, payload, ..frame[0].clone() }]);
    assert_eq!(world.media(10).len(), 2);
}

#[test]
fn receiver_reports_carry_the_real_loss_and_transport_feedback_what_arrived() {
    let (mut world, mut source) = World::watched();
    let mut frame = source.frame(true, 8);
    for (n, packet) in frame.iter_mut().enumerate() {
        packet.extensions.push((4, (n as u16).to_be_bytes().to_vec()));
    }
    frame.remove(3);
    frame.remove(3);
    world.send(1, &frame);
    world.pass(Duration::from_millis(1100));
    let control = world.received(1).1;
    let feedback: Vec<_> = control.iter().flat_map(|compound| parse(compound)).flatten().collect();
    let lost = feedback.iter().find_map(|feedback| match feedback {
        Feedback::ReceiverReport { blocks, .. } => {
            blocks.clone().find(|block| block.ssrc == 100).map(|block| (block.fraction_lost, block.cumulative_lost))
        }
        _ => None,
    });
    assert_eq!(lost, Some((64, 2)));
    let statuses = feedback.iter().filter_map(|feedback| match feedback {
        Feedback::TransportCc(feedback) => Some(feedback.statuses()),
        _ => None,
    });
    let statuses: Vec<_> = statuses.flatten().map(|status| (status.sequence, status.arrival_us.is_some())).collect();
    assert_eq!(statuses, [0, 1, 2, 3, 4, 5, 6, 7].map(|number| (number, number != 3 && number != 4)));
}

/// As libwebrtc does until it can decode: each 200 ms.
fn ask_for_keyframes(world: &mut World, times: usize) -> usize {
    let pli = PictureLossIndication { sender_ssrc: 4, media_ssrc: 1000 }.marshal().expect("a PLI");
    let mut asked = 0;
    for _ in 0..times {
        world.send_rtcp(10, &pli);
        world.pass(Duration::from_millis(200));
        asked += plis(&world.received(1).1).len();
    }
    asked
}

#[test]
fn a_viewer_that_asks_for_key_frames_again_and_again_costs_its_publisher_one_in_half_a_second() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 3));
    world.pass(Duration::from_secs(1));
    world.received(1);
    assert_eq!(ask_for_keyframes(&mut world, 10), 4, "in two seconds");
}

#[test]
fn a_request_that_a_key_frame_has_answered_meanwhile_is_not_passed_on() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 3));
    world.pass(Duration::from_secs(1));
    world.received(1);
    assert_eq!(ask_for_keyframes(&mut world, 2), 1);
    world.send(1, &source.frame(true, 3));
    assert_eq!(ask_for_keyframes(&mut world, 1), 0, "sent before the key frame came");
    world.pass(Duration::from_secs(2));
    assert_eq!(plis(&world.received(1).1), []);
    assert_eq!(ask_for_keyframes(&mut world, 1), 1, "the key frame was of no use");
}

#[test]
fn rtcp_of_another_stream_than_ours_does_nothing() {
    let (mut world, mut source) = World::watched();
    world.join(11);
    world.send(1, &source.frame(true, 2));
    let got = world.media(10);
    world.pass(Duration::from_secs(1));
    world.received(1);
    // Of nobody's stream, and of a stream of somebody else.
    for (client, media) in [(10, 5555), (11, 1000)] {
        let mut packet = Vec::new();
        write_nack(&mut packet, 4, media, got.iter().map(|packet| packet.sequence));
        packet.extend(PictureLossIndication { sender_ssrc: 4, media_ssrc: media }.marshal().expect("a PLI"));
        world.send_rtcp(client, &packet);
        world.pass(Duration::from_millis(40));
        assert!(world.media(client).is_empty() && world.media(10).is_empty());
        assert_eq!(plis(&world.received(1).1), []);
    }
    world.command(Command::SetSubscription { subscription: SubscriptionId(9), paused: true, layer_max: 0 });
    assert_eq!(world.engine.stats.discards(sfu::demux::Discard::StaleCommand), 1);
}

#[test]
fn a_subscribers_report_tells_loss_jitter_and_round_trip() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 3));
    let mut packet = Vec::new();
    write_sender_report(&mut packet, &SenderReport { ssrc: 100, ntp: 7 << 32, rtp: 0, packets: 3, octets: 3000 }, &[]);
    world.send_rtcp(1, &packet);
    let ours = (0..200).find_map(|_| {
        world.pass(Duration::from_millis(20));
        let (_, control) = world.received(10);
        control.iter().flat_map(|packet| parse(packet)).find_map(|feedback| match feedback {
            Ok(Feedback::SenderReport(report, _)) => Some(report),
            _ => None,
        })
    });
    let last_sr = (ours.expect("a sender report").ntp >> 16) as u32;
    world.pass(Duration::from_millis(200));
    let mut block = ReportBlock {
        ssrc: 1000,
        fraction_lost: 64,
        cumulative_lost: 3,
        highest_sequence: 2,
        jitter: 900,
        last_sr,
        // 100 ms.
        delay_since_last_sr: 6_554,
    };
    for cumulative_lost in [3, 3, 5] {
        block.cumulative_lost = cumulative_lost;
        packet.clear();
        write_receiver_report(&mut packet, 4, &[block]);
        world.send_rtcp(10, &packet);
    }

    let sent = &world.engine.stats.media.sent.video;
    assert_eq!(sent.lost, 5);
    assert_eq!((sent.loss_percent.count(), sent.loss_percent.sum()), (3, 75.0));
    assert_eq!((sent.jitter_us.count(), sent.jitter_us.sum()), (3, 30_000.0));
    let rtt_ms = sent.rtt_ms.sum() / 3.0;
    assert!((80.0..=120.0).contains(&rtt_ms) && sent.rtt_ms.count() == 3, "{rtt_ms} ms");

    // A report that answers none of ours tells no round trip.
    block.last_sr = last_sr.wrapping_add(1 << 30);
    packet.clear();
    write_receiver_report(&mut packet, 4, &[block]);
    world.send_rtcp(10, &packet);
    assert_eq!(world.engine.stats.media.sent.video.rtt_ms.count(), 3);
}

#[test]
fn what_publishers_lose_is_counted_with_their_jitter() {
    let (mut world, mut source) = World::watched();
    let frame = source.frame(true, 10);
    world.send(1, &frame[..4]);
    world.send(1, &frame[5..]);
    world.pass(STATS_INTERVAL + Duration::from_millis(100));

    let received = &world.engine.stats.media.received.video;
    assert_eq!((received.lost, received.loss_percent.count(), received.loss_percent.sum()), (1, 1, 10.0));
    assert_eq!(received.jitter_us.count(), 1);
    assert!(world.engine.stats.rtp_bytes_received > 0);
}

/// RFC 3550, section 6.4.1: a publisher finds its round trip by that.
#[test]
fn receiver_reports_tell_how_long_ago_the_last_sender_report_came() {
    let (mut world, mut source) = World::watched();
    world.send(1, &source.frame(true, 3));
    let block = |world: &mut World, pause: u64| {
        world.received(1);
        world.pass(Duration::from_millis(pause));
        let control = world.received(1).1;
        let blocks = control.iter().flat_map(|compound| parse(compound)).filter_map(|feedback| match feedback {
            Ok(Feedback::ReceiverReport { mut blocks, .. }) => blocks.next(),
            _ => None,
        });
        let block = blocks.last().expect("a report");
        (block.last_sr, block.delay_since_last_sr)
    };
    assert_eq!(block(&mut world, 1_100), (0, 0));
    let mut packet = Vec::new();
    let report = SenderReport { ssrc: 100, ntp: 0x1234_5678_9abc_def0, rtp: 0, packets: 3, octets: 3000 };
    write_sender_report(&mut packet, &report, &[]);
    world.send_rtcp(1, &packet);
    let (last_sr, first) = block(&mut world, 1_000);
    assert_eq!(last_sr, 0x5678_9abc);
    assert!((1..=65_536).contains(&first), "{first} of 1/65536 s");
    let (last_sr, second) = block(&mut world, 3_000);
    assert_eq!(last_sr, 0x5678_9abc);
    // At a step of the clock, which are 20 ms.
    assert!((second - first).abs_diff(3 * 65_536) <= 3 * 1_400, "{first}, then {second}");
}

#[test]
fn a_sender_report_is_of_the_stream_that_it_names_alone() {
    let (mut world, mut source) = World::watched();
    world.publish(1, 2, audio_section(200));
    world.send(1, &source.frame(true, 3));
    world.send(1, &[Rtp { payload_type: AUDIO, sequence: 5, ssrc: 200, payload: vec![1; 40], ..Rtp::default() }]);
    // The second is of the stream that sends again, the third of nobody's.
    for (ssrc, seconds) in [(200, 7), (101, 8), (999, 9)] {
        let report = SenderReport { ssrc, ntp: seconds << 32, rtp: 0, packets: 1, octets: 40 };
        let mut packet = Vec::new();
        write_sender_report(&mut packet, &report, &[]);
        world.send_rtcp(1, &packet);
    }
    world.received(1);
    world.pass(Duration::from_millis(1_100));
    let control = world.received(1).1;
    let mut reported: Vec<_> = control
        .iter()
        .flat_map(|compound| parse(compound))
        .filter_map(
            |feedback| if let Ok(Feedback::ReceiverReport { blocks, .. }) = feedback { Some(blocks) } else { None },
        )
        .flatten()
        .map(|block| (block.ssrc, block.last_sr))
        .collect();
    reported.sort_unstable();
    reported.dedup();
    assert_eq!(reported, [(100, 0), (200, 7 << 16)]);
}

/// What a publisher has not said to understand (RFC 4585, section 4.2), and what makes no sense, it is not asked for.
#[test]
fn a_publisher_is_asked_for_nothing_that_it_does_not_offer() {
    let (mut world, mut source) = World::watched();
    world.publish(1, 2, audio_section(200));
    let word = |sequence| Rtp { payload_type: AUDIO, sequence, ssrc: 200, payload: vec![1; 40], ..Rtp::default() };
    world.send(1, &source.frame(true, 3));
    world.send(1, &[word(1), word(2), word(4)]);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.engine.stats.nacks_sent, 0, "audio without NACK");
    world.received(1);
    world.send(1, &[word(2_000)]);
    world.pass(Duration::from_secs(2));
    assert_eq!(plis(&world.received(1).1), [], "audio has no key frames");

    world.command(Command::SetMuted { publication: PublicationId(1), muted: true });
    let pli = PictureLossIndication { sender_ssrc: 4, media_ssrc: 1000 }.marshal().expect("a PLI");
    world.send_rtcp(10, &pli);
    world.pass(Duration::from_secs(2));
    assert_eq!(plis(&world.received(1).1), [], "nobody sees a muted camera");
}

/// Jitter as receiver reports tell it (RFC 3550, appendix A.8), of packets of 20 ms that come 5 ms late or early in
/// turn.
#[test]
fn jitter_is_told_to_publishers_in_ticks_of_their_clock_and_to_rooms_in_microseconds() {
    for (section, payload_type, ticks) in [(video_section(100), VIDEO, 90), (audio_section(100), AUDIO, 48)] {
        let mut world = World::new();
        world.join(1);
        world.publish(1, 1, section);
        for number in 0..250u16 {
            let timestamp = u32::from(number).wrapping_mul(20 * ticks).wrapping_sub(50_000);
            let payload = vp8(true, true, number, 50);
            world.send(1, &[Rtp { payload_type, sequence: number, timestamp, ssrc: 100, payload, ..Rtp::default() }]);
            world.pass(Duration::from_millis(if number % 2 == 0 { 15 } else { 25 }));
        }
        world.pass(Duration::from_secs(1));
        let control = world.received(1).1;
        let reported = control.iter().flat_map(|compound| parse(compound)).filter_map(|feedback| match feedback {
            Ok(Feedback::ReceiverReport { mut blocks, .. }) => blocks.next(),
            _ => None,
        });
        let jitter = reported.last().expect("a report").jitter;
        assert!((5 * ticks - 5..=5 * ticks).contains(&jitter), "{jitter}");
        let [stats] = received(&mut world)[..] else { panic!("one report to the room") };
        assert!((4_950..=5_000).contains(&stats.jitter_us), "{stats:?}");
        assert_eq!((stats.packets, stats.lost), (250, 0));
    }
}

/// What rooms were told of publications since the last call.
fn received(world: &mut World) -> Vec<ReceiveStats> {
    let stats = |event| if let Event::PublicationStats { stats, .. } = event { Some(stats) } else { None };
    std::mem::take(&mut world.events).into_iter().filter_map(stats).collect()
}

#[test]
fn rooms_are_told_what_came_of_all_layers_since_they_were_told_last() {
    let mut world = World::new();
    world.join(1);
    world.publish(1, 1, simulcast_section());
    let (mut low, mut high) = (Source::layer(100, "q"), Source::layer(300, "f"));
    let bytes = |packets: &[Rtp]| packets.iter().map(|packet| packet.payload.len() as u64).sum::<u64>();
    let (mut first, mut second) = (low.frame(true, 6), high.frame(true, 10));
    first.remove(2);
    second.drain(4..6);
    second.swap(1, 2);
    world.send(1, &first);
    world.send(1, &second);
    world.pass(STATS_INTERVAL);
    let expected = bytes(&first) + bytes(&second);
    let [stats] = received(&mut world)[..] else { panic!("one report") };
    assert_eq!((stats.packets, stats.bytes, stats.lost, stats.out_of_order), (13, expected, 3, 1));

    let frame = high.frame(false, 5);
    world.send(1, &frame[..1]);
    world.send(1, &frame[3..]);
    world.pass(STATS_INTERVAL);
    let expected = bytes(&frame[..1]) + bytes(&frame[3..]);
    let [stats] = received(&mut world)[..] else { panic!("one report") };
    assert_eq!((stats.packets, stats.bytes, stats.lost, stats.out_of_order), (3, expected, 2, 0));

    world.pass(STATS_INTERVAL);
    let [stats] = received(&mut world)[..] else { panic!("one report") };
    assert_eq!((stats.packets, stats.bytes, stats.lost, stats.out_of_order), (0, 0, 0, 0));
}

/// Packets of one frame, of which the second is lost on the way to us, and the third and fourth change places.
const BURST: usize = 60;

/// SRTP counts how often sequence numbers have rolled over (RFC 3711, section 3.3.1): the publisher's do with its 36th
/// packet and the viewer's later, and once more each.
#[test]
fn sequence_numbers_of_both_directions_roll_over_under_loss_and_reordering() {
    let (mut world, mut source) = World::watched();
    let (mut got, mut rollovers, mut asked_again) = (0, 0, 0);
    let mut last: Option<u16> = None;
    for frame in 0..1_150 {
        let mut packets = source.frame(frame % 100 == 0, BURST);
        packets.remove(1);
        packets.swap(1, 2);
        world.send(1, &packets);
        world.pass(Duration::from_millis(33));
        let (seen, _) = world.received(10);
        got += seen.len();
        let highest = seen.last().expect("each frame goes on").sequence;
        if let Some(before) = last.replace(highest).filter(|last| highest < *last) {
            rollovers += 1;
            // From before the rollover: of this frame, or the last one of the frame before.
            let of_this = seen.iter().map(|packet| packet.sequence).find(|sequence| *sequence > highest);
            let lost = of_this.unwrap_or(before);
            nack(&mut world, &[lost]);
            let again = world.media(10);
            asked_again += again.iter().filter(|again| again.payload[..2] == lost.to_be_bytes()).count();
        }
        // Late, of the frame before.
        if frame % 10 == 0 {
            world.send(1, &packets[..1]);
        }
    }
    assert_eq!(got, 1_150 * (BURST - 1));
    assert!(rollovers >= 1, "{rollovers}");
    assert_eq!(asked_again, rollovers);
    assert_eq!(world.engine.stats.discards(sfu::demux::Discard::SrtpAuthentication), 0);
}
