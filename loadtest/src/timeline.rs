//! What happened second by second, for the progress lines and the plot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval_at};

use crate::delays::Delays;
use crate::media::{MediaThread, Snapshot};
use crate::usage::ProcessUsage;

/// Between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// A test of more hours keeps the first of them.
const SECONDS_MAX: usize = 24 * 3_600;

/// One sample; rates are those since the sample before.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Second {
    /// Since the publishers were ready.
    pub at_s: f64,
    pub joined: usize,
    pub packets_per_second: f64,
    /// Missing so far.
    pub missing: u64,
    pub kernel_drops: u64,
    pub delay_p50_ms: Option<f64>,
    pub delay_p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cores: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_rss_bytes: Option<u64>,
}

/// Joins so far.
#[derive(Debug, Default)]
pub(crate) struct Joins {
    pub joined: AtomicUsize,
    pub failed: AtomicUsize,
}

/// Takes a sample each second until it is stopped.
pub(crate) struct Sampler {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Second>>,
}

impl Sampler {
    pub(crate) fn start(media: MediaThread, joins: Arc<Joins>, server_pid: Option<u32>, quiet: bool) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut state = State { start: Instant::now(), joins, server_pid, before: Before::default() };
            let mut ticks = interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut seconds = Vec::new();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = &mut stopped => return seconds,
                }
                let second = state.sample(&media.snapshot().await);
                if !quiet {
                    state.print(&second);
                }
                if seconds.len() < SECONDS_MAX {
                    seconds.push(second);
                }
            }
        });
        Self { stop, task }
    }

    /// Everything that was sampled.
    pub(crate) async fn stop(self) -> Vec<Second> {
        // A task that has ended needs no stop.
        let _ = self.stop.send(());
        self.task.await.unwrap_or_default()
    }
}

#[derive(Default)]
struct Before {
    at_s: f64,
    received: u64,
    delays: Delays,
    server_cpu_ns: Option<u64>,
}

struct State {
    start: Instant,
    joins: Arc<Joins>,
    server_pid: Option<u32>,
    before: Before,
}

impl State {
    fn sample(&mut self, snapshot: &Snapshot) -> Second {
        let at_s = self.start.elapsed().as_secs_f64();
        let streams = || snapshot.transports.iter().flat_map(|(_, stats)| &stats.streams);
        let received: u64 = streams().map(|stream| stream.counts.received).sum();
        let delays = snapshot.delays.since(&self.before.delays).all().percentiles(1e6);
        let server = self.server_pid.and_then(|pid| ProcessUsage::read(pid).ok());
        let before = std::mem::replace(
            &mut self.before,
            Before {
                at_s,
                received,
                delays: snapshot.delays.clone(),
                server_cpu_ns: server.map(|server| server.cpu_ns),
            },
        );
        let seconds = (at_s - before.at_s).max(1e-9);
        let server_cpu_ns = server.zip(before.server_cpu_ns).map(|(now, then)| now.cpu_ns.saturating_sub(then));
        Second {
            at_s,
            joined: self.joins.joined.load(Ordering::Relaxed),
            packets_per_second: received.saturating_sub(before.received) as f64 / seconds,
            missing: streams().map(|stream| stream.counts.expected - stream.counts.received).sum(),
            kernel_drops: snapshot.transports.iter().map(|(_, stats)| stats.kernel_drops).sum(),
            delay_p50_ms: delays.map(|delays| delays.p50),
            delay_p99_ms: delays.map(|delays| delays.p99),
            server_cores: server_cpu_ns.map(|cpu_ns| cpu_ns as f64 / 1e9 / seconds),
            server_rss_bytes: server.map(|server| server.rss_bytes),
        }
    }

    fn print(&self, second: &Second) {
        let Second { at_s, joined, packets_per_second, missing, kernel_drops, .. } = second;
        let failed = self.joins.failed.load(Ordering::Relaxed);
        let mut line = format!("{at_s:>4.0} s: {joined} joined, {failed} failed; {packets_per_second:.0} packets/s");
        if let (Some(p50), Some(p99)) = (second.delay_p50_ms, second.delay_p99_ms) {
            line += &format!(", delay p50 {p50:.2} p99 {p99:.2} ms");
        }
        line += &format!("; {missing} missing, {kernel_drops} dropped by the kernel");
        if let (Some(cores), Some(rss)) = (second.server_cores, second.server_rss_bytes) {
            line += &format!("; server {cores:.2} cores, {} MiB", rss >> 20);
        }
        eprintln!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::MediaKind;

    #[test]
    fn a_sample_tells_the_delays_of_its_second_only() {
        let mut state =
            State { start: Instant::now(), joins: Arc::default(), server_pid: None, before: Before::default() };
        let mut snapshot = Snapshot::default();
        snapshot.delays.record(MediaKind::Audio, 1_000_000);
        assert_eq!(state.sample(&snapshot).delay_p50_ms.map(f64::round), Some(1.0));
        snapshot.delays.record(MediaKind::Video, 50_000_000);
        let second = state.sample(&snapshot);
        assert!(second.delay_p50_ms.is_some_and(|p50| p50 > 49.0), "{second:?}");
        assert_eq!(state.sample(&snapshot).delay_p50_ms, None);
    }
}
