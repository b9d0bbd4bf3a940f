//! Connections that only read, so that reading waits neither for the writer nor for the runtime's threads.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::file::DatabaseFile;
use crate::store::{Result, StoreError};

/// Reads at the same time.
const READERS: usize = 4;

/// A few connections to one file, opened when they are needed.
pub struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    /// After the connections, which are dropped first.
    file: Arc<DatabaseFile>,
}

impl Readers {
    pub fn of(file: Arc<DatabaseFile>) -> Arc<Self> {
        Arc::new(Self {
            file,
            idle: Mutex::new(Vec::with_capacity(READERS)),
            permits: Arc::new(Semaphore::new(READERS)),
        })
    }

    /// Reads on a thread for work that blocks.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let stopped = |_| StoreError::Unavailable("the server stops".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped(()))?;
        let readers = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let connection = readers.take()?;
            let result = job(&connection);
            readers.idle().push(connection);
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(StoreError::Failed("an operation panicked".to_owned())),
            Err(_) => Err(stopped(())),
        }
    }

    fn take(&self) -> Result<Connection> {
        let idle = self.idle().pop();
        match idle {
            Some(connection) => Ok(connection),
            None => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(self.file.path(), flags)?;
                super::prepare(&connection)?;
                Ok(connection)
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
