//! Renumbers packets so that a subscriber sees one unbroken stream.
//!
//! Pauses and layer switches must not look like loss (RFC 3550, section 5.1), and a VP8 decoder expects picture ids to
//! go on by one (RFC 7741, section 4.2). What is sent is cut into stretches; within one, every number is the source's
//! plus a constant. So loss at the source stays visible, late packets fit in, and a NACK finds its way back.
//! Which packets are forwarded is decided in [`crate::subscription`].

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use crate::history::PacketInfo;

/// Stretches that a NACK can still reach. A subscriber asks within a second; switches are rarer.
const STRETCHES_MAX: usize = 4;

/// A part of the sent stream that comes from one layer without interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    pub layer: u8,
    /// Extended source number of its first packet.
    pub first: u64,
    /// Sent number is source number plus this, in extended numbers.
    offset: i64,
    timestamp_offset: u32,
    picture_offset: u16,
    tl0_offset: u8,
    /// Source timestamp up to which the stretch catches up with a stream that went on before it was watched.
    catch_up: Option<u32>,
}

/// How much faster than in life a subscriber is shown what it missed: seconds become tens of milliseconds, so that its
/// playout clock does not take the past for a late present.
const CATCH_UP_SPEED: u32 = 32;

impl Stretch {
    /// The extended number under which a packet of the source is sent; `None` if it is from before the stretch.
    pub fn sent_number(&self, source: u64) -> Option<u64> {
        (source >= self.first).then(|| source.wrapping_add_signed(self.offset))
    }

    pub fn timestamp(&self, source: u32) -> u32 {
        let source = match self.catch_up {
            Some(present) if present.wrapping_sub(source).cast_signed() > 0 => {
                present.wrapping_sub(present.wrapping_sub(source) / CATCH_UP_SPEED)
            }
            Some(_) | None => source,
        };
        source.wrapping_add(self.timestamp_offset)
    }

    pub fn picture_id(&self, source: u16) -> u16 {
        source.wrapping_add(self.picture_offset)
    }

    pub fn tl0_pic_idx(&self, source: u8) -> u8 {
        source.wrapping_add(self.tl0_offset)
    }
}

/// The numbering of one sent stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rewriter {
    stretches: ArrayVec<Stretch, STRETCHES_MAX>,
    /// Extended number that the next packet in order gets.
    next: u64,
    timestamp: u32,
    picture_id: u16,
    tl0_pic_idx: u8,
    #[serde(skip)]
    sent_at: Option<Instant>,
}

impl Rewriter {
    /// Starts at `first` (random, RFC 3550, section 5.1), below 2^15 so that a receiver cannot guess the rollover
    /// counter wrong.
    pub fn new(first: u16) -> Self {
        Self {
            stretches: ArrayVec::new(),
            next: (first & 0x7fff).into(),
            timestamp: 0,
            picture_id: 0,
            tl0_pic_idx: 0,
            sent_at: None,
        }
    }

    pub fn current(&self) -> Option<&Stretch> {
        self.stretches.last()
    }

    /// Extended number of the next packet.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Begins a stretch of `layer` with `packet`. The media clock goes on by the time that has passed since the last
    /// packet.
    pub fn begin(&mut self, now: Instant, layer: u8, packet: &PacketInfo, clock_rate: u32) {
        let timestamp = match self.sent_at {
            Some(at) => {
                let passed = ticks(now.saturating_duration_since(at), clock_rate).max(1);
                self.timestamp.wrapping_add(passed)
            }
            None if self.stretches.is_empty() => packet.timestamp,
            None => self.timestamp.wrapping_add(1),
        };
        let fresh = self.stretches.is_empty();
        let (mut picture_offset, mut tl0_offset) = (0, 0);
        if let (Some(vp8), false) = (&packet.vp8, fresh) {
            if let Some((id, _)) = vp8.picture_id {
                picture_offset = self.picture_id.wrapping_add(1).wrapping_sub(id);
            }
            if let Some(tl0) = vp8.tl0_pic_idx {
                tl0_offset = self.tl0_pic_idx.wrapping_add(1).wrapping_sub(tl0);
            }
        }
        if self.stretches.is_full() {
            self.stretches.remove(0);
        }
        self.stretches.push(Stretch {
            layer,
            first: packet.sequence,
            offset: self.next.wrapping_sub(packet.sequence).cast_signed(),
            timestamp_offset: timestamp.wrapping_sub(packet.timestamp),
            picture_offset,
            tl0_offset,
            catch_up: None,
        });
    }

    /// Begins with a key frame of the past; what followed it is sent up to `present`, a source timestamp, quickly.
    pub fn begin_in_the_past(&mut self, now: Instant, layer: u8, packet: &PacketInfo, clock_rate: u32, present: u32) {
        self.begin(now, layer, packet, clock_rate);
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.catch_up = Some(present);
        }
    }

    /// Notes that `packet` was sent in the current stretch.
    pub fn sent(&mut self, now: Instant, packet: &PacketInfo) {
        let Some(stretch) = self.stretches.last().copied() else { return };
        let Some(number) = stretch.sent_number(packet.sequence) else { return };
        if number < self.next {
            return;
        }
        self.next = number + 1;
        self.timestamp = stretch.timestamp(packet.timestamp);
        self.sent_at = Some(now);
        if let Some(vp8) = &packet.vp8 {
            if let Some((id, _)) = vp8.picture_id {
                self.picture_id = stretch.picture_id(id);
            }
            if let Some(tl0) = vp8.tl0_pic_idx {
                self.tl0_pic_idx = stretch.tl0_pic_idx(tl0);
            }
        }
    }

    /// Where a packet with this sent number came from: its stretch and extended source number.
    pub fn source_of(&self, sent: u16) -> Option<(Stretch, u64, u64)> {
        let age = u64::from((self.next as u16).wrapping_sub(sent));
        if age == 0 {
            return None;
        }
        let number = self.next.checked_sub(age)?;
        self.stretches.iter().rev().find_map(|stretch| {
            let first = stretch.first.wrapping_add_signed(stretch.offset);
            (number >= first).then(|| (*stretch, number.wrapping_add_signed(stretch.offset.wrapping_neg()), number))
        })
    }
}

/// Ticks of a media clock in `time`, modulo 2^32.
pub fn ticks(time: Duration, clock_rate: u32) -> u32 {
    // Truncation is the modulo wanted: media clocks wrap.
    (time.as_micros() * u128::from(clock_rate) / 1_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn packet(sequence: u64, timestamp: u32) -> PacketInfo {
        PacketInfo {
            sequence,
            arrival: 0,
            timestamp,
            payload_type: 96,
            marker: false,
            keyframe_start: false,
            audio_level: None,
            vp8: None,
        }
    }

    proptest! {
        /// Whatever is withheld between stretches, the subscriber sees no gap, also across 65535 -> 0.
        #[test]
        fn the_sent_stream_has_no_gaps(first: u16, lengths in vec((1u64..40, 0u64..90_000, 0u8..3), 1..20)) {
            let now = Instant::now();
            let mut rewriter = Rewriter::new(first);
            let mut expected = u64::from(first & 0x7fff);
            let mut source = [60_000u64, 7, 65_530];
            for (length, gap, layer) in lengths {
                let at = &mut source[usize::from(layer)];
                *at += gap;
                rewriter.begin(now, layer, &packet(*at, 5), 90_000);
                for _ in 0..length {
                    let sent = rewriter.current().expect("begun").sent_number(*at).expect("in the stretch");
                    prop_assert_eq!(sent, expected);
                    rewriter.sent(now, &packet(*at, 5));
                    let (stretch, found, number) = rewriter.source_of(sent as u16).expect("sent");
                    prop_assert_eq!((stretch.layer, found, number), (layer, *at, sent));
                    *at += 1;
                    expected += 1;
                }
            }
        }
    }

    #[test]
    fn the_media_clock_goes_on_over_a_pause() {
        let now = Instant::now();
        let mut rewriter = Rewriter::new(1);
        rewriter.begin(now, 0, &packet(10, 1000), 90_000);
        rewriter.sent(now, &packet(10, 1000));
        let later = now + Duration::from_secs(2);
        rewriter.begin(later, 1, &packet(99, 777_777), 90_000);
        assert_eq!(rewriter.current().expect("begun").timestamp(777_777), 1000 + 180_000);
    }

    /// Elsewhere it is not known when the last packet was sent.
    #[test]
    fn the_media_clock_of_a_moved_stream_goes_on_behind_its_last_timestamp() {
        let now = Instant::now();
        let mut rewriter = Rewriter::new(1);
        rewriter.begin(now, 0, &packet(10, 1000), 90_000);
        rewriter.sent(now, &packet(10, 1000));
        let mut rewriter = Rewriter { sent_at: None, ..rewriter };
        rewriter.begin(now, 0, &packet(99, 777_777), 90_000);
        let stretch = rewriter.current().expect("begun");
        assert_eq!((stretch.timestamp(777_777), stretch.sent_number(99)), (1001, Some(2)));
    }

    #[test]
    fn what_a_subscriber_missed_passes_quickly_and_meets_the_present() {
        let now = Instant::now();
        let mut rewriter = Rewriter::new(1);
        rewriter.begin_in_the_past(now, 0, &packet(10, 1000), 90_000, 1000 + 270_000);
        let stretch = *rewriter.current().expect("begun");
        let past: Vec<u32> = (0..=90).map(|frame| stretch.timestamp(1000 + frame * 3000)).collect();
        assert!(past.windows(2).all(|pair| pair[1] > pair[0]));
        assert!(past[90] - past[0] < 9000);
        assert_eq!(stretch.timestamp(1000 + 273_000) - past[90], 3000);
    }

    #[test]
    fn a_number_that_was_not_sent_yet_has_no_source() {
        let now = Instant::now();
        let mut rewriter = Rewriter::new(5);
        assert!(rewriter.source_of(5).is_none());
        rewriter.begin(now, 0, &packet(10, 0), 90_000);
        rewriter.sent(now, &packet(10, 0));
        assert!(rewriter.source_of(5).is_some());
        assert!(rewriter.source_of(6).is_none());
        assert!(rewriter.source_of(4).is_none());
    }
}
