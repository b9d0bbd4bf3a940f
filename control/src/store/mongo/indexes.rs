//! The indexes (stream API, section 13): the application's, under the names that mongoose gives
//! them, and ours.
//!
//! A collection that another application made is used as it is: an index that does what is needed is accepted under
//! any name.

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Collection, Database, IndexModel};
use tracing::{info, warn};

use super::fault::{Fault, UPKEEP_MAX, run, within};
use super::{collections, stream_document};
use crate::store::{Result, StoreError};

/// When an application's own index may be left out, because an equal one is there under another name.
const OPTIONS_CONFLICT: i32 = 85;
const KEYS_CONFLICT: i32 = 86;

/// The server's codes for a collection and an index that are not there.
const NOT_THERE: [i32; 2] = [26, 27];

/// The server's code for what the user may not do.
const UNAUTHORIZED: i32 = 13;

/// The names of the unique indexes whose violation means something.
#[derive(Debug, Clone)]
pub(super) struct Unique {
    pub(super) owner_live: String,
    pub(super) room: String,
}

impl Default for Unique {
    fn default() -> Self {
        Self { owner_live: "ownerId_live".into(), room: "roomName_1".into() }
    }
}

struct Wanted {
    collection: &'static str,
    name: String,
    keys: Document,
    unique: bool,
    /// Only documents that match are in the index.
    only: Option<Document>,
    /// What is asked of documents in addition where others are in the way: those that may be streams.
    among: Option<Document>,
    /// Documents are removed once the time in the key has come.
    expires: bool,
}

impl Wanted {
    /// Named as MongoDB does it: `isLive_1_startedAt_-1`.
    fn plain(collection: &'static str, keys: Document) -> Self {
        let parts: Vec<_> = keys.iter().map(|(field, order)| format!("{field}_{order}")).collect();
        Self { collection, name: parts.join("_"), keys, unique: false, only: None, among: None, expires: false }
    }

    fn unique(collection: &'static str, keys: Document) -> Self {
        Self { unique: true, ..Self::plain(collection, keys) }
    }

    fn expiring(collection: &'static str) -> Self {
        Self { expires: true, ..Self::plain(collection, doc! { "expiresAt": 1 }) }
    }

    fn model(&self) -> IndexModel {
        self.model_of(self.only.clone())
    }

    fn model_among(&self, among: &Document) -> IndexModel {
        let mut only = self.only.clone().unwrap_or_default();
        only.extend(among.clone());
        self.model_of(Some(only))
    }

    fn model_of(&self, only: Option<Document>) -> IndexModel {
        let options = IndexOptions::builder()
            .name(self.name.clone())
            .unique(self.unique.then_some(true))
            .partial_filter_expression(only)
            .expire_after(self.expires.then_some(std::time::Duration::ZERO))
            .build();
        IndexModel::builder().keys(self.keys.clone()).options(options).build()
    }

    /// Whether an index that is there was made by us, as far as can be seen: it is as we make it in everything.
    fn is(&self, there: &IndexModel) -> bool {
        let ours = self.model().options.unwrap_or_default();
        let mut options = there.options.clone().unwrap_or_default();
        // What the server adds.
        (options.version, options.text_index_version, options.sphere_2d_index_version) = (None, None, None);
        let keys = |model: &Document| -> Vec<_> {
            model.iter().map(|(field, order)| (field.clone(), stream_document::integer(order))).collect()
        };
        keys(&self.keys) == keys(&there.keys)
            && mongodb::bson::serialize_to_document(&options).ok() == mongodb::bson::serialize_to_document(&ours).ok()
    }

    /// Whether an index that is there does what this one is for.
    fn is_served_by(&self, there: &IndexModel) -> bool {
        let options = there.options.clone().unwrap_or_default();
        let same_keys = self.keys.len() == there.keys.len()
            && self.keys.iter().zip(&there.keys).all(|((field, order), (other_field, other_order))| {
                field == other_field && stream_document::integer(order) == stream_document::integer(other_order)
            });
        let among = self.among.as_ref().and_then(|among| self.model_among(among).options);
        let same_documents = options.partial_filter_expression == self.only
            // A unique index of names may leave out documents without one.
            || (self.unique && self.only.is_none())
            || among.is_some_and(|among| among.partial_filter_expression == options.partial_filter_expression);
        same_keys && same_documents && (!self.unique || options.unique == Some(true))
    }
}

fn wanted() -> Vec<Wanted> {
    use collections::*;
    let unique = Unique::default();
    vec![
        Wanted::plain(STREAMS, doc! { "isLive": 1, "startedAt": -1 }),
        // The application's sorts by time alone; pages break ties by id, and this one gives them without sorting.
        Wanted::plain(STREAMS, doc! { "isLive": 1, "startedAt": -1, "_id": -1 }),
        Wanted::plain(STREAMS, doc! { "ownerId": 1, "isLive": 1 }),
        Wanted {
            name: unique.room,
            among: Some(doc! { "roomName": { "$type": "string", "$gt": "" } }),
            ..Wanted::unique(STREAMS, doc! { "roomName": 1 })
        },
        Wanted {
            name: unique.owner_live,
            only: Some(doc! { "isLive": true }),
            among: Some(doc! { "ownerId": { "$type": ["objectId", "string"] } }),
            ..Wanted::unique(STREAMS, doc! { "ownerId": 1 })
        },
        Wanted::plain(STREAMS, doc! { "state": 1, "scheduledFor": 1 }),
        Wanted::plain(STREAMS, doc! { "tags": 1, "isLive": 1 }),
        Wanted::plain(STREAMS, doc! { "createdAt": -1, "_id": -1 }),
        Wanted::plain(STREAMS, doc! { "updatedAt": 1, "_id": 1 }),
        // The key `(streamId, sid)` is in `_id`. These two are all that a recount and a list of open sessions read.
        Wanted::plain(PRESENCE, doc! { "streamId": 1, "counts": 1, "userId": 1, "leftAt": 1 }),
        Wanted::plain(PRESENCE, doc! { "streamId": 1, "leftAt": 1 }),
        Wanted::expiring(WEBHOOKS),
        Wanted::unique(MESSAGES, doc! { "streamId": 1, "seq": 1 }),
        Wanted::plain(CHATTERS, doc! { "streamId": 1 }),
        Wanted::plain(RELAY, doc! { "at": 1 }),
        Wanted::expiring(RELAY),
        Wanted::expiring(NODES),
        Wanted::plain(REPORTS, doc! { "status": 1, "createdAt": -1 }),
        Wanted::plain(REPORTS, doc! { "streamId": 1, "createdAt": -1 }),
        Wanted {
            only: Some(doc! { "openFor": { "$exists": true } }),
            ..Wanted::unique(REPORTS, doc! { "openFor": 1 })
        },
        Wanted::plain(BANS, doc! { "changedAt": 1 }),
        Wanted::plain(OWNER_BLOCKS, doc! { "ownerId": 1 }),
        Wanted::plain(AUDIT, doc! { "at": -1 }),
        Wanted::plain(AUDIT, doc! { "streamId": 1, "at": -1 }),
        Wanted::expiring(IDEMPOTENCY),
        Wanted::expiring(LIMITS),
    ]
}

/// Makes the indexes that are missing.
///
/// # Errors
/// [`StoreError::Failed`] if one cannot be made; the text says what to do.
pub(super) async fn ensure(database: &Database) -> Result<Unique> {
    let mut names = Unique::default();
    let mut rest = wanted();
    while !rest.is_empty() {
        let collection = rest[0].collection;
        let (of_collection, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|wanted| wanted.collection == collection);
        rest = others;
        // Nearly always they are there, or can all be made, and one command says so.
        let models = of_collection.iter().map(Wanted::model);
        let made_in = database.collection::<Document>(collection);
        match within(UPKEEP_MAX, made_in.create_indexes(models).into_future()).await {
            Ok(_) => {}
            Err(fault) if fault.code().is_some_and(|code| is_in_the_way(code) || code == 11000) => {
                for wanted in &of_collection {
                    ensure_one(database, wanted, &mut names).await?;
                }
            }
            Err(fault) if fault.code() == Some(UNAUTHORIZED) => {
                return Err(lacking_rights(database));
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(names)
}

/// Whether `livestreams` has an index that nobody but Onair makes: this version or an earlier one was here.
pub(super) async fn are_there(database: &Database) -> Result<bool> {
    let there = list(database, collections::STREAMS).await?;
    let ours = ["ownerId_live", "updatedAt_1__id_1"];
    let wanted = wanted();
    let mut ours = wanted.iter().filter(|wanted| ours.contains(&wanted.name.as_str()));
    Ok(ours.any(|wanted| there.iter().any(|index| wanted.is(index))))
}

/// Removes the indexes that an earlier version made in a collection without our prefix.
///
/// Where others keep documents, those go that do harm: they delete documents, or refuse some. They are ours if all are
/// there that we made, each exactly as we made it.
pub(super) async fn remove_earlier(database: &Database, earlier: &str, is_empty: bool) -> Result<()> {
    let own = format!("{}{earlier}", collections::PREFIX);
    let wanted: Vec<_> = wanted().into_iter().filter(|wanted| wanted.collection == own).collect();
    let there = list(database, earlier).await?;
    if !wanted.iter().all(|wanted| there.iter().any(|index| wanted.is(index))) {
        return Ok(());
    }
    for Wanted { name, keys, unique, expires, .. } in wanted {
        if !(is_empty || unique || expires) {
            continue;
        }
        match run(database.collection::<Document>(earlier).drop_index(name.clone())).await {
            Ok(()) => {
                info!(collection = earlier, index = name, %keys, unique, expires, "removed an index of an earlier version");
            }
            // Another process was quicker.
            Err(fault) if fault.code().is_some_and(|code| NOT_THERE.contains(&code)) => {}
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(())
}

fn lacking_rights(database: &Database) -> StoreError {
    StoreError::Failed(format!(
        "MongoDB lets us see and make no indexes in {}: its URI needs a user, a password, and for that user the role \
         readWrite",
        database.name()
    ))
}

/// The indexes of a collection; none if it is not there.
async fn list(database: &Database, collection: &str) -> Result<Vec<IndexModel>> {
    let collection = database.collection::<Document>(collection);
    match within(UPKEEP_MAX, async { collection.list_indexes().await?.try_collect().await }).await {
        Ok(indexes) => Ok(indexes),
        Err(fault) if fault.code().is_some_and(|code| NOT_THERE.contains(&code)) => Ok(Vec::new()),
        Err(fault) if fault.code() == Some(UNAUTHORIZED) => Err(lacking_rights(database)),
        Err(fault) => Err(fault.into()),
    }
}

fn is_in_the_way(code: i32) -> bool {
    code == OPTIONS_CONFLICT || code == KEYS_CONFLICT
}

async fn ensure_one(database: &Database, wanted: &Wanted, names: &mut Unique) -> Result<()> {
    let collection = database.collection::<Document>(wanted.collection);
    let there = list(database, wanted.collection).await?;
    if let Some(name) = there.iter().find(|index| wanted.is_served_by(index)).and_then(name_of) {
        remember(wanted, name, names);
        return Ok(());
    }
    let create = |model| within(UPKEEP_MAX, collection.create_index(model).into_future());
    let mut made = create(wanted.model()).await;
    if let Some(among) = &wanted.among
        && made.as_ref().is_err_and(|fault| fault.duplicate().is_some())
    {
        warn!(
            collection = wanted.collection,
            index = wanted.name,
            "documents that are no streams are left out of an index"
        );
        made = create(wanted.model_among(among)).await;
    }
    match made {
        Ok(_) => Ok(()),
        Err(fault) if fault.code().is_some_and(is_in_the_way) && !wanted.unique && !wanted.expires => {
            warn!(collection = wanted.collection, index = wanted.name, "an index is left out: another is in its place");
            Ok(())
        }
        Err(fault) if fault.duplicate().is_some() => Err(not_unique(&collection, wanted).await?),
        Err(fault) => Err(explained(wanted, fault)),
    }
}

/// Names two documents with one value, of which there may be more.
async fn not_unique(collection: &Collection<Document>, wanted: &Wanted) -> Result<StoreError> {
    let Wanted { name, keys, .. } = wanted;
    let mut only = wanted.only.clone().unwrap_or_default();
    only.extend(wanted.among.clone().unwrap_or_default());
    let value: Document = keys.keys().map(|field| (field.clone(), Bson::from(format!("${field}")))).collect();
    let groups = collection.aggregate([
        doc! { "$match": only },
        doc! { "$group": { "_id": value, "one": { "$min": "$_id" }, "other": { "$max": "$_id" }, "count": { "$sum": 1 } } },
        doc! { "$match": { "count": { "$gt": 1 } } },
        doc! { "$limit": 1 },
    ]);
    let found: Vec<Document> = within(UPKEEP_MAX, async { groups.await?.try_collect().await }).await?;
    let collection = collection.name();
    let named = found.first().and_then(|group| {
        let (value, one, other) = (group.get_document("_id").ok()?, group.get("one")?, group.get("other")?);
        Some(format!("the documents {one} and {other} of {collection} have the same {value}"))
    });
    Ok(StoreError::Failed(format!(
        "the unique index {name} of {collection} on {keys} cannot be made: {}. Give one another value, or remove it, then \
         start again",
        named.as_deref().unwrap_or("several documents have the same value there")
    )))
}

fn name_of(index: &IndexModel) -> Option<&str> {
    index.options.as_ref()?.name.as_deref()
}

fn remember(wanted: &Wanted, name: &str, names: &mut Unique) {
    let known = Unique::default();
    if wanted.name == known.room {
        names.room = name.to_owned();
    } else if wanted.name == known.owner_live {
        names.owner_live = name.to_owned();
    }
}

fn explained(wanted: &Wanted, fault: Fault) -> StoreError {
    let Wanted { collection, name, keys, .. } = wanted;
    let advice = if fault.code().is_some_and(is_in_the_way) {
        "an index with the same name or keys, but other options, is there: drop it, then start again"
    } else {
        return fault.into();
    };
    StoreError::Failed(format!("the index {name} of {collection} on {keys} cannot be made: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_named_as_mongoose_names_them() {
        let names: Vec<_> = wanted().into_iter().map(|wanted| wanted.name).collect();

        for name in ["isLive_1_startedAt_-1", "ownerId_1_isLive_1", "roomName_1", "ownerId_live"] {
            assert!(names.contains(&name.to_owned()), "{name} of {names:?}");
        }
    }

    fn is_wanted(collection: &str, keys: &Document, holds: impl Fn(&Wanted) -> bool) -> bool {
        let of = |wanted: &Wanted| wanted.collection == collection && wanted.keys == *keys;
        wanted().iter().any(|wanted| of(wanted) && holds(wanted))
    }

    /// Section 13: those of the product's description.
    #[test]
    fn the_applications_three_indexes_are_there() {
        let plain = |wanted: &Wanted| !wanted.unique && wanted.only.is_none() && !wanted.expires;

        assert!(is_wanted("livestreams", &doc! { "isLive": 1, "startedAt": -1 }, plain));
        assert!(is_wanted("livestreams", &doc! { "ownerId": 1, "isLive": 1 }, plain));
        assert!(is_wanted("livestreams", &doc! { "roomName": 1 }, |wanted| wanted.unique && wanted.only.is_none()));
    }

    /// Section 13: ours.
    #[test]
    fn the_indexes_of_the_contract_are_there() {
        let live = Some(doc! { "isLive": true });
        assert!(is_wanted("livestreams", &doc! { "ownerId": 1 }, |wanted| wanted.unique && wanted.only == live));
        for (collection, keys) in [
            ("livestreams", doc! { "state": 1, "scheduledFor": 1 }),
            ("livestreams", doc! { "tags": 1, "isLive": 1 }),
            ("onair_presence", doc! { "streamId": 1, "leftAt": 1 }),
        ] {
            assert!(is_wanted(collection, &keys, |_| true), "{collection}: {keys}");
        }
        assert!(is_wanted("onair_chat_messages", &doc! { "streamId": 1, "seq": 1 }, |wanted| wanted.unique));
        for collection in ["onair_webhook_events", "onair_idempotency", "onair_limits"] {
            assert!(is_wanted(collection, &doc! { "expiresAt": 1 }, |wanted| wanted.expires), "{collection}");
        }
    }

    #[test]
    fn an_equal_index_under_another_name_serves_and_one_that_is_not_unique_does_not() {
        let wanted = Wanted::unique(collections::STREAMS, doc! { "roomName": 1 });
        let other = |unique| {
            let options = IndexOptions::builder().name("rooms".to_owned()).unique(unique).build();
            IndexModel::builder().keys(doc! { "roomName": 1.0 }).options(options).build()
        };

        assert!(wanted.is_served_by(&other(Some(true))));
        assert!(!wanted.is_served_by(&other(None)));
    }
}
