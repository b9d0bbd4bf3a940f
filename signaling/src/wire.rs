//! Our state → LiveKit's messages: the one place that builds them for clients.

#![expect(deprecated, reason = "clients of all ages send and read fields that newer ones have other names for")]

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use livekit_protocol as proto;
use prost::Message;
use proto::signal_response::Message as Response;

use crate::quirks::Quirks;
use crate::settings::RoomsConfig;

/// The version of livekit-server whose surface this is. Clients compare it (at least 1.8.0 for RPC), one of them parses
/// it as strict semver.
pub const SERVER_VERSION: &str = "1.13.5";
/// Newest signalling protocol we speak; clients with a higher number get this one.
pub const PROTOCOL_VERSION: i32 = 17;
/// Seconds between a client's pings.
pub const PING_INTERVAL_S: i32 = 5;
/// Seconds without an answer after which a client gives its socket up.
pub const PING_TIMEOUT_S: i32 = 15;

/// A message on its way to one or many clients, encoded once.
#[derive(Debug)]
pub struct Outgoing {
    response: proto::SignalResponse,
    /// Other participants that belong into this JoinResponse.
    others: Option<Arc<Others>>,
    binary: OnceLock<Bytes>,
    json: OnceLock<String>,
    size: OnceLock<usize>,
}

/// Participants in the JoinResponses of many newcomers, described and encoded once.
#[derive(Debug)]
pub struct Others {
    infos: Vec<proto::ParticipantInfo>,
    /// As fields of a JoinResponse.
    encoded: Vec<u8>,
}

impl Others {
    pub fn new(infos: Vec<proto::ParticipantInfo>) -> Self {
        let described = proto::JoinResponse { other_participants: infos, ..Default::default() };
        let encoded = described.encode_to_vec();
        Self { infos: described.other_participants, encoded }
    }
}

impl Outgoing {
    pub fn new(message: Response) -> Self {
        let response = proto::SignalResponse { message: Some(message) };
        Self { response, others: None, binary: OnceLock::new(), json: OnceLock::new(), size: OnceLock::new() }
    }

    /// A JoinResponse whose other participants are `others`.
    pub fn join(response: proto::JoinResponse, others: Arc<Others>) -> Self {
        Self { others: Some(others), ..Self::new(Response::Join(response)) }
    }

    /// The whole message.
    pub fn response(&self) -> Cow<'_, proto::SignalResponse> {
        let Some(others) = &self.others else { return Cow::Borrowed(&self.response) };
        let mut response = self.response.clone();
        if let Some(Response::Join(join)) = &mut response.message {
            join.other_participants.clone_from(&others.infos);
        }
        Cow::Owned(response)
    }

    /// The message, if it is a Leave.
    pub fn leave(&self) -> Option<&proto::LeaveRequest> {
        match &self.response.message {
            Some(Response::Leave(leave)) => Some(leave),
            _ => None,
        }
    }

    /// Bytes that it takes encoded, near enough.
    pub fn size(&self) -> usize {
        let others = self.others.as_ref().map_or(0, |others| others.encoded.len());
        *self.size.get_or_init(|| self.response.encoded_len() + others)
    }

    pub fn binary(&self) -> Bytes {
        let encode = || match (&self.response.message, &self.others) {
            (Some(Response::Join(join)), Some(others)) => encode_join(join, &others.encoded),
            _ => self.response.encode_to_vec().into(),
        };
        self.binary.get_or_init(encode).clone()
    }

    pub fn json(&self) -> String {
        self.json.get_or_init(|| serde_json::to_string(&*self.response()).unwrap_or_default()).clone()
    }
}

/// Fields of a message may come in any order, and those of the others come last.
fn encode_join(join: &proto::JoinResponse, others: &[u8]) -> Bytes {
    use prost::encoding::{WireType, encode_key, encode_varint};
    /// `SignalResponse.join`.
    const JOIN: u32 = 1;
    let size = join.encoded_len() + others.len();
    let mut out = Vec::with_capacity(size + 8);
    encode_key(JOIN, WireType::LengthDelimited, &mut out);
    encode_varint(size as u64, &mut out);
    join.encode_raw(&mut out);
    out.extend_from_slice(others);
    out.into()
}

pub fn server_info(config: &RoomsConfig) -> proto::ServerInfo {
    proto::ServerInfo {
        version: SERVER_VERSION.into(),
        protocol: PROTOCOL_VERSION,
        region: config.region.clone(),
        node_id: config.node_id.clone(),
        agent_protocol: 1,
        ..Default::default()
    }
}

pub fn update(participants: Vec<proto::ParticipantInfo>) -> Response {
    Response::Update(proto::ParticipantUpdate { participants })
}

pub fn room_update(room: &proto::Room) -> Response {
    Response::RoomUpdate(proto::RoomUpdate { room: Some(room.clone()) })
}

/// A Leave that clients of any protocol version understand alike.
pub fn leave(reason: proto::DisconnectReason, action: proto::leave_request::Action) -> Response {
    use proto::leave_request::Action;
    let can_reconnect = match action {
        Action::Disconnect => false,
        Action::Resume | Action::Reconnect => true,
    };
    Response::Leave(proto::LeaveRequest { can_reconnect, reason: reason as i32, action: action as i32, regions: None })
}

/// Longest request that is sent back with its answer, in bytes. Clients know their requests by their numbers; longer
/// ones of a client that reads nothing would fill its outbox.
pub const ECHO_BYTES_MAX: usize = 8 << 10;

pub fn request_response(
    request_id: u32,
    reason: proto::request_response::Reason,
    message: &str,
    request: Option<proto::request_response::Request>,
) -> Response {
    let request = request.filter(|request| request.encoded_len() <= ECHO_BYTES_MAX);
    let message = message.into();
    Response::RequestResponse(proto::RequestResponse { request_id, reason: reason as i32, message, request })
}

pub fn subscription_permission(publisher: &str, track: &str, allowed: bool) -> Response {
    Response::SubscriptionPermissionUpdate(proto::SubscriptionPermissionUpdate {
        participant_sid: publisher.into(),
        track_sid: track.into(),
        allowed,
    })
}

/// All qualities on. A wrong "off" would freeze a publisher with dynacast, so none is ever sent.
pub fn all_qualities(track: &proto::TrackInfo) -> Response {
    let qualities: Vec<_> = [proto::VideoQuality::Low, proto::VideoQuality::Medium, proto::VideoQuality::High]
        .into_iter()
        .map(|quality| proto::SubscribedQuality { quality: quality as i32, enabled: true })
        .collect();
    let mime = track.codecs.first().map_or(&track.mime_type, |codec| &codec.mime_type);
    let codec = mime.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let subscribed_codecs = vec![proto::SubscribedCodec { codec, qualities: qualities.clone() }];
    Response::SubscribedQualityUpdate(proto::SubscribedQualityUpdate {
        track_sid: track.sid.clone(),
        subscribed_qualities: qualities,
        subscribed_codecs,
    })
}

/// Codecs as a Room lists them, with rtx.
pub fn room_codecs(config: &RoomsConfig) -> Vec<proto::Codec> {
    let rtx = std::iter::once("video/rtx");
    config.enabled_codecs.iter().map(String::as_str).chain(rtx).map(codec).collect()
}

/// Codecs as JoinResponse lists them: video first, in the reference's order, without rtx.
pub fn publish_codecs(config: &RoomsConfig, quirks: Quirks) -> Vec<proto::Codec> {
    let is_withheld =
        |mime: &str| quirks.withheld_from_publishing().any(|withheld| withheld.eq_ignore_ascii_case(mime));
    let (video, audio): (Vec<&String>, Vec<&String>) =
        config.enabled_codecs.iter().partition(|mime| mime.to_ascii_lowercase().starts_with("video/"));
    video.into_iter().chain(audio).map(String::as_str).filter(|mime| !is_withheld(mime)).map(codec).collect()
}

fn codec(mime: &str) -> proto::Codec {
    proto::Codec { mime: mime.into(), fmtp_line: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leave_tells_old_clients_the_same_as_new_ones() {
        use proto::leave_request::Action;
        for (action, can_reconnect) in [(Action::Disconnect, false), (Action::Resume, true), (Action::Reconnect, true)]
        {
            let Response::Leave(leave) = leave(proto::DisconnectReason::StateMismatch, action) else { panic!() };
            assert_eq!(leave.can_reconnect, can_reconnect);
            assert_eq!(leave.action(), action);
        }
    }

    #[test]
    fn a_join_with_shared_others_reads_like_one_of_a_piece() {
        let participant =
            |sid: &str| proto::ParticipantInfo { sid: sid.into(), identity: "somebody".into(), ..Default::default() };
        let join = proto::JoinResponse { server_version: "1".into(), ping_timeout: 15, ..Default::default() };
        let others = vec![participant("PA_1"), participant("PA_2")];
        let whole = proto::JoinResponse { other_participants: others.clone(), ..join.clone() };
        let whole = proto::SignalResponse { message: Some(Response::Join(whole)) };

        let outgoing = Outgoing::join(join, Arc::new(Others::new(others)));

        assert_eq!(proto::SignalResponse::decode(outgoing.binary()).unwrap(), whole);
        // All but the lengths in front.
        assert!(outgoing.binary().len().abs_diff(outgoing.size()) < 8);
        assert_eq!(outgoing.response().into_owned(), whole);
        assert_eq!(outgoing.json(), serde_json::to_string(&whole).unwrap());
    }

    #[test]
    fn qualities_are_all_on_and_the_codec_is_bare() {
        let track = proto::TrackInfo { mime_type: "video/VP8".into(), ..Default::default() };
        let Response::SubscribedQualityUpdate(update) = all_qualities(&track) else { panic!() };
        assert_eq!(update.subscribed_codecs[0].codec, "vp8");
        assert!(update.subscribed_codecs[0].qualities.iter().all(|quality| quality.enabled));
    }
}
