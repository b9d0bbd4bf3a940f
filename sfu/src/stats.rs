//! Plain counters of one worker. Snapshots leave as values.

use shared::histogram::Histogram;
use shared::media::MediaKind;

use crate::command::ReceiveStats;
use crate::demux::Discard;
use crate::parameters::TransportEnd;
use crate::sctp::SendDataError;
use crate::srtp::SrtpProfile;

/// How many handshakes chose which profile.
#[derive(Debug, Clone, Copy, Default)]
pub struct Handshakes {
    /// AEAD_AES_128_GCM.
    pub gcm128: u64,
    /// AEAD_AES_256_GCM.
    pub gcm256: u64,
    /// SRTP_AES128_CM_HMAC_SHA1_80.
    pub cm: u64,
}

impl Handshakes {
    /// Counts a handshake.
    pub fn count(&mut self, profile: SrtpProfile) {
        match profile {
            SrtpProfile::AeadAes128Gcm => self.gcm128 += 1,
            SrtpProfile::AeadAes256Gcm => self.gcm256 += 1,
            SrtpProfile::Aes128CmSha1_80 => self.cm += 1,
        }
    }
}

/// Why transports ended that no room closed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends {
    /// [`TransportEnd::ConsentLost`].
    pub consent_lost: u64,
    /// [`TransportEnd::HandshakeFailed`].
    pub handshake_failed: u64,
    /// [`TransportEnd::WrongFingerprint`].
    pub wrong_fingerprint: u64,
    /// [`TransportEnd::ClosedByPeer`].
    pub closed_by_peer: u64,
    /// [`TransportEnd::InternalError`].
    pub internal_error: u64,
}

impl Ends {
    /// Counts an end.
    pub fn count(&mut self, end: TransportEnd) {
        match end {
            TransportEnd::ConsentLost => self.consent_lost += 1,
            TransportEnd::HandshakeFailed => self.handshake_failed += 1,
            TransportEnd::WrongFingerprint => self.wrong_fingerprint += 1,
            TransportEnd::ClosedByPeer => self.closed_by_peer += 1,
            TransportEnd::InternalError => self.internal_error += 1,
        }
    }
}

/// Datagrams that were lost on this machine, for want of CPU, memory or a way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    /// Dropped by the kernel, because the worker did not read them in time.
    pub receive_buffer: u64,
    /// Dropped by us, because the kernel took no more, or a TCP client does not read.
    pub send_buffer: u64,
    /// Refused by the kernel for another reason: no route, too long.
    pub refused: u64,
    /// Not forwarded, because too many waited for it.
    pub overrun: u64,
}

impl Losses {
    /// Adds losses counted elsewhere.
    pub fn add(&mut self, more: Losses) {
        self.receive_buffer += more.receive_buffer;
        self.send_buffer += more.send_buffer;
        self.refused += more.refused;
        self.overrun += more.overrun;
    }
}

/// Bounds of [`StreamQuality`], those of LiveKit's metrics.
const PERCENT: [f64; 10] = [0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 5.0, 10.0, 40.0, 100.0];
const JITTER_US: [f64; 9] = [1e3, 1e4, 3e4, 5e4, 7e4, 1e5, 3e5, 6e5, 1e6];
const RTT_MS: [f64; 10] = [50.0, 100.0, 150.0, 200.0, 250.0, 500.0, 750.0, 1e3, 5e3, 1e4];

/// How the streams of one direction and kind fared, an observation a stream and report.
#[derive(Debug, Clone)]
pub struct StreamQuality {
    /// Packets lost on the way.
    pub lost: u64,
    /// Of the packets of an interval.
    pub loss_percent: Histogram,
    /// Packets overtaken by others.
    pub out_of_order: u64,
    /// Of the packets of an interval.
    pub out_of_order_percent: Histogram,
    /// In microseconds.
    pub jitter_us: Histogram,
    /// In milliseconds.
    pub rtt_ms: Histogram,
}

impl Default for StreamQuality {
    fn default() -> Self {
        Self {
            lost: 0,
            loss_percent: Histogram::new(&PERCENT),
            out_of_order: 0,
            out_of_order_percent: Histogram::new(&PERCENT),
            jitter_us: Histogram::new(&JITTER_US),
            rtt_ms: Histogram::new(&RTT_MS),
        }
    }
}

impl StreamQuality {
    /// What arrived of a publication.
    pub fn count_received(&mut self, stats: &ReceiveStats) {
        let expected = stats.packets + stats.lost;
        if expected == 0 {
            return;
        }
        self.lost += stats.lost;
        self.loss_percent.observe(100.0 * stats.lost as f64 / expected as f64);
        self.out_of_order += stats.out_of_order;
        self.out_of_order_percent.observe(100.0 * stats.out_of_order as f64 / expected as f64);
        self.jitter_us.observe(stats.jitter_us.into());
    }

    /// Adds what another worker observed.
    pub fn add(&mut self, other: &StreamQuality) {
        self.lost += other.lost;
        self.loss_percent.add(&other.loss_percent);
        self.out_of_order += other.out_of_order;
        self.out_of_order_percent.add(&other.out_of_order_percent);
        self.jitter_us.add(&other.jitter_us);
        self.rtt_ms.add(&other.rtt_ms);
    }
}

/// Of audio and of video.
#[derive(Debug, Clone, Default)]
pub struct ByKind<T> {
    /// Of audio.
    pub audio: T,
    /// Of video.
    pub video: T,
}

impl<T> ByKind<T> {
    /// The one of this kind.
    pub fn of(&mut self, kind: MediaKind) -> &mut T {
        match kind {
            MediaKind::Audio => &mut self.audio,
            MediaKind::Video => &mut self.video,
        }
    }
}

/// What is known of media beyond counters.
#[derive(Debug, Clone, Default)]
pub struct MediaStats {
    /// From publishers, as we see it.
    pub received: ByKind<StreamQuality>,
    /// To subscribers, as they report it.
    pub sent: ByKind<StreamQuality>,
    /// Now.
    pub subscriptions: ByKind<u64>,
}

impl MediaStats {
    /// Adds what another worker observed.
    pub fn add(&mut self, other: &MediaStats) {
        self.received.audio.add(&other.received.audio);
        self.received.video.add(&other.received.video);
        self.sent.audio.add(&other.sent.audio);
        self.sent.video.add(&other.sent.video);
        self.subscriptions.audio += other.subscriptions.audio;
        self.subscriptions.video += other.subscriptions.video;
    }
}

/// Data messages that a client did not get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataDropped {
    /// Its channel or its transport was not open.
    pub not_open: u64,
    /// Longer than a message may be.
    pub too_long: u64,
    /// It takes reliable messages more slowly than the threshold.
    pub slow: u64,
    /// It is behind by as much as may wait.
    pub full: u64,
    /// Lossy ones that would have come too late.
    pub late: u64,
}

impl DataDropped {
    /// Counts a message by the reason.
    pub fn count(&mut self, why: SendDataError) {
        match why {
            SendDataError::NotOpen | SendDataError::Closed => self.not_open += 1,
            SendDataError::TooLong => self.too_long += 1,
            SendDataError::Slow => self.slow += 1,
            SendDataError::Full => self.full += 1,
            SendDataError::Late => self.late += 1,
        }
    }
}

/// What a worker has counted since its start; see [`Stats::counters`] for meanings.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Datagrams that arrived.
    pub datagrams_received: u64,
    /// Bytes of datagrams that arrived.
    pub bytes_received: u64,
    /// Authenticated RTP packets.
    pub rtp_received: u64,
    /// Authenticated RTCP packets.
    pub rtcp_received: u64,
    /// RTP packets forwarded.
    pub rtp_sent: u64,
    /// Bytes of RTP packets forwarded.
    pub bytes_sent: u64,
    /// Messages that carried forwarded packets.
    pub runs_sent: u64,
    /// RTP packets sent again for a NACK.
    pub rtp_retransmitted: u64,
    /// Bytes of RTP packets sent again.
    pub bytes_retransmitted: u64,
    /// RTP packets sent once more to see whether a client's way carries more.
    pub rtp_probes: u64,
    /// Bytes of these.
    pub bytes_probes: u64,
    /// Of publications, counted every [`crate::command::STATS_INTERVAL`].
    pub rtp_bytes_received: u64,
    /// Packets of the past sent to new subscribers.
    pub rtp_caught_up: u64,
    /// Packets that subscribers asked for again.
    pub nacks_received: u64,
    /// Of these, packets that history no longer had.
    pub nacks_missed: u64,
    /// Of these, packets beyond a subscriber's budget.
    pub nacks_over_budget: u64,
    /// Of these, packets that had been sent again less than a round trip before.
    pub nacks_repeated: u64,
    /// Packets that we asked publishers for.
    pub nacks_sent: u64,
    /// Reports of subscribers on packets with transport-wide numbers, but for those that were no use.
    pub feedback_received: u64,
    /// PLI and FIR of subscribers.
    pub keyframe_requests_received: u64,
    /// Of these, FIR rather than PLI.
    pub firs_received: u64,
    /// Key frames that we asked publishers for.
    pub keyframe_requests_sent: u64,
    /// Data channel messages that arrived.
    pub data_received: u64,
    /// Data messages that their room was not given.
    pub data_overflow: u64,
    /// Lossy ones that were not, because the messages of their sender go to so many that they make too much work.
    pub data_over_rate: u64,
    /// Data messages that clients did not get.
    pub data_dropped: DataDropped,
    /// Datagrams for a transport of another worker.
    pub handed_over: u64,
    /// Datagrams that came to another worker's socket.
    pub taken_over: u64,
    /// Times that no connection was accepted for want of file descriptors.
    pub accept_pauses: u64,
    /// Nominations of another address, which has to answer a check first.
    pub nominations_unproven: u64,
    /// Checks that nominated addresses had to answer.
    pub path_checks_sent: u64,
    /// Datagrams of handshakes.
    pub handshakes_withheld: u64,
    /// Transports that went on at another address.
    pub paths_moved: u64,
    /// Faults in the program that the worker went on after.
    pub panics: u64,
    /// Faults after which it closed all of its transports.
    pub restarts: u64,
    /// Turns longer than [`crate::io::pulse::STALL`].
    pub stalls: u64,
    /// Microseconds that DTLS, with SCTP inside of it, and RTCP took.
    pub control_micros: u64,
    /// Times that a transport had taken all of its budget of them.
    pub budgets_spent: u64,
    /// By profile.
    pub handshakes: Handshakes,
    /// By reason.
    pub ended: Ends,
    /// By cause.
    pub losses: Losses,
    /// Observations of streams.
    pub media: MediaStats,
    discards: [u64; Discard::ALL.len()],
}

/// A counter's name (Prometheus style, without prefix), its label (`key="value"`, or empty), its meaning, its value.
pub type Counter = (&'static str, String, &'static str, u64);

impl Stats {
    /// Counts a datagram, packet or command that was dropped.
    pub fn count(&mut self, discard: Discard) {
        self.discards[discard as usize] += 1;
    }

    /// Counts so many.
    pub fn add(&mut self, discard: Discard, count: u64) {
        self.discards[discard as usize] += count;
    }

    /// How many were dropped for this reason.
    pub fn discards(&self, discard: Discard) -> u64 {
        self.discards[discard as usize]
    }

    /// All counters, in a fixed order.
    pub fn counters(&self) -> Vec<Counter> {
        let plain = [
            ("datagrams_received_total", "Datagrams that arrived.", self.datagrams_received),
            ("bytes_received_total", "Bytes of datagrams that arrived.", self.bytes_received),
            ("rtp_received_total", "Authenticated RTP packets.", self.rtp_received),
            ("rtcp_received_total", "Authenticated RTCP packets.", self.rtcp_received),
            ("rtp_sent_total", "RTP packets forwarded.", self.rtp_sent),
            ("bytes_sent_total", "Bytes of RTP packets forwarded.", self.bytes_sent),
            ("runs_sent_total", "Messages that carried forwarded packets.", self.runs_sent),
            ("rtp_retransmitted_total", "RTP packets sent again for a NACK.", self.rtp_retransmitted),
            ("bytes_retransmitted_total", "Bytes of RTP packets sent again.", self.bytes_retransmitted),
            ("rtp_probes_total", "RTP packets sent once more to see whether a way carries more.", self.rtp_probes),
            ("bytes_probes_total", "Bytes of RTP packets sent to see whether a way carries more.", self.bytes_probes),
            ("rtp_bytes_received_total", "Bytes of RTP of publications.", self.rtp_bytes_received),
            ("rtp_caught_up_total", "RTP packets of the past sent to new subscribers.", self.rtp_caught_up),
            ("nacks_received_total", "Packets that subscribers asked for again.", self.nacks_received),
            ("nacks_missed_total", "Packets asked for that history no longer had.", self.nacks_missed),
            ("nacks_over_budget_total", "Packets asked for beyond a subscriber's budget.", self.nacks_over_budget),
            (
                "nacks_repeated_total",
                "Packets that subscribers asked for again within a round trip.",
                self.nacks_repeated,
            ),
            ("nacks_sent_total", "Packets that we asked publishers for.", self.nacks_sent),
            (
                "transport_feedback_received_total",
                "Reports of subscribers on packets with transport-wide numbers.",
                self.feedback_received,
            ),
            ("keyframe_requests_received_total", "PLI and FIR of subscribers.", self.keyframe_requests_received),
            ("firs_received_total", "FIR of subscribers.", self.firs_received),
            ("keyframe_requests_sent_total", "PLI to publishers.", self.keyframe_requests_sent),
            ("data_received_total", "Data channel messages that arrived.", self.data_received),
            (
                "data_overflow_total",
                "Data messages dropped because they came faster than their room took them.",
                self.data_overflow,
            ),
            (
                "data_over_rate_total",
                "Lossy data messages dropped because their sender made too much work, by their bytes and receivers.",
                self.data_over_rate,
            ),
            ("handed_over_total", "Datagrams passed to the worker that owns their transport.", self.handed_over),
            ("taken_over_total", "Datagrams taken from another worker's socket.", self.taken_over),
            (
                "accept_pauses_total",
                "Times that no ICE-TCP connection was accepted for want of file descriptors.",
                self.accept_pauses,
            ),
            (
                "nominations_unproven_total",
                "Nominations of an address that had to show first that it receives.",
                self.nominations_unproven,
            ),
            (
                "handshakes_withheld_total",
                "Datagrams of handshakes not sent, as too little had come from an address that has not answered any.",
                self.handshakes_withheld,
            ),
            ("path_checks_sent_total", "Checks that nominated addresses had to answer.", self.path_checks_sent),
            ("paths_moved_total", "Transports that went on at another address.", self.paths_moved),
            ("panics_total", "Faults in the program that a worker went on after.", self.panics),
            ("worker_restarts_total", "Faults after which a worker closed all of its transports.", self.restarts),
            ("worker_stalls_total", "Turns of a worker that took more than a quarter of a second.", self.stalls),
            ("control_microseconds_total", "Time that DTLS, SCTP and RTCP took.", self.control_micros),
            ("budgets_spent_total", "Times that a transport took too much of its worker's time.", self.budgets_spent),
        ];
        let handshakes = [
            ("AEAD_AES_128_GCM", self.handshakes.gcm128),
            ("AEAD_AES_256_GCM", self.handshakes.gcm256),
            ("AES128_CM_HMAC_SHA1_80", self.handshakes.cm),
        ];
        let ends = [
            ("consent_lost", self.ended.consent_lost),
            ("handshake_failed", self.ended.handshake_failed),
            ("wrong_fingerprint", self.ended.wrong_fingerprint),
            ("closed_by_peer", self.ended.closed_by_peer),
            ("internal_error", self.ended.internal_error),
        ];
        let losses = [
            ("receive_buffer", self.losses.receive_buffer),
            ("send_buffer", self.losses.send_buffer),
            ("refused", self.losses.refused),
            ("overrun", self.losses.overrun),
        ];
        let plain = plain.into_iter().map(|(name, help, value)| (name, String::new(), help, value));
        let handshakes = handshakes.into_iter().map(|(profile, value)| {
            ("handshakes_total", format!("profile=\"{profile}\""), "DTLS handshakes by SRTP profile.", value)
        });
        let ends = ends.into_iter().map(|(reason, value)| {
            ("transports_ended_total", format!("reason=\"{reason}\""), "Transports that ended by themselves.", value)
        });
        let losses = losses.into_iter().map(|(place, value)| {
            let help =
                "Datagrams lost on this machine: not read, not taken by the kernel, refused, not forwarded in time.";
            ("datagrams_lost_total", format!("at=\"{place}\""), help, value)
        });
        let dropped = [
            ("not_open", self.data_dropped.not_open),
            ("too_long", self.data_dropped.too_long),
            ("slow", self.data_dropped.slow),
            ("full", self.data_dropped.full),
            ("late", self.data_dropped.late),
        ];
        let dropped = dropped.into_iter().map(|(reason, value)| {
            ("data_dropped_total", format!("reason=\"{reason}\""), "Data channel messages not sent to a client.", value)
        });
        let discards = Discard::ALL.iter().map(|discard| {
            let label = format!("reason=\"{}\"", discard.label());
            ("discards_total", label, "What was dropped on arrival, by reason.", self.discards(*discard))
        });
        plain.chain(handshakes).chain(ends).chain(losses).chain(dropped).chain(discards).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters that are not zero: name, label and value.
    fn shown(stats: &Stats) -> Vec<(&'static str, String, u64)> {
        let counters = stats.counters().into_iter().filter(|(.., value)| *value > 0);
        counters.map(|(name, label, _, value)| (name, label, value)).collect()
    }

    #[test]
    fn each_handshake_counts_under_its_profile() {
        for (profile, label) in [
            (SrtpProfile::AeadAes128Gcm, "AEAD_AES_128_GCM"),
            (SrtpProfile::AeadAes256Gcm, "AEAD_AES_256_GCM"),
            (SrtpProfile::Aes128CmSha1_80, "AES128_CM_HMAC_SHA1_80"),
        ] {
            let mut stats = Stats::default();
            (0..3).for_each(|_| stats.handshakes.count(profile));
            assert_eq!(shown(&stats), [("handshakes_total", format!("profile=\"{label}\""), 3)]);
        }
    }

    #[test]
    fn each_end_of_a_transport_counts_under_its_reason() {
        for (end, label) in [
            (TransportEnd::ConsentLost, "consent_lost"),
            (TransportEnd::HandshakeFailed, "handshake_failed"),
            (TransportEnd::WrongFingerprint, "wrong_fingerprint"),
            (TransportEnd::ClosedByPeer, "closed_by_peer"),
            (TransportEnd::InternalError, "internal_error"),
        ] {
            let mut stats = Stats::default();
            (0..3).for_each(|_| stats.ended.count(end));
            assert_eq!(shown(&stats), [("transports_ended_total", format!("reason=\"{label}\""), 3)]);
        }
    }

    #[test]
    fn each_data_message_that_was_not_sent_counts_under_its_reason() {
        for (why, label) in [
            (SendDataError::NotOpen, "not_open"),
            (SendDataError::Closed, "not_open"),
            (SendDataError::TooLong, "too_long"),
            (SendDataError::Slow, "slow"),
            (SendDataError::Full, "full"),
            (SendDataError::Late, "late"),
        ] {
            let mut stats = Stats::default();
            (0..3).for_each(|_| stats.data_dropped.count(why));
            assert_eq!(shown(&stats), [("data_dropped_total", format!("reason=\"{label}\""), 3)]);
        }
    }

    #[test]
    fn each_discard_counts_under_its_reason() {
        for &discard in Discard::ALL {
            let mut stats = Stats::default();
            stats.count(discard);
            stats.add(discard, 4);
            assert_eq!(stats.discards(discard), 5);
            assert_eq!(shown(&stats), [("discards_total", format!("reason=\"{}\"", discard.label()), 5)]);
        }
    }

    #[test]
    fn losses_add_up_by_the_place_where_they_happened() {
        let mut stats = Stats::default();
        for (receive_buffer, send_buffer, refused, overrun) in [(1, 2, 3, 4), (10, 20, 30, 40), (100, 200, 300, 400)] {
            stats.losses.add(Losses { receive_buffer, send_buffer, refused, overrun });
        }
        let expected = [("receive_buffer", 111), ("send_buffer", 222), ("refused", 333), ("overrun", 444)];
        let expected = expected.map(|(at, value)| ("datagrams_lost_total", format!("at=\"{at}\""), value));
        assert_eq!(shown(&stats), expected);
    }

    /// What is observed of a stream that lost so many of a hundred packets.
    fn observed(lost: u64) -> StreamQuality {
        let mut quality = StreamQuality::default();
        let out_of_order = 2 * lost;
        quality.count_received(&ReceiveStats { packets: 100 - lost, bytes: 0, lost, out_of_order, jitter_us: 7 });
        quality.rtt_ms.observe(3.0 * lost as f64);
        quality
    }

    fn sums(quality: &StreamQuality) -> [f64; 6] {
        let StreamQuality { lost, loss_percent, out_of_order, out_of_order_percent, jitter_us, rtt_ms } = quality;
        let [lost, out_of_order] = [*lost as f64, *out_of_order as f64];
        [lost, loss_percent.sum(), out_of_order, out_of_order_percent.sum(), jitter_us.sum(), rtt_ms.sum()]
    }

    #[test]
    fn a_stream_of_which_nothing_was_expected_is_not_observed() {
        let mut quality = StreamQuality::default();
        quality.count_received(&ReceiveStats::default());
        assert_eq!((quality.loss_percent.count(), quality.jitter_us.count()), (0, 0));
        assert_eq!(sums(&observed(5)), [5.0, 5.0, 10.0, 10.0, 7.0, 15.0]);
    }

    #[test]
    fn what_workers_know_of_media_adds_up_by_direction_and_kind() {
        let of_worker = |factor: u64| MediaStats {
            received: ByKind { audio: observed(factor), video: observed(2 * factor) },
            sent: ByKind { audio: observed(3 * factor), video: observed(4 * factor) },
            subscriptions: ByKind { audio: 5 * factor, video: 6 * factor },
        };
        let mut all = MediaStats::default();
        all.add(&of_worker(1));
        all.add(&of_worker(2));
        let expected = |lost: f64| [lost, lost, 2.0 * lost, 2.0 * lost, 14.0, 3.0 * lost];
        assert_eq!(sums(&all.received.audio), expected(3.0));
        assert_eq!(sums(&all.received.video), expected(6.0));
        assert_eq!(sums(&all.sent.audio), expected(9.0));
        assert_eq!(sums(&all.sent.video), expected(12.0));
        assert_eq!((all.subscriptions.audio, all.subscriptions.video), (15, 18));
    }
}
