//! The store on MongoDB, for several nodes, and for databases of applications that were there before.
//!
//! Each change is one conditional write; no operation needs a transaction over several documents, so that a stand-alone
//! server will do. What is acknowledged is on the disks of a majority, unless the URI says otherwise. A database that
//! is away makes operations fail with [`StoreError::Unavailable`](super::StoreError::Unavailable) within seconds, and
//! they work again once it is back.

mod chat;
mod collections;
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
mod recounts;
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

/// A connected database.
#[derive(Debug)]
pub struct Mongo {
    database: Database,
    unique: indexes::Unique,
    recounts: recounts::Recounts,
    /// Whether there were streams whose `createdAt` is no date when this process began: lists look for them then.
    has_undated: bool,
}

impl Mongo {
    fn of(&self, collection: &str) -> Collection<Document> {
        self.database.collection(collection)
    }

    /// Makes an empty document that a write did not find. Not by an upsert that returns the document: when several find
    /// it missing at the same moment, servers do not all answer that alike.
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
