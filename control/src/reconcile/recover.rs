//! Takes over the streams of an earlier process, before requests are served.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::Reconciler;
use super::poll::BANS_PAGE;
use crate::clock::Timestamp;
use crate::problem::Problem;
use crate::store::StoreError;
use crate::store::stream::{PageEnd, StreamFilter, StreamOrder, StreamState};

/// Streams that are read at once.
const PAGE: usize = 500;

/// Longest time that the first comparisons may delay serving. A media server that is away is asked again later.
const FIRST_ROUND_MAX: Duration = Duration::from_secs(10);

impl Reconciler {
    /// Reads bans and live streams, opens their chats, compares them with their rooms, and ends those whose time is
    /// over.
    ///
    /// # Errors
    /// `store_unavailable`: try again.
    pub async fn recover(&self) -> Result<(), Problem> {
        let begun = self.now();
        // Before rooms are compared: a room that is missing here may be another node's.
        self.0.cluster.look_at_first().await?;
        self.read_bans_since(Timestamp::default(), BANS_PAGE).await?;
        let count = self.read_live().await?;
        if tokio::time::timeout(FIRST_ROUND_MAX, self.first_round()).await.is_err() {
            tracing::warn!("not all streams were compared with their rooms before the server serves");
        }
        self.0.recovered.get_or_init(|| begun);
        if count > 0 {
            tracing::info!(count, "live streams of an earlier process are taken over");
        }
        Ok(())
    }

    /// Observes all live streams of the store, and returns their number.
    pub(super) async fn read_live(&self) -> Result<usize, StoreError> {
        let filter = StreamFilter { states: StreamState::LIVE.to_vec(), ..StreamFilter::default() };
        let mut after: Option<PageEnd> = None;
        let mut count = 0;
        loop {
            let page = self.0.store.streams(&filter, StreamOrder::NewestFirst, after.as_ref(), PAGE).await?;
            let full = page.len() == PAGE;
            count += page.len();
            after = page.last().map(|stream| PageEnd { key: stream.created_at.millis(), id: stream.id.to_string() });
            for stream in page {
                self.0.lifecycle.observe(stream);
            }
            if !full {
                return Ok(count);
            }
        }
    }

    async fn first_round(&self) {
        self.0.agenda.all_soon(self.now());
        wait_for(|done| self.queue_due_comparisons(done)).await;
        wait_for(|done| self.queue_due_ends(done)).await;
    }
}

/// Waits until all jobs that `queue` adds are done.
async fn wait_for(queue: impl FnOnce(&mut dyn FnMut() -> Option<oneshot::Sender<()>>)) {
    let mut waiting = Vec::new();
    queue(&mut || {
        let (done, is_done) = oneshot::channel();
        waiting.push(is_done);
        Some(done)
    });
    join_all(waiting).await;
}
