//! Nodes on one store: their signs of life, and how long what they tell each other is kept.

use std::time::Duration;

use async_trait::async_trait;

use super::chat::Relayed;
use super::error::Result;
use crate::clock::Timestamp;

/// A node that said nothing for so long is gone.
pub const NODE_GONE: Duration = Duration::from_secs(10);

/// How far clocks of nodes are apart at most, so that each hears of the others at once. Beyond, it takes a moment longer.
pub const CLOCKS_APART: Duration = Duration::from_secs(60);

/// How long notes between nodes are kept: far longer than a node that is alive waits before it reads them.
pub const RELAYED_KEPT: Duration = Duration::from_secs(300);

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
}
