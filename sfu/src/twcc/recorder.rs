//! When a publisher's packets arrived, and the feedback that tells it.

use std::collections::VecDeque;
use std::time::Duration;

use super::{ONE_BIT_SYMBOLS, Symbol, TICK_US, TWO_BIT_SYMBOLS};
use crate::rtcp::{FMT_TRANSPORT_CC, packet_type, write_packet};
use crate::rtp::ExtendedSequence;

/// The reference time counts in 64 ms.
const TICKS_PER_REFERENCE: u64 = 64_000 / TICK_US;
/// Longest run of one run-length chunk: 13 bits.
const RUN_MAX: usize = 0x1FFF;
/// Sequence numbers remembered at most: a jump beyond forgets the oldest, and is not reported as loss. Half a minute of
/// 2 Mbit/s.
const WINDOW_MAX: usize = 8_192;
/// How long a reported packet is kept, so that a late neighbour can be reported together with it.
const REPORTED_KEPT_TICKS: u64 = 500_000 / TICK_US;
/// Chunks and deltas of one feedback packet, so that it fits a datagram with its SRTCP tag.
const CHUNKS_AND_DELTAS_MAX: usize = 1_000;
/// Mark of a number that nothing arrived with; 250 µs ticks reach it after 146 million years.
const NOT_RECEIVED: u64 = u64::MAX;

/// Arrival times of the packets of one publishing transport, until they are reported.
///
/// A packet that arrives after its neighbours were reported is reported with them once more, as libwebrtc's own
/// receiver does: its sender ignores what it knows already.
#[derive(Debug)]
pub struct TwccRecorder {
    sender_ssrc: u32,
    media_ssrc: u32,
    sequence: ExtendedSequence,
    /// Extended number of the first of `arrivals`.
    oldest: u64,
    /// In ticks since the recorder's epoch, or [`NOT_RECEIVED`]; without gaps, at most [`WINDOW_MAX`].
    arrivals: VecDeque<u64>,
    /// Numbers below are forgotten: what they were reported as cannot be repeated.
    forgotten: u64,
    /// Lowest extended number that the next feedback must cover.
    unreported: u64,
    pending: usize,
    feedback_count: u8,
    /// Reused by [`write_feedback`](Self::write_feedback).
    symbols: Vec<Symbol>,
    deltas: Vec<u8>,
}

impl TwccRecorder {
    /// `sender_ssrc`: who the feedback says it is from.
    pub fn new(sender_ssrc: u32) -> Self {
        Self {
            sender_ssrc,
            media_ssrc: 0,
            sequence: ExtendedSequence::new(),
            oldest: 0,
            arrivals: VecDeque::new(),
            forgotten: 0,
            unreported: 0,
            pending: 0,
            feedback_count: 0,
            symbols: Vec::new(),
            deltas: Vec::new(),
        }
    }

    /// Packets recorded since the last feedback.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// `sequence` is the transport-wide one, `arrival` counts from the recorder's epoch, `media_ssrc` is that of the
    /// packet. A duplicate is ignored, as is a packet older than what is remembered.
    pub fn record(&mut self, sequence: u16, arrival: Duration, media_ssrc: u32) {
        let number = self.sequence.unwrap(sequence);
        if self.arrivals.is_empty() {
            (self.oldest, self.unreported) = (number, number);
        }
        let Some(at) = self.make_room(number) else { return };
        let Some(slot) = self.arrivals.get_mut(at).filter(|slot| **slot == NOT_RECEIVED) else { return };
        *slot = u64::try_from(arrival.as_micros()).unwrap_or(u64::MAX) / TICK_US;
        self.media_ssrc = media_ssrc;
        self.unreported = self.unreported.min(number);
        self.pending += 1;
    }

    /// Grows the window to include `number` and says where in it that is; `None` if it is too old.
    fn make_room(&mut self, number: u64) -> Option<usize> {
        if number < self.forgotten {
            return None;
        }
        let newest_max = self.oldest + WINDOW_MAX as u64 - 1;
        if number >= newest_max + self.arrivals.len() as u64 {
            // Nothing of the window would stay: begin again here, instead of filling it with what nobody sent.
            self.arrivals.clear();
            self.forget_until(number);
        } else if number > newest_max {
            self.forget_until(self.oldest + (number - newest_max));
        }
        // Before anything was forgotten, an earlier packet can still be first.
        if number < self.oldest {
            let missing = usize::try_from(self.oldest - number).ok()?;
            if missing + self.arrivals.len() > WINDOW_MAX {
                return None;
            }
            (0..missing).for_each(|_| self.arrivals.push_front(NOT_RECEIVED));
            self.oldest = number;
        }
        let at = usize::try_from(number - self.oldest).ok()?;
        if at >= self.arrivals.len() {
            self.arrivals.resize(at + 1, NOT_RECEIVED);
        }
        Some(at)
    }

    /// Drops the numbers before `oldest`, the new oldest one.
    fn forget_until(&mut self, oldest: u64) {
        let count = usize::try_from(oldest.saturating_sub(self.oldest)).unwrap_or(usize::MAX);
        self.arrivals.drain(..count.min(self.arrivals.len()));
        self.oldest = oldest;
        self.forgotten = oldest;
        if oldest > self.unreported {
            self.unreported = oldest;
            let left = self.arrivals.iter().filter(|&&ticks| ticks != NOT_RECEIVED).count();
            self.pending = self.pending.min(left);
        }
    }

    /// Appends one or more feedback packets about everything since the last call, gaps included (up to 8,192 numbers).
    /// `false`, with nothing appended, if nothing arrived since.
    pub fn write_feedback(&mut self, out: &mut Vec<u8>) -> bool {
        if self.pending == 0 {
            return false;
        }
        self.pending = 0;
        let mut from = self.unreported;
        let end = self.oldest + self.arrivals.len() as u64;
        while from < end {
            from = self.write_packet_from(out, from, end);
        }
        self.unreported = end;
        self.forget_reported();
        true
    }

    /// Appends one packet about the numbers from `from` on, and returns the first that it does not cover.
    fn write_packet_from(&mut self, out: &mut Vec<u8>, from: u64, end: u64) -> u64 {
        self.symbols.clear();
        self.deltas.clear();
        let skip = usize::try_from(from.saturating_sub(self.oldest)).unwrap_or(usize::MAX);
        let arrivals = self.arrivals.iter().copied().skip(skip);
        let Some(first) = arrivals.clone().find(|&ticks| ticks != NOT_RECEIVED) else { return end };
        let reference = first / TICKS_PER_REFERENCE;
        let mut last = reference * TICKS_PER_REFERENCE;
        for ticks in arrivals {
            let Some(symbol) = push_delta(&mut self.deltas, last, ticks) else { break };
            self.symbols.push(symbol);
            if symbol != Symbol::NotReceived {
                last = ticks;
            }
            // A chunk of two bytes holds at least seven symbols.
            if self.deltas.len() + 2 * self.symbols.len().div_ceil(TWO_BIT_SYMBOLS) >= CHUNKS_AND_DELTAS_MAX
                && symbol != Symbol::NotReceived
            {
                break;
            }
        }
        let count = self.symbols.len();
        let word = (reference as u32) << 8 | u32::from(self.feedback_count);
        self.feedback_count = self.feedback_count.wrapping_add(1);
        write_packet(out, FMT_TRANSPORT_CC, packet_type::TRANSPORT_FEEDBACK, |out| {
            out.extend_from_slice(&self.sender_ssrc.to_be_bytes());
            out.extend_from_slice(&self.media_ssrc.to_be_bytes());
            out.extend_from_slice(&(from as u16).to_be_bytes());
            out.extend_from_slice(&(count as u16).to_be_bytes());
            out.extend_from_slice(&word.to_be_bytes());
            write_chunks(out, &self.symbols);
            out.extend_from_slice(&self.deltas);
        });
        from + count as u64
    }

    /// Forgets packets that are reported and older than [`REPORTED_KEPT_TICKS`].
    fn forget_reported(&mut self) {
        let Some(&newest) = self.arrivals.iter().rfind(|&&ticks| ticks != NOT_RECEIVED) else { return };
        let horizon = newest.saturating_sub(REPORTED_KEPT_TICKS);
        let kept = self.arrivals.iter().position(|&ticks| ticks != NOT_RECEIVED && ticks >= horizon);
        self.forget_until(self.oldest + kept.unwrap_or(0) as u64);
    }
}

/// Symbol of a packet that arrived at `ticks`, after one at `last`; appends its delta. `None` if the delta does not
/// fit: the packet must start another feedback.
fn push_delta(deltas: &mut Vec<u8>, last: u64, ticks: u64) -> Option<Symbol> {
    if ticks == NOT_RECEIVED {
        return Some(Symbol::NotReceived);
    }
    let delta = i16::try_from(ticks as i64 - last as i64).ok()?;
    match u8::try_from(delta) {
        Ok(small) => {
            deltas.push(small);
            Some(Symbol::SmallDelta)
        }
        Err(_) => {
            deltas.extend_from_slice(&delta.to_be_bytes());
            Some(Symbol::LargeDelta)
        }
    }
}

/// Appends chunks for all symbols: a run where it says more than a vector would.
fn write_chunks(out: &mut Vec<u8>, mut symbols: &[Symbol]) {
    while let Some(&first) = symbols.first() {
        let run = symbols.iter().take(RUN_MAX).take_while(|&&symbol| symbol == first).count();
        let one_bit = symbols.len().min(ONE_BIT_SYMBOLS);
        let two_bit = symbols.len().min(TWO_BIT_SYMBOLS);
        let fits_one_bit = !symbols[..one_bit].contains(&Symbol::LargeDelta);
        let (word, len) = if run >= if fits_one_bit { one_bit } else { two_bit } {
            ((first as u16) << 13 | run as u16, run)
        } else if fits_one_bit {
            (0x8000 | vector(&symbols[..one_bit], 1, ONE_BIT_SYMBOLS), one_bit)
        } else {
            (0xC000 | vector(&symbols[..two_bit], 2, TWO_BIT_SYMBOLS), two_bit)
        };
        out.extend_from_slice(&word.to_be_bytes());
        symbols = &symbols[len..];
    }
}

/// Symbols of `width` bits each, the first in the highest place of `capacity`.
fn vector(symbols: &[Symbol], width: usize, capacity: usize) -> u16 {
    let places = (0..capacity).rev();
    symbols.iter().zip(places).fold(0, |word, (&symbol, place)| word | (symbol as u16) << (place * width))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use rtc_rtcp::transport_feedbacks::transport_layer_cc::{
        PacketStatusChunk, RecvDelta, StatusChunkTypeTcc, StatusVectorChunk, SymbolSizeTypeTcc, SymbolTypeTcc,
        TransportLayerCc,
    };

    use super::*;
    use crate::rtcp::{self, Feedback};
    use crate::rtp::u16_at;
    use crate::twcc::TransportCc;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn feedback(recorder: &mut TwccRecorder) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(recorder.write_feedback(&mut out));
        out
    }

    fn packets(bytes: &[u8]) -> Vec<TransportCc<'_>> {
        let read = rtcp::parse(bytes).map(|packet| match packet {
            Ok(Feedback::TransportCc(feedback)) => feedback,
            other => panic!("not transport-cc: {other:?}"),
        });
        read.collect()
    }

    fn statuses(bytes: &[u8]) -> Vec<(u16, Option<i64>)> {
        packets(bytes).iter().flat_map(|p| p.statuses()).map(|s| (s.sequence, s.arrival_us)).collect()
    }

    /// The same as the oracle understands it: received or not, in order, and the deltas in µs.
    fn oracle(bytes: &[u8]) -> Vec<(TransportLayerCc, Vec<bool>)> {
        let packets = rtc_rtcp::packet::unmarshal(&mut &bytes[..]).expect("the oracle reads it");
        let read = packets.iter().map(|packet| {
            let packet = packet.as_any().downcast_ref::<TransportLayerCc>().expect("transport-cc").clone();
            let mut received: Vec<bool> = Vec::new();
            for chunk in &packet.packet_chunks {
                let symbols = match chunk {
                    PacketStatusChunk::RunLengthChunk(run) => {
                        vec![run.packet_status_symbol; usize::from(run.run_length)]
                    }
                    PacketStatusChunk::StatusVectorChunk(vector) => vector.symbol_list.clone(),
                };
                received.extend(symbols.iter().map(|&symbol| symbol != SymbolTypeTcc::PacketNotReceived));
            }
            received.truncate(usize::from(packet.packet_status_count));
            (packet, received)
        });
        read.collect()
    }

    #[test]
    fn nothing_is_written_before_anything_arrived() {
        let mut out = Vec::new();
        assert!(!TwccRecorder::new(1).write_feedback(&mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn a_steady_stream_is_one_run_of_small_deltas() {
        let mut recorder = TwccRecorder::new(1);
        (0..100).for_each(|n| recorder.record(n, us(64_000 + u64::from(n) * 4_000), 2));
        assert_eq!(recorder.pending(), 100);
        let bytes = feedback(&mut recorder);
        assert_eq!(recorder.pending(), 0);
        // Header, two SSRCs, eight bytes of fields, one chunk, a byte a packet, padding.
        assert_eq!(bytes.len(), (4 + 8 + 8 + 2 + 100usize).next_multiple_of(4));
        let [packet] = &packets(&bytes)[..] else { panic!("one packet") };
        assert_eq!((packet.sender, packet.media, packet.base_sequence, packet.reference_time), (1, 2, 0, 1));
        assert!(packet.statuses().zip(0..).all(|(s, n)| s.arrival_us == Some(64_000 + n * 4_000)));
        assert!(!recorder.write_feedback(&mut Vec::new()));
    }

    #[test]
    fn feedback_goes_on_where_the_last_ended_and_names_the_gap() {
        let mut recorder = TwccRecorder::new(1);
        recorder.record(65_534, us(0), 2);
        assert_eq!(statuses(&feedback(&mut recorder)), [(65_534, Some(0))]);
        recorder.record(1, us(1_000), 2);
        let bytes = feedback(&mut recorder);
        assert_eq!(statuses(&bytes), [(65_535, None), (0, None), (1, Some(1_000))]);
        assert_eq!(packets(&bytes)[0].feedback_count, 1);
    }

    #[test]
    fn a_late_packet_is_reported_together_with_its_neighbours() {
        let mut recorder = TwccRecorder::new(1);
        recorder.record(10, us(0), 2);
        recorder.record(12, us(1_000), 2);
        feedback(&mut recorder);
        recorder.record(11, us(2_000), 2);
        assert_eq!(statuses(&feedback(&mut recorder)), [(11, Some(2_000)), (12, Some(1_000))]);
    }

    #[test]
    fn a_duplicate_keeps_the_first_arrival() {
        let mut recorder = TwccRecorder::new(1);
        recorder.record(10, us(1_000), 2);
        recorder.record(10, us(2_000), 2);
        assert_eq!(recorder.pending(), 1);
        assert_eq!(statuses(&feedback(&mut recorder)), [(10, Some(1_000))]);
    }

    #[test]
    fn what_was_forgotten_is_not_reported_again() {
        let mut recorder = TwccRecorder::new(1);
        recorder.record(1, us(0), 2);
        recorder.record(2, us(1_000_000), 2);
        feedback(&mut recorder);
        recorder.record(0, us(1_001_000), 2);
        recorder.record(1, us(1_001_000), 2);
        assert!(!recorder.write_feedback(&mut Vec::new()));
    }

    #[test]
    fn a_jump_beyond_the_window_begins_again_without_loss() {
        let mut recorder = TwccRecorder::new(1);
        recorder.record(0, us(0), 2);
        recorder.record(20_000, us(1_000), 2);
        assert_eq!(recorder.pending(), 1);
        assert_eq!(statuses(&feedback(&mut recorder)), [(20_000, Some(1_000))]);
    }

    /// First number that is reported, how many are, and how many of them as received.
    fn extent(recorder: &mut TwccRecorder) -> (u16, usize, usize) {
        let statuses = statuses(&feedback(recorder));
        let received = statuses.iter().filter(|(_, arrival)| arrival.is_some()).count();
        (statuses[0].0, statuses.len(), received)
    }

    #[test]
    fn of_what_waits_to_be_reported_the_oldest_is_forgotten_as_new_packets_come() {
        for more in [0, 1, 100] {
            let mut recorder = TwccRecorder::new(1);
            let count = WINDOW_MAX as u16 + more;
            (0..count).for_each(|n| recorder.record(n, us(u64::from(n) * 1_000), 2));
            assert_eq!(recorder.pending(), WINDOW_MAX);
            assert_eq!(extent(&mut recorder), (more, WINDOW_MAX, WINDOW_MAX));
        }
    }

    #[test]
    fn a_jump_forgets_what_leaves_the_window_and_no_more() {
        for (number, expected) in [
            (WINDOW_MAX as u16 - 1, (0, WINDOW_MAX, 11)),
            (WINDOW_MAX as u16, (1, WINDOW_MAX, 10)),
            (WINDOW_MAX as u16 + 5, (6, WINDOW_MAX, 5)),
            (WINDOW_MAX as u16 + 8, (9, WINDOW_MAX, 2)),
            (WINDOW_MAX as u16 + 9, (WINDOW_MAX as u16 + 9, 1, 1)),
            (WINDOW_MAX as u16 + 99, (WINDOW_MAX as u16 + 99, 1, 1)),
        ] {
            let mut recorder = TwccRecorder::new(1);
            (0..10).for_each(|n| recorder.record(n, us(u64::from(n)), 2));
            recorder.record(number, us(10), 2);
            assert_eq!(recorder.pending(), expected.2, "after {number}");
            assert_eq!(extent(&mut recorder), expected, "after {number}");
        }
    }

    #[test]
    fn the_first_number_of_the_window_may_still_come() {
        let mut recorder = TwccRecorder::new(1);
        recorder.record(0, us(0), 2);
        (2..=WINDOW_MAX as u16).for_each(|n| recorder.record(n, us(1_000), 2));
        recorder.record(1, us(2_000), 2);
        assert_eq!(extent(&mut recorder), (1, WINDOW_MAX, WINDOW_MAX));
    }

    #[test]
    fn an_earlier_packet_is_the_first_one_as_long_as_the_window_reaches_back_to_it() {
        for (number, expected) in [
            (19_990, (19_990, 11, 2)),
            (20_001 - WINDOW_MAX as u16, (20_001 - WINDOW_MAX as u16, WINDOW_MAX, 2)),
            (20_000 - WINDOW_MAX as u16, (20_000, 1, 1)),
        ] {
            let mut recorder = TwccRecorder::new(1);
            recorder.record(20_000, us(0), 2);
            recorder.record(number, us(1_000), 2);
            assert_eq!(extent(&mut recorder), expected, "{number}");
        }
    }

    #[test]
    fn what_was_reported_is_kept_for_half_a_second() {
        for (pause, expected) in [(500_000, &[(2, Some(500_000)), (3, Some(500_000))][..]), (500_250, &[])] {
            let mut recorder = TwccRecorder::new(1);
            recorder.record(1, us(0), 2);
            recorder.record(3, us(pause), 2);
            feedback(&mut recorder);
            recorder.record(2, us(pause), 2);
            let mut out = Vec::new();
            assert_eq!(recorder.write_feedback(&mut out), !expected.is_empty());
            assert_eq!(statuses(&out), expected, "after {pause} µs");
        }
    }

    #[test]
    fn a_delta_takes_a_byte_while_it_fits_and_a_packet_for_itself_when_it_fits_nowhere() {
        let bytes = |ticks: u64| {
            let mut recorder = TwccRecorder::new(1);
            recorder.record(1, us(0), 2);
            recorder.record(2, us(ticks * TICK_US), 2);
            let bytes = feedback(&mut recorder);
            assert_eq!(statuses(&bytes), [(1, Some(0)), (2, Some((ticks * TICK_US) as i64))]);
            let packets = packets(&bytes);
            (packets.len(), packets[0].deltas.len())
        };
        assert_eq!([bytes(0), bytes(255)], [(1, 2); 2]);
        assert_eq!([bytes(256), bytes(32_767)], [(1, 3); 2]);
        assert_eq!(bytes(32_768), (2, 1));
    }

    #[test]
    fn a_pause_too_long_for_a_delta_starts_another_packet() {
        let mut recorder = TwccRecorder::new(1);
        recorder.record(1, us(0), 2);
        recorder.record(2, us(9_000_000), 2);
        let bytes = feedback(&mut recorder);
        assert_eq!(packets(&bytes).len(), 2);
        assert_eq!(statuses(&bytes), [(1, Some(0)), (2, Some(9_000_000))]);
    }

    #[test]
    fn floods_and_jumps_stay_in_bounds() {
        let mut recorder = TwccRecorder::new(1);
        for n in 0..200_000u32 {
            recorder.record((n.wrapping_mul(9_973)) as u16, us(u64::from(n)), 2);
            assert!(recorder.arrivals.len() <= WINDOW_MAX);
        }
        let pending = recorder.pending();
        let bytes = feedback(&mut recorder);
        let statuses = statuses(&bytes);
        assert!(statuses.len() <= WINDOW_MAX);
        assert!(statuses.iter().filter(|(_, arrival)| arrival.is_some()).count() >= pending);
    }

    #[test]
    fn every_packet_fits_a_datagram() {
        // Deltas of two bytes and of one, every other packet lost and none.
        for (step, pause) in [(2, 100_000), (1, 100_000), (2, 1_000), (1, 1_000)] {
            let mut recorder = TwccRecorder::new(1);
            (0..4_000u16).for_each(|n| recorder.record(n * step, us(u64::from(n) * pause), 2));
            let bytes = feedback(&mut recorder);
            let mut rest = &bytes[..];
            while let Some(words) = u16_at(rest, 2) {
                let len = 4 * (usize::from(words) + 1);
                assert!(len <= 1_100, "{len}");
                rest = &rest[len..];
            }
            assert_eq!(statuses(&bytes).iter().filter(|(_, arrival)| arrival.is_some()).count(), 4_000);
        }
    }

    /// Sequence numbers and arrival times as a lossy, reordering network yields them.
    fn arrivals() -> impl Strategy<Value = Vec<(u16, u64)>> {
        let step = (
            prop_oneof![6 => Just(1i32), 2 => 2..30i32, 1 => -5..0i32, 1 => 30..600i32],
            prop_oneof![
                6 => 0u64..60_000, 2 => 60_000..9_000_000u64
            ],
        );
        (any::<u16>(), vec(step, 1..300)).prop_map(|(first, steps)| {
            let (mut sequence, mut time) = (first, 0);
            let arrive = |(step, pause): (i32, u64)| {
                sequence = sequence.wrapping_add(step as u16);
                time += pause;
                (sequence, time)
            };
            steps.into_iter().map(arrive).collect()
        })
    }

    proptest! {
        /// Whatever arrives is reported once at its time, everything else as lost, and the oracle reads the same.
        #[test]
        fn what_is_recorded_is_reported(arrivals in arrivals()) {
            let mut recorder = TwccRecorder::new(1);
            let mut expected = BTreeMap::new();
            for &(sequence, time) in &arrivals {
                recorder.record(sequence, us(time), 2);
                expected.entry(sequence).or_insert((time / 250 * 250) as i64);
            }
            // Forgetting and the wrap of the numbers are other tests' matter.
            prop_assume!(recorder.arrivals.len() < WINDOW_MAX && recorder.forgotten == 0);
            let bytes = feedback(&mut recorder);
            let statuses = statuses(&bytes);
            prop_assert!(statuses.windows(2).all(|pair| pair[1].0 == pair[0].0.wrapping_add(1)));
            let received: BTreeMap<_, _> =
                statuses.iter().filter_map(|(sequence, arrival)| Some((*sequence, (*arrival)?))).collect();
            prop_assert_eq!(received, expected);

            let mut oracle_received = Vec::new();
            for (ours, (theirs, received)) in packets(&bytes).iter().zip(oracle(&bytes)) {
                let mut time = i64::from(theirs.reference_time) * 64_000;
                let deltas = theirs.recv_deltas.iter().map(|delta| { time += delta.delta; time });
                let our_times = ours.statuses().filter_map(|status| status.arrival_us);
                prop_assert!(our_times.eq(deltas));
                oracle_received.extend(received);
            }
            prop_assert!(statuses.iter().map(|(_, arrival)| arrival.is_some()).eq(oracle_received));
        }

        /// Across many rounds nothing is reported as received that was not, and nothing new is left out.
        #[test]
        fn rounds_miss_nothing(arrivals in arrivals(), round in 1usize..40) {
            let mut recorder = TwccRecorder::new(1);
            for chunk in arrivals.chunks(round) {
                let before = recorder.pending();
                prop_assert_eq!(before, 0);
                chunk.iter().for_each(|&(sequence, time)| recorder.record(sequence, us(time), 2));
                let pending = recorder.pending();
                let mut out = Vec::new();
                prop_assert_eq!(recorder.write_feedback(&mut out), pending > 0);
                let received = statuses(&out).iter().filter(|(_, arrival)| arrival.is_some()).count();
                prop_assert!(received >= pending);
            }
        }

        /// Vectors of either width, as the oracle writes them.
        #[test]
        fn vectors_of_the_oracle_are_read(two_bit: bool, bits in vec(0u8..3, 14), base: u16) {
            let width = if two_bit { 7 } else { 14 };
            let symbols: Vec<_> = bits.iter().take(width).map(|bit| match (bit, two_bit) {
                (0, _) => SymbolTypeTcc::PacketNotReceived,
                (2, true) => SymbolTypeTcc::PacketReceivedLargeDelta,
                _ => SymbolTypeTcc::PacketReceivedSmallDelta,
            }).collect();
            let deltas: Vec<_> = symbols.iter().filter(|s| **s != SymbolTypeTcc::PacketNotReceived).map(|&symbol| {
                let delta = if symbol == SymbolTypeTcc::PacketReceivedLargeDelta { -20_000 } else { 500 };
                RecvDelta { type_tcc_packet: symbol, delta }
            }).collect();
            let theirs = TransportLayerCc {
                sender_ssrc: 1,
                media_ssrc: 2,
                base_sequence_number: base,
                packet_status_count: width as u16,
                reference_time: 5,
                fb_pkt_count: 9,
                packet_chunks: vec![PacketStatusChunk::StatusVectorChunk(StatusVectorChunk {
                    type_tcc: StatusChunkTypeTcc::StatusVectorChunk,
                    symbol_size: if two_bit { SymbolSizeTypeTcc::TwoBit } else { SymbolSizeTypeTcc::OneBit },
                    symbol_list: symbols.clone(),
                })],
                recv_deltas: deltas.clone(),
            };
            let bytes = rtc_rtcp::packet::marshal(&[Box::new(theirs)]).unwrap();
            let read = statuses(&bytes);
            prop_assert_eq!(read.len(), width);
            let mut time = 5 * 64_000;
            let times: Vec<i64> = deltas.iter().map(|delta| { time += delta.delta; time }).collect();
            prop_assert_eq!(read.iter().filter_map(|(_, arrival)| *arrival).collect::<Vec<_>>(), times);
            let expected = symbols.iter().map(|symbol| *symbol != SymbolTypeTcc::PacketNotReceived);
            prop_assert!(read.iter().map(|(_, arrival)| arrival.is_some()).eq(expected));
        }
    }
}
