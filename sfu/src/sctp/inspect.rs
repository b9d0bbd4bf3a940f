//! Looks at an SCTP packet (RFC 9260, section 3) before `rtc-sctp` does, which trusts some lengths and numbers that the
//! client writes.
//!
//! What a client may make us do is bounded here: how far ahead its numbers may run, how many requests it may leave
//! open. Whatever is no business of a peer of ours is refused as well, so that less code is reached from outside.

use std::time::Instant;

use super::work::{ANSWER, Held, Steps};

/// Chunks of one packet. A packet of the smallest messages has some sixty.
const CHUNKS_MAX: usize = 128;
/// How far a transmission sequence number may be ahead of what we have acknowledged: more chunks than fit into the
/// receive window at sixteen bytes each. Each number of a FORWARD-TSN is a step, and each chunk out of order is kept.
const TSN_AHEAD_MAX: u32 = 16_384;
/// Streams of one reset (RFC 6525, section 4.1): as many as there may be.
const RESET_STREAMS_MAX: usize = super::limits::STREAMS_MAX;
/// Stream resets that may wait until all that the client has sent before has arrived. The library answers each of them
/// anew at every chunk until then; a client has one at a time (RFC 6525, section 5.1.1), and repeats it.
const EARLY_RESETS_MAX: usize = 8;

const HEADER: usize = 12;
const CHUNK_HEADER: usize = 4;
/// Number, stream, sequence number and protocol before a chunk's data (RFC 9260, section 3.3.1).
const DATA_HEADER: usize = 12;
/// Cumulative number, window and two counts before an acknowledgement's gaps (section 3.3.4).
const SACK_HEADER: usize = 12;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
const RE_CONFIG: u8 = 130;
const FORWARD_TSN: u8 = 192;

const OUTGOING_RESET: u16 = 13;

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    /// It makes no sense, or asks for more than anybody needs. A retransmission may fare better.
    Drop,
    /// The client goes on from where we cannot follow, or has aborted in a form that the library cannot read.
    Abort,
}

/// Looks at what a packet from the client is made of, whichever association it belongs to.
pub(super) fn look_at_shape(packet: &[u8]) -> Verdict {
    let Some(chunks) = Chunks::of(packet) else { return Verdict::Drop };
    let (mut count, mut forwards, mut opens) = (0, 0, false);
    for chunk in chunks {
        let Some(Chunk { kind, body }) = chunk else { return Verdict::Drop };
        count += 1;
        forwards += usize::from(kind == FORWARD_TSN);
        // Both are alone in their packets (RFC 9260, section 4.3).
        opens |= matches!(kind, INIT | INIT_ACK);
        if count > CHUNKS_MAX || forwards > 1 || (opens && count > 1) {
            return Verdict::Drop;
        }
        match kind {
            // For the library, one with a tag would open an association as well.
            INIT if tag(packet) != Some(0) || first_number(body).is_none() => return Verdict::Drop,
            INIT_ACK if first_number(body).is_none() => return Verdict::Drop,
            ABORT if !has_whole_causes(body) => return Verdict::Abort,
            ERROR if !has_whole_causes(body) => return Verdict::Drop,
            DATA | INIT | INIT_ACK | SACK | HEARTBEAT | ABORT | SHUTDOWN | SHUTDOWN_ACK | ERROR | COOKIE_ECHO
            | COOKIE_ACK | SHUTDOWN_COMPLETE | RE_CONFIG | FORWARD_TSN => {}
            // Of the others, clients send none, or we ask for none that they would answer.
            _ => return Verdict::Drop,
        }
    }
    if count == 0 { Verdict::Drop } else { Verdict::Take }
}

/// The first transmission sequence number that an INIT names; `None` for other packets. The shape is sound.
pub(super) fn number_of_init(packet: &[u8]) -> Option<u32> {
    Chunks::of(packet)?.next()?.filter(|chunk| chunk.kind == INIT).and_then(|chunk| first_number(chunk.body))
}

/// What is known of the client's numbers in one association, from outside of the library.
#[derive(Debug, Default)]
pub(super) struct Inspector {
    /// The cumulative number of our last acknowledgement; before the first, one less than the number that the client's
    /// INIT or INIT-ACK names.
    acknowledged: Option<u32>,
    early_resets: Vec<EarlyReset>,
    held: Held,
    steps: Steps,
}

/// A request to reset streams once all up to a number has arrived.
#[derive(Debug)]
struct EarlyReset {
    request: u32,
    last: u32,
}

impl Inspector {
    /// Of an association that the client's INIT opens.
    pub(super) fn after_init(first: u32) -> Self {
        Self { acknowledged: Some(first.wrapping_sub(1)), ..Self::default() }
    }

    /// Looks at a packet of this association whose shape is sound.
    pub(super) fn look_at(&mut self, now: Instant, packet: &[u8], established: bool) -> Verdict {
        if !self.steps.take(now, self.cost(packet)) {
            return Verdict::Drop;
        }
        for Chunk { kind, body } in Chunks::of(packet).into_iter().flatten().flatten() {
            let verdict = match kind {
                DATA => self.look_at_data(body),
                FORWARD_TSN => self.look_at_forward(body),
                RE_CONFIG => self.look_at_reconfig(body),
                // A second one could name another number than the library goes by.
                INIT_ACK if !established && self.acknowledged.is_none() => {
                    self.acknowledged = first_number(body).map(|first| first.wrapping_sub(1));
                    Verdict::Take
                }
                INIT | INIT_ACK => Verdict::Drop,
                COOKIE_ACK if established => Verdict::Drop,
                _ => Verdict::Take,
            };
            if verdict != Verdict::Take {
                return verdict;
            }
        }
        Verdict::Take
    }

    /// What the library will do for a packet, in steps.
    fn cost(&self, packet: &[u8]) -> u64 {
        let of_chunk = |Chunk { kind, body }: Chunk<'_>| match kind {
            DATA => self.held.steps() + ANSWER * self.early_resets.len() as u64,
            // Each stream that is named is looked through, however often.
            FORWARD_TSN => (self.held.steps() + 1) * (body.len() as u64 / 4),
            // Each number is looked up, however often it is named.
            SACK => gaps(body).map(|(first, last)| u64::from(last.saturating_sub(first)) + 1).sum(),
            _ => ANSWER,
        };
        Chunks::of(packet).into_iter().flatten().flatten().map(of_chunk).sum()
    }

    /// Notes what a packet of ours acknowledges.
    pub(super) fn note_sent(&mut self, packet: &[u8]) {
        let sacks = Chunks::of(packet).into_iter().flatten().flatten().filter(|chunk| chunk.kind == SACK);
        for sack in sacks {
            let (Some(acknowledged), Some(window)) = (number(sack.body, 0), number(sack.body, 4)) else { continue };
            self.acknowledged = Some(acknowledged);
            self.early_resets.retain(|reset| is_after(reset.last, acknowledged));
            self.held.note_acknowledgement(window, gaps(sack.body));
        }
    }

    /// Notes that a message of so many chunks was read.
    pub(super) fn note_read(&mut self, chunks: usize) {
        self.held.note_read(chunks);
    }

    fn look_at_data(&mut self, body: &[u8]) -> Verdict {
        let (Some(tsn), Some(acknowledged)) = (number(body, 0), self.acknowledged) else { return Verdict::Drop };
        if body.len() < DATA_HEADER || !self.is_near(tsn) {
            return Verdict::Drop;
        }
        // Data without any ends the association (section 6.2); it would be held without filling the window.
        if body.len() == DATA_HEADER || self.held.is_full() {
            return Verdict::Abort;
        }
        let distance = tsn.wrapping_sub(acknowledged);
        if !is_after(tsn, acknowledged) {
            return Verdict::Take;
        }
        if self.held.has_too_many_gaps(distance) {
            return Verdict::Drop;
        }
        self.held.note_data(distance);
        Verdict::Take
    }

    fn look_at_forward(&self, body: &[u8]) -> Verdict {
        match number(body, 0) {
            Some(tsn) if self.is_near(tsn) => Verdict::Take,
            Some(_) => Verdict::Abort,
            None => Verdict::Drop,
        }
    }

    fn look_at_reconfig(&mut self, body: &[u8]) -> Verdict {
        if body.len() < 4 {
            return Verdict::Drop;
        }
        let mut rest = body;
        while let [kind_high, kind_low, length_high, length_low, ..] = *rest {
            let length = usize::from(u16::from_be_bytes([length_high, length_low]));
            let Some(parameter) = rest.get(4..length) else { return Verdict::Drop };
            if u16::from_be_bytes([kind_high, kind_low]) == OUTGOING_RESET {
                let (Some(request), Some(last)) = (number(parameter, 0), number(parameter, 8)) else {
                    return Verdict::Drop;
                };
                if parameter.len() > 12 + 2 * RESET_STREAMS_MAX || !self.note_reset(request, last) {
                    return Verdict::Drop;
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Verdict::Take
    }

    /// `false`: too many wait already.
    fn note_reset(&mut self, request: u32, last: u32) -> bool {
        if self.acknowledged.is_some_and(|acknowledged| !is_after(last, acknowledged)) {
            return true;
        }
        if let Some(known) = self.early_resets.iter_mut().find(|known| known.request == request) {
            // Which of the two the library goes by is not known.
            known.last = if is_after(last, known.last) { last } else { known.last };
            return true;
        }
        let fits = self.early_resets.len() < EARLY_RESETS_MAX;
        if fits {
            self.early_resets.push(EarlyReset { request, last });
        }
        fits
    }

    /// Whether a number is within reach, ahead or behind. What is half of all numbers behind our acknowledgement is
    /// ahead of it once the library has taken one more.
    fn is_near(&self, tsn: u32) -> bool {
        let distance = |acknowledged: u32| (tsn.wrapping_sub(acknowledged)).cast_signed().unsigned_abs();
        self.acknowledged.is_some_and(|acknowledged| distance(acknowledged) <= TSN_AHEAD_MAX)
    }
}

/// What an acknowledgement names beyond its cumulative number, as distances: first and last.
fn gaps(sack: &[u8]) -> impl Iterator<Item = (u16, u16)> {
    let count = sack.get(8..10).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]));
    let blocks = sack.get(SACK_HEADER..).unwrap_or_default().chunks_exact(4).take(count.into());
    blocks.map(|block| (u16::from_be_bytes([block[0], block[1]]), u16::from_be_bytes([block[2], block[3]])))
}

/// Serial number arithmetic (RFC 1982).
fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

/// The verification tag.
fn tag(packet: &[u8]) -> Option<u32> {
    number(packet, 4)
}

/// The first transmission sequence number, in the body of INIT or INIT-ACK.
fn first_number(body: &[u8]) -> Option<u32> {
    number(body, 12)
}

/// A number of four bytes.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")))
}

/// Whether each cause of an ABORT or ERROR is within its chunk, as the library walks them: without padding.
fn has_whole_causes(mut body: &[u8]) -> bool {
    while let [_, _, high, low, ..] = *body {
        let length = usize::from(u16::from_be_bytes([high, low]));
        match body.get(length..) {
            Some(rest) if length >= 4 => body = rest,
            _ => return false,
        }
    }
    true
}

/// Where the body of a packet's first SACK begins.
pub(super) fn acknowledgement_in(packet: &[u8]) -> Option<usize> {
    first_of(SACK, packet).map(|at| at + CHUNK_HEADER)
}

/// Where a packet's first DATA chunk begins.
pub(super) fn data_in(packet: &[u8]) -> Option<usize> {
    first_of(DATA, packet)
}

fn first_of(kind: u8, packet: &[u8]) -> Option<usize> {
    let mut chunks = Chunks::of(packet)?;
    loop {
        let at = packet.len() - chunks.0.len();
        if chunks.next()??.kind == kind {
            return Some(at);
        }
    }
}

struct Chunk<'a> {
    kind: u8,
    body: &'a [u8],
}

/// The chunks of a packet. An item of `None` is a chunk that is longer than what is left; nothing follows it.
struct Chunks<'a>(&'a [u8]);

impl<'a> Chunks<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        packet.get(HEADER..).map(Self)
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Option<Chunk<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.0);
        let [kind, _, high, low, ..] = *rest else { return (!rest.is_empty()).then_some(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some(body) = rest.get(CHUNK_HEADER..length) else { return Some(None) };
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Some(Chunk { kind, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(CHUNK_HEADER + body.len()).expect("short");
        let mut chunk = [&[kind, 0][..], &length.to_be_bytes(), body].concat();
        chunk.resize(chunk.len().next_multiple_of(4), 0);
        chunk
    }

    fn packet(chunks: &[Vec<u8>]) -> Vec<u8> {
        [vec![0; HEADER], chunks.concat()].concat()
    }

    fn data(tsn: u32) -> Vec<u8> {
        chunk(DATA, &[&tsn.to_be_bytes()[..], &[0; 9]].concat())
    }

    fn forward(tsn: u32) -> Vec<u8> {
        chunk(FORWARD_TSN, &tsn.to_be_bytes())
    }

    fn reset(number: u32, last: u32, streams: usize) -> Vec<u8> {
        let length = u16::try_from(16 + 2 * streams).expect("few");
        let head = [&OUTGOING_RESET.to_be_bytes()[..], &length.to_be_bytes(), &number.to_be_bytes(), &[0; 4]].concat();
        chunk(RE_CONFIG, &[head, last.to_be_bytes().to_vec(), vec![0; 2 * streams]].concat())
    }

    fn init(kind: u8, first: u32) -> Vec<u8> {
        chunk(kind, &[&[0; 12][..], &first.to_be_bytes()].concat())
    }

    /// What is said of a packet with these chunks within an association.
    fn verdict(inspector: &mut Inspector, chunks: &[Vec<u8>]) -> Verdict {
        let packet = packet(chunks);
        match look_at_shape(&packet) {
            Verdict::Take => inspector.look_at(Instant::now(), &packet, true),
            other => other,
        }
    }

    #[test]
    fn numbers_may_be_as_far_ahead_as_the_window_and_no_farther_also_across_zero() {
        for first in [1, 100_000, u32::MAX - 10] {
            let mut inspector = Inspector::after_init(first);
            let last = first.wrapping_add(TSN_AHEAD_MAX - 1);
            for near in [data(first), data(last), forward(last), data(first.wrapping_sub(5))] {
                assert_eq!(verdict(&mut inspector, &[near]), Verdict::Take);
            }
            assert_eq!(verdict(&mut inspector, &[data(last.wrapping_add(1))]), Verdict::Drop);
            assert_eq!(verdict(&mut inspector, &[forward(last.wrapping_add(1))]), Verdict::Abort);
            assert_eq!(verdict(&mut inspector, &[forward(first.wrapping_add(1 << 30))]), Verdict::Abort);

            let sack = chunk(SACK, &[&last.to_be_bytes()[..], &[0; 8]].concat());
            inspector.note_sent(&packet(&[sack]));
            assert_eq!(verdict(&mut inspector, &[data(last.wrapping_add(TSN_AHEAD_MAX))]), Verdict::Take);
        }
    }

    /// It is behind until the data before it in the packet was taken in, and then ahead by half of all numbers.
    #[test]
    fn forwarding_by_half_of_all_numbers_after_data_ends_the_association() {
        for far in [1 << 31, (1 << 31) + 1, (1 << 31) + 100] {
            let mut inspector = Inspector::after_init(1);
            assert_eq!(verdict(&mut inspector, &[data(1), data(2), forward(far)]), Verdict::Abort, "{far:x}");
        }
        let mut inspector = Inspector::after_init(1);
        for near in [data(1), forward(1), forward(0)] {
            assert_eq!(verdict(&mut inspector, &[near]), Verdict::Take, "a little ahead, and behind");
        }
    }

    /// How many packets of one chunk of data each, acknowledged as they come and read at once, are taken in together.
    fn taken_at_once(inspector: &mut Inspector, count: u32) -> usize {
        let now = Instant::now();
        let mut taken = 0;
        for number in 1..=count {
            if inspector.look_at(now, &packet(&[data(number)]), true) == Verdict::Take {
                taken += 1;
                inspector.note_read(1);
                inspector.note_sent(&packet(&[chunk(SACK, &[&number.to_be_bytes()[..], &[0; 8]].concat())]));
            }
        }
        taken
    }

    #[test]
    fn data_costs_what_waits_for_it_and_nothing_besides() {
        assert_eq!(taken_at_once(&mut Inspector::after_init(1), 12_000), 12_000);
        // Each reset that waits is answered at each chunk.
        let mut inspector = Inspector::after_init(1);
        for request in 0..8 {
            assert_eq!(verdict(&mut inspector, &[reset(request, 14_000, 1)]), Verdict::Take);
        }
        let taken = taken_at_once(&mut inspector, 12_000);
        assert!((900..=1_000).contains(&taken), "{taken}");
    }

    #[test]
    fn each_stream_and_each_gap_that_is_named_costs_something_although_nothing_is_held() {
        const NAMED: u16 = 16_000;
        let forward = [&1u32.to_be_bytes()[..], &[0; 4 * NAMED as usize]].concat();
        // Gaps of a number each.
        let head = [&[0; 8][..], &NAMED.to_be_bytes(), &[0; 2]].concat();
        let acknowledgement = [head, [0, 2, 0, 2].repeat(NAMED.into())].concat();
        for packet in [packet(&[chunk(FORWARD_TSN, &forward)]), packet(&[chunk(SACK, &acknowledgement)])] {
            let (mut inspector, now) = (Inspector::after_init(1), Instant::now());
            let taken = (0..1_000).take_while(|_| inspector.look_at(now, &packet, true) == Verdict::Take).count();
            assert!((450..=500).contains(&taken), "{taken}");
        }
    }

    #[test]
    fn a_reconfiguration_of_nothing_is_dropped() {
        for length in 0..4 {
            assert_eq!(verdict(&mut Inspector::after_init(1), &[chunk(RE_CONFIG, &vec![0; length])]), Verdict::Drop);
        }
        let response = [0, 16, 0, 12, 0, 0, 0, 1, 0, 0, 0, 1];
        assert_eq!(verdict(&mut Inspector::after_init(1), &[chunk(RE_CONFIG, &response)]), Verdict::Take);
    }

    #[test]
    fn data_before_any_init_is_dropped() {
        assert_eq!(verdict(&mut Inspector::default(), &[data(1)]), Verdict::Drop);
    }

    #[test]
    fn causes_beyond_their_chunk_are_not_taken() {
        let mut inspector = Inspector::after_init(1);
        let cause = |length: u16| [&[0, 1][..], &length.to_be_bytes(), &[7; 4]].concat();
        for length in [0, 3, 9, 100, u16::MAX] {
            assert_eq!(verdict(&mut inspector, &[chunk(ERROR, &cause(length))]), Verdict::Drop);
            assert_eq!(verdict(&mut inspector, &[chunk(ABORT, &cause(length))]), Verdict::Abort);
        }
        for kind in [ERROR, ABORT] {
            assert_eq!(verdict(&mut inspector, &[chunk(kind, &cause(8))]), Verdict::Take);
            assert_eq!(verdict(&mut inspector, &[chunk(kind, &[])]), Verdict::Take);
        }
    }

    #[test]
    fn resets_of_what_has_not_arrived_are_few_and_name_few_streams() {
        let mut inspector = Inspector::after_init(100);
        assert_eq!(verdict(&mut inspector, &[reset(0, 99, RESET_STREAMS_MAX)]), Verdict::Take);
        assert_eq!(verdict(&mut inspector, &[reset(1, 99, RESET_STREAMS_MAX + 1)]), Verdict::Drop);
        for number in 0..8 {
            assert_eq!(verdict(&mut inspector, &[reset(number, 5_000, 1)]), Verdict::Take);
            assert_eq!(verdict(&mut inspector, &[reset(number, 5_000, 1)]), Verdict::Take, "the same once more");
        }
        assert_eq!(verdict(&mut inspector, &[reset(7_777, 5_000, 1)]), Verdict::Drop);
        assert_eq!(verdict(&mut inspector, &[reset(7_778, 99, 1)]), Verdict::Take);
        let all = chunk(SACK, &[&5_000_u32.to_be_bytes()[..], &[0; 8]].concat());
        inspector.note_sent(&packet(&[all]));
        assert_eq!(verdict(&mut inspector, &[reset(7_779, 6_000, 1)]), Verdict::Take, "the others are done");
    }

    #[test]
    fn a_packet_has_whole_chunks_of_kinds_that_clients_send_and_few_of_them() {
        let mut inspector = Inspector::after_init(1);
        assert_eq!(verdict(&mut inspector, &vec![data(1); CHUNKS_MAX]), Verdict::Take);
        assert_eq!(verdict(&mut inspector, &vec![data(1); CHUNKS_MAX + 1]), Verdict::Drop);
        assert_eq!(verdict(&mut inspector, &[forward(1), forward(2)]), Verdict::Drop);
        for kind in [INIT, INIT_ACK, 5, COOKIE_ACK, 64, 255] {
            assert_eq!(verdict(&mut inspector, &[chunk(kind, &[0; 16])]), Verdict::Drop, "{kind}");
        }
        for bytes in [&[][..], &[0], &[0, 0, 0, 3], &[0, 0, 0, 200, 1]] {
            assert_eq!(look_at_shape(&[&[0; HEADER][..], bytes].concat()), Verdict::Drop, "{bytes:?}");
        }
        assert_eq!(look_at_shape(&[0; 11]), Verdict::Drop);
    }

    #[test]
    fn an_association_is_opened_once_by_a_packet_that_does_nothing_else() {
        assert_eq!(number_of_init(&packet(&[init(INIT, 7)])), Some(7));
        assert_eq!(number_of_init(&packet(&[data(7)])), None);
        for kind in [INIT, INIT_ACK] {
            assert_eq!(look_at_shape(&packet(&[init(kind, 7)])), Verdict::Take);
            assert_eq!(look_at_shape(&packet(&[init(kind, 7), data(7)])), Verdict::Drop);
            assert_eq!(look_at_shape(&packet(&[data(7), init(kind, 7)])), Verdict::Drop);
            assert_eq!(look_at_shape(&packet(&[chunk(kind, &[0; 15])])), Verdict::Drop);
        }
        let mut tagged = packet(&[init(INIT, 7)]);
        tagged[7] = 1;
        assert_eq!(look_at_shape(&tagged), Verdict::Drop);

        let mut ours = Inspector::default();
        assert_eq!(ours.look_at(Instant::now(), &packet(&[init(INIT_ACK, 7)]), false), Verdict::Take);
        assert_eq!(ours.look_at(Instant::now(), &packet(&[init(INIT_ACK, 9_000)]), false), Verdict::Drop);
        assert_eq!(ours.look_at(Instant::now(), &packet(&[data(7)]), false), Verdict::Take);
        let mut theirs = Inspector::after_init(7);
        for kind in [INIT, INIT_ACK] {
            assert_eq!(theirs.look_at(Instant::now(), &packet(&[init(kind, 9_000)]), false), Verdict::Drop);
        }
    }
}
