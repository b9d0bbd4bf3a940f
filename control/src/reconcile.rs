//! What keeps streams true whatever was missed (stream API, sections 3.1 and 6, rules 6 to 8): streams of an earlier
//! process are taken over, live ones compared with their rooms, time-outs kept, and other nodes' changes seen.
//!
//! [`Streams::run`] drives all of it. Every loop outlives the store: what fails is tried again.

mod compare;
mod deadline;
mod neighbours;
mod poll;
mod recover;

use std::collections::HashSet;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::rooms::RoomsError;
use crate::rooms::name::PREFIX;
use crate::store::StoreError;
use crate::streams::{Counters, Streams};
use crate::viewers::Job;

pub(crate) use neighbours::Neighbours;

/// How often time-outs and due comparisons are looked for.
const TICK: Duration = Duration::from_secs(1);

/// How often memory is cleared of streams that ended long ago.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// Rooms without a live stream that are looked up in one round.
const STRAY_ROOMS_MAX: usize = 1_000;

/// How long the end of a stream may take to delete its room by itself.
const ROOM_DELETION_PATIENCE: Duration = Duration::from_secs(30);

/// How long effects that are under way are waited for at the end.
const END_PATIENCE: Duration = Duration::from_secs(5);

impl Streams {
    /// Recovers, unless that was done, and keeps streams true until `shutdown`. Streams go on without it, but nothing
    /// ends by time-out and nothing that was missed is made up for.
    pub async fn run(self, shutdown: CancellationToken) {
        let recovered_then_kept = async {
            if !self.recover_at_last(&shutdown).await {
                return;
            }
            tokio::join!(
                self.keep_time(&shutdown),
                self.keep_tidy(&shutdown),
                self.poll(&shutdown),
                self.watch_neighbours(&shutdown)
            );
        };
        // Dropped half-way, as by a crash: the next process makes it up.
        tokio::join!(self.listen(shutdown.clone()), shutdown.run_until_cancelled(recovered_then_kept));
        self.tasks().close();
        let _ = tokio::time::timeout(END_PATIENCE, self.tasks().wait()).await;
    }

    /// False: shut down before it worked.
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
                self.live().forget_old(self.now());
            }
        }
    }

    /// Hands in what is due now. [`Streams::run`] calls it every second; tests at times of their choice.
    pub fn tick(&self) {
        self.hand_in_due_ends(|| None);
        self.hand_in_due_comparisons(|| None);
        self.try_held_again();
    }

    /// `done` gives each job somebody to tell.
    fn hand_in_due_ends(&self, mut done: impl FnMut() -> Option<oneshot::Sender<()>>) {
        let (now, inner) = (self.now(), self.inner());
        for stream in self.live().all() {
            if self.due_end(&stream, now).is_some() && inner.agenda.begin_deadline(stream.id) {
                let job = Job::Deadline { id: stream.id, done: done() };
                if !inner.desks.hand_in(&stream.room_name, job) {
                    inner.agenda.end_deadline(stream.id);
                }
            }
        }
    }

    fn hand_in_due_comparisons(&self, mut done: impl FnMut() -> Option<oneshot::Sender<()>>) {
        let (now, inner) = (self.now(), self.inner());
        // No pause is longer than an interval with its jitter, or than those after failures.
        let latest = now.plus(Timestamp::AHEAD_MAX.max(self.reconcile_interval() * 2));
        for id in inner.agenda.take_due(now, latest) {
            let Some(stream) = self.live().stream(id) else {
                inner.agenda.forget(id);
                continue;
            };
            if !inner.desks.hand_in(&stream.room_name, Job::Reconcile { id, done: done() }) {
                inner.agenda.again(id, now);
            }
        }
    }

    async fn keep_tidy(&self, shutdown: &CancellationToken) {
        let interval = self.reconcile_interval();
        while pause(jittered(interval), shutdown).await {
            if self.store().is_shared()
                && let Err(error) = self.read_live().await
            {
                // What other nodes started and the poll did not see, because clocks differ.
                tracing::warn!(%error, "live streams are read anew later");
            }
            if let Err(error) = self.expire_scheduled().await {
                tracing::warn!(%error, "scheduled streams are looked through later");
            }
            match self.delete_stray_rooms().await {
                Ok(()) => {}
                Err(StrayError::Rooms(error)) => tracing::warn!(%error, "rooms are looked through later"),
                Err(StrayError::Store(error)) => tracing::warn!(%error, "rooms are looked through later"),
            }
        }
    }

    /// Deletes rooms of streams that are over. Rooms of nobody's stream are not ours.
    pub(crate) async fn delete_stray_rooms(&self) -> Result<(), StrayError> {
        let rooms = self.rooms().list(&[]).await.map_err(StrayError::Rooms)?;
        let live: HashSet<String> = self.live().all().iter().map(|stream| stream.room_name.clone()).collect();
        let strays = rooms.iter().filter(|room| room.name.starts_with(PREFIX) && !live.contains(&room.name));
        for room in strays.take(STRAY_ROOMS_MAX) {
            let stream = match self.stream_of_room(&room.name).await {
                Ok(Some(stream)) => stream,
                Ok(None) => continue,
                // One that cannot be read keeps no other room.
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
            match self.rooms().delete(&room.name).await {
                Ok(()) => Counters::add(&self.counters().rooms_deleted),
                Err(RoomsError::NotFound) => {}
                Err(error) => return Err(StrayError::Rooms(error)),
            }
        }
        Ok(())
    }

    pub(crate) fn reconcile_interval(&self) -> Duration {
        Duration::from_secs(self.config().reconcile_interval.max(1).into())
    }
}

/// Why rooms were not looked through.
#[derive(Debug)]
pub(crate) enum StrayError {
    Rooms(RoomsError),
    Store(StoreError),
}

/// False: shut down meanwhile.
async fn pause(duration: Duration, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(duration) => true,
        () = shutdown.cancelled() => false,
    }
}

/// Between three quarters and five quarters of it, so that nodes do not go in step.
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
