//! Documents out and in, for `onair migrate`, in the forms of [`interchange`](crate::store::interchange).

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Bson, Document, doc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::collections::{AUDIT, BANS, MESSAGES, OWNER_BLOCKS, PRESENCE, REPORTS, STREAMS, TOTALS};
use super::fault::{collect, run};
use super::moderation::{id_of, read_audit, read_report, write_audit, write_ban, write_report};
use super::record::{object_id, record};
use super::{Mongo, chat, moderation, page, presence, stream_document, streams};
use crate::store::chat::{ChatStore, ChatTotals, StoredMessage};
use crate::store::interchange::{OwnerBlock, StreamPresence, StreamTotals};
use crate::store::moderation::Ban;
use crate::store::stream::StreamId;
use crate::store::{Exported, Result, StoreError};

/// Writes under way at once: each waits for the disk, and not for the one before.
const WRITES_MAX: usize = 16;

fn unknown(collection: &str) -> StoreError {
    StoreError::Failed(format!("there is no collection {collection:?}"))
}

fn exported(key: String, document: &impl Serialize) -> Result<Exported> {
    let document = serde_json::to_value(document).map_err(|error| StoreError::Failed(error.to_string()))?;
    Ok(Exported { key, document })
}

fn read<T: DeserializeOwned>(document: &Exported) -> Result<T> {
    T::deserialize(&document.document)
        .map_err(|error| StoreError::Failed(format!("{:?} cannot be read: {error}", document.key)))
}

/// The key of a document: its `_id`, by which it was sorted.
fn key_of(found: &Document) -> String {
    match found.get("_id") {
        Some(Bson::ObjectId(id)) => id.to_hex(),
        Some(Bson::String(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn carried(collection: &str, found: &Document) -> Result<Exported> {
    let key = key_of(found);
    match collection {
        "livestreams" => exported(key, &stream_document::read(found)?),
        "presence" => exported(key, &record::<StreamPresence>(found)?),
        "chat_messages" => exported(key, &record::<StoredMessage>(found)?),
        "reports" => exported(key, &read_report(found)?),
        "bans" => exported(key, &record::<Ban>(found)?),
        "owner_blocks" => exported(key, &record::<OwnerBlock>(found)?),
        "audit" => exported(key, &read_audit(found)?),
        _ => Err(unknown(collection)),
    }
}

/// The application whose `livestreams` they are may keep there what is no stream: it stays behind, as the server passes
/// it over.
fn carried_of(collection: &str, found: &[Document]) -> Result<Vec<Exported>> {
    let is_carried = |found: &&Document| collection != "livestreams" || streams::readable(found).is_some();
    found.iter().filter(is_carried).map(|found| carried(collection, found)).collect()
}

fn written(collection: &str, document: &Exported) -> Result<Document> {
    match collection {
        "livestreams" => stream_document::write(&read(document)?),
        "presence" => presence::write(&read(document)?),
        "chat_messages" => chat::write(&read(document)?),
        "reports" => write_report(&read(document)?),
        "bans" => write_ban(&read(document)?),
        "owner_blocks" => moderation::write_owner_block(&read(document)?),
        "audit" => write_audit(&read(document)?),
        _ => Err(unknown(collection)),
    }
}

/// The collection, and the id in it that a key stands for.
fn kept_in(collection: &str, key: &str) -> Result<(&'static str, Bson)> {
    let as_text = Bson::String(key.to_owned());
    Ok(match collection {
        "livestreams" => (STREAMS, id_of(key)),
        "presence" => (PRESENCE, as_text),
        "chat_messages" => (MESSAGES, as_text),
        "reports" => (REPORTS, id_of(key)),
        "bans" => (BANS, as_text),
        "owner_blocks" => (OWNER_BLOCKS, as_text),
        "audit" => (AUDIT, id_of(key)),
        _ => return Err(unknown(collection)),
    })
}

impl Mongo {
    pub(super) async fn export_page(
        &self,
        collection: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Exported>> {
        let Some(rows) = page::limit(limit) else { return Ok(Vec::new()) };
        if collection == "chat_totals" {
            return self.export_totals(after, limit).await;
        }
        let mut after = after.map(str::to_owned);
        loop {
            let (kept, id) = kept_in(collection, after.as_deref().unwrap_or_default())?;
            let mut filter = Vec::new();
            if after.is_some() {
                filter.push(doc! { "_id": { "$gt": id } });
            }
            if kept == STREAMS {
                filter.push(streams::is_stream());
            }
            let found = collect(self.of(kept).find(page::all(filter)).sort(doc! { "_id": 1 }).limit(rows)).await?;
            let carried = carried_of(collection, &found)?;
            if !carried.is_empty() || found.is_empty() {
                return Ok(carried);
            }
            // A whole page of documents that are no streams; behind them there may be some.
            after = found.last().map(key_of);
        }
    }

    /// Totals are of streams that have messages, or some kept of them, or both.
    async fn export_totals(&self, after: Option<&str>, limit: usize) -> Result<Vec<Exported>> {
        let rows = page::limit(limit).unwrap_or(1);
        let beyond = |field: &str| match after.and_then(object_id) {
            Some(after) => doc! { field: { "$gt": after } },
            None => Document::new(),
        };
        let by_id = doc! { "_id": 1 };
        let kept = collect(self.of(TOTALS).find(beyond("_id")).sort(by_id.clone()).limit(rows)).await?;
        let with_messages = collect(self.of(MESSAGES).aggregate([
            doc! { "$match": beyond("streamId") },
            doc! { "$group": { "_id": "$streamId" } },
            doc! { "$sort": by_id },
            doc! { "$limit": rows },
        ]))
        .await?;
        let all = kept.iter().chain(&with_messages);
        let ids: std::collections::BTreeSet<_> = all.filter_map(|found| found.get_object_id("_id").ok()).collect();
        let mut page = Vec::new();
        for id in ids.into_iter().map(StreamId::from).take(limit) {
            let totals = StreamTotals::new(id, self.chat_totals(id).await?, self.chatters(id).await?);
            page.push(exported(id.to_string(), &totals)?);
        }
        Ok(page)
    }

    pub(super) async fn import_all(&self, collection: &str, documents: &[Exported]) -> Result<()> {
        if collection == "chat_totals" {
            for document in documents {
                self.import_totals(&read(document)?).await?;
            }
            return Ok(());
        }
        let (kept, _) = kept_in(collection, "")?;
        let documents: Vec<_> =
            documents.iter().map(|document| written(collection, document)).collect::<Result<_>>()?;
        let kept = self.of(kept);
        let replace = |document: Document| {
            let id = doc! { "_id": document.get("_id").cloned() };
            let replace = kept.replace_one(id, document).upsert(true);
            async move { run(replace).await.map(drop) }
        };
        stream::iter(documents.into_iter().map(replace)).buffer_unordered(WRITES_MAX).try_collect::<()>().await?;
        Ok(())
    }

    async fn import_totals(&self, totals: &StreamTotals) -> Result<()> {
        let sums = ChatTotals {
            messages: totals.messages,
            chatters: totals.chatters.len() as u64,
            reactions: totals.reactions.clone(),
            last_seq: totals.last_seq,
        };
        self.replace_totals(totals.stream_id, &sums, &totals.chatters).await
    }
}
