//! The receiver's estimate of a client without transport-wide numbers, and REMB to tell it.
//!
//! Much simpler than libwebrtc's `RemoteBitrateEstimatorAbsSendTime`: a queue that grows beyond a threshold cuts the
//! estimate to 85 % of what came, else it grows by 8 % a second up to 1.5 times that.

use std::collections::VecDeque;
use std::time::Duration;

use rtc_rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtc_shared::marshal::Marshal;

use super::unwrap::Unwrapper;

const INTERVAL: Duration = Duration::from_millis(200);
const RATE_WINDOW: Duration = Duration::from_millis(500);
/// Of queueing, beyond which a link is in over-use.
const QUEUE_MAX: Duration = Duration::from_millis(40);
const BETWEEN_CUTS: Duration = Duration::from_millis(300);
/// For the way without a queue: the least delay of so long.
const BASE_WINDOW: Duration = Duration::from_secs(10);
const START_BPS: f64 = 300_000.0;

pub struct Remb {
    sender: u32,
    media: u32,
    send_times: Unwrapper,
    /// Time and bytes of what came.
    window: VecDeque<(Duration, usize)>,
    /// Least delays, in microseconds and rising.
    least: VecDeque<(Duration, i64)>,
    queue_us: i64,
    bps: f64,
    updated: Duration,
    cut: Duration,
}

impl Remb {
    pub fn new(sender: u32, media: u32) -> Self {
        Self {
            sender,
            media,
            send_times: Unwrapper::new(24),
            window: VecDeque::new(),
            least: VecDeque::new(),
            queue_us: 0,
            bps: START_BPS,
            updated: Duration::ZERO,
            cut: Duration::ZERO,
        }
    }

    /// `send_time`: of the absolute send time extension, 6.18 fixed point of seconds.
    pub fn on_packet(&mut self, now: Duration, send_time: u32, bytes: usize) {
        self.window.push_back((now, bytes));
        while self.window.pop_front_if(|(at, _)| *at + RATE_WINDOW < now).is_some() {}
        let sent_us = self.send_times.unwrap(send_time.into()) * 1_000_000 / (1 << 18);
        let delay = now.as_micros() as i64 - sent_us;
        while self.least.pop_back_if(|(_, least)| *least >= delay).is_some() {}
        self.least.push_back((now, delay));
        while self.least.pop_front_if(|(at, _)| *at + BASE_WINDOW < now).is_some() {}
        self.queue_us = delay - self.least[0].1;
    }

    fn update(&mut self, now: Duration) {
        let received =
            self.window.iter().map(|(_, bytes)| bytes).sum::<usize>() as f64 * 8.0 / RATE_WINDOW.as_secs_f64();
        if self.queue_us > QUEUE_MAX.as_micros() as i64 {
            if now >= self.cut + BETWEEN_CUTS {
                self.bps = 0.85 * received;
                self.cut = now;
            }
        } else {
            let grown = self.bps * 1.08f64.powf((now - self.updated).as_secs_f64());
            self.bps = grown.min((1.5 * received + 10_000.0).max(self.bps));
        }
        self.updated = now;
    }

    /// The packet that tells the estimate, when it is due.
    pub fn due(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.window.is_empty() || now < self.updated + INTERVAL {
            return None;
        }
        self.update(now);
        let remb = ReceiverEstimatedMaximumBitrate {
            sender_ssrc: self.sender,
            bitrate: self.bps as f32,
            ssrcs: vec![self.media],
        };
        Some(remb.marshal().expect("a REMB").to_vec())
    }
}
