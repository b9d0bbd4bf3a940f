//! Start, stop, end, watch, read and edit a stream (stream API, section 4).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::body::{Body, Repeatable};
use super::caller::{Admin, Called, MaybeUser, Member, SignedIn};
use super::fields::{Fields, Reader};
use super::page::Query;
use super::path::StreamPath;
use super::shape::{EndedShape, OwnerShape, StateNames, StreamPage, StreamShape};
use super::{Front, to_the_end};
use crate::access::FeatureEnabled;
use crate::clock::Timestamp;
use crate::problem::{Code, Problem};
use crate::refusals;
use crate::store::stream::{Edit, PageEnd, Stream, StreamFilter, StreamId, StreamOrder, StreamState, Visibility};
use crate::streams::{OnConflict, StartRequest};
use crate::text::{CoverUrl, Tags, Title};
use crate::user::User;

/// What a new stream is called, and how it begins.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct StartBody {
    /// At most 120 characters.
    #[schema(max_length = 120)]
    title: Option<String>,
    /// At most 10, each of 1 to 32 letters, marks, digits, `-` and `_`.
    #[schema(max_items = 10)]
    tags: Option<Vec<String>>,
    /// An https URL.
    #[schema(format = "uri", max_length = 2048)]
    cover_url: Option<String>,
    /// A scheduled stream of the caller's.
    #[schema(pattern = "^[0-9a-f]{24}$")]
    stream_id: Option<String>,
    /// What to do if the caller is live already: `resume` (the default), `replace` or `reject`.
    #[schema(value_type = Option<OnConflictNames>)]
    on_conflict: Option<OnConflict>,
}

/// [`StartBody`], read.
pub(super) struct Start {
    title: Option<Title>,
    tags: Tags,
    cover_url: Option<CoverUrl>,
    stream_id: Option<StreamId>,
    on_conflict: OnConflict,
}

impl Fields for StartBody {
    type Read = Start;

    const IS_OPTIONAL: bool = true;

    fn read(self, fields: &mut Reader<'_>) -> Option<Start> {
        Some(Start {
            title: fields.title(self.title.as_deref()),
            tags: fields.tags(self.tags.as_deref()),
            cover_url: fields.cover_url(self.cover_url.as_deref()),
            stream_id: fields.stream_id(self.stream_id.as_deref()),
            on_conflict: self.on_conflict.unwrap_or_default(),
        })
    }
}

/// Names of [`OnConflict`], for the description.
#[derive(ToSchema)]
#[schema(as = OnConflict, rename_all = "lowercase")]
#[expect(dead_code, reason = "only describes")]
enum OnConflictNames {
    Resume,
    Replace,
    Reject,
}

/// How to publish a stream.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Started)]
pub(super) struct StartedShape {
    #[schema(value_type = String)]
    stream_id: StreamId,
    room_name: String,
    /// Joins the room at `url` as its publisher.
    token: String,
    url: String,
    #[schema(value_type = String, format = DateTime)]
    token_expires_at: Timestamp,
    /// The caller was live already: this is the same stream.
    resumed: bool,
}

refusals!(StartRefusals = [USER, BODY, LIVE]
    InvalidParameter, Banned, NotOwner, StreamNotFound, Conflict, NotStartable, StreamEnded, IdempotencyKeyReused,
    StartCooldown, SfuUnavailable, ShuttingDown);

/// Go live.
#[utoipa::path(
    post, path = "/api/live/start", tag = "streams", operation_id = "startStream", security(("user" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 64 printable ASCII characters: a repeated \
        request with the same key and body gets the first answer again")),
    request_body(content = Option<StartBody>),
    responses(
        (status = 201, description = "A new stream", body = StartedShape),
        (status = 200, description = "The caller's live stream, with a new token", body = StartedShape),
        StartRefusals
    )
)]
pub(super) async fn start(
    State(front): State<Arc<Front>>,
    Member(admitted): Member,
    Called(called): Called,
    headers: HeaderMap,
    body: Repeatable<StartBody>,
) -> Result<(StatusCode, Json<StartedShape>), Problem> {
    let (Start { title, tags, cover_url, stream_id, on_conflict }, body_digest) = body.accepted()?;
    front.refuse_when_draining()?;
    let idempotency_key = idempotency_key(&headers)?;
    let request = StartRequest { title, tags, cover_url, stream_id, on_conflict, idempotency_key, body_digest, called };
    let started = front.streams.start(&admitted, request).await?;
    let status = if started.created { StatusCode::CREATED } else { StatusCode::OK };
    let answer = StartedShape {
        stream_id: started.stream.id,
        room_name: started.stream.room_name.clone(),
        token: started.token,
        url: started.url,
        token_expires_at: started.token_expires_at,
        resumed: started.resumed,
    };
    Ok((status, Json(answer)))
}

/// The key of a request that may be repeated.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let proper = |key: &&str| (1..=64).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    match key.to_str().ok().filter(proper) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Problem::new(Code::InvalidParameter, "Idempotency-Key has 1 to 64 printable ASCII characters.")),
    }
}

/// Which stream to stop.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct StopBody {
    /// Absent: the caller's live stream.
    #[schema(pattern = "^[0-9a-f]{24}$")]
    stream_id: Option<String>,
}

impl Fields for StopBody {
    type Read = Option<StreamId>;

    const IS_OPTIONAL: bool = true;

    fn read(self, fields: &mut Reader<'_>) -> Option<Self::Read> {
        Some(fields.stream_id(self.stream_id.as_deref()))
    }
}

refusals!(StopRefusals = [USER, BODY] NotOwner, StreamNotFound, Conflict);

/// End one's own stream.
#[utoipa::path(
    post, path = "/api/live/stop", tag = "streams", operation_id = "stopStream", security(("user" = [])),
    request_body(content = Option<StopBody>),
    responses((status = 200, description = "It is over", body = EndedShape), StopRefusals)
)]
pub(super) async fn stop(
    State(front): State<Arc<Front>>,
    SignedIn(caller): SignedIn,
    Body(id): Body<StopBody>,
) -> Result<Json<EndedShape>, Problem> {
    let ended = front.streams.stop(&caller.user, id).await?;
    Ok(Json(EndedShape::new(&ended.stream, ended.already_ended)))
}

/// Why an administrator ends a stream.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct EndBody {
    /// At most 500 characters, for the audit log.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

impl Fields for EndBody {
    /// The reason.
    type Read = Option<String>;

    const IS_OPTIONAL: bool = true;

    fn read(self, fields: &mut Reader<'_>) -> Option<Self::Read> {
        Some(fields.words("reason", self.reason.as_deref(), 500))
    }
}

refusals!(EndRefusals = [USER, BODY] Forbidden, StreamNotFound, Conflict);

/// End anybody's stream.
#[utoipa::path(
    post, path = "/api/live/{id}/end", tag = "admin", operation_id = "endStream", security(("user" = [])),
    params(("id" = String, Path)),
    request_body(content = Option<EndBody>),
    responses((status = 200, description = "It is over", body = EndedShape), EndRefusals)
)]
pub(super) async fn end(
    State(front): State<Arc<Front>>,
    Admin(caller): Admin,
    StreamPath(id): StreamPath,
    Body(reason): Body<EndBody>,
) -> Result<Json<EndedShape>, Problem> {
    let moderation = front.moderation.clone();
    let ended = to_the_end(async move { moderation.end(&caller, id, reason).await }).await?;
    Ok(Json(EndedShape::new(&ended.stream, ended.already_ended)))
}

/// How to watch a stream.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Watching)]
pub(super) struct WatchingShape {
    #[schema(value_type = String)]
    stream_id: StreamId,
    room_name: String,
    /// Joins the room at `url` as a viewer.
    token: String,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cover_url: Option<String>,
    tags: Vec<String>,
    owner: OwnerShape,
    viewers: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[schema(value_type = StateNames)]
    state: StreamState,
    #[schema(value_type = String, format = DateTime)]
    token_expires_at: Timestamp,
    chat: ChatDoor,
}

/// Where the chat of a stream is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatDoor {
    /// Of Socket.IO.
    namespace: String,
    #[schema(value_type = Object)]
    settings: crate::store::chat::ChatSettings,
}

refusals!(WatchRefusals = [USER, LIVE]
    InvalidParameter, Blocked, Banned, StreamNotFound, Conflict, StreamFull, StreamEnded, SfuUnavailable);

/// Get a token to watch.
#[utoipa::path(
    get, path = "/api/live/{id}/watch", tag = "streams", operation_id = "watchStream", security(("user" = [])),
    params(("id" = String, Path)),
    responses((status = 200, description = "How to watch", body = WatchingShape), WatchRefusals)
)]
pub(super) async fn watch(
    State(front): State<Arc<Front>>,
    Member(admitted): Member,
    Called(called): Called,
    StreamPath(id): StreamPath,
) -> Result<Json<WatchingShape>, Problem> {
    if admitted.user.is_admin() {
        let (moderation, caller) = (front.moderation.clone(), admitted.clone());
        to_the_end(async move { moderation.spare_admin(&caller, id).await }).await?;
    }
    let watching = front.streams.watch(&admitted, id, called.as_deref()).await?;
    let stream = &watching.stream;
    Ok(Json(WatchingShape {
        stream_id: stream.id,
        room_name: stream.room_name.clone(),
        token: watching.token,
        url: watching.url,
        title: stream.title.clone(),
        cover_url: stream.cover_url.clone(),
        tags: stream.tags.clone(),
        owner: (&stream.owner_profile).into(),
        viewers: stream.viewers,
        started_at: stream.started_at,
        state: stream.state,
        token_expires_at: watching.token_expires_at,
        chat: ChatDoor { namespace: format!("/live:{}", stream.room_name), settings: watching.chat_settings },
    }))
}

refusals!(ReadRefusals = [USER, LIVE] StreamNotFound);

/// One stream, live or not.
#[utoipa::path(
    get, path = "/api/live/{id}", tag = "streams", operation_id = "getStream", security((), ("user" = [])),
    params(("id" = String, Path)),
    responses((status = 200, description = "The stream", body = StreamShape), ReadRefusals)
)]
pub(super) async fn read(
    State(front): State<Arc<Front>>,
    MaybeUser(user): MaybeUser,
    StreamPath(id): StreamPath,
) -> Result<Json<StreamShape>, Problem> {
    let stream = front.streams.stream(id).await?;
    if !may_see(&stream, user.as_deref()) {
        return Err(Problem::stream_not_found());
    }
    Ok(Json(StreamShape::from(&*stream)))
}

/// Scheduled streams that are private, also cancelled ones, are their owner's affair.
pub(super) fn may_see(stream: &Stream, user: Option<&User>) -> bool {
    let announced = matches!(stream.state, StreamState::Scheduled | StreamState::Cancelled);
    let involved = user.is_some_and(|user| user.id == stream.owner_id || user.is_admin());
    !announced || stream.visibility == Visibility::Public || involved
}

/// What to change. A field that is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct EditBody {
    /// `null` or empty clears it.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    title: Option<Option<String>>,
    /// `null` or empty clears them.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    tags: Option<Option<Vec<String>>>,
    /// `null` or empty clears it.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    cover_url: Option<Option<String>>,
}

/// Tells `null` from absent.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Fields for EditBody {
    type Read = Edit;

    fn read(self, fields: &mut Reader<'_>) -> Option<Edit> {
        Some(Edit {
            title: self.title.map(|title| fields.title(title.as_deref()).map(String::from)),
            tags: self.tags.map(|tags| fields.tags(tags.as_deref()).into()),
            cover_url: self.cover_url.map(|url| fields.cover_url(url.as_deref()).map(String::from)),
        })
    }
}

refusals!(EditRefusals = [USER, BODY, LIVE] NotOwner, StreamNotFound, Conflict, StreamEnded);

/// Change what is shown of one's own stream.
#[utoipa::path(
    patch, path = "/api/live/{id}", tag = "streams", operation_id = "editStream", security(("user" = [])),
    params(("id" = String, Path)),
    request_body(content = EditBody),
    responses((status = 200, description = "The stream after the change", body = StreamShape), EditRefusals)
)]
pub(super) async fn edit(
    State(front): State<Arc<Front>>,
    feature: FeatureEnabled,
    SignedIn(caller): SignedIn,
    StreamPath(id): StreamPath,
    Body(edit): Body<EditBody>,
) -> Result<Json<StreamShape>, Problem> {
    let stream = front.streams.edit(feature, &caller.user, id, edit).await?;
    Ok(Json(StreamShape::from(&*stream)))
}

refusals!(MineRefusals = [USER, LIVE, LIST]);

/// One's own streams in all states, the newest first.
#[utoipa::path(
    get, path = "/api/live/mine", tag = "streams", operation_id = "listMyStreams", security(("user" = [])),
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 100), ("cursor" = Option<String>, Query, min_length = 1, max_length = 256)),
    responses((status = 200, description = "A page of streams", body = StreamPage), MineRefusals)
)]
pub(super) async fn mine(
    State(front): State<Arc<Front>>,
    SignedIn(caller): SignedIn,
    query: Query,
) -> Result<Json<StreamPage>, Problem> {
    let page = query.page('m')?;
    let filter = StreamFilter { owner: Some(caller.user.id), ..StreamFilter::default() };
    let store = front.lifecycle.store();
    let mut rows = store.streams(&filter, StreamOrder::NewestFirst, page.after.as_ref(), page.look_up()).await?;
    let next_cursor = page.cut(&mut rows, created);
    Ok(Json(StreamPage { streams: rows.iter().map(StreamShape::from).collect(), next_cursor }))
}

/// Where a row stands in a list by creation.
pub(super) fn created(stream: &Stream) -> PageEnd {
    PageEnd { key: stream.created_at.millis(), id: stream.id.to_string() }
}
