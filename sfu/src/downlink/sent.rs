//! What has left to a client under transport-wide numbers, until it tells when that arrived
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).
//!
//! Packets that leave as one run have one send time, and all but the last have the same size: so a run is remembered,
//! not its packets. Feedback is walked along the runs; nothing is allocated for it, and each packet counts once.
//! What follows from it is decided by the estimator.

use std::time::{Duration, Instant};

use crate::demux::Discard;
use crate::estimate::RunReport;
use crate::path::{Path, Via};
use crate::stats::Stats;
use crate::twcc::TransportCc;

/// Runs that are remembered, and packets: about two seconds of 10 Mbit/s.
const RUNS: usize = 256;
const PACKETS: usize = 2_048;

/// How far before the oldest packet that could be known a report may begin. Of more than that nothing can be used, and
/// a report of a few bytes may tell of 65,535 packets.
const REACH: u64 = 2 * PACKETS as u64;

/// Arrivals may be so much before the newest one reported: a late packet is reported together with its neighbours,
/// which libwebrtc keeps for this long.
const BACK_MAX_US: i64 = 500_000;
/// A client's clock that runs ahead of ours by more than this has been set.
const AHEAD_MAX_US: i64 = 10_000_000;
/// A clock that is behind for so long has been set, too.
const CLOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Unit of a report's reference time, which has 24 bits.
const REFERENCE_US: i64 = 64_000;

/// Packets that left as one message.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// Low bits of the number of its first packet.
    first: u16,
    count: u8,
    /// Bytes on the wire of each packet but the last.
    segment: u16,
    /// Bytes on the wire of the last one.
    last: u16,
    /// Low bits of the time at which it left, in µs.
    time: u32,
}

const _: () = assert!(size_of::<Run>() == 12);
const _: () = assert!(size_of::<SentRuns>() <= 3_456, "ring and estimate of a viewer take at most 4 KiB");

impl Run {
    fn bytes_of(&self, index: u64) -> u16 {
        if index + 1 < u64::from(self.count) { self.segment } else { self.last }
    }
}

/// The newest runs that left to a client.
pub(crate) struct SentRuns {
    /// Zero of our clock.
    epoch: Instant,
    runs: [Run; RUNS],
    /// Runs that have left so far: the newest is the one before this, modulo their number.
    pushed: usize,
    /// Extended number of the next packet. The first one is 0.
    next: u64,
    /// Extended number behind the newest run.
    left: u64,
    /// By the low bits of a number: whether it has been reported as received.
    received: [u64; PACKETS / 64],
    /// Extended number behind the highest that a report has told of.
    passed: u64,
    clock: ClientClock,
}

impl SentRuns {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            runs: [Run::default(); RUNS],
            pushed: 0,
            next: 0,
            left: 0,
            received: [0; PACKETS / 64],
            passed: 0,
            clock: ClientClock::default(),
        }
    }

    /// Number of the next packet. It must be told of by [`SentRuns::push`] once its run has left.
    pub(crate) fn number(&mut self) -> u16 {
        let number = self.next;
        self.next += 1;
        self.received[word(number)] &= !bit(number);
        number as u16
    }

    /// The packets that have got numbers since the last call leave as one run of equal segments, the last of which may
    /// be shorter.
    pub(crate) fn push(&mut self, now: Instant, path: &Path, segment: usize, last: usize) {
        let headers = wire_headers(path);
        let bytes = |length: usize| u16::try_from(length + headers).unwrap_or(u16::MAX);
        self.runs[self.pushed % RUNS] = Run {
            first: self.left as u16,
            count: u8::try_from(self.next - self.left).unwrap_or(u8::MAX),
            segment: bytes(segment),
            last: bytes(last),
            time: self.micros(now) as u32,
        };
        self.pushed += 1;
        self.left = self.next;
    }

    pub(crate) fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// Walks a report along the runs that it tells of, and hands what it says of each to `each`, in the order in which
    /// they left. What it says of packets that are not known, or at impossible times, is counted and passed over. The
    /// time since the newest packet left that it tells of; `None` if nothing of it is believed.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        report: &TransportCc<'_>,
        stats: &mut Stats,
        mut each: impl FnMut(&RunReport),
    ) -> Option<Duration> {
        let (base, end) = match self.extent(report) {
            Ok(extent) => extent,
            Err(discard) => {
                stats.count(discard);
                return None;
            }
        };
        let Some(offset_us) = self.clock.offset_us(now, report.reference_time) else {
            stats.count(Discard::FeedbackBackwards);
            return None;
        };
        let oldest = self.oldest();
        let now_us = self.micros(now);
        let mut walk = Walk::new(self, now_us, oldest.max(base));
        let (mut too_old, mut backwards) = (false, false);
        for (number, status) in (base..end).zip(report.statuses()) {
            if number < oldest {
                too_old |= status.arrival_us.is_some();
                continue;
            }
            walk.advance(self, number, &mut each);
            match status.arrival_us.map(|arrival| arrival + offset_us) {
                None if number >= self.passed => walk.report.lost += 1,
                None => {}
                Some(arrival) if self.clock.is_back(arrival) => backwards = true,
                Some(arrival) => {
                    self.clock.advance(arrival);
                    let word = &mut self.received[word(number)];
                    if *word & bit(number) == 0 {
                        *word |= bit(number);
                        walk.arrived(number, arrival);
                    }
                }
            }
        }
        walk.end(&mut each);
        self.passed = self.passed.max(end);
        for (is_so, discard) in [(too_old, Discard::FeedbackTooOld), (backwards, Discard::FeedbackBackwards)] {
            stats.add(discard, u64::from(is_so));
        }
        (end > oldest).then(|| Duration::from_micros(now_us.saturating_sub(walk.report.sent_us)))
    }

    /// Extended numbers of the first packet that a report tells of, and behind the last.
    fn extent(&self, report: &TransportCc<'_>) -> Result<(u64, u64), Discard> {
        let ahead = report.base_sequence.wrapping_sub(self.left as u16).cast_signed();
        let base = self.left.checked_add_signed(ahead.into()).ok_or(Discard::FeedbackUnsent)?;
        let end = base + u64::from(report.status_count);
        match () {
            () if end > self.left => Err(Discard::FeedbackUnsent),
            () if base + REACH < self.left || base == end => Err(Discard::FeedbackTooOld),
            () => Ok((base, end)),
        }
    }

    fn run(&self, index: usize) -> &Run {
        &self.runs[index % RUNS]
    }

    /// Extended number of a run's first packet.
    fn first_of(&self, run: &Run) -> u64 {
        self.left - u64::from((self.left as u16).wrapping_sub(run.first))
    }

    /// Extended number of the oldest packet that is remembered.
    fn oldest(&self) -> u64 {
        let first = self.first_of(self.run(self.pushed - self.pushed.min(RUNS)));
        // Those that have left since some of the bits were their own.
        first.max(self.next.saturating_sub(PACKETS as u64))
    }

    /// Index of the run with this number, which is remembered.
    fn index_of(&self, number: u64) -> usize {
        let (mut from, mut to) = (self.pushed - self.pushed.min(RUNS), self.pushed);
        while to - from > 1 {
            let middle = from.midpoint(to);
            match self.first_of(self.run(middle)) <= number {
                true => from = middle,
                false => to = middle,
            }
        }
        from
    }
}

fn word(number: u64) -> usize {
    (number as usize % PACKETS) / 64
}

fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

/// Bytes of the headers around a datagram.
fn wire_headers(path: &Path) -> usize {
    let ip = if path.remote.is_ipv4() { 20 } else { 40 };
    match path.via {
        Via::Udp(_) => ip + 8,
        // With the length of a frame (RFC 4571).
        Via::Tcp(_) => ip + 20 + 2,
    }
}

/// The client's clock, by the arrivals that it reports.
#[derive(Default)]
struct ClientClock {
    /// Reference time of the last report, unwrapped, in its own unit.
    reference: i64,
    /// The latest arrival so far.
    newest_us: Option<i64>,
    /// When the last report was accepted.
    accepted: Option<Instant>,
}

impl ClientClock {
    /// What makes the arrivals of a report with this reference time go on from those before, across the wrap of its 24
    /// bits. `None`: they lie too far back.
    fn offset_us(&mut self, now: Instant, reference: i32) -> Option<i64> {
        let step = (reference.wrapping_sub(self.reference as i32) << 8) >> 8;
        let mut unwrapped = self.reference + i64::from(step);
        if let (Some(newest), Some(accepted)) = (self.newest_us, self.accepted) {
            let passed = now.saturating_duration_since(accepted);
            let ahead_us = unwrapped * REFERENCE_US - newest;
            let is_back = ahead_us + REFERENCE_US < -BACK_MAX_US;
            let is_ahead = ahead_us - AHEAD_MAX_US > i64::try_from(passed.as_micros()).unwrap_or(i64::MAX);
            match () {
                () if is_ahead || (is_back && passed >= CLOCK_PATIENCE) => {
                    unwrapped = reference.into();
                    self.newest_us = None;
                }
                () if is_back => return None,
                () => {}
            }
        }
        self.reference = unwrapped;
        self.accepted = Some(now);
        Some((unwrapped - i64::from(reference)) * REFERENCE_US)
    }

    fn is_back(&self, arrival_us: i64) -> bool {
        self.newest_us.is_some_and(|newest| arrival_us < newest - BACK_MAX_US)
    }

    fn advance(&mut self, arrival_us: i64) {
        self.newest_us = self.newest_us.max(Some(arrival_us));
    }
}

/// The run that a report is being walked along.
struct Walk {
    now_us: u64,
    index: usize,
    run: Run,
    /// Extended numbers of its first packet, and behind its last.
    first: u64,
    end: u64,
    report: RunReport,
}

impl Walk {
    /// Begins with the run of this number.
    fn new(sent: &SentRuns, now_us: u64, number: u64) -> Self {
        Self::along(sent, now_us, sent.index_of(number))
    }

    fn along(sent: &SentRuns, now_us: u64, index: usize) -> Self {
        let run = *sent.run(index);
        let first = sent.first_of(&run);
        let age_us = (now_us as u32).wrapping_sub(run.time);
        let sent_us = now_us.saturating_sub(age_us.into());
        let report = RunReport { sent_us, first_bytes: run.bytes_of(0), ..RunReport::default() };
        Self { now_us, index, run, first, end: first + u64::from(run.count), report }
    }

    /// Goes on to the run of this number, which is not before those that it has been to.
    fn advance(&mut self, sent: &SentRuns, number: u64, each: &mut impl FnMut(&RunReport)) {
        while number >= self.end {
            self.end(each);
            *self = Self::along(sent, self.now_us, self.index + 1);
        }
    }

    fn arrived(&mut self, number: u64, arrival_us: i64) {
        let index = number - self.first;
        if index == 0 {
            self.report.head_us = Some(arrival_us);
        }
        self.report.tail_us = Some(arrival_us);
        self.report.received += 1;
        self.report.bytes += u32::from(self.run.bytes_of(index));
    }

    fn end(&self, each: &mut impl FnMut(&RunReport)) {
        if self.report.received > 0 || self.report.lost > 0 {
            each(&self.report);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::rtcp::{Feedback, parse};
    use crate::twcc::recorder::TwccRecorder;

    const HEADERS: u32 = 28;

    fn path() -> Path {
        Path { remote: "127.0.0.1:9".parse().expect("an address"), via: Via::Udp(0) }
    }

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    /// A client and what has been sent to it.
    struct World {
        epoch: Instant,
        now: Instant,
        sent: SentRuns,
        recorder: TwccRecorder,
        stats: Stats,
    }

    impl World {
        fn new() -> Self {
            let epoch = Instant::now();
            let sent = SentRuns::new(epoch);
            Self { epoch, now: epoch, sent, recorder: TwccRecorder::new(1), stats: Stats::default() }
        }

        /// The numbers of a run of so many packets of 1,000 bytes, the last of 400.
        fn run(&mut self, count: usize) -> Vec<u16> {
            let numbers = (0..count).map(|_| self.sent.number()).collect();
            self.sent.push(self.now, &path(), 1_000, 400);
            numbers
        }

        /// Packets arrive at these times after the start.
        fn arrive(&mut self, packets: &[(u16, u64)]) {
            packets.iter().for_each(|(number, at)| self.recorder.record(*number, us(*at), 7));
        }

        fn report(&mut self) -> Vec<RunReport> {
            let mut bytes = Vec::new();
            self.recorder.write_feedback(&mut bytes);
            self.accept(&bytes).0
        }

        fn accept(&mut self, bytes: &[u8]) -> (Vec<RunReport>, Option<Duration>) {
            let (mut reports, mut round_trip) = (Vec::new(), None);
            for packet in parse(bytes) {
                let Ok(Feedback::TransportCc(report)) = packet else { panic!("feedback") };
                round_trip = self.sent.accept(self.now, &report, &mut self.stats, |run| reports.push(*run));
            }
            (reports, round_trip)
        }

        fn discards(&self) -> [u64; 3] {
            [Discard::FeedbackUnsent, Discard::FeedbackTooOld, Discard::FeedbackBackwards]
                .map(|reason| self.stats.discards(reason))
        }
    }

    #[test]
    fn a_report_tells_of_each_run_when_it_arrived_and_how_much_of_it() {
        let mut world = World::new();
        world.run(3);
        world.now += us(10_000);
        world.run(1);
        world.run(2);
        world.arrive(&[(0, 20_000), (1, 21_000), (2, 22_000), (3, 30_000), (5, 31_000)]);
        let whole = RunReport {
            sent_us: 0,
            head_us: Some(20_000),
            tail_us: Some(22_000),
            received: 3,
            bytes: 2_400 + 3 * HEADERS,
            first_bytes: 1_028,
            lost: 0,
        };
        let single = RunReport {
            sent_us: 10_000,
            head_us: Some(30_000),
            tail_us: Some(30_000),
            received: 1,
            bytes: 400 + HEADERS,
            first_bytes: 428,
            lost: 0,
        };
        let headless = RunReport { head_us: None, tail_us: Some(31_000), lost: 1, first_bytes: 1_028, ..single };
        assert_eq!(world.report(), [whole, single, headless]);
        assert_eq!(world.discards(), [0; 3]);
    }

    #[test]
    fn a_packet_counts_once_as_lost_and_once_as_received_however_often_it_is_told_of() {
        let mut world = World::new();
        world.run(5);
        world.arrive(&[(0, 20_000), (2, 21_000)]);
        let counts = |reports: &[RunReport]| reports.iter().map(|run| (run.received, run.lost)).collect::<Vec<_>>();
        let mut bytes = Vec::new();
        world.recorder.write_feedback(&mut bytes);
        assert_eq!(counts(&world.accept(&bytes).0), [(2, 1)]);
        assert_eq!(counts(&world.accept(&bytes).0), []);
        world.arrive(&[(1, 22_000), (4, 22_000)]);
        let late = world.report();
        assert_eq!(counts(&late), [(2, 1)], "one has come after all, another is lost");
        assert_eq!((late[0].head_us, late[0].tail_us), (None, Some(22_000)));
    }

    #[test]
    fn the_round_trip_is_that_of_the_newest_packet_told_of() {
        let mut world = World::new();
        world.run(2);
        world.now += us(40_000);
        world.run(2);
        world.now += us(40_000);
        world.run(2);
        world.now += us(50_000);
        world.arrive(&[(0, 1_000), (3, 90_000)]);
        let mut bytes = Vec::new();
        world.recorder.write_feedback(&mut bytes);
        assert_eq!(world.accept(&bytes).1, Some(us(90_000)));
    }

    #[test]
    fn arrivals_go_on_across_the_wrap_of_the_reference_time() {
        let mut world = World::new();
        let wrap_us = (1 << 24) * 64_000;
        let first = wrap_us / 2 - 100_000;
        let mut arrivals = Vec::new();
        for n in 0..10 {
            let number = world.run(1)[0];
            world.arrive(&[(number, first + n * 50_000)]);
            world.now += us(50_000);
            arrivals.extend(world.report().iter().filter_map(|run| run.head_us));
        }
        assert!(arrivals.windows(2).all(|pair| pair[1] - pair[0] == 50_000), "{arrivals:?}");
        assert_eq!((arrivals.len(), world.discards()), (10, [0; 3]));
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once_ahead_and_after_a_time_behind() {
        for (step, waits) in [(3_600_000_000i64, false), (-3_600_000_000, true)] {
            let mut world = World::new();
            let mut clock = 7_200_000_000i64;
            let mut accepted = Vec::new();
            for n in 0..60u64 {
                clock += 100_000 + if n == 10 { step } else { 0 };
                world.now += us(100_000);
                // A recorder forgets what was before its clock was set.
                world.recorder = TwccRecorder::new(1);
                let number = world.run(1)[0];
                world.arrive(&[(number, clock.unsigned_abs())]);
                if !world.report().is_empty() {
                    accepted.push(n);
                }
            }
            let lost = if waits { 10..29 } else { 10..10 };
            assert_eq!(accepted, (0..60).filter(|n| !lost.contains(n)).collect::<Vec<_>>());
            assert_eq!(world.discards(), [0, 0, lost.count() as u64]);
        }
    }

    #[test]
    fn a_fault_amid_a_run_leaves_its_numbers_to_the_next() {
        let mut world = World::new();
        world.run(2);
        (0..3).for_each(|_| _ = world.sent.number());
        world.run(2);
        world.arrive(&[(1, 1_000), (3, 1_000), (6, 1_000)]);
        assert_eq!(world.report().iter().map(|run| (run.received, run.lost)).collect::<Vec<_>>(), [(1, 0), (2, 3)]);
    }

    #[test]
    fn as_many_runs_and_packets_are_remembered_as_there_is_room_for() {
        for (count, remembered) in [(1, RUNS as u64), (7, 7 * RUNS as u64), (8, PACKETS as u64), (60, PACKETS as u64)] {
            let mut world = World::new();
            (0..1_000).for_each(|_| _ = world.run(count));
            assert_eq!(world.sent.left - world.sent.oldest(), remembered, "of {count}");
            for number in world.sent.oldest()..world.sent.left {
                let run = world.sent.run(world.sent.index_of(number));
                let first = world.sent.first_of(run);
                assert!((first..first + count as u64).contains(&number));
            }
        }
    }

    /// What happens: a run leaves, and some of it arrives; time passes; a report arrives, or is lost.
    #[derive(Debug, Clone)]
    enum Step {
        Run(usize, u64),
        Pass(u64),
        Report(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1usize..61, any::<u64>()).prop_map(|(count, mask)| Step::Run(count, mask)),
            2 => (0u64..40_000).prop_map(Step::Pass),
            2 => prop::bool::weighted(0.8).prop_map(Step::Report),
        ];
        vec(step, 1..400)
    }

    proptest! {
        /// Whatever arrives and is reported while it is remembered counts once, with its bytes.
        #[test]
        fn what_is_reported_is_what_arrived(steps in steps()) {
            let mut world = World::new();
            let (mut waiting, mut told, mut received, mut bytes) = (HashSet::new(), 0, 0, 0);
            for step in steps {
                match step {
                    Step::Run(count, mask) => {
                        let at = (world.now - world.epoch).as_micros() as u64;
                        let numbers = world.run(count);
                        for (n, number) in numbers.iter().enumerate().filter(|(n, _)| mask >> n & 1 > 0) {
                            world.arrive(&[(*number, at + 20_000 + 250 * n as u64)]);
                            waiting.insert((*number, if n + 1 == count { 428 } else { 1_028 }));
                        }
                    }
                    Step::Pass(time) => world.now += us(time),
                    Step::Report(arrives) => {
                        let mut feedback = Vec::new();
                        world.recorder.write_feedback(&mut feedback);
                        let oldest = if world.sent.pushed > 0 { world.sent.oldest() as u16 } else { 0 };
                        let kept = world.sent.left as u16;
                        let known = |number: u16| number.wrapping_sub(oldest) < kept.wrapping_sub(oldest);
                        let told_now: Vec<(u16, u32)> = waiting.drain().collect();
                        if arrives {
                            let known = told_now.iter().filter(|(number, _)| known(*number));
                            told += known.clone().count();
                            bytes += known.map(|(_, bytes)| bytes).sum::<u32>();
                            for run in world.accept(&feedback).0 {
                                received += usize::from(run.received);
                                world.stats.bytes_sent += u64::from(run.bytes);
                            }
                        }
                    }
                }
            }
            prop_assert_eq!(world.discards()[0], 0);
            prop_assert_eq!(world.discards()[2], 0);
            prop_assert!(received >= told, "{} of {}", received, told);
            if received == told {
                prop_assert_eq!(world.stats.bytes_sent, u64::from(bytes));
            }
        }

        /// Any reports in any order: no panic, and nothing counts twice.
        #[test]
        fn no_report_makes_more_received_than_was_sent(
            runs in vec(1usize..61, 0..300),
            reports in vec((any::<bool>(), 0u16..3_000, 0u16..3_000, any::<u32>(), vec(any::<u8>(), 0..200)), 1..60),
        ) {
            let mut world = World::new();
            let sent: usize = runs.iter().sum();
            runs.iter().for_each(|count| _ = world.run(*count));
            let (mut received, mut lost) = (0, 0);
            for (near, base, count, time, rest) in reports {
                let base = if near { (world.sent.left as u16).wrapping_sub(base) } else { base.wrapping_mul(21) };
                let fci =
                    [&base.to_be_bytes()[..], &count.to_be_bytes(), &time.to_be_bytes(), &rest].concat();
                let Some(report) = TransportCc::parse(1, 2, &fci) else { continue };
                world.now += us(u64::from(time % 1_000_000));
                world.sent.accept(world.now, &report, &mut world.stats, |run| {
                    received += usize::from(run.received);
                    lost += usize::from(run.lost);
                });
            }
            prop_assert!(received <= sent && lost <= sent);
        }
    }
}
