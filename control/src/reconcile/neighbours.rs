//! Whether other processes with rooms of their own use the same store.
//!
//! A room that is missing here may be there. So every process that is alive takes a unit of one shared limit now and
//! then; if there are more units than it took itself, it is not alone, and asks each room's lease ([`HOST_LEASE`])
//! before it judges.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pause;
use crate::clock::Timestamp;
use crate::store::stream::Stream;
use crate::store::{StoreError, Taken};
use crate::streams::Streams;

/// How often a process says that it is alive.
const BEAT_INTERVAL: Duration = Duration::from_secs(2);

/// How long it counts as alive after that.
const ALIVE: Duration = Duration::from_secs(6);

/// Beats of all processes within [`ALIVE`], at most.
const BEATS_MAX: u32 = 4_096;

const BEATS_KEY: &str = "alive:rooms";

/// How long a process is taken for the host of a room after it saw it.
const HOST_LEASE: Duration = Duration::from_secs(120);

/// Times that a host may note within [`HOST_LEASE`].
const HOST_NOTES_MAX: u32 = 1_024;

/// What is known of other processes.
#[derive(Default)]
pub(crate) struct Neighbours {
    own: Mutex<VecDeque<Timestamp>>,
    exist: AtomicBool,
}

impl Neighbours {
    /// Own beats that still count.
    fn own_count(&self, now: Timestamp) -> u32 {
        let mut own = self.own.lock().expect("no one panics with this lock");
        while own.front().is_some_and(|&at| at.plus(ALIVE) <= now) {
            own.pop_front();
        }
        u32::try_from(own.len()).unwrap_or(u32::MAX)
    }

    fn note_own(&self, at: Timestamp) {
        self.own.lock().expect("no one panics with this lock").push_back(at);
    }
}

impl Streams {
    pub(super) async fn watch_neighbours(&self, shutdown: &CancellationToken) {
        if !self.rooms_are_per_process() {
            return;
        }
        while pause(BEAT_INTERVAL, shutdown).await {
            if let Err(error) = self.beat().await {
                self.inner().agenda.store_failed(&error, self.now());
            }
        }
    }

    /// Says that this process is alive, and finds out whether others are.
    pub(super) async fn beat(&self) -> Result<(), StoreError> {
        if !self.rooms_are_per_process() {
            return Ok(());
        }
        let (neighbours, now) = (&self.inner().neighbours, self.now());
        let alone_max = neighbours.own_count(now) + 1;
        let exist = match self.store().limit_take(BEATS_KEY, alone_max, ALIVE, now).await? {
            Taken::Granted => false,
            Taken::Refused { .. } => {
                self.store().limit_take(BEATS_KEY, BEATS_MAX, ALIVE, now).await?;
                true
            }
        };
        neighbours.note_own(now);
        neighbours.exist.store(exist, Ordering::Relaxed);
        Ok(())
    }

    /// Says to others that the room is here.
    pub(super) async fn note_host(&self, stream: &Stream) -> Result<(), StoreError> {
        if self.rooms_are_per_process() {
            self.store().limit_take(&host_key(stream), HOST_NOTES_MAX, HOST_LEASE, self.now()).await?;
        }
        Ok(())
    }

    /// Whether another process saw the room lately, in which case it is not ours to miss.
    pub(super) async fn is_hosted_elsewhere(&self, stream: &Stream) -> Result<bool, StoreError> {
        if !self.rooms_are_per_process() || !self.inner().neighbours.exist.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if self.inner().agenda.found(stream.id).compared_at.is_some() {
            // We saw it ourselves, and now it is gone.
            return Ok(false);
        }
        let (key, now) = (host_key(stream), self.now());
        match self.store().limit_take(&key, 1, HOST_LEASE, now).await? {
            Taken::Refused { .. } => Ok(true),
            Taken::Granted => {
                self.store().limit_give_back(&key, now).await?;
                Ok(false)
            }
        }
    }

    fn rooms_are_per_process(&self) -> bool {
        self.rooms().is_local() && self.store().is_shared()
    }
}

fn host_key(stream: &Stream) -> String {
    format!("host:{}", stream.id)
}
