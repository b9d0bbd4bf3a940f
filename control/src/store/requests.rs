//! What is known of requests for a while: idempotency keys and limits.

use std::time::Duration;

use async_trait::async_trait;

use super::error::Result;
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

/// What is known of requests for a while: idempotency keys, limits, webhooks.
///
/// See [`Store`](super::Store) for what holds of all operations.
#[async_trait]
pub trait RequestStore: Send + Sync + 'static {
    /// Whether an event was noted as handled within the last day.
    async fn webhook_handled(&self, event_id: &str, now: Timestamp) -> Result<bool>;

    async fn note_webhook(&self, event_id: &str, at: Timestamp) -> Result<()>;

    /// `body` is a digest of the request. A claim that was never finished is given anew after a minute.
    async fn idempotency_claim(&self, key: &IdempotencyKey, body: &str, now: Timestamp) -> Result<Claimed>;

    async fn idempotency_finish(&self, key: &IdempotencyKey, answer: &serde_json::Value) -> Result<()>;

    /// The request failed: the next one with this key is carried out.
    async fn idempotency_release(&self, key: &IdempotencyKey) -> Result<()>;

    /// Takes one of `max` units within the last `window` (a sliding log of at most `max` times). A unit taken at `t` is
    /// free again at `t + window`.
    async fn limit_take(&self, key: &str, max: u32, window: Duration, now: Timestamp) -> Result<Taken>;

    /// Gives one unit taken at `taken` back, even if several were.
    async fn limit_give_back(&self, key: &str, taken: Timestamp) -> Result<()>;
}
