//! What clients ask for: one arm a request, a method behind it (docs/livekit.md 4.2).

use std::time::Duration;

use livekit_protocol as proto;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use proto::request_response::{Reason as Refusal, Request};
use proto::signal_request::Message;
use proto::signal_response::Message as Response;
use shared::id::{ParticipantSid, TrackSid};

use super::Room;
use super::context::Context;
use super::timer::{Now, Timer};
use crate::budget::fanout_cost;
use crate::id::ConnectionId;
use crate::participant::{OnResume, Participant};
use crate::quirks::Quirk;
use crate::wire;

/// Longest time that a simulated speaker speaks.
const SIMULATED_SPEECH_MAX: Duration = Duration::from_secs(60);

impl Room {
    /// Handles a client's request. Pings are answered by its session.
    pub fn on_request(&mut self, now: Now, connection: ConnectionId, request: proto::SignalRequest) {
        let Some(sid) = self.context.connections.get(&connection).cloned() else { return };
        let Some(message) = request.message else { return };
        let paid = fanout_cost(&message);
        self.charging(now, &sid, paid, |room| room.handle(now, &sid, message));
    }

    fn handle(&mut self, now: Now, sid: &ParticipantSid, message: Message) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        match message {
            Message::Offer(offer) => self.on_offer(now, sid, offer),
            Message::Answer(answer) => self.on_answer(now, sid, answer),
            Message::Trickle(trickle) => participant.on_trickle(context, trickle),
            Message::AddTrack(request) => self.on_add_track(now, sid, request),
            Message::Mute(request) => self.on_mute(now, sid, request),
            Message::Subscription(request) => self.on_subscription(now, sid, &request),
            Message::TrackSetting(request) => self.on_track_settings(sid, &request),
            Message::Leave(request) => self.on_leave(now, sid, &request),
            Message::SubscriptionPermission(request) => self.on_subscription_permission(now, sid, request),
            Message::SyncState(state) => self.on_sync_state(now, sid, state),
            Message::Simulate(scenario) => self.on_simulate(now, sid, scenario),
            Message::UpdateMetadata(request) => self.on_update_metadata(now, sid, request),
            Message::UpdateAudioTrack(request) => self.on_update_audio_track(now, sid, request),
            Message::UpdateVideoTrack(request) => self.on_update_video_track(now, sid, request),
            Message::PublishDataTrackRequest(request) => {
                let text = "data tracks are not supported";
                participant.refuse(context, 0, Refusal::NotAllowed, text, Some(Request::PublishDataTrack(request)));
            }
            Message::UnpublishDataTrackRequest(request) => {
                let text = "data tracks are not supported";
                participant.refuse(context, 0, Refusal::NotAllowed, text, Some(Request::UnpublishDataTrack(request)));
            }
            Message::StoreDataBlobRequest(request) => {
                participant.refuse(context, request.request_id, Refusal::NotAllowed, "data blob not enabled", None);
            }
            Message::GetDataBlobRequest(request) => {
                participant.refuse(context, request.request_id, Refusal::NotAllowed, "data blob not enabled", None);
            }
            Message::UpdateLayers(_) | Message::UpdateDataSubscription(_) => {}
            Message::Ping(_) | Message::PingReq(_) => {}
        }
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
    fn on_leave(&mut self, now: Now, sid: &ParticipantSid, request: &proto::LeaveRequest) {
        let reason = match request.reason() {
            reason
            @ (Reason::ClientInitiated | Reason::UserUnavailable | Reason::UserRejected | Reason::AgentError) => reason,
            _ => Reason::ClientInitiated,
        };
        self.remove(now, sid, reason, Some(Action::Disconnect));
    }

    /// After a resume: a client that believes to publish a track that is not known here has to start over.
    pub(super) fn on_sync_state(&mut self, now: Now, sid: &ParticipantSid, state: proto::SyncState) {
        let Some(participant) = self.participants.get(sid) else { return };
        let known = |track: &str| {
            participant.state.publications.contains_key(track)
                || participant.state.pending.iter().any(|pending| pending.sid.as_str() == track)
        };
        let mut claimed = state.publish_tracks.iter().filter_map(|published| published.track.as_ref());
        let mismatch = claimed.any(|track| !known(&track.sid)) || !state.publish_data_tracks.is_empty();
        if mismatch {
            self.remove(now, sid, Reason::StateMismatch, Some(Action::Reconnect));
            return;
        }
        let disabled =
            proto::UpdateTrackSettings { track_sids: state.track_sids_disabled, disabled: true, ..Default::default() };
        self.on_track_settings(sid, &disabled);
        if let Some(subscription) = state.subscription {
            self.on_subscription(now, sid, &subscription);
        }
    }

    fn on_simulate(&mut self, now: Now, sid: &ParticipantSid, scenario: proto::SimulateScenario) {
        use proto::simulate_scenario::Scenario;
        let Some(scenario) = scenario.scenario else { return };
        match scenario {
            Scenario::SpeakerUpdate(seconds) => {
                let time = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(SIMULATED_SPEECH_MAX);
                self.simulate_speaker(sid);
                self.context.timers.set(Timer::Speaker(sid.clone()), now.at + time);
            }
            // The socket closes without a word, and the resume that follows fails.
            Scenario::NodeFailure(_) | Scenario::Migration(_) => self.remove(now, sid, Reason::UnknownReason, None),
            Scenario::ServerLeave(_) => self.remove(now, sid, Reason::ServerShutdown, Some(Action::Disconnect)),
            Scenario::DisconnectSignalOnResume(_) => {
                self.with(sid, |participant, _| participant.transient.on_resume = OnResume::CloseAfterFirstMessages);
            }
            Scenario::DisconnectSignalOnResumeNoMessages(_) => {
                self.with(sid, |participant, _| participant.transient.on_resume = OnResume::CloseWithoutMessages);
            }
            Scenario::SwitchCandidateProtocol(_)
            | Scenario::SubscriberBandwidth(_)
            | Scenario::LeaveRequestFullReconnect(_) => {}
        }
    }
}

impl Participant {
    /// Answers a request with an error; clients that can read it are owed one.
    pub(super) fn refuse(
        &self,
        context: &mut Context,
        request_id: u32,
        reason: Refusal,
        text: &str,
        request: Option<Request>,
    ) {
        tracing::debug!(participant = %self.state.sid, ?reason, text, "request refused");
        self.respond(context, wire::request_response(request_id, reason, text, request));
    }

    /// Sends a RequestResponse to a client that knows it.
    pub(super) fn respond(&self, context: &mut Context, response: Response) {
        if !self.state.quirks.has(Quirk::NoNewerMessages) {
            self.send(context, response);
        }
    }

    /// We are ICE-lite: the client's checks tell its addresses. Only nonsense is answered.
    fn on_trickle(&self, context: &mut Context, trickle: proto::TrickleRequest) {
        let is_object = serde_json::from_str::<serde_json::Value>(&trickle.candidate_init).is_ok_and(|v| v.is_object());
        if !is_object {
            let text = "cannot decode candidate";
            self.refuse(context, 0, Refusal::UnclassifiedError, text, Some(Request::Trickle(trickle)));
        }
    }
}

/// Track sids of a request, those that are any.
pub(super) fn track_sids(
    sids: &[String],
    participant_tracks: &[proto::ParticipantTracks],
) -> std::collections::BTreeSet<TrackSid> {
    let nested = participant_tracks.iter().flat_map(|tracks| &tracks.track_sids);
    sids.iter().chain(nested).filter_map(|sid| sid.parse().ok()).collect()
}
