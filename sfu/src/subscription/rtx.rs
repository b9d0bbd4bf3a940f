//! How much a subscription is sent again (RFC 4588): a share of what it was sent, and no packet twice in a round trip.
//!
//! Without bounds, a link that overflows is sent as much again as it has lost, and overflows the more.

use std::time::{Duration, Instant};

/// Of the bytes sent, so many of a hundred may be sent again: with 15 % loss each packet twice.
const SHARE: u32 = 30;
/// Beside that, bytes a second: a stream of a few packets a second is repaired too.
const FLOOR_BYTES: u64 = 8_000;
/// Bytes that may be sent again at once: about a key frame. Who has lost more is better served with a new one.
const BURST_BYTES: u32 = 64 << 10;
/// Until a report tells it: less than the 100 ms after which libwebrtc asks again as long as it knows none.
const ROUND_TRIP_UNKNOWN: Duration = Duration::from_millis(60);

/// Packets of which it is remembered when they were last sent again, or late.
const REMEMBERED: usize = 64;

/// Packets after which the loss of the link is judged anew.
const LOSS_WINDOW: u32 = 256;
/// Loss from which on packets are sent again twice, and three times: if the repair is lost as well, its viewer waits
/// for another round trip, and half a dozen such waits a minute are freezes.
const LOSS_FOR_TWO: f32 = 0.02;
const LOSS_FOR_THREE: f32 = 0.1;
/// A round trip that is longer than the shortest one by more is a queue: what is lost there is not repaired by more.
const QUEUE_MAX: Duration = Duration::from_millis(30);

/// Why a packet is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The budget is spent.
    Budget,
    /// It was sent again less than a round trip ago.
    Repeat,
}

/// The budget of one subscription.
pub(crate) struct RtxBudget {
    /// Bytes.
    left: u32,
    filled: Instant,
    /// Made with the first packet that is lost; each in the place that its number gives it.
    remembered: Option<Box<[Remembered; REMEMBERED]>>,
    start: Instant,
    /// Smoothed, and about the shortest one.
    round_trip: Option<(Duration, Duration)>,
    /// Packets sent, and asked for, since the loss was judged.
    sent: u32,
    lost: u32,
    loss: f32,
}

/// When a packet was sent again, or late.
#[derive(Clone, Copy, Default)]
struct Remembered {
    /// The low bits of its number.
    number: u32,
    /// Since the start; 0: never.
    ms: u32,
}

impl RtxBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            left: BURST_BYTES,
            filled: now,
            remembered: None,
            start: now,
            round_trip: None,
            sent: 0,
            lost: 0,
            loss: 0.0,
        }
    }

    /// A packet of so many bytes was sent for the first time.
    pub(crate) fn on_sent(&mut self, bytes: usize) {
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_mul(SHARE) / 100;
        self.left = self.left.saturating_add(share).min(BURST_BYTES);
        self.sent += 1;
        if self.sent == LOSS_WINDOW {
            let share = self.lost as f32 / self.sent as f32;
            self.loss += (share - self.loss) / 2.0;
            (self.sent, self.lost) = (0, 0);
        }
    }

    /// A report told of a round trip.
    pub(crate) fn on_round_trip(&mut self, measured: Duration) {
        let (smoothed, shortest) = self.round_trip.unwrap_or((measured, measured));
        // The shortest one follows slowly when the way becomes longer.
        let risen = shortest + measured.saturating_sub(shortest) / 32;
        self.round_trip = Some(((smoothed * 7 + measured) / 8, risen.min(measured)));
    }

    /// Takes a packet of so many bytes that is sent under this number from the budget. How many times it is to be sent.
    pub(crate) fn admit(&mut self, now: Instant, number: u64, bytes: usize) -> Result<u32, Refusal> {
        self.fill(now);
        let before = self.remembered.as_deref().map(|remembered| remembered[place(number)]);
        let last = before.filter(|before| before.ms > 0 && before.number == number as u32);
        let is_repeat = |last: Remembered| Duration::from_millis((self.ms(now) - last.ms).into()) < self.repeat_after();
        if last.is_some_and(is_repeat) {
            return Err(Refusal::Repeat);
        }
        self.lost += u32::from(last.is_none());
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.left = self.left.checked_sub(bytes).ok_or(Refusal::Budget)?;
        self.remember(now, number);
        let more = (1..self.copies()).take_while(|_| self.take_spare(bytes)).count();
        Ok(1 + more as u32)
    }

    /// A packet that the publisher's network lost or delayed was sent late, and was asked for meanwhile, maybe.
    pub(crate) fn on_sent_late(&mut self, now: Instant, number: u64) {
        self.remember(now, number);
    }

    fn remember(&mut self, now: Instant, number: u64) {
        let ms = self.ms(now);
        let remembered = self.remembered.get_or_insert_with(|| Box::new([Remembered::default(); REMEMBERED]));
        remembered[place(number)] = Remembered { number: number as u32, ms };
    }

    /// Milliseconds since the start, never 0.
    fn ms(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u32::MAX - 1) + 1
    }

    fn fill(&mut self, now: Instant) {
        let micros = u64::try_from(now.saturating_duration_since(self.filled).as_micros()).unwrap_or(u64::MAX);
        let bytes = micros.saturating_mul(FLOOR_BYTES) / 1_000_000;
        // Less than a byte waits for more.
        if bytes > 0 {
            self.left = self.left.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)).min(BURST_BYTES);
            self.filled = now;
        }
    }

    /// What is there beside a reserve for packets that have not been sent again yet.
    fn take_spare(&mut self, bytes: u32) -> bool {
        let is_spare = self.left >= BURST_BYTES / 2 + bytes;
        self.left -= if is_spare { bytes } else { 0 };
        is_spare
    }

    /// A client asks again a round trip after it has asked, by its own measure; the two need not agree.
    fn repeat_after(&self) -> Duration {
        self.round_trip() * 3 / 4
    }

    /// As far as it is known.
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip.map_or(ROUND_TRIP_UNKNOWN, |(smoothed, _)| smoothed)
    }

    fn copies(&self) -> u32 {
        let queues = self.round_trip.is_none_or(|(smoothed, shortest)| smoothed > shortest + QUEUE_MAX);
        match self.loss {
            _ if queues => 1,
            loss if loss >= LOSS_FOR_THREE => 3,
            loss if loss >= LOSS_FOR_TWO => 2,
            _ => 1,
        }
    }
}

fn place(number: u64) -> usize {
    // The remainder is below the number of places.
    (number % REMEMBERED as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const BYTES: usize = 1_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_repeat_is_answered_about_a_round_trip_later() {
        let now = Instant::now();
        let mut budget = RtxBudget::new(now);
        assert_eq!(budget.admit(now, 7, BYTES), Ok(1));
        assert_eq!(budget.admit(now + ms(44), 7, BYTES), Err(Refusal::Repeat));
        assert_eq!(budget.admit(now + ms(44), 8, BYTES), Ok(1), "another one");
        assert_eq!(budget.admit(now + ms(45), 7, BYTES), Ok(1));
        (0..100).for_each(|_| budget.on_round_trip(ms(200)));
        assert_eq!(budget.admit(now + ms(45 + 149), 7, BYTES), Err(Refusal::Repeat));
        assert_eq!(budget.admit(now + ms(45 + 150), 7, BYTES), Ok(1));
    }

    #[test]
    fn who_loses_much_on_a_short_queue_gets_repairs_more_than_once() {
        let mut now = Instant::now();
        let mut budget = RtxBudget::new(now);
        budget.on_round_trip(ms(50));
        let mut lose = |budget: &mut RtxBudget, each: u64| {
            for number in 0..4_096 {
                now += ms(5);
                budget.on_sent(BYTES);
                if number % each == 0 {
                    budget.admit(now, number, BYTES).expect("within the budget");
                }
            }
            now += ms(1_000);
            budget.admit(now, 1, BYTES)
        };
        assert_eq!(lose(&mut budget, 100), Ok(1));
        assert_eq!(lose(&mut budget, 20), Ok(2));
        assert_eq!(lose(&mut budget, 8), Ok(3));
        (0..8).for_each(|_| budget.on_round_trip(ms(200)));
        assert_eq!(lose(&mut budget, 8), Ok(1), "behind a queue");
    }

    #[test]
    fn what_was_sent_late_is_not_sent_again_at_once_and_is_no_loss_of_the_link() {
        let now = Instant::now();
        let mut budget = RtxBudget::new(now);
        budget.on_sent_late(now, 7);
        assert_eq!(budget.admit(now + ms(40), 7, BYTES), Err(Refusal::Repeat));
        assert_eq!((budget.admit(now + ms(45), 7, BYTES), budget.lost), (Ok(1), 0));
    }

    proptest! {
        /// Whatever is asked for.
        #[test]
        fn no_more_is_sent_again_than_the_burst_the_share_and_the_floor(
            steps in vec((any::<bool>(), 0u64..400, 0u64..20, 1usize..1_500), 1..2_000),
        ) {
            let start = Instant::now();
            let (mut now, mut budget) = (start, RtxBudget::new(start));
            budget.on_round_trip(ms(50));
            let (mut sent, mut again) = (0, 0);
            for (is_sent, number, pause, bytes) in steps {
                now += ms(pause);
                if is_sent {
                    budget.on_sent(bytes);
                    sent += bytes;
                } else {
                    again += bytes * budget.admit(now, number, bytes).unwrap_or(0) as usize;
                }
            }
            let floor = now.duration_since(start).as_millis() as usize * FLOOR_BYTES as usize / 1_000;
            prop_assert!(again <= BURST_BYTES as usize + sent * SHARE as usize / 100 + floor);
        }
    }
}
