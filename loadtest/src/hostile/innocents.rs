//! Those who must not notice an attack: rooms with a publisher, a viewer and somebody who pings, and newcomers at the
//! door.
//!
//! They live on a thread of their own and tell what they see as [`Observation`]s; who asks cuts these into phases.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::options::Options;
use super::stranger::{Line, Target, get};
use crate::client::{Client, ClientOptions, TrackSpec};
use crate::codec::VideoCodec;
use crate::dtls::{Identity, SrtpProfile};
use crate::histogram::Histogram;
use crate::media::{MediaOptions, MediaThread, TransportId};
use crate::sender::Source;
use crate::signal::{JoinCall, Protocol, SignalSocket};
use crate::token::ApiKey;
use crate::trace::Pattern;

/// Between two pings of a room; every second one goes with a question to the room itself.
const PING_INTERVAL: Duration = Duration::from_millis(50);
/// Between two requests of a stranger for `/`.
const HTTP_INTERVAL: Duration = Duration::from_millis(250);
/// Between two newcomers.
const JOIN_INTERVAL: Duration = Duration::from_millis(500);
/// Between two looks at what the viewers have received.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A newcomer or a request that takes longer has failed.
const DOOR_MAX: Duration = Duration::from_secs(5);
/// Newcomers and requests under way; beyond it the next is left out.
const AT_DOOR_MAX: usize = 32;
/// Unanswered pings; beyond it no more are sent until one is answered.
const OUTSTANDING_MAX: usize = 2_000;
/// Between two attempts to come back after the server has closed.
const RETURN_INTERVAL: Duration = Duration::from_millis(500);
/// The viewers have media after this time.
const MEDIA_MAX: Duration = Duration::from_secs(10);
/// Joining afresh after an attack takes no longer, on any machine.
const AFRESH_MAX: Duration = Duration::from_secs(15);
/// Rooms that are joined afresh after an attack: with more rooms than workers, one that is dead is met.
const AFRESH: usize = 4;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// A ping on the signal socket.
    Ping,
    /// A request that the room answers.
    Room,
    /// A newcomer, until the join response.
    Join,
    /// `GET /` on a connection of its own.
    Http,
}

/// Something that an innocent saw.
#[derive(Debug, Clone)]
pub(super) enum Observation {
    Timed {
        probe: Probe,
        started: Instant,
        took: Duration,
        answered: bool,
    },
    /// Packets that each viewer has received since the beginning.
    Packets {
        at: Instant,
        totals: Vec<u64>,
    },
    /// Somebody was thrown out.
    Lost {
        at: Instant,
        why: String,
    },
}

/// The innocents of one row.
pub(super) struct Innocents {
    thread: Option<JoinHandle<()>>,
    observations: mpsc::Receiver<Observation>,
    stop: watch::Sender<bool>,
    media: MediaThread,
    identity: Identity,
}

impl Innocents {
    /// Lets them join, and waits until every viewer receives.
    ///
    /// # Errors
    ///
    /// When one of them cannot.
    pub(super) async fn join(options: &Options) -> anyhow::Result<Self> {
        let media = MediaThread::spawn("innocents", MediaOptions::default())?;
        let identity = Identity::generate(&[SrtpProfile::Aes128Gcm, SrtpProfile::Aes128CmSha1])?;
        let (tell, observations) = mpsc::channel();
        let (stop, stopping) = watch::channel(false);
        let (ready, is_ready) = oneshot::channel();
        let village = Village {
            url: options.url.clone(),
            key: api_key(options),
            rooms: options.innocent_rooms.max(1),
            media: media.clone(),
            identity: identity.clone(),
            tell,
            stopping,
        };
        let thread = std::thread::Builder::new()
            .name("innocents".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                match runtime {
                    Ok(runtime) => runtime.block_on(village.live(ready)),
                    Err(error) => drop(ready.send(Err(error.into()))),
                }
            })
            .context("starting a thread")?;
        is_ready.await.context("the innocents' thread has ended")??;
        Ok(Self { thread: Some(thread), observations, stop, media, identity })
    }

    /// Forgets the delays of media so far.
    pub(super) fn measure_anew(&self) {
        self.media.reset_delays();
    }

    /// Delays of media since [`Self::measure_anew`], in nanoseconds.
    pub(super) async fn media_delays(&self) -> Option<Histogram> {
        let delays = self.media.snapshot().await.delays.all();
        (!delays.is_empty()).then_some(delays)
    }

    /// Joins new rooms, media included, and gives how many of how many took somebody in.
    pub(super) async fn join_afresh(&self, options: &Options) -> (usize, usize) {
        let mut joins = JoinSet::new();
        for number in 0..AFRESH {
            let (media, identity, key) = (self.media.clone(), self.identity.clone(), api_key(options));
            let (url, room) = (options.url.clone(), format!("hostile-afresh-{number}"));
            joins.spawn(async move {
                let token = key.token(&room, "afresh")?;
                let client = timeout(AFRESH_MAX, Client::join(&media, &identity, ClientOptions::new(url, token)));
                let client = client.await.context("the join took too long")??;
                client.leave().await;
                anyhow::Ok(())
            });
        }
        let mut joined = 0;
        while let Some(ended) = joins.join_next().await {
            joined += usize::from(matches!(ended, Ok(Ok(()))));
        }
        (joined, AFRESH)
    }

    /// Ends them, and gives all they saw.
    pub(super) fn stop(mut self) -> Vec<Observation> {
        self.end();
        self.observations.try_iter().collect()
    }

    fn end(&mut self) {
        // Nobody listens any more if the thread has ended.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Innocents {
    fn drop(&mut self) {
        self.end();
    }
}

fn api_key(options: &Options) -> ApiKey {
    ApiKey { key: options.api_key.clone(), secret: options.api_secret.clone() }
}

/// Rooms of innocents, and the way to the door.
struct Village {
    url: String,
    key: ApiKey,
    rooms: usize,
    media: MediaThread,
    identity: Identity,
    tell: mpsc::Sender<Observation>,
    stopping: watch::Receiver<bool>,
}

impl Village {
    async fn live(self, ready: oneshot::Sender<anyhow::Result<()>>) {
        let clients = match self.settle().await {
            Ok(clients) => clients,
            Err(error) => {
                // Who asked may have given up.
                let _ = ready.send(Err(error));
                return;
            }
        };
        let mut lives = JoinSet::new();
        for room in 0..self.rooms {
            let pinger = Pinger { url: self.url.clone(), key: self.key.clone(), room, tell: self.tell.clone() };
            let mut stopping = self.stopping.clone();
            lives.spawn(async move { pinger.live(&mut stopping).await });
        }
        lives.spawn(ask_for_the_page(self.url.clone(), self.tell.clone(), self.stopping.clone()));
        lives.spawn(come_anew(self.url.clone(), self.key.clone(), self.tell.clone(), self.stopping.clone()));
        // Nobody may be waiting any more.
        let _ = ready.send(Ok(()));
        let clients = self.watch(clients).await;
        while lives.join_next().await.is_some() {}
        let mut leaving = JoinSet::new();
        for client in clients {
            leaving.spawn(timeout(Duration::from_secs(1), client.leave()));
        }
        while leaving.join_next().await.is_some() {}
    }

    /// A publisher and a viewer in every room, media flowing.
    async fn settle(&self) -> anyhow::Result<Vec<Client>> {
        let mut clients = Vec::new();
        for room in 0..self.rooms {
            let publisher = self.client(room, "publisher").await?;
            let pattern = Pattern::Steady { packets_per_second: 100, payload_len: 800 };
            for (name, source) in [
                ("camera", Source::Video { codec: VideoCodec::Vp8, pattern }),
                ("microphone", Source::Audio { packets_per_second: 50, payload_len: 100 }),
            ] {
                publisher.publish(TrackSpec { name: name.to_owned(), source, simulcast: false }).await?;
            }
            clients.push(publisher);
            clients.push(self.client(room, "viewer").await?);
        }
        let start = Instant::now();
        while start.elapsed() < MEDIA_MAX {
            let snapshot = self.media.snapshot().await;
            let receives = |client: &Client| {
                let stats = snapshot.transport(client.receiving);
                stats.is_some_and(|stats| stats.streams.iter().filter(|stream| stream.counts.received > 0).count() == 2)
            };
            if clients.iter().skip(1).step_by(2).all(receives) {
                return Ok(clients);
            }
            sleep(LOOK_INTERVAL).await;
        }
        bail!("no media after {} s", MEDIA_MAX.as_secs())
    }

    async fn client(&self, room: usize, name: &str) -> anyhow::Result<Client> {
        let mut options = ClientOptions::new(&self.url, self.key.token(&room_name(room), name)?);
        options.auto_subscribe = name == "viewer";
        Client::join(&self.media, &self.identity, options).await.with_context(|| format!("joining as {name}"))
    }

    /// Counts what the viewers receive, until the end.
    async fn watch(&self, mut clients: Vec<Client>) -> Vec<Client> {
        let mut stopping = self.stopping.clone();
        let viewers: Vec<TransportId> = clients.iter().skip(1).step_by(2).map(|client| client.receiving).collect();
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stopping.borrow() {
            tokio::select! {
                _ = stopping.changed() => break,
                _ = looks.tick() => {}
            }
            let snapshot = self.media.snapshot().await;
            let received = |viewer: &TransportId| {
                let stats = snapshot.transport(*viewer);
                stats.map_or(0, |stats| stats.streams.iter().map(|stream| stream.counts.received).sum())
            };
            let totals = viewers.iter().map(received).collect();
            tell(&self.tell, Observation::Packets { at: Instant::now(), totals });
            for client in clients.extract_if(.., |client| client.end_reason().is_some()) {
                let why = client.end_reason().unwrap_or_default().to_owned();
                tell(&self.tell, Observation::Lost { at: Instant::now(), why });
            }
        }
        clients
    }
}

fn room_name(number: usize) -> String {
    format!("hostile-innocent-{number}")
}

fn tell(to: &mpsc::Sender<Observation>, observation: Observation) {
    // At the end nobody listens.
    let _ = to.send(observation);
}

/// Opens the signal socket of somebody who brings no media, and gives it after the join response.
async fn enter(url: &str, key: &ApiKey, room: &str, name: &str) -> anyhow::Result<SignalSocket> {
    let token = key.token(room, name)?;
    let call = JoinCall {
        url,
        token: &token,
        protocol: Protocol::V0,
        auto_subscribe: false,
        offer: proto::SessionDescription::default(),
        from: None,
    };
    let mut socket = SignalSocket::connect(call).await?;
    match socket.receive().await? {
        Some(Response::Join(_)) => Ok(socket),
        _ => Err(anyhow!("the first message is no join response")),
    }
}

/// Somebody in a room who pings and asks.
struct Pinger {
    url: String,
    key: ApiKey,
    room: usize,
    tell: mpsc::Sender<Observation>,
}

/// Pings and questions that wait for their answer.
#[derive(Default)]
struct Outstanding {
    pings: VecDeque<(i64, Instant)>,
    questions: HashMap<u32, Instant>,
}

impl Pinger {
    async fn live(&self, stopping: &mut watch::Receiver<bool>) {
        while !*stopping.borrow() {
            let mut outstanding = Outstanding::default();
            let why = tokio::select! {
                _ = stopping.changed() => None,
                ended = self.stay(&mut outstanding) => Some(ended),
            };
            let pings = outstanding.pings.into_iter().map(|(_, started)| (Probe::Ping, started));
            let questions = outstanding.questions.into_values().map(|started| (Probe::Room, started));
            for (probe, started) in pings.chain(questions) {
                self.timed(probe, started, false);
            }
            if let Some(why) = why {
                tell(&self.tell, Observation::Lost { at: Instant::now(), why: format!("{why:#}") });
                sleep(RETURN_INTERVAL).await;
            }
        }
    }

    fn timed(&self, probe: Probe, started: Instant, answered: bool) {
        tell(&self.tell, Observation::Timed { probe, started, took: started.elapsed(), answered });
    }

    /// Pings until the server ends it, and gives why it did.
    async fn stay(&self, outstanding: &mut Outstanding) -> anyhow::Error {
        let mut socket = match timeout(DOOR_MAX, enter(&self.url, &self.key, &room_name(self.room), "pinger")).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return error,
            Err(_) => return anyhow!("the join of somebody who pings took too long"),
        };
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0_u32;
        loop {
            let sent = tokio::select! {
                _ = pings.tick() => {
                    number = number.wrapping_add(1);
                    ping(&mut socket, outstanding, number).await
                }
                response = socket.receive() => match response {
                    Ok(Some(response)) => {
                        self.on_response(&response, outstanding);
                        Ok(())
                    }
                    Ok(None) => return anyhow!("the server closed the socket of somebody who pings"),
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = sent {
                return error;
            }
        }
    }

    fn on_response(&self, response: &Response, outstanding: &mut Outstanding) {
        match response {
            Response::PongResp(pong) => {
                // Answers come in order.
                while let Some((id, started)) = outstanding.pings.pop_front() {
                    self.timed(Probe::Ping, started, true);
                    if id == pong.last_ping_timestamp {
                        break;
                    }
                }
            }
            Response::RequestResponse(answer) => {
                if let Some(started) = outstanding.questions.remove(&answer.request_id) {
                    self.timed(Probe::Room, started, true);
                }
            }
            _ => {}
        }
    }
}

/// Sends a ping, and with every second one a change that the token does not allow: it is the room that refuses it.
async fn ping(socket: &mut SignalSocket, outstanding: &mut Outstanding, number: u32) -> anyhow::Result<()> {
    if outstanding.pings.len() >= OUTSTANDING_MAX {
        return Ok(());
    }
    let timestamp = i64::from(number);
    outstanding.pings.push_back((timestamp, Instant::now()));
    socket.send(Request::PingReq(proto::Ping { timestamp, rtt: 0 })).await?;
    if number.is_multiple_of(2) {
        outstanding.questions.insert(number, Instant::now());
        let change =
            proto::UpdateParticipantMetadata { metadata: "x".to_owned(), request_id: number, ..Default::default() };
        socket.send(Request::UpdateMetadata(change)).await?;
    }
    Ok(())
}

async fn ask_for_the_page(url: String, tell: mpsc::Sender<Observation>, stopping: watch::Receiver<bool>) {
    let Ok(target) = Target::parse(&url) else { return };
    each(HTTP_INTERVAL, Probe::Http, tell, stopping, move |_| {
        let target = target.clone();
        async move { Ok(Line::open(&target, None).await?.ask(get(&target, "/").as_bytes()).await.map(drop)?) }
    })
    .await;
}

async fn come_anew(url: String, key: ApiKey, tell: mpsc::Sender<Observation>, stopping: watch::Receiver<bool>) {
    each(JOIN_INTERVAL, Probe::Join, tell, stopping, move |number| {
        let (url, key) = (url.clone(), key.clone());
        async move {
            let mut socket = enter(&url, &key, "hostile-newcomers", &format!("newcomer-{number}")).await?;
            socket.send(Request::Leave(proto::LeaveRequest::default())).await?;
            socket.close().await;
            Ok(())
        }
    })
    .await;
}

/// Starts an act at every interval, and tells how long it took.
async fn each<F>(
    pause: Duration,
    probe: Probe,
    to: mpsc::Sender<Observation>,
    mut stopping: watch::Receiver<bool>,
    act: impl Fn(u64) -> F,
) where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut turns = interval(pause);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut acts = JoinSet::new();
    let mut number = 0;
    while !*stopping.borrow() {
        tokio::select! {
            _ = stopping.changed() => break,
            _ = acts.join_next(), if !acts.is_empty() => {}
            _ = turns.tick() => if acts.len() < AT_DOOR_MAX {
                let (act, to) = (act(number), to.clone());
                acts.spawn(async move {
                    let started = Instant::now();
                    let answered = matches!(timeout(DOOR_MAX, act).await, Ok(Ok(())));
                    tell(&to, Observation::Timed { probe, started, took: started.elapsed(), answered });
                });
                number += 1;
            }
        }
    }
    // Those under way are not counted: the end of the row is no fault of the server's.
    acts.abort_all();
}
