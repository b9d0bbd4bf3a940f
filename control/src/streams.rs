//! The life of a stream: start, watch, stop, end, and what follows from each change (stream API, sections 3, 4, 9).
//!
//! Starting is in `start`, ending in `finish`, what the store refused to keep in `unstored`, watching in `watch`, what is
//! planned in `schedule`; who is in a
//! stream's room in [`crate::viewers`], and what keeps all of it true in [`crate::reconcile`].
//!
//! Every change is one conditional write to the store; whoever loses a race answers from what it finds. Effects on chat
//! and rooms are derived from the change in [`Streams::observe`], on every node alike.

mod counters;
mod effects;
mod finish;
mod once;
mod schedule;
mod start;
mod unstored;
mod watch;

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use signaling::event::RoomEvent;
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::agenda::Agenda;
use crate::chat::Chat;
use crate::clock::Timestamp;
use crate::config::product;
use crate::live::Live;
use crate::problem::{Code, Problem};
use crate::reconcile::Neighbours;
use crate::rooms::{RoomDoor, RoomsError};
use crate::store::SharedStore;
use crate::store::chat::ChatSettings;
use crate::store::stream::{Stream, StreamId, UserId, Visibility};
use crate::user::User;
use crate::viewers::Desks;

pub use counters::{Counters, END_REASONS};
pub use schedule::{SCHEDULED_MAX, START_EARLY, START_LATE};
pub use unstored::Unstored;
pub(crate) use watch::is_visible;

/// What to do when the caller is live already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    #[default]
    Resume,
    Replace,
    Reject,
}

/// Validated (see `http`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StartRequest {
    pub title: Option<String>,
    pub tags: Vec<String>,
    pub cover_url: Option<String>,
    /// A scheduled stream of the caller's.
    pub stream_id: Option<StreamId>,
    pub on_conflict: OnConflict,
    pub idempotency_key: Option<String>,
    /// Of the body, for the idempotency key.
    pub body_digest: String,
    /// Scheme and authority under which the client called.
    pub called: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    pub stream: Arc<Stream>,
    pub token: String,
    pub token_expires_at: Timestamp,
    pub url: String,
    pub resumed: bool,
    /// 201, else 200. A repeated request with the same idempotency key answers as the first.
    pub created: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub stream: Arc<Stream>,
    pub already_ended: bool,
    /// It ended here, and the store did not take it.
    pub unstored: Option<Unstored>,
}

impl Ended {
    /// # Errors
    /// Why it is not stored.
    fn stored(self) -> Result<Self, Problem> {
        match self.unstored {
            None => Ok(self),
            Some(unstored) => Err(unstored.problem),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Watching {
    pub stream: Arc<Stream>,
    pub token: String,
    pub token_expires_at: Timestamp,
    pub url: String,
    pub chat_settings: ChatSettings,
}

/// Validated (see `http`).
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRequest {
    pub title: String,
    pub tags: Vec<String>,
    pub cover_url: Option<String>,
    pub scheduled_for: Timestamp,
    pub visibility: Visibility,
    pub idempotency_key: Option<String>,
    pub body_digest: String,
    /// Why it is refused unless it repeats one that was granted.
    pub refusal: Option<Problem>,
}

/// Tells the time; tests bring their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long a client waits before it tries again when the media server is away.
const SFU_RETRY: Duration = Duration::from_secs(2);

/// Owners whose starts wait for each other share a lock by hash.
const OWNER_LOCKS: usize = 64;

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

/// What streams are made of.
pub struct Parts {
    pub config: product::Live,
    pub store: SharedStore,
    pub live: Live,
    pub rooms: Arc<dyn RoomDoor>,
    pub chat: Chat,
    /// Tells this process from others on the same store.
    pub node: String,
}

pub(crate) struct Inner {
    parts: Parts,
    clock: Clock,
    counters: Counters,
    /// Makes starts of one owner wait for each other in this process; the store decides between processes.
    owners: Vec<tokio::sync::Mutex<()>>,
    /// Effects and requests under way: they are carried out though nobody waits for them.
    tasks: TaskTracker,
    pub(crate) desks: Desks,
    pub(crate) agenda: Agenda,
    pub(crate) neighbours: Neighbours,
    /// Held by whoever stores decisions that the store refused before.
    storing_held: tokio::sync::Mutex<()>,
    /// When the streams of an earlier process were read.
    recovered: OnceLock<Timestamp>,
    /// Of rooms in this process, from the start on.
    room_events: Mutex<Option<broadcast::Receiver<RoomEvent>>>,
}

impl Streams {
    /// Must be called inside a tokio runtime.
    pub fn new(parts: Parts) -> Self {
        Self::with_clock(parts, Arc::new(Timestamp::now))
    }

    /// As [`Streams::new`], at times that a test chooses.
    pub fn with_clock(parts: Parts, clock: Clock) -> Self {
        let room_events = Mutex::new(parts.rooms.events());
        let (desks, desk_queues) = Desks::new();
        let streams = Self(Arc::new(Inner {
            clock,
            counters: Counters::default(),
            owners: (0..OWNER_LOCKS).map(|_| tokio::sync::Mutex::default()).collect(),
            tasks: TaskTracker::new(),
            desks,
            agenda: Agenda::default(),
            neighbours: Neighbours::default(),
            storing_held: tokio::sync::Mutex::default(),
            recovered: OnceLock::new(),
            room_events,
            parts,
        }));
        desk_queues.serve(&streams);
        streams
    }

    pub fn live(&self) -> &Live {
        &self.0.parts.live
    }

    pub(crate) fn node(&self) -> &str {
        &self.0.parts.node
    }

    pub fn store(&self) -> &SharedStore {
        &self.0.parts.store
    }

    pub fn chat(&self) -> &Chat {
        &self.0.parts.chat
    }

    pub fn config(&self) -> &product::Live {
        &self.0.parts.config
    }

    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Whether streams of an earlier process were taken over, so that requests can be served.
    pub fn is_recovered(&self) -> bool {
        self.0.recovered.get().is_some()
    }

    pub(crate) fn set_recovered(&self, begun: Timestamp) {
        self.0.recovered.get_or_init(|| begun);
    }

    /// Since when changes of other nodes are to be seen.
    pub(crate) fn recovered_from(&self) -> Timestamp {
        self.0.recovered.get().copied().unwrap_or_else(|| self.now())
    }

    pub(crate) fn rooms(&self) -> &Arc<dyn RoomDoor> {
        &self.0.parts.rooms
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    pub(crate) fn of_inner(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    pub(crate) fn take_room_events(&self) -> Option<broadcast::Receiver<RoomEvent>> {
        self.0.room_events.lock().expect("no one panics with this lock").take()
    }

    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    /// Carries a request out to its end, also when its client goes away half-way.
    async fn to_the_end<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let task = self.0.tasks.spawn(request.in_current_span());
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request was not carried out");
            Err(Problem::new(Code::Internal, "Something went wrong here; the operator can find it by the request id."))
        })
    }

    fn require_enabled(&self) -> Result<(), Problem> {
        match self.config().enabled {
            true => Ok(()),
            false => Err(Problem::new(Code::FeatureDisabled, "Live streaming is switched off on this server.")),
        }
    }

    fn require_not_banned(&self, user: &UserId) -> Result<(), Problem> {
        match self.live().ban(user, self.now()) {
            None => Ok(()),
            Some(_) => Err(Problem::new(Code::Banned, "You are banned from this service.")),
        }
    }

    /// What an app connects to.
    fn url(&self, called: Option<&str>) -> Result<String, Problem> {
        let unnamed = || {
            let detail = "The Host header of this request names no host, so no URL can be made from it.";
            Problem::new(Code::InvalidParameter, detail)
        };
        self.rooms().url(called).ok_or_else(unnamed)
    }

    /// A stream of the caller's own. What others may not even see does not exist for them.
    async fn own_stream(&self, user: &User, id: StreamId) -> Result<Stream, Problem> {
        let stream = self.newest(id).await?.ok_or_else(Problem::stream_not_found)?;
        if stream.owner_id == user.id {
            return Ok(stream);
        }
        match is_visible(&stream, None) {
            true => Err(Problem::new(Code::NotOwner, "This stream is not yours.")),
            false => Err(Problem::stream_not_found()),
        }
    }

    fn owner_lock(&self, owner: &UserId) -> &tokio::sync::Mutex<()> {
        let hash = owner.as_str().bytes().fold(5381_usize, |hash, byte| hash.wrapping_mul(33) ^ usize::from(byte));
        &self.0.owners[hash % OWNER_LOCKS]
    }
}

fn sfu_unavailable(error: &RoomsError) -> Problem {
    tracing::warn!(%error, "the media server did not make a room");
    Problem::new(Code::SfuUnavailable, "The media server is not available; try again in a moment.")
        .retry_after(SFU_RETRY)
}
