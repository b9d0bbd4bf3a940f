//! Server APIs over Twirp: which service and method, which encoding, and errors as Twirp spells them.
//!
//! Each service has a file: it checks the grant, asks the rooms, and answers.

mod absent;
mod json;
mod room_service;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use prost::Message;

use crate::protobuf_json::{ReadError, Readable};
use crate::rooms::{ApiError, Rooms};
use crate::token::{Claims, VideoGrant};
use crate::wire_bounds::{self, Refused, Source};

pub(crate) use json::TwirpJson;

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

    /// The token does not grant it.
    pub(crate) fn denied() -> Self {
        Self::new(Code::Unauthenticated, "permissions denied")
    }

    /// The message is LiveKit's; what is wrong stands beside it.
    fn unreadable(error: &ReadError) -> Self {
        let cause = match error {
            ReadError::NotJson => None,
            error => Some(error.to_string()),
        };
        Self { cause, ..Self::new(Code::Malformed, "the json request could not be decoded") }
    }

    fn undecodable(refused: Refused) -> Self {
        let cause = match refused {
            Refused::Malformed => None,
            refused => Some(refused.to_string()),
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

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// How messages are written, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Protobuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Room(room_service::Method),
    Absent(absent::Method),
}

/// Where a request goes.
pub(crate) struct Route {
    path: String,
    /// `None`: the service is known but has no such method.
    service: Option<Service>,
}

impl Route {
    /// `None` for services that LiveKit does not serve either.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix("/twirp/livekit.")?.split_once('/')?;
        let service = match service {
            "RoomService" => room_service::Method::named(method).map(Service::Room),
            _ => absent::Method::named(service, method)?.map(Service::Absent),
        };
        Some(Self { path: path.to_owned(), service })
    }

    /// Service and method, if there is such a method.
    pub(crate) fn known(&self) -> Option<(&str, &str)> {
        self.service.as_ref()?;
        self.path.strip_prefix("/twirp/livekit.")?.split_once('/')
    }

    /// What has to hold before the body is read.
    pub(crate) fn check(&self, verb: &str, content_type: &str) -> Result<Encoding, TwirpError> {
        if verb != "POST" {
            return Err(self.bad(verb, format!("unsupported method \"{verb}\" (only POST is allowed)")));
        }
        if self.service.is_none() {
            return Err(self.bad(verb, format!("no handler for path \"{}\"", self.path)));
        }
        match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" => Ok(Encoding::Json),
            "application/protobuf" => Ok(Encoding::Protobuf),
            _ => Err(self.bad(verb, format!("unexpected Content-Type: \"{content_type}\""))),
        }
    }

    /// Refuses who may not call this method whatever the request says, so that nothing is read for them.
    pub(crate) fn check_grant(&self, claims: Option<&Claims>) -> Result<(), TwirpError> {
        let granted = match (self.service, claims) {
            (Some(Service::Room(method)), Some(claims)) => {
                claims.video.as_ref().is_some_and(|video| method.may_be_granted(video))
            }
            (Some(Service::Absent(method)), Some(claims)) => method.may_be_granted(claims),
            (None, _) | (_, None) => false,
        };
        if granted { Ok(()) } else { Err(TwirpError::denied()) }
    }

    fn bad(&self, verb: &str, message: String) -> TwirpError {
        let invalid_route = Some(format!("{verb} {}", self.path));
        TwirpError { code: Code::BadRoute, message, invalid_route, cause: None }
    }
}

/// A request to a method.
pub(crate) struct Call<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) claims: Option<&'a Claims>,
    pub(crate) encoding: Encoding,
    pub(crate) body: Bytes,
    /// Of the caller, for the log.
    pub(crate) address: String,
}

/// Answers a request that passed [`Route::check`].
pub(crate) async fn answer(route: &Route, call: Call<'_>) -> Response {
    let result = match route.service {
        Some(Service::Room(method)) => room_service::answer(method, call).await,
        Some(Service::Absent(method)) => absent::answer(method, &call),
        None => Err(route.bad("POST", format!("no handler for path \"{}\"", route.path))),
    };
    result.unwrap_or_else(TwirpError::into_response)
}

impl Call<'_> {
    /// Logs what an administrator did to a room, or to a participant of it.
    pub(crate) fn log(&self, action: &'static str, room: &str, target: Option<&str>) {
        let actor = self.claims.map(|claims| claims.api_key.as_str());
        tracing::info!(action, actor, room, target, address = self.address, "room administered");
    }

    /// Reads the request message.
    pub(crate) fn request<M: Readable>(&self) -> Result<M, TwirpError> {
        match self.encoding {
            Encoding::Json => {
                wire_bounds::read_json(Source::Api, &self.body).map_err(|error| TwirpError::unreadable(&error))
            }
            Encoding::Protobuf => {
                wire_bounds::decode(Source::Api, self.body.clone(), &wire_bounds::API).map_err(TwirpError::undecodable)
            }
        }
    }

    /// Writes the answer in the encoding of the request.
    pub(crate) fn respond<M: Message + TwirpJson>(&self, message: &M) -> Response {
        match self.encoding {
            Encoding::Json => typed(StatusCode::OK, "application/json", message.to_json().to_string()),
            Encoding::Protobuf => typed(StatusCode::OK, "application/protobuf", message.encode_to_vec()),
        }
    }

    /// Lets the request pass if its token's `video` claim does.
    pub(crate) fn require(&self, granted: impl Fn(&VideoGrant) -> bool) -> Result<(), TwirpError> {
        match self.claims.and_then(|claims| claims.video.as_ref()) {
            Some(video) if granted(video) => Ok(()),
            Some(_) | None => Err(TwirpError::denied()),
        }
    }

    pub(crate) fn require_admin_of(&self, room: &str) -> Result<(), TwirpError> {
        self.require(|video| video.administers(room))
    }
}
