//! The whole language between `signaling` and a worker: [`Command`] in, [`Event`] out.
//!
//! Rooms decide, workers carry it out. Negotiation (SDP) happens above; what reaches a worker is its result: which
//! sections a transport receives and sends, with their payload types, extension ids and SSRCs. Ids are minted by the
//! caller and never used twice. A command that names an id which does not (or no longer) exist is counted and ignored,
//! because a close may have crossed it on the way.

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
        /// The new transport.
        transport: TransportId,
        /// Whose events those of the transport are.
        room: RoomId,
        /// Our credentials.
        local: IceCredentials,
        /// Who opens the data channels.
        opener: ChannelOpener,
    },
    /// The client's certificate, and our role in the handshake: known once its offer or answer is. Media flows only
    /// after the certificate was matched. The role stays what it was first.
    SetFingerprint {
        /// The transport that it is of.
        transport: TransportId,
        /// The client's certificate.
        fingerprint: Fingerprint,
        /// Our role.
        role: DtlsRole,
    },
    /// The client's ICE credentials, known with its certificate and again after each ICE restart: an address that it
    /// moves to is checked with them.
    SetRemoteCredentials {
        /// The transport that they are for.
        transport: TransportId,
        /// The client's credentials.
        remote: IceCredentials,
    },
    /// New local credentials (RFC 8445, section 9). The old ones serve until a check with the new ones nominates.
    RestartIce {
        /// The transport that restarts.
        transport: TransportId,
        /// Our new credentials.
        local: IceCredentials,
    },
    /// Nothing is forwarded from or to it any more. It is closed when this time is over, or the client closes it.
    CloseTransport {
        /// The transport to close.
        transport: TransportId,
        /// From now; zero closes it at once.
        after: Duration,
    },

    /// A section that the client sends in. Repeated for the same publication, it replaces the section (renegotiation).
    Publish {
        /// The publication, new or known.
        publication: PublicationId,
        /// Where it comes from.
        transport: TransportId,
        /// What is received.
        section: ReceiveSection,
    },
    /// While muted nothing is forwarded; unmuting asks for a key frame.
    SetMuted {
        /// The publication.
        publication: PublicationId,
        /// Whether it is muted.
        muted: bool,
    },
    /// Forget a publication, with its subscriptions.
    Unpublish {
        /// The publication.
        publication: PublicationId,
    },

    /// Show a publication to a transport. Repeated for the same subscription, it replaces the section.
    Subscribe {
        /// The subscription, new or known.
        subscription: SubscriptionId,
        /// What it shows.
        publication: PublicationId,
        /// Where it goes to.
        transport: TransportId,
        /// What is sent.
        section: SendSection,
    },
    /// `paused`: forward nothing. `layer_max`: highest layer wanted (index, lowest quality is 0).
    SetSubscription {
        /// The subscription.
        subscription: SubscriptionId,
        /// Whether it gets nothing.
        paused: bool,
        /// Index of a layer.
        layer_max: u8,
    },
    /// Forget a subscription.
    Unsubscribe {
        /// The subscription.
        subscription: SubscriptionId,
    },

    /// One message to many transports. A transport whose channel is not open yet keeps reliable messages, bounded.
    SendData {
        /// The sender, who waits if one of the receivers is behind; `None` for a message of the server's.
        from: Option<TransportId>,
        /// The receivers.
        transports: Vec<TransportId>,
        /// The channel, of each of them.
        channel: DataChannel,
        /// The message.
        payload: Bytes,
    },

    /// The room has handled messages that [`Event::Data`] brought, and the commands that follow from them have been
    /// sent: as many more may come.
    DataTaken {
        /// The room.
        room: RoomId,
        /// Who had sent them.
        transport: TransportId,
        /// By which channel.
        channel: DataChannel,
        /// How many messages.
        messages: usize,
        /// Their bytes.
        bytes: usize,
    },

    /// Answered by [`Event::TransportExported`].
    ExportTransport {
        /// The transport.
        transport: TransportId,
    },
    /// Everything of this room goes; transports that are to close later do so.
    CloseRoom {
        /// The room.
        room: RoomId,
    },
}

/// From a worker to a room.
#[derive(Debug)]
pub enum Event {
    /// ICE and DTLS are up, the fingerprint matched: media can flow.
    TransportConnected {
        /// The transport.
        transport: TransportId,
    },
    /// The transport is closed; the worker has forgotten it and what hung on it.
    TransportEnded {
        /// The transport that was.
        transport: TransportId,
        /// Why it ended.
        end: TransportEnd,
    },
    /// A data channel is open: messages can be sent on it.
    ChannelOpen {
        /// Whose channel it is.
        transport: TransportId,
        /// The channel.
        channel: DataChannel,
    },
    /// To be answered by [`Command::DataTaken`].
    Data {
        /// Who sent it.
        transport: TransportId,
        /// By which channel.
        channel: DataChannel,
        /// The message.
        payload: Bytes,
    },
    /// First packet of a layer. `layer` is an index into [`ReceiveSection::layers`].
    LayerStarted {
        /// The publication.
        publication: PublicationId,
        /// Index of the layer.
        layer: u8,
        /// SSRC of its packets.
        ssrc: Ssrc,
        /// Codec of the first packet.
        codec: Codec,
    },
    /// A change of loudness (RFC 6464), with the packet that brings it, at most three times an interval
    /// ([`crate::audio::AudioConfig::update_interval`]); `level` from 0 to 1, 0 and not active when silent.
    AudioActivity {
        /// The publication.
        publication: PublicationId,
        /// Loudness, of 1.
        level: f32,
        /// Whether somebody speaks.
        active: bool,
    },
    /// Quality of what arrives from a publisher over the last [`STATS_INTERVAL`].
    PublicationStats {
        /// The publication.
        publication: PublicationId,
        /// All its layers together.
        stats: ReceiveStats,
    },
    /// Answers [`Command::ExportTransport`].
    TransportExported {
        /// The transport.
        transport: TransportId,
        /// `None`: there is no such transport.
        state: Option<Box<TransportState>>,
    },
}

/// How often [`Event::PublicationStats`] comes.
pub const STATS_INTERVAL: Duration = Duration::from_secs(5);

/// What arrived of a publication since the last report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ReceiveStats {
    /// Packets that arrived.
    pub packets: u64,
    /// Bytes of their payload.
    pub bytes: u64,
    /// Packets that did not arrive.
    pub lost: u64,
    /// Packets with a lower number than one before them, without those that were sent again.
    pub out_of_order: u64,
    /// Jitter of arrivals in microseconds (RFC 3550, section 6.4.1), of the worst layer.
    pub jitter_us: u32,
}

/// Where clients reach a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Where to send to.
    pub address: SocketAddr,
    /// By what.
    pub protocol: CandidateProtocol,
}

/// What carries datagrams to a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CandidateProtocol {
    /// Datagrams as they are.
    Udp,
    /// ICE-TCP, passive (RFC 6544).
    TcpPassive,
}
