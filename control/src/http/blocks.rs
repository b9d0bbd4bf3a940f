//! Keeping users from one stream, or from all of one's own (stream API, sections 7.1 to 7.4).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;
use super::caller::SignedIn;
use super::fields::{Fields, Reader};
use super::path::{StreamPath, UserPath};
use super::{Front, to_the_end};
use crate::clock::Timestamp;
use crate::problem::Problem;
use crate::refusals;
use crate::store::stream::{Block, UserId};

/// Why somebody is blocked.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct BlockBody {
    /// At most 500 characters.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

impl Fields for BlockBody {
    /// The reason.
    type Read = Option<String>;

    const IS_OPTIONAL: bool = true;

    fn read(self, fields: &mut Reader<'_>) -> Option<Self::Read> {
        Some(fields.words("reason", self.reason.as_deref(), 500))
    }
}

/// Somebody who is blocked now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Blocked {
    #[schema(value_type = String)]
    user_id: UserId,
    #[schema(value_type = String, format = DateTime)]
    blocked_at: Timestamp,
}

impl From<Block> for Blocked {
    fn from(block: Block) -> Self {
        Self { user_id: block.user_id, blocked_at: block.blocked_at }
    }
}

/// One entry of a list of blocked users.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Block)]
pub(super) struct BlockShape {
    #[schema(value_type = String)]
    user_id: UserId,
    #[schema(value_type = String, format = DateTime)]
    blocked_at: Timestamp,
    #[schema(value_type = String)]
    by: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Who is blocked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BlockList {
    users: Vec<BlockShape>,
}

impl From<Vec<Block>> for BlockList {
    fn from(blocks: Vec<Block>) -> Self {
        let shape = |Block { user_id, blocked_at, by, reason }| BlockShape { user_id, blocked_at, by, reason };
        Self { users: blocks.into_iter().map(shape).collect() }
    }
}

refusals!(BlockRefusals = [USER, BODY, LIVE]
    NotOwner, NotFound, StreamNotFound, Conflict, CannotBlockOwner, CannotBlockAdmin);

/// Keep a user from a stream. Takes effect at once. Of acts of moderation a user has 600 within an hour, an
/// administrator any number.
#[utoipa::path(
    put, path = "/api/live/{id}/blocks/{userId}", tag = "moderation", operation_id = "blockUser",
    security(("user" = [])),
    params(("id" = String, Path), ("userId" = String, Path)),
    request_body(content = Option<BlockBody>),
    responses((status = 200, description = "The user is blocked", body = Blocked), BlockRefusals)
)]
pub(super) async fn block(
    State(front): State<Arc<Front>>,
    SignedIn(caller): SignedIn,
    StreamPath(id): StreamPath,
    UserPath(user): UserPath,
    Body(reason): Body<BlockBody>,
) -> Result<Json<Blocked>, Problem> {
    let moderation = front.moderation.clone();
    let block = to_the_end(async move { moderation.block(&caller, id, &user, reason).await }).await?;
    Ok(Json(block.into()))
}

refusals!(UnblockRefusals = [USER, LIVE] NotOwner, NotFound, StreamNotFound);

/// Let a user watch a stream again.
#[utoipa::path(
    delete, path = "/api/live/{id}/blocks/{userId}", tag = "moderation", operation_id = "unblockUser",
    security(("user" = [])),
    params(("id" = String, Path), ("userId" = String, Path)),
    responses((status = 204, description = "The user is not blocked"), UnblockRefusals)
)]
pub(super) async fn unblock(
    State(front): State<Arc<Front>>,
    SignedIn(caller): SignedIn,
    StreamPath(id): StreamPath,
    UserPath(user): UserPath,
) -> Result<StatusCode, Problem> {
    let moderation = front.moderation.clone();
    to_the_end(async move { moderation.unblock(&caller, id, &user).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

refusals!(BlocksRefusals = [USER, LIVE] NotOwner, StreamNotFound);

/// Who is kept from a stream.
#[utoipa::path(
    get, path = "/api/live/{id}/blocks", tag = "moderation", operation_id = "listBlockedUsers",
    security(("user" = [])),
    params(("id" = String, Path)),
    responses((status = 200, description = "Who is blocked", body = BlockList), BlocksRefusals)
)]
pub(super) async fn blocks(
    State(front): State<Arc<Front>>,
    SignedIn(caller): SignedIn,
    StreamPath(id): StreamPath,
) -> Result<Json<BlockList>, Problem> {
    Ok(Json(front.moderation.blocks(&caller.user, id).await?.into()))
}

refusals!(OwnBlockRefusals = [USER, BODY] NotFound, Conflict, CannotBlockOwner, CannotBlockAdmin);

/// Keep a user from all of one's own streams that start from now on.
#[utoipa::path(
    put, path = "/api/me/blocks/{userId}", tag = "moderation", operation_id = "blockUserAlways",
    security(("user" = [])),
    params(("userId" = String, Path)),
    request_body(content = Option<BlockBody>),
    responses((status = 200, description = "The user is on the list", body = Blocked), OwnBlockRefusals)
)]
pub(super) async fn own_block(
    State(front): State<Arc<Front>>,
    SignedIn(caller): SignedIn,
    UserPath(user): UserPath,
    Body(reason): Body<BlockBody>,
) -> Result<Json<Blocked>, Problem> {
    let moderation = front.moderation.clone();
    let block = to_the_end(async move { moderation.own_block(&caller, &user, reason).await }).await?;
    Ok(Json(block.into()))
}

refusals!(OwnUnblockRefusals = [USER] NotFound);

/// Take a user off one's own list.
#[utoipa::path(
    delete, path = "/api/me/blocks/{userId}", tag = "moderation", operation_id = "unblockUserAlways",
    security(("user" = [])),
    params(("userId" = String, Path)),
    responses((status = 204, description = "The user is not on the list"), OwnUnblockRefusals)
)]
pub(super) async fn own_unblock(
    State(front): State<Arc<Front>>,
    SignedIn(caller): SignedIn,
    UserPath(user): UserPath,
) -> Result<StatusCode, Problem> {
    let moderation = front.moderation.clone();
    to_the_end(async move { moderation.own_unblock(&caller, &user).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

refusals!(OwnBlocksRefusals = [USER]);

/// One's own list.
#[utoipa::path(
    get, path = "/api/me/blocks", tag = "moderation", operation_id = "listUsersBlockedAlways",
    security(("user" = [])),
    responses((status = 200, description = "Who is on the list", body = BlockList), OwnBlocksRefusals)
)]
pub(super) async fn own_blocks(
    State(front): State<Arc<Front>>,
    SignedIn(caller): SignedIn,
) -> Result<Json<BlockList>, Problem> {
    Ok(Json(front.moderation.own_blocks(&caller.user).await?.into()))
}
