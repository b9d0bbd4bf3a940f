//! Publications: what a room decides of them.

use shared::media::MediaKind;

use super::Engine;
use super::hosted::Stream;
use crate::command::{Event, ExtensionIds, PublicationId, ReceiveSection, TransportId};
use crate::demux::Discard;
use crate::key::PublicationKey;
use crate::publication::Publication;
use crate::twcc::TwccRecorder;

/// SSRCs that one transport may bind.
pub(super) const STREAMS_MAX: usize = 64;

impl Engine {
    pub(super) fn publish(&mut self, id: PublicationId, transport: TransportId, section: ReceiveSection) {
        let Some(transport_key) = self.transport_key(transport) else { return };
        let hosted = &mut self.transports[transport_key];
        merge_extensions(&mut hosted.receive_extensions, &section.extensions);
        if hosted.receive_extensions.transport_cc.is_some() && hosted.twcc.is_none() {
            hosted.twcc = Some(Box::new(TwccRecorder::new(hosted.downlink.ssrc)));
        }
        let key = match self.publication_keys.get(&id) {
            Some(&key) => {
                self.publications[key].renegotiate(section);
                key
            }
            None => {
                let key = self.publications.insert(Publication::new(id, transport_key, section, self.config.audio));
                self.publication_keys.insert(id, key);
                hosted.publications.push(key);
                key
            }
        };
        // SSRCs are bound anew: declared ones at once, the others by what their packets say.
        hosted.streams.retain(|(_, stream)| stream.publication != key);
        let publication = &self.publications[key];
        for (layer, state) in publication.layers.iter().enumerate() {
            for (ssrc, rtx) in [(state.ssrc, false), (state.spec.rtx_ssrc, true)] {
                if let Some(ssrc) = ssrc
                    && hosted.streams.len() < STREAMS_MAX
                {
                    hosted.streams.push((ssrc.0, Stream { publication: key, layer: layer as u8, rtx }));
                }
            }
        }
        let codecs = &publication.section.codecs;
        for &subscription in &publication.subscriptions {
            let section = self.subscriptions[subscription].section.clone();
            self.subscriptions[subscription].renegotiate(section, codecs);
        }
    }

    pub(super) fn set_muted(&mut self, id: PublicationId, muted: bool) {
        let Some(&key) = self.publication_keys.get(&id) else {
            self.stats.count(Discard::StaleCommand);
            return;
        };
        let publication = &mut self.publications[key];
        if publication.muted && !muted {
            for &subscription in &publication.subscriptions {
                self.subscriptions[subscription].current = None;
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
        if let Some(hosted) = self.transports.get_mut(publication.transport) {
            hosted.publications.retain(|other| *other != key);
            hosted.streams.retain(|(_, stream)| stream.publication != key);
        }
    }

    pub(super) fn emit(&mut self, publication: PublicationKey, event: impl FnOnce(PublicationId) -> Event) {
        let publication = &self.publications[publication];
        if let Some(hosted) = self.transports.get(publication.transport) {
            self.events.push_back((hosted.room, event(publication.id)));
        }
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
