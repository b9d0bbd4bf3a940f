//! The rate at which the narrowest part of the way lets packets out that arrived there faster.
//!
//! Whatever waits there leaves as fast as it can: a key frame measures the link for free. Behind a token bucket, and on
//! Wi-Fi, bursts pass faster than all the rest, so such a rate bounds an estimate but never raises it.

/// Runs at most this far apart are one train.
const TOGETHER_US: u64 = 5_000;
/// A head that waited for longer than this has found the link busy since the run before it.
const BUSY_US: i64 = 10_000;
/// What is measured over this long is told, though the link stays busy.
const SPAN_MAX_US: i64 = 100_000;
/// Arrival times have a resolution of 250 µs.
const SPAN_MIN_US: i64 = 2_000;
const PACKETS_MIN: u32 = 5;
const RATES: usize = 5;
/// How long a rate is one of the present.
const FRESH_US: u64 = 1_000_000;
const RECENT_US: u64 = 4_000_000;
const KNOWN_US: u64 = 10_000_000;

/// One measured train.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    bps: f32,
    sent_us: u64,
    /// It arrived slower than it was sent. Otherwise the link has at least this rate.
    saturated: bool,
}

/// The train that goes on.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    first_sent_us: u64,
    last_sent_us: u64,
    head_us: i64,
    tail_us: i64,
    packets: u32,
    /// Without its first packet.
    bytes: u32,
    /// A later head has waited.
    busy: bool,
}

/// A run as it arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub sent_us: u64,
    pub head_us: Option<i64>,
    pub tail_us: i64,
    pub packets: u16,
    pub bytes: u32,
    pub first_bytes: u16,
    /// How long its head waited.
    pub waited_us: i64,
}

/// Rates of the last trains to one client.
#[derive(Debug, Default)]
pub(super) struct Trains {
    rates: [Rate; RATES],
    len: usize,
    open: Option<Open>,
}

impl Trains {
    pub(super) fn on_run(&mut self, run: &Arrived) {
        if self.extend(run) {
            return;
        }
        self.close();
        self.open = run.head_us.map(|head_us| Open {
            first_sent_us: run.sent_us,
            last_sent_us: run.sent_us,
            head_us,
            tail_us: run.tail_us,
            packets: u32::from(run.packets),
            bytes: run.bytes.saturating_sub(u32::from(run.first_bytes)),
            busy: false,
        });
    }

    /// The lower one of the last two trains that arrived slower than they were sent, if both are of the last second.
    pub(super) fn bottleneck(&self, sent_us: u64) -> Option<f64> {
        let mut late = self.late(sent_us, FRESH_US).filter(|rate| rate.saturated);
        let (last, before) = (late.next()?, late.next()?);
        Some(f64::from(last.bps.min(before.bps)))
    }

    /// Whether the last train arrived slower than it was sent.
    pub(super) fn is_slower(&self, sent_us: u64) -> bool {
        self.late(sent_us, FRESH_US).next().is_some_and(|rate| rate.saturated)
    }

    /// The median of the last five; they say how fast a burst passes.
    pub(super) fn median(&self, sent_us: u64) -> Option<f64> {
        Self::median_of(self.late(sent_us, KNOWN_US))
    }

    /// The same of those that still say what the way carries at most.
    pub(super) fn recent(&self, sent_us: u64) -> Option<f64> {
        Self::median_of(self.late(sent_us, RECENT_US).filter(|rate| rate.saturated))
    }

    /// Whether there are any that still say something of the way.
    pub(super) fn are_known(&self, sent_us: u64) -> bool {
        self.late(sent_us, RECENT_US).next().is_some()
    }

    fn median_of<'a>(late: impl Iterator<Item = &'a Rate>) -> Option<f64> {
        let mut rates = [0.0; RATES];
        let mut len = 0;
        for rate in late {
            rates[len] = rate.bps;
            len += 1;
        }
        rates[..len].sort_unstable_by(f32::total_cmp);
        (len > 0).then(|| f64::from(rates[len / 2]))
    }

    fn late(&self, sent_us: u64, within_us: u64) -> impl Iterator<Item = &Rate> {
        let newest_first = self.rates[..self.len].iter().rev();
        newest_first.take_while(move |rate| sent_us.saturating_sub(rate.sent_us) <= within_us)
    }

    /// Whether this run belongs to the train that goes on.
    fn extend(&mut self, run: &Arrived) -> bool {
        let Some(open) = &mut self.open else { return false };
        let together = run.sent_us.saturating_sub(open.last_sent_us) <= TOGETHER_US;
        let busy = run.head_us.is_some_and(|head| run.waited_us > BUSY_US && open.reaches(head, run.first_bytes));
        if run.sent_us < open.last_sent_us || run.tail_us < open.tail_us || !(together || busy) {
            return false;
        }
        if open.tail_us.saturating_sub(open.head_us) > SPAN_MAX_US {
            return false;
        }
        open.last_sent_us = run.sent_us;
        open.tail_us = run.tail_us;
        open.packets = open.packets.saturating_add(u32::from(run.packets));
        open.bytes = open.bytes.saturating_add(run.bytes);
        open.busy |= busy;
        true
    }

    fn close(&mut self) {
        let Some(rate) = self.open.take().and_then(|open| open.rate()) else { return };
        if self.len == RATES {
            self.rates.copy_within(1.., 0);
            self.len -= 1;
        }
        self.rates[self.len] = rate;
        self.len += 1;
    }
}

impl Open {
    fn span_us(&self) -> i64 {
        self.tail_us.saturating_sub(self.head_us)
    }

    /// Whether a packet that arrives then has followed without a pause, so that nothing but the link has held it up.
    fn reaches(&self, head_us: i64, first_bytes: u16) -> bool {
        let pause = head_us.saturating_sub(self.tail_us) as f64;
        let packet = f64::from(first_bytes) * self.span_us().max(0) as f64 / f64::from(self.bytes.max(1));
        pause <= 1.5 * packet + 1_000.0
    }

    fn rate(&self) -> Option<Rate> {
        let sent = self.last_sent_us.saturating_sub(self.first_sent_us) as f64;
        let span = self.span_us();
        if self.packets < PACKETS_MIN || span < 0 {
            return None;
        }
        let slower = span as f64 > 1.1 * sent + 1_000.0;
        let bps = f64::from(self.bytes) * 8e6 / span.max(SPAN_MIN_US) as f64;
        let saturated = span >= SPAN_MIN_US && (slower || self.busy);
        Some(Rate { bps: bps as f32, sent_us: self.last_sent_us, saturated })
    }
}
