//! Media as both floors name it.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MediaKind {
    Audio,
    Video,
}

/// A codec with the parameters that decide whether two ends mean the same bitstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Codec {
    Opus,
    /// RFC 2198 redundancy around Opus.
    Red,
    Pcmu,
    Pcma,
    Vp8,
    Vp9 {
        profile: u8,
    },
    /// RFC 6184. `profile` is the first two bytes of `profile-level-id`: `profile_idc`, `profile-iop`.
    H264 {
        packetization_mode: u8,
        profile: [u8; 2],
    },
    Av1 {
        profile: u8,
    },
    H265,
}

impl Codec {
    pub fn kind(self) -> MediaKind {
        match self {
            Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma => MediaKind::Audio,
            Codec::Vp8 | Codec::Vp9 { .. } | Codec::H264 { .. } | Codec::Av1 { .. } | Codec::H265 => MediaKind::Video,
        }
    }

    /// Ticks of its RTP timestamp per second.
    pub fn clock_rate(self) -> u32 {
        match self {
            Codec::Opus | Codec::Red => 48_000,
            Codec::Pcmu | Codec::Pcma => 8_000,
            Codec::Vp8 | Codec::Vp9 { .. } | Codec::H264 { .. } | Codec::Av1 { .. } | Codec::H265 => 90_000,
        }
    }

    /// The MIME type as LiveKit spells it.
    pub fn mime(self) -> &'static str {
        match self {
            Codec::Opus => "audio/opus",
            Codec::Red => "audio/red",
            Codec::Pcmu => "audio/PCMU",
            Codec::Pcma => "audio/PCMA",
            Codec::Vp8 => "video/VP8",
            Codec::Vp9 { .. } => "video/VP9",
            Codec::H264 { .. } => "video/H264",
            Codec::Av1 { .. } => "video/AV1",
            Codec::H265 => "video/H265",
        }
    }
}

/// LiveKit's request for a layer: rank among those a track publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Quality {
    Low,
    Medium,
    High,
}
