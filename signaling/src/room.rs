//! A room: who is in it, who publishes what, who hears whom.
//!
//! A state machine (ARCHITECTURE.md, invariant 9): inputs and time go in, [`RoomEffect`]s come out. It does no IO and
//! reads no clock. What members may see changes only through [`view::RoomDelta`]s. The task that drives it is in
//! [`task`].

#![expect(deprecated, reason = "clients of all ages send and read fields that newer ones have other names for")]

mod api;
mod audience;
mod broadcast;
mod charge;
pub mod data;
mod deliver;
pub mod error;
pub mod input;
mod message;
mod metadata;
mod publish;
mod speakers;
mod subscribe;
pub mod task;
pub mod timer;
mod track;
mod updates;
pub mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use livekit_protocol as proto;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use proto::participant_info::State;
use proto::signal_response::Message as Response;
use sfu::command::{
    Candidate, ChannelOpener, Command, Event, IceCredentials, PublicationId, RoomId, SubscriptionId, TransportEnd,
    TransportId,
};
use shared::id::{ParticipantIdentity, ParticipantSid, RoomName, RoomSid, TrackSid};

use crate::budget::Told;
use crate::event::{RoomEvent, RoomHappening};
use crate::id::{ConnectionId, DescriptionId};
use crate::join::{Join, JoinError, Mode};
use crate::negotiation::{LocalTransport, Negotiation, Role};
use crate::participant::{Live, OnResume, Participant, SessionState, SubscriptionPolicy, Transport};
use crate::presence::{HearsOf, Presence};
use crate::quality::Score;
use crate::quirks::{Quirk, Quirks};
use crate::settings::{RoomSettings, RoomsConfig, exceeds};
use crate::wire::{self, Others, Outgoing};
use data::{DataMemory, Taken};
use timer::{Now, Timer, Timers};
use updates::{Broadcasts, Urgency};
use view::{Change, Member, RoomDelta, RoomView};

/// A participant must be ACTIVE this long after it joined (docs/livekit.md 3.3).
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// A participant that lost its media must have joined anew after this time (docs/livekit.md 3.10).
pub const REJOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between refresh tokens (docs/livekit.md 2.2).
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Between reports of connection quality (docs/livekit.md 7.11).
pub const QUALITY_INTERVAL: Duration = Duration::from_secs(5);
/// How long the transports of somebody who was told to leave stay open. A client that loses its data channels before it
/// has read the Leave takes them for broken; one that has read it closes them itself.
pub const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// What a room asks its surroundings to do, in order.
#[derive(Debug)]
pub enum RoomEffect {
    Command(Command),
    /// One message to one or many connections.
    Send {
        to: Vec<ConnectionId>,
        message: Arc<Outgoing>,
    },
    /// After what was sent to it before: the client is to say when it has read that. With the id of its offer.
    AskReceipt(ConnectionId, DescriptionId),
    /// After what was sent to it before.
    CloseConnection(ConnectionId),
    /// So much comes off its budget, for what others were told because of its participant.
    Charge {
        connection: ConnectionId,
        cost: usize,
    },
    Event(Box<RoomEvent>),
    Delta(Box<RoomDelta>),
    /// A participant was refused a track for want of room for it.
    TrackRefused,
    /// How good the connections of all its participants are, every so often.
    Quality(Vec<Score>),
    /// The room is no more; no effect follows.
    Closed,
}

/// The worker that hosts a room.
pub struct Host {
    pub candidates: Vec<Candidate>,
    /// New ICE credentials of that worker.
    pub new_credentials: Box<dyn Fn() -> IceCredentials + Send>,
}

/// A room.
pub struct Room {
    config: Arc<RoomsConfig>,
    settings: RoomSettings,
    host: Host,
    id: RoomId,
    name: RoomName,
    sid: RoomSid,
    /// Marks frames that a server injects into end-to-end encrypted tracks.
    sif_trailer: Vec<u8>,
    view: RoomView,
    /// Boxed, as the map moves what it holds.
    participants: BTreeMap<ParticipantSid, Box<Participant>>,
    identities: HashMap<ParticipantIdentity, ParticipantSid>,
    connections: HashMap<ConnectionId, ParticipantSid>,
    transports: HashMap<TransportId, ParticipantSid>,
    publications: HashMap<PublicationId, ParticipantSid>,
    /// Tracks that others see, and who publishes them.
    tracks: BTreeMap<TrackSid, ParticipantSid>,
    data: DataMemory,
    data_taken: Taken,
    broadcasts: Broadcasts,
    timers: Timers,
    ids: Ids,
    events_sent: u64,
    closed: bool,
    out: Effects,
}

/// Effects of the input that is being handled.
#[derive(Default)]
struct Effects {
    effects: Vec<RoomEffect>,
    /// Who pays for what others are told now, and what that is.
    told: Option<(Option<ConnectionId>, Told)>,
}

impl Effects {
    fn push(&mut self, effect: RoomEffect) {
        self.effects.push(effect);
    }

    fn send(&mut self, to: Option<ConnectionId>, message: Response) {
        if let Some(connection) = to {
            self.send_all(vec![connection], message);
        }
    }

    fn send_all(&mut self, to: Vec<ConnectionId>, message: Response) {
        if to.is_empty() {
            return;
        }
        let message = Arc::new(Outgoing::new(message));
        if let Some((by, told)) = &mut self.told {
            let others = to.iter().filter(|connection| Some(**connection) != *by).count();
            told.add(others, message.size());
        }
        self.push(RoomEffect::Send { to, message });
    }

    fn ask_receipt(&mut self, of: Option<ConnectionId>, offer: Option<DescriptionId>) {
        if let (Some(connection), Some(offer)) = (of, offer) {
            self.push(RoomEffect::AskReceipt(connection, offer));
        }
    }

    fn command(&mut self, command: Command) {
        self.push(RoomEffect::Command(command));
    }
}

/// Mints ids that no other room mints: the room's number stands in the upper half.
struct Ids {
    room: u64,
    last: u32,
    last_connection: u64,
}

impl Ids {
    fn next(&mut self) -> u64 {
        self.last = self.last.wrapping_add(1);
        self.room << 32 | u64::from(self.last)
    }

    fn transport(&mut self) -> TransportId {
        TransportId(self.next())
    }

    fn publication(&mut self) -> PublicationId {
        PublicationId(self.next())
    }

    fn subscription(&mut self) -> SubscriptionId {
        SubscriptionId(self.next())
    }

    fn connection(&mut self) -> ConnectionId {
        self.last_connection += 1;
        ConnectionId(self.last_connection)
    }
}

impl Room {
    /// Opens a room. It closes by itself when nobody comes.
    pub fn open(
        now: Now,
        id: RoomId,
        name: RoomName,
        settings: RoomSettings,
        host: Host,
        config: Arc<RoomsConfig>,
    ) -> Self {
        let sid = RoomSid::generate();
        let mut room = Self {
            settings,
            host,
            id,
            name,
            sid,
            sif_trailer: random_trailer(),
            view: RoomView::default(),
            participants: BTreeMap::new(),
            identities: HashMap::new(),
            connections: HashMap::new(),
            transports: HashMap::new(),
            publications: HashMap::new(),
            tracks: BTreeMap::new(),
            data: DataMemory::default(),
            data_taken: Taken::default(),
            broadcasts: Broadcasts::default(),
            timers: Timers::default(),
            ids: Ids { room: id.0, last: 0, last_connection: 0 },
            events_sent: 0,
            closed: false,
            out: Effects::default(),
            config,
        };
        room.change(Change::Opened { room: Box::new(room.describe(now)) });
        room.tell(now, RoomHappening::RoomStarted { room: room.view.room.clone() });
        room.timers.set(Timer::Empty, now.at + room.settings.empty_timeout);
        room
    }

    fn describe(&self, now: Now) -> proto::Room {
        proto::Room {
            sid: self.sid.to_string(),
            name: self.name.to_string(),
            empty_timeout: seconds(self.settings.empty_timeout),
            departure_timeout: seconds(self.settings.departure_timeout),
            max_participants: self.settings.max_participants,
            creation_time: now.unix_ms() / 1000,
            creation_time_ms: now.unix_ms(),
            enabled_codecs: wire::room_codecs(&self.config),
            metadata: self.settings.metadata.clone(),
            ..Default::default()
        }
    }

    /// Effects of all inputs since the last call.
    pub fn take_effects(&mut self) -> Vec<RoomEffect> {
        self.announce_due();
        self.out.effects.extend(self.data_taken.take(self.id).map(RoomEffect::Command));
        std::mem::take(&mut self.out.effects)
    }

    /// The visible state.
    pub fn view(&self) -> &RoomView {
        &self.view
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Tracks that others see.
    pub fn track_count(&self) -> usize {
        self.tracks.len()
    }

    /// Everything a session needs to go on elsewhere.
    pub fn session(&self, identity: &str) -> Option<&SessionState> {
        let sid = self.identities.get(identity)?;
        self.participants.get(sid).map(|participant| &participant.state)
    }

    /// When [`Room::on_deadline`] wants to be called.
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.timers.deadline()
    }

    // --- joining and leaving ---

    /// Admits or resumes. A resume that cannot be is answered on the returned connection by a Leave.
    pub fn join(&mut self, now: Now, join: Join) -> Result<ConnectionId, JoinError> {
        if self.closed {
            return Err(JoinError::Unavailable);
        }
        match join.reconnect {
            Some(_) => Ok(self.resume(now, join)),
            None => self.admit(now, join),
        }
    }

    fn admit(&mut self, now: Now, join: Join) -> Result<ConnectionId, JoinError> {
        self.check_sizes(&join)?;
        let replaced = self.identities.get(&join.grants.identity).cloned();
        self.check_capacity(&join, replaced.as_ref())?;
        let presence = replaced.as_ref().and_then(|old| self.view.member(old)).map(|member| member.presence);
        let debt = replaced.as_ref().and_then(|old| self.participants.get(old)).map(|old| old.live.debt);
        if let Some(old) = replaced {
            let comes_back = !join.grants.video.hidden;
            self.remove_session(now, &old, Reason::DuplicateIdentity, Some(Action::Disconnect), comes_back);
        }
        let mut join = join;
        let (add_tracks, publisher_offer) = (std::mem::take(&mut join.add_tracks), join.publisher_offer.take());
        let connection = self.ids.connection();
        let sid = self.enter(now, join, connection, presence);
        self.take_over_debt(now, &sid, debt.unwrap_or_default());
        self.send_join_response(&sid);
        self.change(Change::State { sid: sid.clone(), state: State::Joined });
        // Who knows the replaced session was not told of its end.
        let urgency = if presence.is_some() { Urgency::Now } else { Urgency::MayWait };
        self.announce(now, &sid, urgency);
        self.send_refresh_token(now, &sid);
        self.first_offer(now, &sid);
        self.reconcile(now, &sid);
        self.replay_data(now, &sid);
        self.charging(now, &sid, 0, |room| room.publish_at_join(now, &sid, add_tracks, publisher_offer));
        self.counts_changed(now);
        Ok(connection)
    }

    /// What came with a request to join or to resume.
    fn publish_at_join(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        add_tracks: Vec<proto::AddTrackRequest>,
        offer: Option<proto::SessionDescription>,
    ) {
        for request in add_tracks {
            self.on_add_track(now, sid, request);
        }
        if let Some(offer) = offer {
            self.on_offer(now, sid, offer);
        }
    }

    fn check_sizes(&self, join: &Join) -> Result<(), JoinError> {
        let limits = &self.config.limits;
        if exceeds(join.grants.metadata.len(), limits.metadata_bytes_max) {
            return Err(JoinError::TooLarge("metadata"));
        }
        if exceeds(metadata::attributes_size(&join.grants.attributes), limits.attributes_bytes_max) {
            return Err(JoinError::TooLarge("attributes"));
        }
        Ok(())
    }

    fn check_capacity(&self, join: &Join, replaced: Option<&ParticipantSid>) -> Result<(), JoinError> {
        let max = self.settings.max_participants as usize;
        let video = &join.grants.video;
        let kind = join.grants.kind;
        let dependent = video.agent
            || video.recorder
            || kind == proto::participant_info::Kind::Agent
            || kind == proto::participant_info::Kind::Egress;
        let freed = replaced.and_then(|sid| self.view.member(sid)).is_some_and(|member| !member.dependent);
        if max > 0 && !dependent && self.view.independent() - usize::from(freed) >= max {
            return Err(JoinError::RoomFull);
        }
        Ok(())
    }

    /// Makes the newcomer a member, and opens its transports.
    fn enter(&mut self, now: Now, join: Join, connection: ConnectionId, replaced: Option<Presence>) -> ParticipantSid {
        let sid = ParticipantSid::generate();
        let mut state = self.new_session(sid.clone(), join);
        for transport in state.transports() {
            self.transports.insert(transport.id, sid.clone());
        }
        let presence = self.presence_of_newcomer(&state, replaced);
        if presence == Presence::Early {
            state.hears_of = HearsOf::Early;
        }
        let member = Member {
            info: member_info(now, &state, &self.config.region),
            hidden: state.is_hidden(),
            dependent: state.is_dependent(),
            presence,
        };
        let recorder = state.is_recorder();
        let identity = state.grants.identity.clone();
        let live = Live { connection: Some(connection), ..Live::default() };
        self.participants.insert(sid.clone(), Box::new(Participant { state, live }));
        self.identities.insert(identity, sid.clone());
        self.connections.insert(connection, sid.clone());
        if !member.dependent {
            self.timers.clear(&Timer::Empty);
        }
        self.change(Change::Joined { sid: sid.clone(), member: Box::new(member) });
        if recorder && !self.view.room.active_recording {
            self.change(Change::Recording { active: true });
            self.send_room_update(now);
        }
        self.timers.set(Timer::Join(sid.clone()), now.at + JOIN_TIMEOUT);
        self.timers.set_if_unset(Timer::Quality, now.at + QUALITY_INTERVAL);
        sid
    }

    fn new_session(&mut self, sid: ParticipantSid, join: Join) -> SessionState {
        let quirks = Quirks::of(&join.client, join.protocol_version);
        let can_subscribe = join.grants.video.may_subscribe();
        let subscriber_primary = join.mode == Mode::V0 && can_subscribe && !quirks.has(Quirk::PublisherPrimary);
        let (publisher, subscriber) = match join.mode {
            Mode::V0 => (
                self.open_transport(Role::Publisher, ChannelOpener::Client, quirks),
                Some(self.open_transport(Role::Subscriber, ChannelOpener::Server, quirks)),
            ),
            Mode::V1 => (self.open_transport(Role::Single, ChannelOpener::Client, quirks), None),
        };
        let mut state = SessionState {
            sid,
            grants: join.grants,
            client: join.client,
            quirks,
            mode: join.mode,
            auto_subscribe: join.auto_subscribe,
            adaptive_stream: join.adaptive_stream,
            subscriber_primary,
            publisher,
            subscriber,
            pending: Vec::new(),
            queued: Vec::new(),
            unclaimed: Vec::new(),
            publications: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            choices: BTreeMap::new(),
            settings: BTreeMap::new(),
            policy: SubscriptionPolicy::default(),
            denied: Default::default(),
            hears_of: HearsOf::Announced,
            acquainted: Default::default(),
            last_reliable: 0,
            active: false,
        };
        if state.is_in_charge() {
            state.hears_of = HearsOf::Everybody;
        }
        state
    }

    fn open_transport(&mut self, role: Role, opener: ChannelOpener, quirks: Quirks) -> Transport {
        let id = self.ids.transport();
        let local = (self.host.new_credentials)();
        self.out.command(Command::OpenTransport { transport: id, room: self.id, local: local.clone(), opener });
        let description = LocalTransport {
            ice: local.clone(),
            fingerprint: self.config.fingerprint,
            candidates: self.host.candidates.clone(),
        };
        Transport {
            id,
            local,
            negotiation: Negotiation::new(role, description, &self.config.enabled_codecs).for_client(quirks),
            connected: false,
            ended: false,
            last_offer: None,
            last_answer: None,
            outstanding: false,
        }
    }

    /// What a newcomer is told first. Most hear of the same others, who are described once for all of them.
    fn send_join_response(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        let connection = participant.live.connection;
        let described = self.view.member(sid).is_some_and(Member::is_announced);
        let others = match participant.state.hears_of {
            HearsOf::Announced if !described => self.announced(),
            HearsOf::Announced | HearsOf::Early | HearsOf::Everybody => {
                let others = self.visible_to(sid).filter(|info| info.sid != sid.as_str());
                Arc::new(Others::new(others.cloned().collect()))
            }
        };
        let Some(participant) = self.participants.get(sid) else { return };
        let response = self.join_response(&participant.state);
        self.out.push(RoomEffect::Send {
            to: connection.into_iter().collect(),
            message: Arc::new(Outgoing::join(response, others)),
        });
    }

    fn join_response(&self, state: &SessionState) -> proto::JoinResponse {
        proto::JoinResponse {
            room: Some(self.view.room.clone()),
            participant: self.view.member(&state.sid).map(|member| member.info.clone()),
            server_version: wire::SERVER_VERSION.into(),
            server_region: self.config.region.clone(),
            server_info: Some(wire::server_info(&self.config)),
            ice_servers: self.config.ice_servers.clone(),
            subscriber_primary: state.subscriber_primary,
            ping_timeout: wire::PING_TIMEOUT_S,
            ping_interval: wire::PING_INTERVAL_S,
            sif_trailer: self.sif_trailer.clone(),
            enabled_publish_codecs: wire::publish_codecs(&self.config, state.quirks),
            client_configuration: state.quirks.client_configuration(),
            fast_publish: state.grants.video.may_publish(),
            ..Default::default()
        }
    }

    /// Everybody whom `sid` is told of, itself included.
    fn visible_to<'a>(&'a self, sid: &'a ParticipantSid) -> impl Iterator<Item = &'a proto::ParticipantInfo> {
        let hears_of = self.participants.get(sid).map_or(HearsOf::Announced, |participant| participant.state.hears_of);
        let is_acquainted = |other: &ParticipantSid| {
            self.participants.get(other).is_some_and(|other| other.state.acquainted.contains(sid))
        };
        let is_visible = move |other: &ParticipantSid, member: &Member| {
            member.is_told_to(hears_of) || (!member.hidden && is_acquainted(other))
        };
        let members = self.view.members.iter();
        members.filter(move |(other, member)| *other == sid || is_visible(other, member)).map(|(_, m)| &m.info)
    }

    /// A new socket for a running session, or a Leave on it.
    fn resume(&mut self, now: Now, join: Join) -> ConnectionId {
        let connection = self.ids.connection();
        let Some(sid) = self.resumable(&join) else {
            if let Some(sid) = self.identities.get(&join.grants.identity).cloned()
                && self.participants.get(&sid).is_some_and(|participant| participant.live.lost)
            {
                self.remove(now, &sid, Reason::ConnectionTimeout, None);
            }
            self.out.send(Some(connection), wire::leave(Reason::StateMismatch, Action::Reconnect));
            self.out.push(RoomEffect::CloseConnection(connection));
            return connection;
        };
        self.attach(&sid, connection);
        let debt = self.participants.get(&sid).map(|participant| participant.live.debt);
        self.take_over_debt(now, &sid, debt.unwrap_or_default());
        match self.take_on_resume(&sid) {
            OnResume::CloseWithoutMessages => self.detach(&sid),
            OnResume::CloseAfterFirstMessages => {
                self.welcome_back(now, &sid);
                self.detach(&sid);
            }
            OnResume::GoOn => {
                self.welcome_back(now, &sid);
                self.resume_offer(now, &sid);
                if let Some(state) = join.sync_state {
                    self.on_sync_state(now, &sid, state);
                }
                let (add_tracks, offer) = (join.add_tracks, join.publisher_offer);
                self.charging(now, &sid, 0, |room| room.publish_at_join(now, &sid, add_tracks, offer));
            }
        }
        connection
    }

    /// Whose session it is, if that can go on.
    fn resumable(&self, join: &Join) -> Option<ParticipantSid> {
        let sid = self.identities.get(&join.grants.identity)?;
        let participant = self.participants.get(sid)?;
        let named = join.reconnect.as_ref().map_or("", |reconnect| reconnect.participant_sid.as_str());
        let same = named.is_empty() || named == sid.as_str();
        (same && !participant.live.lost && participant.state.mode == join.mode).then(|| sid.clone())
    }

    fn take_on_resume(&mut self, sid: &ParticipantSid) -> OnResume {
        self.participants
            .get_mut(sid)
            .map(|participant| std::mem::take(&mut participant.live.on_resume))
            .unwrap_or_default()
    }

    fn attach(&mut self, sid: &ParticipantSid, connection: ConnectionId) {
        self.detach(sid);
        if let Some(participant) = self.participants.get_mut(sid) {
            participant.live.connection = Some(connection);
            self.connections.insert(connection, sid.clone());
        }
    }

    /// Closes the socket but keeps the participant.
    fn detach(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if let Some(old) = participant.live.connection.take() {
            self.connections.remove(&old);
            self.out.push(RoomEffect::CloseConnection(old));
        }
    }

    /// The first messages of a resumed connection; one client drops whatever comes before the first of them.
    fn welcome_back(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.live.quality_told.clear();
        let connection = participant.live.connection;
        let (quirks, hears_of) = (participant.state.quirks, participant.state.hears_of);
        let reconnect = proto::ReconnectResponse {
            ice_servers: self.config.ice_servers.clone(),
            client_configuration: quirks.client_configuration(),
            server_info: Some(wire::server_info(&self.config)),
            last_message_seq: participant.state.last_reliable,
        };
        let mut everybody = Vec::new();
        if !quirks.has(Quirk::NoDeparturesOnResume) {
            everybody.extend(self.departed(hears_of));
        }
        everybody.extend(self.visible_to(sid).cloned());
        if !quirks.has(Quirk::NoReconnectResponse) {
            self.out.send(connection, Response::Reconnect(reconnect));
        }
        self.out.send(connection, wire::update(everybody));
        self.out.send(connection, wire::room_update(&self.view.room));
        self.send_refresh_token(now, sid);
    }

    fn send_refresh_token(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        let token = self.config.signer.refresh(&participant.state.grants, now.wall);
        self.out.send(participant.live.connection, Response::RefreshToken(token));
        self.timers.set(Timer::RefreshToken(sid.clone()), now.at + REFRESH_INTERVAL);
    }

    /// Ends a participant. `farewell`: what a Leave on its socket says; without one the socket is just closed.
    fn remove(&mut self, now: Now, sid: &ParticipantSid, reason: Reason, farewell: Option<Action>) {
        self.remove_session(now, sid, reason, farewell, false);
    }

    /// `comes_back`: the others see the participant in a new session at once.
    fn remove_session(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        reason: Reason,
        farewell: Option<Action>,
        comes_back: bool,
    ) {
        let Some(participant) = self.participants.get(sid) else { return };
        if let Some(action) = farewell {
            self.out.send(participant.live.connection, wire::leave(reason, action));
        }
        self.detach(sid);
        self.unpublish_all(now, sid);
        let Some(participant) = self.participants.remove(sid) else { return };
        let after = if farewell.is_some() { FAREWELL_TIME } else { Duration::ZERO };
        for transport in participant.state.transports() {
            self.transports.remove(&transport.id);
            self.out.command(Command::CloseTransport { transport: transport.id, after });
        }
        self.identities.remove(&participant.state.grants.identity);
        self.timers.clear_participant(sid);
        self.change(Change::State { sid: sid.clone(), state: State::Disconnected });
        let Some(member) = self.view.member(sid).cloned() else { return };
        self.change(Change::Left { sid: sid.clone() });
        self.farewell(now, &participant.state, member, reason, comes_back);
        self.introduce_the_rest();
        self.stop_recording(now);
        self.counts_changed(now);
        if self.view.independent() == 0 {
            self.timers.set_if_unset(Timer::Empty, now.at + self.settings.departure_timeout);
        }
    }

    /// Tells everybody that a participant is gone.
    fn farewell(&mut self, now: Now, state: &SessionState, mut member: Member, reason: Reason, comes_back: bool) {
        member.info.disconnect_reason = reason as i32;
        let room = self.view.room.clone();
        let participant = member.info.clone();
        self.tell_of(
            now,
            Some(state.client.clone()),
            match state.active {
                true => RoomHappening::ParticipantLeft { room, participant },
                false => RoomHappening::ParticipantConnectionAborted { room, participant },
            },
        );
        if !member.hidden {
            self.announce_departure(now, state, member, comes_back);
        }
    }

    fn stop_recording(&mut self, now: Now) {
        if !self.view.room.active_recording {
            return;
        }
        let recording = self.participants.values().any(|participant| participant.state.is_recorder());
        if !recording {
            self.change(Change::Recording { active: false });
            self.send_room_update(now);
        }
    }

    /// Ends the room for everybody.
    pub fn close(&mut self, now: Now, reason: Reason) {
        if self.closed {
            return;
        }
        self.remove_everybody(now, reason, Some(Action::Disconnect));
        self.tell(now, RoomHappening::RoomFinished { room: self.view.room.clone() });
        self.end();
    }

    /// Ends the room here because the server stops. Everybody is told to come back, and finds the room anew on the server
    /// that is started next; so its members are reported to have left, and the room is not reported to have finished.
    pub fn suspend(&mut self, now: Now) {
        if self.closed {
            return;
        }
        let connections = self.participants.values().filter_map(|participant| participant.live.connection).collect();
        self.out.send_all(connections, wire::leave(Reason::ServerShutdown, Action::Reconnect));
        // Nobody is told of the others' departure: who comes back meets them again.
        for sid in self.participants.keys().cloned().collect::<Vec<_>>() {
            self.detach(&sid);
        }
        self.remove_everybody(now, Reason::ServerShutdown, Some(Action::Reconnect));
        self.end();
    }

    fn remove_everybody(&mut self, now: Now, reason: Reason, farewell: Option<Action>) {
        for sid in self.participants.keys().cloned().collect::<Vec<_>>() {
            self.remove(now, &sid, reason, farewell);
        }
    }

    fn end(&mut self) {
        self.out.command(Command::CloseRoom { room: self.id });
        self.closed = true;
        self.out.push(RoomEffect::Closed);
    }

    // --- inputs ---

    /// The socket of a session is gone. Media may go on; the session waits for a resume then.
    pub fn on_connection_closed(&mut self, now: Now, connection: ConnectionId) {
        let Some(sid) = self.connections.remove(&connection) else { return };
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        if participant.live.connection == Some(connection) {
            participant.live.connection = None;
            self.timers.clear(&Timer::Answer(sid.clone()));
            if !participant.state.active {
                self.remove(now, &sid, Reason::SignalClose, None);
            }
        }
    }

    /// What a worker says.
    pub fn on_event(&mut self, now: Now, event: Event) {
        match event {
            Event::TransportConnected { transport } => self.on_transport_connected(now, transport),
            Event::TransportEnded { transport, end } => self.on_transport_ended(now, transport, end),
            // The worker keeps reliable data until the channel is open, nothing is to be done here.
            Event::ChannelOpen { .. } => {}
            Event::Data { transport, channel, payload } => {
                self.data_taken.add(transport, channel, payload.len());
                self.on_data(now, transport, channel, payload);
            }
            Event::LayerStarted { publication, layer, ssrc, codec } => {
                self.on_layer_started(now, publication, layer, ssrc, codec);
            }
            Event::AudioActivity { publication, level, active } => {
                self.on_audio_activity(publication, if active { level } else { 0.0 });
            }
            Event::PublicationStats { publication, stats } => self.on_stats(publication, stats),
            Event::TransportExported { .. } => {}
        }
    }

    fn on_transport_connected(&mut self, now: Now, id: TransportId) {
        let Some(sid) = self.transports.get(&id).cloned() else { return };
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        let Some(transport) = participant.state.transport_mut(id) else { return };
        transport.connected = true;
        if participant.state.primary().id == id && !participant.state.active {
            participant.state.active = true;
            self.activate(now, &sid);
        }
    }

    fn activate(&mut self, now: Now, sid: &ParticipantSid) {
        self.timers.clear(&Timer::Join(sid.clone()));
        self.change(Change::State { sid: sid.clone(), state: State::Active });
        self.announce(now, sid, Urgency::MayWait);
        if let Some(member) = self.view.member(sid) {
            let (room, participant) = (self.view.room.clone(), member.info.clone());
            let client = self.participants.get(sid).map(|joined| joined.state.client.clone());
            let what = RoomHappening::ParticipantJoined { room, participant };
            self.tell_of(now, client, what);
        }
        self.reconcile(now, sid);
    }

    fn on_transport_ended(&mut self, now: Now, id: TransportId, end: TransportEnd) {
        let Some(sid) = self.transports.get(&id).cloned() else { return };
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        let primary = participant.state.primary().id == id;
        let Some(transport) = participant.state.transport_mut(id) else { return };
        let used = transport.connected || transport.last_answer.is_some();
        tracing::debug!(participant = %sid, ?end, primary, used, "transport ended");
        if !used && !primary {
            self.reopen_transport(&sid, id);
            return;
        }
        transport.connected = false;
        transport.ended = true;
        if !participant.state.active {
            self.remove(now, &sid, Reason::JoinFailure, Some(Action::Disconnect));
            return;
        }
        self.lose(now, &sid, end);
    }

    /// A transport that no description has used yet expired: the client may still come to it.
    fn reopen_transport(&mut self, sid: &ParticipantSid, old: TransportId) {
        let new = self.ids.transport();
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let opener = match participant.state.publisher.id == old {
            true => ChannelOpener::Client,
            false => ChannelOpener::Server,
        };
        let Some(transport) = participant.state.transport_mut(old) else { return };
        transport.id = new;
        let local = transport.local.clone();
        self.transports.remove(&old);
        self.transports.insert(new, sid.clone());
        self.out.command(Command::OpenTransport { transport: new, room: self.id, local, opener });
    }

    /// Media is gone, and the worker has forgotten the transport: the client is asked to join anew, and has a moment for
    /// it in which it is not missed. One that closed its side itself is about to say so, or to join anew.
    fn lose(&mut self, now: Now, sid: &ParticipantSid, end: TransportEnd) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if participant.live.lost {
            return;
        }
        participant.live.lost = true;
        let deliberate = end == TransportEnd::ClosedByPeer;
        if !deliberate {
            self.out.send(participant.live.connection, wire::leave(Reason::ConnectionTimeout, Action::Reconnect));
            self.detach(sid);
        }
        self.timers.set(Timer::Rejoin(sid.clone()), now.at + REJOIN_TIMEOUT);
    }

    /// Call it when [`Room::deadline`] has come. Earlier calls do nothing.
    pub fn on_deadline(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop(now.at) {
            self.on_timer(now, timer);
        }
    }

    fn on_timer(&mut self, now: Now, timer: Timer) {
        match timer {
            Timer::Empty => self.close(now, Reason::RoomClosed),
            Timer::Counts => self.send_counts(now),
            Timer::Quality => self.report_quality(now),
            Timer::Batch => self.flush_batch(),
            Timer::Join(sid) => self.remove(now, &sid, Reason::JoinFailure, Some(Action::Disconnect)),
            Timer::Rejoin(sid) => self.remove(now, &sid, Reason::ConnectionTimeout, Some(Action::Disconnect)),
            Timer::RefreshToken(sid) => self.send_refresh_token(now, &sid),
            Timer::Negotiate(sid) => self.negotiate(now, &sid),
            Timer::Answer(sid) => self.remove(now, &sid, Reason::StateMismatch, Some(Action::Reconnect)),
            Timer::Receipt(sid) => self.send_in_bound(&sid),
            Timer::MissingTracks(sid) => self.give_up_missing(now, &sid),
            Timer::Speaker(sid) => self.stop_simulated_speaker(&sid),
        }
    }

    // --- the two ways out that have a number ---

    /// Changes what members see.
    fn change(&mut self, change: Change) {
        self.outdate_announced(&change);
        let delta = RoomDelta { number: self.view.number + 1, change };
        self.view.apply(&delta).expect("the number was made one line above");
        self.out.push(RoomEffect::Delta(Box::new(delta)));
    }

    fn tell(&mut self, now: Now, what: RoomHappening) {
        self.tell_of(now, None, what);
    }

    /// Of a participant with this client.
    fn tell_of(&mut self, now: Now, client: Option<proto::ClientInfo>, what: RoomHappening) {
        self.events_sent += 1;
        self.out.push(RoomEffect::Event(Box::new(RoomEvent {
            room: self.name.clone(),
            room_sid: self.sid.clone(),
            number: self.events_sent,
            at: now.wall,
            client,
            what,
        })));
    }

    fn connection_of(&self, sid: &ParticipantSid) -> Option<ConnectionId> {
        self.participants.get(sid)?.live.connection
    }
}

/// A newcomer as others will see it.
fn member_info(now: Now, state: &SessionState, region: &str) -> proto::ParticipantInfo {
    let grants = &state.grants;
    proto::ParticipantInfo {
        sid: state.sid.to_string(),
        identity: grants.identity.to_string(),
        state: State::Joining as i32,
        name: grants.name.clone(),
        metadata: grants.metadata.clone(),
        attributes: grants.attributes.clone(),
        joined_at: now.unix_ms() / 1000,
        joined_at_ms: now.unix_ms(),
        permission: Some(state.grants.video.permission()),
        region: region.into(),
        kind: grants.kind as i32,
        kind_details: grants.kind_details.iter().map(|detail| *detail as i32).collect(),
        client_protocol: state.client.client_protocol,
        capabilities: state.client.capabilities.clone(),
        ..Default::default()
    }
}

/// 43 characters, as the reference's: 32 random bytes in base 62.
fn random_trailer() -> Vec<u8> {
    use rand::RngExt;
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rng = rand::rng();
    (0..43).map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())]).collect()
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
