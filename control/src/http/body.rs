//! Bodies: JSON of a bounded size that arrives in time, with known fields only, read by the rules of these (stream
//! API, section 1, rule 3).

use std::time::Duration;

use axum::body::{Bytes, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::caller::Call;
use super::fields::{Fields, Reader, Rules};
use crate::clock::Timestamp;
use crate::problem::{Code, Problem};

/// Longest body of a client.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a parser says about a body is passed on up to here.
const DETAIL_CHARS_MAX: usize = 200;

/// A JSON body, as it is read.
pub(super) struct Body<T: Fields>(pub(super) T::Read);

/// The body of a request that may be repeated.
pub(super) struct Repeatable<T: Fields> {
    /// `None` only with a refusal.
    pub(super) body: Option<T::Read>,
    /// Of the body as it was understood, so that spelling does not matter.
    pub(super) digest: String,
    /// It breaks rules. A repeat may: it kept them when it came first.
    pub(super) refusal: Option<Problem>,
}

impl<T: Fields> Repeatable<T> {
    /// What was read of a body that keeps the rules, and its digest.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn accepted(self) -> Result<(T::Read, String), Problem> {
        match (self.body, self.refusal) {
            (Some(body), None) => Ok((body, self.digest)),
            (_, refusal) => Err(refusal.unwrap_or_else(super::envelope::internal)),
        }
    }
}

impl<S, T> FromRequest<S> for Repeatable<T>
where
    S: Send + Sync,
    T: Fields + Serialize,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let rules = rules(&request);
        let body: T = parse(request).await?;
        let digest = digest(&body);
        let (body, refusal) = judge(body, &rules);
        Ok(Self { body, digest, refusal })
    }
}

impl<S, T> FromRequest<S> for Body<T>
where
    S: Send + Sync,
    T: Fields,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let rules = rules(&request);
        match judge(parse::<T>(request).await?, &rules) {
            (Some(read), None) => Ok(Self(read)),
            (_, refusal) => Err(refusal.unwrap_or_else(super::envelope::internal)),
        }
    }
}

fn rules(request: &Request) -> Rules {
    let call = request.extensions().get::<Call>();
    Rules { development: call.is_some_and(|call| call.development), now: Timestamp::now() }
}

async fn json(request: Request) -> Result<Bytes, Problem> {
    let is_json = media_type(request.headers()).is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    if !is_json && !request.body().is_end_stream() {
        return Err(Problem::new(Code::UnsupportedMediaType, "Send a JSON body with Content-Type: application/json."));
    }
    read(request, BODY_BYTES_MAX).await
}

/// Without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or(value).trim())
}

/// The whole body.
///
/// # Errors
/// It has more than `max` bytes, is slower than ten seconds, or breaks off.
pub(super) async fn read(request: Request, max: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Code::BodyTooLarge, format!("The body has more than {max} bytes."));
    if request.body().size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let mut chunks = request.into_body().into_data_stream();
    let collect = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::new(Code::MalformedBody, "The body broke off."))?;
            if bytes.len() + chunk.len() > max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(bytes))
    };
    let late = |_| Problem::new(Code::RequestTimeout, "The body took too long to arrive.");
    tokio::time::timeout(PATIENCE, collect).await.map_err(late)?
}

async fn parse<T: Fields>(request: Request) -> Result<T, Problem> {
    let is_empty = request.body().is_end_stream();
    let bytes = if T::IS_OPTIONAL && is_empty { Bytes::new() } else { json(request).await? };
    let is_nothing = T::IS_OPTIONAL && matches!(bytes.trim_ascii(), b"" | b"null");
    fields_of(if is_nothing { b"{}" } else { &bytes })
}

/// What a body means, and the refusal if it breaks rules.
pub(super) fn judge<T: Fields>(body: T, rules: &Rules) -> (Option<T::Read>, Option<Problem>) {
    let mut reader = Reader::new(rules);
    let read = body.read(&mut reader);
    (read, reader.refusal())
}

fn fields_of<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // A list would be taken for the fields of a struct in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(Code::MalformedBody, "Send a JSON object."));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let text: String = error.to_string().chars().take(DETAIL_CHARS_MAX).collect();
        Problem::new(Code::MalformedBody, format!("The body is not as expected: {text}"))
    })
}

fn digest(body: &impl Serialize) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let text = serde_json::to_vec(body).unwrap_or_default();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(&text))
}
