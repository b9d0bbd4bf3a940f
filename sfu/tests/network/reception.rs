//! What a receiver counts of one stream for its reports (RFC 3550, section 6.4.1 and appendix A).

use std::time::Duration;

use sfu::rtcp::ReportBlock;

use super::publisher::ticks;

#[derive(Debug)]
pub struct Reception {
    ssrc: u32,
    clock: u64,
    /// Extended numbers.
    first: Option<i64>,
    highest: i64,
    received: i64,
    /// Expected and received at the last report.
    reported: (i64, i64),
    transit: Option<i32>,
    jitter: f64,
    /// The middle of the last sender report's time, and when it came.
    last_report: Option<(u32, Duration)>,
}

impl Reception {
    pub fn new(ssrc: u32, clock: u64) -> Self {
        Self {
            ssrc,
            clock,
            first: None,
            highest: 0,
            received: 0,
            reported: (0, 0),
            transit: None,
            jitter: 0.0,
            last_report: None,
        }
    }

    pub fn on_packet(&mut self, now: Duration, sequence: i64, timestamp: u32) {
        self.first.get_or_insert(sequence);
        self.highest = self.highest.max(sequence);
        self.received += 1;
        let transit = ticks(now, self.clock).wrapping_sub(timestamp).cast_signed();
        if let Some(before) = self.transit.replace(transit) {
            let change = f64::from(transit.wrapping_sub(before)).abs();
            self.jitter += (change - self.jitter) / 16.0;
        }
    }

    pub fn on_sender_report(&mut self, now: Duration, ntp: u64) {
        self.last_report = Some(((ntp >> 16) as u32, now));
    }

    pub fn lost(&self) -> i64 {
        self.expected() - self.received
    }

    fn expected(&self) -> i64 {
        self.first.map_or(0, |first| self.highest + 1 - first)
    }

    pub fn block(&mut self, now: Duration) -> Option<ReportBlock> {
        self.first?;
        let (expected, received) = (self.expected() - self.reported.0, self.received - self.reported.1);
        self.reported = (self.expected(), self.received);
        let lost = (expected - received).max(0) * 256 / expected.max(1);
        let (last_sr, came) = self.last_report.unwrap_or((0, now));
        Some(ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: lost.min(255) as u8,
            cumulative_lost: self.lost() as i32,
            highest_sequence: self.highest as u32,
            jitter: self.jitter as u32,
            last_sr,
            delay_since_last_sr: ((now - came).as_secs_f64() * 65_536.0) as u32,
        })
    }
}
