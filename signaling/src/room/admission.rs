//! Who comes in: joins, and resumes of running sessions (docs/livekit.md 3).

use std::collections::BTreeMap;
use std::sync::Arc;

use livekit_protocol as proto;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use proto::participant_info::State;
use proto::signal_response::Message as Response;
use sfu::command::{ChannelOpener, Command, TransportId};
use shared::id::ParticipantSid;

use super::context::Context;
use super::effects::RoomEffect;
use super::metadata::attributes_size;
use super::timer::{Now, Timer};
use super::updates::Urgency;
use super::view::{Change, Member};
use super::{JOIN_TIMEOUT, QUALITY_INTERVAL, REFRESH_INTERVAL, Room};
use crate::budget::Debt;
use crate::event::RoomHappening;
use crate::id::ConnectionId;
use crate::join::{Join, JoinError, Mode};
use crate::negotiation::{LocalTransport, Negotiation, Role};
use crate::participant::{OnResume, Participant, SessionState, SubscriptionPolicy, Transient, Transport};
use crate::presence::{Interest, Presence};
use crate::quirks::{Quirk, Quirks};
use crate::settings::exceeds;
use crate::wire::{self, Others, Outgoing};

impl Room {
    /// Admits or resumes. A resume that is not possible is answered by a Leave on the returned connection.
    pub fn join(&mut self, now: Now, join: Join) -> Result<ConnectionId, JoinError> {
        if self.closed {
            return Err(JoinError::Unavailable);
        }
        match join.reconnect {
            Some(_) => Ok(self.resume(now, join)),
            None => self.admit(now, join),
        }
    }

    fn admit(&mut self, now: Now, mut join: Join) -> Result<ConnectionId, JoinError> {
        self.context.check_sizes(&join)?;
        let replaced = self.context.identities.get(&join.grants.identity).cloned();
        self.context.check_capacity(&join, replaced.as_ref())?;
        let presence = replaced.as_ref().and_then(|old| self.context.view.member(old)).map(|member| member.presence);
        let debt = replaced.as_ref().and_then(|old| self.participants.get(old)).map(|old| old.transient.debt);
        if let Some(old) = replaced {
            let comes_back = !join.grants.video.hidden;
            self.remove_session(now, &old, Reason::DuplicateIdentity, Some(Action::Disconnect), comes_back);
        }
        let (add_tracks, publisher_offer) = (std::mem::take(&mut join.add_tracks), join.publisher_offer.take());
        let connection = self.context.ids.connection();
        let sid = self.enter(now, join, connection, presence);
        self.welcome(now, &sid, debt.unwrap_or_default());
        self.context.change(Change::State { sid: sid.clone(), state: State::Joined });
        // Who knows the replaced session was not told of its end.
        let urgency = if presence.is_some() { Urgency::Now } else { Urgency::MayWait };
        self.announce(now, &sid, urgency);
        self.with(&sid, |participant, context| {
            participant.send_refresh_token(now, context);
            participant.first_offer(now, context);
        });
        self.reconcile(now, &sid);
        self.replay_data(now, &sid);
        self.charging(now, &sid, 0, |room| room.handle_joined(now, &sid, add_tracks, publisher_offer));
        self.counts_changed(now);
        Ok(connection)
    }

    /// Handles what came with a request to join or to resume.
    fn handle_joined(
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

    /// Makes the newcomer a member, and opens its transports.
    fn enter(&mut self, now: Now, join: Join, connection: ConnectionId, replaced: Option<Presence>) -> ParticipantSid {
        let mut state = self.context.new_session(ParticipantSid::generate(), join);
        let presence = self.presence_of_newcomer(&state, replaced);
        state.interest = self.interest_of_newcomer(&state, presence);
        let (sid, recorder) = (state.sid.clone(), state.is_recorder());
        let context = &mut self.context;
        let member = Member {
            info: member_info(now, &state, &context.config.region),
            hidden: state.is_hidden(),
            dependent: state.is_dependent(),
            presence,
        };
        context.identities.insert(state.grants.identity.clone(), sid.clone());
        context.connections.insert(connection, sid.clone());
        if !member.dependent {
            context.timers.clear(&Timer::Empty);
        }
        context.change(Change::Joined { sid: sid.clone(), member: Box::new(member) });
        let transient = Transient { connection: Some(connection), ..Transient::default() };
        self.participants.insert(sid.clone(), Box::new(Participant { state, transient }));
        if recorder && !self.context.view.room.active_recording {
            self.context.change(Change::Recording { active: true });
            self.send_room_update(now);
        }
        self.context.timers.set(Timer::Join(sid.clone()), now.at + JOIN_TIMEOUT);
        self.context.timers.set_if_unset(Timer::Quality, now.at + QUALITY_INTERVAL);
        sid
    }

    /// Sends a newcomer its first message. Most see the same others, who are described once for all of them.
    fn welcome(&mut self, now: Now, sid: &ParticipantSid, debt: Debt) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        participant.take_over_debt(now, context, debt);
        let (connection, response) = (participant.transient.connection, context.join_response(&participant.state));
        let described = context.view.member(sid).is_some_and(Member::is_announced);
        let others = match participant.state.interest {
            Interest::Announced if !described => context.announced(),
            interest @ (Interest::Announced | Interest::Early | Interest::Everybody) => {
                let others = self.visible_to(sid, interest).filter(|info| info.sid != sid.as_str());
                Arc::new(Others::new(others.cloned().collect()))
            }
        };
        self.context.out.push(RoomEffect::Send {
            to: connection.into_iter().collect(),
            message: Arc::new(Outgoing::join(response, others)),
        });
    }

    /// Everybody whom `sid`, with this interest, sees, itself included.
    pub(super) fn visible_to<'a>(
        &'a self,
        sid: &'a ParticipantSid,
        interest: Interest,
    ) -> impl Iterator<Item = &'a proto::ParticipantInfo> {
        let is_announced_to = |other: &ParticipantSid| {
            self.participants.get(other).is_some_and(|other| other.state.announced_to.contains(sid))
        };
        let is_visible = move |other: &ParticipantSid, member: &Member| {
            member.is_visible_to(interest) || (!member.hidden && is_announced_to(other))
        };
        let members = self.context.view.members.iter();
        members.filter(move |(other, member)| *other == sid || is_visible(other, member)).map(|(_, m)| &m.info)
    }

    pub(super) fn on_transport_connected(&mut self, now: Now, id: TransportId) {
        let Some((participant, _)) = self.of_transport(id) else { return };
        let Some(transport) = participant.state.transport_mut(id) else { return };
        transport.connected = true;
        if participant.state.primary().id == id && !participant.state.active {
            participant.state.active = true;
            let (sid, client) = (participant.state.sid.clone(), participant.state.client.clone());
            self.activate(now, &sid, client);
        }
    }

    fn activate(&mut self, now: Now, sid: &ParticipantSid, client: proto::ClientInfo) {
        self.context.timers.clear(&Timer::Join(sid.clone()));
        self.context.change(Change::State { sid: sid.clone(), state: State::Active });
        self.announce(now, sid, Urgency::MayWait);
        if let Some(member) = self.context.view.member(sid) {
            let (room, participant) = (self.context.view.room.clone(), member.info.clone());
            self.context.emit_of(now, Some(client), RoomHappening::ParticipantJoined { room, participant });
        }
        self.reconcile(now, sid);
    }

    /// A new socket for a running session, or a Leave on it.
    fn resume(&mut self, now: Now, join: Join) -> ConnectionId {
        let connection = self.context.ids.connection();
        let Some((participant, context)) = self.of_identity(join.grants.identity.as_str()) else {
            self.context.refuse_resume(connection);
            return connection;
        };
        if !participant.can_resume(&join) {
            let (sid, lost) = (participant.state.sid.clone(), participant.transient.lost);
            if lost {
                self.remove(now, &sid, Reason::ConnectionTimeout, None);
            }
            self.context.refuse_resume(connection);
            return connection;
        }
        participant.attach(context, connection);
        participant.take_over_debt(now, context, participant.transient.debt);
        let (sid, on_resume) = (participant.state.sid.clone(), std::mem::take(&mut participant.transient.on_resume));
        match on_resume {
            OnResume::CloseWithoutMessages => participant.detach(context),
            OnResume::CloseAfterFirstMessages => {
                self.welcome_back(now, &sid);
                self.with(&sid, Participant::detach);
            }
            OnResume::GoOn => self.go_on(now, &sid, join),
        }
        connection
    }

    fn go_on(&mut self, now: Now, sid: &ParticipantSid, join: Join) {
        self.welcome_back(now, sid);
        self.with(sid, |participant, context| participant.resume_offer(now, context));
        if let Some(state) = join.sync_state {
            self.on_sync_state(now, sid, state);
        }
        let (add_tracks, offer) = (join.add_tracks, join.publisher_offer);
        self.charging(now, sid, 0, |room| room.handle_joined(now, sid, add_tracks, offer));
    }

    /// The first messages of a resumed connection; one client drops whatever comes before the first of them.
    fn welcome_back(&mut self, now: Now, sid: &ParticipantSid) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        participant.transient.quality_sent.clear();
        let (quirks, interest) = (participant.state.quirks, participant.state.interest);
        if !quirks.has(Quirk::NoReconnectResponse) {
            let response = context.reconnect_response(&participant.state);
            participant.send(context, response);
        }
        let mut everybody = Vec::new();
        if !quirks.has(Quirk::NoDeparturesOnResume) {
            everybody.extend(self.departed(sid, interest));
        }
        everybody.extend(self.visible_to(sid, interest).cloned());
        self.with(sid, |participant, context| {
            participant.send(context, wire::update(everybody));
            let room = wire::room_update(&context.view.room);
            participant.send(context, room);
            participant.send_refresh_token(now, context);
        });
    }
}

impl Context {
    fn check_sizes(&self, join: &Join) -> Result<(), JoinError> {
        let limits = &self.config.limits;
        if exceeds(join.grants.metadata.len(), limits.metadata_bytes_max) {
            return Err(JoinError::TooLarge("metadata"));
        }
        if exceeds(attributes_size(&join.grants.attributes), limits.attributes_bytes_max) {
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

    fn new_session(&mut self, sid: ParticipantSid, join: Join) -> SessionState {
        let quirks = Quirks::of(&join.client, join.protocol_version);
        let can_subscribe = join.grants.video.may_subscribe();
        let subscriber_primary = join.mode == Mode::V0 && can_subscribe && !quirks.has(Quirk::PublisherPrimary);
        let (publisher, subscriber) = match join.mode {
            Mode::V0 => (
                self.open_transport(&sid, Role::Publisher, ChannelOpener::Client, quirks),
                Some(self.open_transport(&sid, Role::Subscriber, ChannelOpener::Server, quirks)),
            ),
            Mode::V1 => (self.open_transport(&sid, Role::Single, ChannelOpener::Client, quirks), None),
        };
        SessionState {
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
            interest: Interest::Announced,
            announced_to: Default::default(),
            last_reliable: 0,
            active: false,
        }
    }

    fn open_transport(&mut self, of: &ParticipantSid, role: Role, opener: ChannelOpener, quirks: Quirks) -> Transport {
        let id = self.ids.transport();
        self.transports.insert(id, of.clone());
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

    fn reconnect_response(&self, state: &SessionState) -> Response {
        Response::Reconnect(proto::ReconnectResponse {
            ice_servers: self.config.ice_servers.clone(),
            client_configuration: state.quirks.client_configuration(),
            server_info: Some(wire::server_info(&self.config)),
            last_message_seq: state.last_reliable,
        })
    }

    /// There is no session that could go on.
    fn refuse_resume(&mut self, connection: ConnectionId) {
        self.out.send(Some(connection), wire::leave(Reason::StateMismatch, Action::Reconnect));
        self.out.push(RoomEffect::CloseConnection(connection));
    }
}

impl Participant {
    /// Whether it is the session that a client wants to go on with, and still can.
    fn can_resume(&self, join: &Join) -> bool {
        let named = join.reconnect.as_ref().map_or("", |reconnect| reconnect.participant_sid.as_str());
        let same = named.is_empty() || named == self.state.sid.as_str();
        same && !self.transient.lost && self.state.mode == join.mode
    }

    /// Gives it another socket.
    fn attach(&mut self, context: &mut Context, connection: ConnectionId) {
        self.detach(context);
        self.transient.connection = Some(connection);
        context.connections.insert(connection, self.state.sid.clone());
    }

    pub(super) fn send(&self, context: &mut Context, message: Response) {
        context.out.send(self.transient.connection, message);
    }

    pub(super) fn send_refresh_token(&mut self, now: Now, context: &mut Context) {
        let token = context.config.signer.refresh(&self.state.grants, now.wall);
        self.send(context, Response::RefreshToken(token));
        context.timers.set(Timer::RefreshToken(self.state.sid.clone()), now.at + REFRESH_INTERVAL);
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
