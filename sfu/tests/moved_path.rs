//! A client that moves to another address, and one that only says so: media goes where somebody was shown to receive.

mod media;
mod support;

use std::time::Duration;

use media::*;
use sfu::command::*;
use sfu::demux::Discard;
use support::{answer_to, check_of, raw_attribute, remote_credentials};

const PUBLISHER: u64 = 1;
/// The viewer, and the address where it is.
const VIEWER: u64 = 10;
/// An address where nobody is, or where the viewer goes.
const ELSEWHERE: u64 = 20;

const FRAME: Duration = Duration::from_millis(33);

/// A stream with a viewer, in the middle of it.
fn watched() -> (World, Source) {
    let mut world = World::new();
    world.join(PUBLISHER);
    world.publish(PUBLISHER, 1, video_section(100));
    world.join(VIEWER);
    world.command(Command::SetRemoteCredentials { transport: TransportId(VIEWER), remote: remote_credentials() });
    world.subscribe(VIEWER, 1, 1, send_section(1000, video_codecs()));
    let mut source = Source::new(100);
    world.send(PUBLISHER, &source.frame(true, 3));
    assert_eq!(world.media(VIEWER).len(), 3);
    (world, source)
}

/// A check as full agents send it: USE-CANDIDATE, PRIORITY and ICE-CONTROLLING.
fn nomination(client: u64) -> Vec<u8> {
    nomination_of(&credentials(client), &remote_credentials())
}

fn nomination_of(local: &IceCredentials, remote: &IceCredentials) -> Vec<u8> {
    let attributes = [(0x25, &[][..]), (0x24, &[110, 0, 30, 255]), (0x802a, &[7; 8])];
    check_of(local, &remote.ufrag, attributes.map(|(kind, value)| raw_attribute(kind, value)).into())
}

/// A nomination of an address by somebody who knows the viewer's credentials; its length.
fn nominate(world: &mut World, address: u64) -> usize {
    let check = nomination(VIEWER);
    world.arrive(address, check.clone());
    world.turn();
    check.len()
}

fn is_stun(datagram: &[u8]) -> bool {
    datagram[0] < 4
}

fn is_media(datagram: &[u8]) -> bool {
    datagram[0] >= 128 && !(192..224).contains(&datagram[1])
}

/// The checks of ours among datagrams.
fn checks(datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
    datagrams.iter().filter(|datagram| datagram.starts_with(&[0, 1])).cloned().collect()
}

#[test]
fn an_address_that_does_not_answer_gets_no_media_and_three_times_what_came_from_there() {
    let (mut world, mut source) = watched();
    let (mut from, mut to) = (0, 0);
    for number in 0..300 {
        if number % 6 == 0 {
            from += nominate(&mut world, ELSEWHERE);
        }
        if number % 60 == 0 {
            nominate(&mut world, VIEWER);
            from += nominate(&mut world, ELSEWHERE);
        }
        world.pass(FRAME);
        world.send(PUBLISHER, &source.frame(false, 5));
        let there = world.sent_to(ELSEWHERE);
        assert!(there.iter().all(|datagram| is_stun(datagram)), "frame {number}: more than checks");
        to += there.iter().map(Vec::len).sum::<usize>();
        let here = world.sent_to(VIEWER);
        assert_eq!(here.iter().filter(|datagram| is_media(datagram)).count(), 5, "frame {number}");
    }

    assert!(to <= 3 * from, "{to} bytes for {from}");
    assert_eq!(world.engine.stats.paths_moved, 0);
    assert!(world.engine.stats.nominations_unproven > 0 && world.engine.stats.path_checks_sent > 0);
}

#[test]
fn a_client_that_moves_goes_on_when_its_new_address_has_answered() {
    let (mut world, mut source) = watched();
    nominate(&mut world, ELSEWHERE);
    let sent = world.sent_to(ELSEWHERE);
    let [check] = &checks(&sent)[..] else { panic!("no check of ours in {sent:?}") };
    world.send(PUBLISHER, &source.frame(false, 5));
    assert_eq!((world.sent_to(VIEWER).len(), world.sent_to(ELSEWHERE).len()), (5, 0), "a round trip long as before");

    world.arrive(ELSEWHERE, answer_to(check, &remote_credentials()).expect("it is for the client"));
    world.send(PUBLISHER, &source.frame(false, 5));
    assert_eq!((world.sent_to(VIEWER).len(), world.sent_to(ELSEWHERE).len()), (0, 5));
    assert_eq!(world.engine.stats.paths_moved, 1);
}

/// A new interface during an ICE restart: libwebrtc checks from it with the server's old ufrag until the answer is
/// there, and from its old sockets with its own old one. It refuses a check with the other of either.
#[test]
fn a_client_that_moves_during_an_ice_restart_is_checked_with_the_ufrags_that_it_checks_with() {
    let new = |ufrag: &str| IceCredentials { ufrag: ufrag.to_owned(), password: ufrag.repeat(4) };
    let ours = [credentials(VIEWER), new("00restarted")];
    let theirs = [remote_credentials(), new("restarted")];
    for (local, remote) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (mut world, mut source) = watched();
        let transport = TransportId(VIEWER);
        world.command(Command::RestartIce { transport, local: ours[1].clone() });
        world.command(Command::SetRemoteCredentials { transport, remote: theirs[1].clone() });
        world.arrive(ELSEWHERE, nomination_of(&ours[local], &theirs[remote]));
        world.turn();
        let check = checks(&world.sent_to(ELSEWHERE)).remove(0);
        assert_eq!(username_of(&check), format!("{}:{}", theirs[remote].ufrag, ours[local].ufrag));

        world.arrive(ELSEWHERE, answer_to(&check, &theirs[remote]).expect("it is for the client"));
        world.send(PUBLISHER, &source.frame(false, 5));
        assert_eq!((world.sent_to(VIEWER).len(), world.sent_to(ELSEWHERE).len()), (0, 5));
    }
}

/// The first ones serve until a check with the newest nominates (RFC 8445, section 9), however often a client restarts.
#[test]
fn after_two_restarts_the_credentials_in_use_and_the_newest_are_known_and_those_between_are_not() {
    let (mut world, _) = watched();
    let new = |ufrag: &str| IceCredentials { ufrag: ufrag.to_owned(), password: ufrag.repeat(4) };
    let generations = [credentials(VIEWER), new("00second"), new("00thirdone")];
    for local in &generations[1..] {
        world.command(Command::RestartIce { transport: TransportId(VIEWER), local: local.clone() });
    }
    for (local, is_answered) in generations.iter().zip([true, false, true]) {
        world.arrive(VIEWER, check_of(local, &remote_credentials().ufrag, Vec::new()));
        world.turn();
        assert_eq!(world.sent_to(VIEWER).len(), usize::from(is_answered), "{}", local.ufrag);
    }
    assert_eq!(world.engine.stats.discards(Discard::UnknownUfrag), 1);
    world.command(Command::CloseTransport { transport: TransportId(VIEWER), after: Duration::ZERO });
    for local in &generations {
        world.arrive(VIEWER, check_of(local, &remote_credentials().ufrag, Vec::new()));
    }
    assert_eq!(world.engine.stats.discards(Discard::UnknownUfrag), 1 + 3);
}

/// USERNAME, the first attribute of our checks.
fn username_of(check: &[u8]) -> String {
    let length = usize::from(u16::from_be_bytes([check[22], check[23]]));
    assert_eq!(check[20..22], [0, 6]);
    String::from_utf8(check[24..24 + length].to_vec()).expect("of ice-chars")
}

#[test]
fn a_check_that_is_lost_is_sent_again_without_the_clients_help() {
    let (mut world, mut source) = watched();
    nominate(&mut world, ELSEWHERE);
    world.sent_to(ELSEWHERE);
    world.pass(Duration::from_millis(150));
    let sent = world.sent_to(ELSEWHERE);
    let [again] = &checks(&sent)[..] else { panic!("no check of ours in {sent:?}") };

    world.arrive(ELSEWHERE, answer_to(again, &remote_credentials()).expect("it is for the client"));
    world.send(PUBLISHER, &source.frame(false, 5));
    assert_eq!(world.sent_to(ELSEWHERE).len(), 5);
}

/// The handshake of TCP has shown that the client receives there.
#[test]
fn a_client_that_moves_to_a_connection_goes_on_at_once() {
    let (mut world, mut source) = watched();
    let connection = sfu::transport::Path { remote: address(ELSEWHERE), via: sfu::transport::Via::Tcp(3) };
    world.engine.receive(world.now, connection, &mut nomination(VIEWER), &mut world.out);
    world.turn();
    assert!(checks(&world.sent_to(ELSEWHERE)).is_empty());
    world.send(PUBLISHER, &source.frame(false, 5));
    assert_eq!((world.sent_to(VIEWER).len(), world.sent_to(ELSEWHERE).len()), (0, 5));
    assert_eq!((world.engine.stats.paths_moved, world.engine.stats.nominations_unproven), (1, 0));
}

/// Its first check comes before its handshake is done.
#[test]
fn a_viewer_that_was_checked_and_has_no_keys_yet_starts_with_the_last_key_frame_when_it_has() {
    let (mut world, mut source) = watched();
    let (transport, opener) = (TransportId(30), ChannelOpener::Client);
    world.command(Command::OpenTransport { transport, room: ROOM, local: credentials(30), opener });
    world.subscribe(30, 30, 1, send_section(5000, video_codecs()));
    world.arrive(30, nomination(30));
    for _ in 0..3 {
        world.send(PUBLISHER, &source.frame(false, 3));
        world.pass(FRAME);
    }
    world.sent_to(30);
    world.connect(30);
    world.pass(FRAME);
    assert_eq!(world.media(30).len(), 3 + 3 * 3);
}

#[test]
fn a_nomination_that_has_to_be_proven_is_counted_once_however_often_it_is_repeated() {
    let (mut world, _) = watched();
    for address in [VIEWER, ELSEWHERE, ELSEWHERE, VIEWER, ELSEWHERE + 1, ELSEWHERE + 1, VIEWER] {
        let before = world.engine.stats.nominations_unproven;
        let is_new = world.engine.transport_at(&path_of(address)).is_none();
        nominate(&mut world, address);
        let counted = world.engine.stats.nominations_unproven - before;
        assert_eq!(counted, u64::from(is_new), "{address}");
    }
}

#[test]
fn credentials_that_come_after_the_nomination_bring_the_check() {
    let (mut world, _) = watched();
    world.join(11);
    world.arrive(ELSEWHERE, nomination(11));
    world.turn();
    assert!(checks(&world.sent_to(ELSEWHERE)).is_empty());

    world.command(Command::SetRemoteCredentials { transport: TransportId(11), remote: remote_credentials() });
    assert_eq!(checks(&world.sent_to(ELSEWHERE)).len(), 1);
}

#[test]
fn an_answer_from_elsewhere_or_with_another_key_or_to_nothing_proves_nothing() {
    let (mut world, mut source) = watched();
    nominate(&mut world, ELSEWHERE);
    let check = checks(&world.sent_to(ELSEWHERE)).remove(0);
    let answer = answer_to(&check, &remote_credentials()).expect("it is for the client");
    let mut other_id = answer.clone();
    other_id[19] ^= 1;
    let crc = crc32_of(&other_id);
    let end = other_id.len();
    other_id[end - 4..].copy_from_slice(&crc.to_be_bytes());

    world.arrive(VIEWER, answer.clone());
    world.arrive(ELSEWHERE, other_id);
    world.arrive(99, answer.clone());
    assert_eq!(world.engine.stats.discards(Discard::StunRefused), 2);
    assert_eq!(world.engine.stats.discards(Discard::UnknownSender), 1);
    world.send(PUBLISHER, &source.frame(false, 5));
    assert_eq!((world.sent_to(VIEWER).len(), world.sent_to(ELSEWHERE).len()), (5, 0));

    world.arrive(ELSEWHERE, answer);
    world.send(PUBLISHER, &source.frame(false, 5));
    assert_eq!(world.sent_to(ELSEWHERE).len(), 5, "the right one does");
}

/// FINGERPRINT of a message that ends with one (RFC 8489, section 14.7).
fn crc32_of(message: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 })
    };
    !message[..message.len() - 8].iter().fold(u32::MAX, step) ^ 0x5354_554E
}

#[test]
fn checks_from_an_address_that_does_not_answer_are_no_consent_for_the_one_before() {
    let (mut world, _) = watched();
    nominate(&mut world, VIEWER);
    for _ in 0..CONSENT_LOST.as_secs() + 1 {
        world.pass(Duration::from_secs(1));
        nominate(&mut world, ELSEWHERE);
    }
    let transport = TransportId(VIEWER);
    let lost = |event: &Event| matches!(event, Event::TransportEnded { transport: ended, end: TransportEnd::ConsentLost } if *ended == transport);
    assert!(world.events.iter().any(lost));
}

/// libnice sends neither checks nor answers to silence once a path is nominated, only media.
#[test]
fn media_and_reports_are_consent_and_silence_is_not() {
    let (mut world, mut source) = watched();
    world.join(11);
    for client in [PUBLISHER, VIEWER, 11] {
        nominate_as(&mut world, client);
    }
    let mut report = Vec::new();
    sfu::rtcp::write_receiver_report(&mut report, 1, &[]);
    for _ in 0..2 * CONSENT_LOST.as_secs() {
        world.pass(Duration::from_secs(1));
        world.send(PUBLISHER, &source.frame(false, 1));
        world.send_rtcp(VIEWER, &report);
    }
    let ended: Vec<u64> = world.events.iter().filter_map(lost).collect();
    assert_eq!(ended, [11]);
}

fn nominate_as(world: &mut World, client: u64) {
    world.arrive(client, nomination(client));
    world.turn();
}

fn lost(event: &Event) -> Option<u64> {
    match event {
        Event::TransportEnded { transport, end: TransportEnd::ConsentLost } => Some(transport.0),
        _ => None,
    }
}

/// Whoever has a transport names any address by its first check, and says hello from its own.
#[test]
fn an_address_that_was_only_named_gets_one_flight_of_a_handshake_and_three_times_what_came_from_there() {
    const OWN: u64 = 30;
    let mut world = World::new();
    let (transport, local) = (TransportId(OWN), credentials(OWN));
    world.command(Command::OpenTransport { transport, room: ROOM, local, opener: ChannelOpener::Client });
    let mut client = support::Client::robust(OWN);
    client.progress(support::epoch());
    let hello = std::mem::take(&mut client.outgoing);
    let check = nomination(OWN);
    let mut from = check.len();
    world.arrive(ELSEWHERE, check.clone());
    world.arrive(OWN, check_of(&credentials(OWN), &remote_credentials().ufrag, Vec::new()));
    hello.iter().for_each(|datagram| world.arrive(OWN, datagram.clone()));
    world.turn();
    let flight: usize = lengths(&world.sent_to(ELSEWHERE), |datagram| !is_stun(datagram));
    assert!((400..1_200).contains(&flight), "{flight}");

    let mut to = 0;
    for number in 0..150 {
        if number % 50 == 49 {
            from += check.len();
            world.arrive(ELSEWHERE, check.clone());
        }
        world.pass(Duration::from_millis(100));
        hello.iter().for_each(|datagram| world.arrive(OWN, datagram.clone()));
        world.turn();
        to += lengths(&world.sent_to(ELSEWHERE), |_| true);
    }
    assert!(flight + to <= 3 * from + 1_200, "{} bytes for {from}", flight + to);
    assert!(world.engine.stats.handshakes_withheld > 100);
    assert_eq!(lengths(&world.sent_to(OWN), |datagram| !is_stun(datagram)), 0);
}

fn lengths(datagrams: &[Vec<u8>], wanted: impl Fn(&[u8]) -> bool) -> usize {
    datagrams.iter().filter(|datagram| wanted(datagram)).map(Vec::len).sum()
}

/// Each is answered with less than it is long, and of the addresses few are kept.
#[test]
fn a_flood_of_checks_from_many_addresses_is_reflected_shrunk_and_leaves_no_trace() {
    let (mut world, mut source) = watched();
    let check = check_of(&credentials(VIEWER), &remote_credentials().ufrag, Vec::new());
    let mut answered = 0;
    for address in 1_000..6_000 {
        world.arrive(address, check.clone());
        world.turn();
        let sent = world.sent_to(address);
        assert!(sent.len() <= 1 && sent.iter().all(|answer| answer.len() < check.len()));
        answered += sent.len();
    }
    assert!((256..1_000).contains(&answered), "{answered} are answered");
    let known = (1_000..6_000).filter(|number| world.engine.transport_at(&path_of(*number)).is_some()).count();
    assert!(known < 16, "{known}");
    world.send(PUBLISHER, &source.frame(false, 5));
    assert_eq!(world.sent_to(VIEWER).iter().filter(|datagram| is_media(datagram)).count(), 5);
}

fn path_of(number: u64) -> sfu::transport::Path {
    sfu::transport::Path { remote: address(number), via: sfu::transport::Via::Udp(0) }
}
