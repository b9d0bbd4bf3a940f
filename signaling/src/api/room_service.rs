//! RoomService: rooms, participants, tracks and data, as backends see and change them.

use axum::response::Response;
use livekit_protocol as proto;

use super::call::Call;
use super::error::{Code, TwirpError};
use crate::token::VideoGrant;

/// Length of a nonce that keeps a message from being delivered twice.
const NONCE_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    CreateRoom,
    ListRooms,
    DeleteRoom,
    ListParticipants,
    GetParticipant,
    RemoveParticipant,
    MutePublishedTrack,
    UpdateParticipant,
    UpdateSubscriptions,
    SendData,
    UpdateRoomMetadata,
    ForwardParticipant,
    MoveParticipant,
    PerformRpc,
}

impl Method {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "CreateRoom" => Self::CreateRoom,
            "ListRooms" => Self::ListRooms,
            "DeleteRoom" => Self::DeleteRoom,
            "ListParticipants" => Self::ListParticipants,
            "GetParticipant" => Self::GetParticipant,
            "RemoveParticipant" => Self::RemoveParticipant,
            "MutePublishedTrack" => Self::MutePublishedTrack,
            "UpdateParticipant" => Self::UpdateParticipant,
            "UpdateSubscriptions" => Self::UpdateSubscriptions,
            "SendData" => Self::SendData,
            "UpdateRoomMetadata" => Self::UpdateRoomMetadata,
            "ForwardParticipant" => Self::ForwardParticipant,
            "MoveParticipant" => Self::MoveParticipant,
            "PerformRpc" => Self::PerformRpc,
            _ => return None,
        })
    }
}

impl Method {
    /// What can be said of a grant before the request names its room: whether there is any for which it suffices.
    pub(super) fn may_be_granted(self, video: &VideoGrant) -> bool {
        match self {
            Self::CreateRoom | Self::DeleteRoom => video.room_create,
            Self::ListRooms => video.room_list,
            Self::ListParticipants
            | Self::GetParticipant
            | Self::RemoveParticipant
            | Self::MutePublishedTrack
            | Self::UpdateParticipant
            | Self::UpdateSubscriptions
            | Self::SendData
            | Self::UpdateRoomMetadata
            | Self::PerformRpc => video.room_admin,
            Self::ForwardParticipant | Self::MoveParticipant => video.room_admin && !video.destination_room.is_empty(),
        }
    }
}

pub(super) async fn answer(method: Method, call: Call<'_>) -> Result<Response, TwirpError> {
    match method {
        Method::CreateRoom => create_room(&call).await,
        Method::ListRooms => list_rooms(&call).await,
        Method::DeleteRoom => delete_room(&call).await,
        Method::ListParticipants => list_participants(&call).await,
        Method::GetParticipant => get_participant(&call).await,
        Method::RemoveParticipant => remove_participant(&call).await,
        Method::MutePublishedTrack => mute_published_track(&call).await,
        Method::UpdateParticipant => update_participant(&call).await,
        Method::UpdateSubscriptions => update_subscriptions(&call).await,
        Method::SendData => send_data(&call).await,
        Method::UpdateRoomMetadata => update_room_metadata(&call).await,
        Method::ForwardParticipant => forward_participant(&call),
        Method::MoveParticipant => move_participant(&call),
        Method::PerformRpc => perform_rpc(&call),
    }
}

async fn create_room(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::CreateRoomRequest = call.request()?;
    call.require(|video| video.room_create)?;
    let room = call.rooms.create_room(request).await?;
    call.log("CreateRoom", &room.name, None);
    Ok(call.respond(&room))
}

async fn list_rooms(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::ListRoomsRequest = call.request()?;
    call.require(|video| video.room_list)?;
    Ok(call.respond(&proto::ListRoomsResponse { rooms: call.rooms.list_rooms(&request.names).await }))
}

async fn delete_room(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::DeleteRoomRequest = call.request()?;
    call.require(|video| video.room_create)?;
    call.rooms.delete_room(&request.room).await?;
    call.log("DeleteRoom", &request.room, None);
    Ok(call.respond(&proto::DeleteRoomResponse {}))
}

async fn list_participants(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::ListParticipantsRequest = call.request()?;
    call.require_admin_of(&request.room)?;
    let participants = call.rooms.list_participants(&request.room).await;
    Ok(call.respond(&proto::ListParticipantsResponse { participants }))
}

async fn get_participant(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::RoomParticipantIdentity = call.request()?;
    call.require_admin_of(&request.room)?;
    Ok(call.respond(&call.rooms.get_participant(&request.room, &request.identity).await?))
}

async fn remove_participant(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::RoomParticipantIdentity = call.request()?;
    call.require_admin_of(&request.room)?;
    call.rooms.remove_participant(&request.room, &request.identity).await?;
    call.log("RemoveParticipant", &request.room, Some(&request.identity));
    Ok(call.respond(&proto::RemoveParticipantResponse {}))
}

async fn mute_published_track(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::MuteRoomTrackRequest = call.request()?;
    call.require_admin_of(&request.room)?;
    let proto::MuteRoomTrackRequest { room, identity, track_sid, muted } = &request;
    let track = call.rooms.mute_published_track(room, identity, track_sid, *muted).await?;
    call.log("MutePublishedTrack", room, Some(identity));
    Ok(call.respond(&proto::MuteRoomTrackResponse { track }))
}

async fn update_participant(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::UpdateParticipantRequest = call.request()?;
    call.require_admin_of(&request.room)?;
    let room = request.room.clone();
    let participant = call.rooms.update_participant(request).await?;
    call.log("UpdateParticipant", &room, Some(&participant.identity));
    Ok(call.respond(&participant))
}

async fn update_subscriptions(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::UpdateSubscriptionsRequest = call.request()?;
    call.require_admin_of(&request.room)?;
    let (room, identity) = (request.room.clone(), request.identity.clone());
    call.rooms.update_subscriptions(request).await?;
    call.log("UpdateSubscriptions", &room, Some(&identity));
    Ok(call.respond(&proto::UpdateSubscriptionsResponse {}))
}

async fn send_data(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::SendDataRequest = call.request()?;
    call.require_admin_of(&request.room)?;
    if !request.nonce.is_empty() && request.nonce.len() != NONCE_BYTES {
        let message = format!("nonce should be {NONCE_BYTES}-bytes or not present, got: {}", request.nonce.len());
        return Err(TwirpError::new(Code::InvalidArgument, message));
    }
    call.rooms.send_data(request).await?;
    Ok(call.respond(&proto::SendDataResponse {}))
}

async fn update_room_metadata(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::UpdateRoomMetadataRequest = call.request()?;
    call.require_admin_of(&request.room)?;
    let room = call.rooms.update_room_metadata(&request.room, &request.metadata).await?;
    call.log("UpdateRoomMetadata", &request.room, None);
    Ok(call.respond(&room))
}

fn forward_participant(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::ForwardParticipantRequest = call.request()?;
    Err(refuse_transfer(call, &request.room, &request.destination_room))
}

fn move_participant(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::MoveParticipantRequest = call.request()?;
    Err(refuse_transfer(call, &request.room, &request.destination_room))
}

/// LiveKit checks these requests too, and does not carry them out either.
fn refuse_transfer(call: &Call<'_>, room: &str, destination: &str) -> TwirpError {
    if let Err(denied) = call
        .require(|video| video.administers(room) && !destination.is_empty() && video.destination_room == destination)
    {
        return denied;
    }
    if room == destination {
        return TwirpError::new(Code::InvalidArgument, "source and destination room are the same");
    }
    TwirpError::new(Code::Unimplemented, "participants cannot be passed between rooms")
}

fn perform_rpc(call: &Call<'_>) -> Result<Response, TwirpError> {
    let request: proto::PerformRpcRequest = call.request()?;
    call.require_admin_of(&request.room)?;
    if request.destination_identity.is_empty() {
        return Err(TwirpError::new(Code::InvalidArgument, "destination_identity cannot be empty"));
    }
    Err(TwirpError::new(Code::Unimplemented, "calls from the server are not supported"))
}
