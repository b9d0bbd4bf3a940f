//! Turns what a load test has counted into its report.

use std::collections::{BTreeMap, BTreeSet};

use crate::churn::ChurnReport;
use crate::client::Client;
use crate::delivery::{self, DeliveryReport, Published};
use crate::drops::Drops;
use crate::histogram::{Histogram, Percentiles};
use crate::marks::Marks;
use crate::options::Options;
use crate::receiver::MediaKind;
use crate::report::{
    JoinSample, KindReport, MachineReport, PlaybackReport, PublisherReport, Report, ServerReport, VerificationReport,
};
use crate::signal::Protocol;
use crate::timeline::Second;
use crate::transport::TransportStats;
use crate::usage::{ProcessUsage, cores, load_average};

/// Share of its cores, used and waited for, beyond which this process may be what limits.
const SATURATED: f64 = 0.9;

/// Everything that was found.
pub(crate) struct Findings<'a> {
    pub options: &'a Options,
    pub publishers: &'a [Client],
    pub published: Published,
    pub clients: &'a [Client],
    pub join_errors: Vec<(String, usize)>,
    pub without_media: usize,
    pub marks: Marks,
    pub churn: Option<ChurnReport>,
    pub server_drops: Option<anyhow::Result<Drops>>,
    pub timeline: Vec<Second>,
    /// When the joins began, `CLOCK_MONOTONIC`.
    pub started_ns: u64,
}

impl Findings<'_> {
    pub(crate) fn report(self) -> Report {
        let (start, end) = (&self.marks.start, &self.marks.end);
        let client_cpu_ns = end.subscribers.cpu_ns - start.subscribers.cpu_ns;
        let machine = self.machine();
        let signal_bytes: Histogram = self.clients.iter().map(|client| client.signal_received.bytes()).collect();
        let mut report = Report {
            subscribers: self.clients.len(),
            subscribers_wanted: self.options.subscribers,
            subscribers_without_media: self.without_media,
            subscribers_lost: self.clients.iter().filter(|client| client.end_reason().is_some()).count(),
            publishers_lost: self.publishers.iter().filter(|client| client.end_reason().is_some()).count(),
            end_reasons: self.end_reasons(),
            protocol: self.protocol(),
            srtp_profile: self.profiles(),
            gro: self.options.gro,
            duration_s: self.marks.seconds(),
            publishers: self.publishers(),
            delivery: self.delivery(),
            verification: self.verification(),
            delay_ms: end.subscribers.delays.all().percentiles(1e6),
            delay_by_kind_ms: KindReport {
                audio: end.subscribers.delays.audio.percentiles(1e6),
                video: end.subscribers.delays.video.percentiles(1e6),
            },
            jitter_ms: self.jitter(),
            playback: self.playback(),
            signal_bytes: signal_bytes.percentiles(1.0),
            packets_per_second: self.marks.packets() as f64 / self.marks.seconds(),
            client_cpu_us_per_packet: client_cpu_ns as f64 / 1e3 / self.marks.packets().max(1) as f64,
            client_saturated: machine.client_cores + machine.client_cores_missing
                > SATURATED * machine.client_cores_allowed as f64,
            machine,
            server: self.server(),
            joins: self.joins(),
            measured_from_s: (start.at - self.marks.before.at).as_secs_f64(),
            ..Report::default()
        };
        self.count_packets(&mut report);
        self.time_clients(&mut report);
        let (server_drops, server_drops_unknown) = match self.server_drops {
            Some(Ok(drops)) => (Some(drops), None),
            Some(Err(error)) => (None, Some(format!("{error:#}"))),
            None => (None, None),
        };
        let report = Report { server_drops, server_drops_unknown, ..report };
        let report = Report { join_errors: self.join_errors, churn: self.churn, timeline: self.timeline, ..report };
        let complete = report.is_complete() && report.streams_still() == 0;
        let report = Report { complete, lost_share: report.delivery.lost_share(), ..report };
        Report { faults: report.faults(), ..report }
    }

    fn end_reasons(&self) -> Vec<(String, usize)> {
        let mut reasons = BTreeMap::<&str, usize>::new();
        for reason in self.publishers.iter().chain(self.clients).filter_map(Client::end_reason) {
            *reasons.entry(reason).or_default() += 1;
        }
        reasons.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect()
    }

    fn protocol(&self) -> &'static str {
        match self.clients.first().map_or(self.options.protocol, |client| client.protocol) {
            Protocol::V0 => "v0",
            Protocol::V1 => "v1",
        }
    }

    fn profiles(&self) -> String {
        let names: BTreeSet<&str> = self.clients.iter().map(|client| client.profile.name()).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    }

    fn publishers(&self) -> PublisherReport {
        let sent = self.marks.last.sent();
        PublisherReport {
            packets_sent: sent.packets,
            key_frames: sent.key_frames,
            key_frame_requests: sent.key_frame_requests,
            packets_nacked: sent.packets_nacked,
            retransmitted: sent.retransmitted,
        }
    }

    fn delivery(&self) -> DeliveryReport {
        let audience = delivery::Audience {
            subscribers: self.clients.len(),
            rooms: self.options.rooms(),
            tracks: self.options.tracks(),
            is_simulcast: self.options.is_simulcast(),
        };
        delivery::compare(&self.marks, &self.published, audience)
    }

    fn verification(&self) -> VerificationReport {
        let subscribers = self.options.verified_subscribers();
        let mut report = VerificationReport { subscribers, ..Default::default() };
        for stats in self.marks.last.transports() {
            report.packets += stats.verified;
            report.forged += stats.forged;
            report.malformed_rtcp += stats.malformed_rtcp;
            // Others decrypt single packets only.
            report.unstamped +=
                stats.streams.iter().filter(|_| stats.verifies).map(|stream| stream.unstamped).sum::<u64>();
        }
        report
    }

    /// Where the kernel told the arrival times.
    fn jitter(&self) -> KindReport {
        let of = |kind| {
            let streams = self.marks.end.transports().filter(|stats| stats.verifies).flat_map(|stats| &stats.streams);
            let jitter = streams.filter(|stream| stream.kind == kind).map(|stream| (stream.jitter_ms * 1e3) as u64);
            jitter.collect::<Histogram>().percentiles(1e3)
        };
        KindReport { audio: of(MediaKind::Audio), video: of(MediaKind::Video) }
    }

    fn playback(&self) -> PlaybackReport {
        let mut report = PlaybackReport::default();
        let (mut frozen_ns, mut span_ns) = (0, 0);
        for stream in self.marks.end.streams().filter(|stream| stream.kind == MediaKind::Video) {
            let counts = stream.playback;
            report.frames += counts.frames;
            report.freezes += counts.freezes;
            report.streams_frozen += usize::from(counts.freezes > 0);
            frozen_ns += counts.frozen_ns;
            span_ns += counts.span_ns;
        }
        report.freeze_share = share(frozen_ns, span_ns);
        report
    }

    fn count_packets(&self, report: &mut Report) {
        let last = &self.marks.last;
        let mut gap_packets = 0;
        for stream in last.streams() {
            let counts = stream.counts;
            report.packets_expected += counts.expected;
            report.packets_received += counts.received;
            report.packets_late += counts.late;
            report.packets_duplicate += counts.duplicates;
            report.packets_recovered += counts.recovered;
            report.packets_requested += counts.requested;
            report.bytes_received += counts.bytes;
            report.gaps += counts.gaps;
            gap_packets += counts.gap_packets;
        }
        for stats in last.transports() {
            report.kernel_drops += stats.kernel_drops;
            report.packets_dropped_on_purpose += stats.lost_on_purpose;
            report.nacks_sent += stats.nacks_sent;
            report.plis_sent += stats.key_frame_requests_sent;
        }
        report.gap_share = share(gap_packets, report.packets_expected);
        report.packets_reordered = report.packets_late.saturating_sub(report.packets_recovered);
        report.packets_missing = report.packets_expected - report.packets_received;
        // What came again was not missing.
        let kernel_missing = report.kernel_drops.saturating_sub(report.packets_recovered);
        report.packets_lost = report.packets_missing.saturating_sub(kernel_missing);
    }

    fn time_clients(&self, report: &mut Report) {
        let percentiles = |time: &dyn Fn(&TransportStats) -> Option<u64>| -> Option<Percentiles> {
            let times = self.clients.iter().filter_map(|client| {
                let at_ns = time(self.marks.last.subscribers.transport(client.receiving)?)?;
                Some(at_ns.saturating_sub(client.started_ns))
            });
            times.collect::<Histogram>().percentiles(1e6)
        };
        report.join_ms = percentiles(&|stats| stats.connected_ns);
        report.first_packet_ms =
            percentiles(&|stats| stats.streams.iter().filter_map(|stream| stream.first_packet_ns).min());
        report.first_keyframe_ms =
            percentiles(&|stats| stats.streams.iter().filter_map(|stream| stream.first_key_frame_ns).min());
    }

    fn joins(&self) -> Vec<JoinSample> {
        let sample = |client: &Client| JoinSample {
            at_s: client.started_ns.saturating_sub(self.started_ns) as f64 / 1e9,
            join_ms: client.join_time.as_secs_f64() * 1e3,
        };
        self.clients.iter().map(sample).collect()
    }

    fn machine(&self) -> MachineReport {
        let (start, end) = (&self.marks.start, &self.marks.end);
        let (used, all) = (end.machine.0 - start.machine.0, (end.machine.1 - start.machine.1).max(1));
        MachineReport {
            cores: cores(),
            cpu_used: used as f64 / all as f64,
            load_average: load_average(),
            client_cores: (end.client.cpu_ns - start.client.cpu_ns) as f64 / 1e9 / self.marks.seconds(),
            client_cores_missing: waited(&start.client, &end.client) / self.marks.seconds(),
            client_cores_allowed: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn server(&self) -> Option<ServerReport> {
        let Marks { before, start, end, .. } = &self.marks;
        let received_before = start.received();
        let (before, start, end) = (before.server?, start.server?, end.server?);
        let (packets, seconds) = (self.marks.packets(), self.marks.seconds());
        let cpu_ns = end.cpu_ns - start.cpu_ns;
        let cpu_us_per_packet = if packets == 0 { 0.0 } else { cpu_ns as f64 / 1e3 / packets as f64 };
        let joins = self.clients.len().max(1) as f64;
        let forwarding_us = received_before as f64 * cpu_us_per_packet;
        let joining_us = ((start.cpu_ns - before.cpu_ns) as f64 / 1e3 - forwarding_us).max(0.0);
        Some(ServerReport {
            cpu_us_per_packet,
            cpu_ms_per_join: joining_us / 1e3 / joins,
            rss_bytes_per_subscriber: end.rss_bytes.saturating_sub(before.rss_bytes) as f64 / joins,
            rss_before_bytes: before.rss_bytes,
            rss_start_bytes: start.rss_bytes,
            rss_bytes: end.rss_bytes,
            cpu_cores: cpu_ns as f64 / 1e9 / seconds,
            cpu_cores_missing: waited(&start, &end) / seconds,
            threads: end.threads,
            context_switches_per_second: end.context_switches.saturating_sub(start.context_switches) as f64 / seconds,
        })
    }
}

/// Seconds without a core; threads may have ended in between.
fn waited(start: &ProcessUsage, end: &ProcessUsage) -> f64 {
    end.waited_ns.saturating_sub(start.waited_ns) as f64 / 1e9
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
