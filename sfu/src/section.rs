//! What descriptions agree on for media: sections, their codecs, extensions and layers.

use std::sync::Arc;

use arrayvec::ArrayString;
use serde::{Deserialize, Serialize};
use shared::media::{Codec, MediaKind};

/// Synchronisation source (RFC 3550, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ssrc(pub u32);

/// Media section id (RFC 9143). Longer ones than 16 bytes cannot be sent as a one-byte extension.
pub type Mid = ArrayString<16>;
/// RTP stream id of a simulcast layer (RFC 8852).
pub type Rid = ArrayString<16>;

/// Ids of the RTP header extensions negotiated on a transport. BUNDLE makes them one space for all its sections
/// (RFC 8843, section 9.1). `None`: not negotiated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionIds {
    /// The section (RFC 9143).
    pub mid: Option<u8>,
    /// The layer (RFC 8852).
    pub rid: Option<u8>,
    /// The layer that a packet is sent again of (RFC 8852).
    pub repaired_rid: Option<u8>,
    /// Loudness (RFC 6464).
    pub audio_level: Option<u8>,
    /// Transport-wide sequence number.
    pub transport_cc: Option<u8>,
    /// Time of sending, as 6.18 fixed point of seconds.
    pub abs_send_time: Option<u8>,
    /// Frames and layers (RTP Payload Format For AV1, appendix A).
    pub dependency_descriptor: Option<u8>,
    /// Limits of the delay of playout.
    pub playout_delay: Option<u8>,
    /// Time of capture.
    pub abs_capture_time: Option<u8>,
}

/// One codec as a section names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadCodec {
    /// Number in RTP headers.
    pub payload_type: u8,
    /// What it stands for.
    pub codec: Codec,
    /// Payload type of its retransmissions (RFC 4588), if negotiated.
    pub rtx: Option<u8>,
}

/// One encoding of a published track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Set for simulcast announced by `a=rid`.
    pub rid: Option<Rid>,
    /// Set when the SDP declares it.
    pub ssrc: Option<Ssrc>,
    /// Of packets that are sent again (RFC 4588), if the SDP declares it.
    pub rtx_ssrc: Option<Ssrc>,
}

/// A layer of a publication, and how much of it: one of its encodings, with so many temporal layers (RFC 9626, section
/// 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerId {
    /// Index into [`ReceiveSection::layers`].
    pub spatial: u8,
    /// Highest temporal layer; those above are left out.
    pub temporal: u8,
}

impl LayerId {
    /// An encoding with all of its temporal layers.
    pub const fn whole(spatial: u8) -> Self {
        Self { spatial, temporal: u8::MAX }
    }
}

/// What a client publishes in one media section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveSection {
    /// The section.
    pub mid: Mid,
    /// What all its codecs carry.
    pub kind: MediaKind,
    /// In the answer's order of preference.
    pub codecs: Vec<PayloadCodec>,
    /// Ids of header extensions.
    pub extensions: ExtensionIds,
    /// Lowest quality first, at least one, at most [`LAYERS_MAX`].
    pub layers: Vec<Layer>,
    /// Whether `nack` was negotiated, so that asking again makes sense.
    pub nack: bool,
}

/// Simulcast encodings of one track that we follow.
pub const LAYERS_MAX: usize = 3;

/// What a client gets in one media section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendSection {
    /// The section.
    pub mid: Mid,
    /// SSRC of the packets.
    pub ssrc: Ssrc,
    /// SSRC of packets that are sent again (RFC 4588); `None`: none are.
    pub rtx_ssrc: Option<Ssrc>,
    /// In the client's order of preference.
    pub codecs: Vec<PayloadCodec>,
    /// Ids of header extensions.
    pub extensions: ExtensionIds,
    /// Text of the CNAME in our sender reports (RFC 7022).
    pub cname: Arc<str>,
    /// Whether LiveKit's packet trailers are taken off ([`crate::trailer`]).
    pub strips_trailers: bool,
}
