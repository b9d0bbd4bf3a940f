//! Where a store is: a file, or a MongoDB.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::config::{Hidden, product};
use crate::store::SharedStore;
use crate::store::embedded::{self, Durability, Embedded};
use crate::store::mongo::Mongo;

/// How long MongoDB may take to answer for the first time.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A store, as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// File of an embedded store.
    File(PathBuf),
    /// URI of a MongoDB; it may hold a password.
    Mongo(Hidden),
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text.starts_with("mongodb://") || text.starts_with("mongodb+srv://") {
            return Ok(Place::Mongo(Hidden(text.to_owned())));
        }
        Ok(Place::File(file_of(Path::new(text))))
    }
}

/// A directory stands for the database in it.
fn file_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(embedded::FILE) } else { path.to_owned() }
}

impl Place {
    pub fn configured_file(store: &product::Store) -> Self {
        let directory = if store.path.is_empty() { embedded::DIRECTORY } else { &store.path };
        Place::File(Path::new(directory).join(embedded::FILE))
    }

    pub fn configured_mongo(store: &product::Store) -> Option<Self> {
        (!store.mongodb_uri.0.is_empty()).then(|| Place::Mongo(store.mongodb_uri.clone()))
    }

    /// Tells places apart without naming them.
    pub fn digest(&self) -> String {
        let digest = match self {
            Place::File(file) => Sha256::digest(file.as_os_str().as_encoded_bytes()),
            Place::Mongo(uri) => Sha256::digest(uri.0.as_bytes()),
        };
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// # Errors
    /// What the store says.
    pub async fn open(&self, store: &product::Store) -> anyhow::Result<SharedStore> {
        Ok(match self {
            Place::File(file) => {
                let options = embedded::Options { durability: Durability::Full };
                Arc::new(Embedded::open(file, &options)?)
            }
            Place::Mongo(uri) => {
                let database = (!store.database.is_empty()).then_some(store.database.as_str());
                Arc::new(Mongo::connect(&uri.0, database, CONNECT_MAX).await?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_of_mongodb_is_told_from_a_file() {
        for uri in ["mongodb://db/x", "mongodb+srv://u:p@db"] {
            assert_eq!(uri.parse(), Ok(Place::Mongo(Hidden(uri.to_owned()))));
        }
        for file in ["mongodb", "data/onair.db", "/var/lib/x"] {
            assert_eq!(file.parse(), Ok(Place::File(file.into())));
        }
    }

    #[test]
    fn a_directory_stands_for_the_database_in_it() {
        assert_eq!("/".parse(), Ok(Place::File(Path::new("/").join(embedded::FILE))));
    }

    #[test]
    fn a_password_is_not_shown() {
        let place: Place = "mongodb://user:pass-word@db".parse().unwrap();

        assert!(!format!("{place:?} {}", place.digest()).contains("pass-word"));
    }
}
