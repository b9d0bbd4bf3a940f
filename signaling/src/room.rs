//! A room: who is in it, who publishes what, who hears whom.
//!
//! A state machine (ARCHITECTURE.md, invariant 9): inputs and time go in, [`RoomEffect`]s come out. It does no IO and
//! reads no clock. What members may see changes only through [`view::RoomDelta`]s. The task that drives it is in
//! [`task`].

#![expect(deprecated, reason = "clients of all ages send and read fields that newer ones have other names for")]

mod admission;
mod api;
mod audience;
mod broadcast;
mod charge;
pub mod data;
mod deliver;
mod departure;
mod effects;
pub mod error;
mod ids;
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
use sfu::command::{Candidate, Event, IceCredentials, PublicationId, RoomId, TransportId};
use shared::id::{ParticipantIdentity, ParticipantSid, RoomName, RoomSid, TrackSid};

use crate::event::{RoomEvent, RoomHappening};
use crate::id::ConnectionId;
use crate::participant::{Participant, SessionState};
use crate::settings::{RoomSettings, RoomsConfig};
use crate::wire;
use data::{DataMemory, Taken};
use effects::Effects;
pub use effects::RoomEffect;
use ids::Ids;
use timer::{Now, Timer, Timers};
use updates::{Broadcasts, Urgency};
use view::{Change, RoomDelta, RoomView};

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
            ids: Ids::new(id),
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
