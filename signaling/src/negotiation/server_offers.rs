//! Sections of a transport whose offers we make (v0 subscriber).
//!
//! Section 0 is the application; each track shown has one of the others, and leaves it to a later track of its kind
//! once the client has answered that nothing is sent in it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sfu::command::{DtlsRole, Fingerprint, IceCredentials, Mid, SendSection};
use shared::id::TrackSid;
use shared::media::{Codec, MediaKind};

use super::codecs::{self, EnabledCodecs, SectionCodec};
use super::description::{ClientSection, Description, Direction, SectionKind};
use super::extensions::{self, ExtensionId};
use super::interface::{AnswerDiff, BindError, OutgoingTrack, Role, SdpError};
use super::render::{Bound, MediaSection, OurSection};
use super::sdp::SECTIONS_MAX;
use super::ssrcs::SsrcSource;
use crate::quirks::{Quirk, Quirks};

const MEDIA_PROTOCOL: &str = "UDP/TLS/RTP/SAVPF";
const DATA_PROTOCOL: &str = "UDP/DTLS/SCTP";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ServerOffers {
    enabled: EnabledCodecs,
    /// Section `i` has mid `i + 1`.
    sections: Vec<Slot>,
    /// Offered, and not answered.
    outstanding: Option<Vec<Offered>>,
    /// The first offer, of the application alone, has been made.
    has_begun: bool,
    /// Something changed since the last offer.
    pub is_due: bool,
    refused_codecs: Vec<Codec>,
    /// By the kind of the section: a client may take one in videos alone.
    refused_extensions: Vec<(MediaKind, ExtensionId)>,
    /// A section that showed a track is not reused for another one while there is room for more sections.
    avoids_reuse: bool,
    client: Option<Client>,
}

/// The client's end of the transport, by its last answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Client {
    ice: IceCredentials,
    fingerprint: Fingerprint,
    /// Ours towards it.
    dtls_role: DtlsRole,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Slot {
    kind: MediaKind,
    bound: Option<Bound>,
    /// As the worker has it.
    accepted: Option<SendSection>,
    /// An offer showed a track in it, and no later offer that shows none has been answered yet. Until then the client
    /// would not notice another track (WebRTC, section 4.4.1.6: `[[FiredDirection]]`).
    is_announced: bool,
    /// An offer has ever shown a track in it.
    is_used: bool,
    /// The client stopped it for good (port 0).
    is_dead: bool,
}

/// One section of an offer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Offered {
    track: Option<TrackSid>,
    codecs: Vec<SectionCodec>,
    extensions: Vec<ExtensionId>,
}

impl Slot {
    fn shows(&self, track: &TrackSid) -> bool {
        self.bound.as_ref().is_some_and(|bound| bound.track.track == *track)
    }

    fn is_free_for(&self, kind: MediaKind) -> bool {
        self.kind == kind && self.bound.is_none() && !self.is_announced && !self.is_dead
    }

    fn clear(&mut self) {
        self.bound = None;
        self.accepted = None;
    }
}

impl ServerOffers {
    pub(crate) fn new(enabled: EnabledCodecs) -> Self {
        Self {
            enabled,
            sections: Vec::new(),
            outstanding: None,
            has_begun: false,
            is_due: true,
            refused_codecs: Vec::new(),
            refused_extensions: Vec::new(),
            avoids_reuse: false,
            client: None,
        }
    }

    pub(crate) fn set_quirks(&mut self, quirks: Quirks) {
        self.enabled.withhold(quirks.withheld_from_viewing());
        self.avoids_reuse = quirks.has(Quirk::NoSectionReuse);
    }

    pub(crate) fn bind(&mut self, track: &OutgoingTrack, ssrcs: &mut SsrcSource) -> Result<SendSection, BindError> {
        if let Some(index) = self.sections.iter().position(|slot| slot.shows(&track.track)) {
            return self.send_section(index).ok_or(BindError::CodecUnsupported);
        }
        if !codecs::carry(&self.codecs(track.kind, Some(track)), track.codec) {
            return Err(BindError::CodecUnsupported);
        }
        let index = self.free_section(track.kind).ok_or(BindError::NoFreeSection)?;
        self.sections[index].bound = Some(ssrcs.bound(track, |_| false));
        self.is_due = true;
        self.send_section(index).ok_or(BindError::CodecUnsupported)
    }

    /// A section of which the client knows that nothing is sent in it, else a new one. `None`: there are as many as
    /// there may be.
    fn free_section(&mut self, kind: MediaKind) -> Option<usize> {
        let may_grow = self.sections.len() + 1 < SECTIONS_MAX;
        let is_free = |slot: &Slot| slot.is_free_for(kind) && !(slot.is_used && self.avoids_reuse && may_grow);
        if let Some(index) = self.sections.iter().position(is_free) {
            return Some(index);
        }
        may_grow.then(|| {
            self.sections.push(Slot {
                kind,
                bound: None,
                accepted: None,
                is_announced: false,
                is_used: false,
                is_dead: false,
            });
            self.sections.len() - 1
        })
    }

    pub(crate) fn release(&mut self, track: &TrackSid) {
        for slot in self.sections.iter_mut().filter(|slot| slot.shows(track)) {
            slot.clear();
            self.is_due = true;
        }
    }

    /// Mids and tracks of the last offer's sections that show one.
    pub(crate) fn shown(&self) -> HashMap<String, String> {
        let offered = self.outstanding.iter().flatten().enumerate();
        let shown = offered.filter_map(|(index, offered)| Some((index, offered.track.as_ref()?)));
        shown.map(|(index, track)| (mid_of(index).to_string(), track.to_string())).collect()
    }

    /// Begins an offer: what is bound now is in it, except in the first.
    pub(crate) fn begin(&mut self) {
        let count = if self.has_begun { self.sections.len() } else { 0 };
        let offered = (0..count).map(|index| self.offered(index)).collect();
        for slot in self.sections.iter_mut().take(count).filter(|slot| slot.bound.is_some()) {
            (slot.is_announced, slot.is_used) = (true, true);
        }
        self.is_due = !self.has_begun && !self.sections.is_empty();
        self.has_begun = true;
        self.outstanding = Some(offered);
    }

    fn offered(&self, index: usize) -> Offered {
        let slot = &self.sections[index];
        let track = slot.bound.as_ref().map(|bound| &bound.track);
        Offered {
            track: track.map(|track| track.track.clone()),
            codecs: self.codecs(slot.kind, track),
            extensions: self.extensions(slot.kind),
        }
    }

    /// The sections of the offer that was begun.
    pub(crate) fn offers(&self) -> Vec<OurSection<'_>> {
        let application = OurSection::Application { protocol: DATA_PROTOCOL, mid: application_mid() };
        let offered = self.outstanding.iter().flatten();
        let media = offered.zip(&self.sections).enumerate().map(|(index, (offered, slot))| {
            if slot.is_dead {
                return dead_section(slot.kind, mid_of(index));
            }
            OurSection::Media(MediaSection {
                kind: slot.kind,
                protocol: MEDIA_PROTOCOL,
                mid: mid_of(index),
                // Clients of the reference know only these two directions of its offers.
                direction: if slot.bound.is_some() { Direction::Sendrecv } else { Direction::Recvonly },
                codecs: offered.codecs.clone(),
                extensions: offered.extensions.clone(),
                rids: Vec::new(),
                sender: slot.bound.as_ref(),
            })
        });
        std::iter::once(application).chain(media).collect()
    }

    pub(crate) fn read_answer(&mut self, answer: Description) -> Result<AnswerDiff, SdpError> {
        let offered = self.outstanding.as_ref().ok_or_else(|| SdpError("no offer is outstanding".into()))?;
        check_sections(&answer, offered.len())?;
        // The association that there is goes on in its roles; another one we do not begin (RFC 8842, section 4).
        if self.client.as_ref().is_some_and(|client| client.dtls_role != answer.dtls_role) {
            return Err(SdpError("setup: the DTLS role is another than before".into()));
        }
        let offered = self.outstanding.take().unwrap_or_default();

        let mut diff = AnswerDiff::default();
        for (index, (offered, section)) in offered.iter().zip(answer.sections.iter().skip(1)).enumerate() {
            self.note_refusals(offered, section);
            self.take_section(index, offered, section, &mut diff);
        }
        let (ice, fingerprint, dtls_role) = (answer.ice, answer.fingerprint, answer.dtls_role);
        let old = self.client.replace(Client { ice: ice.clone(), fingerprint, dtls_role });
        diff.remote = Some(ice).filter(|ice| old.as_ref().is_none_or(|old| old.ice != *ice));
        diff.dtls = Some((fingerprint, dtls_role)).filter(|_| old.is_none_or(|old| old.fingerprint != fingerprint));
        Ok(diff)
    }

    fn take_section(&mut self, index: usize, offered: &Offered, section: &ClientSection, diff: &mut AnswerDiff) {
        let new = self.accepted_section(index, offered, section);
        let slot = &mut self.sections[index];
        slot.is_dead |= section.kind == SectionKind::Unusable;
        slot.is_announced &= offered.track.is_some();
        let bound = slot.bound.as_ref().map(|bound| bound.track.track.clone());
        match (bound, new) {
            // Bound after this offer was made: the next one is about it.
            (Some(track), _) if Some(&track) != offered.track.as_ref() && !slot.is_dead => {}
            (Some(track), Some(new)) => {
                if slot.accepted.as_ref() != Some(&new) {
                    slot.accepted = Some(new.clone());
                    diff.accepted.push((track, new));
                }
            }
            (Some(track), None) => {
                slot.clear();
                self.is_due = true;
                diff.refused.push(track);
            }
            (None, _) => {}
        }
    }

    /// What may be sent in a section as the client answered it: its choice of what we offered.
    fn accepted_section(&self, index: usize, offered: &Offered, section: &ClientSection) -> Option<SendSection> {
        let bound = self.sections[index].bound.as_ref().filter(|_| section.receives())?;
        let was_offered = |entry: &&SectionCodec| offered.codecs.iter().any(|offered| offered.codec == entry.codec);
        let codecs: Vec<SectionCodec> = section.codecs.iter().filter(was_offered).cloned().collect();
        let mut extensions = section.extensions_to_send(bound.track.kind, Role::Subscriber);
        extensions.retain(|extension| offered.extensions.contains(extension));
        codecs::carry(&codecs, bound.track.codec).then(|| bound.send_section(mid_of(index), &codecs, &extensions))
    }

    /// What a client once refused is not offered again.
    fn note_refusals(&mut self, offered: &Offered, section: &ClientSection) {
        let Some(kind) = section.media_kind().filter(|_| section.receives()) else { return };
        let accepts = |codec: Codec| section.codecs.iter().any(|entry| entry.codec == codec);
        for entry in &offered.codecs {
            if !accepts(entry.codec) && !self.refused_codecs.contains(&entry.codec) {
                self.refused_codecs.push(entry.codec);
            }
        }
        let accepted = section.extensions_to_send(kind, Role::Subscriber);
        for extension in offered.extensions.iter().filter(|extension| !accepted.contains(extension)) {
            let refused = (kind, *extension);
            if !self.refused_extensions.contains(&refused) {
                self.refused_extensions.push(refused);
            }
        }
    }

    fn codecs(&self, kind: MediaKind, track: Option<&OutgoingTrack>) -> Vec<SectionCodec> {
        let wanted = track.map(|track| track.codec);
        let stereo = track.is_some_and(|track| track.stereo);
        let numbered = extensions::has_transport_cc(&self.extensions(kind));
        let codecs = codecs::ours(kind, &self.enabled, &self.refused_codecs, wanted, stereo, numbered);
        if codecs.is_empty() {
            // A freed section of a client that takes nothing must still list something.
            return codecs::ours(kind, &self.enabled, &[], wanted, stereo, numbered);
        }
        codecs
    }

    fn extensions(&self, kind: MediaKind) -> Vec<ExtensionId> {
        let ours = extensions::of_our_offers(kind).iter();
        ours.filter(|extension| !self.refused_extensions.contains(&(kind, **extension))).copied().collect()
    }

    /// The section of a bound track as we offer it.
    fn send_section(&self, index: usize) -> Option<SendSection> {
        let slot = &self.sections[index];
        let bound = slot.bound.as_ref()?;
        let codecs = self.codecs(slot.kind, Some(&bound.track));
        Some(bound.send_section(mid_of(index), &codecs, &self.extensions(slot.kind)))
    }
}

/// An answer has the sections of its offer, in its order (RFC 3264, section 6).
fn check_sections(answer: &Description, media_sections: usize) -> Result<(), SdpError> {
    if answer.sections.len() != media_sections + 1 {
        let (has, needs) = (answer.sections.len(), media_sections + 1);
        return Err(SdpError(format!("{has} sections answer our {needs}")));
    }
    let mids = std::iter::once(application_mid()).chain((0..media_sections).map(mid_of));
    for (section, mid) in answer.sections.iter().zip(mids) {
        if section.kind != SectionKind::Unusable && section.mid != mid {
            return Err(SdpError(format!("section {:?} answers our {:?}", section.mid.as_str(), mid.as_str())));
        }
    }
    Ok(())
}

fn application_mid() -> Mid {
    Mid::from("0").expect("a digit fits")
}

fn mid_of(index: usize) -> Mid {
    debug_assert!(index < SECTIONS_MAX, "mids of sections have at most three digits");
    Mid::from(&(index + 1).to_string()).expect("three digits fit")
}

fn dead_section(kind: MediaKind, mid: Mid) -> OurSection<'static> {
    let (media, formats) = match kind {
        MediaKind::Audio => ("audio", "0"),
        MediaKind::Video => ("video", "96"),
    };
    OurSection::Refused { media, protocol: MEDIA_PROTOCOL, formats, mid }
}
