//! The description of the API for programs and for people. The page is Swagger UI, part of the binary, so that it works
//! without the internet.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa::openapi::OpenApi;

/// Files of the page; see `control/web/docs/README.md`.
const PAGE: &[u8] = include_bytes!("../../web/docs/index.html");
const START: &[u8] = include_bytes!("../../web/docs/start.js");
const BUNDLE: &[u8] = include_bytes!("../../web/docs/swagger-ui-bundle.js.gz");
const STYLE: &[u8] = include_bytes!("../../web/docs/swagger-ui.css.gz");

/// What the page may load: nothing from elsewhere.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A file of the page. Browsers all unpack gzip.
#[derive(Clone, Copy)]
struct File {
    kind: &'static str,
    bytes: &'static [u8],
    packed: bool,
}

impl IntoResponse for File {
    fn into_response(self) -> Response {
        let fixed = [
            (header::CONTENT_TYPE, HeaderValue::from_static(self.kind)),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ];
        let mut response = (fixed, Bytes::from_static(self.bytes)).into_response();
        if self.packed {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// `/openapi.json` and `/docs`.
pub(super) fn router(description: &OpenApi) -> Router {
    let json = Bytes::from(serde_json::to_vec(description).unwrap_or_default());
    let describe =
        move || async move { ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json.clone()) };
    let file = |kind, bytes, packed| {
        let file = File { kind, bytes, packed };
        get(move || async move { file })
    };
    Router::new()
        .route("/openapi.json", get(describe))
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/", file("text/html; charset=utf-8", PAGE, false))
        .route("/docs/start.js", file("text/javascript", START, false))
        .route("/docs/swagger-ui-bundle.js", file("text/javascript", BUNDLE, true))
        .route("/docs/swagger-ui.css", file("text/css", STYLE, true))
}
