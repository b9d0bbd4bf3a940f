//! Where a rule finds a fresh store.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control::store::SharedStore;
use control::store::embedded::{self, Embedded};
use control::store::mongo::Mongo;

use super::fixture::unique;
use crate::mongo::{fresh_database, shared_uri};

/// A directory that is gone with this value.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let name = format!("store-{}-{}", std::process::id(), unique(""));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("the directory for test files is writable");
        Self(folder)
    }

    pub fn file(&self) -> PathBuf {
        self.0.join(embedded::FILE)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A store, and what must stay while it is used.
pub struct Place {
    pub store: SharedStore,
    _guard: Box<dyn Any + Send>,
}

pub async fn embedded() -> Place {
    let folder = Folder::new();
    let store = Embedded::open(&folder.file(), &embedded::Options::default()).expect("the file can be created");
    Place { store: Arc::new(store), _guard: Box::new(folder) }
}

pub async fn mongodb() -> Place {
    let uri = tokio::task::spawn_blocking(shared_uri).await.expect("there is a server");
    let store = Mongo::connect(&uri, Some(&fresh_database()), Duration::from_secs(30)).await;
    Place { store: Arc::new(store.expect("the server answers")), _guard: Box::new(()) }
}
