//! RTP header extensions by URI (RFC 8285), and which of them each direction uses.

use serde::{Deserialize, Serialize};
use sfu::command::ExtensionIds;
use shared::media::MediaKind;

use super::interface::Role;

/// An extension we can do something with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Extension {
    Mid,
    Rid,
    RepairedRid,
    AudioLevel,
    TransportCc,
    AbsSendTime,
    DependencyDescriptor,
}

const ALL: [Extension; 7] = [
    Extension::Mid,
    Extension::Rid,
    Extension::RepairedRid,
    Extension::AudioLevel,
    Extension::TransportCc,
    Extension::AbsSendTime,
    Extension::DependencyDescriptor,
];

impl Extension {
    pub(crate) fn uri(self) -> &'static str {
        match self {
            Extension::Mid => "urn:ietf:params:rtp-hdrext:sdes:mid",
            Extension::Rid => "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
            Extension::RepairedRid => "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
            Extension::AudioLevel => "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            Extension::TransportCc => "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
            Extension::AbsSendTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
            Extension::DependencyDescriptor => {
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
            }
        }
    }

    pub(crate) fn from_uri(uri: &str) -> Option<Self> {
        ALL.into_iter().find(|extension| extension.uri() == uri)
    }

    /// Whether we read it in what a client sends.
    pub(crate) fn is_received(self, kind: MediaKind, role: Role) -> bool {
        match self {
            Extension::Mid | Extension::TransportCc => true,
            Extension::AudioLevel => kind == MediaKind::Audio,
            Extension::Rid | Extension::RepairedRid | Extension::DependencyDescriptor => kind == MediaKind::Video,
            Extension::AbsSendTime => kind == MediaKind::Video && role == Role::Single,
        }
    }

    /// Whether we write it into what we send to a client. The receiver tells our streams apart by their declared
    /// SSRCs. It reports on numbered packets, and where there are no numbers it estimates bandwidth from the send time.
    pub(crate) fn is_sent(self, kind: MediaKind, role: Role) -> bool {
        match self {
            Extension::TransportCc => true,
            Extension::AudioLevel => kind == MediaKind::Audio && role == Role::Single,
            Extension::AbsSendTime | Extension::DependencyDescriptor => kind == MediaKind::Video,
            Extension::Mid | Extension::Rid | Extension::RepairedRid => false,
        }
    }
}

/// An extension with the id that a section gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ExtensionId {
    pub extension: Extension,
    /// 1 to 14, for one-byte headers (RFC 8285, section 4.2).
    pub id: u8,
}

/// One number space for all packets of a transport: the same id in all sections.
const TRANSPORT_CC: ExtensionId = ExtensionId { extension: Extension::TransportCc, id: 4 };

/// The extensions of our own offers to subscribers; ids as the reference numbers them. Its id 2 is that of the capture
/// time.
pub(super) fn of_our_offers(kind: MediaKind) -> &'static [ExtensionId] {
    match kind {
        MediaKind::Audio => &[TRANSPORT_CC],
        MediaKind::Video => &[
            ExtensionId { extension: Extension::DependencyDescriptor, id: 1 },
            ExtensionId { extension: Extension::AbsSendTime, id: 3 },
            TRANSPORT_CC,
        ],
    }
}

pub(super) fn has_transport_cc(extensions: &[ExtensionId]) -> bool {
    extensions.iter().any(|entry| entry.extension == Extension::TransportCc)
}

/// Their ids, as a worker takes them.
pub(super) fn ids(extensions: &[ExtensionId]) -> ExtensionIds {
    let mut ids = ExtensionIds::default();
    for &ExtensionId { extension, id } in extensions {
        let place = match extension {
            Extension::Mid => &mut ids.mid,
            Extension::Rid => &mut ids.rid,
            Extension::RepairedRid => &mut ids.repaired_rid,
            Extension::AudioLevel => &mut ids.audio_level,
            Extension::TransportCc => &mut ids.transport_cc,
            Extension::AbsSendTime => &mut ids.abs_send_time,
            Extension::DependencyDescriptor => &mut ids.dependency_descriptor,
        };
        *place = Some(id);
    }
    ids
}
