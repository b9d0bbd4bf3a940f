//! The description of the API (OpenAPI 3.1), gathered from the handlers, and how refusals are told there.

use std::collections::BTreeMap;

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi, ToSchema};

use crate::problem::Code;

/// Anybody whose token is needed may get these.
pub const USER: &[Code] = &[Code::Unauthenticated, Code::TokenExpired];

/// Those of a route with a body.
pub const BODY: &[Code] = &[
    Code::MalformedBody,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::RequestTimeout,
    Code::ValidationFailed,
];

/// Those of a route that ends with the feature flag.
pub const LIVE: &[Code] = &[Code::FeatureDisabled];

/// Those of a list.
pub const LIST: &[Code] = &[Code::InvalidParameter, Code::InvalidCursor];

/// Those of any route.
const ANY: &[Code] = &[Code::RateLimited, Code::Internal, Code::StoreUnavailable];

/// Names the refusals of an operation for its description: `refusals!(Start = [USER, BODY] Banned, Conflict)` declares
/// a type to put among the `responses`.
#[macro_export]
macro_rules! refusals {
    ($name:ident = [$($set:ident),*] $($code:ident),*) => {
        struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses()
            -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::response::Response>> {
                let sets: &[&[$crate::problem::Code]] =
                    &[$($crate::http::openapi::$set,)* &[$($crate::problem::Code::$code),*]];
                $crate::http::openapi::refusals(sets)
            }
        }
    };
}

/// Responses for these codes and those of any route, by status.
pub fn refusals(sets: &[&[Code]]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    for code in sets.iter().copied().chain([ANY]).flatten() {
        let codes = by_status.entry(code.status().as_str().to_owned()).or_default();
        if !codes.contains(&code.name()) {
            codes.push(code.name());
        }
    }
    by_status.into_iter().map(|(status, codes)| (status, RefOr::T(refusal(&codes)))).collect()
}

fn refusal(codes: &[&str]) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new()
        .description(format!("`code`: `{}`", codes.join("`, `")))
        .content("application/problem+json", content)
        .build()
}

/// Why a request was not granted (RFC 9457).
#[derive(ToSchema)]
#[schema(as = Problem, rename_all = "camelCase")]
#[expect(dead_code, reason = "only describes what problem.rs writes")]
struct ProblemShape {
    /// `/problems/<code>`
    r#type: String,
    title: String,
    status: u16,
    /// What programs switch on.
    code: String,
    /// For people; may change.
    detail: String,
    /// With `unauthenticated` and `token_expired`: what is wrong with the token, such as `wrong_signature`. With
    /// `store_unavailable`: `keys_unavailable` if nothing is known of the token until the identity service is back.
    reason: Option<String>,
    request_id: Option<String>,
    /// With `validation_failed` only.
    errors: Option<Vec<FieldErrorShape>>,
    /// With 429 and 503, beside the header `Retry-After`.
    retry_after_ms: Option<u64>,
}

/// A field that is not acceptable.
#[derive(ToSchema)]
#[schema(as = FieldError)]
#[expect(dead_code, reason = "only describes what problem.rs writes")]
struct FieldErrorShape {
    field: String,
    message: String,
}

/// How a user shows who it is.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.bearer_format = Some("JWT".to_owned());
        components.add_security_scheme("user", SecurityScheme::Http(http));
    }
}

/// What the handlers do not say themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Onair stream API",
        description = "Live streams: start, watch, moderate. Every answer has an `X-Request-Id`; every refusal is a \
                       `Problem`, and its `code` says which. Chat is beside it, over Socket.IO.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ProblemShape, FieldErrorShape)),
    modifiers(&Bearer),
    tags(
        (name = "streams", description = "Start, watch, stop and list streams."),
        (name = "scheduled", description = "Announce streams and call them off."),
        (name = "moderation", description = "Blocks and reports."),
        (name = "chat", description = "Chat history and its moderation."),
        (name = "admin", description = "For administrators."),
        (name = "service", description = "The server itself."),
    )
)]
pub(super) struct Description;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_grouped_by_status_and_named_once() {
        let responses = refusals(&[USER, &[Code::Blocked, Code::Banned, Code::RateLimited]]);

        let RefOr::T(forbidden) = &responses["403"] else { panic!("not in place") };
        assert_eq!(forbidden.description, "`code`: `blocked`, `banned`");
        let RefOr::T(too_often) = &responses["429"] else { panic!("not in place") };
        assert_eq!(too_often.description, "`code`: `rate_limited`");
        assert_eq!(responses.keys().collect::<Vec<_>>(), ["401", "403", "429", "500", "503"]);
    }
}
