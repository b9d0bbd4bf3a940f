//! webrtc-rs as publisher or viewer: a WebRTC stack in Rust, by the command line that `README.md` sets down.
//!
//! LiveKit's signalling is the little that such a stack needs of it; RTP is counted, not decoded.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use clap::Parser;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use rtc::data_channel::RTCDataChannelInit;
use rtc::ice::mdns::MulticastDnsMode;
use rtc::interceptor::Registry;
use rtc::media::Sample;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::interceptor_registry::register_default_interceptors;
use rtc::peer_connection::configuration::media_engine::{MIME_TYPE_OPUS, MIME_TYPE_VP8, MediaEngine};
use rtc::peer_connection::configuration::setting_engine::SettingEngineBuilder;
use rtc::peer_connection::configuration::{RTCConfigurationBuilder, RTCOfferOptions};
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use rtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite};
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::media_stream::Track as _;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_sample::TrackLocalStaticSample;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCPeerConnectionIceEvent,
};
use webrtc::rtp_transceiver::RtpSender;

/// What tells a program that is older than its source.
const MADE_FROM: &str = concat!(include_str!("stack_webrtc_rs.rs"), include_str!("../../../Cargo.lock"));
/// What a viewer has to receive before a step counts.
const FRAMES_MIN: u32 = 30;
const PACKETS_MIN: u32 = 50;
/// Between two messages that are repeated until they are answered.
const REPEAT: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);
/// The signalling protocol version that this client speaks.
const PROTOCOL: i32 = 16;
/// The version of the crates, which they do not tell; `Cargo.toml` pins it.
const VERSION: &str = "0.21.1";

const VIDEO_FRAME: Duration = Duration::from_nanos(1_000_000_000 / 30);
const AUDIO_FRAME: Duration = Duration::from_millis(20);

#[derive(Parser)]
struct Arguments {
    role: Role,
    #[arg(long)]
    url: String,
    #[arg(long)]
    token: String,
    #[arg(long)]
    mode: Mode,
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Leave out the resume.
    #[arg(long)]
    no_resume: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    Publish,
    View,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    V0,
    V1,
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    if std::env::args().nth(1).is_some_and(|argument| argument == "made-from") {
        print!("{MADE_FROM}");
        return std::process::ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let mut report = Report { resume: (!arguments.no_resume).then_some(false), ..Report::default() };
    let shared = Arc::new(Shared::default());
    let time = Duration::from_secs_f64(arguments.seconds);
    let run = run(&arguments, Arc::clone(&shared), &mut report);
    let error = match tokio::time::timeout(time, run).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("not within {time:?}: {}", shared.step.lock().unwrap_or_else(PoisonError::into_inner))),
    };
    let ok = error.is_none() && report.role && report.data && report.resume != Some(false);
    let (publish, view) = match arguments.role {
        Role::Publish => (Some(report.role), None),
        Role::View => (None, Some(report.role)),
    };
    let detail = json!({
        "version": VERSION, "error": error,
        "frames": shared.frames.load(Ordering::Relaxed), "packets": shared.packets.load(Ordering::Relaxed),
    });
    let line = json!({
        "ok": ok, "publish": publish, "view": view, "data": report.data, "resume": report.resume, "detail": detail,
    });
    println!("{line}");
    if ok { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

/// What was done.
#[derive(Default)]
struct Report {
    /// Its own part: to publish, or to view.
    role: bool,
    data: bool,
    /// `None` if it was not asked for.
    resume: Option<bool>,
}

/// What was received so far, by whichever task.
#[derive(Default)]
struct Shared {
    frames: AtomicU32,
    packets: AtomicU32,
    pings: AtomicU32,
    answered: AtomicBool,
    asked: AtomicBool,
    other_settled: AtomicBool,
    other_left: AtomicBool,
    step: Mutex<&'static str>,
}

impl Shared {
    fn begin(&self, step: &'static str) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    async fn until(&self, step: &'static str, condition: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        self.begin(step);
        let leaving = step == "the other one leaves";
        while !condition(self) {
            ensure!(leaving || !self.other_left.load(Ordering::Relaxed), "the other one left before: {step}");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn media(&self, step: &'static str) -> anyhow::Result<()> {
        let frames = self.frames.load(Ordering::Relaxed) + FRAMES_MIN;
        let packets = self.packets.load(Ordering::Relaxed) + PACKETS_MIN;
        let enough =
            |all: &Self| all.frames.load(Ordering::Relaxed) >= frames && all.packets.load(Ordering::Relaxed) >= packets;
        self.until(step, enough).await
    }
}

/// The steps of `README.md`.
async fn run(arguments: &Arguments, shared: Arc<Shared>, report: &mut Report) -> anyhow::Result<()> {
    shared.begin("join");
    let client = Client::join(arguments, Arc::clone(&shared)).await.context("join")?;
    shared.begin("the publisher's connection is negotiated");
    match arguments.role {
        Role::Publish => client.publish().await.context("publish")?,
        Role::View => client.receive().await.context("receive")?,
    }
    let asking = tokio::spawn(ask(client.clone(), identity(&arguments.token)?));
    if arguments.role == Role::View {
        shared.media("media arrives").await?;
    }
    report.role = true;
    let both = |all: &Shared| all.answered.load(Ordering::Relaxed) && all.asked.load(Ordering::Relaxed);
    shared.until("data goes both ways", both).await?;
    report.data = true;
    asking.abort();
    let settled = |all: &Shared| all.other_settled.load(Ordering::Relaxed);
    if arguments.role == Role::Publish {
        shared.until("the viewer is settled", settled).await?;
    }
    if !arguments.no_resume {
        shared.begin("resume");
        client.resume(arguments).await.context("resume")?;
    }
    if arguments.role == Role::View {
        shared.media("media arrives after the viewer's resume").await?;
    }
    let settling = tokio::spawn(settle(client.clone(), identity(&arguments.token)?));
    match arguments.role {
        Role::View => {
            shared.until("the publisher is settled", settled).await?;
            shared.media("media arrives after the publisher's resume").await?;
        }
        Role::Publish => {
            shared.until("the other one leaves", |all| all.other_left.load(Ordering::Relaxed)).await?;
        }
    }
    report.resume = (!arguments.no_resume).then_some(true);
    settling.abort();
    client.leave().await
}

fn identity(token: &str) -> anyhow::Result<String> {
    let claims = token.split('.').nth(1).context("the token is no JWT")?;
    let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(claims)?;
    let claims: serde_json::Value = serde_json::from_slice(&claims)?;
    Ok(claims["sub"].as_str().context("the token names nobody")?.to_owned())
}

async fn ask(client: Client, identity: String) {
    loop {
        let number = client.shared.pings.fetch_add(1, Ordering::Relaxed) + 1;
        client.send_data("ping", format!("{identity} {number}").into_bytes()).await;
        tokio::time::sleep(REPEAT).await;
    }
}

async fn settle(client: Client, identity: String) {
    loop {
        client.send_data("settled", identity.clone().into_bytes()).await;
        tokio::time::sleep(REPEAT).await;
    }
}

/// A participant: its signal connection, its peer connections and the channel that it sends data on.
#[derive(Clone)]
struct Client {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    publisher: Arc<dyn PeerConnection>,
    /// With [`Mode::V0`]: what the server offers.
    subscriber: Option<Arc<dyn PeerConnection>>,
    channel: Arc<dyn DataChannel>,
    /// One offer at a time.
    offering: Arc<tokio::sync::Mutex<()>>,
    /// Whoever waits for the answer to an offer, or for a track to be published.
    answer: Arc<Mutex<Option<oneshot::Sender<String>>>>,
    published: Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>,
    reading: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Takes what a peer connection tells.
struct Listener {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    target: proto::SignalTarget,
    /// Data channels that the other side opened.
    channels: mpsc::UnboundedSender<Arc<dyn DataChannel>>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Listener {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        let Ok(init) = event.candidate.to_json() else { return };
        let candidate_init = serde_json::to_string(&init).expect("it is plain data");
        let target = self.target as i32;
        // A lost socket is found out by whoever waits for an answer.
        let _ =
            self.signal.send(Request::Trickle(proto::TrickleRequest { candidate_init, target, r#final: false })).await;
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        // The receiver lives as long as the client.
        let _ = self.channels.send(channel);
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let video = track.kind().await == RtpCodecKind::Video;
            let mut counter = Vp8Counter::default();
            let mut asked: Option<Instant> = None;
            while let Some(event) = track.poll().await {
                let TrackRemoteEvent::OnRtpPacket(packet) = event else { continue };
                if !video {
                    shared.packets.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let header = &packet.header;
                if counter.completes(header.sequence_number, header.marker, &packet.payload) {
                    shared.frames.fetch_add(1, Ordering::Relaxed);
                }
                if !counter.started && asked.is_none_or(|then| then.elapsed() > REPEAT) {
                    asked = Some(Instant::now());
                    let wish = PictureLossIndication { sender_ssrc: 0, media_ssrc: header.ssrc };
                    // It is asked again while no key frame comes.
                    let _ = track.write_rtcp(vec![Box::new(wish)]).await;
                }
            }
        });
    }
}

impl Client {
    async fn join(arguments: &Arguments, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let (signal, responses) = Signal::join(arguments).await?;
        let (channels, mut opened) = mpsc::unbounded_channel();
        let listener = |target| {
            let (shared, signal, channels) = (Arc::clone(&shared), Arc::clone(&signal), channels.clone());
            Arc::new(Listener { shared, signal, target, channels })
        };
        let publisher = peer_connection(listener(proto::SignalTarget::Publisher)).await?;
        let subscriber = match arguments.mode {
            Mode::V0 => Some(peer_connection(listener(proto::SignalTarget::Subscriber)).await?),
            Mode::V1 => None,
        };
        let channel = publisher.create_data_channel("_reliable", None).await?;
        let lossy = RTCDataChannelInit { ordered: true, max_retransmits: Some(0), ..Default::default() };
        let lossy = publisher.create_data_channel("_lossy", Some(lossy)).await?;
        let client = Self {
            shared,
            signal,
            publisher,
            subscriber,
            channel: Arc::clone(&channel),
            offering: Arc::default(),
            answer: Arc::default(),
            published: Arc::default(),
            reading: Arc::default(),
        };
        for channel in [channel, lossy] {
            tokio::spawn(client.clone().read_channel(channel));
        }
        let reader = client.clone();
        tokio::spawn(async move {
            while let Some(channel) = opened.recv().await {
                tokio::spawn(reader.clone().read_channel(channel));
            }
        });
        client.read(responses);
        Ok(client)
    }

    /// Reads responses from now on, and from no other socket any more.
    fn read(&self, responses: SplitStream<Socket>) {
        let reading = tokio::spawn(self.clone().read_responses(responses));
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    async fn publish(&self) -> anyhow::Result<()> {
        let mut films = Vec::new();
        for (cid, kind, codec) in [("camera", RtpCodecKind::Video, vp8()), ("microphone", RtpCodecKind::Audio, opus())]
        {
            let video = kind == RtpCodecKind::Video;
            let (sender, published) = oneshot::channel();
            self.published.lock().unwrap_or_else(PoisonError::into_inner).insert(cid.to_owned(), sender);
            let (r#type, source) = if video {
                (proto::TrackType::Video, proto::TrackSource::Camera)
            } else {
                (proto::TrackType::Audio, proto::TrackSource::Microphone)
            };
            let (width, height) = if video { (320, 180) } else { (0, 0) };
            let request = proto::AddTrackRequest {
                cid: cid.to_owned(),
                name: cid.to_owned(),
                r#type: r#type as i32,
                source: source as i32,
                width,
                height,
                ..Default::default()
            };
            self.signal.send(Request::AddTrack(request)).await?;
            published.await.context("the signal connection ended")?;
            let encoding = RTCRtpEncodingParameters {
                rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(rand::random()), ..Default::default() },
                codec: codec.rtp_codec,
                ..Default::default()
            };
            let track = MediaStreamTrack::new("stream".into(), cid.into(), cid.into(), kind, vec![encoding]);
            let track = Arc::new(TrackLocalStaticSample::new(Instant::now(), track)?);
            let sender = self.publisher.add_track(Arc::clone(&track) as Arc<dyn TrackLocal>).await?;
            films.push((track, sender, video));
        }
        self.offer(false).await?;
        for (track, sender, video) in films {
            let (file, pace) = if video { ("numbered.ivf", VIDEO_FRAME) } else { ("tone.ivf", AUDIO_FRAME) };
            let frames = frames_of(file)?;
            tokio::spawn(play(track, sender, frames, pace));
        }
        Ok(())
    }

    /// What a viewer needs on its own connection: with [`Mode::V1`], sections to receive on.
    async fn receive(&self) -> anyhow::Result<()> {
        if self.subscriber.is_none() {
            self.add_sections(1, 1).await?;
        }
        self.offer(false).await
    }

    async fn add_sections(&self, audio: u32, video: u32) -> anyhow::Result<()> {
        for (kind, count) in [(RtpCodecKind::Audio, audio), (RtpCodecKind::Video, video)] {
            for _ in 0..count {
                let direction = RTCRtpTransceiverDirection::Recvonly;
                let init = RTCRtpTransceiverInit { direction, ..Default::default() };
                self.publisher.add_transceiver_from_kind(kind, Some(init)).await?;
            }
        }
        Ok(())
    }

    async fn offer(&self, ice_restart: bool) -> anyhow::Result<()> {
        let _turn = self.offering.lock().await;
        let (sender, answer) = oneshot::channel();
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let offer = self.publisher.create_offer(Some(RTCOfferOptions { ice_restart })).await?;
        self.publisher.set_local_description(offer.clone()).await?;
        let offer = proto::SessionDescription { r#type: "offer".into(), sdp: offer.sdp, ..Default::default() };
        self.signal.send(Request::Offer(offer)).await?;
        let answer = answer.await.context("the signal connection ended")?;
        self.publisher.set_remote_description(RTCSessionDescription::answer(answer)?).await?;
        Ok(())
    }

    /// Loses the signal connection, and takes the session up again with an ICE restart.
    async fn resume(&self, arguments: &Arguments) -> anyhow::Result<()> {
        if let Some(reading) = self.reading.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reading.abort();
        }
        self.read(self.signal.resume(arguments).await?);
        self.offer(true).await
    }

    async fn leave(&self) -> anyhow::Result<()> {
        let reason = proto::DisconnectReason::ClientInitiated as i32;
        self.signal.send(Request::Leave(proto::LeaveRequest { reason, ..Default::default() })).await?;
        self.publisher.close().await?;
        if let Some(subscriber) = &self.subscriber {
            subscriber.close().await?;
        }
        Ok(())
    }

    async fn send_data(&self, topic: &str, payload: Vec<u8>) {
        let user = proto::UserPacket { topic: Some(topic.to_owned()), payload, ..Default::default() };
        let value = Some(proto::data_packet::Value::User(user));
        let packet = proto::DataPacket { value, ..Default::default() };
        // Before the channel is open nothing is sent; it is repeated.
        let _ = self.channel.send(BytesMut::from(&packet.encode_to_vec()[..])).await;
    }

    async fn read_channel(self, channel: Arc<dyn DataChannel>) {
        while let Some(event) = channel.poll().await {
            let DataChannelEvent::OnMessage(message) = event else { continue };
            let Ok(packet) = proto::DataPacket::decode(&message.data[..]) else { continue };
            if let Some(proto::data_packet::Value::User(user)) = packet.value {
                self.received(user.topic.as_deref().unwrap_or_default(), user.payload).await;
            }
        }
    }

    async fn received(&self, topic: &str, payload: Vec<u8>) {
        let number = || -> Option<u32> { std::str::from_utf8(&payload).ok()?.split_once(' ')?.1.parse().ok() };
        match topic {
            "ping" if number().is_some() => {
                self.shared.asked.store(true, Ordering::Relaxed);
                self.send_data("pong", payload).await;
            }
            "pong" if number().is_some_and(|number| number <= self.shared.pings.load(Ordering::Relaxed)) => {
                self.shared.answered.store(true, Ordering::Relaxed);
            }
            "settled" => self.shared.other_settled.store(true, Ordering::Relaxed),
            _ => {}
        }
    }

    async fn read_responses(self, mut responses: SplitStream<Socket>) {
        while let Some(Ok(message)) = responses.next().await {
            let Some(response) = decode(message) else { continue };
            if let Err(error) = self.respond(response).await {
                println!("on a response: {error:#}");
            }
        }
    }

    async fn respond(&self, response: Response) -> anyhow::Result<()> {
        match response {
            Response::Answer(answer) => {
                if let Some(waiting) = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    // Who waited may have given up.
                    let _ = waiting.send(answer.sdp);
                }
            }
            Response::Offer(offer) => {
                let subscriber = self.subscriber.as_ref().context("an offer on /rtc/v1")?;
                subscriber.set_remote_description(RTCSessionDescription::offer(offer.sdp)?).await?;
                let answer = subscriber.create_answer(None).await?;
                subscriber.set_local_description(answer.clone()).await?;
                let answer = proto::SessionDescription {
                    r#type: "answer".into(),
                    sdp: answer.sdp,
                    id: offer.id,
                    ..Default::default()
                };
                self.signal.send(Request::Answer(answer)).await?;
            }
            Response::Trickle(trickle) => {
                let subscriber = trickle.target == proto::SignalTarget::Subscriber as i32;
                let connection = if subscriber { self.subscriber.as_ref() } else { Some(&self.publisher) };
                let candidate: RTCIceCandidateInit = serde_json::from_str(&trickle.candidate_init)?;
                if let (Some(connection), false) = (connection, candidate.candidate.is_empty()) {
                    let connection = Arc::clone(connection);
                    tokio::spawn(async move { add_candidate(connection, candidate).await });
                }
            }
            Response::MediaSectionsRequirement(need) => {
                self.add_sections(need.num_audios, need.num_videos).await?;
                let client = self.clone();
                tokio::spawn(async move { client.offer(false).await });
            }
            Response::TrackPublished(published) => {
                let waiting = self.published.lock().unwrap_or_else(PoisonError::into_inner).remove(&published.cid);
                if let Some(waiting) = waiting {
                    // Who waited may have given up.
                    let _ = waiting.send(());
                }
            }
            Response::Update(update) => {
                let left = proto::participant_info::State::Disconnected as i32;
                if update.participants.iter().any(|who| who.state == left && who.sid != self.signal.sid) {
                    self.shared.other_left.store(true, Ordering::Relaxed);
                }
            }
            Response::Leave(leave) if leave.reason != proto::DisconnectReason::ClientInitiated as i32 => {
                bail!("the server ends the session: {leave:?}")
            }
            _ => {}
        }
        Ok(())
    }
}

/// A candidate may come before the description that it belongs to.
async fn add_candidate(connection: Arc<dyn PeerConnection>, candidate: RTCIceCandidateInit) {
    while connection.remote_description().await.is_none() {
        tokio::time::sleep(POLL).await;
    }
    if let Err(error) = connection.add_ice_candidate(candidate).await {
        println!("a candidate: {error}");
    }
}

async fn peer_connection(listener: Arc<Listener>) -> anyhow::Result<Arc<dyn PeerConnection>> {
    let mut engine = MediaEngine::default();
    engine.register_codec(opus(), RtpCodecKind::Audio)?;
    engine.register_codec(vp8(), RtpCodecKind::Video)?;
    let registry = register_default_interceptors(Registry::new(), &mut engine)?;
    let connection = PeerConnectionBuilder::new()
        .with_configuration(RTCConfigurationBuilder::new().build())
        .with_media_engine(engine)
        .with_interceptor_registry(registry)
        // Its queries need a route for multicast, and nobody here has such candidates.
        .with_setting_engine(SettingEngineBuilder::new().with_multicast_dns_mode(MulticastDnsMode::Disabled).build())
        .with_handler(listener)
        .with_udp_addrs(vec!["127.0.0.1:0"])
        .build()
        .await?;
    Ok(Arc::new(connection))
}

fn vp8() -> RTCRtpCodecParameters {
    codec(MIME_TYPE_VP8, 90_000, 0, 96)
}

fn opus() -> RTCRtpCodecParameters {
    codec(MIME_TYPE_OPUS, 48_000, 2, 111)
}

fn codec(mime_type: &str, clock_rate: u32, channels: u16, payload_type: u8) -> RTCRtpCodecParameters {
    let rtp_codec = RTCRtpCodec { mime_type: mime_type.to_owned(), clock_rate, channels, ..Default::default() };
    RTCRtpCodecParameters { rtp_codec, payload_type }
}

/// The frames of an IVF file.
fn frames_of(file: &str) -> anyhow::Result<Vec<Bytes>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file);
    let bytes = Bytes::from(std::fs::read(&path).with_context(|| path.display().to_string())?);
    let mut at = 32;
    let mut frames = Vec::new();
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().expect("it is four bytes")) as usize;
        frames.push(bytes.slice(at + 12..at + 12 + length));
        at += 12 + length;
    }
    Ok(frames)
}

/// Sends the frames again and again at their pace.
async fn play(
    track: Arc<TrackLocalStaticSample>,
    sender: Arc<dyn RtpSender>,
    frames: Vec<Bytes>,
    pace: Duration,
) -> anyhow::Result<()> {
    let parameters = sender.get_parameters().await?;
    let payload_type = parameters.rtp_parameters.codecs.first().context("no codec was negotiated")?.payload_type;
    let ssrc = *track.ssrcs().await.first().context("it has no SSRC")?;
    let mut clock = tokio::time::interval(pace);
    for frame in frames.iter().cycle() {
        clock.tick().await;
        let sample = Sample { data: frame.clone(), duration: pace, ..Sample::new(Instant::now()) };
        // Before the transport is connected there is nowhere to send to.
        let _ = track.sample_writer(ssrc, payload_type).write_sample(&sample).await;
    }
    Ok(())
}

/// Finds frames of VP8 whose packets all came, from a key frame on (RFC 7741). After a gap it waits for the next one.
#[derive(Default)]
struct Vp8Counter {
    next: Option<u16>,
    started: bool,
    in_frame: bool,
}

impl Vp8Counter {
    /// Whether the packet is the last one of a whole frame.
    fn completes(&mut self, sequence_number: u16, marker: bool, payload: &[u8]) -> bool {
        if self.next.is_some_and(|next| next != sequence_number) {
            (self.started, self.in_frame) = (false, false);
        }
        self.next = Some(sequence_number.wrapping_add(1));
        if let Some(key) = begins_frame(payload) {
            self.started |= key;
            self.in_frame = true;
        }
        marker && std::mem::take(&mut self.in_frame) && self.started
    }
}

/// Whether the payload begins a frame, and if so, a key frame.
fn begins_frame(payload: &[u8]) -> Option<bool> {
    let first = *payload.first()?;
    let mut at = 1;
    if first & 0x80 != 0 {
        let extension = *payload.get(at)?;
        at += 1;
        if extension & 0x80 != 0 {
            at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        at += usize::from(extension & 0x40 != 0) + usize::from(extension & 0x30 != 0);
    }
    let key = payload.get(at)? & 1 == 0;
    (first & 0x17 == 0x10).then_some(key)
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// LiveKit's signal connection.
struct Signal {
    sid: String,
    /// `None` while there is none.
    socket: tokio::sync::Mutex<Option<SplitSink<Socket, tungstenite::Message>>>,
}

impl Signal {
    async fn join(arguments: &Arguments) -> anyhow::Result<(Arc<Self>, SplitStream<Socket>)> {
        let (first, socket) = open(arguments, None).await?;
        let Response::Join(join) = first else { bail!("the first message is {first:?}") };
        let sid = join.participant.context("the join has no participant")?.sid;
        let (sink, stream) = socket.split();
        let signal = Arc::new(Self { sid, socket: tokio::sync::Mutex::new(Some(sink)) });
        tokio::spawn(ping(Arc::clone(&signal), Duration::from_secs(join.ping_interval.max(1).unsigned_abs().into())));
        Ok((signal, stream))
    }

    /// Drops the socket without a word, and opens another one for the same session.
    async fn resume(&self, arguments: &Arguments) -> anyhow::Result<SplitStream<Socket>> {
        let mut socket = self.socket.lock().await;
        *socket = None;
        let (first, new) = open(arguments, Some(&self.sid)).await?;
        ensure!(matches!(first, Response::Reconnect(_)), "the first message of a resume is {first:?}");
        let (sink, stream) = new.split();
        *socket = Some(sink);
        Ok(stream)
    }

    async fn send(&self, request: Request) -> anyhow::Result<()> {
        let bytes = proto::SignalRequest { message: Some(request) }.encode_to_vec();
        let mut socket = self.socket.lock().await;
        let socket = socket.as_mut().context("the signal connection is lost")?;
        Ok(socket.send(tungstenite::Message::Binary(bytes.into())).await?)
    }
}

async fn ping(signal: Arc<Signal>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        // A lost socket is found out by whoever waits for an answer.
        let _ = signal.send(Request::PingReq(proto::Ping { timestamp: 1, rtt: 0 })).await;
    }
}

/// A socket and the first message on it; `sid` is that of the session to resume.
async fn open(arguments: &Arguments, sid: Option<&str>) -> anyhow::Result<(Response, Socket)> {
    let path = match arguments.mode {
        Mode::V0 => v0(sid),
        Mode::V1 => v1(sid),
    };
    let mut request = format!("{}{path}", arguments.url).into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {}", arguments.token).parse()?);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
    while let Some(message) = socket.next().await {
        if let Some(first) = decode(message?) {
            return Ok((first, socket));
        }
    }
    Err(anyhow!("the server closed the socket before its first message"))
}

fn v0(sid: Option<&str>) -> String {
    let resume = sid.map(|sid| format!("&reconnect=1&sid={sid}")).unwrap_or_default();
    format!("/rtc?auto_subscribe=1&protocol={PROTOCOL}&version={VERSION}{resume}")
}

fn v1(sid: Option<&str>) -> String {
    let join = proto::JoinRequest {
        client_info: Some(proto::ClientInfo { protocol: PROTOCOL, version: VERSION.into(), ..Default::default() }),
        connection_settings: Some(proto::ConnectionSettings { auto_subscribe: true, ..Default::default() }),
        reconnect: sid.is_some(),
        participant_sid: sid.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    let wrapped = proto::WrappedJoinRequest { join_request: join.encode_to_vec(), ..Default::default() };
    let encoded = base64::prelude::BASE64_URL_SAFE.encode(wrapped.encode_to_vec());
    format!("/rtc/v1?join_request={}", encoded.replace('=', "%3D"))
}

fn decode(message: tungstenite::Message) -> Option<Response> {
    match message {
        tungstenite::Message::Binary(bytes) => proto::SignalResponse::decode(bytes).ok()?.message,
        _ => None,
    }
}
