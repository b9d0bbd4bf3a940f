//! A participant of a room: everything its session needs to go on elsewhere, as plain data.
//!
//! [`SessionState`] can be written down and read back (ARCHITECTURE.md, invariant 13). What is bound to this process,
//! the connection and moments in time, stands beside it in [`Transient`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use livekit_protocol as proto;
use serde::{Deserialize, Serialize};
use sfu::command::{
    IceCredentials, Mid, PublicationId, ReceiveSection, ReceiveStats, SendSection, SubscriptionId, TransportId,
};
use shared::id::{ParticipantIdentity, ParticipantSid, TrackSid};
use shared::media::{Codec, MediaKind, Quality};

use crate::budget::Debt;
use crate::id::{ConnectionId, DescriptionId};
use crate::join::Mode;
use crate::negotiation::Negotiation;
use crate::presence::Interest;
use crate::quirks::Quirks;
use crate::token::Grants;

/// Tracks of one participant that were announced and have no media yet.
pub const PENDING_TRACKS_MAX: usize = 20;
/// AddTracks that wait for an earlier track with their cid to end.
pub const QUEUED_TRACKS_MAX: usize = 3;
/// Tracks published by one participant.
pub const PUBLICATIONS_MAX: usize = 64;
/// Tracks published in one room, which every newcomer is sent the descriptions of, some 500 bytes each. A room of a
/// thousand cameras and microphones has as many.
pub const ROOM_TRACKS_MAX: usize = 2_000;
/// Bytes that describe a track to others. A name of 256 bytes, four codecs of three layers each: a thousand.
pub const TRACK_BYTES_MAX: usize = 4 << 10;
/// Participants that one of an audience may send data to before it is announced to everybody.
pub const ANNOUNCED_TO_MAX: usize = 64;
/// Explicit wishes (subscribe, settings) that are remembered for one participant.
pub const WISHES_MAX: usize = 4_096;

/// A participant in its room.
pub struct Participant {
    pub state: SessionState,
    pub transient: Transient,
}

/// What a session needs to go on elsewhere. Holds no keys but the ICE passwords that the peer knows too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionState {
    pub sid: ParticipantSid,
    pub grants: Grants,
    pub client: proto::ClientInfo,
    pub quirks: Quirks,
    pub mode: Mode,
    pub auto_subscribe: bool,
    pub adaptive_stream: bool,
    /// v0 with the right to subscribe at join: the subscriber transport is the primary one. Later changes of the right
    /// do not change it.
    pub subscriber_primary: bool,
    /// v0: publishing; v1: everything.
    pub publisher: Transport,
    /// v0 only.
    pub subscriber: Option<Transport>,
    pub pending: Vec<PendingTrack>,
    /// AddTracks whose cid an earlier track still uses.
    pub queued: Vec<proto::AddTrackRequest>,
    /// Sections that send and that no AddTrack has claimed yet.
    pub unclaimed: Vec<UnclaimedSection>,
    pub publications: BTreeMap<TrackSid, Publication>,
    pub subscriptions: BTreeMap<TrackSid, Subscription>,
    /// Explicit subscribe (`true`) and unsubscribe (`false`) by track; they override auto-subscribe.
    pub choices: BTreeMap<TrackSid, bool>,
    pub settings: BTreeMap<TrackSid, TrackSettings>,
    pub policy: SubscriptionPolicy,
    /// Wanted tracks that their publisher does not permit, as the client was told.
    pub denied: BTreeSet<TrackSid>,
    pub interest: Interest,
    /// While it is not announced to everybody: those to whom it was announced although their interest does not include
    /// it.
    pub announced_to: BTreeSet<ParticipantSid>,
    /// Highest sequence of its reliable data packets.
    pub last_reliable: u32,
    pub active: bool,
}

/// What ends with this process.
#[derive(Debug, Default)]
pub struct Transient {
    pub connection: Option<ConnectionId>,
    /// A transport was lost; what remains is to wait for the client to join anew.
    pub lost: bool,
    /// When the last offer, or request for one, was sent.
    pub negotiated_at: Option<Instant>,
    /// Requests for sections that brought none, in a row.
    pub requests_in_vain: u32,
    /// Explicitly wanted tracks that do not exist, and until when to wait for them.
    pub missing: BTreeMap<TrackSid, Instant>,
    pub on_resume: OnResume,
    /// For the fan-out that it caused.
    pub debt: Debt,
    pub speaking: Speaking,
    pub stats: BTreeMap<PublicationId, ReceiveStats>,
    pub quality_sent: BTreeMap<ParticipantSid, proto::ConnectionQuality>,
}

/// What `simulate` asked for the next resume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnResume {
    #[default]
    GoOn,
    CloseAfterFirstMessages,
    CloseWithoutMessages,
}

/// Loudness by publication, and as it was sent last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Speaking {
    pub levels: BTreeMap<PublicationId, f32>,
    pub sent: f32,
}

/// One transport and its negotiation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transport {
    pub id: TransportId,
    pub local: IceCredentials,
    pub negotiation: Negotiation,
    pub connected: bool,
    /// Closed by the worker, or by the client.
    pub ended: bool,
    /// Ids of the last descriptions in either direction. What they say is in `negotiation`; their texts, 10 KB and more
    /// of a browser, are not kept.
    pub last_offer: Option<DescriptionId>,
    pub last_answer: Option<DescriptionId>,
    /// v0 subscriber: our offer waits for its answer.
    pub outstanding: bool,
}

/// An AddTrack without media yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingTrack {
    pub sid: TrackSid,
    pub request: proto::AddTrackRequest,
    pub info: proto::TrackInfo,
    /// Offers of the client since the announcement, none of which had it.
    pub offers: u32,
}

/// A section that sends, received but not shown to anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnclaimedSection {
    pub mid: Mid,
    pub track_id: String,
    pub section: ReceiveSection,
}

/// One published track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Publication {
    pub id: PublicationId,
    pub cid: String,
    pub request: proto::AddTrackRequest,
    pub mid: Mid,
    pub section: ReceiveSection,
    /// That of the packets; until they arrive, the first one negotiated.
    pub codec: Codec,
    pub info: proto::TrackInfo,
    /// Shown to others. Simulcast is from its first packet on.
    pub visible: bool,
    /// TrackSubscribed was sent to the publisher; that happens once in a track's life.
    pub subscribed_sent: bool,
}

/// One track shown to this participant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub publication: PublicationId,
    pub publisher: ParticipantSid,
    pub kind: MediaKind,
    pub stage: Stage,
}

/// The stage of a subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Stage {
    /// No section yet.
    Waiting,
    /// In our next or outstanding offer (v0), or answered and perhaps not read yet (v1).
    Bound,
    /// The worker sends.
    Sending(SendSection),
    /// The client cannot take it.
    Refused,
}

/// UpdateTrackSettings of one track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackSettings {
    pub disabled: bool,
    pub quality: Quality,
    /// Pixels; 0 means that `quality` decides.
    pub width: u32,
    pub height: u32,
}

impl TrackSettings {
    /// What applies before the first request (docs/livekit.md 5.7).
    pub fn initial(adaptive_stream: bool) -> Self {
        let quality = if adaptive_stream { Quality::Low } else { Quality::High };
        Self { disabled: false, quality, width: 0, height: 0 }
    }

    pub fn read(request: &proto::UpdateTrackSettings) -> Self {
        let (off, quality) = match request.quality() {
            proto::VideoQuality::Low => (false, Quality::Low),
            proto::VideoQuality::Medium => (false, Quality::Medium),
            proto::VideoQuality::High => (false, Quality::High),
            proto::VideoQuality::Off => (true, Quality::Low),
        };
        Self { disabled: request.disabled || off, quality, width: request.width, height: request.height }
    }

    /// The highest layer wanted, as an index into the published layers, lowest first.
    pub fn layer_max(&self, layers: &[proto::VideoLayer]) -> u8 {
        let count = layers.len().min(sfu::command::LAYERS_MAX);
        let Some(top) = count.checked_sub(1) else { return 0 };
        let wanted = if self.width > 0 && self.height > 0 && layers.iter().all(|layer| layer.width > 0) {
            layers.iter().position(|layer| self.is_covered_by(layer)).unwrap_or(top)
        } else {
            layers.iter().rposition(|layer| layer.quality <= quality_number(self.quality)).unwrap_or(0)
        };
        u8::try_from(wanted.min(top)).unwrap_or(0)
    }

    /// Sizes are compared side by side, longer with longer: a rotated video covers a rotated request.
    fn is_covered_by(&self, layer: &proto::VideoLayer) -> bool {
        layer.width.max(layer.height) >= self.width.max(self.height)
            && layer.width.min(layer.height) >= self.width.min(self.height)
    }
}

fn quality_number(quality: Quality) -> i32 {
    match quality {
        Quality::Low => proto::VideoQuality::Low as i32,
        Quality::Medium => proto::VideoQuality::Medium as i32,
        Quality::High => proto::VideoQuality::High as i32,
    }
}

/// Whom a publisher lets subscribe (docs/livekit.md 7.9).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum SubscriptionPolicy {
    #[default]
    Everybody,
    Listed(Permissions),
}

/// Permissions indexed by subscriber, so that a look-up takes the same time in a list of any length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Permissions {
    by_identity: BTreeMap<String, Permitted>,
    /// Of entries without an identity.
    by_sid: BTreeMap<String, Permitted>,
}

/// What all entries for one participant permit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Permitted {
    all_tracks: bool,
    tracks: BTreeSet<String>,
}

impl From<Vec<proto::TrackPermission>> for Permissions {
    fn from(entries: Vec<proto::TrackPermission>) -> Self {
        let mut permissions = Self::default();
        for entry in entries {
            let permitted = match entry.participant_identity.is_empty() {
                true => permissions.by_sid.entry(entry.participant_sid).or_default(),
                false => permissions.by_identity.entry(entry.participant_identity).or_default(),
            };
            permitted.all_tracks |= entry.all_tracks;
            permitted.tracks.extend(entry.track_sids);
        }
        permissions
    }
}

impl SubscriptionPolicy {
    pub fn permits(&self, identity: &ParticipantIdentity, sid: &ParticipantSid, track: &TrackSid) -> bool {
        match self {
            Self::Everybody => true,
            Self::Listed(permissions) => {
                let entries = [permissions.by_identity.get(identity.as_str()), permissions.by_sid.get(sid.as_str())];
                entries.into_iter().flatten().any(|entry| entry.all_tracks || entry.tracks.contains(track.as_str()))
            }
        }
    }
}

impl SessionState {
    /// What the state of the primary transport says is "connected" to the client.
    pub fn primary(&self) -> &Transport {
        match &self.subscriber {
            Some(subscriber) if self.subscriber_primary => subscriber,
            _ => &self.publisher,
        }
    }

    /// Where data for this participant goes.
    pub fn data_transport(&self) -> TransportId {
        self.primary().id
    }

    /// The transport whose sections show tracks to it.
    pub fn receiving(&mut self) -> &mut Transport {
        self.subscriber.as_mut().unwrap_or(&mut self.publisher)
    }

    pub fn transport_mut(&mut self, id: TransportId) -> Option<&mut Transport> {
        if self.publisher.id == id {
            return Some(&mut self.publisher);
        }
        self.subscriber.as_mut().filter(|transport| transport.id == id)
    }

    pub fn transports(&self) -> impl Iterator<Item = &Transport> {
        std::iter::once(&self.publisher).chain(&self.subscriber)
    }

    pub fn publication_mut(&mut self, id: PublicationId) -> Option<(&TrackSid, &mut Publication)> {
        self.publications.iter_mut().find(|(_, publication)| publication.id == id)
    }

    pub fn is_hidden(&self) -> bool {
        self.grants.video.hidden
    }

    pub fn is_recorder(&self) -> bool {
        self.grants.video.recorder || self.grants.kind == proto::participant_info::Kind::Egress
    }

    pub fn is_agent(&self) -> bool {
        self.grants.video.agent || self.grants.kind == proto::participant_info::Kind::Agent
    }

    /// Neither counted nor limited, and keeps no room open (docs/livekit.md 7.4).
    pub fn is_dependent(&self) -> bool {
        self.is_recorder() || self.is_agent()
    }

    /// Whether its part in the room makes it be sent updates about the audience, too.
    pub fn is_in_charge(&self) -> bool {
        self.is_dependent() || self.grants.video.room_admin
    }

    /// Settings that apply to a track now.
    pub fn settings_of(&self, track: &TrackSid) -> TrackSettings {
        self.settings.get(track).copied().unwrap_or_else(|| TrackSettings::initial(self.adaptive_stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(qualities: &[i32]) -> Vec<proto::VideoLayer> {
        let size = |quality: i32| 320u32 << quality;
        qualities
            .iter()
            .map(|&quality| proto::VideoLayer {
                quality,
                width: size(quality),
                height: size(quality) * 9 / 16,
                ..Default::default()
            })
            .collect()
    }

    fn quality(quality: Quality) -> TrackSettings {
        TrackSettings { quality, ..TrackSettings::initial(false) }
    }

    /// Processor time that this thread has had, in nanoseconds: others' load does not count.
    fn cpu_ns() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        stat.split(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_long_list_of_permissions_is_looked_up_as_quickly_as_a_short_one() {
        let (identity, sid) = ("carol".parse().unwrap(), "PA_carol".parse().unwrap());
        let cost_of_looking_up = |entries: usize| {
            let entry = |number: usize| proto::TrackPermission {
                participant_identity: format!("somebody {number}"),
                track_sids: vec![format!("TR_{number}")],
                ..Default::default()
            };
            let policy = SubscriptionPolicy::Listed((0..entries).map(entry).collect::<Vec<_>>().into());
            let track = "TR_1".parse().unwrap();
            let before = cpu_ns();
            assert!((0..20_000).all(|_| !policy.permits(&identity, &sid, &track)));
            cpu_ns() - before
        };
        let (short, long) = (cost_of_looking_up(8), cost_of_looking_up(8_000));
        // A thousand times the entries: a few more steps down a tree.
        assert!(long < 50 * short.max(1_000_000), "{short} ns, {long} ns");
    }

    #[test]
    fn permissions_for_one_participant_add_up() {
        let entry = |identity: &str, sid: &str, tracks: &[&str]| proto::TrackPermission {
            participant_identity: identity.into(),
            participant_sid: sid.into(),
            track_sids: tracks.iter().map(|track| (*track).to_owned()).collect(),
            ..Default::default()
        };
        let entries =
            vec![entry("carol", "", &["TR_a"]), entry("carol", "PA_x", &["TR_b"]), entry("", "PA_x", &["TR_c"])];
        let policy = SubscriptionPolicy::Listed(entries.into());
        let permitted = |identity: &str, sid: &str| {
            let tracks = ["TR_a", "TR_b", "TR_c", "TR_d"];
            let (identity, sid) = (identity.parse().unwrap(), sid.parse().unwrap());
            tracks.map(|track| policy.permits(&identity, &sid, &track.parse().unwrap()))
        };
        assert_eq!(permitted("carol", "PA_c"), [true, true, false, false]);
        assert_eq!(permitted("carol", "PA_x"), [true, true, true, false]);
        assert_eq!(permitted("dave", "PA_d"), [false; 4]);
    }

    #[test]
    fn who_is_permitted_all_tracks_once_is_permitted_all_tracks() {
        let entry = |identity: &str, all_tracks| proto::TrackPermission {
            participant_identity: identity.into(),
            all_tracks,
            track_sids: vec!["TR_a".into()],
            ..Default::default()
        };
        let entries = vec![entry("carol", true), entry("carol", false), entry("dave", false)];
        let policy = SubscriptionPolicy::Listed(entries.into());
        let permitted = |identity: &str| {
            let (identity, sid) = (identity.parse().unwrap(), "PA_x".parse().unwrap());
            ["TR_a", "TR_b"].map(|track| policy.permits(&identity, &sid, &track.parse().unwrap()))
        };
        assert_eq!([permitted("carol"), permitted("dave")], [[true, true], [true, false]]);
    }

    #[test]
    fn a_quality_that_is_not_published_means_the_next_lower_one() {
        assert_eq!(quality(Quality::High).layer_max(&layers(&[0, 1])), 1);
        assert_eq!(quality(Quality::Medium).layer_max(&layers(&[0, 2])), 0);
        assert_eq!(quality(Quality::Low).layer_max(&layers(&[1, 2])), 0);
        assert_eq!(quality(Quality::High).layer_max(&[]), 0);
    }

    #[test]
    fn a_size_means_the_smallest_layer_that_covers_it() {
        let sized = |width, height| TrackSettings { width, height, ..TrackSettings::initial(false) };
        let all = layers(&[0, 1, 2]);
        assert_eq!(sized(160, 90).layer_max(&all), 0);
        assert_eq!(sized(640, 360).layer_max(&all), 1);
        assert_eq!(sized(360, 640).layer_max(&all), 1);
        assert_eq!(sized(4000, 4000).layer_max(&all), 2);
    }

    #[test]
    fn a_quality_counts_where_a_size_is_not_known() {
        let medium = |width, height| TrackSettings { width, height, ..quality(Quality::Medium) };
        let all = layers(&[0, 1, 2]);
        assert_eq!([medium(0, 0), medium(160, 0), medium(0, 90)].map(|wish| wish.layer_max(&all)), [1; 3]);
        let mut unknown = layers(&[0, 1, 2]);
        unknown[2].width = 0;
        assert_eq!(medium(160, 90).layer_max(&unknown), 1);
        assert_eq!(medium(160, 90).layer_max(&all), 0);
    }

    #[test]
    fn each_quality_is_read_and_off_switches_off() {
        let read = |quality: proto::VideoQuality, disabled| {
            let quality = quality as i32;
            let request = proto::UpdateTrackSettings { quality, disabled, width: 3, height: 4, ..Default::default() };
            TrackSettings::read(&request)
        };
        for (number, quality, off) in [
            (proto::VideoQuality::Low, Quality::Low, false),
            (proto::VideoQuality::Medium, Quality::Medium, false),
            (proto::VideoQuality::High, Quality::High, false),
            (proto::VideoQuality::Off, Quality::Low, true),
        ] {
            for disabled in [false, true] {
                let expected = TrackSettings { disabled: disabled || off, quality, width: 3, height: 4 };
                assert_eq!(read(number, disabled), expected);
            }
        }
    }
}
