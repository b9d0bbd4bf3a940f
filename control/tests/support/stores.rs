//! A fresh store of each kind, for rules that hold with every one of them.

use std::sync::Arc;
use std::time::Duration;

use control::store::SharedStore;
use control::store::embedded::Embedded;
use control::store::mongo::Mongo;

use crate::mongo::{fresh_database, shared_uri};

/// Longest wait for a database that was just started.
const CONNECT_MAX: Duration = Duration::from_secs(30);

pub async fn embedded() -> SharedStore {
    Arc::new(Embedded::in_memory().expect("there is memory"))
}

pub async fn mongodb() -> SharedStore {
    let uri = tokio::task::spawn_blocking(shared_uri).await.expect("there is a server");
    let store = Mongo::connect(&uri, Some(&fresh_database()), CONNECT_MAX).await;
    Arc::new(store.expect("the server answers"))
}
