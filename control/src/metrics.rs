//! Prometheus' text format (version 0.0.4), summed from snapshots when somebody asks. LiveKit's names where the number
//! is LiveKit's, `onair_` before the rest.

mod guard;
mod livekit;
mod process;
mod product;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus::TextEncoder;
use prometheus::proto::{self, Bucket, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use sfu::io::Workers;
use sfu::stats::Counter;
use shared::histogram::Histogram;
use shared::log_limit::LogLimit;
use signaling::http::Counters;
use signaling::rooms::Rooms;
use tower::ServiceExt as _;
use tracing::warn;

use crate::config::Prometheus;
use crate::http::client::Proxies;
use crate::{serve, webhook_sender};
use guard::ScrapeGuard;

/// Where the numbers come from.
#[derive(Clone)]
pub struct Sources {
    pub node_id: String,
    /// When the process began.
    pub began: SystemTime,
    pub rooms: Rooms,
    pub workers: Arc<Workers>,
    pub surface: Arc<Counters>,
    pub webhooks: Arc<webhook_sender::Counters>,
    /// Bounds what is logged of callers without the password.
    pub refusals: Arc<LogLimit>,
    /// Of the listeners.
    pub serving: Arc<serve::Counters>,
    /// Absent in a media server alone.
    pub product: Option<crate::product::Sources>,
}

/// Further labels of a row, each a name and a value.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// Families of metrics, all with the labels that tell the node.
///
/// The counts live in the parts that count, so nothing is registered here: the families are made for each page.
struct Page<'a> {
    families: Vec<MetricFamily>,
    node_id: &'a str,
}

impl<'a> Page<'a> {
    fn new(node_id: &'a str) -> Self {
        Self { families: Vec::new(), node_id }
    }

    fn metric(&mut self, name: &str, help: &str, sort: MetricType, rows: &[(Labels<'_>, u64)]) {
        // The format has no integers; counts above 2^53 lose their last digits.
        let metrics = rows.iter().map(|(labels, value)| self.row(sort, labels, *value as f64)).collect();
        self.family(name, help, sort, metrics);
    }

    /// A metric of one row that is no whole number.
    fn value(&mut self, name: &str, help: &str, sort: MetricType, value: f64) {
        let row = self.row(sort, &[], value);
        self.family(name, help, sort, vec![row]);
    }

    fn histogram(&mut self, name: &str, help: &str, rows: &[(Labels<'_>, Histogram)]) {
        let metrics = rows.iter().map(|(labels, histogram)| {
            let mut metric = Metric::from_label(self.labels(labels));
            let mut shown = proto::Histogram::default();
            let buckets = histogram.cumulative().map(|(bound, count)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                bucket
            });
            shown.set_bucket(buckets.collect());
            shown.set_sample_count(histogram.count());
            shown.set_sample_sum(histogram.sum());
            metric.set_histogram(shown);
            metric
        });
        let metrics = metrics.collect();
        self.family(name, help, MetricType::HISTOGRAM, metrics);
    }

    fn family(&mut self, name: &str, help: &str, sort: MetricType, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(sort);
        family.set_metric(metrics);
        self.families.push(family);
    }

    fn labels(&self, labels: Labels<'_>) -> Vec<LabelPair> {
        let node = [("node_id", self.node_id), ("node_type", "SERVER")];
        let labels = node.iter().chain(labels).map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        });
        labels.collect()
    }

    fn row(&self, sort: MetricType, labels: Labels<'_>, value: f64) -> Metric {
        let mut metric = Metric::from_label(self.labels(labels));
        if sort == MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }

    fn text(&self) -> String {
        let mut text = String::new();
        match TextEncoder::new().encode_utf8(&self.families, &mut text) {
            Ok(()) => text,
            // A family without rows or name: a mistake of this file, which must not cost the other numbers.
            Err(error) => {
                warn!(%error, "metrics are incomplete");
                text
            }
        }
    }
}

/// All metrics now.
pub fn render(sources: &Sources) -> String {
    let mut page = Page::new(&sources.node_id);
    let counters = sources.workers.counters();
    process::add(&mut page, sources.began);
    livekit::add(&mut page, sources, &counters);
    let transports = sources.workers.handles().iter().map(|worker| worker.load() as u64).sum();
    page.metric("onair_transports", "Transports now hosted by the workers.", MetricType::GAUGE, &[(&[], transports)]);
    connections(&mut page, &sources.serving);
    surface(&mut page, &sources.surface);
    let refused = sources.rooms.stats().tracks_refused.load(Ordering::Relaxed);
    let help = "Tracks that participants announced beyond what they or their room may have.";
    page.metric("onair_tracks_refused_total", help, MetricType::COUNTER, &[(&[], refused)]);
    webhooks(&mut page, &sources.webhooks);
    if let Some(sources) = &sources.product {
        product::add(&mut page, sources);
    }
    workers(&mut page, &counters);
    page.text()
}

/// The workers' counters; those of one name differ by a label and follow one another.
fn workers(page: &mut Page<'_>, counters: &[Counter]) {
    for family in counters.chunk_by(|a, b| a.0 == b.0) {
        let Some((name, _, help, _)) = family.first() else { continue };
        let labels: Vec<Vec<(&str, &str)>> = family.iter().map(|(_, label, ..)| split(label).collect()).collect();
        let rows: Vec<(Labels<'_>, u64)> =
            labels.iter().zip(family).map(|(labels, counter)| (labels.as_slice(), counter.3)).collect();
        page.metric(&format!("onair_{name}"), help, MetricType::COUNTER, &rows);
    }
}

/// Name and value of a label that a worker wrote as `name="value"`, or nothing.
fn split(label: &str) -> impl Iterator<Item = (&str, &str)> {
    label.split_once('=').map(|(name, value)| (name, value.trim_matches('"'))).into_iter()
}

fn connections(page: &mut Page<'_>, counters: &serve::Counters) {
    let refused = [
        ("address", &counters.refused_share),
        ("full", &counters.refused_full),
        ("descriptors", &counters.refused_descriptors),
        ("bytes", &counters.over_budget),
        ("slow", &counters.slow_heads),
        ("message_bytes", &counters.messages.over_budget),
        ("message_slow", &counters.messages.slow),
    ];
    let help =
        "HTTP connections that were not served, or not to the end of a request's head or of a WebSocket's message.";
    counts(page, "onair_http_connections_refused_total", help, "reason", &refused);
    let pauses = counters.accept_pauses.load(Ordering::Relaxed);
    let help = "Times that no HTTP connection was accepted for want of file descriptors.";
    page.metric("onair_http_accept_pauses_total", help, MetricType::COUNTER, &[(&[], pauses)]);
}

fn surface(page: &mut Page<'_>, counters: &Counters) {
    let joins = [("accepted", &counters.joins_accepted), ("refused", &counters.joins_refused)];
    counts(page, "onair_joins_total", "Requests to join or resume.", "result", &joins);
    let not_admitted = counters.joins_not_admitted.load(Ordering::Relaxed);
    let help = "Joins refused though the token is good: users blocked or banned, streams that ended.";
    page.metric("onair_joins_not_admitted_total", help, MetricType::COUNTER, &[(&[], not_admitted)]);
    let too_often = counters.joins_too_often.load(Ordering::Relaxed);
    let help = "Joins refused because the same identity came too often.";
    page.metric("onair_joins_too_often_total", help, MetricType::COUNTER, &[(&[], too_often)]);
    let calls = [("answered", &counters.api_answered), ("refused", &counters.api_refused)];
    counts(page, "onair_api_requests_total", "Calls of the server APIs.", "result", &calls);
    let ends = [
        ("client", &counters.ended_by_client),
        ("room", &counters.ended_by_room),
        ("state_mismatch", &counters.ended_in_mismatch),
        ("unreadable", &counters.ended_unreadable),
        ("abusive", &counters.ended_abusive),
    ];
    counts(page, "onair_signal_ended_total", "Ended signalling connections.", "reason", &ends);
    let tokens = counters.tokens_refused.load(Ordering::Relaxed);
    page.metric("onair_tokens_refused_total", "Requests with a bad token.", MetricType::COUNTER, &[(&[], tokens)]);
    let refused: Vec<_> = signaling::wire_bounds::refused()
        .map(|(source, bound, count)| ([("source", source), ("bound", bound)], count))
        .collect();
    let rows: Vec<(Labels<'_>, u64)> = refused.iter().map(|(labels, count)| (&labels[..], *count)).collect();
    let help = "Messages that were not decoded, as they would have cost too much.";
    page.metric("onair_messages_refused_total", help, MetricType::COUNTER, &rows);
}

fn webhooks(page: &mut Page<'_>, counters: &webhook_sender::Counters) {
    let results = [
        ("delivered", &counters.delivered),
        ("retried", &counters.retried),
        ("refused", &counters.refused),
        ("expired", &counters.expired),
        ("overflowed", &counters.overflowed),
    ];
    counts(page, "onair_webhooks_total", "Webhooks sent to other servers, and tries.", "result", &results);
    let pending = counters.pending.load(Ordering::Relaxed);
    page.metric("onair_webhooks_pending", "Webhooks not delivered yet.", MetricType::GAUGE, &[(&[], pending)]);
}

/// Counters of one name, which differ by the value of one label.
fn counts(page: &mut Page<'_>, name: &str, help: &str, label: &str, values: &[(&str, &AtomicU64)]) {
    let labels: Vec<[(&str, &str); 1]> = values.iter().map(|(value, _)| [(label, *value)]).collect();
    let counts = values.iter().map(|(_, count)| count.load(Ordering::Relaxed));
    let rows: Vec<(Labels<'_>, u64)> = labels.iter().map(|label| &label[..]).zip(counts).collect();
    page.metric(name, help, MetricType::COUNTER, &rows);
}

/// Metrics beside the API, at `/metrics`, which proxies pass on: with a password. In development they are there without
/// one for callers on this machine; a proxy need not tell that it calls for somebody else, so nowhere else.
pub fn beside_the_api(sources: Sources, settings: &Prometheus, proxies: Proxies, development: bool) -> Router {
    let open = settings.username.is_empty();
    if open && !development {
        return Router::new();
    }
    let router = router(sources, settings, proxies.clone());
    Router::new().route(
        "/metrics",
        axum::routing::get(move |request: Request| {
            let (router, proxies) = (router.clone(), proxies.clone());
            async move {
                let (parts, body) = request.into_parts();
                if open && !proxies.client(&parts).is_local {
                    return StatusCode::NOT_FOUND.into_response();
                }
                router.oneshot(Request::from_parts(parts, body)).await.into_response()
            }
        }),
    )
}

/// Metrics at any path, as LiveKit has them.
pub fn router(sources: Sources, settings: &Prometheus, proxies: Proxies) -> Router {
    let guard = ScrapeGuard::new(settings, proxies, Arc::clone(&sources.refusals));
    Router::new().fallback(answer).with_state((sources, Arc::new(guard)))
}

async fn answer(State((sources, guard)): State<(Sources, Arc<ScrapeGuard>)>, request: Request) -> Response {
    if let Err(refused) = guard.admit(&request.into_parts().0, Instant::now()) {
        return refused.into_response();
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&sources)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_help_type_and_the_labels_of_the_node() {
        let mut page = Page::new("ND_x");
        page.metric("onair_joins_total", "Requests.", MetricType::COUNTER, &[(&[("result", "refused")], 3)]);
        page.metric("onair_transports", "Transports.", MetricType::GAUGE, &[(&[], 0)]);

        assert_eq!(
            page.text(),
            "# HELP onair_joins_total Requests.\n# TYPE onair_joins_total counter\n\
             onair_joins_total{node_id=\"ND_x\",node_type=\"SERVER\",result=\"refused\"} 3\n\
             # HELP onair_transports Transports.\n# TYPE onair_transports gauge\n\
             onair_transports{node_id=\"ND_x\",node_type=\"SERVER\"} 0\n"
        );
    }

    /// That rows of these names, labels and values are on a page, of the node `ND_x`.
    #[track_caller]
    pub(super) fn assert_shown(page: &Page<'_>, rows: &[(&str, &str, u64)]) {
        let text = page.text();
        for (name, labels, value) in rows {
            let comma = if labels.is_empty() { "" } else { "," };
            let row = format!("{name}{{node_id=\"ND_x\",node_type=\"SERVER\"{comma}{labels}}} {value}");
            assert!(text.lines().any(|line| line == row), "{row} is missing in\n{text}");
        }
    }

    pub(super) fn set(counters: &[&AtomicU64], first: u64) {
        for (counter, value) in counters.iter().zip(first..) {
            counter.store(value, Ordering::Relaxed);
        }
    }

    #[test]
    fn connections_joins_and_webhooks_are_shown_as_they_are_counted() {
        let mut page = Page::new("ND_x");
        let serving = serve::Counters::default();
        let of_messages = [&serving.messages.over_budget, &serving.messages.slow];
        let of_heads = [&serving.over_budget, &serving.slow_heads];
        set(&[&serving.refused_share, &serving.refused_full, &serving.refused_descriptors, &serving.accept_pauses], 1);
        set(&[of_heads, of_messages].concat(), 5);
        connections(&mut page, &serving);
        let joins = Counters::default();
        set(&[&joins.joins_accepted, &joins.joins_refused, &joins.joins_not_admitted, &joins.joins_too_often], 11);
        set(&[&joins.tokens_refused, &joins.api_answered, &joins.api_refused], 15);
        set(&[&joins.ended_by_client, &joins.ended_by_room, &joins.ended_in_mismatch], 18);
        set(&[&joins.ended_unreadable, &joins.ended_abusive], 21);
        surface(&mut page, &joins);
        let sent = webhook_sender::Counters::default();
        set(&[&sent.delivered, &sent.retried, &sent.refused, &sent.expired, &sent.overflowed, &sent.pending], 31);
        webhooks(&mut page, &sent);

        assert_shown(
            &page,
            &[
                ("onair_http_connections_refused_total", "reason=\"address\"", 1),
                ("onair_http_connections_refused_total", "reason=\"full\"", 2),
                ("onair_http_connections_refused_total", "reason=\"descriptors\"", 3),
                ("onair_http_accept_pauses_total", "", 4),
                ("onair_http_connections_refused_total", "reason=\"bytes\"", 5),
                ("onair_http_connections_refused_total", "reason=\"slow\"", 6),
                ("onair_http_connections_refused_total", "reason=\"message_bytes\"", 7),
                ("onair_http_connections_refused_total", "reason=\"message_slow\"", 8),
                ("onair_joins_total", "result=\"accepted\"", 11),
                ("onair_joins_total", "result=\"refused\"", 12),
                ("onair_joins_not_admitted_total", "", 13),
                ("onair_joins_too_often_total", "", 14),
                ("onair_tokens_refused_total", "", 15),
                ("onair_api_requests_total", "result=\"answered\"", 16),
                ("onair_api_requests_total", "result=\"refused\"", 17),
                ("onair_signal_ended_total", "reason=\"client\"", 18),
                ("onair_signal_ended_total", "reason=\"room\"", 19),
                ("onair_signal_ended_total", "reason=\"state_mismatch\"", 20),
                ("onair_signal_ended_total", "reason=\"unreadable\"", 21),
                ("onair_signal_ended_total", "reason=\"abusive\"", 22),
                ("onair_webhooks_total", "result=\"delivered\"", 31),
                ("onair_webhooks_total", "result=\"retried\"", 32),
                ("onair_webhooks_total", "result=\"refused\"", 33),
                ("onair_webhooks_total", "result=\"expired\"", 34),
                ("onair_webhooks_total", "result=\"overflowed\"", 35),
                ("onair_webhooks_pending", "", 36),
            ],
        );
        assert!(page.text().contains("onair_messages_refused_total"), "{}", page.text());
    }

    #[test]
    fn counters_of_workers_are_shown_and_those_of_one_name_together() {
        let mut page = Page::new("ND_x");
        let counter = |name, label: &str, value| (name, label.to_owned(), "Help.", value);
        workers(
            &mut page,
            &[
                counter("discarded_total", "reason=\"srtp_replay\"", 3),
                counter("discarded_total", "reason=\"stun\"", 4),
                counter("turns_total", "", 5),
            ],
        );

        assert_shown(
            &page,
            &[
                ("onair_discarded_total", "reason=\"srtp_replay\"", 3),
                ("onair_discarded_total", "reason=\"stun\"", 4),
                ("onair_turns_total", "", 5),
            ],
        );
        assert_eq!(page.text().matches("# TYPE onair_discarded_total counter").count(), 1);
    }

    #[test]
    fn a_histogram_has_its_buckets_their_sum_and_its_count() {
        let mut page = Page::new("ND_x");
        let mut histogram = Histogram::new(&[10.0, 100.0]);
        [5.0, 50.0, 60.0, 500.0].into_iter().for_each(|value| histogram.observe(value));
        page.histogram("onair_took_ms", "Took.", &[(&[("path", "/a")], histogram)]);

        assert_shown(
            &page,
            &[
                ("onair_took_ms_bucket", "path=\"/a\",le=\"10\"", 1),
                ("onair_took_ms_bucket", "path=\"/a\",le=\"100\"", 3),
                ("onair_took_ms_bucket", "path=\"/a\",le=\"+Inf\"", 4),
                ("onair_took_ms_sum", "path=\"/a\"", 615),
                ("onair_took_ms_count", "path=\"/a\"", 4),
            ],
        );
        assert!(page.text().contains("# TYPE onair_took_ms histogram"));
    }

    #[test]
    fn a_workers_label_is_taken_apart() {
        assert_eq!(split("reason=\"srtp_replay\"").collect::<Vec<_>>(), [("reason", "srtp_replay")]);
        assert_eq!(split("").count(), 0);
    }
}
