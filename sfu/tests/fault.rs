//! After a panic: whom it is the fault of ends, and is known to have; everybody else goes on.

mod media;

use std::time::Duration;

use media::*;
use sfu::command::*;
use sfu::engine::Stage;
use sfu::rtcp::write_receiver_report;
use sfu::transport::{Path, Via};

/// Two cameras that one client watches.
fn world() -> (World, [Source; 2]) {
    let mut world = World::new();
    world.join(10);
    for (publisher, ssrc) in [(1, 100), (2, 200)] {
        world.join(publisher);
        let section = ReceiveSection { mid: text("0"), ..video_section(ssrc) };
        world.publish(publisher, publisher, section);
        world.subscribe(10, publisher, publisher, send_section(10 * ssrc, video_codecs()));
    }
    (world, [Source::new(100), Source::new(200)])
}

/// Those that the room has heard of since the last call.
fn ended(world: &mut World) -> Vec<(TransportId, TransportEnd)> {
    world.turn();
    let ended =
        |event| if let Event::TransportEnded { transport, end } = event { Some((transport, end)) } else { None };
    let mut ended: Vec<_> = std::mem::take(&mut world.events).into_iter().filter_map(ended).collect();
    ended.sort_by_key(|(transport, _)| transport.0);
    ended
}

#[test]
fn the_transport_that_was_served_ends_and_the_others_media_goes_on() {
    let (mut world, [mut first, mut second]) = world();
    world.send(1, &first.frame(true, 2));
    world.send(2, &second.frame(true, 2));
    world.media(10);
    world.arrive_sealed(1, &first.frame(false, 1)[0]);

    assert_eq!(world.engine.end_served(), Some((ROOM, TransportId(1), Stage::Rtp)));
    assert_eq!(ended(&mut world), [(TransportId(1), TransportEnd::InternalError)]);
    assert_eq!((world.engine.transports(), world.engine.publications()), (2, 1));
    let stats = &world.engine.stats;
    assert_eq!((stats.panics, stats.restarts, stats.ended.internal_error), (1, 0, 1));
    world.send(2, &second.frame(false, 2));
    assert_eq!(world.media(10).len(), 2);
}

#[test]
fn a_panic_is_the_fault_of_whom_the_work_was_for() {
    let mut report = Vec::new();
    write_receiver_report(&mut report, 4, &[]);
    type Work = fn(&mut World, &[u8]);
    let work: [(Work, u64, Stage); 4] = [
        (|world, report| world.send_rtcp(10, report), 10, Stage::Rtcp),
        (|world, _| world.arrive(10, vec![22; 50]), 10, Stage::Dtls),
        (
            |world, _| {
                world.command(Command::SetRemoteCredentials { transport: TransportId(10), remote: credentials(10) });
            },
            10,
            Stage::Command,
        ),
        // What a publisher's packets make us send is the publisher's fault.
        (
            |world, _| {
                world.arrive_sealed(2, &Source::new(200).frame(true, 3)[0]);
                world.turn_in_part();
            },
            2,
            Stage::Forwarding,
        ),
    ];
    for (work, transport, stage) in work {
        let (mut world, _) = world();
        work(&mut world, &report);
        assert_eq!(world.engine.end_served(), Some((ROOM, TransportId(transport), stage)));
        assert_eq!(world.engine.end_served(), None, "ended already");
        assert_eq!(world.engine.stats.panics, 1);
    }
}

#[test]
fn a_panic_while_nobody_is_served_is_nobodys_fault() {
    let (mut world, [mut first, _]) = world();
    world.send(1, &first.frame(true, 2));
    world.pass(Duration::from_millis(20));
    assert_eq!(world.engine.end_served(), None);
    assert_eq!((world.engine.transports(), world.engine.stats.panics), (3, 0));
}

#[test]
fn a_worker_that_begins_anew_tells_the_rooms_of_all_that_are_gone_and_counts_on() {
    let (mut world, [mut first, _]) = world();
    world.send(1, &first.frame(true, 2));
    // One that comes by TCP, and one that its room has closed already.
    let local = credentials(3);
    let (transport, opener) = (TransportId(3), ChannelOpener::Client);
    world.command(Command::OpenTransport { transport, room: ROOM, local, opener });
    world.engine.establish(transport, Path { remote: address(3), via: Via::Tcp(7) }, &keys(3));
    world.join(4);
    world.command(Command::CloseTransport { transport: TransportId(4), after: Duration::from_secs(2) });
    ended(&mut world);

    let broken = world.engine.restart(world.now);
    assert_eq!((broken.transports(), world.engine.transports()), (5, 0));
    let gone = [1, 2, 3, 10].map(|transport| (TransportId(transport), TransportEnd::InternalError));
    assert_eq!(ended(&mut world), gone);
    assert_eq!((world.engine.poll_unused_connection(), world.engine.poll_unused_connection()), (Some(7), None));
    let stats = &world.engine.stats;
    assert_eq!((stats.panics, stats.restarts, stats.ended.internal_error), (1, 1, 4));
    assert_eq!((stats.rtp_received, stats.rtp_sent), (2, 2));

    let mut source = Source::new(300);
    world.join(5);
    world.publish(5, 5, video_section(300));
    world.join(6);
    world.subscribe(6, 6, 5, send_section(9_000, video_codecs()));
    world.send(5, &source.frame(true, 3));
    assert_eq!(world.media(6).len(), 3);
}
