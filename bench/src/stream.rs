//! The steady stream: what one viewer receives, when, and how a packet of it is made.
//!
//! It is that of `loadtest --video-packets-per-second 220`: 220 video packets of 1,100 bytes of payload in 30 frames a
//! second, and 50 audio packets of 100 bytes. Encrypted with AEAD_AES_128_GCM (RFC 7714), each viewer with a key of its
//! own. Written apart from the server's code, because it measures what that code may not fall below.

use std::time::Duration;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Frames a second.
pub const FRAME_RATE: u32 = 30;
/// Video packets a second.
pub const VIDEO_RATE: u32 = 220;
/// Audio packets a second.
pub const AUDIO_RATE: u32 = 50;
/// Packets that one viewer gets in a second.
pub const PACKET_RATE: u32 = VIDEO_RATE + AUDIO_RATE;
/// Fixed header and an extension block with an absolute send time, as our server writes.
const HEADER_BYTES: usize = 20;
const TAG_BYTES: usize = 16;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Video,
    Audio,
}

impl Media {
    /// Bytes of a packet's RTP payload.
    pub const fn payload_bytes(self) -> usize {
        match self {
            Self::Video => 1_100,
            Self::Audio => 100,
        }
    }

    /// Bytes of a packet on the wire, without UDP's header.
    pub const fn packet_bytes(self) -> usize {
        HEADER_BYTES + self.payload_bytes() + TAG_BYTES
    }
}

/// Packets for every viewer that are due together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// Since the stream's start.
    pub due: Duration,
    pub media: Media,
    /// Packets a viewer.
    pub packets: usize,
}

/// Endless bursts in order of time.
#[derive(Debug, Default)]
pub struct Schedule {
    frames: u32,
    sounds: u32,
    /// Video packets owed, in 1/30.
    credit: u32,
}

impl Iterator for Schedule {
    type Item = Burst;

    fn next(&mut self) -> Option<Burst> {
        let frame_due = Duration::from_secs(self.frames.into()) / FRAME_RATE;
        // Between frames, so that neither waits for the other.
        let sound_due = Duration::from_secs(self.sounds.into()) / AUDIO_RATE + Duration::from_millis(8);
        if frame_due > sound_due {
            self.sounds += 1;
            return Some(Burst { due: sound_due, media: Media::Audio, packets: 1 });
        }
        self.frames += 1;
        self.credit += VIDEO_RATE;
        let packets = (self.credit / FRAME_RATE) as usize;
        self.credit %= FRAME_RATE;
        Some(Burst { due: frame_due, media: Media::Video, packets })
    }
}

/// The sender's state of one viewer.
pub struct Viewer {
    key: LessSafeKey,
    salt: [u8; 12],
    ssrc: u32,
    /// Packets sent: the extended sequence number.
    sent: u64,
}

impl Viewer {
    pub fn new(number: usize) -> Self {
        let mut key = [7; 16];
        key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let key = UnboundKey::new(&AES_128_GCM, &key).expect("AES-128 takes 16 bytes");
        Self { key: LessSafeKey::new(key), salt: [0x5a; 12], ssrc: 0x1000_0000 | number as u32, sent: 0 }
    }

    /// Writes the next packet of `payload` into `out`, sealed: [`Media::packet_bytes`] of it.
    pub fn write(&mut self, media: Media, payload: &[u8], out: &mut [u8]) {
        let number = self.sent;
        self.sent += 1;
        let (header, rest) = out.split_at_mut(HEADER_BYTES);
        let (body, tag) = rest.split_at_mut(media.payload_bytes());
        self.write_header(media, number, header);
        body.copy_from_slice(&payload[..media.payload_bytes()]);
        let sealed = self
            .key
            .seal_in_place_separate_tag(self.nonce(number), Aad::from(&*header), body)
            .expect("a packet is far below the limit of GCM");
        tag[..TAG_BYTES].copy_from_slice(sealed.as_ref());
    }

    fn write_header(&self, media: Media, number: u64, header: &mut [u8]) {
        let payload_type = match media {
            Media::Video => 96,
            Media::Audio => 111,
        };
        header[..2].copy_from_slice(&[0x90, payload_type]);
        header[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        header[4..8].copy_from_slice(&(number as u32 * 3_000).to_be_bytes());
        header[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        header[12..20].copy_from_slice(&[
            0xbe,
            0xde,
            0,
            1,
            0x62,
            (number >> 16) as u8,
            (number >> 8) as u8,
            number as u8,
        ]);
    }

    /// RFC 7714, section 8.1.
    fn nonce(&self, number: u64) -> Nonce {
        let mut iv = self.salt;
        for (byte, other) in iv[2..6].iter_mut().zip(self.ssrc.to_be_bytes()) {
            *byte ^= other;
        }
        for (byte, other) in iv[6..].iter_mut().zip(&number.to_be_bytes()[2..]) {
            *byte ^= other;
        }
        Nonce::assume_unique_for_key(iv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_220_video_and_50_audio_packets_in_order() {
        let bursts: Vec<Burst> = Schedule::default().take_while(|burst| burst.due < Duration::from_secs(10)).collect();
        let packets =
            |media| bursts.iter().filter(|burst| burst.media == media).map(|burst| burst.packets).sum::<usize>();
        assert_eq!((packets(Media::Video), packets(Media::Audio)), (2_200, 500));
        assert!(bursts.is_sorted_by_key(|burst| burst.due));
        assert_eq!(bursts.iter().filter(|burst| burst.media == Media::Video).count(), 300);
    }

    #[test]
    fn a_packet_has_the_bytes_that_it_says_and_its_own_nonce() {
        let mut viewer = Viewer::new(3);
        let mut out = [[0; 1_500]; 2];
        for packet in &mut out {
            viewer.write(Media::Video, &[9; 1_500], packet);
        }
        assert_eq!(Media::Video.packet_bytes(), 1_136);
        assert_eq!(out[0][1_136..], [0; 364]);
        assert_ne!(out[0][20..1_120], [9; 1_100]);
        assert_ne!(out[0][20..1_120], out[1][20..1_120]);
    }
}
