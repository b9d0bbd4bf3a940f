//! The course of a load test: publishers, then joins at a rate, then the measurement, then everybody leaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::churn::{self, Churn, ChurnReport};
use crate::client::{Client, ClientOptions, TrackSpec};
use crate::clock::monotonic_ns;
use crate::delivery::Published;
use crate::drops::{self, Drops, Metrics};
use crate::dtls::Identity;
use crate::marks::{Mark, Marks};
use crate::media::{MediaOptions, MediaThread, Snapshot};
use crate::options::{Options, Publishers};
use crate::report::Report;
use crate::sender::Source;
use crate::summary::Findings;
use crate::timeline::{Joins, Sampler};
use crate::token::ApiKey;
use crate::trace::{Layer, Pattern};
use crate::transport::{Loss, TransportStats};

/// Media flows for this long before the server's memory is read the first time.
const SETTLE: Duration = Duration::from_secs(1);
/// A joined subscriber has its media within this time.
const MEDIA_MAX: Duration = Duration::from_secs(15);
/// A late viewer may first get what has been sent since the last key frame; this is over after that time.
const CATCH_UP: Duration = Duration::from_millis(500);
/// What is still under way when publishers stop arrives within this time, retransmissions included.
const DRAIN: Duration = Duration::from_millis(800);

/// Runs a load test.
///
/// # Errors
///
/// When the test cannot run: no publisher gets in, the server's process or its metrics are not there. Failed joins of
/// subscribers are in the report.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    let test = Test::new(options).await?;
    let (publishers, published) = test.start_publishers().await?;
    sleep(SETTLE).await;
    let before = test.mark().await?;
    let started_ns = monotonic_ns();
    let sampler = test.sampler();
    let audience = test.join_subscribers().await;
    test.await_media(&audience).await;
    sleep(CATCH_UP).await;
    let dropped = test.dropped().await;
    let start = test.mark().await?;
    test.subscriber_media.reset_delays();
    let churn = test.measure().await?;
    let end = test.mark().await?;
    test.publisher_media.stop_sending();
    sleep(DRAIN).await;
    let last = test.mark().await?;
    let server_drops = test.dropped_since(dropped).await;
    let timeline = sampler.stop().await;
    let findings = Findings {
        options: &test.options,
        publishers: &publishers,
        published,
        clients: &audience.clients,
        join_errors: audience.errors.into_iter().collect(),
        without_media: test.without_media(&audience.clients, &end.subscribers),
        marks: Marks { before, start, end, last },
        churn,
        server_drops,
        timeline,
        started_ns,
    };
    let report = findings.report();
    leave(audience.clients).await;
    leave(publishers).await;
    Ok(report)
}

/// The subscribers, joined or not.
#[derive(Default)]
struct Audience {
    clients: Vec<Client>,
    errors: BTreeMap<String, usize>,
}

struct Test {
    options: Options,
    publishers: Publishers,
    identity: Identity,
    key: ApiKey,
    metrics: Option<Metrics>,
    joins: Arc<Joins>,
    publisher_media: MediaThread,
    subscriber_media: MediaThread,
}

impl Test {
    async fn new(options: Options) -> anyhow::Result<Self> {
        if options.num_per_second.is_nan() || options.num_per_second <= 0.0 {
            bail!("--num-per-second must be positive");
        }
        let metrics = match &options.metrics_url {
            Some(url) => Some(Metrics::open(url).await?),
            None => None,
        };
        Ok(Self {
            publishers: options.publishers(),
            identity: Identity::generate(options.srtp.profiles())?,
            key: ApiKey { key: options.api_key.clone(), secret: options.api_secret.clone() },
            metrics,
            joins: Arc::default(),
            publisher_media: MediaThread::spawn("lt-publishers", MediaOptions::default())?,
            subscriber_media: MediaThread::spawn("lt-subscribers", receiving(&options))?,
            options,
        })
    }

    fn client_options(&self, room: &str, identity: &str) -> anyhow::Result<ClientOptions> {
        let token = self.key.token(room, identity)?;
        let mut client = ClientOptions::new(&self.options.url, token);
        client.protocol = self.options.protocol;
        client.setup = self.options.setup;
        client.loss = Loss { down: self.options.loss_down, up: self.options.loss_up };
        // As many sections as browsers offer, or as there are tracks.
        client.audio_sections = client.audio_sections.max(self.publishers.audio);
        client.video_sections = client.video_sections.max(self.publishers.video);
        Ok(client)
    }

    async fn start_publishers(&self) -> anyhow::Result<(Vec<Client>, Published)> {
        let mut publishers = Vec::new();
        let mut published = Published::default();
        let a_room = self.publishers.video.max(self.publishers.audio);
        for (room, number) in (0..self.options.rooms()).flat_map(|room| (0..a_room).map(move |number| (room, number))) {
            let name = format!("{}-pub-{number}", self.options.identity_prefix);
            let mut options = self.client_options(&self.options.room_of(room), &name)?;
            options.auto_subscribe = false;
            let client = Client::join(&self.publisher_media, &self.identity, options)
                .await
                .with_context(|| format!("joining as {name}"))?;
            for track in self.tracks(number) {
                let kind = track.name.clone();
                let track = client.publish(track).await.with_context(|| format!("publishing {kind} as {name}"))?;
                published.add(track);
            }
            publishers.push(client);
        }
        Ok((publishers, published))
    }

    fn tracks(&self, publisher: usize) -> Vec<TrackSpec> {
        let options = &self.options;
        let mut tracks = Vec::new();
        if publisher < self.publishers.video {
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
        if publisher < self.publishers.audio {
            let source = Source::Audio {
                packets_per_second: options.audio_packets_per_second,
                payload_len: options.audio_packet_size,
            };
            tracks.push(TrackSpec { name: "microphone".to_owned(), source, simulcast: false });
        }
        tracks
    }

    async fn mark(&self) -> anyhow::Result<Mark> {
        Mark::take(&self.publisher_media, &self.subscriber_media, self.options.server_pid).await
    }

    /// What the server has dropped so far, if it was to be asked.
    async fn dropped(&self) -> Option<anyhow::Result<Drops>> {
        match &self.metrics {
            Some(metrics) => Some(metrics.read().await),
            None => None,
        }
    }

    /// What it has dropped since then.
    async fn dropped_since(&self, before: Option<anyhow::Result<Drops>>) -> Option<anyhow::Result<Drops>> {
        let (before, now) = (before?, self.dropped().await?);
        Some(before.and_then(|before| Ok(drops::since(&before, &now?))))
    }

    fn sampler(&self) -> Sampler {
        let (media, joins) = (self.subscriber_media.clone(), self.joins.clone());
        Sampler::start(media, joins, self.options.server_pid, self.options.quiet)
    }

    async fn join_subscribers(&self) -> Audience {
        let start = tokio::time::Instant::now();
        let mut joins = JoinSet::new();
        for number in 0..self.options.subscribers {
            let name = format!("{}-sub-{number}", self.options.identity_prefix);
            let options = self.client_options(&self.options.room_of(number), &name).map(|mut options| {
                options.verify = self.options.is_verified(number);
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
        while let Some(ended) = joins.join_next().await {
            let error = match ended {
                Ok(Ok(client)) => {
                    self.joins.joined.fetch_add(1, Ordering::Relaxed);
                    audience.clients.push(client);
                    continue;
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(error) => error.to_string(),
            };
            self.joins.failed.fetch_add(1, Ordering::Relaxed);
            *audience.errors.entry(error).or_default() += 1;
        }
        audience
    }

    async fn await_media(&self, audience: &Audience) {
        let limit = Instant::now() + MEDIA_MAX;
        while Instant::now() < limit {
            let snapshot = self.subscriber_media.snapshot().await;
            if self.without_media(&audience.clients, &snapshot) == 0 {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn without_media(&self, clients: &[Client], snapshot: &Snapshot) -> usize {
        let wanted = self.options.tracks();
        let complete = |stats: &TransportStats| stats.streams.len() >= wanted;
        clients.iter().filter(|client| !snapshot.transport(client.receiving).is_some_and(complete)).count()
    }

    /// Waits for the measured time; meanwhile others may come and go.
    async fn measure(&self) -> anyhow::Result<Option<ChurnReport>> {
        let duration = self.options.duration;
        if self.options.churn.is_nan() || self.options.churn <= 0.0 {
            sleep(duration).await;
            return Ok(None);
        }
        // Their packets are not those of the subscribers.
        let media = MediaThread::spawn("lt-churn", receiving(&self.options))?;
        let options = |number| {
            let name = format!("{}-churn-{number}", self.options.identity_prefix);
            let mut options = self.client_options(&self.options.room_of(number), &name)?;
            options.verify = false;
            Ok(options)
        };
        let churn = Churn {
            per_second: self.options.churn,
            sessions_max: self.options.churn_sessions,
            stay: self.options.churn_stay,
        };
        Ok(Some(churn::run(&media, &self.identity, churn, duration, options).await))
    }
}

fn receiving(options: &Options) -> MediaOptions {
    MediaOptions { sweep: options.sweep, coalesce: options.gro }
}

async fn leave(clients: Vec<Client>) {
    let mut leaving = JoinSet::new();
    for client in clients {
        leaving.spawn(client.leave());
    }
    while leaving.join_next().await.is_some() {}
}
