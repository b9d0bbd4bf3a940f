//! Media sockets: UDP and ICE-TCP (RFC 4571, 6544).

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::{Pace, random_bytes};
use crate::client::{Client, ClientOptions, TrackSpec};
use crate::codec::VideoCodec;
use crate::dtls::{Identity, SrtpProfile};
use crate::hostile::peer::{Peer, well};
use crate::hostile::scene::Scene;
use crate::hostile::stranger::Line;
use crate::media::{MediaOptions, MediaThread};
use crate::sender::Source;
use crate::trace::Pattern;

/// Datagrams a second.
const RATE: u32 = 20_000;
/// Connections that are opened at a time.
const OPENING: usize = 64;
/// Magic cookie of STUN (RFC 8489, section 5).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// From a join until media flows to a viewer.
const MEDIA: Duration = Duration::from_millis(700);

/// Where the server takes ICE-TCP.
async fn tcp_address(scene: &Scene<'_>) -> anyhow::Result<(Peer, SocketAddr)> {
    let peer = well(scene, None, 0).await?;
    let named = peer.tcp_candidate.filter(|address| address.is_ipv4() == scene.local_ip.is_ipv4());
    let address = named.or_else(|| Some(SocketAddr::new(peer.server()?.ip(), scene.options.tcp_port)));
    Ok((peer, address.context("no address for ICE-TCP")?))
}

async fn tcp_line(scene: &Scene<'_>, address: SocketAddr) -> std::io::Result<Line> {
    let line = Line::open_at(&address.ip().to_string(), address.port(), scene.options.from).await;
    if line.is_err() {
        scene.refused();
    }
    line
}

pub(in crate::hostile) async fn silent_tcp(scene: &Scene<'_>) -> anyhow::Result<()> {
    let (_peer, address) = tcp_address(scene).await?;
    let left = Cell::new(4_000_usize);
    let open = || async {
        let mut lines = Vec::new();
        while left.get() > 0 && scene.goes_on() {
            left.set(left.get() - 1);
            if let Ok(line) = tcp_line(scene, address).await {
                scene.sent(0);
                lines.push(line);
            }
        }
        sleep(scene.left(Duration::MAX)).await;
        lines
    };
    let mut lines: Vec<Line> = join_all((0..OPENING).map(|_| open())).await.into_iter().flatten().collect();
    let closed = lines.iter_mut().filter_map(|line| line.is_closed().then_some(())).count();
    scene.note(format!("of {} connections held, the server closed {closed}", lines.len()));
    Ok(())
}

/// A frame (RFC 4571) that looks like a check for this transport and is signed with nothing.
fn unsigned_check(peer: &Peer) -> Vec<u8> {
    let remote = peer.remote.as_ref().map_or("", |remote| remote.credentials.ufrag.as_str());
    let name = format!("{remote}:{}", peer.local.credentials.ufrag);
    let mut attribute = vec![0, 6];
    attribute.extend((name.len() as u16).to_be_bytes());
    attribute.extend(name.as_bytes());
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    let mut check = vec![0, 1];
    check.extend((attribute.len() as u16).to_be_bytes());
    check.extend(COOKIE);
    check.extend(random_bytes(12));
    check.extend(attribute);
    check
}

pub(in crate::hostile) async fn empty_frames(scene: &Scene<'_>) -> anyhow::Result<()> {
    let (mut peer, address) = tcp_address(scene).await?;
    let check = unsigned_check(&peer);
    let mut frame = (check.len() as u16).to_be_bytes().to_vec();
    frame.extend(check);
    let (empty, frame) = (vec![0; 64 << 10], &frame);
    let attackers = (0..4).map(|_| {
        let empty = &empty;
        async move {
            while scene.goes_on() {
                let Ok(mut line) = tcp_line(scene, address).await else {
                    sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let written = async {
                    line.stream.write_all(frame).await?;
                    loop {
                        line.stream.write_all(empty).await?;
                        scene.sent(empty.len());
                    }
                };
                let ended: Result<std::io::Result<()>, _> = timeout(scene.left(Duration::MAX), written).await;
                if ended.is_ok() {
                    scene.refused();
                }
            }
        }
    });
    // The transport that the frames name stays alive.
    tokio::join!(join_all(attackers), peer.drive(scene.left(Duration::MAX)));
    Ok(())
}

pub(in crate::hostile) async fn check_from_elsewhere(scene: &Scene<'_>) -> anyhow::Result<()> {
    let (room, media) = (scene.room(0), MediaThread::spawn("bait", MediaOptions::default())?);
    let identity = Identity::generate(&[SrtpProfile::Aes128Gcm, SrtpProfile::Aes128CmSha1])?;
    let mut options = ClientOptions::new(&scene.options.url, scene.token(&room)?);
    options.auto_subscribe = false;
    let publisher = Client::join(&media, &identity, options).await?;
    let pattern = Pattern::Steady { packets_per_second: 200, payload_len: 1_000 };
    let source = Source::Video { codec: VideoCodec::Vp8, pattern };
    publisher.publish(TrackSpec { name: "camera".to_owned(), source, simulcast: false }).await?;
    let mut viewer = Peer::join(scene, &room).await?;
    viewer.drive(MEDIA).await;

    let before = viewer.received;
    let victim = UdpSocket::bind(SocketAddr::new(scene.local_ip, 0)).await?;
    let check = viewer.check()?;
    victim.send_to(&check, viewer.server().context("no path")?).await?;
    scene.sent(check.len());
    // Nothing more is said by anybody, as if the victim's address had been forged.
    sleep(scene.left(Duration::from_secs(4))).await;
    let (mut buffer, mut bytes, mut datagrams) = ([0; 2_048], 0, 0);
    while let Ok((len, _)) = victim.try_recv_from(&mut buffer) {
        bytes += len as u64;
        datagrams += 1;
    }
    viewer.pump().await;
    scene.unproven(bytes);
    scene.note(format!(
        "{datagrams} datagrams there; the viewer had {before} before, and {} meanwhile at most",
        viewer.received.saturating_sub(before)
    ));
    publisher.leave().await;
    Ok(())
}

/// Checks that are in order, from thousands of addresses, for one transport.
pub(in crate::hostile) async fn checks_from_everywhere(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut peer = well(scene, None, 0).await?;
    let server = peer.server().context("no path")?;
    let (mut sockets, mut pace) = (Vec::new(), Pace::per_second(RATE / 20));
    while scene.goes_on() {
        let socket = UdpSocket::bind(SocketAddr::new(scene.local_ip, 0)).await?;
        let check = peer.check()?;
        scene.sent(check.len());
        socket.send_to(&check, server).await?;
        sockets.push(socket);
        if pace.step().await {
            peer.pump().await;
        }
    }
    let is_answered = |socket: &UdpSocket| socket.try_recv(&mut [0; 2_048]).is_ok();
    scene.note(format!(
        "{} of {} were answered",
        sockets.iter().filter(|socket| is_answered(socket)).count(),
        sockets.len()
    ));
    Ok(())
}

/// Records of DTLS before and after the handshake: fragments of messages that claim 16 MiB, epochs and numbers to come.
pub(in crate::hostile) async fn dtls_noise(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut peer = well(scene, None, 0).await?;
    let mut pace = Pace::per_second(RATE / 2);
    while scene.goes_on() {
        let number = scene.next();
        let kind = [20, 21, 22, 22, 22, 23, 25][number as usize % 7];
        let mut fragment = random_bytes(rand::random_range(0..1_200));
        if kind == 22 && fragment.len() > 12 {
            // Type, length, message number, offset, fragment length (RFC 6347, section 4.2.2).
            let offset = rand::random_range(0..0x00ff_0000_u32).to_be_bytes();
            let len = (fragment.len() as u32 - 12).to_be_bytes();
            fragment[0] = [1, 11, 12, 14, 16, 20][rand::random_range(0..6)];
            fragment[1..4].copy_from_slice(&[0xff; 3]);
            fragment[4..6].copy_from_slice(&(number as u16 % 8).to_be_bytes());
            fragment[6..9].copy_from_slice(&offset[1..]);
            fragment[9..12].copy_from_slice(&len[1..]);
        }
        let mut record = vec![kind, 0xfe, 0xfd, 0, rand::random_range(0..3)];
        record.extend(random_bytes(6));
        record.extend((fragment.len() as u16).to_be_bytes());
        record.extend(fragment);
        scene.sent(record.len());
        peer.send_datagram(&record).await?;
        if pace.step().await {
            peer.pump().await;
            peer = well(scene, Some(peer), number).await?;
        }
    }
    Ok(())
}

pub(in crate::hostile) async fn udp_noise(scene: &Scene<'_>) -> anyhow::Result<()> {
    let peer = well(scene, None, 0).await?;
    let (server, socket) =
        (peer.server().context("no path")?, UdpSocket::bind(SocketAddr::new(scene.local_ip, 0)).await?);
    let check = unsigned_check(&peer);
    let mut pace = Pace::per_second(RATE);
    while scene.goes_on() {
        let mut datagram = random_bytes(rand::random_range(1..1_400));
        match rand::random_range(0..6) {
            0 => datagram[0] = rand::random_range(0..4),
            // A record of DTLS 1.2, a handshake as often as not.
            1 => datagram.splice(..1, [if rand::random() { 22 } else { 23 }, 0xfe, 0xfd]).for_each(drop),
            2 => datagram[0] = 0x80,
            3 => datagram.splice(..1, [0x80, rand::random_range(192..224)]).for_each(drop),
            // A check with the right name and no integrity.
            4 => datagram.clone_from(&check),
            _ => {}
        }
        scene.sent(datagram.len());
        // A full buffer loses it, as the network might.
        let _ = socket.try_send_to(&datagram, server);
        pace.step().await;
    }
    Ok(())
}

pub(in crate::hostile) async fn replay(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut peer = well(scene, None, 0).await?;
    for number in 0..50_u16 {
        peer.send_rtp(&rtp(number, 0x5eed)).await?;
        // An empty receiver report.
        peer.send_rtcp(&[0x80, 201, 0, 1, 0, 0, 0, 1]).await?;
    }
    let recorded = peer.sent.clone();
    let mut pace = Pace::per_second(RATE);
    'all: loop {
        for datagram in &recorded {
            if !scene.goes_on() {
                break 'all;
            }
            scene.sent(datagram.len());
            peer.send_datagram(datagram).await?;
            if pace.step().await {
                peer.pump().await;
            }
        }
    }
    if !peer.is_well() {
        scene.refused();
    }
    Ok(())
}

/// A packet of a payload type that no section of ours sends.
fn rtp(sequence: u16, ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend(sequence.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0x10; 200]);
    packet
}

pub(in crate::hostile) async fn rtcp_noise(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut peer = well(scene, None, 0).await?;
    let mut pace = Pace::per_second(RATE / 4);
    while scene.goes_on() {
        let number = scene.next();
        let mut packet = match number % 4 {
            // A generic NACK for 17 × 250 packets, and a PLI (RFC 4585).
            0 => [&[0x81, 205, 0, 252][..], &[0; 8], &[0x00, 0x00, 0xff, 0xff].repeat(250)].concat(),
            1 => [&[0x81, 206, 0, 2][..], &[0; 8]].concat(),
            // Reports of 31 streams, and a compound that lies about its length.
            2 => [&[0x9f, 201, 0, 187][..], &random_bytes(4 + 31 * 24)].concat(),
            _ => [&[0x80 | rand::random_range(0..32), rand::random_range(192..224)][..], &random_bytes(200)].concat(),
        };
        if number % 4 < 2 {
            packet[4..12].copy_from_slice(&random_bytes(8));
        }
        scene.sent(packet.len());
        let sent = peer.send_rtcp(&packet).await;
        if pace.step().await {
            peer.pump().await;
            if sent.is_err() || !peer.is_well() {
                peer.hang_up();
                peer = well(scene, Some(peer), number).await?;
            }
        }
    }
    Ok(())
}

pub(in crate::hostile) async fn rtp_ssrcs(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut peer = well(scene, None, 0).await?;
    let mut pace = Pace::per_second(RATE / 2);
    while scene.goes_on() {
        let number = scene.next();
        let packet = rtp(number as u16, rand::random());
        scene.sent(packet.len());
        let sent = peer.send_rtp(&packet).await;
        if pace.step().await {
            peer.pump().await;
            if sent.is_err() || !peer.is_well() {
                peer.hang_up();
                peer = well(scene, Some(peer), number).await?;
            }
        }
    }
    Ok(())
}
