//! Ports for servers that are told theirs, and that come back to it after they were killed.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that Linux gives to outgoing connections (32768 and up), which would take one between the choice and the
/// server, or while a server is down.
const FIRST: u16 = 10_000;
const COUNT: u32 = 20_000;

/// What processes with neighbouring ids are kept apart by.
const APART: u32 = 500;

/// A port of loopback that nobody uses, by TCP or UDP. It is given once.
pub fn free() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let number = std::process::id().wrapping_mul(APART).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = FIRST + u16::try_from(number).expect("it is below 20,000");
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("loopback has no free port from {FIRST} on");
}
