//! Two servers in turns under the same load, or one against the floor.
//!
//! Each round starts one server, loads it, stops it, does the same with the other, and measures the floor; so whatever
//! else the machine does meets all of them alike. A ratio is taken within a round, and the median of these counts. A
//! server runs on one core and the load on another.
//!
//! - `compare/server.rs`: a server as a process
//! - `compare/load.rs`: the load as a process, and what it reports
//! - `compare/result.rs`: rows, ratios, the table

mod load;
mod result;
mod server;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::load::{Load, Metrics};
pub(crate) use self::result::cell;
pub use self::result::{Comparison, Measured, Row};
use self::server::Server;
use crate::clock::allowed_cores;
use crate::floor;
use crate::machine::{Machine, load_average};

/// How long the floor is measured in each round.
const FLOOR_TIME: Duration = Duration::from_secs(3);

/// One of the servers.
#[derive(Debug, Clone)]
pub struct Contender {
    pub name: String,
    /// Command that starts it, as a shell would read it, and that stays in the foreground.
    pub command: String,
    /// Where it listens for clients: `ws://host:port`.
    pub url: String,
    /// The load, if it is not that of the load tester.
    pub load: Option<String>,
    /// Its page of metrics, which tells what it dropped.
    pub metrics_url: Option<String>,
}

/// What a comparison is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// One or two.
    pub contenders: Vec<Contender>,
    pub rounds: usize,
    pub load: Load,
}

/// What one round showed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    pub servers: Vec<Metrics>,
    pub floor_us_per_packet: f64,
    pub floor_delay_ms_p50: f64,
    pub floor_delay_ms_p99: f64,
    pub load_average: f64,
}

/// Runs all rounds, and calls `tell` after each.
///
/// # Errors
///
/// When a server does not start, or a load test gives no result.
pub fn run(options: &Options, mut tell: impl FnMut(usize, &Round)) -> anyhow::Result<Comparison> {
    ensure!(options.rounds > 0, "at least one round");
    let cores = allowed_cores().context("asking which cores are allowed")?;
    let (server_core, load_core) = match cores[..] {
        [one] => (one, one),
        [first, second, ..] => (first, second),
        [] => anyhow::bail!("no core is allowed"),
    };
    let mut rounds = Vec::with_capacity(options.rounds);
    for number in 0..options.rounds {
        let mut round = Round::default();
        for contender in &options.contenders {
            let metrics = measure(contender, &options.load, server_core, load_core)
                .with_context(|| format!("{}, round {}", contender.name, number + 1))?;
            round.servers.push(metrics);
        }
        let floor = floor::measure(options.load.subscribers, FLOOR_TIME)?;
        round.floor_us_per_packet = floor.cpu_us_per_packet;
        (round.floor_delay_ms_p50, round.floor_delay_ms_p99) = (floor.delay_ms_p50, floor.delay_ms_p99);
        round.load_average = load_average();
        tell(number, &round);
        rounds.push(round);
    }
    Ok(Comparison::of(Measured {
        names: options.contenders.iter().map(|contender| contender.name.clone()).collect(),
        date: OffsetDateTime::now_utc().date().to_string(),
        subscribers: options.load.subscribers,
        duration_s: options.load.duration.as_secs(),
        joins_per_second: options.load.joins_per_second,
        load_arguments: options.load.arguments.clone(),
        cores_apart: server_core != load_core,
        machine: Machine::read(),
        rounds,
    }))
}

fn measure(contender: &Contender, load: &Load, server_core: usize, load_core: usize) -> anyhow::Result<Metrics> {
    let server = Server::start(&contender.command, &contender.url, server_core)?;
    load.run(contender, server.pid(), load_core)
}
