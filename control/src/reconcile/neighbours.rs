//! Whether other processes with rooms of their own use the same store.
//!
//! A room that is missing here may be there. So every process says now and then that it is alive; while there are others
//! ([`Nodes`]), it asks each room's lease ([`HOST_LEASE`]) before it judges.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Reconciler, pause};
use crate::nodes::{LOOK_INTERVAL, Nodes};
use crate::store::stream::Stream;
use crate::store::{StoreError, Taken};

/// How long a process is taken for the host of a room after it saw it. It sees each of its rooms every half a minute; the
/// rest is for clocks that differ.
const HOST_LEASE: Duration = Duration::from_secs(120);

/// Times that a host may note within [`HOST_LEASE`].
const HOST_NOTES_MAX: u32 = 1_024;

/// What is known of other processes.
#[derive(Default)]
pub(super) struct Neighbours {
    nodes: Mutex<Nodes>,
    exist: AtomicBool,
}

impl Reconciler {
    pub(super) async fn watch_neighbours(&self, shutdown: &CancellationToken) {
        if !self.rooms_are_per_process() {
            return;
        }
        while pause(LOOK_INTERVAL, shutdown).await {
            if let Err(error) = self.beat().await {
                self.0.agenda.store_failed(&error, self.now());
            }
        }
    }

    /// Says that this process is alive, and finds out whether others are.
    pub(super) async fn beat(&self) -> Result<(), StoreError> {
        if !self.rooms_are_per_process() {
            return Ok(());
        }
        let (neighbours, now) = (&self.0.neighbours, self.now());
        let signs = self.0.store.announce_node(&self.0.node, now).await?;
        let mut nodes = neighbours.nodes.lock().expect("no one panics with this lock");
        nodes.look(signs, now);
        neighbours.exist.store(nodes.there().next().is_some(), Ordering::Relaxed);
        Ok(())
    }

    /// Says to others that the room is here.
    pub(super) async fn note_host(&self, stream: &Stream) -> Result<(), StoreError> {
        if self.rooms_are_per_process() {
            self.0.store.limit_take(&host_key(stream), HOST_NOTES_MAX, HOST_LEASE, self.now()).await?;
        }
        Ok(())
    }

    /// Whether another process saw the room lately, in which case it is not ours to miss.
    pub(super) async fn is_hosted_elsewhere(&self, stream: &Stream) -> Result<bool, StoreError> {
        if !self.rooms_are_per_process() || !self.0.neighbours.exist.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if self.0.agenda.found(stream.id).compared_at.is_some() {
            // We saw it ourselves, and now it is gone.
            return Ok(false);
        }
        let (key, now) = (host_key(stream), self.now());
        match self.0.store.limit_take(&key, 1, HOST_LEASE, now).await? {
            Taken::Refused { .. } => Ok(true),
            Taken::Granted => {
                self.0.store.limit_give_back(&key, now).await?;
                Ok(false)
            }
        }
    }

    fn rooms_are_per_process(&self) -> bool {
        self.0.rooms.is_local() && self.0.store.is_shared()
    }
}

fn host_key(stream: &Stream) -> String {
    format!("host:{}", stream.id)
}
