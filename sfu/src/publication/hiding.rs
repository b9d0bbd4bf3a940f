//! Which pictures of VP8's upper temporal layers are hidden from all viewers because packets of them are lost.
//!
//! A receiver that sees a gap in the picture ids keeps all pictures of upper layers back until the next one that refers
//! to the base layer alone (libwebrtc, `rtp_vp8_ref_finder.cc`): eight pictures for one. So what will not come, or will
//! come too late, is left out of the numbers as if it had never been sent, together with what refers to it. Of the base
//! layer nothing is ever hidden.

use std::ops::RangeInclusive;

use arrayvec::ArrayVec;

use crate::codec::Vp8Descriptor;
use crate::history::{History, PacketInfo};

/// Temporal layers that a descriptor can name.
const LAYERS: usize = 4;
/// Pictures that are lost between two packets at most for us to know what they were of.
const PICTURES_MAX: u16 = 8;

/// Pictures of which it is remembered that something is hidden: half a second.
const PICTURES_REMEMBERED: usize = 16;
/// How many numbers ago a packet may have been that arrives late: as many as a history holds.
const LATE_MAX: u64 = 512;
/// How far to look for a packet that has arrived before a lost one, and behind it.
const NEIGHBOURS: u64 = 64;

/// How far a publisher is trusted to send packets of a temporal layer again; 0: it does not (libwebrtc before August
/// 2023 kept only some).
const TRUST_MAX: u8 = 8;
const TRUST_FIRST: u8 = 4;
/// Lost with each packet that it was asked for in vain. One that it sends again gains one back.
const TRUST_LOST: u8 = 4;

/// Pictures that a gap between two packets has damaged, all of them of upper temporal layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage {
    /// How many pictures are to be left out that have not been already.
    pub(super) pictures: u16,
    /// Lowest temporal layer of them.
    pub(super) temporal: u8,
    /// Lowest temporal layer of those to which others may refer.
    referenced: Option<u8>,
    /// Ids of the pictures of which the last packets, or the first ones, are lost.
    tail_of: Option<u16>,
    head_of: Option<u16>,
    /// Whether the packet behind the gap begins another picture: the damaged ones are late already.
    is_late: bool,
}

/// What a layer hides.
#[derive(Debug)]
pub(super) struct Hiding {
    /// Ids of the latest pictures of which something is hidden.
    pictures: ArrayVec<u16, PICTURES_REMEMBERED>,
    /// The lowest temporal layer of which a reference is hidden: of this one and those above, only what refers to the
    /// base layer alone can be shown.
    broken: Option<u8>,
    /// From the first to the last packet where that was so lately, and how low.
    broken_lately: Option<(RangeInclusive<u64>, u8)>,
    /// Temporal layers that have been shown since the last key frame.
    shown: [bool; LAYERS],
    /// The highest temporal layer, and whether nothing refers to it.
    top: (u8, bool),
    trust: [u8; LAYERS],
}

impl Default for Hiding {
    fn default() -> Self {
        Self {
            pictures: ArrayVec::new(),
            broken: None,
            broken_lately: None,
            shown: [false; LAYERS],
            top: (0, false),
            trust: [TRUST_FIRST; LAYERS],
        }
    }
}

impl Hiding {
    /// Whether the publisher seems to send packets of this temporal layer again.
    pub(super) fn is_repaired(&self, temporal: u8) -> bool {
        self.trust[place(temporal)] > 0
    }

    /// A packet of this temporal layer was sent again, or was not although it was asked for.
    pub(super) fn on_asked(&mut self, temporal: u8, is_repaired: bool) {
        let trust = &mut self.trust[place(temporal)];
        *trust = if is_repaired { (*trust + 1).min(TRUST_MAX) } else { trust.saturating_sub(TRUST_LOST) };
    }

    /// Whether to hide what was lost between the newest packet and `next`, which has just arrived.
    pub(super) fn hides_gap(&mut self, last: &PacketInfo, next: &PacketInfo) -> Option<Damage> {
        let damage = damage(last, next, self.top)?;
        let is_hidden = match damage.referenced {
            Some(temporal) => !self.is_repaired(temporal),
            None => damage.is_late || !self.is_repaired(damage.temporal),
        };
        if !is_hidden {
            return None;
        }
        [damage.tail_of, damage.head_of].into_iter().flatten().for_each(|id| self.remember(id));
        self.note_hidden(next.sequence, damage.referenced, damage.temporal);
        Some(damage)
    }

    /// Whether to hide a packet that others overtook, or that was sent again: its number is taken, but it must neither
    /// complete a picture of which something is hidden, nor refer to one.
    pub(super) fn hides_late(&mut self, packet: &PacketInfo) -> bool {
        let Some((_, id, (temporal, is_sync))) = fields(packet).filter(|(_, _, (temporal, _))| *temporal > 0) else {
            return false;
        };
        let is_within = |packets: &RangeInclusive<u64>| {
            packets.contains(&packet.sequence) || self.broken.is_some() && packet.sequence >= *packets.start()
        };
        let lately = self.broken_lately.as_ref().filter(|(packets, _)| is_within(packets));
        let was_broken = lately.is_some_and(|(_, broken)| temporal >= *broken);
        let is_hidden = self.pictures.contains(&id) || was_broken && !is_sync;
        if is_hidden {
            self.remember(id);
        }
        is_hidden
    }

    /// Whether to hide a packet that is newer than all others, behind [`Hiding::hides_gap`].
    pub(super) fn hides(&mut self, packet: &PacketInfo) -> bool {
        let Some((vp8, id, (temporal, is_sync))) = fields(packet) else { return false };
        self.note_top(temporal, vp8.non_reference);
        if temporal == 0 {
            if packet.keyframe_start {
                (self.broken, self.shown) = (None, [false; LAYERS]);
            }
            return false;
        }
        let is_broken = self.broken.is_some_and(|broken| temporal >= broken);
        if self.pictures.contains(&id) || is_broken && !is_sync {
            self.remember(id);
            self.note_hidden(packet.sequence, (!vp8.non_reference).then_some(temporal), temporal);
            return true;
        }
        if is_sync && self.broken.is_some_and(|broken| temporal <= broken) {
            self.broken = None;
            if let Some((packets, _)) = &mut self.broken_lately {
                *packets = *packets.start()..=packet.sequence;
            }
        }
        self.shown[place(temporal)] = true;
        false
    }

    /// The temporal layer of a packet that has not arrived, if it is an upper one.
    pub(super) fn upper_layer_of_lost(&self, history: &History, sequence: u64) -> Option<u8> {
        if let Some(hidden) = history.find(sequence) {
            return Some(hidden.info.temporal());
        }
        let arrived = |sequence| history.find(sequence).map(|packet| packet.info).filter(|info| fields(info).is_some());
        let last = (1..NEIGHBOURS).find_map(|back| arrived(sequence.checked_sub(back)?))?;
        let next = (1..NEIGHBOURS).find_map(|ahead| arrived(sequence + ahead))?;
        damage(&last, &next, self.top).map(|damage| damage.temporal)
    }

    fn note_top(&mut self, temporal: u8, is_unused: bool) {
        if temporal >= self.top.0 {
            self.top = (temporal, is_unused);
        }
    }

    /// A receiver takes a picture to refer to the last one of each layer up to its own, since the last key frame.
    fn note_hidden(&mut self, sequence: u64, referenced: Option<u8>, temporal: u8) {
        let first = (!self.shown[place(temporal)]).then_some(temporal);
        self.broken = self.broken.into_iter().chain(referenced).chain(first).min();
        let Some(broken) = self.broken else { return };
        self.broken_lately = Some(match self.broken_lately.take() {
            Some((packets, before)) if sequence - packets.end() <= LATE_MAX => {
                (*packets.start()..=sequence, before.min(broken))
            }
            Some(_) | None => (sequence..=sequence, broken),
        });
    }

    fn remember(&mut self, id: u16) {
        if self.pictures.contains(&id) {
            return;
        }
        if self.pictures.is_full() {
            self.pictures.remove(0);
        }
        self.pictures.push(id);
    }
}

/// What a gap between two packets has damaged; `None` if it is of the base layer, or not known. `top` is the highest
/// temporal layer, and whether nothing refers to it.
pub(super) fn damage(last: &PacketInfo, next: &PacketInfo, top: (u8, bool)) -> Option<Damage> {
    let (before, last_id, (last_temporal, _)) = fields(last)?;
    let (after, next_id, (next_temporal, _)) = fields(next)?;
    let is_long = before.picture_id?.1;
    let passed = next_id.wrapping_sub(last_id) & if is_long { 0x7fff } else { 0x7f };
    if passed > PICTURES_MAX {
        return None;
    }
    let bases = after.tl0_pic_idx?.wrapping_sub(before.tl0_pic_idx?);
    let is_tail_lost = passed == 0 || !last.marker;
    let is_head_lost = passed > 0 && !after.first;
    let is_base =
        bases > u8::from(next_temporal == 0 && after.first && passed > 0) || is_tail_lost && last_temporal == 0;
    if is_base || is_head_lost && next_temporal == 0 {
        return None;
    }
    let whole = passed.saturating_sub(1);
    let of_whole = match whole {
        0 => None,
        // In all patterns every other picture is of the highest layer.
        1 if last_temporal < top.0 && next_temporal < top.0 => Some(top),
        _ => Some((1, false)),
    };
    let of_tail = is_tail_lost.then_some((last_temporal, before.non_reference));
    let of_head = is_head_lost.then_some((next_temporal, after.non_reference));
    let damaged = || [of_tail, of_whole, of_head].into_iter().flatten();
    Some(Damage {
        pictures: whole + u16::from(is_tail_lost && !last.hidden) + u16::from(is_head_lost),
        // Padding alone was lost: that is of no picture.
        temporal: damaged().map(|(temporal, _)| temporal).min().unwrap_or(top.0),
        referenced: damaged().filter(|(_, is_unused)| !is_unused).map(|(temporal, _)| temporal).min(),
        tail_of: is_tail_lost.then_some(last_id),
        head_of: is_head_lost.then_some(next_id),
        is_late: passed > 0 && !is_head_lost,
    })
}

fn fields(packet: &PacketInfo) -> Option<(Vp8Descriptor, u16, (u8, bool))> {
    let vp8 = packet.vp8?;
    Some((vp8, vp8.picture_id?.0, vp8.temporal?))
}

fn place(temporal: u8) -> usize {
    usize::from(temporal) % LAYERS
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::{Duration, Instant};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use shared::media::MediaKind;

    use super::*;
    use crate::publication::LayerState;
    use crate::rewrite::Rewriter;
    use crate::section::{Layer, Ssrc};

    /// libwebrtc's three temporal layers: layer, whether it refers to the base layer alone, whether it reads what T1
    /// wrote.
    const PATTERN: [(u8, bool, bool); 8] = [
        (0, false, false),
        (2, true, false),
        (1, true, false),
        (2, false, true),
        (0, false, false),
        (2, false, true),
        (1, false, true),
        (2, false, true),
    ];

    /// The packets of so many pictures, with the numbers of their pictures.
    fn film(sizes: &[u64], first_id: u16) -> Vec<(usize, PacketInfo)> {
        let (mut packets, mut tl0) = (Vec::new(), 200u8);
        for (number, size) in sizes.iter().enumerate() {
            let (temporal, is_sync, _) = PATTERN[number % 8];
            tl0 = tl0.wrapping_add(u8::from(temporal == 0));
            for part in 0..*size {
                let vp8 = Vp8Descriptor {
                    first: part == 0,
                    non_reference: temporal == 2,
                    picture_id: Some((first_id.wrapping_add(number as u16) & 0x7fff, true)),
                    tl0_pic_idx: Some(tl0),
                    temporal: Some((temporal, is_sync)),
                    ..Vp8Descriptor::default()
                };
                let info = PacketInfo {
                    sequence: 1_000 + packets.len() as u64,
                    arrival: 0,
                    timestamp: 3_000 * number as u32,
                    payload_type: 96,
                    marker: part + 1 == *size,
                    keyframe_start: number == 0 && part == 0,
                    audio_level: None,
                    vp8: Some(vp8),
                    hidden: false,
                };
                packets.push((number, info));
            }
        }
        packets
    }

    /// A layer, and a viewer of it: what it got, by number of the source.
    struct Watched {
        now: Instant,
        layer: LayerState,
        rewriter: Rewriter,
        sent: BTreeMap<u64, (u64, u16)>,
        in_time: BTreeSet<u64>,
        hidden: BTreeSet<u64>,
    }

    impl Watched {
        fn new() -> Self {
            let layer = LayerState::new(Layer { rid: None, ssrc: Some(Ssrc(1)), rtx_ssrc: None });
            let rewriter = Rewriter::new(65_500);
            Self {
                now: Instant::now(),
                layer,
                rewriter,
                sent: BTreeMap::new(),
                in_time: BTreeSet::new(),
                hidden: BTreeSet::new(),
            }
        }

        fn receive(&mut self, info: PacketInfo, recovered: bool) {
            self.layer.keep(self.now, MediaKind::Video, info, &[], &[0; 20], recovered);
            for sequence in self.layer.pending.drain(..) {
                let info = self.layer.history.as_deref().expect("made").find(sequence).expect("kept").info;
                let is_newest = self.sent.last_key_value().is_none_or(|(newest, _)| *newest < sequence);
                if info.hidden {
                    // What is late leaves a gap.
                    if is_newest {
                        self.hidden.insert(sequence);
                    }
                    self.rewriter.omit(&info);
                    continue;
                }
                if self.rewriter.current().is_none() {
                    self.rewriter.begin(self.now, 0, &info, 90_000);
                }
                let segment = self.rewriter.current().expect("begun");
                let id = info.vp8.and_then(|vp8| vp8.picture_id).expect("of VP8").0;
                let Some(number) = segment.sent_number(sequence) else { continue };
                if is_newest {
                    self.in_time.insert(sequence);
                }
                self.sent.insert(sequence, (number, segment.picture_id(sequence, id) & 0x7fff));
                self.rewriter.sent(self.now, &info, number);
            }
        }
    }

    /// What a viewer must get.
    impl Watched {
        fn check(&self, film: &[(usize, PacketInfo)]) -> Result<(), TestCaseError> {
            let of = |sequence: u64| film[sequence as usize - 1_000].0;
            let packets =
                |picture: usize| film.iter().filter(move |(of, _)| *of == picture).map(|(_, info)| info.sequence);
            let is_hidden = |picture| packets(picture).any(|at| self.hidden.contains(&at));
            let is_whole = |picture| packets(picture).all(|at| self.sent.contains_key(&at));
            let is_in_time =
                |picture| packets(picture).all(|at| self.hidden.contains(&at) || self.in_time.contains(&at));
            for ((at, (number, id)), (next, (next_number, next_id))) in self.sent.iter().zip(self.sent.iter().skip(1)) {
                // What has neither come nor been hidden is a gap for the viewer too.
                let gap = (*at + 1..*next).filter(|at| !self.hidden.contains(at)).count() as u64;
                prop_assert_eq!(next_number - number, gap + 1, "behind {}", at);
                if (of(*at)..=of(*next)).all(is_in_time) {
                    let shown = (of(*at)..of(*next)).filter(|picture| !is_hidden(*picture)).count();
                    prop_assert_eq!(usize::from(next_id.wrapping_sub(*id) & 0x7fff), shown, "behind {}", at);
                }
            }
            let pictures = || 0..film.last().map_or(0, |(picture, _)| picture + 1);
            let ids = pictures()
                .filter(|picture| is_whole(*picture))
                .map(|picture| self.sent[&packets(picture).next().expect("one")].1);
            let ids: Vec<u16> = ids.collect();
            prop_assert!(ids.windows(2).all(|pair| (1..100).contains(&(pair[1].wrapping_sub(pair[0]) & 0x7fff))));
            for picture in pictures() {
                let (temporal, _, reads) = PATTERN[picture % 8];
                prop_assert!(temporal > 0 || !is_hidden(picture), "{} is of the base layer", picture);
                if let (true, Some(referred)) = (reads && is_whole(picture), (0..picture).rev().find(|at| at % 4 == 2))
                {
                    prop_assert!(!is_hidden(referred), "{} refers to {}", picture, referred);
                }
            }
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn hidden_pictures_leave_no_gap_and_nothing_refers_to_them(
            sizes in vec(1u64..5, 8..120),
            first_id in any::<u16>(),
            fates in vec((0u8..100, any::<bool>()), 600),
            loss in 0u8..40,
            repairs in any::<bool>(),
        ) {
            let film = film(&sizes, first_id);
            let mut watched = Watched::new();
            let (mut due, mut repaired) = (Vec::new(), Vec::new());
            for ((number, info), (fate, is_repair_lost)) in film.iter().zip(&fates) {
                watched.now += Duration::from_millis(if info.vp8.is_some_and(|vp8| vp8.first) { 30 } else { 1 });
                for info in repaired.drain(..) {
                    watched.receive(info, true);
                }
                watched.layer.due_nacks(watched.now, &mut due);
                for sequence in due.drain(..) {
                    let (_, lost) = film[usize::from(sequence) - 1_000];
                    if !*is_repair_lost && (repairs || lost.temporal() == 0) {
                        repaired.push(lost);
                    }
                }
                if *number == 0 || *fate >= loss {
                    watched.receive(*info, false);
                }
            }

            watched.check(&film)?;
        }
    }
}
