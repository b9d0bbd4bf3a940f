//! Server APIs over Twirp: which service and method, which encoding, and errors as Twirp spells them.
//!
//! Each service has a file: it checks the grant, asks the rooms, and answers.

mod absent;
mod call;
mod error;
mod json;
mod room_service;

use axum::response::{IntoResponse, Response};

use crate::token::Claims;
pub(crate) use call::{Call, Encoding};
pub(crate) use error::TwirpError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Room(room_service::Method),
    Absent(absent::Method),
}

/// Where a request goes.
pub(crate) struct Route {
    path: String,
    /// `None`: the service is known but has no such method.
    service: Option<Service>,
}

impl Route {
    /// `None` for services that LiveKit does not serve either.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix("/twirp/livekit.")?.split_once('/')?;
        let service = match service {
            "RoomService" => room_service::Method::named(method).map(Service::Room),
            _ => absent::Method::named(service, method)?.map(Service::Absent),
        };
        Some(Self { path: path.to_owned(), service })
    }

    /// Service and method, if there is such a method.
    pub(crate) fn known(&self) -> Option<(&str, &str)> {
        self.service.as_ref()?;
        self.path.strip_prefix("/twirp/livekit.")?.split_once('/')
    }

    /// What has to hold before the body is read.
    pub(crate) fn check(&self, verb: &str, content_type: &str) -> Result<Encoding, TwirpError> {
        if verb != "POST" {
            return Err(self.bad(verb, format!("unsupported method \"{verb}\" (only POST is allowed)")));
        }
        if self.service.is_none() {
            return Err(self.bad(verb, format!("no handler for path \"{}\"", self.path)));
        }
        match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" => Ok(Encoding::Json),
            "application/protobuf" => Ok(Encoding::Protobuf),
            _ => Err(self.bad(verb, format!("unexpected Content-Type: \"{content_type}\""))),
        }
    }

    /// Refuses who may not call this method whatever the request says, so that nothing is read for them.
    pub(crate) fn check_grant(&self, claims: Option<&Claims>) -> Result<(), TwirpError> {
        let granted = match (self.service, claims) {
            (Some(Service::Room(method)), Some(claims)) => {
                claims.video.as_ref().is_some_and(|video| method.may_be_granted(video))
            }
            (Some(Service::Absent(method)), Some(claims)) => method.may_be_granted(claims),
            (None, _) | (_, None) => false,
        };
        if granted { Ok(()) } else { Err(TwirpError::denied()) }
    }

    fn bad(&self, verb: &str, message: String) -> TwirpError {
        TwirpError::bad_route(format!("{verb} {}", self.path), message)
    }
}

/// Answers a request that passed [`Route::check`].
pub(crate) async fn answer(route: &Route, call: Call<'_>) -> Response {
    let result = match route.service {
        Some(Service::Room(method)) => room_service::answer(method, call).await,
        Some(Service::Absent(method)) => absent::answer(method, &call),
        None => Err(route.bad("POST", format!("no handler for path \"{}\"", route.path))),
    };
    result.unwrap_or_else(TwirpError::into_response)
}
