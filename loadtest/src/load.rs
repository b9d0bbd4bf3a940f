//! The course of a load test: publishers, then joins at a rate, then the measurement, then everybody leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Client, ClientOptions, TrackSpec};
use crate::clock::process_cpu_ns;
use crate::dtls::Identity;
use crate::histogram::{Histogram, Percentiles};
use crate::media::{MediaOptions, MediaThread, Snapshot};
use crate::options::Options;
use crate::procfs::{ProcessUsage, load_average, machine_ticks};
use crate::receiver::MediaKind;
use crate::report::{MachineReport, PublisherReport, Report, ServerReport, VerificationReport};
use crate::sender::{SenderCounts, Source};
use crate::signal::Protocol;
use crate::token::ApiKey;
use crate::trace::{Layer, Pattern};
use crate::transport::{Loss, StreamStats, TransportStats};

/// Media flows for this long before the server's memory is read the first time.
const SETTLE: Duration = Duration::from_secs(1);
/// A joined subscriber has its media within this time.
const MEDIA_MAX: Duration = Duration::from_secs(15);
/// What is still under way when publishers stop arrives within this time, retransmissions included.
const DRAIN: Duration = Duration::from_millis(800);

/// Runs a load test.
///
/// # Errors
///
/// When the test cannot run: no publisher gets in, the server's process is not there. Failed joins of subscribers are
/// in the report.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    let test = Test::new(options)?;
    let publishers = test.start_publishers().await?;
    sleep(SETTLE).await;
    let before = test.mark().await?;
    let audience = test.join_subscribers().await;
    test.await_media(&audience).await;
    let start = test.mark().await?;
    test.subscriber_media.reset_delays();
    test.watch(start.at, start.received()).await;
    let end = test.mark().await?;
    test.publisher_media.stop_sending();
    sleep(DRAIN).await;
    let last = test.mark().await?;
    let report = test.report(&audience, &Marks { before, start, end, last });
    leave(audience.clients).await;
    leave(publishers).await;
    Ok(report)
}

/// Everything that is read at one moment.
struct Mark {
    at: Instant,
    subscribers: Snapshot,
    publishers: Snapshot,
    server: Option<ProcessUsage>,
    machine: (u64, u64),
    process_cpu_ns: u64,
}

impl Mark {
    fn streams(&self) -> impl Iterator<Item = &StreamStats> {
        self.subscribers.transports.iter().flat_map(|(_, stats)| &stats.streams)
    }

    fn received(&self) -> u64 {
        self.streams().map(|stream| stream.counts.received).sum()
    }

    fn sent(&self) -> SenderCounts {
        let mut sum = SenderCounts::default();
        for counts in self.publishers.transports.iter().flat_map(|(_, stats)| &stats.senders) {
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

struct Marks {
    before: Mark,
    start: Mark,
    end: Mark,
    last: Mark,
}

/// The subscribers, joined or not.
#[derive(Default)]
struct Audience {
    clients: Vec<Client>,
    errors: BTreeMap<String, usize>,
}

struct Test {
    options: Options,
    identity: Identity,
    key: ApiKey,
    publisher_media: MediaThread,
    subscriber_media: MediaThread,
}

impl Test {
    fn new(options: Options) -> anyhow::Result<Self> {
        if options.num_per_second.is_nan() || options.num_per_second <= 0.0 {
            bail!("--num-per-second must be positive");
        }
        let receiving = MediaOptions { sweep: options.sweep, coalesce: options.gro };
        Ok(Self {
            identity: Identity::generate(options.srtp.profiles())?,
            key: ApiKey { key: options.api_key.clone(), secret: options.api_secret.clone() },
            publisher_media: MediaThread::spawn("lt-publishers", MediaOptions::default())?,
            subscriber_media: MediaThread::spawn("lt-subscribers", receiving)?,
            options,
        })
    }

    fn client_options(&self, identity: &str) -> anyhow::Result<ClientOptions> {
        let token = self.key.token(&self.options.room, identity)?;
        let mut client = ClientOptions::new(&self.options.url, token);
        client.protocol = self.options.protocol;
        client.loss = Loss { down: self.options.loss_down, up: self.options.loss_up };
        // As many sections as browsers offer, or as there are tracks.
        client.audio_sections = client.audio_sections.max(self.options.audio_publishers);
        client.video_sections = client.video_sections.max(self.options.video_publishers);
        Ok(client)
    }

    async fn start_publishers(&self) -> anyhow::Result<Vec<Client>> {
        let mut publishers = Vec::new();
        for number in 0..self.options.video_publishers.max(self.options.audio_publishers) {
            let name = format!("{}-pub-{number}", self.options.identity_prefix);
            let mut options = self.client_options(&name)?;
            options.auto_subscribe = false;
            let client = Client::join(&self.publisher_media, &self.identity, options)
                .await
                .with_context(|| format!("joining as {name}"))?;
            for track in self.tracks(number) {
                let kind = track.name.clone();
                client.publish(track).await.with_context(|| format!("publishing {kind} as {name}"))?;
            }
            publishers.push(client);
        }
        Ok(publishers)
    }

    fn tracks(&self, publisher: usize) -> Vec<TrackSpec> {
        let options = &self.options;
        let mut tracks = Vec::new();
        if publisher < options.video_publishers {
            let pattern = match options.video_packets_per_second {
                Some(packets_per_second) => {
                    Pattern::Steady { packets_per_second, payload_len: options.video_packet_size }
                }
                None => Pattern::Trace {
                    layer: Layer::High,
                    bitrate_bps: options.video_bitrate,
                    payload_max: options.video_packet_size,
                },
            };
            let source = Source::Video { codec: options.video_codec, pattern };
            tracks.push(TrackSpec { name: "camera".to_owned(), source, simulcast: options.is_simulcast() });
        }
        if publisher < options.audio_publishers {
            let source = Source::Audio {
                packets_per_second: options.audio_packets_per_second,
                payload_len: options.audio_packet_size,
            };
            tracks.push(TrackSpec { name: "microphone".to_owned(), source, simulcast: false });
        }
        tracks
    }

    async fn mark(&self) -> anyhow::Result<Mark> {
        Ok(Mark {
            server: self.options.server_pid.map(ProcessUsage::read).transpose()?,
            at: Instant::now(),
            machine: machine_ticks(),
            process_cpu_ns: process_cpu_ns(),
            subscribers: self.subscriber_media.snapshot().await,
            publishers: self.publisher_media.snapshot().await,
        })
    }

    async fn join_subscribers(&self) -> Audience {
        let verified = self.verified_subscribers();
        let start = tokio::time::Instant::now();
        let mut joins = JoinSet::new();
        for number in 0..self.options.subscribers {
            let name = format!("{}-sub-{number}", self.options.identity_prefix);
            let options = self.client_options(&name).map(|mut options| {
                options.verify = number < verified;
                options
            });
            let (media, identity) = (self.subscriber_media.clone(), self.identity.clone());
            let at = start + Duration::from_secs_f64(number as f64 / self.options.num_per_second);
            joins.spawn(async move {
                tokio::time::sleep_until(at).await;
                Client::join(&media, &identity, options?).await
            });
        }
        let mut audience = Audience::default();
        let mut shown = Instant::now();
        while let Some(joined) = joins.join_next().await {
            match joined {
                Ok(Ok(client)) => audience.clients.push(client),
                Ok(Err(error)) => *audience.errors.entry(format!("{error:#}")).or_default() += 1,
                Err(error) => *audience.errors.entry(error.to_string()).or_default() += 1,
            }
            if !self.options.quiet && shown.elapsed() >= Duration::from_secs(1) {
                shown = Instant::now();
                let failed: usize = audience.errors.values().sum();
                eprintln!("joined {} of {}, {failed} failed", audience.clients.len(), self.options.subscribers);
            }
        }
        audience
    }

    fn verified_subscribers(&self) -> usize {
        (self.options.subscribers as f64 * self.options.verify.clamp(0.0, 1.0)).ceil() as usize
    }

    fn streams_wanted(&self) -> usize {
        self.options.video_publishers + self.options.audio_publishers
    }

    async fn await_media(&self, audience: &Audience) {
        let limit = Instant::now() + MEDIA_MAX;
        while Instant::now() < limit {
            let snapshot = self.subscriber_media.snapshot().await;
            if self.without_media(audience, &snapshot) == 0 {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn without_media(&self, audience: &Audience, snapshot: &Snapshot) -> usize {
        let complete = |stats: &TransportStats| stats.streams.len() >= self.streams_wanted();
        audience.clients.iter().filter(|client| !snapshot.transport(client.receiving).is_some_and(complete)).count()
    }

    /// Waits for the measured time and shows each second what came.
    async fn watch(&self, start: Instant, mut received: u64) {
        let mut second = 0;
        while start.elapsed() < self.options.duration {
            second += 1;
            let next = (start + Duration::from_secs(second)).min(start + self.options.duration);
            tokio::time::sleep_until(next.into()).await;
            if self.options.quiet {
                continue;
            }
            let snapshot = self.subscriber_media.snapshot().await;
            let streams = || snapshot.transports.iter().flat_map(|(_, stats)| &stats.streams);
            let total: u64 = streams().map(|stream| stream.counts.received).sum();
            let missing: u64 = streams().map(|stream| stream.counts.expected - stream.counts.received).sum();
            let dropped: u64 = snapshot.transports.iter().map(|(_, stats)| stats.kernel_drops).sum();
            eprintln!(
                "{second:>4} s: {} packets/s, {missing} missing, {dropped} dropped by the kernel",
                total.saturating_sub(received)
            );
            received = total;
        }
    }

    fn report(&self, audience: &Audience, marks: &Marks) -> Report {
        let last = &marks.last;
        let mut report = Report {
            subscribers: audience.clients.len(),
            subscribers_wanted: self.options.subscribers,
            join_errors: audience.errors.clone().into_iter().collect(),
            subscribers_without_media: self.without_media(audience, &marks.end.subscribers),
            subscribers_lost: audience
                .clients
                .iter()
                .filter(|client| last.subscribers.transport(client.receiving).is_none())
                .count(),
            protocol: self.protocol(audience),
            srtp_profile: profiles(audience),
            duration_s: (marks.end.at - marks.start.at).as_secs_f64(),
            kernel_drops: last.subscribers.transports.iter().map(|(_, stats)| stats.kernel_drops).sum(),
            publishers: self.publishers(marks, audience.clients.len()),
            verification: self.verification(last),
            delay_ms: marks.end.subscribers.delays.percentiles(1e6),
            machine: machine(marks),
            ..Report::default()
        };
        count_packets(&mut report, last);
        time_clients(&mut report, audience, last);
        let window_packets = marks.end.received() - marks.start.received();
        let client_cpu_ns = marks.end.subscribers.cpu_ns - marks.start.subscribers.cpu_ns;
        report.packets_per_second = window_packets as f64 / report.duration_s.max(1e-9);
        report.client_cpu_us_per_packet = client_cpu_ns as f64 / 1e3 / window_packets.max(1) as f64;
        report.server = server(marks, audience.clients.len());
        report
    }

    fn protocol(&self, audience: &Audience) -> &'static str {
        match audience.clients.first().map_or(self.options.protocol, |client| client.protocol) {
            Protocol::V0 => "v0",
            Protocol::V1 => "v1",
        }
    }

    fn publishers(&self, marks: &Marks, subscribers: usize) -> PublisherReport {
        let (start, last) = (marks.start.sent(), marks.last.sent());
        PublisherReport {
            packets_sent: last.packets,
            key_frames: last.key_frames,
            key_frame_requests: last.key_frame_requests,
            packets_nacked: last.packets_nacked,
            retransmitted: last.retransmitted,
            window_expected: (last.packets - start.packets) * subscribers as u64,
            window_received: marks.last.received() - marks.start.received(),
        }
    }

    fn verification(&self, last: &Mark) -> VerificationReport {
        let mut report = VerificationReport { subscribers: self.verified_subscribers(), ..Default::default() };
        for (_, stats) in &last.subscribers.transports {
            report.packets += stats.verified;
            report.forged += stats.forged;
            // Others decrypt single packets only.
            let received: u64 = stats.streams.iter().map(|stream| stream.counts.received).sum();
            if stats.verified >= received {
                for stream in &stats.streams {
                    report.source_expected += stream.source_expected;
                    report.source_received += stream.source_received;
                    report.unstamped += stream.unstamped;
                }
            }
        }
        report
    }
}

fn profiles(audience: &Audience) -> String {
    let names: BTreeSet<&str> = audience.clients.iter().map(|client| client.profile.name()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn count_packets(report: &mut Report, last: &Mark) {
    for stream in last.streams() {
        let counts = stream.counts;
        report.packets_expected += counts.expected;
        report.packets_received += counts.received;
        report.packets_late += counts.late;
        report.packets_duplicate += counts.duplicates;
        report.packets_recovered += counts.recovered;
        report.packets_requested += counts.requested;
        report.bytes_received += counts.bytes;
    }
    report.packets_dropped_on_purpose =
        last.subscribers.transports.iter().map(|(_, stats)| stats.lost_on_purpose).sum();
    report.packets_missing = report.packets_expected - report.packets_received;
    report.packets_lost = report.packets_missing.saturating_sub(report.kernel_drops);
}

fn time_clients(report: &mut Report, audience: &Audience, last: &Mark) {
    let percentiles = |time: &dyn Fn(&TransportStats) -> Option<u64>| -> Option<Percentiles> {
        let times = audience.clients.iter().filter_map(|client| {
            let at_ns = time(last.subscribers.transport(client.receiving)?)?;
            Some(at_ns.saturating_sub(client.started_ns))
        });
        times.collect::<Histogram>().percentiles(1e6)
    };
    let video = |stats: &TransportStats| stats.streams.iter().any(|stream| stream.kind == MediaKind::Video);
    report.join_ms = percentiles(&|stats| stats.connected_ns);
    report.first_packet_ms =
        percentiles(&|stats| stats.streams.iter().filter_map(|stream| stream.first_packet_ns).min());
    report.first_keyframe_ms = percentiles(&|stats| {
        let keys = stats.streams.iter().filter_map(|stream| stream.first_key_frame_ns);
        video(stats).then(|| keys.min()).flatten()
    });
}

fn machine(marks: &Marks) -> MachineReport {
    let (used, all) =
        (marks.end.machine.0 - marks.start.machine.0, (marks.end.machine.1 - marks.start.machine.1).max(1));
    let seconds = (marks.end.at - marks.start.at).as_secs_f64().max(1e-9);
    MachineReport {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_used: used as f64 / all as f64,
        load_average: load_average(),
        client_cores: (marks.end.process_cpu_ns - marks.start.process_cpu_ns) as f64 / 1e9 / seconds,
    }
}

fn server(marks: &Marks, subscribers: usize) -> Option<ServerReport> {
    let (before, start, end) = (marks.before.server?, marks.start.server?, marks.end.server?);
    let packets = (marks.end.received() - marks.start.received()).max(1);
    let seconds = (marks.end.at - marks.start.at).as_secs_f64().max(1e-9);
    let cpu_ns = end.cpu_ns - start.cpu_ns;
    let cpu_us_per_packet = cpu_ns as f64 / 1e3 / packets as f64;
    let joins = subscribers.max(1) as f64;
    let forwarding_us = marks.start.received() as f64 * cpu_us_per_packet;
    let joining_us = ((start.cpu_ns - before.cpu_ns) as f64 / 1e3 - forwarding_us).max(0.0);
    Some(ServerReport {
        cpu_us_per_packet,
        cpu_ms_per_join: joining_us / 1e3 / joins,
        rss_bytes_per_subscriber: end.rss_bytes.saturating_sub(before.rss_bytes) as f64 / joins,
        rss_before_bytes: before.rss_bytes,
        rss_bytes: end.rss_bytes,
        cpu_cores: cpu_ns as f64 / 1e9 / seconds,
        threads: end.threads,
        context_switches_per_second: end.context_switches.saturating_sub(start.context_switches) as f64 / seconds,
    })
}

async fn leave(clients: Vec<Client>) {
    let mut leaving = JoinSet::new();
    for client in clients {
        leaving.spawn(client.leave());
    }
    while leaving.join_next().await.is_some() {}
}
