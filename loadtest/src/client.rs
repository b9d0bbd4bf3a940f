//! One simulated participant: joins, publishes, subscribes, exchanges data.
//!
//! [`Client`] is the handle; a task of its own keeps the signalling going, the media is on a [`MediaThread`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use tokio::net::lookup_host;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock::monotonic_ns;
use crate::codec::VideoCodec;
use crate::dtls::{Identity, SrtpProfile};
use crate::media::{MediaThread, TransportId};
use crate::receiver::MediaKind;
use crate::sdp::{LocalSection, Setup};
use crate::sender::Source;
use crate::session::{self, Session};
use crate::signal::{JoinCall, Protocol, SignalCounts, SignalSocket};
use crate::trace::{Layer, Pattern};
use crate::transport::{Loss, TransportOptions};

/// Events kept for a reader that is slower than the server.
const EVENTS: usize = 1_024;
/// Orders waiting for the session.
const ORDERS: usize = 64;
/// A join that takes longer has failed.
const JOIN_MAX: Duration = Duration::from_secs(20);
/// The same for publishing.
const PUBLISH_MAX: Duration = Duration::from_secs(15);

/// How a client joins.
#[derive(Clone)]
pub struct ClientOptions {
    /// `ws://host:port`.
    pub url: String,
    pub token: String,
    pub protocol: Protocol,
    pub auto_subscribe: bool,
    /// Decrypt and authenticate every received packet.
    pub verify: bool,
    /// Loss to simulate on every transport.
    pub loss: Loss,
    /// Of answers to the server's offers, in v0.
    pub setup: Setup,
    /// Receiving sections of the first v1 offer; browsers offer three of each.
    pub audio_sections: usize,
    pub video_sections: usize,
}

impl ClientOptions {
    /// Joins as a browser: v1, everything subscribed, three sections of each kind; verifies every packet.
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: token.into(),
            protocol: Protocol::V1,
            auto_subscribe: true,
            verify: true,
            loss: Loss::default(),
            setup: Setup::default(),
            audio_sections: 3,
            video_sections: 3,
        }
    }
}

/// A track to publish.
#[derive(Debug, Clone)]
pub struct TrackSpec {
    pub name: String,
    pub source: Source,
    /// Three layers of a video trace; `source` is the largest.
    pub simulcast: bool,
}

impl TrackSpec {
    pub(crate) fn kind(&self) -> MediaKind {
        match self.source {
            Source::Audio { .. } => MediaKind::Audio,
            Source::Video { .. } => MediaKind::Video,
        }
    }

    pub(crate) fn layers(&self) -> Vec<Layer> {
        match self.source {
            Source::Video { pattern: Pattern::Trace { .. }, .. } if self.simulcast => Layer::ALL.to_vec(),
            Source::Video { .. } | Source::Audio { .. } => vec![Layer::High],
        }
    }

    /// What one of the [`Self::layers`] sends.
    pub(crate) fn source_of(&self, layer: Layer) -> Source {
        match self.source {
            Source::Video { codec, pattern: Pattern::Trace { bitrate_bps, payload_max, .. } } => {
                let pattern = Pattern::Trace { layer, bitrate_bps: layer.bitrate_bps(bitrate_bps), payload_max };
                Source::Video { codec, pattern }
            }
            other => other,
        }
    }

    pub(crate) fn codec(&self) -> Option<VideoCodec> {
        match self.source {
            Source::Audio { .. } => None,
            Source::Video { codec, .. } => Some(codec),
        }
    }
}

/// A track that the server has taken.
#[derive(Debug, Clone)]
pub struct PublishedTrack {
    /// `TR_…`.
    pub sid: String,
    /// Of each layer.
    pub ssrcs: Vec<u32>,
}

/// A message on a data channel.
#[derive(Debug, Clone)]
pub struct DataMessage {
    pub lossy: bool,
    pub packet: proto::DataPacket,
}

/// What happens to a client.
#[derive(Debug, Clone)]
pub enum ClientEvent {
    /// Any message of the server but pongs and SDP.
    Signal(Box<Response>),
    Data(Box<DataMessage>),
    /// The end, with its reason.
    Closed(String),
}

/// What the handle asks of its session.
pub(crate) enum Order {
    Publish(TrackSpec, oneshot::Sender<anyhow::Result<PublishedTrack>>),
    Unpublish(Vec<u32>),
    Data(Box<DataMessage>, oneshot::Sender<anyhow::Result<()>>),
    Signal(Box<Request>),
    Leave,
}

/// A joined participant.
pub struct Client {
    orders: mpsc::Sender<Order>,
    events: mpsc::Receiver<ClientEvent>,
    task: JoinHandle<()>,
    end_reason: Arc<OnceLock<String>>,
    /// The server's first message.
    pub join: proto::JoinResponse,
    /// The protocol that was spoken in the end.
    pub protocol: Protocol,
    /// The transport that receives media.
    pub receiving: TransportId,
    pub profile: SrtpProfile,
    /// From the start of the connection until DTLS was up.
    pub join_time: Duration,
    /// `CLOCK_MONOTONIC` at the start.
    pub started_ns: u64,
    /// What the server has sent on the signal socket.
    pub signal_received: Arc<SignalCounts>,
}

impl Client {
    /// Joins and waits until the media transport is connected.
    ///
    /// # Errors
    ///
    /// When the server refuses, or is not connected after 20 s.
    pub async fn join(media: &MediaThread, identity: &Identity, options: ClientOptions) -> anyhow::Result<Self> {
        let started_ns = monotonic_ns();
        timeout(JOIN_MAX, Self::join_unbounded(media, identity, options, started_ns))
            .await
            .map_err(|_| anyhow!("the join took longer than {} s", JOIN_MAX.as_secs()))?
    }

    async fn join_unbounded(
        media: &MediaThread,
        identity: &Identity,
        options: ClientOptions,
        started_ns: u64,
    ) -> anyhow::Result<Self> {
        let local_ip = local_ip(&options.url).await?;
        let transport = TransportOptions {
            verify: options.verify,
            loss: options.loss,
            setup: options.setup,
            ..TransportOptions::default()
        };
        let mut session = Session::new(media.clone(), identity.clone(), local_ip, transport);
        let end_reason = session.end_reason();
        let offer = session.first_offer(&initial_sections(&options))?;
        let call = JoinCall {
            url: &options.url,
            token: &options.token,
            protocol: options.protocol,
            auto_subscribe: options.auto_subscribe,
            offer,
            from: None,
        };
        let mut socket = SignalSocket::connect(call).await?;
        let protocol = socket.protocol;
        let signal_received = socket.received.clone();
        let join = match socket.receive().await? {
            Some(Response::Join(join)) => join,
            Some(Response::Leave(leave)) => bail!("the server sent a leave, reason {}", leave.reason),
            Some(_) => bail!("the first message of the server is not its join response"),
            None => bail!("the server closed before its join response"),
        };
        let (orders, order_queue) = mpsc::channel(ORDERS);
        let (event_queue, events) = mpsc::channel(EVENTS);
        let (ready, is_ready) = oneshot::channel();
        let ping_interval = Duration::from_secs(u64::try_from(join.ping_interval).unwrap_or(0).clamp(1, 60));
        session.joined(protocol, event_queue, ready);
        let task = tokio::spawn(session::run(session, socket, order_queue, ping_interval));
        let (receiving, profile) = is_ready.await.context("the session ended during the join")??;
        let join_time = Duration::from_nanos(monotonic_ns() - started_ns);
        Ok(Self {
            orders,
            events,
            task,
            end_reason,
            join,
            protocol,
            receiving,
            profile,
            join_time,
            started_ns,
            signal_received,
        })
    }

    /// Publishes a synthetic track and waits until the server has taken it.
    ///
    /// # Errors
    ///
    /// When the server does not, within 15 s.
    pub async fn publish(&self, track: TrackSpec) -> anyhow::Result<PublishedTrack> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Publish(track, reply)).await?;
        timeout(PUBLISH_MAX, answer).await.context("publishing took too long")?.context("the session has ended")?
    }

    /// Ends a track.
    ///
    /// # Errors
    ///
    /// When the session has ended.
    pub async fn unpublish(&self, track: &PublishedTrack) -> anyhow::Result<()> {
        self.order(Order::Unpublish(track.ssrcs.clone())).await
    }

    /// Sends `payload` to everybody, or to the named identities; waits for the channel to open.
    ///
    /// # Errors
    ///
    /// When the channel does not open within 15 s, or is full.
    pub async fn send_data(&self, lossy: bool, payload: Vec<u8>, destinations: Vec<String>) -> anyhow::Result<()> {
        let user = proto::UserPacket { payload, ..Default::default() };
        let packet = proto::DataPacket {
            destination_identities: destinations,
            value: Some(proto::data_packet::Value::User(user)),
            ..Default::default()
        };
        let (reply, answer) = oneshot::channel();
        self.order(Order::Data(Box::new(DataMessage { lossy, packet }), reply)).await?;
        timeout(PUBLISH_MAX, answer).await.context("the data channel did not open")?.context("the session has ended")?
    }

    /// Sends any signal request, for example a mute or a change of subscription.
    ///
    /// # Errors
    ///
    /// When the session has ended.
    pub async fn signal(&self, request: Request) -> anyhow::Result<()> {
        self.order(Order::Signal(Box::new(request))).await
    }

    /// The next event; `None` after the end.
    pub async fn next_event(&mut self) -> Option<ClientEvent> {
        self.events.recv().await
    }

    /// Why the session has ended, once it has.
    pub fn end_reason(&self) -> Option<&str> {
        self.end_reason.get().map(String::as_str)
    }

    /// Leaves and waits until the server has been told.
    pub async fn leave(self) {
        // A session that has ended needs no leave.
        let _ = self.orders.send(Order::Leave).await;
        let _ = timeout(Duration::from_secs(5), self.task).await;
    }

    async fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).await.map_err(|_| anyhow!("the session has ended"))
    }
}

fn initial_sections(options: &ClientOptions) -> Vec<LocalSection> {
    let audio = std::iter::repeat_n(LocalSection::Receive(MediaKind::Audio), options.audio_sections);
    let video = std::iter::repeat_n(LocalSection::Receive(MediaKind::Video), options.video_sections);
    audio.chain(video).chain([LocalSection::Application]).collect()
}

/// The address of this machine on the way to the server.
pub(crate) async fn local_ip(url: &str) -> anyhow::Result<IpAddr> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let with_port = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        authority.to_owned()
    } else {
        format!("{authority}:443")
    };
    let server = lookup_host(&with_port)
        .await
        .with_context(|| format!("resolving {with_port}"))?
        .min_by_key(SocketAddr::is_ipv6)
        .with_context(|| format!("{with_port} has no address"))?;
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let probe = UdpSocket::bind((any, 0)).context("opening a socket")?;
    probe.connect(server).context("finding the way to the server")?;
    Ok(probe.local_addr().context("reading the local address")?.ip())
}
