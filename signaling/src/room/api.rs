//! What the server APIs ask of a room (docs/livekit.md 8.2).

use livekit_protocol as proto;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use proto::signal_response::Message as Response;
use shared::id::ParticipantSid;

use super::Room;
use super::error::ApiError;
use super::metadata::ProfileUpdate;
use super::timer::Now;
use super::updates::Urgency;
use super::view::Change;
use crate::participant::SessionState;
use crate::settings::exceeds;
use crate::wire;

impl Room {
    /// The room with counts of this moment; what clients are told of them lags.
    pub fn info(&self) -> proto::Room {
        proto::Room {
            num_participants: u32::try_from(self.context.view.independent()).unwrap_or(u32::MAX),
            num_publishers: u32::try_from(self.context.view.publishers()).unwrap_or(u32::MAX),
            ..self.context.view.room.clone()
        }
    }

    /// Hidden ones too.
    pub fn list_participants(&self) -> Vec<proto::ParticipantInfo> {
        self.context.view.members.values().map(|member| member.info.clone()).collect()
    }

    pub fn participant(&self, identity: &str) -> Result<proto::ParticipantInfo, ApiError> {
        let sid = self.context.identities.get(identity).ok_or_else(no_participant)?;
        let member = self.context.view.member(sid).ok_or_else(no_participant)?;
        Ok(member.info.clone())
    }

    pub fn remove_participant(&mut self, now: Now, identity: &str) -> Result<(), ApiError> {
        let sid = self.sid_of(identity)?;
        self.remove(now, &sid, Reason::ParticipantRemoved, Some(Action::Disconnect));
        Ok(())
    }

    /// `None`: no such track.
    pub fn mute_published_track(
        &mut self,
        now: Now,
        identity: &str,
        track: &str,
        muted: bool,
    ) -> Result<Option<proto::TrackInfo>, ApiError> {
        if !muted && !self.context.config.enable_remote_unmute {
            return Err(ApiError::FailedPrecondition("remote unmute not enabled".into()));
        }
        let (participant, context) = self.of_identity(identity).ok_or_else(no_participant)?;
        if !has_track(&participant.state, track) {
            return Ok(None);
        }
        participant.send(context, Response::Mute(proto::MuteTrackRequest { sid: track.into(), muted }));
        let sid = participant.state.sid.clone();
        Ok(self.set_muted(now, &sid, track, muted))
    }

    pub fn update_participant(
        &mut self,
        now: Now,
        request: proto::UpdateParticipantRequest,
    ) -> Result<proto::ParticipantInfo, ApiError> {
        let sid = self.sid_of(&request.identity)?;
        let update = ProfileUpdate { name: request.name, metadata: request.metadata, attributes: request.attributes };
        self.update_profile(now, &sid, &update).map_err(|text| ApiError::InvalidArgument(text.into()))?;
        if let Some(permission) = request.permission {
            self.change_permission(now, &sid, &permission);
        }
        self.announce_to_all(now, &sid);
        self.participant(&request.identity)
    }

    /// Replaces what a participant may do (docs/livekit.md 7.7).
    fn change_permission(&mut self, now: Now, sid: &ParticipantSid, permission: &proto::ParticipantPermission) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        let state = &mut participant.state;
        let before = state.grants.video.permission();
        if before == *permission {
            return;
        }
        state.grants.video.set_permission(permission);
        let (permission, dependent, in_charge) =
            (state.grants.video.permission(), state.is_dependent(), state.is_in_charge());
        let (was_hidden, is_hidden) = (before.hidden, permission.hidden);
        context.change(Change::Permission { sid: sid.clone(), permission, dependent });
        if is_hidden && !was_hidden {
            self.disappear(now, sid);
        }
        self.unpublish_forbidden(now, sid);
        if in_charge {
            self.widen_interest(sid);
        }
        self.announce(now, sid, Urgency::Now);
        if was_hidden && !is_hidden {
            self.offer_tracks_of(now, sid);
        }
        self.reconcile(now, sid);
        self.with(sid, |participant, context| participant.send_refresh_token(now, context));
    }

    pub fn update_subscriptions(
        &mut self,
        now: Now,
        request: &proto::UpdateSubscriptionsRequest,
    ) -> Result<(), ApiError> {
        let sid = self.sid_of(&request.identity)?;
        self.choose(now, &sid, &request.track_sids, &request.participant_tracks, request.subscribe);
        Ok(())
    }

    pub fn update_metadata(&mut self, metadata: &str) -> Result<proto::Room, ApiError> {
        if exceeds(metadata.len(), self.context.config.limits.metadata_bytes_max) {
            return Err(ApiError::InvalidArgument("metadata size exceeds limits".into()));
        }
        self.context.change(Change::Metadata { metadata: metadata.into() });
        let everybody = self.everybody();
        self.context.out.send_all(everybody, wire::room_update(&self.context.view.room));
        Ok(self.info())
    }

    fn sid_of(&self, identity: &str) -> Result<ParticipantSid, ApiError> {
        self.context.identities.get(identity).cloned().ok_or_else(no_participant)
    }
}

fn has_track(state: &SessionState, track: &str) -> bool {
    state.publications.contains_key(track) || state.pending.iter().any(|pending| pending.sid.as_str() == track)
}

fn no_participant() -> ApiError {
    ApiError::NotFound("participant does not exist".into())
}
