//! What `/proc` tells about the server and the machine.

use std::fs;

use anyhow::Context as _;
use serde::Serialize;

/// A process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProcessUsage {
    /// CPU of all its threads since its start, in nanoseconds; exact to a clock tick.
    pub cpu_ns: u64,
    /// Time that its living threads were ready to run but had no core, in nanoseconds.
    pub waited_ns: u64,
    pub rss_bytes: u64,
    pub threads: u64,
    /// Voluntary and involuntary, of the threads that are alive.
    pub context_switches: u64,
}

impl ProcessUsage {
    /// Reads the usage of process `pid`.
    ///
    /// # Errors
    ///
    /// When there is no such process, or it belongs to another user.
    pub fn read(pid: u32) -> anyhow::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid}"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let (ticks, threads) = parse_stat(&stat).with_context(|| format!("an odd /proc/{pid}/stat"))?;
        // SAFETY: no memory is involved.
        let ticks_per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1);
        Ok(Self {
            cpu_ns: ticks * 1_000_000_000 / ticks_per_second,
            waited_ns: waited_ns(pid),
            rss_bytes: status_value(&status, "VmRSS:").unwrap_or(0) * 1_024,
            threads,
            context_switches: context_switches(pid),
        })
    }
}

/// User and system ticks, and the number of threads.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    // The name in brackets may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((field(11)? + field(12)?, field(17)?))
}

pub(crate) fn status_value(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// The second field of `schedstat`; zero where the kernel does not account for it.
fn waited_ns(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

fn context_switches(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .map(|status| {
            let value = |name| status_value(&status, name).unwrap_or(0);
            value("voluntary_ctxt_switches:") + value("nonvoluntary_ctxt_switches:")
        })
        .sum()
}

/// CPU time of the whole machine in clock ticks: used, and altogether.
pub fn machine_ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let all = fields.iter().take(8).sum::<u64>();
    let idle = fields.iter().skip(3).take(2).sum::<u64>();
    (all - idle, all)
}

/// Cores of the machine, whichever of them this process may use.
pub fn cores() -> usize {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count().max(1)
}

/// Mean number of runnable threads over the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_confuse() {
        let stat = "12 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 70 30 0 0 20 0 9 0 1 1 1";
        assert_eq!(parse_stat(stat), Some((100, 9)));
    }

    #[test]
    fn this_process_has_memory_and_a_stranger_none() {
        assert!(ProcessUsage::read(std::process::id()).unwrap().rss_bytes > 0);
        assert!(ProcessUsage::read(u32::MAX).is_err());
    }
}
