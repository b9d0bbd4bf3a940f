//! The store on MongoDB, for several nodes, and for databases of applications that were there before.
//!
//! Each change is one conditional write; no operation needs a transaction over several documents, so that a stand-alone
//! server will do. What is acknowledged is on the disks of a majority, unless the URI says otherwise. A database that
//! is away makes operations fail with [`StoreError::Unavailable`](super::StoreError::Unavailable) within seconds, and
//! they work again once it is back.

mod chat;
mod connection;
mod earlier;
mod fault;
mod indexes;
mod moderation;
mod nodes;
mod ownership;
mod page;
mod presence;
mod record;
mod requests;
mod stream_document;
mod streams;
mod transfer;

use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};

use super::{Exported, Result, Store};
use crate::clock::Timestamp;

/// The collections (stream API, section 13).
mod collections {
    /// Of the names of all collections but [`STREAMS`]: the database may be the application's own.
    pub const PREFIX: &str = "onair_";

    /// Shared with an application that keeps its streams there (docs/from-express.md).
    pub const STREAMS: &str = "livestreams";
    pub const PRESENCE: &str = "onair_presence";
    pub const WEBHOOKS: &str = "onair_webhook_events";
    pub const MESSAGES: &str = "onair_chat_messages";
    pub const TOTALS: &str = "onair_chat_totals";
    /// Who wrote in a chat and whose messages are removed.
    pub const CHATTERS: &str = "onair_chatters";
    pub const RELAY: &str = "onair_relay";
    pub const NODES: &str = "onair_nodes";
    pub const REPORTS: &str = "onair_reports";
    pub const BANS: &str = "onair_bans";
    pub const OWNER_BLOCKS: &str = "onair_owner_blocks";
    pub const AUDIT: &str = "onair_audit";
    pub const IDEMPOTENCY: &str = "onair_idempotency";
    pub const LIMITS: &str = "onair_limits";
    /// Which collections are Onair's.
    pub const META: &str = "onair_meta";

    /// Those that nobody else uses, [`META`] excepted.
    pub const OWN: [&str; 13] = [
        PRESENCE,
        WEBHOOKS,
        MESSAGES,
        TOTALS,
        CHATTERS,
        RELAY,
        NODES,
        REPORTS,
        BANS,
        OWNER_BLOCKS,
        AUDIT,
        IDEMPOTENCY,
        LIMITS,
    ];
}

/// A connected database.
#[derive(Debug)]
pub struct Mongo {
    database: Database,
    unique: indexes::Unique,
    recounts: presence::Recounts,
    /// Whether there were streams whose `createdAt` is no date when this process began: lists look for them then.
    has_undated: bool,
}

impl Mongo {
    /// Connects, takes over what earlier versions kept, and makes the indexes that are missing.
    ///
    /// The database is `database`, else the one of the URI, else `onair`. A server that is away is awaited for `time`.
    /// Afterwards it may come and go.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](super::StoreError::Unavailable) if no server answered in time, and
    /// [`StoreError::Failed`](super::StoreError::Failed) if the URI or the credentials are wrong, a collection with a
    /// name of ours is somebody else's, or an index cannot be made. The text says what to do, and holds no password.
    pub async fn connect(uri: &str, database: Option<&str>, time: Duration) -> Result<Mongo> {
        let mut mongo = Self::reach(uri, database, time).await?;
        mongo.prepare().await?;
        Ok(mongo)
    }

    /// As [`Mongo::connect`], but writes nothing: to read what is there, or to look before [`Mongo::prepare`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](super::StoreError::Unavailable) if no server answered in time, and
    /// [`StoreError::Failed`](super::StoreError::Failed) if the URI or the credentials are wrong.
    pub async fn reach(uri: &str, database: Option<&str>, time: Duration) -> Result<Mongo> {
        connection::reach(uri, database, time).await
    }

    /// # Errors
    /// [`StoreError::Failed`](super::StoreError::Failed) if no server of this version has kept anything here.
    pub async fn require_data(&self) -> Result<()> {
        ownership::require_settled(&self.database).await
    }

    fn of(&self, collection: &str) -> Collection<Document> {
        self.database.collection(collection)
    }

    /// Makes an empty document that a write did not find. Several may find it missing at the same moment; upserts that
    /// give the document back are not answered alike then by all servers.
    async fn make_missing(&self, collection: &str, id: Bson) -> Result<()> {
        match fault::run(self.of(collection).insert_one(doc! { "_id": id })).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.duplicate().is_some() => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }
}

#[async_trait]
impl Store for Mongo {
    async fn ping(&self) -> Result<()> {
        self.ping_once().await
    }

    async fn expire(&self, now: Timestamp, chat_retention: Duration) -> Result<()> {
        self.remove_expired(now, chat_retention).await
    }

    async fn export(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Vec<Exported>> {
        self.export_page(collection, after, limit).await
    }

    async fn import(&self, collection: &str, documents: &[Exported]) -> Result<()> {
        self.import_all(collection, documents).await
    }
}
