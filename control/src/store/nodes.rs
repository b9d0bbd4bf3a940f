//! Nodes on one store: their signs of life, and how long what they tell each other is kept.

use std::time::Duration;

use async_trait::async_trait;

use super::chat::Relayed;
use super::error::Result;
use super::stream::StreamId;
use crate::clock::Timestamp;

/// A node that said nothing for so long is gone.
pub const NODE_GONE: Duration = Duration::from_secs(10);

/// How far clocks of nodes are apart at most, so that each hears of the others at once. Beyond, it takes a moment
/// longer.
pub const CLOCKS_APART: Duration = Duration::from_secs(60);

/// How long notes between nodes are kept: far longer than a node that is alive waits before it reads them.
pub const RELAYED_KEPT: Duration = Duration::from_secs(300);

/// How long a node is taken for the host of a room after it renewed its lease. It sees each of its rooms every half a
/// minute; the rest is for clocks that differ.
pub const LEASE: Duration = Duration::from_secs(120);

/// When a lease that was not renewed goes to another node that has the room: early enough that it is taken over before
/// it is over, so that no third node misses the room meanwhile.
pub const LEASE_FREE: Duration = Duration::from_secs(60);

/// Which node hosts a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Absent: one of an earlier version, which does not say.
    pub node: Option<String>,
    /// Raised by one whenever the lease goes to another node.
    pub epoch: u64,
    /// By the clock of that node.
    pub renewed_at: Timestamp,
}

impl Lease {
    /// Whether it was renewed within that time.
    pub fn holds(&self, now: Timestamp, time: Duration) -> bool {
        now < self.renewed_at.plus(time) && !self.renewed_at.is_far_ahead(now)
    }
}

/// A node, and a moment by its own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSign {
    pub node: String,
    pub at: Timestamp,
}

/// Most nodes that one hears of.
pub(crate) const SIGNS_MAX: usize = 1_000;

/// What nodes on one store know and tell of each other.
///
/// See [`Store`](super::Store) for what holds of all operations.
#[async_trait]
pub trait NodeStore: Send + Sync + 'static {
    /// Whether other processes can use this store at the same time.
    fn is_shared(&self) -> bool;

    async fn relay(&self, notes: &[Relayed]) -> Result<()>;

    /// Notes of these nodes, of each with `at` at or after the time beside it, oldest first, at most `limit`.
    async fn relayed_since(&self, since: &[NodeSign], limit: usize) -> Result<Vec<Relayed>>;

    /// Says that this node is there; what others said last, at most a thousand.
    async fn announce_node(&self, node: &str, now: Timestamp) -> Result<Vec<NodeSign>>;

    /// Whether a server is at work on this store. It takes up to [`NODE_GONE`] to know that one is not any more. A
    /// store of one process is kept from others by a lock.
    async fn is_served(&self) -> Result<bool> {
        Ok(false)
    }

    /// Takes the lease of a stream's room for a node, unless another one renewed it within [`LEASE_FREE`], and renews
    /// that node's own. Whose it is then.
    async fn lease_room(&self, stream: StreamId, node: &str, now: Timestamp) -> Result<Lease>;

    /// The lease of a stream's room, also one that does not hold any more; of a clock that is far ahead of `now` none.
    async fn room_lease(&self, stream: StreamId, now: Timestamp) -> Result<Option<Lease>>;
}
