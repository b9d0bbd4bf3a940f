//! What viewers see on bad networks (docs/networks.md): `SEED=7` runs gates with another seed.
//!
//! A gate that is known to fail is run all the same, and must fail: who mends it moves it to the others.

mod media;
mod network;

use network::gates::{self, Outcome};
use network::plot;

/// Those that are run unless `SEED` names another.
const SEEDS: [u64; 2] = [1, 2];

fn seeds() -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => SEEDS.into(),
    }
}

fn run(gate: fn(u64) -> Outcome) -> Vec<Outcome> {
    let outcomes: Vec<Outcome> = seeds().into_iter().map(gate).collect();
    for outcome in &outcomes {
        println!("{outcome}");
        plot::write(outcome);
    }
    outcomes
}

fn must_hold(gate: fn(u64) -> Outcome) {
    assert!(run(gate).iter().all(Outcome::is_green), "see above");
}

/// With each seed.
fn must_fail(gate: fn(u64) -> Outcome) {
    let outcomes = run(gate);
    assert!(!outcomes.iter().any(Outcome::is_green), "it does not fail any more: move it to the gates that hold");
}

mod gates_that_hold {
    use super::*;

    #[test]
    fn steady_3_mbit() {
        must_hold(gates::steady_3_mbit);
    }

    #[test]
    fn late_join_on_10_mbit() {
        must_hold(gates::late_join_on_10_mbit);
    }

    #[test]
    fn outage_of_2_s() {
        must_hold(gates::outage_of_2_s);
    }
}

mod gates_known_to_fail {
    use super::*;

    #[test]
    fn steady_1_mbit() {
        must_fail(gates::steady_1_mbit);
    }

    #[test]
    fn steady_600_kbit() {
        must_fail(gates::steady_600_kbit);
    }

    #[test]
    fn steady_1_mbit_behind_a_bucket() {
        must_fail(gates::steady_1_mbit_behind_a_bucket);
    }

    #[test]
    fn dip_to_500_kbit() {
        must_fail(gates::dip_to_500_kbit);
    }

    #[test]
    fn uplink_loss_3_percent() {
        must_fail(gates::uplink_loss_3_percent);
    }

    #[test]
    fn uplink_loss_10_percent() {
        must_fail(gates::uplink_loss_10_percent);
    }
}
