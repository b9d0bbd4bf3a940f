//! The process and its build, by the names that Prometheus' own libraries use.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::proto::MetricType;

use super::Page;

/// The unit of `/proc/self/stat`: USER_HZ is 100 on every Linux.
const TICK_MS: u64 = 10;

pub(super) fn add(page: &mut Page<'_>, began: SystemTime) {
    let build = [("version", env!("CARGO_PKG_VERSION"))];
    page.metric("onair_build_info", "Always 1; the label tells the version.", MetricType::GAUGE, &[(&build, 1)]);
    let began = began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    page.value("process_start_time_seconds", "Start of the process, since 1970.", MetricType::GAUGE, began);
    if let Some(cpu) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_time(&stat)) {
        let help = "CPU time of the process, user and system.";
        page.value("process_cpu_seconds_total", help, MetricType::COUNTER, cpu.as_secs_f64());
    }
    let rest = [
        ("process_resident_memory_bytes", "Resident memory.", of_status("VmRSS:").map(|kib| kib * 1024)),
        ("process_virtual_memory_bytes", "Virtual memory.", of_status("VmSize:").map(|kib| kib * 1024)),
        ("process_threads", "Threads.", of_status("Threads:")),
        ("process_open_fds", "Open file descriptors.", open_files()),
        ("process_max_fds", "File descriptors that may be open.", file_limit()),
    ];
    // What this system does not tell is left out.
    for (name, help, value) in rest {
        if let Some(value) = value {
            page.metric(name, help, MetricType::GAUGE, &[(&[], value)]);
        }
    }
}

/// A number of `/proc/self/status` (proc_pid_status(5)).
fn of_status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time of `/proc/self/stat` (proc_pid_stat(5)), fields 14 and 15. The name before them may hold
/// spaces.
fn cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * TICK_MS))
}

fn open_files() -> Option<u64> {
    u64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

/// The soft limit of `/proc/self/limits` (proc_pid_limits(5)).
fn file_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn linux_tells_all_of_it() {
        let mut page = Page::new("ND_x");
        add(&mut page, UNIX_EPOCH + Duration::from_millis(1_700_000_000_500));

        let text = page.text();
        let numbers: HashMap<&str, f64> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| (line.split('{').next().unwrap(), line.rsplit(' ').next().unwrap().parse().unwrap()))
            .collect();
        let number = |name: &str| *numbers.get(name).unwrap_or_else(|| panic!("{name} is not told: {text}"));
        assert_eq!(number("onair_build_info"), 1.0);
        assert!(text.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{text}");
        assert_eq!(number("process_start_time_seconds"), 1_700_000_000.5);
        assert!(number("process_cpu_seconds_total") >= 0.0);
        let (resident, virtual_) = (number("process_resident_memory_bytes"), number("process_virtual_memory_bytes"));
        assert!(resident > 1_048_576.0 && resident <= virtual_, "bytes, not kibibytes: {resident} of {virtual_}");
        assert!(number("process_threads") >= 2.0, "this test's and the one that started it");
        let (open, limit) = (number("process_open_fds"), number("process_max_fds"));
        assert!(open > 2.0 && open <= limit, "{open} of {limit}");
    }

    #[test]
    fn cpu_time_is_that_of_programs_and_of_the_system_for_them() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 9 0 0 0 7 30 500 600 20 0 4 0 100";

        assert_eq!(cpu_time(stat), Some(Duration::from_millis(370)));
    }
}
