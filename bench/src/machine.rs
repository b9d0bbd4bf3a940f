//! Which machine, and how busy: figures mean nothing without.

use std::fmt;
use std::fs;

use procfs::{CpuInfo, Current as _, LoadAverage};
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
        Self {
            cpu: CpuInfo::current().map_or_else(|_| "unknown".to_owned(), |cpus| cpu_name(&cpus)),
            cores: online_cores(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
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

/// Name, clock rate, family and model of the first core: a hypervisor may hide which one it is.
fn cpu_name(cpus: &CpuInfo) -> String {
    let value = |key: &str| cpus.get_field(0, key).unwrap_or("unknown");
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

/// Mean number of runnable threads over the last minute; zero if the system does not say.
pub fn load_average() -> f64 {
    LoadAverage::current().map_or(0.0, |load| f64::from(load.one))
}

#[cfg(test)]
mod tests {
    use procfs::FromRead as _;

    use super::*;

    #[test]
    fn the_cpu_has_the_name_of_its_first_core() {
        let text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: A (R) CPU\ncpu MHz\t\t: 3300.1\n\nprocessor\t: 1\n";
        assert_eq!(
            cpu_name(&CpuInfo::from_read(text.as_bytes()).unwrap()),
            "A (R) CPU (family 25, model 17, 3300.1 MHz)"
        );
    }
}
