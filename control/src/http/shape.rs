//! What clients see of the things that are kept (stream API, section 3.2). Who is blocked is in none of them.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::store::stream::{EndReason, OwnerProfile, Stream, StreamId, StreamState, UserId, Visibility};

/// Names of [`StreamState`], for the description.
#[derive(ToSchema)]
#[schema(as = StreamState, rename_all = "snake_case")]
#[expect(dead_code, reason = "only describes what the store's type writes")]
pub(super) enum StateNames {
    Scheduled,
    Starting,
    Live,
    Reconnecting,
    Ended,
    Cancelled,
}

/// Names of [`EndReason`], for the description.
#[derive(ToSchema)]
#[schema(as = EndReason, rename_all = "snake_case")]
#[expect(dead_code, reason = "only describes what the store's type writes")]
pub(super) enum EndReasonNames {
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

/// Names of [`Visibility`], for the description.
#[derive(ToSchema)]
#[schema(as = Visibility, rename_all = "lowercase")]
#[expect(dead_code, reason = "only describes what the store's type writes")]
pub(super) enum VisibilityNames {
    Public,
    Private,
}

/// What the owner's token said of the owner.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Owner)]
pub(super) struct OwnerShape {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<String>,
}

impl From<&OwnerProfile> for OwnerShape {
    fn from(owner: &OwnerProfile) -> Self {
        Self { name: owner.name.clone(), picture: owner.picture.clone() }
    }
}

/// A stream, as anybody sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Stream)]
pub(super) struct StreamShape {
    #[schema(value_type = String, pattern = "^[0-9a-f]{24}$")]
    stream_id: StreamId,
    #[schema(value_type = String)]
    owner_id: UserId,
    owner: OwnerShape,
    /// Absent until a scheduled stream starts.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    room_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cover_url: Option<String>,
    tags: Vec<String>,
    is_live: bool,
    #[schema(value_type = StateNames)]
    state: StreamState,
    /// Users who watch now.
    viewers: u32,
    peak_viewers: u32,
    /// While it is scheduled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<VisibilityNames>)]
    visibility: Option<Visibility>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    scheduled_for: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<EndReasonNames>)]
    end_reason: Option<EndReason>,
    /// Once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<&Stream> for StreamShape {
    fn from(stream: &Stream) -> Self {
        let span = stream.started_at.zip(stream.ended_at);
        Self {
            stream_id: stream.id,
            owner_id: stream.owner_id.clone(),
            owner: (&stream.owner_profile).into(),
            room_name: stream.room_name.clone(),
            title: stream.title.clone(),
            cover_url: stream.cover_url.clone(),
            tags: stream.tags.clone(),
            is_live: stream.is_live(),
            state: stream.state,
            viewers: stream.viewers,
            peak_viewers: stream.peak_viewers,
            visibility: (stream.state == StreamState::Scheduled).then_some(stream.visibility),
            scheduled_for: stream.scheduled_for,
            started_at: stream.started_at,
            ended_at: stream.ended_at,
            end_reason: stream.end_reason,
            duration_seconds: span.map(|(start, end)| end.since(start).as_secs()),
            created_at: stream.created_at,
            updated_at: stream.updated_at,
        }
    }
}

/// A page of streams.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StreamPage)]
pub(super) struct StreamPage {
    pub(super) streams: Vec<StreamShape>,
    /// For `cursor`; `null` on the last page.
    #[schema(required = true)]
    pub(super) next_cursor: Option<String>,
}

/// What an administrator sees besides.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminStream)]
pub(super) struct AdminStreamShape {
    #[serde(flatten)]
    stream: StreamShape,
    /// Distinct users ever present.
    unique_viewers: u32,
    /// Several users reported it.
    flagged: bool,
    /// How many users are kept from it.
    blocked_users: usize,
}

impl From<&Stream> for AdminStreamShape {
    fn from(stream: &Stream) -> Self {
        Self {
            stream: stream.into(),
            unique_viewers: stream.unique_viewers,
            flagged: stream.flagged,
            blocked_users: stream.blocks.len(),
        }
    }
}

/// A page of streams for administrators.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminStreamPage)]
pub(super) struct AdminStreamPage {
    pub(super) streams: Vec<AdminStreamShape>,
    #[schema(required = true)]
    pub(super) next_cursor: Option<String>,
}

/// A stream that has ended.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Ended)]
pub(super) struct EndedShape {
    stream: StreamShape,
    /// It was over before this call.
    already_ended: bool,
}

impl EndedShape {
    pub(super) fn new(stream: &Arc<Stream>, already_ended: bool) -> Self {
        Self { stream: StreamShape::from(&**stream), already_ended }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::stream::Block;

    /// Section 3.2: the names of the application's schema are [S].
    #[test]
    fn a_stream_is_shown_under_the_names_of_the_contract() {
        let at = |seconds: i64| Timestamp::from_millis(1_767_323_000_000 + seconds * 1000);
        let block = Block {
            user_id: "nobody-sees-this".parse().unwrap(),
            blocked_at: at(1),
            by: "u_42".parse().unwrap(),
            reason: None,
        };
        let stream = Stream {
            owner_profile: OwnerProfile { name: Some("Ana".into()), picture: Some("https://a.example/p.png".into()) },
            room_name: "live_u_42_1767323045678".into(),
            title: Some("My Stream".into()),
            cover_url: Some("https://a.example/c.png".into()),
            tags: vec!["pet".into(), "live".into()],
            state: StreamState::Ended,
            viewers: 17,
            peak_viewers: 31,
            scheduled_for: Some(at(0)),
            started_at: Some(at(2)),
            ended_at: Some(at(514)),
            end_reason: Some(EndReason::Stopped),
            blocks: vec![block],
            updated_at: at(515),
            ..Stream::new("u_42".parse().unwrap(), at(0))
        };

        let shown = serde_json::to_value(StreamShape::from(&stream)).unwrap();

        let expected = json!({
            "streamId": stream.id, "ownerId": "u_42",
            "owner": { "name": "Ana", "picture": "https://a.example/p.png" },
            "roomName": "live_u_42_1767323045678", "title": "My Stream", "coverUrl": "https://a.example/c.png",
            "tags": ["pet", "live"], "isLive": false, "state": "ended", "viewers": 17, "peakViewers": 31,
            "scheduledFor": "2026-01-02T03:03:20.000Z", "startedAt": "2026-01-02T03:03:22.000Z",
            "endedAt": "2026-01-02T03:11:54.000Z", "endReason": "stopped", "durationSeconds": 512,
            "createdAt": "2026-01-02T03:03:20.000Z", "updatedAt": "2026-01-02T03:11:55.000Z",
        });
        assert_eq!(shown, expected);
    }
}
