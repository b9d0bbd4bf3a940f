//! The directory of rooms: name → room task. Everything the HTTP side asks of rooms goes through [`Rooms`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use livekit_protocol as proto;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use sfu::command::{Event, RoomId};
use sfu::io::WorkerHandle;
use shared::id::{ParticipantIdentity, RoomName};
use shared::rate::Buckets;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::counts::{CountedRoom, CountedSession, Counters, Counts};
use crate::event::RoomEvent;
use crate::join::{Join, JoinError};
use crate::media::{self, Route};
use crate::outbox::outbox;
use crate::room::error::ApiError;
use crate::room::input::{RoomHandle, RoomInput};
use crate::room::task::{RoomChannels, RoomTask, now};
use crate::room::timer::Now;
use crate::room::{Host, Room};
use crate::session::Session;
use crate::session_stats::SessionStats;
use crate::settings::{RoomSettings, RoomsConfig, exceeds};
use crate::wire;
/// Room events that wait for a slow listener.
const LISTENER_EVENTS_MAX: usize = 4_096;
/// Requests that wait for the directory.
const DIRECTORY_MAX: usize = 1_024;
/// Attempts to reach a room, which may close in between and is made anew then.
const JOIN_ATTEMPTS: usize = 5;
/// Burst of joins and resumes of one token's identity in a room. Clients that lost their connection try ten times in
/// half a minute.
pub const JOINS_BURST: u32 = 60;
/// Time after which one more is granted.
pub const JOINS_REFILL: Duration = Duration::from_secs(1);
/// Identities whose joins are counted; more of them in a minute share one count.
const JOINERS_MAX: usize = 20_000;
/// How often a drain looks whether all are gone.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Directory handle; cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    config: Arc<RoomsConfig>,
    directory: mpsc::Sender<Ask>,
    events: broadcast::Sender<RoomEvent>,
    counters: Arc<Counters>,
    draining: Arc<AtomicBool>,
    workers: Arc<[WorkerHandle]>,
    joins: Arc<Mutex<Buckets<(String, ParticipantIdentity)>>>,
}

/// What is asked of the directory.
enum Ask {
    Find {
        name: RoomName,
        reply: oneshot::Sender<Option<RoomHandle>>,
    },
    /// Settings apply only if the room is made.
    FindOrCreate {
        name: RoomName,
        settings: RoomSettings,
        reply: oneshot::Sender<Option<RoomHandle>>,
    },
    List {
        reply: oneshot::Sender<Vec<RoomHandle>>,
    },
    Closed {
        name: RoomName,
        id: RoomId,
    },
}

impl Rooms {
    /// Must be called inside a tokio runtime. `worker_events` comes from [`crate::media::worker_events`], the handles
    /// from [`sfu::io::Workers::handles`].
    pub fn start(
        config: RoomsConfig,
        workers: Vec<WorkerHandle>,
        worker_events: mpsc::Receiver<(RoomId, Event)>,
    ) -> Rooms {
        let config = Arc::new(config);
        let workers: Arc<[WorkerHandle]> = workers.into();
        let (directory, asks) = mpsc::channel(DIRECTORY_MAX);
        let (routes, routed) = mpsc::channel(DIRECTORY_MAX);
        let events = broadcast::channel(LISTENER_EVENTS_MAX).0;
        let counters = Arc::new(Counters::default());
        tokio::spawn(media::dispatch(routed, worker_events));
        let task = Directory {
            config: Arc::clone(&config),
            workers: Arc::clone(&workers),
            routes,
            events: events.clone(),
            counters: Arc::clone(&counters),
            closing: directory.downgrade(),
            rooms: HashMap::new(),
            last_id: 0,
        };
        tokio::spawn(task.run(asks));
        let joins = Arc::new(Mutex::new(Buckets::new(JOINS_BURST, JOINS_REFILL, JOINERS_MAX)));
        Rooms { config, directory, events, counters, draining: Arc::default(), workers, joins }
    }

    /// The workers that carry the media of these rooms.
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// Joins or resumes. The session's first message is queued when this returns.
    pub async fn join(&self, join: Join) -> Result<Session, JoinError> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(JoinError::ShuttingDown);
        }
        self.note_join(&join)?;
        if join.reconnect.is_none() && self.has_all_tracks() {
            return Err(JoinError::NodeFull);
        }
        let name: RoomName = join.grants.video.room.parse().map_err(|_| JoinError::RoomMissing)?;
        for _ in 0..JOIN_ATTEMPTS {
            let Some(room) = self.room_for(&name, &join).await? else { return Ok(no_session(&self.counters)) };
            let (outbox, unsent) = outbox();
            let (reply, answer) = oneshot::channel();
            let place = room.place_for(&RoomHandle::share(), join.memory()).await;
            let input = RoomInput::Join { join: Box::new(join.clone()), outbox, reply, place };
            if room.inputs.send(input).await.is_err() {
                continue;
            }
            match answer.await {
                Ok(Ok(connection)) => {
                    let counted = CountedSession::new(&self.counters);
                    return Ok(Session::new(connection, room, unsent, counted));
                }
                Ok(Err(JoinError::Unavailable)) | Err(_) => continue,
                Ok(Err(error)) => return Err(error),
            }
        }
        Err(JoinError::Unavailable)
    }

    /// Whether published and subscribed tracks have reached `limit.num_tracks`.
    fn has_all_tracks(&self) -> bool {
        let max = self.config.limits.node_tracks_max;
        let given = || self.workers.iter().map(WorkerHandle::subscriptions).sum::<usize>();
        max > 0 && self.counters.now().tracks + given() >= max
    }

    /// Limits joins by identity: a token that many share, or a broken client uses, would keep its room busy with joins.
    fn note_join(&self, join: &Join) -> Result<(), JoinError> {
        let who = (join.grants.video.room.clone(), join.bearer.clone());
        let mut joins = self.joins.lock().expect("no one panics with this lock");
        joins.take(who, now().at).map_err(JoinError::TooOften)
    }

    /// `None`: a resume in a room that no longer exists.
    async fn room_for(&self, name: &RoomName, join: &Join) -> Result<Option<RoomHandle>, JoinError> {
        if let Some(room) = self.find(name).await {
            return Ok(Some(room));
        }
        if join.reconnect.is_some() {
            return Ok(None);
        }
        if !self.config.auto_create && !join.grants.video.room_create {
            return Err(JoinError::RoomMissing);
        }
        let preset = self.preset(&join.grants.room_preset).map_err(|_| JoinError::Unavailable)?;
        let settings = self.settings(join.grants.room_config.as_ref().or(preset));
        let room = self.find_or_create(name.clone(), settings).await.ok_or(JoinError::Unavailable)?;
        Ok(Some(room))
    }

    /// An existing room is returned as it is.
    pub async fn create_room(&self, request: proto::CreateRoomRequest) -> Result<proto::Room, ApiError> {
        let limits = &self.config.limits;
        if exceeds(request.name.len(), limits.room_name_bytes_max) {
            return Err(ApiError::InvalidArgument("room name length exceeds limits".into()));
        }
        if exceeds(request.metadata.len(), limits.metadata_bytes_max) {
            return Err(ApiError::InvalidArgument("metadata size exceeds limits".into()));
        }
        let name: RoomName =
            request.name.parse().map_err(|_| ApiError::InvalidArgument("room name cannot be empty".into()))?;
        let settings = self.requested_settings(&request)?;
        for _ in 0..JOIN_ATTEMPTS {
            let room = self.find_or_create(name.clone(), settings.clone()).await;
            let room = room.ok_or_else(|| ApiError::Unavailable("no worker can host the room".into()))?;
            if let Some(info) = ask(&room, |room, _| room.info()).await {
                return Ok(info);
            }
        }
        Err(ApiError::Unavailable("the room keeps closing".into()))
    }

    fn requested_settings(&self, request: &proto::CreateRoomRequest) -> Result<RoomSettings, ApiError> {
        let base = self.settings(self.preset(&request.room_preset)?);
        Ok(RoomSettings {
            empty_timeout: seconds_or(request.empty_timeout, base.empty_timeout),
            departure_timeout: seconds_or(request.departure_timeout, base.departure_timeout),
            max_participants: number_or(request.max_participants, base.max_participants),
            metadata: if request.metadata.is_empty() { base.metadata } else { request.metadata.clone() },
        })
    }

    fn preset(&self, name: &str) -> Result<Option<&proto::RoomConfiguration>, ApiError> {
        match name {
            "" => Ok(None),
            name => {
                let known = self.config.room_configurations.get(name);
                known.map(Some).ok_or_else(|| ApiError::InvalidArgument(format!("unknown room preset {name:?}")))
            }
        }
    }

    /// The server's settings, with what a room configuration sets.
    fn settings(&self, wanted: Option<&proto::RoomConfiguration>) -> RoomSettings {
        let config = &self.config;
        let none = proto::RoomConfiguration::default();
        let wanted = wanted.unwrap_or(&none);
        RoomSettings {
            empty_timeout: seconds_or(wanted.empty_timeout, config.empty_timeout),
            departure_timeout: seconds_or(wanted.departure_timeout, config.departure_timeout),
            max_participants: number_or(wanted.max_participants, config.max_participants),
            metadata: wanted.metadata.clone(),
        }
    }

    /// All rooms, or those of `names` that exist.
    pub async fn list_rooms(&self, names: &[String]) -> Vec<proto::Room> {
        let handles = if names.is_empty() { self.list().await } else { self.find_all(names).await };
        let mut rooms: Vec<_> =
            join_all(handles.iter().map(|room| ask(room, |room, _| room.info()))).await.into_iter().flatten().collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        rooms
    }

    async fn find_all(&self, names: &[String]) -> Vec<RoomHandle> {
        let mut names: Vec<RoomName> = names.iter().filter_map(|name| name.parse().ok()).collect();
        names.sort();
        names.dedup();
        join_all(names.iter().map(|name| self.find(name))).await.into_iter().flatten().collect()
    }

    pub async fn delete_room(&self, room: &str) -> Result<(), ApiError> {
        self.call(room, |room, now| room.close(now, Reason::RoomDeleted)).await
    }

    /// Includes hidden ones; a missing room gives an empty list.
    pub async fn list_participants(&self, room: &str) -> Vec<proto::ParticipantInfo> {
        self.call(room, |room, _| room.list_participants()).await.unwrap_or_default()
    }

    pub async fn get_participant(&self, room: &str, identity: &str) -> Result<proto::ParticipantInfo, ApiError> {
        let identity = identity.to_owned();
        participant_call(self.call(room, move |room, _| room.participant(&identity)).await)
    }

    pub async fn remove_participant(&self, room: &str, identity: &str) -> Result<(), ApiError> {
        let identity = identity.to_owned();
        participant_call(self.call(room, move |room, now| room.remove_participant(now, &identity)).await)
    }

    /// `None`: the participant has no such track.
    pub async fn mute_published_track(
        &self,
        room: &str,
        identity: &str,
        track_sid: &str,
        muted: bool,
    ) -> Result<Option<proto::TrackInfo>, ApiError> {
        let (identity, track) = (identity.to_owned(), track_sid.to_owned());
        self.call(room, move |room, now| room.mute_published_track(now, &identity, &track, muted)).await?
    }

    pub async fn update_participant(
        &self,
        request: proto::UpdateParticipantRequest,
    ) -> Result<proto::ParticipantInfo, ApiError> {
        let room = request.room.clone();
        participant_call(self.call(&room, move |room, now| room.update_participant(now, request)).await)
    }

    pub async fn update_subscriptions(&self, request: proto::UpdateSubscriptionsRequest) -> Result<(), ApiError> {
        let room = request.room.clone();
        self.call(&room, move |room, now| room.update_subscriptions(now, &request)).await?
    }

    pub async fn send_data(&self, request: proto::SendDataRequest) -> Result<(), ApiError> {
        if !matches!(request.nonce.len(), 0 | 16) {
            return Err(ApiError::InvalidArgument("nonce must be 16 bytes or absent".into()));
        }
        let room = request.room.clone();
        self.call(&room, move |room, now| room.send_data(now, &request)).await
    }

    pub async fn update_room_metadata(&self, room: &str, metadata: &str) -> Result<proto::Room, ApiError> {
        let metadata = metadata.to_owned();
        self.call(room, move |room, _| room.update_metadata(&metadata)).await?
    }

    pub fn counts(&self) -> Counts {
        self.counters.now()
    }

    /// Numbers of sessions so far.
    pub fn stats(&self) -> &SessionStats {
        self.counters.stats()
    }

    /// Refuses new joins, has everybody come back later (Leave `SERVER_SHUTDOWN` with action `RECONNECT`), and returns
    /// when all are gone or `deadline` passed.
    pub async fn drain(&self, deadline: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let gone = async {
            let rooms = self.list().await;
            join_all(rooms.iter().map(|room| ask(room, |room, now| room.suspend(now)))).await;
            while self.counters.is_anybody_left() {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        if tokio::time::timeout(deadline, gone).await.is_err() {
            tracing::warn!(?deadline, "not all participants left in time");
        }
    }

    /// From now on. A receiver that lags misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<RoomEvent> {
        self.events.subscribe()
    }

    async fn call<T: Send + 'static>(
        &self,
        room: &str,
        call: impl FnOnce(&mut Room, Now) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let name: RoomName = room.parse().map_err(|_| no_room())?;
        let room = self.find(&name).await.ok_or_else(no_room)?;
        ask(&room, call).await.ok_or_else(no_room)
    }

    async fn find(&self, name: &RoomName) -> Option<RoomHandle> {
        let (reply, answer) = oneshot::channel();
        self.directory.send(Ask::Find { name: name.clone(), reply }).await.ok()?;
        answer.await.ok()?
    }

    async fn find_or_create(&self, name: RoomName, settings: RoomSettings) -> Option<RoomHandle> {
        let (reply, answer) = oneshot::channel();
        self.directory.send(Ask::FindOrCreate { name, settings, reply }).await.ok()?;
        answer.await.ok()?
    }

    async fn list(&self) -> Vec<RoomHandle> {
        let (reply, answer) = oneshot::channel();
        if self.directory.send(Ask::List { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }
}

/// Runs a call in a room's task. `None`: the room is closed.
async fn ask<T: Send + 'static>(
    room: &RoomHandle,
    call: impl FnOnce(&mut Room, Now) -> T + Send + 'static,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    let call = Box::new(move |room: &mut Room, now: Now| {
        if !room.is_closed() {
            // Whoever asked may have gone.
            let _ = reply.send(call(room, now));
        }
    });
    room.inputs.send(RoomInput::Call(call)).await.ok()?;
    answer.await.ok()
}

fn no_room() -> ApiError {
    ApiError::NotFound("requested room does not exist".into())
}

/// For calls about a participant, who does not exist if the room does not.
fn participant_call<T>(result: Result<Result<T, ApiError>, ApiError>) -> Result<T, ApiError> {
    match result {
        Ok(result) => result,
        Err(ApiError::NotFound(_)) => Err(ApiError::NotFound("participant does not exist".into())),
        Err(error) => Err(error),
    }
}

/// The answer to a resume when there is nothing to resume.
fn no_session(counters: &Arc<Counters>) -> Session {
    let leave = wire::leave(Reason::StateMismatch, Action::Reconnect);
    Session::of_one_message(leave, CountedSession::new(counters))
}

fn seconds_or(seconds: u32, default: Duration) -> Duration {
    if seconds == 0 { default } else { Duration::from_secs(seconds.into()) }
}

fn number_or(number: u32, default: u32) -> u32 {
    if number == 0 { default } else { number }
}

/// The task that knows all rooms.
struct Directory {
    config: Arc<RoomsConfig>,
    workers: Arc<[WorkerHandle]>,
    routes: mpsc::Sender<Route>,
    events: broadcast::Sender<RoomEvent>,
    counters: Arc<Counters>,
    /// For rooms to say that they closed. Weak, so that the directory ends with its last handle.
    closing: mpsc::WeakSender<Ask>,
    rooms: HashMap<RoomName, (RoomId, RoomHandle)>,
    last_id: u64,
}

impl Directory {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        while let Some(ask) = asks.recv().await {
            match ask {
                Ask::Find { name, reply } => {
                    let _ = reply.send(self.find(&name));
                }
                Ask::FindOrCreate { name, settings, reply } => {
                    let room = match self.find(&name) {
                        Some(room) => Some(room),
                        None => self.create(name, settings).await,
                    };
                    let _ = reply.send(room);
                }
                Ask::List { reply } => {
                    let _ = reply.send(self.rooms.values().map(|(_, room)| room.clone()).collect());
                }
                Ask::Closed { name, id } => {
                    if self.rooms.get(&name).is_some_and(|(known, _)| *known == id) {
                        self.rooms.remove(&name);
                    }
                    let _ = self.routes.send(Route::Close { room: id }).await;
                }
            }
        }
    }

    /// A room that takes no inputs any more counts as closed.
    fn find(&self, name: &RoomName) -> Option<RoomHandle> {
        let (_, room) = self.rooms.get(name)?;
        (!room.inputs.is_closed()).then(|| room.clone())
    }

    async fn create(&mut self, name: RoomName, settings: RoomSettings) -> Option<RoomHandle> {
        let worker = media::least_loaded(&self.workers, Instant::now())?.clone();
        self.last_id += 1;
        let id = RoomId(self.last_id);
        let (handle, room_inputs) = RoomHandle::new();
        let (events, room_events) = media::room_events();
        self.routes.send(Route::Open { room: id, events }).await.ok()?;
        let minting = worker.clone();
        let host =
            Host { candidates: worker.candidates(), new_credentials: Box::new(move || minting.new_credentials()) };
        let room = Room::open(now(), id, name.clone(), settings, host, Arc::clone(&self.config));
        let channels = RoomChannels {
            inputs: room_inputs,
            events: room_events,
            listeners: self.events.clone(),
            counted: CountedRoom::new(&self.counters),
        };
        let task = RoomTask::new(room, id, worker, channels);
        let (closing, room_name) = (self.closing.clone(), name.clone());
        tokio::spawn(async move {
            task.run().await;
            if let Some(directory) = closing.upgrade() {
                let _ = directory.send(Ask::Closed { name: room_name, id }).await;
            }
        });
        self.rooms.insert(name, (id, handle.clone()));
        Some(handle)
    }
}

#[cfg(test)]
mod tests {
    use sfu::command::Fingerprint;

    use super::*;

    /// Of an earlier room with its name it may be told later that it closed.
    #[tokio::test]
    async fn a_room_is_known_until_it_closes_itself() {
        let keys = crate::token::Keys::new([("key".to_owned(), crate::token::Secret::new("secret"))]).unwrap();
        let (asks, asked) = mpsc::channel(8);
        let (routes, _routed) = mpsc::channel(8);
        let (room, _inputs) = RoomHandle::new();
        let name: RoomName = "room".parse().unwrap();
        let directory = Directory {
            config: Arc::new(RoomsConfig::new("ND_test".into(), keys.signer(), Fingerprint([7; 32]))),
            workers: Vec::new().into(),
            routes,
            events: broadcast::channel(1).0,
            counters: Arc::default(),
            closing: asks.downgrade(),
            rooms: HashMap::from([(name.clone(), (RoomId(2), room))]),
            last_id: 2,
        };
        tokio::spawn(directory.run(asked));
        for (id, is_known) in [(1, true), (2, false)] {
            asks.send(Ask::Closed { name: name.clone(), id: RoomId(id) }).await.unwrap();
            let (reply, answer) = oneshot::channel();
            asks.send(Ask::Find { name: name.clone(), reply }).await.unwrap();
            assert_eq!(answer.await.unwrap().is_some(), is_known, "{id}");
        }
    }
}
