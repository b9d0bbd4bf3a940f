//! What every answer has: a request id, a rule for caches, and, when it is a refusal, problem details (stream API,
//! section 1, rules 7 and 8, and section 1.1). Answers are counted here.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tracing::{debug, error};

use super::caller::RequestId;
use super::counters::Counters;
use crate::problem::{Code, Problem};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bodies of up to so many bytes arrive with the head of their request. A longer one that was refused unread ends its
/// connection.
const UNREAD_BYTES_MAX: u64 = 8 * 1024;

/// The outermost layer.
pub(super) async fn wrap(State(counters): State<Arc<Counters>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    let is_long = has_long_body(request.headers());
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let begin = Instant::now();
    let mut response = next.run(request).await;
    let problem = response.extensions_mut().remove::<Problem>().or_else(|| unexplained(response.status()));
    if let Some(problem) = problem {
        counters.refused(problem.code);
        debug!(%problem, request_id = &*id, "refused");
        replace_body(&mut response, &problem, &id);
        if is_long {
            // So that the client does not send its next call on this connection.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let path = path.as_ref().map_or("(none)", MatchedPath::as_str);
    counters.answered(&method, path, response.status(), begin.elapsed());
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// Also if nobody knows how long it will be.
fn has_long_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length > UNREAD_BYTES_MAX)
}

/// The client's own id if it is a proper one, else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let proper =
        |id: &&str| (8..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(proper) {
        Some(id) => id.into(),
        None => ulid::Ulid::generate().to_string().into(),
    }
}

/// Problem details of a refusal that a library made, such as 405 of the router.
fn unexplained(status: StatusCode) -> Option<Problem> {
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => (Code::NotFound, "There is nothing at this address."),
        StatusCode::METHOD_NOT_ALLOWED => {
            (Code::MethodNotAllowed, "This address does not take this method; see the header Allow.")
        }
        StatusCode::PAYLOAD_TOO_LARGE => (Code::BodyTooLarge, "The body is too large."),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (Code::UnsupportedMediaType, "Send application/json."),
        StatusCode::REQUEST_TIMEOUT => (Code::RequestTimeout, "The request took too long to arrive."),
        status if status.is_client_error() => (Code::InvalidParameter, "The request is malformed."),
        status if status.is_server_error() => (Code::Internal, "Something went wrong here."),
        _ => return None,
    };
    Some(Problem::new(code, detail))
}

/// Headers that layers have set stay.
fn replace_body(response: &mut Response, problem: &Problem, id: &str) {
    let explained = problem.response(Some(id));
    *response.status_mut() = explained.status();
    let (parts, body) = explained.into_parts();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    for (name, value) in &parts.headers {
        response.headers_mut().insert(name, value.clone());
    }
    *response.body_mut() = body;
}

/// What a client gets when a handler panicked. What the panic said is for the log.
pub(super) fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    error!(cause = text.unwrap_or("unknown"), "a handler panicked");
    internal().into_response()
}

pub(super) fn internal() -> Problem {
    Problem::new(Code::Internal, "Something went wrong here; the operator can find it by the request id.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(sent: &str) -> Arc<str> {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_str(sent).unwrap());
        request_id(&headers)
    }

    #[test]
    fn a_proper_request_id_is_taken_over_and_any_other_replaced() {
        for sent in ["abcd-123", &"X".repeat(64)] {
            assert_eq!(&*id_for(sent), sent);
        }
        for sent in ["abcd-12", "with space", "under_score", &"x".repeat(65)] {
            assert_eq!(id_for(sent).len(), 26, "{sent}");
        }
    }

    #[test]
    fn every_refusal_without_an_explanation_gets_one() {
        for status in (400..600).filter_map(|status| StatusCode::from_u16(status).ok()) {
            assert!(unexplained(status).is_some(), "{status}");
        }
        assert_eq!(unexplained(StatusCode::NOT_MODIFIED), None);
    }

    #[test]
    fn a_panic_becomes_an_error_of_ours_that_keeps_its_text_to_itself() {
        let response = panicked(Box::new("what only the log may know".to_owned()));

        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let problem = response.extensions().get::<Problem>();
        assert!(problem.is_some_and(|problem| problem.code == Code::Internal && !problem.detail.contains("log may")));
    }
}
