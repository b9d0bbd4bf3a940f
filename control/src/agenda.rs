//! When each live stream is compared with its room next, and the results of the last comparisons.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::store::stream::StreamId;

/// Time after a failure of the store in which it is not asked again, so that thousands of events do not wait for it one
/// after the other.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What is known between two comparisons of one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// When the last comparison that worked was made.
    pub compared_at: Option<Timestamp>,
    /// Since when the room is missing.
    pub missing_since: Option<Timestamp>,
    /// Comparisons in a row for which the media server did not answer.
    pub sfu_failures: u32,
}

#[derive(Debug)]
struct Entry {
    due: Timestamp,
    /// Its comparison is queued or being made.
    under_way: bool,
    /// Another comparison was asked for while one was under way.
    again: bool,
    found: Found,
    /// If the time since which its state holds is far ahead of the clock: that time, and when it was first seen.
    ahead: Option<(Timestamp, Timestamp)>,
}

#[derive(Default)]
struct Plan {
    entries: HashMap<StreamId, Entry>,
    deadlines: HashSet<StreamId>,
    store_away_until: Option<Timestamp>,
}

/// Shared by everything that may ask for a comparison. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Agenda(Arc<Mutex<Plan>>);

impl Agenda {
    fn plan<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.0.lock().expect("no one panics with this lock"))
    }

    /// Adds a live stream, unless it is here already.
    pub(crate) fn add(&self, id: StreamId, due: Timestamp) {
        self.plan(|plan| {
            let entry = Entry { due, under_way: false, again: false, found: Found::default(), ahead: None };
            plan.entries.entry(id).or_insert(entry);
        });
    }

    pub(crate) fn forget(&self, id: StreamId) {
        self.plan(|plan| plan.entries.remove(&id));
    }

    /// Makes the next comparison due now, since an event was missed.
    pub(crate) fn soon(&self, id: StreamId, now: Timestamp) {
        self.plan(|plan| {
            if let Some(entry) = plan.entries.get_mut(&id) {
                entry.hasten(now);
            }
        });
    }

    pub(crate) fn all_soon(&self, now: Timestamp) {
        self.plan(|plan| plan.entries.values_mut().for_each(|entry| entry.hasten(now)));
    }

    /// The streams whose comparison is due; each is under way until [`Agenda::again`]. One that is due later than
    /// `latest` is due as well, since the clock was set back.
    pub(crate) fn take_due(&self, now: Timestamp, latest: Timestamp) -> Vec<StreamId> {
        self.plan(|plan| {
            let is_due = |entry: &Entry| !entry.under_way && (entry.due <= now || entry.due > latest);
            let due = plan.entries.iter_mut().filter(|(_, entry)| is_due(entry));
            due.map(|(&id, entry)| {
                entry.under_way = true;
                id
            })
            .collect()
        })
    }

    /// Ends a comparison. The next one is due at `due`, or at once if it was asked for meanwhile.
    pub(crate) fn again(&self, id: StreamId, due: Timestamp) {
        self.plan(|plan| {
            if let Some(entry) = plan.entries.get_mut(&id) {
                entry.under_way = false;
                if !std::mem::take(&mut entry.again) {
                    entry.due = due;
                }
            }
        });
    }

    pub(crate) fn found(&self, id: StreamId) -> Found {
        self.plan(|plan| plan.entries.get(&id).map(|entry| entry.found).unwrap_or_default())
    }

    pub(crate) fn note(&self, id: StreamId, found: Found) {
        self.plan(|plan| {
            if let Some(entry) = plan.entries.get_mut(&id) {
                entry.found = found;
            }
        });
    }

    /// When `since`, from which time on the stream's state holds, was first seen to be far ahead of the clock: the
    /// clock that noted it was ahead, or this one was set back.
    pub(crate) fn seen_ahead(&self, id: StreamId, since: Timestamp, now: Timestamp) -> Timestamp {
        self.plan(|plan| {
            let Some(entry) = plan.entries.get_mut(&id) else { return now };
            let known = entry.ahead.filter(|&(noted, seen)| noted == since && seen <= now);
            entry.ahead.insert(known.unwrap_or((since, now))).1
        })
    }

    /// False: the check of this stream's deadline is queued or being made already.
    pub(crate) fn begin_deadline(&self, id: StreamId) -> bool {
        self.plan(|plan| plan.deadlines.insert(id))
    }

    pub(crate) fn end_deadline(&self, id: StreamId) {
        self.plan(|plan| plan.deadlines.remove(&id));
    }

    pub(crate) fn store_failed(&self, error: &StoreError, now: Timestamp) {
        match error {
            StoreError::Unavailable(_) => {
                let known = self.plan(|plan| plan.store_away_until.replace(now.plus(STORE_PAUSE)).is_some());
                if !known {
                    tracing::warn!(%error, "the store is away; what happens in rooms is made up for later");
                }
            }
            StoreError::Failed(_) => tracing::error!(%error, "an event was not kept"),
            StoreError::NotFound => {}
        }
    }

    pub(crate) fn store_is_away(&self, now: Timestamp) -> bool {
        self.plan(|plan| match plan.store_away_until {
            // Unless the clock was set back.
            Some(until) if now < until && until <= now.plus(STORE_PAUSE) => true,
            Some(_) => {
                plan.store_away_until = None;
                false
            }
            None => false,
        })
    }
}

impl Entry {
    /// A comparison that is under way may have read the state before what was missed, so another one follows it.
    fn hasten(&mut self, now: Timestamp) {
        self.due = self.due.min(now);
        self.again |= self.under_way;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_stream_is_taken_once_until_it_is_done() {
        let (agenda, id) = (Agenda::default(), StreamId::generate());
        agenda.add(id, at(30));

        assert_eq!(agenda.take_due(at(29), at(1_000)), []);
        assert_eq!(agenda.take_due(at(30), at(1_000)), [id]);
        assert_eq!(agenda.take_due(at(31), at(1_000)), []);
        agenda.again(id, at(60));
        assert_eq!(agenda.take_due(at(59), at(1_000)), []);
        assert_eq!(agenda.take_due(at(60), at(1_000)), [id]);
    }

    #[test]
    fn what_is_missed_during_a_comparison_asks_for_another() {
        let (agenda, id) = (Agenda::default(), StreamId::generate());
        agenda.add(id, at(0));
        agenda.take_due(at(0), at(1_000));

        agenda.soon(id, at(1));
        agenda.again(id, at(30));

        assert_eq!(agenda.take_due(at(2), at(1_000)), [id]);
    }

    #[test]
    fn a_store_that_failed_is_left_alone_for_a_moment() {
        let agenda = Agenda::default();
        let fail = || agenda.store_failed(&StoreError::Unavailable(String::new()), at(60));

        fail();
        assert!(agenda.store_is_away(at(60)));
        assert!(!agenda.store_is_away(at(61)));
        fail();
        assert!(!agenda.store_is_away(at(0)), "the clock was set back");
    }
}
