//! Transport-wide congestion control towards subscribers: the numbers of what they are sent, and what they say of it.
//!
//! That numbers go on by one over all streams of a client is looked at by [`media::checker`], in each of these tests.

mod media;

use std::time::Duration;

use media::*;
use proptest::collection::vec;
use proptest::prelude::*;
use rtc_rtcp::transport_feedbacks::transport_layer_cc::*;
use rtc_shared::marshal::Marshal;
use sfu::command::*;
use sfu::demux::Discard;
use sfu::rtcp::write_nack;
use sfu::twcc::recorder::TwccRecorder;

const PUBLISHER: u64 = 1;
const VIEWER: u64 = 10;
/// Another one, who must not notice.
const BYSTANDER: u64 = 11;
const CAMERA: u32 = 100;
const SCREEN: u32 = 300;
const MICROPHONE: u32 = 200;
const MS: Duration = Duration::from_millis(1);

/// With transport-wide numbers.
fn numbered(section: SendSection) -> SendSection {
    let transport_cc = extensions().transport_cc;
    SendSection { extensions: ExtensionIds { transport_cc, ..section.extensions }, ..section }
}

fn video(ssrc: u32) -> SendSection {
    numbered(send_section(ssrc, video_codecs()))
}

fn audio(ssrc: u32) -> SendSection {
    SendSection { rtx_ssrc: None, ..numbered(send_section(ssrc, audio_codecs())) }
}

/// A camera, a screen and a microphone of one client.
fn published() -> World {
    published_with_seed(rand::random())
}

fn published_with_seed(seed: u64) -> World {
    println!("seed {seed}");
    let mut world = World::with_seed(seed);
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, video_section(CAMERA));
    world.publish(PUBLISHER, 2, video_section(SCREEN));
    world.publish(PUBLISHER, 3, audio_section(MICROPHONE));
    world
}

/// Shows all three to a client.
fn watch(world: &mut World, client: u64) {
    world.join(client);
    for (publication, section) in [(1, video(1_000)), (2, video(3_000)), (3, audio(2_000))] {
        world.subscribe(client, 10 * client + publication, publication, section);
    }
}

fn sound(sequence: u16) -> Rtp {
    let mut payload = vec![1; 100];
    payload[..2].copy_from_slice(&sequence.to_be_bytes());
    Rtp { payload_type: AUDIO, sequence, ssrc: MICROPHONE, payload, ..Rtp::default() }
}

fn number(packet: &Rtp) -> Option<u16> {
    let bytes = packet.extension(extensions().transport_cc.expect("agreed"))?;
    Some(u16::from_be_bytes(bytes.try_into().expect("16 bits")))
}

fn numbers(packets: &[Rtp]) -> Vec<Option<u16>> {
    packets.iter().map(number).collect()
}

fn set_paused(world: &mut World, subscription: u64, paused: bool) {
    let subscription = SubscriptionId(subscription);
    world.command(Command::SetSubscription { subscription, paused, layer_max: u8::MAX });
}

/// What client 10 has of a second of media in frames of 33 ms, and the engine's clock as it came.
struct Session {
    world: World,
    camera: Source,
    screen: Source,
    sound: u16,
    recorder: TwccRecorder,
    start: std::time::Instant,
}

impl Session {
    fn new(seed: u64) -> Self {
        let mut world = published_with_seed(seed);
        watch(&mut world, VIEWER);
        watch(&mut world, BYSTANDER);
        let start = world.now;
        let (camera, screen) = (Source::new(CAMERA), Source::new(SCREEN));
        Self { world, camera, screen, sound: 0, recorder: TwccRecorder::new(4), start }
    }

    /// A frame of each video and a packet of audio, which arrive 20 ms later. Those whose number the filter refuses are
    /// lost.
    fn frame(&mut self, arrives: impl Fn(u16) -> bool) {
        let is_first = self.sound == 0;
        for packets in [self.camera.frame(is_first, 4), self.screen.frame(is_first, 6), vec![sound(self.sound)]] {
            self.world.send(PUBLISHER, &packets);
        }
        self.sound += 1;
        self.world.pass(20 * MS);
        for packet in self.world.media(VIEWER) {
            let number = number(&packet).expect("all packets bear one");
            if arrives(number) {
                self.recorder.record(number, self.world.now - self.start, packet.ssrc);
            }
        }
        self.world.pass(13 * MS);
    }

    fn report(&mut self) {
        let mut report = Vec::new();
        assert!(self.recorder.write_feedback(&mut report));
        self.world.send_rtcp(VIEWER, &report);
    }

    fn discards(&self) -> [u64; 3] {
        [Discard::FeedbackUnsent, Discard::FeedbackTooOld, Discard::FeedbackBackwards]
            .map(|reason| self.world.engine.stats.discards(reason))
    }
}

/// Feedback as another library writes it: so many packets from a number on arrived 250 µs after each other, at a
/// reference time in 64 ms.
fn feedback(base: u16, count: u16, reference_time: u32) -> Vec<u8> {
    let symbol = SymbolTypeTcc::PacketReceivedSmallDelta;
    let chunk = RunLengthChunk {
        type_tcc: StatusChunkTypeTcc::RunLengthChunk,
        packet_status_symbol: symbol,
        run_length: count,
    };
    let report = TransportLayerCc {
        sender_ssrc: 4,
        media_ssrc: 1_000,
        base_sequence_number: base,
        packet_status_count: count,
        reference_time,
        fb_pkt_count: 0,
        packet_chunks: vec![PacketStatusChunk::RunLengthChunk(chunk)],
        recv_deltas: (0..count).map(|_| RecvDelta { type_tcc_packet: symbol, delta: 250 }).collect(),
    };
    report.marshal().expect("feedback").to_vec()
}

#[test]
fn numbers_go_on_over_two_videos_audio_and_what_is_sent_again() {
    let mut world = published();
    watch(&mut world, VIEWER);
    let (mut camera, mut screen) = (Source::new(CAMERA), Source::new(SCREEN));
    let mut expected: u16 = 0;
    for frame in 0..40u16 {
        world.send(PUBLISHER, &camera.frame(frame == 0, 3));
        world.send(PUBLISHER, &[sound(frame)]);
        world.send(PUBLISHER, &screen.frame(frame == 0, 5));
        world.pass(30 * MS);
        let sent = world.media(VIEWER);
        assert_eq!(sent.len(), 9);
        let mut nack = Vec::new();
        write_nack(&mut nack, 4, 1_000, [sent[0].sequence, sent[2].sequence].into_iter());
        world.send_rtcp(VIEWER, &nack);
        let again = world.media(VIEWER);
        assert_eq!(again.iter().map(|packet| packet.ssrc).collect::<Vec<_>>(), [1_001; 2]);
        for packet in sent.iter().chain(&again) {
            assert_eq!(number(packet), Some(expected), "of SSRC {}", packet.ssrc);
            expected += 1;
        }
    }
}

#[test]
fn each_client_has_numbers_of_its_own_and_only_if_it_agreed_upon_them() {
    let mut world = published();
    watch(&mut world, VIEWER);
    world.join(12);
    world.subscribe(12, 120, 1, send_section(1_000, video_codecs()));
    let mut camera = Source::new(CAMERA);
    world.send(PUBLISHER, &camera.frame(true, 3));
    watch(&mut world, BYSTANDER);
    world.pass(100 * MS);
    world.send(PUBLISHER, &camera.frame(false, 3));
    assert_eq!(numbers(&world.media(VIEWER)), (0..6).map(Some).collect::<Vec<_>>());
    assert_eq!(numbers(&world.media(BYSTANDER)), (0..6).map(Some).collect::<Vec<_>>());
    assert_eq!(numbers(&world.media(12)), [None; 6]);
}

#[test]
fn audio_bears_numbers_only_beside_video() {
    let mut world = published();
    world.join(VIEWER);
    world.subscribe(VIEWER, 103, 3, audio(2_000));
    let mut sequence = 0;
    let mut is_numbered = |world: &mut World| {
        world.send(PUBLISHER, &[sound(sequence)]);
        sequence += 1;
        number(&world.media(VIEWER)[0]).is_some()
    };
    assert!(!is_numbered(&mut world), "alone");
    world.subscribe(VIEWER, 101, 1, video(1_000));
    assert!(is_numbered(&mut world), "with video");
    set_paused(&mut world, 101, true);
    assert!(!is_numbered(&mut world), "with video that is paused");
    world.subscribe(VIEWER, 102, 2, video(3_000));
    assert!(is_numbered(&mut world), "with video, and other that is paused");
    set_paused(&mut world, 101, false);
    world.command(Command::Unpublish { publication: PublicationId(2) });
    assert!(is_numbered(&mut world), "with video that goes on");
    world.command(Command::Unsubscribe { subscription: SubscriptionId(101) });
    assert!(!is_numbered(&mut world), "alone again");
}

#[test]
fn a_client_without_video_numbers_is_answered_as_any_other() {
    let mut world = World::watched().0;
    world.send_rtcp(VIEWER, &feedback(0, 3, 1));
    assert_eq!(world.engine.stats.discards(Discard::FeedbackUnsent), 1);
    assert_eq!(world.engine.stats.feedback_received, 0);
}

#[test]
fn reports_on_what_was_sent_are_accepted_across_the_wrap_of_numbers() {
    let mut session = Session::new(1);
    // Eleven packets a frame: beyond 65,535.
    for frame in 0..6_200 {
        session.frame(|number| number % 17 > 0);
        if frame % 3 == 2 {
            session.report();
        }
    }
    assert_eq!(session.discards(), [0; 3]);
    assert!(session.world.engine.stats.feedback_received > 2_000);
}

#[test]
fn reports_on_what_was_never_sent_are_counted_and_no_more() {
    let mut session = Session::new(1);
    session.frame(|_| true);
    for (base, count) in [(5, 7), (11, 1), (12, 100), (30_000, 9), (60_000, 30), (0, 12), (65_535, 3)] {
        let before = session.discards();
        session.world.send_rtcp(VIEWER, &feedback(base, count, 1));
        assert_eq!(session.discards(), [before[0] + 1, before[1], before[2]], "{count} from {base} on");
    }
    assert_eq!(session.world.engine.stats.feedback_received, 0);
    session.world.send_rtcp(VIEWER, &feedback(0, 11, 1));
    assert_eq!(session.world.engine.stats.feedback_received, 1);
}

#[test]
fn reports_on_what_left_long_ago_are_counted_and_no_more() {
    let mut session = Session::new(1);
    // Three runs of eleven packets a frame, the last of one: of the 86th before the end, that one is remembered.
    (0..200).for_each(|_| session.frame(|_| true));
    let oldest = 11 * (200 - 86) + 10;
    session.world.send_rtcp(VIEWER, &feedback(oldest, 8, 1));
    assert_eq!(session.discards(), [0, 0, 0]);
    session.world.send_rtcp(VIEWER, &feedback(oldest - 1, 8, 1));
    assert_eq!(session.discards(), [0, 1, 0], "in part");
    assert_eq!(session.world.engine.stats.feedback_received, 2);
    session.world.send_rtcp(VIEWER, &feedback(oldest - 8, 8, 1));
    assert_eq!(session.discards(), [0, 2, 0], "all of it");
    assert_eq!(session.world.engine.stats.feedback_received, 2);
    (0..300).for_each(|_| session.frame(|_| true));
    session.world.send_rtcp(VIEWER, &feedback(0, 8, 1));
    assert_eq!(session.discards(), [0, 3, 0]);
}

#[test]
fn arrivals_before_others_are_counted_until_the_clock_is_known_to_have_been_set() {
    let mut session = Session::new(1);
    (0..10).for_each(|_| session.frame(|_| true));
    session.world.send_rtcp(VIEWER, &feedback(0, 20, 1_000));
    for (age, expected) in [(7, 0), (9, 1), (1_000, 2)] {
        session.world.send_rtcp(VIEWER, &feedback(20, 8, 1_000 - age));
        assert_eq!(session.discards(), [0, 0, expected], "{age} times 64 ms ago");
    }
    session.world.pass(Duration::from_secs(3));
    let before = session.world.engine.stats.feedback_received;
    session.world.send_rtcp(VIEWER, &feedback(30, 8, 10));
    assert_eq!(session.discards(), [0, 0, 2]);
    assert_eq!(session.world.engine.stats.feedback_received, before + 1);
}

/// What a bystander is sent while the viewer says this.
fn sent_to_bystander(lies: &[(bool, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut session = Session::new(7);
    session.world.checker.garbage = true;
    for (is_feedback, lie) in lies {
        session.frame(|number| number % 5 > 0);
        let packet = match is_feedback {
            true => rtcp_packet(0x80 | 15, 205, lie),
            false => rtcp_packet(0x80 | 15, 206, lie),
        };
        session.world.send_rtcp(VIEWER, &packet);
        session.report();
    }
    session.world.sent_to(BYSTANDER)
}

/// Of whole words.
fn rtcp_packet(first: u8, packet_type: u8, body: &[u8]) -> Vec<u8> {
    let words = body.len().div_ceil(4);
    let mut packet = vec![first, packet_type, 0, words as u8];
    packet.extend(body);
    packet.resize(4 + 4 * words, 0);
    packet
}

/// SSRCs and any bytes, or what looks like feedback on numbers near those that were sent.
fn lie() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let random = vec(any::<u8>(), 8..200);
    let plausible =
        (any::<u16>(), 0u16..400, any::<u32>(), vec(any::<u8>(), 2..120)).prop_map(|(base, count, time, rest)| {
            let mut bytes = [4u32.to_be_bytes(), 1_000u32.to_be_bytes()].concat();
            bytes.extend((base % 400).to_be_bytes());
            bytes.extend(count.to_be_bytes());
            bytes.extend(time.to_be_bytes());
            bytes.extend(rest);
            bytes
        });
    (any::<bool>(), prop_oneof![random, plausible])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn who_lies_about_arrivals_changes_nothing_for_others(lies in vec(lie(), 1..20)) {
        let silent: Vec<_> = lies.iter().map(|_| (false, vec![0; 8])).collect();
        prop_assert_eq!(sent_to_bystander(&lies), sent_to_bystander(&silent));
    }
}
