//! What a chat message costs to deliver: one room, many sockets, beside the same room on Node's socket.io.
//!
//! `cargo bench -p onair --bench chat -- [--sockets 5000] [--rate 40] [--seconds 20] [--no-node]`. Node needs
//! `npm ci` in `bench/chat`. Servers are processes of their own; what they cost is read from `/proc`. The clients here
//! are as cheap as can be: they cut frames, and parse nothing but the time in the text.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;

/// Set in the process that may open enough files.
const RAISED: &str = "ONAIR_BENCH_RAISED";

/// Seconds between two messages of one writer, so that no limit of the server is met.
const WRITER_PAUSE: u32 = 5;

struct Arguments {
    sockets: usize,
    rate: u32,
    seconds: u64,
    node: bool,
}

fn main() -> anyhow::Result<()> {
    if std::env::var_os(RAISED).is_none() {
        let myself = std::env::current_exe()?;
        let script = r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#;
        let error =
            Command::new("sh").args(["-c", script]).arg(myself).args(std::env::args().skip(1)).env(RAISED, "1").exec();
        return Err(error.into());
    }
    let arguments = Arguments::read()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::current_exe()?.parent().and_then(Path::parent).context("no target directory")?.to_owned();
    let mut costs = Vec::new();
    let mut servers = vec![("onair", Command::new(target.join("examples/chat_server")))];
    if arguments.node {
        let mut node = Command::new("node");
        node.arg(root.join("../bench/chat/server.mjs"));
        servers.push(("socket.io", node));
    }
    println!("{} sockets, {} messages/s, {} s", arguments.sockets, arguments.rate, arguments.seconds);
    for (name, command) in servers {
        let server = Server::start(command).with_context(|| format!("{name} does not start"))?;
        let figures = runtime.block_on(measure(&server, &arguments))?;
        println!("{name:>10}: {figures}");
        costs.push(figures.cpu_per_delivery_us);
    }
    if let [ours, theirs] = costs[..] {
        println!("     ratio: {:.1} times cheaper a delivery", theirs / ours);
    }
    Ok(())
}

impl Arguments {
    fn read() -> anyhow::Result<Self> {
        let mut arguments = Self { sockets: 5000, rate: 40, seconds: 20, node: true };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number =
                || words.next().and_then(|text| text.parse::<u64>().ok()).context(format!("{word} takes a number"));
            match word.as_str() {
                "--sockets" => arguments.sockets = usize::try_from(number()?)?,
                "--rate" => arguments.rate = u32::try_from(number()?)?,
                "--seconds" => arguments.seconds = number()?,
                "--no-node" => arguments.node = false,
                // Cargo's own.
                "--bench" => {}
                other => bail!("unknown argument {other}"),
            }
        }
        Ok(arguments)
    }
}

/// A server's process; ends with this value.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("no output")?).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("no address: {line:?}"))?;
        Ok(Self { process, address })
    }

    /// Processor time so far, in seconds.
    fn cpu_s(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after_name = stat.rsplit(')').next().context("no stat")?;
        let ticks: Vec<f64> = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
        // A tick is 10 ms on every Linux there is.
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }

    /// Memory, in kilobytes.
    fn resident_kb(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).context("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Figures {
    delivered_share: f64,
    cpu_share: f64,
    cpu_per_delivery_us: f64,
    latency_ms: [f64; 3],
    resident_per_socket_kb: f64,
    joins_per_s: f64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p95, p99] = self.latency_ms;
        write!(
            f,
            "{:.2} % delivered, {:.0} % of a core, {:.2} µs a delivery, latency {p50:.0}/{p95:.0}/{p99:.0} ms (p50/p95/p99), \
             {:.1} kB a socket, {:.0} joins/s",
            self.delivered_share * 100.0,
            self.cpu_share * 100.0,
            self.cpu_per_delivery_us,
            self.resident_per_socket_kb,
            self.joins_per_s
        )
    }
}

/// What all clients share.
struct Shared {
    start: Instant,
    measuring: AtomicBool,
    delivered: AtomicU64,
    stopped: AtomicBool,
}

async fn measure(server: &Server, arguments: &Arguments) -> anyhow::Result<Figures> {
    let shared = Arc::new(Shared {
        start: Instant::now(),
        measuring: AtomicBool::new(false),
        delivered: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
    });
    let resident_before = server.resident_kb()?;
    let mut readers = JoinSet::new();
    let mut writers = Vec::new();
    let begin = Instant::now();
    for n in 0..arguments.sockets {
        let (read, write) = join(server.address, &format!("u{n}")).await.with_context(|| format!("client {n}"))?;
        readers.spawn(listen(read, Arc::clone(&shared)));
        writers.push(write);
    }
    let joins_per_s = arguments.sockets as f64 / begin.elapsed().as_secs_f64();
    let resident_per_socket_kb = (server.resident_kb()? - resident_before) / arguments.sockets as f64;
    // So that the joins are paid for before.
    tokio::time::sleep(Duration::from_secs(2)).await;
    shared.measuring.store(true, Ordering::SeqCst);
    let (cpu_before, begin) = (server.cpu_s()?, Instant::now());
    let sent = write(&mut writers, &shared, arguments).await?;
    let expected = sent * arguments.sockets as u64;
    for _ in 0..100 {
        if shared.delivered.load(Ordering::Relaxed) >= expected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let cpu = server.cpu_s()? - cpu_before;
    let elapsed = begin.elapsed().as_secs_f64();
    shared.stopped.store(true, Ordering::SeqCst);
    drop(writers);
    let mut latencies: Vec<u32> = Vec::new();
    while let Some(of_client) = readers.join_next().await {
        latencies.extend(of_client?);
    }
    latencies.sort_unstable();
    let percentile = |share: f64| {
        let at = (latencies.len() as f64 * share) as usize;
        latencies.get(at).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
    };
    let delivered = shared.delivered.load(Ordering::Relaxed) as f64;
    Ok(Figures {
        delivered_share: delivered / expected as f64,
        cpu_share: cpu / elapsed,
        cpu_per_delivery_us: cpu * 1e6 / delivered,
        latency_ms: [percentile(0.5), percentile(0.95), percentile(0.99)],
        resident_per_socket_kb,
        joins_per_s,
    })
}

/// Sends at the rate, each time as another user; how many were sent.
async fn write(writers: &mut [OwnedWriteHalf], shared: &Shared, arguments: &Arguments) -> anyhow::Result<u64> {
    let count = arguments.rate * u32::try_from(arguments.seconds)?;
    let pause = Duration::from_secs(1) / arguments.rate;
    let authors = writers.len().min((arguments.rate * WRITER_PAUSE) as usize);
    let begin = Instant::now();
    for n in 0..count {
        tokio::time::sleep_until((begin + pause * n).into()).await;
        let micros = shared.start.elapsed().as_micros();
        let text = format!(r#"42/live:bench,["chat:message",{{"text":"@{micros} what a goal, look at that"}}]"#);
        send(&mut writers[n as usize % authors], &text).await?;
    }
    Ok(count.into())
}

/// A WebSocket, by hand: nothing may cost more here than there.
async fn join(address: SocketAddr, token: &str) -> anyhow::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut seen = Vec::new();
    let (mut read, mut write) = stream.into_split();
    read_until(&mut read, &mut seen, b"\r\n\r\n").await?;
    send(&mut write, &format!(r#"40/live:bench,{{"token":"{token}"}}"#)).await?;
    read_until(&mut read, &mut seen, b"chat:state").await?;
    Ok((read, write))
}

async fn read_until(read: &mut OwnedReadHalf, seen: &mut Vec<u8>, mark: &[u8]) -> anyhow::Result<()> {
    while !seen.windows(mark.len()).any(|window| window == mark) {
        if seen.len() > 1 << 20 || read.read_buf(seen).await? == 0 {
            bail!("the server ended it: {}", String::from_utf8_lossy(&seen[..seen.len().min(400)]));
        }
    }
    Ok(())
}

/// A masked text frame; a mask of zeros leaves the text as it is.
async fn send(write: &mut OwnedWriteHalf, text: &str) -> anyhow::Result<()> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len())? {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend(long.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    Ok(write.write_all(&frame).await?)
}

/// Takes what comes; the latencies of messages, in microseconds.
async fn listen(mut read: OwnedReadHalf, shared: Arc<Shared>) -> Vec<u32> {
    let mut latencies = Vec::new();
    let mut buffer = Vec::with_capacity(16 * 1024);
    while !shared.stopped.load(Ordering::Relaxed) {
        let more = tokio::time::timeout(Duration::from_millis(500), read.read_buf(&mut buffer)).await;
        match more {
            Err(_) => continue,
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => break,
        }
        let now = shared.start.elapsed().as_micros();
        let mut count = 0;
        let mut rest = &buffer[..];
        // Only messages have this sign in them.
        while let Some(at) = rest.iter().position(|byte| *byte == b'@') {
            let Some(end) = rest[at..].iter().position(|byte| *byte == b' ') else {
                break;
            };
            let digits = std::str::from_utf8(&rest[at + 1..at + end]).unwrap_or_default();
            if let Ok(sent) = digits.parse::<u128>() {
                latencies.push(u32::try_from(now.saturating_sub(sent)).unwrap_or(u32::MAX));
                count += 1;
            }
            rest = &rest[at + end..];
        }
        // A message that is cut in two stays until the rest of it is here.
        let kept = rest.iter().position(|byte| *byte == b'@').map_or(0, |at| rest.len() - at);
        buffer.drain(..buffer.len() - kept);
        if shared.measuring.load(Ordering::Relaxed) {
            shared.delivered.fetch_add(count, Ordering::Relaxed);
        }
    }
    latencies
}
