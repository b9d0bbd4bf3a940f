//! One direction of a path: a queue that is served at a rate, then a way that takes time and loses packets.
//!
//! What happens to a packet follows from when it comes and from what came before it, so a link needs no events of its
//! own: [`Link::send`] says at once when a packet arrives, if it does.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::rate::{Rate, work};

/// At which packets pass that a token bucket has tokens for.
const LINE_RATE_BPS: u64 = 1_000_000_000;
const CROSS_PACKET_BYTES: usize = 1_200;

/// What fits into the queue of a link; the rest is dropped at its tail.
#[derive(Debug, Clone, Copy)]
pub enum Queue {
    /// What the link sends in this time, at the rate of now.
    Time(Duration),
    Bytes(usize),
}

/// What a link loses of that which it has sent.
#[derive(Debug, Clone, Copy)]
pub enum Loss {
    None,
    /// Each packet with this probability.
    Uniform(f64),
    /// Gilbert and Elliott: none in the good state, a share in the bad one; probabilities of a change, for each packet.
    Bursts {
        to_bad: f64,
        to_good: f64,
        loss: f64,
    },
}

impl Loss {
    /// A Wi-Fi link with a weak signal.
    pub const WIFI: Self = Self::Bursts { to_bad: 0.002, to_good: 0.4, loss: 0.35 };
}

/// A packet above this rate and burst is dropped, not queued.
#[derive(Debug, Clone, Copy)]
pub struct Policer {
    pub bps: u64,
    pub burst: usize,
}

/// Packets that others overtake.
#[derive(Debug, Clone, Copy)]
pub struct Reordering {
    /// Of all packets.
    pub share: f64,
    /// By how much they are late.
    pub delay: Duration,
}

/// Packets of somebody else in the same queue, at even distances.
#[derive(Debug, Clone, Copy)]
pub struct CrossTraffic {
    pub bps: u64,
    pub starts: Duration,
    pub ends: Duration,
}

#[derive(Debug, Clone)]
pub struct LinkConfig {
    pub rate: Rate,
    pub queue: Queue,
    /// Bytes of a token bucket: so many pass at line rate after a pause.
    pub bucket: Option<usize>,
    pub policer: Option<Policer>,
    pub loss: Loss,
    /// Of the way, without the queue.
    pub delay: Duration,
    /// Up to this much is added; packets keep their order.
    pub jitter: Duration,
    pub reordering: Option<Reordering>,
    pub cross: Option<CrossTraffic>,
}

impl LinkConfig {
    /// As fast as needed.
    pub fn wire(delay: Duration) -> Self {
        Self {
            rate: Rate::Unlimited,
            queue: Queue::Time(Duration::from_millis(200)),
            bucket: None,
            policer: None,
            loss: Loss::None,
            delay,
            jitter: Duration::ZERO,
            reordering: None,
            cross: None,
        }
    }

    /// With a queue of 200 ms.
    pub fn limited(rate: Rate, delay: Duration) -> Self {
        Self { rate, ..Self::wire(delay) }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Arrives(Duration),
    /// The queue was full.
    Overflow,
    Policed,
    /// On the way.
    Lost,
}

/// A packet that a link was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    pub at: Duration,
    pub bytes: usize,
    /// In the queue, until its last bit had left.
    pub wait: Duration,
    pub fate: Fate,
}

/// Tokens of a bucket, as [`work`] counts them.
#[derive(Debug, Default)]
struct Tokens {
    left: u128,
    at: Duration,
}

impl Tokens {
    fn fill(&mut self, now: Duration, rate: &Rate, burst: usize) {
        if now > self.at {
            let gained = rate.between(self.at, now).unwrap_or(u128::MAX / 2);
            self.left = (self.left + gained).min(work(burst));
            self.at = now;
        }
    }
}

pub struct Link {
    pub config: LinkConfig,
    rng: StdRng,
    /// When the last bit of the queue leaves.
    free_at: Duration,
    /// Leaving times and bytes of what is queued.
    queued: VecDeque<(Duration, usize)>,
    backlog: usize,
    bucket: Tokens,
    policer: Tokens,
    is_bad: bool,
    /// When the packet before this one arrives.
    last_arrival: Duration,
    next_cross: Duration,
    pub log: Vec<Passage>,
}

impl Link {
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        let full = |burst: Option<usize>| Tokens { left: work(burst.unwrap_or(0)), at: Duration::ZERO };
        Self {
            bucket: full(config.bucket),
            policer: full(config.policer.map(|policer| policer.burst)),
            next_cross: config.cross.map_or(Duration::MAX, |cross| cross.starts),
            rng: StdRng::seed_from_u64(seed),
            config,
            free_at: Duration::ZERO,
            queued: VecDeque::new(),
            backlog: 0,
            is_bad: false,
            last_arrival: Duration::ZERO,
            log: Vec::new(),
        }
    }

    /// Takes a packet, of so many bytes on the wire. Calls come in the order of time.
    pub fn send(&mut self, now: Duration, bytes: usize) -> Fate {
        self.take_cross_traffic(now);
        let (wait, fate) = match self.enqueue(now, bytes) {
            Ok(leaves) if self.is_lost() => (leaves - now, Fate::Lost),
            Ok(leaves) => (leaves - now, Fate::Arrives(self.arrival(leaves))),
            Err(fate) => (Duration::ZERO, fate),
        };
        self.log.push(Passage { at: now, bytes, wait, fate });
        fate
    }

    fn take_cross_traffic(&mut self, now: Duration) {
        let Some(cross) = self.config.cross else { return };
        while self.next_cross <= now && self.next_cross < cross.ends {
            let _ = self.enqueue(self.next_cross, CROSS_PACKET_BYTES);
            self.next_cross += Duration::from_nanos(CROSS_PACKET_BYTES as u64 * 8 * 1_000_000_000 / cross.bps.max(1));
        }
    }

    /// When the packet's last bit leaves the queue, if it fits in.
    fn enqueue(&mut self, now: Duration, bytes: usize) -> Result<Duration, Fate> {
        if let Some(Policer { bps, burst }) = self.config.policer {
            self.policer.fill(now, &Rate::constant(bps), burst);
            self.policer.left = self.policer.left.checked_sub(work(bytes)).ok_or(Fate::Policed)?;
        }
        while let Some((_, left)) = self.queued.pop_front_if(|(leaves, _)| *leaves <= now) {
            self.backlog -= left;
        }
        if self.backlog + bytes > self.capacity(now) && self.backlog > 0 {
            return Err(Fate::Overflow);
        }
        let leaves = self.serve(now.max(self.free_at), bytes);
        self.free_at = leaves;
        self.queued.push_back((leaves, bytes));
        self.backlog += bytes;
        Ok(leaves)
    }

    /// Bytes of the queue.
    fn capacity(&self, now: Duration) -> usize {
        match (self.config.queue, self.config.rate.at(now)) {
            (Queue::Bytes(bytes), _) => bytes,
            (Queue::Time(_), None) => usize::MAX,
            (Queue::Time(time), Some(bps)) => {
                usize::try_from(u128::from(bps) * time.as_nanos() / 8_000_000_000).unwrap_or(usize::MAX)
            }
        }
    }

    /// When a packet is through whose turn it is now.
    fn serve(&mut self, start: Duration, bytes: usize) -> Duration {
        let rate = &self.config.rate;
        let Some(burst) = self.config.bucket else { return rate.finish(start, work(bytes)) };
        self.bucket.fill(start, rate, burst);
        if let Some(left) = self.bucket.left.checked_sub(work(bytes)) {
            self.bucket.left = left;
            return Rate::constant(LINE_RATE_BPS).finish(start, work(bytes));
        }
        let leaves = rate.finish(start, work(bytes) - self.bucket.left);
        self.bucket = Tokens { left: 0, at: leaves };
        leaves
    }

    fn is_lost(&mut self) -> bool {
        match self.config.loss {
            Loss::None => false,
            Loss::Uniform(share) => self.rng.random_bool(share),
            Loss::Bursts { to_bad, to_good, loss } => {
                let change = if self.is_bad { to_good } else { to_bad };
                self.is_bad ^= self.rng.random_bool(change);
                self.is_bad && self.rng.random_bool(loss)
            }
        }
    }

    fn arrival(&mut self, leaves: Duration) -> Duration {
        let mut arrives = leaves + self.config.delay;
        if !self.config.jitter.is_zero() {
            arrives += self.config.jitter.mul_f64(self.rng.random::<f64>());
        }
        if let Some(Reordering { share, delay }) = self.config.reordering
            && self.rng.random_bool(share)
        {
            return arrives.max(self.last_arrival) + delay;
        }
        self.last_arrival = arrives.max(self.last_arrival);
        self.last_arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Duration = Duration::from_millis(25);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn link(config: LinkConfig) -> Link {
        Link::new(config, 1)
    }

    fn limited(bps: u64) -> LinkConfig {
        LinkConfig::limited(Rate::constant(bps), WAY)
    }

    /// Sends packets of 1,000 bytes at even distances; what became of each.
    fn stream(link: &mut Link, count: usize, distance: Duration) -> Vec<Fate> {
        (0..count).map(|n| link.send(distance * n as u32, 1_000)).collect()
    }

    fn arrivals(fates: &[Fate]) -> Vec<Duration> {
        fates.iter().filter_map(|fate| if let Fate::Arrives(at) = fate { Some(*at) } else { None }).collect()
    }

    #[test]
    fn the_rate_is_held_exactly() {
        let mut link = link(LinkConfig { queue: Queue::Bytes(1 << 20), ..limited(800_000) });
        let fates = stream(&mut link, 500, ms(1));
        // 1,000 bytes take 10 ms.
        let expected: Vec<_> = (1..=500).map(|n| WAY + ms(10 * n)).collect();
        assert_eq!(arrivals(&fates), expected);
    }

    #[test]
    fn a_step_and_a_ramp_pass_what_lies_below_them() {
        let step = Rate::Steps(vec![(ms(0), 800_000), (ms(5), 80_000)]);
        // Half of it at the first rate.
        assert_eq!(step.finish(ms(0), work(1_000)), ms(5 + 50));
        let ramp = Rate::Ramp { from: 0, to: 1_000_000, starts: ms(0), ends: ms(1_000) };
        let passed = ramp.mean(ms(0), ms(1_000)).expect("limited");
        assert_eq!(passed, 495_000, "a staircase of 100 steps");
        assert_eq!(ramp.at(ms(5_000)), Some(1_000_000));
    }

    #[test]
    fn an_outage_holds_packets_until_it_ends() {
        let rate = Rate::Steps(vec![(ms(0), 800_000), (ms(100), 0), (ms(2_100), 800_000)]);
        assert_eq!(rate.finish(ms(95), work(1_000)), ms(2_105));
    }

    #[test]
    fn the_queue_is_bounded_in_time_and_in_bytes() {
        for queue in [Queue::Time(ms(200)), Queue::Bytes(20_000)] {
            let mut link = link(LinkConfig { queue, ..limited(800_000) });
            let fates = stream(&mut link, 1_000, ms(5));
            let waits = link.log.iter().map(|passage| passage.wait);
            assert_eq!(waits.max(), Some(ms(200)));
            let share = arrivals(&fates).len() as f64 / 1_000.0;
            assert!((0.5..0.53).contains(&share), "twice the rate was sent: {share}");
            assert!(fates.contains(&Fate::Overflow));
        }
    }

    #[test]
    fn the_share_that_is_lost_is_the_one_of_its_model() {
        let bursts = Loss::Bursts { to_bad: 0.02, to_good: 0.38, loss: 0.6 };
        for (loss, expected) in [(Loss::Uniform(0.05), 0.05), (bursts, 0.02 / 0.4 * 0.6)] {
            let mut link = link(LinkConfig { loss, ..LinkConfig::wire(WAY) });
            let fates = stream(&mut link, 100_000, ms(1));
            let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count() as f64 / 100_000.0;
            assert!((lost - expected).abs() < expected / 10.0, "{lost}, not {expected}");
        }
    }

    #[test]
    fn bursts_of_loss_are_longer_than_chance_makes_them() {
        let pairs = |loss| {
            let mut link = link(LinkConfig { loss, ..LinkConfig::wire(WAY) });
            let fates = stream(&mut link, 100_000, ms(1));
            fates.windows(2).filter(|pair| pair.iter().all(|fate| *fate == Fate::Lost)).count()
        };
        let bursts = pairs(Loss::Bursts { to_bad: 0.02, to_good: 0.38, loss: 0.6 });
        assert!(bursts > 5 * pairs(Loss::Uniform(0.03)), "{bursts}");
    }

    #[test]
    fn jitter_keeps_the_order() {
        let mut link = link(LinkConfig { jitter: ms(30), ..LinkConfig::wire(WAY) });
        assert!(arrivals(&stream(&mut link, 2_000, ms(1))).is_sorted());
        let delays = (0..2_000).map(|n| (ms(2_000 + 100 * n), link.send(ms(2_000 + 100 * n), 1_000)));
        let delays: Vec<_> = delays.map(|(at, fate)| arrivals(&[fate])[0] - at - WAY).collect();
        let (low, high) = (delays.iter().min(), delays.iter().max());
        assert!(low < Some(&ms(1)) && high > Some(&ms(29)) && high <= Some(&ms(30)), "{low:?} to {high:?}");
    }

    #[test]
    fn reordering_is_a_share_of_packets_that_others_overtake() {
        let reordering = Some(Reordering { share: 0.1, delay: ms(15) });
        let mut link = link(LinkConfig { reordering, ..LinkConfig::wire(WAY) });
        let arrivals = arrivals(&stream(&mut link, 10_000, ms(10)));
        let late = arrivals.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((700..1_100).contains(&late), "{late} of 10,000 were overtaken");
    }

    /// 64 KB pass at the line's rate, which is what a burst tells of a link with a bucket: nothing.
    #[test]
    fn the_burst_of_a_bucket_passes_at_line_rate() {
        let mut link = link(LinkConfig { bucket: Some(64_000), queue: Queue::Bytes(1 << 20), ..limited(800_000) });
        let arrivals = arrivals(&stream(&mut link, 100, Duration::ZERO));
        assert!(arrivals[63] < WAY + ms(1), "{:?}", arrivals[63]);
        assert_eq!(arrivals[99] - arrivals[64], ms(350), "then at its rate");
        let later = link.send(ms(10_000), 1_000);
        assert_eq!(later, Fate::Arrives(ms(10_000) + WAY + Duration::from_micros(8)), "full again after a pause");
    }

    #[test]
    fn a_policer_drops_what_is_above_its_rate_and_delays_nothing() {
        let policer = Some(Policer { bps: 800_000, burst: 10_000 });
        let mut link = link(LinkConfig { policer, ..LinkConfig::wire(WAY) });
        let fates = stream(&mut link, 2_000, ms(5));
        let arrived = arrivals(&fates).len();
        assert!((1_000..=1_010).contains(&arrived), "{arrived} of twice the rate");
        assert!(link.log.iter().all(|passage| passage.wait.is_zero()));
    }

    #[test]
    fn cross_traffic_takes_its_share_of_the_rate() {
        let cross = CrossTraffic { bps: 400_000, starts: ms(0), ends: ms(100_000) };
        let config = LinkConfig { cross: Some(cross), queue: Queue::Bytes(30_000), ..limited(800_000) };
        let mut link = link(config);
        let arrived = arrivals(&stream(&mut link, 2_000, ms(10)));
        let bps = arrived.len() as f64 * 8_000.0 / arrived.last().expect("some").as_secs_f64();
        // Both together are 1.5 times the rate.
        assert!((400_000.0..700_000.0).contains(&bps), "{bps} of 800,000, with 400,000 of another");
    }

    #[test]
    fn a_seed_is_a_link_and_another_seed_another() {
        let fates = |seed| {
            let config = LinkConfig { loss: Loss::WIFI, jitter: ms(5), ..LinkConfig::wire(WAY) };
            stream(&mut Link::new(config, seed), 1_000, ms(1))
        };
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
    }
}
