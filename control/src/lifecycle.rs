//! Changes of streams, and what follows from each (stream API, section 3).
//!
//! Every change is one conditional write to the store. A request that loses a race answers with the state that the
//! other one left. Effects on chat and rooms are derived from the change in [`Lifecycle::observe`], in the same way on
//! every node. Decisions that the store did not take are in `unstored`.

mod counters;
mod effects;
pub mod transition;
pub mod unstored;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::agenda::Agenda;
use crate::chat::Chat;
use crate::clock::{Clock, Timestamp};
use crate::problem::{Code, Problem};
use crate::rooms::RoomBackend;
use crate::store::stream::{Stream, StreamId, UserId};
use crate::store::{SharedStore, StoreError};
use crate::stream_cache::StreamCache;

pub use counters::{Counters, END_REASONS};

/// Changes streams, and carries out what follows. Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle(Arc<Parts>);

struct Parts {
    store: SharedStore,
    cache: StreamCache,
    rooms: Arc<dyn RoomBackend>,
    chat: Chat,
    agenda: Agenda,
    counters: Counters,
    clock: Clock,
    reconcile_interval: Duration,
    /// Effects and requests that are being carried out, also after their clients have disconnected.
    tasks: TaskTracker,
    /// Locked while decisions that the store refused before are stored.
    storing_held: tokio::sync::Mutex<()>,
}

impl Lifecycle {
    /// A new live stream is compared with its room after `reconcile_interval`.
    pub(crate) fn new(
        (store, cache): (SharedStore, StreamCache),
        (rooms, chat): (Arc<dyn RoomBackend>, Chat),
        agenda: Agenda,
        reconcile_interval: Duration,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Parts {
            store,
            cache,
            rooms,
            chat,
            agenda,
            counters: Counters::default(),
            clock,
            reconcile_interval,
            tasks: TaskTracker::new(),
            storing_held: tokio::sync::Mutex::default(),
        }))
    }

    pub fn store(&self) -> &SharedStore {
        &self.0.store
    }

    pub fn cache(&self) -> &StreamCache {
        &self.0.cache
    }

    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    /// A stream as it is in the store or, while the store is away, in the cache.
    pub(crate) async fn newest(&self, id: StreamId) -> Result<Option<Stream>, StoreError> {
        match self.0.store.stream(id).await {
            Err(error @ StoreError::Unavailable(_)) => {
                self.0.cache.stream(id).map(|known| Some(Stream::clone(&known))).ok_or(error)
            }
            other => other,
        }
    }

    /// The live stream of a user, as [`Lifecycle::newest`] gives it.
    pub(crate) async fn newest_live_of(&self, owner: &UserId) -> Result<Option<Stream>, StoreError> {
        match self.0.store.live_stream_of(owner).await {
            Err(error @ StoreError::Unavailable(_)) => {
                self.0.cache.of_owner(owner).map(|known| Some(Stream::clone(&known))).ok_or(error)
            }
            other => other,
        }
    }

    pub(crate) async fn stream_of_room(&self, room: &str) -> Result<Option<Arc<Stream>>, StoreError> {
        if let Some(stream) = self.0.cache.of_room(room) {
            return Ok(Some(stream));
        }
        Ok(self.0.store.stream_of_room(room).await?.map(|stream| self.observe(stream)))
    }

    /// Carries a request out to its end, also if its client disconnects meanwhile.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let task = self.0.tasks.spawn(request.in_current_span());
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request was not carried out");
            Err(Problem::new(Code::Internal, "Something went wrong here; the operator can find it by the request id."))
        })
    }

    /// Carries an effect out without waiting for it.
    pub(crate) fn spawn(&self, effect: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(effect);
    }

    /// Waits until all requests and effects are carried out.
    pub(crate) async fn settle(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}
