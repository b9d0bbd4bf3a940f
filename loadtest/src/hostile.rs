//! Attacks on a LiveKit server, one by one, and what an innocent room beside them notices.
//!
//! Some attackers joined with a token and then send what no client sends, over signalling, SCTP, SRTP or STUN; others
//! are strangers without one. Each attack is a row with two oracles: the memory of the server's process, and the delays
//! of innocents, who ping, ask their room, send and receive media, and join afresh.
//!
//! - `hostile/options.rs`: what a run is told
//! - `hostile/attack.rs`, `attacks/*.rs`: the attacks
//! - `hostile/scene.rs`: what an attack works with
//! - `hostile/peer.rs`, `sctp.rs`: a joined attacker, down to its bytes
//! - `hostile/stranger.rs`: connections without a token
//! - `hostile/innocents.rs`: those who must not notice
//! - `hostile/memory.rs`, `server.rs`: the server's process
//! - `hostile/report.rs`: rows, verdicts, the table

mod attack;
mod attacks;
mod innocents;
mod memory;
mod options;
mod peer;
mod report;
mod scene;
mod sctp;
mod server;
mod stranger;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

pub use self::attack::{Attack, Kind, list};
pub use self::options::Options;
pub use self::report::{Fault, Report, Row};

use self::innocents::Innocents;
use self::memory::Memory;
use self::report::Phase;
use self::scene::{Scene, Tally};
use self::server::Server;
use self::stranger::Target;
use crate::client::local_ip;
use crate::usage::load_average;

/// An attack that does not end by itself this long after its time, joins before it included, is given up.
const OVERTIME_MAX: Duration = Duration::from_secs(10);
/// How much less the attacker counts for the scheduler than the innocents in the same process: a real one has a machine
/// of its own, and what the innocents notice shall be the server's.
const ATTACKER_NICENESS: libc::c_int = 10;

/// Runs the chosen attacks, and calls `tell` with each row.
///
/// # Errors
///
/// When the server does not answer, no innocent can join before an attack, or an attack's name is unknown.
pub async fn run(options: Options, mut tell: impl FnMut(&Row)) -> anyhow::Result<Report> {
    let chosen = attack::choose(&options.only)?;
    raise_descriptors();
    let groups: Vec<Vec<&'static Attack>> =
        if options.together { vec![chosen] } else { chosen.into_iter().map(|attack| vec![attack]).collect() };
    let load_at_start = load_average();
    let mut rows = Vec::with_capacity(groups.len());
    for group in groups {
        let name = group.iter().map(|attack| attack.name).collect::<Vec<_>>().join(" + ");
        if !options.quiet {
            eprintln!("{name}: {}", group.iter().map(|attack| attack.about).collect::<Vec<_>>().join("; "));
        }
        let row = attack_with(&options, name.clone(), &group).await.with_context(|| format!("before {name}"))?;
        tell(&row);
        rows.push(row);
    }
    Ok(Report { url: options.url, load_average: load_at_start, rows })
}

/// One row: innocents settle in, are measured in quiet, under attack, and afterwards.
async fn attack_with(options: &Options, name: String, attacks: &[&Attack]) -> anyhow::Result<Row> {
    let server = match &options.start {
        Some(command) => Some(Server::start(command, &options.url).await?),
        None => None,
    };
    let memory = Memory::of(server.as_ref().map(Server::pid).or(options.pid));
    let local_ip = match options.media_ip {
        Some(ip) => ip,
        None => local_ip(&options.url).await?,
    };
    let innocents = Innocents::join(options).await.context("the innocents cannot join")?;
    innocents.measure_anew();
    let quiet_from = Instant::now();
    sleep(options.quiet_time).await;
    let before_bytes = memory.now();
    let quiet_delays = innocents.media_delays().await;

    memory.forget_peak();
    innocents.measure_anew();
    let attack_from = Instant::now();
    let attackers = launch(options, local_ip, attacks).await?;
    let attack_to = Instant::now();
    let peak_bytes = memory.peak();
    let attack_delays = innocents.media_delays().await;

    sleep(options.settle_time).await;
    let after_bytes = memory.now();
    let afresh = innocents.join_afresh(options).await;
    let observations = innocents.stop();
    Ok(Row {
        name,
        quiet: Phase::of(&observations, quiet_from, attack_from, quiet_delays),
        attack: Phase::of(&observations, attack_from, attack_to, attack_delays),
        after: Phase::of(&observations, attack_to, Instant::now(), None),
        before_bytes,
        peak_bytes,
        after_bytes,
        afresh,
        has_ended: server.is_some_and(|mut server| server.has_ended()),
        attackers,
    })
}

async fn launch(options: &Options, local_ip: IpAddr, attacks: &[&Attack]) -> anyhow::Result<Vec<Tally>> {
    let target = Target::parse(&options.url)?;
    let lowered = lower_priority();
    let launched = attacks.iter().enumerate().map(|(number, attack)| {
        let scene = Scene::new(options, attack.name, target.clone(), local_ip, number);
        async move {
            match timeout(options.duration + OVERTIME_MAX, (attack.run)(&scene)).await {
                Ok(Ok(())) => {}
                // Being thrown out ends an attack, not the run.
                Ok(Err(error)) => scene.note(format!("{error:#}")),
                Err(_) => scene.note("did not end in time"),
            }
            scene.tally()
        }
    });
    let tallies = join_all(launched).await;
    drop(lowered);
    Ok(tallies)
}

/// Raises the number of descriptors to what the system allows.
fn raise_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place to read from and to write to.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Lowers the priority of this thread; it comes back, where the system allows, with the value's end.
fn lower_priority() -> Lowered {
    set_niceness(ATTACKER_NICENESS);
    Lowered
}

struct Lowered;

impl Drop for Lowered {
    fn drop(&mut self) {
        set_niceness(0);
    }
}

fn set_niceness(niceness: libc::c_int) {
    // SAFETY: no memory is involved; on Linux 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
}
