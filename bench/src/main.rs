//! `bench`: the engine's price, the floor under it, and comparisons with other servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bench::compare::Contender;
use bench::machine::Machine;
use bench::{broadcast, compare, floor, page, profile};
use clap::{Args, Parser, Subcommand};
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
    /// Where the time of a running server's busiest worker goes, by `perf`
    Profile {
        /// The server's process, under load
        #[arg(long)]
        pid: u32,
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
        /// Where to write the result
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Two servers in turns under the same load, or one against the floor: each on one core, the load on another
    Compare(Box<CompareArguments>),
    /// Write the tables of a page, between its marks, from results of `compare --json`
    Page {
        #[arg(long, default_value = "bench/README.md")]
        page: PathBuf,
        /// Directory of the results
        #[arg(long, default_value = "bench/results")]
        results: PathBuf,
    },
}

#[derive(Debug, Args)]
struct CompareArguments {
    /// Command that starts the first server and stays in the foreground
    #[arg(long)]
    a: String,
    /// Command that starts the second; without it the first is compared with the floor only
    #[arg(long)]
    b: Option<String>,
    #[arg(long, default_value = "A")]
    a_name: String,
    #[arg(long, default_value = "B")]
    b_name: String,
    #[arg(long, default_value = "ws://127.0.0.1:7880")]
    a_url: String,
    /// The first's, if not given
    #[arg(long)]
    b_url: Option<String>,
    /// Load in place of the load tester, for a first server that is no LiveKit server: a command with {url}, {pid},
    /// {subscribers}, {seconds}, {json}
    #[arg(long)]
    a_load: Option<String>,
    /// The same for the second
    #[arg(long)]
    b_load: Option<String>,
    /// The first's page of metrics, for what it dropped: http://user:password@127.0.0.1:6789/metrics
    #[arg(long)]
    a_metrics_url: Option<String>,
    /// The same for the second
    #[arg(long)]
    b_metrics_url: Option<String>,
    #[arg(long, env = "LIVEKIT_API_KEY", default_value = "devkey")]
    api_key: String,
    #[arg(long, env = "LIVEKIT_API_SECRET", default_value = "secret", hide_env_values = true)]
    api_secret: String,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long, default_value_t = 200)]
    subscribers: usize,
    /// Time of each measurement, from when everybody receives: `20s`
    #[arg(long, default_value = "20s", value_parser = parse_seconds)]
    duration: Duration,
    /// Subscribers that join in a second
    #[arg(long, default_value_t = 20.0)]
    joins_per_second: f64,
    /// The load tester; else the one beside this program
    #[arg(long)]
    loadtest: Option<PathBuf>,
    /// One more argument for the load tester; may be repeated: --load-arg=--srtp --load-arg=gcm
    #[arg(long)]
    load_arg: Vec<String>,
    /// Where to write the result
    #[arg(long)]
    json: Option<PathBuf>,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds = number.parse::<u64>().ok().filter(|seconds| (1..=3_600).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{text:?} is not a time from 1s to 3600s"))
}

impl CompareArguments {
    fn options(self) -> anyhow::Result<compare::Options> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("loadtest"));
        let program = self.loadtest.map_or_else(beside, Ok).context("looking for the load tester")?;
        let b_url = self.b_url.unwrap_or_else(|| self.a_url.clone());
        let a = Contender {
            name: self.a_name,
            command: self.a,
            url: self.a_url,
            load: self.a_load,
            metrics_url: self.a_metrics_url,
        };
        let b = self.b.map(|command| Contender {
            name: self.b_name,
            command,
            url: b_url,
            load: self.b_load,
            metrics_url: self.b_metrics_url,
        });
        Ok(compare::Options {
            contenders: std::iter::once(a).chain(b).collect(),
            rounds: self.rounds,
            load: compare::Load {
                program,
                subscribers: self.subscribers,
                duration: self.duration,
                joins_per_second: self.joins_per_second,
                arguments: self.load_arg,
                api_key: self.api_key,
                api_secret: self.api_secret,
            },
        })
    }
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
        Action::Profile { pid, seconds, json } => {
            let profile = profile::measure(pid, seconds)?;
            print!("{profile}");
            write_json(json.as_deref(), &profile)
        }
        Action::Compare(arguments) => {
            let json = arguments.json.clone();
            let comparison = compare::run(&arguments.options()?, tell_round)?;
            print!("{comparison}");
            write_json(json.as_deref(), &comparison)?;
            comparison.check()
        }
        Action::Page { page, results } => {
            let state = if page::update(&page, &results)? { "has new tables" } else { "had these tables already" };
            println!("{} {state}", page.display());
            Ok(())
        }
    }
}

fn tell_round(number: usize, round: &compare::Round) {
    let cost = |server: &compare::Metrics| server.cpu_us_per_packet.map_or("-".to_owned(), |cost| format!("{cost:.2}"));
    let costs = round.servers.iter().map(cost).collect::<Vec<_>>().join(" and ");
    eprintln!("round {}: {costs} µs CPU a packet, floor {:.2}", number + 1, round.floor_us_per_packet);
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

    #[test]
    fn a_time_is_in_seconds() {
        assert_eq!(parse_seconds("20s"), Ok(Duration::from_secs(20)));
        assert!(parse_seconds("0s").is_err() && parse_seconds("20m").is_err());
    }
}
