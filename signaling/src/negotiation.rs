//! SDP of one transport: offers and answers in both connection models (RFC 9429, JSEP).
//!
//! Sans IO and plain data: the owner (a participant in its room) feeds descriptions in, binds tracks to sections, and
//! takes descriptions and sections out. A worker sees only the results ([`sfu::command::ReceiveSection`],
//! [`sfu::command::SendSection`]).
//!
//! The order of calls is fixed by who offers:
//! - client offers (v0 publisher, v1): [`Negotiation::read_offer`], then [`Negotiation::receive`] for each section that
//!   sends and [`Negotiation::bind`] for each track to show, then [`Negotiation::write_answer`].
//! - server offers (v0 subscriber): [`Negotiation::bind`] and [`Negotiation::release`] at any time, then
//!   [`Negotiation::write_offer`], later [`Negotiation::read_answer`]. At most one offer is outstanding.

mod client_offers;
mod codecs;
mod description;
mod extensions;
mod interface;
mod render;
mod sdp;
mod server_offers;
mod ssrcs;

use std::collections::HashMap;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use sfu::command::{IceCredentials, Mid, ReceiveSection, SendSection};
use shared::id::TrackSid;
use shared::media::MediaKind;

use self::client_offers::ClientOffers;
use self::codecs::EnabledCodecs;
use self::description::DescriptionKind;
pub use self::interface::{
    AnswerDiff, BindError, Description, LocalTransport, OfferDiff, OutgoingTrack, ReceiveSettings, Role, SdpError,
    SendingSection,
};
use self::render::{Outline, Setup};
pub(crate) use self::sdp::{BYTES_MAX as SDP_BYTES_MAX, SECTIONS_MAX};
use self::server_offers::ServerOffers;
use self::ssrcs::SsrcSource;
use crate::quirks::Quirks;

/// The state of one transport's sections.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Negotiation {
    local: LocalTransport,
    session_id: u64,
    /// Of our last description.
    version: u64,
    ssrcs: SsrcSource,
    sections: Sections,
}

/// Sections, by which side makes the offers.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Sections {
    OfferedByClient(ClientOffers),
    OfferedByUs(ServerOffers),
}

impl Negotiation {
    /// `codecs`: MIME types enabled in the room (`room.enabled_codecs`), without rtx; empty for all that we know.
    pub fn new(role: Role, local: LocalTransport, codecs: &[String]) -> Self {
        let enabled = EnabledCodecs::new(codecs);
        let sections = match role {
            Role::Publisher | Role::Single => Sections::OfferedByClient(ClientOffers::new(role, enabled)),
            Role::Subscriber => Sections::OfferedByUs(ServerOffers::new(enabled)),
        };
        let mut rng = rand::rng();
        // RFC 9429, section 5.2.1: 63 bits.
        let session_id = rng.random::<u64>() >> 1;
        Self { local, session_id, version: 0, ssrcs: SsrcSource::starting_at(rng.random()), sections }
    }

    /// Does what the client on the other side needs done otherwise.
    #[must_use]
    pub fn for_client(mut self, quirks: Quirks) -> Self {
        match &mut self.sections {
            Sections::OfferedByClient(sections) => sections.set_quirks(quirks),
            Sections::OfferedByUs(sections) => sections.set_quirks(quirks),
        }
        self
    }

    /// Replaces our ICE credentials, before the description that restarts ICE.
    pub fn restart_ice(&mut self, ice: IceCredentials) {
        self.local.ice = ice;
        if let Sections::OfferedByUs(sections) = &mut self.sections {
            sections.is_due = true;
        }
    }

    /// Takes a client's offer. On an error nothing has changed.
    ///
    /// # Errors
    /// Not SDP; no mid, ICE credentials, SHA-256 fingerprint or rtcp-mux; more than one transport; a client that wants
    /// to be DTLS server.
    pub fn read_offer(&mut self, sdp: &str) -> Result<OfferDiff, SdpError> {
        let sections = self.client_offers()?;
        let offer = description::Description::parse(sdp, DescriptionKind::Offer)?;
        let old = sections.offer.as_ref();
        let mut diff = OfferDiff {
            fingerprint: Some(offer.fingerprint).filter(|new| old.is_none_or(|old| old.fingerprint != *new)),
            remote: Some(&offer.ice).filter(|new| old.is_none_or(|old| old.ice != **new)).cloned(),
            ice_restart: old.is_some_and(|old| old.ice != offer.ice),
            ..OfferDiff::default()
        };
        sections.apply_offer(offer, &mut diff);
        Ok(diff)
    }

    /// Accepts a sending section of the last offer, and says how to receive it. Sections of an offer that are not
    /// received are answered inactive.
    ///
    /// # Errors
    /// The client does not send in such a section, or only in codecs that are unknown or not enabled.
    pub fn receive(&mut self, mid: &Mid, settings: &ReceiveSettings) -> Result<ReceiveSection, SdpError> {
        self.client_offers()?.receive(mid, settings)
    }

    /// Receives in a section no more: it is answered inactive from the next answer on.
    pub fn stop_receiving(&mut self, mid: &Mid) {
        if let Sections::OfferedByClient(sections) = &mut self.sections {
            sections.stop_receiving(mid);
        }
    }

    /// Shows a track: in a free section of the last offer (v1; the lowest of its kind), or in a reused or new one of
    /// our next offer (v0). A released section is free once a description has said so: the client's answer (v0), or
    /// ours (v1). For v1 the section may be sent in once the answer is out; for v0 wait for [`AnswerDiff::accepted`]. A
    /// track that is shown keeps its section.
    ///
    /// # Errors
    /// [`BindError::NoFreeSection`]: the client has to offer more (v1), or the description is as large as it may be and
    /// another answer may free one (v0).
    pub fn bind(&mut self, track: &OutgoingTrack) -> Result<SendSection, BindError> {
        match &mut self.sections {
            Sections::OfferedByClient(sections) => sections.bind(track, &mut self.ssrcs),
            Sections::OfferedByUs(sections) => sections.bind(track, &mut self.ssrcs),
        }
    }

    /// Frees the section of a track.
    pub fn release(&mut self, track: &TrackSid) {
        match &mut self.sections {
            Sections::OfferedByClient(sections) => sections.release(track),
            Sections::OfferedByUs(sections) => sections.release(track),
        }
    }

    /// Sections of the last offer still free for tracks of this kind (v1).
    pub fn free_sections(&self, kind: MediaKind) -> usize {
        match &self.sections {
            Sections::OfferedByClient(sections) => sections.free_sections(kind),
            Sections::OfferedByUs(_) => 0,
        }
    }

    /// Whether a new offer of ours would say something new (v0 subscriber); true before the first.
    pub fn is_offer_due(&self) -> bool {
        match &self.sections {
            Sections::OfferedByClient(_) => false,
            Sections::OfferedByUs(sections) => sections.is_due,
        }
    }

    /// Answers the last offer.
    ///
    /// # Errors
    /// There is none, or it has been answered.
    pub fn write_answer(&mut self) -> Result<Description, SdpError> {
        let no_offer = || SdpError("no offer to answer".into());
        let sections = self.client_offers()?;
        if sections.is_answered {
            return Err(no_offer());
        }
        sections.note_answer();
        self.version += 1;
        let Sections::OfferedByClient(sections) = &self.sections else { return Err(no_offer()) };
        let offer = sections.offer.as_ref().ok_or_else(no_offer)?;
        let outline = Outline {
            local: &self.local,
            session_id: self.session_id,
            version: self.version,
            setup: Setup::Passive,
            allows_mixed_extensions: offer.allows_mixed_extensions,
            is_bundled: offer.is_bundled,
            sections: sections.answers(offer),
        };
        Ok(Description { sdp: outline.text(), mid_to_track_id: sections.shown() })
    }

    /// Describes our sections (v0 subscriber). The first offer holds the application section alone. Replaces an offer
    /// that was not answered.
    ///
    /// On the other transports there is nothing to offer, and the text is empty.
    pub fn write_offer(&mut self) -> Description {
        let Sections::OfferedByUs(sections) = &mut self.sections else {
            return Description { sdp: String::new(), mid_to_track_id: HashMap::new() };
        };
        sections.begin();
        self.version += 1;
        let outline = Outline {
            local: &self.local,
            session_id: self.session_id,
            version: self.version,
            setup: Setup::Actpass,
            allows_mixed_extensions: true,
            is_bundled: true,
            sections: sections.offers(),
        };
        Description { sdp: outline.text(), mid_to_track_id: sections.shown() }
    }

    /// Takes the client's answer to our last offer. On an error nothing has changed.
    ///
    /// # Errors
    /// As for [`Negotiation::read_offer`], but that the client may be DTLS server; also when no offer is outstanding,
    /// the sections are not those of the offer, or the DTLS role is not that of the answer before.
    pub fn read_answer(&mut self, sdp: &str) -> Result<AnswerDiff, SdpError> {
        match &mut self.sections {
            Sections::OfferedByUs(sections) => {
                sections.read_answer(description::Description::parse(sdp, DescriptionKind::Answer)?)
            }
            Sections::OfferedByClient(_) => Err(SdpError("no offer is outstanding".into())),
        }
    }

    fn client_offers(&mut self) -> Result<&mut ClientOffers, SdpError> {
        match &mut self.sections {
            Sections::OfferedByClient(sections) => Ok(sections),
            Sections::OfferedByUs(_) => Err(SdpError("on this transport the server offers".into())),
        }
    }
}
