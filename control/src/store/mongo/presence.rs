//! Presence: a record a session, and the numbers that are counted from the records.
//!
//! Without transactions, a number may be written that another process has overtaken. So whoever wrote one counts again,
//! until what was counted is what was written: the last one to write is right. Within this process, sessions of one
//! stream that come at the same time share a count.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};

use super::collections::PRESENCE;
use super::fault::{collect, run};
use super::record::{date, document, record, user};
use super::stream_document::{in_states, integer};
use super::streams::{computed, peak};
use super::{Mongo, page};
use crate::clock::Timestamp;
use crate::store::Result;
use crate::store::interchange::StreamPresence;
use crate::store::presence::{Presence, PresenceChange, PresenceStore};
use crate::store::stream::{Stream, StreamId, StreamState, UserId};

/// How often a count is repeated because others change the same stream. The next session counts anew anyway.
const COUNTS_MAX: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    viewers: i64,
    unique: i64,
}

fn key(id: StreamId, sid: &str) -> String {
    format!("{id}/{sid}")
}

pub(super) fn write(entry: &StreamPresence) -> Result<Document> {
    let mut fields = doc! { "_id": key(entry.stream_id, &entry.session.sid) };
    fields.extend(document(entry)?);
    Ok(fields)
}

/// Counts and writes until what is counted is what was written; what the last write gave. Nothing, if the last one had
/// nothing to write.
async fn settle<T, C, W>(count: impl Fn() -> C, write: impl Fn(Counts) -> W) -> Result<Option<T>>
where
    C: Future<Output = Result<Counts>>,
    W: Future<Output = Result<Option<T>>>,
{
    let mut counts = count().await?;
    for _ in 0..COUNTS_MAX {
        let written = write(counts).await?;
        if written.is_none() {
            break;
        }
        let now = count().await?;
        if now == counts {
            return Ok(written);
        }
        counts = now;
    }
    Ok(None)
}

#[async_trait]
impl PresenceStore for Mongo {
    async fn presence_join(&self, id: StreamId, session: &Presence) -> Result<PresenceChange> {
        self.existing(id).await?;
        let entry = write(&StreamPresence { stream_id: id, session: session.clone() })?;
        let changed = match run(self.of(PRESENCE).insert_one(entry)).await {
            Ok(_) => true,
            Err(fault) if fault.duplicate().is_some() => false,
            Err(fault) => return Err(fault.into()),
        };
        // Also after a repeat: the one before may have failed between the record and the count.
        Ok(PresenceChange { stream: self.recounted(id).await?, changed })
    }

    async fn presence_leave(&self, id: StreamId, session: &Presence, at: Timestamp) -> Result<PresenceChange> {
        self.existing(id).await?;
        let changed = self.close_session(id, session, at).await?;
        Ok(PresenceChange { stream: self.recounted(id).await?, changed })
    }

    async fn presence_open(&self, id: StreamId) -> Result<Vec<Presence>> {
        let open = doc! { "streamId": id, "leftAt": Bson::Null };
        let found = collect(self.of(PRESENCE).find(open).sort(joining())).await?;
        Ok(found.iter().filter_map(|session| page::one(PRESENCE, session, record)).collect())
    }

    async fn presence_of(&self, id: StreamId, of: &UserId) -> Result<bool> {
        let open = doc! { "streamId": id, "counts": true, "userId": user(of), "leftAt": Bson::Null };
        Ok(run(self.of(PRESENCE).find_one(open)).await?.is_some())
    }

    async fn presence_all(&self, id: StreamId, limit: usize) -> Result<Vec<Presence>> {
        let find = |limit| {
            let sessions = self.of(PRESENCE);
            async move { collect(sessions.find(doc! { "streamId": id }).sort(joining()).limit(limit)).await }
        };
        page::readable(PRESENCE, limit, find, record).await
    }
}

impl Mongo {
    async fn close_session(&self, id: StreamId, session: &Presence, at: Timestamp) -> Result<bool> {
        if self.close_open(id, session, at).await? {
            return Ok(true);
        }
        let closed = Presence { left_at: Some(at), ..session.clone() };
        let entry = write(&StreamPresence { stream_id: id, session: closed })?;
        match run(self.of(PRESENCE).insert_one(entry)).await {
            Ok(_) => Ok(true),
            // It was closed before, or the join came between.
            Err(fault) if fault.duplicate().is_some() => self.close_open(id, session, at).await,
            Err(fault) => Err(fault.into()),
        }
    }

    async fn close_open(&self, id: StreamId, session: &Presence, at: Timestamp) -> Result<bool> {
        let open = doc! { "_id": key(id, &session.sid), "leftAt": Bson::Null };
        let close = doc! { "$set": { "leftAt": date(at) } };
        Ok(run(self.of(PRESENCE).update_one(open, close)).await?.modified_count > 0)
    }

    /// The stream with its numbers as they are once the records written so far are counted.
    async fn recounted(&self, id: StreamId) -> Result<Stream> {
        let place = self.recounts.of(id);
        let ticket = place.recount.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = place.recount.last.lock().await;
        if let Some((asked_before, counted)) = &*last
            && *asked_before >= ticket
        {
            return counted.clone();
        }
        let asked_before = place.recount.asked.load(Ordering::SeqCst);
        let counted = self.recount(id).await;
        // A failure is shared as well, or in an outage each would wait for its own, one after the other.
        *last = Some((asked_before, counted.clone()));
        counted
    }

    async fn recount(&self, id: StreamId) -> Result<Stream> {
        match settle(|| self.count(id), |counts| self.write_counts(id, counts)).await? {
            Some(stream) => Ok(stream),
            None => self.existing(id).await,
        }
    }

    async fn count(&self, id: StreamId) -> Result<Counts> {
        let is_open = doc! { "$cond": [{ "$eq": [{ "$type": "$leftAt" }, "missing"] }, 1, 0] };
        let groups = collect(self.of(PRESENCE).aggregate([
            doc! { "$match": { "streamId": id, "counts": true } },
            doc! { "$group": { "_id": "$userId", "open": { "$max": is_open } } },
            doc! { "$group": { "_id": Bson::Null, "unique": { "$sum": 1 }, "viewers": { "$sum": "$open" } } },
        ]))
        .await?;
        let number = |name| groups.first().and_then(|group| group.get(name)).and_then(integer).unwrap_or(0);
        Ok(Counts { viewers: number("viewers"), unique: number("unique") })
    }

    /// Nothing, if the numbers are these already, or stay because the stream is not live.
    async fn write_counts(&self, id: StreamId, counts: Counts) -> Result<Option<Stream>> {
        let Counts { viewers, unique } = counts;
        let differs = doc! { "$or": [
            { "viewers": { "$ne": viewers } },
            { "uniqueViewers": { "$ne": unique } },
            { "peakViewers": { "$lt": viewers } },
        ] };
        let set = doc! { "viewers": viewers, "uniqueViewers": unique, "peakViewers": peak(viewers) };
        let condition = doc! { "$and": [in_states(&StreamState::LIVE), differs] };
        Ok(self.write_if(id, condition, computed(Timestamp::now(), set)).await?)
    }
}

fn joining() -> Document {
    doc! { "joinedAt": 1, "sid": 1 }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn viewers(viewers: i64) -> Counts {
        Counts { viewers, unique: viewers }
    }

    /// What is written by one who counts these numbers in turn, and from then on the last of them.
    async fn writes_of_one_who_counts(numbers: &[i64]) -> Vec<i64> {
        let (counted, written) = (Cell::new(0), RefCell::new(Vec::new()));
        let count = || {
            let number = numbers[counted.get().min(numbers.len() - 1)];
            counted.set(counted.get() + 1);
            async move { Ok(viewers(number)) }
        };
        let write = |counts: Counts| {
            written.borrow_mut().push(counts.viewers);
            async { Ok(Some(())) }
        };
        settle(count, write).await.expect("nothing fails");
        written.into_inner()
    }

    #[tokio::test]
    async fn who_wrote_a_number_that_others_have_overtaken_writes_again() {
        assert_eq!(writes_of_one_who_counts(&[1]).await, [1]);
        assert_eq!(writes_of_one_who_counts(&[1, 2]).await, [1, 2]);
        assert_eq!(writes_of_one_who_counts(&[1, 2, 1]).await, [1, 2, 1]);
    }

    #[tokio::test]
    async fn a_count_that_never_settles_comes_to_an_end() {
        let rising: Vec<_> = (0..100).collect();

        assert_eq!(writes_of_one_who_counts(&rising).await.len(), COUNTS_MAX);
    }
}
