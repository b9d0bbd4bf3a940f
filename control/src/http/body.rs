//! Bodies: JSON of a bounded size that arrives in time, with known fields only, and validated (stream API, section 1,
//! rule 3).

use std::time::Duration;

use axum::body::{Bytes, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;
use garde::Validate;
use serde::de::DeserializeOwned;

use super::caller::Call;
use super::validate::{self, Rules};
use crate::clock::Timestamp;
use crate::problem::{Code, Problem};

/// Longest body of a client.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a parser says about a body is passed on up to here.
const DETAIL_CHARS_MAX: usize = 200;

/// A JSON body that keeps the rules of its fields.
#[derive(Debug, Clone)]
pub struct Body<T>(pub T);

/// The same; no body at all, or `null`, is as good as `{}`.
#[derive(Debug, Clone)]
pub struct OptionalBody<T>(pub T);

/// A JSON body that may break the rules of its fields, and the refusal if it does: for repeats, which were accepted when
/// they came first.
#[derive(Debug, Clone)]
pub(super) struct Judged<T> {
    pub(super) body: T,
    pub(super) refusal: Option<Problem>,
}

impl<S, T> FromRequest<S> for Judged<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Validate<Context = Rules>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let rules = rules(&request)?;
        let body: T = read_fields(&json(request).await?)?;
        let refusal = body.validate_with(&rules).err().map(|report| validate::problem(&report));
        Ok(Self { body, refusal })
    }
}

impl<S, T> FromRequest<S> for Body<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Validate<Context = Rules>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let rules = rules(&request)?;
        let bytes = json(request).await?;
        parse(&bytes, &rules).map(Self)
    }
}

impl<S, T> FromRequest<S> for OptionalBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Validate<Context = Rules>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let rules = rules(&request)?;
        let is_empty = request.body().is_end_stream();
        let bytes = if is_empty { Bytes::new() } else { json(request).await? };
        let nothing = matches!(bytes.trim_ascii(), b"" | b"null");
        parse(if nothing { b"{}" } else { &bytes }, &rules).map(Self)
    }
}

fn rules(request: &Request) -> Result<Rules, Problem> {
    let call = request.extensions().get::<Call>();
    let development = call.is_some_and(|call| call.development);
    Ok(Rules { development, now: Timestamp::now() })
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

fn parse<T: DeserializeOwned + Validate<Context = Rules>>(bytes: &[u8], rules: &Rules) -> Result<T, Problem> {
    let body: T = read_fields(bytes)?;
    body.validate_with(rules).map_err(|report| validate::problem(&report))?;
    Ok(body)
}

fn read_fields<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // A list would be taken for the fields of a struct in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(Code::MalformedBody, "Send a JSON object."));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let text: String = error.to_string().chars().take(DETAIL_CHARS_MAX).collect();
        Problem::new(Code::MalformedBody, format!("The body is not as expected: {text}"))
    })
}

/// Of a body as it was understood, so that spelling does not matter: for idempotency keys.
pub(super) fn digest(body: &impl serde::Serialize) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let text = serde_json::to_vec(body).unwrap_or_default();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(&text))
}
