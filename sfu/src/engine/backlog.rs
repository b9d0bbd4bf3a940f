//! Publications that something arrived for and whose subscribers have not had all of it, in the order of their turns.

use std::collections::VecDeque;

use shared::media::MediaKind;

use crate::key::PublicationKey;

/// A queue for each kind of media. A publication is in it once at most. The key of a publication that was removed stays
/// in its queue until its turn.
#[derive(Default)]
pub(super) struct Backlog {
    audio: VecDeque<PublicationKey>,
    video: VecDeque<PublicationKey>,
}

impl Backlog {
    pub(super) fn of(&mut self, kind: MediaKind) -> &mut VecDeque<PublicationKey> {
        match kind {
            MediaKind::Audio => &mut self.audio,
            MediaKind::Video => &mut self.video,
        }
    }
}
