//! What came of a stream: who watched, how long, and what they wrote (stream API, section 10).
//!
//! Everything is computed from presence records and chat totals when it is asked for. Both stand still after the end,
//! and so do the figures. A user on several devices is one viewer, for as long as any of them is there.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::store::chat::ChatTotals;
use crate::store::presence::Presence;
use crate::store::stream::{Stream, StreamState, UserId};

/// Points of a timeline or a retention curve: those of a day. Of longer streams they are further apart.
pub const POINTS_MAX: u64 = 1_440;

const MINUTE_MS: u64 = 60_000;

/// Viewers at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Point {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub viewers: u32,
}

/// How many of all viewers watched at least so long, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Retained {
    pub minute: u64,
    pub share: f64,
}

/// The figures of one stream.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Analytics {
    pub peak_viewers: u32,
    pub unique_viewers: u32,
    /// Over the time of the stream.
    pub average_viewers: f64,
    pub total_watch_seconds: u64,
    /// Of a viewer.
    pub average_watch_seconds: u64,
    /// Sessions of viewers: devices and reconnections.
    pub connections: u64,
    pub chat_messages: u64,
    pub chatters: u64,
    pub reactions: BTreeMap<String, u64>,
    /// A point each minute; of more than a day, fewer.
    pub timeline: Vec<Point>,
    pub retention: Vec<Retained>,
    /// There were more sessions than are looked at; the times are those of the first ones.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub partial: bool,
}

/// From when to when, in ms after the start; `from < to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    from: u64,
    to: u64,
}

/// Computes the figures of a stream as of `now`.
pub fn analyse(stream: &Stream, sessions: &[Presence], totals: &ChatTotals, now: Timestamp) -> Analytics {
    // What never began has nothing that could go on with the clock.
    let began = !matches!(stream.state, StreamState::Scheduled | StreamState::Cancelled);
    let start = stream.started_at.unwrap_or(stream.created_at);
    let end = stream.ended_at.unwrap_or(if began { now } else { start }).max(start);
    let duration = millis(end.since(start));
    // Whoever came after the end saw nothing of it.
    let sessions: Vec<&Presence> =
        sessions.iter().filter(|session| session.counts && session.joined_at <= end).collect();
    let watched = watched(&sessions, start, end);
    let times: Vec<u64> = watched.values().map(|spans| spans.iter().map(|span| span.to - span.from).sum()).collect();
    let total: u64 = times.iter().sum();
    let viewers = watched.len() as u64;
    Analytics {
        peak_viewers: stream.peak_viewers,
        unique_viewers: stream.unique_viewers,
        average_viewers: ratio(total, duration),
        total_watch_seconds: total / 1000,
        average_watch_seconds: total.checked_div(viewers).unwrap_or(0) / 1000,
        connections: sessions.len() as u64,
        chat_messages: totals.messages,
        chatters: totals.chatters,
        reactions: totals.reactions.clone(),
        timeline: if began { timeline(&watched, start, duration) } else { Vec::new() },
        retention: retention(&times, duration),
        partial: false,
    }
}

/// When each viewer was there: unions of sessions, within the time of the stream. Somebody who came and left within a
/// millisecond watched for none, but came.
fn watched<'a>(sessions: &[&'a Presence], start: Timestamp, end: Timestamp) -> HashMap<&'a UserId, Vec<Span>> {
    let mut spans: HashMap<&UserId, Vec<Span>> = HashMap::new();
    for session in sessions {
        let from = millis(session.joined_at.clamp(start, end).since(start));
        let to = millis(session.left_at.unwrap_or(end).clamp(start, end).since(start));
        let list = spans.entry(&session.user_id).or_default();
        if from < to {
            list.push(Span { from, to });
        }
    }
    for list in spans.values_mut() {
        union(list);
    }
    spans
}

/// Merges spans that touch or overlap, in place.
fn union(spans: &mut Vec<Span>) {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for &span in spans.iter() {
        match merged.last_mut() {
            Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
            Some(_) | None => merged.push(span),
        }
    }
    *spans = merged;
}

/// Minutes from one point to the next, so that there are at most [`POINTS_MAX`].
fn step_minutes(duration: u64) -> u64 {
    (duration / MINUTE_MS + 1).div_ceil(POINTS_MAX)
}

/// Viewers at the beginning of each step.
fn timeline(watched: &HashMap<&UserId, Vec<Span>>, start: Timestamp, duration: u64) -> Vec<Point> {
    let step = step_minutes(duration) * MINUTE_MS;
    let points = usize::try_from(duration / step + 1).unwrap_or(1);
    // Who comes is counted from the next point on, until the next one after leaving.
    let mut changes = vec![0_i64; points + 1];
    for span in watched.values().flatten() {
        let (from, to) = (point_from(span.from, step, points), point_from(span.to, step, points));
        changes[from] += 1;
        changes[to] -= 1;
    }
    let mut viewers = 0_i64;
    let mut point = |(index, change): (usize, &i64)| {
        viewers += change;
        let at = start.plus(Duration::from_millis(step.saturating_mul(index as u64)));
        Point { at, viewers: u32::try_from(viewers).unwrap_or(0) }
    };
    changes[..points].iter().enumerate().map(&mut point).collect()
}

/// The first point at or after a time.
fn point_from(time: u64, step: u64, points: usize) -> usize {
    usize::try_from(time.div_ceil(step)).unwrap_or(points).min(points)
}

/// Shares of viewers by the time they watched, until nobody is left.
fn retention(times: &[u64], duration: u64) -> Vec<Retained> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let step = step_minutes(duration);
    let mut curve = Vec::new();
    for minute in (0..=duration / MINUTE_MS).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        let shorter = sorted.partition_point(|time| *time < minute * MINUTE_MS);
        let stayed = sorted.len() - shorter;
        if stayed == 0 {
            break;
        }
        curve.push(Retained { minute, share: ratio(stayed as u64, sorted.len() as u64) });
    }
    curve
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Rounded to four decimals; 0 of nothing.
fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let ratio = if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    (ratio * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests;
