//! What nodes tell each other, and which ones there are.

use std::time::Duration;

use mongodb::bson::{Document, doc};

use super::collections::{NODES, RELAY};
use super::earlier::has_only;
use super::fault::{Fault, collect, run};
use super::record::date;
use super::stream_document::{text, time};
use super::{Mongo, page};
use crate::clock::Timestamp;
use crate::store::chat::Relayed;
use crate::store::stream::StreamId;
use crate::store::{DAY, NODE_GONE, RELAYED_KEPT, Result, StoreError};

/// When the database removes a document by itself, should nobody have done it before.
///
/// By the real time, which is what the database goes by.
pub(super) fn expires_at(at: Timestamp, kept: Duration) -> mongodb::bson::DateTime {
    date(at.max(Timestamp::now()).plus(kept))
}

fn write(note: &Relayed) -> Result<Document> {
    // As text: the names of its fields come from users, and nobody but nodes reads it.
    let written = serde_json::to_string(&note.note).map_err(|error| StoreError::Failed(error.to_string()))?;
    Ok(doc! {
        "_id": &note.id,
        "node": &note.node,
        "streamId": note.stream_id.0,
        "at": date(note.at),
        "note": written,
        "expiresAt": expires_at(note.at, RELAYED_KEPT),
    })
}

fn read(document: &Document) -> Result<Relayed> {
    let relayed = || {
        Some(Relayed {
            id: text(document, "_id")?,
            node: text(document, "node")?,
            stream_id: document.get_object_id("streamId").map(StreamId).ok()?,
            at: time(document, "at")?,
            note: serde_json::from_str(document.get_str("note").ok()?).ok()?,
        })
    };
    relayed().ok_or_else(|| StoreError::Failed("a relayed note cannot be read".into()))
}

/// Whether a document is one that [`write`] gave.
pub(super) fn is_note(document: &Document) -> bool {
    has_only(document, &["_id", "node", "streamId", "at", "note", "expiresAt"]) && read(document).is_ok()
}

/// Between two looks whether a node is still there.
const LOOK: Duration = Duration::from_millis(500);

/// Whether no node says any more that it is there. `newest` gives when one said so last.
///
/// Waits while the last one may be alive, at most [`NODE_GONE`], also if clocks differ.
pub(super) async fn falls_silent<F>(newest: impl Fn() -> F) -> std::result::Result<bool, Fault>
where
    F: Future<Output = std::result::Result<Option<Timestamp>, Fault>>,
{
    let (first, begin) = (newest().await?, tokio::time::Instant::now());
    while first.is_some_and(|at| Timestamp::now() < at.plus(NODE_GONE)) && begin.elapsed() < NODE_GONE {
        tokio::time::sleep(LOOK).await;
        if newest().await? > first {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Mongo {
    pub(super) async fn has_nodes_at_work(&self) -> Result<bool> {
        let newest = || async {
            let found = run(self.of(NODES).find_one(doc! {}).sort(doc! { "at": -1 })).await?;
            Ok(found.and_then(|node| time(&node, "at")))
        };
        Ok(!falls_silent(newest).await?)
    }

    pub(super) async fn write_notes(&self, notes: &[Relayed]) -> Result<()> {
        if notes.is_empty() {
            return Ok(());
        }
        let documents = notes.iter().map(write).collect::<Result<Vec<_>>>()?;
        match run(self.of(RELAY).insert_many(documents).ordered(false)).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.only_duplicates() => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }

    pub(super) async fn read_notes(&self, since: Timestamp, node: &str, limit: usize) -> Result<Vec<Relayed>> {
        let Some(limit) = page::limit(limit) else { return Ok(Vec::new()) };
        let of_others = doc! { "at": { "$gte": date(since) }, "node": { "$ne": node } };
        let notes = collect(self.of(RELAY).find(of_others).sort(page::sort("at", true)).limit(limit)).await?;
        // A newer release may know notes that this one does not.
        Ok(notes.iter().filter_map(|note| read(note).ok()).collect())
    }

    pub(super) async fn announce(&self, node: &str, now: Timestamp, within: Duration) -> Result<u32> {
        let here = doc! { "$set": { "at": date(now), "expiresAt": expires_at(now, DAY) } };
        match run(self.of(NODES).update_one(doc! { "_id": node }, here).upsert(true)).await {
            Ok(_) => {}
            // It was announced twice at the same moment.
            Err(fault) if fault.duplicate().is_some() => {}
            Err(fault) => return Err(fault.into()),
        }
        let others = doc! { "_id": { "$ne": node }, "at": { "$gte": date(now.minus(within)) } };
        let count = run(self.of(NODES).count_documents(others)).await?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }
}
