//! The nodes on one store: which of them are alive, and which one hosts a room.
//!
//! Each node says every other second, in the store and by its own clock, that it is there ([`Cluster::run`]). The chat,
//! the reconciler and whoever else has to know of other nodes read it here. What is needed of a store is [`NodeStore`].
//!
//! The node that has a stream's room keeps its lease ([`NodeStore::lease_room`]). A node that misses a room asks for
//! the lease before it judges: the room may be another node's.

mod members;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::clock::{Clock, Timestamp};
use crate::store::stream::StreamId;
use crate::store::{LEASE, NODE_GONE, NodeStore, SharedStore, StoreError};
pub(crate) use members::Member;
use members::Members;

/// Between two looks, and between two signs.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What this node knows of the others. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Parts>);

struct Parts {
    node: String,
    store: Arc<dyn NodeStore>,
    clock: Clock,
    members: Mutex<Members>,
    /// As they were at the last look.
    seen: watch::Sender<Arc<[Member]>>,
    /// How many others are alive.
    others: AtomicU32,
    /// When one came that was not there before.
    newcomer_at: Mutex<Option<Instant>>,
}

impl Cluster {
    /// `node` tells this process from others on the same store.
    pub fn new(node: String, store: SharedStore) -> Self {
        Self::with_clock(node, store, Arc::new(Timestamp::now))
    }

    /// As [`Cluster::new`], at times that a test chooses.
    pub fn with_clock(node: String, store: SharedStore, clock: Clock) -> Self {
        Self(Arc::new(Parts {
            node,
            store,
            clock,
            members: Mutex::default(),
            seen: watch::Sender::new(Arc::new([])),
            others: AtomicU32::new(0),
            newcomer_at: Mutex::default(),
        }))
    }

    pub(crate) fn node(&self) -> &str {
        &self.0.node
    }

    /// Says that this node is there, and looks who else is, until `shutdown`. A store of one process needs none of it.
    pub async fn run(self, shutdown: CancellationToken) {
        if !self.0.store.is_shared() {
            return;
        }
        let looking = async {
            let mut looks = tokio::time::interval(LOOK_INTERVAL);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                if let Err(cause) = self.look().await {
                    debug!(%cause, "cannot say that this node is there");
                }
            }
        };
        shutdown.run_until_cancelled(looking).await;
    }

    /// Says that this node is there, and finds out who else is.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn look(&self) -> Result<(), StoreError> {
        let parts = &*self.0;
        let now = (parts.clock)();
        let signs = parts.store.announce_node(&parts.node, now).await?;
        let mut members = parts.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.look(signs, now);
        let others = u32::try_from(members.alive().count()).unwrap_or(u32::MAX);
        parts.seen.send_replace(members.all().collect());
        let before = parts.others.swap(others, Ordering::Relaxed);
        if before != others {
            info!(others, "other nodes use the same store");
        }
        if others > before {
            *parts.newcomer_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        Ok(())
    }

    /// As [`Cluster::look`], unless that was done before.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn look_at_first(&self) -> Result<(), StoreError> {
        let has_looked = self.0.members.lock().unwrap_or_else(PoisonError::into_inner).has_looked();
        if has_looked || !self.0.store.is_shared() { Ok(()) } else { self.look().await }
    }

    /// The other nodes of which the store has a sign, as they are at each look.
    pub(crate) fn members(&self) -> watch::Receiver<Arc<[Member]>> {
        self.0.seen.subscribe()
    }

    /// Whether no other node uses the store now.
    pub(crate) fn is_alone(&self) -> bool {
        self.0.others.load(Ordering::Relaxed) == 0
    }

    /// Whether a node came lately: it takes nodes a moment to hear of each other, and until then they tell nothing.
    pub(crate) fn has_newcomer(&self) -> bool {
        let newcomer_at = *self.0.newcomer_at.lock().unwrap_or_else(PoisonError::into_inner);
        newcomer_at.is_some_and(|at| at.elapsed() < NODE_GONE)
    }

    /// Takes the lease of a room that is here, or renews it. Another node may have it as well: then it keeps it.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn lease_room(&self, stream: StreamId) -> Result<(), StoreError> {
        if self.0.store.is_shared() {
            let lease = self.0.store.lease_room(stream, &self.0.node, (self.0.clock)()).await?;
            debug!(%stream, node = lease.node, epoch = lease.epoch, "lease of a room");
        }
        Ok(())
    }

    /// Whether another node had the room within its lease.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn is_hosted_elsewhere(&self, stream: StreamId) -> Result<bool, StoreError> {
        if !self.0.store.is_shared() || self.is_alone() {
            return Ok(false);
        }
        let now = (self.0.clock)();
        let lease = self.0.store.room_lease(stream, now).await?;
        Ok(lease.is_some_and(|lease| lease.holds(now, LEASE) && lease.node.as_ref() != Some(&self.0.node)))
    }
}
