//! The memory of the server's process, and its highest value since a moment.

use procfs::process::{ClearRefs, Process, Status};

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
        self.status()?.vmrss.map(|kib| kib << 10).filter(|&bytes| bytes > 0)
    }

    /// Highest resident bytes since [`Self::forget_peak`], or since the start of the process where that is not allowed.
    pub(super) fn peak(self) -> Option<u64> {
        self.status()?.vmhwm.map(|kib| kib << 10)
    }

    pub(super) fn forget_peak(self) {
        if let Some(process) = self.process() {
            // Another user's process: its peak is then that of its whole life.
            let _ = process.clear_refs(ClearRefs::PeakRSS);
        }
    }

    fn process(self) -> Option<Process> {
        Process::new(self.pid?.cast_signed()).ok()
    }

    fn status(self) -> Option<Status> {
        self.process()?.status().ok()
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
