//! Send-side estimate of the bandwidth to one client.
//!
//! In: what was sent, and what the client's feedback says of it (transport-wide congestion control, or REMB, or nothing
//! but receiver reports). Out: the bits a second that its way carries. Pure arithmetic in fixed memory: no clock, no
//! socket. Which numbers belong to which run is known to the caller; what is done with the estimate, to allocation.
//!
//! A queue that does not drain between frames, or grows, is over-use (`queue`); the rate then falls to a share of what
//! arrives (`rate`, `meter`, `train`) and grows while there is none. Loss without a queue is explained (`loss`).

mod loss;
mod meter;
mod probe;
mod queue;
mod rate;
mod train;

use std::time::{Duration, Instant};

use loss::{Demand, Loss, Present};
use meter::Meter;
pub use probe::Probe;
use probe::{Kind, Prober, Report as ProbeReport};
use queue::{Head, Queue};
use rate::{BPS_MAX, Growth, Overuse, Rate};
use train::{Arrived, Trains};

/// Of a client of which nothing is known.
const BPS_START: f64 = 1_200_000.0;
/// How long the estimate may double with each report, and with which queue and loss at most.
const START_US: u64 = 1_000_000;
const START_QUEUE_US: i64 = 15_000;
const START_LOSS: f64 = 0.02;
/// Without a train, as a multiple of what arrives.
const START_ACKED: f64 = 4.0;
/// Share of the rate of trains that is used.
const BELOW_TRAINS: f64 = 0.95;
/// A longer queue forbids growth.
const GROWTH_QUEUE_US: i64 = 30_000;
/// Growth beyond what arrives: a factor, and bits a second.
const BEYOND_ACKED: f64 = 1.5;
const BEYOND_ACKED_BPS: f64 = 10_000.0;
/// Who sends less than this share of the estimate does not test it.
const USED_SHARE: f64 = 0.8;
const IDLE_SHARE: f64 = 0.65;
/// A queue of this length, with trains so much slower than the estimate, need not be seen twice.
const COLLAPSE_QUEUE_US: i64 = 100_000;
const COLLAPSE: f64 = 0.5;
/// Trains this much faster than the estimate let it grow fast.
const FAST_TRAINS: f64 = 1.5;
/// The estimate needs to be no higher than this multiple of what is wanted.
const BEYOND_DEMAND: f64 = 1.5;
/// Packets that nothing was heard of for so long mean that the way is broken; then each half of it halves the rate.
const SILENCE_US: u64 = 1_000_000;
const SILENCE_STEP_US: u64 = 500_000;
const AFTER_SILENCE: f64 = 0.7;
const AFTER_SILENCE_QUEUE_US: i64 = 60_000;
/// A round trip that a client makes us believe.
const RTT_MIN_US: u64 = 1_000;
const RTT_MAX_US: u64 = 3_000_000;
/// Transport-wide feedback this old does not speak for the client any more.
const TRANSPORT_WIDE_US: u64 = 5_000_000;
/// Without feedback that tells of queues.
const BLIND_BPS_MAX: f64 = 2_500_000.0;
const BLIND_PAUSE_US: u64 = 500_000;
const BLIND_GROWTH: f64 = 1.05;
/// A trend is not continued across a gap of this length, or of two round trips.
const GAP_US: u64 = 500_000;

/// What one report says of one run: packets that left at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunReport {
    /// When it left, in µs since any instant that stays the same.
    pub sent_us: u64,
    /// Arrival of its first packet on the client's clock in µs, unwrapped. None if that was lost or reported before.
    pub head_us: Option<i64>,
    /// Arrival of the last of its packets that this report is the first to tell of. None if none arrived.
    pub tail_us: Option<i64>,
    /// Packets that this report is the first to tell of as received.
    pub received: u16,
    /// Their bytes on the wire, headers of IP and UDP included.
    pub bytes: u32,
    /// Bytes of the run's first packet on the wire.
    pub first_bytes: u16,
    /// Packets that this report, the first to pass them, tells of as lost.
    pub lost: u16,
}

/// What the current report said so far.
#[derive(Debug, Default)]
struct Report {
    received: u32,
    lost: u32,
}

/// The rate of a client that is not heard of.
#[derive(Debug, Clone, Copy)]
struct Silence {
    before: f64,
    next_us: u64,
}

/// The bandwidth to one client.
#[derive(Debug)]
pub struct Estimator {
    epoch: Instant,
    rate: Rate,
    queue: Queue,
    trains: Trains,
    acked: Meter,
    sent: Meter,
    loss: Loss,
    prober: Prober,
    report: Report,
    rtt_us: Option<u64>,
    /// The last report that told of an arrival.
    reported_us: Option<u64>,
    /// When the first packet left that no report has come after.
    unheard_us: Option<u64>,
    silence: Option<Silence>,
    /// Until when the estimate may double.
    start_until_us: Option<u64>,
    /// Queue at the last cut; how many cuts in a row have not shortened it.
    cut_queue_us: i64,
    cuts_in_vain: u8,
    demand_bps: u64,
    next_rung_bps: Option<u64>,
    /// The last change made by a client without transport-wide feedback.
    blind_us: Option<u64>,
    remb_low: u8,
}

impl Estimator {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            rate: Rate::new(BPS_START),
            queue: Queue::new(),
            trains: Trains::default(),
            acked: Meter::default(),
            sent: Meter::default(),
            loss: Loss::new(),
            prober: Prober::default(),
            report: Report::default(),
            rtt_us: None,
            reported_us: None,
            unheard_us: None,
            silence: None,
            start_until_us: None,
            cut_queue_us: 0,
            cuts_in_vain: 0,
            demand_bps: 0,
            next_rung_bps: None,
            blind_us: None,
            remb_low: 0,
        }
    }

    /// The estimate: bits a second on the wire.
    pub fn bps(&self) -> u64 {
        self.rate.bps() as u64
    }

    /// How long a packet waits behind others.
    pub fn queue(&self) -> Duration {
        Duration::from_micros(self.queue.waiting_us().unsigned_abs())
    }

    /// Of the packets of the last second, how many were lost, by transport-wide feedback.
    pub fn loss_share(&self) -> f32 {
        self.loss.share() as f32
    }

    /// The last round trip that was told.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt_us.map(Duration::from_micros)
    }

    /// Everything that leaves to this client, with its headers of IP and UDP.
    pub fn on_sent(&mut self, now: Instant, bytes: u32) {
        let now_us = self.us(now);
        self.sent.add(now_us as i64, bytes);
        self.prober.on_sent(bytes as usize);
        self.unheard_us.get_or_insert(now_us);
    }

    /// A report begins; [`on_run`](Self::on_run) for each run of it follows, then [`end_report`](Self::end_report).
    pub fn begin_report(&mut self, _now: Instant) {
        self.report = Report::default();
    }

    /// What the report says of one run, in the order of sending.
    pub fn on_run(&mut self, run: &RunReport) {
        self.report.received += u32::from(run.received);
        self.report.lost += u32::from(run.lost);
        self.prober.observe(run);
        let gap_us = GAP_US.max(2 * self.rtt_us.unwrap_or(0));
        let head = run.head_us.map_or(Head::Ignored, |head| self.queue.on_head(run.sent_us, head, gap_us));
        let waited_us = match head {
            Head::Waited(waited) => waited,
            Head::Ignored => 0,
            Head::Reset => {
                (self.trains, self.acked) = Default::default();
                0
            }
        };
        let Some(tail_us) = run.tail_us.filter(|_| run.received > 0) else { return };
        self.acked.add(tail_us, run.bytes);
        let RunReport { sent_us, head_us, received: packets, bytes, first_bytes, .. } = *run;
        self.trains.on_run(&Arrived { sent_us, head_us, tail_us, packets, bytes, first_bytes, waited_us });
    }

    /// The report is complete: the estimate follows it. An `rtt` of zero is unknown.
    pub fn end_report(&mut self, now: Instant, rtt: Duration) {
        let now_us = self.us(now);
        if !rtt.is_zero() {
            self.rtt_us = Some((rtt.as_micros() as u64).clamp(RTT_MIN_US, RTT_MAX_US));
        }
        let report = std::mem::take(&mut self.report);
        self.loss.count(report.received, report.lost);
        if report.received == 0 {
            return;
        }
        let elapsed_us = self.reported_us.map_or(0, |before| now_us.saturating_sub(before));
        self.reported_us = Some(now_us);
        self.unheard_us = None;
        self.end_silence();
        let is_overused = self.queue.take_overused() || self.has_collapsed();
        if let Some(ProbeReport { bps, is_full }) = self.prober.result(now, is_overused) {
            if is_full {
                self.rate.note_capacity(now_us, bps);
            }
            self.rate.set(bps.max(self.rate.bps()));
        }
        if is_overused {
            self.prober.on_decrease(now);
            self.decrease(now_us);
            return;
        }
        match self.follow_loss(now_us) {
            Demand::None if self.is_starting(now_us) => self.start(now_us),
            Demand::None => self.increase(now_us, elapsed_us),
            Demand::Hold | Demand::Cut(_) | Demand::Policed(_) | Demand::Restore(_) => {}
        }
    }

    /// The receiver's own estimate, of a client without transport-wide feedback.
    pub fn on_remb(&mut self, now: Instant, bps: u64) {
        let now_us = self.us(now);
        if self.has_transport_wide(now_us) {
            return;
        }
        self.unheard_us = None;
        self.blind_us = Some(now_us);
        let bps = bps as f64;
        let low = bps <= 0.95 * self.sent.bps_at(now_us as i64);
        self.remb_low = if low { self.remb_low.saturating_add(1) } else { 0 };
        if self.remb_low >= 2 || bps >= self.rate.bps() {
            self.rate.set(bps);
        } else {
            self.rate.set(bps.max(0.95 * self.rate.bps()));
        }
    }

    /// The share lost in 1/256, of a client that tells nothing more.
    pub fn on_receiver_report(&mut self, now: Instant, fraction_lost: u8) {
        let now_us = self.us(now);
        let acted = self.blind_us.is_some_and(|at| now_us.saturating_sub(at) < BLIND_PAUSE_US);
        if acted || self.has_transport_wide(now_us) {
            return;
        }
        self.unheard_us = None;
        self.blind_us = Some(now_us);
        let lost = f64::from(fraction_lost) / 256.0;
        let bps = self.rate.bps();
        if lost > 0.1 {
            self.rate.set(bps * (1.0 - 0.5 * lost));
        } else if lost < 0.02 {
            self.rate.set((bps * BLIND_GROWTH).min(BLIND_BPS_MAX).max(bps));
        }
    }

    /// Each 20 ms or so: what follows from hearing nothing.
    pub fn on_tick(&mut self, now: Instant) {
        let now_us = self.us(now);
        let Some(unheard_us) = self.unheard_us.filter(|_| self.reported_us.is_some()) else { return };
        if now_us.saturating_sub(unheard_us) < SILENCE_US {
            return;
        }
        let bps = self.rate.bps();
        let silence = self.silence.get_or_insert(Silence { before: bps, next_us: now_us });
        if now_us >= silence.next_us {
            silence.next_us = now_us.saturating_add(SILENCE_STEP_US);
            self.rate.set(bps / 2.0);
        }
    }

    /// The sum of what is wanted, and the cost of the next better allocation.
    pub fn set_demand(&mut self, demand_bps: u64, next_rung_bps: Option<u64>) {
        self.demand_bps = demand_bps;
        self.next_rung_bps = next_rung_bps;
    }

    /// The client has another address: what was learnt of the way is of another one.
    pub fn on_path_change(&mut self, _now: Instant) {
        self.queue = Queue::new();
        self.trains = Trains::default();
        self.acked = Meter::default();
        self.loss = Loss::new();
        self.start_until_us = None;
        self.silence = None;
        self.rate.forget();
        self.rate.set(self.rate.bps() / 2.0);
    }

    /// A probe that goes on or may begin now, at `now_us` on the clock of the reports.
    pub fn probe(&mut self, now: Instant, now_us: u64) -> Option<Probe> {
        let kind = self.next_probe();
        self.prober.next((now, now_us), kind)
    }

    fn next_probe(&self) -> Option<Kind> {
        let next = self.next_rung_bps? as f64;
        let bps = self.rate.bps();
        let is_quiet = self.queue.waiting_us() < START_QUEUE_US
            && self.silence.is_none()
            && self.reported_us.is_some()
            && !self.loss.is_holding();
        let wanted = (next * 1.2).max(2.0 * bps).min(self.demand_bps as f64 * 1.2).min(3.0 * bps);
        if !is_quiet || wanted <= bps * 1.05 {
            return None;
        }
        match self.trains.recent(self.queue.last_sent_us()) {
            // A way carries no more than its bursts.
            Some(train) if train.min(wanted) > bps * 1.1 => Some(Kind::Confirm(train.min(wanted))),
            Some(_) => None,
            // They passed as fast as they were sent.
            None if self.trains.are_known(self.queue.last_sent_us()) => Some(Kind::Confirm(wanted)),
            None => Some(Kind::Scout),
        }
    }

    fn us(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_micros() as u64
    }

    fn has_transport_wide(&self, now_us: u64) -> bool {
        self.reported_us.is_some_and(|at| now_us.saturating_sub(at) < TRANSPORT_WIDE_US)
    }

    fn end_silence(&mut self) {
        let Some(silence) = self.silence.take() else { return };
        if self.queue.waiting_us() < AFTER_SILENCE_QUEUE_US {
            self.rate.set((AFTER_SILENCE * silence.before).max(self.rate.bps()));
        }
    }

    fn decrease(&mut self, now_us: u64) {
        let sent_us = self.queue.last_sent_us();
        let waiting_us = self.queue.waiting_us();
        let sent = self.sent.bps_at(now_us as i64);
        let in_vain =
            waiting_us >= self.cut_queue_us && self.rate.since_cut_us(now_us).is_some_and(|ago| ago < 2_000_000);
        self.cuts_in_vain = if in_vain { self.cuts_in_vain.saturating_add(1) } else { 0 };
        self.cut_queue_us = waiting_us;
        self.rate.decrease(&Overuse {
            now_us,
            acked: self.acked.bps(),
            bottleneck: self.trains.bottleneck(sent_us),
            app_limited: sent < IDLE_SHARE * self.rate.bps(),
        });
        if self.cuts_in_vain >= 2 {
            self.queue.accept_foreign();
            self.cuts_in_vain = 0;
        }
        self.queue.fence(sent_us.saturating_add(self.rtt_us.unwrap_or(RTT_MIN_US)));
        self.loss.forget();
        self.start_until_us = Some(now_us);
    }

    fn follow_loss(&mut self, now_us: u64) -> Demand {
        if !self.acked.is_full() {
            return Demand::None;
        }
        let demand = self.loss.update(&Present {
            now_us,
            rtt_us: self.rtt_us.unwrap_or(RTT_MIN_US),
            estimate: self.rate.bps(),
            acked: self.acked.bps(),
            waiting_us: self.queue.waiting_us(),
        });
        match demand {
            Demand::Cut(bps) => self.rate.cut(now_us, bps),
            Demand::Policed(bps) => {
                self.rate.note_capacity(now_us, bps);
                self.rate.cut(now_us, bps);
            }
            Demand::Restore(bps) => self.rate.set(bps.max(self.rate.bps())),
            Demand::None | Demand::Hold => {}
        }
        demand
    }

    /// The first second since a burst arrived that says something of the link: audio alone teaches nothing.
    fn is_starting(&mut self, now_us: u64) -> bool {
        if self.start_until_us.is_none() && self.trains.median(self.queue.last_sent_us()).is_some() {
            self.start_until_us = Some(now_us.saturating_add(START_US));
        }
        self.start_until_us.is_some_and(|until| now_us < until)
    }

    fn start(&mut self, now_us: u64) {
        let sent_us = self.queue.last_sent_us();
        let bps = self.rate.bps();
        let sent = self.sent.bps_at(now_us as i64);
        let trains = self.trains.median(sent_us).map(|rate| BELOW_TRAINS * rate);
        // Jitter stretches a train now and then, but not most of them.
        let slower = trains.filter(|&rate| rate < bps && rate < 1.5 * sent && self.trains.is_slower(sent_us));
        if let Some(slower) = slower {
            self.rate.set(slower);
        } else if self.queue.waiting_us() < START_QUEUE_US && self.loss.share() < START_LOSS {
            let ceiling = trains.unwrap_or(START_ACKED * self.acked.bps());
            self.rate.set((2.0 * bps).min(ceiling).min(self.demand_ceiling()).max(bps));
        }
    }

    fn increase(&mut self, now_us: u64, elapsed_us: u64) {
        if self.queue.waiting_us() > GROWTH_QUEUE_US || !self.acked.is_full() {
            return;
        }
        let bps = self.rate.bps();
        let used = self.sent.bps_at(now_us as i64) > USED_SHARE * bps;
        let trains = self.trains.median(self.queue.last_sent_us());
        // A way carries no more than its bursts.
        let bursts = self.trains.recent(self.queue.last_sent_us()).unwrap_or(BPS_MAX);
        self.rate.increase(&Growth {
            now_us,
            elapsed_us,
            rtt_us: self.rtt_us.unwrap_or(RTT_MIN_US),
            ceiling: (BEYOND_ACKED * self.acked.bps() + BEYOND_ACKED_BPS).min(self.demand_ceiling()).min(bursts),
            pace: if used { 1.0 } else { 0.5 },
            fast: trains.is_some_and(|trains| trains > FAST_TRAINS * bps),
        });
    }

    /// Whether the way has become so narrow that the first long queue says enough.
    fn has_collapsed(&self) -> bool {
        let bottleneck = self.trains.bottleneck(self.queue.last_sent_us());
        self.queue.waiting_us() > COLLAPSE_QUEUE_US && bottleneck.is_some_and(|rate| rate < COLLAPSE * self.rate.bps())
    }

    fn demand_ceiling(&self) -> f64 {
        if self.demand_bps == 0 { BPS_MAX } else { (BEYOND_DEMAND * self.demand_bps as f64).min(BPS_MAX) }
    }
}

#[cfg(test)]
mod closed_loop;
#[cfg(test)]
mod hostile;
