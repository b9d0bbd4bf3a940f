//! Figures of a run: what its viewers saw, against what their links could carry.

use std::ops::Range;
use std::time::Duration;

use super::decoder::Shown;
use super::link::{Fate, Link};
use super::publisher::{CAMERA, FPS};
use super::rate::Rate;
use super::viewer::Viewer;

/// Shares of a layer's bitrate up to a temporal layer, and of its frames.
const TEMPORAL: [(f64, f64); 3] = [(0.4, 0.25), (0.6, 0.5), (1.0, 1.0)];
/// Of a link, for audio with its headers, and for headers and repeats of the video.
const AUDIO_BPS: f64 = 65_000.0;
const VIDEO_OVERHEAD: f64 = 1.08;
/// Intervals that a freeze is judged by, and fewest of them (libwebrtc, `video_quality_observer2.cc`).
const INTERVALS: usize = 30;
const INTERVALS_MIN: usize = 5;
const SECOND: Duration = Duration::from_secs(1);

/// A layer up to a temporal layer, as a viewer may get it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    pub layer: usize,
    pub temporal: usize,
    pub fps: f64,
    pub bps: f64,
}

/// All rungs, the cheapest first.
pub fn ladder() -> Vec<Rung> {
    let layers = CAMERA.iter().enumerate();
    let mut rungs: Vec<Rung> = layers
        .flat_map(|(layer, config)| {
            TEMPORAL.iter().enumerate().map(move |(temporal, (bits, frames))| Rung {
                layer,
                temporal,
                fps: frames * f64::from(FPS),
                bps: bits * config.bps as f64,
            })
        })
        .collect();
    rungs.sort_by(|one, other| one.bps.total_cmp(&other.bps));
    // A rung that is dearer than another and no better on its layer, or below it with fewer frames, nobody wants.
    rungs.retain(|rung| rung.layer == 0 || rung.fps >= 15.0);
    rungs
}

/// The best rung that a link of that rate carries, beside audio.
pub fn fitting(bps: Option<u64>) -> Rung {
    let rungs = ladder();
    let room = bps.map_or(f64::INFINITY, |bps| (bps as f64 - AUDIO_BPS) / VIDEO_OVERHEAD);
    *rungs.iter().rev().find(|rung| rung.bps <= room).unwrap_or(&rungs[0])
}

/// A freeze by libwebrtc's rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freeze {
    pub starts: Duration,
    pub length: Duration,
}

/// Intervals between frames that are much longer than those before; the last one may last until the end of the run.
pub fn freezes(shown: &[Shown], end: Duration) -> Vec<Freeze> {
    let times: Vec<Duration> = shown.iter().map(|frame| frame.at).chain([end]).collect();
    let intervals: Vec<Duration> = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    let mut freezes = Vec::new();
    for (index, length) in intervals.iter().enumerate() {
        let recent = &intervals[(index + 1).saturating_sub(INTERVALS)..=index];
        let mean = recent.iter().sum::<Duration>() / recent.len() as u32;
        let is_long = *length >= (mean * 3).max(mean + Duration::from_millis(150));
        if recent.len() >= INTERVALS_MIN && is_long {
            freezes.push(Freeze { starts: times[index], length: *length });
        }
    }
    freezes
}

/// Frames of these layers within a time, a second.
pub fn fps(viewer: &Viewer, layers: Range<u8>, within: Range<Duration>) -> f64 {
    let seconds = (within.end - within.start).as_secs_f64();
    let shown = viewer.shown.iter().filter(|frame| within.contains(&frame.at) && layers.contains(&frame.layer));
    shown.count() as f64 / seconds
}

/// The fewest frames of these layers in any whole second.
pub fn worst_fps(viewer: &Viewer, layers: Range<u8>, within: Range<Duration>) -> f64 {
    let seconds = (within.end - within.start).as_secs() as u32;
    let starts = (0..seconds).map(|second| within.start + SECOND * second);
    starts.map(|start| fps(viewer, layers.clone(), start..start + SECOND)).fold(f64::INFINITY, f64::min)
}

/// Seconds until the first moment after which a second has so many frames of a layer or one above; the rest of the
/// time if there is none.
pub fn seconds_to(viewer: &Viewer, layer: u8, frames: f64, within: Range<Duration>) -> f64 {
    let reached = viewer
        .shown
        .iter()
        .map(|frame| frame.at)
        .filter(|at| within.contains(at))
        .find(|at| fps(viewer, layer..u8::MAX, *at..*at + SECOND) >= frames);
    (reached.unwrap_or(within.end) - within.start).as_secs_f64()
}

/// Milliseconds without a frame, at most.
pub fn longest_gap_ms(viewer: &Viewer, within: Range<Duration>) -> f64 {
    let shown = viewer.shown.iter().map(|frame| frame.at).filter(|at| within.contains(at));
    let times: Vec<Duration> = [within.start].into_iter().chain(shown).chain([within.end]).collect();
    times.windows(2).map(|pair| ms(pair[1] - pair[0])).fold(0.0, f64::max)
}

/// U: bits of the frames that were shown, of those of the best rungs that the link could carry.
pub fn utilisation(viewer: &Viewer, rate: &Rate, within: Range<Duration>) -> f64 {
    let shown = viewer.shown.iter().filter(|frame| within.contains(&frame.at));
    let bits = shown.map(|frame| frame.bytes as f64 * 8.0).sum::<f64>();
    let seconds = (within.end - within.start).as_secs() as u32;
    let starts = (0..seconds).map(|second| within.start + SECOND * second);
    bits / starts.map(|start| fitting(rate.mean(start, start + SECOND)).bps).sum::<f64>()
}

/// Milliseconds in the queue of a link that 95 of 100 packets waited at most.
pub fn p95_queue_ms(link: &Link, within: Range<Duration>) -> f64 {
    let passages = link.log.iter().filter(|passage| within.contains(&passage.at));
    let queued = passages.filter(|passage| !matches!(passage.fate, Fate::Overflow | Fate::Policed));
    percentile(queued.map(|passage| ms(passage.wait)), 0.95)
}

/// Milliseconds that packets were on their way from publisher to viewer, of audio or of video.
pub fn delay_ms(viewer: &Viewer, is_audio: bool, share: f64) -> f64 {
    let packets = viewer.came.iter().filter(|packet| packet.is_audio == is_audio);
    percentile(packets.map(|packet| ms(packet.delay)), share)
}

/// Of so many packets, the share that a link did not bring.
pub fn lost_share(link: &Link, within: Range<Duration>) -> f64 {
    let passages: Vec<_> = link.log.iter().filter(|passage| within.contains(&passage.at)).collect();
    let lost = passages.iter().filter(|passage| !matches!(passage.fate, Fate::Arrives(_))).count();
    lost as f64 / passages.len().max(1) as f64
}

pub fn percentile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share).ceil() as usize;
    values.get(index.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_at(times_ms: impl Iterator<Item = u64>) -> Vec<Shown> {
        let frame = |ms| Shown {
            at: Duration::from_millis(ms),
            delay: Duration::ZERO,
            layer: 0,
            height: 180,
            temporal: 0,
            is_key: false,
            bytes: 0,
            last_sequence: 0,
        };
        times_ms.map(frame).collect()
    }

    #[test]
    fn a_freeze_is_an_interval_much_longer_than_those_before() {
        let end = Duration::from_millis(3_000);
        assert_eq!(freezes(&shown_at((0..90).map(|n| n * 33)), end), []);
        // 180 ms are long enough if the mean is 33 ms; five frames a second have none of that.
        let with_pause = (0..90).map(|n| n * 33).filter(|ms| !(1_000..1_200).contains(ms));
        let found = freezes(&shown_at(with_pause), end);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].length, Duration::from_millis(231));
        assert_eq!(freezes(&shown_at((0..15).map(|n| n * 200)), end), []);
    }

    #[test]
    fn a_picture_that_stands_until_the_end_is_frozen() {
        let found = freezes(&shown_at((0..30).map(|n| n * 33)), Duration::from_secs(5));
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn the_rung_that_fits_is_the_best_below_the_rate() {
        let fit = |bps| {
            let rung = fitting(Some(bps));
            (rung.layer, rung.fps)
        };
        assert_eq!(fit(3_000_000), (2, 30.0));
        assert_eq!(fit(1_000_000), (1, 30.0));
        assert_eq!(fit(500_000), (1, 15.0));
        assert_eq!(fit(300_000), (0, 30.0));
        assert_eq!(fit(10_000), (0, 7.5));
    }
}
