//! What is known of requests for a while: idempotency keys, limits, webhooks; and the removal of what is past its time.

use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use super::Mongo;
use super::collections::{IDEMPOTENCY, LIMITS, NODES, RELAY, WEBHOOKS};
use super::fault::{TRIES_MAX, UPKEEP_MAX, contended, run, within};
use super::nodes::expires_at;
use super::record::{date, joined, user};
use super::stream_document::{text, time};
use crate::clock::Timestamp;
use crate::store::requests::RequestStore;
use crate::store::{CLAIM_MAX, Claimed, DAY, IdempotencyKey, RELAYED_KEPT, Result, StoreError, Taken};

fn claim_key(key: &IdempotencyKey) -> String {
    joined(key.user.as_str(), &joined(key.operation, &key.key))
}

/// A claim as it is kept.
struct Claim {
    body: String,
    /// As it is written, so that any value comes back as it was.
    answer: Option<String>,
    at: Timestamp,
}

impl Claim {
    fn read(document: &Document) -> Result<Self> {
        let claim = || {
            Some(Self {
                body: text(document, "body")?,
                answer: text(document, "answer"),
                at: time(document, "claimedAt")?,
            })
        };
        claim().ok_or_else(|| StoreError::Failed("an idempotency key cannot be read".into()))
    }

    fn holds(&self, now: Timestamp) -> bool {
        let is_finished = self.answer.is_some();
        now < self.at.plus(if is_finished { DAY } else { CLAIM_MAX }) && (is_finished || !self.at.is_far_ahead(now))
    }

    fn answered(self, body: &str) -> Result<Claimed> {
        if self.body != body {
            return Ok(Claimed::OtherBody);
        }
        let Some(answer) = self.answer else { return Ok(Claimed::Pending) };
        serde_json::from_str(&answer).map(Claimed::Finished).map_err(|error| StoreError::Failed(error.to_string()))
    }
}

#[async_trait]
impl RequestStore for Mongo {
    async fn webhook_handled(&self, event_id: &str, now: Timestamp) -> Result<bool> {
        let noted = doc! { "_id": event_id, "at": { "$gt": date(now.minus(DAY)) } };
        Ok(run(self.of(WEBHOOKS).find_one(noted)).await?.is_some())
    }

    async fn note_webhook(&self, event_id: &str, at: Timestamp) -> Result<()> {
        let note = doc! { "$set": { "at": date(at), "expiresAt": expires_at(at, DAY) } };
        match run(self.of(WEBHOOKS).update_one(doc! { "_id": event_id }, note).upsert(true)).await {
            Ok(_) => Ok(()),
            // Noted twice at the same moment.
            Err(fault) if fault.duplicate().is_some() => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn idempotency_claim(&self, key: &IdempotencyKey, body: &str, now: Timestamp) -> Result<Claimed> {
        let id = claim_key(key);
        let expires = expires_at(now, DAY);
        for _ in 0..TRIES_MAX {
            let new = doc! {
                "_id": &id, "userId": user(&key.user), "operation": key.operation, "key": &key.key,
                "body": body, "claimedAt": date(now), "expiresAt": expires,
            };
            match run(self.of(IDEMPOTENCY).insert_one(new)).await {
                Ok(_) => return Ok(Claimed::New),
                Err(fault) if fault.duplicate().is_some() => {}
                Err(fault) => return Err(fault.into()),
            }
            let Some(found) = run(self.of(IDEMPOTENCY).find_one(doc! { "_id": &id })).await? else { continue };
            let claim = Claim::read(&found)?;
            if claim.holds(now) {
                return claim.answered(body);
            }
            // Of several that find it expired, one takes it over.
            let expired = doc! { "_id": &id, "claimedAt": date(claim.at), "answer": claim.answer };
            let anew = doc! {
                "$set": { "body": body, "claimedAt": date(now), "expiresAt": expires },
                "$unset": { "answer": "" },
            };
            if run(self.of(IDEMPOTENCY).update_one(expired, anew)).await?.matched_count > 0 {
                return Ok(Claimed::New);
            }
        }
        Err(contended("an idempotency key"))
    }

    async fn idempotency_finish(&self, key: &IdempotencyKey, answer: &serde_json::Value) -> Result<()> {
        let finished = doc! { "$set": { "answer": answer.to_string() } };
        run(self.of(IDEMPOTENCY).update_one(doc! { "_id": claim_key(key) }, finished)).await?;
        Ok(())
    }

    async fn idempotency_release(&self, key: &IdempotencyKey) -> Result<()> {
        let unfinished = doc! { "_id": claim_key(key), "answer": Bson::Null };
        run(self.of(IDEMPOTENCY).delete_one(unfinished)).await?;
        Ok(())
    }

    /// The sliding log of a key is one document, and taking is one write that also says whether it was granted.
    async fn limit_take(&self, key: &str, max: u32, window: Duration, now: Timestamp) -> Result<Taken> {
        let recent = doc! { "$filter": {
            "input": { "$ifNull": ["$taken", []] },
            "as": "unit",
            "cond": { "$and": [
                { "$gt": ["$$unit", date(now.minus(window))] },
                { "$lte": ["$$unit", date(now.plus(Timestamp::AHEAD_MAX))] },
            ] },
        } };
        let last = window.saturating_add(Timestamp::AHEAD_MAX);
        let taken = doc! { "$cond": ["$granted", { "$concatArrays": ["$taken", [date(now)]] }, "$taken"] };
        let update = vec![
            doc! { "$set": { "taken": recent } },
            doc! { "$set": { "granted": { "$lt": [{ "$size": "$taken" }, i64::from(max)] } } },
            doc! { "$set": {
                "taken": taken,
                "until": { "$min": [{ "$max": ["$until", date(now.plus(window))] }, date(now.plus(last))] },
                "expiresAt": { "$min": [
                    { "$max": ["$expiresAt", expires_at(now, window)] },
                    expires_at(now, last),
                ] },
            } },
        ];
        for _ in 0..TRIES_MAX {
            let limits = self.of(LIMITS);
            let take =
                limits.find_one_and_update(doc! { "_id": key }, update.clone()).return_document(ReturnDocument::After);
            match run(take).await? {
                Some(log) if log.get_bool("granted").unwrap_or(false) => return Ok(Taken::Granted),
                Some(log) => return Ok(Taken::Refused { until: frees(&log, max, now).plus(window) }),
                None => self.make_missing(LIMITS, Bson::from(key)).await?,
            }
        }
        Err(contended("a limit"))
    }

    async fn limit_give_back(&self, key: &str, taken: Timestamp) -> Result<()> {
        // All but the first one of that time.
        let others = doc! { "$filter": {
            "input": { "$range": [0, { "$size": "$taken" }] },
            "as": "place",
            "cond": { "$ne": ["$$place", "$$given"] },
        } };
        let rest = doc! { "$let": {
            "vars": { "given": { "$indexOfArray": ["$taken", date(taken)] } },
            "in": { "$map": { "input": others, "as": "place", "in": { "$arrayElemAt": ["$taken", "$$place"] } } },
        } };
        let holding = doc! { "_id": key, "taken": date(taken) };
        run(self.of(LIMITS).update_one(holding, vec![doc! { "$set": { "taken": rest } }])).await?;
        Ok(())
    }
}

impl Mongo {
    pub(super) async fn remove_expired(&self, now: Timestamp, chat_retention: Duration) -> Result<()> {
        let past = [
            (IDEMPOTENCY, "claimedAt", now.minus(DAY)),
            (LIMITS, "until", now),
            (WEBHOOKS, "at", now.minus(DAY)),
            (RELAY, "at", now.minus(RELAYED_KEPT)),
            (NODES, "at", now.minus(DAY)),
        ];
        for (collection, field) in [(IDEMPOTENCY, "claimedAt"), (LIMITS, "until"), (WEBHOOKS, "at")] {
            let ahead = self.of(collection);
            let ahead = ahead.delete_many(doc! { field: { "$gt": date(now.plus(Timestamp::EXPIRED_AHEAD)) } });
            within(UPKEEP_MAX, ahead.into_future()).await?;
        }
        for (collection, field, before) in past {
            let old = self.of(collection);
            let old = old.delete_many(doc! { field: { "$lte": date(before) } });
            within(UPKEEP_MAX, old.into_future()).await?;
        }
        self.expire_chat(now.minus(chat_retention)).await
    }
}

/// The unit that must be free again before another can be taken: of those taken, the `max`-th from the end.
fn frees(log: &Document, max: u32, now: Timestamp) -> Timestamp {
    let taken = log.get_array("taken").map_or(&[][..], Vec::as_slice);
    let mut taken: Vec<_> = taken.iter().filter_map(Bson::as_datetime).map(|time| time.timestamp_millis()).collect();
    taken.sort_unstable_by(|one, other| other.cmp(one));
    let place = usize::try_from(max).unwrap_or(usize::MAX).checked_sub(1);
    place.and_then(|place| taken.get(place)).map_or(now, |millis| Timestamp::from_millis(*millis))
}
