//! Where a store is: a file, or a MongoDB.

use std::convert::Infallible;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::config::{Hidden, product};
use crate::store::directory::{self, Claim, ClaimError};
use crate::store::embedded::{self, Durability, Embedded};
use crate::store::mongo::Mongo;
use crate::store::{SharedStore, Store};

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

/// A directory stands for the database in it, as in `store.path`, also one that is not there yet. Any other file is
/// taken as it is: it may be a copy of a database.
fn file_of(path: &Path) -> PathBuf {
    let is_file = path.is_file() || path.file_name().is_some_and(|name| name == embedded::FILE);
    if is_file { path.to_owned() } else { path.join(embedded::FILE) }
}

/// A store that this process uses, alone.
pub struct Opened {
    pub store: SharedStore,
    /// Of a file, until this is dropped.
    _claim: Option<Claim>,
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

    /// Whether both are one store.
    pub fn is(&self, other: &Self) -> bool {
        let real = |file: &PathBuf| Some(directory_of(file).canonicalize().ok()?.join(file.file_name()?));
        let node = |file: &PathBuf| file.metadata().ok().map(|there| (there.dev(), there.ino()));
        match (self, other) {
            (Place::File(file), Place::File(other)) => {
                let names_of_one = node(file).is_some_and(|file| Some(file) == node(other));
                file == other || names_of_one || real(file).is_some_and(|file| Some(file) == real(other))
            }
            (Place::Mongo(uri), Place::Mongo(other)) => uri == other,
            (Place::File(_), Place::Mongo(_)) | (Place::Mongo(_), Place::File(_)) => false,
        }
    }

    /// Opens the store to read from, in which a server must have kept something, and none may be at work on it. A
    /// MongoDB is left as it is.
    ///
    /// # Errors
    /// What the store says, or what is in the way.
    pub async fn open_source(&self, store: &product::Store) -> anyhow::Result<Opened> {
        match self {
            Place::File(file) => open_file(file),
            Place::Mongo(uri) => {
                let source = reach(uri, store).await?;
                source.require_data().await?;
                Ok(Opened { store: Arc::new(source), _claim: None })
            }
        }
    }

    /// Opens the store to write to, which no server may be at work on.
    ///
    /// # Errors
    /// What the store says, or that a server is at work on it.
    pub async fn open_target(&self, store: &product::Store) -> anyhow::Result<Opened> {
        match self {
            Place::File(file) => open_file(file),
            Place::Mongo(uri) => {
                let mut target = reach(uri, store).await?;
                target.prepare().await?;
                Ok(Opened { store: Arc::new(target), _claim: None })
            }
        }
    }
}

/// That of a bare name is the one where this was started.
fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn open_file(file: &Path) -> anyhow::Result<Opened> {
    let claim = directory::claim(directory_of(file)).map_err(|error| match error {
        ClaimError::InUse(directory) => at_work(&directory.display()),
        ClaimError::Unusable { .. } => error.into(),
    })?;
    let options = embedded::Options { durability: Durability::Full };
    Ok(Opened { store: Arc::new(Embedded::open_alone(file, &options)?), _claim: Some(claim) })
}

/// A MongoDB that no server is at work on. Nothing is written yet.
async fn reach(uri: &Hidden, store: &product::Store) -> anyhow::Result<Mongo> {
    let database = (!store.database.is_empty()).then_some(store.database.as_str());
    let reached = Mongo::reach(&uri.0, database, CONNECT_MAX).await?;
    check_nobody_works(&reached).await?;
    Ok(reached)
}

async fn check_nobody_works(store: &dyn Store) -> anyhow::Result<()> {
    if store.is_served().await? {
        return Err(at_work(&"this database"));
    }
    Ok(())
}

impl Opened {
    /// # Errors
    /// A server is at work on it.
    pub async fn check_nobody_works(&self) -> anyhow::Result<()> {
        check_nobody_works(self.store.as_ref()).await
    }
}

fn at_work(place: &dyn std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("a server is at work on {place}: stop it, then migrate, then start it again")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_uri_of_mongodb_is_told_from_a_file() {
        for uri in ["mongodb://db/x", "mongodb+srv://u:p@db"] {
            assert_eq!(uri.parse(), Ok(Place::Mongo(Hidden(uri.to_owned()))));
        }
        for file in ["data/onair.db", "/proc/self/status"] {
            assert_eq!(file.parse(), Ok(Place::File(file.into())));
        }
    }

    #[test]
    fn a_directory_stands_for_the_database_in_it_also_if_it_is_not_there_yet() {
        for directory in ["/", "mongodb", "/var/lib/not-there"] {
            assert_eq!(directory.parse(), Ok(Place::File(Path::new(directory).join(embedded::FILE))));
        }
    }

    #[test]
    fn one_store_under_two_names_is_one() {
        let root = std::env::temp_dir().join(format!("onair-place-{}", ulid::Ulid::generate()));
        std::fs::create_dir_all(root.join("one")).unwrap();
        std::fs::create_dir(root.join("other")).unwrap();
        let place = |text: &str| text.parse::<Place>().unwrap();
        let below = |path: &str| place(root.join(path).to_str().unwrap());

        assert!(below("one").is(&below("other/../one/onair.db")));
        assert!(!below("one").is(&below("other")));
        assert!(!below("one").is(&place("mongodb://db/one")));
        std::fs::write(root.join("one/onair.db"), "").unwrap();
        std::fs::hard_link(root.join("one/onair.db"), root.join("other/onair.db")).unwrap();
        assert!(below("one").is(&below("other")));
        std::fs::create_dir(root.join("third")).unwrap();
        std::fs::write(root.join("third/onair.db"), "").unwrap();
        assert!(!below("one").is(&below("third")));
        assert!(place("mongodb://db/one").is(&place("mongodb://db/one")));
        assert!(!place("mongodb://db/one").is(&place("mongodb://db/other")));
        // Whatever is where this was started.
        assert!(place("onair.db").is(&place("./onair.db")));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn places_are_told_apart_by_their_digests() {
        let digest = |text: &str| text.parse::<Place>().unwrap().digest();
        let places = ["one", "other", "mongodb://db/one", "mongodb://db/other"];

        let digests: HashSet<_> = places.iter().map(|place| digest(place)).collect();

        assert_eq!(digests.len(), places.len(), "{digests:?}");
        assert!(places.iter().all(|place| digests.contains(&digest(place))), "each has one");
    }

    #[test]
    fn a_password_is_not_shown() {
        let place: Place = "mongodb://user:pass-word@db".parse().unwrap();

        assert!(!format!("{place:?} {}", place.digest()).contains("pass-word"));
    }
}
