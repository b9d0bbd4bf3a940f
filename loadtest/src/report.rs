//! The result of a load test, as JSON and as a table.

use std::fmt;

use serde::Serialize;

use crate::churn::ChurnReport;
use crate::delivery::DeliveryReport;
use crate::drops::Drops;
use crate::histogram::Percentiles;
use crate::timeline::Second;

/// What a load test found. Times are in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Why the server did not do well, in words. Empty: it did.
    pub faults: Vec<String>,
    /// Everybody joined, stayed, and had every track to the end, whatever of it was lost on the way.
    pub complete: bool,
    /// Of what was published, 0 to 1: the worse of `delivery`'s.
    pub lost_share: f64,
    /// Subscribers that joined.
    pub subscribers: usize,
    pub subscribers_wanted: usize,
    /// Reasons of the joins that failed, with their number.
    pub join_errors: Vec<(String, usize)>,
    /// Joined, but lacked a stream in the end.
    pub subscribers_without_media: usize,
    /// Sessions that ended before the test did.
    pub subscribers_lost: usize,
    /// The same of publishers: what subscribers received afterwards tells nothing.
    pub publishers_lost: usize,
    /// Why they ended, with their number.
    pub end_reasons: Vec<(String, usize)>,
    pub protocol: &'static str,
    /// Chosen by the server; several if clients differ.
    pub srtp_profile: String,
    /// Runs of packets were read uncut; the server's figures are then lower than without.
    pub gro: bool,
    pub duration_s: f64,
    /// By sequence number, from each subscriber's first packet to its last.
    pub packets_expected: u64,
    /// Different packets that arrived, retransmissions included.
    pub packets_received: u64,
    pub packets_missing: u64,
    /// Dropped by the kernel at our own sockets; some of them came again.
    pub kernel_drops: u64,
    /// Missing beyond the kernel's drops. What a server leaves out and renumbers is not among them: see `delivery`.
    pub packets_lost: u64,
    /// What the server says it dropped from the start of the measured time to the end of the test, by reason; only with
    /// `--metrics-url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_drops: Option<Drops>,
    /// Why that is not known, though it was to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_drops_unknown: Option<String>,
    /// Thrown away because of `--loss-down`, retransmissions included.
    pub packets_dropped_on_purpose: u64,
    /// After a later one, retransmissions included.
    pub packets_late: u64,
    /// Late, but not retransmitted.
    pub packets_reordered: u64,
    pub packets_duplicate: u64,
    pub packets_recovered: u64,
    pub packets_requested: u64,
    /// NACK messages; the packets that they name are above.
    pub nacks_sent: u64,
    pub plis_sent: u64,
    /// Holes in the order of arrival, before anything came late.
    pub gaps: u64,
    /// Packets in these holes, of all that were expected.
    pub gap_share: f64,
    pub playback: PlaybackReport,
    pub bytes_received: u64,
    pub publishers: PublisherReport,
    /// What came of it, by the publishers' own numbers.
    pub delivery: DeliveryReport,
    /// Delay, where payloads were decrypted.
    pub verification: VerificationReport,
    pub join_ms: Option<Percentiles>,
    pub first_packet_ms: Option<Percentiles>,
    pub first_keyframe_ms: Option<Percentiles>,
    /// From the publisher's socket to the subscriber's, in the measured time.
    pub delay_ms: Option<Percentiles>,
    /// The same by kind.
    pub delay_by_kind_ms: KindReport,
    /// Interarrival jitter (RFC 3550) of the verified subscribers' streams at the end of the measured time, that of
    /// video by the first packet of each frame.
    pub jitter_ms: KindReport,
    /// Signalling that each subscriber received, from its join to the end.
    pub signal_bytes: Option<Percentiles>,
    /// Of the thread that receives, in the measured time.
    pub client_cpu_us_per_packet: f64,
    /// This process lacked CPU: the figures may be its own, not the server's.
    pub client_saturated: bool,
    pub packets_per_second: f64,
    pub machine: MachineReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub churn: Option<ChurnReport>,
    /// When the measured time began, since the joins did.
    pub measured_from_s: f64,
    pub timeline: Vec<Second>,
    pub joins: Vec<JoinSample>,
}

/// How smoothly video came, by its frames' arrival.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PlaybackReport {
    pub frames: u64,
    /// Frames later than three usual intervals and than one and 150 ms (`freezeCount` of webrtc-stats).
    pub freezes: u64,
    pub streams_frozen: usize,
    /// Time in freezes, of all the time that streams flowed.
    pub freeze_share: f64,
}

/// A time of each kind of media.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KindReport {
    pub audio: Option<Percentiles>,
    pub video: Option<Percentiles>,
}

/// One subscriber's join.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct JoinSample {
    /// Its start, since that of the first.
    pub at_s: f64,
    pub join_ms: f64,
}

/// What the publishers sent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PublisherReport {
    pub packets_sent: u64,
    pub key_frames: u64,
    pub key_frame_requests: u64,
    pub packets_nacked: u64,
    pub retransmitted: u64,
}

/// What decrypting subscribers saw.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerificationReport {
    pub subscribers: usize,
    pub packets: u64,
    /// Failed authentication.
    pub forged: u64,
    /// RTCP of the server that is not well-formed, at all subscribers.
    pub malformed_rtcp: u64,
    /// Packets without our stamp, for example padding.
    pub unstamped: u64,
}

/// How busy the machine was in the measured time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MachineReport {
    pub cores: usize,
    /// Share of all cores, 0 to 1.
    pub cpu_used: f64,
    pub load_average: f64,
    /// CPU of this process, in cores.
    pub client_cores: f64,
    /// Time in which its threads waited for a core, in cores.
    pub client_cores_missing: f64,
    /// Cores that it may run on.
    pub client_cores_allowed: usize,
}

/// What the server used.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServerReport {
    /// In the measured time, for each packet that a subscriber received.
    pub cpu_us_per_packet: f64,
    /// In the time of the joins, less forwarding at the price above.
    pub cpu_ms_per_join: f64,
    /// Growth of resident memory from before the joins to the end.
    pub rss_bytes_per_subscriber: f64,
    pub rss_before_bytes: u64,
    /// When the measured time began.
    pub rss_start_bytes: u64,
    pub rss_bytes: u64,
    /// In the measured time.
    pub cpu_cores: f64,
    /// Time in which its threads waited for a core; what other processes took, or the limit of those it may use.
    pub cpu_cores_missing: f64,
    pub threads: u64,
    pub context_switches_per_second: f64,
}

/// Share of what was published that may be lost before a run counts as a bad one.
const LOST_SHARE_MAX: f64 = 0.001;
/// The same of a single stream, which hardly shows in the share of all.
const STREAM_MISSING_MAX: f64 = 0.05;
/// Share of the time that video may stand still.
const FREEZE_SHARE_MAX: f64 = 0.01;

/// How the fault of freezes begins, the only one that a busy machine alone brings about.
pub const FREEZE_FAULT: &str = "video stood still";

impl Report {
    /// What a viewer would complain of, in words.
    pub(crate) fn faults(&self) -> Vec<String> {
        let (lost, frozen) = (self.lost_share, self.playback.freeze_share);
        let VerificationReport { forged, malformed_rtcp, .. } = self.verification;
        let mut faults = Vec::new();
        let mut check = |is_fault: bool, fault: String| faults.extend(is_fault.then_some(fault));
        check(!self.is_complete(), "not everybody joined, received every track and stayed".to_owned());
        let (still, wanted) = (self.streams_still(), self.delivery.streams_wanted);
        check(still > 0, format!("{still} of {wanted} streams stood still at the end"));
        check(lost > LOST_SHARE_MAX, format!("{:.3} % of what was published never came", lost * 100.0));
        let worst = self.delivery.worst_stream_missing;
        check(worst > STREAM_MISSING_MAX, format!("one stream lacks {:.3} % of what was published", worst * 100.0));
        check(forged > 0, format!("{forged} packets were not authentic"));
        check(malformed_rtcp > 0, format!("{malformed_rtcp} RTCP packets were malformed"));
        check(frozen > FREEZE_SHARE_MAX, format!("{FREEZE_FAULT} for {:.3} % of the time", frozen * 100.0));
        faults
    }

    /// Streams in which nothing came any more at the end.
    pub(crate) fn streams_still(&self) -> usize {
        self.delivery.streams_wanted.saturating_sub(self.delivery.streams_alive)
    }

    /// Whether everybody joined and received.
    pub fn is_complete(&self) -> bool {
        self.subscribers == self.subscribers_wanted
            && self.join_errors.is_empty()
            && self.subscribers_without_media == 0
            && self.subscribers_lost == 0
            && self.publishers_lost == 0
            && self.churn.as_ref().is_none_or(|churn| churn.join_errors.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "subscribers          {} of {} over {}", self.subscribers, self.subscribers_wanted, self.protocol)?;
        for (reason, count) in &self.join_errors {
            writeln!(f, "  {count} x {reason}")?;
        }
        if self.subscribers_without_media + self.subscribers_lost > 0 {
            let (silent, lost) = (self.subscribers_without_media, self.subscribers_lost);
            writeln!(f, "  {silent} without all streams, {lost} ended early")?;
        }
        if self.publishers_lost > 0 {
            writeln!(f, "  {} publishers ended early: the figures are void", self.publishers_lost)?;
        }
        for (reason, count) in &self.end_reasons {
            writeln!(f, "  {count} x {reason}")?;
        }
        writeln!(f, "SRTP profile         {}", self.srtp_profile)?;
        let rate = self.packets_per_second;
        writeln!(f, "packets              {} of {}, {rate:.0}/s", self.packets_received, self.packets_expected)?;
        writeln!(f, "  missing            {} (kernel drops {})", self.packets_missing, self.kernel_drops)?;
        writeln!(f, "  lost               {}", self.packets_lost)?;
        self.write_server_drops(f)?;
        if self.packets_dropped_on_purpose > 0 {
            writeln!(f, "  lost on purpose    {}", self.packets_dropped_on_purpose)?;
        }
        let (reordered, again, recovered) = (self.packets_reordered, self.packets_duplicate, self.packets_recovered);
        writeln!(f, "  reordered          {reordered}, duplicate {again}, recovered {recovered}")?;
        let (gaps, share) = (self.gaps, self.gap_share * 100.0);
        writeln!(f, "  gaps               {gaps} with {share:.3} % of the packets")?;
        let (nacks, requested, plis) = (self.nacks_sent, self.packets_requested, self.plis_sent);
        writeln!(f, "  asked for          {requested} packets by {nacks} NACKs, {plis} PLIs")?;
        let PlaybackReport { frames, freezes, streams_frozen, freeze_share } = &self.playback;
        let share = freeze_share * 100.0;
        writeln!(f, "frames               {frames}; {freezes} freezes in {streams_frozen} streams, {share:.3} %")?;
        self.write_delivery(f)?;
        for (name, value) in [
            ("join", self.join_ms),
            ("first packet", self.first_packet_ms),
            ("first key frame", self.first_keyframe_ms),
            ("delay", self.delay_ms),
            ("  of audio", self.delay_by_kind_ms.audio),
            ("  of video", self.delay_by_kind_ms.video),
            ("jitter of audio", self.jitter_ms.audio),
            ("jitter of video", self.jitter_ms.video),
        ] {
            write_percentiles(f, name, value)?;
        }
        if let Some(bytes) = self.signal_bytes {
            writeln!(f, "signalling           p50 {:.0} bytes a subscriber, max {:.0}", bytes.p50, bytes.max)?;
        }
        if let Some(churn) = &self.churn {
            write_churn(f, churn)?;
        }
        self.write_machine(f)?;
        if let Some(server) = &self.server {
            write_server(f, server)?;
        }
        self.faults.iter().try_for_each(|fault| writeln!(f, "FAULT                {fault}"))
    }
}

impl Report {
    fn write_server_drops(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.server_drops_unknown {
            writeln!(f, "  dropped by server  unknown: {why}")?;
        }
        let Some(drops) = &self.server_drops else { return Ok(()) };
        let drops: Vec<String> = drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let drops = if drops.is_empty() { "nothing, by its own count".to_owned() } else { drops.join(", ") };
        writeln!(f, "  dropped by server  {drops}")
    }

    fn write_delivery(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerificationReport { subscribers, packets, forged, .. } = self.verification;
        writeln!(f, "verified             {packets} by {subscribers} subscribers, {forged} forged")?;
        let delivery = &self.delivery;
        writeln!(f, "streams              {} of {} alive at the end", delivery.streams_alive, delivery.streams_wanted)?;
        let (received, expected, lost) = (delivery.source_received, delivery.source_expected, delivery.source_lost);
        let worst = delivery.worst_stream_missing * 100.0;
        writeln!(
            f,
            "  of the source      {received} of {expected}, {lost} lost; {worst:.3} % missing in the worst stream"
        )?;
        if let Some(expected) = delivery.window_expected {
            let (received, lost) = (delivery.window_received, delivery.window_lost);
            writeln!(f, "  in the window      {received} of {expected}, {lost} lost")?;
        }
        Ok(())
    }

    fn write_machine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        let limits = if self.client_saturated { "; SATURATED: the figures may be its own" } else { "" };
        writeln!(
            f,
            "client               {:.2} us a packet{}, {:.2} of {} cores, waited {:.2}{limits}",
            self.client_cpu_us_per_packet,
            if self.gro { " with GRO" } else { "" },
            machine.client_cores,
            machine.client_cores_allowed,
            machine.client_cores_missing,
        )?;
        let used = machine.cpu_used * 100.0;
        writeln!(f, "machine              {used:.0} % of {} cores, load {:.1}", machine.cores, machine.load_average)
    }
}

fn write_churn(f: &mut fmt::Formatter<'_>, churn: &ChurnReport) -> fmt::Result {
    writeln!(f, "churn                {} came and went", churn.joined)?;
    for (reason, count) in &churn.join_errors {
        writeln!(f, "  {count} x {reason}")?;
    }
    write_percentiles(f, "  join", churn.join_ms)
}

fn write_percentiles(f: &mut fmt::Formatter<'_>, name: &str, value: Option<Percentiles>) -> fmt::Result {
    match value {
        Some(at) => writeln!(
            f,
            "{:<20} p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            name, at.p50, at.p95, at.p99, at.max
        ),
        None => writeln!(f, "{name:<20} none"),
    }
}

fn write_server(f: &mut fmt::Formatter<'_>, server: &ServerReport) -> fmt::Result {
    writeln!(
        f,
        "server               {:.2} us a packet, {:.2} ms a join, {:.0} KiB a subscriber",
        server.cpu_us_per_packet,
        server.cpu_ms_per_join,
        server.rss_bytes_per_subscriber / 1_024.0
    )?;
    writeln!(
        f,
        "  {:.2} cores, waited {:.2}, {} MiB, then {} MiB, {} threads, {:.0} context switches/s",
        server.cpu_cores,
        server.cpu_cores_missing,
        server.rss_start_bytes >> 20,
        server.rss_bytes >> 20,
        server.threads,
        server.context_switches_per_second
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a test in which all went well, at the bounds of what counts as well.
    fn good() -> Report {
        Report {
            subscribers: 2,
            subscribers_wanted: 2,
            lost_share: LOST_SHARE_MAX,
            delivery: DeliveryReport {
                streams_wanted: 4,
                streams_alive: 4,
                worst_stream_missing: STREAM_MISSING_MAX,
                ..DeliveryReport::default()
            },
            playback: PlaybackReport { freeze_share: FREEZE_SHARE_MAX, ..PlaybackReport::default() },
            churn: Some(ChurnReport::default()),
            ..Report::default()
        }
    }

    /// The faults of a test in which one thing went wrong.
    fn faults(spoil: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut report = good();
        spoil(&mut report);
        report.faults()
    }

    #[test]
    fn a_test_in_which_all_went_well_has_no_fault() {
        assert_eq!(good().faults(), [""; 0]);
    }

    #[test]
    fn an_audience_that_is_not_complete_is_a_fault() {
        let spoils: [fn(&mut Report); 6] = [
            |report| report.subscribers = 1,
            |report| report.join_errors.push(("refused".to_owned(), 1)),
            |report| report.subscribers_without_media = 1,
            |report| report.subscribers_lost = 1,
            |report| report.publishers_lost = 1,
            |report| report.churn.as_mut().unwrap().join_errors.push(("refused".to_owned(), 1)),
        ];
        for (number, spoil) in spoils.into_iter().enumerate() {
            assert_eq!(faults(spoil), ["not everybody joined, received every track and stayed"], "{number}");
        }
    }

    #[test]
    fn a_stream_that_stood_still_at_the_end_is_a_fault() {
        assert_eq!(faults(|report| report.delivery.streams_alive = 3), ["1 of 4 streams stood still at the end"]);
    }

    #[test]
    fn a_loss_in_all_streams_is_a_fault() {
        assert_eq!(faults(|report| report.lost_share = 0.002), ["0.200 % of what was published never came"]);
    }

    #[test]
    fn a_loss_in_one_stream_is_a_fault() {
        let faults = faults(|report| report.delivery.worst_stream_missing = 0.06);
        assert_eq!(faults, ["one stream lacks 6.000 % of what was published"]);
    }

    #[test]
    fn a_packet_that_is_not_authentic_is_a_fault() {
        assert_eq!(faults(|report| report.verification.forged = 1), ["1 packets were not authentic"]);
    }

    #[test]
    fn a_malformed_rtcp_packet_is_a_fault() {
        assert_eq!(faults(|report| report.verification.malformed_rtcp = 1), ["1 RTCP packets were malformed"]);
    }

    #[test]
    fn video_that_stood_still_is_a_fault_of_its_own_kind() {
        let faults = faults(|report| report.playback.freeze_share = 0.02);
        assert_eq!(faults, ["video stood still for 2.000 % of the time"]);
        assert!(faults[0].starts_with(FREEZE_FAULT));
    }
}
