//! A database as an application has it that was there before us: collections of its own under every name that we use
//! or used, and what is in them, byte by byte.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, Database, IndexModel};

/// Our collections, without the prefix that they have today.
pub const EARLIER_NAMES: [&str; 13] = [
    "presence",
    "webhook_events",
    "chat_messages",
    "chat_totals",
    "chatters",
    "relay",
    "nodes",
    "reports",
    "bans",
    "owner_blocks",
    "audit",
    "idempotency",
    "limits",
];

/// What only the application knows.
const OTHER_NAMES: [&str; 3] = ["users", "pets", "sessions"];

/// Documents and indexes of collections, by name.
pub type Contents = BTreeMap<String, (Vec<Vec<u8>>, Vec<Document>)>;

pub async fn database(uri: &str, name: &str) -> Database {
    Client::with_uri_str(uri).await.expect("it is a URI").database(name)
}

/// Documents that have our fields with other meanings and types, among them times that have passed.
pub fn documents(collection: &str) -> Vec<Document> {
    let (id, past) = (ObjectId::new(), DateTime::from_millis(1_600_000_000_000));
    vec![
        doc! { "_id": id, "expiresAt": past, "at": past, "name": collection, "__v": 0 },
        doc! { "_id": "text", "expiresAt": past, "at": past, "claimedAt": past, "until": past, "taken": [past] },
        doc! { "_id": 7, "expiresAt": 1, "at": "2020-01-01", "streamId": id, "seq": 1, "createdAt": past },
        doc! { "_id": 8.5, "streamId": id, "seq": 1, "status": "open", "updatedAt": past, "openFor": "x" },
        doc! { "_id": { "a": 1 }, "streamId": id, "userId": id, "leftAt": mongodb::bson::Bson::Null, "openFor": "x" },
        doc! { "_id": ObjectId::new(), "node": "n1", "note": "hello", "changedAt": past, "ownerId": id, "userId": 5 },
    ]
}

/// Makes the application's collections.
pub async fn fill(database: &Database) {
    for name in EARLIER_NAMES.iter().chain(&OTHER_NAMES) {
        let collection = database.collection::<Document>(name);
        collection.insert_many(documents(name)).await.expect("they are written");
        let options = IndexOptions::builder().name(format!("{name}_by_name")).build();
        let index = IndexModel::builder().keys(doc! { "name": 1, "at": -1 }).options(options).build();
        collection.create_index(index).await.expect("it is made");
    }
}

/// What is in these collections.
pub async fn contents(database: &Database, names: impl IntoIterator<Item = impl AsRef<str>>) -> Contents {
    let mut all = Contents::new();
    for name in names {
        let name = name.as_ref();
        let found = database.collection::<RawDocumentBuf>(name).find(doc! {}).await.expect("it is readable");
        let found: Vec<RawDocumentBuf> = found.try_collect().await.expect("it is readable");
        let mut bytes: Vec<_> = found.iter().map(|document| document.as_bytes().to_vec()).collect();
        bytes.sort();
        all.insert(name.to_owned(), (bytes, indexes(database, name).await));
    }
    all
}

async fn indexes(database: &Database, collection: &str) -> Vec<Document> {
    let Ok(answer) = database.run_command(doc! { "listIndexes": collection }).await else { return Vec::new() };
    let batch = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).expect("it is a list");
    batch.iter().filter_map(|index| index.as_document().cloned()).collect()
}

/// What is in the application's collections.
pub async fn own_contents(database: &Database) -> Contents {
    contents(database, EARLIER_NAMES.iter().chain(&OTHER_NAMES)).await
}

pub async fn names(database: &Database) -> Vec<String> {
    let mut names = database.list_collection_names().await.expect("it answers");
    names.sort();
    names
}
