//! Sessions of one stream that come at the same time share a count of its viewers.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::Result;
use crate::store::stream::{Stream, StreamId};

/// Counts under way in this process.
#[derive(Debug, Default)]
pub(super) struct Recounts {
    streams: Mutex<HashMap<StreamId, Arc<Recount>>>,
}

#[derive(Debug, Default)]
pub(super) struct Recount {
    /// How many asked for a count so far; each after its record was written.
    pub(super) asked: AtomicU64,
    /// What the last count found, and how many had asked before it began.
    pub(super) last: tokio::sync::Mutex<Option<(u64, Result<Stream>)>>,
}

/// A place in the count of a stream. The last one that leaves removes it.
pub(super) struct Place<'a> {
    recounts: &'a Recounts,
    id: StreamId,
    pub(super) recount: Arc<Recount>,
}

impl Recounts {
    /// A place in the count of that stream.
    pub(super) fn of(&self, id: StreamId) -> Place<'_> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        Place { recounts: self, id, recount: Arc::clone(streams.entry(id).or_default()) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut streams = self.recounts.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // The map has one, this place another.
        if Arc::strong_count(&self.recount) == 2 {
            streams.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_a_stream_that_nobody_counts() {
        let recounts = Recounts::default();
        let id = StreamId::generate();

        let (one, other) = (recounts.of(id), recounts.of(id));
        drop(one);
        assert!(recounts.streams.lock().expect("nobody panicked").contains_key(&id));
        drop(other);

        assert!(recounts.streams.lock().expect("nobody panicked").is_empty());
    }
}
