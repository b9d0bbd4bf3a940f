//! Lines of the audit log on their way to the store.
//!
//! A call that is repeated because its line was not written finds its change made, so it would leave none. Lines wait
//! in memory: those of a process that is killed while the store is away are in its own log only.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::store::moderation::AuditEntry;
use crate::store::{Store, StoreError};

/// Acts are few, and limited for everybody but administrators.
const LINES_MAX: usize = 1_000;

#[derive(Default)]
pub(super) struct Unwritten {
    lines: Mutex<VecDeque<AuditEntry>>,
    /// One at a time, in their order.
    writing: tokio::sync::Mutex<()>,
}

impl Unwritten {
    /// Of too many the oldest is given up.
    pub fn keep(&self, line: AuditEntry) {
        self.with(|lines| {
            if lines.len() >= LINES_MAX
                && let Some(line) = lines.pop_front()
            {
                tracing::error!(action = line.action, id = line.id, "a line of the audit log is given up");
            }
            lines.push_back(line);
        });
    }

    /// Writes all lines that wait.
    ///
    /// # Errors
    /// Those of the store. A line that it can take later waits on.
    pub async fn write(&self, store: &dyn Store) -> Result<(), StoreError> {
        let _turn = self.writing.lock().await;
        while let Some(line) = self.with(|lines| lines.front().cloned()) {
            let written = store.append_audit(&line).await;
            if !matches!(written, Err(StoreError::Unavailable(_))) {
                self.with(|lines| lines.retain(|waiting| waiting.id != line.id));
            }
            written?;
        }
        Ok(())
    }

    fn with<T>(&self, change: impl FnOnce(&mut VecDeque<AuditEntry>) -> T) -> T {
        change(&mut self.lines.lock().expect("no one panics with this lock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::store::ModerationStore as _;
    use crate::store::embedded::Embedded;
    use crate::store::stream::StreamId;

    fn line(action: &str) -> AuditEntry {
        AuditEntry {
            id: StreamId::generate().to_string(),
            at: Timestamp::default(),
            actor: "ana".parse().unwrap(),
            action: action.into(),
            stream_id: None,
            target: None,
            details: serde_json::Value::Null,
            request_id: None,
        }
    }

    #[tokio::test]
    async fn what_was_not_written_is_written_by_the_next_call_and_once() {
        let (unwritten, store) = (Unwritten::default(), Embedded::in_memory().unwrap());
        unwritten.keep(line("user.ban"));
        unwritten.keep(line("user.unban"));

        unwritten.write(&store).await.unwrap();
        unwritten.write(&store).await.unwrap();

        assert_eq!(store.audit(None, None, 10).await.unwrap().len(), 2);
        assert!(unwritten.with(|lines| lines.is_empty()));
    }

    #[test]
    fn so_many_lines_wait_and_the_newest_are_kept() {
        let unwritten = Unwritten::default();
        for number in 0..1_500 {
            unwritten.keep(line(&number.to_string()));
        }

        unwritten.with(|lines| {
            assert_eq!(lines.len(), LINES_MAX);
            assert_eq!(lines.back().map(|line| line.action.as_str()), Some("1499"));
        });
    }
}
