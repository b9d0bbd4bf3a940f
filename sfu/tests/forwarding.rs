//! What a publisher sends reaches its subscribers, renumbered, in runs, and nobody else.

mod media;

use std::time::Duration;

use media::*;
use rtc_rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_shared::marshal::Marshal;
use sfu::command::*;
use shared::media::Codec;

const PUBLISHER: u64 = 1;

/// The first one that a client has received since it was last looked at.
fn sender_report(world: &mut World, client: u64) -> sfu::rtcp::SenderReport {
    let reports: Vec<_> = world.received(client).1;
    let found = reports.iter().flat_map(|compound| sfu::rtcp::parse(compound)).find_map(|feedback| match feedback {
        Ok(sfu::rtcp::Feedback::SenderReport(report, _)) => Some(report),
        _ => None,
    });
    found.expect("a sender report")
}

fn watched(subscribers: u64) -> (World, Source) {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, video_section(100));
    for n in 0..subscribers {
        world.join(10 + n);
        world.subscribe(10 + n, n, 1, send_section(1000 + 2 * n as u32, video_codecs()));
    }
    (world, Source::new(100))
}

#[test]
fn a_frame_reaches_every_subscriber_under_its_own_ssrc_without_gaps() {
    let (mut world, mut source) = watched(5);
    let frames = [source.frame(true, 5), source.frame(false, 3), source.frame(false, 4)];
    for frame in &frames {
        world.send(PUBLISHER, frame);
    }
    let sent: Vec<&Rtp> = frames.iter().flatten().collect();
    for n in 0..5 {
        let got = world.media(10 + n);
        assert_eq!(got.len(), sent.len());
        for (got, sent) in got.iter().zip(&sent) {
            assert_eq!(got.ssrc, 1000 + 2 * n as u32);
            assert_eq!((got.marker, got.payload_type), (sent.marker, VIDEO));
            assert_eq!(&got.payload, &sent.payload);
        }
        assert!(got.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
        assert!(got.windows(2).all(|pair| pair[1].timestamp.wrapping_sub(pair[0].timestamp) <= 3000));
    }
}

#[test]
fn a_frames_packets_leave_as_one_run_a_subscriber() {
    let (mut world, mut source) = watched(8);
    world.out.transmitter().messages = 0;
    world.send(PUBLISHER, &source.frame(true, 7));
    assert_eq!(world.out.transmitter().messages, 8);
}

/// A packet a few bytes short is padded (RFC 3550, section 5.1), which neither the picture nor the reports show.
#[test]
fn packets_that_differ_by_a_few_bytes_leave_as_one_run_and_arrive_as_they_were() {
    let (mut world, mut source) = watched(1);
    let mut frame = source.frame(true, 7);
    for (packet, length) in frame.iter_mut().zip([1_000, 988, 1_000, 999, 995, 990, 400]) {
        packet.payload.resize(length, 7);
    }
    world.out.transmitter().messages = 0;
    world.send(PUBLISHER, &frame);
    assert_eq!(world.out.transmitter().messages, 1);
    let got = world.media(10);
    assert_eq!(got.len(), frame.len());
    for (got, sent) in got.iter().zip(&frame) {
        assert_eq!(got.payload, sent.payload);
    }
    // The last may be shorter.
    let mut frame = source.frame(false, 3);
    for (packet, length) in frame.iter_mut().zip([1_000, 995, 990]) {
        packet.payload.resize(length, 7);
    }
    world.send(PUBLISHER, &frame);
    let sealed: Vec<usize> = world.sent_to(10).iter().map(Vec::len).collect();
    assert_eq!([sealed[0] - sealed[1], sealed[0] - sealed[2]], [0, 10]);
    // What differs by more is a run of its own.
    let mut frame = source.frame(false, 4);
    for (packet, length) in frame.iter_mut().zip([900, 913, 913, 400]) {
        packet.payload.resize(length, 7);
    }
    world.out.transmitter().messages = 0;
    world.send(PUBLISHER, &frame);
    assert_eq!(world.out.transmitter().messages, 2);
    assert_eq!(world.media(10).len(), 4);

    let octets: usize = [1_000, 988, 1_000, 999, 995, 990, 400, 1_000, 995, 990, 900, 913, 913, 400].iter().sum();
    let theirs = sfu::rtcp::SenderReport { ssrc: 100, ntp: 77 << 32, rtp: source.timestamp, packets: 14, octets: 9 };
    let mut report = Vec::new();
    sfu::rtcp::write_sender_report(&mut report, &theirs, &[]);
    world.send_rtcp(PUBLISHER, &report);
    world.pass(Duration::from_millis(400));
    let report = sender_report(&mut world, 10);
    assert_eq!((report.packets, report.octets as usize), (14, octets));
}

/// Keys, certificates and ICE passwords are secret and do not follow from it; here the keys are given.
#[test]
fn one_seed_reproduces_a_run_to_the_byte() {
    let run = |seed| {
        let mut world = World::with_seed(seed);
        world.join(PUBLISHER);
        world.publish(PUBLISHER, 1, video_section(100));
        for n in 0..3 {
            world.join(10 + n);
            world.subscribe(10 + n, n, 1, send_section(1000 + 2 * n as u32, video_codecs()));
        }
        let mut source = Source::new(100);
        for frame in 0..30 {
            world.send(PUBLISHER, &source.frame(frame % 10 == 0, 5));
            world.pass(Duration::from_millis(33));
        }
        std::mem::take(&mut world.out.transmitter().datagrams)
    };
    let (once, again) = (run(7), run(7));
    assert!(once.len() > 450 && once == again, "{} datagrams, {}", once.len(), again.len());
    assert!(run(8) != once, "SSRCs and first numbers are others");
}

#[test]
fn nothing_is_forwarded_before_a_key_frame() {
    let (mut world, mut source) = watched(1);
    world.send(PUBLISHER, &source.frame(false, 3));
    assert!(world.media(10).is_empty());
    world.send(PUBLISHER, &source.frame(true, 3));
    assert_eq!(world.media(10).len(), 3);
}

#[test]
fn late_subscribers_start_with_the_last_key_frame_and_nobody_asks_the_publisher() {
    let (mut world, mut source) = watched(1);
    for frame in 0..30 {
        world.send(PUBLISHER, &source.frame(frame == 0, 5));
        world.pass(Duration::from_millis(33));
    }
    world.received(PUBLISHER);
    for n in 0..20 {
        world.join(100 + n);
        world.subscribe(100 + n, 100 + n, 1, send_section(5000 + 2 * n as u32, video_codecs()));
    }
    // The past comes in bursts, one a turn; what arrives meanwhile follows in order.
    for _ in 0..6 {
        world.send(PUBLISHER, &source.frame(false, 5));
        world.pass(Duration::from_millis(33));
    }
    assert!(plis(&world.received(PUBLISHER).1).is_empty());
    for n in 0..20 {
        let got = world.media(100 + n);
        assert_eq!(got.len(), 36 * 5);
        assert!(got.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
        let spread = got[got.len() - 1].timestamp.wrapping_sub(got[0].timestamp);
        assert!(spread < 6 * 3000 + 3000, "a second of the past in a moment: {spread}");
    }
    world.received(10);
    world.send(PUBLISHER, &source.frame(false, 5));
    assert_eq!((world.media(10).len(), world.media(100).len()), (5, 5));
}

/// Sealing another packet under the same number would break the cipher.
#[test]
fn no_number_is_sent_twice_to_one_who_catches_up_while_a_frame_is_awaited() {
    let (mut world, mut source) = watched(30);
    world.send(PUBLISHER, &source.frame(true, 5));
    world.join(100);
    world.subscribe(100, 100, 1, send_section(5000, video_codecs()));
    let frame = source.frame(false, 6);
    for packet in &frame[..4] {
        world.arrive_sealed(PUBLISHER, packet);
    }
    assert!(world.turn_in_part().is_some());
    world.pass(Duration::from_millis(20));
    for packet in &frame[4..] {
        world.arrive_sealed(PUBLISHER, packet);
    }
    world.turn();
    let got = world.media(100);
    assert_eq!(got.len(), 11);
    assert!(got.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
}

#[test]
fn a_late_subscriber_of_a_still_picture_is_shown_all_of_it_although_nothing_arrives() {
    // Of as many packets as are sent in a turn, and one more or less.
    for packets in [1, 2, 47, 48, 49, 60, 96, 97] {
        let (mut world, mut source) = watched(1);
        world.send(PUBLISHER, &source.frame(true, packets));
        world.pass(Duration::from_millis(500));
        world.join(100);
        world.subscribe(100, 100, 1, send_section(5000, video_codecs()));
        world.pass(Duration::from_millis(100));
        assert_eq!(world.media(100).len(), packets);
        world.send(PUBLISHER, &source.frame(false, 3));
        assert_eq!(world.media(100).len(), 3, "after {packets}");
    }
}

#[test]
fn late_subscribers_start_with_the_newest_key_frame_whichever_came_last() {
    for is_overtaken in [false, true] {
        let (mut world, mut source) = watched(1);
        world.send(PUBLISHER, &source.frame(false, 1));
        let (older, newer) = (source.frame(true, 4), source.frame(true, 3));
        world.send(PUBLISHER, &older[usize::from(is_overtaken)..]);
        world.send(PUBLISHER, &newer);
        if is_overtaken {
            world.send(PUBLISHER, &older[..1]);
        }
        world.send(PUBLISHER, &source.frame(false, 2));
        world.join(100);
        world.subscribe(100, 100, 1, send_section(5000, video_codecs()));
        world.pass(Duration::from_millis(60));
        let got = world.media(100);
        assert_eq!(got.len(), 3 + 2, "overtaken: {is_overtaken}");
        assert_eq!(got[0].payload, newer[0].payload);
    }
}

#[test]
fn late_subscribers_make_us_ask_for_one_key_frame_when_the_last_is_too_long_ago() {
    let (mut world, mut source) = watched(1);
    for frame in 0..90 {
        world.send(PUBLISHER, &source.frame(frame == 0, 5));
    }
    world.pass(Duration::from_secs(2));
    world.received(PUBLISHER);
    for n in 0..50 {
        world.join(100 + n);
        world.subscribe(100 + n, 100 + n, 1, send_section(5000 + 2 * n as u32, video_codecs()));
    }
    world.pass(Duration::from_millis(450));
    assert_eq!(plis(&world.received(PUBLISHER).1), [100]);
    world.send(PUBLISHER, &source.frame(true, 2));
    for n in 0..50 {
        assert_eq!(world.media(100 + n).len(), 2);
    }
}

#[test]
fn a_muted_publication_is_not_forwarded_and_starts_again_with_a_key_frame() {
    let (mut world, mut source) = watched(1);
    world.send(PUBLISHER, &source.frame(true, 2));
    let before = world.media(10);
    world.command(Command::SetMuted { publication: PublicationId(1), muted: true });
    world.send(PUBLISHER, &source.frame(true, 2));
    assert!(world.media(10).is_empty());
    world.pass(Duration::from_secs(3));
    world.received(PUBLISHER);
    world.command(Command::SetMuted { publication: PublicationId(1), muted: false });
    world.pass(Duration::from_millis(40));
    assert_eq!(plis(&world.received(PUBLISHER).1), [100]);
    world.send(PUBLISHER, &source.frame(false, 2));
    assert!(world.media(10).is_empty());
    world.send(PUBLISHER, &source.frame(true, 2));
    let after = world.media(10);
    assert_eq!(after[0].sequence, before[1].sequence.wrapping_add(1));
}

#[test]
fn a_paused_subscription_goes_on_with_a_key_frame_that_is_asked_for() {
    let (mut world, mut source) = watched(1);
    let pause = |paused| Command::SetSubscription { subscription: SubscriptionId(0), paused, layer_max: u8::MAX };
    world.send(PUBLISHER, &source.frame(true, 2));
    world.command(pause(true));
    world.media(10);
    world.send(PUBLISHER, &source.frame(false, 2));
    assert!(world.media(10).is_empty());
    world.pass(Duration::from_secs(3));
    world.received(PUBLISHER);
    world.command(pause(false));
    world.pass(Duration::from_millis(40));
    assert_eq!(plis(&world.received(PUBLISHER).1), [100], "the publisher is asked for a key frame to go on with");
    world.send(PUBLISHER, &source.frame(false, 2));
    assert!(world.media(10).is_empty(), "what it would be decoded from was not sent");
    world.send(PUBLISHER, &source.frame(true, 2));
    assert_eq!(world.media(10).len(), 2);
}

/// RFC 3550, section 5.1: a player plays what follows that much later, and keeps sound and picture in step by it.
#[test]
fn after_a_pause_the_timestamps_have_gone_on_by_its_length_in_ticks_of_each_clock() {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, video_section(100));
    world.publish(PUBLISHER, 2, audio_section(200));
    world.join(10);
    world.subscribe(10, 1, 1, send_section(1000, video_codecs()));
    world.subscribe(10, 2, 2, SendSection { rtx_ssrc: None, ..send_section(3000, audio_codecs()) });
    let mut source = Source::new(100);
    let mut both = |world: &mut World, sequence| {
        let audio = Rtp {
            payload_type: AUDIO,
            sequence,
            timestamp: u32::from(sequence) * 960,
            ssrc: 200,
            payload: vec![1; 40],
            ..Rtp::default()
        };
        world.send(PUBLISHER, &[source.frame(true, 1), vec![audio]].concat());
        let got = world.media(10);
        [VIDEO, AUDIO].map(|kind| got.iter().find(|packet| packet.payload_type == kind).expect("both").timestamp)
    };
    let before = both(&mut world, 1);
    for paused in [true, false] {
        for subscription in [SubscriptionId(1), SubscriptionId(2)] {
            world.command(Command::SetSubscription { subscription, paused, layer_max: u8::MAX });
        }
        if paused {
            world.pass(Duration::from_secs(2));
        }
    }
    let after = both(&mut world, 2);
    assert_eq!([0, 1].map(|kind: usize| after[kind].wrapping_sub(before[kind])), [180_000, 96_000]);
}

/// RFC 4585, section 6.3.1, and RFC 5104, section 4.3.1.
#[test]
fn a_subscribers_picture_loss_becomes_a_request_to_the_publisher() {
    let pli = PictureLossIndication { sender_ssrc: 4, media_ssrc: 1000 }.marshal().expect("a PLI");
    let entry = FirEntry { ssrc: 1000, sequence_number: 1 };
    let fir = FullIntraRequest { sender_ssrc: 4, media_ssrc: 0, fir: vec![entry] }.marshal().expect("a FIR");
    for (name, request) in [("PLI", pli), ("FIR", fir)] {
        let (mut world, mut source) = watched(1);
        world.send(PUBLISHER, &source.frame(true, 2));
        world.pass(Duration::from_secs(3));
        world.received(PUBLISHER);
        world.send_rtcp(10, &request);
        world.pass(Duration::from_millis(40));
        assert_eq!(plis(&world.received(PUBLISHER).1), [100], "a {name} reaches the publisher");
    }
}

/// RFC 6464: who mixes or shows speakers needs it; the identifier is the subscriber's own.
#[test]
fn the_audio_level_goes_along() {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, audio_section(200));
    world.join(10);
    let extensions = ExtensionIds { audio_level: Some(9), ..ExtensionIds::default() };
    world.subscribe(10, 1, 1, SendSection { extensions, rtx_ssrc: None, ..send_section(3000, audio_codecs()) });
    for (sequence, level) in [(1, 0x80 | 20), (2, 35)] {
        let extensions = vec![(5, vec![level])];
        let packet =
            Rtp { payload_type: AUDIO, sequence, ssrc: 200, extensions, payload: vec![1; 40], ..Rtp::default() };
        world.send(PUBLISHER, &[packet]);
        assert_eq!(world.media(10)[0].extension(9), Some(&[level][..]), "the audio level");
    }
}

/// Only VP8's numbers are rewritten, when a stream goes on after a pause: what looks like them elsewhere is something
/// else.
#[test]
fn the_payload_of_other_codecs_is_left_alone() {
    let codecs = vec![PayloadCodec { payload_type: 98, codec: Codec::Vp9 { profile: 0 }, rtx: None }];
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, ReceiveSection { codecs: codecs.clone(), ..video_section(100) });
    world.join(10);
    world.subscribe(10, 1, 1, SendSection { rtx_ssrc: None, ..send_section(1000, codecs) });
    for sequence in 1..=6u16 {
        // Of a picture each, by its 15 bits of id, which a reader of VP8 would take for other fields.
        let payload = vec![0x8C, 0x92, 0x30 + sequence as u8, 0x49, 0x83, 7, 7, 7];
        let packet = Rtp { payload_type: 98, marker: true, sequence, ssrc: 100, payload, ..Rtp::default() };
        // So that the pictures that are seen do not follow each other.
        let muted = sequence == 4;
        world.command(Command::SetMuted { publication: PublicationId(1), muted });
        world.send(PUBLISHER, std::slice::from_ref(&packet));
        let got: Vec<Vec<u8>> = world.media(10).into_iter().map(|packet| packet.payload).collect();
        assert_eq!(got, if muted { Vec::new() } else { vec![packet.payload] }, "packet {sequence}");
    }
}

/// A decoder of scalable AV1 finds its layers by it; without it nothing is shown.
#[test]
fn the_dependency_descriptor_goes_along_where_layers_depend_on_each_other() {
    let codecs = vec![PayloadCodec { payload_type: 45, codec: Codec::Av1 { profile: 0 }, rtx: None }];
    let mut world = World::new();
    world.join(PUBLISHER);
    let extensions = ExtensionIds { dependency_descriptor: Some(8), ..extensions() };
    world.publish(PUBLISHER, 1, ReceiveSection { codecs: codecs.clone(), extensions, ..video_section(100) });
    world.join(10);
    let extensions =
        ExtensionIds { dependency_descriptor: Some(12), abs_send_time: Some(6), ..ExtensionIds::default() };
    world.subscribe(10, 1, 1, SendSection { extensions, rtx_ssrc: None, ..send_section(1000, codecs) });
    // The last is longer than an element of one byte holds (RFC 8285, section 4.2).
    for (sequence, descriptor) in
        [(1, vec![0x80, 0, 1, 0x10]), (2, vec![0x40, 0, 2]), (3, (7..30).collect::<Vec<u8>>())]
    {
        // A new coded video sequence, then packets that are none.
        let payload = vec![if sequence == 1 { 0x18 } else { 0x10 }, 0x30, 7, 7];
        let extensions = vec![(8, descriptor.clone())];
        let packet = Rtp { payload_type: 45, marker: true, sequence, ssrc: 100, extensions, payload, ..Rtp::default() };
        world.send(PUBLISHER, &[packet]);
        let [got] = &world.media(10)[..] else { panic!("one packet") };
        assert_eq!(got.extension(12), Some(&descriptor[..]), "the dependency descriptor");
        assert_eq!(got.extension(6).map(<[u8]>::len), Some(3), "the send time goes along");
    }
}

#[test]
fn an_unsubscribed_client_gets_nothing_more() {
    let (mut world, mut source) = watched(2);
    world.send(PUBLISHER, &source.frame(true, 2));
    world.command(Command::Unsubscribe { subscription: SubscriptionId(0) });
    world.received(10);
    world.received(11);
    world.send(PUBLISHER, &source.frame(false, 2));
    assert!(world.media(10).is_empty());
    assert_eq!(world.media(11).len(), 2);
}

#[test]
fn audio_flows_at_once_and_red_is_unwrapped_for_who_lacks_it() {
    let mut world = World::new();
    world.join(PUBLISHER);
    let mut section = audio_section(200);
    section.codecs.insert(0, PayloadCodec { payload_type: 63, codec: Codec::Red, rtx: None });
    world.publish(PUBLISHER, 1, section);
    world.join(10);
    world.subscribe(10, 1, 1, send_section(3000, audio_codecs()));
    // One redundant block of two bytes, then the primary.
    let payload = vec![0x80 | 111, 0, 0, 2, 111, 9, 9, 1, 2, 3];
    let extensions = vec![(5, vec![35])];
    let packet = Rtp { payload_type: 63, sequence: 5, ssrc: 200, extensions, payload, ..Rtp::default() };
    world.send(PUBLISHER, &[packet]);
    let got = world.media(10);
    assert_eq!((got[0].payload_type, &got[0].payload[..]), (AUDIO, &[1u8, 2, 3][..]));
}

#[test]
fn leaving_takes_publications_and_subscriptions_along() {
    let (mut world, mut source) = watched(3);
    world.send(PUBLISHER, &source.frame(true, 2));
    world.command(Command::CloseTransport { transport: TransportId(PUBLISHER), after: Duration::ZERO });
    assert_eq!((world.engine.publications(), world.engine.subscriptions()), (0, 0));
    assert_eq!(world.engine.transports(), 3);
    world.command(Command::CloseRoom { room: ROOM });
    assert_eq!(world.engine.transports(), 0);
    assert_eq!(world.engine.deadline(), None);
}

#[test]
fn a_transport_that_closes_later_carries_nothing_more_and_is_gone_in_time() {
    let (mut world, mut source) = watched(2);
    world.send(PUBLISHER, &source.frame(true, 2));
    world.media(10);
    world.media(11);
    let after = Duration::from_secs(2);
    for transport in [TransportId(PUBLISHER), TransportId(10)] {
        world.command(Command::CloseTransport { transport, after });
    }
    assert_eq!((world.engine.publications(), world.engine.subscriptions()), (0, 0));
    world.send(PUBLISHER, &source.frame(true, 2));
    assert!(world.media(10).is_empty() && world.media(11).is_empty());

    // The end of its room leaves it its time.
    world.command(Command::CloseRoom { room: ROOM });
    assert_eq!(world.engine.transports(), 2);
    world.pass(Duration::from_millis(1_999));
    assert_eq!(world.engine.transports(), 2);
    world.pass(Duration::from_millis(2));
    assert_eq!((world.engine.transports(), world.engine.deadline()), (0, None));
}

#[test]
fn trailers_are_taken_off_the_last_packet_of_a_frame_for_those_who_ask_for_it() {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, video_section(100));
    let mut source = Source::new(100);
    for (client, strips_trailers) in [(10, true), (11, false)] {
        world.join(client);
        let section = SendSection { strips_trailers, ..send_section(1000 + client as u32, video_codecs()) };
        world.subscribe(client, client, 1, section);
    }
    let mut frame = source.frame(true, 3);
    for packet in &mut frame {
        packet.payload.extend(b"12345678\xf2LKTS");
    }
    world.send(PUBLISHER, &frame);
    let lengths = |packets: Vec<Rtp>| packets.iter().map(|packet| packet.payload.len()).collect::<Vec<_>>();
    let whole: Vec<usize> = frame.iter().map(|packet| packet.payload.len()).collect();
    assert_eq!(lengths(world.media(11)), whole);
    assert_eq!(lengths(world.media(10)), [whole[0], whole[1], whole[2] - 13]);
}

#[test]
fn sender_reports_count_the_payload_that_went_out() {
    let (mut world, mut source) = watched(0);
    world.join(10);
    let section = SendSection { strips_trailers: true, ..send_section(1010, video_codecs()) };
    world.subscribe(10, 10, 1, section);
    let mut frame = source.frame(true, 3);
    for packet in &mut frame {
        packet.payload.extend(b"12345678\xf2LKTS");
    }
    world.send(PUBLISHER, &frame);
    let sent: usize = world.media(10).iter().map(|packet| packet.payload.len()).sum();
    let mut report = Vec::new();
    let theirs = sfu::rtcp::SenderReport { ssrc: 100, ntp: 77 << 32, rtp: source.timestamp, packets: 3, octets: 9 };
    sfu::rtcp::write_sender_report(&mut report, &theirs, &[]);
    world.send_rtcp(PUBLISHER, &report);
    world.pass(Duration::from_millis(400));
    assert_eq!(sender_report(&mut world, 10).octets as usize, sent);
}

#[test]
fn sender_reports_follow_the_publishers_clock() {
    let (mut world, mut source) = watched(1);
    world.send(PUBLISHER, &source.frame(true, 2));
    let offset = world.media(10)[0].timestamp.wrapping_sub(source.timestamp);
    let mut report = Vec::new();
    let sent = sfu::rtcp::SenderReport { ssrc: 100, ntp: 77 << 32, rtp: source.timestamp, packets: 2, octets: 9 };
    sfu::rtcp::write_sender_report(&mut report, &sent, &[]);
    world.send_rtcp(PUBLISHER, &report);
    world.pass(Duration::from_millis(400));
    let found = sender_report(&mut world, 10);
    assert_eq!(found.ssrc, 1000);
    let seconds = (found.ntp - sent.ntp) as f64 / (1u64 << 32) as f64;
    let ticks = found.rtp.wrapping_sub(sent.rtp.wrapping_add(offset));
    assert!((f64::from(ticks) - seconds * 90_000.0).abs() < 2.0, "{ticks} ticks in {seconds} s");
}

/// RFC 3550, section 6.2: often enough for who joins late, and no more.
#[test]
fn sender_reports_come_every_three_seconds() {
    let (mut world, mut source) = watched(1);
    world.send(PUBLISHER, &source.frame(true, 2));
    let theirs = sfu::rtcp::SenderReport { ssrc: 100, ntp: 77 << 32, rtp: source.timestamp, packets: 2, octets: 9 };
    let mut report = Vec::new();
    sfu::rtcp::write_sender_report(&mut report, &theirs, &[]);
    world.send_rtcp(PUBLISHER, &report);
    let mut reports = Vec::new();
    for step in 0..150u32 {
        world.pass(Duration::from_millis(100));
        source.timestamp = source.timestamp.wrapping_add(6_000);
        world.send(PUBLISHER, &source.frame(false, 1));
        for feedback in world.received(10).1.iter().flat_map(|compound| sfu::rtcp::parse(compound)) {
            if let Ok(sfu::rtcp::Feedback::SenderReport(report, _)) = feedback {
                reports.push((step, report));
            }
        }
    }
    assert!((5..=6).contains(&reports.len()), "{reports:?}");
    for pair in reports.windows(2) {
        let [(before, first), (after, second)] = pair else { unreachable!() };
        assert!((29..=33).contains(&(after - before)), "in tenths of a second: {before}, {after}");
        let seconds = (second.ntp - first.ntp) as f64 / (1u64 << 32) as f64;
        assert!((seconds - f64::from(after - before) / 10.0).abs() < 0.11, "{seconds} s on the wall clock");
        let ticks = second.rtp.wrapping_sub(first.rtp);
        assert!((f64::from(ticks) - seconds * 90_000.0).abs() < 2.0, "{ticks} ticks in {seconds} s");
    }
}

/// Seconds modulo 64 with 18 bits after the point, for libwebrtc's estimate of what the link carries.
#[test]
fn the_absolute_send_time_goes_on_with_the_clock_and_around() {
    let (mut world, mut source) = watched(1);
    let mut send_time = |world: &mut World| {
        world.send(PUBLISHER, &source.frame(true, 1));
        let got = world.media(10);
        let [high, middle, low] = got[0].extension(6).expect("a send time") else { panic!("24 bits") };
        u32::from_be_bytes([0, *high, *middle, *low])
    };
    let mut before = send_time(&mut world);
    for (time, expected) in [(1_000, 1 << 18), (500, 1 << 17), (250, 1 << 16), (63_000, 63 << 18), (64_000, 0)] {
        world.pass(Duration::from_millis(time));
        let after = send_time(&mut world);
        let passed = after.wrapping_sub(before) & 0xff_ffff;
        assert!(passed.abs_diff(expected) <= 1, "{passed} in {time} ms");
        before = after;
    }
}

#[test]
fn a_new_viewer_makes_us_ask_for_a_key_frame_at_once() {
    let (mut world, mut source) = watched(0);
    world.pass(Duration::from_secs(1));
    for _ in 0..3 {
        world.send(PUBLISHER, &source.frame(false, 2));
    }
    world.pass(Duration::from_millis(20));
    world.received(PUBLISHER);
    world.join(10);
    world.subscribe(10, 10, 1, send_section(1000, video_codecs()));
    // A step of the clock.
    world.pass(Duration::from_millis(20));
    assert_eq!(plis(&world.received(PUBLISHER).1), [100]);
}

/// Clients are told of what they subscribe to before they can receive it.
#[test]
fn a_viewer_whose_handshake_takes_its_time_starts_when_it_is_done() {
    let (mut world, mut source) = watched(0);
    world.send(PUBLISHER, &source.frame(true, 2));
    let (transport, opener) = (TransportId(10), ChannelOpener::Client);
    world.command(Command::OpenTransport { transport, room: ROOM, local: credentials(10), opener });
    world.subscribe(10, 10, 1, send_section(1000, video_codecs()));
    world.pass(Duration::from_secs(2));
    world.send(PUBLISHER, &source.frame(false, 2));
    world.connect(10);
    world.pass(Duration::from_millis(40));
    assert_eq!(world.media(10).len(), 4, "from the last key frame on");

    // The same, when that is too long ago.
    let (mut world, mut source) = watched(0);
    world.send(PUBLISHER, &source.frame(true, 2));
    world.command(Command::OpenTransport { transport, room: ROOM, local: credentials(10), opener });
    world.subscribe(10, 10, 1, send_section(1000, video_codecs()));
    world.pass(Duration::from_secs(2));
    for _ in 0..60 {
        world.send(PUBLISHER, &source.frame(false, 5));
    }
    world.received(PUBLISHER);
    world.connect(10);
    world.pass(Duration::from_millis(40));
    assert_eq!(plis(&world.received(PUBLISHER).1), [100], "asked for at once");
    world.send(PUBLISHER, &source.frame(true, 2));
    assert_eq!(world.media(10).len(), 2);
}
