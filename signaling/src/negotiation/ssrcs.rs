//! SSRCs of what we send.

use serde::{Deserialize, Serialize};
use sfu::command::Ssrc;
use shared::media::MediaKind;

use super::interface::OutgoingTrack;
use super::render::Bound;

/// Odd, so that steps of it visit every number once; of the golden ratio, so that they do not look like a sequence.
const STEP: u32 = 0x9e37_79b1;

/// Never gives one SSRC twice on a transport: a receiver keeps per SSRC what it knows of a stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SsrcSource {
    next: u32,
}

impl SsrcSource {
    pub(crate) fn starting_at(next: u32) -> Self {
        Self { next }
    }

    /// A new SSRC that is not `taken` by the client.
    fn take(&mut self, taken: impl Fn(Ssrc) -> bool) -> Ssrc {
        loop {
            let ssrc = Ssrc(self.next);
            self.next = self.next.wrapping_add(STEP);
            // A client declares a bounded number of SSRCs, and each is met once.
            if ssrc.0 != 0 && !taken(ssrc) {
                return ssrc;
            }
        }
    }

    /// Gives a track the SSRCs of its section.
    pub(crate) fn bound(&mut self, track: &OutgoingTrack, taken: impl Fn(Ssrc) -> bool) -> Bound {
        let ssrc = self.take(&taken);
        let rtx_ssrc = match track.kind {
            MediaKind::Audio => None,
            MediaKind::Video => Some(self.take(&taken)),
        };
        Bound { track: track.clone(), ssrc, rtx_ssrc }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ssrc_is_zero_taken_or_given_twice() {
        let mut source = SsrcSource::starting_at(0);
        let taken = Ssrc(STEP);
        let mut given: Vec<u32> = (0..10_000).map(|_| source.take(|ssrc| ssrc == taken).0).collect();
        given.sort_unstable();
        given.dedup();

        assert_eq!(given.len(), 10_000);
        assert!(!given.contains(&0) && !given.contains(&taken.0));
    }
}
