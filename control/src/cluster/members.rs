//! Which other nodes use the same store, judged by what this one sees of them.
//!
//! Each says now and then, in the store and by its own clock, that it is there. Clocks of two machines are not
//! compared: a node is there while its sign changes from look to look.

use std::collections::HashMap;

use crate::clock::Timestamp;
use crate::store::NodeSign;

/// Looks without a change after which a node is gone: as many as are in `store::NODE_GONE`.
const STILL_MAX: u32 = 5;

/// Another node of which the store has a sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub node: String,
    /// Its last sign, by its own clock.
    pub at: Timestamp,
    pub is_alive: bool,
}

/// The other nodes, from look to look.
#[derive(Debug, Default)]
pub(super) struct Members {
    known: HashMap<String, Known>,
    has_looked: bool,
}

#[derive(Debug)]
struct Known {
    /// By the clock of that node.
    at: Timestamp,
    /// Looks since it changed.
    still: u32,
}

impl Members {
    /// Takes in the signs of all other nodes. `now` is for the first look, which knows of no change: a node whose sign
    /// is not old by our clock is then taken for one that is there, until the next looks show better.
    pub fn look(&mut self, signs: Vec<NodeSign>, now: Timestamp) {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        let mut before = std::mem::take(&mut self.known);
        for NodeSign { node, at } in signs {
            let still = match before.remove(&node) {
                Some(known) if known.at == at => known.still.saturating_add(1),
                None if is_first && at < now.minus(crate::store::CLOCKS_APART) => STILL_MAX,
                Some(_) | None => 0,
            };
            self.known.insert(node, Known { at, still });
        }
    }

    pub fn has_looked(&self) -> bool {
        self.has_looked
    }

    /// Those of which the store has a sign, old or new.
    pub fn all(&self) -> impl Iterator<Item = Member> {
        self.known.iter().map(|(node, known)| Member { node: node.clone(), at: known.at, is_alive: known.is_alive() })
    }

    /// Those whose signs change.
    pub fn alive(&self) -> impl Iterator<Item = &str> {
        self.known.iter().filter(|(_, known)| known.is_alive()).map(|(node, _)| node.as_str())
    }
}

impl Known {
    fn is_alive(&self) -> bool {
        self.still < STILL_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::LOOK_INTERVAL;
    use super::*;
    use crate::store::NODE_GONE;

    const NOW: i64 = 1_000_000;

    fn look(nodes: &mut Members, signs: &[(&str, i64)]) -> Vec<String> {
        let sign = |(node, seconds): &(&str, i64)| NodeSign { node: (*node).into(), at: at(NOW + seconds) };
        nodes.look(signs.iter().map(sign).collect(), at(NOW));
        let mut there: Vec<_> = nodes.alive().map(str::to_owned).collect();
        there.sort();
        there
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_node_is_there_while_its_sign_changes_whatever_its_clock_says() {
        for apart in [-86_400, -15, 0, 15, 86_400] {
            let mut nodes = Members::default();
            look(&mut nodes, &[]);

            for beat in 0..20 {
                assert_eq!(look(&mut nodes, &[("n", apart + beat)]), ["n"], "{apart} s apart");
            }
            for still in 1..STILL_MAX {
                assert_eq!(look(&mut nodes, &[("n", apart + 19)]), ["n"], "{apart} s apart, look {still}");
            }
            assert!(look(&mut nodes, &[("n", apart + 19)]).is_empty(), "{apart} s apart");
            assert!(nodes.all().any(|member| member.node == "n"));
            assert_eq!(look(&mut nodes, &[("n", apart + 20)]), ["n"], "it is back");
        }
    }

    #[test]
    fn a_node_without_a_sign_for_ten_seconds_is_gone() {
        let mut nodes = Members::default();
        let mut silent = Duration::ZERO;
        while look(&mut nodes, &[("n", 0)]) == ["n"] && silent < Duration::from_secs(60) {
            silent += LOOK_INTERVAL;
        }

        assert_eq!((silent, NODE_GONE), (Duration::from_secs(10), Duration::from_secs(10)));
    }

    #[test]
    fn at_first_a_sign_that_is_not_old_counts_and_an_old_one_once_it_changes() {
        let mut nodes = Members::default();

        assert_eq!(
            look(&mut nodes, &[("ahead", 3_600), ("behind", -30), ("old", -3_600), ("slow", -3_600)]),
            ["ahead", "behind"]
        );
        assert_eq!(
            look(&mut nodes, &[("ahead", 3_600), ("behind", -28), ("old", -3_600), ("slow", -3_598)]),
            ["ahead", "behind", "slow"]
        );
        for _ in 0..STILL_MAX {
            look(&mut nodes, &[("behind", -28)]);
        }
        assert!(nodes.all().all(|member| member.node != "old") && nodes.alive().next().is_none());
    }
}
