//! Ids in paths. One that cannot exist is not found (stream API, section 1, rules 4 and 5).

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use crate::problem::{Code, Problem};
use crate::store::stream::{StreamId, UserId};

/// `{id}` of a stream.
#[derive(Debug, Clone, Copy)]
pub struct StreamPath(pub StreamId);

/// `{userId}`.
#[derive(Debug, Clone)]
pub struct UserPath(pub UserId);

/// Any other parameter, by its place among those of the path, such as `{messageId}`.
#[derive(Debug, Clone)]
pub struct LastParam(pub String);

async fn params<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, Problem> {
    // Percent-encoding that is not UTF-8 names nothing.
    RawPathParams::from_request_parts(parts, state).await.map_err(|_| not_found())
}

fn not_found() -> Problem {
    Problem::new(Code::NotFound, "There is nothing at this address.")
}

impl<S: Send + Sync> FromRequestParts<S> for StreamPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        let id = params.iter().find(|(name, _)| *name == "id").and_then(|(_, id)| id.parse().ok());
        id.map(Self).ok_or_else(Problem::stream_not_found)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for UserPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        let id = params.iter().find(|(name, _)| *name == "userId").and_then(|(_, id)| id.parse().ok());
        id.map(Self).ok_or_else(not_found)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LastParam {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        params.iter().last().map(|(_, value)| Self(value.to_owned())).ok_or_else(not_found)
    }
}
