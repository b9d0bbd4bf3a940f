//! Publications: what a room decides of them.

use shared::media::MediaKind;

use super::Engine;
use super::hosted::{Hosted, Stream};
use crate::command::Event;
use crate::demux::Discard;
use crate::id::{PublicationId, RoomId, TransportId};
use crate::key::{Keyed, PublicationKey};
use crate::publication::{Origin, Publication};
use crate::section::{ExtensionIds, ReceiveSection};
use crate::twcc::recorder::TwccRecorder;

/// SSRCs that one transport may bind.
pub(super) const STREAMS_MAX: usize = 64;

impl Engine {
    pub(super) fn publish(&mut self, id: PublicationId, transport: TransportId, section: ReceiveSection) {
        let Some(transport) = self.transport_key(transport) else { return };
        let hosted = &mut self.transports[transport];
        merge_extensions(&mut hosted.receive_extensions, &section.extensions);
        if hosted.receive_extensions.transport_cc.is_some() && hosted.twcc.is_none() {
            hosted.twcc = Some(Box::new(TwccRecorder::new(hosted.downlink.ssrc)));
        }
        let is_new = !self.publication_keys.contains_key(&id);
        let key = self.add_publication(id, Origin::Transport(transport), section);
        let hosted = &mut self.transports[transport];
        if is_new {
            hosted.publications.push(key);
        }
        // SSRCs are bound anew: declared ones at once, the others by what their packets say.
        hosted.streams.retain(|(_, stream)| stream.publication != key);
        let publication = &self.publications[key];
        for (layer, state) in publication.layers.iter().enumerate() {
            for (ssrc, rtx) in [(state.ssrc, false), (state.spec.rtx_ssrc.or(state.rtx_ssrc), true)] {
                if let Some(ssrc) = ssrc
                    && hosted.streams.len() < STREAMS_MAX
                {
                    hosted.streams.push((ssrc.0, Stream { publication: key, layer: layer as u8, rtx }));
                }
            }
        }
    }

    /// Adds a publication, or replaces the section of the one with this id.
    pub(super) fn add_publication(
        &mut self,
        id: PublicationId,
        origin: Origin,
        section: ReceiveSection,
    ) -> PublicationKey {
        let Some(&key) = self.publication_keys.get(&id) else {
            let key = self.publications.insert(Publication::new(id, origin, section, self.config.audio));
            self.publication_keys.insert(id, key);
            return key;
        };
        let publication = &mut self.publications[key];
        publication.renegotiate(section);
        let codecs = &publication.section.codecs;
        for &subscription in &publication.subscriptions {
            let section = self.subscriptions[subscription].section.clone();
            self.subscriptions[subscription].renegotiate(section, codecs);
        }
        key
    }

    pub(super) fn set_muted(&mut self, id: PublicationId, muted: bool) {
        let Some(&key) = self.publication_keys.get(&id) else {
            self.stats.count(Discard::StaleCommand);
            return;
        };
        let publication = &mut self.publications[key];
        if publication.muted && !muted {
            for &subscription in &publication.subscriptions {
                self.subscriptions[subscription].restart();
            }
            if publication.section.kind == MediaKind::Video {
                publication.layers.iter_mut().for_each(|layer| layer.want_keyframe());
            }
        }
        if let (true, Some(level)) = (muted, &mut publication.audio_level) {
            level.reset();
        }
        publication.muted = muted;
    }

    pub(super) fn remove_publication(&mut self, key: PublicationKey) {
        let Some(publication) = self.publications.remove(key) else { return };
        for subscription in &publication.subscriptions {
            self.remove_subscription(*subscription);
        }
        self.publication_keys.remove(&publication.id);
        if let Origin::Transport(transport) = publication.origin
            && let Some(hosted) = self.transports.get_mut(transport)
        {
            hosted.publications.retain(|other| *other != key);
            hosted.streams.retain(|(_, stream)| stream.publication != key);
        }
    }

    pub(super) fn emit(&mut self, publication: PublicationKey, event: impl FnOnce(PublicationId) -> Event) {
        let publication = &self.publications[publication];
        if let Some(room) = room_of(publication.origin, &self.transports) {
            self.events.push_back((room, event(publication.id)));
        }
    }
}

/// Whose events those about a publication are.
pub(super) fn room_of(origin: Origin, transports: &Keyed<TransportId, Hosted>) -> Option<RoomId> {
    match origin {
        Origin::Transport(key) => transports.get(key).map(|hosted| hosted.room),
        Origin::Local(room) => Some(room),
    }
}

fn merge_extensions(into: &mut ExtensionIds, from: &ExtensionIds) {
    let fields = |ids: &ExtensionIds| {
        [ids.mid, ids.rid, ids.repaired_rid, ids.audio_level, ids.transport_cc, ids.dependency_descriptor]
    };
    let [mid, rid, repaired_rid, audio_level, transport_cc, dependency_descriptor] = fields(from);
    into.mid = mid.or(into.mid);
    into.rid = rid.or(into.rid);
    into.repaired_rid = repaired_rid.or(into.repaired_rid);
    into.audio_level = audio_level.or(into.audio_level);
    into.transport_cc = transport_cc.or(into.transport_cc);
    into.dependency_descriptor = dependency_descriptor.or(into.dependency_descriptor);
}
