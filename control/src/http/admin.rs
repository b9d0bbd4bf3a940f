//! What administrators list and decide: bans, streams, the audit log (stream API, sections 2.5 and 7.6).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;
use super::caller::Admin;
use super::fields::{Fields, Reader};
use super::page::Query;
use super::path::UserPath;
use super::shape::{AdminStreamPage, AdminStreamShape, StateNames};
use super::streams::created;
use super::{Front, to_the_end};
use crate::clock::Timestamp;
use crate::problem::Problem;
use crate::refusals;
use crate::store::moderation::AuditEntry;
use crate::store::stream::{PageEnd, StreamFilter, StreamId, StreamOrder, StreamState, UserId};

/// Why somebody is banned, and how long.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct BanBody {
    /// At most 500 characters.
    #[schema(min_length = 1, max_length = 500)]
    reason: String,
    /// Absent: for good.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

impl Fields for BanBody {
    /// Why, and until when.
    type Read = (String, Option<Timestamp>);

    fn read(self, fields: &mut Reader<'_>) -> Option<Self::Read> {
        let reason = fields.needed_words("reason", &self.reason, 500);
        let until = fields.future("until", self.until);
        Some((reason?, until))
    }
}

/// A ban.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Ban)]
pub(super) struct BanShape {
    #[schema(value_type = String)]
    user_id: UserId,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    #[schema(value_type = String)]
    by: UserId,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

refusals!(BanRefusals = [USER, BODY] Forbidden, NotFound, CannotBlockAdmin);

/// Ban a user from the service: ends the user's stream, drops the user's connections.
#[utoipa::path(
    put, path = "/api/admin/users/{userId}/ban", tag = "admin", operation_id = "banUser", security(("user" = [])),
    params(("userId" = String, Path)),
    request_body(content = BanBody),
    responses((status = 200, description = "The user is banned", body = BanShape), BanRefusals)
)]
pub(super) async fn ban(
    State(front): State<Arc<Front>>,
    Admin(caller): Admin,
    UserPath(user): UserPath,
    Body((reason, until)): Body<BanBody>,
) -> Result<Json<BanShape>, Problem> {
    let moderation = front.moderation.clone();
    let ban = to_the_end(async move { moderation.ban(&caller, &user, reason, until).await }).await?;
    let answer = BanShape { user_id: ban.user_id, reason: ban.reason, until: ban.until, by: ban.by, at: ban.at };
    Ok(Json(answer))
}

refusals!(LiftRefusals = [USER] Forbidden, NotFound);

/// Lift a ban.
#[utoipa::path(
    delete, path = "/api/admin/users/{userId}/ban", tag = "admin", operation_id = "liftBan",
    security(("user" = [])),
    params(("userId" = String, Path)),
    responses((status = 204, description = "The user is not banned"), LiftRefusals)
)]
pub(super) async fn lift_ban(
    State(front): State<Arc<Front>>,
    Admin(caller): Admin,
    UserPath(user): UserPath,
) -> Result<StatusCode, Problem> {
    let moderation = front.moderation.clone();
    to_the_end(async move { moderation.lift_ban(&caller, &user).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

refusals!(ListRefusals = [USER, LIST] Forbidden);

/// Streams in any state, the newest first.
#[utoipa::path(
    get, path = "/api/admin/streams", tag = "admin", operation_id = "listStreams", security(("user" = [])),
    params(
        ("state" = Option<Vec<StateNames>>, Query, description = "Any of them"),
        ("ownerId" = Option<String>, Query, min_length = 1, max_length = 128), ("flagged" = Option<bool>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100), ("cursor" = Option<String>, Query, min_length = 1, max_length = 256)
    ),
    responses((status = 200, description = "A page of streams", body = AdminStreamPage), ListRefusals)
)]
pub(super) async fn streams(
    State(front): State<Arc<Front>>,
    _admin: Admin,
    query: Query,
) -> Result<Json<AdminStreamPage>, Problem> {
    let states: Option<Vec<StreamState>> = query.all("state").map(state).collect();
    let filter = StreamFilter {
        owner: query.read("ownerId", "must have 1 to 128 bytes", |id| id.parse().ok())?,
        states: states.ok_or_else(|| super::page::invalid("state", "must be the state of a stream"))?,
        flagged: query.read("flagged", "must be true or false", |text| text.parse().ok())?,
        visibility: None,
    };
    let page = query.page('a')?;
    let store = front.lifecycle.store();
    let mut rows = store.streams(&filter, StreamOrder::NewestFirst, page.after.as_ref(), page.look_up()).await?;
    let next_cursor = page.cut(&mut rows, created);
    Ok(Json(AdminStreamPage { streams: rows.iter().map(AdminStreamShape::from).collect(), next_cursor }))
}

fn state(name: &str) -> Option<StreamState> {
    StreamState::ALL.into_iter().find(|state| state.name() == name)
}

/// One line of the audit log.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditEntry)]
pub(super) struct AuditShape {
    id: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    #[schema(value_type = String)]
    actor: UserId,
    /// What was done: `stream.end`, `user.ban`, …
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    stream_id: Option<StreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    #[schema(required = false)]
    details: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl From<AuditEntry> for AuditShape {
    fn from(entry: AuditEntry) -> Self {
        let AuditEntry { id, at, actor, action, stream_id, target, mut details, request_id } = entry;
        // Absent values are left out there as everywhere (stream API, section 1, rule 2).
        if let serde_json::Value::Object(fields) = &mut details {
            fields.retain(|_, value| !value.is_null());
        }
        Self { id, at, actor, action, stream_id, target, details, request_id }
    }
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuditPage {
    entries: Vec<AuditShape>,
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// What owners and administrators did, the newest first.
#[utoipa::path(
    get, path = "/api/admin/audit", tag = "admin", operation_id = "listAudit", security(("user" = [])),
    params(
        ("streamId" = Option<String>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100), ("cursor" = Option<String>, Query, min_length = 1, max_length = 256)
    ),
    responses((status = 200, description = "A page of the log", body = AuditPage), ListRefusals)
)]
pub(super) async fn audit(
    State(front): State<Arc<Front>>,
    _admin: Admin,
    query: Query,
) -> Result<Json<AuditPage>, Problem> {
    let stream: Option<StreamId> = query.read("streamId", "must be an id", |id| id.parse().ok())?;
    let page = query.page('l')?;
    let store = front.lifecycle.store();
    let mut rows = store.audit(stream, page.after.as_ref(), page.look_up()).await?;
    let next_cursor = page.cut(&mut rows, |entry| PageEnd { key: entry.at.millis(), id: entry.id.clone() });
    Ok(Json(AuditPage { entries: rows.into_iter().map(AuditShape::from).collect(), next_cursor }))
}
