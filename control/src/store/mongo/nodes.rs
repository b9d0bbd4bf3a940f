//! What nodes tell each other, and which ones there are.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use super::collections::{LIMITS, NODES, RELAY};
use super::fault::{Fault, TRIES_MAX, collect, contended, run};
use super::record::{date, has_only};
use super::stream_document::{integer, text, time};
use super::{Mongo, page};
use crate::clock::Timestamp;
use crate::store::chat::Relayed;
use crate::store::nodes::NodeStore;
use crate::store::stream::StreamId;
use crate::store::{
    CLOCKS_APART, DAY, LEASE_FREE, Lease, NODE_GONE, NodeSign, RELAYED_KEPT, Result, SIGNS_MAX, StoreError,
};

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
        "streamId": note.stream_id,
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
            stream_id: document.get_object_id("streamId").map(StreamId::from).ok()?,
            at: time(document, "at")?,
            note: serde_json::from_str(document.get_str("note").ok()?).ok()?,
        })
    };
    relayed().ok_or_else(|| StoreError::Failed("a relayed note cannot be read".into()))
}

/// Whether a document is one that [`write()`] gave.
pub(super) fn is_note(document: &Document) -> bool {
    has_only(document, &["_id", "node", "streamId", "at", "note", "expiresAt"]) && read(document).is_ok()
}

/// Nodes that are looked at. A node is known for a day, and each start of a server is one.
const NODES_MAX: i64 = 10_000;

/// Between two looks whether a node is still there.
const LOOK: Duration = Duration::from_millis(500);

/// When each node said last that it is there.
pub(super) type Nodes = HashMap<String, Timestamp>;

/// Whether no node says any more that it is there. `look` gives what the nodes said last.
///
/// Waits while one may be alive, which is for [`NODE_GONE`] if any said so lately, as far as clocks may be apart. Each
/// node is compared with itself, since one that is gone may have had a clock that was ahead.
pub(super) async fn falls_silent<F>(look: impl Fn() -> F) -> std::result::Result<bool, Fault>
where
    F: Future<Output = std::result::Result<Nodes, Fault>>,
{
    let (first, begin) = (look().await?, tokio::time::Instant::now());
    let newest = first.values().max().copied();
    let is_lately = newest.is_some_and(|at| Timestamp::now() < at.plus(NODE_GONE + CLOCKS_APART));
    while is_lately && begin.elapsed() < NODE_GONE {
        tokio::time::sleep(LOOK).await;
        if look().await?.iter().any(|(node, at)| first.get(node) != Some(at)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a document about a node says.
pub(super) fn read_node(document: &Document) -> Option<(String, Timestamp)> {
    Some((text(document, "_id")?, time(document, "at")?))
}

/// Where earlier versions note their rooms, as units of a limit.
fn lease_key(stream: StreamId) -> String {
    format!("host:{stream}")
}

/// A lease, or the note of a node of an earlier version, which names neither itself nor an epoch.
fn read_lease(document: &Document, now: Timestamp) -> Option<Lease> {
    let renewed_at = time(document, "renewedAt").filter(|at| !at.is_far_ahead(now));
    let noted = document.get_array("taken").into_iter().flatten().filter_map(Bson::as_datetime);
    let noted = noted.map(|at| Timestamp::from_millis(at.timestamp_millis())).filter(|at| !at.is_far_ahead(now)).max();
    let node = text(document, "node").filter(|_| renewed_at >= noted);
    let epoch = document.get("epoch").and_then(integer).and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or(0);
    Some(Lease { node, epoch, renewed_at: renewed_at.max(noted)? })
}

#[async_trait]
impl NodeStore for Mongo {
    fn is_shared(&self) -> bool {
        true
    }

    async fn relay(&self, notes: &[Relayed]) -> Result<()> {
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

    async fn relayed_since(&self, since: &[NodeSign], limit: usize) -> Result<Vec<Relayed>> {
        let Some(limit) = page::limit(limit).filter(|_| !since.is_empty()) else { return Ok(Vec::new()) };
        // The earliest of all as well, for servers that look for no index behind `$or`.
        let earliest = since.iter().map(|sign| sign.at).min().unwrap_or_default();
        let of_node = |sign: &NodeSign| doc! { "node": &sign.node, "at": { "$gte": date(sign.at) } };
        let of_these = doc! { "at": { "$gte": date(earliest) }, "$or": since.iter().map(of_node).collect::<Vec<_>>() };
        let notes = collect(self.of(RELAY).find(of_these).sort(page::sort("at", true)).limit(limit)).await?;
        // A newer release may know notes that this one does not.
        Ok(notes.iter().filter_map(|note| read(note).ok()).collect())
    }

    async fn announce_node(&self, node: &str, now: Timestamp) -> Result<Vec<NodeSign>> {
        let here = doc! { "$set": { "at": date(now), "expiresAt": expires_at(now, DAY) } };
        match run(self.of(NODES).update_one(doc! { "_id": node }, here).upsert(true)).await {
            Ok(_) => {}
            // It was announced twice at the same moment.
            Err(fault) if fault.duplicate().is_some() => {}
            Err(fault) => return Err(fault.into()),
        }
        let others = self.of(NODES);
        let others = others.find(doc! { "_id": { "$ne": node } }).sort(doc! { "at": -1 });
        let signs = collect(others.limit(page::limit(SIGNS_MAX).unwrap_or(1))).await?;
        Ok(signs.iter().filter_map(read_node).map(|(node, at)| NodeSign { node, at }).collect())
    }

    async fn is_served(&self) -> Result<bool> {
        let look = || async {
            let nodes = self.of(NODES);
            let newest_first = nodes.find(doc! {}).sort(doc! { "at": -1 }).limit(NODES_MAX);
            Ok(collect(newest_first).await?.iter().filter_map(read_node).collect())
        };
        Ok(!falls_silent(look).await?)
    }

    async fn lease_room(&self, stream: StreamId, node: &str, now: Timestamp) -> Result<Lease> {
        let is_own = doc! { "$eq": ["$node", { "$literal": node }] };
        let is_others = doc! { "$and": [
            { "$not": [is_own.clone()] },
            { "$gt": ["$renewedAt", date(now.minus(LEASE_FREE))] },
            { "$lte": ["$renewedAt", date(now.plus(Timestamp::AHEAD_MAX))] },
        ] };
        let epoch = doc! { "$ifNull": ["$epoch", 0_i64] };
        let next = doc! { "$cond": [is_own, epoch.clone(), { "$add": [epoch, 1_i64] }] };
        let if_granted = |value: Bson, field: &str| doc! { "$cond": ["$granted", value, field] };
        let update = vec![
            doc! { "$set": { "granted": { "$not": [is_others] } } },
            doc! { "$set": {
                "node": if_granted(doc! { "$literal": node }.into(), "$node"),
                "epoch": if_granted(next.into(), "$epoch"),
                "renewedAt": if_granted(date(now).into(), "$renewedAt"),
                // Where nodes of an earlier version look, as for the units of a limit.
                "taken": if_granted(vec![date(now)].into(), "$taken"),
                "until": if_granted(date(now.plus(DAY)).into(), "$until"),
                "expiresAt": if_granted(expires_at(now, DAY).into(), "$expiresAt"),
            } },
            // The answer is read from `node` and `epoch`.
            doc! { "$unset": "granted" },
        ];
        let key = lease_key(stream);
        for _ in 0..TRIES_MAX {
            let leases = self.of(LIMITS);
            let take = leases.find_one_and_update(doc! { "_id": &key }, update.clone());
            match run(take.return_document(ReturnDocument::After)).await? {
                Some(lease) => {
                    return read_lease(&lease, now).ok_or_else(|| StoreError::Failed("a lease cannot be read".into()));
                }
                None => self.make_missing(LIMITS, Bson::from(&key)).await?,
            }
        }
        Err(contended("a lease"))
    }

    async fn room_lease(&self, stream: StreamId, now: Timestamp) -> Result<Option<Lease>> {
        let found = run(self.of(LIMITS).find_one(doc! { "_id": lease_key(stream) })).await?;
        Ok(found.and_then(|lease| read_lease(&lease, now)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_node_at_work_is_seen_beside_a_gone_one_whose_clock_was_ahead() {
        let (beats, ahead) = (Cell::new(0), Timestamp::now().plus(Duration::from_secs(3600)));
        let look = || {
            beats.set(beats.get() + 1);
            let at = Timestamp::default().plus(Duration::from_secs(beats.get()));
            std::future::ready(Ok(Nodes::from([("gone".to_owned(), ahead), ("at work".to_owned(), at)])))
        };

        assert!(!falls_silent(look).await.unwrap());
    }

    #[tokio::test]
    async fn a_node_at_work_is_seen_though_its_clock_lags() {
        let (beats, begin) = (Cell::new(0), Timestamp::now().minus(Duration::from_secs(30)));
        let look = || {
            beats.set(beats.get() + 1);
            let at = begin.plus(Duration::from_secs(beats.get()));
            std::future::ready(Ok(Nodes::from([("at work".to_owned(), at)])))
        };

        assert!(!falls_silent(look).await.unwrap());
    }
}
