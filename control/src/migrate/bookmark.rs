//! How far a migration is, in a small file that outlives it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::directory;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BookmarkError {
    #[error("cannot use {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{0} is of another migration: finish that one, or remove the file")]
    OtherMigration(PathBuf),
    #[error("{0} cannot be read: remove it to begin anew")]
    Damaged(PathBuf),
}

/// How far a migration is. Every change is on the disk before it returns.
#[derive(Debug)]
pub struct Bookmark {
    file: PathBuf,
    content: Content,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    /// Which stores these are, so that no other migration goes on here.
    migration: String,
    collections: BTreeMap<String, Position>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Position {
    /// Key of the last document that is copied.
    after: Option<String>,
    copied: u64,
    finished: bool,
}

impl Bookmark {
    /// The bookmark of `migration` in `file`, new if there is no such file.
    ///
    /// # Errors
    /// [`BookmarkError`]
    pub fn open(file: &Path, migration: &str) -> Result<Self, BookmarkError> {
        let content = match fs::read(file) {
            Ok(bytes) => {
                let content: Content =
                    serde_json::from_slice(&bytes).map_err(|_| BookmarkError::Damaged(file.to_owned()))?;
                if content.migration != migration {
                    return Err(BookmarkError::OtherMigration(file.to_owned()));
                }
                content
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Content { migration: migration.to_owned(), ..Content::default() }
            }
            Err(source) => return Err(BookmarkError::File { path: file.to_owned(), source }),
        };
        Ok(Self { file: file.to_owned(), content })
    }

    /// Nothing is copied yet.
    pub fn is_new(&self) -> bool {
        self.content.collections.is_empty()
    }

    /// Documents of a collection that are copied.
    pub fn copied(&self, collection: &str) -> u64 {
        self.content.collections.get(collection).map_or(0, |position| position.copied)
    }

    /// The key to go on after, if the collection is not finished; none at its beginning.
    pub(super) fn open_from(&self, collection: &str) -> Option<Option<String>> {
        match self.content.collections.get(collection) {
            None => Some(None),
            Some(position) => (!position.finished).then(|| position.after.clone()),
        }
    }

    pub(super) fn advance(&mut self, collection: &str, after: String, copied: u64) -> Result<(), BookmarkError> {
        let position = self.content.collections.entry(collection.to_owned()).or_default();
        position.after = Some(after);
        position.copied += copied;
        self.save()
    }

    pub(super) fn finish(&mut self, collection: &str) -> Result<(), BookmarkError> {
        self.content.collections.entry(collection.to_owned()).or_default().finished = true;
        self.save()
    }

    /// Written beside and moved into place, so that a crash leaves the old one or the new one.
    fn save(&self) -> Result<(), BookmarkError> {
        let bytes = serde_json::to_vec(&self.content).expect("text and numbers can always be written");
        let new = self.file.with_extension("new");
        let write = || {
            let mut file = directory::private().write(true).truncate(true).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &self.file)
        };
        write().map_err(|source| BookmarkError::File { path: self.file.clone(), source })
    }

    /// The migration is over: the next one begins anew.
    ///
    /// # Errors
    /// [`BookmarkError::File`]
    pub fn remove(self) -> Result<(), BookmarkError> {
        match fs::remove_file(&self.file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(BookmarkError::File { path: self.file, source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("onair-bookmark-{}", ulid::Ulid::generate()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("bookmark")
        }

        fn open(&self) -> Bookmark {
            Bookmark::open(&self.file(), "one to other").unwrap()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn how_far_a_collection_is_outlives_the_process() {
        let directory = Directory::new();
        let mut bookmark = directory.open();
        assert!(bookmark.is_new());
        assert_eq!(bookmark.open_from("streams"), Some(None), "from its beginning");

        bookmark.advance("streams", "k2".into(), 2).unwrap();
        bookmark.advance("streams", "k5".into(), 3).unwrap();
        let mut next = directory.open();
        assert!(!next.is_new());
        assert_eq!((next.copied("streams"), next.open_from("streams")), (5, Some(Some("k5".into()))));
        assert_eq!((next.copied("bans"), next.open_from("bans")), (0, Some(None)));
        next.finish("streams").unwrap();

        assert_eq!((directory.open().copied("streams"), directory.open().open_from("streams")), (5, None));
    }

    #[test]
    fn a_file_of_another_migration_or_of_nobody_is_refused() {
        let directory = Directory::new();
        directory.open().finish("streams").unwrap();
        let other = Bookmark::open(&directory.file(), "other to one");
        assert!(matches!(other, Err(BookmarkError::OtherMigration(_))), "{other:?}");

        fs::write(directory.file(), "notes").unwrap();
        let damaged = Bookmark::open(&directory.file(), "one to other");
        assert!(matches!(damaged, Err(BookmarkError::Damaged(_))), "{damaged:?}");
    }

    #[test]
    fn a_migration_that_is_over_leaves_no_file_and_may_have_had_none() {
        let directory = Directory::new();
        directory.open().remove().expect("nothing was copied, so nothing was written");
        directory.open().finish("streams").unwrap();
        directory.open().remove().unwrap();
        assert!(!directory.file().exists());

        let bookmark = directory.open();
        fs::create_dir(directory.file()).unwrap();
        let refused = bookmark.remove();
        assert!(matches!(refused, Err(BookmarkError::File { .. })), "what stays is told of: {refused:?}");
    }
}
