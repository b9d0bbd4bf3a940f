//! The signalling of one client: SDP rounds, pings, orders of the handle, news of the server.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::channels::ChannelEvent;
use crate::client::{ClientEvent, DataMessage, Order, PublishedTrack, TrackSpec};
use crate::clock::monotonic_ns;
use crate::dtls::{Identity, SrtpProfile};
use crate::ice::{Credentials, IceRole};
use crate::media::{MediaThread, NewTransport, TransportId};
use crate::receiver::MediaKind;
use crate::sdp::{self, Description, LocalSection, LocalTransport, Sending, SendingLayer};
use crate::signal::{Protocol, SignalSocket};
use crate::socket;
use crate::trace::Layer;
use crate::transport::{TransportEvent, TransportOptions};

/// Events of one transport that wait for the session.
const TRANSPORT_EVENTS: usize = 256;
/// Data messages that wait for their channel.
const DATA_WAITING_MAX: usize = 64;
/// Sections that a server may ask for at once.
const SECTIONS_WANTED_MAX: u32 = 100;

/// A transport and what its descriptions repeat.
pub(crate) struct Peer {
    id: TransportId,
    local: LocalTransport,
    events: mpsc::Receiver<TransportEvent>,
}

impl Peer {
    pub(crate) fn open(
        media: &MediaThread,
        identity: &Identity,
        local_ip: IpAddr,
        options: TransportOptions,
    ) -> anyhow::Result<Self> {
        let socket = socket::open(local_ip, media.features(options.verify)).context("opening a media socket")?;
        let candidate = socket.local_addr().context("reading a local address")?;
        let credentials = Credentials { ufrag: random_text(8), password: random_text(24) };
        let local = LocalTransport {
            credentials: credentials.clone(),
            fingerprint: identity.fingerprint.clone(),
            candidate,
            session: rand::random::<u64>() >> 2,
        };
        let (sender, events) = mpsc::channel(TRANSPORT_EVENTS);
        let identity = identity.clone();
        let id = media.open(NewTransport { socket, identity, local: credentials, options, events: sender });
        Ok(Self { id, local, events })
    }
}

/// Text of `len` ice-chars (RFC 8839, section 5.4).
pub(crate) fn random_text(len: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (0..len).map(|_| char::from(LETTERS[usize::from(rand::random::<u8>() & 63)])).collect()
}

type Ready = oneshot::Sender<anyhow::Result<(TransportId, SrtpProfile)>>;
type PublishReply = oneshot::Sender<anyhow::Result<PublishedTrack>>;

/// A track between AddTrack and the answer that takes it.
struct Publishing {
    mid: usize,
    track: TrackSpec,
    sending: Sending,
    sid: String,
    reply: PublishReply,
}

/// The state of one client's signalling.
pub(crate) struct Session {
    media: MediaThread,
    identity: Identity,
    local_ip: IpAddr,
    /// Of every transport; the labels differ.
    transport: TransportOptions,
    protocol: Protocol,
    /// Sends; in v1 it receives too.
    publisher: Option<Peer>,
    /// Receives, in v0.
    subscriber: Option<Peer>,
    sections: Vec<LocalSection>,
    offer_id: u32,
    /// An offer is waiting for its answer.
    offering: bool,
    /// Something changed meanwhile.
    offer_again: bool,
    /// AddTrack requests without response, by cid.
    requested: HashMap<String, (TrackSpec, PublishReply)>,
    publishing: Vec<Publishing>,
    open_channels: HashSet<String>,
    data_waiting: Vec<(Box<DataMessage>, oneshot::Sender<anyhow::Result<()>>)>,
    events: Option<mpsc::Sender<ClientEvent>>,
    ready: Option<Ready>,
    requests: Vec<Request>,
    ended: Option<String>,
    /// The same for the handle, after the end.
    end_reason: Arc<OnceLock<String>>,
}

#[derive(Deserialize)]
struct TrickledCandidate {
    candidate: String,
}

impl Session {
    pub(crate) fn new(media: MediaThread, identity: Identity, local_ip: IpAddr, transport: TransportOptions) -> Self {
        Self {
            media,
            identity,
            local_ip,
            transport,
            protocol: Protocol::V1,
            publisher: None,
            subscriber: None,
            sections: Vec::new(),
            offer_id: 0,
            offering: false,
            offer_again: false,
            requested: HashMap::new(),
            publishing: Vec::new(),
            open_channels: HashSet::new(),
            data_waiting: Vec::new(),
            events: None,
            ready: None,
            requests: Vec::new(),
            ended: None,
            end_reason: Arc::default(),
        }
    }

    /// Will hold why the session has ended.
    pub(crate) fn end_reason(&self) -> Arc<OnceLock<String>> {
        self.end_reason.clone()
    }

    /// Opens the transport of a v1 session and offers `sections` on it.
    pub(crate) fn first_offer(&mut self, sections: &[LocalSection]) -> anyhow::Result<proto::SessionDescription> {
        self.open_publisher()?;
        self.sections = sections.to_vec();
        self.offering = true;
        self.render_offer().context("no transport")
    }

    /// The server has let us in.
    pub(crate) fn joined(&mut self, protocol: Protocol, events: mpsc::Sender<ClientEvent>, ready: Ready) {
        self.protocol = protocol;
        self.events = Some(events);
        self.ready = Some(ready);
        if protocol == Protocol::V0 {
            // The offer of the v1 attempt reached nobody.
            self.close_publisher();
            self.sections.clear();
            self.offering = false;
            self.offer_id = 0;
        }
    }

    fn open_publisher(&mut self) -> anyhow::Result<()> {
        if self.publisher.is_none() {
            let labels = vec!["_lossy".to_owned(), "_reliable".to_owned()];
            self.publisher = Some(self.open_peer(labels)?);
        }
        Ok(())
    }

    fn open_peer(&self, channels: Vec<String>) -> anyhow::Result<Peer> {
        let options = TransportOptions { channels, ..self.transport.clone() };
        Peer::open(&self.media, &self.identity, self.local_ip, options)
    }

    fn close_publisher(&mut self) {
        if let Some(peer) = self.publisher.take() {
            self.media.close(peer.id);
        }
    }

    fn render_offer(&mut self) -> Option<proto::SessionDescription> {
        let peer = self.publisher.as_ref()?;
        self.offer_id += 1;
        let sdp = sdp::offer(&peer.local, self.offer_id, &self.sections);
        Some(proto::SessionDescription { r#type: "offer".to_owned(), sdp, id: self.offer_id, ..Default::default() })
    }

    /// Offers the present sections, after the running round if there is one.
    fn negotiate(&mut self) {
        if self.offering {
            self.offer_again = true;
        } else if let Some(offer) = self.render_offer() {
            self.offering = true;
            self.requests.push(Request::Offer(offer));
        }
    }

    fn on_response(&mut self, response: Response) -> anyhow::Result<()> {
        match response {
            Response::Answer(answer) => return self.on_answer(&answer),
            Response::Offer(offer) => return self.on_offer(&offer),
            Response::Trickle(trickle) => self.on_trickle(&trickle),
            Response::TrackPublished(published) => self.on_published(published),
            Response::MediaSectionsRequirement(wanted) => self.on_sections_wanted(wanted),
            Response::Leave(leave) => self.ended = Some(format!("the server sent a leave, reason {}", leave.reason)),
            Response::PongResp(_) | Response::Pong(_) => {}
            other => self.tell(ClientEvent::Signal(Box::new(other))),
        }
        Ok(())
    }

    fn tell(&self, event: ClientEvent) {
        if let Some(events) = &self.events {
            // Nobody may be reading; the queue is bounded, and the load test never reads it.
            let _ = events.try_send(event);
        }
    }

    fn on_answer(&mut self, answer: &proto::SessionDescription) -> anyhow::Result<()> {
        if answer.id != 0 && answer.id != self.offer_id {
            return Ok(());
        }
        self.offering = false;
        let description = Description::parse(&answer.sdp)?;
        let Some(peer) = &self.publisher else { return Ok(()) };
        self.media.set_remote(peer.id, description.remote().context("the server's answer")?);
        for address in description.candidates() {
            self.media.add_candidate(peer.id, address);
        }
        if self.protocol == Protocol::V1 {
            let reception = description.reception(|mid| answer.mid_to_track_id.get(mid).cloned());
            self.media.set_reception(peer.id, reception);
        }
        let id = peer.id;
        self.start_published(id, &description);
        if std::mem::take(&mut self.offer_again) {
            self.negotiate();
        }
        Ok(())
    }

    fn start_published(&mut self, id: TransportId, description: &Description) {
        let in_offer = |publishing: &Publishing| publishing.mid < description.sections.len();
        let (answered, open) = std::mem::take(&mut self.publishing).into_iter().partition(in_offer);
        self.publishing = open;
        for Publishing { mid, track, sending, sid, reply } in answered {
            let result = match description.encodings(&mid.to_string(), &sending) {
                Some(encodings) => {
                    let ssrcs = encodings.iter().map(|(_, encoding)| encoding.ssrc).collect();
                    for (layer, encoding) in encodings {
                        self.media.publish(id, track.source_of(layer), encoding);
                    }
                    Ok(PublishedTrack { sid, ssrcs })
                }
                None => Err(anyhow!("the server's answer does not take track {sid}")),
            };
            // The publisher may have given up.
            let _ = reply.send(result);
        }
    }

    fn on_offer(&mut self, offer: &proto::SessionDescription) -> anyhow::Result<()> {
        let description = Description::parse(&offer.sdp)?;
        if self.subscriber.is_none() {
            self.subscriber = Some(self.open_peer(Vec::new())?);
        }
        let Some(peer) = &self.subscriber else { return Ok(()) };
        let mut remote = description.remote().context("the server's offer")?;
        if !description.is_lite() {
            // Who offers controls, but a lite server never does (RFC 8445, section 6.1.1).
            remote.ice_role = IceRole::Controlled;
        }
        remote.role = self.transport.setup.role();
        self.media.set_remote(peer.id, remote);
        for address in description.candidates() {
            self.media.add_candidate(peer.id, address);
        }
        self.media.set_reception(peer.id, description.reception(|mid| offer.mid_to_track_id.get(mid).cloned()));
        let sdp = sdp::answer(&peer.local, self.transport.setup, &description);
        self.requests.push(Request::Answer(proto::SessionDescription {
            r#type: "answer".to_owned(),
            sdp,
            id: offer.id,
            ..Default::default()
        }));
        Ok(())
    }

    fn on_trickle(&mut self, trickle: &proto::TrickleRequest) {
        let Ok(init) = serde_json::from_str::<TrickledCandidate>(&trickle.candidate_init) else { return };
        let Some(address) = sdp::candidate(init.candidate.trim_start_matches("a=")) else { return };
        let for_subscriber = trickle.target == i32::from(proto::SignalTarget::Subscriber);
        if for_subscriber && self.subscriber.is_none() {
            // Candidates may come before the offer.
            self.subscriber = self.open_peer(Vec::new()).ok();
        }
        let peer = if for_subscriber { &self.subscriber } else { &self.publisher };
        if let Some(peer) = peer
            && same_family(peer.local.candidate, address)
        {
            self.media.add_candidate(peer.id, address);
        }
    }

    fn on_sections_wanted(&mut self, wanted: proto::MediaSectionsRequirement) {
        let audio = wanted.num_audios.min(SECTIONS_WANTED_MAX) as usize;
        let video = wanted.num_videos.min(SECTIONS_WANTED_MAX) as usize;
        self.sections.extend(std::iter::repeat_n(LocalSection::Receive(MediaKind::Audio), audio));
        self.sections.extend(std::iter::repeat_n(LocalSection::Receive(MediaKind::Video), video));
        self.negotiate();
    }

    fn publish(&mut self, track: TrackSpec, reply: PublishReply) {
        let cid = format!("lt-{}", random_text(16).replace(['+', '/'], "x"));
        self.requests.push(Request::AddTrack(add_track(&cid, &track)));
        self.requested.insert(cid, (track, reply));
    }

    fn on_published(&mut self, published: proto::TrackPublishedResponse) {
        let Some((track, reply)) = self.requested.remove(&published.cid) else { return };
        let sid = published.track.map(|track| track.sid).unwrap_or_default();
        if let Err(error) = self.open_publisher() {
            let _ = reply.send(Err(error));
            return;
        }
        if self.sections.is_empty() {
            self.sections.push(LocalSection::Application);
        }
        let kind = track.kind();
        let layer = |layer| SendingLayer {
            layer,
            ssrc: rand::random::<u32>() | 1,
            rtx_ssrc: (kind == MediaKind::Video).then(|| rand::random::<u32>() & !1),
        };
        let sending = Sending {
            cid: published.cid,
            stream: "loadtest".to_owned(),
            layers: track.layers().into_iter().map(layer).collect(),
            codec: track.codec(),
        };
        let mid = self.sections.len();
        self.sections.push(LocalSection::Send(kind, sending.clone()));
        self.publishing.push(Publishing { mid, track, sending, sid, reply });
        self.negotiate();
    }

    fn unpublish(&mut self, ssrcs: &[u32]) {
        for section in &mut self.sections {
            if let LocalSection::Send(kind, sending) = section
                && sending.layers.iter().any(|layer| ssrcs.contains(&layer.ssrc))
            {
                *section = LocalSection::Ended(*kind);
            }
        }
        if let Some(peer) = &self.publisher {
            for &ssrc in ssrcs {
                self.media.stop_track(peer.id, ssrc);
            }
        }
        self.negotiate();
    }

    async fn on_order(&mut self, order: Order) {
        match order {
            Order::Publish(track, reply) => self.publish(track, reply),
            Order::Unpublish(ssrcs) => self.unpublish(&ssrcs),
            Order::Data(message, reply) => self.send_data(message, reply).await,
            Order::Signal(request) => self.requests.push(*request),
            Order::Leave => {
                self.requests.push(Request::Leave(proto::LeaveRequest {
                    reason: proto::DisconnectReason::ClientInitiated.into(),
                    ..Default::default()
                }));
                self.ended = Some("left".to_owned());
            }
        }
    }

    async fn send_data(&mut self, message: Box<DataMessage>, reply: oneshot::Sender<anyhow::Result<()>>) {
        let label = label_of(&message);
        if self.open_channels.contains(label)
            && let Some(peer) = &self.publisher
        {
            let sent = self.media.send_data(peer.id, label, message.packet.encode_to_vec()).await;
            let result = if sent { Ok(()) } else { Err(anyhow!("the channel {label} takes nothing")) };
            let _ = reply.send(result);
        } else if self.data_waiting.len() >= DATA_WAITING_MAX {
            let _ = reply.send(Err(anyhow!("too many messages wait for the channel {label}")));
        } else {
            self.data_waiting.push((message, reply));
            self.open_data_transport();
        }
    }

    /// In v0 the sending transport is opened with its first use.
    fn open_data_transport(&mut self) {
        if self.publisher.is_none() && self.open_publisher().is_ok() {
            self.sections.push(LocalSection::Application);
            self.negotiate();
        }
    }

    async fn on_publisher_event(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Connected(profile) if self.protocol == Protocol::V1 => self.connected(true, profile),
            TransportEvent::Channel(ChannelEvent::Open(label)) => {
                self.open_channels.insert(label);
                for (message, reply) in std::mem::take(&mut self.data_waiting) {
                    self.send_data(message, reply).await;
                }
            }
            other => self.on_transport_event(other),
        }
    }

    fn on_subscriber_event(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Connected(profile) => self.connected(false, profile),
            other => self.on_transport_event(other),
        }
    }

    fn connected(&mut self, on_publisher: bool, profile: SrtpProfile) {
        let peer = if on_publisher { &self.publisher } else { &self.subscriber };
        if let (Some(peer), Some(ready)) = (peer, self.ready.take()) {
            let _ = ready.send(Ok((peer.id, profile)));
        }
    }

    fn on_transport_event(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Channel(ChannelEvent::Message(label, bytes)) => {
                if let Ok(packet) = proto::DataPacket::decode(bytes) {
                    self.tell(ClientEvent::Data(Box::new(DataMessage { lossy: label == "_lossy", packet })));
                }
            }
            TransportEvent::Failed(reason) => self.ended = Some(reason),
            TransportEvent::Closed => self.ended = Some("the server closed the transport".to_owned()),
            TransportEvent::Connected(_) | TransportEvent::Channel(ChannelEvent::Open(_)) => {}
        }
    }

    fn end(&mut self) {
        let reason = self.ended.take().unwrap_or_else(|| "the server closed the socket".to_owned());
        for peer in self.publisher.take().into_iter().chain(self.subscriber.take()) {
            self.media.close(peer.id);
        }
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(anyhow!("{reason}")));
        }
        // A session ends once.
        let _ = self.end_reason.set(reason.clone());
        self.tell(ClientEvent::Closed(reason));
    }
}

fn label_of(message: &DataMessage) -> &'static str {
    if message.lossy { "_lossy" } else { "_reliable" }
}

fn same_family(one: SocketAddr, other: SocketAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

fn add_track(cid: &str, track: &TrackSpec) -> proto::AddTrackRequest {
    let mut request = proto::AddTrackRequest {
        cid: cid.to_owned(),
        name: track.name.clone(),
        r#type: proto::TrackType::Audio.into(),
        source: proto::TrackSource::Microphone.into(),
        disable_red: true,
        stream: "loadtest".to_owned(),
        ..Default::default()
    };
    if let Some(codec) = track.codec() {
        let layers: Vec<_> = track.layers().into_iter().map(video_layer).collect();
        request.r#type = proto::TrackType::Video.into();
        request.source = proto::TrackSource::Camera.into();
        (request.width, request.height) = Layer::High.size();
        request.layers.clone_from(&layers);
        request.simulcast_codecs = vec![proto::SimulcastCodec {
            codec: codec.name().to_ascii_lowercase(),
            cid: cid.to_owned(),
            layers,
            ..Default::default()
        }];
    }
    request
}

fn video_layer(layer: Layer) -> proto::VideoLayer {
    let quality = match layer {
        Layer::Low => proto::VideoQuality::Low,
        Layer::Middle => proto::VideoQuality::Medium,
        Layer::High => proto::VideoQuality::High,
    };
    let (width, height) = layer.size();
    let bitrate = layer.bitrate_bps(2_000_000) as u32;
    proto::VideoLayer { quality: quality.into(), width, height, bitrate, ..Default::default() }
}

async fn next_event(peer: &mut Option<Peer>) -> Option<TransportEvent> {
    match peer {
        Some(peer) => peer.events.recv().await,
        None => std::future::pending().await,
    }
}

/// Runs a session until somebody ends it.
pub(crate) async fn run(
    mut session: Session,
    mut socket: SignalSocket,
    mut orders: mpsc::Receiver<Order>,
    ping_interval: Duration,
) {
    let mut pings = interval(ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while session.ended.is_none() {
        tokio::select! {
            response = socket.receive() => match response {
                Ok(Some(response)) => {
                    if let Err(error) = session.on_response(response) {
                        session.ended = Some(format!("{error:#}"));
                    }
                }
                Ok(None) => break,
                Err(error) => session.ended = Some(format!("{error:#}")),
            },
            order = orders.recv() => session.on_order(order.unwrap_or(Order::Leave)).await,
            Some(event) = next_event(&mut session.publisher) => session.on_publisher_event(event).await,
            Some(event) = next_event(&mut session.subscriber) => session.on_subscriber_event(event),
            _ = pings.tick() => {
                let timestamp = (monotonic_ns() / 1_000_000) as i64;
                session.requests.push(Request::PingReq(proto::Ping { timestamp, rtt: 0 }));
            }
        }
        for request in std::mem::take(&mut session.requests) {
            if let Err(error) = socket.send(request).await {
                session.ended.get_or_insert(format!("{error:#}"));
            }
        }
    }
    session.end();
    socket.close().await;
}
