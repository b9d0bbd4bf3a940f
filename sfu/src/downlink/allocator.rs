//! Which layer of each track a client gets of the bandwidth that is estimated for it.
//!
//! A track is a ladder of rungs, cheapest first. Each gets its lowest one, whatever it costs: what is not paused flows.
//! Then the tracks rise in turn, the poorest first, as long as the next rung fits. So equals are at most a rung apart.

use std::time::{Duration, Instant};

use crate::rates::Rung;

/// Tracks of one client that are allocated together; the rest get their lowest rung.
pub(crate) const TRACKS_MAX: usize = 64;

/// After a fall a client rises again this much later at the earliest.
const RISE_AFTER_FALL: Duration = Duration::from_secs(1);
/// A fall so soon after a rise says that the rise was wrong, and the next has to wait.
const FAILED_RISE: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_secs(3);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// One track of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Track<'a> {
    /// At least one, cheapest first, each better than the one before.
    pub(crate) rungs: &'a [Rung],
    /// Index of the rung that it has; `None`: it has none of these yet.
    pub(crate) current: Option<usize>,
    /// Index of the rung that it gets.
    pub(crate) chosen: usize,
}

impl Track<'_> {
    /// What a rung counts for. To keep one takes less than to rise to it, so that none is left for a small difference.
    fn cost(&self, rung: usize) -> u64 {
        let bps = self.rungs[rung].bps;
        match self.current {
            Some(current) if rung <= current => bps * 95 / 100,
            Some(_) => bps * 110 / 100,
            None => bps,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allocation {
    /// What the chosen rungs take in bits a second.
    pub(crate) bps: u64,
    /// What all tracks together take at most, each with its highest rung.
    pub(crate) wanted: u64,
    /// What the tracks would take with the next rise; `None`: all have their highest rung.
    pub(crate) next: Option<u64>,
}

impl Allocation {
    /// With what audio takes.
    pub(crate) fn beside(self, bps: u64) -> Self {
        Self { bps: self.bps + bps, wanted: self.wanted + bps, next: self.next.map(|next| next + bps) }
    }
}

/// Chooses a rung for each track. Unless `may_rise`, none gets a better one than it has.
pub(crate) fn allocate(budget_bps: u64, may_rise: bool, tracks: &mut [Track<'_>]) -> Allocation {
    let mut left = i128::from(budget_bps);
    for track in tracks.iter_mut() {
        track.chosen = 0;
        left -= i128::from(track.cost(0));
    }
    let mut full = [false; TRACKS_MAX];
    while let Some(poorest) = poorest(tracks, &full) {
        let track = &mut tracks[poorest];
        let next = track.chosen + 1;
        let step = i128::from(track.cost(next)) - i128::from(track.cost(track.chosen));
        let is_rise = track.current.is_some_and(|current| next > current);
        if step > left || (is_rise && !may_rise) {
            full[poorest] = true;
            continue;
        }
        left -= step;
        track.chosen = next;
    }
    let bps = tracks.iter().map(|track| track.rungs[track.chosen].bps).sum();
    let next = tracks
        .iter()
        .filter(|track| track.chosen + 1 < track.rungs.len())
        .map(|track| bps + track.rungs[track.chosen + 1].bps.saturating_sub(track.rungs[track.chosen].bps))
        .min();
    let wanted = tracks.iter().filter_map(|track| track.rungs.last()).map(|rung| rung.bps).sum();
    Allocation { bps, wanted, next }
}

/// The track with the lowest rung of those that can still rise.
fn poorest(tracks: &[Track<'_>], full: &[bool; TRACKS_MAX]) -> Option<usize> {
    let rising = tracks.iter().enumerate().take(TRACKS_MAX);
    let rising = rising.filter(|(at, track)| !full[*at] && track.chosen + 1 < track.rungs.len());
    rising.min_by_key(|(_, track)| track.chosen).map(|(at, _)| at)
}

/// When a client may rise: falls and failed rises make it wait.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RisePause {
    risen: Option<Instant>,
    until: Option<Instant>,
    /// How long the next failed rise makes it wait; zero: as long as the first.
    pause: Duration,
}

impl RisePause {
    /// Whether it may rise now.
    pub(crate) fn may_rise(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// It rises.
    pub(crate) fn on_rise(&mut self, now: Instant) {
        if self.risen.is_some_and(|at| now.saturating_duration_since(at) >= FAILED_RISE) {
            self.pause = Duration::ZERO;
        }
        self.risen = Some(now);
    }

    /// It falls.
    pub(crate) fn on_fall(&mut self, now: Instant) {
        let mut wait = RISE_AFTER_FALL;
        if self.risen.take().is_some_and(|at| now.saturating_duration_since(at) < FAILED_RISE) {
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            wait = self.pause;
        }
        self.until = self.until.max(Some(now + wait));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::section::LayerId;

    const fn rung(spatial: u8, temporal: u8, kbps: u64) -> Rung {
        Rung { layer: LayerId { spatial, temporal }, bps: kbps * 1_000 }
    }

    const CAMERA: [Rung; 7] = [
        rung(0, 0, 60),
        rung(0, 1, 90),
        rung(0, 2, 150),
        rung(1, 1, 300),
        rung(1, 2, 500),
        rung(2, 1, 1_000),
        rung(2, 2, 1_700),
    ];

    fn camera(current: Option<usize>) -> Track<'static> {
        Track { rungs: &CAMERA, current, chosen: 0 }
    }

    fn chosen(budget_kbps: u64, may_rise: bool, tracks: &mut [Track<'_>]) -> Vec<usize> {
        allocate(budget_kbps * 1_000, may_rise, tracks);
        tracks.iter().map(|track| track.chosen).collect()
    }

    #[test]
    fn a_track_gets_the_highest_rung_that_fits() {
        for (kbps, rung) in [(0, 0), (60, 0), (149, 1), (150, 2), (499, 3), (500, 4), (1_699, 5), (9_000, 6)] {
            assert_eq!(chosen(kbps, true, &mut [camera(None)]), [rung], "{kbps}");
        }
    }

    #[test]
    fn it_keeps_what_it_has_for_less_than_it_rises() {
        assert_eq!(chosen(476, true, &mut [camera(Some(4))]), [4]);
        assert_eq!(chosen(474, true, &mut [camera(Some(4))]), [3]);
        assert_eq!(chosen(549, true, &mut [camera(Some(3))]), [3]);
        assert_eq!(chosen(550, true, &mut [camera(Some(3))]), [4]);
        assert_eq!(chosen(9_000, false, &mut [camera(Some(3))]), [3]);
    }

    #[test]
    fn equals_are_a_rung_apart_at_most() {
        assert_eq!(chosen(1_000, true, &mut [camera(None), camera(None)]), [4, 4]);
        assert_eq!(chosen(900, true, &mut [camera(None), camera(None)]), [4, 3]);
        let mut ten = vec![camera(None); 10];
        let mut chosen = chosen(1_000, true, &mut ten);
        chosen.sort_unstable();
        assert_eq!(chosen, [1, 1, 1, 1, 1, 1, 1, 1, 1, 2], "900 kbit/s, and 60 more");
    }

    #[test]
    fn what_the_next_rise_takes_is_told() {
        let mut tracks = [camera(None), camera(None)];
        let told = allocate(1_000_000, true, &mut tracks);
        assert_eq!(told, Allocation { bps: 1_000_000, wanted: 3_400_000, next: Some(1_500_000) });
        assert_eq!(allocate(9_000_000, true, &mut tracks).next, None);
    }

    #[test]
    fn a_rise_that_failed_makes_the_next_one_wait_longer_each_time() {
        let mut now = Instant::now();
        let mut pause = RisePause::default();
        let second = Duration::from_secs(1);
        for wait in [3, 6, 12, 24, 30, 30] {
            assert!(pause.may_rise(now));
            pause.on_rise(now);
            now += second * 2;
            pause.on_fall(now);
            assert!(!pause.may_rise(now + second * wait - Duration::from_millis(1)), "{wait}");
            now += second * wait;
        }
        pause.on_rise(now);
        now += second * 20;
        pause.on_fall(now);
        assert!(pause.may_rise(now + second));
    }

    proptest! {
        /// Whatever the budget: nobody gets nothing, and what is spent beyond the lowest rungs fits.
        #[test]
        fn what_is_spent_fits(budget in 0u64..20_000, currents in vec(proptest::option::of(0usize..7), 1..70)) {
            let mut tracks: Vec<Track<'_>> = currents.into_iter().map(camera).collect();
            let told = allocate(budget * 1_000, true, &mut tracks);
            let lowest: u64 = tracks.iter().map(|track| track.rungs[0].bps).sum();
            let cost: u64 = tracks.iter().map(|track| track.cost(track.chosen)).sum();
            prop_assert!(cost <= (budget * 1_000).max(lowest), "{cost}");
            prop_assert!(told.bps <= told.wanted && told.next.is_none_or(|next| next > told.bps));
        }
    }
}
