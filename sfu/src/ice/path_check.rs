//! A check of our own (RFC 8445, section 7.2.2) that an address has to answer before anything but checks is sent there.
//!
//! The client names its address by a check, and whoever knows the password can send one with a forged sender. The
//! transaction id is told to nobody but that address, so an answer with it shows that the client receives there (as
//! RFC 9000, section 8.2 does it). A lite agent need not send checks; a full one answers them.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::path::Path;

/// Until it has answered, an address gets at most so many times the bytes that came from there (RFC 9000, section 8.1).
pub(crate) const AMPLIFICATION_MAX: usize = 3;
/// Pause after the first transmission; it doubles with each. Also the least pause between two.
const RETRANSMISSION: Duration = Duration::from_millis(100);
/// Transmissions for one check of the client's. The next check brings more.
const TRANSMISSIONS_MAX: u8 = 3;

/// Random bits of a transaction id (RFC 8489, section 5).
pub(super) type TransactionId = [u8; 12];

/// The check of one address.
#[derive(Debug)]
pub(super) struct PathCheck {
    pub path: Path,
    pub transaction: TransactionId,
    /// Of ICE-CONTROLLED (RFC 8445, section 7.1.3).
    pub tie_breaker: u64,
    /// Ours and the client's, as its last check from there had them. During an ICE restart each side may be a
    /// generation behind, and the client refuses a check with others than those of its pair.
    pub ufrags: (String, String),
    /// Bytes that may still go there.
    allowance: usize,
    /// Transmissions since the client's last check.
    transmissions: u8,
    last: Option<Instant>,
    due: Option<Instant>,
}

impl PathCheck {
    pub(super) fn new(path: Path, rng: &mut StdRng) -> Self {
        Self {
            path,
            transaction: rng.random(),
            tie_breaker: rng.random(),
            ufrags: Default::default(),
            allowance: 0,
            transmissions: 0,
            last: None,
            due: None,
        }
    }

    /// Notes a valid check of so many bytes from the address, which was answered with so many.
    pub(super) fn on_check(&mut self, now: Instant, (ours, theirs): (&str, &str), received: usize, replied: usize) {
        if (self.ufrags.0.as_str(), self.ufrags.1.as_str()) != (ours, theirs) {
            self.ufrags = (ours.to_owned(), theirs.to_owned());
        }
        self.allowance = (self.allowance + AMPLIFICATION_MAX * received).saturating_sub(replied);
        self.transmissions = 0;
        let earliest = self.last.map_or(now, |last| last + RETRANSMISSION);
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)).max(now));
    }

    /// When the next transmission is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes the next transmission, if it is due and may have so many bytes.
    pub(super) fn transmit(&mut self, now: Instant, length: usize) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        self.due = None;
        let Some(allowance) = self.allowance.checked_sub(length) else { return false };
        self.allowance = allowance;
        self.transmissions += 1;
        self.last = Some(now);
        if self.transmissions < TRANSMISSIONS_MAX {
            self.due = Some(now + RETRANSMISSION * (1 << (self.transmissions - 1)));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::path::Via;

    const UFRAGS: (&str, &str) = ("ours", "theirs");

    fn check() -> PathCheck {
        let path = Path { remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)), via: Via::Udp(0) };
        PathCheck::new(path, &mut StdRng::seed_from_u64(1))
    }

    /// Bytes that go out until `end`, and how many transmissions they are.
    fn sent(check: &mut PathCheck, end: Instant, length: usize) -> (usize, u32) {
        let mut count = 0;
        while let Some(due) = check.due().filter(|due| *due <= end) {
            count += u32::from(check.transmit(due, length));
        }
        (length * count as usize, count)
    }

    #[test]
    fn a_check_is_sent_again_while_bytes_are_left() {
        #[expect(clippy::disallowed_methods, reason = "time has to begin somewhere")]
        let now = Instant::now();
        let mut check = check();
        check.on_check(now, UFRAGS, 110, 64);

        assert_eq!(sent(&mut check, now, 100).1, 1);
        assert_eq!(sent(&mut check, now + Duration::from_secs(10), 100).1, 1, "266 bytes are allowed");
        check.on_check(now + Duration::from_secs(10), UFRAGS, 110, 64);
        assert_eq!(sent(&mut check, now + Duration::from_secs(20), 100).1, 3);
    }

    #[test]
    fn a_check_is_sent_thrice_at_growing_intervals_for_one_of_the_clients() {
        #[expect(clippy::disallowed_methods, reason = "time has to begin somewhere")]
        let now = Instant::now();
        let mut check = check();
        let mut times = Vec::new();
        for begin in [Duration::ZERO, Duration::from_secs(1)] {
            check.on_check(now + begin, UFRAGS, 1_000, 64);
            while let Some(due) = check.due() {
                assert!(!check.transmit(due - Duration::from_millis(1), 100), "too early");
                assert!(check.transmit(due, 100));
                times.push((due - now).as_millis());
            }
        }
        assert_eq!(times, [0, 100, 300, 1_000, 1_100, 1_300]);
    }

    #[test]
    fn a_flood_of_checks_brings_ten_a_second_and_three_times_its_bytes() {
        #[expect(clippy::disallowed_methods, reason = "time has to begin somewhere")]
        let now = Instant::now();
        let mut check = check();
        let (mut bytes, mut count) = (0, 0);
        for millisecond in 0..1_000 {
            let now = now + Duration::from_millis(millisecond);
            check.on_check(now, UFRAGS, 72, 64);
            let (more, transmissions) = sent(&mut check, now, 100);
            bytes += more;
            count += transmissions;
        }

        assert!((9..=10).contains(&count), "{count}");
        assert!(bytes + 64 * 1_000 <= AMPLIFICATION_MAX * 72 * 1_000, "{bytes}");
    }
}
