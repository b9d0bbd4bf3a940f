//! What is known of requests for a while: idempotency keys and limits.

use std::time::Duration;

use super::stream::UserId;
use crate::clock::Timestamp;

/// How long answers of idempotent requests and ids of handled webhooks are kept.
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long an idempotent request may be under way before the next one with its key is carried out.
pub const CLAIM_MAX: Duration = Duration::from_secs(60);

/// A key of an idempotent request: whose, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    pub user: UserId,
    /// Of the operation: `start`, `scheduled`.
    pub operation: &'static str,
    pub key: String,
}

/// What is known of an idempotent request.
#[derive(Debug, Clone, PartialEq)]
pub enum Claimed {
    /// The first one: carry it out, then call `idempotency_finish` or `idempotency_release`.
    New,
    /// The first one with the same body answered this.
    Finished(serde_json::Value),
    /// The first one with the same body is under way.
    Pending,
    /// The first one had another body.
    OtherBody,
}

/// One unit of a limit that is kept over restarts and shared by nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    Granted,
    /// The limit is exhausted until then.
    Refused {
        until: Timestamp,
    },
}
