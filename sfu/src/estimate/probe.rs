//! Probes: for a moment more is sent than the streams have, to see whether the way carries it.

use std::time::{Duration, Instant};

use super::RunReport;

const LENGTH: Duration = Duration::from_millis(250);
/// How long the report of a probe may take beyond its end.
const PATIENCE: Duration = Duration::from_millis(700);
/// After a success, the next may follow so soon; after a failure it waits twice as long each time.
const PAUSE_SUCCESS: Duration = Duration::from_millis(300);
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(16);
/// After a decrease.
const PAUSE_DECREASE: Duration = Duration::from_secs(2);
/// Between two bursts that scout.
const PAUSE_SCOUT: Duration = Duration::from_secs(1);
/// Six packets of 1,200 bytes: a run of five or more has a rate.
const SCOUT_BYTES: usize = 6_900;
/// What must have been received of a probe.
const RECEIVED_SHARE: f64 = 0.8;
/// A rate received that is so far below that sent says that the way was full.
const FULL_SHARE: f64 = 0.9;

/// What is to be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Bytes that should have left by now, beside what has.
    pub bytes: usize,
}

/// A probe that may begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// A single burst, whose rate of arrival says what the way carries at most.
    Scout,
    /// So many bits a second, for a while.
    Confirm(f64),
}

/// What a probe has found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Report {
    pub(super) bps: f64,
    /// Whether the way was full.
    pub(super) is_full: bool,
}

/// A probe that is being sent, or whose report is awaited.
#[derive(Debug, Clone, Copy)]
struct Running {
    since: Instant,
    bps: f64,
    sent_bytes: u64,
    /// By the reports, on our clock: when its first and last runs left.
    sent_us: Option<(u64, u64)>,
    /// When they arrived.
    arrived_us: Option<(i64, i64)>,
    received_bytes: u64,
    first_bytes: u64,
    last_bytes: u64,
    reported: u32,
    lost: u32,
}

/// When probes are sent, and what they find.
#[derive(Debug, Clone, Default)]
pub(super) struct Prober {
    running: Option<Running>,
    /// When the newest run left that has been reported, and when the probe began, on the clock of the reports.
    newest_us: u64,
    begins_us: Option<u64>,
    next_at: Option<Instant>,
    pause: Duration,
}

impl Prober {
    /// Bytes left for the client.
    pub(super) fn on_sent(&mut self, bytes: usize) {
        if let Some(running) = &mut self.running {
            running.sent_bytes += bytes as u64;
        }
    }

    /// What is to be sent now, at `now_us` on the clock of the reports. A new probe begins if there may be one.
    pub(super) fn next(&mut self, (now, now_us): (Instant, u64), kind: Option<Kind>) -> Option<Probe> {
        if let Some(running) = &self.running {
            let passed = now.saturating_duration_since(running.since);
            if passed > LENGTH {
                return None;
            }
            let due = (running.bps * passed.as_secs_f64() / 8.0) as u64;
            return Some(Probe { bytes: due.saturating_sub(running.sent_bytes) as usize });
        }
        let kind = kind.filter(|_| self.next_at.is_none_or(|at| now >= at))?;
        let target = match kind {
            Kind::Confirm(bps) => bps,
            Kind::Scout => {
                self.next_at = Some(now + PAUSE_SCOUT);
                return Some(Probe { bytes: SCOUT_BYTES });
            }
        };
        self.begins_us = Some(now_us);
        self.running = Some(Running {
            since: now,
            bps: target,
            sent_bytes: 0,
            sent_us: None,
            arrived_us: None,
            received_bytes: 0,
            first_bytes: 0,
            last_bytes: 0,
            reported: 0,
            lost: 0,
        });
        Some(Probe { bytes: 0 })
    }

    pub(super) fn observe(&mut self, run: &RunReport) {
        self.newest_us = self.newest_us.max(run.sent_us);
        let (Some(running), Some(begins)) = (&mut self.running, self.begins_us) else { return };
        if run.sent_us < begins || run.sent_us > begins + LENGTH.as_micros() as u64 {
            return;
        }
        running.reported += u32::from(run.received) + u32::from(run.lost);
        running.lost += u32::from(run.lost);
        running.received_bytes += u64::from(run.bytes);
        let (first, _) = *running.sent_us.get_or_insert((run.sent_us, run.sent_us));
        running.sent_us = Some((first, run.sent_us));
        if let Some(tail) = run.tail_us {
            if running.arrived_us.is_none() {
                running.first_bytes = run.bytes.into();
            }
            let (first, last) = *running.arrived_us.get_or_insert((tail, tail));
            running.arrived_us = Some((first.min(tail), last.max(tail)));
            running.last_bytes = run.bytes.into();
        }
    }

    /// What the probe has found, once all of it has been reported.
    pub(super) fn result(&mut self, now: Instant, is_overused: bool) -> Option<Report> {
        let running = self.running?;
        let passed = now.saturating_duration_since(running.since);
        let end_us = self.begins_us.map(|begins| begins + LENGTH.as_micros() as u64);
        let is_reported = end_us.is_some_and(|end| self.newest_us >= end);
        if !is_overused && !is_reported && passed < LENGTH + PATIENCE {
            return None;
        }
        self.running = None;
        let report = running.measure();
        let is_success = report.is_some_and(|report| !report.is_full) && !is_overused;
        self.pause = match is_success {
            true => PAUSE_SUCCESS,
            false => (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX),
        };
        self.next_at = Some(now + self.pause);
        report.filter(|_| !is_overused)
    }

    /// Less is sent from now on.
    pub(super) fn on_decrease(&mut self, now: Instant) {
        self.next_at = self.next_at.max(Some(now + PAUSE_DECREASE));
    }
}

impl Running {
    fn measure(&self) -> Option<Report> {
        let ((first_sent, last_sent), (first, last)) = (self.sent_us?, self.arrived_us?);
        if self.reported < 5 || f64::from(self.lost) > (1.0 - RECEIVED_SHARE) * f64::from(self.reported) {
            return None;
        }
        let rate = |bytes: u64, us: f64| bytes as f64 * 8e6 / us;
        let sent_span = (last_sent - first_sent) as f64;
        let span = (last - first) as f64;
        if sent_span < 50_000.0 || span <= 0.0 {
            return None;
        }
        let sent = rate(self.received_bytes.saturating_sub(self.last_bytes), sent_span);
        let received = rate(self.received_bytes.saturating_sub(self.first_bytes), span);
        let is_full = received < FULL_SHARE * sent;
        Some(Report { bps: sent.min(received) * if is_full { 0.95 } else { 1.0 }, is_full })
    }
}
