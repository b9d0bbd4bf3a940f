//! Probes for bandwidth: packets that a client may have, sent once more as retransmissions (RFC 4588), so that they
//! repair what it lost.

use std::time::Instant;

use shared::media::MediaKind;

use super::Engine;
use super::serving::{Serving, Stage};
use crate::history::StoredPacket;
use crate::id::PublicationId;
use crate::key::Keyed;
use crate::publication::Publication;
use crate::run::{SendArena, Transmit};
use crate::subscription::{Outgoing, Playout, Subscription};

/// Packets of a probe that leave in one step of the media clock.
const STEP_PACKETS_MAX: usize = 64;

impl Engine {
    /// What time brings to estimates: silence of a client, probes of its way.
    pub(super) fn send_probes<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        let send_time = self.send_time(now);
        let Self { transports, subscriptions, publications, stats, serving, .. } = self;
        for (key, hosted) in transports.iter_mut() {
            *serving = Some(Serving { key, stage: Stage::Feedback });
            hosted.downlink.on_tick(now);
            let Some(mut bytes) = hosted.downlink.probe(now).map(|probe| probe.bytes).filter(|bytes| *bytes > 0) else {
                continue;
            };
            let mut carriers = hosted.subscriptions.iter().copied().filter(|key| carries(&subscriptions[*key]));
            let Some(carrier) = carriers.next() else { continue };
            let subscription = &mut subscriptions[carrier];
            for age in 1..=STEP_PACKETS_MAX as u16 {
                let number = (subscription.rewriter.next() as u16).wrapping_sub(age);
                let Some((packet, outgoing)) = again(subscription, publications, number) else { continue };
                let times = (now, send_time);
                let sent = hosted.downlink.send_probe(times, subscription, (&packet, &outgoing), stats, out);
                bytes = bytes.saturating_sub(sent);
                if sent == 0 || bytes == 0 {
                    break;
                }
            }
        }
    }
}

/// Whether packets of a subscription may be sent once more to probe.
fn carries(subscription: &Subscription) -> bool {
    subscription.kind() == MediaKind::Video
        && !subscription.is_paused()
        && subscription.section.rtx_ssrc.is_some()
        && matches!(subscription.playout(), Playout::Live { .. })
}

/// The packet that was sent under a number, once more.
fn again<'p>(
    subscription: &Subscription,
    publications: &'p Keyed<PublicationId, Publication>,
    number: u16,
) -> Option<(StoredPacket<'p>, Outgoing)> {
    let source = subscription.lost_packet(number)?;
    let publication = &publications[subscription.publication];
    let layer = publication.layers.get(usize::from(source.segment.layer))?;
    let packet = layer.history.as_deref()?.find(source.sequence)?;
    let outgoing = subscription.retransmission(&packet, source, subscription.transport_cc(true))?;
    Some((packet, outgoing))
}
