//! Where datagrams belong that the kernel gave to the wrong worker.
//!
//! The user fragment of a check names its worker; later datagrams from the same address belong to the same worker. An
//! address and a user fragment can be forged, and a participant can forge a whole check from any address, but nobody
//! can forge a handshake. So a worker that had a handshake at an address says so with each further check, and for as
//! long as it does checks for other workers do not count there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::demux::{Discard, PacketKind};
use crate::engine::PATH_TAKEN;
use crate::ice::{is_response, local_ufrag_of, worker_of};

/// Remote addresses known to belong to another worker; they are learned again from the next check.
const STRAYS_MAX: usize = 65_536;

/// What one worker knows of addresses of others.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Worker by remote address, as a client that is connected there has shown, and when it last did.
    shown: HashMap<SocketAddr, (u8, Instant)>,
    /// Worker by remote address, as the user fragment of the newest check from there says, without proof.
    named: HashMap<SocketAddr, u8>,
}

/// One of several workers on a port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub index: u8,
    pub workers: usize,
    /// A client that is connected there has shown that the address belongs to this worker.
    pub settled: bool,
}

impl Strays {
    /// The other worker that a datagram belongs to, if any.
    ///
    /// # Errors
    ///
    /// [`Discard::PathTaken`] for a check to this worker from the address where a client of another one is.
    pub(super) fn owner(
        &mut self,
        now: Instant,
        place: Place,
        remote: SocketAddr,
        datagram: &[u8],
    ) -> Result<Option<u8>, Discard> {
        let Place { index, workers, settled } = place;
        if workers < 2 {
            return Ok(None);
        }
        // An answer to a check of ours names nobody either.
        if PacketKind::of(datagram) != Some(PacketKind::Stun) || is_response(datagram) {
            // A forged check for another worker must not divert datagrams from the address of a connected client.
            let shown = self.shown.get(&remote).map(|(worker, _)| worker);
            return Ok(shown.or_else(|| self.named.get(&remote)).copied().filter(|_| !settled));
        }
        // A ufrag that names no worker is for the engine to refuse: the sender's other packets must not go astray by
        // it.
        let Some(worker) = local_ufrag_of(datagram).and_then(worker_of).filter(|worker| usize::from(*worker) < workers)
        else {
            return Ok(None);
        };
        if worker == index {
            if self.shown.get(&remote).is_some_and(|(_, at)| now < *at + PATH_TAKEN) && !settled {
                return Err(Discard::PathTaken);
            }
            self.shown.remove(&remote);
            self.named.remove(&remote);
            return Ok(None);
        }
        if self.named.len() >= STRAYS_MAX {
            self.named.clear();
        }
        self.named.insert(remote, worker);
        Ok(Some(worker))
    }

    /// A worker has a client that is connected at this address.
    pub(super) fn show(&mut self, now: Instant, remote: SocketAddr, worker: u8) {
        let holds = |at: Instant| now < at + PATH_TAKEN;
        if self.shown.get(&remote).is_some_and(|(known, at)| *known != worker && holds(*at)) {
            return;
        }
        if self.shown.len() >= STRAYS_MAX {
            self.shown.retain(|_, (_, at)| holds(*at));
        }
        if self.shown.len() < STRAYS_MAX || self.shown.contains_key(&remote) {
            self.shown.insert(remote, (worker, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RTP: [u8; 12] = [0x80; 12];
    const PLACE: Place = Place { index: 0, workers: 3, settled: false };

    fn client() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 5000))
    }

    /// A check without integrity for a transport of this worker.
    fn check(worker: u8) -> Vec<u8> {
        let name = format!("{worker:02x}ufrag0:them");
        let padded = name.len().next_multiple_of(4);
        let mut check = vec![0, 1, 0, (4 + padded) as u8, 0x21, 0x12, 0xa4, 0x42];
        check.extend([7; 12]);
        check.extend([0, 6, 0, name.len() as u8]);
        check.extend(name.as_bytes());
        check.resize(20 + 4 + padded, 0);
        check
    }

    fn owner(strays: &mut Strays, now: Instant, datagram: &[u8]) -> Result<Option<u8>, Discard> {
        strays.owner(now, PLACE, client(), datagram)
    }

    #[test]
    fn what_follows_a_check_goes_where_the_check_went() {
        let (mut strays, now) = (Strays::default(), Instant::now());
        assert_eq!(owner(&mut strays, now, &RTP), Ok(None));
        assert_eq!(owner(&mut strays, now, &check(2)), Ok(Some(2)));
        assert_eq!(owner(&mut strays, now, &RTP), Ok(Some(2)));
        assert_eq!(owner(&mut strays, now, &check(0)), Ok(None));
        assert_eq!(owner(&mut strays, now, &RTP), Ok(None));
    }

    #[test]
    fn a_forged_check_diverts_nobody_whose_own_was_authenticated() {
        let (mut strays, now) = (Strays::default(), Instant::now());
        owner(&mut strays, now, &check(2)).unwrap();
        strays.show(now, client(), 2);

        // For another worker, which may find it in order, for this one, and for one that is not there.
        assert_eq!(owner(&mut strays, now, &check(1)), Ok(Some(1)));
        strays.show(now, client(), 1);
        assert_eq!(owner(&mut strays, now, &check(0)), Err(Discard::PathTaken));
        assert_eq!(owner(&mut strays, now, &check(9)), Ok(None));
        assert_eq!(owner(&mut strays, now, &RTP), Ok(Some(2)));
    }

    #[test]
    fn an_address_that_is_no_longer_checked_from_goes_to_the_next_client() {
        let (mut strays, now) = (Strays::default(), Instant::now());
        strays.show(now, client(), 2);
        let later = now + PATH_TAKEN;
        strays.show(later, client(), 1);
        assert_eq!(owner(&mut strays, later, &RTP), Ok(Some(1)));
        assert_eq!(owner(&mut strays, later + Duration::from_secs(1), &check(0)), Err(Discard::PathTaken));
        assert_eq!(owner(&mut strays, later + PATH_TAKEN, &check(0)), Ok(None));
        assert_eq!(owner(&mut strays, later + PATH_TAKEN, &RTP), Ok(None));
    }
}
