//! Medians, ratios within a round, and the table of both.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::{Metrics, Round};
use crate::machine::Machine;
use crate::summary::Summary;

type Figure = fn(&Metrics) -> Option<f64>;

/// What is shown, in this order.
const FIGURES: [(&str, Figure); 15] = [
    ("CPU µs a packet", |metrics| metrics.cpu_us_per_packet),
    ("CPU ms a join", |metrics| metrics.cpu_ms_per_join),
    ("RSS KiB a subscriber", |metrics| metrics.rss_kib_per_subscriber),
    ("join p95, ms", |metrics| metrics.join_ms_p95),
    ("first packet p50, ms", |metrics| metrics.first_packet_ms_p50),
    ("first packet p95, ms", |metrics| metrics.first_packet_ms_p95),
    ("first key frame p95, ms", |metrics| metrics.first_keyframe_ms_p95),
    ("delay p50, ms", |metrics| metrics.delay_ms_p50),
    ("delay p99, ms", |metrics| metrics.delay_ms_p99),
    ("  of audio", |metrics| metrics.audio_delay_ms_p99),
    ("  of video", |metrics| metrics.video_delay_ms_p99),
    ("loss, %", |metrics| metrics.loss_percent),
    ("dropped at receivers, %", |metrics| metrics.kernel_drops_percent),
    ("dropped by the server", |metrics| Some(metrics.server_drops.as_ref()?.values().sum::<u64>() as f64)),
    ("load's own cores", |metrics| metrics.client_cores),
];

/// One figure of the servers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub name: &'static str,
    pub a: Option<Summary>,
    pub b: Option<Summary>,
    /// First to second, taken within a round.
    pub a_to_b: Option<Summary>,
}

/// What was measured, and how: everything else is computed from it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    pub names: Vec<String>,
    /// The day, in UTC, as 2026-11-29.
    pub date: String,
    pub subscribers: usize,
    pub duration_s: u64,
    pub joins_per_second: f64,
    /// Further arguments of the load tester.
    pub load_arguments: Vec<String>,
    /// Whether servers and load had different cores.
    pub cores_apart: bool,
    pub machine: Machine,
    pub rounds: Vec<Round>,
}

/// What all rounds showed together.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    #[serde(flatten)]
    pub measured: Measured,
    pub rows: Vec<Row>,
    /// CPU µs a packet of the floor.
    pub floor: Option<Summary>,
    pub floor_delay_ms_p50: Option<Summary>,
    pub floor_delay_ms_p99: Option<Summary>,
    /// CPU a packet of each server to the floor's of the same round.
    pub to_floor: Vec<Option<Summary>>,
    pub load_average: Option<Summary>,
}

impl Comparison {
    /// Computes everything that is shown.
    pub fn of(measured: Measured) -> Self {
        let rounds = &measured.rounds;
        let ratio =
            |round: &Round, server: usize| Some(counted(round, server)?.cpu_us_per_packet? / round.floor_us_per_packet);
        let to_floor = (0..measured.names.len())
            .map(|server| Summary::of(rounds.iter().filter_map(|round| ratio(round, server))))
            .collect();
        Self {
            rows: FIGURES.iter().map(|(name, figure)| row(name, *figure, rounds)).collect(),
            floor: Summary::of(rounds.iter().map(|round| round.floor_us_per_packet)),
            floor_delay_ms_p50: Summary::of(rounds.iter().map(|round| round.floor_delay_ms_p50)),
            floor_delay_ms_p99: Summary::of(rounds.iter().map(|round| round.floor_delay_ms_p99)),
            load_average: Summary::of(rounds.iter().map(|round| round.load_average)),
            to_floor,
            measured,
        }
    }

    /// Whether every server did its work in every round.
    ///
    /// # Errors
    ///
    /// When one had faults other than freezes: the figures are then not those of equal work.
    pub fn check(&self) -> anyhow::Result<()> {
        let all = self.measured.rounds.len();
        let mut unsound = Vec::new();
        for (server, name) in self.measured.names.iter().enumerate() {
            let count = self.metrics(server).filter(|metrics| !metrics.is_sound()).count();
            if count > 0 {
                unsound.push(format!("{name} in {count} of {all} rounds"));
            }
        }
        ensure!(unsound.is_empty(), "faults of {}: see \"mind\" above", unsound.join(", of "));
        Ok(())
    }

    /// The names above the columns: a table of one server has one.
    pub(crate) fn columns(&self) -> Vec<String> {
        let mut columns = self.measured.names.clone();
        if columns.len() > 1 {
            columns.push(columns.join(" / "));
        }
        columns
    }

    /// Every row with a figure in it: its name and, for each column, a cell. The floor's have the first cell alone.
    pub(crate) fn lines(&self) -> Vec<(&'static str, Vec<String>)> {
        let columns = self.columns().len();
        let rows = self.rows.iter().map(|row| (row.name, vec![row.a, row.b, row.a_to_b]));
        let floor = [
            ("floor, CPU µs a packet", vec![self.floor]),
            ("  delay p50, ms", vec![self.floor_delay_ms_p50]),
            ("  delay p99, ms", vec![self.floor_delay_ms_p99]),
            ("CPU a packet / floor", self.to_floor.clone()),
        ];
        let known = rows.chain(floor).filter(|(_, figures)| figures.iter().any(Option::is_some));
        known.map(|(name, figures)| (name, figures.into_iter().take(columns).map(cell).collect())).collect()
    }

    fn metrics(&self, server: usize) -> impl Iterator<Item = &Metrics> {
        self.measured.rounds.iter().filter_map(move |round| round.servers.get(server))
    }

    /// What a server dropped by its own count, in all rounds, those that do not count included.
    fn drops(&self, server: usize) -> BTreeMap<&str, u64> {
        let mut drops = BTreeMap::new();
        for (reason, count) in self.metrics(server).filter_map(|metrics| metrics.server_drops.as_ref()).flatten() {
            *drops.entry(reason.as_str()).or_default() += count;
        }
        drops
    }

    /// What makes the comparison less than fair, and why packets were lost.
    pub(crate) fn caveats(&self) -> Vec<String> {
        let mut caveats = Vec::new();
        let mut differ = |what: &str, text: fn(&Metrics) -> &str| {
            let of = |server| {
                let mut texts: Vec<&str> = self.metrics(server).map(text).collect();
                texts.sort_unstable();
                texts.dedup();
                texts.join(" and ")
            };
            let (a, b) = (of(0), of(1));
            if self.measured.names.len() > 1 && a != b {
                caveats.push(format!("{what} differ: {a}; {b}"));
            }
        };
        differ("protocols", |metrics| &metrics.protocol);
        differ("ciphers", |metrics| &metrics.srtp_profile);
        for (server, name) in self.measured.names.iter().enumerate() {
            let incomplete = self.metrics(server).filter(|metrics| !metrics.complete).count();
            if incomplete > 0 {
                let rest = "which do not count";
                caveats.push(format!("not everybody got everything from {name} in {incomplete} rounds, {rest}"));
            }
        }
        for (server, name) in self.measured.names.iter().enumerate() {
            let faulty = self.metrics(server).enumerate().filter(|(_, metrics)| !metrics.faults.is_empty());
            for (number, metrics) in faulty {
                caveats.push(format!("faults of {name} in round {}: {}", number + 1, metrics.faults.join("; ")));
            }
        }
        for (server, name) in self.measured.names.iter().enumerate() {
            let behind = self.metrics(server).filter(|metrics| fell_behind(metrics)).count();
            if behind > 0 {
                let why = "its core was not enough, which makes packets cheaper";
                caveats.push(format!("{name} fell behind in {behind} rounds: {why}"));
            }
        }
        for (server, name) in self.measured.names.iter().enumerate() {
            let drops: Vec<String> =
                self.drops(server).into_iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            if !drops.is_empty() {
                caveats.push(format!("{name} dropped by its own count, in all rounds: {}", drops.join(", ")));
            }
            let unknown: Vec<&String> =
                self.metrics(server).filter_map(|metrics| metrics.server_drops_unknown.as_ref()).collect();
            if let Some(why) = unknown.first() {
                caveats.push(format!("what {name} dropped is not known in {} rounds: {why}", unknown.len()));
            }
        }
        let rounds = self.measured.rounds.iter();
        let saturated = rounds.filter(|round| round.servers.iter().any(|metrics| metrics.saturated)).count();
        if saturated > 0 {
            caveats.push(format!("the load lacked CPU in {saturated} rounds: delays and losses may be its own"));
        }
        if !self.measured.cores_apart {
            caveats.push("one core only: servers and load shared it".to_owned());
        }
        caveats
    }
}

/// Whether a server was late or lost packets: then it works off backlogs, in larger batches than its clients like.
fn fell_behind(metrics: &Metrics) -> bool {
    const DELAY_MS_MAX: f64 = 20.0;
    const LOSS_PERCENT_MAX: f64 = 0.1;
    metrics.delay_ms_p50.is_some_and(|delay| delay > DELAY_MS_MAX)
        || metrics.loss_percent.is_some_and(|loss| loss > LOSS_PERCENT_MAX)
}

/// A server's figures of a round, if all its clients were there: else it did less, and rates mean nothing.
fn counted(round: &Round, server: usize) -> Option<&Metrics> {
    round.servers.get(server).filter(|metrics| metrics.complete)
}

fn row(name: &'static str, figure: Figure, rounds: &[Round]) -> Row {
    let of = |server: usize| Summary::of(rounds.iter().filter_map(|round| figure(counted(round, server)?)));
    let ratios = rounds.iter().filter_map(|round| {
        let (a, b) = (figure(counted(round, 0)?)?, figure(counted(round, 1)?)?);
        (b > 0.0).then_some(a / b)
    });
    Row { name, a: of(0), b: of(1), a_to_b: Summary::of(ratios) }
}

pub(crate) fn cell(summary: Option<Summary>) -> String {
    let Some(summary) = summary else { return "-".to_owned() };
    // Three digits that mean something, whatever the size.
    match summary.median.abs() {
        _ if (summary.min, summary.max) == (0.0, 0.0) => "0".to_owned(),
        large if large >= 100.0 => format!("{summary:.0}"),
        middle if middle >= 10.0 => format!("{summary:.1}"),
        small if small >= 0.1 => format!("{summary:.2}"),
        _ => format!("{summary:.3}"),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { subscribers, rounds, machine, .. } = &self.measured;
        writeln!(f, "{subscribers} subscribers, {} rounds in turns: median (min..max)", rounds.len())?;
        let columns = self.columns();
        let width = columns.iter().map(|name| name.chars().count() + 2).max().unwrap_or(0).max(26);
        let mut line = |name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!("{cell:>width$}")).collect();
            writeln!(f, "{name:<25}{cells}")
        };
        line("", columns)?;
        for (name, cells) in self.lines() {
            line(name, cells)?;
        }
        writeln!(f, "machine: {machine}; load average in the rounds {}", cell(self.load_average))?;
        for caveat in self.caveats() {
            writeln!(f, "mind: {caveat}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(a: f64, b: f64, floor: f64) -> Round {
        let metrics = |cpu| Metrics { cpu_us_per_packet: Some(cpu), complete: true, ..Metrics::default() };
        Round {
            servers: vec![metrics(a), metrics(b)],
            floor_us_per_packet: floor,
            load_average: 1.0,
            ..Round::default()
        }
    }

    fn comparison(rounds: Vec<Round>) -> Comparison {
        let names = vec!["one".into(), "other".into()];
        Comparison::of(Measured { names, cores_apart: true, rounds, ..Measured::default() })
    }

    #[test]
    fn a_ratio_is_taken_within_a_round() {
        // The second round was disturbed: three times all.
        let comparison = comparison(vec![round(2.0, 8.0, 1.0), round(6.0, 24.0, 3.0), round(2.0, 8.0, 1.0)]);
        let ratio = comparison.rows[0].a_to_b.unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (0.25, 0.25, 0.25));
        assert_eq!(comparison.to_floor[1].map(|summary| summary.max), Some(8.0));
    }

    #[test]
    fn a_server_alone_is_shown_against_the_floor() {
        let mut rounds = vec![round(2.0, 8.0, 1.0)];
        rounds[0].servers.pop();
        let comparison = Comparison::of(Measured { names: vec!["one".into()], rounds, ..Measured::default() });
        assert_eq!(comparison.to_floor[0].map(|summary| summary.median), Some(2.0));
        assert_eq!(comparison.to_string().lines().nth(1).map(str::trim), Some("one"));
    }

    #[test]
    fn a_round_without_all_its_clients_does_not_count() {
        let mut rounds = vec![round(2.0, 8.0, 1.0), round(0.0, 8.0, 1.0)];
        rounds[1].servers[0].complete = false;
        let comparison = comparison(rounds);
        assert_eq!(comparison.rows[0].a.map(|summary| summary.min), Some(2.0));
        assert_eq!(comparison.rows[0].a_to_b.map(|summary| summary.min), Some(0.25));
    }

    #[test]
    fn what_is_unfair_is_said() {
        let mut rounds = vec![round(2.0, 8.0, 1.0)];
        rounds[0].servers[1].protocol = "v0".into();
        rounds[0].servers[0].complete = false;
        rounds[0].servers[1].delay_ms_p50 = Some(50.0);
        let text = comparison(rounds).to_string();
        assert!(text.contains("protocols differ: ; v0"), "{text}");
        assert!(text.contains("from one in 1 rounds, which do not count"), "{text}");
        assert!(text.contains("other fell behind in 1 rounds"), "{text}");
    }

    #[test]
    fn faults_are_said_and_fail_the_comparison_but_for_freezes() {
        let mut rounds = vec![round(2.0, 8.0, 1.0), round(2.0, 8.0, 1.0)];
        rounds[0].servers[0].faults = vec!["video stood still for 2.000 % of the time".into()];
        let sound = comparison(rounds.clone());
        assert!(sound.to_string().contains("mind: faults of one in round 1: video stood still"), "{sound}");
        sound.check().unwrap();

        rounds[1].servers[1].faults = vec!["too few".into(), "too late".into()];
        let unsound = comparison(rounds);
        assert!(unsound.to_string().contains("mind: faults of other in round 2: too few; too late\n"), "{unsound}");
        assert!(unsound.check().unwrap_err().to_string().contains("faults of other in 1 of 2 rounds"));
    }

    #[test]
    fn what_a_server_dropped_is_summed_by_reason() {
        let mut rounds = vec![round(2.0, 8.0, 1.0), round(2.0, 8.0, 1.0)];
        let drops = |count| Some(BTreeMap::from([("overrun".to_owned(), count)]));
        (rounds[0].servers[0].server_drops, rounds[1].servers[0].server_drops) = (drops(5), drops(7));
        rounds[1].servers[1].server_drops_unknown = Some("it does not answer".into());
        let text = comparison(rounds).to_string();
        assert!(text.contains("one dropped by its own count, in all rounds: overrun 12"), "{text}");
        assert!(text.contains("other dropped is not known in 1 rounds: it does not answer"), "{text}");
        assert!(text.contains("dropped by the server") && text.contains("6.00 (5.00..7.00)"), "{text}");
    }

    #[test]
    fn everything_can_be_computed_again_from_what_was_written() {
        let comparison = comparison(vec![round(2.0, 8.0, 1.0), round(3.0, 7.0, 1.1)]);
        let text = serde_json::to_string(&comparison).unwrap();
        let again = Comparison::of(serde_json::from_str(&text).unwrap());
        assert_eq!(again.to_string(), comparison.to_string());
    }
}
