//! Services that this server does not have: agents' dispatch, egress, ingress, SIP. Their grants are checked all the
//! same, so that an answer says no more than LiveKit's would.

use axum::response::Response;
use livekit_protocol as proto;

use super::call::Call;
use super::error::{Code, TwirpError};
use crate::token::{Claims, SipGrant, VideoGrant};

/// A method of a service that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    CreateDispatch,
    DeleteDispatch,
    ListDispatch,
    Egress,
    Ingress,
    SipAdmin,
    SipCall,
}

const EGRESS: [&str; 10] = [
    "StartEgress",
    "StartRoomCompositeEgress",
    "StartWebEgress",
    "StartParticipantEgress",
    "StartTrackCompositeEgress",
    "StartTrackEgress",
    "UpdateLayout",
    "UpdateStream",
    "ListEgress",
    "StopEgress",
];

const INGRESS: [&str; 4] = ["CreateIngress", "UpdateIngress", "ListIngress", "DeleteIngress"];

const SIP_ADMIN: [&str; 15] = [
    "ListSIPTrunk",
    "CreateSIPInboundTrunk",
    "UpdateSIPInboundTrunk",
    "GetSIPInboundTrunk",
    "ListSIPInboundTrunk",
    "CreateSIPOutboundTrunk",
    "UpdateSIPOutboundTrunk",
    "GetSIPOutboundTrunk",
    "ListSIPOutboundTrunk",
    "DeleteSIPTrunk",
    "CreateSIPDispatchRule",
    "UpdateSIPDispatchRule",
    "ListSIPDispatchRule",
    "DeleteSIPDispatchRule",
    "CreateSIPTrunk",
];

impl Method {
    /// The outer `None`: no such service. The inner one: no such method.
    pub(super) fn named(service: &str, method: &str) -> Option<Option<Self>> {
        let one_of = |names: &[&str], found| names.contains(&method).then_some(found);
        match service {
            "AgentDispatchService" => Some(match method {
                "CreateDispatch" => Some(Self::CreateDispatch),
                "DeleteDispatch" => Some(Self::DeleteDispatch),
                "ListDispatch" => Some(Self::ListDispatch),
                _ => None,
            }),
            "Egress" => Some(one_of(&EGRESS, Self::Egress)),
            "Ingress" => Some(one_of(&INGRESS, Self::Ingress)),
            "SIP" => Some(match method {
                "CreateSIPParticipant" | "TransferSIPParticipant" => Some(Self::SipCall),
                _ => one_of(&SIP_ADMIN, Self::SipAdmin),
            }),
            _ => None,
        }
    }
}

impl Method {
    /// What can be said of a token before the request names its room.
    pub(super) fn may_be_granted(self, claims: &Claims) -> bool {
        let video = |granted: fn(&VideoGrant) -> bool| claims.video.as_ref().is_some_and(granted);
        match self {
            Self::CreateDispatch | Self::DeleteDispatch | Self::ListDispatch => video(|video| video.room_admin),
            Self::Egress => video(|video| video.room_record),
            Self::Ingress => video(|video| video.ingress_admin),
            Self::SipAdmin => claims.sip.admin,
            Self::SipCall => claims.sip.call,
        }
    }
}

pub(super) fn answer(method: Method, call: &Call<'_>) -> Result<Response, TwirpError> {
    match method {
        Method::CreateDispatch => {
            call.require_admin_of(&call.request::<proto::CreateAgentDispatchRequest>()?.room)?;
            Err(absent("agent dispatch"))
        }
        Method::DeleteDispatch => {
            call.require_admin_of(&call.request::<proto::DeleteAgentDispatchRequest>()?.room)?;
            Err(absent("agent dispatch"))
        }
        Method::ListDispatch => {
            call.require_admin_of(&call.request::<proto::ListAgentDispatchRequest>()?.room)?;
            Err(absent("agent dispatch"))
        }
        Method::Egress => {
            call.require(|video| video.room_record)?;
            Err(absent("egress"))
        }
        Method::Ingress => {
            call.require(|video| video.ingress_admin)?;
            Err(absent("ingress"))
        }
        Method::SipAdmin => {
            require_sip(call, |sip| sip.admin)?;
            Err(absent("SIP"))
        }
        Method::SipCall => {
            require_sip(call, |sip| sip.call)?;
            Err(absent("SIP"))
        }
    }
}

fn require_sip(call: &Call<'_>, granted: impl Fn(&SipGrant) -> bool) -> Result<(), TwirpError> {
    if call.claims.is_some_and(|claims| granted(&claims.sip)) { Ok(()) } else { Err(TwirpError::denied()) }
}

fn absent(what: &str) -> TwirpError {
    TwirpError::new(Code::Unimplemented, format!("{what} is not supported by this server"))
}
