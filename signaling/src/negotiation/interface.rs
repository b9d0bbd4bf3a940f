//! What the owner of a [`Negotiation`](super::Negotiation) puts in and takes out.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sfu::command::{Candidate, DtlsRole, Fingerprint, IceCredentials, Mid, Rid, SendSection, Ssrc};
use shared::id::TrackSid;
use shared::media::{Codec, MediaKind};

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

/// How an offer differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfferDiff {
    /// Set when it is new or has changed.
    pub fingerprint: Option<Fingerprint>,
    /// The client's ICE credentials, when they are new or have changed.
    pub remote: Option<IceCredentials>,
    /// They changed against the last offer: new local ones are due before the answer.
    pub ice_restart: bool,
    /// Sections that send and are not received yet.
    pub sending: Vec<SendingSection>,
    /// Mids received so far that send no more.
    pub ended: Vec<Mid>,
    /// Received sections whose parameters changed: receive them again.
    pub changed: Vec<SendingSection>,
    /// Shown tracks whose section carries them no more (v1): they are released already.
    pub lost: Vec<TrackSid>,
    /// Shown tracks whose section changed its parameters (v1): send so once the answer is out.
    pub rebound: Vec<(TrackSid, SendSection)>,
    pub has_application: bool,
}

/// How an answer to our offer differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerDiff {
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
pub struct ReceiveSettings {
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
    /// v1: no free recvonly section of this kind; ask with `media_sections_requirement`. v0: there are as many sections
    /// as there may be.
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
