//! Publishing: AddTrack and media sections find each other and become tracks (docs/livekit.md 4.4).
//!
//! They may come in either order. A section with declared SSRCs is published with its offer, simulcast by rid with its
//! first packet.

use livekit_protocol as proto;
use prost::Message as _;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use proto::request_response::{Reason as Refusal, Request};
use proto::signal_response::Message as Response;
use sfu::command::{Command, DtlsRole, PublicationId, ReceiveSection, Ssrc};
use shared::id::{ParticipantSid, TrackSid};
use shared::media::{Codec, MediaKind};

use super::context::Context;
use super::timer::Now;
use super::track::{describe_codec, describe_media, kind_of, marker, receive_settings, set_layer_ssrc, track_info};
use super::updates::Urgency;
use super::view::Change;
use super::{Room, RoomEffect};
use crate::event::RoomHappening;
use crate::id::DescriptionId;
use crate::negotiation::{OfferDiff, ReceiveSettings, SdpError, SendingSection};
use crate::participant::{
    PENDING_TRACKS_MAX, PUBLICATIONS_MAX, Participant, PendingTrack, Publication, QUEUED_TRACKS_MAX, ROOM_TRACKS_MAX,
    SessionState, TRACK_BYTES_MAX, UnclaimedSection,
};
use crate::quirks::Quirk;

impl Room {
    pub(super) fn on_add_track(&mut self, now: Now, sid: &ParticipantSid, request: proto::AddTrackRequest) {
        let Some((participant, _)) = self.participant_mut(sid) else { return };
        if let Some(silent) = participant.drop_abandoned(&request) {
            self.end_track(now, sid, &silent);
        }
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        match participant.check_add_track(context, &request) {
            Ok(AddTrack::Accept) => {
                let shown = participant.accept_track(context, request);
                self.show(now, sid, shown.as_slice());
            }
            Ok(AddTrack::Known(track)) => participant.send_track_published(context, &request.cid, *track),
            Err((reason, text)) => {
                if reason == Refusal::Queued {
                    participant.state.queued.push(request.clone());
                }
                if reason == Refusal::LimitExceeded {
                    context.out.push(RoomEffect::TrackRefused);
                }
                participant.refuse(context, 0, reason, text, Some(Request::AddTrack(request)));
            }
        }
    }

    /// A client's offer: v0 for what it publishes, v1 for everything.
    pub(super) fn on_offer(&mut self, now: Now, sid: &ParticipantSid, offer: proto::SessionDescription) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        if offer.r#type != "offer" {
            tracing::debug!(participant = %sid, kind = %offer.r#type, "not an offer");
            return;
        }
        let publisher = &mut participant.state.publisher;
        let diff = match publisher.negotiation.read_offer(&offer.sdp) {
            Ok(diff) => diff,
            Err(error) => return self.refuse_description(now, sid, "offer refused", &error),
        };
        publisher.last_offer = Some(DescriptionId(offer.id));
        participant.apply_transport(context, &diff);
        participant.lose_sections(context, &diff.lost);
        let mut answered = diff.rebound.clone();
        let (shown, ended) = participant.take_sections(context, diff);
        self.show(now, sid, &shown);
        answered.extend(self.bind_waiting(sid));
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        if let Err(error) = participant.answer(now, context, offer.id) {
            return self.refuse_description(now, sid, "cannot answer", &error);
        }
        let sections = participant.sections_to_send_in(now, context, answered);
        for (track, section) in sections {
            self.start_sending(sid, &track, section);
        }
        self.unpublish(now, sid, &ended);
    }

    /// Nothing can be agreed upon with this client: it has to start over.
    pub(super) fn refuse_description(&mut self, now: Now, sid: &ParticipantSid, what: &str, error: &SdpError) {
        tracing::info!(participant = %sid, %error, "{what}");
        self.remove(now, sid, Reason::StateMismatch, Some(Action::Reconnect));
    }

    /// Makes tracks visible to everybody, in one update.
    fn show(&mut self, now: Now, sid: &ParticipantSid, tracks: &[TrackSid]) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        let infos: Vec<_> = tracks.iter().filter_map(|track| participant.make_visible(now, context, track)).collect();
        if infos.is_empty() {
            return;
        }
        self.mark_publisher_announced(sid);
        self.announce(now, sid, Urgency::Now);
        for info in infos {
            self.context.emit_track(now, sid, info, true);
        }
        self.counts_changed(now);
        for track in tracks {
            self.offer_track(now, track);
        }
    }

    pub(super) fn on_layer_started(&mut self, now: Now, id: PublicationId, layer: u8, ssrc: Ssrc, codec: Codec) {
        let Some(sid) = self.context.publications.get(&id).cloned() else { return };
        self.charging(now, &sid, 0, |room| room.start_layer(now, &sid, id, (layer, ssrc), codec));
    }

    fn start_layer(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        id: PublicationId,
        (layer, ssrc): (u8, Ssrc),
        codec: Codec,
    ) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        let Some((track, publication)) = participant.state.publication_mut(id) else { return };
        let track = track.clone();
        let before = publication.info.clone();
        if codec.kind() == MediaKind::Video && codec != publication.codec {
            publication.codec = codec;
            describe_codec(&mut publication.info, codec);
        }
        set_layer_ssrc(&mut publication.info, usize::from(layer), ssrc);
        let changed = publication.info != before;
        let codec_changed = publication.visible && publication.info.mime_type != before.mime_type;
        match publication.visible {
            true if changed => {
                participant.note_change(context, &track);
                // The first packets of a track's layers come together; another codec is told before the track is shown
                // anew.
                match codec_changed {
                    true => self.announce(now, sid, Urgency::Now),
                    false => self.announce_soon(now, sid),
                }
            }
            true => {}
            false => self.show(now, sid, std::slice::from_ref(&track)),
        }
        if codec_changed {
            self.restart_subscriptions(now, &track);
        }
    }

    /// Ends tracks of a participant that stays, in one update.
    fn unpublish(&mut self, now: Now, sid: &ParticipantSid, tracks: &[TrackSid]) {
        if tracks.is_empty() {
            return;
        }
        let mut seen = false;
        for track in tracks {
            seen |= self.end_track(now, sid, track);
        }
        if seen {
            self.announce(now, sid, Urgency::Now);
        }
        self.counts_changed(now);
        self.retry_queued(now, sid);
    }

    /// Ends all tracks of a participant that has left; one update will say it for all.
    pub(super) fn end_tracks(&mut self, now: Now, gone: &mut Participant) {
        let sid = gone.state.sid.clone();
        for track in gone.state.publications.keys().cloned().collect::<Vec<_>>() {
            let ended = gone.end_track(&mut self.context, &track);
            self.track_ended(now, &sid, &track, ended);
        }
    }

    /// Whether others saw it.
    fn end_track(&mut self, now: Now, sid: &ParticipantSid, track: &TrackSid) -> bool {
        let Some((participant, context)) = self.participant_mut(sid) else { return false };
        let ended = participant.end_track(context, track);
        self.track_ended(now, sid, track, ended)
    }

    fn track_ended(&mut self, now: Now, sid: &ParticipantSid, track: &TrackSid, ended: Option<EndedTrack>) -> bool {
        let Some(EndedTrack { publication, loudness }) = ended else { return false };
        self.send_speaker_change(sid, loudness);
        if publication.visible {
            self.context.tracks.remove(track);
            self.context.change(Change::TrackEnded { sid: sid.clone(), track: track.clone() });
            self.context.emit_track(now, sid, publication.info, false);
            self.end_subscriptions(now, track);
        }
        publication.visible
    }

    fn retry_queued(&mut self, now: Now, sid: &ParticipantSid) {
        let Some((participant, _)) = self.participant_mut(sid) else { return };
        for request in participant.take_queued() {
            self.on_add_track(now, sid, request);
        }
    }

    /// Ends tracks that a change of permission no longer allows.
    pub(super) fn unpublish_forbidden(&mut self, now: Now, sid: &ParticipantSid) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        let forbidden = participant.forbid_tracks(context);
        self.unpublish(now, sid, &forbidden);
        self.retry_queued(now, sid);
    }

    pub(super) fn on_mute(&mut self, now: Now, sid: &ParticipantSid, request: proto::MuteTrackRequest) {
        if self.set_muted(now, sid, &request.sid, request.muted).is_none() {
            self.refuse_unknown_track(sid, Request::Mute(request));
        }
    }

    fn refuse_unknown_track(&mut self, sid: &ParticipantSid, request: Request) {
        self.with(sid, |participant, context| {
            participant.refuse(context, 0, Refusal::NotFound, "no such track", Some(request));
        });
    }

    /// The track as it is now. Repetitions change and tell nothing.
    pub(super) fn set_muted(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        track: &str,
        muted: bool,
    ) -> Option<proto::TrackInfo> {
        let (participant, context) = self.participant_mut(sid)?;
        let state = &mut participant.state;
        if let Some(pending) = state.pending.iter_mut().find(|pending| pending.sid.as_str() == track) {
            pending.info.muted = muted;
            return Some(pending.info.clone());
        }
        let track: TrackSid = track.parse().ok()?;
        let publication = state.publications.get_mut(&track)?;
        if publication.info.muted == muted {
            return Some(publication.info.clone());
        }
        publication.info.muted = muted;
        let (id, info) = (publication.id, publication.info.clone());
        context.out.command(Command::SetMuted { publication: id, muted });
        let is_seen = participant.note_change(context, &track);
        let loudness = if muted { participant.forget_loudness(id) } else { None };
        if is_seen {
            self.announce(now, sid, Urgency::Now);
        }
        self.send_speaker_change(sid, loudness);
        Some(info)
    }

    pub(super) fn on_update_audio_track(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        request: proto::UpdateLocalAudioTrack,
    ) {
        let features = request.features.clone();
        let found = self.update_track(now, sid, &request.track_sid, |info| {
            info.audio_features = features;
            info.stereo = info.audio_features().any(|feature| feature == proto::AudioTrackFeature::TfStereo);
            info.disable_dtx = info.audio_features().any(|feature| feature == proto::AudioTrackFeature::TfNoDtx);
        });
        if !found {
            self.refuse_unknown_track(sid, Request::UpdateAudioTrack(request));
        }
    }

    pub(super) fn on_update_video_track(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        request: proto::UpdateLocalVideoTrack,
    ) {
        let found = self.update_track(now, sid, &request.track_sid, |info| {
            info.width = request.width;
            info.height = request.height;
        });
        if !found {
            self.refuse_unknown_track(sid, Request::UpdateVideoTrack(request));
        }
    }

    /// Whether there is such a track.
    fn update_track(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        track: &str,
        change: impl FnOnce(&mut proto::TrackInfo),
    ) -> bool {
        let Some((participant, context)) = self.participant_mut(sid) else { return false };
        let state = &mut participant.state;
        if let Some(pending) = state.pending.iter_mut().find(|pending| pending.sid.as_str() == track) {
            change(&mut pending.info);
            return true;
        }
        let Ok(track) = track.parse::<TrackSid>() else { return false };
        let Some(publication) = state.publications.get_mut(&track) else { return false };
        let before = publication.info.clone();
        change(&mut publication.info);
        if publication.info != before && participant.note_change(context, &track) {
            self.announce(now, sid, Urgency::Now);
        }
        true
    }
}

impl Context {
    fn is_full_of_tracks(&self) -> bool {
        self.publications.len() >= ROOM_TRACKS_MAX
    }

    fn emit_track(&mut self, now: Now, sid: &ParticipantSid, track: proto::TrackInfo, published: bool) {
        let Some(member) = self.view.member(sid) else { return };
        let (room, participant) = (self.view.room.clone(), member.info.clone());
        self.emit(
            now,
            match published {
                true => RoomHappening::TrackPublished { room, participant, track },
                false => RoomHappening::TrackUnpublished { room, participant, track },
            },
        );
    }
}

impl Participant {
    /// A client that announces a cid again has given up its earlier requests with it. Those without a track are
    /// dropped. A track that others do not see yet is returned, to be ended, as the client says nothing more of it; one
    /// that they see ends with the client's next offer.
    fn drop_abandoned(&mut self, request: &proto::AddTrackRequest) -> Option<TrackSid> {
        if !request.sid.is_empty() {
            return None;
        }
        let SessionState { pending, queued, publications, publisher, .. } = &mut self.state;
        pending.retain(|pending| pending.request.cid != request.cid);
        queued.retain(|waiting| waiting.cid != request.cid);
        let (track, publication) = publications.iter().find(|(_, known)| known.cid == request.cid && !known.visible)?;
        publisher.negotiation.stop_receiving(&publication.mid);
        Some(track.clone())
    }

    fn check_add_track(
        &self,
        context: &Context,
        request: &proto::AddTrackRequest,
    ) -> Result<AddTrack, (Refusal, &'static str)> {
        let state = &self.state;
        if !state.grants.video.may_publish_source(request.source()) {
            return Err((Refusal::NotAllowed, "does not have permission to publish"));
        }
        if kind_of(request.r#type()).is_none() {
            return Err((Refusal::UnsupportedType, "only audio and video can be published"));
        }
        if !state.grants.video.is_fitting(request.source(), request.r#type()) {
            return Err((Refusal::NotAllowed, "does not have permission to publish"));
        }
        if !request.sid.is_empty() {
            // A backup codec. It is never asked for, but the track it belongs to is named.
            let known = state.publications.get(request.sid.as_str());
            let track = known.ok_or((Refusal::NotFound, "no such track"))?;
            return Ok(AddTrack::Known(Box::new(track.info.clone())));
        }
        if uses_cid(state, &request.cid) {
            return match state.queued.len() < QUEUED_TRACKS_MAX {
                true => Err((Refusal::Queued, "an earlier track has this cid")),
                false => Err((Refusal::LimitExceeded, "too many tracks with this cid")),
            };
        }
        if state.pending.len() >= PENDING_TRACKS_MAX || state.publications.len() >= PUBLICATIONS_MAX {
            return Err((Refusal::LimitExceeded, "too many tracks"));
        }
        if context.is_full_of_tracks() {
            return Err((Refusal::LimitExceeded, TOO_MANY_IN_ROOM));
        }
        if request.encoded_len() > TRACK_BYTES_MAX {
            return Err((Refusal::LimitExceeded, "the description of the track is too long"));
        }
        Ok(AddTrack::Accept)
    }

    /// Returns the track that others see from now on, if there is one.
    fn accept_track(&mut self, context: &mut Context, request: proto::AddTrackRequest) -> Option<TrackSid> {
        let quirks = self.state.quirks;
        let is_withheld =
            |mime: &str| quirks.withheld_from_publishing().any(|withheld| withheld.eq_ignore_ascii_case(mime));
        let enabled: Vec<String> =
            context.config.enabled_codecs.iter().filter(|mime| !is_withheld(mime)).cloned().collect();
        let track = TrackSid::generate_marked(&marker(request.r#type(), request.source()));
        let info = track_info(&track, &request, &enabled);
        self.send_track_published(context, &request.cid, info.clone());
        let pending = PendingTrack { sid: track, request, info, offers: 0 };
        match take_unclaimed(&mut self.state.unclaimed, &pending) {
            Some(unclaimed) => self.publish(context, pending, unclaimed.section),
            None => {
                self.state.pending.push(pending);
                None
            }
        }
    }

    fn send_track_published(&self, context: &mut Context, cid: &str, track: proto::TrackInfo) {
        let message = proto::TrackPublishedResponse { cid: cid.into(), track: Some(track) };
        self.send(context, Response::TrackPublished(message));
    }

    /// Tells the worker what an offer says of the transport.
    fn apply_transport(&mut self, context: &mut Context, diff: &OfferDiff) {
        let transport = &mut self.state.publisher;
        if let Some(fingerprint) = diff.fingerprint {
            let role = DtlsRole::Server;
            context.out.command(Command::SetFingerprint { transport: transport.id, fingerprint, role });
        }
        if let Some(remote) = diff.remote.clone() {
            context.out.command(Command::SetRemoteCredentials { transport: transport.id, remote });
        }
        if diff.ice_restart {
            context.restart_ice(transport);
        }
    }

    /// Publishes what the offer newly sends. Returns the tracks that others see from now on, and those that it sends no
    /// more.
    fn take_sections(&mut self, context: &mut Context, diff: OfferDiff) -> (Vec<TrackSid>, Vec<TrackSid>) {
        for section in &diff.changed {
            self.republish(context, section);
        }
        // Exact matches first, so that a guess does not take what another section names.
        let pending = &self.state.pending;
        let names_pending =
            |section: &SendingSection| pending.iter().any(|pending| is_named(&pending.request, &section.track_id));
        let (named, unnamed): (Vec<_>, Vec<_>) = diff.sending.into_iter().partition(names_pending);
        let sections = named.iter().chain(&unnamed);
        let shown = sections.filter_map(|section| self.take_section(context, section)).collect();
        let state = &mut self.state;
        state.unclaimed.retain(|unclaimed| !diff.ended.contains(&unclaimed.mid));
        state.pending.iter_mut().for_each(|pending| pending.offers = pending.offers.saturating_add(1));
        let publications = state.publications.iter();
        let ended = publications.filter(|(_, p)| diff.ended.contains(&p.mid)).map(|(track, _)| track.clone());
        (shown, ended.collect())
    }

    /// Returns the track that others see from now on, if there is one.
    fn take_section(&mut self, context: &mut Context, sending: &SendingSection) -> Option<TrackSid> {
        let state = &mut self.state;
        if !state.grants.video.may_publish() || state.unclaimed.len() >= PENDING_TRACKS_MAX {
            return None;
        }
        let matching = find_pending(&state.pending, sending);
        if context.is_full_of_tracks() {
            let pending = matching.map(|at| state.pending.remove(at))?;
            self.refuse_announced(context, pending);
            return None;
        }
        let settings = matching
            .and_then(|at| state.pending.get(at))
            .map_or_else(ReceiveSettings::default, |pending| receive_settings(&pending.request, &sending.track_id));
        let section = match state.publisher.negotiation.receive(&sending.mid, &settings) {
            Ok(section) => section,
            Err(error) => {
                tracing::info!(participant = %state.sid, mid = %sending.mid, %error, "section refused");
                return None;
            }
        };
        match matching {
            Some(at) => {
                let pending = state.pending.remove(at);
                self.publish(context, pending, section)
            }
            None => {
                let unclaimed = UnclaimedSection { mid: sending.mid, track_id: sending.track_id.clone(), section };
                state.unclaimed.push(unclaimed);
                None
            }
        }
    }

    /// Refuses a track that was announced before the room was full, and gets its section now that it is.
    fn refuse_announced(&self, context: &mut Context, pending: PendingTrack) {
        context.out.push(RoomEffect::TrackRefused);
        let echo = Some(Request::AddTrack(pending.request));
        self.refuse(context, 0, Refusal::LimitExceeded, TOO_MANY_IN_ROOM, echo);
    }

    fn republish(&mut self, context: &mut Context, sending: &SendingSection) {
        let SessionState { sid, publisher, publications, .. } = &mut self.state;
        let Some(publication) = publications.values_mut().find(|publication| publication.mid == sending.mid) else {
            return;
        };
        let settings = receive_settings(&publication.request, &sending.track_id);
        match publisher.negotiation.receive(&sending.mid, &settings) {
            Ok(section) => {
                publication.section = section.clone();
                let (publication, transport) = (publication.id, publisher.id);
                context.out.command(Command::Publish { publication, transport, section });
            }
            Err(error) => tracing::info!(participant = %sid, mid = %sending.mid, %error, "section refused"),
        }
    }

    /// An announced track has its section. Returns its sid if others are to see it without waiting for its media.
    fn publish(&mut self, context: &mut Context, pending: PendingTrack, section: ReceiveSection) -> Option<TrackSid> {
        let id = context.ids.publication();
        let codec = section.codecs.first()?.codec;
        let transport = self.state.publisher.id;
        let shown_by_packet = section.kind == MediaKind::Video && self.state.quirks.has(Quirk::VideoShownByPacket);
        let shown_at_once = !shown_by_packet && section.layers.iter().any(|layer| layer.ssrc.is_some());
        let muted = pending.info.muted;
        let mut info = pending.info;
        describe_media(&mut info, &section, codec);
        let publication = Publication {
            id,
            cid: pending.request.cid.clone(),
            request: pending.request,
            mid: section.mid,
            codec,
            info,
            visible: false,
            subscribed_sent: false,
            section: section.clone(),
        };
        self.state.publications.insert(pending.sid.clone(), publication);
        context.publications.insert(id, self.state.sid.clone());
        context.out.command(Command::Publish { publication: id, transport, section });
        if muted {
            context.out.command(Command::SetMuted { publication: id, muted });
        }
        shown_at_once.then_some(pending.sid)
    }

    /// The track as others see it from now on.
    fn make_visible(&mut self, now: Now, context: &mut Context, track: &TrackSid) -> Option<proto::TrackInfo> {
        let publication = self.state.publications.get_mut(track)?;
        publication.visible = true;
        publication.info.version = Some(proto::TimedVersion { unix_micro: now.unix_us(), ticks: 0 });
        context.tracks.insert(track.clone(), self.state.sid.clone());
        let info = publication.info.clone();
        self.note_change(context, track);
        Some(info)
    }

    /// Changes what members see of a track. Whether others see it, and so an update is to be sent.
    fn note_change(&self, context: &mut Context, track: &TrackSid) -> bool {
        let Some(publication) = self.state.publications.get(track).filter(|known| known.visible) else { return false };
        let info = Box::new(publication.info.clone());
        context.change(Change::Track { sid: self.state.sid.clone(), track: info });
        true
    }

    fn end_track(&mut self, context: &mut Context, track: &TrackSid) -> Option<EndedTrack> {
        let publication = self.state.publications.remove(track)?;
        context.publications.remove(&publication.id);
        context.out.command(Command::Unpublish { publication: publication.id });
        let loudness = self.forget_loudness(publication.id);
        Some(EndedTrack { publication, loudness })
    }

    /// AddTracks whose cid is free now.
    fn take_queued(&mut self) -> Vec<proto::AddTrackRequest> {
        let queued = std::mem::take(&mut self.state.queued);
        let (waiting, free) = queued.into_iter().partition(|request| uses_cid(&self.state, &request.cid));
        self.state.queued = waiting;
        free
    }

    /// Tells the client which of its tracks may not be published any more, and forgets those without media. Returns the
    /// published ones.
    fn forbid_tracks(&mut self, context: &mut Context) -> Vec<TrackSid> {
        let SessionState { grants, pending, publications, publisher, .. } = &mut self.state;
        let is_forbidden = |info: &proto::TrackInfo| !grants.video.may_publish_source(info.source());
        let mut forbidden = Vec::new();
        for (track, publication) in publications.iter().filter(|(_, publication)| is_forbidden(&publication.info)) {
            forbidden.push(track.clone());
            publisher.negotiation.stop_receiving(&publication.mid);
        }
        let announced: Vec<_> = pending.extract_if(.., |pending| is_forbidden(&pending.info)).collect();
        for track in forbidden.iter().chain(announced.iter().map(|pending| &pending.sid)) {
            let track_sid = track.to_string();
            let message = match self.state.quirks.has(Quirk::MutedForUnpublished) {
                true => Response::Mute(proto::MuteTrackRequest { sid: track_sid, muted: true }),
                false => Response::TrackUnpublished(proto::TrackUnpublishedResponse { track_sid }),
            };
            self.send(context, message);
        }
        forbidden
    }
}

/// A track that was taken from its participant.
struct EndedTrack {
    publication: Publication,
    /// How loud its participant is without it, if that is to be sent.
    loudness: Option<f32>,
}

/// Why a participant publishes nothing though it has few tracks itself.
const TOO_MANY_IN_ROOM: &str = "too many tracks in the room";

enum AddTrack {
    Accept,
    /// An own track that is named again, for a backup codec.
    Known(Box<proto::TrackInfo>),
}

fn uses_cid(state: &SessionState, cid: &str) -> bool {
    state.pending.iter().any(|pending| pending.request.cid == cid)
        || state.publications.values().any(|publication| publication.cid == cid)
}

/// Whether the request names this track id of an SDP.
fn is_named(request: &proto::AddTrackRequest, track_id: &str) -> bool {
    !track_id.is_empty()
        && (request.cid == track_id || request.simulcast_codecs.iter().any(|codec| codec.cid == track_id))
}

/// The announced track of a section, by its name. Some browsers have other names in their SDP, and so has libwebrtc for
/// a track that is published again: then the first of its kind. Those that were missing in earlier offers come last,
/// since the client may have given them up.
fn find_pending(pending: &[PendingTrack], section: &SendingSection) -> Option<usize> {
    let of_its_kind = || {
        let all = pending.iter().enumerate();
        let likely = all.filter(|(_, pending)| kind_of(pending.request.r#type()) == Some(section.kind));
        likely.min_by_key(|(_, pending)| pending.offers).map(|(at, _)| at)
    };
    pending.iter().position(|pending| is_named(&pending.request, &section.track_id)).or_else(of_its_kind)
}

fn take_unclaimed(unclaimed: &mut Vec<UnclaimedSection>, pending: &PendingTrack) -> Option<UnclaimedSection> {
    let kind = kind_of(pending.request.r#type());
    let at = unclaimed
        .iter()
        .position(|section| is_named(&pending.request, &section.track_id))
        .or_else(|| unclaimed.iter().position(|section| Some(section.section.kind) == kind))?;
    Some(unclaimed.remove(at))
}
