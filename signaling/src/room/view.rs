//! What members may see of a room, and the only way it changes: numbered deltas (ARCHITECTURE.md, invariant 12).
//!
//! Applying the deltas of a room in order to [`RoomView::default`] rebuilds its visible state anywhere.

use std::collections::{BTreeMap, HashMap};

use livekit_protocol as proto;
use proto::participant_info::State;
use serde::{Deserialize, Serialize};
use shared::id::{ParticipantSid, TrackSid};

use crate::presence::{Interest, Presence};

/// The visible state of a room.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoomView {
    /// Number of the last delta applied.
    pub number: u64,
    pub room: proto::Room,
    pub members: BTreeMap<ParticipantSid, Box<Member>>,
    /// Members that count for limits and timeouts.
    independent: usize,
}

/// One participant as others see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub info: proto::ParticipantInfo,
    /// Others do not see it.
    pub hidden: bool,
    /// Agents, recorders: neither counted nor limited, and they keep no room open (docs/livekit.md 7.4).
    pub dependent: bool,
    pub presence: Presence,
}

impl Member {
    /// Whether everybody sees it.
    pub fn is_announced(&self) -> bool {
        !self.hidden && self.presence == Presence::Announced
    }

    /// Whether a participant with this interest sees it.
    pub fn is_visible_to(&self, interest: Interest) -> bool {
        !self.hidden && interest.includes(self.presence)
    }
}

/// One change. Each change of what a member's info says raises its version by one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    Opened {
        room: Box<proto::Room>,
    },
    Metadata {
        metadata: String,
    },
    Recording {
        active: bool,
    },
    Counts {
        participants: u32,
        publishers: u32,
    },
    Joined {
        sid: ParticipantSid,
        member: Box<Member>,
    },
    /// Others see a member from now on.
    Presence {
        sid: ParticipantSid,
        presence: Presence,
    },
    State {
        sid: ParticipantSid,
        state: State,
    },
    Profile {
        sid: ParticipantSid,
        name: String,
        metadata: String,
        attributes: HashMap<String, String>,
    },
    Permission {
        sid: ParticipantSid,
        permission: proto::ParticipantPermission,
        dependent: bool,
    },
    /// Published, or changed.
    Track {
        sid: ParticipantSid,
        track: Box<proto::TrackInfo>,
    },
    TrackEnded {
        sid: ParticipantSid,
        track: TrackSid,
    },
    Left {
        sid: ParticipantSid,
    },
}

/// A change with its place in the room's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoomDelta {
    /// From 1, without gaps.
    pub number: u64,
    pub change: Change,
}

/// A delta was lost or repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("delta {got} after {last}")]
pub struct OutOfOrder {
    pub last: u64,
    pub got: u64,
}

impl RoomView {
    /// Applies the next delta.
    pub fn apply(&mut self, delta: &RoomDelta) -> Result<(), OutOfOrder> {
        if delta.number != self.number + 1 {
            return Err(OutOfOrder { last: self.number, got: delta.number });
        }
        self.number = delta.number;
        self.change(&delta.change);
        Ok(())
    }

    pub fn member(&self, sid: &ParticipantSid) -> Option<&Member> {
        self.members.get(sid).map(Box::as_ref)
    }

    /// Members that count for limits and timeouts.
    pub fn independent(&self) -> usize {
        self.independent
    }

    pub fn publishers(&self) -> usize {
        self.members.values().filter(|member| member.info.is_publisher).count()
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Opened { room } => self.room = (**room).clone(),
            Change::Metadata { metadata } => self.room.metadata.clone_from(metadata),
            Change::Recording { active } => self.room.active_recording = *active,
            Change::Counts { participants, publishers } => {
                self.room.num_participants = *participants;
                self.room.num_publishers = *publishers;
            }
            Change::Joined { sid, member } => {
                self.independent += usize::from(!member.dependent);
                self.members.insert(sid.clone(), member.clone());
            }
            Change::Presence { sid, presence } => {
                if let Some(member) = self.members.get_mut(sid) {
                    member.presence = *presence;
                }
            }
            Change::State { sid, state } => self.update(sid, |info| info.state = *state as i32),
            Change::Profile { sid, name, metadata, attributes } => self.update(sid, |info| {
                info.name.clone_from(name);
                info.metadata.clone_from(metadata);
                info.attributes.clone_from(attributes);
            }),
            Change::Permission { sid, permission, dependent } => {
                if let Some(member) = self.members.get_mut(sid) {
                    self.independent += usize::from(member.dependent);
                    self.independent -= usize::from(*dependent);
                    member.hidden = permission.hidden;
                    member.dependent = *dependent;
                }
                self.update(sid, |info| info.permission = Some(permission.clone()));
            }
            Change::Track { sid, track } => self.update(sid, |info| set_track(info, track)),
            Change::TrackEnded { sid, track } => {
                self.update(sid, |info| info.tracks.retain(|known| known.sid != track.as_str()));
            }
            Change::Left { sid } => {
                if let Some(gone) = self.members.remove(sid) {
                    self.independent -= usize::from(!gone.dependent);
                }
            }
        }
    }

    fn update(&mut self, sid: &ParticipantSid, change: impl FnOnce(&mut proto::ParticipantInfo)) {
        if let Some(member) = self.members.get_mut(sid) {
            change(&mut member.info);
            member.info.version += 1;
        }
    }
}

fn set_track(info: &mut proto::ParticipantInfo, track: &proto::TrackInfo) {
    info.is_publisher = true;
    match info.tracks.iter_mut().find(|known| known.sid == track.sid) {
        Some(known) => known.clone_from(track),
        None => info.tracks.push(track.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_delta_is_noticed() {
        let mut view = RoomView::default();
        let delta = |number| RoomDelta { number, change: Change::Recording { active: true } };

        assert_eq!(view.apply(&delta(1)), Ok(()));
        assert_eq!(view.apply(&delta(3)), Err(OutOfOrder { last: 1, got: 3 }));
        assert_eq!(view.apply(&delta(1)), Err(OutOfOrder { last: 1, got: 1 }));
    }
}
