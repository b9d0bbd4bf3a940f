//! Taking over the streams of an earlier process, before requests are served.

use crate::clock::Timestamp;
use crate::problem::Problem;
use crate::store::stream::{PageEnd, StreamFilter, StreamOrder, StreamState};
use crate::streams::Streams;

use super::poll::BANS_PAGE;

/// Streams that are read in one go.
const PAGE: usize = 500;

impl Streams {
    /// Reads bans and live streams, opens their chats, and has all of them compared with their rooms at the next tick.
    ///
    /// # Errors
    /// `store_unavailable`: try again.
    pub async fn recover(&self) -> Result<(), Problem> {
        self.read_bans_since(Timestamp::default(), BANS_PAGE).await?;
        let filter = StreamFilter { states: StreamState::LIVE.to_vec(), ..StreamFilter::default() };
        let mut after: Option<PageEnd> = None;
        let mut count = 0_usize;
        loop {
            let page = self.store().streams(&filter, StreamOrder::NewestFirst, after.as_ref(), PAGE).await?;
            let full = page.len() == PAGE;
            count += page.len();
            after = page.last().map(|stream| PageEnd { key: stream.created_at.millis(), id: stream.id.to_string() });
            for stream in page {
                self.observe(stream);
            }
            if !full {
                break;
            }
        }
        self.inner().agenda.all_soon(self.now());
        self.tick();
        self.set_recovered();
        if count > 0 {
            tracing::info!(count, "live streams of an earlier process are taken over");
        }
        Ok(())
    }
}
