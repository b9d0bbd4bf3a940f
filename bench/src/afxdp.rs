//! Past the socket: does an AF_XDP ring send the steady stream cheaper than a UDP socket does?
//!
//! The same packets leave a network namespace through one end of a virtual cable, by a socket with and without
//! segmentation and by an AF_XDP transmit ring in copy mode, the only one that a virtual cable and most cloud NICs have.
//! Once ordinary sockets at the other end receive them, which costs all ways the same, on the sender's account; once they
//! are thrown away there on arrival, so that sending alone is seen.
//!
//! - `afxdp/ring.rs`: the rings shared with the kernel

mod ring;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use self::ring::{FRAME_BYTES, TransmitRing};
use crate::clock::{allowed_cores, pin};
use crate::floor::{Carrier, Floor, RunLength, Sockets, stream};
use crate::link::{self, FAR, Link, Mac, NEAR, NOBODY, NOWHERE, Segmentation};
use crate::machine::Machine;
use crate::runs::SendCounts;
use crate::summary::Summary;

/// Ethernet, IPv4 and UDP headers.
const HEADERS_BYTES: usize = 14 + 20 + 8;
const SOURCE_PORT: u16 = 40_000;

/// A way to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `sendmmsg` with `UDP_SEGMENT` runs that the device would cut.
    RunsCutByDevice,
    /// The same, cut by the sender's kernel.
    RunsCutBySoftware,
    /// `sendmmsg` alone.
    Singles,
    Ring,
}

impl Way {
    const ALL: [Self; 4] = [Self::RunsCutByDevice, Self::RunsCutBySoftware, Self::Singles, Self::Ring];

    fn name(self) -> &'static str {
        match self {
            Self::RunsCutByDevice => "socket, runs cut by the device",
            Self::RunsCutBySoftware => "socket, runs cut by software",
            Self::Singles => "socket, single packets",
            Self::Ring => "AF_XDP ring, copy mode",
        }
    }
}

/// Where packets end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// In sockets.
    Received,
    /// At the far interface.
    ThrownAway,
}

/// CPU µs a packet of one way, over all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    pub way: Way,
    pub received_us_per_packet: Summary,
    pub thrown_away_us_per_packet: Summary,
    /// Not received, of those to receivers.
    pub packets_lost: u64,
}

/// Costs of the same stream over the same cable.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    pub viewers: usize,
    pub rounds: usize,
    pub costs: Vec<Cost>,
    /// Why the ring is not among them.
    pub refused: Option<String>,
    pub machine: Machine,
}

impl Trial {
    fn sending(&self, way: Way) -> Option<f64> {
        self.costs.iter().find(|cost| cost.way == way).map(|cost| cost.thrown_away_us_per_packet.median)
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} viewers, {} rounds in turns: µs CPU a packet", self.viewers, self.rounds)?;
        writeln!(f, "{:<32}{:>20}{:>20}{:>8}", "", "received", "thrown away", "lost")?;
        for cost in &self.costs {
            let received = format!("{:.2}", cost.received_us_per_packet);
            let thrown_away = format!("{:.2}", cost.thrown_away_us_per_packet);
            writeln!(f, "{:<32}{received:>20}{thrown_away:>20}{:>8}", cost.way.name(), cost.packets_lost)?;
        }
        if let Some(reason) = &self.refused {
            writeln!(f, "AF_XDP is refused here: {reason}")?;
        }
        if let (Some(ring), Some(device), Some(software)) =
            (self.sending(Way::Ring), self.sending(Way::RunsCutByDevice), self.sending(Way::RunsCutBySoftware))
        {
            let (device, software) = (ring / device, ring / software);
            let than = format!("{software:.2} times runs cut by software, {device:.2} times runs cut by the device");
            writeln!(f, "verdict: sending by AF_XDP costs {than}")?;
        }
        write!(f, "machine: {}", self.machine)
    }
}

/// Sends the stream to `viewers` in each way, for `duration`, in turns.
///
/// # Errors
///
/// When the cable cannot be made; a kernel without AF_XDP is no error.
pub fn run(viewers: usize, duration: Duration, rounds: usize) -> anyhow::Result<Trial> {
    ensure!(rounds > 0, "at least one round");
    let cores = allowed_cores()?;
    // A thread of its own, which enters a namespace and does not come back.
    let trial = std::thread::spawn(move || {
        if let (Some(&core), true) = (cores.first(), cores.len() > 1) {
            pin(core).context("pinning the sender")?;
        }
        let link = link::enter(viewers, cores.get(1).copied())?;
        try_all(&link, duration, rounds)
    });
    trial.join().expect("the trial does not panic")
}

fn try_all(link: &Link, duration: Duration, rounds: usize) -> anyhow::Result<Trial> {
    let socket = UdpSocket::bind((NEAR, 0))?;
    let ring = Ring::open();
    let refused = ring.as_ref().err().map(|error| format!("{error:#}"));
    let mut stage = Stage { link, socket, ring: ring.ok(), duration };
    let ways = || Way::ALL.into_iter().filter(|way| *way != Way::Ring || refused.is_none());
    let mut floors = Vec::new();
    for _ in 0..rounds {
        for way in ways() {
            floors.push((way, stage.measure(way, End::Received)?, stage.measure(way, End::ThrownAway)?));
        }
    }
    let cost = |way| {
        let of = || floors.iter().filter(move |(other, ..)| *other == way);
        Some(Cost {
            way,
            received_us_per_packet: Summary::of(of().map(|(_, received, _)| received.cpu_us_per_packet))?,
            thrown_away_us_per_packet: Summary::of(of().map(|(_, _, thrown_away)| thrown_away.cpu_us_per_packet))?,
            packets_lost: of().map(|(_, received, _)| received.packets_lost).sum(),
        })
    };
    let costs = ways().filter_map(cost).collect();
    Ok(Trial { viewers: link.receivers.addresses().len(), rounds, costs, refused, machine: Machine::read() })
}

/// What all ways send with.
struct Stage<'a> {
    link: &'a Link,
    socket: UdpSocket,
    ring: Option<Ring>,
    duration: Duration,
}

impl Stage<'_> {
    fn measure(&mut self, way: Way, end: End) -> anyhow::Result<Floor> {
        let (ip, mac) = match end {
            End::Received => (FAR, self.link.far),
            End::ThrownAway => (NOWHERE, NOBODY),
        };
        self.link.segment_by(match way {
            Way::RunsCutBySoftware => Segmentation::Software,
            Way::RunsCutByDevice | Way::Singles | Way::Ring => Segmentation::Device,
        })?;
        let length = match way {
            Way::RunsCutByDevice | Way::RunsCutBySoftware => RunLength::Frame,
            Way::Singles | Way::Ring => RunLength::One,
        };
        let receivers = &self.link.receivers;
        match &mut self.ring {
            Some(ring) if way == Way::Ring => {
                ring.aim(self.link, ip, mac);
                stream(ring, receivers, self.duration)
            }
            _ => {
                let addresses: Vec<SocketAddrV4> =
                    receivers.addresses().iter().map(|address| SocketAddrV4::new(ip, address.port())).collect();
                stream(Sockets::new(&self.socket, &addresses, length), receivers, self.duration)
            }
        }
    }
}

/// An AF_XDP transmit ring as carrier.
struct Ring {
    ring: TransmitRing,
    /// Of each viewer, ready but for lengths and IP's checksum.
    headers: Vec<[u8; HEADERS_BYTES]>,
    datagrams: u64,
}

impl Ring {
    fn open() -> anyhow::Result<Self> {
        let interface = link::index(link::NEAR_NAME)?;
        Ok(Self { ring: TransmitRing::open(interface)?, headers: Vec::new(), datagrams: 0 })
    }

    /// Sets where packets go.
    fn aim(&mut self, link: &Link, ip: Ipv4Addr, mac: Mac) {
        let to = |address: &SocketAddrV4| headers(link.near, mac, SocketAddrV4::new(ip, address.port()));
        self.headers = link.receivers.addresses().iter().map(to).collect();
    }
}

impl Carrier for &mut Ring {
    fn push(&mut self, viewer: usize, count: usize, bytes: usize, mut write: impl FnMut(&mut [u8])) -> io::Result<()> {
        let mut headers = self.headers[viewer];
        set_lengths(&mut headers, bytes);
        for _ in 0..count {
            self.ring.push(HEADERS_BYTES + bytes, |frame| {
                frame[..HEADERS_BYTES].copy_from_slice(&headers);
                write(&mut frame[HEADERS_BYTES..HEADERS_BYTES + bytes]);
            })?;
        }
        self.datagrams += count as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ring.flush()
    }

    fn counts(&self) -> SendCounts {
        SendCounts { datagrams: self.datagrams, runs: self.datagrams, system_calls: self.ring.system_calls() }
    }
}

/// Headers to a receiver. UDP's checksum stays zero, which IPv4 allows.
fn headers(from: Mac, to_mac: Mac, to: SocketAddrV4) -> [u8; HEADERS_BYTES] {
    let mut headers = [0; HEADERS_BYTES];
    headers[..6].copy_from_slice(&to_mac);
    headers[6..12].copy_from_slice(&from);
    headers[12..14].copy_from_slice(&[0x08, 0x00]);
    headers[14] = 0x45;
    headers[20] = 0x40;
    headers[22..24].copy_from_slice(&[64, 17]);
    headers[26..30].copy_from_slice(&NEAR.octets());
    headers[30..34].copy_from_slice(&to.ip().octets());
    headers[34..36].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    headers[36..38].copy_from_slice(&to.port().to_be_bytes());
    headers
}

/// Completes headers for a datagram of `bytes`.
fn set_lengths(headers: &mut [u8; HEADERS_BYTES], bytes: usize) {
    let udp = u16::try_from(8 + bytes).expect("a packet is shorter than a frame");
    headers[16..18].copy_from_slice(&(udp + 20).to_be_bytes());
    headers[38..40].copy_from_slice(&udp.to_be_bytes());
    headers[24..26].copy_from_slice(&[0, 0]);
    let checksum = internet_checksum(&headers[14..34]);
    headers[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

const _: () = assert!(HEADERS_BYTES + crate::stream::Media::Video.packet_bytes() <= FRAME_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        // The example of RFC 1071, section 3.
        assert_eq!(internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        let mut headers = [0x5a; HEADERS_BYTES];
        set_lengths(&mut headers, 1_136);
        assert_eq!(internet_checksum(&headers[14..34]), 0);
        assert_eq!(headers[38..40], 1_144_u16.to_be_bytes());
    }
}
