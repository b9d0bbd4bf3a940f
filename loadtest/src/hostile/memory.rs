//! The memory of the server's process, and its highest value since a moment.

use std::fs;

use crate::procfs::{ProcessUsage, status_value};

/// Resets `VmHWM` (proc(5), `clear_refs`).
const FORGET_PEAK: &str = "5";

/// Reads the memory of one process, or of none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pid: Option<u32>,
}

impl Memory {
    pub(super) fn of(pid: Option<u32>) -> Self {
        Self { pid }
    }

    /// Resident bytes; `None` without a process.
    pub(super) fn now(self) -> Option<u64> {
        ProcessUsage::read(self.pid?).ok().map(|usage| usage.rss_bytes).filter(|&bytes| bytes > 0)
    }

    /// Highest resident bytes since [`Self::forget_peak`], or since the start of the process where that is not allowed.
    pub(super) fn peak(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid?)).ok()?;
        status_value(&status, "VmHWM:").map(|kib| kib << 10)
    }

    pub(super) fn forget_peak(self) {
        if let Some(pid) = self.pid {
            // Another user's process: its peak is then that of its whole life.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), FORGET_PEAK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_seen_after_it_is_over_and_forgotten_on_demand() {
        let memory = Memory::of(Some(std::process::id()));
        memory.forget_peak();
        let before = memory.peak().unwrap();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        drop(block);
        assert!(memory.peak().unwrap() >= before + (32 << 20));
        memory.forget_peak();
        assert!(memory.peak().unwrap() < before + (32 << 20));
        assert_eq!(Memory::of(None).now(), None);
    }
}
