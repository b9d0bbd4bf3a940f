//! Where a rule finds a fresh store.

use std::sync::Arc;
use std::time::Duration;

use control::store::SharedStore;
use control::store::embedded::Embedded;
use control::store::mongo::Mongo;

use crate::mongo::{fresh_database, shared_uri};

pub async fn embedded() -> SharedStore {
    Arc::new(Embedded::in_memory().expect("there is memory"))
}

/// The same, for rules that have nothing to do with a store.
pub async fn in_memory() -> SharedStore {
    embedded().await
}

pub async fn mongodb() -> SharedStore {
    let uri = tokio::task::spawn_blocking(shared_uri).await.expect("there is a server");
    let store = Mongo::connect(&uri, Some(&fresh_database()), Duration::from_secs(30)).await;
    Arc::new(store.expect("the server answers"))
}
