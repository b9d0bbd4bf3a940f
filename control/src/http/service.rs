//! The server itself: what apps should know of it, whether it is up, tokens for trying it (stream API, sections 2.6,
//! 11).

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sfu::io::WorkerHandle;
use utoipa::ToSchema;

use super::body::Body;
use super::client::is_no_name_of_dns;
use super::fields::{Fields, Reader};
use super::{Front, Phase, admission, draining};
use crate::clock::Timestamp;
use crate::config::product::GuestAccess;
use crate::problem::{Code, Problem, STORE_RETRY};
use crate::refusals;
use crate::store::stream::UserId;
use crate::store_watch::AWAY_MAX;
use crate::text;
use crate::user::Role;

/// What an app needs to know before it shows its screens.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AppConfig {
    features: Features,
    chat: ChatConfig,
    limits: FieldLimits,
}

/// What is switched on.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Features {
    /// Off: hide the screens of live streams.
    go_live: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChatConfig {
    /// What somebody without a token may do: `off`, `read` or `write`.
    #[schema(value_type = String)]
    guest: GuestAccess,
    /// Emoji that may be sent; empty means any.
    reactions: Vec<String>,
}

/// For input fields.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FieldLimits {
    title_characters: usize,
    tags: usize,
    tag_characters: usize,
}

refusals!(ConfigRefusals = []);

/// What an app needs to know before it shows its screens.
#[utoipa::path(
    get, path = "/api/config", tag = "service", operation_id = "getConfig",
    responses((status = 200, description = "Settings for apps", body = AppConfig), ConfigRefusals)
)]
pub(super) async fn config(State(front): State<Arc<Front>>) -> Response {
    let answer = AppConfig {
        features: Features { go_live: front.live.enabled },
        chat: ChatConfig { guest: front.chat.guest_access(front.development), reactions: front.chat.reactions.clone() },
        limits: FieldLimits {
            title_characters: text::TITLE_CHARS_MAX,
            tags: text::TAGS_MAX,
            tag_characters: text::TAG_CHARS_MAX,
        },
    };
    ([(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"))], Json(answer)).into_response()
}

/// For whom a token is wanted.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DevTokenBody {
    #[schema(min_length = 1, max_length = 128)]
    user_id: String,
    /// `user` (the default) or `admin`.
    #[serde(default)]
    #[schema(value_type = Option<RoleNames>)]
    role: Option<Role>,
    /// At most 64 characters.
    #[serde(default)]
    name: Option<String>,
}

impl Fields for DevTokenBody {
    /// Whose, with which role and name.
    type Read = (UserId, Role, Option<String>);

    fn read(self, fields: &mut Reader<'_>) -> Option<Self::Read> {
        let user = fields.needed_user_id(&self.user_id);
        let name = fields.words("name", self.name.as_deref(), 64);
        Some((user?, self.role.unwrap_or_default(), name))
    }
}

/// Names of [`Role`], for the description.
#[derive(ToSchema)]
#[schema(as = Role, rename_all = "lowercase")]
#[expect(dead_code, reason = "only describes")]
enum RoleNames {
    User,
    Admin,
}

/// A token for trying.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DevToken)]
pub(super) struct DevTokenShape {
    token: String,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

refusals!(DevTokenRefusals = [BODY] NotFound, Forbidden);

/// A token for whoever asks. In development only, and only under an address or `localhost`: a page of any other name
/// may have had its name changed to lead here.
#[utoipa::path(
    post, path = "/api/dev/token", tag = "service", operation_id = "createDevToken",
    request_body(content = DevTokenBody),
    responses((status = 200, description = "A token for an hour", body = DevTokenShape), DevTokenRefusals)
)]
pub(super) async fn dev_token(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    Body((user, role, name)): Body<DevTokenBody>,
) -> Result<Json<DevTokenShape>, Problem> {
    let dev = front.dev.as_ref().ok_or_else(|| Problem::new(Code::NotFound, "There is nothing at this address."))?;
    // What a browser sent itself: a page can write what proxies say.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_no_name_of_dns) {
        let text = "Call this under an IP address or localhost, such as http://127.0.0.1:7880: under other names no tokens \
                    for trying are given out.";
        return Err(Problem::new(Code::Forbidden, text));
    }
    let signed = dev.sign(&user, role, name.as_deref(), Timestamp::now());
    Ok(Json(DevTokenShape { token: signed.token, expires_at: signed.expires_at }))
}

/// The process runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
}

/// Whether the process runs. Says nothing of what it needs.
#[utoipa::path(
    get, path = "/healthz", tag = "service", operation_id = "getHealth",
    responses((status = 200, description = "It runs", body = Health))
)]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// A worker in one turn for so long serves nobody.
const STILL_MAX: Duration = Duration::from_secs(2);

fn stands_still(stalled: Option<Duration>) -> bool {
    stalled.is_some_and(|stalled| stalled >= STILL_MAX)
}

/// What is said of a store that has been away for so long.
///
/// # Errors
/// [`AWAY_MAX`] is over.
fn store_state(away: Option<Duration>) -> Result<&'static str, Problem> {
    match away {
        None => Ok("available"),
        Some(away) if away < AWAY_MAX => Ok("unavailable"),
        Some(_) => Err(Problem::new(Code::StoreUnavailable, "The database has not answered for half a minute.")
            .retry_after(STORE_RETRY)),
    }
}

/// Whether calls should come here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    status: &'static str,
    /// `available`, or `unavailable`: what is in memory is served, changes are refused with 503. After half a minute
    /// the whole answer is 503.
    store: &'static str,
}

refusals!(ReadyRefusals = [] StoreUnavailable, SfuUnavailable, ShuttingDown);

/// Whether calls should come here: not before the store was read for the first time, not while the store is away for
/// more than half a minute, not while one of the workers that carry media does not run or stands still for seconds, and
/// not while the server stops. Streams and chats under way go on without their store.
#[utoipa::path(
    get, path = "/readyz", tag = "service", operation_id = "getReadiness",
    responses((status = 200, description = "It serves", body = Readiness), ReadyRefusals)
)]
pub(super) async fn readyz(State(front): State<Arc<Front>>) -> Result<Json<Readiness>, Problem> {
    match front.phase() {
        Phase::Starting => Err(admission::starting()),
        Phase::Draining => Err(draining()),
        Phase::Serving if !front.workers.iter().all(WorkerHandle::is_running) => {
            Err(Problem::new(Code::SfuUnavailable, "A media worker of this server is not running; restart the server."))
        }
        Phase::Serving if front.workers.iter().any(|worker| stands_still(worker.stalled_for(Instant::now()))) => {
            Err(Problem::new(Code::SfuUnavailable, "A media worker of this server has stood still for seconds.")
                .retry_after(STORE_RETRY))
        }
        Phase::Serving => {
            let store = store_state(front.store_health.away_for(Instant::now()))?;
            Ok(Json(Readiness { status: "ready", store }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_without_its_store_for_half_a_minute() {
        let state = |millis| store_state(Some(Duration::from_millis(millis))).map_err(|problem| problem.code);

        assert_eq!(store_state(None), Ok("available"));
        assert_eq!([state(0), state(29_999)], [Ok("unavailable"), Ok("unavailable")]);
        assert_eq!(state(30_000), Err(Code::StoreUnavailable));
    }

    #[test]
    fn a_worker_stands_still_after_two_seconds_in_one_turn() {
        let still = |millis| stands_still(Some(Duration::from_millis(millis)));

        assert!(!stands_still(None) && !still(1_999));
        assert!(still(2_000));
    }
}
