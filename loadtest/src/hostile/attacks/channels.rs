//! SCTP of somebody who joined (RFC 9260, 3758, 6525).

use std::time::Duration;

use super::{Pace, random_bytes};
use crate::hostile::peer::{Peer, well};
use crate::hostile::scene::Scene;
use crate::hostile::sctp::{
    ABORT, BINARY, DCEP, ERROR, FIRST_UNORDERED, FORWARD_TSN, RE_CONFIG, WHOLE_UNORDERED, chunk, claiming, data,
    parameter,
};

/// Between two attackers of whom each sends a few packets.
const NEXT_ATTACKER: Duration = Duration::from_millis(150);
/// Packets a second of attacks by number.
const RATE: u32 = 5_000;
/// About the farthest that counts as ahead in numbers of 32 bits (RFC 1982).
const FAR_AHEAD: u32 = i32::MAX as u32 - 1_000;
/// Bytes of a chunk that fills a datagram.
const CHUNK: usize = 1_100;

/// Lets new attackers send the same few packets, in both rooms in turns.
async fn by_few_packets(scene: &Scene<'_>, packets: impl Fn(&mut Peer) -> Vec<Vec<u8>>) -> anyhow::Result<()> {
    for turn in 0.. {
        if !scene.goes_on() {
            break;
        }
        // One who is not let in is counted; the next one tries.
        if let Ok(mut peer) = Peer::join(scene, &scene.room(turn)).await {
            for chunks in packets(&mut peer) {
                scene.sent(chunks.len());
                peer.send_sctp(&chunks).await?;
            }
            peer.drive(scene.left(NEXT_ATTACKER)).await;
        }
    }
    Ok(())
}

pub(in crate::hostile) async fn lying_cause(scene: &Scene<'_>) -> anyhow::Result<()> {
    by_few_packets(scene, |_| {
        // Unrecognised chunk, and user-initiated abort.
        [(ERROR, 6), (ABORT, 12), (ERROR, 1), (ABORT, 13)]
            .into_iter()
            .map(|(kind, cause)| chunk(kind, 0, &[0, cause, 0xff, 0xff]))
            .collect()
    })
    .await
}

pub(in crate::hostile) async fn forward_tsn(scene: &Scene<'_>) -> anyhow::Result<()> {
    by_few_packets(scene, |peer| {
        let mut body = peer.sctp.tsn.wrapping_add(FAR_AHEAD).to_be_bytes().to_vec();
        let streams: Vec<u8> = (0..300_u16).flat_map(|stream| [stream.to_be_bytes(), [0xff, 0xff]].concat()).collect();
        body.extend(streams);
        vec![chunk(FORWARD_TSN, 0, &body)]
    })
    .await
}

pub(in crate::hostile) async fn reconfig_future(scene: &Scene<'_>) -> anyhow::Result<()> {
    let streams: Vec<u8> = (0..CHUNK as u16 / 2).flat_map(u16::to_be_bytes).collect();
    by_number(scene, 4 * RATE, |peer, number| {
        let request = peer.sctp.reconfiguration().wrapping_add(1_000 + number as u32);
        let mut reset = request.to_be_bytes().to_vec();
        reset.extend([0; 4]);
        reset.extend(peer.sctp.tsn.wrapping_add(FAR_AHEAD / 2).to_be_bytes());
        reset.extend(&streams);
        // Outgoing SSN reset request (RFC 6525, section 4.1).
        chunk(RE_CONFIG, 0, &parameter(13, &reset))
    })
    .await
}

/// Sends packet after packet, as the same attacker while he is let.
async fn by_number(
    scene: &Scene<'_>,
    rate: u32,
    mut packet: impl FnMut(&mut Peer, u64) -> Vec<u8>,
) -> anyhow::Result<()> {
    let (mut peer, mut pace) = (well(scene, None, 0).await?, Pace::per_second(rate));
    while scene.goes_on() {
        let number = scene.next();
        let chunks = packet(&mut peer, number);
        let sent = peer.send_sctp(&chunks).await;
        scene.sent(chunks.len());
        if pace.step().await {
            peer.pump().await;
            if sent.is_err() || !peer.is_well() || !peer.sctp.is_up {
                peer.hang_up();
                peer = well(scene, Some(peer), number).await?;
            }
        }
    }
    Ok(())
}

pub(in crate::hostile) async fn gaps(scene: &Scene<'_>) -> anyhow::Result<()> {
    let payload = [7; CHUNK];
    by_number(scene, RATE, |peer, number| {
        let tsn = peer.sctp.tsn.wrapping_add(2 + 2 * number as u32);
        let flags = if number % 2 == 0 { WHOLE_UNORDERED } else { FIRST_UNORDERED };
        data(tsn, flags, (number % 65_000) as u16, BINARY, &payload)
    })
    .await
}

pub(in crate::hostile) async fn streams(scene: &Scene<'_>) -> anyhow::Result<()> {
    let label = "x".repeat(CHUNK / 2);
    // DATA_CHANNEL_OPEN (RFC 8832, section 5.1).
    let mut open = vec![3, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    open[8..10].copy_from_slice(&(label.len() as u16).to_be_bytes());
    open.extend(label.as_bytes());
    by_number(scene, RATE, |peer, number| peer.sctp.data(0b011, (number % 65_535) as u16, DCEP, &open)).await
}

pub(in crate::hostile) async fn noise(scene: &Scene<'_>) -> anyhow::Result<()> {
    let kinds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 64, 128, 130, 132, 192, 193, 194, 255];
    by_number(scene, RATE / 2, |peer, _| {
        let mut chunks = Vec::new();
        for _ in 0..rand::random_range(1..4) {
            let kind = kinds[rand::random_range(0..kinds.len())];
            let mut body = random_bytes(rand::random_range(0..64));
            if let Some(start) = body.first_chunk_mut::<4>()
                && rand::random()
            {
                // Numbers close to those of the association get further.
                *start = peer.sctp.tsn.wrapping_add(rand::random_range(0..16)).to_be_bytes();
            }
            let truth = body.len() as u16 + 4;
            let len = if rand::random_range(0..4) == 0 { rand::random() } else { truth };
            chunks.extend(claiming(kind, rand::random(), len, &body));
        }
        chunks
    })
    .await
}
