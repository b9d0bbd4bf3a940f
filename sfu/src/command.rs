//! The whole language between `signaling` and a worker: [`Command`] in, [`Event`] out.
//!
//! Rooms decide and workers obey. Negotiation (SDP) happens above; what reaches a worker is its result: which sections a
//! transport receives and sends, with their payload types, extension ids and SSRCs. Ids are minted by the caller and
//! never used twice. A command that names an id which does not (or no longer) exist is counted and ignored, because a
//! close may have crossed it on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayString;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::media::{Codec, MediaKind};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u64);
    };
}

id!(
    /// A room, as far as a worker cares: where its events go.
    RoomId
);
id!(
    /// One ICE/DTLS/SRTP association with a client.
    TransportId
);
id!(
    /// One published track.
    PublicationId
);
id!(
    /// One viewer of one publication.
    SubscriptionId
);

/// Synchronisation source (RFC 3550, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ssrc(pub u32);

/// Media section id (RFC 9143). Longer ones than 16 bytes cannot be sent as a one-byte extension.
pub type Mid = ArrayString<16>;
/// RTP stream id of a simulcast layer (RFC 8852).
pub type Rid = ArrayString<16>;

/// One side's ICE user fragment and password (RFC 8445, section 5.3).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceCredentials {
    pub ufrag: String,
    pub password: String,
}

impl std::fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// SHA-256 of a DTLS certificate (RFC 8122).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

/// Our side of a DTLS handshake (RFC 8842, section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DtlsRole {
    /// The peer is passive: we send the ClientHello.
    Client,
    /// The peer is active.
    Server,
}

/// Ids of the RTP header extensions negotiated on a transport. BUNDLE makes them one space for all its sections
/// (RFC 8843, section 9.1). `None`: not negotiated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionIds {
    pub mid: Option<u8>,
    pub rid: Option<u8>,
    pub repaired_rid: Option<u8>,
    pub audio_level: Option<u8>,
    pub transport_cc: Option<u8>,
    pub abs_send_time: Option<u8>,
    pub dependency_descriptor: Option<u8>,
    pub playout_delay: Option<u8>,
    pub abs_capture_time: Option<u8>,
}

/// One codec as a section names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadCodec {
    pub payload_type: u8,
    pub codec: Codec,
    /// Payload type of its retransmissions (RFC 4588), if negotiated.
    pub rtx: Option<u8>,
}

/// One encoding of a published track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Set for simulcast announced by `a=rid`.
    pub rid: Option<Rid>,
    /// Set when the SDP declares it.
    pub ssrc: Option<Ssrc>,
    pub rtx_ssrc: Option<Ssrc>,
}

/// A layer of a publication, and how much of it: one of its encodings, with so many temporal layers (RFC 9626, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerId {
    /// Index into [`ReceiveSection::layers`].
    pub spatial: u8,
    /// Highest temporal layer; those above are left out.
    pub temporal: u8,
}

impl LayerId {
    /// An encoding with all of its temporal layers.
    pub const fn whole(spatial: u8) -> Self {
        Self { spatial, temporal: u8::MAX }
    }
}

/// What a client publishes in one media section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveSection {
    pub mid: Mid,
    pub kind: MediaKind,
    /// In the answer's order of preference.
    pub codecs: Vec<PayloadCodec>,
    pub extensions: ExtensionIds,
    /// Lowest quality first, at least one, at most [`LAYERS_MAX`].
    pub layers: Vec<Layer>,
    /// Whether `nack` was negotiated, so that asking again makes sense.
    pub nack: bool,
}

/// Simulcast encodings of one track that we follow.
pub const LAYERS_MAX: usize = 3;

/// What a client gets in one media section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendSection {
    pub mid: Mid,
    pub ssrc: Ssrc,
    pub rtx_ssrc: Option<Ssrc>,
    pub codecs: Vec<PayloadCodec>,
    pub extensions: ExtensionIds,
    /// Text of the CNAME in our sender reports (RFC 7022).
    pub cname: Arc<str>,
    /// Whether LiveKit's packet trailers are taken off ([`crate::trailer`]).
    pub strips_trailers: bool,
}

/// The three data channels of a LiveKit transport, by label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DataChannel {
    /// `_reliable`: ordered, complete.
    Reliable,
    /// `_lossy`: unordered, never retransmitted.
    Lossy,
    /// `_data_track`: unordered, never retransmitted.
    DataTrack,
}

/// Who opens the data channels of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelOpener {
    Client,
    /// We do, reliable, lossy, data track in this order (a v0 subscriber transport).
    Server,
}

/// From a room to the worker that hosts it.
#[derive(Debug)]
pub enum Command {
    /// Listen for a client's connectivity checks.
    OpenTransport {
        transport: TransportId,
        room: RoomId,
        local: IceCredentials,
        opener: ChannelOpener,
    },
    /// The client's certificate, and our role in the handshake: known once its offer or answer is. Media flows only after
    /// the certificate was matched. The role stays what it was first.
    SetFingerprint {
        transport: TransportId,
        fingerprint: Fingerprint,
        role: DtlsRole,
    },
    /// The client's ICE credentials, known with its certificate and again after each ICE restart: an address that it moves
    /// to is checked with them.
    SetRemoteCredentials {
        transport: TransportId,
        remote: IceCredentials,
    },
    /// New local credentials (RFC 8445, section 9). The old ones serve until a check with the new ones nominates.
    RestartIce {
        transport: TransportId,
        local: IceCredentials,
    },
    /// Nothing is forwarded from or to it any more. It is closed when this time is over, or the client closes it.
    CloseTransport {
        transport: TransportId,
        after: Duration,
    },

    /// A section that the client sends in. Repeated for the same publication, it replaces the section (renegotiation).
    Publish {
        publication: PublicationId,
        transport: TransportId,
        section: ReceiveSection,
    },
    /// While muted nothing is forwarded; unmuting asks for a key frame.
    SetMuted {
        publication: PublicationId,
        muted: bool,
    },
    Unpublish {
        publication: PublicationId,
    },

    /// Show a publication to a transport. Repeated for the same subscription, it replaces the section.
    Subscribe {
        subscription: SubscriptionId,
        publication: PublicationId,
        transport: TransportId,
        section: SendSection,
    },
    /// `paused`: forward nothing. `layer_max`: highest layer wanted (index, lowest quality is 0).
    SetSubscription {
        subscription: SubscriptionId,
        paused: bool,
        layer_max: u8,
    },
    Unsubscribe {
        subscription: SubscriptionId,
    },

    /// One message to many transports. A transport whose channel is not open yet keeps reliable messages, bounded.
    /// `from`: whose message it was; that client waits where one of these is behind.
    SendData {
        from: Option<TransportId>,
        transports: Vec<TransportId>,
        channel: DataChannel,
        payload: Bytes,
    },

    /// The room has done with messages that [`Event::Data`] brought, and what follows from them is ordered: so much more
    /// may come.
    DataTaken {
        room: RoomId,
        transport: TransportId,
        channel: DataChannel,
        messages: usize,
        bytes: usize,
    },

    /// Answered by [`Event::TransportExported`].
    ExportTransport {
        transport: TransportId,
    },
    /// Everything of this room goes; transports that are to close later do so.
    CloseRoom {
        room: RoomId,
    },
}

/// Why a transport is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TransportEnd {
    /// Nothing authentic from the client for [`CONSENT_LOST`] (cf. RFC 7675).
    ConsentLost,
    /// The handshake failed, or timed out.
    HandshakeFailed,
    /// The certificate is not the one that the SDP names.
    WrongFingerprint,
    /// The client closed the DTLS association.
    ClosedByPeer,
    /// A fault in the program: while this transport was being served, or so that its worker had to begin anew.
    InternalError,
}

/// Silence after which a transport counts as lost: the reference's 10 s to "disconnected" and 5 s to "failed".
pub const CONSENT_LOST: Duration = Duration::from_secs(15);

/// From a worker to a room.
#[derive(Debug)]
pub enum Event {
    /// ICE and DTLS are up, the fingerprint matched: media can flow.
    TransportConnected {
        transport: TransportId,
    },
    /// The transport is closed; the worker has forgotten it and what hung on it.
    TransportEnded {
        transport: TransportId,
        end: TransportEnd,
    },
    ChannelOpen {
        transport: TransportId,
        channel: DataChannel,
    },
    /// To be answered by [`Command::DataTaken`].
    Data {
        transport: TransportId,
        channel: DataChannel,
        payload: Bytes,
    },
    /// First packet of a layer. `layer` is an index into [`ReceiveSection::layers`].
    LayerStarted {
        publication: PublicationId,
        layer: u8,
        ssrc: Ssrc,
        codec: Codec,
    },
    /// A change of loudness (RFC 6464), with the packet that brings it, at most three times an interval
    /// ([`crate::audio::AudioConfig::update_interval`]); `level` from 0 to 1, 0 and not active when silent.
    AudioActivity {
        publication: PublicationId,
        level: f32,
        active: bool,
    },
    /// Quality of what arrives from a publisher over the last [`STATS_INTERVAL`].
    PublicationStats {
        publication: PublicationId,
        stats: ReceiveStats,
    },
    TransportExported {
        transport: TransportId,
        state: Option<Box<crate::engine::TransportState>>,
    },
}

/// How often [`Event::PublicationStats`] comes.
pub const STATS_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ReceiveStats {
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    /// Packets with a lower number than one before them, without those that were sent again.
    pub out_of_order: u64,
    pub jitter_us: u32,
}

/// Where clients reach a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    pub address: SocketAddr,
    pub protocol: CandidateProtocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CandidateProtocol {
    Udp,
    /// ICE-TCP, passive (RFC 6544).
    TcpPassive,
}
