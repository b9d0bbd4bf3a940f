//! The whole flow of the product's description, in a database that holds an application's own collections.

use std::collections::BTreeMap;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use reqwest::Method;
use serde_json::json;

use crate::application;
use crate::mongo;
use crate::product::{JWT_SECRET, Product, admin, token};
use crate::script::Script;

/// Streams of the seed's application that are over, and documents that cannot be streams.
fn streams_of_the_application() -> Vec<Document> {
    let at = DateTime::from_millis(1_600_000_000_000);
    let ended = |room: &str, owner: Bson| {
        doc! {
            "_id": ObjectId::new(), "ownerId": owner, "roomName": room, "title": "Walk", "isLive": false,
            "startedAt": at, "endedAt": at, "viewers": 2, "tags": ["pet"], "blockedUserIds": [], "createdAt": at,
            "updatedAt": at, "__v": 0,
        }
    };
    vec![
        ended("live_a_1", ObjectId::new().into()),
        ended("live_a_2", ObjectId::new().to_hex().into()),
        ended("live_a_3", Bson::Int32(7)),
        doc! { "_id": ObjectId::new(), "roomName": "live_a_4", "isLive": true, "startedAt": at, "updatedAt": at },
    ]
}

/// Bytes of the application's documents in `livestreams`, by `_id`.
async fn streams_before_us(database: &mongodb::Database, ids: &[Bson]) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for id in ids {
        let found = database.collection::<RawDocumentBuf>("livestreams").find_one(doc! { "_id": id }).await;
        let found = found.expect("it answers").expect("it is there");
        all.insert(id.to_string(), found.as_bytes().to_vec());
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_finds_its_collections_byte_by_byte_as_they_were_after_all_that_the_description_shows() {
    let uri = tokio::task::spawn_blocking(mongo::shared_uri).await.expect("there is a server");
    let name = mongo::fresh_database();
    let database = application::database(&uri, &name).await;
    application::fill(&database).await;
    let streams = streams_of_the_application();
    database.collection::<Document>("livestreams").insert_many(&streams).await.expect("they are written");
    let ids: Vec<_> = streams.iter().filter_map(|stream| stream.get("_id").cloned()).collect();
    let before = (application::own_contents(&database).await, streams_before_us(&database, &ids).await);

    let store = json!({ "store": { "mongodb_uri": uri, "database": name } });
    let mut product = Product::start("shared-database", store).await;
    // Start, watch, chat, reactions, block, stop.
    Script::node("product_usage.mjs", &["builtin"])
        .with("PRODUCT_URL", &product.ports.url())
        .with("PRODUCT_JWT_SECRET", JWT_SECRET)
        .passes_on(&mut product);
    review(&product).await;
    product.kill();
    product.start_again().await;
    assert_eq!(product.get("/live/active", None).await.expect(200)["streams"], json!([]));

    assert_eq!((application::own_contents(&database).await, streams_before_us(&database, &ids).await), before);
}

/// Reports, the kill-switch, bans, blocks, plans: what administrators and owners do beside.
async fn review(product: &Product) {
    let (ana, root) = (token("ana"), admin("root"));
    let started = product.go_live("ana").await;
    let id = started["streamId"].as_str().expect("it is told").to_owned();
    product.post(&format!("/live/{id}/reports"), &token("bob"), json!({ "reason": "spam" })).await.expect(202);
    let reports = product.get("/admin/reports", Some(&root)).await.expect(200);
    assert_eq!(reports["reports"].as_array().map(Vec::len), Some(1), "{reports}");
    product.call(Method::PUT, "/me/blocks/eve", Some(&ana), None).await;
    product.post(&format!("/live/{id}/end"), &root, json!({ "reason": "spam" })).await.expect(200);
    let ban = json!({ "reason": "spam" });
    product.call(Method::PUT, "/admin/users/mallory/ban", Some(&root), Some(ban)).await.expect(200);
    let audit = product.get("/admin/audit", Some(&root)).await.expect(200);
    assert!(audit["entries"].as_array().is_some_and(|entries| entries.len() >= 2), "{audit}");
    product.get("/admin/streams", Some(&root)).await.expect(200);
    product.get(&format!("/live/{id}/analytics"), Some(&ana)).await.expect(200);
}
