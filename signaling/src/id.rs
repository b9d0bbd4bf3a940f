//! Names of connections and descriptions within a room. Those that clients see are in [`shared::id`].

use serde::{Deserialize, Serialize};

/// A connection within its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// `SessionDescription.id`: ties an answer to its offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptionId(pub u32);
