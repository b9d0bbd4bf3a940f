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

use super::timer::Now;
use super::track::{describe_codec, describe_media, kind_of, marker, publish_settings, set_layer_ssrc, track_info};
use super::updates::Urgency;
use super::view::Change;
use super::{Room, RoomEffect};
use crate::event::RoomHappening;
use crate::id::DescriptionId;
use crate::negotiation::{OfferNews, PublishSettings, SendingSection};
use crate::participant::{
    PENDING_TRACKS_MAX, PUBLICATIONS_MAX, PendingTrack, Publication, QUEUED_TRACKS_MAX, ROOM_TRACKS_MAX, SessionState,
    TRACK_BYTES_MAX, UnclaimedSection,
};
use crate::quirks::Quirk;

impl Room {
    pub(super) fn on_add_track(&mut self, now: Now, sid: &ParticipantSid, request: proto::AddTrackRequest) {
        self.drop_abandoned(now, sid, &request);
        match self.check_add_track(sid, &request) {
            Ok(AddTrack::Accept) => self.accept_track(now, sid, request),
            Ok(AddTrack::Known(track)) => self.send_track_published(sid, &request.cid, *track),
            Err((reason, text)) => {
                if reason == Refusal::Queued
                    && let Some(participant) = self.participants.get_mut(sid)
                {
                    participant.state.queued.push(request.clone());
                }
                if reason == Refusal::LimitExceeded {
                    self.out.push(RoomEffect::TrackRefused);
                }
                self.refuse(sid, 0, reason, text, Some(Request::AddTrack(request)));
            }
        }
    }

    /// A client that announces a cid again has given up the earlier requests for it. One that became a track that sends
    /// ends with the client's next offer; of the others the client says nothing more.
    fn drop_abandoned(&mut self, now: Now, sid: &ParticipantSid, request: &proto::AddTrackRequest) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if !request.sid.is_empty() {
            return;
        }
        let SessionState { pending, queued, publications, publisher, .. } = &mut participant.state;
        pending.retain(|pending| pending.request.cid != request.cid);
        queued.retain(|waiting| waiting.cid != request.cid);
        let silent = publications.iter().find(|(_, known)| known.cid == request.cid && !known.visible);
        if let Some((track, publication)) = silent {
            let track = track.clone();
            publisher.negotiation.unpublish(&publication.mid);
            self.end_track(now, sid, &track);
        }
    }

    fn check_add_track(
        &self,
        sid: &ParticipantSid,
        request: &proto::AddTrackRequest,
    ) -> Result<AddTrack, (Refusal, &'static str)> {
        let Some(participant) = self.participants.get(sid) else {
            return Err((Refusal::NotAllowed, "not in the room"));
        };
        let state = &participant.state;
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
        if self.is_full_of_tracks() {
            return Err((Refusal::LimitExceeded, TOO_MANY_IN_ROOM));
        }
        if request.encoded_len() > TRACK_BYTES_MAX {
            return Err((Refusal::LimitExceeded, "the description of the track is too long"));
        }
        Ok(AddTrack::Accept)
    }

    fn is_full_of_tracks(&self) -> bool {
        self.publications.len() >= ROOM_TRACKS_MAX
    }

    /// A track that was announced while there was room for it gets its section when there is none.
    fn refuse_announced(&mut self, sid: &ParticipantSid, pending: PendingTrack) {
        self.out.push(RoomEffect::TrackRefused);
        let echo = Some(Request::AddTrack(pending.request));
        self.refuse(sid, 0, Refusal::LimitExceeded, TOO_MANY_IN_ROOM, echo);
    }

    fn accept_track(&mut self, now: Now, sid: &ParticipantSid, request: proto::AddTrackRequest) {
        let Some(participant) = self.participants.get(sid) else { return };
        let quirks = participant.state.quirks;
        let is_withheld =
            |mime: &str| quirks.withheld_from_publishing().any(|withheld| withheld.eq_ignore_ascii_case(mime));
        let enabled: Vec<String> =
            self.config.enabled_codecs.iter().filter(|mime| !is_withheld(mime)).cloned().collect();
        let track = TrackSid::generate_marked(&marker(request.r#type(), request.source()));
        let info = track_info(&track, &request, &enabled);
        self.send_track_published(sid, &request.cid, info.clone());
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let pending = PendingTrack { sid: track, request, info, offers: 0 };
        match take_unclaimed(&mut participant.state.unclaimed, &pending) {
            Some(unclaimed) => {
                let shown = self.publish(sid, pending, unclaimed.section);
                self.show(now, sid, shown.as_slice());
            }
            None => participant.state.pending.push(pending),
        }
    }

    fn send_track_published(&mut self, sid: &ParticipantSid, cid: &str, track: proto::TrackInfo) {
        let message = proto::TrackPublishedResponse { cid: cid.into(), track: Some(track) };
        self.out.send(self.connection_of(sid), Response::TrackPublished(message));
    }

    /// A client's offer: v0 for what it publishes, v1 for everything.
    pub(super) fn on_offer(&mut self, now: Now, sid: &ParticipantSid, offer: proto::SessionDescription) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if offer.r#type != "offer" {
            tracing::debug!(participant = %sid, kind = %offer.r#type, "not an offer");
            return;
        }
        let publisher = &mut participant.state.publisher;
        let news = match publisher.negotiation.read_offer(&offer.sdp) {
            Ok(news) => news,
            Err(error) => {
                tracing::info!(participant = %sid, %error, "offer refused");
                self.remove(now, sid, Reason::StateMismatch, Some(Action::Reconnect));
                return;
            }
        };
        publisher.last_offer = Some(DescriptionId(offer.id));
        self.take_transport_news(sid, &news);
        self.lose_sections(sid, &news.lost);
        let mut answered = news.rebound.clone();
        let ended = self.take_sections(now, sid, news);
        answered.extend(self.bind_waiting(sid));
        self.answer(now, sid, offer.id);
        self.send_in_answered(now, sid, answered);
        self.unpublish(now, sid, &ended);
    }

    fn take_transport_news(&mut self, sid: &ParticipantSid, news: &OfferNews) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let transport = &mut participant.state.publisher;
        if let Some(fingerprint) = news.fingerprint {
            let role = DtlsRole::Server;
            self.out.command(Command::SetFingerprint { transport: transport.id, fingerprint, role });
        }
        if let Some(remote) = news.remote.clone() {
            self.out.command(Command::SetRemoteCredentials { transport: transport.id, remote });
        }
        if news.ice_restart {
            let local = (self.host.new_credentials)();
            transport.local = local.clone();
            transport.negotiation.restart_ice(local.clone());
            self.out.command(Command::RestartIce { transport: transport.id, local });
        }
    }

    /// Publishes what the offer newly sends. Returns the tracks that it sends no more.
    fn take_sections(&mut self, now: Now, sid: &ParticipantSid, news: OfferNews) -> Vec<TrackSid> {
        for section in &news.changed {
            self.republish(sid, section);
        }
        // Exact matches first, so that a guess does not take what another section names.
        let (named, unnamed): (Vec<_>, Vec<_>) =
            news.sending.into_iter().partition(|section| self.names_pending(sid, section));
        let mut shown = Vec::new();
        for section in named.iter().chain(&unnamed) {
            shown.extend(self.take_section(sid, section));
        }
        self.show(now, sid, &shown);
        let Some(participant) = self.participants.get_mut(sid) else { return Vec::new() };
        let state = &mut participant.state;
        state.unclaimed.retain(|unclaimed| !news.ended.contains(&unclaimed.mid));
        state.pending.iter_mut().for_each(|pending| pending.offers = pending.offers.saturating_add(1));
        let publications = state.publications.iter();
        publications.filter(|(_, p)| news.ended.contains(&p.mid)).map(|(track, _)| track.clone()).collect()
    }

    fn names_pending(&self, sid: &ParticipantSid, section: &SendingSection) -> bool {
        let pending = self.participants.get(sid).map(|participant| participant.state.pending.as_slice());
        pending.unwrap_or_default().iter().any(|pending| is_named(&pending.request, &section.track_id))
    }

    /// Returns the track that others see from now on, if there is one.
    fn take_section(&mut self, sid: &ParticipantSid, sending: &SendingSection) -> Option<TrackSid> {
        let is_full = self.is_full_of_tracks();
        let state = &mut self.participants.get_mut(sid)?.state;
        if !state.grants.video.may_publish() || state.unclaimed.len() >= PENDING_TRACKS_MAX {
            return None;
        }
        let matching = find_pending(&state.pending, sending);
        if is_full {
            let pending = matching.map(|at| state.pending.remove(at))?;
            self.refuse_announced(sid, pending);
            return None;
        }
        let settings = matching
            .and_then(|at| state.pending.get(at))
            .map_or_else(PublishSettings::default, |pending| publish_settings(&pending.request, &sending.track_id));
        let section = match state.publisher.negotiation.publish(&sending.mid, &settings) {
            Ok(section) => section,
            Err(error) => {
                tracing::info!(participant = %sid, mid = %sending.mid, %error, "section refused");
                return None;
            }
        };
        match matching {
            Some(at) => {
                let pending = state.pending.remove(at);
                self.publish(sid, pending, section)
            }
            None => {
                let unclaimed = UnclaimedSection { mid: sending.mid, track_id: sending.track_id.clone(), section };
                state.unclaimed.push(unclaimed);
                None
            }
        }
    }

    fn republish(&mut self, sid: &ParticipantSid, sending: &SendingSection) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let SessionState { publisher, publications, .. } = &mut participant.state;
        let Some(publication) = publications.values_mut().find(|publication| publication.mid == sending.mid) else {
            return;
        };
        let settings = publish_settings(&publication.request, &sending.track_id);
        match publisher.negotiation.publish(&sending.mid, &settings) {
            Ok(section) => {
                publication.section = section.clone();
                let (publication, transport) = (publication.id, publisher.id);
                self.out.command(Command::Publish { publication, transport, section });
            }
            Err(error) => tracing::info!(participant = %sid, mid = %sending.mid, %error, "section refused"),
        }
    }

    /// An announced track has its section. Returns its sid if others are to see it without waiting for its media.
    fn publish(&mut self, sid: &ParticipantSid, pending: PendingTrack, section: ReceiveSection) -> Option<TrackSid> {
        let id = self.ids.publication();
        let participant = self.participants.get_mut(sid)?;
        let codec = section.codecs.first()?.codec;
        let transport = participant.state.publisher.id;
        let shown_by_packet =
            section.kind == MediaKind::Video && participant.state.quirks.has(Quirk::VideoShownByPacket);
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
            subscribed_told: false,
            section: section.clone(),
        };
        participant.state.publications.insert(pending.sid.clone(), publication);
        self.publications.insert(id, sid.clone());
        self.out.command(Command::Publish { publication: id, transport, section });
        if muted {
            self.out.command(Command::SetMuted { publication: id, muted });
        }
        shown_at_once.then_some(pending.sid)
    }

    /// Makes tracks visible to everybody, who are told of all of them at once.
    fn show(&mut self, now: Now, sid: &ParticipantSid, tracks: &[TrackSid]) {
        let mut infos = Vec::new();
        for track in tracks {
            let Some(participant) = self.participants.get_mut(sid) else { return };
            let Some(publication) = participant.state.publications.get_mut(track) else { continue };
            publication.visible = true;
            publication.info.version = Some(proto::TimedVersion { unix_micro: now.unix_us(), ticks: 0 });
            let info = publication.info.clone();
            self.tracks.insert(track.clone(), sid.clone());
            self.change(Change::Track { sid: sid.clone(), track: Box::new(info.clone()) });
            infos.push(info);
        }
        if infos.is_empty() {
            return;
        }
        self.introduce_publisher(sid);
        self.announce(now, sid, Urgency::Now);
        for info in infos {
            self.tell_track(now, sid, info, true);
        }
        self.counts_changed(now);
        for track in tracks {
            self.offer_track(now, track);
        }
    }

    fn tell_track(&mut self, now: Now, sid: &ParticipantSid, track: proto::TrackInfo, published: bool) {
        let Some(member) = self.view.member(sid) else { return };
        let (room, participant) = (self.view.room.clone(), member.info.clone());
        self.tell(
            now,
            match published {
                true => RoomHappening::TrackPublished { room, participant, track },
                false => RoomHappening::TrackUnpublished { room, participant, track },
            },
        );
    }

    /// Tells everybody what changed of a visible track.
    fn show_again(&mut self, now: Now, sid: &ParticipantSid, track: &TrackSid) {
        if self.note_change(sid, track) {
            self.announce(now, sid, Urgency::Now);
        }
    }

    /// Whether others see the track, and so are to be told.
    fn note_change(&mut self, sid: &ParticipantSid, track: &TrackSid) -> bool {
        let Some(participant) = self.participants.get(sid) else { return false };
        let Some(publication) = participant.state.publications.get(track).filter(|known| known.visible) else {
            return false;
        };
        let info = Box::new(publication.info.clone());
        self.change(Change::Track { sid: sid.clone(), track: info });
        true
    }

    pub(super) fn on_layer_started(&mut self, now: Now, id: PublicationId, layer: u8, ssrc: Ssrc, codec: Codec) {
        let Some(sid) = self.publications.get(&id).cloned() else { return };
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
        let Some(participant) = self.participants.get_mut(sid) else { return };
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
            // Before the track is shown anew.
            true if codec_changed => self.show_again(now, sid, &track),
            // The first packets of a track's layers come together.
            true if changed => {
                self.note_change(sid, &track);
                self.announce_soon(now, sid);
            }
            true => {}
            false => self.show(now, sid, std::slice::from_ref(&track)),
        }
        if codec_changed {
            self.restart_subscriptions(now, &track);
        }
    }

    /// Ends tracks of a participant that stays; the others are told of all of them at once.
    pub(super) fn unpublish(&mut self, now: Now, sid: &ParticipantSid, tracks: &[TrackSid]) {
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

    /// Ends all tracks of a participant that leaves; one update will say it for all.
    pub(super) fn unpublish_all(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        let tracks: Vec<_> = participant.state.publications.keys().cloned().collect();
        for track in tracks {
            self.end_track(now, sid, &track);
        }
    }

    /// Whether others saw it.
    fn end_track(&mut self, now: Now, sid: &ParticipantSid, track: &TrackSid) -> bool {
        let Some(participant) = self.participants.get_mut(sid) else { return false };
        let Some(publication) = participant.state.publications.remove(track) else { return false };
        self.publications.remove(&publication.id);
        self.out.command(Command::Unpublish { publication: publication.id });
        self.forget_loudness(sid, publication.id);
        if publication.visible {
            self.tracks.remove(track);
            self.change(Change::TrackEnded { sid: sid.clone(), track: track.clone() });
            self.tell_track(now, sid, publication.info, false);
            self.end_subscriptions(now, track);
        }
        publication.visible
    }

    fn retry_queued(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let state = &mut participant.state;
        let queued = std::mem::take(&mut state.queued);
        let (waiting, free): (Vec<_>, Vec<_>) = queued.into_iter().partition(|request| uses_cid(state, &request.cid));
        state.queued = waiting;
        for request in free {
            self.on_add_track(now, sid, request);
        }
    }

    /// Tracks that a change of permission no longer allows.
    pub(super) fn unpublish_forbidden(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let state = &participant.state;
        let forbidden: Vec<TrackSid> = state
            .publications
            .iter()
            .filter(|(_, publication)| !state.grants.video.may_publish_source(publication.info.source()))
            .map(|(track, _)| track.clone())
            .collect();
        let SessionState { pending, .. } = state;
        let pending_forbidden: Vec<TrackSid> = pending
            .iter()
            .filter(|pending| !state.grants.video.may_publish_source(pending.info.source()))
            .map(|pending| pending.sid.clone())
            .collect();
        let quirks = state.quirks;
        participant.state.pending.retain(|pending| !pending_forbidden.contains(&pending.sid));
        let SessionState { publisher, publications, .. } = &mut participant.state;
        for publication in forbidden.iter().filter_map(|track| publications.get(track)) {
            publisher.negotiation.unpublish(&publication.mid);
        }
        for track in forbidden.iter().chain(&pending_forbidden) {
            let track_sid = track.to_string();
            let message = match quirks.has(Quirk::MutedForUnpublished) {
                true => Response::Mute(proto::MuteTrackRequest { sid: track_sid, muted: true }),
                false => Response::TrackUnpublished(proto::TrackUnpublishedResponse { track_sid }),
            };
            self.out.send(self.connection_of(sid), message);
        }
        self.unpublish(now, sid, &forbidden);
        self.retry_queued(now, sid);
    }

    pub(super) fn on_mute(&mut self, now: Now, sid: &ParticipantSid, request: proto::MuteTrackRequest) {
        if self.set_muted(now, sid, &request.sid, request.muted).is_none() {
            self.refuse(sid, 0, Refusal::NotFound, "no such track", Some(Request::Mute(request)));
        }
    }

    /// The track as it is now. Repetitions change and tell nothing.
    pub(super) fn set_muted(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        track: &str,
        muted: bool,
    ) -> Option<proto::TrackInfo> {
        let state = &mut self.participants.get_mut(sid)?.state;
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
        self.out.command(Command::SetMuted { publication: id, muted });
        self.show_again(now, sid, &track);
        if muted {
            self.forget_loudness(sid, id);
        }
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
            self.refuse(sid, 0, Refusal::NotFound, "no such track", Some(Request::UpdateAudioTrack(request)));
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
            self.refuse(sid, 0, Refusal::NotFound, "no such track", Some(Request::UpdateVideoTrack(request)));
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
        let Some(participant) = self.participants.get_mut(sid) else { return false };
        let state = &mut participant.state;
        if let Some(pending) = state.pending.iter_mut().find(|pending| pending.sid.as_str() == track) {
            change(&mut pending.info);
            return true;
        }
        let Ok(track) = track.parse::<TrackSid>() else { return false };
        let Some(publication) = state.publications.get_mut(&track) else { return false };
        let before = publication.info.clone();
        change(&mut publication.info);
        if publication.info != before {
            self.show_again(now, sid, &track);
        }
        true
    }
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

/// By name. Some browsers have other names in their SDP, and so has libwebrtc for a track that is published again: then
/// the first of its kind, those last that earlier offers did not have, since the client may have given them up.
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
