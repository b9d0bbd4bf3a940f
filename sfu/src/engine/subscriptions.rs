//! Subscriptions: what a room decides of them, and which layer each aims at.

use std::time::Instant;

use rand::RngExt;
use shared::media::MediaKind;

use super::Engine;
use crate::demux::Discard;
use crate::id::{PublicationId, SubscriptionId, TransportId};
use crate::key::{SubscriptionKey, TransportKey};
use crate::publication::Publication;
use crate::section::SendSection;
use crate::subscription::{Sink, Subscription};

impl Engine {
    pub(super) fn subscribe(
        &mut self,
        now: Instant,
        id: SubscriptionId,
        publication: PublicationId,
        transport: TransportId,
        section: SendSection,
    ) {
        let Some(transport) = self.transport_key(transport) else { return };
        if let Some(key) = self.add_subscription(now, id, publication, Sink::Transport(transport), section) {
            self.transports[transport].subscriptions.push(key);
        }
        self.note_video(transport);
        if let Some(&key) = self.subscription_keys.get(&id) {
            let subscription = &self.subscriptions[key];
            if subscription.kind() == MediaKind::Video && subscription.section.extensions.transport_cc.is_some() {
                self.transports[transport].downlink.expect_feedback(now);
            }
            self.choose_layer(now, key);
        }
    }

    /// Adds a subscription, or replaces the section of the one with this id. Its key if it is new.
    pub(super) fn add_subscription(
        &mut self,
        now: Instant,
        id: SubscriptionId,
        publication: PublicationId,
        sink: Sink,
        section: SendSection,
    ) -> Option<SubscriptionKey> {
        let Some(&publication_key) = self.publication_keys.get(&publication) else {
            self.stats.count(Discard::StaleCommand);
            return None;
        };
        let publication = &mut self.publications[publication_key];
        if let Some(&key) = self.subscription_keys.get(&id) {
            self.subscriptions[key].renegotiate(section, &publication.section.codecs);
            return None;
        }
        let mut subscription =
            Subscription::new(now, id, publication_key, sink, section, &publication.section.codecs, self.rng.random());
        aim(now, &mut subscription, publication);
        let key = self.subscriptions.insert(subscription);
        self.subscription_keys.insert(id, key);
        if publication.section.kind == MediaKind::Video {
            self.subscriptions[key].is_looked_after = true;
            self.starting.push(key);
        }
        publication.subscriptions.push(key);
        Some(key)
    }

    pub(super) fn set_subscription(&mut self, now: Instant, id: SubscriptionId, paused: bool, layer_max: u8) {
        let Some(&key) = self.subscription_keys.get(&id) else {
            self.stats.count(Discard::StaleCommand);
            return;
        };
        let subscription = &mut self.subscriptions[key];
        subscription.set_paused(paused);
        subscription.layer_max = layer_max;
        if let Sink::Transport(transport) = subscription.sink {
            self.note_video(transport);
        }
        self.choose_layer(now, key);
    }

    /// Notes whether a transport gets video.
    fn note_video(&mut self, key: TransportKey) {
        let Some(hosted) = self.transports.get_mut(key) else { return };
        let mut subscriptions = hosted.subscriptions.iter().filter_map(|key| self.subscriptions.get(*key));
        hosted.downlink.has_video = subscriptions.any(|one| one.kind() == MediaKind::Video && !one.is_paused());
    }

    pub(super) fn remove_subscription(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.remove(key) else { return };
        self.subscription_keys.remove(&subscription.id);
        if let Some(publication) = self.publications.get_mut(subscription.publication) {
            publication.forget_subscription(key);
        }
        if let Sink::Transport(transport) = subscription.sink
            && let Some(hosted) = self.transports.get_mut(transport)
        {
            hosted.subscriptions.retain(|other| *other != key);
            self.note_video(transport);
        }
    }
}

/// Lets a subscription aim at the best layer, and sees to it that it can start there.
pub(super) fn aim(now: Instant, subscription: &mut Subscription, publication: &mut Publication) {
    subscription.aim(publication.best_layer(now, subscription.layer_max));
    provide_start(subscription, publication);
}

/// Sees to it that a subscription can start in the layer that it aims at: with a key frame of the past if it may, else
/// with one that the publisher is asked for.
pub(super) fn provide_start(subscription: &Subscription, publication: &mut Publication) {
    if subscription.kind() == MediaKind::Video
        && subscription.awaits_start()
        && !publication.muted
        && let Some(layer) = publication.layers.get_mut(usize::from(subscription.wanted().spatial))
        && !(subscription.may_start_late() && layer.late_start(subscription.late_bytes_max).is_some())
    {
        match subscription.is_rising() {
            true => layer.want_rise(),
            false => layer.want_keyframe(),
        }
    }
}
