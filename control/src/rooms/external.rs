//! Rooms of another LiveKit-compatible server, through its server API (Twirp; docs/livekit.md 8).

use std::time::Duration;

use async_trait::async_trait;
use livekit_protocol as proto;
use prost::Message;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use url::Url;

use super::builtin::websocket_url;
use super::{RoomBackend, RoomInfo, RoomsError, Session, TokenRequest, TokenSigner, session_of};
use crate::clock::Timestamp;
use crate::outbound::{self, OutboundError, with_causes};

/// How long one call may take.
const CALL_PATIENCE: Duration = Duration::from_secs(3);

/// Largest answer, in bytes: participants of a large room take about 500 bytes each.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// How much of an error's text goes to the log.
const ERROR_BYTES_MAX: usize = 500;

/// Access to the rooms of another server.
pub struct External {
    client: reqwest::Client,
    /// `http://…` or `https://…`, without a slash at the end.
    api_url: String,
    /// What apps are given.
    public_url: String,
    signer: TokenSigner,
}

/// Why the rooms of another server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    #[error("sfu.url (LIVEKIT_URL) must be the address of the media server, such as wss://sfu.example, not {0:?}")]
    Url(String),
    #[error(transparent)]
    Client(#[from] OutboundError),
}

impl External {
    /// Without a `public_url` apps are given `url`.
    ///
    /// # Errors
    /// [`ExternalError::Url`], [`ExternalError::Client`].
    pub fn new(url: &str, public_url: Option<&str>, signer: TokenSigner) -> Result<Self, ExternalError> {
        let api_url = api_url(url).ok_or_else(|| ExternalError::Url(url.to_owned()))?;
        let server = Url::parse(&api_url).map_err(|_| ExternalError::Url(url.to_owned()))?;
        let client = outbound::client([&server], |builder| builder.timeout(CALL_PATIENCE).no_proxy())?;
        let public_url = websocket_url(public_url.filter(|url| !url.is_empty()).unwrap_or(url));
        Ok(Self { client, api_url, public_url, signer })
    }

    async fn call<M: Message + Default>(
        &self,
        method: &str,
        room: Option<&str>,
        request: &impl Message,
    ) -> Result<M, RoomsError> {
        let answer = self
            .client
            .post(format!("{}/twirp/livekit.RoomService/{method}", self.api_url))
            .header(CONTENT_TYPE, "application/protobuf")
            .header(AUTHORIZATION, format!("Bearer {}", self.signer.call(room, Timestamp::now())))
            .body(request.encode_to_vec())
            .send()
            .await
            .map_err(|error| unavailable(method, &error.without_url()))?;
        let status = answer.status();
        let body = read_bounded(method, answer).await?;
        if !status.is_success() {
            return Err(refusal(method, status, &body));
        }
        M::decode(body.as_slice()).map_err(|error| unavailable(method, &error))
    }
}

async fn read_bounded(method: &str, mut answer: reqwest::Response) -> Result<Vec<u8>, RoomsError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| unavailable(method, &error.without_url()))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(RoomsError::Unavailable(format!("{method}: the answer is too large")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unavailable(method: &str, error: &dyn std::error::Error) -> RoomsError {
    RoomsError::Unavailable(format!("{method}: {}", with_causes(error)))
}

fn refusal(method: &str, status: StatusCode, body: &[u8]) -> RoomsError {
    #[derive(serde::Deserialize)]
    struct TwirpError {
        code: String,
    }
    let code = serde_json::from_slice::<TwirpError>(body).map(|error| error.code).unwrap_or_default();
    if code == "not_found" {
        return RoomsError::NotFound;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES_MAX)]).into_owned();
    RoomsError::Unavailable(format!("{method}: {status}: {text}"))
}

fn api_url(url: &str) -> Option<String> {
    let url = url.trim_end_matches('/');
    let (scheme, rest) = url.split_once("://")?;
    if rest.is_empty() {
        return None;
    }
    match scheme {
        "ws" | "http" => Some(format!("http://{rest}")),
        "wss" | "https" => Some(format!("https://{rest}")),
        _ => None,
    }
}

#[async_trait]
impl RoomBackend for External {
    fn token(&self, request: &TokenRequest, now: Timestamp) -> (String, Timestamp) {
        self.signer.join(request, now)
    }

    fn url(&self, _called: Option<&str>) -> Option<String> {
        Some(self.public_url.clone())
    }

    async fn create(&self, room: &str) -> Result<String, RoomsError> {
        let request = self.signer.times().request(room);
        Ok(self.call::<proto::Room>("CreateRoom", None, &request).await?.sid)
    }

    async fn delete(&self, room: &str) -> Result<(), RoomsError> {
        let request = proto::DeleteRoomRequest { room: room.to_owned() };
        self.call::<proto::DeleteRoomResponse>("DeleteRoom", None, &request).await.map(drop)
    }

    async fn list(&self, names: &[String]) -> Result<Vec<RoomInfo>, RoomsError> {
        let request = proto::ListRoomsRequest { names: names.to_vec() };
        let answer = self.call::<proto::ListRoomsResponse>("ListRooms", None, &request).await?;
        Ok(answer.rooms.into_iter().map(|room| RoomInfo { name: room.name, sid: room.sid }).collect())
    }

    async fn sessions(&self, room: &str) -> Result<Vec<Session>, RoomsError> {
        let request = proto::ListParticipantsRequest { room: room.to_owned() };
        let answer = self.call::<proto::ListParticipantsResponse>("ListParticipants", Some(room), &request).await;
        match answer {
            Ok(answer) => Ok(answer.participants.iter().map(session_of).collect()),
            Err(RoomsError::NotFound) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, room: &str, identity: &str) -> Result<(), RoomsError> {
        let request = proto::RoomParticipantIdentity {
            room: room.to_owned(),
            identity: identity.to_owned(),
            ..proto::RoomParticipantIdentity::default()
        };
        self.call::<proto::RemoveParticipantResponse>("RemoveParticipant", Some(room), &request).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_api_is_called_by_http() {
        assert_eq!(api_url("wss://h:1/").as_deref(), Some("https://h:1"));
        assert_eq!(api_url("ws://h").as_deref(), Some("http://h"));
        assert_eq!(api_url("http://h/x").as_deref(), Some("http://h/x"));
        for bad in ["", "h:7880", "ftp://h", "ws://"] {
            assert_eq!(api_url(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_what_is_not_found_is_not_found() {
        let refused = |body: &[u8]| refusal("DeleteRoom", StatusCode::NOT_FOUND, body);

        assert_eq!(refused(br#"{"code":"not_found","msg":"x"}"#), RoomsError::NotFound);
        assert!(matches!(refused(br#"{"code":"bad_route"}"#), RoomsError::Unavailable(_)));
        assert!(matches!(refused(b"\xff<html>"), RoomsError::Unavailable(_)));
    }
}
