//! Why a request was not granted, as clients get it: problem details (RFC 9457; stream API, section 1.1).

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::store::StoreError;

/// How long a client waits before it tries again when the store is away.
pub const STORE_RETRY: Duration = Duration::from_secs(2);

macro_rules! codes {
    ($($name:ident $text:literal $status:ident;)*) => {
        /// What clients switch on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($name,)* }

        impl Code {
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            pub fn name(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    MalformedBody "malformed_body" BAD_REQUEST;
    InvalidCursor "invalid_cursor" BAD_REQUEST;
    InvalidParameter "invalid_parameter" BAD_REQUEST;
    Unauthenticated "unauthenticated" UNAUTHORIZED;
    TokenExpired "token_expired" UNAUTHORIZED;
    Forbidden "forbidden" FORBIDDEN;
    NotOwner "not_owner" FORBIDDEN;
    Blocked "blocked" FORBIDDEN;
    Banned "banned" FORBIDDEN;
    NotFound "not_found" NOT_FOUND;
    StreamNotFound "stream_not_found" NOT_FOUND;
    FeatureDisabled "feature_disabled" NOT_FOUND;
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED;
    RequestTimeout "request_timeout" REQUEST_TIMEOUT;
    Conflict "conflict" CONFLICT;
    StreamFull "stream_full" CONFLICT;
    NotStartable "not_startable" CONFLICT;
    StreamEnded "stream_ended" GONE;
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE;
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE;
    ValidationFailed "validation_failed" UNPROCESSABLE_ENTITY;
    CannotBlockOwner "cannot_block_owner" UNPROCESSABLE_ENTITY;
    CannotBlockAdmin "cannot_block_admin" UNPROCESSABLE_ENTITY;
    IdempotencyKeyReused "idempotency_key_reused" UNPROCESSABLE_ENTITY;
    RateLimited "rate_limited" TOO_MANY_REQUESTS;
    StartCooldown "start_cooldown" TOO_MANY_REQUESTS;
    SlowMode "slow_mode" TOO_MANY_REQUESTS;
    Internal "internal" INTERNAL_SERVER_ERROR;
    StoreUnavailable "store_unavailable" SERVICE_UNAVAILABLE;
    SfuUnavailable "sfu_unavailable" SERVICE_UNAVAILABLE;
    ShuttingDown "shutting_down" SERVICE_UNAVAILABLE;
}

/// One field that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    pub field: String,
    pub message: String,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.name())]
pub struct Problem {
    pub code: Code,
    /// For people: says what to do.
    pub detail: Cow<'static, str>,
    pub errors: Vec<FieldError>,
    /// With 429 and 503.
    pub retry_after: Option<Duration>,
    /// Of a token that was not accepted: why, as a code.
    pub reason: Option<&'static str>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after: None, reason: None }
    }

    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    pub fn validation(errors: Vec<FieldError>) -> Self {
        Self { errors, ..Self::new(Code::ValidationFailed, "Correct the fields listed in errors.") }
    }

    /// One field that is not acceptable.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::validation(vec![FieldError { field: field.into(), message: message.into() }])
    }

    pub fn stream_not_found() -> Self {
        Self::new(Code::StreamNotFound, "There is no such stream.")
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => Problem::stream_not_found(),
            StoreError::Unavailable(cause) => {
                tracing::warn!(%cause, "the store is not available");
                Problem::new(Code::StoreUnavailable, "The database is not available; try again in a moment.")
                    .retry_after(STORE_RETRY)
            }
            StoreError::Failed(cause) => {
                tracing::error!(%cause, "the store failed");
                Problem::new(Code::Internal, "Something went wrong here; the operator can find it by the request id.")
            }
        }
    }
}

/// The body; the request id is added by the layer that knows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl Problem {
    /// With the id of the request.
    pub fn response(&self, request_id: Option<&str>) -> Response {
        let status = self.code.status();
        let retry_after_ms = self.retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let body = Body {
            r#type: format!("/problems/{}", self.code.name()),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code: self.code.name(),
            detail: &self.detail,
            reason: self.reason,
            request_id,
            errors: &self.errors,
            retry_after_ms,
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(millis) = retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Carries the problem as an extension as well, for the layer that adds the request id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.response(None);
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    async fn body(problem: &Problem) -> Value {
        let body = axum::body::to_bytes(problem.response(None).into_body(), 10_000).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test]
    async fn what_the_store_says_is_for_the_log() {
        let cause = || "mongodb://user:secret@db: no reachable servers".to_owned();
        for (error, code) in
            [(StoreError::Unavailable(cause()), Code::StoreUnavailable), (StoreError::Failed(cause()), Code::Internal)]
        {
            let problem = Problem::from(error);

            let body = body(&problem).await;
            assert_eq!(body["code"], code.name());
            assert!(!body.to_string().contains("secret") && !body.to_string().contains("servers"), "{body}");
        }
    }

    #[tokio::test]
    async fn when_to_come_back_is_said_in_whole_seconds_as_well() {
        let problem = Problem::new(Code::StoreUnavailable, "").retry_after(Duration::from_millis(1_500));

        assert_eq!(body(&problem).await["retryAfterMs"], 1_500);
        assert_eq!(problem.response(None).headers()[header::RETRY_AFTER], "2");
        let other = Problem::new(Code::StoreUnavailable, "");
        assert_eq!(body(&other).await.get("retryAfterMs"), None);
        assert!(!other.response(None).headers().contains_key(header::RETRY_AFTER));
    }

    #[tokio::test]
    async fn fields_are_named_with_what_is_wrong() {
        let problem = Problem::field("title", "at most 120 characters");

        assert_eq!(body(&problem).await["errors"], json!([{ "field": "title", "message": "at most 120 characters" }]));
        assert_eq!(body(&Problem::stream_not_found()).await.get("errors"), None);
    }
}
