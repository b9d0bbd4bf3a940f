//! Updates about participants that wait to be sent, and what is kept for those who resume. Who is sent which when is
//! decided in `room/broadcast.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use livekit_protocol as proto;
use shared::id::{ParticipantIdentity, ParticipantSid};

use super::timer::Now;
use crate::presence::Presence;

/// How long a change may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    Now,
    /// If it is about a listener in a large room.
    MayWait,
}

/// Departures that are remembered for those who resume. LiveKit remembers as many updates of each participant.
const DEPARTED_MAX: usize = 128;

/// Updates that wait to be sent to many, and what is kept for those who resume.
#[derive(Debug, Default)]
pub(super) struct PendingUpdates {
    announced: Batch,
    early: Batch,
    audience: Batch,
    /// The last who left, in order.
    pub(super) departed: VecDeque<Departed>,
    pub(super) counts_at: Option<Instant>,
    /// Participants whose state is sent once all that has happened by now was handled, and since when.
    pub(super) due: BTreeMap<ParticipantSid, Now>,
}

/// One who left.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) presence: Presence,
    /// Those that it was announced to beside those whose interest includes its presence.
    pub(super) announced_to: BTreeSet<ParticipantSid>,
    /// As it is described to those who resume.
    pub(super) info: proto::ParticipantInfo,
}

pub(super) type Batch = BTreeMap<ParticipantIdentity, proto::ParticipantInfo>;

impl PendingUpdates {
    /// Pending updates about members with this presence.
    pub(super) fn batch(&mut self, presence: Presence) -> &mut Batch {
        match presence {
            Presence::Announced => &mut self.announced,
            Presence::Early => &mut self.early,
            Presence::Audience => &mut self.audience,
        }
    }

    pub(super) fn remember_departure(
        &mut self,
        presence: Presence,
        announced_to: BTreeSet<ParticipantSid>,
        info: &proto::ParticipantInfo,
    ) {
        if self.departed.len() == DEPARTED_MAX {
            self.departed.pop_front();
        }
        let info = proto::ParticipantInfo {
            sid: info.sid.clone(),
            identity: info.identity.clone(),
            state: info.state,
            version: info.version,
            disconnect_reason: info.disconnect_reason,
            ..Default::default()
        };
        self.departed.push_back(Departed { presence, announced_to, info });
    }

    /// An update about a participant with this presence is sent now: forgets those that wait and would go to fewer
    /// members.
    pub(super) fn supersede(&mut self, presence: Presence, identity: &ParticipantIdentity) {
        let narrower: &[Presence] = match presence {
            Presence::Announced => &[Presence::Early, Presence::Audience],
            Presence::Early => &[Presence::Audience],
            Presence::Audience => &[],
        };
        for narrower in narrower {
            self.batch(*narrower).remove(identity);
        }
    }
}

/// Whether an update about an earlier session of the same participant waits in a batch. It must be sent, since clients
/// may know that session.
pub(super) fn names_another(batch: &Batch, info: &proto::ParticipantInfo) -> bool {
    batch.get(info.identity.as_str()).is_some_and(|waiting| waiting.sid != info.sid)
}
