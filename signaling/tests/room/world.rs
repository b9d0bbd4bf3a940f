//! A room, a clock that only tests move, and what came out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use livekit_protocol as proto;
use prost::Message as _;
use proto::participant_info::State;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::{Command, Event, Fingerprint, IceCredentials, RoomId, TransportId};
use shared::id::ParticipantSid;
use signaling::event::RoomEvent;
use signaling::id::ConnectionId;
use signaling::id::DescriptionId;
use signaling::join::{Join, JoinError, Mode, Reconnect};
use signaling::quality::Score;
use signaling::room::error::ApiError;
use signaling::room::timer::Now;
use signaling::room::view::{RoomDelta, RoomView};
use signaling::room::{Host, Room, RoomEffect};
use signaling::settings::{RoomSettings, RoomsConfig};

pub use crate::joins::{grants, join, keys};
use crate::sdp::{Offer, answer_to};

pub const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub const fn s(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub struct World {
    pub room: Room,
    start: Now,
    elapsed: Duration,
    inboxes: BTreeMap<ConnectionId, Vec<Response>>,
    pub closed: BTreeSet<ConnectionId>,
    /// That were asked for.
    pub receipts: Vec<(ConnectionId, DescriptionId)>,
    pub commands: Vec<Command>,
    pub deltas: Vec<RoomDelta>,
    pub scores: Vec<Score>,
    pub events: Vec<RoomEvent>,
    pub charges: Vec<(ConnectionId, usize)>,
    pub tracks_refused: usize,
    pub finished: bool,
    /// Whose connection each is.
    identities: BTreeMap<ConnectionId, String>,
    /// Who is hidden, by identity: as the grants of joins and the server API have it, whatever the room makes of them.
    hidden: BTreeMap<String, Hidden>,
}

/// The session of a hidden participant.
struct Hidden {
    sid: ParticipantSid,
    /// It was not hidden before, so that others may be told that it left.
    was_seen: bool,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_, _| {})
    }

    pub fn with(change: impl FnOnce(&mut RoomsConfig, &mut RoomSettings)) -> Self {
        let mut config = config();
        let mut settings = RoomSettings {
            empty_timeout: config.empty_timeout,
            departure_timeout: config.departure_timeout,
            max_participants: 0,
            metadata: String::new(),
        };
        change(&mut config, &mut settings);
        let start = Now { at: Instant::now(), wall: SystemTime::UNIX_EPOCH + s(1_800_000_000) };
        let minted = AtomicU64::new(0);
        let new_credentials = Box::new(move || {
            let number = minted.fetch_add(1, Ordering::Relaxed);
            IceCredentials { ufrag: format!("ours{number:04}"), password: format!("{number:024}") }
        });
        let host = Host { candidates: Vec::new(), new_credentials };
        let name = "room".parse().unwrap();
        let room = Room::open(start, RoomId(1), name, settings, host, Arc::new(config));
        let mut world = Self {
            room,
            start,
            elapsed: Duration::ZERO,
            inboxes: BTreeMap::new(),
            closed: BTreeSet::new(),
            receipts: Vec::new(),
            commands: Vec::new(),
            deltas: Vec::new(),
            scores: Vec::new(),
            events: Vec::new(),
            charges: Vec::new(),
            tracks_refused: 0,
            finished: false,
            identities: BTreeMap::new(),
            hidden: BTreeMap::new(),
        };
        world.collect();
        world
    }

    pub fn now(&self) -> Now {
        Now { at: self.start.at + self.elapsed, wall: self.start.wall + self.elapsed }
    }

    fn collect(&mut self) {
        for effect in self.room.take_effects() {
            assert!(!self.finished, "effect after the end: {effect:?}");
            match effect {
                RoomEffect::Command(command) => {
                    self.assert_hides_sender(&command);
                    self.commands.push(command);
                }
                RoomEffect::Send { to, message } => {
                    for connection in to {
                        assert!(!self.closed.contains(&connection), "message after close: {message:?}");
                        let response = message.response().into_owned().message.unwrap();
                        assert_keeps_hidden(&self.hidden, self.identities.get(&connection), response.clone());
                        self.inboxes.entry(connection).or_default().push(response);
                    }
                }
                RoomEffect::AskReceipt(connection, offer) => self.receipts.push((connection, offer)),
                RoomEffect::CloseConnection(connection) => {
                    self.closed.insert(connection);
                }
                RoomEffect::Charge { connection, cost } => self.charges.push((connection, cost)),
                RoomEffect::Event(event) => self.events.push(*event),
                RoomEffect::Delta(delta) => self.deltas.push(*delta),
                RoomEffect::Quality(scores) => self.scores.extend(scores),
                RoomEffect::TrackRefused => self.tracks_refused += 1,
                RoomEffect::Closed => self.finished = true,
            }
        }
    }

    /// Data of a hidden sender does not have its identity. It has the sid (docs/livekit.md 6.2), which leads nobody to
    /// the sender: no message names it ([`assert_keeps_hidden`]).
    fn assert_hides_sender(&self, command: &Command) {
        let Command::SendData { from: Some(from), payload, .. } = command else { return };
        for identity in self.hidden.keys() {
            let session = self.room.session(identity).into_iter();
            let is_sender = session.flat_map(|session| session.transports()).any(|transport| transport.id == *from);
            let names = payload.windows(identity.len()).any(|bytes| bytes == identity.as_bytes());
            assert!(!is_sender || !names, "data of {identity}, who is hidden, has its name");
        }
    }

    /// Lets time pass, deadline by deadline.
    pub fn pass(&mut self, time: Duration) {
        let end = self.elapsed + time;
        while let Some(deadline) = self.room.deadline() {
            let due = deadline.saturating_duration_since(self.start.at);
            if due > end {
                break;
            }
            self.elapsed = self.elapsed.max(due);
            self.room.on_deadline(self.now());
            self.collect();
        }
        self.elapsed = end;
    }

    pub fn try_join(&mut self, join: Join) -> Result<ConnectionId, JoinError> {
        let (identity, hidden) = (join.grants.identity.to_string(), join.grants.video.hidden);
        let resumes = join.reconnect.is_some();
        let result = self.room.join(self.now(), join);
        if let Ok(connection) = &result {
            self.identities.insert(*connection, identity.clone());
            // Who resumes stays what it was, whatever its token says.
            if !resumes {
                self.set_hidden(&identity, hidden);
            }
        }
        self.collect();
        result
    }

    /// UpdateParticipant of the server API, which may hide and show.
    pub fn update_participant(
        &mut self,
        request: proto::UpdateParticipantRequest,
    ) -> Result<proto::ParticipantInfo, ApiError> {
        let identity = request.identity.clone();
        let hidden = request.permission.as_ref().map(|permission| permission.hidden);
        let result = self.room.update_participant(self.now(), request);
        if let (Ok(_), Some(hidden)) = (&result, hidden) {
            let was_hidden = self.hidden.contains_key(&identity);
            self.set_hidden(&identity, hidden);
            if let Some(hidden) = self.hidden.get_mut(&identity) {
                hidden.was_seen |= !was_hidden;
            }
        }
        self.collect();
        result
    }

    fn set_hidden(&mut self, identity: &str, hidden: bool) {
        let session = self.room.session(identity).filter(|_| hidden);
        let Some(sid) = session.map(|session| session.sid.clone()) else {
            self.hidden.remove(identity);
            return;
        };
        let was_seen = self.hidden.get(identity).is_some_and(|known| known.sid == sid && known.was_seen);
        self.hidden.insert(identity.to_owned(), Hidden { sid, was_seen });
    }

    pub fn join(&mut self, join: Join) -> Client {
        let identity = join.grants.identity.to_string();
        let connection = self.try_join(join).unwrap();
        Client { connection, identity }
    }

    /// Joins, answers our first offer (v0), and connects; what was said until then is forgotten.
    pub fn enter(&mut self, join: Join) -> Client {
        let client = self.join(join);
        self.answer(&client);
        self.connect(&client);
        self.forget();
        client
    }

    /// A v1 participant that has negotiated its empty slots.
    pub fn enter_v1(&mut self, identity: &str) -> Client {
        let offer = offer(1, &Offer::v1());
        self.enter(Join { publisher_offer: Some(offer), ..join(identity, Mode::V1) })
    }

    pub fn enter_v0(&mut self, identity: &str) -> Client {
        self.enter(join(identity, Mode::V0))
    }

    pub fn request(&mut self, client: &Client, message: Request) {
        let request = proto::SignalRequest { message: Some(message) };
        self.room.on_request(self.now(), client.connection, request);
        self.collect();
    }

    pub fn offer(&mut self, client: &Client, id: u32, sdp: &Offer) {
        self.request(client, Request::Offer(offer(id, sdp)));
    }

    /// Answers our last offer, if there is an unanswered one.
    pub fn answer(&mut self, client: &Client) {
        let offers = self.inbox(client).iter().rev();
        let mut last =
            offers.filter_map(|message| if let Response::Offer(offer) = message { Some(offer) } else { None });
        let Some(offer) = last.next().cloned() else { return };
        let answer = proto::SessionDescription {
            r#type: "answer".into(),
            sdp: answer_to(&offer.sdp),
            id: offer.id,
            ..Default::default()
        };
        self.request(client, Request::Answer(answer));
    }

    pub fn event(&mut self, event: Event) {
        self.room.on_event(self.now(), event);
        self.collect();
    }

    pub fn connect(&mut self, client: &Client) {
        let transports: Vec<TransportId> = self.session(client).transports().map(|transport| transport.id).collect();
        for transport in transports {
            self.event(Event::TransportConnected { transport });
        }
    }

    /// A client has read the answer to the offer with this id.
    pub fn receive(&mut self, client: &Client, offer: u32) {
        self.room.on_receipt(client.connection, DescriptionId(offer));
        self.collect();
    }

    pub fn lose_socket(&mut self, client: &Client) {
        self.room.on_connection_closed(self.now(), client.connection);
        self.collect();
    }

    /// Does something to the room that is not an input of its own here.
    pub fn call<T>(&mut self, call: impl FnOnce(&mut Room, Now) -> T) -> T {
        let now = self.now();
        let result = call(&mut self.room, now);
        self.collect();
        result
    }

    pub fn session(&self, client: &Client) -> &signaling::participant::SessionState {
        self.room.session(&client.identity).unwrap()
    }

    pub fn sid(&self, client: &Client) -> ParticipantSid {
        self.session(client).sid.clone()
    }

    /// What a client was sent and did not look at yet.
    pub fn inbox(&self, client: &Client) -> &[Response] {
        self.inboxes.get(&client.connection).map_or(&[], Vec::as_slice)
    }

    /// The same, and forgets it.
    pub fn take(&mut self, client: &Client) -> Vec<Response> {
        self.inboxes.remove(&client.connection).unwrap_or_default()
    }

    /// Forgets all messages and commands until now.
    pub fn forget(&mut self) {
        self.inboxes.clear();
        self.commands.clear();
    }

    /// Publishes an audio track, and returns its sid.
    pub fn publish_audio(&mut self, client: &Client, cid: &str, offer: &Offer) -> String {
        let request = proto::AddTrackRequest {
            cid: cid.into(),
            source: proto::TrackSource::Microphone as i32,
            ..Default::default()
        };
        self.request(client, Request::AddTrack(request));
        self.offer(client, 7, offer);
        self.track_published(client, cid).sid
    }

    /// Publishes a three-layer camera and lets its first packet arrive.
    pub fn publish_camera(&mut self, client: &Client, cid: &str, offer: &Offer) -> String {
        self.request(client, Request::AddTrack(camera(cid)));
        self.offer(client, 8, offer);
        let sid = self.track_published(client, cid).sid;
        self.start_layer(client, &sid, 0);
        sid
    }

    pub fn start_layer(&mut self, client: &Client, track: &str, layer: u8) {
        let publication = self.session(client).publications[track].id;
        let ssrc = sfu::command::Ssrc(1_000 + u32::from(layer));
        self.event(Event::LayerStarted { publication, layer, ssrc, codec: shared::media::Codec::Vp8 });
    }

    pub fn track_published(&self, client: &Client, cid: &str) -> proto::TrackInfo {
        let published = self.inbox(client).iter().rev().find_map(|message| match message {
            Response::TrackPublished(published) if published.cid == cid => published.track.clone(),
            _ => None,
        });
        published.expect("no TrackPublished")
    }

    /// The visible state as its deltas tell it.
    pub fn rebuilt(&self) -> RoomView {
        let mut view = RoomView::default();
        for delta in &self.deltas {
            view.apply(delta).unwrap();
        }
        view
    }
}

/// Nobody but itself is told of a hidden participant, in any message. That an earlier session of it left may be told:
/// it may have been seen. So may be that it left when it was hidden.
fn assert_keeps_hidden(hidden: &BTreeMap<String, Hidden>, to: Option<&String>, mut message: Response) {
    if let Response::Update(update) = &mut message {
        let was_never_seen = |sid: &str| hidden.values().any(|hidden| !hidden.was_seen && hidden.sid.as_str() == sid);
        update.participants.retain(|info| info.state() != State::Disconnected || was_never_seen(&info.sid));
    }
    let message = proto::SignalResponse { message: Some(message) }.encode_to_vec();
    let names = |name: &str| message.windows(name.len()).any(|bytes| bytes == name.as_bytes());
    for (identity, Hidden { sid, .. }) in hidden.iter().filter(|(identity, _)| Some(*identity) != to) {
        let text = String::from_utf8_lossy(&message);
        assert!(!names(sid.as_str()) && !names(identity), "others are told of {identity}, who is hidden: {text}");
    }
}

/// Somebody's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub connection: ConnectionId,
    pub identity: String,
}

pub fn config() -> RoomsConfig {
    RoomsConfig::new("ND_test".into(), keys().signer(), Fingerprint([7; 32]))
}

pub fn resume(identity: &str, mode: Mode, sid: &str) -> Join {
    let reconnect = Reconnect { participant_sid: sid.into(), reason: proto::ReconnectReason::RrSignalDisconnected };
    Join { reconnect: Some(reconnect), ..join(identity, mode) }
}

pub fn offer(id: u32, sdp: &Offer) -> proto::SessionDescription {
    proto::SessionDescription { r#type: "offer".into(), sdp: sdp.text(), id, ..Default::default() }
}

/// AddTrack of a 720p camera with three layers.
pub fn camera(cid: &str) -> proto::AddTrackRequest {
    let layer = |quality: proto::VideoQuality, width, height| proto::VideoLayer {
        quality: quality as i32,
        width,
        height,
        ..Default::default()
    };
    let layers = vec![
        layer(proto::VideoQuality::Low, 320, 180),
        layer(proto::VideoQuality::Medium, 640, 360),
        layer(proto::VideoQuality::High, 1280, 720),
    ];
    proto::AddTrackRequest {
        cid: cid.into(),
        r#type: proto::TrackType::Video as i32,
        source: proto::TrackSource::Camera as i32,
        width: 1280,
        height: 720,
        layers: layers.clone(),
        simulcast_codecs: vec![proto::SimulcastCodec {
            codec: "vp8".into(),
            cid: cid.into(),
            layers,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// One word a message, for looking at order.
pub fn names(messages: &[Response]) -> Vec<&'static str> {
    messages
        .iter()
        .map(|message| match message {
            Response::Join(_) => "join",
            Response::Answer(_) => "answer",
            Response::Offer(_) => "offer",
            Response::Update(_) => "update",
            Response::TrackPublished(_) => "track_published",
            Response::TrackUnpublished(_) => "track_unpublished",
            Response::Leave(_) => "leave",
            Response::Mute(_) => "mute",
            Response::SpeakersChanged(_) => "speakers",
            Response::RoomUpdate(_) => "room_update",
            Response::ConnectionQuality(_) => "quality",
            Response::SubscribedQualityUpdate(_) => "subscribed_quality",
            Response::SubscriptionPermissionUpdate(_) => "permission",
            Response::RefreshToken(_) => "token",
            Response::Reconnect(_) => "reconnect",
            Response::SubscriptionResponse(_) => "subscription_response",
            Response::RequestResponse(_) => "request_response",
            Response::TrackSubscribed(_) => "track_subscribed",
            Response::MediaSectionsRequirement(_) => "sections",
            _ => "other",
        })
        .collect()
}

/// The participants of all updates, in order.
pub fn updates(messages: &[Response]) -> Vec<proto::ParticipantInfo> {
    messages
        .iter()
        .filter_map(|message| if let Response::Update(update) = message { Some(&update.participants) } else { None })
        .flatten()
        .cloned()
        .collect()
}

pub fn leaves(messages: &[Response]) -> Vec<proto::LeaveRequest> {
    let leaves = messages.iter();
    leaves.filter_map(|message| if let Response::Leave(leave) = message { Some(leave.clone()) } else { None }).collect()
}

pub fn request_responses(messages: &[Response]) -> Vec<proto::RequestResponse> {
    let all = messages.iter();
    all.filter_map(|message| if let Response::RequestResponse(found) = message { Some(found.clone()) } else { None })
        .collect()
}
