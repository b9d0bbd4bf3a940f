//! The file of a store, held open for as long as SQLite uses it: whether it is still where it was.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::store::{Result, StoreError, directory};

/// How every database of SQLite begins (its file format, section 1.3.1).
const HEADER: &[u8] = b"SQLite format 3\0";

/// What SQLite puts beside a file, at the end of its name.
const ENDS_BESIDE: [&str; 3] = ["-journal", "-wal", "-shm"];

/// The byte that is locked: behind those that SQLite locks (its file format, section 1.2.14), which `flock` on a
/// network file system would lock as well.
const LOCKED: libc::off_t = 0x4000_0000 + 1024;

/// A file that is a database, or empty.
///
/// To be dropped after all connections to it: closing any descriptor of a file gives up the locks that SQLite has on it
/// (fcntl_locking(2)).
#[derive(Debug)]
pub struct DatabaseFile {
    path: PathBuf,
    file: File,
}

impl DatabaseFile {
    /// Opens a file, or creates it with its directory, readable by this user only.
    ///
    /// # Errors
    /// What the system says, or that it is no database.
    pub fn open(path: &Path) -> io::Result<Self> {
        path.parent().map_or(Ok(()), directory::make)?;
        directory::require_file(path)?;
        // Where a link leads, since SQLite puts its files there.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        for end in ENDS_BESIDE {
            let beside: OsString = [real.as_os_str(), end.as_ref()].into_iter().collect();
            directory::require_file(Path::new(&beside))?;
        }
        let file = directory::private().read(true).append(true).open(path)?;
        // SQLite takes a short file for an empty one, and would write over it.
        let mut start = Vec::new();
        (&file).take(HEADER.len() as u64).read_to_end(&mut start)?;
        if !start.is_empty() && start != HEADER {
            return Err(io::Error::other("it is no database, and left as it is"));
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// Keeps the file to this process while this is there, by whatever name others may know it: a lock of a directory
    /// does not hold for a hard link in another one.
    ///
    /// # Errors
    /// Another process has it.
    pub fn claim(&self) -> io::Result<()> {
        if self.file.metadata()?.nlink() > 1 {
            warn!(
                path = %self.path.display(),
                "the file of the store has several names: open it by one of them alone, since what was written last is in a \
                 file beside that name"
            );
        }
        match lock(&self.file) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                Err(io::Error::other("another process uses this file, by this name or another one"))
            }
            // Not every file system can.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that its path leads to it. What is written into a file that was moved away, or deleted, is lost to
    /// whoever starts next.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] says what is there instead, and what to do.
    pub fn require_in_place(&self) -> Result<()> {
        let file_of = |there: io::Result<std::fs::Metadata>| there.map(|there| (there.dev(), there.ino()));
        let path = self.path.display();
        let what = match (file_of(self.path.metadata()), file_of(self.file.metadata())) {
            (Ok(there), Ok(ours)) if there == ours => return Ok(()),
            (Ok(_), Ok(_)) => format!("another file is at {path}, in place of the one that this server uses"),
            (Err(error), _) | (_, Err(error)) => format!("the file {path} is gone: {error}"),
        };
        Err(StoreError::Unavailable(format!("{what}; bring the old one back, or start the server again")))
    }
}

/// Locks [`LOCKED`] for this open file (fcntl_locking(2), "Open file description locks").
fn lock(file: &File) -> io::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKED,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the pointer is to a value of the type that the call reads, alive during it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
