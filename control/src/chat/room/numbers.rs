//! Numbers of messages: reserved in the store in blocks, and given out here.

/// What is reserved and not yet used.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// The next number, once the store has given a block.
    next: Option<i64>,
    /// The end of the reserved block, exclusive.
    end: i64,
    /// Numbers are given out without the store.
    is_on_its_own: bool,
}

impl Numbers {
    /// Whether a block must be reserved before `count` numbers can be given out.
    pub fn missing(&self, count: usize) -> bool {
        self.next.is_none_or(|next| self.end.saturating_sub(next) < i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Whether the store has ever given a block.
    pub fn is_known(&self) -> bool {
        self.next.is_some()
    }

    /// Whether the store does not know the numbers that were given out last.
    pub fn is_on_its_own(&self) -> bool {
        self.is_on_its_own
    }

    /// The highest number given out: the next reservation must be above it.
    pub fn used(&self) -> i64 {
        self.next.map_or(0, |next| next - 1)
    }

    /// Adds a block that the store reserved. What is left of the one before is skipped, so that numbers rise.
    pub fn reserved(&mut self, first: i64, count: u32) {
        let (next, end) = (self.next.unwrap_or(0), first.saturating_add(count.into()));
        if self.end == first && next > 0 {
            self.end = end;
        } else {
            self.next = Some(first.max(next));
            self.end = end;
        }
        self.is_on_its_own = false;
    }

    /// Gives out numbers without the store if fewer than `count` are left. They are above `seen`, the highest number of
    /// any node, or their messages would come too late to be shown, and once they skip `leap` numbers, so that they
    /// differ from those that other nodes give out meanwhile.
    pub fn go_on_alone(&mut self, count: usize, seen: i64, leap: impl FnOnce() -> i64) {
        let Some(next) = self.next.filter(|_| self.missing(count) && !self.is_on_its_own) else {
            return;
        };
        self.is_on_its_own = true;
        self.next = Some(next.max(seen.saturating_add(1)).saturating_add(leap()));
    }

    /// The next number. One that is not reserved is made known to the store when it is back. `None`: the store was
    /// never reached, so that a number may have been used before.
    pub fn take(&mut self) -> Option<i64> {
        let number = self.next?;
        self.next = Some(number.saturating_add(1));
        self.end = self.end.max(number.saturating_add(1));
        Some(number)
    }

    /// Drops the rest of the block: other nodes have reserved numbers above it, so that its messages would come too
    /// late.
    pub fn drop_rest(&mut self) {
        self.end = self.next.unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_by_one_through_adjoining_blocks() {
        let mut numbers = Numbers::default();
        assert!(numbers.missing(1));
        assert_eq!(numbers.take(), None);

        numbers.reserved(1, 2);
        assert!(numbers.missing(3));
        numbers.reserved(3, 2);
        assert!(!numbers.missing(4));
        let taken: Vec<_> = (0..4).map(|_| numbers.take()).collect();

        assert_eq!(taken, [Some(1), Some(2), Some(3), Some(4)]);
        assert!(numbers.missing(1));
    }

    #[test]
    fn without_the_store_numbers_go_on_and_are_reserved_above() {
        let mut numbers = Numbers::default();
        numbers.reserved(1, 1);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(1), Some(2), Some(3)]);
        assert_eq!(numbers.used(), 3);

        numbers.reserved(4, 100);
        assert_eq!(numbers.take(), Some(4));
    }

    #[test]
    fn without_the_store_numbers_are_above_all_that_were_seen_and_those_of_two_nodes_differ() {
        let mut numbers = Numbers::default();
        numbers.go_on_alone(1, 0, || 1000);
        assert_eq!(numbers.take(), None, "the store was never asked");
        numbers.reserved(1, 2);
        numbers.go_on_alone(2, 7, || 1000);
        assert_eq!(numbers.take(), Some(1), "there are enough");

        numbers.go_on_alone(2, 7, || 1000);
        assert_eq!([numbers.take(), numbers.take()], [Some(1008), Some(1009)]);
        numbers.go_on_alone(1, 1009, || 1000);
        assert_eq!(numbers.take(), Some(1010), "one leap is enough");
        numbers.reserved(1011, 1);
        assert_eq!(numbers.take(), Some(1011));
        numbers.go_on_alone(1, 1011, || 0);
        assert_eq!(numbers.take(), Some(1012));
    }

    #[test]
    fn the_rest_of_a_block_is_not_used_beside_others() {
        let mut numbers = Numbers::default();
        numbers.reserved(1, 100);
        assert_eq!(numbers.take(), Some(1));

        numbers.drop_rest();
        assert!(numbers.missing(1));
        numbers.reserved(201, 1);
        assert_eq!(numbers.take(), Some(201));
    }
}
