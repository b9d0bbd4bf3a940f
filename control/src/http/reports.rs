//! Reports of abuse: filing and reviewing (stream API, section 7.5).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;
use super::caller::{Admin, Member};
use super::fields::{Fields, Reader};
use super::page::Query;
use super::path::{LastParam, StreamPath};
use super::streams::may_see;
use super::{Front, to_the_end};
use crate::clock::Timestamp;
use crate::moderation::NewReport;
use crate::problem::Problem;
use crate::refusals;
use crate::store::moderation::{Report, ReportReason, ReportStatus};
use crate::store::stream::{PageEnd, StreamId, UserId};

/// Names of [`ReportReason`], for the description.
#[derive(ToSchema)]
#[schema(as = ReportReason, rename_all = "snake_case")]
#[expect(dead_code, reason = "only describes what the store's type writes")]
enum ReasonNames {
    Spam,
    Nudity,
    Violence,
    Harassment,
    SelfHarm,
    AnimalAbuse,
    Other,
}

/// Names of [`ReportStatus`], for the description.
#[derive(ToSchema)]
#[schema(as = ReportStatus, rename_all = "lowercase")]
#[expect(dead_code, reason = "only describes what the store's type writes")]
enum StatusNames {
    Open,
    Resolved,
}

/// What is wrong.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ReportBody {
    #[schema(value_type = ReasonNames)]
    reason: ReportReason,
    /// At most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    details: Option<String>,
    /// A chat message of this stream.
    #[serde(default)]
    #[schema(pattern = "^[0-9A-Za-z]{1,64}$")]
    message_id: Option<String>,
    /// A user in this stream.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 128)]
    user_id: Option<String>,
}

impl Fields for ReportBody {
    type Read = NewReport;

    fn read(self, fields: &mut Reader<'_>) -> Option<NewReport> {
        Some(NewReport {
            reason: self.reason,
            details: fields.words("details", self.details.as_deref(), 1_000),
            message_id: fields.own_id("messageId", self.message_id),
            user_id: fields.user_id(self.user_id.as_deref()),
        })
    }
}

/// A report is noted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportFiled {
    report_id: String,
}

refusals!(ReportRefusals = [USER, BODY, LIVE] Banned, StreamNotFound);

/// Report a stream, or a message or a user in it.
#[utoipa::path(
    post, path = "/api/live/{id}/reports", tag = "moderation", operation_id = "reportStream",
    security(("user" = [])),
    params(("id" = String, Path)),
    request_body(content = ReportBody),
    responses(
        (status = 202, description = "Noted for review", body = ReportFiled),
        (status = 200, description = "The caller's earlier report of the same is still open", body = ReportFiled),
        ReportRefusals
    )
)]
pub(super) async fn file(
    State(front): State<Arc<Front>>,
    Member(admitted): Member,
    StreamPath(id): StreamPath,
    Body(report): Body<ReportBody>,
) -> Result<(StatusCode, Json<ReportFiled>), Problem> {
    let stream = front.streams.stream(id).await?;
    if !may_see(&stream, Some(&admitted.user)) {
        return Err(Problem::stream_not_found());
    }
    let moderation = front.moderation.clone();
    let filed = to_the_end(async move { moderation.report(&admitted, id, report).await }).await?;
    let status = if filed.repeated { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(ReportFiled { report_id: filed.id })))
}

/// A report, as administrators see it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Report)]
pub(super) struct ReportShape {
    report_id: String,
    #[schema(value_type = String)]
    stream_id: StreamId,
    #[schema(value_type = String)]
    reporter: UserId,
    #[schema(value_type = ReasonNames)]
    reason: ReportReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    user_id: Option<UserId>,
    #[schema(value_type = StatusNames)]
    status: ReportStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    resolved_by: Option<UserId>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<Report> for ReportShape {
    fn from(report: Report) -> Self {
        Self {
            report_id: report.id,
            stream_id: report.stream_id,
            reporter: report.reporter,
            reason: report.reason,
            details: report.details,
            message_id: report.message_id,
            user_id: report.user_id,
            status: report.status,
            note: report.note,
            resolved_by: report.resolved_by,
            created_at: report.created_at,
            updated_at: report.updated_at,
        }
    }
}

/// A page of reports.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportPage {
    reports: Vec<ReportShape>,
    #[schema(required = true)]
    next_cursor: Option<String>,
}

refusals!(ReportsRefusals = [USER, LIST] Forbidden);

/// Reports, the newest first.
#[utoipa::path(
    get, path = "/api/admin/reports", tag = "admin", operation_id = "listReports", security(("user" = [])),
    params(
        ("status" = Option<StatusNames>, Query), ("streamId" = Option<String>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100), ("cursor" = Option<String>, Query, min_length = 1, max_length = 256)
    ),
    responses((status = 200, description = "A page of reports", body = ReportPage), ReportsRefusals)
)]
pub(super) async fn list(
    State(front): State<Arc<Front>>,
    _admin: Admin,
    query: Query,
) -> Result<Json<ReportPage>, Problem> {
    let status = query.read("status", "must be open or resolved", |text| match text {
        "open" => Some(ReportStatus::Open),
        "resolved" => Some(ReportStatus::Resolved),
        _ => None,
    })?;
    let stream = query.read("streamId", "must be an id", |id| id.parse().ok())?;
    let page = query.page('r')?;
    let mut rows = front.moderation.reports(status, stream, page.after.as_ref(), page.look_up()).await?;
    let next_cursor = page.cut(&mut rows, |report| PageEnd { key: report.created_at.millis(), id: report.id.clone() });
    Ok(Json(ReportPage { reports: rows.into_iter().map(ReportShape::from).collect(), next_cursor }))
}

/// What became of a report.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ReviewBody {
    #[schema(value_type = StatusNames)]
    status: ReportStatus,
    /// At most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    note: Option<String>,
}

impl Fields for ReviewBody {
    /// With the note.
    type Read = (ReportStatus, Option<String>);

    fn read(self, fields: &mut Reader<'_>) -> Option<Self::Read> {
        Some((self.status, fields.words("note", self.note.as_deref(), 1_000)))
    }
}

refusals!(ReviewRefusals = [USER, BODY] Forbidden, NotFound);

/// Resolve a report, or open it again.
#[utoipa::path(
    patch, path = "/api/admin/reports/{reportId}", tag = "admin", operation_id = "reviewReport",
    security(("user" = [])),
    params(("reportId" = String, Path)),
    request_body(content = ReviewBody),
    responses((status = 200, description = "The report after the change", body = ReportShape), ReviewRefusals)
)]
pub(super) async fn review(
    State(front): State<Arc<Front>>,
    Admin(caller): Admin,
    LastParam(id): LastParam,
    Body((status, note)): Body<ReviewBody>,
) -> Result<Json<ReportShape>, Problem> {
    let moderation = front.moderation.clone();
    let report = to_the_end(async move { moderation.review(&caller, &id, status, note).await }).await?;
    Ok(Json(report.into()))
}
