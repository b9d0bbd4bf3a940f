//! SDP of one transport: offers and answers in both connection models (RFC 9429, JSEP).
//!
//! Sans IO and plain data: the owner (a participant in its room) feeds descriptions in, binds tracks to sections, and
//! takes descriptions and sections out. A worker sees only the results ([`sfu::command::ReceiveSection`],
//! [`sfu::command::SendSection`]).
//!
//! The order of calls is fixed by who offers:
//! - client offers (v0 publisher, v1): [`Negotiation::read_offer`], then [`Negotiation::publish`] for each section that
//!   sends and [`Negotiation::bind`] for each track to show, then [`Negotiation::write_answer`].
//! - server offers (v0 subscriber): [`Negotiation::bind`] and [`Negotiation::release`] at any time, then
//!   [`Negotiation::write_offer`], later [`Negotiation::read_answer`]. At most one offer is outstanding.

mod client_offers;
mod codecs;
mod description;
mod extensions;
mod render;
mod sdp;
mod server_offers;
mod ssrcs;

use std::collections::HashMap;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use sfu::command::{Candidate, DtlsRole, Fingerprint, IceCredentials, Mid, ReceiveSection, Rid, SendSection, Ssrc};
use shared::id::TrackSid;
use shared::media::{Codec, MediaKind};

use self::client_offers::ClientOffers;
use self::codecs::EnabledCodecs;
use self::description::Sort;
use self::render::{Outline, Setup};
pub(crate) use self::sdp::{BYTES_MAX as SDP_BYTES_MAX, SECTIONS_MAX};
use self::server_offers::ServerOffers;
use self::ssrcs::SsrcSource;
use crate::quirks::Quirks;

/// Which of the surface's transports this is (docs/livekit.md 3.5, 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// v0: the client offers and publishes.
    Publisher,
    /// v0: we offer and send; data channels are ours.
    Subscriber,
    /// v1: the client offers; both directions.
    Single,
}

/// What the SDP says of our side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalTransport {
    pub ice: IceCredentials,
    pub fingerprint: Fingerprint,
    pub candidates: Vec<Candidate>,
}

/// A description that cannot be used. The text says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unusable SDP: {0}")]
pub struct SdpError(pub String);

/// A section in which the client sends, as its offer describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendingSection {
    pub mid: Mid,
    pub kind: MediaKind,
    /// Stream and track id of `a=msid` (or of `a=ssrc … msid:`); the track id is usually the cid of AddTrack.
    pub stream_id: String,
    pub track_id: String,
    /// Simulcast rids in the offer's order; empty for a single encoding.
    pub rids: Vec<Rid>,
    /// Declared media SSRCs and, for each, that of its retransmissions.
    pub ssrcs: Vec<(Ssrc, Option<Ssrc>)>,
}

/// What an offer brings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfferNews {
    /// Set when it is new or has changed.
    pub fingerprint: Option<Fingerprint>,
    /// The client's ICE credentials, when they are new or have changed.
    pub remote: Option<IceCredentials>,
    /// They changed against the last offer: new local ones are due before the answer.
    pub ice_restart: bool,
    /// Sections that send and are not published yet.
    pub sending: Vec<SendingSection>,
    /// Mids published so far that send no more.
    pub ended: Vec<Mid>,
    /// Published sections whose parameters changed: publish them again.
    pub changed: Vec<SendingSection>,
    /// Shown tracks whose section carries them no more (v1): they are released already.
    pub lost: Vec<TrackSid>,
    /// Shown tracks whose section changed its parameters (v1): send so once the answer is out.
    pub rebound: Vec<(TrackSid, SendSection)>,
    pub has_application: bool,
}

/// What an answer to our offer brings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerNews {
    /// The client's certificate and our DTLS role, when they are new.
    pub dtls: Option<(Fingerprint, DtlsRole)>,
    /// The client's ICE credentials, when they are new or have changed.
    pub remote: Option<IceCredentials>,
    /// Bound sections as the client accepted them: send from now on.
    pub accepted: Vec<(TrackSid, SendSection)>,
    /// Tracks whose section was refused, or has no codec in common: they are released already.
    pub refused: Vec<TrackSid>,
}

/// What AddTrack said about a track and the answer must honour (docs/livekit.md 4.4, 5.5).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PublishSettings {
    /// MIME type that AddTrack announced for this section, such as `video/vp9`; moved to the front.
    pub preferred_mime: Option<String>,
    pub disable_red: bool,
    pub disable_dtx: bool,
    pub stereo: bool,
    /// Rids from the lowest quality to the highest, as AddTrack's layers order them (`q`, `h`, `f`, or `2`, `1`, `0`).
    /// Rids of the offer that are not in this list are sorted by LiveKit's names.
    pub rids_by_quality: Vec<Rid>,
}

/// A track to show to the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutgoingTrack {
    pub track: TrackSid,
    pub kind: MediaKind,
    /// `PA_…|TR_…`.
    pub stream_id: String,
    /// What the publisher sends; a section without it cannot carry the track.
    pub codec: Codec,
    pub stereo: bool,
    /// The publisher appends packet trailers, and the client does not take them off.
    pub strips_trailers: bool,
}

/// Why a track was not bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindError {
    /// v1: no free recvonly section of this kind; ask with `media_sections_requirement`. v0: there are as many sections as
    /// there may be.
    NoFreeSection,
    CodecUnsupported,
}

/// A description to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub sdp: String,
    /// Sections in which we send: mid to track sid.
    pub mid_to_track_id: HashMap<String, String>,
}

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

/// By who offers.
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
    pub fn read_offer(&mut self, sdp: &str) -> Result<OfferNews, SdpError> {
        let sections = self.client_offers()?;
        let offer = description::Description::parse(sdp, Sort::Offer)?;
        let old = sections.offer.as_ref();
        let mut news = OfferNews {
            fingerprint: Some(offer.fingerprint).filter(|new| old.is_none_or(|old| old.fingerprint != *new)),
            remote: Some(&offer.ice).filter(|new| old.is_none_or(|old| old.ice != **new)).cloned(),
            ice_restart: old.is_some_and(|old| old.ice != offer.ice),
            ..OfferNews::default()
        };
        sections.take(offer, &mut news);
        Ok(news)
    }

    /// Accepts a sending section of the last offer, and says how to receive it. Sections of an offer that are not
    /// published are answered inactive.
    ///
    /// # Errors
    /// The client does not send in such a section, or only in codecs that are unknown or not enabled.
    pub fn publish(&mut self, mid: &Mid, settings: &PublishSettings) -> Result<ReceiveSection, SdpError> {
        self.client_offers()?.publish(mid, settings)
    }

    /// Takes a publication back: its section is answered inactive from the next answer on.
    pub fn unpublish(&mut self, mid: &Mid) {
        if let Sections::OfferedByClient(sections) = &mut self.sections {
            sections.unpublish(mid);
        }
    }

    /// Shows a track: in a free section of the last offer (v1; the lowest of its kind), or in a reused or new one of our
    /// next offer (v0). A released section is free once a description has said so: the client's answer (v0), or ours (v1).
    /// For v1 the section may be sent in once the answer is out; for v0 wait for [`AnswerNews::accepted`]. A track that is
    /// shown keeps its section.
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
    /// As for [`Negotiation::read_offer`], but that the client may be DTLS server; also when no offer is outstanding, the
    /// sections are not those of the offer, or the DTLS role is not that of the answer before.
    pub fn read_answer(&mut self, sdp: &str) -> Result<AnswerNews, SdpError> {
        match &mut self.sections {
            Sections::OfferedByUs(sections) => {
                sections.read_answer(description::Description::parse(sdp, Sort::Answer)?)
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
