//! The embedded store, on SQLite: one file, nothing to run beside the server.
//!
//! One thread writes (`embedded/writer.rs`), a few connections read beside it (`embedded/readers.rs`). What is
//! reported as done is in the file: a crash of the process loses nothing. A crash of the machine may lose the last
//! moments, unless [`Durability::Full`] is chosen; it damages nothing either way.

mod chat;
mod file;
mod list;
mod moderation;
mod nodes;
mod presence;
mod readers;
mod requests;
mod row;
mod schema;
mod streams;
mod transfer;
mod upkeep;
mod value;
mod writer;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{Result, StoreError};
use file::DatabaseFile;
use readers::Readers;
use writer::Writer;

/// Directory of the file, where the server was started, if the configuration names none.
pub const DIRECTORY: &str = "onair-data";

/// Name of the file in the directory that the configuration names.
pub const FILE: &str = "onair.db";

/// What SQLite puts beside it.
pub(crate) const FILES_BESIDE: [&str; 2] = ["onair.db-wal", "onair.db-shm"];

/// How long a connection waits for another process that uses the file, such as a backup or a shell.
const BUSY_MAX: Duration = Duration::from_secs(2);
/// How long a write shows that others are possible: each costs a page of the log beside the file.
const PROVEN_FOR: Duration = Duration::from_secs(5);
/// Statements that a connection keeps ready: all that there are.
const STATEMENTS_KEPT: usize = 128;

/// What survives a crash of the machine. A crash of the process is survived by everything in both cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// All but the last moments.
    #[default]
    Normal,
    /// Everything that was reported as done; each commit waits for the disk.
    Full,
}

/// How a file is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub durability: Durability,
}

/// The store of one process, in one file.
pub struct Embedded {
    writer: Writer,
    /// Absent in memory: such a database belongs to one connection.
    readers: Option<Arc<Readers>>,
    /// Absent in memory.
    file: Option<Arc<DatabaseFile>>,
    proof: Proof,
    /// Nobody else asks for them, and they are over with this process.
    leases: nodes::Leases,
}

/// When a write for its own sake was last seen to be done.
#[derive(Default)]
struct Proof(Mutex<Option<Instant>>);

impl Proof {
    fn is_due(&self, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|at| now >= at + PROVEN_FOR)
    }

    fn note(&self, at: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

impl Embedded {
    /// Opens a file, or creates it with its folder, readable by this user only.
    ///
    /// # Errors
    /// What the system or SQLite says, with the path.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        Self::open_if(path, options, |_| Ok(()))
    }

    /// As [`Self::open`], and keeps the file to this process for as long as it is open.
    ///
    /// # Errors
    /// As above, or that another process has it.
    pub fn open_alone(path: &Path, options: &Options) -> Result<Self> {
        Self::open_if(path, options, DatabaseFile::claim)
    }

    fn open_if(path: &Path, options: &Options, may: impl FnOnce(&DatabaseFile) -> io::Result<()>) -> Result<Self> {
        let at_path = |error: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("cannot open the database {}: {error}", path.display()))
        };
        let file = DatabaseFile::open(path).map_err(|error| at_path(&error))?;
        may(&file).map_err(|error| at_path(&error))?;
        let file = Arc::new(file);
        let mut connection = Connection::open(path).map_err(|error| at_path(&error))?;
        prepare(&connection).map_err(|error| at_path(&error))?;
        schema::check_ours(&connection).map_err(|error| at_path(&error))?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(|error| at_path(&error))?;
        let synchronous = match options.durability {
            Durability::Normal => "NORMAL",
            Durability::Full => "FULL",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        schema::bring_up_to_date(&mut connection).map_err(|error| at_path(&error))?;
        let readers = Some(Readers::of(Arc::clone(&file)));
        Ok(Self {
            writer: Writer::start(connection, Arc::clone(&file))?,
            readers,
            file: Some(file),
            proof: Proof::default(),
            leases: nodes::Leases::default(),
        })
    }

    /// A store that is gone with the process.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the system gives no memory or no thread.
    pub fn in_memory() -> Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        prepare(&connection)?;
        schema::bring_up_to_date(&mut connection)?;
        let writer = Writer::start(connection, ())?;
        Ok(Self { writer, readers: None, file: None, proof: Proof::default(), leases: nodes::Leases::default() })
    }

    async fn read<T: Send + 'static>(&self, job: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        match &self.readers {
            Some(readers) => readers.read(job).await,
            None => self.writer.write(job).await,
        }
    }

    async fn write<T, E>(
        &self,
        job: impl FnOnce(&Connection) -> std::result::Result<T, E> + Send + 'static,
    ) -> std::result::Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.writer.write(job).await
    }
}

fn prepare(connection: &Connection) -> Result<()> {
    connection.busy_timeout(BUSY_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(())
}
