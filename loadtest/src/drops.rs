//! What the server itself says it dropped, from its page of metrics (Prometheus' text format, version 0.0.4).
//!
//! The page is read before the measured time and after everything is counted, so that its making is in no figure.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::{Client, Url, redirect};

/// A page that takes longer has failed.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Pages have some hundred KiB.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Packets or messages by the reason for which the server dropped them; reasons without any are left out.
pub type Drops = BTreeMap<String, u64>;

/// A metric that counts what a server dropped.
struct Counter {
    metric: &'static str,
    /// The label that tells the reason.
    label: &'static str,
    /// Before the label's value, as one reason may be in several metrics.
    prefix: &'static str,
    /// Values of the label that are no drops.
    except: &'static [&'static str],
}

/// All that are known. Counters of loss that viewers report are not among them: this program is the viewers.
const COUNTERS: [Counter; 6] = [
    Counter { metric: "onair_datagrams_lost_total", label: "at", prefix: "", except: &[] },
    Counter { metric: "onair_discards_total", label: "reason", prefix: "discarded_", except: &[] },
    Counter { metric: "onair_data_dropped_total", label: "reason", prefix: "data_", except: &[] },
    Counter { metric: "onair_data_overflow_total", label: "", prefix: "data_overflow", except: &[] },
    Counter { metric: "onair_data_over_rate_total", label: "", prefix: "data_over_rate", except: &[] },
    // Of livekit-server: what the kernel's queues before the network devices dropped. It counts none of its own.
    Counter { metric: "livekit_node_packet_total", label: "type", prefix: "queue_", except: &["out"] },
];

/// A server's page of metrics.
pub(crate) struct Metrics {
    client: Client,
    url: Url,
}

impl Metrics {
    /// Reads the page once, to see that it is one.
    ///
    /// # Errors
    ///
    /// When nobody answers at `url`, or not with the metrics of a LiveKit server.
    pub(crate) async fn open(url: &str) -> anyhow::Result<Self> {
        let advice = "start the server with its metrics on (Onair: prometheus.port; livekit-server: prometheus_port), give \
                      --metrics-url as http://user:password@host:port/metrics, or leave it away";
        Self::find(url).await.with_context(|| advice)
    }

    async fn find(url: &str) -> anyhow::Result<Self> {
        // The text may hold a password.
        let url = Url::parse(url).context("the URL of the metrics is none")?;
        // The provider of the process; a second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder().redirect(redirect::Policy::none()).no_proxy().timeout(ANSWER_MAX);
        if url.scheme() == "http" {
            // Without TLS no roots are needed, and there may be none.
            builder = builder.tls_certs_only([]);
        }
        let metrics = Self { client: builder.build()?, url };
        // livekit-server counts no drops in its first two seconds.
        let known = |line: &str| line.starts_with("onair_") || line.starts_with("livekit_");
        ensure!(
            metrics.page().await?.lines().any(known),
            "{} is no page of a LiveKit server's metrics",
            metrics.place()
        );
        Ok(metrics)
    }

    /// What has been dropped since the server's start.
    ///
    /// # Errors
    ///
    /// When the server does not answer in time, or with too much, or with no counter that is known here.
    pub(crate) async fn read(&self) -> anyhow::Result<Drops> {
        let totals = totals(&self.page().await?);
        ensure!(!totals.is_empty(), "{} counts no drops that are known here", self.place());
        Ok(totals)
    }

    async fn page(&self) -> anyhow::Result<String> {
        let failed = |error: reqwest::Error| {
            anyhow::Error::from(error.without_url()).context(format!("no metrics from {}", self.place()))
        };
        let mut answer = self.client.get(self.url.clone()).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            bail!("no metrics from {}: it answers {}", self.place(), answer.status());
        }
        let mut page = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            ensure!(page.len() + chunk.len() <= PAGE_BYTES_MAX, "the metrics of {} are too long", self.place());
            page.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&page).into_owned())
    }

    /// The URL without its password.
    fn place(&self) -> String {
        let mut url = self.url.clone();
        // It has an authority, or nobody would have been asked.
        let _ = url.set_password(None).and_then(|()| url.set_username(""));
        url.into()
    }
}

/// What was dropped between two readings. A server that began anew has counted from nothing.
pub(crate) fn since(before: &Drops, now: &Drops) -> Drops {
    let of = |reason: &String, count: u64| {
        let earlier = before.get(reason).copied().unwrap_or(0);
        if count < earlier { count } else { count - earlier }
    };
    let drops = now.iter().map(|(reason, count)| (reason.clone(), of(reason, *count)));
    drops.filter(|(_, count)| *count > 0).collect()
}

/// The known counters of a page, also those at zero.
fn totals(page: &str) -> Drops {
    let mut totals = Drops::new();
    for line in page.lines() {
        for counter in &COUNTERS {
            if let Some((reason, count)) = counter.read(line) {
                *totals.entry(reason).or_default() += count;
            }
        }
    }
    totals
}

impl Counter {
    /// Reason and count, if the line is of this metric: `name{label="value",…} count`.
    fn read(&self, line: &str) -> Option<(String, u64)> {
        let rest = line.strip_prefix(self.metric)?;
        let (labels, values) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        // A time may follow.
        let count: f64 = values.split_whitespace().next()?.parse().ok()?;
        let reason = if self.label.is_empty() { "" } else { label(labels, self.label)? };
        let is_drop = count >= 0.0 && !self.except.contains(&reason);
        // The format has no integers.
        is_drop.then(|| (format!("{}{reason}", self.prefix), count as u64))
    }
}

/// The value of a label. Those that name reasons have neither quotes nor backslashes in them.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let starts = labels.match_indices(name).map(|(at, _)| at);
    let mut starts = starts.filter(|at| *at == 0 || labels[..*at].ends_with(','));
    starts.find_map(|at| labels[at + name.len()..].strip_prefix("=\"")?.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    fn drops(counts: &[(&str, u64)]) -> Drops {
        counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    }

    #[test]
    fn drops_are_told_by_reason_and_other_metrics_are_not() {
        let page = "# HELP onair_datagrams_lost_total Lost.\n# TYPE onair_datagrams_lost_total counter\n\
                    onair_datagrams_lost_total{node_id=\"N\",node_type=\"SERVER\",at=\"overrun\"} 12\n\
                    onair_datagrams_lost_total{node_id=\"N\",node_type=\"SERVER\",at=\"refused\"} 0\n\
                    onair_data_dropped_total{node_id=\"N\",reason=\"late\"} 3 1764447000\n\
                    onair_data_overflow_total{node_id=\"N\"} 2\n\
                    onair_data_over_rate_total 1\n\
                    onair_rtp_sent_total{node_id=\"N\"} 1e+06\n\
                    livekit_node_packet_total{node_id=\"N\",type=\"dropped\"} 7\n\
                    livekit_node_packet_total{node_id=\"N\",type=\"out\"} 900\n\
                    livekit_packet_loss_total{direction=\"outgoing\"} 44\n";
        let expected = [
            ("overrun", 12),
            ("refused", 0),
            ("data_late", 3),
            ("data_overflow", 2),
            ("data_over_rate", 1),
            ("queue_dropped", 7),
        ];
        assert_eq!(totals(page), drops(&expected));
    }

    #[test]
    fn a_label_is_found_by_its_whole_name() {
        assert_eq!(label("format=\"a\",at=\"b\"", "at"), Some("b"));
        assert_eq!(label("node_id=\"at=\"", "at"), None);
    }

    #[test]
    fn what_was_dropped_before_does_not_count_unless_the_server_began_anew() {
        let before = drops(&[("overrun", 12), ("refused", 5), ("late", 9)]);
        let now = drops(&[("overrun", 20), ("refused", 5), ("late", 4), ("send_buffer", 1)]);
        assert_eq!(since(&before, &now), drops(&[("overrun", 8), ("late", 4), ("send_buffer", 1)]));
    }

    /// Answers each request with `head` and then with as many `body` as are taken; gives the URL.
    async fn answering(head: &'static str, body: &'static str, times: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4_096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(head.as_bytes()).await;
                for _ in 0..times {
                    if stream.write_all(body.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        format!("http://us:secret@{address}/metrics")
    }

    async fn refusal(url: &str) -> String {
        let error = Metrics::open(url).await.err().expect("no page of metrics");
        format!("{error:#}")
    }

    #[tokio::test]
    async fn an_endpoint_that_gives_no_metrics_is_an_error_that_says_what_to_do() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let other = answering("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "<html>\n", 1).await;
        let closed = refusal(&format!("http://{closed}/metrics")).await;
        assert!(closed.contains("prometheus.port") && closed.contains("no metrics from http://127.0.0.1"), "{closed}");
        let refused = refusal(&answering("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\n", "", 0).await).await;
        assert!(refused.contains("it answers 401") && !refused.contains("secret"), "{refused}");
        let other = refusal(&other).await;
        assert!(other.contains("is no page") && !other.contains("secret"), "{other}");
        assert!(refusal("127.0.0.1:6789").await.contains("--metrics-url"));
    }

    #[tokio::test]
    async fn drops_that_no_counter_tells_are_unknown_and_not_none() {
        let url = answering("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "livekit_room_total 0\n", 1).await;
        let metrics = Metrics::open(&url).await.expect("livekit-server has counted nothing at its start");
        let error = metrics.read().await.unwrap_err().to_string();
        assert!(error.contains("counts no drops"), "{error}");
    }

    #[tokio::test]
    async fn a_page_without_end_is_given_up() {
        let line = "onair_data_overflow_total 1\nonair_data_overflow_total 1\nonair_data_overflow_total 1\n";
        let url = answering("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", line, usize::MAX).await;
        assert!(refusal(&url).await.contains("too long"));
    }
}
