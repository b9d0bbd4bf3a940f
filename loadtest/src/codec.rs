//! Payloads that a forwarding server takes for encoded media.
//!
//! Only what servers read is real: the VP8 payload descriptor and frame tag (RFC 7741, RFC 6386), the H.264 NAL unit
//! headers (RFC 6184). The rest is filling, with a [`crate::stamp`] at the end.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Video codecs that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VideoCodec {
    #[default]
    Vp8,
    H264,
}

impl VideoCodec {
    /// Its name in SDP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vp8 => "VP8",
            Self::H264 => "H264",
        }
    }
}

/// Where a packet stands in its frame.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub first: bool,
    pub last: bool,
    pub key_frame: bool,
    /// Counts frames; 15 bits of it are the VP8 picture id.
    pub frame: u64,
}

/// Writes the codec's bytes at the head of `payload`, which is filled up to its length.
pub fn write_head(codec: VideoCodec, place: Place, payload: &mut [u8]) {
    match codec {
        VideoCodec::Vp8 => write_vp8(place, payload),
        VideoCodec::H264 => write_h264(place, payload),
    }
}

fn write_vp8(place: Place, payload: &mut [u8]) {
    // Extended descriptor with a picture id of 15 bits, a TL0 index, and temporal layer 0 without sync.
    let id = (place.frame & 0x7fff) as u16;
    let start = if place.first { 0x10 } else { 0 };
    let descriptor = [0x80 | start, 0xe0, 0x80 | (id >> 8) as u8, id as u8, place.frame as u8, 0];
    fill(payload, &descriptor);
    if place.first {
        // Frame tag: version 0, shown; the lowest bit is 0 for key frames, which also carry start code and size.
        let tag = [if place.key_frame { 0x10 } else { 0x11 }, 0x02, 0x00];
        fill(&mut payload[descriptor.len()..], &tag);
        if place.key_frame {
            let size = [0x9d, 0x01, 0x2a, 0x00, 0x05, 0xd0, 0x02];
            fill(&mut payload[descriptor.len() + tag.len()..], &size);
        }
    }
}

/// Baseline profile, level 3.1.
const SPS: [u8; 8] = [0x67, 0x42, 0xe0, 0x1f, 0x8c, 0x8d, 0x40, 0x50];
const PPS: [u8; 4] = [0x68, 0xce, 0x3c, 0x80];

fn write_h264(place: Place, payload: &mut [u8]) {
    if place.first && place.key_frame {
        // SPS, PPS and a first slice in one aggregate, as libwebrtc packs them; the rest follows as FU-A.
        let rest = payload.len().saturating_sub(1 + 2 + SPS.len() + 2 + PPS.len() + 2) as u16;
        let mut head = vec![0x78, 0, SPS.len() as u8];
        head.extend_from_slice(&SPS);
        head.extend_from_slice(&[0, PPS.len() as u8]);
        head.extend_from_slice(&PPS);
        head.extend_from_slice(&rest.to_be_bytes());
        head.push(0x65);
        fill(payload, &head);
        return;
    }
    let nal_type = if place.key_frame { 5 } else { 1 };
    if place.first && place.last {
        // A fragmentation unit never both starts and ends a NAL unit (RFC 6184, section 5.8).
        fill(payload, &[0x60 | nal_type]);
        return;
    }
    // The first fragment of a key frame went into the aggregate above, so its FU-A starts with the second packet.
    let start = if place.first { 0x80 } else { 0 };
    let end = if place.last { 0x40 } else { 0 };
    fill(payload, &[0x7c, start | end | nal_type]);
}

fn fill(payload: &mut [u8], head: &[u8]) {
    let len = head.len().min(payload.len());
    payload[..len].copy_from_slice(&head[..len]);
}

/// Whether a received payload starts a key frame.
pub fn starts_key_frame(codec: VideoCodec, payload: &[u8]) -> bool {
    match codec {
        VideoCodec::Vp8 => vp8_starts_key_frame(payload).unwrap_or(false),
        VideoCodec::H264 => h264_starts_key_frame(payload).unwrap_or(false),
    }
}

fn vp8_starts_key_frame(payload: &[u8]) -> Option<bool> {
    let first = *payload.first()?;
    if first & 0x10 == 0 || first & 0x0f != 0 {
        return Some(false);
    }
    let mut at = 1;
    if first & 0x80 != 0 {
        let flags = *payload.get(1)?;
        at = 2;
        if flags & 0x80 != 0 {
            at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        at += usize::from(flags & 0x40 != 0) + usize::from(flags & 0x30 != 0);
    }
    Some(payload.get(at)? & 1 == 0)
}

fn h264_starts_key_frame(payload: &[u8]) -> Option<bool> {
    let is_key = |nal: u8| matches!(nal & 0x1f, 5 | 7);
    Some(match payload.first()? & 0x1f {
        24 => is_key(*payload.get(3)?),
        28 => {
            let header = *payload.get(1)?;
            header & 0x80 != 0 && is_key(header)
        }
        _ => is_key(payload[0]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(codec: VideoCodec, first: bool, key_frame: bool) -> Vec<u8> {
        let mut payload = vec![0xaa; 100];
        write_head(codec, Place { first, last: false, key_frame, frame: 300 }, &mut payload);
        payload
    }

    #[test]
    fn key_frames_are_recognised_by_their_first_packet_only() {
        for codec in [VideoCodec::Vp8, VideoCodec::H264] {
            assert!(starts_key_frame(codec, &head(codec, true, true)), "{codec:?}");
            assert!(!starts_key_frame(codec, &head(codec, true, false)), "{codec:?}");
            assert!(!starts_key_frame(codec, &head(codec, false, true)), "{codec:?}");
        }
    }

    #[test]
    fn short_payloads_are_neither_written_past_nor_read_past() {
        for codec in [VideoCodec::Vp8, VideoCodec::H264] {
            for len in 0..30 {
                let mut payload = vec![0; len];
                let place = Place { first: true, last: true, key_frame: true, frame: 1 };
                if len >= 9 {
                    write_head(codec, place, &mut payload);
                }
                starts_key_frame(codec, &payload);
            }
        }
    }
}
