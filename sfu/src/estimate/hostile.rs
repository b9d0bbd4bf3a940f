//! Whatever a client reports, the estimate stays within its bounds.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::rate::{BPS_MAX, BPS_MIN};
use super::{Estimator, RunReport};

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), -1_000_000..1_000_000i64, Just(i64::MIN), Just(i64::MAX), Just(0)]
}

prop_compose! {
    fn run()(
        sent in prop_oneof![any::<u64>(), 0..10_000_000u64],
        head_us in proptest::option::of(time()),
        tail_us in proptest::option::of(time()),
        received in any::<u16>(),
        bytes in any::<u32>(),
        first_bytes in any::<u16>(),
        lost in any::<u16>(),
    ) -> RunReport {
        RunReport { sent_us: sent, head_us, tail_us, received, bytes, first_bytes, lost }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Sent(u32),
    Report(Vec<RunReport>, u64),
    Remb(u64),
    ReceiverReport(u8),
    Demand(u64, Option<u64>),
    Path,
    Probe(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any::<u32>().prop_map(Event::Sent),
        (proptest::collection::vec(run(), 0..12), any::<u64>()).prop_map(|(runs, rtt)| Event::Report(runs, rtt)),
        any::<u64>().prop_map(Event::Remb),
        any::<u8>().prop_map(Event::ReceiverReport),
        (any::<u64>(), any::<Option<u64>>()).prop_map(|(demand, next)| Event::Demand(demand, next)),
        Just(Event::Path),
        any::<u64>().prop_map(Event::Probe),
    ]
}

fn apply(estimator: &mut Estimator, now: Instant, event: Event) {
    match event {
        Event::Sent(bytes) => estimator.on_sent(now, bytes),
        Event::Report(runs, rtt) => {
            estimator.begin_report(now);
            runs.iter().for_each(|run| estimator.on_run(run));
            estimator.end_report(now, Duration::from_micros(rtt));
        }
        Event::Remb(bps) => estimator.on_remb(now, bps),
        Event::ReceiverReport(lost) => estimator.on_receiver_report(now, lost),
        Event::Demand(demand, next) => estimator.set_demand(demand, next),
        Event::Path => estimator.on_path_change(now),
        Event::Probe(now_us) => drop(estimator.probe(now, now_us)),
    }
}

proptest! {
    #[test]
    fn no_report_makes_the_estimate_leave_its_bounds(
        events in proptest::collection::vec((event(), 0..2_000u64), 0..120)
    ) {
        let mut now = Instant::now();
        let mut estimator = Estimator::new(now);
        for (event, later) in events {
            now += Duration::from_millis(later);
            apply(&mut estimator, now, event);
            estimator.on_tick(now);
            prop_assert!((BPS_MIN..=BPS_MAX).contains(&(estimator.bps() as f64)));
            prop_assert!((0.0..=1.0).contains(&estimator.loss_share()));
            let _ = estimator.queue();
        }
    }
}

#[test]
fn an_estimator_is_small() {
    assert!(size_of::<Estimator>() <= 1_152, "{}", size_of::<Estimator>());
}
