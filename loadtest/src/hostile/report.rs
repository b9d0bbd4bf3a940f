//! Rows, verdicts and the table.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::innocents::{Observation, Probe};
use super::scene::Tally;
use crate::histogram::{Histogram, Percentiles};

/// By how much an attack may raise the server's memory.
const MEMORY_GROWTH_MAX: u64 = 128 << 20;
/// By how much it may raise the 95th percentile of a delay of the innocents, in milliseconds.
const DELAY_GROWTH_MAX_MS: f64 = 50.0;
/// Longest delay and longest silence of media that innocents do not take for an outage, in milliseconds.
const WORST_MAX_MS: f64 = 1_000.0;
/// What may go to an address that never answered.
const UNPROVEN_BYTES_MAX: u64 = 32 << 10;
/// How many sessions one token may open.
const SESSIONS_OF_ONE_MAX: u64 = 200;
/// What two who change themselves without a pause may have others told of it, in bytes a second.
const TOLD_BYTES_PER_S_MAX: u64 = 4_000_000;

/// What the innocents noticed in one phase. Times in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Phase {
    pub ping: Option<Percentiles>,
    pub room: Option<Percentiles>,
    pub media: Option<Percentiles>,
    pub join: Option<Percentiles>,
    pub http: Option<Percentiles>,
    /// Pings, requests and joins that were not answered at all.
    pub unanswered: usize,
    /// Packets that all viewers received together.
    pub packets: u64,
    /// Longest time in which a viewer received nothing.
    pub silence_ms: f64,
    /// Why innocents were thrown out.
    pub lost: Vec<String>,
}

impl Phase {
    /// What was seen from `from` to `to`; delays of media in nanoseconds.
    pub(super) fn of(seen: &[Observation], from: Instant, to: Instant, media: Option<Histogram>) -> Self {
        let mut phase = Self { media: media.and_then(|delays| delays.percentiles(1e6)), ..Self::default() };
        let within = |at: &Instant| (from..to).contains(at);
        let mut times = |wanted: Probe| {
            let mut histogram = Histogram::default();
            for observation in seen {
                if let Observation::Timed { probe, started, took, answered } = observation
                    && *probe == wanted
                    && within(started)
                {
                    histogram.record(took.as_nanos() as u64);
                    phase.unanswered += usize::from(!answered);
                }
            }
            histogram.percentiles(1e6)
        };
        let (ping, room, join, http) = (times(Probe::Ping), times(Probe::Room), times(Probe::Join), times(Probe::Http));
        (phase.ping, phase.room, phase.join, phase.http) = (ping, room, join, http);
        let mut last: Vec<(Instant, u64)> = Vec::new();
        for observation in seen {
            match observation {
                Observation::Packets { at, totals } if within(at) => {
                    if last.is_empty() {
                        last = totals.iter().map(|total| (from, *total)).collect();
                    }
                    for ((since, before), total) in last.iter_mut().zip(totals) {
                        phase.packets += total.saturating_sub(*before);
                        phase.silence_ms = phase.silence_ms.max(at.duration_since(*since).as_secs_f64() * 1e3);
                        // Silence begins with the last look that saw something new.
                        if *total > *before {
                            *since = *at;
                        }
                        *before = *total;
                    }
                }
                Observation::Lost { at, why } if within(at) => phase.lost.push(why.clone()),
                _ => {}
            }
        }
        phase
    }
}

/// Something that an attack achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The server's process is gone.
    Ended,
    /// Rooms could not be joined after the attack.
    NotAfresh,
    /// Innocents were thrown out.
    Lost,
    /// Innocents or newcomers were not answered at all.
    Unanswered,
    Memory,
    /// Delays of signalling.
    Signalling,
    /// Delays or silence of media.
    Media,
    /// Newcomers waited.
    Door,
    /// An address that had shown nothing got media.
    Unproven,
    /// One token opened many sessions.
    Sessions,
    /// Members of a room were told of changes without end.
    Told,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Ended => "THE SERVER HAS ENDED",
            Self::NotAfresh => "rooms cannot be joined",
            Self::Lost => "innocents thrown out",
            Self::Unanswered => "innocents not answered",
            Self::Memory => "memory",
            Self::Signalling => "signalling delayed",
            Self::Media => "media delayed",
            Self::Door => "joins or HTTP delayed",
            Self::Unproven => "media to an unproven address",
            Self::Sessions => "many sessions of one token",
            Self::Told => "changes told without end",
        }
    }
}

/// One attack, or several at once.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub name: String,
    pub quiet: Phase,
    pub attack: Phase,
    /// From the end of the attack to the end of the row.
    pub after: Phase,
    /// Resident memory of the server; `None` if its process was not named.
    pub before_bytes: Option<u64>,
    pub peak_bytes: Option<u64>,
    pub after_bytes: Option<u64>,
    /// Rooms that could be joined after the attack, media included, of how many that were tried.
    pub afresh: (usize, usize),
    /// The server's process has ended; known if this program started it.
    pub has_ended: bool,
    pub attackers: Vec<Tally>,
}

impl Row {
    /// What the attack achieved; nothing if the server held.
    pub fn faults(&self) -> Vec<Fault> {
        let worse = |quiet: Option<Percentiles>, attack: Option<Percentiles>| match (quiet, attack) {
            (Some(quiet), Some(attack)) => {
                attack.p95 > quiet.p95 + DELAY_GROWTH_MAX_MS || attack.max > quiet.max + WORST_MAX_MS
            }
            _ => false,
        };
        let (quiet, attack, after) = (&self.quiet, &self.attack, &self.after);
        let growth = self.peak_bytes.zip(self.before_bytes).map_or(0, |(peak, before)| peak.saturating_sub(before));
        let silence = attack.silence_ms.max(after.silence_ms);
        let unproven = self.attackers.iter().filter_map(|attacker| attacker.unproven_bytes).max().unwrap_or(0);
        let sessions = self.attackers.iter().filter_map(|attacker| attacker.sessions_of_one).max().unwrap_or(0);
        let told = self.attackers.iter().filter_map(|attacker| attacker.told_bytes_per_s).max().unwrap_or(0);
        let found = [
            (Fault::Ended, self.has_ended),
            (Fault::NotAfresh, self.afresh.0 < self.afresh.1),
            (Fault::Lost, !attack.lost.is_empty() || !after.lost.is_empty()),
            (Fault::Unanswered, attack.unanswered > quiet.unanswered),
            (Fault::Memory, growth > MEMORY_GROWTH_MAX),
            (Fault::Signalling, worse(quiet.ping, attack.ping) || worse(quiet.room, attack.room)),
            (Fault::Media, worse(quiet.media, attack.media) || silence > WORST_MAX_MS),
            (Fault::Door, worse(quiet.join, attack.join) || worse(quiet.http, attack.http)),
            (Fault::Unproven, unproven > UNPROVEN_BYTES_MAX),
            (Fault::Sessions, sessions > SESSIONS_OF_ONE_MAX),
            (Fault::Told, told > TOLD_BYTES_PER_S_MAX),
        ];
        found.into_iter().filter_map(|(fault, is_there)| is_there.then_some(fault)).collect()
    }

    /// `held`, or what the attack achieved.
    pub fn verdict(&self) -> String {
        match &self.faults()[..] {
            [] => "held".to_owned(),
            faults => faults.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", "),
        }
    }
}

/// All rows of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub url: String,
    /// Runnable threads of the machine in the minute before the run.
    pub load_average: f64,
    pub rows: Vec<Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{} attacks on {}, load average {:.1} before. Milliseconds of the innocents: 95th percentile in quiet -> \
             under attack (worst).\nMemory of the server in MiB: before -> peak -> after. Afresh: rooms that could be \
             joined afterwards.\n",
            self.rows.len(),
            self.url,
            self.load_average
        )?;
        let head = ["attack", "ping", "room", "media", "silence", "join", "http", "memory", "afresh"];
        let cells: Vec<[String; 9]> = self.rows.iter().map(cells).collect();
        let width = |column: usize| {
            cells.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let line = |row: &[&str]| -> String {
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect()
        };
        writeln!(out, "{}verdict", line(&head))?;
        for (row, cells) in self.rows.iter().zip(&cells) {
            let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
            writeln!(out, "{}{}", line(&cells), row.verdict())?;
        }
        writeln!(out)?;
        for attacker in self.rows.iter().flat_map(|row| &row.attackers) {
            writeln!(out, "{attacker}")?;
        }
        Ok(())
    }
}

fn cells(row: &Row) -> [String; 9] {
    let pair = |of: fn(&Phase) -> Option<Percentiles>| match (of(&row.quiet), of(&row.attack)) {
        (Some(quiet), Some(attack)) => {
            format!("{} -> {} ({})", milliseconds(quiet.p95), milliseconds(attack.p95), milliseconds(attack.max))
        }
        (_, Some(attack)) => format!("- -> {} ({})", milliseconds(attack.p95), milliseconds(attack.max)),
        _ => "-".to_owned(),
    };
    let mib = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string());
    let memory = [row.before_bytes, row.peak_bytes, row.after_bytes].map(mib).join(" -> ");
    [
        row.name.clone(),
        pair(|phase| phase.ping),
        pair(|phase| phase.room),
        pair(|phase| phase.media),
        milliseconds(row.attack.silence_ms.max(row.after.silence_ms)),
        pair(|phase| phase.join),
        pair(|phase| phase.http),
        memory,
        format!("{}/{}", row.afresh.0, row.afresh.1),
    ]
}

fn milliseconds(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ping(started: Instant, took_ms: u64) -> Observation {
        let took = Duration::from_millis(took_ms);
        Observation::Timed { probe: Probe::Ping, started, took, answered: true }
    }

    fn row(observations: &[Observation], start: Instant) -> Row {
        let (attack, end) = (start + Duration::from_secs(2), start + Duration::from_secs(4));
        Row {
            name: "attack".into(),
            quiet: Phase::of(observations, start, attack, None),
            attack: Phase::of(observations, attack, end, None),
            after: Phase::default(),
            before_bytes: Some(50 << 20),
            peak_bytes: Some(60 << 20),
            after_bytes: Some(55 << 20),
            afresh: (4, 4),
            has_ended: false,
            attackers: Vec::new(),
        }
    }

    #[test]
    fn a_server_that_holds_has_no_fault() {
        let start = Instant::now();
        let pings: Vec<_> = (0..4).map(|second| ping(start + Duration::from_secs(second), 3)).collect();
        let row = row(&pings, start);
        assert_eq!((row.faults(), row.verdict().as_str()), (vec![], "held"));
    }

    #[test]
    fn late_pings_silence_memory_and_dead_rooms_are_faults() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let packets = |ms, first, second| Observation::Packets { at: at(ms), totals: vec![first, second] };
        let seen = [
            ping(at(0), 3),
            ping(at(2_500), 300),
            packets(2_100, 10, 10),
            packets(2_200, 20, 20),
            packets(3_000, 20, 30),
            packets(3_900, 20, 40),
        ];
        let mut row = row(&seen, start);
        assert_eq!(row.attack.packets, 40);
        assert!((1_690.0..1_710.0).contains(&row.attack.silence_ms), "{}", row.attack.silence_ms);
        assert_eq!(row.faults(), [Fault::Signalling, Fault::Media]);

        row.peak_bytes = Some(500 << 20);
        row.afresh = (2, 4);
        row.attackers = vec![Tally {
            unproven_bytes: Some(1 << 20),
            sessions_of_one: Some(20_000),
            told_bytes_per_s: Some(100_000_000),
            ..Tally::default()
        }];
        let all = [
            Fault::NotAfresh,
            Fault::Memory,
            Fault::Signalling,
            Fault::Media,
            Fault::Unproven,
            Fault::Sessions,
            Fault::Told,
        ];
        assert_eq!(row.faults(), all);
        let table = Report { url: "ws://x".into(), load_average: 0.0, rows: vec![row] }.to_string();
        assert!(table.contains("50 -> 500 -> 55") && table.contains("2/4"), "{table}");
    }
}
