//! Reading and moderating a chat over HTTP (stream API, section 8.5). Writing is done over Socket.IO alone.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::Body;
use super::caller::{MaybeMember, Member, SignedIn, Standing};
use super::fields::{Fields, Reader};
use super::page::Query;
use super::path::{LastParam, StreamPath, UserPath};
use crate::chat::{ChatModeration, HistoryPage, SettingsChange};
use crate::clock::Timestamp;
use crate::problem::{Code, Problem};
use crate::refusals;
use crate::store::chat::{ChatMessage, ChatRange, ChatRole, ChatSettings, WordFilter};
use crate::store::stream::UserId;

/// Messages of a page: unless told, and at most.
const MESSAGES: usize = 50;
const MESSAGES_MAX: usize = 100;

type Chats = State<Arc<ChatModeration>>;

/// The routes of section 8.5, with their full paths.
pub fn routes(moderation: ChatModeration) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(history))
        .routes(routes!(delete))
        .routes(routes!(settings))
        .routes(routes!(pin, unpin))
        .routes(routes!(mute, unmute))
        .with_state(Arc::new(moderation))
}

/// One message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChatMessage)]
struct MessageShape {
    id: String,
    /// Counts up in its stream.
    seq: i64,
    /// Plain text: escape it.
    text: String,
    #[schema(value_type = String)]
    user_id: UserId,
    name: String,
    #[schema(value_type = RoleNames)]
    role: ChatRole,
    #[schema(value_type = String, format = DateTime)]
    sent_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// The id of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
}

/// Names of [`ChatRole`], for the description.
#[derive(ToSchema)]
#[schema(as = ChatRole, rename_all = "lowercase")]
#[expect(dead_code, reason = "only describes what the store's type writes")]
enum RoleNames {
    Owner,
    Admin,
    User,
    Guest,
}

impl From<ChatMessage> for MessageShape {
    fn from(message: ChatMessage) -> Self {
        let ChatMessage { id, seq, text, user_id, name, role, sent_at, client_id, reply_to } = message;
        Self { id, seq, text, user_id, name, role, sent_at, client_id, reply_to }
    }
}

/// Messages in rising order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MessagePage {
    messages: Vec<MessageShape>,
    /// There are more in the direction that was asked for.
    has_more: bool,
}

refusals!(HistoryRefusals = [USER, LIVE] InvalidParameter, Blocked, Banned, StreamNotFound);

/// Read messages: the newest, or those before or after one.
#[utoipa::path(
    get, path = "/api/live/{id}/chat", tag = "chat", operation_id = "getChat", security((), ("user" = [])),
    params(
        ("id" = String, Path),
        ("before" = Option<i64>, Query, description = "The last messages below this `seq`"),
        ("after" = Option<i64>, Query, description = "The first messages above this `seq`"),
        ("limit" = Option<usize>, Query, description = "1 to 100; 50 unless told")
    ),
    responses((status = 200, description = "Messages", body = MessagePage), HistoryRefusals)
)]
async fn history(
    State(chats): Chats,
    MaybeMember(admitted): MaybeMember,
    StreamPath(id): StreamPath,
    query: Query,
) -> Result<Json<MessagePage>, Problem> {
    let seq = |name: &str| query.read(name, "must be the seq of a message", |text| text.parse::<i64>().ok());
    let range = match (seq("before")?, seq("after")?) {
        (None, None) => ChatRange::Newest,
        (Some(seq), None) => ChatRange::Before(seq),
        (None, Some(seq)) => ChatRange::After(seq),
        (Some(_), Some(_)) => {
            return Err(Problem::new(Code::InvalidParameter, "Give before or after, not both."));
        }
    };
    let limit = query.read("limit", "must be 1 to 100", |text| {
        text.parse::<usize>().ok().filter(|limit| (1..=MESSAGES_MAX).contains(limit))
    })?;
    let page = chats.history(admitted.as_ref(), id, range, limit.unwrap_or(MESSAGES)).await?;
    let HistoryPage { messages, has_more } = page;
    Ok(Json(MessagePage { messages: messages.into_iter().map(MessageShape::from).collect(), has_more }))
}

refusals!(DeleteRefusals = [USER, LIVE] Forbidden, Blocked, Banned, StreamNotFound, NotFound);

/// Hide a message: its author, the owner of the stream, an administrator.
#[utoipa::path(
    delete, path = "/api/live/{id}/chat/{messageId}", tag = "chat", operation_id = "deleteMessage",
    security(("user" = [])),
    params(("id" = String, Path), ("messageId" = String, Path)),
    responses((status = 204, description = "It is hidden"), DeleteRefusals)
)]
async fn delete(
    State(chats): Chats,
    SignedIn(caller): SignedIn,
    Standing(standing): Standing,
    StreamPath(id): StreamPath,
    LastParam(message): LastParam,
) -> Result<StatusCode, Problem> {
    chats.delete(&caller, standing, id, &message).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What to change. A field that is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct SettingsBody {
    enabled: Option<bool>,
    /// Seconds between two messages of a user, 0 to 120; the owner and administrators are exempt.
    #[schema(minimum = 0, maximum = 120)]
    slow_mode_seconds: Option<u32>,
    /// Characters of a message, 1 to 500.
    #[schema(minimum = 1, maximum = 500)]
    max_length: Option<u32>,
    links_allowed: Option<bool>,
    emoji_only: Option<bool>,
    /// What becomes of offensive words.
    #[schema(value_type = Option<FilterNames>)]
    filter: Option<WordFilter>,
}

/// Names of [`WordFilter`], for the description.
#[derive(ToSchema)]
#[schema(as = WordFilter, rename_all = "lowercase")]
#[expect(dead_code, reason = "only describes what the store's type writes")]
enum FilterNames {
    Off,
    Mask,
    Reject,
}

impl Fields for SettingsBody {
    type Read = SettingsChange;

    fn read(self, fields: &mut Reader<'_>) -> Option<SettingsChange> {
        Some(SettingsChange {
            enabled: self.enabled,
            slow_mode_seconds: fields.within("slowModeSeconds", self.slow_mode_seconds, 0, 120),
            max_length: fields.within("maxLength", self.max_length, 1, 500),
            links_allowed: self.links_allowed,
            emoji_only: self.emoji_only,
            filter: self.filter,
        })
    }
}

/// The rules of a chat.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChatSettings)]
struct SettingsShape {
    enabled: bool,
    slow_mode_seconds: u32,
    max_length: u32,
    links_allowed: bool,
    emoji_only: bool,
    #[schema(value_type = FilterNames)]
    filter: WordFilter,
}

impl From<ChatSettings> for SettingsShape {
    fn from(settings: ChatSettings) -> Self {
        let ChatSettings { enabled, slow_mode_seconds, max_length, links_allowed, emoji_only, filter } = settings;
        Self { enabled, slow_mode_seconds, max_length, links_allowed, emoji_only, filter }
    }
}

refusals!(SettingsRefusals = [USER, BODY, LIVE] NotOwner, Banned, StreamNotFound, StreamEnded);

/// Change the rules of a chat.
#[utoipa::path(
    patch, path = "/api/live/{id}/chat/settings", tag = "chat", operation_id = "changeChatSettings",
    security(("user" = [])),
    params(("id" = String, Path)),
    request_body(content = SettingsBody),
    responses((status = 200, description = "All settings, as they are now", body = SettingsShape), SettingsRefusals)
)]
async fn settings(
    State(chats): Chats,
    Member(admitted): Member,
    StreamPath(id): StreamPath,
    Body(change): Body<SettingsBody>,
) -> Result<Json<SettingsShape>, Problem> {
    Ok(Json(chats.change_settings(&admitted, id, &change).await?.into()))
}

/// How long somebody may not write.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MuteBody {
    /// 10 to 86400.
    #[schema(minimum = 10, maximum = 86_400)]
    seconds: u32,
    /// Whether the user's messages are hidden as well.
    #[serde(default)]
    delete_messages: bool,
}

impl Fields for MuteBody {
    /// How long, and whether messages are hidden as well.
    type Read = (Duration, bool);

    fn read(self, fields: &mut Reader<'_>) -> Option<Self::Read> {
        let seconds = fields.within("seconds", Some(self.seconds), 10, 86_400)?;
        Some((Duration::from_secs(seconds.into()), self.delete_messages))
    }
}

/// Until when somebody may not write.
#[derive(Debug, Serialize, ToSchema)]
struct MutedShape {
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
}

refusals!(MuteRefusals = [USER, BODY, LIVE]
    Forbidden, NotOwner, Banned, StreamNotFound, NotFound, StreamEnded, Conflict);

/// Keep a user from writing for a while; at most 1,000 at a time.
#[utoipa::path(
    put, path = "/api/live/{id}/chat/mutes/{userId}", tag = "chat", operation_id = "muteUser",
    security(("user" = [])),
    params(("id" = String, Path), ("userId" = String, Path)),
    request_body(content = MuteBody),
    responses((status = 200, description = "Until when", body = MutedShape), MuteRefusals)
)]
async fn mute(
    State(chats): Chats,
    Member(admitted): Member,
    StreamPath(id): StreamPath,
    UserPath(user): UserPath,
    Body((length, hides)): Body<MuteBody>,
) -> Result<Json<MutedShape>, Problem> {
    let until = chats.mute(&admitted, id, &user, length, hides).await?;
    Ok(Json(MutedShape { until }))
}

refusals!(UnmuteRefusals = [USER, LIVE] NotOwner, Banned, StreamNotFound, NotFound, StreamEnded);

/// Let a user write again.
#[utoipa::path(
    delete, path = "/api/live/{id}/chat/mutes/{userId}", tag = "chat", operation_id = "unmuteUser",
    security(("user" = [])),
    params(("id" = String, Path), ("userId" = String, Path)),
    responses((status = 204, description = "The user may write"), UnmuteRefusals)
)]
async fn unmute(
    State(chats): Chats,
    Member(admitted): Member,
    StreamPath(id): StreamPath,
    UserPath(user): UserPath,
) -> Result<StatusCode, Problem> {
    chats.unmute(&admitted, id, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which message to pin.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PinBody {
    message_id: String,
}

impl Fields for PinBody {
    /// The id of the message.
    type Read = String;

    fn read(self, _: &mut Reader<'_>) -> Option<String> {
        Some(self.message_id)
    }
}

refusals!(PinRefusals = [USER, BODY, LIVE] NotOwner, Banned, StreamNotFound, NotFound, StreamEnded);

/// Show a message above the chat, in place of the one before.
#[utoipa::path(
    put, path = "/api/live/{id}/chat/pin", tag = "chat", operation_id = "pinMessage", security(("user" = [])),
    params(("id" = String, Path)),
    request_body(content = PinBody),
    responses((status = 200, description = "The message", body = MessageShape), PinRefusals)
)]
async fn pin(
    State(chats): Chats,
    Member(admitted): Member,
    StreamPath(id): StreamPath,
    Body(message): Body<PinBody>,
) -> Result<Json<MessageShape>, Problem> {
    Ok(Json(chats.pin(&admitted, id, &message).await?.into()))
}

refusals!(UnpinRefusals = [USER, LIVE] NotOwner, Banned, StreamNotFound, StreamEnded);

/// Show no message above the chat.
#[utoipa::path(
    delete, path = "/api/live/{id}/chat/pin", tag = "chat", operation_id = "unpinMessage", security(("user" = [])),
    params(("id" = String, Path)),
    responses((status = 204, description = "There is none"), UnpinRefusals)
)]
async fn unpin(
    State(chats): Chats,
    Member(admitted): Member,
    StreamPath(id): StreamPath,
) -> Result<StatusCode, Problem> {
    chats.unpin(&admitted, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::http::body::judge;
    use crate::http::fields::Rules;

    /// Whether a body is taken. `None`: it has another shape.
    fn is_taken<T: Fields>(body: Value) -> Option<bool> {
        let rules = Rules { development: false, now: Timestamp::from_millis(1) };
        let (_, refusal) = judge(serde_json::from_value::<T>(body).ok()?, &rules);
        Some(refusal.is_none())
    }

    #[test]
    fn a_chat_is_moderated_within_bounds() {
        for (field, least, most) in [("slowModeSeconds", 0, 120), ("maxLength", 1, 500)] {
            let set = |value: u32| is_taken::<SettingsBody>(json!({ field: value }));
            assert_eq!([set(least), set(most), set(most + 1)], [Some(true), Some(true), Some(false)], "{field}");
        }
        assert_eq!(is_taken::<SettingsBody>(json!({ "maxLength": 0 })), Some(false));
        let mute = |seconds: u32| is_taken::<MuteBody>(json!({ "seconds": seconds }));
        assert_eq!([mute(9), mute(10), mute(86_400), mute(86_401)], [false, true, true, false].map(Some));
    }

    #[test]
    fn a_field_that_nobody_knows_is_refused() {
        assert_eq!(is_taken::<SettingsBody>(json!({ "maxLength": 7, "slowmode": 1 })), None);
        assert_eq!(is_taken::<MuteBody>(json!({ "seconds": 10, "minutes": 1 })), None);
        assert_eq!(is_taken::<PinBody>(json!({ "messageId": "x", "seq": 1 })), None);
        assert_eq!(is_taken::<PinBody>(json!({ "messageId": "x" })), Some(true));
    }
}
