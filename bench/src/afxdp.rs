//! Past the socket: does an AF_XDP ring send the steady stream cheaper than a UDP socket does?
//!
//! The same packets leave a network namespace through one end of a virtual cable, by a socket with and without
//! segmentation and by an AF_XDP transmit ring in copy mode, the only one that a virtual cable and most cloud NICs have.
//! At the other end ordinary sockets receive them, so all ways pay for the same delivery.
//!
//! - `afxdp/ring.rs`: the rings shared with the kernel

mod ring;

use std::fmt;
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use self::ring::{FRAME_BYTES, TransmitRing};
use crate::clock::{allowed_cores, pin};
use crate::floor::{Carrier, Floor, RunLength, Sockets, stream};
use crate::link::{self, FAR, Link, NEAR};
use crate::runs::SendCounts;

/// Ethernet, IPv4 and UDP headers.
const HEADERS_BYTES: usize = 14 + 20 + 8;
const SOURCE_PORT: u16 = 40_000;

/// Costs of the same stream over the same cable.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// `sendmmsg` with `UDP_SEGMENT` runs.
    pub socket_runs: Floor,
    /// `sendmmsg` alone.
    pub socket: Floor,
    /// Why there is no figure, if there is none.
    pub ring: Result<Floor, String>,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, floor: &Floor| {
            let (cost, lost, late) = (floor.cpu_us_per_packet_spread, floor.packets_lost, floor.late * 100.0);
            writeln!(f, "{name:<28} {cost:.2} µs CPU a packet, {lost} lost, {late:.1} % of bursts late")
        };
        line("sendmmsg, UDP_SEGMENT runs", &self.socket_runs)?;
        line("sendmmsg", &self.socket)?;
        match &self.ring {
            Ok(floor) => {
                line("AF_XDP ring, copy mode", floor)?;
                let ratio = floor.cpu_us_per_packet / self.socket_runs.cpu_us_per_packet;
                writeln!(f, "verdict: AF_XDP costs {ratio:.2} times the socket with runs")?;
            }
            Err(reason) => writeln!(f, "AF_XDP ring: refused here: {reason}")?,
        }
        write!(f, "{} viewers; {}", self.socket_runs.viewers, self.socket_runs.machine)
    }
}

/// Sends the stream to `viewers` for `duration` in each of the three ways.
///
/// # Errors
///
/// When the cable cannot be made; a kernel without AF_XDP is no error.
pub fn run(viewers: usize, duration: Duration) -> anyhow::Result<Trial> {
    let cores = allowed_cores()?;
    // A thread of its own, which enters a namespace and does not come back.
    let trial = std::thread::spawn(move || {
        if let (Some(&core), true) = (cores.first(), cores.len() > 1) {
            pin(core).context("pinning the sender")?;
        }
        let link = link::enter(viewers, cores.get(1).copied())?;
        try_all(&link, duration)
    });
    trial.join().expect("the trial does not panic")
}

fn try_all(link: &Link, duration: Duration) -> anyhow::Result<Trial> {
    let socket = UdpSocket::bind((NEAR, 0))?;
    let by_socket =
        |length| stream(Sockets::new(&socket, link.receivers.addresses(), length), &link.receivers, duration);
    let ring = Ring::open(link).and_then(|ring| stream(ring, &link.receivers, duration));
    Ok(Trial {
        ring: ring.map_err(|error| format!("{error:#}")),
        socket_runs: by_socket(RunLength::Frame)?,
        socket: by_socket(RunLength::One)?,
    })
}

/// An AF_XDP transmit ring as carrier.
struct Ring {
    ring: TransmitRing,
    /// Of each viewer, ready but for lengths and IP's checksum.
    headers: Vec<[u8; HEADERS_BYTES]>,
    datagrams: u64,
}

impl Ring {
    fn open(link: &Link) -> anyhow::Result<Self> {
        let interface = link::index(link::NEAR_NAME)?;
        let headers = link.receivers.addresses().iter().map(|to| headers(link, *to)).collect();
        Ok(Self { ring: TransmitRing::open(interface)?, headers, datagrams: 0 })
    }
}

impl Carrier for Ring {
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
fn headers(link: &Link, to: SocketAddrV4) -> [u8; HEADERS_BYTES] {
    let mut headers = [0; HEADERS_BYTES];
    headers[..6].copy_from_slice(&link.far);
    headers[6..12].copy_from_slice(&link.near);
    headers[12..14].copy_from_slice(&[0x08, 0x00]);
    headers[14] = 0x45;
    headers[20] = 0x40;
    headers[22..24].copy_from_slice(&[64, 17]);
    headers[26..30].copy_from_slice(&NEAR.octets());
    headers[30..34].copy_from_slice(&FAR.octets());
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
