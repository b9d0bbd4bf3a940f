//! Everything that is read at one moment of a load test.

use std::time::Instant;

use crate::clock::monotonic_ns;
use crate::media::{MediaThread, Snapshot};
use crate::sender::SenderCounts;
use crate::sender::SenderStats;
use crate::transport::{StreamStats, TransportStats};
use crate::usage::{ProcessUsage, machine_ticks};

/// The counters of both ends, the server's process and the machine.
pub(crate) struct Mark {
    pub at: Instant,
    /// The same by `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    pub subscribers: Snapshot,
    pub publishers: Snapshot,
    pub server: Option<ProcessUsage>,
    /// Clock ticks: used, and altogether.
    pub machine: (u64, u64),
    /// This process.
    pub client: ProcessUsage,
}

impl Mark {
    pub(crate) async fn take(
        publishers: &MediaThread,
        subscribers: &MediaThread,
        server_pid: Option<u32>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            server: server_pid.map(ProcessUsage::read).transpose()?,
            at: Instant::now(),
            at_ns: monotonic_ns(),
            machine: machine_ticks(),
            client: ProcessUsage::read(std::process::id())?,
            subscribers: subscribers.snapshot().await,
            publishers: publishers.snapshot().await,
        })
    }

    /// Of every subscriber.
    pub(crate) fn transports(&self) -> impl Iterator<Item = &TransportStats> {
        self.subscribers.transports.iter().map(|(_, stats)| stats)
    }

    /// Of every subscriber.
    pub(crate) fn streams(&self) -> impl Iterator<Item = &StreamStats> {
        self.transports().flat_map(|stats| &stats.streams)
    }

    pub(crate) fn received(&self) -> u64 {
        self.streams().map(|stream| stream.counts.received).sum()
    }

    /// Of every publisher.
    pub(crate) fn senders(&self) -> impl Iterator<Item = &SenderStats> {
        self.publishers.transports.iter().flat_map(|(_, stats)| &stats.senders)
    }

    pub(crate) fn sent(&self) -> SenderCounts {
        let mut sum = SenderCounts::default();
        for SenderStats { counts, .. } in self.senders() {
            sum.packets += counts.packets;
            sum.bytes += counts.bytes;
            sum.key_frames += counts.key_frames;
            sum.retransmitted += counts.retransmitted;
            sum.packets_nacked += counts.packets_nacked;
            sum.key_frame_requests += counts.key_frame_requests;
        }
        sum
    }
}

/// The moments that a report compares.
pub(crate) struct Marks {
    /// Publishers send, nobody has joined.
    pub before: Mark,
    /// Everybody receives.
    pub start: Mark,
    /// The measured time is over.
    pub end: Mark,
    /// Publishers have stopped, what was under way has arrived.
    pub last: Mark,
}

impl Marks {
    /// Of the measured time.
    pub(crate) fn seconds(&self) -> f64 {
        (self.end.at - self.start.at).as_secs_f64().max(1e-9)
    }

    /// Packets that subscribers received in the measured time.
    pub(crate) fn packets(&self) -> u64 {
        self.end.received().saturating_sub(self.start.received())
    }
}
