//! Databases that hold what an application kept before us, or what earlier versions kept under names that it may use.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use control::clock::Timestamp;
use control::store::chat::Relayed;
use control::store::mongo::Mongo;
use control::store::{
    COLLECTIONS, Claimed, Exported, IdempotencyKey, NodeSign, Result, SharedStore, StoreError, Taken,
};
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;

use super::fixture::*;
use super::transfer::fill;
use crate::application::{self, EARLIER_NAMES, contents, names, own_contents};
use crate::mongo::{fresh_database, shared_uri};

const CONNECT_MAX: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// The server of all tests here, for a store finds a database by its name alone.
async fn uri() -> String {
    static URI: OnceLock<String> = OnceLock::new();
    let uri = tokio::task::spawn_blocking(|| URI.get_or_init(shared_uri).clone());
    uri.await.expect("there is a server")
}

/// A database of its own, and its name.
async fn fresh() -> (Database, String) {
    let name = fresh_database();
    (application::database(&uri().await, &name).await, name)
}

async fn try_connect(name: &str) -> Result<SharedStore> {
    Ok(Arc::new(Mongo::connect(&uri().await, Some(name), CONNECT_MAX).await?))
}

async fn connect(name: &str) -> SharedStore {
    try_connect(name).await.expect("it starts")
}

fn start_of(user_id: &str) -> IdempotencyKey {
    IdempotencyKey { user: user(user_id), operation: "start", key: "k".to_owned() }
}

/// Something in every collection of ours, those included that no migration carries.
async fn use_everything(store: &SharedStore) {
    fill(store).await;
    let now = Timestamp::now();
    assert_eq!(store.idempotency_claim(&start_of("u_1"), "body", now).await.unwrap(), Claimed::New);
    store.idempotency_finish(&start_of("u_1"), &serde_json::json!({ "a": 1 })).await.unwrap();
    assert_eq!(store.limit_take("start:u_1", 1, HOUR, now).await.unwrap(), Taken::Granted);
    store.note_webhook("EV_1", now).await.unwrap();
    let note = control::store::chat::ChatNote::Cleared { user_id: user("u_1") };
    let note = Relayed { id: unique("note"), node: "n1".into(), stream_id: starting("u").id, at: now, note };
    store.relay(&[note]).await.unwrap();
    // Long gone, so that nobody waits for it.
    store.announce_node("n1", now.minus(HOUR)).await.unwrap();
}

/// All that a migration carries.
async fn everything(store: &SharedStore) -> Vec<Vec<Exported>> {
    let mut all = Vec::new();
    for collection in COLLECTIONS {
        all.push(store.export(collection, None, 10_000).await.unwrap());
    }
    all
}

/// What is used in [`use_everything`] and carried by no migration.
async fn assert_that_requests_are_known(store: &SharedStore) {
    let now = Timestamp::now();
    let claimed = store.idempotency_claim(&start_of("u_1"), "body", now).await.unwrap();
    assert_eq!(claimed, Claimed::Finished(serde_json::json!({ "a": 1 })));
    assert!(matches!(store.limit_take("start:u_1", 1, HOUR, now).await.unwrap(), Taken::Refused { .. }));
    assert!(store.webhook_handled("EV_1", now).await.unwrap());
    let of_n1 = [NodeSign { node: "n1".into(), at: now.minus(HOUR) }];
    assert_eq!(store.relayed_since(&of_n1, 10).await.unwrap().len(), 1);
}

/// Renames our collections as earlier versions named them; their indexes come along.
async fn name_as_before(database: &Database) {
    for name in EARLIER_NAMES {
        let full = |name: &str| format!("{}.{name}", database.name());
        let command = doc! { "renameCollection": full(&format!("onair_{name}")), "to": full(name) };
        database.client().database("admin").run_command(command).await.expect("it is renamed");
    }
    database.collection::<Document>("onair_meta").drop().await.expect("it is dropped");
}

/// A database of an earlier version, and all that is in it.
async fn of_an_earlier_version() -> (Database, String, Vec<Vec<Exported>>) {
    let (database, name) = fresh().await;
    let store = connect(&name).await;
    use_everything(&store).await;
    let before = everything(&store).await;
    drop(store);
    name_as_before(&database).await;
    (database, name, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_of_an_application_stay_as_they_are_byte_by_byte() {
    let (database, name) = fresh().await;
    application::fill(&database).await;
    let (before, theirs) = (own_contents(&database).await, names(&database).await);

    for _ in 0..2 {
        let store = connect(&name).await;
        use_everything(&store).await;
        assert_eq!(store.reports(None, None, None, 100).await.unwrap().len(), 3, "theirs are no reports");
        assert_eq!(store.audit(None, None, 100).await.unwrap().len(), 4, "theirs are no audit log");
        for later in [Duration::ZERO, HOUR] {
            store.expire(Timestamp::now().plus(later), Duration::ZERO).await.unwrap();
        }
        assert_eq!(own_contents(&database).await, before);
        database.collection::<Document>("livestreams").drop().await.unwrap();
        for own in names(&database).await.iter().filter(|name| name.starts_with("onair_") && *name != "onair_meta") {
            database.collection::<Document>(own).delete_many(doc! {}).await.unwrap();
        }
    }

    let all = names(&database).await;
    let added: Vec<_> = all.iter().filter(|name| !theirs.contains(name)).collect();
    assert!(added.iter().all(|name| name.starts_with("onair_") || *name == "livestreams"), "{added:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_kept_moves_over_once() {
    let (database, name, before) = of_an_earlier_version().await;

    let store = connect(&name).await;

    assert_eq!(everything(&store).await, before);
    assert_that_requests_are_known(&store).await;
    for (name, (documents, indexes)) in contents(&database, EARLIER_NAMES).await {
        assert!(documents.is_empty() && indexes.len() <= 1, "{name}: {} left, {indexes:?}", documents.len());
    }
    assert!(!names(&database).await.iter().any(|name| name.starts_with("onair_moving_")));
    // What comes into such a collection later is another's, however it looks.
    let like_ours =
        doc! { "_id": "u_9", "userId": "u_9", "reason": "", "by": "a", "at": later(), "changedAt": later() };
    database.collection::<Document>("bans").insert_one(&like_ours).await.unwrap();
    assert_eq!(connect(&name).await.ban(&user("u_9")).await.unwrap(), None);
    assert_eq!(contents(&database, ["bans"]).await["bans"].0.len(), 1);
}

fn later() -> mongodb::bson::DateTime {
    mongodb::bson::DateTime::from_millis(at(0).millis())
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_an_application_stay_where_an_earlier_version_wrote_among_them() {
    let (database, name, before) = of_an_earlier_version().await;
    let in_a_year = doc! { "at": mongodb::bson::DateTime::from_millis(Timestamp::now().plus(HOUR * 9_000).millis()) };
    let mut theirs = BTreeMap::new();
    for name in EARLIER_NAMES {
        let mut documents = application::documents(name);
        // Those of the past would be gone with the next sweep of the index that an earlier version made.
        for document in documents.iter_mut().filter(|document| document.get_datetime("expiresAt").is_ok()) {
            document.insert("expiresAt", in_a_year.get("at").cloned());
        }
        let bytes: Vec<_> =
            documents.iter().map(|document| mongodb::bson::serialize_to_vec(document).unwrap()).collect();
        theirs.insert(name.to_owned(), bytes);
        // A unique index refuses some.
        let _ = database.collection::<Document>(name).insert_many(documents).ordered(false).await;
    }
    let left = contents(&database, EARLIER_NAMES).await;

    let store = connect(&name).await;

    assert_eq!(everything(&store).await, before);
    assert_that_requests_are_known(&store).await;
    for (name, (documents, indexes)) in contents(&database, EARLIER_NAMES).await {
        let of_theirs = |bytes: &&Vec<u8>| theirs[&name].contains(*bytes);
        let expected: Vec<_> = left[&name].0.iter().filter(of_theirs).cloned().collect();
        assert!(!expected.is_empty() && documents == expected, "{name}: {} of {}", documents.len(), expected.len());
        let harmful =
            indexes.iter().find(|index| index.contains_key("expireAfterSeconds") || index.contains_key("unique"));
        assert_eq!(harmful, None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_not_exactly_ours_stays() {
    let (database, name, _) = of_an_earlier_version().await;
    let nodes = database.collection::<Document>("nodes");
    nodes.drop_index("expiresAt_1").await.unwrap();
    let options =
        IndexOptions::builder().name("expiresAt_1".to_owned()).sparse(true).expire_after(Duration::ZERO).build();
    let index = mongodb::IndexModel::builder().keys(doc! { "expiresAt": 1 }).options(options).build();
    nodes.create_index(index).await.unwrap();

    connect(&name).await;

    assert_eq!(contents(&database, ["nodes"]).await["nodes"].1.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_cut_off_anywhere_goes_on() {
    let (database, name, before) = of_an_earlier_version().await;
    let mut cut_off = 0;
    loop {
        assert!(cut_off < 1_000, "it never ends");
        // A little further each time: dropped when it has been woken so often.
        let (mut woken, most) = (0, 10 + cut_off * 6);
        let mut connecting = pin!(try_connect(&name));
        let done = std::future::poll_fn(|context| match connecting.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if woken == most => Poll::Ready(None),
            Poll::Pending => {
                woken += 1;
                Poll::Pending
            }
        });
        if let Some(done) = done.await {
            done.expect("it starts");
            break;
        }
        cut_off += 1;
    }

    assert!(cut_off > 3, "{cut_off}");
    let store = connect(&name).await;
    assert_eq!(everything(&store).await, before);
    assert_that_requests_are_known(&store).await;
    assert!(!names(&database).await.iter().any(|name| name.starts_with("onair_moving_")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_move_left_behind_that_was_cut_off_is_removed_and_nothing_that_looks_like_it() {
    let (database, name, before) = of_an_earlier_version().await;
    let id = mongodb::bson::oid::ObjectId::new();
    let (ours, other) = (format!("onair_moving_{id}onair_bans"), "onair_moving_house");
    for name in [&ours, other] {
        database.collection::<Document>(name).insert_one(doc! { "_id": "u_1", "userId": "u_1" }).await.unwrap();
    }

    let store = connect(&name).await;

    let there = names(&database).await;
    assert!(!there.contains(&ours) && there.iter().any(|name| name == other), "{there:?}");
    assert_eq!(everything(&store).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_may_be_the_first_at_once() {
    let (database, name) = fresh().await;

    let stores = together((0..8).map(|_| {
        let name = name.clone();
        async move { connect(&name).await }
    }))
    .await;

    let claims = database.collection::<Document>("onair_meta").count_documents(doc! {}).await.unwrap();
    assert_eq!(claims, 1, "one says whose the collections are");
    use_everything(&stores[0]).await;
    for store in &stores {
        assert_eq!(everything(store).await, everything(&stores[0]).await);
    }
    assert_that_requests_are_known(&stores[7]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_processes_that_move_at_once_none_loses_a_document() {
    let (database, name, before) = of_an_earlier_version().await;

    let stores = together((0..4).map(|_| {
        let name = name.clone();
        async move { connect(&name).await }
    }))
    .await;

    for store in &stores {
        assert_eq!(everything(store).await, before);
    }
    assert_that_requests_are_known(&stores[0]).await;
    assert!(contents(&database, EARLIER_NAMES).await.values().all(|(documents, _)| documents.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_of_another_with_a_name_of_ours_stops_the_start_and_nothing_is_written() {
    for foreign in ["onair_nodes", "onair_meta"] {
        let (database, name) = fresh().await;
        database.collection::<Document>(foreign).insert_one(doc! { "_id": 1, "expiresAt": later() }).await.unwrap();
        let before = contents(&database, [foreign]).await;

        let refused = try_connect(&name).await;

        let Err(StoreError::Failed(text)) = refused.map(|_| ()) else { panic!("{foreign} was taken") };
        assert!(text.contains(foreign) && text.contains("Rename"), "{text}");
        assert_eq!((contents(&database, [foreign]).await, names(&database).await), (before, vec![foreign.to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_an_earlier_version_that_is_at_work_stops_the_start() {
    let (database, name, _) = of_an_earlier_version().await;
    let before = names(&database).await;
    let announcing = tokio::spawn({
        let nodes = database.collection::<Document>("nodes");
        async move {
            loop {
                let now = Timestamp::now();
                let date = |time: Timestamp| mongodb::bson::DateTime::from_millis(time.millis());
                let set = doc! { "$set": { "at": date(now), "expiresAt": date(now.plus(HOUR * 24)) } };
                nodes.update_one(doc! { "_id": "old" }, set).upsert(true).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    while database.collection::<Document>("nodes").count_documents(doc! { "_id": "old" }).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }

    let refused = try_connect(&name).await;

    announcing.abort();
    let Err(StoreError::Failed(text)) = refused.map(|_| ()) else { panic!("it started") };
    assert!(text.contains("earlier version") && text.contains("stop it"), "{text}");
    let added: Vec<_> = names(&database).await.into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(added, ["onair_meta"]);
}
