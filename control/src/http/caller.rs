//! Who calls, as handlers ask for it.
//!
//! The admission layer ([`super::admission`]) verifies the token once and leaves a [`Call`] with the request. Handlers
//! say by the type of their argument what they need: [`SignedIn`], [`Member`], [`Admin`], [`MaybeUser`],
//! [`MaybeMember`], [`Standing`] or [`FeatureEnabled`].

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::client::ClientKey;
use crate::access::{Access, Admitted, Denied, FeatureEnabled};
use crate::auth::{AuthError, KEYS_RETRY};
use crate::problem::{Code, Problem};
use crate::user::{Caller, User};

/// What the token of a call said.
#[derive(Debug, Clone)]
pub enum Identity {
    /// There was none.
    Guest,
    User(Arc<User>),
    Refused(AuthError),
}

/// What is known of a call before its handler runs.
#[derive(Debug, Clone)]
pub struct Call {
    pub identity: Identity,
    pub client: ClientKey,
    /// Scheme and authority under which the client called.
    pub called: Option<String>,
    /// In development http URLs are fine as well.
    pub development: bool,
}

/// `X-Request-Id` of this request.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

impl Call {
    /// # Errors
    /// [`Code::Internal`] if the route has no admission layer: a mistake of ours.
    pub fn of(parts: &Parts) -> Result<&Call, Problem> {
        layered(parts)
    }

    fn user(&self) -> Result<&Arc<User>, Problem> {
        match &self.identity {
            Identity::User(user) => Ok(user),
            Identity::Guest => Err(Problem::new(
                Code::Unauthenticated,
                "Sign in: send the user's token as Authorization: Bearer <token>.",
            )),
            Identity::Refused(error) => Err(refusal(*error)),
        }
    }
}

/// What a layer of the route left with the request.
///
/// # Errors
/// [`Code::Internal`] if the route does not have that layer: a mistake of ours.
fn layered<T: Send + Sync + 'static>(parts: &Parts) -> Result<&T, Problem> {
    parts.extensions.get::<T>().ok_or_else(|| {
        tracing::error!(uri = %parts.uri.path(), missing = std::any::type_name::<T>(), "a route without its layer");
        Problem::new(Code::Internal, "Something went wrong here.")
    })
}

/// What a client is told about its token.
pub fn refusal(error: AuthError) -> Problem {
    match error {
        AuthError::Unauthenticated(reason) => Problem::new(
            Code::Unauthenticated,
            format!("The token is not valid here: {}. Sign in again.", reason.text()),
        ),
        AuthError::Expired => Problem::new(Code::TokenExpired, "The token has expired; get a new one and try again."),
        AuthError::KeysUnavailable => Problem::new(
            Code::StoreUnavailable,
            "The keys of the identity service are not available yet; try again in a moment with the same token.",
        )
        .retry_after(KEYS_RETRY),
    }
    .because(error.reason())
}

/// Somebody with a valid token; also a banned one.
#[derive(Debug, Clone)]
pub struct SignedIn(pub Caller);

/// Somebody with a valid token who is not banned.
#[derive(Debug, Clone)]
pub struct Member(pub Admitted);

/// Anybody who is not banned, but a token that is there must be valid.
#[derive(Debug, Clone)]
pub struct MaybeMember(pub Option<Admitted>);

/// Whether somebody with a valid token is banned, where that matters in some cases only.
#[derive(Debug, Clone)]
pub struct Standing(pub Result<Admitted, Denied>);

/// An administrator.
#[derive(Debug, Clone)]
pub struct Admin(pub Caller);

/// Anybody, but a token that is there must be valid.
#[derive(Debug, Clone)]
pub struct MaybeUser(pub Option<Arc<User>>);

/// Scheme and authority under which the client called, if it said so.
#[derive(Debug, Clone)]
pub struct Called(pub Option<String>);

fn caller(parts: &Parts) -> Result<Caller, Problem> {
    let user = User::clone(Call::of(parts)?.user()?);
    let request_id = parts.extensions.get::<RequestId>().map_or_else(String::new, |id| id.0.to_string());
    Ok(Caller { user, request_id })
}

/// # Errors
/// As [`layered`]: the route is none of those that end with the feature flag.
fn admit(parts: &Parts, caller: Caller) -> Result<Result<Admitted, Denied>, Problem> {
    let (access, feature) = (layered::<Access>(parts)?, *layered::<FeatureEnabled>(parts)?);
    Ok(access.admit(feature, caller))
}

impl<S: Send + Sync> FromRequestParts<S> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller(parts).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Member {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(admit(parts, caller(parts)?)??))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for MaybeMember {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Call::of(parts)?.identity {
            Identity::Guest => Ok(Self(None)),
            Identity::User(_) | Identity::Refused(_) => Ok(Self(Some(admit(parts, caller(parts)?)??))),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Standing {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        admit(parts, caller(parts)?).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for FeatureEnabled {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        layered(parts).copied()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller(parts)?;
        if !caller.user.is_admin() {
            return Err(Problem::new(Code::Forbidden, "Only administrators may do this."));
        }
        Ok(Self(caller))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for MaybeUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match &Call::of(parts)?.identity {
            Identity::Guest => Ok(Self(None)),
            Identity::User(user) => Ok(Self(Some(Arc::clone(user)))),
            Identity::Refused(error) => Err(refusal(*error)),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Called {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(Call::of(parts)?.called.clone()))
    }
}
