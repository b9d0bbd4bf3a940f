//! Publications and subscriptions without a transport: as a relay between two engines, a recorder and an ingest use
//! them.

mod media;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use media::*;
use sfu::command::*;
use sfu::demux::{Discard, PacketKind};
use sfu::local::{LOCAL_OUTPUTS_MAX, LocalOutput};
use sfu::rtcp::{Feedback, SenderReport, parse, write_sender_report};

const LINK: SubscriptionId = SubscriptionId(77);
const ECHO: PublicationId = PublicationId(5);
/// Where the far engine's checker has what the near one sends from.
const NEAR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);

/// What a subscription of this process was given since the last call: media, and RTCP.
fn taken(world: &mut World, subscription: SubscriptionId) -> (Vec<Rtp>, Vec<Vec<u8>>) {
    let (mut media, mut control) = (Vec::new(), Vec::new());
    while let Some(output) = world.engine.poll_local() {
        let LocalOutput::Packet { subscription: of, packet } = output else { panic!("{output:?}") };
        assert_eq!(of, subscription);
        match PacketKind::of(&packet) {
            Some(PacketKind::Rtp) => media.push(Rtp::parse(&packet)),
            _ => control.push(packet),
        }
    }
    (media, control)
}

/// A camera, and somebody in this process who takes what it sends.
fn recorded() -> (World, Source) {
    let mut world = World::new();
    world.join(1);
    world.publish(1, 1, video_section(100));
    world.engine.subscribe_local(world.now, LINK, PublicationId(1), send_section(9_000, video_codecs()));
    (world, Source::new(100))
}

/// Two engines: what a camera sends to the one, clients of the other watch.
struct Relay {
    near: World,
    far: World,
}

impl Relay {
    fn new() -> (Self, Source) {
        let (near, source) = recorded();
        let mut far = World::new();
        far.engine.publish_local(ROOM, ECHO, video_section(9_000));
        far.checker.publish(NEAR, ECHO, &video_section(9_000));
        (Self { near, far }, source)
    }

    /// Carries over what waits on either side.
    fn run(&mut self) {
        let Self { near, far } = self;
        while let Some(output) = near.engine.poll_local() {
            let LocalOutput::Packet { packet, .. } = output else { panic!("{output:?}") };
            match PacketKind::of(&packet) {
                Some(PacketKind::Rtp) => far.checker.published(NEAR, &Rtp::parse(&packet)),
                _ => far.checker.reported(far.now, &packet),
            }
            far.engine.feed(far.now, ECHO, 0, &packet);
        }
        far.turn();
        while let Some(output) = far.engine.poll_local() {
            assert_eq!(output, LocalOutput::KeyframeWanted { publication: ECHO, layer: 0 });
            near.engine.request_keyframe(LINK);
        }
    }

    fn send(&mut self, frame: &[Rtp]) {
        self.near.send(1, frame);
        self.run();
    }

    fn pass(&mut self, time: Duration) {
        self.near.pass(time);
        self.far.pass(time);
        self.run();
    }
}

#[test]
fn clients_of_another_engine_see_what_a_relay_brings() {
    let (mut relay, mut source) = Relay::new();
    for client in [10, 11] {
        relay.far.join(client);
        relay.far.subscribe(client, client, ECHO.0, send_section(1_000 * client as u32, video_codecs()));
    }
    let frames = [source.frame(true, 5), source.frame(false, 3), source.frame(false, 4)];
    for frame in &frames {
        relay.send(frame);
    }
    for client in [10, 11] {
        let media = relay.far.media(client);
        let payloads: Vec<_> = media.iter().map(|packet| &packet.payload[6..]).collect();
        let sent: Vec<_> = frames.iter().flatten().map(|packet| &packet.payload[6..]).collect();
        assert_eq!(payloads, sent);
        assert!(media.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
        assert!(media.iter().all(|packet| packet.ssrc == 1_000 * client as u32));
    }
    let started = |event: &Event| matches!(event, Event::LayerStarted { publication: ECHO, layer: 0, .. });
    assert!(relay.far.events.iter().any(started));
}

#[test]
fn a_key_frame_that_a_client_behind_a_relay_needs_is_asked_for_at_the_camera() {
    let (mut relay, mut source) = Relay::new();
    relay.far.join(10);
    relay.far.subscribe(10, 10, ECHO.0, send_section(1_000, video_codecs()));
    relay.send(&source.frame(true, 2));
    relay.pass(Duration::from_secs(1));
    relay.near.received(1);

    let mut pli = Vec::new();
    sfu::rtcp::write_pli(&mut pli, 4, 1_000);
    relay.far.send_rtcp(10, &pli);
    relay.pass(Duration::from_millis(20));
    relay.pass(Duration::from_millis(20));
    assert_eq!(plis(&relay.near.received(1).1), [100]);
}

#[test]
fn sender_reports_come_through_a_relay() {
    let (mut relay, mut source) = Relay::new();
    relay.far.join(10);
    relay.far.subscribe(10, 10, ECHO.0, send_section(1_000, video_codecs()));
    relay.send(&source.frame(true, 2));
    let theirs = SenderReport { ssrc: 100, ntp: 77 << 32, rtp: source.timestamp, packets: 2, octets: 9 };
    let mut report = Vec::new();
    write_sender_report(&mut report, &theirs, &[]);
    relay.near.send_rtcp(1, &report);
    for _ in 0..20 {
        relay.pass(Duration::from_millis(200));
    }
    let frame = relay.far.received(10);
    let reports: Vec<_> = frame.1.iter().flat_map(|compound| parse(compound)).filter_map(Result::ok).collect();
    let times = |feedback: &Feedback<'_>| match feedback {
        Feedback::SenderReport(report, _) => Some((report.ntp, report.rtp)),
        _ => None,
    };
    let (ntp, rtp) = reports.iter().find_map(times).expect("a sender report");
    // Seconds of the camera's clock since its report, and as much of the media's.
    let (seconds, media) = ((ntp >> 32) - 77, rtp.wrapping_sub(frame.0[0].timestamp));
    assert!(seconds < 5 && u64::from(media) / 90_000 == seconds, "{seconds} s, {media}");
}

#[test]
fn a_recorder_starts_late_and_takes_one_stream_in_clear() {
    let (mut world, mut source) = recorded();
    world.engine.handle(world.now, Command::Unsubscribe { subscription: LINK }, &mut world.out);
    let mut sent = 0;
    for frame in 0..10 {
        world.send(1, &source.frame(frame == 0, 5));
        sent += 5;
    }
    world.engine.subscribe_local(world.now, LINK, PublicationId(1), send_section(9_000, video_codecs()));
    world.pass(Duration::from_millis(60));
    let (past, _) = taken(&mut world, LINK);
    assert_eq!(past.len(), sent, "from the key frame on");
    world.command(Command::SetMuted { publication: PublicationId(1), muted: true });
    world.send(1, &source.frame(false, 7));
    world.command(Command::SetMuted { publication: PublicationId(1), muted: false });
    world.send(1, &source.frame(true, 3));
    let media = [past, taken(&mut world, LINK).0].concat();
    assert_eq!(media.len(), sent + 3);
    assert!(media.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
    assert!(media.iter().all(|packet| (packet.ssrc, packet.payload_type) == (9_000, VIDEO)));
}

#[test]
fn who_does_not_take_loses_and_the_engine_keeps_so_much() {
    let (mut world, mut source) = recorded();
    let frames = LOCAL_OUTPUTS_MAX / 8 + 3;
    for frame in 0..frames {
        world.send(1, &source.frame(frame == 0, 8));
    }
    assert_eq!(taken(&mut world, LINK).0.len(), LOCAL_OUTPUTS_MAX);
    assert_eq!(world.engine.stats.losses.overrun, 24);
    world.send(1, &source.frame(false, 8));
    assert_eq!(taken(&mut world, LINK).0.len(), 8, "it goes on");
}

#[test]
fn what_cannot_be_fed_is_counted() {
    let mut world = World::new();
    world.join(1);
    world.publish(1, 1, video_section(100));
    world.engine.publish_local(ROOM, ECHO, video_section(9_000));
    let packet = Source::new(9_000).frame(true, 1)[0].bytes();
    let now = world.now;
    world.engine.feed(now, PublicationId(99), 0, &packet);
    world.engine.feed(now, PublicationId(1), 0, &packet);
    world.engine.feed(now, ECHO, 1, &packet);
    world.engine.feed(now, ECHO, 0, &[]);
    world.engine.feed(now, ECHO, 0, &packet[..11]);
    world.engine.feed(now, ECHO, 0, &[0x81, 201, 0, 9]);
    let discards = |discard| world.engine.stats.discards(discard);
    assert_eq!(discards(Discard::StaleCommand), 1);
    assert_eq!(discards(Discard::UnknownStream), 2, "a client's publication, a layer that is not there");
    assert_eq!(discards(Discard::UnknownProtocol), 1);
    assert_eq!((discards(Discard::RtpMalformed), discards(Discard::RtcpMalformed)), (1, 1));
    assert_eq!(world.engine.end_served(), None, "no transport is to blame for what is fed");
}

#[test]
fn a_room_that_is_closed_takes_what_is_fed_to_it_along() {
    let mut world = World::new();
    world.engine.publish_local(ROOM, ECHO, audio_section(300));
    world.engine.publish_local(RoomId(2), PublicationId(6), audio_section(400));
    world.engine.subscribe_local(world.now, LINK, ECHO, send_section(9_000, audio_codecs()));
    world.command(Command::CloseRoom { room: ROOM });
    assert_eq!((world.engine.publications(), world.engine.subscriptions()), (1, 0));
}
