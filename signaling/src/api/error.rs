//! Errors as Twirp spells them.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::protobuf_json::ReadError;
use crate::room::error::ApiError;
use crate::wire_bounds::Refused;

/// LiveKit wraps most of its errors once more, so its messages begin with this. Callers may compare whole messages.
const WRAPPED: &str = "twirp error unknown: ";

/// Error codes of Twirp that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    BadRoute,
    FailedPrecondition,
    InvalidArgument,
    Malformed,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unimplemented,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Code::BadRoute => "bad_route",
            Code::FailedPrecondition => "failed_precondition",
            Code::InvalidArgument => "invalid_argument",
            Code::Malformed => "malformed",
            Code::NotFound => "not_found",
            Code::Unauthenticated => "unauthenticated",
            Code::Unavailable => "unavailable",
            Code::Unimplemented => "unimplemented",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Code::BadRoute | Code::NotFound => StatusCode::NOT_FOUND,
            Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
            Code::InvalidArgument | Code::Malformed => StatusCode::BAD_REQUEST,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        }
    }
}

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TwirpError {
    code: Code,
    message: String,
    /// Verb and path, of a request that has no handler.
    invalid_route: Option<String>,
    /// What is wrong with a request that is JSON, but not of the wanted message.
    cause: Option<String>,
}

impl TwirpError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), invalid_route: None, cause: None }
    }

    /// There is no handler for this verb and path.
    pub(super) fn bad_route(route: String, message: String) -> Self {
        Self { invalid_route: Some(route), ..Self::new(Code::BadRoute, message) }
    }

    /// The token does not grant it.
    pub(crate) fn denied() -> Self {
        Self::new(Code::Unauthenticated, "permissions denied")
    }

    /// The message is LiveKit's; what is wrong stands beside it.
    pub(super) fn unreadable(error: &ReadError) -> Self {
        let cause = match error {
            ReadError::NotJson => None,
            ReadError::NotAnObject
            | ReadError::Refused(_)
            | ReadError::NotWhole { .. }
            | ReadError::OutOfRange { .. }
            | ReadError::Twice { .. }
            | ReadError::Other(_) => Some(error.to_string()),
        };
        Self { cause, ..Self::new(Code::Malformed, "the json request could not be decoded") }
    }

    pub(super) fn undecodable(refused: Refused) -> Self {
        let cause = match refused {
            Refused::Malformed => None,
            Refused::Bytes(_) | Refused::Elements(_) | Refused::Memory(_) | Refused::Depth => Some(refused.to_string()),
        };
        Self { cause, ..Self::new(Code::Malformed, "the protobuf request could not be decoded") }
    }
}

impl From<ApiError> for TwirpError {
    fn from(error: ApiError) -> Self {
        let code = match &error {
            ApiError::NotFound(_) => Code::NotFound,
            ApiError::InvalidArgument(_) => Code::InvalidArgument,
            ApiError::FailedPrecondition(_) => Code::FailedPrecondition,
            ApiError::Unavailable(_) => Code::Unavailable,
        };
        Self::new(code, format!("{WRAPPED}{error}"))
    }
}

impl IntoResponse for TwirpError {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({ "code": self.code.name(), "msg": self.message });
        if let Some(route) = self.invalid_route {
            body["meta"] = serde_json::json!({ "twirp_invalid_route": route });
        }
        if let Some(cause) = self.cause {
            body["meta"] = serde_json::json!({ "cause": cause });
        }
        // Node's SDK compares this content type for equality.
        typed(self.code.status(), "application/json", body.to_string())
    }
}

pub(super) fn typed(status: StatusCode, content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
