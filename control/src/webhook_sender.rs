//! Tells other servers what happens in this server's rooms, as LiveKit's webhooks do (docs/livekit.md 9).
//!
//! Each URL has a delivery task, which takes every [`RoomEvent`], keeps those of one room in order, tries again for
//! [`PATIENCE`], and holds at most [`queue::WAITING_MAX`] events of [`queue::WAITING_BYTES_MAX`]. What an event looks
//! like is in [`message`], which one goes next in [`queue`].

mod message;
mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use shared::id::RoomName;
use signaling::event::RoomEvent;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::outbound;
use message::Signer;
use queue::{Parcel, Queue};

/// How long an event is tried. Receivers that were away for longer compare their state by the server API anyway.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// One request, from connecting to the end of the answer.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// Pause after the first failure, doubled by each further one up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read so that its connection can be used again. Nothing in it matters.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const USER_AGENT: &str = concat!("onair/", env!("CARGO_PKG_VERSION"));

/// `webhook` in the configuration, as LiveKit has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Webhook {
    /// Signs the events. One of `keys`.
    pub api_key: String,
    /// Where each event is sent.
    pub urls: Vec<String>,
}

/// What became of events, summed over the URLs; each URL counts for itself.
#[derive(Debug, Default)]
pub struct Counters {
    pub delivered: AtomicU64,
    /// Tries that failed and were followed by another.
    pub retried: AtomicU64,
    /// The receiver said that it will never take it (a status below 500, other than 408 and 429).
    pub refused: AtomicU64,
    /// Given up after [`PATIENCE`].
    pub expired: AtomicU64,
    /// Dropped for newer ones while too many, or too many bytes, waited.
    pub overflowed: AtomicU64,
    /// Waiting or on the way now.
    pub pending: AtomicU64,
}

/// The running delivery tasks. Dropped, they stop at once.
pub struct WebhookSender {
    deliveries: JoinSet<()>,
    counters: Arc<Counters>,
    finishing: CancellationToken,
}

impl WebhookSender {
    /// Starts a delivery task for each URL; without URLs it does nothing. `secret` belongs to `config.api_key`, and
    /// `listen` gives each task its receiver ([`signaling::rooms::Rooms::events`]). Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Says which URL is none, or why nothing can be sent from this machine.
    pub fn start(
        config: &Webhook,
        secret: &[u8],
        listen: impl Fn() -> broadcast::Receiver<RoomEvent>,
    ) -> anyhow::Result<Self> {
        let counters = Arc::new(Counters::default());
        let finishing = CancellationToken::new();
        let mut deliveries = JoinSet::new();
        if config.urls.is_empty() {
            return Ok(Self { deliveries, counters, finishing });
        }
        if config.api_key.is_empty() {
            bail!("webhook.urls are set without webhook.api_key: name the key of `keys` that signs the events");
        }
        let destinations = config.urls.iter().map(|url| destination(url)).collect::<anyhow::Result<Vec<_>>>()?;
        let http = outbound::client(&destinations, |builder| builder.timeout(REQUEST_MAX).user_agent(USER_AGENT))
            .context("webhook.urls")?;
        let signer = Arc::new(Signer::new(&config.api_key, secret));
        for url in destinations {
            let host = url.host_str().unwrap_or_default().to_owned();
            info!(host, "webhooks are sent");
            let sender =
                Sender { url, host, http: http.clone(), signer: Arc::clone(&signer), counters: Arc::clone(&counters) };
            deliveries.spawn(run(Arc::new(sender), listen(), finishing.clone()));
        }
        Ok(Self { deliveries, counters, finishing })
    }

    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Sends what has happened until now, at most for `patience`; to be called when the rooms are closed.
    pub async fn finish(mut self, patience: Duration) {
        self.finishing.cancel();
        let all = async { while self.deliveries.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            let pending = self.counters.pending.load(Ordering::Relaxed);
            warn!(pending, "webhooks are left unsent: their receivers do not answer");
        }
    }
}

/// Where a URL of the configuration leads.
fn destination(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).with_context(|| format!("webhook.urls: {text:?} is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        bail!("webhook.urls: {text:?} is neither http nor https");
    }
    Ok(url)
}

/// A delivery task: listens, queues, and delivers several rooms' events at once.
async fn run(sender: Arc<Sender>, mut events: broadcast::Receiver<RoomEvent>, finishing: CancellationToken) {
    let mut queue = Queue::default();
    let mut under_way = JoinSet::new();
    let mut listening = true;
    loop {
        while let Some(parcel) = queue.next() {
            under_way.spawn(deliver(Arc::clone(&sender), parcel));
        }
        if !listening && under_way.is_empty() {
            return;
        }
        tokio::select! {
            event = events.recv(), if listening => listening = sender.heard(event, &mut queue),
            Some(room) = under_way.join_next() => sender.settled(room, &mut queue),
            () = finishing.cancelled(), if listening => {
                listening = false;
                sender.take_the_rest(&mut events, &mut queue);
            }
        }
    }
}

/// What the deliveries to one URL share.
struct Sender {
    url: Url,
    /// For the log: the rest of a URL may be secret.
    host: String,
    http: reqwest::Client,
    signer: Arc<Signer>,
    counters: Arc<Counters>,
}

/// What a receiver made of one try.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    /// Another try would be answered alike.
    Refused(StatusCode),
    /// For the log.
    Failed(String),
}

impl Sender {
    /// False: nothing more will come.
    fn heard(&self, event: Result<RoomEvent, RecvError>, queue: &mut Queue) -> bool {
        match event {
            Ok(event) => self.enqueue(&event, queue),
            Err(RecvError::Lagged(missed)) => self.overflowed(missed),
            Err(RecvError::Closed) => return false,
        }
        true
    }

    fn take_the_rest(&self, events: &mut broadcast::Receiver<RoomEvent>, queue: &mut Queue) {
        loop {
            match events.try_recv() {
                Ok(event) => self.enqueue(&event, queue),
                Err(TryRecvError::Lagged(missed)) => self.overflowed(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn enqueue(&self, event: &RoomEvent, queue: &mut Queue) {
        let parcel = Parcel {
            room: event.room.clone(),
            name: message::name(&event.what),
            body: message::body(event),
            since: Instant::now(),
        };
        self.counters.pending.fetch_add(1, Ordering::Relaxed);
        let dropped = queue.push(parcel) as u64;
        if dropped > 0 {
            self.counters.pending.fetch_sub(dropped, Ordering::Relaxed);
            self.overflowed(dropped);
        }
    }

    fn overflowed(&self, events: u64) {
        if self.counters.overflowed.fetch_add(events, Ordering::Relaxed) == 0 {
            warn!(host = self.host, "webhooks are dropped: the receiver is too slow or away");
        }
    }

    fn settled(&self, room: Result<RoomName, tokio::task::JoinError>, queue: &mut Queue) {
        self.counters.pending.fetch_sub(1, Ordering::Relaxed);
        match room {
            Ok(room) => queue.settled(&room),
            Err(error) => warn!(%error, "a delivery of a webhook failed"),
        }
    }

    async fn try_once(&self, body: Bytes) -> Answer {
        let request = self
            .http
            .post(self.url.clone())
            .header("content-type", "application/webhook+json")
            .header("authorization", self.signer.sign(&body, SystemTime::now()))
            .body(body);
        match request.send().await {
            Ok(response) => {
                let status = response.status();
                read_to_the_end(response).await;
                judge(status)
            }
            Err(error) => Answer::Failed(outbound::reason(error)),
        }
    }
}

fn judge(status: StatusCode) -> Answer {
    match status {
        status if status.is_success() => Answer::Taken,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Answer::Failed(status.to_string()),
        status if status.is_server_error() => Answer::Failed(status.to_string()),
        status => Answer::Refused(status),
    }
}

async fn read_to_the_end(mut response: reqwest::Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            return;
        }
    }
}

/// Tries until it is taken, refused or too old; then the room's next may go.
async fn deliver(sender: Arc<Sender>, parcel: Parcel) -> RoomName {
    let counters = &sender.counters;
    let mut pause = PAUSE_FIRST;
    loop {
        match sender.try_once(parcel.body.clone()).await {
            Answer::Taken => {
                counters.delivered.fetch_add(1, Ordering::Relaxed);
                info!(host = sender.host, event = parcel.name, room = parcel.room.as_str(), "webhook delivered");
                return parcel.room;
            }
            Answer::Refused(status) => {
                warn!(host = sender.host, %status, event = parcel.name, room = parcel.room.as_str(), "webhook refused");
                counters.refused.fetch_add(1, Ordering::Relaxed);
                return parcel.room;
            }
            Answer::Failed(cause) if parcel.since.elapsed() + pause > PATIENCE => {
                warn!(host = sender.host, cause, event = parcel.name, room = parcel.room.as_str(), "webhook given up");
                counters.expired.fetch_add(1, Ordering::Relaxed);
                return parcel.room;
            }
            Answer::Failed(cause) => {
                debug!(host = sender.host, cause, event = parcel.name, ?pause, "a webhook is tried again");
                counters.retried.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests;
