//! The whole language between `signaling` and a worker: [`Command`] in, [`Event`] out.
//!
//! Rooms decide and workers obey. Negotiation (SDP) happens above; what reaches a worker is its result: which sections a
//! transport receives and sends, with their payload types, extension ids and SSRCs. Ids are minted by the caller and
//! never used twice. A command that names an id which does not (or no longer) exist is counted and ignored, because a
//! close may have crossed it on the way.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::media::Codec;

pub use crate::id::{PublicationId, RoomId, SubscriptionId, TransportId};
pub use crate::parameters::{
    CONSENT_LOST, ChannelOpener, DataChannel, DtlsRole, Fingerprint, IceCredentials, TransportEnd,
};
pub use crate::section::{
    ExtensionIds, LAYERS_MAX, Layer, LayerId, Mid, PayloadCodec, ReceiveSection, Rid, SendSection, Ssrc,
};
use crate::snapshot::TransportState;

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
        state: Option<Box<TransportState>>,
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
