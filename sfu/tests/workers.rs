//! Several workers on one port, on real sockets: what the kernel gives to the wrong one reaches the right one.
#![expect(clippy::disallowed_methods, reason = "tests have clocks and sockets of their own")]

mod media;
#[path = "sockets/peer.rs"]
mod peer;
mod support;

use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;

use media::{ROOM, Source, send_section, video_codecs, video_section};
use peer::{Link, Peer, Server};
use sfu::certificate::Certificate;
use sfu::command::*;
use sfu::engine::EngineConfig;
use sfu::io::{Config, UdpPorts, Workers};
use support::{Client, check, nomination, remote_credentials};

/// Sockets of one test. The kernel spreads them over the workers by a hash of the addresses: that all of them come to
/// the same of two has a chance of 2^-31.
const SOCKETS: usize = 32;

const BINDING_SUCCESS: [u8; 2] = [1, 1];

fn is_answered(link: &mut Link, local: &IceCredentials) -> bool {
    link.send(&nomination(local));
    link.hear().is_some_and(|reply| reply.starts_with(&BINDING_SUCCESS))
}

/// How many were handed over, once all of them have been taken over. Workers tell of either at times of their own.
fn strays(server: &Server) -> u64 {
    let mut taken = server.counted("taken_over_total", "", 1);
    loop {
        let handed = server.counted("handed_over_total", "", taken);
        assert!(handed >= taken, "{taken} were taken over, but {handed} handed over");
        if handed == taken {
            return taken;
        }
        taken = server.counted("taken_over_total", "", handed);
        assert!(taken >= handed, "{taken} of {handed} were taken over");
    }
}

/// To the kernel sockets of two processes are like those of two workers: it would give each half of the clients.
#[test]
fn a_port_belongs_to_one_server() {
    let first = Server::start(2);
    let [udp, tcp] =
        [CandidateProtocol::Udp, CandidateProtocol::TcpPassive].map(|protocol| first.address(protocol).port());
    for (udp, tcp, said) in
        [(udp, None, format!("UDP port {udp} is taken")), (0, Some(tcp), format!("TCP port {tcp} is taken"))]
    {
        let config = Config {
            workers: 2,
            bind: vec![Ipv4Addr::LOCALHOST.into()],
            advertise: Vec::new(),
            udp: UdpPorts::Single(udp),
            tcp_port: tcp,
            certificate: Certificate::generate(),
            engine: EngineConfig::default(),
        };
        let error = Workers::start(config, |_, _| ()).err().expect("the port is taken");

        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&said), "{error}");
    }
}

#[test]
fn a_stray_check_is_handed_over_and_answered_from_the_port_it_came_to() {
    let server = Server::start(2);
    let local = server.open(1, Client::real(1).fingerprint);
    // A connected UDP socket hears nobody but the address and port that it sends to.
    let mut links: Vec<Link> = (0..SOCKETS).map(|_| Link::udp(&server)).collect();
    assert!(links.iter_mut().all(|link| is_answered(link, &local)));

    let taken = strays(&server);
    assert!((1..SOCKETS as u64).contains(&taken), "{taken}");
}

#[test]
fn a_stray_connection_is_handed_over_with_what_it_has_said() {
    let server = Server::start(2);
    // A transport has few connections.
    let locals: Vec<_> = (1..=8).map(|number| server.open(number, Client::real(number).fingerprint)).collect();
    let mut links: Vec<_> = (0..SOCKETS).map(|number| (Link::tcp(&server), &locals[number % 8])).collect();
    assert!(links.iter_mut().all(|(link, local)| is_answered(link, local)));
    assert!(links.iter_mut().all(|(link, local)| is_answered(link, local)), "the connections go on");

    let taken = strays(&server);
    assert!((1..SOCKETS as u64).contains(&taken), "{taken}");
}

#[test]
fn a_check_for_a_worker_that_is_not_there_is_dropped() {
    let server = Server::start(2);
    let mut local = server.open(1, Client::real(1).fingerprint);
    let mut link = Link::udp(&server);
    assert!(is_answered(&mut link, &local));
    let known = local.ufrag.clone();
    local.ufrag.replace_range(..2, "f0");
    link.send(&nomination(&local));
    assert_eq!(server.counted("discards_total", "unknown_ufrag", 1), 1);

    local.ufrag = known;
    assert!(is_answered(&mut link, &local), "a client is not taken for one of the absent worker");
}

/// Streams of ten frames from the first peer to the others, who come until there are enough of them.
fn media_arrives(server: &mut Server, link: fn(&Server) -> Link, enough: impl Fn(&Server, usize) -> bool) {
    let mut publisher = Peer::connect(server, 1, link);
    let (publication, transport) = (PublicationId(1), TransportId(1));
    server.command(Command::Publish { publication, transport, section: video_section(100) });
    let mut audience = Vec::new();
    for number in 0.. {
        if enough(server, audience.len()) {
            break;
        }
        let transport = TransportId(10 + number);
        audience.push(Peer::connect(server, transport.0, link));
        let (subscription, section) = (SubscriptionId(number), send_section(1_000, video_codecs()));
        server.command(Command::Subscribe { subscription, publication, transport, section });
    }
    let mut source = Source::new(100);
    let mut sent = 0;
    for number in 0..10 {
        let frame = source.frame(number == 0, 5);
        sent += frame.len();
        publisher.send_media(&frame);
        // In step, so that neither a socket's buffer nor the pacing of the machine matters.
        for peer in &mut audience {
            let end = std::time::Instant::now() + peer::PATIENCE;
            while peer.media.len() < sent && std::time::Instant::now() < end {
                peer.step();
            }
            assert_eq!(peer.media.len(), sent);
        }
    }
    for peer in &audience {
        assert!(peer.media.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.wrapping_add(1)));
    }
}

#[test]
fn media_flows_over_udp_whichever_worker_the_kernel_chooses() {
    let mut server = Server::start(2);
    // A worker shows its counters together: those of a stray are there when its handshake is.
    let is_one_a_stray = |server: &Server, subscribers: usize| {
        let clients = subscribers as u64 + 1;
        assert_eq!(server.counted("handshakes_total", "AEAD_AES_128_GCM", clients), clients);
        server.counter("taken_over_total", "") > 0
    };
    media_arrives(&mut server, Link::udp, |server, subscribers| {
        assert!(subscribers < SOCKETS, "no socket of {SOCKETS} came to the wrong worker");
        subscribers >= 4 && is_one_a_stray(server, subscribers)
    });
}

#[test]
fn media_goes_on_at_another_address_whichever_worker_hears_from_there() {
    let mut server = Server::start(2);
    let mut publisher = Peer::connect(&mut server, 1, Link::udp);
    let (publication, transport) = (PublicationId(1), TransportId(1));
    server.command(Command::Publish { publication, transport, section: video_section(100) });
    let mut viewer = Peer::connect(&mut server, 2, Link::udp);
    let (subscription, section) = (SubscriptionId(1), send_section(1_000, video_codecs()));
    server.command(Command::Subscribe { subscription, publication, transport: TransportId(2), section });
    let mut source = Source::new(100);
    let mut moves = 0;
    while moves < 4 || server.counter("taken_over_total", "") == 0 {
        assert!(moves < SOCKETS as u64, "no socket of {SOCKETS} came to the wrong worker");
        viewer.link = Link::udp(&server);
        viewer.check();
        moves += 1;
        while server.counter("paths_moved_total", "") < moves {
            viewer.step();
        }
        let before = viewer.media.len();
        publisher.send_media(&source.frame(moves == 1, 5));
        viewer.run_until(|viewer| viewer.media.len() == before + 5);
    }
}

#[test]
fn media_flows_over_ice_tcp() {
    let mut server = Server::start(2);
    media_arrives(&mut server, Link::tcp, |_, subscribers| subscribers == 4);
    assert_eq!(server.counted("handshakes_total", "AEAD_AES_128_GCM", 5), 5);
}

#[test]
fn a_frame_may_come_byte_by_byte() {
    let server = Server::start(2);
    let local = server.open(1, Client::real(1).fingerprint);
    let mut link = Link::tcp(&server);
    let check = nomination(&local);
    let frame = [&u16::try_from(check.len()).unwrap().to_be_bytes()[..], &check].concat();
    let Link::Tcp(stream, _) = &mut link else { unreachable!() };
    for byte in frame {
        stream.write_all(&[byte]).unwrap();
    }
    assert!(link.hear().is_some_and(|reply| reply.starts_with(&BINDING_SUCCESS)));
}

#[test]
fn nobody_takes_the_address_of_a_client_of_another_worker_by_a_check_of_their_own() {
    let mut server = Server::start(2);
    // Half of the clients come to the worker of the attacker, who has joined and forges their addresses.
    let other = &server.workers().handles()[1];
    let (transport, attacker) = (TransportId(1_000), other.new_credentials());
    let local = attacker.clone();
    other.try_send(Command::OpenTransport { transport, room: ROOM, local, opener: ChannelOpener::Client }).unwrap();
    let mut expected = 0;
    for client in 1..=16 {
        let mut peer = Peer::connect(&mut server, client, Link::udp);
        peer.check();
        peer.link.send(&nomination(&attacker));
        peer.send_media(&Source::new(100).frame(true, 3));
        expected += 3;
    }
    assert_eq!(server.counted("rtp_received_total", "", expected), expected);
    assert!(server.counted("discards_total", "path_taken", 1) > 0, "no socket came to the wrong worker");
}

/// A valid check shows who sent it, not from where: it has no word about an address until a handshake went through
/// there.
#[test]
fn nobody_keeps_a_stranger_from_connecting_by_a_check_from_its_address() {
    for worker in [0, 1] {
        let mut server = Server::start(2);
        // The attacker has joined, and forges the addresses of clients that are about to connect.
        let theirs = &server.workers().handles()[worker];
        let (transport, attacker) = (TransportId(1_000), theirs.new_credentials());
        let local = attacker.clone();
        theirs
            .try_send(Command::OpenTransport { transport, room: ROOM, local, opener: ChannelOpener::Client })
            .unwrap();
        let remote = remote_credentials();
        theirs.try_send(Command::SetRemoteCredentials { transport, remote }).unwrap();
        for client in 1..=16 {
            let mut link = Link::udp(&server);
            for check in [check(&attacker, Vec::new()), nomination(&attacker)] {
                link.send(&check);
                assert!(link.hear().is_some_and(|reply| reply.starts_with(&BINDING_SUCCESS)));
            }
            let mut peer = Peer::connect_over(&mut server, client, link);
            peer.send_media(&Source::new(100).frame(true, 3));
        }
        assert_eq!(server.counted("rtp_received_total", "", 48), 48);
    }
}
