//! The least that sending the steady stream costs here and now.
//!
//! A bare loop does what no server can do without: one encryption and one copy for each packet of each viewer, frames
//! as `UDP_SEGMENT` runs, many runs in one `sendmmsg`, paced as media is. It receives nothing, looks nothing up, keeps
//! no history and takes no feedback. On loopback the sender also pays for the delivery into the receivers' sockets, as
//! every server measured here does.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::clock::{allowed_cores, pin, thread_cpu};
use crate::machine::Machine;
use crate::receivers::Receivers;
use crate::runs::{RunQueue, set_buffer};
use crate::stream::{Burst, Media, Schedule, Viewer};
use crate::summary::Summary;

/// The stream flows for this long before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// CPU is read once in each of these; the result is the median of all.
const SLICE: Duration = Duration::from_secs(1);
/// What is under way at the end arrives within this time.
const DRAIN: Duration = Duration::from_millis(300);
/// A burst that starts so much later than planned shows that the core was not enough.
const LATE: Duration = Duration::from_millis(5);

/// What [`measure`] found. CPU is the sending thread's.
#[derive(Debug, Clone, Serialize)]
pub struct Floor {
    pub cpu_us_per_packet: f64,
    /// Over slices of a second.
    pub cpu_us_per_packet_spread: Summary,
    pub viewers: usize,
    pub seconds: f64,
    pub packets_sent: u64,
    /// Not received: dropped at a full socket.
    pub packets_lost: u64,
    /// Packets in one `UDP_SEGMENT` run, on average.
    pub packets_per_run: f64,
    pub runs_per_system_call: f64,
    /// Share of bursts that started more than 5 ms late.
    pub late: f64,
    /// From when a burst was due until the system call returned that a viewer's part of it left with. A viewer has its
    /// part when all before it have theirs: no server on one core does much better, whatever its order.
    pub delay_ms_p50: f64,
    pub delay_ms_p99: f64,
    pub receivers: &'static str,
    pub machine: Machine,
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { viewers, seconds, packets_sent, packets_lost, packets_per_run, runs_per_system_call, .. } = self;
        writeln!(f, "floor                {:.2} µs CPU a packet", self.cpu_us_per_packet_spread)?;
        writeln!(f, "  viewers            {viewers}, {}", self.receivers)?;
        writeln!(f, "  packets            {packets_sent} in {seconds:.1} s, {packets_lost} lost")?;
        writeln!(f, "  runs               {packets_per_run:.1} packets each, {runs_per_system_call:.1} a system call")?;
        writeln!(f, "  late bursts        {:.1} %", self.late * 100.0)?;
        writeln!(f, "  delay              p50 {:.2} ms, p99 {:.2} ms", self.delay_ms_p50, self.delay_ms_p99)?;
        write!(f, "  machine            {}", self.machine)
    }
}

/// Sends the steady stream to `viewers` sockets on loopback for `duration`.
///
/// The sender runs on the first core that it may use, the receivers on the second.
///
/// # Errors
///
/// When sockets or threads cannot be had, or sending fails.
pub fn measure(viewers: usize, duration: Duration) -> anyhow::Result<Floor> {
    ensure!(viewers > 0, "there must be a viewer");
    ensure!(duration >= SLICE, "at least one second, to take a median of");
    let cores = allowed_cores()?;
    let receivers = Receivers::open(viewers, Ipv4Addr::LOCALHOST, cores.get(1).copied())?;
    // A thread of its own, so that the caller stays where it is.
    std::thread::scope(|scope| {
        let send = || {
            if let (Some(&core), true) = (cores.first(), cores.len() > 1) {
                pin(core).context("pinning the sender")?;
            }
            send(&receivers, duration)
        };
        scope.spawn(send).join().expect("the sender does not panic")
    })
}

fn send(receivers: &Receivers, duration: Duration) -> anyhow::Result<Floor> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    set_buffer(socket.as_raw_fd(), libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, 8 << 20);
    let sender = Sender { runs: RunQueue::new(socket.as_raw_fd()), addresses: receivers.addresses() };
    stream(sender, receivers, duration)
}

/// A UDP socket, and where each viewer is.
struct Sender<'a> {
    runs: RunQueue,
    addresses: &'a [SocketAddrV4],
}

/// Sends the steady stream from the calling thread.
fn stream(mut sender: Sender<'_>, receivers: &Receivers, duration: Duration) -> anyhow::Result<Floor> {
    let mut viewers: Vec<Viewer> = (0..receivers.addresses().len()).map(Viewer::new).collect();
    let (before, received_before) = (sender.runs.counts(), receivers.received());
    let (mut slices, mut delays) = (Slices::default(), Delays::default());
    let start = Instant::now();
    let (mut bursts, mut late) = (0_u32, 0_u32);
    for burst in Schedule::default().take_while(|burst| burst.due < WARM_UP + duration) {
        let lateness = wait_until(start + burst.due);
        if burst.due >= WARM_UP {
            slices.look(start + burst.due, sender.runs.counts().datagrams);
            bursts += 1;
            late += u32::from(lateness > LATE);
        }
        let counted = (burst.due >= WARM_UP).then_some(&mut delays);
        send_burst(&mut sender, &mut viewers, burst, start + burst.due, counted).context("sending")?;
    }
    slices.end(sender.runs.counts().datagrams);
    std::thread::sleep(DRAIN);
    let counts = sender.runs.counts().since(before);
    let spread = Summary::of(slices.costs_us).context("nothing was measured")?;
    Ok(Floor {
        cpu_us_per_packet: spread.median,
        cpu_us_per_packet_spread: spread,
        viewers: viewers.len(),
        seconds: duration.as_secs_f64(),
        packets_sent: counts.datagrams,
        packets_lost: counts.datagrams.saturating_sub(receivers.received() - received_before),
        packets_per_run: counts.datagrams as f64 / counts.runs.max(1) as f64,
        runs_per_system_call: counts.runs as f64 / counts.system_calls.max(1) as f64,
        late: f64::from(late) / f64::from(bursts.max(1)),
        delay_ms_p50: delays.percentile_ms(50),
        delay_ms_p99: delays.percentile_ms(99),
        receivers: "each with its own socket, without GRO, emptied by one thread on another core",
        machine: Machine::read(),
    })
}

fn send_burst(
    sender: &mut Sender<'_>,
    viewers: &mut [Viewer],
    burst: Burst,
    due: Instant,
    mut delays: Option<&mut Delays>,
) -> io::Result<()> {
    const PAYLOAD: [u8; Media::Video.payload_bytes()] = [0x17; _];
    // Viewers whose parts are queued, and the system calls before them.
    let (mut queued, mut calls) = (0, sender.runs.counts().system_calls);
    for (number, viewer) in viewers.iter_mut().enumerate() {
        let write = |packet: &mut [u8]| viewer.write(burst.media, &PAYLOAD, packet);
        sender.runs.push(sender.addresses[number], burst.packets, burst.media.packet_bytes(), write)?;
        if sender.runs.counts().system_calls > calls {
            calls = sender.runs.counts().system_calls;
            note(&mut delays, due, queued * burst.packets);
            queued = 0;
        }
        queued += 1;
    }
    sender.runs.flush()?;
    note(&mut delays, due, queued * burst.packets);
    Ok(())
}

fn note(delays: &mut Option<&mut Delays>, due: Instant, packets: usize) {
    if let Some(delays) = delays {
        delays.add(due.elapsed(), packets as u64);
    }
}

/// Packets by delay, in steps of [`Delays::STEP`]; the last step holds all that are longer.
struct Delays {
    packets: Vec<u64>,
}

impl Default for Delays {
    fn default() -> Self {
        Self { packets: vec![0; Self::STEPS] }
    }
}

impl Delays {
    const STEP: Duration = Duration::from_micros(20);
    const STEPS: usize = 25_000;

    fn add(&mut self, delay: Duration, packets: u64) {
        let step = (delay.as_nanos() / Self::STEP.as_nanos()) as usize;
        self.packets[step.min(Self::STEPS - 1)] += packets;
    }

    fn percentile_ms(&self, percent: u64) -> f64 {
        let rank = self.packets.iter().sum::<u64>() * percent / 100;
        let mut below = 0;
        let step = self.packets.iter().position(|packets| {
            below += packets;
            below > rank
        });
        step.unwrap_or(0) as f64 * Self::STEP.as_secs_f64() * 1e3
    }
}

/// Sleeps, and gives how late it is afterwards.
fn wait_until(due: Instant) -> Duration {
    if let Some(left) = due.checked_duration_since(Instant::now()) {
        std::thread::sleep(left);
    }
    due.elapsed()
}

/// Cost of each slice of time.
#[derive(Default)]
struct Slices {
    since: Option<(Instant, Duration, u64)>,
    costs_us: Vec<f64>,
}

impl Slices {
    fn look(&mut self, now: Instant, sent: u64) {
        match self.since {
            None => self.since = Some((now, thread_cpu(), sent)),
            Some((since, ..)) if now - since >= SLICE => {
                self.end(sent);
                self.since = Some((now, thread_cpu(), sent));
            }
            Some(_) => {}
        }
    }

    fn end(&mut self, sent: u64) {
        if let Some((_, cpu, before)) = self.since.take()
            && sent > before
        {
            let used = thread_cpu() - cpu;
            self.costs_us.push(used.as_secs_f64() * 1e6 / (sent - before) as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_count_packets() {
        let mut delays = Delays::default();
        delays.add(Duration::from_millis(1), 98);
        delays.add(Duration::from_millis(10), 2);
        delays.add(Duration::from_secs(10), 0);
        assert_eq!([delays.percentile_ms(50), delays.percentile_ms(99)], [1.0, 10.0]);
        assert_eq!(Delays::default().percentile_ms(99), 0.0);
    }

    #[test]
    fn a_few_viewers_get_every_packet() {
        let floor = measure(3, Duration::from_secs(1)).unwrap();
        assert_eq!(floor.packets_lost, 0);
        assert!(floor.packets_sent.abs_diff(3 * 2 * 270) <= 3 * 10, "{floor}");
        assert!(floor.cpu_us_per_packet > 0.0);
        assert!(floor.packets_per_run > 3.0);
        assert!(floor.delay_ms_p50 > 0.0 && floor.delay_ms_p99 >= floor.delay_ms_p50);
    }
}
