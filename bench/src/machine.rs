//! Which machine, and how busy: figures mean nothing without.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// The machine at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// Mean number of runnable threads over the last minute, ours included.
    pub load_average: f64,
}

impl Machine {
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu_name(&text("/proc/cpuinfo")),
            cores: online_cores(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load_average(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, kernel, load_average } = self;
        write!(f, "{cores} cores of {cpu}, Linux {kernel}, load average {load_average:.1}")
    }
}

/// Name, clock rate, family and model: a hypervisor may hide which one it is.
fn cpu_name(cpuinfo: &str) -> String {
    let value = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim())
    };
    format!(
        "{} (family {}, model {}, {} MHz)",
        value("model name"),
        value("cpu family"),
        value("model"),
        value("cpu MHz")
    )
}

/// Cores of the machine, whatever the calling thread may use.
fn online_cores() -> usize {
    // SAFETY: no memory is involved.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
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
    fn the_cpu_has_the_name_of_its_first_core() {
        let text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: A (R) CPU\ncpu MHz\t\t: 3300.1\n\nprocessor\t: 1\n";
        assert_eq!(cpu_name(text), "A (R) CPU (family 25, model 17, 3300.1 MHz)");
    }
}
