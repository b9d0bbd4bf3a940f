//! Reports of abuse, and their review (stream API, section 7.5).

use std::time::Duration;

use serde_json::json;
use tracing::warn;

use super::{Act, Counters, Moderation};
use crate::access::Admitted;
use crate::clock::Timestamp;
use crate::problem::{Code, Problem};
use crate::store::moderation::{Filed, Report, ReportReason, ReportStatus, Reviewed};
use crate::store::stream::{PageEnd, StreamId, UserId};
use crate::store::{StoreError, Taken};
use crate::user::{Caller, User};

/// Reports of a user within [`WINDOW`].
const REPORTS_MAX: u32 = 10;

const WINDOW: Duration = Duration::from_secs(3600);

/// Distinct reporters who mark a stream.
const FLAGGING_REPORTERS: u32 = 5;

/// What is wrong with a stream, or with a message or a user in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReport {
    pub reason: ReportReason,
    pub details: Option<String>,
    pub message_id: Option<String>,
    pub user_id: Option<UserId>,
}

impl Moderation {
    /// Notes a report for review. Enough reporters mark the stream and raise an alert; they never end it.
    ///
    /// # Errors
    /// `rate_limited`, `stream_not_found`, `store_unavailable`.
    pub async fn report(&self, admitted: &Admitted, id: StreamId, report: NewReport) -> Result<Filed, Problem> {
        let (user, now) = (&admitted.user, self.now());
        let report = new_report(user, id, report, now);
        let limit = format!("reports:{}", user.id);
        if let Taken::Refused { until } = self.store().limit_take(&limit, REPORTS_MAX, WINDOW, now).await? {
            // The first answer to the last one may have got lost.
            if let Some(id) = self.store().open_report(&report).await? {
                return Ok(Filed { id, repeated: true, reporters: 0 });
            }
            let detail = "You have reported a lot within the last hour; try again later.";
            return Err(Problem::new(Code::RateLimited, detail).retry_after(until.since(now)));
        }
        let filed = self.store().file_report(&report).await;
        if filed.as_ref().map_or(true, |filed| filed.repeated) {
            // What changed nothing costs nothing.
            self.store().limit_give_back(&limit, now).await?;
        }
        let filed = filed?;
        if !filed.repeated {
            Counters::add(&self.counters().reports);
        }
        if filed.reporters >= FLAGGING_REPORTERS {
            self.flag(id, filed.reporters, now).await?;
        }
        Ok(filed)
    }

    async fn flag(&self, id: StreamId, reporters: u32, now: Timestamp) -> Result<(), Problem> {
        let outcome = self.store().set_flagged(id, now).await?;
        if outcome.changed() {
            warn!(stream = %id, reporters, "several users reported this stream: review it");
            Counters::add(&self.counters().flagged);
        }
        self.lifecycle().observe(outcome.into_stream());
        Ok(())
    }

    /// The newest first.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn reports(
        &self,
        status: Option<ReportStatus>,
        stream: Option<StreamId>,
        after: Option<&PageEnd>,
        limit: usize,
    ) -> Result<Vec<Report>, Problem> {
        Ok(self.store().reports(status, stream, after, limit).await?)
    }

    /// Resolves a report, or opens it again.
    ///
    /// # Errors
    /// `not_found`, `store_unavailable`.
    pub async fn review(
        &self,
        caller: &Caller,
        id: &str,
        status: ReportStatus,
        note: Option<String>,
    ) -> Result<Report, Problem> {
        let (by, now) = (&caller.user.id, self.now());
        let reviewed = self.store().update_report(id, status, note.as_deref(), by, now).await;
        let Reviewed { report, changed } = reviewed.map_err(|error| match error {
            StoreError::NotFound => Problem::new(Code::NotFound, "There is no such report."),
            error @ (StoreError::Unavailable(_) | StoreError::Failed(_)) => error.into(),
        })?;
        let details = json!({ "status": status, "note": note });
        let act = Act { action: "report.review", stream: Some(report.stream_id), target: Some(id.to_owned()), details };
        self.log_if(changed, caller, act).await?;
        Ok(report)
    }
}

fn new_report(user: &User, stream: StreamId, report: NewReport, now: Timestamp) -> Report {
    Report {
        id: StreamId::generate().to_string(),
        stream_id: stream,
        reporter: user.id.clone(),
        reason: report.reason,
        details: report.details,
        message_id: report.message_id,
        user_id: report.user_id,
        status: ReportStatus::Open,
        note: None,
        resolved_by: None,
        created_at: now,
        updated_at: now,
    }
}
