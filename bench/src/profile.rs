//! Where a worker's time goes: samples of `perf`, folded into a few parts.
//!
//! `perf` runs as a child process and must be installed; it may need root, or `kernel.perf_event_paranoid` at 1. Kernel
//! time belongs to the system call that it was spent in: with loopback, the delivery into the receivers' sockets is
//! part of sending.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Serialize;

/// Samples a second: prime, so that it meets no timer's beat.
const SAMPLE_RATE: &str = "1999";
/// What worker threads are called.
const WORKER: &str = "sfu-";
/// Symbols of [`Part::Rest`] that are named.
const REST_NAMED: usize = 5;

/// A part of a worker's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Send,
    Crypto,
    Rewrite,
    Feedback,
    Receive,
    Wait,
    Rest,
}

impl Part {
    const ALL: [Self; 7] =
        [Self::Send, Self::Crypto, Self::Rewrite, Self::Feedback, Self::Receive, Self::Wait, Self::Rest];

    fn name(self) -> &'static str {
        match self {
            Self::Send => "kernel: send, and delivery on loopback",
            Self::Crypto => "SRTP: AES-GCM",
            Self::Rewrite => "fan-out: choice, header, copy, runs",
            Self::Feedback => "feedback: RTCP, TWCC, NACK, reports",
            Self::Receive => "receive: kernel, demultiplexing, history",
            Self::Wait => "wait: epoll and wake-ups",
            Self::Rest => "everything else",
        }
    }

    /// The part of one sample; `frames` are its symbols, the innermost first.
    fn of(frames: &[&str]) -> Self {
        /// System calls, looked for anywhere in the stack, and then what the innermost known function is for.
        const CALLS: [(&str, Part); 5] = [
            ("sys_send", Part::Send),
            ("sys_recv", Part::Receive),
            ("sys_epoll", Part::Wait),
            ("sys_read", Part::Wait),
            ("sys_write", Part::Wait),
        ];
        const FUNCTIONS: [(&str, Part); 33] = [
            ("sendmmsg", Part::Send),
            ("recvmmsg", Part::Receive),
            ("epoll", Part::Wait),
            ("ring_core", Part::Crypto),
            ("ring::", Part::Crypto),
            ("srtp::", Part::Crypto),
            ("Srtp", Part::Crypto),
            ("rtcp", Part::Feedback),
            ("twcc", Part::Feedback),
            ("feedback", Part::Feedback),
            ("retransmit", Part::Feedback),
            ("report", Part::Feedback),
            ("nack", Part::Feedback),
            ("media_tick", Part::Feedback),
            ("memmove", Part::Rewrite),
            ("memcpy", Part::Rewrite),
            ("memset", Part::Rewrite),
            ("subscription::", Part::Rewrite),
            ("rewrite", Part::Rewrite),
            ("forward", Part::Rewrite),
            ("fan_out", Part::Rewrite),
            ("Outlet", Part::Rewrite),
            ("sfu::run", Part::Rewrite),
            ("vp8", Part::Rewrite),
            ("receive", Part::Receive),
            ("ReceiveBatch", Part::Receive),
            ("publication::", Part::Receive),
            ("history::", Part::Receive),
            ("sfu::rtp", Part::Receive),
            ("sfu::demux", Part::Receive),
            ("hash", Part::Receive),
            ("sfu::ice", Part::Feedback),
            ("sfu::codec", Part::Receive),
        ];
        let call = frames.iter().find_map(|frame| CALLS.iter().find(|(call, _)| frame.contains(call)));
        let function = || frames.iter().find_map(|frame| FUNCTIONS.iter().find(|(name, _)| frame.contains(name)));
        call.or_else(function).map_or(Self::Rest, |(_, part)| *part)
    }
}

/// Shares of a thread's time on the CPU.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    pub samples: usize,
    /// Of 1, in the order of [`Part`].
    pub shares: Vec<(Part, f64)>,
    /// The innermost symbols of the rest, with their shares.
    pub rest: Vec<(String, f64)>,
}

impl Profile {
    /// Folds what `perf script -F ip,sym` prints: an address and a symbol a line, an empty line behind each sample.
    fn fold(text: &str) -> Self {
        let mut counts = BTreeMap::<Part, usize>::new();
        let mut rest = BTreeMap::<&str, usize>::new();
        let mut samples = 0;
        for sample in text.split("\n\n") {
            let frames: Vec<&str> = sample.lines().filter_map(|line| Some(line.trim().split_once(' ')?.1)).collect();
            let Some(innermost) = frames.first() else { continue };
            samples += 1;
            let part = Part::of(&frames);
            *counts.entry(part).or_default() += 1;
            if part == Part::Rest {
                *rest.entry(innermost).or_default() += 1;
            }
        }
        let share = |count: usize| count as f64 / samples.max(1) as f64;
        let shares = Part::ALL.map(|part| (part, share(counts.get(&part).copied().unwrap_or(0)))).to_vec();
        let mut rest: Vec<(String, f64)> =
            rest.into_iter().map(|(name, count)| (name.to_owned(), share(count))).collect();
        rest.sort_by(|one, other| other.1.total_cmp(&one.1));
        rest.truncate(REST_NAMED);
        Self { samples, shares, rest }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} samples of the busiest worker", self.samples)?;
        for (part, share) in &self.shares {
            writeln!(f, "{:<42}{:>6.1} %", part.name(), share * 100.0)?;
        }
        for (symbol, share) in &self.rest {
            writeln!(f, "    {symbol:<38}{:>6.1} %", share * 100.0)?;
        }
        Ok(())
    }
}

/// Samples the busiest worker of the server `pid` for so many seconds.
///
/// # Errors
///
/// When it has no worker or no symbols, or `perf` is not there or not allowed.
pub fn measure(pid: u32, seconds: u64) -> anyhow::Result<Profile> {
    let thread = busiest_worker(pid)?.to_string();
    let executable = fs::read(format!("/proc/{pid}/exe")).with_context(|| format!("reading the binary of {pid}"))?;
    ensure!(has_symbols(&executable), "process {pid} has no symbols: build it with cargo build --profile profiling");
    let data = std::env::temp_dir().join(format!("bench-profile-{}.data", std::process::id()));
    let profile = record(&thread, seconds, &data).and_then(|()| script(&data));
    // A file left behind does no harm.
    let _ = fs::remove_file(&data);
    profile
}

/// Whether a binary has a symbol table. Without one all samples would be [`Part::Rest`].
fn has_symbols(executable: &[u8]) -> bool {
    /// As the table of section names has it, at the end of the file (System V ABI, chapter 4).
    const SECTION: &[u8] = b".symtab\0";
    executable.windows(SECTION.len()).rev().any(|bytes| bytes == SECTION)
}

fn record(thread: &str, seconds: u64, data: &Path) -> anyhow::Result<()> {
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-g", "-F", SAMPLE_RATE, "-t", thread, "-o"]).arg(data);
    perf.args(["--", "sleep", &seconds.to_string()]);
    let output = perf.output().context("running perf, which must be installed")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "perf record: {}", said.trim());
    Ok(())
}

fn script(data: &Path) -> anyhow::Result<Profile> {
    let output = Command::new("perf").args(["script", "-F", "ip,sym", "-i"]).arg(data).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "perf script: {}", said.trim());
    Ok(Profile::fold(&String::from_utf8_lossy(&output.stdout)))
}

/// The worker thread that has used the most CPU.
fn busiest_worker(pid: u32) -> anyhow::Result<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("no process {pid}"))?;
    let worker = |task: fs::DirEntry| {
        let text = |name: &str| fs::read_to_string(task.path().join(name)).ok();
        let name = text("comm")?;
        let cpu_ns: u64 = text("schedstat")?.split_whitespace().next()?.parse().ok()?;
        let thread: u32 = task.file_name().to_str()?.parse().ok()?;
        name.starts_with(WORKER).then_some((cpu_ns, thread))
    };
    let busiest = tasks.flatten().filter_map(worker).max();
    busiest.map(|(_, thread)| thread).with_context(|| format!("process {pid} has no thread named {WORKER}…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
        ffffffff9a \tskb_segment\n\
        ffffffff9b __x64_sys_sendmmsg\n\
        7fc0 sendmmsg\n\
        \n\
        55d0 ring_core_0_17_14__aes_gcm_enc_update_vaes_avx2\n\
        \n\
        55d1 __memmove_avx512_unaligned_erms\n\
        55d2 sfu::engine::forward::send_share\n\
        \n\
        55d3 tracing::span::Span::new\n\
        55d4 something\n\
        \n";

    #[test]
    fn samples_are_folded_by_system_call_and_then_by_the_innermost_function() {
        let profile = Profile::fold(TEXT);
        assert_eq!(profile.samples, 4);
        let with_time: Vec<Part> =
            profile.shares.iter().filter(|(_, share)| *share == 0.25).map(|(part, _)| *part).collect();
        assert_eq!(with_time, [Part::Send, Part::Crypto, Part::Rewrite, Part::Rest]);
        assert_eq!(profile.rest, [("tracing::span::Span::new".to_owned(), 0.25)]);
        assert!(profile.to_string().contains("everything else"));
    }

    #[test]
    fn a_binary_with_symbols_is_told_from_a_stripped_one() {
        assert!(has_symbols(&fs::read("/proc/self/exe").unwrap()));
        assert!(!has_symbols(b"\x7fELF\0.shstrtab\0.text\0"));
    }

    #[test]
    fn a_process_without_workers_cannot_be_profiled() {
        assert!(measure(std::process::id(), 1).is_err());
    }
}
