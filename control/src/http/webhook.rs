//! Webhooks of a LiveKit-compatible server (stream API, section 5). What they say is [`crate::webhooks`]' affair.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use tracing::Instrument as _;

use super::Front;
use super::body::{media_type, read};
use super::client::ClientKey;
use crate::problem::{Code, Problem};
use crate::refusals;
use crate::webhooks::BODY_BYTES_MAX;

refusals!(WebhookRefusals = [] Unauthenticated, MalformedBody, BodyTooLarge, UnsupportedMediaType, RequestTimeout);

/// Tell of something that happened in a room. Signed as LiveKit signs its webhooks.
#[utoipa::path(
    post, path = "/api/webhooks/livekit", tag = "service", operation_id = "receiveWebhook",
    request_body(content = Object, content_type = "application/webhook+json"),
    responses((status = 200, description = "Taken in, or none of our business"), WebhookRefusals)
)]
pub(super) async fn receive(State(front): State<Arc<Front>>, request: Request) -> Result<StatusCode, Problem> {
    let (parts, body) = request.into_parts();
    let kind = media_type(&parts.headers).unwrap_or_default();
    if !["application/webhook+json", "application/json"].iter().any(|known| kind.eq_ignore_ascii_case(known)) {
        return Err(Problem::new(Code::UnsupportedMediaType, "Send application/webhook+json."));
    }
    let address = front.proxies.client(&parts).address;
    let client = ClientKey::from(address);
    let span = super::call_span(&parts, address, None);
    let hash = span.in_scope(|| front.webhooks.check_token(&parts.headers));
    let handled = async {
        let hash = hash?;
        let body = read(Request::from_parts(parts, body), BODY_BYTES_MAX).await?;
        front.webhooks.receive(&hash, &body).await
    };
    match handled.instrument(span).await {
        Ok(_) => Ok(StatusCode::OK),
        Err(problem) => {
            if problem.code == Code::Unauthenticated {
                front.limits.forged(client)?;
            }
            Err(problem)
        }
    }
}
