//! Sections of a transport whose offers the client makes (v0 publisher, v1 single).
//!
//! The client's offer says which sections there are; kept here is only what each is used for.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sfu::command::{LAYERS_MAX, Layer, Mid, ReceiveSection, Rid, SendSection};
use shared::id::TrackSid;
use shared::media::{Codec, MediaKind};

use super::codecs::{self, EnabledCodecs, Feedback, SectionCodec};
use super::description::{ClientSection, Description, Direction, SectionKind};
use super::extensions::{self, ExtensionId};
use super::interface::{BindError, OfferDiff, OutgoingTrack, ReceiveSettings, Role, SdpError, SendingSection};
use super::render::{Bound, MediaSection, OurSection};
use super::ssrcs::SsrcSource;
use crate::quirks::{Quirk, Quirks};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ClientOffers {
    role: Role,
    /// For what the client publishes.
    to_publish: EnabledCodecs,
    /// For what it is shown.
    to_view: EnabledCodecs,
    /// It sends what it likes best of an answer, not its first codec.
    only_preferred: bool,
    /// The last one.
    pub offer: Option<Description>,
    pub is_answered: bool,
    /// By mid, for sections of the last offer; without an entry a section was never used.
    uses: HashMap<Mid, Use>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Use {
    Received {
        settings: ReceiveSettings,
        /// As the worker has it.
        section: ReceiveSection,
    },
    /// Was received; never a slot for what we send.
    Stopped,
    Bound {
        bound: Bound,
        /// As the worker has it.
        section: SendSection,
    },
    /// It was bound, and no answer since has told the client that nothing is sent in it. Until then the client would
    /// not notice another track (WebRTC, section 4.4.1.6: `[[FiredDirection]]`).
    Released,
    /// Answered inactive since it was bound.
    Freed,
}

/// What we send in a section.
struct Sending {
    codecs: Vec<SectionCodec>,
    /// Agreed on; more than is ever sent.
    extensions: Vec<ExtensionId>,
}

/// What we receive in a section.
struct Receiving {
    codecs: Vec<SectionCodec>,
    extensions: Vec<ExtensionId>,
    /// In the client's order.
    rids: Vec<Rid>,
}

impl ClientOffers {
    pub(crate) fn new(role: Role, enabled: EnabledCodecs) -> Self {
        Self {
            role,
            to_publish: enabled.clone(),
            to_view: enabled,
            only_preferred: false,
            offer: None,
            is_answered: true,
            uses: HashMap::new(),
        }
    }

    pub(crate) fn set_quirks(&mut self, quirks: Quirks) {
        self.to_publish.withhold(quirks.withheld_from_publishing());
        self.to_view.withhold(quirks.withheld_from_viewing());
        self.only_preferred = quirks.has(Quirk::OnlyPreferredCodec);
    }

    /// Replaces the last offer, and compares what is in use with it.
    pub(crate) fn apply_offer(&mut self, offer: Description, diff: &mut OfferDiff) {
        let uses = std::mem::take(&mut self.uses);
        for section in &offer.sections {
            diff.has_application |= section.kind == SectionKind::Application;
            let is_taken = matches!(uses.get(&section.mid), Some(Use::Received { .. } | Use::Bound { .. }));
            if section.sends() && !is_taken {
                diff.sending.push(sending_section(section));
            }
        }
        let mut uses: Vec<(Mid, Use)> = uses.into_iter().collect();
        let sections = offer.sections.iter().enumerate().map(|(at, section)| (section.mid, (at, section)));
        let sections: HashMap<Mid, (usize, &ClientSection)> = sections.collect();
        uses.sort_by_key(|(mid, _)| sections.get(mid).map(|(at, _)| *at));
        for (mid, used) in uses {
            let section = sections.get(&mid).map(|(_, section)| *section);
            let section = section.filter(|section| section.media_kind().is_some());
            let next = self.compare(mid, used, section, diff);
            if let (Some(next), Some(_)) = (next, section) {
                self.uses.insert(mid, next);
            }
        }
        self.offer = Some(offer);
        self.is_answered = false;
    }

    /// What becomes of one section's use with the new offer.
    fn compare(&self, mid: Mid, used: Use, section: Option<&ClientSection>, diff: &mut OfferDiff) -> Option<Use> {
        match used {
            Use::Received { settings, section: old } => {
                let sent = section.filter(|section| section.sends());
                match sent.and_then(|sent| Some((sent, self.receive_section(sent, &settings)?))) {
                    Some((sent, new)) if new != old => diff.changed.push(sending_section(sent)),
                    Some(_) => {}
                    None => {
                        diff.ended.push(mid);
                        return Some(Use::Stopped);
                    }
                }
                Some(Use::Received { settings, section: old })
            }
            Use::Bound { bound, section: old } => {
                match section.filter(|section| section.receives()).and_then(|section| self.send(section, &bound)) {
                    Some(new) => {
                        if new != old {
                            diff.rebound.push((bound.track.track.clone(), new.clone()));
                        }
                        Some(Use::Bound { bound, section: new })
                    }
                    None => {
                        diff.lost.push(bound.track.track);
                        Some(Use::Released)
                    }
                }
            }
            Use::Stopped => Some(Use::Stopped),
            Use::Released => Some(Use::Released),
            Use::Freed => Some(Use::Freed),
        }
    }

    pub(crate) fn receive(&mut self, mid: &Mid, settings: &ReceiveSettings) -> Result<ReceiveSection, SdpError> {
        let no_section = || SdpError(format!("no section {mid:?} in which the client sends"));
        let offer = self.offer.as_ref().ok_or_else(no_section)?;
        let section = offer.section(mid).filter(|section| section.sends()).ok_or_else(no_section)?;
        if matches!(self.uses.get(mid), Some(Use::Bound { .. })) {
            return Err(SdpError(format!("section {mid:?} shows a track")));
        }
        let received = self.receive_section(section, settings);
        let received = received.ok_or_else(|| SdpError(format!("no codec in common in section {mid:?}")))?;
        self.uses.insert(*mid, Use::Received { settings: settings.clone(), section: received.clone() });
        Ok(received)
    }

    pub(crate) fn stop_receiving(&mut self, mid: &Mid) {
        if let Some(used @ Use::Received { .. }) = self.uses.get_mut(mid) {
            *used = Use::Stopped;
        }
    }

    pub(crate) fn bind(&mut self, track: &OutgoingTrack, ssrcs: &mut SsrcSource) -> Result<SendSection, BindError> {
        if let Some((_, section)) = self.bound().find(|(bound, _)| bound.track.track == track.track) {
            return Ok(section.clone());
        }
        let offer = self.offer.as_ref().ok_or(BindError::NoFreeSection)?;
        let mut error = BindError::NoFreeSection;
        for section in offer.sections.iter().filter(|section| self.is_free(section, track.kind)) {
            error = BindError::CodecUnsupported;
            // Before anything is made for it: a client may have many sections.
            if !codecs::carry(&section.codecs, track.codec) {
                continue;
            }
            let bound = ssrcs.bound(track, |ssrc| offer.declares(ssrc));
            let mid = section.mid;
            if let Some(section) = self.send(section, &bound) {
                self.uses.insert(mid, Use::Bound { bound, section: section.clone() });
                return Ok(section);
            }
        }
        Err(error)
    }

    pub(crate) fn release(&mut self, track: &TrackSid) {
        for used in self.uses.values_mut() {
            if matches!(used, Use::Bound { bound, .. } if bound.track.track == *track) {
                *used = Use::Released;
            }
        }
    }

    /// The last offer is answered as it stands.
    pub(crate) fn note_answer(&mut self) {
        self.is_answered = true;
        for used in self.uses.values_mut().filter(|used| matches!(used, Use::Released)) {
            *used = Use::Freed;
        }
    }

    pub(crate) fn free_sections(&self, kind: MediaKind) -> usize {
        let sections = self.offer.iter().flat_map(|offer| &offer.sections);
        sections.filter(|section| self.is_free(section, kind)).count()
    }

    fn bound(&self) -> impl Iterator<Item = (&Bound, &SendSection)> {
        self.uses.values().filter_map(|used| match used {
            Use::Bound { bound, section } => Some((bound, section)),
            Use::Received { .. } | Use::Stopped | Use::Released | Use::Freed => None,
        })
    }

    fn is_free(&self, section: &ClientSection, kind: MediaKind) -> bool {
        self.role == Role::Single
            && section.media_kind() == Some(kind)
            && section.direction == Direction::Recvonly
            && matches!(self.uses.get(&section.mid), None | Some(Use::Freed))
    }

    /// Mids and tracks of bound sections.
    pub(crate) fn shown(&self) -> HashMap<String, String> {
        let shown = self.bound().map(|(bound, section)| (section.mid.to_string(), bound.track.track.to_string()));
        shown.collect()
    }

    /// Answers to each section of an offer, in its order.
    pub(crate) fn answers<'a>(&'a self, offer: &'a Description) -> Vec<OurSection<'a>> {
        let mut has_application = false;
        let sections = offer.sections.iter().map(|section| match section.kind {
            SectionKind::Application if !std::mem::replace(&mut has_application, true) => {
                OurSection::Application { protocol: &section.protocol, mid: section.mid }
            }
            SectionKind::Media(kind) => match self.answer_media(section, kind) {
                Some(answer) => OurSection::Media(answer),
                None => refuse(section),
            },
            SectionKind::Application | SectionKind::Unusable => refuse(section),
        });
        sections.collect()
    }

    /// `None`: there is no codec in common.
    fn answer_media<'a>(&'a self, section: &'a ClientSection, kind: MediaKind) -> Option<MediaSection<'a>> {
        let unset = ReceiveSettings::default();
        let (direction, settings, sender) = match self.uses.get(&section.mid) {
            Some(Use::Received { settings, .. }) => (Direction::Recvonly, Some(settings), None),
            Some(Use::Bound { bound, .. }) => (Direction::Sendonly, None, Some(bound)),
            Some(Use::Stopped) => (Direction::Inactive, Some(&unset), None),
            Some(Use::Released | Use::Freed) => (Direction::Inactive, None, None),
            None => match section.direction {
                Direction::Recvonly => (Direction::Sendonly, None, None),
                Direction::Inactive => (Direction::Inactive, None, None),
                Direction::Sendonly | Direction::Sendrecv => (Direction::Inactive, Some(&unset), None),
            },
        };
        let (codecs, extensions, rids) = match settings {
            Some(settings) => {
                let receiving = self.receiving(section, kind, settings);
                (receiving.codecs, receiving.extensions, receiving.rids)
            }
            None => {
                let sending = self.sending(section, kind, sender.map(|bound| &bound.track));
                (sending.codecs, sending.extensions, Vec::new())
            }
        };
        let protocol = &section.protocol;
        (!codecs.is_empty()).then_some(MediaSection {
            kind,
            protocol,
            mid: section.mid,
            direction,
            codecs,
            extensions,
            rids,
            sender,
        })
    }

    fn receiving(&self, section: &ClientSection, kind: MediaKind, settings: &ReceiveSettings) -> Receiving {
        let extensions = section.extensions_to_receive(kind, self.role);
        let has_transport_cc = extensions::has_transport_cc(&extensions);
        let codecs =
            codecs::for_publishing(&section.codecs, &self.to_publish, settings, has_transport_cc, self.only_preferred);
        let best = rids_by_quality(&section.rids, &settings.rids_by_quality);
        let rids = section.rids.iter().copied().filter(|rid| best.contains(rid)).collect();
        Receiving { codecs, extensions, rids }
    }

    /// `None`: there is no codec in common.
    fn receive_section(&self, section: &ClientSection, settings: &ReceiveSettings) -> Option<ReceiveSection> {
        let kind = section.media_kind()?;
        let receiving = self.receiving(section, kind, settings);
        (!receiving.codecs.is_empty()).then(|| ReceiveSection {
            mid: section.mid,
            kind,
            nack: receiving.codecs.iter().any(|entry| entry.feedback.contains(&Feedback::Nack)),
            codecs: receiving.codecs.iter().map(SectionCodec::payload).collect(),
            extensions: extensions::ids(&receiving.extensions),
            layers: layers(section, settings),
        })
    }

    fn sending(&self, section: &ClientSection, kind: MediaKind, track: Option<&OutgoingTrack>) -> Sending {
        let wanted: Option<Codec> = track.map(|track| track.codec);
        let stereo = track.is_some_and(|track| track.stereo);
        let extensions = section.extensions_of_slot(kind, self.role);
        let has_transport_cc = extensions::has_transport_cc(&extensions);
        Sending {
            codecs: codecs::for_sending(&section.codecs, &self.to_view, wanted, stereo, has_transport_cc),
            extensions,
        }
    }

    /// `None`: the section cannot carry the track.
    fn send(&self, section: &ClientSection, bound: &Bound) -> Option<SendSection> {
        let kind = section.media_kind()?;
        let codecs = self.sending(section, kind, Some(&bound.track)).codecs;
        codecs::carry(&codecs, bound.track.codec)
            .then(|| bound.send_section(section.mid, &codecs, &section.extensions_to_send(kind, self.role)))
    }
}

fn refuse(section: &ClientSection) -> OurSection<'_> {
    OurSection::Refused {
        media: &section.media,
        protocol: &section.protocol,
        formats: &section.formats,
        mid: section.mid,
    }
}

fn sending_section(section: &ClientSection) -> SendingSection {
    SendingSection {
        mid: section.mid,
        kind: section.media_kind().unwrap_or(MediaKind::Video),
        stream_id: section.stream_id.clone(),
        track_id: section.track_id.clone(),
        rids: section.rids.clone(),
        ssrcs: section.ssrcs.clone(),
    }
}

/// The layers to follow, lowest quality first. With rids the SSRCs are left to the packets: which belongs to which rid
/// is nowhere written.
fn layers(section: &ClientSection, settings: &ReceiveSettings) -> Vec<Layer> {
    if !section.rids.is_empty() {
        let rids = rids_by_quality(&section.rids, &settings.rids_by_quality);
        return rids.into_iter().map(|rid| Layer { rid: Some(rid), ssrc: None, rtx_ssrc: None }).collect();
    }
    let count = if section.is_ssrc_simulcast { LAYERS_MAX } else { 1 };
    let declared = section.ssrcs.iter().take(count);
    let mut layers: Vec<Layer> =
        declared.map(|(ssrc, rtx_ssrc)| Layer { rid: None, ssrc: Some(*ssrc), rtx_ssrc: *rtx_ssrc }).collect();
    if layers.is_empty() {
        layers.push(Layer { rid: None, ssrc: None, rtx_ssrc: None });
    }
    layers
}

/// Sorts rids from the lowest quality to the highest, and keeps what we follow.
fn rids_by_quality(offered: &[Rid], known: &[Rid]) -> Vec<Rid> {
    let rank = |rid: &Rid| known.iter().position(|other| other == rid).unwrap_or_else(|| rank_by_name(rid));
    let mut rids = offered.to_vec();
    rids.sort_by_key(rank);
    rids.truncate(LAYERS_MAX);
    rids
}

/// LiveKit's names, and those of WHIP and OBS (docs/livekit.md 5.8).
fn rank_by_name(rid: &Rid) -> usize {
    match rid.as_str() {
        "q" | "2" => 0,
        "h" | "1" => 1,
        "f" | "0" => 2,
        _ => 3,
    }
}
