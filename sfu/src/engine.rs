//! All media state of one worker.

use serde::{Deserialize, Serialize};

/// What one client's transport needs to go on elsewhere, keys excepted (ARCHITECTURE.md, invariant 13).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransportState {}
