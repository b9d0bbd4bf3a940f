//! Publications that something arrived for and whose subscribers have not had all of it, in the order of their turns.

use std::collections::VecDeque;

use shared::media::MediaKind;

/// A queue for each kind of media. A slot is in it once at most.
#[derive(Default)]
pub(super) struct News {
    audio: VecDeque<usize>,
    video: VecDeque<usize>,
}

impl News {
    pub(super) fn of(&mut self, kind: MediaKind) -> &mut VecDeque<usize> {
        match kind {
            MediaKind::Audio => &mut self.audio,
            MediaKind::Video => &mut self.video,
        }
    }

    pub(super) fn forget(&mut self, slot: usize) {
        self.audio.retain(|other| *other != slot);
        self.video.retain(|other| *other != slot);
    }
}
