//! All of a room but its participants.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use livekit_protocol as proto;
use sfu::command::{Candidate, IceCredentials, PublicationId, RoomId, TransportId};
use shared::id::{ParticipantIdentity, ParticipantSid, RoomName, RoomSid, TrackSid};

use super::effects::{Effects, RoomEffect};
use super::ids::Ids;
use super::timer::{Now, Timers};
use super::view::{Change, Member, RoomDelta, RoomView};
use crate::event::{RoomEvent, RoomHappening};
use crate::id::ConnectionId;
use crate::settings::{RoomSettings, RoomsConfig};
use crate::wire::{self, Others};

/// The worker that hosts a room.
pub struct Host {
    pub candidates: Vec<Candidate>,
    /// New ICE credentials of that worker.
    pub new_credentials: Box<dyn Fn() -> IceCredentials + Send>,
}

/// What a participant needs of its room to do something by itself: settings, indices, timers, and the ways out.
pub(super) struct Context {
    pub(super) config: Arc<RoomsConfig>,
    pub(super) settings: RoomSettings,
    pub(super) host: Host,
    pub(super) id: RoomId,
    pub(super) name: RoomName,
    pub(super) sid: RoomSid,
    /// Marks frames that a server injects into end-to-end encrypted tracks.
    pub(super) sif_trailer: Vec<u8>,
    pub(super) view: RoomView,
    /// All who are announced, as they are described to newcomers, until one of them changes.
    described: Option<Arc<Others>>,
    pub(super) identities: HashMap<ParticipantIdentity, ParticipantSid>,
    pub(super) connections: HashMap<ConnectionId, ParticipantSid>,
    pub(super) transports: HashMap<TransportId, ParticipantSid>,
    pub(super) publications: HashMap<PublicationId, ParticipantSid>,
    /// Tracks that others see, and who publishes them.
    pub(super) tracks: BTreeMap<TrackSid, ParticipantSid>,
    pub(super) timers: Timers,
    pub(super) ids: Ids,
    pub(super) out: Effects,
    events_sent: u64,
}

impl Context {
    pub(super) fn new(
        id: RoomId,
        name: RoomName,
        settings: RoomSettings,
        host: Host,
        config: Arc<RoomsConfig>,
    ) -> Self {
        Self {
            settings,
            host,
            id,
            name,
            sid: RoomSid::generate(),
            sif_trailer: random_trailer(),
            view: RoomView::default(),
            described: None,
            identities: HashMap::new(),
            connections: HashMap::new(),
            transports: HashMap::new(),
            publications: HashMap::new(),
            tracks: BTreeMap::new(),
            timers: Timers::default(),
            ids: Ids::new(id),
            out: Effects::default(),
            events_sent: 0,
            config,
        }
    }

    /// The room as it is opened.
    pub(super) fn describe(&self, now: Now) -> proto::Room {
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

    /// Changes what members see.
    pub(super) fn change(&mut self, change: Change) {
        self.outdate_announced(&change);
        let delta = RoomDelta { number: self.view.number + 1, change };
        self.view.apply(&delta).expect("the number was made one line above");
        self.out.push(RoomEffect::Delta(Box::new(delta)));
    }

    /// Emits an event of the room or of a track.
    pub(super) fn emit(&mut self, now: Now, what: RoomHappening) {
        self.emit_of(now, None, what);
    }

    /// Emits an event of a participant with this client.
    pub(super) fn emit_of(&mut self, now: Now, client: Option<proto::ClientInfo>, what: RoomHappening) {
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

    /// All who are announced, as they are described to newcomers.
    pub(super) fn announced(&mut self) -> Arc<Others> {
        let view = &self.view;
        let describe = || {
            let announced = view.members.values().filter(|member| member.is_announced());
            Arc::new(Others::new(announced.map(|member| member.info.clone()).collect()))
        };
        Arc::clone(self.described.get_or_insert_with(describe))
    }

    /// Forgets the description of the announced if a change concerns it.
    fn outdate_announced(&mut self, change: &Change) {
        let concerns = match change {
            Change::Opened { .. } | Change::Metadata { .. } | Change::Recording { .. } | Change::Counts { .. } => false,
            Change::Joined { member, .. } => member.is_announced(),
            // It may be hidden no more.
            Change::Presence { .. } | Change::Permission { .. } => true,
            Change::State { sid, .. }
            | Change::Profile { sid, .. }
            | Change::Track { sid, .. }
            | Change::TrackEnded { sid, .. }
            | Change::Left { sid } => self.view.member(sid).is_some_and(Member::is_announced),
        };
        if concerns {
            self.described = None;
        }
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
