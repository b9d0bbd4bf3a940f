//! A stream as it is kept, and what may be done to it (stream API, sections 3 and 13).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::chat::{ChatMessage, ChatSettings, Mute};
use super::error::{Result, StoreError};
use crate::clock::Timestamp;

/// A stream's id, of the form of MongoDB's ObjectIds: seconds since 1970, five bytes of the process, a count. On the
/// wire 24 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId([u8; 12]);

impl StreamId {
    pub fn generate() -> Self {
        Self::made_at(Timestamp::now())
    }

    /// The seconds of a clock before 1970 or after 2106, which an id cannot hold, are clamped: what follows them is
    /// unique by itself.
    fn made_at(now: Timestamp) -> Self {
        static PROCESS: LazyLock<[u8; 5]> = LazyLock::new(rand::random);
        static COUNT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(rand::random()));
        let seconds = u32::try_from(now.millis() / 1000).unwrap_or(u32::MAX);
        let [s0, s1, s2, s3] = seconds.to_be_bytes();
        let [p0, p1, p2, p3, p4] = *PROCESS;
        let [_, c0, c1, c2] = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        Self([s0, s1, s2, s3, p0, p1, p2, p3, p4, c0, c1, c2])
    }

    pub(crate) fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(self) -> [u8; 12] {
        self.0
    }
}

/// The text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct NotAnId;

impl FromStr for StreamId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotAnId),
        };
        let digits: &[u8; 24] = text.as_bytes().try_into().map_err(|_| NotAnId)?;
        let mut bytes = [0; 12];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for StreamId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An opaque user id from a token's `sub`: 1 to 128 bytes.
///
/// One of 24 hexadecimal digits is an ObjectId, and so has one spelling, in lower case: wherever else it is read as one
/// (MongoDB, an application beside us), digits of either case name the same user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UserId(Arc<str>);

impl UserId {
    pub const BYTES_MAX: usize = 128;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text.is_empty() || text.len() > Self::BYTES_MAX {
            return Err(NotAnId);
        }
        let is_object_id = text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        Ok(Self(if is_object_id { text.to_ascii_lowercase().into() } else { text.into() }))
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a stream was not created or started.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CreateError {
    #[error("the owner has a live stream")]
    OwnerAlreadyLive,
    #[error("the room name is taken")]
    RoomTaken,
    /// A scheduled stream that is no longer scheduled; as it is now.
    #[error("the stream is not scheduled any more")]
    NotScheduled(Box<Stream>),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a stream is in its life. `Ended` and `Cancelled` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    Scheduled,
    Starting,
    Live,
    Reconnecting,
    Ended,
    Cancelled,
}

impl StreamState {
    /// The states in which `isLive` is true.
    pub const LIVE: [StreamState; 3] = [StreamState::Starting, StreamState::Live, StreamState::Reconnecting];

    pub const ALL: [StreamState; 6] = [
        StreamState::Scheduled,
        StreamState::Starting,
        StreamState::Live,
        StreamState::Reconnecting,
        StreamState::Ended,
        StreamState::Cancelled,
    ];

    pub fn is_live(self) -> bool {
        Self::LIVE.contains(&self)
    }

    pub fn name(self) -> &'static str {
        match self {
            StreamState::Scheduled => "scheduled",
            StreamState::Starting => "starting",
            StreamState::Live => "live",
            StreamState::Reconnecting => "reconnecting",
            StreamState::Ended => "ended",
            StreamState::Cancelled => "cancelled",
        }
    }
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    Stopped,
    EndedByAdmin,
    RoomFinished,
    NeverStarted,
    PublisherTimeout,
    Replaced,
    MaxDuration,
    ServerLost,
    Banned,
}

impl EndReason {
    pub fn name(self) -> &'static str {
        match self {
            EndReason::Stopped => "stopped",
            EndReason::EndedByAdmin => "ended_by_admin",
            EndReason::RoomFinished => "room_finished",
            EndReason::NeverStarted => "never_started",
            EndReason::PublisherTimeout => "publisher_timeout",
            EndReason::Replaced => "replaced",
            EndReason::MaxDuration => "max_duration",
            EndReason::ServerLost => "server_lost",
            EndReason::Banned => "banned",
        }
    }
}

/// Who may see a scheduled stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    #[default]
    Public,
    Private,
}

/// What the owner's token said of the owner at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
}

/// One user kept from a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    pub user_id: UserId,
    pub blocked_at: Timestamp,
    pub by: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A stream document. Serialized form: the interchange of `onair migrate`; what clients see is made in `http`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    pub id: StreamId,
    pub owner_id: UserId,
    pub owner_profile: OwnerProfile,
    /// Empty until a scheduled stream starts.
    pub room_name: String,
    /// The SFU's id of the room, once it told.
    pub room_sid: Option<String>,
    pub title: Option<String>,
    pub cover_url: Option<String>,
    pub tags: Vec<String>,
    pub state: StreamState,
    pub visibility: Visibility,
    pub end_reason: Option<EndReason>,
    pub scheduled_for: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Since when `state` is what it is: for the time-outs of `starting` and `reconnecting`.
    pub state_since: Timestamp,
    pub viewers: u32,
    pub peak_viewers: u32,
    pub unique_viewers: u32,
    /// Distinct reporters reached the threshold.
    pub flagged: bool,
    /// Sorted by user.
    pub blocks: Vec<Block>,
    /// Sorted by user; expired ones may remain.
    pub mutes: Vec<Mute>,
    pub chat_settings: ChatSettings,
    pub pinned: Option<ChatMessage>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// One more after every change, so that of two copies the newer one is known.
    pub rev: i64,
}

impl Stream {
    /// A stream of that owner that starts, of which nothing else is known yet.
    pub fn new(owner_id: UserId, at: Timestamp) -> Self {
        Self {
            id: StreamId::generate(),
            owner_id,
            owner_profile: OwnerProfile::default(),
            room_name: String::new(),
            room_sid: None,
            title: None,
            cover_url: None,
            tags: Vec::new(),
            state: StreamState::Starting,
            visibility: Visibility::Public,
            end_reason: None,
            scheduled_for: None,
            started_at: None,
            ended_at: None,
            state_since: at,
            viewers: 0,
            peak_viewers: 0,
            unique_viewers: 0,
            flagged: false,
            blocks: Vec::new(),
            mutes: Vec::new(),
            chat_settings: ChatSettings::default(),
            pinned: None,
            created_at: at,
            updated_at: at,
            rev: 1,
        }
    }

    pub fn is_live(&self) -> bool {
        self.state.is_live()
    }

    /// Whether the stream exists for a user at all.
    pub fn is_visible_to(&self, user: Option<&UserId>) -> bool {
        let never_began = matches!(self.state, StreamState::Scheduled | StreamState::Cancelled);
        !never_began || self.visibility == Visibility::Public || user == Some(&self.owner_id)
    }

    pub fn blocks(&self, user: &UserId) -> bool {
        self.blocks.iter().any(|block| &block.user_id == user)
    }
}

/// One conditional change of state.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// Happens only in one of these states.
    pub from: Vec<StreamState>,
    pub to: StreamState,
    pub at: Timestamp,
    /// With `to: Ended` only.
    pub end_reason: Option<EndReason>,
    /// Only if the noted room is this one, or none is noted.
    pub room_sid: Option<String>,
}

/// What became of a conditional write.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The stream after the change.
    Changed(Stream),
    /// The condition did not hold; the stream as it is.
    Unchanged(Stream),
}

impl Outcome {
    pub fn stream(&self) -> &Stream {
        match self {
            Outcome::Changed(stream) | Outcome::Unchanged(stream) => stream,
        }
    }

    pub fn into_stream(self) -> Stream {
        match self {
            Outcome::Changed(stream) | Outcome::Unchanged(stream) => stream,
        }
    }

    pub fn changed(&self) -> bool {
        matches!(self, Outcome::Changed(_))
    }
}

/// What becomes of a scheduled stream when it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct StartScheduled {
    pub room_name: String,
    pub owner_profile: OwnerProfile,
    /// Replaces the stream's own, merged by the caller.
    pub blocks: Vec<Block>,
    pub at: Timestamp,
}

/// A change of what is shown. The outer `None` leaves a field alone, the inner one clears it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edit {
    pub title: Option<Option<String>>,
    pub cover_url: Option<Option<String>>,
    pub tags: Option<Vec<String>>,
}

/// Where a page of a list ended: the sort key and the id of its last row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageEnd {
    pub key: i64,
    pub id: String,
}

/// Which streams an administrator lists.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamFilter {
    pub owner: Option<UserId>,
    pub states: Vec<StreamState>,
    pub flagged: Option<bool>,
    /// Public scheduled ones only; with `states: [Scheduled]`.
    pub visibility: Option<Visibility>,
}

/// How a list of streams is sorted; ties by id, in the same direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamOrder {
    /// `createdAt`, newest first.
    NewestFirst,
    /// `startedAt`, newest first; streams without one are left out.
    StartedLast,
    /// `scheduledFor`, soonest first; streams without one are left out.
    SoonestFirst,
}

/// Streams: each change is one conditional write.
///
/// See [`Store`](super::Store) for what holds of all operations.
#[async_trait]
pub trait StreamStore: Send + Sync + 'static {
    /// Inserts as given. A live stream competes for its owner, any with a room name for that name. Nothing happens if
    /// the id is there: that is a repeat.
    async fn create(&self, stream: &Stream) -> Result<(), CreateError>;

    async fn stream(&self, id: StreamId) -> Result<Option<Stream>>;

    async fn stream_of_room(&self, room_name: &str) -> Result<Option<Stream>>;

    async fn live_stream_of(&self, owner: &UserId) -> Result<Option<Stream>>;

    /// The stream of `owner` that ended last, whatever the reason but `never_started`: for the cool-down.
    async fn last_ended_of(&self, owner: &UserId) -> Result<Option<Stream>>;

    /// A page of at most `limit` streams after `after`.
    async fn streams(
        &self,
        filter: &StreamFilter,
        order: StreamOrder,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Stream>>;

    /// Scheduled streams of `owner` that are still to come.
    async fn count_scheduled(&self, owner: &UserId) -> Result<u32>;

    /// Streams with `updatedAt` at or after that time, oldest change first, at most `limit`. How a node hears of what
    /// others changed.
    async fn streams_changed_since(&self, since: Timestamp, limit: usize) -> Result<Vec<Stream>>;

    /// Sets state, `stateSince`, `updatedAt`; at the end also `endedAt`, `endReason` and `viewers = 0`. Unchanged if
    /// the state is final, whatever `from` says, or is the wanted one already.
    async fn transition(&self, id: StreamId, transition: &Transition) -> Result<Outcome>;

    /// `scheduled` → `starting`, with what a start adds; `at` becomes `startedAt`.
    async fn start_scheduled(&self, id: StreamId, start: &StartScheduled) -> Result<Stream, CreateError>;

    /// Notes the SFU's id of the room of a live stream. Another one replaces it: an SFU that started again made the
    /// room anew. Unchanged if it is noted already or the stream is not live.
    async fn note_room(&self, id: StreamId, room_sid: &str, at: Timestamp) -> Result<Outcome>;

    /// Changes what is shown, in one of the states `from`.
    async fn edit(&self, id: StreamId, edit: &Edit, from: &[StreamState], at: Timestamp) -> Result<Outcome>;

    async fn set_flagged(&self, id: StreamId, at: Timestamp) -> Result<Outcome>;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_user_id_that_is_an_object_id_has_one_spelling() {
        let id = |text: &str| text.parse::<UserId>().unwrap().to_string();

        for spelling in ["64b7f3a2c1d2e3f4a5b6c7d8", "64B7F3A2C1D2E3F4A5B6C7D8", "64b7f3a2C1D2E3F4a5b6c7d8"] {
            assert_eq!(id(spelling), "64b7f3a2c1d2e3f4a5b6c7d8");
        }
        for other in ["Ana", "64B7F3A2C1D2E3F4A5B6C7D", "64B7F3A2C1D2E3F4A5B6C7D8A", "X4B7F3A2C1D2E3F4A5B6C7D8"] {
            assert_eq!(id(other), other);
        }
        let read: UserId = serde_json::from_str("\"64B7F3A2C1D2E3F4A5B6C7D8\"").unwrap();
        assert_eq!(read.as_str(), "64b7f3a2c1d2e3f4a5b6c7d8");
    }

    #[test]
    fn ids_are_made_by_any_clock_and_none_twice() {
        for (millis, seconds) in [(0, "00000000"), (5_000_000_000_000, "ffffffff"), (1_767_323_045_678, "695735a5")] {
            let now = Timestamp::from_millis(millis);
            let ids: HashSet<_> = (0..1_000).map(|_| StreamId::made_at(now).to_string()).collect();

            assert!(ids.len() == 1_000 && ids.iter().all(|id| id.starts_with(seconds)), "{ids:?}");
        }
    }
}
