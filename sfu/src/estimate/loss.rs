//! What loss without a queue says: whether it comes of the rate sent, or would be there anyway.
//!
//! A policer, or a queue of a few packets, drops what is too much; a radio drops what it drops. Which of them it is
//! shows when less is sent for a second: a policer then drops less than half of what it did.

/// Time of one observation, and how many are kept.
const OBSERVATION_US: u64 = 250_000;
const OBSERVATIONS: usize = 5;
/// Fewer packets than this tell nothing.
const PACKETS_MIN: u32 = 40;
const LOST_MIN: u32 = 4;
/// A higher share has to be explained.
const SHARE_HIGH: f64 = 0.05;
/// With this much nothing need be tried: no way that is of use drops so much by itself.
const SHARE_HEAVY: f64 = 0.3;
/// A policer that is known may drop this share.
const SHARE_POLICED: f64 = 0.02;
/// Loss with a longer queue comes of the queue.
const QUEUE_US: i64 = 30_000;
/// How long less is sent to find out.
const TRIAL_US: u64 = 1_000_000;
const EXPLAINED_US: u64 = 30_000_000;
const EXPLAINED_MAX_US: u64 = 480_000_000;
/// A share that fell to this, though not to a half, asks for one more trial: a bucket passes more at first.
const FELL: f64 = 0.85;
const TRIALS_MORE: u8 = 2;
/// What the estimate before a trial is worth after it, as a multiple of what arrives.
const RESTORED: f64 = 1.5;
/// Share of the rate of arrival at which a trial is made, and which a policer gets.
const BELOW: f64 = 0.95;

#[derive(Debug, Clone, Copy, Default)]
struct Observation {
    received: u32,
    lost: u32,
}

/// Where loss comes from.
#[derive(Debug, Clone, Copy)]
enum Cause {
    Unknown,
    /// Less is sent, to find out.
    Trial {
        share: f64,
        before_bps: f64,
        from_us: u64,
        again: u8,
    },
    /// It is there whatever is sent.
    Inherent {
        share: f64,
        until_us: u64,
    },
    /// It comes of what is sent.
    Policed {
        until_us: u64,
        cut_us: u64,
    },
}

/// What loss asks of the estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Demand {
    None,
    /// No growth for now.
    Hold,
    /// No more than this.
    Cut(f64),
    /// This is what the way carries.
    Policed(f64),
    /// The trial has shown that the rate was right.
    Restore(f64),
}

/// Loss of late and its cause.
#[derive(Debug)]
pub(super) struct Loss {
    observations: [Observation; OBSERVATIONS],
    open_us: u64,
    cause: Cause,
    explained_us: u64,
}

/// The state of the rate when a report ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    pub now_us: u64,
    pub rtt_us: u64,
    pub estimate: f64,
    pub acked: f64,
    pub waiting_us: i64,
}

impl Loss {
    pub(super) fn new() -> Self {
        let observations = [Observation::default(); OBSERVATIONS];
        Self { observations, open_us: 0, cause: Cause::Unknown, explained_us: EXPLAINED_US }
    }

    pub(super) fn count(&mut self, received: u32, lost: u32) {
        let open = &mut self.observations[OBSERVATIONS - 1];
        open.received = open.received.saturating_add(received);
        open.lost = open.lost.saturating_add(lost);
    }

    /// Of the packets of the last second, how many were lost.
    pub(super) fn share(&self) -> f64 {
        let (received, lost) = self.total();
        if received + lost == 0 { 0.0 } else { f64::from(lost) / f64::from(received + lost) }
    }

    /// The same, if enough packets were sent to say so.
    fn known_share(&self) -> Option<f64> {
        let (received, lost) = self.total();
        (received + lost >= PACKETS_MIN).then(|| if lost < LOST_MIN { 0.0 } else { self.share() })
    }

    fn total(&self) -> (u32, u32) {
        let add =
            |sum: (u32, u32), one: &Observation| (sum.0 + one.received.min(1 << 20), sum.1 + one.lost.min(1 << 20));
        self.observations.iter().fold((0, 0), add)
    }

    /// Whether less is sent because of loss: no time to send more.
    pub(super) fn is_holding(&self) -> bool {
        matches!(self.cause, Cause::Trial { .. } | Cause::Policed { .. })
    }

    /// Ends a report.
    pub(super) fn update(&mut self, present: &Present) -> Demand {
        let demand = self.decide(present);
        if present.now_us.saturating_sub(self.open_us) >= OBSERVATION_US {
            self.observations.rotate_left(1);
            self.observations[OBSERVATIONS - 1] = Observation::default();
            self.open_us = present.now_us;
        }
        demand
    }

    /// The queue has been too long: what was lost comes of that.
    pub(super) fn forget(&mut self) {
        self.observations = [Observation::default(); OBSERVATIONS];
        if matches!(self.cause, Cause::Trial { .. }) {
            self.cause = Cause::Unknown;
        }
    }

    fn decide(&mut self, present: &Present) -> Demand {
        let share = self.known_share();
        if share.is_some_and(|share| share >= SHARE_HEAVY) && present.waiting_us < QUEUE_US {
            let is_obeyed = matches!(self.cause, Cause::Policed { cut_us, .. }
                if present.now_us < cut_us.saturating_add(present.rtt_us + OBSERVATION_US));
            if !is_obeyed {
                let until_us = present.now_us.saturating_add(EXPLAINED_US);
                self.cause = Cause::Policed { until_us, cut_us: present.now_us };
                return Demand::Policed(BELOW * present.acked);
            }
        }
        match self.cause {
            Cause::Unknown => match share {
                Some(share) if share > SHARE_HIGH && present.waiting_us < QUEUE_US => {
                    self.try_less(present, share, present.estimate, 0)
                }
                _ => Demand::None,
            },
            Cause::Trial { share, before_bps, from_us, again } => {
                if present.now_us < from_us {
                    // Still of what was sent before.
                    self.observations = [Observation::default(); OBSERVATIONS];
                }
                if present.now_us < from_us.saturating_add(TRIAL_US) {
                    return Demand::Hold;
                }
                self.end_trial(present, share, before_bps, again)
            }
            Cause::Inherent { share: usual, until_us } => {
                let more = share.is_some_and(|share| share > 2.0 * usual + SHARE_HIGH);
                if more || present.now_us >= until_us {
                    self.cause = Cause::Unknown;
                }
                Demand::None
            }
            Cause::Policed { until_us, .. } if present.now_us >= until_us => {
                self.cause = Cause::Unknown;
                Demand::None
            }
            Cause::Policed { cut_us, .. } => self.obey(present, share, cut_us),
        }
    }

    fn try_less(&mut self, present: &Present, share: f64, before_bps: f64, again: u8) -> Demand {
        let from_us = present.now_us.saturating_add(present.rtt_us);
        self.cause = Cause::Trial { share, before_bps, from_us, again };
        Demand::Cut(BELOW * present.acked)
    }

    fn end_trial(&mut self, present: &Present, before: f64, before_bps: f64, again: u8) -> Demand {
        let share = self.share();
        if share < before / 2.0 {
            let until_us = present.now_us.saturating_add(EXPLAINED_US);
            self.cause = Cause::Policed { until_us, cut_us: present.now_us };
            self.explained_us = EXPLAINED_US;
            return Demand::Policed(present.estimate);
        }
        if share < FELL * before && again < TRIALS_MORE {
            return self.try_less(present, share, before_bps, again + 1);
        }
        let until_us = present.now_us.saturating_add(self.explained_us);
        self.explained_us = (2 * self.explained_us).min(EXPLAINED_MAX_US);
        self.cause = Cause::Inherent { share: share.max(before), until_us };
        // It has not been shown that the way carries far more than arrived.
        Demand::Restore(before_bps.min(RESTORED * present.acked))
    }

    fn obey(&mut self, present: &Present, share: Option<f64>, cut_us: u64) -> Demand {
        let answered = cut_us.saturating_add(present.rtt_us + OBSERVATION_US);
        if present.now_us < answered {
            self.observations = [Observation::default(); OBSERVATIONS];
            return Demand::Hold;
        }
        let dropped = share.is_some_and(|share| share > SHARE_POLICED);
        if !dropped {
            return Demand::None;
        }
        let until_us = present.now_us.saturating_add(EXPLAINED_US);
        self.cause = Cause::Policed { until_us, cut_us: present.now_us };
        Demand::Policed(BELOW * present.acked)
    }
}
