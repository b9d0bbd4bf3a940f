//! Prometheus' text format (version 0.0.4), summed from snapshots when somebody asks. LiveKit's names where the number
//! is LiveKit's, `onair_` before the rest.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sfu::io::Workers;
use signaling::http::Counters;
use signaling::rooms::Rooms;

use crate::config::Prometheus;

/// Where the numbers come from.
#[derive(Clone)]
pub struct Sources {
    pub node_id: String,
    pub rooms: Rooms,
    pub workers: Arc<Workers>,
    pub surface: Arc<Counters>,
}

/// What a metric may do over time.
#[derive(Debug, Clone, Copy)]
enum Sort {
    Gauge,
    Counter,
}

impl Sort {
    fn name(self) -> &'static str {
        match self {
            Sort::Gauge => "gauge",
            Sort::Counter => "counter",
        }
    }
}

/// Lines of metrics, all with the labels that tell the node.
struct Page {
    text: String,
    labels: String,
}

impl Page {
    fn new(node_id: &str) -> Self {
        Self { text: String::new(), labels: format!("node_id=\"{node_id}\",node_type=\"SERVER\"") }
    }

    /// `rows`: further labels, each with a value.
    fn metric(&mut self, name: &str, help: &str, sort: Sort, rows: &[(&str, u64)]) {
        let labels = self.labels.clone();
        let mut line = |arguments: std::fmt::Arguments| {
            let _ = self.text.write_fmt(arguments);
        };
        line(format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", sort.name()));
        for (further, value) in rows {
            let comma = if further.is_empty() { "" } else { "," };
            line(format_args!("{name}{{{labels}{comma}{further}}} {value}\n"));
        }
    }
}

/// All metrics now.
pub fn render(sources: &Sources) -> String {
    let mut page = Page::new(&sources.node_id);
    rooms(&mut page, sources);
    surface(&mut page, &sources.surface);
    workers(&mut page, sources);
    page.text
}

/// The workers' counters; those of one name differ by a label and follow one another.
fn workers(page: &mut Page, sources: &Sources) {
    let counters = sources.workers.counters();
    for family in counters.chunk_by(|a, b| a.0 == b.0) {
        let Some((name, _, help, _)) = family.first() else { continue };
        let rows: Vec<(&str, u64)> = family.iter().map(|(_, label, _, value)| (label.as_str(), *value)).collect();
        page.metric(&format!("onair_{name}"), help, Sort::Counter, &rows);
    }
}

fn rooms(page: &mut Page, sources: &Sources) {
    let counts = sources.rooms.counts();
    let gauges = [
        ("livekit_room_total", "Rooms now open.", counts.rooms),
        ("livekit_participant_total", "Participants now in rooms.", counts.participants),
        ("livekit_track_published_total", "Tracks now published.", counts.tracks),
    ];
    for (name, help, value) in gauges {
        page.metric(name, help, Sort::Gauge, &[("", value as u64)]);
    }
    let transports = sources.workers.handles().iter().map(|worker| worker.load() as u64).sum();
    page.metric("onair_transports", "Transports now hosted by the workers.", Sort::Gauge, &[("", transports)]);
}

fn surface(page: &mut Page, counters: &Counters) {
    let joins = [
        ("result=\"accepted\"", counters.joins_accepted.load(Ordering::Relaxed)),
        ("result=\"refused\"", counters.joins_refused.load(Ordering::Relaxed)),
    ];
    page.metric("onair_joins_total", "Requests to join or resume.", Sort::Counter, &joins);
    let calls = [
        ("result=\"answered\"", counters.api_answered.load(Ordering::Relaxed)),
        ("result=\"refused\"", counters.api_refused.load(Ordering::Relaxed)),
    ];
    page.metric("onair_api_requests_total", "Calls of the server APIs.", Sort::Counter, &calls);
}

/// Metrics at any path, as LiveKit has them.
pub fn router(sources: Sources, settings: &Prometheus) -> Router {
    let expected = (!settings.username.is_empty())
        .then(|| BASE64_STANDARD.encode(format!("{}:{}", settings.username, settings.password.0)));
    Router::new().fallback(answer).with_state((sources, expected.map(Arc::<str>::from)))
}

async fn answer(State((sources, expected)): State<(Sources, Option<Arc<str>>)>, headers: HeaderMap) -> Response {
    if let Some(expected) = expected
        && !presents(&headers, &expected)
    {
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Basic realm=\"metrics\"")]).into_response();
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&sources)).into_response()
}

/// Basic authentication (RFC 7617). Compared in a time that does not tell how much was right.
fn presents(headers: &HeaderMap, expected: &str) -> bool {
    let presented = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Basic "));
    let Some(presented) = presented else {
        return false;
    };
    let difference = presented.iter().zip(expected.as_bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    presented.len() == expected.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_help_type_and_the_labels_of_the_node() {
        let mut page = Page::new("ND_x");
        page.metric("onair_joins_total", "Requests.", Sort::Counter, &[("result=\"refused\"", 3)]);

        assert_eq!(
            page.text,
            "# HELP onair_joins_total Requests.\n# TYPE onair_joins_total counter\n\
             onair_joins_total{node_id=\"ND_x\",node_type=\"SERVER\",result=\"refused\"} 3\n"
        );
    }

    #[test]
    fn only_the_right_password_opens_the_metrics() {
        let expected = BASE64_STANDARD.encode("scraper:pass");
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(text)).parse().unwrap());
            headers
        };

        assert!(presents(&with("scraper:pass"), &expected));
        assert!(!presents(&with("scraper:pasS"), &expected));
        assert!(!presents(&with("scraper:passing"), &expected));
        assert!(!presents(&HeaderMap::new(), &expected));
    }
}
