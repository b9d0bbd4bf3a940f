//! Which frames a VP8 frame refers to, by its numbers alone: libwebrtc's `rtp_vp8_ref_finder.cc`.
//!
//! It takes T2 to refer to the T2 before it, which Chrome's pattern never does, and it keeps all frames of upper
//! temporal layers back behind a gap of picture ids until a sync frame comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::assembly::Frame;
use super::unwrap::Unwrapper;

const TEMPORAL_LAYERS: usize = 5;
const STASHED_MAX: usize = 100;
const LAYER_INFOS_MAX: i64 = 50;
const NOT_RECEIVED_MAX: i64 = 100;

/// A frame with what it refers to, by extended picture ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referring {
    pub id: i64,
    pub references: Vec<i64>,
    pub frame: Frame,
}

pub struct References {
    picture_ids: Unwrapper,
    tl0_pic_idxs: Unwrapper,
    last_id: Option<i64>,
    not_received: BTreeSet<i64>,
    /// By TL0PICIDX: the last frame of each temporal layer.
    layers: BTreeMap<i64, [Option<i64>; TEMPORAL_LAYERS]>,
    stashed: VecDeque<(i64, i64, Frame)>,
}

impl Default for References {
    fn default() -> Self {
        Self {
            picture_ids: Unwrapper::new(15),
            tl0_pic_idxs: Unwrapper::new(8),
            last_id: None,
            not_received: BTreeSet::new(),
            layers: BTreeMap::new(),
            stashed: VecDeque::new(),
        }
    }
}

enum Decision {
    HandOff(Vec<i64>),
    Stash,
    Drop,
}

impl References {
    /// Takes a whole frame, and gives all whose references are known now.
    pub fn insert(&mut self, frame: Frame) -> Vec<Referring> {
        let id = self.picture_ids.unwrap(frame.numbers.picture_id.into());
        let tl0 = self.tl0_pic_idxs.unwrap(frame.numbers.tl0_pic_idx.into());
        let mut known = Vec::new();
        match self.decide(id, tl0, &frame) {
            Decision::HandOff(references) => known.push(Referring { id, references, frame }),
            Decision::Stash => self.stashed.push_front((id, tl0, frame)),
            Decision::Drop => {}
        }
        self.stashed.truncate(STASHED_MAX);
        if !known.is_empty() {
            self.retry(&mut known);
        }
        known
    }

    fn retry(&mut self, known: &mut Vec<Referring>) {
        loop {
            let before = known.len();
            for (id, tl0, frame) in std::mem::take(&mut self.stashed) {
                match self.decide(id, tl0, &frame) {
                    Decision::HandOff(references) => known.push(Referring { id, references, frame }),
                    Decision::Stash => self.stashed.push_back((id, tl0, frame)),
                    Decision::Drop => {}
                }
            }
            if known.len() == before {
                return;
            }
        }
    }

    fn decide(&mut self, id: i64, tl0: i64, frame: &Frame) -> Decision {
        self.note_gap(id);
        while self.layers.first_key_value().is_some_and(|(first, _)| *first < tl0 - LAYER_INFOS_MAX) {
            self.layers.pop_first();
        }
        let temporal = usize::from(frame.numbers.temporal).min(TEMPORAL_LAYERS - 1);
        if frame.picture.is_key && temporal > 0 {
            return Decision::Drop;
        }
        if frame.picture.is_key {
            self.layers.insert(tl0, [None; TEMPORAL_LAYERS]);
            self.update(id, tl0, temporal);
            return Decision::HandOff(Vec::new());
        }
        let Some(layers) = self.layers.get(&if temporal == 0 { tl0 - 1 } else { tl0 }).copied() else {
            return Decision::Stash;
        };
        let decision = match (temporal, frame.numbers.is_sync) {
            (0, _) => match self.layers.entry(tl0).or_insert(layers)[0] {
                Some(base) if base < id => Decision::HandOff(vec![base]),
                _ => Decision::Drop,
            },
            (_, true) if layers[temporal].is_some_and(|last| last >= id) => Decision::Drop,
            (_, true) => layers[0].map_or(Decision::Stash, |base| Decision::HandOff(vec![base])),
            (_, false) => self.all_references(id, &layers[..=temporal]),
        };
        if matches!(decision, Decision::HandOff(_)) {
            self.update(id, tl0, temporal);
        }
        decision
    }

    /// Of a frame that may refer to the last one of each layer up to its own.
    fn all_references(&self, id: i64, layers: &[Option<i64>]) -> Decision {
        let mut references = Vec::new();
        for last in layers {
            let Some(last) = *last else { return Decision::Stash };
            if last >= id {
                return Decision::Drop;
            }
            if self.not_received.range(last + 1..id).next().is_some() {
                return Decision::Stash;
            }
            references.push(last);
        }
        Decision::HandOff(references)
    }

    fn note_gap(&mut self, id: i64) {
        while self.not_received.first().is_some_and(|first| *first < id - NOT_RECEIVED_MAX) {
            self.not_received.pop_first();
        }
        let last = self.last_id.unwrap_or(id).max(id - NOT_RECEIVED_MAX);
        self.not_received.extend(last + 1..=id);
        self.last_id = Some(last.max(id));
    }

    /// The frame is the last of its layer, for this base frame and those right after it.
    fn update(&mut self, id: i64, tl0: i64, temporal: usize) {
        for tl0 in tl0.. {
            let Some(layers) = self.layers.get_mut(&tl0) else { break };
            if layers[temporal].is_some_and(|last| last > id) {
                break;
            }
            layers[temporal] = Some(id);
        }
        self.not_received.remove(&id);
    }
}
