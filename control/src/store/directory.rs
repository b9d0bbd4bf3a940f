//! The directory of the store, kept to one process at a time.
//!
//! Two would empty each other's queue of messages, and in the embedded store know nothing of each other's streams.
//! Files of others in it are left alone.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
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
        if !directory.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        File::options().create(true).append(true).open(directory.join(LOCK))
    };
    let lock = open().map_err(|source| ClaimError::Unusable { directory: directory.to_owned(), source })?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => Err(ClaimError::InUse(directory.to_owned())),
        // Not every file system can.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Claim { _lock: lock }),
    }
}
