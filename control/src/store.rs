//! What is kept, and the operations on it, named by what they mean.
//!
//! One trait, two stores: [`embedded`] (SQLite, the default) and [`mongo`]. Both pass one suite
//! (`control/tests/store.rs`), so that a rule holds in both or in none. Every change of a stream is one conditional
//! write that raises its `rev`; no operation needs a transaction over several documents. A malformed id is simply not
//! found.

pub mod chat;
pub mod directory;
pub mod embedded;
pub mod error;
pub mod interchange;
pub mod moderation;
pub mod mongo;
pub mod nodes;
pub mod presence;
pub mod requests;
pub mod stream;
pub mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;

pub use chat::ChatStore;
pub use error::{Result, StoreError};
pub use moderation::ModerationStore;
pub(crate) use nodes::{CLOCKS_APART, RELAYED_KEPT, SIGNS_MAX};
pub use nodes::{LEASE, LEASE_FREE, Lease, NODE_GONE, NodeSign, NodeStore};
pub use presence::PresenceStore;
pub use requests::{CLAIM_MAX, Claimed, DAY, IdempotencyKey, RequestStore, Taken};
pub use stream::{CreateError, StreamStore};

/// A document of any collection, as `onair migrate` carries it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Exported {
    /// Sorts documents of one collection; to go on after it.
    pub key: String,
    pub document: serde_json::Value,
}

/// Collections of `onair migrate`, in the order in which they are copied.
pub const COLLECTIONS: [&str; 8] =
    ["livestreams", "presence", "chat_messages", "chat_totals", "reports", "bans", "owner_blocks", "audit"];

/// Everything that outlives the process.
///
/// Operations are atomic each, durable when they return, and may be repeated after an error.
///
/// A stream's `rev` and `updatedAt` rise if anything else of it really differs, and only then: an operation that would
/// write what is there already is [`Outcome::Unchanged`]. `updatedAt` never falls. What concerns a stream that is not
/// there is [`StoreError::NotFound`], unless said otherwise.
///
/// [`Outcome::Unchanged`]: stream::Outcome::Unchanged
#[async_trait]
pub trait Store: StreamStore + PresenceStore + ChatStore + ModerationStore + RequestStore + NodeStore {
    /// Whether the store answers.
    async fn ping(&self) -> Result<()>;

    /// The server stops: what is stored is brought into the form in which people copy it.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Removes what is past its time: idempotency keys, limits, webhook ids, relayed notes, chat of streams that ended
    /// longer than `chat_retention` ago. A store with expiry of its own may do nothing.
    async fn expire(&self, now: Timestamp, chat_retention: Duration) -> Result<()>;

    /// Documents of one of [`COLLECTIONS`] in the order of their keys, in the forms of [`interchange`]. Keys mean
    /// something to the store that gave them only.
    async fn export(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Vec<Exported>>;

    /// Writes exported documents; those that are there already are replaced.
    async fn import(&self, collection: &str, documents: &[Exported]) -> Result<()>;
}

/// The store that the server uses.
pub type SharedStore = Arc<dyn Store>;
