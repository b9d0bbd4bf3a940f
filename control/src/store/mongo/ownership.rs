//! Which collections are ours: the database may be the application's own, and what is another's is never read, written
//! or indexed.
//!
//! A document of `onair_meta` names our collections before any of them is made. So a collection that has one of our
//! names and is not named there was made by somebody else.

use mongodb::Database;
use mongodb::bson::{Document, doc};

use super::collections::{META, OWN, STREAMS};
use super::fault::{Fault, TRIES_MAX, contended, run};
use super::indexes;
use crate::store::{Result, StoreError};

/// The `_id` of the document in [`META`].
const NAMES: &str = "collections";

/// Whose data is in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakeOver {
    /// Ours has our names, if there is any.
    Settled,
    /// An earlier version was here, and not all that it kept has our names yet.
    EarlierVersions,
}

/// Makes sure that no collection with one of our names is another's, and that they are ours from now on.
///
/// # Errors
/// [`StoreError::Failed`] names the collections that are another's, and says what to do. Nothing was written then.
pub(super) async fn claim(database: &Database) -> Result<TakeOver> {
    // In this order, since another process may do the same now: it names collections before it makes them, and before
    // it makes the indexes of `livestreams`.
    let has_our_indexes = indexes::are_there(database).await?;
    let there = run(database.list_collection_names()).await?;
    for _ in 0..TRIES_MAX {
        let known = run(meta(database).find_one(doc! { "_id": NAMES })).await?;
        refuse_others(database, &there, known.as_ref()).await?;
        let settled = match &known {
            Some(known) => known.get_bool("takenOver").unwrap_or(false),
            None => !has_our_indexes,
        };
        match write_names(database, settled).await {
            Ok(()) => return Ok(if settled { TakeOver::Settled } else { TakeOver::EarlierVersions }),
            // Another process wrote them at the same moment.
            Err(fault) if fault.duplicate().is_some() => {}
            Err(fault) => return Err(fault.into()),
        }
    }
    Err(contended("the names of collections"))
}

/// Notes that nothing is left to take over.
pub(super) async fn note_taken_over(database: &Database) -> Result<()> {
    run(meta(database).update_one(doc! { "_id": NAMES }, doc! { "$set": { "takenOver": true } })).await?;
    Ok(())
}

/// # Errors
/// [`StoreError::Failed`] unless a server of this version was here, and left nothing of an earlier one.
pub(super) async fn require_settled(database: &Database) -> Result<()> {
    let there = run(database.list_collection_names()).await?;
    let has = |name: &str| there.iter().any(|one| one == name);
    let taken_over = doc! { "_id": NAMES, "takenOver": true };
    if has(META) && has(STREAMS) && run(meta(database).find_one(taken_over)).await?.is_some() {
        return Ok(());
    }
    Err(StoreError::Failed(format!(
        "the database {} has no data of this version of Onair ({META} and {STREAMS}): correct its name; if an earlier \
         version kept its data there, start this one on it once",
        database.name()
    )))
}

fn meta(database: &Database) -> mongodb::Collection<Document> {
    database.collection(META)
}

async fn write_names(database: &Database, settled: bool) -> std::result::Result<(), Fault> {
    let names = doc! {
        "$addToSet": { "names": { "$each": OWN.as_slice() } },
        "$setOnInsert": { "takenOver": settled },
    };
    run(meta(database).update_one(doc! { "_id": NAMES }, names).upsert(true)).await.map(drop)
}

async fn refuse_others(database: &Database, there: &[String], known: Option<&Document>) -> Result<()> {
    let ours: Vec<_> = known.and_then(|known| known.get_array("names").ok()).into_iter().flatten().collect();
    let is_ours = |name: &str| ours.iter().any(|known| known.as_str() == Some(name));
    let mut others: Vec<_> =
        OWN.into_iter().filter(|name| there.iter().any(|one| one == name) && !is_ours(name)).collect();
    // An empty one may be ours, made by a process that was killed before it wrote the names.
    if there.iter().any(|name| name == META)
        && ours.is_empty()
        && (known.is_some() || run(meta(database).count_documents(doc! {}).limit(1)).await? > 0)
    {
        others.insert(0, META);
    }
    if others.is_empty() {
        return Ok(());
    }
    Err(StoreError::Failed(format!(
        "the database {} has collections with names of Onair's that Onair did not make: {}. Nothing was changed. Rename \
         them, or give Onair a database of its own: name it in the URI, or by store.database. If they are Onair's, from \
         a backup that was restored in part, restore {META} as well",
        database.name(),
        others.join(", "),
    )))
}

#[cfg(test)]
mod tests {
    use super::super::collections::PREFIX;
    use super::*;

    #[test]
    fn every_collection_but_the_applications_has_our_prefix() {
        assert!(OWN.iter().chain([&META]).all(|name| name.starts_with(PREFIX)), "{OWN:?}");
        assert!(!STREAMS.starts_with(PREFIX) && !OWN.contains(&STREAMS));
    }
}
