//! Reads the changes of other nodes from a shared store.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Backoff, Reconciler, pause};
use crate::clock::Timestamp;
use crate::store::StoreError;

/// Time between two polls of a shared store.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How far back each poll reaches: clocks of nodes differ, and a write takes a moment to be seen.
const OVERLAP: Duration = Duration::from_secs(5);

/// Streams in one answer.
const STREAMS_PAGE: usize = 1_000;

/// Bans in one answer.
pub(super) const BANS_PAGE: usize = 1_000;

/// Largest page. If more changes than that have one time, the rest is read with the next poll.
const PAGE_MAX: usize = 64_000;

/// Times up to which changes were read.
struct Seen {
    streams: Timestamp,
    bans: Timestamp,
}

impl Reconciler {
    pub(super) async fn poll(&self, shutdown: &CancellationToken) {
        if !self.0.store.is_shared() {
            return;
        }
        let begun = self.0.recovered.get().copied().unwrap_or_else(|| self.now());
        let mut seen = Seen { streams: begun, bans: begun };
        let mut backoff = Backoff::new(POLL_INTERVAL, Duration::from_secs(5));
        let mut wait = POLL_INTERVAL;
        while pause(wait, shutdown).await {
            wait = match self.poll_once(&mut seen).await {
                Ok(()) => {
                    backoff.reset();
                    POLL_INTERVAL
                }
                Err(error) => {
                    self.0.agenda.store_failed(&error, self.now());
                    backoff.next()
                }
            };
        }
    }

    async fn poll_once(&self, seen: &mut Seen) -> Result<(), StoreError> {
        let streams = self.read_streams_since(seen.streams.minus(OVERLAP)).await?.max(seen.streams);
        let bans = self.read_bans_since(seen.bans.minus(OVERLAP), BANS_PAGE).await?.max(seen.bans);
        // Never beyond now: a change by a clock that was ahead would hide later changes by clocks that are right. It is
        // read again until its time has come.
        let now = self.now();
        let at_most_now = |at: Timestamp| if at.is_far_ahead(now) { now } else { at };
        *seen = Seen { streams: at_most_now(streams), bans: at_most_now(bans) };
        Ok(())
    }

    /// Returns the time of the last change.
    async fn read_streams_since(&self, mut since: Timestamp) -> Result<Timestamp, StoreError> {
        let mut limit = STREAMS_PAGE;
        loop {
            let page = self.0.store.streams_changed_since(since, limit).await?;
            let (full, last) = (page.len() >= limit, page.last().map_or(since, |stream| stream.updated_at));
            for stream in page {
                self.0.lifecycle.observe(stream);
            }
            match next_page(full, since, last, &mut limit) {
                true => since = last,
                false => return Ok(last),
            }
        }
    }

    /// Returns the time of the last change.
    pub(super) async fn read_bans_since(
        &self,
        mut since: Timestamp,
        mut limit: usize,
    ) -> Result<Timestamp, StoreError> {
        loop {
            let page = self.0.store.bans_changed_since(since, limit).await?;
            let last = page.iter().map(|ban| ban.lifted_at.map_or(ban.at, |at| at.max(ban.at))).max().unwrap_or(since);
            let full = page.len() >= limit;
            for ban in page {
                self.0.lifecycle.observe_ban(ban);
            }
            match next_page(full, since, last, &mut limit) {
                true => since = last,
                false => return Ok(last),
            }
        }
    }
}

/// Whether there is more to read. Enlarges the page if all changes on it have one time, since it would be read again.
fn next_page(full: bool, since: Timestamp, last: Timestamp, limit: &mut usize) -> bool {
    if full && last <= since {
        *limit *= 4;
    }
    full && *limit <= PAGE_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// Reads changes at these times, in their order, as a store gives them; how many were seen, and the last page's
    /// size.
    fn read(changes: &[i64], mut limit: usize) -> (usize, usize) {
        let mut since = at(0);
        loop {
            let earlier = changes.iter().filter(|change| at(**change) < since).count();
            let page: Vec<_> = changes[earlier..].iter().take(limit).collect();
            let (full, last) = (page.len() >= limit, page.last().map_or(since, |change| at(**change)));
            match next_page(full, since, last, &mut limit) {
                true => since = last,
                false => return (earlier + page.len(), limit),
            }
        }
    }

    #[test]
    fn changes_are_read_to_the_last_one_page_by_page() {
        for count in [0, 1, 9, 10, 11, 19, 20, 21, 200] {
            let changes: Vec<i64> = (1..=count).collect();
            assert_eq!(read(&changes, 10), (changes.len(), 10), "of {count} changes");
        }
    }

    #[test]
    fn more_changes_of_one_moment_than_a_page_holds_take_a_larger_page() {
        let changes = [&[5; 35][..], &[6, 7]].concat();

        assert_eq!(read(&changes, 10), (37, 40));
        assert_eq!(read(&[5; 39], 10), (39, 40));
    }

    #[test]
    fn a_page_has_a_largest_size() {
        let changes = vec![5; 2 * PAGE_MAX];

        let (seen, largest) = read(&changes, STREAMS_PAGE);

        assert!(seen >= PAGE_MAX / 4 && seen < changes.len(), "the rest is read at the next look: {seen}");
        assert!(largest > PAGE_MAX);
    }
}
