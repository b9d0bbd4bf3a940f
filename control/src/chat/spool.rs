//! Messages that wait for the store while it is away.
//!
//! Clients have been sent them, so they must not be lost: they are in a file, one JSON document a line, which is synced
//! before the messages are sent. Storing a message twice changes nothing, so that lines which are stored already may
//! stay, and the file is only emptied as a whole.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::store::chat::{ChatMessage, StoredMessage};
use crate::store::directory;
use crate::store::stream::StreamId;
use crate::store::{SharedStore, StoreError};

use super::counters::{Counters, add, subtract};

/// In the directory of the store.
pub(crate) const FILE_NAME: &str = "chat-queue.jsonl";

/// Longest file, in bytes, including lines that are stored by now.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Messages stored with one write.
const BATCH: usize = 200;

/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(500);

/// Longest wait for the store in one try.
const PATIENCE: Duration = Duration::from_secs(10);

/// The queue is full, or the file cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The queue, of all rooms.
#[derive(Debug)]
pub(crate) struct Spool {
    max: usize,
    waiting: Mutex<VecDeque<StoredMessage>>,
    /// Absent: the queue is in memory alone.
    file: Arc<tokio::sync::Mutex<Option<File>>>,
    changed: Notify,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct File {
    file: std::fs::File,
    bytes: u64,
}

impl Spool {
    /// Opens the queue, with the messages that its file in `directory` has from an earlier process.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(directory: Option<&Path>, max: usize, counters: Arc<Counters>) -> io::Result<Self> {
        let (file, waiting) = match directory {
            None => (None, VecDeque::new()),
            Some(directory) => {
                directory::make(directory)?;
                let (file, waiting) = File::open(&directory.join(FILE_NAME))?;
                (Some(file), waiting)
            }
        };
        if !waiting.is_empty() {
            info!(messages = waiting.len(), "chat messages from before wait for the store");
        }
        add(&counters.queued, waiting.len() as u64);
        let file = Arc::new(tokio::sync::Mutex::new(file));
        Ok(Self { max, waiting: Mutex::new(waiting), file, changed: Notify::new(), counters })
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<StoredMessage>> {
        self.waiting.lock().expect("no one panics with this lock")
    }

    /// Whether messages wait, which they do only while the store is away.
    pub fn is_waiting(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// The highest number of a message of this stream that waits.
    pub fn last_seq(&self, stream: StreamId) -> i64 {
        self.waiting()
            .iter()
            .filter(|stored| stored.stream_id == stream)
            .map(|stored| stored.message.seq)
            .max()
            .unwrap_or(0)
    }

    /// The messages of a stream that wait.
    pub fn of_stream(&self, stream: StreamId) -> Vec<ChatMessage> {
        let waiting = self.waiting();
        let of_stream = waiting.iter().filter(|stored| stored.stream_id == stream && stored.hidden_by.is_none());
        of_stream.map(|stored| stored.message.clone()).collect()
    }

    /// Adds messages. Once it has returned they outlive the process.
    pub async fn push(&self, messages: Vec<StoredMessage>) -> Result<(), Full> {
        let mut file = Arc::clone(&self.file).lock_owned().await;
        if self.waiting().len() + messages.len() > self.max {
            return Err(Full);
        }
        if file.is_some() {
            let lines = lines(&messages);
            let write = move || file.as_mut().map_or(Ok(()), |file| file.append(&lines));
            let written = tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)));
            if let Err(error) = written {
                if let Some(left_out) = self.counters.not_kept_log.admit(Instant::now()) {
                    error!(%error, left_out, "cannot write the queue of chat messages that wait for the store");
                }
                return Err(Full);
            }
        }
        add(&self.counters.queued, messages.len() as u64);
        self.waiting().extend(messages);
        self.changed.notify_one();
        Ok(())
    }

    /// Moves messages to the store, for ever.
    pub async fn run(self: Arc<Self>, store: SharedStore) {
        let mut was_away = false;
        loop {
            let batch: Vec<_> = self.waiting().iter().take(BATCH).cloned().collect();
            if batch.is_empty() {
                if was_away {
                    info!("the store has all chat messages again");
                    was_away = false;
                }
                self.empty_file().await;
                self.changed.notified().await;
                continue;
            }
            match deliver(&store, &batch, &self.counters).await {
                Ok(()) => {
                    self.waiting().drain(..batch.len());
                    subtract(&self.counters.queued, batch.len() as u64);
                }
                Err(cause) => {
                    if !was_away {
                        warn!(%cause, "the store is away: chat messages wait for it");
                        was_away = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Empties the file if no message waits any more.
    async fn empty_file(&self) {
        let mut file = Arc::clone(&self.file).lock_owned().await;
        if self.is_waiting() {
            self.changed.notify_one();
            return;
        }
        let emptied = tokio::task::spawn_blocking(move || file.as_mut().map_or(Ok(()), File::empty)).await;
        if let Ok(Err(error)) = emptied {
            error!(%error, "cannot empty the queue of chat messages");
        }
    }
}

/// Stores a batch. A message that the store refuses for good is given up, so that it does not hold up the rest.
async fn deliver(store: &SharedStore, batch: &[StoredMessage], counters: &Counters) -> Result<(), StoreError> {
    match append(store, batch).await {
        Ok(()) => return Ok(()),
        Err(error @ StoreError::Unavailable(_)) => return Err(error),
        Err(StoreError::NotFound | StoreError::Failed(_)) => {}
    }
    for stored in batch {
        match append(store, std::slice::from_ref(stored)).await {
            Ok(()) => {}
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            Err(cause @ (StoreError::NotFound | StoreError::Failed(_))) => {
                renumber(store, stored, cause, counters).await?
            }
        }
    }
    Ok(())
}

/// Stores a message whose number another node has used meanwhile, under a new number.
async fn renumber(
    store: &SharedStore,
    stored: &StoredMessage,
    cause: StoreError,
    counters: &Counters,
) -> Result<(), StoreError> {
    let seq = match store.chat_reserve(stored.stream_id, 1, stored.message.seq).await {
        Ok(seq) => seq,
        Err(error @ StoreError::Unavailable(_)) => return Err(error),
        Err(StoreError::NotFound | StoreError::Failed(_)) => stored.message.seq,
    };
    let mut stored = stored.clone();
    stored.message.seq = seq;
    match append(store, std::slice::from_ref(&stored)).await {
        Err(StoreError::NotFound | StoreError::Failed(_)) => {
            add(&counters.queue_lost, 1);
            error!(%cause, stream = %stored.stream_id, id = stored.message.id, "the store does not take a chat message");
            Ok(())
        }
        other => other,
    }
}

async fn append(store: &SharedStore, messages: &[StoredMessage]) -> Result<(), StoreError> {
    let mut of_stream: HashMap<StreamId, Vec<StoredMessage>> = HashMap::new();
    for stored in messages {
        of_stream.entry(stored.stream_id).or_default().push(stored.clone());
    }
    for (stream, messages) in of_stream {
        let last = messages.iter().map(|stored| stored.message.seq).max().unwrap_or(0);
        let append = async {
            store.chat_append(&messages).await?;
            // These numbers were given out without the store, which must not give them out again.
            store.chat_reserve(stream, 1, last).await.map(|_| ())
        };
        match tokio::time::timeout(PATIENCE, append).await {
            Ok(done) => done?,
            Err(_) => return Err(StoreError::Unavailable(format!("no answer within {PATIENCE:?}"))),
        }
    }
    Ok(())
}

fn lines(messages: &[StoredMessage]) -> Vec<u8> {
    let mut lines = Vec::new();
    for stored in messages {
        serde_json::to_writer(&mut lines, stored).expect("a message can be written as JSON");
        lines.push(b'\n');
    }
    lines
}

fn not_ours(path: &Path) -> io::Error {
    io::Error::other(format!("{} is no queue of chat messages: move it elsewhere", path.display()))
}

/// How every line begins.
const LINE_START: &[u8] = br#"{"streamId":""#;

/// Whether a line that cannot be read may be from a write of ours that was cut short. After a crash of the machine,
/// parts that never reached the disk are zeros.
fn is_torn(line: &[u8]) -> bool {
    let written = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let common = written.len().min(LINE_START.len());
    written[..common] == LINE_START[..common]
}

impl File {
    /// A line that was cut short is skipped: its message was never sent. A file that is not ours is an error, and is
    /// left as it is.
    fn open(path: &PathBuf) -> io::Result<(Self, VecDeque<StoredMessage>)> {
        let mut waiting = VecDeque::new();
        let (mut unread, mut is_whole) = (0, true);
        directory::require_file(path)?;
        match std::fs::read(path) {
            Ok(bytes) => {
                is_whole = bytes.last().is_none_or(|last| *last == b'\n');
                for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    match serde_json::from_slice(line) {
                        Ok(stored) => waiting.push_back(stored),
                        Err(_) if is_torn(line) => unread += 1,
                        Err(_) => return Err(not_ours(path)),
                    }
                }
                if unread > 0 {
                    warn!(unread, path = %path.display(), "lines of the queue of chat messages are torn");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = directory::private().append(true).open(path)?;
        if !is_whole {
            // So that the next line does not join the last one.
            file.write_all(b"\n")?;
        }
        let bytes = file.metadata()?.len();
        Ok((Self { file, bytes }, waiting))
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes + lines.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("the file is as long as it may be"));
        }
        // A write that failed half-way left part of a line, with which the next line would be joined.
        if self.file.metadata()?.len() != self.bytes {
            self.file.set_len(self.bytes)?;
        }
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        match &written {
            Ok(()) => self.bytes += lines.len() as u64,
            // Removes what was written of lines that are refused. If this fails, the next call does it.
            Err(_) => drop(self.file.set_len(self.bytes)),
        }
        written
    }

    fn empty(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::room::tests::{live_stream, message};
    use super::*;
    use crate::store::embedded::Embedded;

    fn stored(stream_id: StreamId, seq: i64) -> StoredMessage {
        StoredMessage { stream_id, message: message(seq), hidden_by: None }
    }

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("onair-spool-{}", ulid::Ulid::generate()));
            Self(path)
        }

        fn open(&self) -> Spool {
            Spool::open(Some(&self.0), 10, Arc::new(Counters::default())).unwrap()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn nobody_else_may_read_what_waits() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = Directory::new();
        drop(directory.open());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;

        assert_eq!((mode(&directory.0), mode(&directory.0.join(FILE_NAME))), (0o700, 0o600));
    }

    #[tokio::test]
    async fn what_waits_is_there_after_a_restart() {
        let directory = Directory::new();
        let stream = StreamId::generate();
        directory.open().push(vec![stored(stream, 1), stored(stream, 2)]).await.unwrap();

        let spool = directory.open();
        assert!(spool.is_waiting());
        assert_eq!(spool.last_seq(stream), 2);
        assert_eq!(spool.last_seq(StreamId::generate()), 0);
        assert_eq!(spool.waiting().iter().cloned().collect::<Vec<_>>(), [stored(stream, 1), stored(stream, 2)]);
    }

    #[tokio::test]
    async fn what_the_store_has_waits_no_more_neither_here_nor_after_a_restart() {
        let directory = Directory::new();
        let store: SharedStore = Arc::new(Embedded::in_memory().unwrap());
        let stream = live_stream();
        store.create(&stream).await.unwrap();
        let spool = Arc::new(directory.open());
        spool.push(vec![stored(stream.id, 1), stored(stream.id, 2)]).await.unwrap();
        let running = tokio::spawn(Arc::clone(&spool).run(Arc::clone(&store)));

        for last in [2, 3, 4] {
            let length = || directory.0.join(FILE_NAME).metadata().unwrap().len();
            let begin = Instant::now();
            while length() > 0 || spool.is_waiting() {
                assert!(begin.elapsed() < Duration::from_secs(20), "{} bytes are still in the file", length());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(spool.counters.queued.load(Ordering::Relaxed), 0);
            assert_eq!(store.chat_totals(stream.id).await.unwrap().messages, last);
            assert!(!directory.open().is_waiting());
            spool.push(vec![stored(stream.id, last as i64 + 1)]).await.unwrap();
        }
        running.abort();
    }

    #[tokio::test]
    async fn a_torn_line_is_passed_over() {
        let directory = Directory::new();
        let stream = StreamId::generate();
        directory.open().push(vec![stored(stream, 1)]).await.unwrap();
        let path = directory.0.join(FILE_NAME);
        let mut file = std::fs::File::options().append(true).open(&path).unwrap();
        file.write_all(br#"{"streamId":"65"#).unwrap();

        directory.open().push(vec![stored(stream, 2)]).await.unwrap();
        assert_eq!(directory.open().last_seq(stream), 2);
        assert_eq!(directory.open().waiting().len(), 2);
    }

    #[tokio::test]
    async fn what_a_failed_write_left_takes_no_later_message_with_it() {
        let directory = Directory::new();
        let stream = StreamId::generate();
        let spool = directory.open();
        spool.push(vec![stored(stream, 1)]).await.unwrap();
        // As far as the disk took it.
        let mut file = std::fs::File::options().append(true).open(directory.0.join(FILE_NAME)).unwrap();
        file.write_all(br#"{"streamId":"65"#).unwrap();

        spool.push(vec![stored(stream, 2)]).await.unwrap();
        assert_eq!(directory.open().waiting().len(), 2);
    }

    #[test]
    fn a_write_that_fails_does_not_count_as_written() {
        let full = std::fs::File::options().append(true).open("/dev/full").unwrap();
        let mut file = File { file: full, bytes: 0 };

        assert_eq!(file.append(b"{}\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.bytes, 0);
    }

    #[tokio::test]
    async fn a_last_line_without_its_end_is_read_and_the_next_one_does_not_join_it() {
        let directory = Directory::new();
        let stream = StreamId::generate();
        directory.open().push(vec![stored(stream, 1)]).await.unwrap();
        let path = directory.0.join(FILE_NAME);
        let length = path.metadata().unwrap().len();
        std::fs::File::options().write(true).open(path).unwrap().set_len(length - 1).unwrap();

        directory.open().push(vec![stored(stream, 2)]).await.unwrap();
        assert_eq!(directory.open().waiting().len(), 2);
    }

    #[test]
    fn a_file_of_somebody_else_is_left_as_it_is() {
        let directory = Directory::new();
        std::fs::create_dir_all(&directory.0).unwrap();
        let path = directory.0.join(FILE_NAME);
        std::fs::write(&path, "{\"mine\": 1}\nnotes\n").unwrap();

        let refused = Spool::open(Some(&directory.0), 10, Arc::new(Counters::default()));

        assert!(refused.is_err_and(|error| error.to_string().contains(FILE_NAME)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"mine\": 1}\nnotes\n");
        assert!(is_torn(b"{\"str\0\0\0") && is_torn(b"\0\0") && !is_torn(b"{\"s\": 1}"));
    }

    #[test]
    fn the_file_has_64_mib_at_most_and_its_name() {
        let directory = Directory::new();
        drop(directory.open());
        let path = directory.0.join("chat-queue.jsonl");
        let taken = b"{}\n".len() as u64;
        // As long as that, and nothing of it written.
        let length = (64 << 20) - taken;
        std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        let mut file = File { file: std::fs::File::options().append(true).open(&path).unwrap(), bytes: length };

        file.append(b"{}\n").unwrap();
        assert!(file.append(b"\n").is_err());
        assert_eq!(path.metadata().unwrap().len(), 64 << 20);
        file.empty().unwrap();
        file.append(b"{}\n").unwrap();
    }

    #[tokio::test]
    async fn a_full_queue_takes_no_more() {
        let directory = Directory::new();
        let stream = StreamId::generate();
        let spool = directory.open();
        spool.push((1..=9).map(|seq| stored(stream, seq)).collect()).await.unwrap();

        assert_eq!(spool.push(vec![stored(stream, 10), stored(stream, 11)]).await, Err(Full));
        assert_eq!(spool.push(vec![stored(stream, 10)]).await, Ok(()));
    }
}
