//! Which layer each subscription aims at: as much as its client's link carries, by the estimate.

use std::time::Instant;

use arrayvec::ArrayVec;
use shared::media::MediaKind;

use super::Engine;
use super::hosted::Hosted;
use super::serving::{Serving, Stage};
use super::subscriptions::{aim, provide_start};
use crate::downlink::{TRACKS_MAX, Track, allocate};
use crate::id::{PublicationId, SubscriptionId};
use crate::key::{Keyed, PublicationKey, SubscriptionKey, TransportKey};
use crate::publication::Publication;
use crate::rates::Rung;
use crate::section::LayerId;
use crate::subscription::{Sink, Subscription};

/// Audio is never reduced: what it takes is put aside first, and a fifth more, since it varies.
const AUDIO_RESERVE_PERCENT: u64 = 120;

/// An estimate below this share of what was given out takes something back at once; all else waits for the media clock.
const FALL_PERCENT: u64 = 95;

/// How long the packets of the past with which a subscription starts may fill a link.
const LATE_START_MS: u64 = 300;

impl Engine {
    /// Measures what is published, and lets every subscription aim at what its client's link carries.
    pub(super) fn choose_all_layers(&mut self, now: Instant) {
        for (_, publication) in self.publications.iter_mut() {
            self.serving = Serving::of(publication.origin, Stage::Feedback);
            publication.measure(now);
        }
        for (_, subscription) in
            self.subscriptions.iter_mut().filter(|(_, subscription)| subscription.sink == Sink::Local)
        {
            let publication = &mut self.publications[subscription.publication];
            self.serving = Serving::of(publication.origin, Stage::Feedback);
            aim(now, subscription, publication);
        }
        for (key, hosted) in self.transports.iter_mut() {
            self.serving = Some(Serving { key, stage: Stage::Feedback });
            share_out(now, hosted, &mut self.subscriptions, &mut self.publications);
        }
    }

    /// Lets every subscription of a publication aim at what it should get, after the publication has changed.
    pub(super) fn choose_layers(&mut self, now: Instant, key: PublicationKey) {
        let publication = &mut self.publications[key];
        self.serving = Serving::of(publication.origin, Stage::Feedback);
        publication.measure(now);
        for index in 0..self.publications[key].subscriptions.len() {
            self.choose_layer(now, self.publications[key].subscriptions[index]);
        }
    }

    /// Lets a subscription aim at what it should get, and those that share its link.
    pub(super) fn choose_layer(&mut self, now: Instant, key: SubscriptionKey) {
        let subscription = &mut self.subscriptions[key];
        match subscription.sink {
            Sink::Local => aim(now, subscription, &mut self.publications[subscription.publication]),
            Sink::Transport(transport) => {
                let hosted = &mut self.transports[transport];
                share_out(now, hosted, &mut self.subscriptions, &mut self.publications);
            }
        }
    }

    /// Takes back what a client's link no longer carries, after feedback of the client.
    pub(super) fn follow_estimate(&mut self, now: Instant, key: TransportKey) {
        let hosted = &mut self.transports[key];
        let (Some(bps), Some(given)) = (hosted.downlink.budget_bps(), hosted.downlink.allocation) else { return };
        if bps < given.bps * FALL_PERCENT / 100 {
            share_out(now, hosted, &mut self.subscriptions, &mut self.publications);
        }
    }
}

/// Shares the bandwidth of a client's link out to its subscriptions.
fn share_out(
    now: Instant,
    hosted: &mut Hosted,
    subscriptions: &mut Keyed<SubscriptionId, Subscription>,
    publications: &mut Keyed<PublicationId, Publication>,
) {
    let Some(budget_bps) = hosted.downlink.budget_bps() else {
        hosted.downlink.allocation = None;
        for key in &hosted.subscriptions {
            let subscription = &mut subscriptions[*key];
            aim(now, subscription, &mut publications[subscription.publication]);
        }
        return;
    };
    let mut audio_bps = 0;
    let mut keys: ArrayVec<SubscriptionKey, TRACKS_MAX> = ArrayVec::new();
    let mut tracks: ArrayVec<Track<'_>, TRACKS_MAX> = ArrayVec::new();
    for key in &hosted.subscriptions {
        let subscription = &subscriptions[*key];
        let publication = &publications[subscription.publication];
        if subscription.is_paused() || publication.muted {
            continue;
        }
        if subscription.kind() == MediaKind::Audio {
            audio_bps += publication.lowest_bps() * AUDIO_RESERVE_PERCENT / 100;
            continue;
        }
        let rungs = rungs_up_to(&publication.rungs, subscription.layer_max);
        if !rungs.is_empty() && !tracks.is_full() {
            keys.push(*key);
            tracks.push(Track { rungs, current: current_rung(rungs, subscription), chosen: 0 });
        }
    }
    let downlink = &mut hosted.downlink;
    let given = allocate(budget_bps.saturating_sub(audio_bps), downlink.rise.may_rise(now), &mut tracks);
    if tracks.iter().any(|track| track.current.is_some_and(|current| track.chosen < current)) {
        downlink.rise.on_fall(now);
    } else if tracks.iter().any(|track| track.current.is_some_and(|current| track.chosen > current)) {
        downlink.rise.on_rise(now);
    }
    downlink.set_allocation(given.beside(audio_bps));
    let layers: ArrayVec<LayerId, TRACKS_MAX> =
        tracks.into_iter().map(|track| track.rungs[track.chosen].layer).collect();
    for (key, layer) in keys.into_iter().zip(layers) {
        let subscription = &mut subscriptions[key];
        subscription.late_bytes_max = (budget_bps / 8 * LATE_START_MS / 1_000) as usize;
        subscription.aim(layer);
        provide_start(subscription, &mut publications[subscription.publication]);
    }
}

/// The rungs of the layers that a subscription may get; the lowest one if it may get none of those that flow.
fn rungs_up_to(rungs: &[Rung], layer_max: u8) -> &[Rung] {
    let count = rungs.iter().take_while(|rung| rung.layer.spatial <= layer_max).count();
    &rungs[..count.max(1).min(rungs.len())]
}

/// The rung that a subscription has; `None`: it has shown nothing yet.
fn current_rung(rungs: &[Rung], subscription: &Subscription) -> Option<usize> {
    subscription.rewriter.current()?;
    let place = |layer: LayerId| (layer.spatial, layer.temporal);
    let below = rungs.iter().take_while(|rung| place(rung.layer) <= place(subscription.wanted())).count();
    Some(below.saturating_sub(1))
}
