//! The figures of a stream (stream API, section 10).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Front;
use super::caller::SignedIn;
use super::path::StreamPath;
use super::streams::may_see;
use crate::analytics::{self, Analytics};
use crate::clock::Timestamp;
use crate::problem::{Code, Problem};
use crate::refusals;

/// Sessions that are looked at: some 30 MB while it is computed.
const SESSIONS_MAX: usize = 200_000;

refusals!(AnalyticsRefusals = [USER, LIVE] NotOwner, StreamNotFound);

/// Who watched, how long, and what they wrote. It stands still once the stream has ended.
#[utoipa::path(
    get, path = "/api/live/{id}/analytics", tag = "streams", operation_id = "getAnalytics",
    security(("user" = [])),
    params(("id" = String, Path)),
    responses((status = 200, description = "The figures", body = Analytics), AnalyticsRefusals)
)]
pub(super) async fn analytics(
    State(front): State<Arc<Front>>,
    SignedIn(caller): SignedIn,
    StreamPath(id): StreamPath,
) -> Result<Json<Analytics>, Problem> {
    let store = front.lifecycle.store();
    let stream = store.stream(id).await?.ok_or_else(Problem::stream_not_found)?;
    if !may_see(&stream, Some(&caller.user)) {
        return Err(Problem::stream_not_found());
    }
    if stream.owner_id != caller.user.id && !caller.user.is_admin() {
        return Err(Problem::new(Code::NotOwner, "Only the owner and administrators see these figures."));
    }
    let _few_at_once = front.analyses.acquire().await.map_err(|_| super::envelope::internal())?;
    let mut sessions = store.presence_all(id, SESSIONS_MAX + 1).await?;
    let partial = sessions.len() > SESSIONS_MAX;
    sessions.truncate(SESSIONS_MAX);
    let totals = store.chat_totals(id).await?;
    let compute = move || Analytics { partial, ..analytics::analyse(&stream, &sessions, &totals, Timestamp::now()) };
    let figures = tokio::task::spawn_blocking(compute).await.map_err(|_| super::envelope::internal())?;
    Ok(Json(figures))
}
