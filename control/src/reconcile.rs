//! Corrects streams whatever events were missed (stream API, sections 3.1 and 6, rules 6 to 8): takes over the streams
//! of an earlier process, compares live streams with their rooms, enforces time-outs, and reads the changes of other
//! nodes.
//!
//! [`Reconciler::run`] drives all of it. Its loops go on while the store is away: what fails is tried again.

mod compare;
mod deadline;
mod poll;
mod recover;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::agenda::Agenda;
use crate::clock::Timestamp;
use crate::cluster::Cluster;
use crate::config::product;
use crate::lifecycle::{Counters, Lifecycle};
use crate::rooms::name::PREFIX;
use crate::rooms::{RoomBackend, RoomsError};
use crate::store::{SharedStore, StoreError};
use crate::stream_cache::StreamCache;
use crate::streams::Streams;
use crate::viewers::Viewers;

/// How often due time-outs and comparisons are started.
const TICK: Duration = Duration::from_secs(1);

/// How often streams that ended long ago are removed from the cache.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// Rooms without a live stream that are examined in one round.
const STRAY_ROOMS_MAX: usize = 1_000;

/// How long after its end the room of a stream is left to [`Lifecycle`], which deletes it by itself.
const ROOM_DELETION_PATIENCE: Duration = Duration::from_secs(30);

/// Compares streams with their rooms and corrects them. Cheap to clone.
#[derive(Clone)]
pub struct Reconciler(Arc<Parts>);

struct Parts {
    config: product::Live,
    lifecycle: Lifecycle,
    streams: Streams,
    viewers: Viewers,
    store: SharedStore,
    cache: StreamCache,
    rooms: Arc<dyn RoomBackend>,
    agenda: Agenda,
    cluster: Cluster,
    /// When the recovery began, once it has succeeded.
    recovered: OnceLock<Timestamp>,
}

impl Reconciler {
    pub(crate) fn new(
        config: product::Live,
        (lifecycle, streams, viewers): (Lifecycle, Streams, Viewers),
        rooms: Arc<dyn RoomBackend>,
        agenda: Agenda,
        cluster: Cluster,
    ) -> Self {
        let (store, cache) = (SharedStore::clone(lifecycle.store()), lifecycle.cache().clone());
        Self(Arc::new(Parts {
            config,
            lifecycle,
            streams,
            viewers,
            store,
            cache,
            rooms,
            agenda,
            cluster,
            recovered: OnceLock::new(),
        }))
    }

    /// Recovers, unless that was done, and then corrects streams until `shutdown`. Without it streams go on, but none
    /// ends by time-out and no missed event is made up for.
    pub async fn run(self, shutdown: CancellationToken) {
        let recovered_then_kept = async {
            if !self.recover_at_last(&shutdown).await {
                return;
            }
            tokio::join!(self.keep_time(&shutdown), self.keep_tidy(&shutdown), self.poll(&shutdown));
        };
        // Cancelled at any point, as by a crash: the next process makes up for it.
        shutdown.run_until_cancelled(recovered_then_kept).await;
    }

    /// Whether streams of an earlier process were taken over, so that requests can be served.
    pub fn is_recovered(&self) -> bool {
        self.0.recovered.get().is_some()
    }

    fn now(&self) -> Timestamp {
        self.0.lifecycle.now()
    }

    fn counters(&self) -> &Counters {
        self.0.lifecycle.counters()
    }

    /// False: it was shut down before it succeeded.
    async fn recover_at_last(&self, shutdown: &CancellationToken) -> bool {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
        while !self.is_recovered() {
            if let Err(problem) = self.recover().await {
                tracing::warn!(%problem, "streams of an earlier process are not taken over yet");
                if !pause(backoff.next(), shutdown).await {
                    return false;
                }
            }
        }
        true
    }

    async fn keep_time(&self, shutdown: &CancellationToken) {
        let mut since_forgotten = Duration::ZERO;
        while pause(TICK, shutdown).await {
            self.tick();
            since_forgotten += TICK;
            if since_forgotten >= FORGET_INTERVAL {
                since_forgotten = Duration::ZERO;
                self.0.cache.forget_old(self.now());
            }
        }
    }

    /// Queues the ends and comparisons that are due now. [`Reconciler::run`] calls it every second; tests call it at
    /// times of their choice.
    pub fn tick(&self) {
        self.queue_due_ends(|| None);
        self.queue_due_comparisons(|| None);
        self.0.lifecycle.try_held_again();
    }

    /// `done` gives each job a channel to report that it is done.
    fn queue_due_ends(&self, mut done: impl FnMut() -> Option<oneshot::Sender<()>>) {
        let (now, agenda) = (self.now(), &self.0.agenda);
        for stream in self.0.cache.all() {
            if self.due_end(&stream, now).is_some() && agenda.begin_deadline(stream.id) {
                let (reconciler, id, done) = (self.clone(), stream.id, done());
                let check = async move {
                    reconciler.check_deadline(id).await;
                    report(done);
                };
                if !self.0.viewers.in_order(&stream.room_name, check) {
                    agenda.end_deadline(id);
                }
            }
        }
    }

    fn queue_due_comparisons(&self, mut done: impl FnMut() -> Option<oneshot::Sender<()>>) {
        let (now, agenda) = (self.now(), &self.0.agenda);
        // Longer than any pause between comparisons: the interval with its jitter, and the pauses after failures.
        let latest = now.plus(Timestamp::AHEAD_MAX.max(self.0.config.reconcile_interval() * 2));
        for id in agenda.take_due(now, latest) {
            let Some(stream) = self.0.cache.stream(id) else {
                agenda.forget(id);
                continue;
            };
            let (reconciler, done) = (self.clone(), done());
            let comparison = async move {
                reconciler.reconcile(id).await;
                report(done);
            };
            if !self.0.viewers.in_order(&stream.room_name, comparison) {
                agenda.again(id, now);
            }
        }
    }

    async fn keep_tidy(&self, shutdown: &CancellationToken) {
        let interval = self.0.config.reconcile_interval();
        while pause(jittered(interval), shutdown).await {
            if self.0.store.is_shared()
                && let Err(error) = self.read_live().await
            {
                // For streams of other nodes that the poll missed, as clocks differ.
                tracing::warn!(%error, "live streams are read anew later");
            }
            if let Err(error) = self.0.streams.expire_scheduled().await {
                tracing::warn!(%error, "scheduled streams are looked through later");
            }
            match self.delete_stray_rooms().await {
                Ok(()) => {}
                Err(StrayError::Rooms(error)) => tracing::warn!(%error, "rooms are looked through later"),
                Err(StrayError::Store(error)) => tracing::warn!(%error, "rooms are looked through later"),
            }
        }
    }

    /// Deletes rooms of streams that are over. Rooms that belong to no stream are not ours, and stay.
    async fn delete_stray_rooms(&self) -> Result<(), StrayError> {
        let rooms = self.0.rooms.list(&[]).await.map_err(StrayError::Rooms)?;
        let live: HashSet<String> = self.0.cache.all().iter().map(|stream| stream.room_name.clone()).collect();
        let strays = rooms.iter().filter(|room| room.name.starts_with(PREFIX) && !live.contains(&room.name));
        for room in strays.take(STRAY_ROOMS_MAX) {
            let stream = match self.0.lifecycle.stream_of_room(&room.name).await {
                Ok(Some(stream)) => stream,
                Ok(None) => continue,
                // A stream that cannot be read does not keep other rooms from being deleted.
                Err(error @ (StoreError::Failed(_) | StoreError::NotFound)) => {
                    tracing::error!(%error, room = room.name, "a room stays, since its stream cannot be read");
                    continue;
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(StrayError::Store(error)),
            };
            let ended_long_ago = stream.ended_at.is_some_and(|at| at.plus(ROOM_DELETION_PATIENCE) <= self.now());
            if stream.is_live() || !ended_long_ago {
                continue;
            }
            match self.0.rooms.delete(&room.name).await {
                Ok(()) => Counters::add(&self.counters().rooms_deleted),
                Err(RoomsError::NotFound) => {}
                Err(error) => return Err(StrayError::Rooms(error)),
            }
        }
        Ok(())
    }
}

/// Reports that a job is done; the receiver may be gone.
fn report(done: Option<oneshot::Sender<()>>) {
    if let Some(done) = done {
        let _ = done.send(());
    }
}

/// Why stray rooms were not deleted.
#[derive(Debug)]
enum StrayError {
    Rooms(RoomsError),
    Store(StoreError),
}

/// False: shut down before it was over.
async fn pause(duration: Duration, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(duration) => true,
        () = shutdown.cancelled() => false,
    }
}

/// Randomly between three quarters and five quarters of `duration`, so that nodes do not run in step.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.75..1.25))
}

/// Pauses that double, with jitter.
struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Backoff {
    fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, first, max }
    }

    fn next(&mut self) -> Duration {
        let pause = jittered(self.next);
        self.next = (self.next * 2).min(self.max);
        pause
    }

    fn reset(&mut self) {
        self.next = self.first;
    }
}
