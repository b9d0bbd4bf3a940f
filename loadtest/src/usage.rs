//! What the server and the machine use, as `/proc` tells it.

use anyhow::Context as _;
use procfs::process::{Process, Status};
use procfs::{Current as _, CurrentSI as _, KernelStats, LoadAverage};
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
        let process = Process::new(pid.cast_signed()).with_context(|| format!("no process {pid}"))?;
        let (stat, status) = (process.stat()?, process.status()?);
        let mut usage = Self {
            cpu_ns: (stat.utime + stat.stime) * 1_000_000_000 / procfs::ticks_per_second().max(1),
            rss_bytes: status.vmrss.unwrap_or(0) << 10,
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            ..Self::default()
        };
        for thread in process.tasks()?.flatten() {
            // Zero where the kernel does not account for it, or the thread has just ended.
            usage.waited_ns += thread.schedstat().map_or(0, |of_it| of_it.run_delay);
            usage.context_switches += thread.status().map_or(0, |status| context_switches(&status));
        }
        Ok(usage)
    }
}

fn context_switches(status: &Status) -> u64 {
    status.voluntary_ctxt_switches.unwrap_or(0) + status.nonvoluntary_ctxt_switches.unwrap_or(0)
}

/// CPU time of the whole machine in clock ticks: used, and altogether.
pub fn machine_ticks() -> (u64, u64) {
    let Ok(KernelStats { total, .. }) = KernelStats::current() else { return (0, 0) };
    let idle = total.idle + total.iowait.unwrap_or(0);
    let others = [total.irq, total.softirq, total.steal].into_iter().flatten().sum::<u64>();
    let used = total.user + total.nice + total.system + others;
    (used, used + idle)
}

/// Cores of the machine, whichever of them this process may use.
pub fn cores() -> usize {
    KernelStats::current().map_or(1, |stats| stats.cpu_time.len())
}

/// Mean number of runnable threads over the last minute; zero if the system does not say.
pub fn load_average() -> f64 {
    LoadAverage::current().map_or(0.0, |load| f64::from(load.one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_stranger_none() {
        let usage = ProcessUsage::read(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0 && usage.threads > 0 && usage.context_switches > 0, "{usage:?}");
        assert!(ProcessUsage::read(u32::MAX >> 1).is_err());
    }

    #[test]
    fn the_machine_has_cores_that_were_used() {
        let (used, all) = machine_ticks();
        assert!(0 < used && used < all, "{used} of {all}");
        assert!(cores() > 0);
    }
}
