//! What every call passes before its handler: is the server up, who calls, how often (stream API, sections 1, 2, 11).

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use super::caller::{Call, Identity};
use super::client::ClientKey;
use super::{Front, Phase};
use crate::auth::{AuthError, Reason};
use crate::clock::Timestamp;
use crate::problem::{Code, Problem, STORE_RETRY};

/// Verifies the token, if there is one, and takes a unit from the bucket of its user, else of the client's address.
pub(super) async fn identify(
    State(front): State<Arc<Front>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let now = Timestamp::now();
    let caller = front.proxies.client(&parts);
    let client = ClientKey::from(caller.address);
    let identity = identity(&front, &parts, client, now).await?;
    let user = if let Identity::User(user) = &identity { Some(&user.id) } else { None };
    let span = super::call_span(&parts, caller.address, user);
    let refused = if let Identity::Refused(error) = &identity { Some(*error) } else { None };
    let path = parts.uri.path().to_owned();
    match &identity {
        Identity::User(user) => front.limits.call_of_user(&user.id)?,
        Identity::Guest | Identity::Refused(_) => front.limits.call_of_client(client)?,
    }
    let called = caller.called;
    parts.extensions.insert(Call { identity, client, called, development: front.development });
    async {
        let answer = next.run(Request::from_parts(parts, body)).await;
        log_unauthenticated(&front, &path, refused, &answer);
        Ok(answer)
    }
    .instrument(span)
    .await
}

/// Takes a unit for an act of moderation. Administrators have as many as they need, and to look is no act.
pub(super) async fn limit_acts(
    State(front): State<Arc<Front>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if let Some(Call { identity: Identity::User(user), .. }) = request.extensions().get()
        && !user.is_admin()
        && request.method() != Method::GET
    {
        front.limits.act_of_user(&user.id)?;
    }
    Ok(next.run(request).await)
}

/// Says why nobody is known to call, where somebody has to be.
fn log_unauthenticated(front: &Front, path: &str, refused: Option<AuthError>, answer: &Response) {
    let unauthenticated = |problem: &Problem| matches!(problem.code, Code::Unauthenticated | Code::TokenExpired);
    if !answer.extensions().get::<Problem>().is_some_and(unauthenticated) {
        return;
    }
    if let Some(left_out) = front.counters.unauthenticated_log.admit(Instant::now()) {
        let reason = refused.map_or("there is no token", AuthError::reason);
        tracing::info!(reason, path, left_out, "authentication failed");
    }
}

/// Who calls. After too many refused tokens from an address, each further one costs one verification at most, so that
/// others behind that address can go on.
///
/// # Errors
/// Too many tokens from the address were refused, and so is this one.
async fn identity(front: &Front, parts: &Parts, client: ClientKey, now: Timestamp) -> Result<Identity, Problem> {
    let Some(value) = parts.headers.get(AUTHORIZATION) else {
        return Ok(Identity::Guest);
    };
    let Some(token) = value.to_str().ok().and_then(bearer) else {
        return Ok(Identity::Refused(AuthError::Unauthenticated(Reason::Malformed)));
    };
    let may_guess = front.limits.may_guess(client, Instant::now());
    let verified = match may_guess {
        Ok(()) => front.auth.verify(token, now).await,
        Err(_) => front.auth.verify_with_one_key(token, now).await,
    };
    match verified {
        Ok(user) => Ok(Identity::User(Arc::new(user))),
        // Nothing was guessed: it was good, or nobody can tell.
        Err(error @ (AuthError::Expired | AuthError::KeysUnavailable)) => Ok(Identity::Refused(error)),
        Err(error @ AuthError::Unauthenticated(_)) => {
            may_guess?;
            front.limits.note_refused(client, Instant::now());
            Ok(Identity::Refused(error))
        }
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Refuses until what the store holds was read for the first time: before that, every stream would seem unknown.
pub(super) async fn wait_for_recovery(
    State(front): State<Arc<Front>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    match front.phase() {
        Phase::Starting => Err(starting()),
        Phase::Serving | Phase::Draining => Ok(next.run(request).await),
    }
}

pub(crate) fn starting() -> Problem {
    Problem::new(Code::StoreUnavailable, "The server is starting; try again in a moment.").retry_after(STORE_RETRY)
}

/// Answers for the whole product while its flag is off (stream API, section 11), and leaves with the request what
/// [`super::caller`] admits its user with.
pub(super) async fn check_feature(
    State(front): State<Arc<Front>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let feature = front.access.feature()?;
    request.extensions_mut().insert(feature);
    request.extensions_mut().insert(front.access.clone());
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_the_scheme() {
        assert_eq!(bearer("Bearer a.b.c"), Some("a.b.c"));
        assert_eq!(bearer("bearer  a.b.c "), Some("a.b.c"));
        assert_eq!(bearer("Basic a.b.c"), None);
        assert_eq!(bearer("a.b.c"), None);
    }
}
