//! The directory of the store, kept to one process at a time, and to the user whose process it is: what is made in it,
//! and itself, is made here.
//!
//! Two would empty each other's queue of messages, and in the embedded store know nothing of each other's streams.
//! Files of others in it are left alone.

use std::fs::{DirBuilder, DirEntry, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use tracing::{debug, info, warn};

/// What all users may do with a file.
const FOR_ALL: u32 = 0o007;

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
        let lock = directory.join(LOCK);
        require_file(&lock)?;
        private().append(true).open(lock)
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

/// Makes sure that what is at `path`, if anything, is a regular file. Of anything else opening or reading may never
/// end.
///
/// # Errors
/// Says what it is and what to do.
pub(crate) fn require_file(path: &Path) -> io::Result<()> {
    let kind = match path.metadata() {
        Ok(there) => there.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let name = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "directory",
        kind if kind.is_fifo() => "named pipe",
        kind if kind.is_socket() => "socket",
        _ => "device",
    };
    Err(io::Error::other(format!("{} is a {name} and no regular file: move it away", path.display())))
}

/// Opens a file, which is made for this user only if it is not there.
pub(crate) fn private() -> OpenOptions {
    let mut options = File::options();
    options.create(true).mode(0o600);
    options
}

/// Takes `files` in the directory from all other users, and the directory too if nothing else is in it: earlier
/// versions made them for everybody to read. What is for a group was made so by somebody on purpose, and stays. A
/// directory that somebody else made so stays as well, with a warning.
pub(crate) fn tighten(directory: &Path, files: &[&str]) {
    let ours = || files.iter().copied().chain([LOCK]);
    let mut tightened: Vec<_> = ours().filter(|file| take_from_all(&directory.join(file), 0o600)).collect();
    let is_ours = |entry: io::Result<DirEntry>| entry.is_ok_and(|entry| ours().any(|file| entry.file_name() == file));
    if directory.read_dir().is_ok_and(|mut entries| entries.all(is_ours)) && take_from_all(directory, 0o700) {
        tightened.push(".");
    }
    if directory.metadata().is_ok_and(|there| there.mode() & FOR_ALL != 0) {
        let directory = directory.display();
        warn!(
            "the directory of the store is open to all users of this machine, and left so, since it is a link or others \
             have files in it; if they need it no more: chmod o-rwx {directory}"
        );
    }
    if !tightened.is_empty() {
        let files = tightened.join(" ");
        info!(directory = %directory.display(), files, "what all users of this machine could read is this user's alone now");
    }
}

/// True: others could use it before. Of a link nothing changes.
fn take_from_all(path: &Path, mode: u32) -> bool {
    let Ok(there) = path.symlink_metadata() else { return false };
    if there.is_symlink() || there.mode() & FOR_ALL == 0 {
        return false;
    }
    let taken = std::fs::set_permissions(path, Permissions::from_mode(mode));
    taken.inspect_err(|error| debug!(%error, path = %path.display(), "all users may read it")).is_ok()
}

#[cfg(test)]
mod tests {
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
    #[test]
    fn what_an_earlier_version_made_for_all_is_taken_from_them() {
        let root = std::env::temp_dir().join(format!("onair-directory-{}", ulid::Ulid::generate()));
        let mode = |name: &str| root.join(name).metadata().unwrap().permissions().mode() & 0o777;
        let set = |name: &str, mode| std::fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
        std::fs::create_dir(&root).unwrap();
        for (name, mode) in
            [("", 0o755), ("onair.db", 0o644), ("onair.lock", 0o664), ("queue", 0o640), ("theirs", 0o644)]
        {
            if !name.is_empty() {
                std::fs::write(root.join(name), "").unwrap();
            }
            set(name, mode);
        }
        std::os::unix::fs::symlink(root.join("theirs"), root.join("link")).unwrap();
        let files = ["onair.db", "queue", "link", "not-there"];

        tighten(&root, &files);

        let modes = ["onair.db", "onair.lock", "queue", "theirs", ""].map(mode);
        assert_eq!(modes, [0o600, 0o600, 0o640, 0o644, 0o755], "somebody else has a file in the directory");
        std::fs::remove_file(root.join("theirs")).unwrap();
        tighten(&root, &files);
        assert_eq!(mode(""), 0o700);
        set("", 0o750);
        tighten(&root, &files);
        assert_eq!(mode(""), 0o750);
        std::fs::remove_dir_all(root).unwrap();
    }
}
