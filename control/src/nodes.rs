//! Which other nodes use the same store, judged by what this one sees of them.
//!
//! Each says now and then, in the store and by its own clock, that it is there. Clocks of two machines are not compared: a
//! node is there while its sign changes from look to look.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::store::NodeSign;

/// Between two looks, and between two signs.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Looks without a change after which a node is gone: as many as are in [`NODE_GONE`](crate::store::NODE_GONE).
const STILL_MAX: u32 = 5;

/// The other nodes, from look to look.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
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

impl Nodes {
    /// Takes in the signs of all other nodes. `now` is for the first look, which knows of no change: a node whose sign is
    /// not old by our clock is then taken for one that is there, until the next looks show better.
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

    /// Those that are there, with the last sign of each.
    pub fn there(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        let there = self.known.iter().filter(|(_, known)| known.still < STILL_MAX);
        there.map(|(node, known)| (node.as_str(), known.at))
    }

    /// Whether the store has a sign of that node, old or new.
    pub fn has(&self, node: &str) -> bool {
        self.known.contains_key(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn look(nodes: &mut Nodes, signs: &[(&str, i64)]) -> Vec<String> {
        let sign = |(node, seconds): &(&str, i64)| NodeSign { node: (*node).into(), at: at(NOW + seconds) };
        nodes.look(signs.iter().map(sign).collect(), at(NOW));
        let mut there: Vec<_> = nodes.there().map(|(node, _)| node.to_owned()).collect();
        there.sort();
        there
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_node_is_there_while_its_sign_changes_whatever_its_clock_says() {
        for apart in [-86_400, -15, 0, 15, 86_400] {
            let mut nodes = Nodes::default();
            look(&mut nodes, &[]);

            for beat in 0..20 {
                assert_eq!(look(&mut nodes, &[("n", apart + beat)]), ["n"], "{apart} s apart");
            }
            for still in 1..STILL_MAX {
                assert_eq!(look(&mut nodes, &[("n", apart + 19)]), ["n"], "{apart} s apart, look {still}");
            }
            assert!(look(&mut nodes, &[("n", apart + 19)]).is_empty(), "{apart} s apart");
            assert!(nodes.has("n"));
            assert_eq!(look(&mut nodes, &[("n", apart + 20)]), ["n"], "it is back");
        }
    }

    #[test]
    fn at_first_a_sign_that_is_not_old_counts_and_an_old_one_once_it_changes() {
        let mut nodes = Nodes::default();

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
        assert!(!nodes.has("old") && nodes.there().next().is_none());
    }
}
