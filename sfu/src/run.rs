//! The send arena: what leaves in a turn, as runs of equal segments (generic segmentation offload).
//!
//! The kernel charges by super-packet, not by byte, so consecutive packets to one client become one message: all
//! segments are equal but the last, which may be shorter. A packet a few bytes short of its run's segment is padded
//! (RFC 3550, section 5.1) rather than ending the run.

use crate::path::Path;

/// A run is at most this long: the kernel's limit of an IP datagram, with room for headers.
const RUN_BYTES_MAX: usize = 63_000;
/// Most segments of a run (`UDP_MAX_SEGMENTS` is 64 on older kernels).
const RUN_SEGMENTS_MAX: usize = 60;
/// Arena bytes after which it is sent before more is added: small enough to stay in the core's second-level cache.
const ARENA_FLUSH: usize = 256 << 10;
/// Messages after which the arena is sent.
const MESSAGES_FLUSH: usize = 256;

/// One message of the arena: `length` bytes at `start`, cut into segments of `segment` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Where it goes to.
    pub path: Path,
    /// Offset into the arena's bytes.
    pub start: usize,
    /// Bytes of all its segments.
    pub length: usize,
    /// Equal to `length` when there is just one.
    pub segment: usize,
}

impl Message {
    /// How many datagrams it is cut into.
    pub fn segments(&self) -> usize {
        self.length.div_ceil(self.segment.max(1))
    }
}

/// Sends what an arena holds. The shell implements it with `sendmmsg`; tests collect.
pub trait Transmit {
    /// Sends these messages, which are parts of `bytes`.
    fn transmit(&mut self, bytes: &[u8], messages: &[Message]);
}

/// Bytes and messages of a turn, sent whenever enough has gathered and at the turn's end.
pub struct SendArena<T> {
    bytes: Vec<u8>,
    used: usize,
    messages: Vec<Message>,
    transmit: T,
}

impl<T: Transmit> SendArena<T> {
    /// An empty arena.
    pub fn new(transmit: T) -> Self {
        Self {
            bytes: vec![0; ARENA_FLUSH + RUN_BYTES_MAX],
            used: 0,
            messages: Vec::with_capacity(MESSAGES_FLUSH + 1),
            transmit,
        }
    }

    /// What sends.
    pub fn transmitter(&mut self) -> &mut T {
        &mut self.transmit
    }

    /// Starts a run to `path`. Its segments may be at most `segment` bytes, sealed.
    pub fn run(&mut self, path: Path, segment: usize) -> Run<'_, T> {
        if self.used >= ARENA_FLUSH || self.messages.len() >= MESSAGES_FLUSH {
            self.flush();
        }
        Run { start: self.used, segment, path, arena: self, ended: false }
    }

    /// Adds one datagram.
    pub fn single(&mut self, path: Path, datagram: &[u8]) {
        if datagram.len() > RUN_BYTES_MAX || datagram.is_empty() {
            return;
        }
        let mut run = self.run(path, datagram.len());
        run.space(datagram.len())[..datagram.len()].copy_from_slice(datagram);
        run.push(datagram.len());
    }

    /// Drops everything: after a panic the last segment may be half written, and in clear.
    pub fn discard(&mut self) {
        self.messages.clear();
        self.used = 0;
    }

    /// Sends everything.
    pub fn flush(&mut self) {
        if !self.messages.is_empty() {
            self.transmit.transmit(&self.bytes[..self.used], &self.messages);
        }
        self.messages.clear();
        self.used = 0;
    }
}

/// A run being built; it becomes a message when dropped.
pub struct Run<'a, T: Transmit> {
    arena: &'a mut SendArena<T>,
    path: Path,
    start: usize,
    segment: usize,
    ended: bool,
}

impl<T: Transmit> Run<'_, T> {
    /// Whether one more segment fits: none does behind a short one.
    pub fn takes_more(&self) -> bool {
        let length = self.arena.used - self.start;
        !self.ended && length + self.segment <= RUN_BYTES_MAX && length < self.segment * RUN_SEGMENTS_MAX
    }

    /// Room for the next segment, `length` bytes or more. Stale bytes, to be overwritten.
    pub fn space(&mut self, length: usize) -> &mut [u8] {
        let start = self.arena.used;
        &mut self.arena.bytes[start..start + length]
    }

    /// The next segment is what the first `length` bytes of [`Run::space`] hold now.
    pub fn push(&mut self, length: usize) {
        debug_assert!(length <= self.segment && !self.ended);
        self.arena.used += length;
        self.ended = length < self.segment;
    }
}

impl<T: Transmit> Drop for Run<'_, T> {
    fn drop(&mut self) {
        let length = self.arena.used - self.start;
        if length > 0 {
            let segment = self.segment.min(length);
            self.arena.messages.push(Message { path: self.path, start: self.start, length, segment });
        }
    }
}

/// Most padding that keeps a packet in its run: packets of one frame differ by a byte or two.
pub const PADDING_MAX: usize = 12;

/// How many of the coming packets form one run, and its segment: the longest of them. `sizes` are sealed sizes in
/// order.
///
/// All but the last must be within [`PADDING_MAX`] of the segment; the last may be shorter by any amount.
pub fn plan_run(sizes: &[usize]) -> (usize, usize) {
    let Some(&first) = sizes.first() else { return (0, 0) };
    let (mut longest, mut shortest) = (first, first);
    let mut count = 1;
    for &size in &sizes[1..] {
        if count >= RUN_SEGMENTS_MAX || (count + 1) * longest.max(size) > RUN_BYTES_MAX {
            break;
        }
        if size.max(longest) - size.min(shortest) <= PADDING_MAX {
            longest = longest.max(size);
            shortest = shortest.min(size);
            count += 1;
            continue;
        }
        if size < longest {
            count += 1;
        }
        break;
    }
    (count, longest)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::path::Via;

    #[derive(Default)]
    struct Collect(Vec<(usize, usize, Vec<u8>)>);

    impl Transmit for Collect {
        fn transmit(&mut self, bytes: &[u8], messages: &[Message]) {
            for message in messages {
                let data = bytes[message.start..message.start + message.length].to_vec();
                self.0.push((message.length, message.segment, data));
            }
        }
    }

    /// Segments and bytes of each message, by the call that sent it.
    #[derive(Default)]
    struct Calls(Vec<Vec<(usize, usize)>>);

    impl Transmit for Calls {
        fn transmit(&mut self, bytes: &[u8], messages: &[Message]) {
            let ends: usize = messages.iter().map(|message| message.length).sum();
            assert_eq!(bytes.len(), ends, "what the messages hold, and no more");
            self.0.push(messages.iter().map(|message| (message.segments(), message.length)).collect());
        }
    }

    fn path() -> Path {
        Path { remote: "127.0.0.1:9".parse().expect("an address"), via: Via::Udp(0) }
    }

    #[test]
    fn a_frames_packets_form_one_run_although_they_differ_by_a_byte() {
        assert_eq!(plan_run(&[1187, 1188, 1188, 1187, 600, 1188]), (5, 1188));
        assert_eq!(plan_run(&[600, 1188, 1188]), (1, 600));
        assert_eq!(plan_run(&[100]), (1, 100));
        assert_eq!(plan_run(&[]), (0, 0));
        assert_eq!(plan_run(&[1200; 100]), (52, 1200));
        assert_eq!(plan_run(&[1050; 100]), (60, 1050));
    }

    #[test]
    fn one_that_is_shorter_by_more_than_padding_fills_is_the_last_of_its_run() {
        assert_eq!(plan_run(&[1000, 1000 + PADDING_MAX, 1000]), (3, 1000 + PADDING_MAX));
        assert_eq!(plan_run(&[1000, 1000 + PADDING_MAX + 1]), (1, 1000));
        assert_eq!(plan_run(&[1000 + PADDING_MAX + 1, 1000, 1000]), (2, 1000 + PADDING_MAX + 1));
    }

    /// Whether these may be one message.
    fn is_run(sizes: &[usize]) -> bool {
        let (Some((_, before)), Some(&longest)) = (sizes.split_last(), sizes.iter().max()) else { return false };
        sizes.len() <= RUN_SEGMENTS_MAX
            && sizes.len() * longest <= RUN_BYTES_MAX
            && before.iter().all(|size| longest - size <= PADDING_MAX)
    }

    proptest! {
        #[test]
        fn a_run_is_as_long_as_it_may_be(
            base in 20usize..1_500,
            steps in vec(prop_oneof![8 => 0usize..4, 2 => 0usize..20, 1 => 0usize..600], 1..70),
        ) {
            let sizes: Vec<usize> = steps.iter().map(|step| base + step).collect();
            let count = (1..=sizes.len()).take_while(|count| is_run(&sizes[..*count])).count();
            prop_assert_eq!(plan_run(&sizes), (count, sizes[..count].iter().copied().max().unwrap_or(0)));
        }
    }

    #[test]
    fn a_run_takes_as_many_segments_as_the_kernel_does() {
        for (segment, expected) in [(100, 60), (1_050, 60), (1_051, 59), (1_200, 52), (63_000, 1)] {
            let mut arena = SendArena::new(Calls::default());
            let mut run = arena.run(path(), segment);
            let mut count = 0;
            while run.takes_more() {
                run.space(segment);
                run.push(segment);
                count += 1;
            }
            drop(run);
            assert_eq!(count, expected, "of {segment} bytes");
            arena.flush();
            assert_eq!(arena.transmitter().0, [vec![(expected, expected * segment)]]);
        }
    }

    #[test]
    fn a_short_segment_ends_its_run() {
        let mut arena = SendArena::new(Collect::default());
        {
            let mut run = arena.run(path(), 4);
            for segment in [&b"abcd"[..], b"efgh", b"ij"] {
                assert!(run.takes_more());
                run.space(segment.len()).copy_from_slice(segment);
                run.push(segment.len());
            }
            assert!(!run.takes_more());
        }
        arena.single(path(), b"xyz");
        arena.flush();
        assert_eq!(arena.transmitter().0, vec![(10, 4, b"abcdefghij".to_vec()), (3, 3, b"xyz".to_vec())]);
    }

    #[test]
    fn a_full_arena_is_sent_before_more_is_added() {
        let mut arena = SendArena::new(Collect::default());
        for _ in 0..1000 {
            arena.single(path(), &[0; 1200]);
        }
        assert!(!arena.transmitter().0.is_empty());
        arena.flush();
        assert_eq!(arena.transmitter().0.len(), 1000);
    }

    #[test]
    fn what_leaves_in_a_turn_is_sent_by_one_call_until_there_is_much_of_it() {
        let calls = |count: usize, length: usize| {
            let mut arena = SendArena::new(Calls::default());
            (0..count).for_each(|_| arena.single(path(), &vec![7; length]));
            arena.flush();
            arena.flush();
            arena.transmitter().0.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(calls(MESSAGES_FLUSH, 10), [MESSAGES_FLUSH]);
        assert_eq!(calls(MESSAGES_FLUSH + 1, 10), [MESSAGES_FLUSH, 1]);
        assert_eq!(calls(128, ARENA_FLUSH / 128), [128]);
        assert_eq!(calls(129, ARENA_FLUSH / 128), [128, 1]);
    }

    #[test]
    fn a_datagram_of_no_bytes_or_of_too_many_is_not_sent() {
        let mut arena = SendArena::new(Collect::default());
        for length in [0, RUN_BYTES_MAX, RUN_BYTES_MAX + 1, 1] {
            arena.single(path(), &vec![1; length]);
        }
        arena.flush();
        let lengths: Vec<usize> = arena.transmitter().0.iter().map(|(length, ..)| *length).collect();
        assert_eq!(lengths, [RUN_BYTES_MAX, 1]);
    }

    #[test]
    fn a_run_that_nothing_came_into_is_not_sent() {
        let mut arena = SendArena::new(Calls::default());
        drop(arena.run(path(), 100));
        arena.flush();
        assert!(arena.transmitter().0.is_empty());
    }

    #[test]
    fn what_is_discarded_is_never_sent() {
        let mut arena = SendArena::new(Collect::default());
        arena.single(path(), b"half written");
        arena.discard();
        arena.single(path(), b"whole");
        arena.flush();
        assert_eq!(arena.transmitter().0, [(5, 5, b"whole".to_vec())]);
    }
}
