//! Subscribers of data that are slow: in virtual time by the rate of their link, and on real sockets beside a fast one.
#![expect(clippy::disallowed_methods, reason = "tests have clocks and sockets of their own")]

mod media;
#[path = "sockets/peer.rs"]
mod peer;
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use peer::{Link, Peer, Server};
use rtc_datachannel::message::message_channel_open::ChannelType;
use sfu::command::*;
use sfu::transport::SendDataError;
use support::{World, nomination};

/// The client's stream of `_reliable`.
const RELIABLE: u16 = 2;
const LOSSY: u16 = 0;
/// First number of messages that mark the end of a batch.
const MARK: u32 = 1 << 31;
/// Bits a second.
const THRESHOLD: u32 = 64_000;

fn numbered(number: u32, length: usize) -> Bytes {
    let mut payload = vec![0; length];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload.into()
}

fn numbers(messages: &[(u16, Vec<u8>)], stream: u16) -> Vec<u32> {
    let of_stream = messages.iter().filter(|(id, _)| *id == stream);
    of_stream.map(|(_, payload)| u32::from_be_bytes(payload[..4].try_into().expect("numbered"))).collect()
}

fn slow_client(link_bps: u32, threshold: u32) -> World {
    let mut world = World::connected(ChannelOpener::Client, 1);
    world.run_for(Duration::from_secs(1));
    world.transport.set_datachannel_slow_threshold(threshold);
    world.link_bps = Some(link_bps);
    world
}

/// Sends messages of a kilobyte at a pace, in bits a second; what became of each.
fn send_at(world: &mut World, bps: u64, seconds: u64) -> Vec<Result<(), SendDataError>> {
    let gap = Duration::from_micros(8_000_000_000 / bps);
    (0..(bps * seconds / 8_000) as u32)
        .map(|number| {
            let result = world.transport.send_data(world.now, DataChannel::Reliable, &numbered(number, 1_000));
            world.run_for(gap);
            result
        })
        .collect()
}

#[test]
fn a_client_that_is_slow_but_above_the_threshold_loses_nothing() {
    let mut world = slow_client(200_000, THRESHOLD);
    // Ten times what the link carries, and three times the megabyte that waits for anybody.
    let sent = send_at(&mut world, 2_000_000, 12);
    assert!(sent.iter().all(Result::is_ok));
    world.run_for(Duration::from_secs(300));
    assert_eq!(numbers(&world.client.seen.messages, RELIABLE), (0..sent.len() as u32).collect::<Vec<_>>());
    assert_eq!(world.transport.data_backlog(), 0);
}

#[test]
fn a_client_below_the_threshold_loses_messages_and_gets_the_others_in_order() {
    let mut world = slow_client(THRESHOLD / 2, THRESHOLD);
    let sent = send_at(&mut world, 500_000, 30);
    let lost = sent.iter().filter(|result| **result == Err(SendDataError::Slow)).count();
    assert!(lost > sent.len() / 2, "{lost} of {}", sent.len());
    assert!(world.transport.data_backlog() <= 128 << 10, "{}", world.transport.data_backlog());
    world.run_for(Duration::from_secs(120));
    let accepted = (0..).zip(&sent).filter(|(_, result)| result.is_ok()).map(|(number, _)| number);
    assert_eq!(numbers(&world.client.seen.messages, RELIABLE), accepted.collect::<Vec<u32>>());
}

#[test]
fn a_client_that_becomes_fast_again_loses_no_more() {
    let mut world = slow_client(THRESHOLD / 2, THRESHOLD);
    assert!(send_at(&mut world, 500_000, 20).contains(&Err(SendDataError::Slow)));
    world.link_bps = None;
    world.run_for(Duration::from_secs(30));
    assert!(send_at(&mut world, 500_000, 20).iter().all(Result::is_ok));
}

#[test]
fn a_client_that_acknowledges_nothing_is_kept_little_for_where_there_is_a_threshold() {
    let mut world = slow_client(1_000_000, THRESHOLD);
    world.loss = 1.0;
    let sent = send_at(&mut world, 2_000_000, 10);
    // The first second tells nothing of it.
    assert!(sent[..200].iter().all(Result::is_ok));
    assert_eq!(sent.last(), Some(&Err(SendDataError::Slow)));
    assert!(world.transport.data_backlog() <= 512 << 10, "{}", world.transport.data_backlog());
}

#[test]
fn a_message_of_one_byte_counts_for_what_it_takes() {
    let mut world = slow_client(1_000_000, 0);
    world.loss = 1.0;
    let byte = Bytes::from_static(b"x");
    let accepted =
        (0..1_000_000).take_while(|_| world.transport.send_data(world.now, DataChannel::Reliable, &byte).is_ok());
    assert!(accepted.count() < 300_000);
}

#[test]
fn lossy_messages_of_a_fast_client_far_away_may_be_as_many_as_it_takes_in_time() {
    let mut world = slow_client(8_000_000, 0);
    let mut lost = 0;
    // Five seconds of 4 Mbit/s in bursts of 10 KB, which is more than 8 KiB; the first seconds show its pace.
    for burst in 0..250 {
        for number in 0..10 {
            let message = numbered(burst * 10 + number, 1_000);
            let result = world.transport.send_data(world.now, DataChannel::Lossy, &message);
            lost += u32::from(result.is_err() && burst > 150);
        }
        world.run_for(Duration::from_millis(20));
    }
    assert_eq!(lost, 0);
    assert!(!numbers(&world.client.seen.messages, LOSSY).is_empty());
}

#[test]
fn lossy_messages_to_a_client_that_is_slower_than_they_come_are_never_late() {
    let mut world = slow_client(2_000_000, 0);
    let (mut sent, mut latest) = (Vec::new(), Duration::ZERO);
    let mut arrived = 0;
    for number in 0..2_000 {
        if world.transport.send_data(world.now, DataChannel::Lossy, &numbered(number, 1_000)).is_ok() {
            sent.push(world.now);
        }
        world.run_for(Duration::from_millis(2));
        let count = numbers(&world.client.seen.messages, LOSSY).len();
        // When its pace is known.
        if count > arrived && sent.len() > 500 {
            latest = latest.max(world.now - sent[count - 1]);
        }
        arrived = count;
    }
    assert!(sent.len() < 1_900 && arrived > 900, "{arrived} of {}", sent.len());
    assert!((100..350).contains(&latest.as_millis()), "{latest:?} late");
}

/// A subscriber of data on real sockets.
fn subscriber(server: &mut Server, transport: u64) -> Peer {
    let mut peer = Peer::connect(server, transport, Link::udp);
    peer.run_until(|peer| peer.client.seen.sctp_connected);
    let now = Instant::now();
    peer.client.open(now, LOSSY, "_lossy", ChannelType::PartialReliableRexmitUnordered);
    peer.client.open(now, RELIABLE, "_reliable", ChannelType::Reliable);
    peer.run_until(|peer| peer.client.seen.acknowledged.len() == 2);
    peer
}

/// Sends to both, after each batch a reliable message to the fast one alone, which has it before the next batch is
/// sent. The slow one takes a datagram a batch.
fn send_to_both(server: &Server, fast: &mut Peer, slow: &mut Peer, channel: DataChannel, batch: u32, count: u32) {
    for number in 0..count {
        let transports = vec![TransportId(1), TransportId(2)];
        server.command(Command::SendData { from: None, transports, channel, payload: numbered(number, 1_000) });
        if (number + 1) % batch == 0 {
            let (transports, mark) = (vec![TransportId(1)], numbered(MARK + number, 4));
            server.command(Command::SendData { from: None, transports, channel: DataChannel::Reliable, payload: mark });
            fast.run_until(|fast| numbers(&fast.client.seen.messages, RELIABLE).last() == Some(&(MARK + number)));
            slow.step();
            // Consent goes on (RFC 7675).
            [&mut *fast, &mut *slow].into_iter().for_each(|peer| peer.link.send(&nomination(&peer.local)));
        }
    }
}

#[test]
fn a_fast_subscriber_has_everything_before_a_slow_one_has_and_that_one_loses_nothing() {
    const COUNT: u32 = 3_000;
    let mut server = Server::start(1);
    let (mut fast, mut slow) = (subscriber(&mut server, 1), subscriber(&mut server, 2));
    send_to_both(&server, &mut fast, &mut slow, DataChannel::Reliable, 60, COUNT);
    let everything: Vec<u32> = (0..COUNT).collect();
    let mut got = numbers(&fast.client.seen.messages, RELIABLE);
    got.retain(|number| *number < MARK);
    assert_eq!(got, everything);
    assert!(numbers(&slow.client.seen.messages, RELIABLE).len() < COUNT as usize / 2);

    for part in 1..=10 {
        slow.link.send(&nomination(&slow.local));
        slow.run_until(|slow| numbers(&slow.client.seen.messages, RELIABLE).len() as u32 >= COUNT / 10 * part);
    }
    assert_eq!(numbers(&slow.client.seen.messages, RELIABLE), everything);
}

#[test]
fn a_slow_subscriber_of_lossy_data_loses_what_would_be_late_and_holds_up_no_other() {
    const COUNT: u32 = 1_000;
    let mut server = Server::start(1);
    let (mut fast, mut slow) = (subscriber(&mut server, 1), subscriber(&mut server, 2));
    send_to_both(&server, &mut fast, &mut slow, DataChannel::Lossy, 4, COUNT);
    // All of them, but for what a machine that stops for a second makes late.
    assert!(numbers(&fast.client.seen.messages, LOSSY).len() > COUNT as usize / 4 * 3);
    assert!(server.counted("data_dropped_total", "late", 1) > 0);
}
