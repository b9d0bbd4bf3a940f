//! The directory of the store, kept to one process at a time, and to the user whose process it is: what is made in it, and
//! itself, is made here.
//!
//! Two would empty each other's queue of messages, and in the embedded store know nothing of each other's streams.
//! Files of others in it are left alone.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A file that is locked as long as a process uses its directory. Nothing is ever written into it.
const LOCK: &str = "onair.lock";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("another process uses {}", .0.display())]
    InUse(PathBuf),
    #[error("cannot write in {}: {source}", .directory.display())]
    Unusable { directory: PathBuf, source: io::Error },
}

/// A directory that is this process's until this is dropped, or the process ends.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

/// Keeps a directory to this process. One that is not there is made, for this user only.
///
/// # Errors
/// [`ClaimError`]
pub fn claim(directory: &Path) -> Result<Claim, ClaimError> {
    let open = || {
        make(directory)?;
        private().append(true).open(directory.join(LOCK))
    };
    let lock = open().map_err(|source| ClaimError::Unusable { directory: directory.to_owned(), source })?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => Err(ClaimError::InUse(directory.to_owned())),
        // Not every file system can.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Claim { _lock: lock }),
    }
}

/// Makes a directory, and those above it, for this user only. One that is there stays as it is.
pub(crate) fn make(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Opens a file, which is made for this user only if it is not there.
pub(crate) fn private() -> OpenOptions {
    let mut options = File::options();
    options.create(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_made_is_for_one_user_and_what_is_there_stays_as_it_is() {
        let root = std::env::temp_dir().join(format!("onair-directory-{}", ulid::Ulid::generate()));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let directory = root.join("a/b");
        drop(claim(&directory).unwrap());

        assert_eq!([root.as_path(), &root.join("a"), &directory].map(mode), [0o700; 3]);
        assert_eq!(mode(&directory.join(LOCK)), 0o600);
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o750)).unwrap();
        drop(claim(&directory).unwrap());
        assert_eq!(mode(&directory), 0o750);
        std::fs::remove_dir_all(root).unwrap();
    }
}
