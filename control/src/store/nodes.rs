//! Nodes on one store: their signs of life, and how long what they tell each other is kept.

use std::time::Duration;

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
