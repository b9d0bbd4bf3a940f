//! Takes over, once, what versions before this one kept under names without our prefix.
//!
//! An application may have collections of the same names, and earlier versions wrote into those as well. So a document
//! is ours if it is, field by field, what we would have written for the record that is read from it; all others stay
//! where they are, and are not even asked for if their fields have other types.
//!
//! The documents of a collection are copied into one that only this process knows, which then gets its new name. That
//! succeeds for one process, and copies all or nothing: so this may be killed at any time, and several processes may
//! do it at once. Nobody serves before it is over.

use futures_util::{StreamExt, TryStreamExt};
use mongodb::Database;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use tracing::{info, warn};

use super::collections::{
    AUDIT, BANS, CHATTERS, IDEMPOTENCY, LIMITS, MESSAGES, NODES, OWN, OWNER_BLOCKS, PREFIX, PRESENCE, RELAY, REPORTS,
    TOTALS, WEBHOOKS,
};
use super::fault::{Fault, UPKEEP_MAX, collect, run, within};
use super::moderation::{read_audit, read_report, write_audit, write_ban, write_report};
use super::record::{has_only, joined, record};
use super::stream_document::time;
use super::{chat, indexes, moderation, presence};
use crate::clock::Timestamp;
use crate::store::chat::StoredMessage;
use crate::store::interchange::{OwnerBlock, StreamPresence};
use crate::store::moderation::Ban;
use crate::store::{DAY, Result, StoreError};

/// Documents copied at a time.
const BATCH: usize = 1_000;

/// Names of collections under way begin like this.
const UNDER_WAY: &str = "onair_moving_";

/// The server's codes for a collection that is not there, and one that is there already.
const NOT_THERE: i32 = 26;
const THERE_ALREADY: i32 = 48;

/// Moves all that is ours.
///
/// # Errors
/// [`StoreError::Failed`] if a server of an earlier version is at work.
pub(super) async fn take_over(database: &Database) -> Result<()> {
    info!(database = database.name(), "taking over what an earlier version kept");
    wait_until_nobody_works(database).await?;
    let there = run(database.list_collection_names()).await?;
    for own in OWN {
        let earlier = own.strip_prefix(PREFIX).expect("all but the application's have it");
        if there.iter().any(|name| name == earlier) {
            take_over_one(database, earlier, own).await?;
        }
    }
    remove_remains(database).await
}

async fn take_over_one(database: &Database, earlier: &'static str, own: &'static str) -> Result<()> {
    let copied = if is_there(database, own).await? { 0 } else { copy(database, earlier, own).await? };
    remove_copied(database, earlier, own).await?;
    let is_empty = run(database.collection::<Document>(earlier).count_documents(doc! {}).limit(1)).await? == 0;
    indexes::remove_earlier(database, earlier, is_empty).await?;
    info!(from = earlier, to = own, copied, is_empty, "took over a collection of an earlier version");
    Ok(())
}

/// Copies all documents that are ours; how many.
async fn copy(database: &Database, earlier: &'static str, own: &'static str) -> Result<u64> {
    let under_way = format!("{UNDER_WAY}{}{own}", ObjectId::new());
    let target = database.collection::<Document>(&under_way);
    let mut copied = 0;
    let mut ours = std::pin::pin!(ours_in(database, earlier).await?.try_chunks(BATCH));
    while let Some(batch) = within(UPKEEP_MAX, async { Ok(ours.next().await) }).await? {
        let batch = batch.map_err(|error| Fault::from(error.1))?;
        copied += batch.len() as u64;
        within(UPKEEP_MAX, target.insert_many(batch).into_future()).await?;
    }
    if copied == 0 {
        return Ok(0);
    }
    match rename(database, &under_way, own).await {
        Ok(()) => Ok(copied),
        // Another process was quicker. If it was at its end already, it took ours for remains.
        Err(fault) if matches!(fault.code(), Some(THERE_ALREADY | NOT_THERE)) => {
            run(target.drop()).await?;
            Ok(0)
        }
        Err(fault) => Err(fault.into()),
    }
}

/// Removes from the earlier collection what is in the new one.
async fn remove_copied(database: &Database, earlier: &'static str, own: &'static str) -> Result<()> {
    let (from, to) = (database.collection::<Document>(earlier), database.collection::<Document>(own));
    let mut ours = std::pin::pin!(ours_in(database, earlier).await?.try_chunks(BATCH));
    while let Some(batch) = within(UPKEEP_MAX, async { Ok(ours.next().await) }).await? {
        let batch = batch.map_err(|error| Fault::from(error.1))?;
        let ids: Vec<_> = batch.iter().filter_map(|document| document.get("_id").cloned()).collect();
        let copied = to.find(doc! { "_id": { "$in": &ids } }).projection(doc! { "_id": 1 });
        let copied: Vec<_> =
            collect(copied).await?.into_iter().filter_map(|mut document| document.remove("_id")).collect();
        if copied.len() < ids.len() {
            warn!(collection = earlier, documents = ids.len() - copied.len(), "documents came later, and stay");
        }
        within(UPKEEP_MAX, from.delete_many(doc! { "_id": { "$in": copied } }).into_future()).await?;
    }
    Ok(())
}

/// What processes left behind that were killed. Those that are at work now lose only what is in the new collections.
async fn remove_remains(database: &Database) -> Result<()> {
    for name in run(database.list_collection_names()).await? {
        if is_under_way(&name) {
            run(database.collection::<Document>(&name).drop()).await?;
        }
    }
    Ok(())
}

/// `onair_moving_`, an ObjectId, and the new name.
fn is_under_way(name: &str) -> bool {
    let rest = name.strip_prefix(UNDER_WAY).unwrap_or_default();
    rest.split_at_checked(24).is_some_and(|(id, own)| ObjectId::parse_str(id).is_ok() && OWN.contains(&own))
}

/// Waits while a server of an earlier version may be alive, which says so every other second.
async fn wait_until_nobody_works(database: &Database) -> Result<()> {
    let at_work = || async {
        let nodes: Vec<_> = ours_in(database, "nodes").await?.try_collect().await?;
        Ok::<_, Fault>(nodes.iter().filter_map(super::nodes::read_node).collect())
    };
    if super::nodes::falls_silent(at_work).await? {
        return Ok(());
    }
    Err(StoreError::Failed(format!(
        "a server of an earlier version is at work on the database {}, whose data has to be taken over: stop it, then \
         start again",
        database.name()
    )))
}

async fn is_there(database: &Database, collection: &str) -> Result<bool> {
    Ok(run(database.list_collection_names().filter(doc! { "name": collection })).await?.iter().any(|n| n == collection))
}

async fn rename(database: &Database, from: &str, to: &str) -> std::result::Result<(), Fault> {
    let name = |collection: &str| format!("{}.{collection}", database.name());
    let command = doc! { "renameCollection": name(from), "to": name(to) };
    run(database.client().database("admin").run_command(command)).await.map(drop)
}

/// The documents of an earlier collection that are ours.
async fn ours_in(
    database: &Database,
    earlier: &'static str,
) -> std::result::Result<impl futures_util::Stream<Item = mongodb::error::Result<Document>> + use<>, Fault> {
    let own = format!("{PREFIX}{earlier}");
    let wanted: Document =
        fields(&own).iter().map(|(field, kind)| ((*field).to_owned(), Bson::from(doc! { "$type": *kind }))).collect();
    let found = within(UPKEEP_MAX, database.collection::<Document>(earlier).find(wanted).into_future()).await;
    let found = match found {
        Ok(cursor) => cursor.left_stream(),
        Err(fault) if fault.code() == Some(NOT_THERE) => futures_util::stream::empty().right_stream(),
        Err(fault) => return Err(fault),
    };
    Ok(found.try_filter(move |document| std::future::ready(is_ours(&own, document))))
}

/// Fields that every document of a collection of ours has, and their types by MongoDB's names.
fn fields(own: &str) -> &'static [(&'static str, &'static str)] {
    match own {
        PRESENCE => &[("_id", "string"), ("streamId", "objectId"), ("sid", "string"), ("joinedAt", "date")],
        MESSAGES => &[("_id", "string"), ("streamId", "objectId"), ("seq", "long"), ("sentAt", "date")],
        TOTALS => &[("_id", "objectId")],
        CHATTERS => &[("_id", "string"), ("streamId", "objectId")],
        RELAY => &[("_id", "string"), ("node", "string"), ("streamId", "objectId"), ("note", "string")],
        NODES | WEBHOOKS => &[("_id", "string"), ("at", "date"), ("expiresAt", "date")],
        REPORTS => &[("streamId", "objectId"), ("createdAt", "date"), ("updatedAt", "date"), ("status", "string")],
        BANS => &[("_id", "string"), ("at", "date"), ("changedAt", "date")],
        OWNER_BLOCKS => &[("_id", "string"), ("blockedAt", "date")],
        AUDIT => &[("at", "date"), ("action", "string")],
        IDEMPOTENCY => &[("_id", "string"), ("claimedAt", "date"), ("expiresAt", "date"), ("body", "string")],
        LIMITS => &[("_id", "string"), ("granted", "bool"), ("until", "date"), ("expiresAt", "date")],
        _ => &[],
    }
}

/// Whether a document is one that we wrote.
fn is_ours(own: &str, document: &Document) -> bool {
    let written = match own {
        PRESENCE => record::<StreamPresence>(document).and_then(|entry| presence::write(&entry)),
        MESSAGES => record::<StoredMessage>(document).and_then(|message| chat::write(&message)),
        REPORTS => read_report(document).and_then(|report| write_report(&report)),
        BANS => record::<Ban>(document).and_then(|ban| write_ban(&ban)),
        OWNER_BLOCKS => record::<OwnerBlock>(document).and_then(|entry| moderation::write_owner_block(&entry)),
        AUDIT => read_audit(document).and_then(|entry| write_audit(&entry)),
        TOTALS => return chat::is_totals(document),
        CHATTERS => return chat::is_chatter(document),
        RELAY => return super::nodes::is_note(document),
        NODES | WEBHOOKS => return has_only(document, &["_id", "at", "expiresAt"]) && is_kept_for_a_day(document),
        IDEMPOTENCY => return is_claim(document),
        LIMITS => return has_only(document, &["_id", "taken", "granted", "until", "expiresAt"]),
        _ => return false,
    };
    written.is_ok_and(|written| written == *document)
}

/// Whether it is removed a day after its time, or after it was written if that was later.
fn is_kept_for_a_day(document: &Document) -> bool {
    let (at, expires) = (time(document, "at"), time(document, "expiresAt"));
    at.zip(expires).is_some_and(|(at, expires): (Timestamp, Timestamp)| expires >= at.plus(DAY))
}

fn is_claim(document: &Document) -> bool {
    let key = || {
        let user = super::record::read_user(document.get("userId")?)?;
        Some(joined(user.as_str(), &joined(document.get_str("operation").ok()?, document.get_str("key").ok()?)))
    };
    let known = ["_id", "userId", "operation", "key", "body", "claimedAt", "expiresAt", "answer"];
    has_only(document, &known) && key().is_some_and(|key| document.get_str("_id").is_ok_and(|id| id == key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_known_by_its_whole_name() {
        assert!(is_under_way(&format!("{UNDER_WAY}{}{BANS}", ObjectId::new())));
        for name in ["onair_moving_x", "onair_moving_0123456789abcdef01234567", BANS, "bans", "onair_moving_ä"] {
            assert!(!is_under_way(name), "{name}");
        }
    }

    /// A large collection of an application is not read, only to be left where it is.
    #[test]
    fn of_every_collection_only_documents_with_fields_of_our_types_are_asked_for() {
        for own in OWN {
            assert!(!fields(own).is_empty(), "{own} would be read from its first document to its last");
        }
    }

    #[test]
    fn documents_of_applications_are_told_from_ours() {
        let id = ObjectId::new();
        let at = mongodb::bson::DateTime::from_millis(1_000);
        let others = [
            (NODES, doc! { "_id": "n1", "at": at, "expiresAt": at }),
            (NODES, doc! { "_id": "n1", "at": at, "expiresAt": at, "name": "x" }),
            (AUDIT, doc! { "_id": id, "at": at, "action": "login", "actor": "u", "ip": "::1" }),
            (REPORTS, doc! { "_id": id, "streamId": id, "createdAt": at, "updatedAt": at, "status": "open" }),
            (BANS, doc! { "_id": "u", "userId": "v", "reason": "", "by": "w", "at": at, "changedAt": at }),
            (TOTALS, doc! { "_id": id, "messages": 4 }),
            (CHATTERS, doc! { "_id": "x", "streamId": id, "userId": "x" }),
            (
                IDEMPOTENCY,
                doc! { "_id": "x", "userId": "u", "operation": "start", "key": "k", "body": "", "claimedAt": at },
            ),
            (
                IDEMPOTENCY,
                doc! { "_id": joined("u", &joined("start", "k")), "userId": "u", "operation": "start", "key": "k", "v": 1 },
            ),
            (LIMITS, doc! { "_id": "x", "granted": true, "until": at, "expiresAt": at, "max": 4 }),
        ];

        let claim = doc! { "_id": joined("u", &joined("start", "k")), "userId": "u", "operation": "start", "key": "k" };
        assert!(is_ours(IDEMPOTENCY, &claim), "which differs from theirs in one field");
        for (own, document) in others {
            assert!(!is_ours(own, &document), "{own}: {document}");
        }
    }
}
