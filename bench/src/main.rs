//! `bench`: the engine's price, the floor under it, and comparisons with other servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bench::machine::Machine;
use bench::{broadcast, floor};
use clap::{Parser, Subcommand};
use serde::Serialize;
use sfu::srtp::SrtpProfile;

/// What the packet path costs, against the kernel's floor and other servers.
#[derive(Debug, Parser)]
#[command(name = "bench", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The engine alone: CPU of a forwarded packet at growing audiences, nothing is sent
    Turn {
        /// Audiences, separated by commas
        #[arg(long, value_delimiter = ',', default_value = "1,100,1000,3000")]
        subscribers: Vec<u64>,
        /// Where to write the result
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// The least that sending the steady stream costs on this machine, this minute
    Floor {
        #[arg(long, default_value_t = 200)]
        viewers: usize,
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
        /// Where to write the result
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Turn { subscribers, json } => turn(&subscribers, json.as_deref()),
        Action::Floor { viewers, seconds, json } => {
            let floor = floor::measure(viewers, Duration::from_secs(seconds))?;
            println!("{floor}");
            write_json(json.as_deref(), &floor)
        }
    }
}

fn turn(subscribers: &[u64], json: Option<&Path>) -> anyhow::Result<()> {
    println!("engine alone, turns of {} packets: ns CPU a forwarded packet", broadcast::FRAME_PACKETS);
    println!("viewers  profile           median (min..max)   packets a run");
    let mut costs = Vec::new();
    for profile in [SrtpProfile::AeadAes128Gcm, SrtpProfile::Aes128CmSha1_80] {
        for &subscribers in subscribers.iter().filter(|subscribers| **subscribers > 0) {
            let cost = broadcast::turn_cost(profile, subscribers).context("nothing was measured")?;
            println!("{cost}");
            costs.push(cost);
        }
    }
    println!("machine  {}", Machine::read());
    write_json(json, &costs)
}

fn write_json(path: Option<&Path>, result: &impl Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(result).context("writing the result as JSON")?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
