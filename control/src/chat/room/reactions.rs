//! Reactions: counted, broadcast as sums twice a second, and a sample of them as single events.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use crate::chat::limits::{Bucket, Limits};

type Counts = BTreeMap<String, u64>;

#[derive(Debug, Default)]
pub(crate) struct Reactions {
    totals: Counts,
    /// Since the last event.
    window: Counts,
    /// When that event is due.
    due: Option<Instant>,
    /// Not yet in the store.
    unsaved: Counts,
    /// Not yet sent to other nodes.
    unrelayed: Counts,
    singles: Bucket,
}

impl Reactions {
    /// Adds the totals of the store.
    pub fn load(&mut self, totals: Counts) {
        merge(&mut self.totals, totals);
    }

    /// Counts a reaction. True: it is also sent as a single event, even if its kind is beyond those that are counted.
    /// Otherwise whoever sends that many kinds first would keep all other kinds out.
    pub fn add(&mut self, emoji: &str, limits: &Limits, now: Instant) -> bool {
        if self.count(emoji, 1, limits, now) {
            increase(&mut self.unsaved, emoji, 1);
            increase(&mut self.unrelayed, emoji, 1);
        }
        self.singles.take(limits.singles, now).is_ok()
    }

    /// Adds what another node counted. It also stores them.
    pub fn add_of_others(&mut self, counts: &Counts, limits: &Limits, now: Instant) {
        for (emoji, count) in counts {
            self.count(emoji, *count, limits, now);
        }
    }

    fn count(&mut self, emoji: &str, count: u64, limits: &Limits, now: Instant) -> bool {
        if !self.totals.contains_key(emoji) && self.totals.len() >= limits.emoji_kinds {
            return false;
        }
        increase(&mut self.totals, emoji, count);
        increase(&mut self.window, emoji, count);
        self.due.get_or_insert(now + limits.reaction_window);
        true
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What was counted since the last call, and the totals of these and of the most frequent kinds. `None`: it is not
    /// time yet.
    pub fn take_window(&mut self, limits: &Limits, now: Instant) -> Option<(Counts, Counts)> {
        self.due.filter(|due| *due <= now)?;
        self.due = None;
        let counts = most_frequent(&std::mem::take(&mut self.window), limits.emoji_sent);
        let mut totals = self.totals(limits);
        for emoji in counts.keys() {
            if let Some(total) = self.totals.get(emoji) {
                totals.insert(emoji.clone(), *total);
            }
        }
        Some((counts, totals))
    }

    /// Totals of the most frequent kinds, which is what clients are sent.
    pub fn totals(&self, limits: &Limits) -> Counts {
        most_frequent(&self.totals, limits.emoji_sent)
    }

    pub fn take_unsaved(&mut self) -> Counts {
        std::mem::take(&mut self.unsaved)
    }

    /// Gives back what the store did not take.
    pub fn put_back(&mut self, unsaved: Counts) {
        merge(&mut self.unsaved, unsaved);
    }

    pub fn take_unrelayed(&mut self) -> Counts {
        std::mem::take(&mut self.unrelayed)
    }
}

fn most_frequent(counts: &Counts, number: usize) -> Counts {
    if counts.len() <= number {
        return counts.clone();
    }
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.select_nth_unstable_by_key(number, |(_, count)| Reverse(**count));
    sorted.into_iter().take(number).map(|(emoji, count)| (emoji.clone(), *count)).collect()
}

fn increase(counts: &mut Counts, emoji: &str, by: u64) {
    match counts.get_mut(emoji) {
        Some(count) => *count = count.saturating_add(by),
        None => {
            counts.insert(emoji.to_owned(), by);
        }
    }
}

fn merge(into: &mut Counts, from: Counts) {
    for (emoji, count) in from {
        increase(into, &emoji, count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reactions_are_summed_up_after_half_a_second() {
        let (limits, start) = (Limits::default(), Instant::now());
        let mut reactions = Reactions::default();
        reactions.load([("🔥".to_owned(), 5)].into());
        reactions.add("🔥", &limits, start);
        reactions.add("❤️", &limits, start + Duration::from_millis(100));

        assert_eq!(reactions.due(), Some(start + Duration::from_millis(500)));
        assert_eq!(reactions.take_window(&limits, start + Duration::from_millis(499)), None);
        let (counts, totals) = reactions.take_window(&limits, start + Duration::from_millis(500)).unwrap();
        assert_eq!(counts, [("❤️".to_owned(), 1), ("🔥".to_owned(), 1)].into());
        assert_eq!(totals, [("❤️".to_owned(), 1), ("🔥".to_owned(), 6)].into());
        assert_eq!(reactions.due(), None);
        assert_eq!(reactions.take_unsaved(), counts);
    }

    #[test]
    fn of_many_kinds_the_most_frequent_are_told_and_those_that_came() {
        let (limits, start) = (Limits { emoji_sent: 2, ..Limits::default() }, Instant::now());
        let mut reactions = Reactions::default();
        reactions.load([("🔥".to_owned(), 5), ("👏".to_owned(), 3), ("😀".to_owned(), 1), ("🎉".to_owned(), 2)].into());
        for emoji in ["🎉", "❤️", "❤️", "👀", "🎉"] {
            reactions.add(emoji, &limits, start);
        }

        let (counts, totals) = reactions.take_window(&limits, start + limits.reaction_window).unwrap();
        assert_eq!(counts, [("🎉".to_owned(), 2), ("❤️".to_owned(), 2)].into());
        assert_eq!(totals, [("🔥".to_owned(), 5), ("🎉".to_owned(), 4), ("❤️".to_owned(), 2)].into());
        assert_eq!(reactions.take_unsaved().values().sum::<u64>(), 5, "all are kept");
    }

    #[test]
    fn at_most_ten_a_second_are_passed_on_one_by_one() {
        let (limits, start) = (Limits::default(), Instant::now());
        let mut reactions = Reactions::default();
        let singles = (0..1000).filter(|n| reactions.add("🔥", &limits, start + Duration::from_millis(2) * *n)).count();

        assert!((20..=30).contains(&singles), "{singles} in two seconds after a burst of ten");
        assert_eq!(reactions.totals(&limits)["🔥"], 1000);
    }

    #[test]
    fn the_kinds_of_emoji_are_bounded() {
        let (limits, now) = (Limits { emoji_kinds: 2, ..Limits::default() }, Instant::now());
        let mut reactions = Reactions::default();
        for emoji in ["🔥", "❤️", "😀", "🔥"] {
            assert!(reactions.add(emoji, &limits, now), "{emoji} is passed on, counted or not");
        }

        assert_eq!(reactions.totals(&limits), [("❤️".to_owned(), 1), ("🔥".to_owned(), 2)].into());
    }
}
