//! What people do with streams: start, watch, stop, end, plan (stream API, sections 3, 4, 9).
//!
//! Starting is in `start`, watching in `watch`, scheduling in `schedule`. Changes and what follows from them are
//! [`crate::lifecycle`]'s; who is in a stream's room is [`crate::viewers`]', and what keeps all of it true is
//! [`crate::reconcile`].

mod once;
mod schedule;
mod start;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::product;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::transition::Ended;
use crate::problem::{Code, Problem};
use crate::rooms::{RoomBackend, RoomsError};
use crate::store::SharedStore;
use crate::store::chat::ChatSettings;
use crate::store::stream::{EndReason, Stream, StreamId, UserId, Visibility};
use crate::stream_cache::StreamCache;
use crate::text::{CoverUrl, Tags, Title};
use crate::user::{Caller, User};

/// Scheduled streams of one user that are still to come.
pub const SCHEDULED_MAX: u32 = 20;

/// A scheduled stream can be started so long before its time.
pub const START_EARLY: Duration = Duration::from_secs(30 * 60);

/// A scheduled stream that was not started so long after its time is cancelled.
pub const START_LATE: Duration = Duration::from_secs(2 * 3600);

/// What to do when the caller is live already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    #[default]
    Resume,
    Replace,
    Reject,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct StartRequest {
    pub title: Option<Title>,
    pub tags: Tags,
    pub cover_url: Option<CoverUrl>,
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
pub struct Watching {
    pub stream: Arc<Stream>,
    pub token: String,
    pub token_expires_at: Timestamp,
    pub url: String,
    pub chat_settings: ChatSettings,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRequest {
    pub title: Title,
    pub tags: Tags,
    pub cover_url: Option<CoverUrl>,
    pub scheduled_for: Timestamp,
    pub visibility: Visibility,
    pub idempotency_key: Option<String>,
    pub body_digest: String,
    /// Why it is refused unless it repeats one that was granted.
    pub refusal: Option<Problem>,
}

/// How long a client waits before it tries again when the media server is away.
const SFU_RETRY: Duration = Duration::from_secs(2);

/// Owners whose starts wait for each other share a lock by hash.
const OWNER_LOCKS: usize = 64;

/// What people do with streams. Cheap to clone.
#[derive(Clone)]
pub struct Streams(Arc<Parts>);

struct Parts {
    config: product::Live,
    lifecycle: Lifecycle,
    store: SharedStore,
    cache: StreamCache,
    rooms: Arc<dyn RoomBackend>,
    /// Makes starts of one owner wait for each other in this process; the store decides between processes.
    owners: Vec<tokio::sync::Mutex<()>>,
}

impl Streams {
    pub(crate) fn new(config: product::Live, lifecycle: Lifecycle, rooms: Arc<dyn RoomBackend>) -> Self {
        let (store, cache) = (SharedStore::clone(lifecycle.store()), lifecycle.cache().clone());
        let owners = (0..OWNER_LOCKS).map(|_| tokio::sync::Mutex::default()).collect();
        Self(Arc::new(Parts { config, lifecycle, store, cache, rooms, owners }))
    }

    /// Stops the caller's stream; without an id, the live one.
    ///
    /// # Errors
    /// `stream_not_found`, `not_owner`, `conflict` for one that was not started, `store_unavailable`.
    pub async fn stop(&self, user: &User, id: Option<StreamId>) -> Result<Ended, Problem> {
        let (streams, user) = (self.clone(), user.clone());
        self.lifecycle()
            .to_the_end(async move {
                let lifecycle = streams.lifecycle();
                lifecycle.store_held_first().await;
                let stream = match id {
                    Some(id) => streams.own_stream(&user, id).await?,
                    None => lifecycle.newest_live_of(&user.id).await?.ok_or_else(|| {
                        Problem::new(
                            Code::StreamNotFound,
                            "You have no live stream; name the one you mean in streamId.",
                        )
                    })?,
                };
                lifecycle.end_started(stream, EndReason::Stopped).await?.stored()
            })
            .await
    }

    /// Ends any stream, by an administrator. See [`Ended::unstored`].
    ///
    /// # Errors
    /// `forbidden`, `stream_not_found`, `conflict` for one that was not started, `store_unavailable`.
    pub async fn end(&self, caller: &Caller, id: StreamId) -> Result<Ended, Problem> {
        if !caller.user.is_admin() {
            return Err(Problem::new(Code::Forbidden, "Only administrators end the streams of others."));
        }
        let lifecycle = self.lifecycle().clone();
        let ending = lifecycle.clone();
        lifecycle
            .to_the_end(async move {
                ending.store_held_first().await;
                let stream = ending.newest(id).await?.ok_or_else(Problem::stream_not_found)?;
                ending.end_started(stream, EndReason::EndedByAdmin).await
            })
            .await
    }

    fn lifecycle(&self) -> &Lifecycle {
        &self.0.lifecycle
    }

    fn now(&self) -> Timestamp {
        self.0.lifecycle.now()
    }

    /// What an app connects to.
    fn url(&self, called: Option<&str>) -> Result<String, Problem> {
        let unnamed = || {
            let detail = "The Host header of this request names no host, so no URL can be made from it.";
            Problem::new(Code::InvalidParameter, detail)
        };
        self.0.rooms.url(called).ok_or_else(unnamed)
    }

    /// A stream of the caller's own. What others may not even see does not exist for them.
    async fn own_stream(&self, user: &User, id: StreamId) -> Result<Stream, Problem> {
        let stream = self.lifecycle().newest(id).await?.ok_or_else(Problem::stream_not_found)?;
        if stream.owner_id == user.id {
            return Ok(stream);
        }
        match stream.is_visible_to(None) {
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
