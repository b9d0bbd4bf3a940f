//! The one thread that writes.
//!
//! Jobs that wait while another is carried out share its transaction: a commit is what costs. Each runs in a savepoint
//! of its own, so that one that fails takes back its own work only. Nobody hears of success before the commit.

use std::panic::AssertUnwindSafe;
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::store::{Result, StoreError};

/// Jobs that may wait. A sender beyond waits in turn.
const WAITING_MAX: usize = 1024;
/// Jobs of one transaction: bounds how long the first of them waits for the last.
const BATCH_MAX: usize = 128;

/// Runs with the connection, or hears why it cannot. What it returns is called when its transaction has ended.
type Job = Box<dyn FnOnce(Result<&Connection>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<()>) + Send>;

/// What the thread does next.
enum Task {
    Write(Job),
    /// Puts what the write-ahead log has into the database file.
    Checkpoint(oneshot::Sender<Result<()>>),
}

/// The way to the thread. The thread ends when the last of them is gone and all jobs are done.
#[derive(Clone)]
pub struct Writer {
    tasks: mpsc::Sender<Task>,
}

impl Writer {
    /// What is `beside` the connection is dropped after it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the system gives no thread.
    pub fn start(connection: Connection, beside: impl Send + 'static) -> Result<Self> {
        let (tasks, waiting) = mpsc::channel(WAITING_MAX);
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                let _beside = beside;
                // Dropped before what was declared earlier.
                let connection = connection;
                work(&connection, waiting);
            })
            .map_err(|error| StoreError::Unavailable(format!("cannot start the writer: {error}")))?;
        Ok(Self { tasks })
    }

    /// Carries out `job`; what it wrote is committed when this returns `Ok`, and taken back if it returns `Err`.
    pub async fn write<T, E, F>(&self, job: F) -> std::result::Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> std::result::Result<T, E> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = match connection {
                Ok(connection) => in_savepoint(connection, job),
                Err(reason) => Err(E::from(reason)),
            };
            Box::new(move |committed: Result<()>| {
                let _ = answer.send(match committed {
                    Ok(()) => result,
                    Err(reason) => Err(E::from(reason)),
                });
            })
        });
        self.tasks.send(Task::Write(job)).await.map_err(|_| E::from(gone()))?;
        answered.await.map_err(|_| E::from(gone()))?
    }

    /// Puts all that was written so far into the database file, so that this one file is the store.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; nothing is lost then.
    pub async fn checkpoint(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.tasks.send(Task::Checkpoint(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer has stopped".to_owned())
}

fn checkpoint(connection: &Connection) -> Result<()> {
    let is_busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if is_busy { Err(StoreError::Unavailable("somebody reads the write-ahead log".to_owned())) } else { Ok(()) }
}

fn in_savepoint<T, E: From<StoreError>>(
    connection: &Connection,
    job: impl FnOnce(&Connection) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let run = |sql: &str| {
        let done = connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        done.map(|_| ()).map_err(|error| E::from(error.into()))
    };
    run("SAVEPOINT job")?;
    // A job that panics is a mistake of ours; it must not silence the store for all others.
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| job(connection)))
        .unwrap_or_else(|_| Err(E::from(StoreError::Failed("an operation panicked".to_owned()))));
    if result.is_err() && !connection.is_autocommit() {
        run("ROLLBACK TO job")?;
    }
    if !connection.is_autocommit() {
        run("RELEASE job")?;
    }
    result
}

fn work(connection: &Connection, mut waiting: mpsc::Receiver<Task>) {
    let mut next = None;
    while let Some(task) = next.take().or_else(|| waiting.blocking_recv()) {
        let first = match task {
            Task::Write(job) => job,
            Task::Checkpoint(answer) => {
                let _ = answer.send(checkpoint(connection));
                continue;
            }
        };
        if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
            refuse(first, &mut waiting, &error.into());
            continue;
        }
        let mut answers = vec![first(Ok(connection))];
        // Some errors, such as a full disk, end the transaction by themselves.
        while answers.len() < BATCH_MAX && !connection.is_autocommit() {
            match waiting.try_recv() {
                Ok(Task::Write(job)) => answers.push(job(Ok(connection))),
                // A transaction has to end before it.
                other => {
                    next = other.ok();
                    break;
                }
            }
        }
        let committed = commit(connection);
        for answer in answers {
            answer(committed.clone());
        }
    }
}

/// Refuses all jobs that wait along with the first, so that none waits as long for a failure of its own. Jobs that come
/// later are tried.
fn refuse(first: Job, waiting: &mut mpsc::Receiver<Task>, reason: &StoreError) {
    let mut refused = vec![Task::Write(first)];
    refused.extend(std::iter::from_fn(|| waiting.try_recv().ok()).take(WAITING_MAX));
    for task in refused {
        match task {
            Task::Write(job) => job(Err(reason.clone()))(Ok(())),
            Task::Checkpoint(answer) => {
                let _ = answer.send(Err(reason.clone()));
            }
        }
    }
}

fn commit(connection: &Connection) -> Result<()> {
    if connection.is_autocommit() {
        return Err(StoreError::Unavailable("the transaction was taken back".to_owned()));
    }
    connection.execute_batch("COMMIT").map_err(|error| {
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        error.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> Writer {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (x INTEGER PRIMARY KEY) STRICT").unwrap();
        Writer::start(connection, ()).unwrap()
    }

    async fn insert(writer: &Writer, x: i64) -> Result<()> {
        writer.write(move |c| c.execute("INSERT INTO t VALUES (?1)", [x]).map(|_| ()).map_err(StoreError::from)).await
    }

    async fn count(writer: &Writer) -> i64 {
        let counted: Result<i64> =
            writer.write(|c| Ok(c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)).await;
        counted.unwrap()
    }

    #[tokio::test]
    async fn a_job_that_fails_takes_back_its_own_work_only() {
        let writer = writer();
        let fails = writer.write(|c| -> Result<()> {
            c.execute("INSERT INTO t VALUES (7)", [])?;
            Err(StoreError::NotFound)
        });

        let (one, failed, two) = tokio::join!(insert(&writer, 1), fails, insert(&writer, 2));

        assert!(one.is_ok() && two.is_ok() && matches!(failed, Err(StoreError::NotFound)));
        assert_eq!(count(&writer).await, 2);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_what_does_not_fit_and_the_rest_goes_on() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (x INTEGER PRIMARY KEY, b BLOB) STRICT").unwrap();
        connection.pragma_update(None, "max_page_count", 20).unwrap();
        let writer = Writer::start(connection, ()).unwrap();
        let insert = async |x: i64, bytes: i64| -> Result<()> {
            let sql = "INSERT INTO t VALUES (?1, zeroblob(?2))";
            writer.write(move |c| c.execute(sql, [x, bytes]).map(|_| ()).map_err(StoreError::from)).await
        };

        let (one, big, two) = tokio::join!(insert(1, 10), insert(2, 1_000_000), insert(3, 10));

        assert!(matches!(big, Err(StoreError::Unavailable(_))), "{big:?}");
        // Those of the same transaction may be lost with it; then they were told.
        let told = i64::from(one.is_ok()) + i64::from(two.is_ok());
        assert_eq!(count(&writer).await, told);
        insert(4, 10).await.unwrap();
        assert_eq!(count(&writer).await, told + 1);
    }

    #[tokio::test]
    async fn all_that_wait_are_refused_while_another_process_holds_the_file() {
        let file = std::env::temp_dir().join(format!("onair-writer-{}.db", std::process::id()));
        let connection = Connection::open(&file).unwrap();
        connection.execute_batch("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY) STRICT").unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        let other = Connection::open(&file).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let writer = Writer::start(connection, ()).unwrap();

        let (one, two) = tokio::join!(insert(&writer, 1), insert(&writer, 2));
        assert!(matches!((one, two), (Err(StoreError::Unavailable(_)), Err(StoreError::Unavailable(_)))));
        other.execute_batch("COMMIT").unwrap();
        insert(&writer, 3).await.unwrap();
        assert_eq!(count(&writer).await, 1);
        std::fs::remove_file(file).unwrap();
    }

    #[tokio::test]
    async fn a_job_that_panics_does_not_stop_the_others() {
        let writer = writer();
        let panicked: Result<()> = writer.write(|_| panic!("on purpose")).await;

        assert!(matches!(panicked, Err(StoreError::Failed(_))));
        insert(&writer, 1).await.unwrap();
        assert_eq!(count(&writer).await, 1);
    }

    #[tokio::test]
    async fn nobody_hears_of_success_when_the_transaction_is_lost() {
        let writer = writer();
        let lost: Result<()> = writer
            .write(|c| {
                c.execute("INSERT INTO t VALUES (7)", [])?;
                c.execute_batch("ROLLBACK")?;
                Ok(())
            })
            .await;

        assert!(matches!(lost, Err(StoreError::Unavailable(_))));
        insert(&writer, 7).await.unwrap();
        assert_eq!(count(&writer).await, 1);
    }
}
