//! Subscribers that come and go while media flows: what they leave behind in a server shows as growing memory.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{Client, ClientOptions};
use crate::dtls::Identity;
use crate::histogram::{Histogram, Percentiles};
use crate::media::MediaThread;

/// How clients come and go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Churn {
    /// Joins a second, if the server keeps up.
    pub per_second: f64,
    /// Sessions at a time at most: without it, a moment's delay would make the server hold many.
    pub sessions_max: usize,
    /// From the end of the join to the leave.
    pub stay: Duration,
}

/// What became of them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChurnReport {
    pub joined: usize,
    /// Reasons of the joins that failed, with their number.
    pub join_errors: Vec<(String, usize)>,
    pub join_ms: Option<Percentiles>,
}

/// Lets clients join and leave again, for `duration`.
///
/// `options` makes the n-th of them.
pub(crate) async fn run(
    media: &MediaThread,
    identity: &Identity,
    churn: Churn,
    duration: Duration,
    options: impl Fn(usize) -> anyhow::Result<ClientOptions>,
) -> ChurnReport {
    let start = Instant::now();
    let mut sessions = JoinSet::new();
    let mut outcomes = Outcomes::default();
    for number in 0.. {
        let at = start + Duration::from_secs_f64(number as f64 / churn.per_second);
        if at.max(Instant::now()) >= start + duration {
            break;
        }
        sleep_until(at).await;
        while let Some(ended) = sessions.try_join_next() {
            outcomes.add(ended);
        }
        while sessions.len() >= churn.sessions_max.max(1) {
            let Some(ended) = sessions.join_next().await else { break };
            outcomes.add(ended);
        }
        let (media, identity, options) = (media.clone(), identity.clone(), options(number));
        sessions.spawn(async move {
            let client = Client::join(&media, &identity, options?).await?;
            let join_time = client.join_time;
            sleep(churn.stay).await;
            client.leave().await;
            Ok(join_time)
        });
    }
    while let Some(ended) = sessions.join_next().await {
        outcomes.add(ended);
    }
    outcomes.report()
}

#[derive(Default)]
struct Outcomes {
    join_times: Histogram,
    joined: usize,
    errors: BTreeMap<String, usize>,
}

impl Outcomes {
    fn add(&mut self, ended: Result<anyhow::Result<Duration>, tokio::task::JoinError>) {
        let error = match ended {
            Ok(Ok(join_time)) => {
                self.joined += 1;
                self.join_times.record(join_time.as_nanos() as u64);
                return;
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => error.to_string(),
        };
        *self.errors.entry(error).or_default() += 1;
    }

    fn report(self) -> ChurnReport {
        ChurnReport {
            joined: self.joined,
            join_errors: self.errors.into_iter().collect(),
            join_ms: self.join_times.percentiles(1e6),
        }
    }
}
