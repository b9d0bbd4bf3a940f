//! What a client with a correct handshake may send inside of its association: no panic, no growth, no stall, and the
//! next client's association is as good as ever.
#![expect(clippy::disallowed_methods, reason = "tests have clocks and sockets of their own")]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sfu::command::{ChannelOpener, DataChannel};
use sfu::transport::{SendDataError, TransportOutput};
use support::{Client, World};

fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + body.len()).unwrap();
    let mut chunk = [&[kind, flags][..], &length.to_be_bytes(), body].concat();
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// Whether a message of the client still arrives.
fn is_alive(world: &mut World) -> bool {
    let messages = |world: &World| {
        let of_reliable = |output: &&TransportOutput| matches!(output, TransportOutput::Data(DataChannel::Reliable, _));
        world.outputs.iter().filter(of_reliable).count()
    };
    let before = messages(world);
    world.client.send(world.now, 2, b"still here");
    world.run_until(Duration::from_secs(20), |world| messages(world) > before)
}

/// Chunks of every kind, of likely and unlikely lengths, with numbers near and far.
fn random_chunks(rng: &mut StdRng) -> Vec<u8> {
    const KINDS: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 64, 130, 192];
    let mut bytes = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        let length = *[0, 3, 4, 8, 12, 16, 20, 24, 40, 200].get(rng.random_range(0..10usize)).unwrap();
        let mut body: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        if rng.random_bool(0.5) {
            // Parameters and causes: a kind that exists, a length that is about right.
            let kinds: [u16; 11] = [1, 5, 7, 9, 13, 16, 32770, 32771, 32772, 32776, 49152];
            let kind = kinds[rng.random_range(0..kinds.len())];
            let inner = u16::try_from(length).unwrap().wrapping_add_signed(rng.random_range(-6..6));
            for (at, byte) in kind.to_be_bytes().into_iter().chain(inner.to_be_bytes()).enumerate() {
                if let Some(place) = body.get_mut(at) {
                    *place = byte;
                }
            }
        }
        let mut one = chunk(KINDS[rng.random_range(0..KINDS.len())], rng.random_range(0..8), &body);
        if rng.random_bool(0.1) {
            let at = rng.random_range(0..one.len());
            one[at] = rng.random();
        }
        bytes.extend(one);
    }
    bytes
}

/// Whether the association still stands, for the server.
fn stands(world: &mut World) -> bool {
    let sent = world.transport.send_data(world.now, DataChannel::Lossy, &Bytes::from_static(b"are you there?"));
    sent != Err(SendDataError::NotOpen)
}

/// Of 200 packets, those that an association gets which stands.
const STANDING_MIN: usize = 150;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn chunks_of_any_kind_and_length_panic_nowhere(seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::connected(ChannelOpener::Client, seed);
        let mut standing = 0;
        for _ in 0..200 {
            let chunks = random_chunks(&mut rng);
            world.client.send_chunks(world.now, &chunks);
            world.run_for(Duration::from_millis(25));
            if stands(&mut world) {
                standing += 1;
            } else {
                world = World::connected(ChannelOpener::Client, rng.random());
            }
        }
        prop_assert!(standing >= STANDING_MIN, "{standing}");
    }

    #[test]
    fn chunks_before_an_association_is_up_panic_nowhere(seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..10 {
            let mut raw = RawAssociation::opened(rng.random());
            for _ in 0..20 {
                match rng.random_range(0..6) {
                    0 => raw.send(0, &init(INIT, rng.random(), rng.random())),
                    1 => raw.send(raw.tag, &init(INIT_ACK, rng.random(), rng.random())),
                    2 => raw.echo_cookie(),
                    _ => raw.send(raw.tag, &random_chunks(&mut rng)),
                }
                raw.world.run_for(Duration::from_millis(25));
            }
        }
    }
}

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const RE_CONFIG: u8 = 130;
const FORWARD_TSN: u8 = 192;

/// An INIT or INIT-ACK with this tag and first number, of a client that supports FORWARD-TSN and RE-CONFIG (RFC 5061,
/// section 4.2.7).
fn init(kind: u8, tag: u32, first: u32) -> Vec<u8> {
    let window_and_streams = [0, 4, 0, 0, 0, 16, 0, 16];
    let supported_extensions = [0x80, 8, 0, 6, FORWARD_TSN, RE_CONFIG];
    chunk(kind, 0, &[&tag.to_be_bytes()[..], &window_and_streams, &first.to_be_bytes(), &supported_extensions].concat())
}

/// A client that makes its SCTP packets by hand, after a correct DTLS handshake.
struct RawAssociation {
    world: World,
    /// The server's verification tag, and its cookie.
    tag: u32,
    cookie: Vec<u8>,
}

impl RawAssociation {
    /// Whose INIT, with the first number 1, has been answered.
    fn opened(seed: u64) -> Self {
        let client = Client::robust(seed).waiting_for_init();
        let mut world = World::with_client(ChannelOpener::Client, seed, client);
        world.transport.set_fingerprint(world.now, world.client.fingerprint);
        assert!(world.run_until(Duration::from_secs(5), |world| world.client.seen.dtls_connected));
        let mut raw = Self { world, tag: 0, cookie: Vec::new() };
        raw.send(0, &init(INIT, 0x1111, 1));
        let answered = raw.world.run_until(Duration::from_secs(5), |world| !world.client.seen.sctp_packets.is_empty());
        assert!(answered, "{} refused", raw.refused());
        let answer = raw.world.client.seen.sctp_packets[0].clone();
        assert_eq!(answer[12], INIT_ACK);
        raw.tag = u32::from_be_bytes(answer[16..20].try_into().unwrap());
        let mut parameters = &answer[32..];
        while let [kind_high, kind_low, length_high, length_low, ..] = *parameters {
            let length = usize::from(u16::from_be_bytes([length_high, length_low]));
            if [kind_high, kind_low] == [0, 7] {
                raw.cookie = parameters[4..length].to_vec();
            }
            parameters = parameters.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        assert!(!raw.cookie.is_empty());
        raw
    }

    fn send(&mut self, tag: u32, chunks: &[u8]) {
        let [a, b, c, d] = tag.to_be_bytes();
        self.world.client.send_sctp_packet(self.world.now, [0x13, 0x88, 0x13, 0x88, a, b, c, d], chunks);
    }

    fn echo_cookie(&mut self) {
        self.send(self.tag, &chunk(COOKIE_ECHO, 0, &self.cookie));
    }

    fn is_up(&self) -> bool {
        self.world.client.seen.sctp_packets.iter().any(|packet| packet[12] == COOKIE_ACK)
    }

    fn refused(&mut self) -> u64 {
        self.world.transport.take_data_discards().malformed
    }

    /// Whose cookie has been echoed as well.
    fn established(seed: u64) -> Self {
        let mut raw = Self::opened(seed);
        raw.echo_cookie();
        raw.world.run_for(Duration::from_millis(100));
        assert!(raw.is_up());
        raw
    }

    /// Packets of the server that have come since the last call.
    fn answers(&mut self) -> Vec<Bytes> {
        self.world.run_for(Duration::from_millis(50));
        std::mem::take(&mut self.world.client.seen.sctp_packets)
    }
}

/// In a DATA chunk's flags: the end and the beginning of a message, and that it may overtake others.
const END: u8 = 1;
const BEGIN: u8 = 2;
const UNORDERED: u8 = 4;

/// A DATA chunk of stream 2, of the first message of its.
fn data(flags: u8, number: u32, payload: &[u8]) -> Vec<u8> {
    let stream_and_message = [0, 2, 0, 0];
    let binary = [0, 0, 0, 53];
    chunk(DATA, flags, &[&number.to_be_bytes()[..], &stream_and_message, &binary, payload].concat())
}

/// Each is held, and the library looks through all that it holds when another one comes.
#[test]
fn pieces_of_messages_that_never_end_are_taken_in_as_fast_as_they_cost_little() {
    let mut raw = RawAssociation::established(5);
    let send = |raw: &mut RawAssociation, packet: u32| {
        let pieces = (1..=50).flat_map(|at| data(UNORDERED, 50 * packet + at, b"x"));
        raw.send(raw.tag, &pieces.collect::<Vec<u8>>());
    };
    for packet in 0..150 {
        send(&mut raw, packet);
    }
    raw.world.run_for(Duration::from_millis(50));
    assert!(raw.refused() > 0, "all were taken in");
    raw.world.run_for(Duration::from_secs(5));
    send(&mut raw, 0);
    raw.world.run_for(Duration::from_millis(50));
    assert_eq!(raw.refused(), 0, "it never gets another turn");
}

/// Whatever arrives, the acknowledgement of it fits into a datagram.
#[test]
fn numbers_with_holes_are_taken_in_as_far_as_they_can_be_acknowledged() {
    let mut raw = RawAssociation::established(6);
    let mut longest = 0;
    for packet in 0..20 {
        let pieces = (1..=50).flat_map(|at| data(BEGIN | END | UNORDERED, 2 * (50 * packet + at), b"x"));
        raw.send(raw.tag, &pieces.collect::<Vec<u8>>());
        longest = longest.max(raw.answers().iter().map(Bytes::len).max().unwrap_or_default());
    }
    assert!((200..1_150).contains(&longest), "{longest}");
    let before = raw.refused();
    assert!(before > 0);
    raw.send(raw.tag, &(0..50).flat_map(|at| data(BEGIN | END | UNORDERED, 2 * at + 1, b"x")).collect::<Vec<u8>>());
    raw.answers();
    assert_eq!(raw.refused(), 0, "what fills the holes is taken in");
}

/// It would be held without filling the window (RFC 9260, section 6.2).
#[test]
fn data_without_any_ends_the_association() {
    let mut raw = RawAssociation::established(6);
    raw.send(raw.tag, &data(UNORDERED, 1, b""));
    raw.send(raw.tag, &chunk(HEARTBEAT, 0, &[0, 1, 0, 4]));
    raw.answers();
    raw.send(raw.tag, &chunk(HEARTBEAT, 0, &[0, 1, 0, 4]));
    assert_eq!(raw.answers().len(), 0);
    assert_eq!(raw.refused(), 3);
}

/// It has been told that there is no more room.
#[test]
fn what_comes_far_beyond_the_window_is_dropped_and_counted() {
    let mut raw = RawAssociation::established(12);
    let open = [&[3, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0][..], b"_reliable"].concat();
    let dcep = [&1_u32.to_be_bytes()[..], &[0, 2, 0, 0, 0, 0, 0, 50], &open].concat();
    raw.send(raw.tag, &chunk(DATA, BEGIN | END, &dcep));
    raw.answers();
    raw.world.takes_data = false;
    let mut beyond = 0;
    for number in 2..2_000_u32 {
        raw.send(raw.tag, &data(BEGIN | END | UNORDERED, number, &[7; 1_000]));
        raw.world.run_for(Duration::from_millis(11));
        beyond += raw.world.transport.take_data_discards().beyond_window;
    }
    // Twice the window at most is kept of two megabytes.
    assert!((1_000..1_950).contains(&beyond), "{beyond}");
}

/// Packets that have waited for the window bring more at once than a datagram does.
#[test]
fn of_lossy_messages_that_come_at_once_a_thousand_are_kept() {
    let mut raw = RawAssociation::established(13);
    let on_stream_4 = |mut chunk: Vec<u8>| {
        chunk[8..10].copy_from_slice(&[0, 4]);
        chunk
    };
    for (number, kind, label) in [(1_u32, 0, &b"_reliable"[..]), (2, 0x81, b"_lossy")] {
        let open = [&[3, kind, 0, 0, 0, 0, 0, 0, 0, label.len() as u8, 0, 0][..], label].concat();
        let dcep = [&number.to_be_bytes()[..], &[0, 2, 0, 0, 0, 0, 0, 50], &open].concat();
        let open = chunk(DATA, BEGIN | END, &dcep);
        raw.send(raw.tag, &if kind == 0 { open } else { on_stream_4(open) });
        raw.answers();
    }
    raw.world.takes_data = false;
    for number in 3..303 {
        raw.send(raw.tag, &data(BEGIN | END | UNORDERED, number, &[7; 1_000]));
        raw.world.run_for(Duration::from_millis(11));
    }
    for packet in 0..40 {
        let messages = (0..50).map(|at| on_stream_4(data(BEGIN | END | UNORDERED, 303 + 50 * packet + at, b"x")));
        raw.send(raw.tag, &messages.collect::<Vec<_>>().concat());
        raw.world.run_for(Duration::from_millis(11));
    }
    let is_lossy = |output: &TransportOutput| matches!(output, TransportOutput::Data(DataChannel::Lossy, _));
    assert!(!raw.world.outputs.iter().any(is_lossy), "the window is closed");
    while raw.world.transport.take_reliable(raw.world.now).is_some() {}
    let kept = std::iter::from_fn(|| raw.world.transport.poll_output()).filter(is_lossy).count();
    let dropped = raw.world.transport.take_data_discards().overflow;
    assert_eq!((kept, dropped), (1_024, 2_000 - 1_024));
}

/// Of somebody else, or of an association from before (RFC 9260, section 8.5).
#[test]
fn a_packet_with_another_tag_is_dropped_and_counted() {
    let mut raw = RawAssociation::established(14);
    raw.answers();
    for tag in [raw.tag ^ 1, 0, !raw.tag] {
        raw.send(tag, &chunk(HEARTBEAT, 0, &[0, 1, 0, 4]));
        assert_eq!((raw.answers().len(), raw.refused()), (0, 1), "{tag:x}");
    }
    raw.send(raw.tag, &chunk(HEARTBEAT, 0, &[0, 1, 0, 4]));
    assert_eq!((raw.answers().len(), raw.refused()), (1, 0));
}

/// The library looks up each number of each gap.
#[test]
fn acknowledgements_that_name_the_same_again_and_again_are_taken_in_as_fast_as_they_cost_little() {
    let mut raw = RawAssociation::established(7);
    let open = [&[3, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0][..], b"_reliable"].concat();
    let dcep = [&1_u32.to_be_bytes()[..], &[0, 2, 0, 0, 0, 0, 0, 50], &open].concat();
    raw.send(raw.tag, &chunk(DATA, BEGIN | END, &dcep));
    raw.answers();
    for _ in 0..200 {
        raw.world.transport.send_data(raw.world.now, DataChannel::Reliable, &Bytes::from_static(b"x")).unwrap();
    }
    let sent = raw.answers();
    let numbers: Vec<u32> = sent.iter().flat_map(|packet| numbers_in(packet)).collect();
    let (first, count) = (numbers[0], u16::try_from(numbers.len()).unwrap());
    assert!(count >= 100, "{count} are on their way");
    let gap = [[0, 2], count.to_be_bytes()].concat();
    let head = [(first.wrapping_sub(1)).to_be_bytes(), [0, 4, 0, 0], [0, 250, 0, 0]].concat();
    for _ in 0..1_000 {
        raw.send(raw.tag, &chunk(SACK, 0, &[head.clone(), gap.repeat(250)].concat()));
    }
    raw.world.run_for(Duration::from_millis(50));
    let refused = raw.refused();
    assert!(refused > 500, "{refused}");
}

/// The library looks through all that it holds for each stream that is named.
#[test]
fn forwarding_that_names_the_same_stream_again_and_again_is_taken_in_as_fast_as_it_costs_little() {
    let mut raw = RawAssociation::established(11);
    for packet in 0..20 {
        let pieces = (1..=50).flat_map(|at| data(BEGIN, 50 * packet + at, b"x"));
        raw.send(raw.tag, &pieces.collect::<Vec<u8>>());
    }
    raw.answers();
    for number in 0..200_u32 {
        let body = [(1_001 + number).to_be_bytes().to_vec(), [0, 2, 0xFF, 0xFF].repeat(250)].concat();
        raw.send(raw.tag, &chunk(FORWARD_TSN, 0, &body));
    }
    raw.world.run_for(Duration::from_millis(50));
    let refused = raw.refused();
    assert!(refused > 100, "{refused}");
}

/// The numbers of a packet's DATA chunks.
fn numbers_in(packet: &[u8]) -> Vec<u32> {
    let (mut rest, mut numbers) = (&packet[12..], Vec::new());
    while let [kind, _, length_high, length_low, ..] = *rest {
        if kind == DATA {
            numbers.push(u32::from_be_bytes(rest[4..8].try_into().unwrap()));
        }
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    numbers
}

/// The library answers every request that waits at every chunk that comes.
#[test]
fn what_asks_for_many_answers_gets_few() {
    let mut raw = RawAssociation::established(8);
    for number in 0..300_u32 {
        let numbers = [number.to_be_bytes(), [0; 4], 10_000_u32.to_be_bytes()].concat();
        raw.send(raw.tag, &chunk(RE_CONFIG, 0, &[&[0, 13, 0, 18][..], &numbers, &[0, 9]].concat()));
    }
    raw.answers();
    for packet in 0..20 {
        let whole: Vec<u8> = (1..=50).flat_map(|at| data(BEGIN | END | UNORDERED, 50 * packet + at, b"x")).collect();
        raw.send(raw.tag, &whole);
    }
    let resets = raw.answers().len();
    assert!(resets < 10_000, "{resets}");

    let mut raw = RawAssociation::established(9);
    for _ in 0..200 {
        raw.send(raw.tag, &chunk(HEARTBEAT, 0, &[0, 1, 0, 4]).repeat(100));
    }
    let heartbeats = raw.answers().len();
    assert!(heartbeats < 10_000, "{heartbeats}");
}

/// Whatever else opens an association must not move the number from which this one is measured.
#[test]
fn numbers_are_measured_from_those_of_the_association_that_is_established() {
    let far = (1 << 31) - 10;
    type Trick = fn(&mut RawAssociation, u32);
    let tricks: [Trick; 3] = [
        |raw, far| raw.send(raw.tag, &init(INIT_ACK, 0x2222, far)),
        |raw, far| raw.send(0, &init(INIT, 0x2222, far)),
        // The tag of the server's own.
        |raw, far| raw.send(0, &init(INIT, raw.tag, far)),
    ];
    for (number, trick) in tricks.into_iter().enumerate() {
        let begin = Instant::now();
        let mut raw = RawAssociation::opened(number as u64);
        trick(&mut raw, far);
        raw.world.run_for(Duration::from_millis(50));
        raw.echo_cookie();
        raw.world.run_for(Duration::from_millis(100));
        assert!(raw.is_up());
        let before = raw.refused();
        raw.send(raw.tag, &chunk(FORWARD_TSN, 0, &(far + 5).to_be_bytes()));
        raw.world.run_for(Duration::from_millis(50));
        assert_eq!(raw.refused(), 1, "trick {number}, refused before: {before}");
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
}

/// For the library each would be an association of its own.
#[test]
fn an_init_with_a_tag_opens_nothing() {
    let mut raw = RawAssociation::opened(1);
    for number in 0..1_000_u32 {
        raw.send(1, &init(INIT, 0x3333 + number, 1));
        raw.world.run_for(Duration::from_millis(1));
    }
    raw.world.run_for(Duration::from_millis(50));
    assert_eq!(raw.refused(), 1_000);
    raw.echo_cookie();
    raw.world.run_for(Duration::from_millis(100));
    assert!(raw.is_up());
}

#[test]
fn causes_that_are_longer_than_their_chunk_are_refused() {
    let mut world = World::connected(ChannelOpener::Client, 1);
    world.client.send_chunks(world.now, &chunk(9, 0, &[0, 1, 0xFF, 0xFF]));
    assert!(is_alive(&mut world));
    assert_eq!(world.transport.take_data_discards().malformed, 1);
}

#[test]
fn an_abort_in_any_form_ends_the_association() {
    for body in [&[][..], &[0, 12, 0, 4], &[0, 1, 0xFF, 0xFF]] {
        let mut world = World::connected(ChannelOpener::Client, 2);
        world.client.send_chunks(world.now, &chunk(6, 0, body));
        world.run_for(Duration::from_secs(1));
        let payload = bytes::Bytes::from_static(b"nobody reads it");
        assert!(world.transport.send_data(world.now, DataChannel::Lossy, &payload).is_err(), "{body:?}");
    }
}

/// What waits for a client shares its room with what waits for others.
#[test]
fn what_waits_in_an_association_that_is_aborted_waits_no_more() {
    let mut world = World::connected(ChannelOpener::Client, 2);
    world.run_for(Duration::from_secs(1));
    world.loss = 1.0;
    let payload = Bytes::from(vec![7; 10_000]);
    for _ in 0..100 {
        world.transport.send_data(world.now, DataChannel::Reliable, &payload).expect("there is room");
    }
    assert!(world.transport.data_backlog() > 1_000_000);
    world.loss = 0.0;
    world.client.send_chunks(world.now, &chunk(6, 0, &[]));
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.transport.data_backlog(), 0);
}

/// As many steps as numbers would take seconds; the test would time out.
#[test]
fn forwarding_by_two_billion_numbers_ends_the_association_at_once() {
    let mut world = World::connected(ChannelOpener::Client, 3);
    let begin = Instant::now();
    for far in [1 << 30, 0x7fff_ffff, 1 << 31, 3 << 30] {
        world.client.send_chunks(world.now, &chunk(192, 0, &u32::to_be_bytes(far)));
        world.run_for(Duration::from_millis(50));
    }
    // Two billion steps of a hash table take minutes without optimisation.
    assert!(begin.elapsed() < Duration::from_secs(60));
}

/// Requests from the future, each of which would be kept.
#[test]
fn resets_from_the_future_are_refused_beyond_a_few() {
    let mut world = World::connected(ChannelOpener::Client, 4);
    // Numbers begin anywhere: of two that are half of them apart, one is in the future.
    for number in 0..4_000_u32 {
        let last = (number % 2) << 31;
        let numbers = [number.to_be_bytes(), [0; 4], last.to_be_bytes()].concat();
        let reset = [&[0, 13, 0, 18][..], &numbers, &[0, 9]].concat();
        world.client.send_chunks(world.now, &chunk(130, 0, &reset));
    }
    world.run_for(Duration::from_secs(1));
    let refused = world.transport.take_data_discards().malformed;
    assert_eq!(refused, 2_000 - 8);
    assert!(is_alive(&mut world));
}
