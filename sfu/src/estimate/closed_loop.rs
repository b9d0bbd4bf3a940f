//! The estimator in a loop with a link and a sender that follows it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Estimator, RunReport};

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;
const DELAY_US: u64 = 25 * MS;
const FRAME_US: u64 = 33_333;
const REPORT_US: u64 = 100 * MS;
const PACKET_BYTES: u32 = 1_200;
/// Offset of the client's clock.
const CLIENT_US: i64 = 987_654_321_000;
/// Rungs of three simulcast layers with their temporal layers, in bits a second.
const RUNGS: [f64; 9] = [60e3, 90e3, 150e3, 200e3, 300e3, 500e3, 680e3, 1_020e3, 1_700e3];
const AUDIO_BPS: f64 = 52e3;

/// What the sender sends.
#[derive(Clone, Copy, PartialEq)]
enum App {
    /// Any rate up to this.
    Elastic(f64),
    /// The best rung that fits into the estimate, with a key frame at each change of the layer.
    Rungs,
    /// This rate, whatever the estimate.
    Steady(f64),
}

/// A link and the application over it.
struct Scenario {
    app: App,
    /// From when the link has which rate.
    rates: Vec<(u64, f64)>,
    queue_us: u64,
    loss: f64,
    jitter_us: u64,
    /// Bytes that pass at once.
    bucket: Option<f64>,
    /// Packets leave one by one, as a publisher paces them.
    pieces: bool,
    policer: bool,
    /// No video meanwhile.
    idle: std::ops::Range<u64>,
    seed: u64,
}

impl Scenario {
    fn new(app: App, bps: f64) -> Self {
        Self {
            app,
            rates: vec![(0, bps)],
            queue_us: 200 * MS,
            loss: 0.0,
            jitter_us: 0,
            bucket: None,
            pieces: false,
            policer: false,
            idle: 0..0,
            seed: 1,
        }
    }

    fn rate(&self, at_us: u64) -> f64 {
        self.rates.iter().rev().find(|(from, _)| *from <= at_us).map_or(1e6, |(_, bps)| *bps)
    }
}

/// One packet under way.
struct Packet {
    run: u64,
    sent_us: u64,
    bytes: u32,
    arrival_us: Option<u64>,
    first: bool,
    first_bytes: u16,
}

/// One value each 10 ms.
#[derive(Default)]
struct Trace {
    estimate: Vec<f64>,
    queue_us: Vec<u64>,
    sent: Vec<f64>,
    lost: Vec<u32>,
    packets: Vec<u32>,
}

impl Trace {
    fn of(values: &[f64], range: std::ops::Range<f64>) -> Vec<f64> {
        let at = |second: f64| ((second * 100.0) as usize).min(values.len());
        let mut part = values[at(range.start)..at(range.end)].to_vec();
        part.sort_by(f64::total_cmp);
        part
    }

    fn estimates(&self, range: std::ops::Range<f64>) -> Vec<f64> {
        Self::of(&self.estimate, range)
    }

    fn median(&self, range: std::ops::Range<f64>) -> f64 {
        let part = self.estimates(range);
        part[part.len() / 2]
    }

    fn least(&self, range: std::ops::Range<f64>) -> f64 {
        self.estimates(range)[0]
    }

    fn most(&self, range: std::ops::Range<f64>) -> f64 {
        *self.estimates(range).last().unwrap()
    }

    fn queue_ms(&self, percent: usize, range: std::ops::Range<f64>) -> f64 {
        let values: Vec<f64> = self.queue_us.iter().map(|&us| us as f64 / 1e3).collect();
        let part = Self::of(&values, range);
        part[(part.len() - 1) * percent / 100]
    }

    fn loss_share(&self, range: std::ops::Range<f64>) -> f64 {
        let part = (range.start * 100.0) as usize..(range.end * 100.0) as usize;
        let lost: u32 = self.lost[part.clone()].iter().sum();
        f64::from(lost) / f64::from(self.packets[part].iter().sum::<u32>().max(1))
    }

    fn print(&self, name: &str) {
        let seconds = self.estimate.len() / 100;
        println!("{name}");
        for second in 0..seconds {
            let span = second as f64..second as f64 + 1.0;
            println!(
                "  {second:3} s: E {:4.0}..{:4.0} kbit/s, sent {:4.0}, queue p50 {:3.0} p95 {:3.0} ms, lost {:4.1} %",
                self.least(span.clone()) / 1e3,
                self.most(span.clone()) / 1e3,
                self.sent[second * 100..second * 100 + 100].iter().sum::<f64>() / 1e3,
                self.queue_ms(50, span.clone()),
                self.queue_ms(95, span.clone()),
                100.0 * self.loss_share(span),
            );
        }
    }
}

struct Loop {
    scenario: Scenario,
    epoch: Instant,
    estimator: Estimator,
    flight: VecDeque<Packet>,
    /// Reports on their way back: when they come, and what they say.
    reports: VecDeque<(u64, Vec<RunReport>, Duration)>,
    free_us: u64,
    tokens: f64,
    tokens_us: u64,
    last_arrival_us: u64,
    runs: u64,
    rung: usize,
    key_frame: bool,
    random: u64,
    trace: Trace,
}

impl Loop {
    fn run(scenario: Scenario, seconds: u64) -> Trace {
        let epoch = Instant::now();
        let mut this = Self {
            random: scenario.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            tokens: scenario.bucket.unwrap_or(0.0),
            scenario,
            epoch,
            estimator: Estimator::new(epoch),
            flight: VecDeque::new(),
            reports: VecDeque::new(),
            free_us: 0,
            tokens_us: 0,
            last_arrival_us: 0,
            runs: 0,
            rung: 5,
            key_frame: true,
            trace: Trace::default(),
        };
        let mut next_frame = 0;
        let mut pieces = VecDeque::new();
        for now in (0..seconds * SECOND).step_by(MS as usize) {
            if now >= next_frame {
                next_frame += FRAME_US;
                this.frame(now, &mut pieces);
            }
            if now % (20 * MS) == 0 {
                this.send(now, &[130]);
                this.estimator.on_tick(this.at(now));
            }
            if this.scenario.pieces && now % (2 * MS) == 0 {
                if let Some(bytes) = pieces.pop_front() {
                    this.send(now, &[bytes]);
                }
            } else if !pieces.is_empty() && !this.scenario.pieces {
                let burst: Vec<u32> = pieces.drain(..).collect();
                this.send(now, &burst);
            }
            if now % REPORT_US == 0 {
                this.report(now);
            }
            while this.reports.front().is_some_and(|(at, ..)| *at <= now) {
                let (_, runs, rtt) = this.reports.pop_front().unwrap();
                this.feed(now, &runs, rtt);
            }
            if now % (10 * MS) == 0 {
                this.note(now);
            }
        }
        this.trace
    }

    fn at(&self, us: u64) -> Instant {
        self.epoch + Duration::from_micros(us)
    }

    fn unit(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    fn frame(&mut self, now: u64, pieces: &mut VecDeque<u32>) {
        if self.scenario.idle.contains(&now) {
            return;
        }
        let estimate = self.estimator.bps() as f64;
        let bps = match self.scenario.app {
            App::Elastic(most) => (estimate.min(most) - AUDIO_BPS).max(20e3),
            App::Steady(bps) => bps,
            App::Rungs => self.choose(estimate),
        };
        let factor = if std::mem::take(&mut self.key_frame) { 6.5 } else { 0.7 + 0.6 * self.unit() };
        let mut bytes = (bps * FRAME_US as f64 / 8e6 * factor) as u32;
        while bytes > 0 {
            let part = bytes.min(PACKET_BYTES);
            pieces.push_back(part);
            bytes -= part;
        }
    }

    fn choose(&mut self, estimate: f64) -> f64 {
        let budget = estimate - AUDIO_BPS;
        let fits = |rung: usize, margin: f64| RUNGS[rung] * margin <= budget;
        let before = self.rung;
        while self.rung > 0 && !fits(self.rung, 0.95) {
            self.rung -= 1;
        }
        if self.rung == before {
            self.rung = (before..RUNGS.len()).rev().find(|&rung| fits(rung, 1.1)).unwrap_or(before);
        }
        self.key_frame |= self.rung / 3 != before / 3;
        let next = RUNGS.get(self.rung + 1).map(|bps| (bps + AUDIO_BPS) as u64);
        self.estimator.set_demand((RUNGS[RUNGS.len() - 1] + AUDIO_BPS) as u64, next);
        RUNGS[self.rung]
    }

    fn send(&mut self, now: u64, sizes: &[u32]) {
        self.runs += 1;
        for (at, &bytes) in sizes.iter().enumerate() {
            let arrival_us = self.link(now, bytes);
            let (run, first_bytes) = (self.runs, sizes[0] as u16);
            self.flight.push_back(Packet { run, sent_us: now, bytes, arrival_us, first: at == 0, first_bytes });
            if let Some(lost) = self.trace.lost.last_mut() {
                *lost += u32::from(arrival_us.is_none());
                *self.trace.packets.last_mut().unwrap() += 1;
                *self.trace.sent.last_mut().unwrap() += f64::from(bytes) * 8.0;
            }
        }
        self.estimator.on_sent(self.at(now), sizes.iter().sum());
    }

    /// When a packet arrives, unless it is lost.
    fn link(&mut self, now: u64, bytes: u32) -> Option<u64> {
        let rate = self.scenario.rate(now);
        let lost = self.unit() < self.scenario.loss;
        let jitter = (self.unit() * self.scenario.jitter_us as f64) as u64;
        let bits = f64::from(bytes) * 8.0;
        if let Some(size) = self.scenario.bucket {
            let filled = (now.max(self.free_us) - self.tokens_us) as f64 * rate / 8e6;
            self.tokens = (self.tokens + filled).min(size);
            self.tokens_us = now.max(self.free_us);
        }
        let needs = (bits - 8.0 * self.tokens).max(0.0);
        if self.scenario.policer && needs > 0.0 {
            return None;
        }
        let start = self.free_us.max(now);
        if start - now > self.scenario.queue_us {
            return None;
        }
        self.tokens = if self.scenario.bucket.is_some() { self.tokens - (bits - needs) / 8.0 } else { 0.0 };
        self.free_us = start + (needs * 1e6 / rate) as u64;
        let arrival = (self.free_us + DELAY_US + jitter).max(self.last_arrival_us);
        self.last_arrival_us = arrival;
        (!lost).then_some(arrival)
    }

    /// What the client reports now.
    fn report(&mut self, now: u64) {
        let Some(last) = self.flight.iter().rposition(|packet| packet.arrival_us.is_some_and(|at| at <= now)) else {
            return;
        };
        let mut runs: Vec<RunReport> = Vec::new();
        let mut names = Vec::new();
        let mut rtt = Duration::ZERO;
        for packet in self.flight.drain(..=last) {
            if names.last() != Some(&packet.run) {
                names.push(packet.run);
                let (sent_us, first_bytes) = (packet.sent_us, packet.first_bytes);
                runs.push(RunReport { sent_us, first_bytes, ..RunReport::default() });
            }
            let run = runs.last_mut().unwrap();
            let Some(arrival) = packet.arrival_us else {
                run.lost += 1;
                continue;
            };
            // In steps of 250 µs, as on the wire.
            let on_client = (arrival / 250 * 250) as i64 + CLIENT_US;
            run.head_us = if packet.first { Some(on_client) } else { run.head_us };
            run.tail_us = Some(on_client);
            run.received += 1;
            run.bytes += packet.bytes;
            rtt = Duration::from_micros(arrival - packet.sent_us + DELAY_US);
        }
        self.reports.push_back((now + DELAY_US, runs, rtt));
    }

    fn feed(&mut self, now: u64, runs: &[RunReport], rtt: Duration) {
        let at = self.at(now);
        self.estimator.begin_report(at);
        for run in runs {
            self.estimator.on_run(run);
        }
        self.estimator.end_report(at, rtt);
    }

    fn note(&mut self, now: u64) {
        self.trace.estimate.push(self.estimator.bps() as f64);
        self.trace.queue_us.push(self.free_us.saturating_sub(now));
        self.trace.sent.push(0.0);
        self.trace.lost.push(0);
        self.trace.packets.push(0);
    }
}

#[test]
fn a_narrow_link_is_found_and_its_queue_stays_short() {
    for (pieces, seed) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        let trace = Loop::run(Scenario { pieces, seed, ..Scenario::new(App::Elastic(2.3e6), 1e6) }, 30);
        trace.print("1 Mbit/s");
        assert!(trace.median(2.0..30.0) > 0.8e6);
        assert!(trace.least(2.0..30.0) > 0.75e6 && trace.most(2.0..30.0) < 1.05e6);
        assert!(trace.queue_ms(95, 1.0..30.0) < 80.0, "{}", trace.queue_ms(95, 1.0..30.0));
    }
}

#[test]
fn a_step_down_is_followed_within_a_second_and_a_half() {
    for (pieces, seed) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        let rates = vec![(0, 3e6), (10 * SECOND, 0.5e6)];
        let trace = Loop::run(Scenario { pieces, seed, rates, ..Scenario::new(App::Elastic(2.3e6), 3e6) }, 25);
        trace.print("3 to 0.5 Mbit/s");
        assert!(trace.least(5.0..10.0) > 2e6);
        assert!(trace.most(11.5..25.0) <= 0.55e6 && trace.median(11.5..25.0) > 0.35e6);
    }
}

#[test]
fn random_loss_does_not_lower_it_for_long() {
    for (loss, share, seed) in [(0.05, 0.8, 1), (0.05, 0.8, 2), (0.15, 0.6, 1), (0.15, 0.6, 2)] {
        let trace = Loop::run(Scenario { loss, seed, ..Scenario::new(App::Elastic(2.3e6), 2e6) }, 60);
        trace.print("2 Mbit/s with loss");
        assert!(trace.median(5.0..60.0) > share * 2e6);
    }
}

#[test]
fn a_policer_is_obeyed() {
    for seed in [1, 2] {
        let policer = Scenario { policer: true, bucket: Some(32e3), seed, ..Scenario::new(App::Elastic(2.3e6), 1e6) };
        let trace = Loop::run(policer, 40);
        trace.print("policer of 1 Mbit/s");
        assert!(trace.loss_share(5.0..40.0) < 0.03);
        assert!(trace.median(5.0..40.0) > 0.75e6);
    }
}

#[test]
fn a_token_bucket_is_found_out() {
    for seed in [1, 2] {
        let trace = Loop::run(Scenario { bucket: Some(64e3), seed, ..Scenario::new(App::Elastic(2.3e6), 1e6) }, 40);
        trace.print("token bucket of 1 Mbit/s");
        assert!(trace.queue_ms(95, 3.0..40.0) < 100.0);
        assert!(trace.median(5.0..40.0) > 0.75e6);
    }
}

#[test]
fn an_idle_application_does_not_lower_it() {
    let idle = 10 * SECOND..40 * SECOND;
    let trace = Loop::run(Scenario { idle, ..Scenario::new(App::Elastic(2.3e6), 3e6) }, 50);
    trace.print("idle from 10 to 40 s");
    assert!(trace.least(10.0..50.0) >= 0.9 * trace.median(9.0..10.0));
}

#[test]
fn the_highest_rung_on_a_fast_link_never_lowers_it() {
    for (pieces, jitter_us) in [(false, 0), (true, 0), (false, 10 * MS), (true, 10 * MS)] {
        let fast = Scenario { pieces, jitter_us, ..Scenario::new(App::Steady(1.7e6), 10e6) };
        let trace = Loop::run(fast, 60);
        trace.print("10 Mbit/s");
        assert!(trace.estimate.windows(2).all(|pair| pair[1] >= pair[0]));
    }
}

#[test]
fn strong_jitter_leaves_more_than_is_sent() {
    for (pieces, seed) in [(false, 1), (true, 1), (true, 2)] {
        let jittery = Scenario { pieces, seed, jitter_us: 20 * MS, ..Scenario::new(App::Steady(1.7e6), 10e6) };
        let trace = Loop::run(jittery, 60);
        trace.print("10 Mbit/s with jitter");
        assert!(trace.least(1.0..60.0) > 1.9e6);
    }
}

#[test]
fn rungs_settle_on_a_narrow_link() {
    for (pieces, seed) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        let trace = Loop::run(Scenario { pieces, seed, ..Scenario::new(App::Rungs, 1e6) }, 40);
        trace.print("rungs on 1 Mbit/s");
        assert!(trace.queue_ms(95, 2.0..40.0) <= 80.0);
    }
}
