//! Where a product under test keeps its data.

use std::sync::Arc;
use std::time::Duration;

use control::store::SharedStore;
use control::store::embedded::{self, Embedded};
use control::store::mongo::Mongo;
use serde_json::{Value, json};

use crate::mongo;
use crate::product::{Ports, Product};

/// Longest wait for a database that is there.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// A file of the product's own.
    Embedded,
    /// A database of a test's own in the server that all tests share.
    Mongodb,
}

impl Kept {
    /// A product of that name that is not started yet.
    pub async fn prepared(self, ports: Ports, name: &str, config: Value) -> Product {
        match self {
            Kept::Embedded => Product::prepared(ports, name, config),
            Kept::Mongodb => {
                let uri = tokio::task::spawn_blocking(mongo::shared_uri).await.expect("there is a server");
                let store = json!({ "mongodb_uri": uri, "database": mongo::fresh_database() });
                Product::prepared(ports, &format!("{name}-mongodb"), config).and(json!({ "store": store }))
            }
        }
    }

    pub async fn product(self, name: &str, config: Value) -> Product {
        let mut product = self.prepared(Ports::free(), name, config).await;
        product.start_again().await;
        product
    }

    /// The store of a product that does not run, without that product.
    pub async fn open(self, product: &Product) -> SharedStore {
        match self {
            Kept::Embedded => {
                let files = std::fs::read_dir(product.data()).expect("the product made it");
                let mut paths = files.map(|file| file.expect("it is read").path());
                let path = paths.find(|path| path.extension().is_some_and(|extension| extension == "db"));
                let path = path.expect("there is a database");
                Arc::new(Embedded::open(&path, &embedded::Options::default()).expect("its store opens"))
            }
            Kept::Mongodb => {
                let text = |name: &str| product.setting(&["store", name]).as_str().expect("it is text").to_owned();
                let store = Mongo::connect(&text("mongodb_uri"), Some(&text("database")), CONNECT_MAX).await;
                Arc::new(store.expect("the database is there"))
            }
        }
    }
}
