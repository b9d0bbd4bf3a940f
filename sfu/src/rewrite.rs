//! Renumbers packets so that a subscriber sees one unbroken stream.
//!
//! Pauses, layer switches and packets that are left out must not look like loss (RFC 3550, section 5.1), and a VP8
//! decoder expects picture ids to go on by one (RFC 7741, section 4.2). What is sent is cut into segments; within one,
//! every number is the source's plus an offset, which falls by one with each packet left out. So loss at the source
//! stays visible, late packets fit in, and a NACK finds its way back. Which packets are forwarded is decided in
//! [`crate::subscription`].

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use crate::history::PacketInfo;

/// Segments that a NACK can still reach. A subscriber asks within a second; switches are rarer.
const SEGMENTS_MAX: usize = 4;

/// For how many source numbers before the newest packet left out it is remembered which of them were left out: as many
/// as a layer's history holds, since nothing older can be sent.
const WINDOW: u64 = 512;
const WINDOW_WORDS: usize = WINDOW as usize / 64;

/// A part of the sent stream that comes from one layer without interruption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Index into the publication's layers.
    pub layer: u8,
    /// Extended source number of its first packet.
    first: u64,
    /// Sent number is source number plus this, in extended numbers, behind the last packet left out.
    offset: i64,
    timestamp_offset: u32,
    /// Sent picture id is the source's plus this, behind the last picture left out.
    picture_offset: u16,
    tl0_offset: u8,
    /// Source timestamp up to which the segment catches up with a stream that went on before it was watched.
    catch_up: Option<u32>,
    /// Where the offset has changed. Nothing is kept for the many subscribers who get all packets.
    omitted: Option<Box<Omitted>>,
}

/// How much faster than at its own rate a subscriber is shown what it missed: seconds become tens of milliseconds, so
/// that its playout clock does not take the past for a late present.
const CATCH_UP_SPEED: u32 = 32;

impl Segment {
    /// The extended number under which a packet of the source is sent; `None` if it is from before the segment, was
    /// left out, or is so old that this is not known.
    pub fn sent_number(&self, source: u64) -> Option<u64> {
        if source < self.first {
            return None;
        }
        let behind = match &self.omitted {
            None => 0,
            Some(omitted) if omitted.is_known(source) && !omitted.contains(source) => omitted.count_behind(source),
            Some(_) => return None,
        };
        Some(source.wrapping_add(behind).wrapping_add_signed(self.offset))
    }

    /// The number that its first packet was sent under.
    fn first_sent(&self) -> u64 {
        let omitted = self.omitted.as_ref().map_or(0, |omitted| omitted.count);
        self.first.wrapping_add(omitted).wrapping_add_signed(self.offset)
    }

    /// The packet of the source that was sent under an extended number.
    fn source_of(&self, sent: u64) -> Option<u64> {
        if sent < self.first_sent() {
            return None;
        }
        let source = sent.wrapping_add_signed(self.offset.wrapping_neg());
        match &self.omitted {
            Some(omitted) if source < omitted.end => omitted
                .find(self.first, sent, |source, behind| source.wrapping_add(behind).wrapping_add_signed(self.offset)),
            Some(_) | None => Some(source),
        }
    }

    fn omit(&mut self, packet: &PacketInfo) {
        let begins_picture = packet.vp8.is_some_and(|vp8| vp8.first);
        let omitted = self.omitted.get_or_insert_with(|| Box::new(Omitted::before(packet.sequence)));
        omitted.add(packet.sequence, begins_picture);
        self.offset -= 1;
        self.picture_offset = self.picture_offset.wrapping_sub(begins_picture.into());
    }

    /// The timestamp that a packet of the source is sent with.
    pub fn timestamp(&self, source: u32) -> u32 {
        let source = match self.catch_up {
            Some(present) if present.wrapping_sub(source).cast_signed() > 0 => {
                present.wrapping_sub(present.wrapping_sub(source) / CATCH_UP_SPEED)
            }
            Some(_) | None => source,
        };
        source.wrapping_add(self.timestamp_offset)
    }

    /// The picture id that a packet of the source, with this number and picture id, is sent with.
    pub fn picture_id(&self, source: u64, picture_id: u16) -> u16 {
        let behind = self.omitted.as_ref().map_or(0, |omitted| omitted.pictures_behind(source));
        // Truncation is the modulo wanted: picture ids wrap.
        picture_id.wrapping_add(self.picture_offset).wrapping_add(behind as u16)
    }

    /// The TL0PICIDX that a packet of the source is sent with.
    pub fn tl0_pic_idx(&self, source: u8) -> u8 {
        source.wrapping_add(self.tl0_offset)
    }
}

/// Which of the latest packets of a source were left out: a ring of a bit for each number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Omitted {
    /// Number behind the newest packet left out.
    end: u64,
    /// How many of the segment were left out.
    count: u64,
    packets: [u64; WINDOW_WORDS],
    /// Those of them that begin a picture.
    pictures: [u64; WINDOW_WORDS],
}

impl Omitted {
    /// None yet; `source` is the first.
    fn before(source: u64) -> Self {
        Self { end: source, count: 0, packets: [0; WINDOW_WORDS], pictures: [0; WINDOW_WORDS] }
    }

    /// Word and bit of a number.
    fn place(source: u64) -> (usize, u64) {
        // The remainder is below the size of the window.
        let at = (source % WINDOW) as usize;
        (at / 64, 1 << (at % 64))
    }

    fn is_known(&self, source: u64) -> bool {
        source + WINDOW >= self.end
    }

    fn contains(&self, source: u64) -> bool {
        let (word, bit) = Self::place(source);
        source < self.end && self.packets[word] & bit != 0
    }

    fn add(&mut self, source: u64, begins_picture: bool) {
        for passed in self.end.max((source + 1).saturating_sub(WINDOW))..source {
            let (word, bit) = Self::place(passed);
            self.packets[word] &= !bit;
            self.pictures[word] &= !bit;
        }
        let (word, bit) = Self::place(source);
        self.packets[word] |= bit;
        match begins_picture {
            true => self.pictures[word] |= bit,
            false => self.pictures[word] &= !bit,
        }
        self.end = self.end.max(source + 1);
        self.count += 1;
    }

    /// How many packets behind this number were left out.
    fn count_behind(&self, source: u64) -> u64 {
        self.ones_behind(source, &self.packets)
    }

    /// How many pictures behind this number were left out.
    fn pictures_behind(&self, source: u64) -> u64 {
        self.ones_behind(source, &self.pictures)
    }

    fn ones_behind(&self, source: u64, ring: &[u64; WINDOW_WORDS]) -> u64 {
        let mut count = 0;
        let mut next = source + 1;
        while next < self.end {
            let until = ((next / 64 + 1) * 64).min(self.end);
            let (word, _) = Self::place(next);
            // Neither bits before the next number nor those from the end on, which are of the window before.
            let bits = (ring[word] >> (next % 64)) << (64 - (until - next));
            count += u64::from(bits.count_ones());
            next = until;
        }
        count
    }

    /// The packet that was sent under this number, of those from `first` on that are remembered. `number_of` gives the
    /// number of a packet behind which so many were left out; it must grow with the packet.
    fn find(&self, first: u64, sent: u64, number_of: impl Fn(u64, u64) -> u64) -> Option<u64> {
        let number = |source| number_of(source, self.count_behind(source));
        let (mut low, mut high) = (first.max(self.end.saturating_sub(WINDOW)), self.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match number(middle) >= sent {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        (low < self.end && !self.contains(low) && number(low) == sent).then_some(low)
    }
}

/// The numbering of one sent stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rewriter {
    segments: ArrayVec<Segment, SEGMENTS_MAX>,
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
            segments: ArrayVec::new(),
            next: (first & 0x7fff).into(),
            timestamp: 0,
            picture_id: 0,
            tl0_pic_idx: 0,
            sent_at: None,
        }
    }

    /// The segment that packets are sent in now; `None` before the first one.
    pub fn current(&self) -> Option<&Segment> {
        self.segments.last()
    }

    /// Extended number of the next packet.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Begins a segment of `layer` with `packet`. The media clock goes on by the time that has passed since the last
    /// packet.
    pub fn begin(&mut self, now: Instant, layer: u8, packet: &PacketInfo, clock_rate: u32) {
        let timestamp = match self.sent_at {
            Some(at) => {
                let passed = ticks(now.saturating_duration_since(at), clock_rate).max(1);
                self.timestamp.wrapping_add(passed)
            }
            None if self.segments.is_empty() => packet.timestamp,
            None => self.timestamp.wrapping_add(1),
        };
        let fresh = self.segments.is_empty();
        let (mut picture_offset, mut tl0_offset) = (0, 0);
        if let (Some(vp8), false) = (&packet.vp8, fresh) {
            if let Some((id, _)) = vp8.picture_id {
                picture_offset = self.picture_id.wrapping_add(1).wrapping_sub(id);
            }
            if let Some(tl0) = vp8.tl0_pic_idx {
                tl0_offset = self.tl0_pic_idx.wrapping_add(1).wrapping_sub(tl0);
            }
        }
        if self.segments.is_full() {
            self.segments.remove(0);
        }
        self.segments.push(Segment {
            layer,
            first: packet.sequence,
            offset: self.next.wrapping_sub(packet.sequence).cast_signed(),
            timestamp_offset: timestamp.wrapping_sub(packet.timestamp),
            picture_offset,
            tl0_offset,
            catch_up: None,
            omitted: None,
        });
    }

    /// Begins with a key frame of the past; what followed it is sent up to `present`, a source timestamp, quickly.
    pub fn begin_in_the_past(&mut self, now: Instant, layer: u8, packet: &PacketInfo, clock_rate: u32, present: u32) {
        self.begin(now, layer, packet, clock_rate);
        if let Some(segment) = self.segments.last_mut() {
            segment.catch_up = Some(present);
        }
    }

    /// Leaves a packet of the current segment out, so that those behind it go on with its number, and pictures with its
    /// picture id. If one of these was sent already, it keeps its number, which the subscriber will miss.
    pub fn omit(&mut self, packet: &PacketInfo) {
        let next = self.next;
        let Some(segment) = self.segments.last_mut() else { return };
        if segment.sent_number(packet.sequence).is_some_and(|number| number >= next) {
            segment.omit(packet);
        }
    }

    /// Goes on behind `packet`, which is sent in the current segment, under this number.
    pub fn sent(&mut self, now: Instant, packet: &PacketInfo, number: u64) {
        let Some(segment) = self.segments.last() else { return };
        if number < self.next {
            return;
        }
        self.next = number + 1;
        self.timestamp = segment.timestamp(packet.timestamp);
        self.sent_at = Some(now);
        if let Some(vp8) = &packet.vp8 {
            if let Some((id, _)) = vp8.picture_id {
                self.picture_id = segment.picture_id(packet.sequence, id);
            }
            if let Some(tl0) = vp8.tl0_pic_idx {
                self.tl0_pic_idx = segment.tl0_pic_idx(tl0);
            }
        }
    }

    /// Where a packet with this sent number came from.
    pub fn source_of(&self, sent: u16) -> Option<Source<'_>> {
        let age = u64::from((self.next as u16).wrapping_sub(sent));
        if age == 0 {
            return None;
        }
        let number = self.next.checked_sub(age)?;
        let segment = self.segments.iter().rev().find(|segment| number >= segment.first_sent())?;
        Some(Source { segment, sequence: segment.source_of(number)?, number })
    }
}

/// Where a sent packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source<'a> {
    /// The segment that it was sent in.
    pub segment: &'a Segment,
    /// Extended number of the source.
    pub sequence: u64,
    /// Extended number that it was sent under.
    pub number: u64,
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
            hidden: false,
        }
    }

    /// A stream in its first segment, which packet `start` began.
    struct Sender {
        now: Instant,
        rewriter: Rewriter,
        newest: u64,
    }

    impl Sender {
        fn new(first: u16, start: u64) -> Self {
            let mut sender = Self { now: Instant::now(), rewriter: Rewriter::new(first), newest: start };
            sender.rewriter.begin(sender.now, 0, &packet(start, 5), 90_000);
            sender.pass(start, false).expect("the first is sent");
            sender
        }

        fn number_of(&self, source: u64) -> Option<u64> {
            self.rewriter.current().expect("begun").sent_number(source)
        }

        /// Sends a packet or leaves it out.
        fn pass(&mut self, source: u64, omit: bool) -> Option<u64> {
            self.newest = self.newest.max(source);
            if omit {
                self.rewriter.omit(&packet(source, 5));
                return None;
            }
            let number = self.number_of(source)?;
            self.rewriter.sent(self.now, &packet(source, 5), number);
            Some(number)
        }
    }

    proptest! {
        /// Whichever packets are left out, those sent have no gap, and each that history may hold is found again.
        #[test]
        fn packets_that_are_left_out_leave_no_gap(
            first: u16,
            start in 0u64..1 << 40,
            omitted in vec(any::<bool>(), 1..2_000),
        ) {
            let mut sender = Sender::new(first, start);
            let mut kept = Vec::new();
            for (source, omit) in (start + 1..).zip(omitted) {
                if let Some(number) = sender.pass(source, omit) {
                    kept.push((source, number));
                }
                let sent = sender.rewriter.next();
                prop_assert!(!omit || sender.number_of(source).is_none());
                prop_assert_eq!(sent, u64::from(first & 0x7fff) + 1 + kept.len() as u64);
            }
            prop_assert!(kept.windows(2).all(|pair| pair[1].1 == pair[0].1 + 1));
            let newest = sender.newest;
            for &(source, number) in kept.iter().rev().take_while(|(source, _)| source + WINDOW > newest) {
                prop_assert_eq!(sender.number_of(source), Some(number));
                let found = sender.rewriter.source_of(number as u16).expect("sent");
                prop_assert_eq!((found.sequence, found.number), (source, number));
            }
        }

        /// Packets overtake each other, get lost, and are left out: no number is used twice, as none may be with a
        /// cipher, and each leads back to the packet sent under it, and to no other.
        #[test]
        fn each_number_is_that_of_one_packet_whatever_the_order(
            first: u16,
            steps in vec((0u64..6, 0u8..10), 1..1_500),
        ) {
            let start = 70_000;
            let mut sender = Sender::new(first, start);
            let mut order: Vec<(u64, u64, u8)> =
                (start + 1..).zip(steps).map(|(source, (delay, fate))| (source + delay, source, fate)).collect();
            order.sort_unstable();
            let mut sent = std::collections::HashMap::new();
            for (_, source, fate) in order.into_iter().filter(|(.., fate)| *fate > 0) {
                if let Some(number) = sender.pass(source, fate < 5) {
                    prop_assert_eq!(sent.insert(number, source), None, "sent twice");
                }
            }
            let newest = sender.newest;
            for age in 1..=400.min(sender.rewriter.next() - u64::from(first & 0x7fff)) {
                let number = sender.rewriter.next() - age;
                let found = sender.rewriter.source_of(number as u16).map(|found| found.sequence);
                match sent.get(&number) {
                    Some(source) if source + WINDOW > newest => prop_assert_eq!(found, Some(*source)),
                    Some(_) => {}
                    // One that has not come, or that came too late to be left out.
                    None => prop_assert!(found.is_none_or(|source| !sent.values().any(|known| *known == source))),
                }
            }
            let numbers: Vec<u64> = {
                let mut pairs: Vec<_> = sent.into_iter().map(|(number, source)| (source, number)).collect();
                pairs.sort_unstable();
                pairs.into_iter().map(|(_, number)| number).collect()
            };
            prop_assert!(numbers.is_sorted(), "in the order of the source");
        }

        /// Whatever is left out between segments, the subscriber sees no gap, also across 65535 -> 0.
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
                    let sent = rewriter.current().expect("begun").sent_number(*at).expect("in the segment");
                    prop_assert_eq!(sent, expected);
                    rewriter.sent(now, &packet(*at, 5), sent);
                    let found = rewriter.source_of(sent as u16).expect("sent");
                    prop_assert_eq!((found.segment.layer, found.sequence, found.number), (layer, *at, sent));
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
        rewriter.sent(now, &packet(10, 1000), 1);
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
        rewriter.sent(now, &packet(10, 1000), 1);
        let mut rewriter = Rewriter { sent_at: None, ..rewriter };
        rewriter.begin(now, 0, &packet(99, 777_777), 90_000);
        let segment = rewriter.current().expect("begun");
        assert_eq!((segment.timestamp(777_777), segment.sent_number(99)), (1001, Some(2)));
    }

    #[test]
    fn what_a_subscriber_missed_is_shown_quickly_up_to_the_newest_packet() {
        let now = Instant::now();
        let mut rewriter = Rewriter::new(1);
        rewriter.begin_in_the_past(now, 0, &packet(10, 1000), 90_000, 1000 + 270_000);
        let segment = rewriter.current().expect("begun");
        let past: Vec<u32> = (0..=90).map(|frame| segment.timestamp(1000 + frame * 3000)).collect();
        assert!(past.windows(2).all(|pair| pair[1] > pair[0]));
        assert!(past[90] - past[0] < 9000);
        assert_eq!(segment.timestamp(1000 + 273_000) - past[90], 3000);
    }

    #[test]
    fn a_number_that_was_not_sent_yet_has_no_source() {
        let now = Instant::now();
        let mut rewriter = Rewriter::new(5);
        assert!(rewriter.source_of(5).is_none());
        rewriter.begin(now, 0, &packet(10, 0), 90_000);
        rewriter.sent(now, &packet(10, 0), 5);
        assert!(rewriter.source_of(5).is_some());
        assert!(rewriter.source_of(6).is_none());
        assert!(rewriter.source_of(4).is_none());
    }
}
