//! Who speaks, and how good connections are (docs/livekit.md 7.10, 7.11).

use livekit_protocol as proto;
use proto::ConnectionQuality;
use proto::signal_response::Message as Response;
use sfu::command::{PublicationId, ReceiveStats};
use shared::id::ParticipantSid;

use super::timer::{Now, Timer};
use super::{QUALITY_INTERVAL, Room, RoomEffect};
use crate::participant::{Participant, Publication, SessionState, Speaking};
use crate::quality::{Score, worst};
use crate::quirks::Quirk;

impl Room {
    /// A publication's loudness changed; a participant is as loud as its loudest microphone. As with livekit-server, no
    /// other sound makes somebody a speaker.
    pub(super) fn on_audio_activity(&mut self, publication: PublicationId, level: f32) {
        let Some((participant, _)) = self.of_publication(publication) else { return };
        let is_microphone =
            |known: &Publication| known.id == publication && known.info.source() == proto::TrackSource::Microphone;
        if !participant.state.publications.values().any(is_microphone) {
            return;
        }
        let level = if level.is_finite() { level.clamp(0.0, 1.0) } else { 0.0 };
        participant.transient.speaking.levels.insert(publication, level);
        let (sid, changed) = (participant.state.sid.clone(), participant.transient.speaking.update());
        self.send_speaker_change(&sid, changed);
    }

    /// Tells a change to the speaker itself and to those who hear it.
    pub(super) fn send_speaker_change(&mut self, sid: &ParticipantSid, changed: Option<f32>) {
        if let Some(level) = changed {
            self.send_speaker(sid, level);
        }
    }

    fn send_speaker(&mut self, sid: &ParticipantSid, level: f32) {
        let hears = |state: &SessionState| {
            !state.quirks.has(Quirk::NoSpeakersChanged)
                && (state.sid == *sid || state.subscriptions.values().any(|known| known.publisher == *sid))
        };
        let listeners = self.connections_where(hears);
        self.context.out.send_all(listeners, changed(sid, level));
    }

    pub(super) fn simulate_speaker(&mut self, sid: &ParticipantSid) {
        self.send_speaker(sid, 1.0);
    }

    pub(super) fn stop_simulated_speaker(&mut self, sid: &ParticipantSid) {
        let level = self.participants.get(sid).map_or(0.0, |participant| participant.transient.speaking.sent);
        self.send_speaker(sid, level);
    }

    pub(super) fn on_stats(&mut self, publication: PublicationId, stats: ReceiveStats) {
        if let Some((participant, _)) = self.of_publication(publication) {
            participant.transient.stats.insert(publication, stats);
        }
    }

    /// Tells each participant the quality of itself and of those it subscribes to, where it changed.
    pub(super) fn report_quality(&mut self, now: Now) {
        if self.participants.is_empty() {
            return;
        }
        self.context.timers.set(Timer::Quality, now.at + QUALITY_INTERVAL);
        let scores: std::collections::BTreeMap<ParticipantSid, Score> =
            self.participants.iter().filter(|(_, p)| p.state.active).map(|(sid, p)| (sid.clone(), score(p))).collect();
        self.context.out.push(RoomEffect::Quality(scores.values().copied().collect()));
        let hears = |p: &Participant| p.transient.connection.is_some() && !p.state.quirks.has(Quirk::NoQuality);
        for (sid, participant) in self.participants.iter_mut().filter(|(_, p)| hears(p)) {
            let lost_is_poor = participant.state.quirks.has(Quirk::LostIsPoor);
            let mut seen: Vec<&ParticipantSid> =
                participant.state.subscriptions.values().map(|known| &known.publisher).collect();
            seen.push(sid);
            seen.sort();
            seen.dedup();
            let sent = &mut participant.transient.quality_sent;
            let mut updates = Vec::new();
            for other in seen {
                let Some(mut score) = scores.get(other).copied() else { continue };
                if lost_is_poor && score.quality == ConnectionQuality::Lost {
                    score.quality = ConnectionQuality::Poor;
                }
                if sent.get(other) != Some(&score.quality) {
                    sent.insert(other.clone(), score.quality);
                    updates.push(info(other, &score));
                }
            }
            sent.retain(|other, _| scores.contains_key(other));
            if !updates.is_empty() {
                let message = Response::ConnectionQuality(proto::ConnectionQualityUpdate { updates });
                self.context.out.send(participant.transient.connection, message);
            }
        }
    }
}

impl Participant {
    /// A publication is muted or gone. The level to send, if it is another one now.
    pub(super) fn forget_loudness(&mut self, publication: PublicationId) -> Option<f32> {
        self.transient.stats.remove(&publication);
        self.transient.speaking.levels.remove(&publication)?;
        self.transient.speaking.update()
    }
}

impl Speaking {
    /// The level to send, if it is another one than was sent last.
    fn update(&mut self) -> Option<f32> {
        let level = self.levels.values().copied().fold(0.0, f32::max);
        let changed = level != self.sent;
        self.sent = level;
        changed.then_some(level)
    }
}

fn score(participant: &Participant) -> Score {
    if participant.transient.lost {
        return Score { quality: ConnectionQuality::Lost, score: 1.0 };
    }
    let publications = participant.state.publications.values();
    worst(publications.filter_map(|publication| {
        let stats = participant.transient.stats.get(&publication.id)?;
        (!publication.info.muted).then(|| Score::of(publication.codec, stats))
    }))
}

fn info(sid: &ParticipantSid, score: &Score) -> proto::ConnectionQualityInfo {
    proto::ConnectionQualityInfo { participant_sid: sid.to_string(), quality: score.quality as i32, score: score.score }
}

/// One speaker's change.
pub(super) fn changed(sid: &ParticipantSid, level: f32) -> Response {
    let speaker = proto::SpeakerInfo { sid: sid.to_string(), level, active: level > 0.0 };
    Response::SpeakersChanged(proto::SpeakersChanged { speakers: vec![speaker] })
}
