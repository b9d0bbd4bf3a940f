//! What strangers and hostile clients send, on real sockets: refused, counted, no effect on the client beside them.
#![expect(clippy::disallowed_methods, reason = "tests have clocks and sockets of their own")]

mod media;
#[path = "sockets/peer.rs"]
mod peer;
mod support;

use std::io::Write as _;

use peer::{Link, Peer, Server};
use proptest::prelude::*;
use rtc_datachannel::message::message_channel_open::ChannelType;
use sfu::command::*;
use support::{check, nomination, remote_credentials};

/// Type of an error response, and its code (RFC 8489, section 14.8).
fn error_code(reply: &[u8]) -> Option<u16> {
    let mut attributes = reply.strip_prefix(&[1, 0x11])?.get(18..)?;
    while let [0, kind, _, length, rest @ ..] = attributes {
        if let (9, [_, _, class, number, ..]) = (kind, rest) {
            return Some(u16::from(*class) * 100 + u16::from(*number));
        }
        attributes = rest.get(usize::from(*length).next_multiple_of(4)..)?;
    }
    None
}

#[test]
fn a_check_with_a_wrong_message_integrity_is_answered_401_and_moves_nothing() {
    let mut server = Server::start(1);
    let mut honest = Peer::connect(&mut server, 1, Link::udp);
    let mut local = honest.local.clone();
    local.password.replace_range(..1, if local.password.starts_with('x') { "y" } else { "x" });
    let mut stranger = Link::udp(&server);
    stranger.send(&nomination(&local));

    assert_eq!(stranger.hear().and_then(|reply| error_code(&reply)), Some(401));
    assert_eq!(server.counted("discards_total", "stun_integrity", 1), 1);
    // All still goes where the client is.
    honest.run_until(|peer| peer.client.seen.sctp_connected);
    honest.client.open(std::time::Instant::now(), 2, "_reliable", ChannelType::Reliable);
    honest.run_until(|peer| peer.client.seen.acknowledged == [2]);
    assert!(stranger.receive().is_none());
}

#[test]
fn a_certificate_of_another_fingerprint_ends_the_transport_and_no_other() {
    let mut server = Server::start(1);
    let mut honest = Peer::connect(&mut server, 1, Link::udp);
    let mut stranger = Peer::knock(&server, 2, Link::udp);
    let (transport, fingerprint) = (TransportId(2), Fingerprint([7; 32]));
    server.command(Command::SetFingerprint { transport, fingerprint, role: DtlsRole::Server });
    stranger.run_until(|peer| peer.client.seen.dtls_closed);

    assert!(server.reports(|event| matches!(
        event,
        Event::TransportEnded { transport: TransportId(2), end: TransportEnd::WrongFingerprint }
    )));
    assert_eq!(server.counted("transports_ended_total", "wrong_fingerprint", 1), 1);
    honest.check();
}

#[test]
fn a_connection_that_does_not_begin_with_a_check_is_closed() {
    let mut server = Server::start(1);
    let mut honest = Peer::connect(&mut server, 1, Link::tcp);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 4, 1, 2, 3, 4], &[0, 0], &[0, 3, 0, 1, 0]] {
        let mut link = Link::tcp(&server);
        let Link::Tcp(stream, _) = &mut link else { unreachable!() };
        stream.write_all(garbage).unwrap();
        // "GE" announces 18 245 bytes: more than a frame may have, so that nobody waits for them.
        assert!(link.is_closed(), "{garbage:?}");
    }
    honest.check();
}

#[test]
fn a_frame_longer_than_any_datagram_closes_its_connection_alone() {
    let mut server = Server::start(1);
    let mut honest = Peer::connect(&mut server, 1, Link::tcp);
    let mut hostile = Peer::connect(&mut server, 2, Link::tcp);
    let Link::Tcp(stream, _) = &mut hostile.link else { unreachable!() };
    stream.write_all(&[0xFF; 64]).unwrap();

    assert!(hostile.link.is_closed());
    assert_eq!(server.counted("discards_total", "too_large", 1), 1);
    honest.check();
}

#[test]
fn messages_without_end_on_a_channel_that_nobody_knows_are_refused_and_counted() {
    let mut server = Server::start(1);
    let mut honest = Peer::connect(&mut server, 1, Link::udp);
    let mut flooder = Peer::connect(&mut server, 2, Link::udp);
    let now = std::time::Instant::now();
    flooder.run_until(|peer| peer.client.seen.sctp_connected);
    flooder.client.open(now, 6, "flood", ChannelType::Reliable);
    for _ in 0..500 {
        flooder.client.send(now, 6, &[7; 100]);
    }
    let end = std::time::Instant::now() + peer::PATIENCE;
    // The channel, and its messages.
    while server.counter("discards_total", "data_refused") < 501 && std::time::Instant::now() < end {
        flooder.step();
    }
    assert_eq!(server.counter("discards_total", "data_refused"), 501);
    honest.check();
}

/// A request that names a worker as our user fragments do, and no transport of it.
fn check_of_nobody(local: &IceCredentials) -> Vec<u8> {
    let mut unknown = local.clone();
    unknown.ufrag.replace_range(2..4, "zz");
    nomination(&unknown)
}

/// What is refused on a connection that has not shown a valid check.
#[test]
fn frames_before_a_valid_check_are_checks_and_few() {
    let mut server = Server::start(1);
    let mut honest = Peer::connect(&mut server, 1, Link::tcp);
    let check = check_of_nobody(&honest.local);
    let rtp = vec![0x80; 40];
    let floods = [
        (vec![check.clone(), Vec::new()], "frame_refused"),
        (vec![check.clone(), rtp], "frame_refused"),
        (vec![check; 33], "unauthenticated"),
    ];
    for (frames, reason) in floods {
        let before = server.counter("discards_total", reason);
        let mut link = Link::tcp(&server);
        frames.iter().for_each(|frame| link.send(frame));
        assert!(link.is_closed(), "{reason}");
        assert_eq!(server.counted("discards_total", reason, before + 1), before + 1);
    }
    honest.check();
}

#[test]
fn a_flood_of_tiny_frames_leaves_turns_for_others() {
    let mut server = Server::start(1);
    let mut honest = Peer::connect(&mut server, 1, Link::udp);
    let mut flooder = Peer::connect(&mut server, 2, Link::tcp);
    // More than the server reads in a turn; each of a byte that is no protocol.
    let flood = [0, 1, 0xFF].repeat(100_000);
    let Link::Tcp(stream, _) = &mut flooder.link else { unreachable!() };
    stream.set_write_timeout(Some(peer::PATIENCE)).unwrap();
    stream.write_all(&flood).unwrap();
    honest.check();

    assert_eq!(server.counted("discards_total", "unknown_protocol", 100_000), 100_000, "none is lost");
    flooder.check();
}

#[test]
fn one_address_holds_no_more_than_its_share_of_silent_connections() {
    let mut server = Server::start(1);
    let mut silent: Vec<Link> = (0..65).map(|_| Link::tcp(&server)).collect();
    assert_eq!(server.counted("discards_total", "tcp_connections_full", 1), 1);
    assert!(silent[64].is_closed());
    silent.pop();
    silent.pop();
    // Clients that show a valid check do not count, however many there are.
    for transport in 1..=4 {
        Peer::connect(&mut server, transport, Link::tcp).check();
    }
}

#[test]
fn one_transport_holds_few_connections() {
    let mut server = Server::start(1);
    let mut peer = Peer::connect(&mut server, 1, Link::tcp);
    let more: Vec<Link> = (0..8)
        .map(|_| {
            let mut link = Link::tcp(&server);
            link.send(&check(&peer.local, Vec::new()));
            link
        })
        .collect();
    assert_eq!(server.counted("discards_total", "tcp_connections_full", 1), 1);
    peer.check();
    drop(more);
}

#[test]
fn an_ice_restart_brings_a_transport_no_further_connections() {
    let mut server = Server::start(1);
    let peer = Peer::connect(&mut server, 1, Link::tcp);
    let dial = |local: &IceCredentials| {
        let mut link = Link::tcp(&server);
        link.send(&check(local, Vec::new()));
        link
    };
    let mut links: Vec<Link> = (0..7).map(|_| dial(&peer.local)).collect();
    let (transport, local) = (TransportId(1), server.workers().handles()[0].new_credentials());
    server.command(Command::RestartIce { transport, local: local.clone() });
    server.command(Command::SetRemoteCredentials { transport, remote: remote_credentials() });
    links.extend((0..2).map(|_| dial(&local)));
    assert_eq!(server.counted("discards_total", "tcp_connections_full", 2), 2);
}

#[test]
fn connections_of_a_transport_end_with_it() {
    let mut server = Server::start(1);
    let mut honest = Peer::connect(&mut server, 1, Link::tcp);
    let mut leaving = Peer::connect(&mut server, 2, Link::tcp);
    let mut idle: Vec<Link> = (0..7)
        .map(|_| {
            let mut link = Link::tcp(&server);
            link.send(&check(&leaving.local, Vec::new()));
            assert!(link.hear().is_some());
            link
        })
        .collect();
    server.command(Command::CloseTransport { transport: TransportId(2), after: std::time::Duration::ZERO });
    // Each is waited for more briefly than a silent connection is kept.
    assert!(idle.iter_mut().all(Link::is_closed));
    leaving.run_until(|peer| peer.client.seen.dtls_closed);
    assert!(leaving.link.is_closed());
    honest.check();
}

/// ERROR and ABORT whose cause claims more bytes than the chunk has (RFC 9260, section 3.3.10).
const CAUSES_TOO_LONG: [[u8; 8]; 2] = [[9, 0, 0, 8, 0, 1, 0xFF, 0xFF], [6, 0, 0, 8, 0, 1, 0xFF, 0xFF]];

#[test]
fn error_causes_longer_than_their_chunk_end_one_transport_at_most() {
    for chunk in CAUSES_TOO_LONG {
        let mut server = Server::start(1);
        let mut honest = Peer::connect(&mut server, 1, Link::udp);
        let mut hostile = Peer::connect(&mut server, 2, Link::udp);
        hostile.run_until(|peer| peer.client.seen.sctp_connected);
        hostile.client.send_chunks(std::time::Instant::now(), &chunk);
        hostile.step();

        honest.check();
        Peer::connect(&mut server, 3, Link::udp).check();
        assert_eq!(server.counter("worker_restarts_total", ""), 0);
    }
}

#[test]
fn a_fault_that_no_transport_has_led_to_ends_those_of_its_worker_and_the_worker_goes_on() {
    let fails = |event: &Event| matches!(event, Event::TransportConnected { transport: TransportId(2) });
    let mut server = Server::start_failing(1, fails);
    Peer::connect(&mut server, 1, Link::udp);
    let mut second = Peer::knock(&server, 2, Link::udp);
    second.run_until(|peer| peer.client.seen.dtls_connected);

    let end = TransportEnd::InternalError;
    for transport in [TransportId(1), TransportId(2)] {
        let wanted = Event::TransportEnded { transport, end };
        assert!(server.reports(|event| format!("{event:?}") == format!("{wanted:?}")));
    }
    assert_eq!(server.counted("worker_restarts_total", "", 1), 1);
    assert_eq!(server.counter("transports_ended_total", "internal_error"), 2);
    assert!(server.workers().handles()[0].is_running());
    Peer::connect(&mut server, 3, Link::udp).check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// On real sockets too: whatever comes from an unknown address, the workers go on.
    #[test]
    fn garbage_from_strangers_stops_nobody(
        garbage in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..50),
    ) {
        let mut server = Server::start(1);
        let mut honest = Peer::connect(&mut server, 1, Link::udp);
        let mut stranger = Link::udp(&server);
        for datagram in &garbage {
            stranger.send(datagram);
        }
        honest.check();
    }
}

#[test]
fn the_time_that_handshakes_take_is_charged_over_udp_and_tcp() {
    for link in [Link::udp, Link::tcp] {
        let mut server = Server::start(1);
        let mut peer = Peer::connect(&mut server, 1, link);
        peer.run_until(|peer| peer.client.seen.sctp_connected);
        assert!(server.counted("control_microseconds_total", "", 1) > 0);
        assert_eq!(server.counter("discards_total", "over_budget"), 0);
    }
}
