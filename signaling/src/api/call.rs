//! A request to a method of the server APIs: its message, its grants, its answer.

use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;

use super::error::{TwirpError, typed};
use super::json::to_json;
use crate::protobuf_json::Described;
use crate::rooms::Rooms;
use crate::token::{Claims, VideoGrant};
use crate::wire_bounds::{self, Source};

/// How messages are written, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Protobuf,
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

impl Call<'_> {
    /// Logs what an administrator did to a room, or to a participant of it.
    pub(crate) fn log(&self, action: &'static str, room: &str, target: Option<&str>) {
        let actor = self.claims.map(|claims| claims.api_key.as_str());
        tracing::info!(action, actor, room, target, address = self.address, "room administered");
    }

    /// Reads the request message.
    pub(crate) fn request<M: Described>(&self) -> Result<M, TwirpError> {
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
    pub(crate) fn respond<M: Described>(&self, message: &M) -> Response {
        match self.encoding {
            Encoding::Json => typed(StatusCode::OK, "application/json", to_json(message).to_string()),
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
