//! Looks at an SCTP packet (RFC 9260, section 3) before `rtc-sctp` does, which trusts some lengths and numbers that the
//! client writes.
//!
//! What a client may make us do is bounded here: how far ahead its numbers may run, how many requests it may leave open.
//! Whatever is no business of a peer of ours is refused as well, so that less code is reached from outside.

/// Chunks of one packet. A packet of the smallest messages has some sixty.
const CHUNKS_MAX: usize = 128;
/// How far a transmission sequence number may be ahead of what we have acknowledged: more chunks than fit into the
/// receive window at sixteen bytes each. Each number of a FORWARD-TSN is a step, and each chunk out of order is kept.
const TSN_AHEAD_MAX: u32 = 16_384;
/// Streams of one reset (RFC 6525, section 4.1): as many as there may be.
const RESET_STREAMS_MAX: usize = super::STREAMS_MAX;
/// Stream resets that an association may ask for before all that it has sent has arrived. The library keeps each until
/// then; a client that closes a channel asks once, and repeats the same request.
const EARLY_RESETS_MAX: u32 = 256;

const HEADER: usize = 12;
const CHUNK_HEADER: usize = 4;

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

/// What is known of an association's numbers, from outside of the library.
#[derive(Debug, Default)]
pub(super) struct Inspector {
    /// The cumulative number of our last acknowledgement; before the first, one less than the number that INIT names.
    acknowledged: Option<u32>,
    early_resets: u32,
}

impl Inspector {
    /// Looks at a packet from the client. INIT and INIT-ACK begin anew, which an established association does not.
    pub(super) fn look_at(&mut self, packet: &[u8], established: bool) -> Verdict {
        let Some(chunks) = Chunks::of(packet) else { return Verdict::Drop };
        let (mut count, mut forwards) = (0, 0);
        for chunk in chunks {
            let Some(Chunk { kind, body }) = chunk else { return Verdict::Drop };
            count += 1;
            forwards += usize::from(kind == FORWARD_TSN);
            if count > CHUNKS_MAX || forwards > 1 {
                return Verdict::Drop;
            }
            let verdict = match kind {
                DATA => self.look_at_data(body),
                FORWARD_TSN => self.look_at_forward(body),
                RE_CONFIG => self.look_at_reconfig(body),
                INIT | INIT_ACK if !established => self.look_at_init(body),
                COOKIE_ACK if !established => Verdict::Take,
                ABORT if !has_whole_causes(body) => Verdict::Abort,
                ERROR if !has_whole_causes(body) => Verdict::Drop,
                SACK | HEARTBEAT | ABORT | SHUTDOWN | SHUTDOWN_ACK | ERROR | COOKIE_ECHO | SHUTDOWN_COMPLETE => {
                    Verdict::Take
                }
                // Of the others, clients send none, or we ask for none that they would answer.
                _ => Verdict::Drop,
            };
            if verdict != Verdict::Take {
                return verdict;
            }
        }
        if count == 0 { Verdict::Drop } else { Verdict::Take }
    }

    /// Notes what a packet of ours acknowledges.
    pub(super) fn note_sent(&mut self, packet: &[u8]) {
        let sacks = Chunks::of(packet).into_iter().flatten().flatten().filter(|chunk| chunk.kind == SACK);
        for sack in sacks {
            self.acknowledged = number(sack.body, 0).or(self.acknowledged);
        }
    }

    fn look_at_init(&mut self, body: &[u8]) -> Verdict {
        let Some(first) = number(body, 12) else { return Verdict::Drop };
        self.acknowledged = Some(first.wrapping_sub(1));
        Verdict::Take
    }

    fn look_at_data(&self, body: &[u8]) -> Verdict {
        match number(body, 0) {
            Some(tsn) if self.is_near(tsn) => Verdict::Take,
            _ => Verdict::Drop,
        }
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
                let Some(last) = number(parameter, 8) else { return Verdict::Drop };
                if parameter.len() > 12 + 2 * RESET_STREAMS_MAX {
                    return Verdict::Drop;
                }
                if self.acknowledged.is_none_or(|acknowledged| is_after(last, acknowledged)) {
                    if self.early_resets >= EARLY_RESETS_MAX {
                        return Verdict::Drop;
                    }
                    self.early_resets += 1;
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Verdict::Take
    }

    /// Whether a number is within reach, or behind us.
    fn is_near(&self, tsn: u32) -> bool {
        self.acknowledged
            .is_some_and(|acknowledged| !is_after(tsn, acknowledged) || tsn.wrapping_sub(acknowledged) <= TSN_AHEAD_MAX)
    }
}

/// Serial number arithmetic (RFC 1982).
fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
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
    let mut chunks = Chunks::of(packet)?;
    loop {
        let at = packet.len() - chunks.0.len() + CHUNK_HEADER;
        if chunks.next()??.kind == SACK {
            return Some(at);
        }
    }
}

/// Whether a packet holds data of messages.
pub(super) fn has_data(packet: &[u8]) -> bool {
    Chunks::of(packet).into_iter().flatten().flatten().any(|chunk| chunk.kind == DATA)
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

    /// Of an association whose INIT named this number.
    fn begun(first: u32) -> Inspector {
        let mut inspector = Inspector::default();
        let init = chunk(INIT, &[&[0; 12][..], &first.to_be_bytes()].concat());
        assert_eq!(inspector.look_at(&packet(&[init]), false), Verdict::Take);
        inspector
    }

    #[test]
    fn numbers_may_be_as_far_ahead_as_the_window_and_no_farther_also_across_zero() {
        for first in [1, 100_000, u32::MAX - 10] {
            let mut inspector = begun(first);
            let last = first.wrapping_add(TSN_AHEAD_MAX - 1);
            for near in [data(first), data(last), forward(last), data(first.wrapping_sub(5))] {
                assert_eq!(inspector.look_at(&packet(&[near]), true), Verdict::Take);
            }
            assert_eq!(inspector.look_at(&packet(&[data(last.wrapping_add(1))]), true), Verdict::Drop);
            assert_eq!(inspector.look_at(&packet(&[forward(last.wrapping_add(1))]), true), Verdict::Abort);
            assert_eq!(inspector.look_at(&packet(&[forward(first.wrapping_add(1 << 30))]), true), Verdict::Abort);

            let sack = chunk(SACK, &[&last.to_be_bytes()[..], &[0; 8]].concat());
            inspector.note_sent(&packet(&[sack]));
            assert_eq!(inspector.look_at(&packet(&[data(last.wrapping_add(TSN_AHEAD_MAX))]), true), Verdict::Take);
        }
    }

    #[test]
    fn data_before_any_init_is_dropped() {
        assert_eq!(Inspector::default().look_at(&packet(&[data(1)]), true), Verdict::Drop);
    }

    #[test]
    fn causes_beyond_their_chunk_are_not_taken() {
        let mut inspector = begun(1);
        let cause = |length: u16| [&[0, 1][..], &length.to_be_bytes(), &[7; 4]].concat();
        for length in [0, 3, 9, 100, u16::MAX] {
            assert_eq!(inspector.look_at(&packet(&[chunk(ERROR, &cause(length))]), true), Verdict::Drop);
            assert_eq!(inspector.look_at(&packet(&[chunk(ABORT, &cause(length))]), true), Verdict::Abort);
        }
        for kind in [ERROR, ABORT] {
            assert_eq!(inspector.look_at(&packet(&[chunk(kind, &cause(8))]), true), Verdict::Take);
            assert_eq!(inspector.look_at(&packet(&[chunk(kind, &[])]), true), Verdict::Take);
        }
    }

    #[test]
    fn resets_of_what_has_not_arrived_are_few_and_name_few_streams() {
        let mut inspector = begun(100);
        assert_eq!(inspector.look_at(&packet(&[reset(0, 99, RESET_STREAMS_MAX)]), true), Verdict::Take);
        assert_eq!(inspector.look_at(&packet(&[reset(1, 99, RESET_STREAMS_MAX + 1)]), true), Verdict::Drop);
        for number in 0..EARLY_RESETS_MAX {
            assert_eq!(inspector.look_at(&packet(&[reset(number, 5_000, 1)]), true), Verdict::Take);
        }
        assert_eq!(inspector.look_at(&packet(&[reset(7_777, 5_000, 1)]), true), Verdict::Drop);
        assert_eq!(inspector.look_at(&packet(&[reset(7_778, 99, 1)]), true), Verdict::Take);
    }

    #[test]
    fn a_packet_has_whole_chunks_of_kinds_that_clients_send_and_few_of_them() {
        let mut inspector = begun(1);
        assert_eq!(inspector.look_at(&packet(&vec![data(1); CHUNKS_MAX]), true), Verdict::Take);
        assert_eq!(inspector.look_at(&packet(&vec![data(1); CHUNKS_MAX + 1]), true), Verdict::Drop);
        assert_eq!(inspector.look_at(&packet(&[forward(1), forward(2)]), true), Verdict::Drop);
        for kind in [INIT, INIT_ACK, 5, COOKIE_ACK, 64, 255] {
            assert_eq!(inspector.look_at(&packet(&[chunk(kind, &[0; 16])]), true), Verdict::Drop, "{kind}");
        }
        for bytes in [&[][..], &[0], &[0, 0, 0, 3], &[0, 0, 0, 200, 1]] {
            assert_eq!(inspector.look_at(&[&[0; HEADER][..], bytes].concat(), true), Verdict::Drop, "{bytes:?}");
        }
        assert_eq!(inspector.look_at(&[0; 11], true), Verdict::Drop);
    }
}
