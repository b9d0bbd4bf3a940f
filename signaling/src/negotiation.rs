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

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sfu::command::{Candidate, Fingerprint, IceCredentials, Mid, ReceiveSection, Rid, SendSection, Ssrc};
use shared::id::TrackSid;
use shared::media::{Codec, MediaKind};

/// Which of the surface's transports this is (livekit-surface 3.5, 5.2).
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
    /// The client's ICE credentials changed against the last offer: new local ones are due before the answer.
    pub ice_restart: bool,
    /// Sections that send and are not published yet.
    pub sending: Vec<SendingSection>,
    /// Mids published so far that send no more.
    pub ended: Vec<Mid>,
    /// Published sections whose parameters changed: publish them again.
    pub changed: Vec<SendingSection>,
    pub has_application: bool,
}

/// What an answer to our offer brings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerNews {
    pub fingerprint: Option<Fingerprint>,
    /// Bound sections as the client accepted them: send from now on.
    pub accepted: Vec<(TrackSid, SendSection)>,
    /// Tracks whose section was refused, or has no codec in common.
    pub refused: Vec<TrackSid>,
}

/// What AddTrack said about a track and the answer must honour (livekit-surface 4.4, 5.5).
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

/// Why a track was not bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindError {
    /// v1: no free recvonly section of this kind; ask with `media_sections_requirement`.
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
    role: Role,
    local: LocalTransport,
}

impl Negotiation {
    /// `codecs`: MIME types enabled in the room (`room.enabled_codecs`), in order, without rtx.
    pub fn new(role: Role, local: LocalTransport, _codecs: &[String]) -> Self {
        Self { role, local }
    }

    /// Replaces our ICE credentials, before the description that restarts ICE.
    pub fn restart_ice(&mut self, ice: IceCredentials) {
        self.local.ice = ice;
    }

    /// Takes a client's offer. On an error nothing has changed.
    pub fn read_offer(&mut self, _sdp: &str) -> Result<OfferNews, SdpError> {
        Err(SdpError(format!("{:?} transports do not take offers", self.role)))
    }

    /// Accepts a sending section of the last offer, and says how to receive it. Sections of an offer that are not
    /// published are answered inactive.
    pub fn publish(&mut self, _mid: &Mid, _settings: &PublishSettings) -> Result<ReceiveSection, SdpError> {
        Err(SdpError("no such section".into()))
    }

    /// Shows a track: in a free section of the last offer (v1; the lowest of its kind), or in a reused or new one of our
    /// next offer (v0). For v1 the section may be sent in once the answer is out; for v0 wait for
    /// [`AnswerNews::accepted`].
    pub fn bind(&mut self, _track: &OutgoingTrack) -> Result<SendSection, BindError> {
        Err(BindError::NoFreeSection)
    }

    /// Frees the section of a track.
    pub fn release(&mut self, _track: &TrackSid) {}

    /// Sections of the last offer still free for tracks of this kind (v1).
    pub fn free_sections(&self, _kind: MediaKind) -> usize {
        0
    }

    /// Answers the last offer.
    pub fn write_answer(&mut self) -> Result<Description, SdpError> {
        Err(SdpError("no offer to answer".into()))
    }

    /// Describes our sections (v0 subscriber). The first offer holds the application section alone.
    pub fn write_offer(&mut self) -> Description {
        Description { sdp: String::new(), mid_to_track_id: HashMap::new() }
    }

    /// Takes the client's answer to our last offer.
    pub fn read_answer(&mut self, _sdp: &str) -> Result<AnswerNews, SdpError> {
        Err(SdpError("no offer is outstanding".into()))
    }
}
