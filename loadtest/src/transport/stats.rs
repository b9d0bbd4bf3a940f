//! What a transport counts.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::dtls::SrtpProfile;
use crate::playback::PlaybackCounts;
use crate::receiver::{MediaKind, StreamCounts};
use crate::sender::SenderStats;
use crate::stamp::Stamp;

/// One received stream, as counted.
#[derive(Debug, Clone, Serialize)]
pub struct StreamStats {
    pub kind: MediaKind,
    pub ssrc: u32,
    pub track: Option<Arc<str>>,
    #[serde(flatten)]
    pub counts: StreamCounts,
    pub playback: PlaybackCounts,
    pub jitter_ms: f64,
    /// Padding and other packets of ours without a stamp, where payloads were decrypted.
    pub unstamped: u64,
    pub first_packet_ns: Option<u64>,
    pub newest_packet_ns: Option<u64>,
    pub first_key_frame_ns: Option<u64>,
    pub source: SourceStats,
}

/// Which packets of its source came, by the numbers inside them, where payloads were decrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SourceStats {
    pub received: u64,
    /// That were published from the first on that came, in layers that were left again.
    pub expected_before: u64,
    /// What comes now.
    pub run: Option<SourceRun>,
}

/// Packets of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SourceRun {
    pub layer: u8,
    /// Numbers of the lowest and of the highest packet that came.
    pub first: u32,
    pub last: u32,
}

impl SourceRun {
    fn expected(self) -> u64 {
        u64::from(self.last - self.first) + 1
    }
}

/// What a transport counted since it began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TransportStats {
    pub profile: Option<SrtpProfile>,
    /// `CLOCK_MONOTONIC` when DTLS was established.
    pub connected_ns: Option<u64>,
    pub streams: Vec<StreamStats>,
    pub senders: Vec<SenderStats>,
    pub verified: u64,
    /// Packets that failed authentication.
    pub forged: u64,
    /// Authentic RTCP that is not well-formed.
    pub malformed_rtcp: u64,
    pub retransmissions: u64,
    pub sender_reports: u64,
    pub key_frame_requests_sent: u64,
    /// NACK messages; the packets that they name are counted by stream.
    pub nacks_sent: u64,
    /// Whether every packet is decrypted.
    pub verifies: bool,
    pub feedback_received: u64,
    /// Dropped by the kernel because the socket buffer was full.
    pub kernel_drops: u64,
    pub datagrams: u64,
    /// Received, but thrown away because of [`super::Loss::down`].
    pub lost_on_purpose: u64,
}

#[derive(Default)]
pub(super) struct StreamMedia {
    pub(super) unstamped: u64,
    pub(super) first_packet_ns: Option<u64>,
    pub(super) newest_packet_ns: Option<u64>,
    pub(super) first_key_frame_ns: Option<u64>,
    pub(super) first_packet_at: Option<Instant>,
    pub(super) key_frame_asked: Option<Instant>,
    pub(super) source: SourceStats,
}

impl SourceStats {
    /// Counts a packet of the source; a server may change the layer in between.
    pub(super) fn on_stamp(&mut self, stamp: Stamp, timely: bool) {
        let begun = SourceRun { layer: stamp.layer, first: stamp.number, last: stamp.number };
        let run = self.run.get_or_insert(begun);
        if run.layer != stamp.layer {
            if !timely {
                // Of a run that has been closed already.
                return;
            }
            self.expected_before += std::mem::replace(run, begun).expected();
        } else {
            (run.first, run.last) = (run.first.min(stamp.number), run.last.max(stamp.number));
        }
        self.received += 1;
    }
}
