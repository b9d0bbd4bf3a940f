//! Streams to come (stream API, section 9).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Front;
use super::body::Repeatable;
use super::caller::{MaybeUser, Member, SignedIn};
use super::envelope::internal;
use super::fields::{Fields, Reader};
use super::page::Query;
use super::path::StreamPath;
use super::shape::{StreamPage, StreamShape, VisibilityNames};
use super::streams::idempotency_key;
use crate::access::FeatureEnabled;
use crate::clock::Timestamp;
use crate::problem::Problem;
use crate::refusals;
use crate::store::stream::{PageEnd, Stream, StreamFilter, StreamOrder, StreamState, Visibility};
use crate::streams::ScheduleRequest;
use crate::text::{CoverUrl, Tags, Title};

/// A stream that is announced.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ScheduleBody {
    /// At most 120 characters.
    #[schema(min_length = 1, max_length = 120)]
    title: String,
    /// 5 minutes to 90 days ahead.
    #[schema(value_type = String, format = DateTime)]
    scheduled_for: Timestamp,
    /// At most 10, each of 1 to 32 letters, marks, digits, `-` and `_`.
    #[serde(default)]
    #[schema(max_items = 10)]
    tags: Option<Vec<String>>,
    /// An https URL.
    #[serde(default)]
    #[schema(format = "uri", max_length = 2048)]
    cover_url: Option<String>,
    /// `public` (the default) or `private`.
    #[serde(default)]
    #[schema(value_type = Option<VisibilityNames>)]
    visibility: Option<Visibility>,
}

/// [`ScheduleBody`], read.
pub(super) struct Schedule {
    title: Title,
    scheduled_for: Timestamp,
    tags: Tags,
    cover_url: Option<CoverUrl>,
    visibility: Visibility,
}

impl Fields for ScheduleBody {
    type Read = Schedule;

    fn read(self, fields: &mut Reader<'_>) -> Option<Schedule> {
        let title = fields.needed_title(&self.title);
        let scheduled_for = fields.schedule(self.scheduled_for);
        let tags = fields.tags(self.tags.as_deref());
        let cover_url = fields.cover_url(self.cover_url.as_deref());
        Some(Schedule {
            title: title?,
            scheduled_for,
            tags,
            cover_url,
            visibility: self.visibility.unwrap_or_default(),
        })
    }
}

refusals!(ScheduleRefusals = [USER, BODY, LIVE] InvalidParameter, Banned, Conflict, IdempotencyKeyReused, ShuttingDown);

/// Announce a stream. A user has at most 20 to come, and announces at most 40 within a day.
#[utoipa::path(
    post, path = "/api/live/scheduled", tag = "scheduled", operation_id = "scheduleStream",
    security(("user" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 64 printable ASCII characters")),
    request_body(content = ScheduleBody),
    responses((status = 201, description = "The announced stream", body = StreamShape), ScheduleRefusals)
)]
pub(super) async fn schedule(
    State(front): State<Arc<Front>>,
    Member(admitted): Member,
    headers: HeaderMap,
    Repeatable { body, digest, refusal }: Repeatable<ScheduleBody>,
) -> Result<(StatusCode, Json<StreamShape>), Problem> {
    front.refuse_when_draining()?;
    let idempotency_key = idempotency_key(&headers)?;
    // The time comes nearer while a client tries again; all other rules hold for a repeat as they did at first.
    let refusal = match refusal {
        Some(problem) if idempotency_key.is_none() || !is_about_time_alone(&problem) => return Err(problem),
        refusal => refusal,
    };
    let Schedule { title, scheduled_for, tags, cover_url, visibility } = body.ok_or_else(internal)?;
    let request = ScheduleRequest {
        title,
        tags,
        cover_url,
        scheduled_for,
        visibility,
        idempotency_key,
        body_digest: digest,
        refusal,
    };
    let stream = front.streams.schedule(&admitted, request).await?;
    Ok((StatusCode::CREATED, Json(StreamShape::from(&*stream))))
}

fn is_about_time_alone(problem: &Problem) -> bool {
    problem.errors.iter().all(|error| error.field == "scheduledFor")
}

refusals!(ListRefusals = [USER, LIVE, LIST]);

/// Public streams to come, the soonest first.
#[utoipa::path(
    get, path = "/api/live/scheduled", tag = "scheduled", operation_id = "listScheduledStreams",
    security((), ("user" = [])),
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 100), ("cursor" = Option<String>, Query, min_length = 1, max_length = 256)),
    responses((status = 200, description = "A page of streams", body = StreamPage), ListRefusals)
)]
pub(super) async fn list(
    State(front): State<Arc<Front>>,
    MaybeUser(user): MaybeUser,
    query: Query,
) -> Result<Json<StreamPage>, Problem> {
    let page = query.page('f')?;
    let filter = StreamFilter {
        states: vec![StreamState::Scheduled],
        visibility: Some(Visibility::Public),
        ..StreamFilter::default()
    };
    let store = front.lifecycle.store();
    let mut rows = store.streams(&filter, StreamOrder::SoonestFirst, page.after.as_ref(), page.look_up()).await?;
    let next_cursor = page.cut(&mut rows, scheduled);
    let shown =
        rows.iter().filter(|stream| user.as_ref().is_none_or(|user| user.is_admin() || !stream.blocks(&user.id)));
    Ok(Json(StreamPage { streams: shown.map(StreamShape::from).collect(), next_cursor }))
}

/// Where a row stands in a list by its time.
fn scheduled(stream: &Stream) -> PageEnd {
    PageEnd { key: stream.scheduled_for.unwrap_or_default().millis(), id: stream.id.to_string() }
}

refusals!(CancelRefusals = [USER, LIVE] NotOwner, StreamNotFound, Conflict);

/// Call a scheduled stream off.
#[utoipa::path(
    delete, path = "/api/live/{id}", tag = "scheduled", operation_id = "cancelStream", security(("user" = [])),
    params(("id" = String, Path)),
    responses((status = 204, description = "It is called off"), CancelRefusals)
)]
pub(super) async fn cancel(
    State(front): State<Arc<Front>>,
    feature: FeatureEnabled,
    SignedIn(caller): SignedIn,
    StreamPath(id): StreamPath,
) -> Result<StatusCode, Problem> {
    front.streams.cancel(feature, &caller.user, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
