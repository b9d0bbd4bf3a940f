use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::store::stream::StreamState;

const START: i64 = 1_700_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(START + seconds * 1000)
}

fn stream(seconds: i64) -> Stream {
    Stream {
        room_name: "live_owner_1".into(),
        state: StreamState::Ended,
        started_at: Some(at(0)),
        ended_at: Some(at(seconds)),
        state_since: at(seconds),
        peak_viewers: 2,
        unique_viewers: 3,
        updated_at: at(seconds),
        ..Stream::new("owner".parse().unwrap(), at(0))
    }
}

fn session(user: &str, from: i64, to: Option<i64>) -> Presence {
    Presence {
        sid: format!("PA_{user}_{from}"),
        identity: format!("{user}:1"),
        user_id: user.parse().unwrap(),
        counts: true,
        joined_at: at(from),
        left_at: to.map(at),
    }
}

fn figures(seconds: i64, sessions: &[Presence]) -> Analytics {
    analyse(&stream(seconds), sessions, &ChatTotals::default(), at(1_000_000))
}

#[test]
fn a_user_on_two_devices_watches_once() {
    let figures = figures(600, &[session("a", 0, Some(300)), session("a", 200, Some(400)), session("a", 500, None)]);

    assert_eq!(figures.total_watch_seconds, 500);
    assert_eq!(figures.average_watch_seconds, 500);
    assert_eq!(figures.connections, 3);
}

#[test]
fn the_average_is_over_the_time_of_the_stream() {
    let figures = figures(600, &[session("a", 0, Some(300)), session("b", 0, None)]);

    assert!((figures.average_viewers - 1.5).abs() < 1e-9);
    assert_eq!(figures.average_watch_seconds, 450);
}

#[test]
fn who_does_not_count_is_in_no_figure() {
    let mut owner = session("owner", 0, None);
    owner.counts = false;

    let figures = figures(600, &[owner]);

    assert_eq!((figures.connections, figures.total_watch_seconds), (0, 0));
    assert!(figures.retention.is_empty());
    assert!(figures.timeline.iter().all(|point| point.viewers == 0));
}

#[test]
fn the_timeline_has_a_point_each_minute_from_the_start_on() {
    let figures = figures(150, &[session("a", 0, Some(60)), session("b", 30, None)]);

    let points: Vec<_> = figures.timeline.iter().map(|point| (point.at, point.viewers)).collect();
    assert_eq!(points, [(at(0), 1), (at(60), 1), (at(120), 1)]);
}

#[test]
fn retention_says_how_many_watched_at_least_so_long() {
    let figures = figures(240, &[session("a", 0, Some(60)), session("b", 100, Some(170)), session("c", 0, None)]);

    let curve: Vec<_> = figures.retention.iter().map(|point| (point.minute, point.share)).collect();
    assert_eq!(curve, [(0, 1.0), (1, 1.0), (2, 0.3333), (3, 0.3333), (4, 0.3333)]);
}

#[test]
fn nothing_after_the_end_changes_a_figure() {
    let before = figures(600, &[session("a", 0, None)]);

    let after = figures(600, &[session("a", 0, Some(900)), session("late", 601, Some(700))]);

    assert_eq!(before, after);
}

#[test]
fn a_stream_that_never_lasted_has_figures_too() {
    let figures = figures(0, &[session("a", 0, None)]);

    assert_eq!((figures.total_watch_seconds, figures.timeline.len()), (0, 1));
    assert!(figures.average_viewers.abs() < f64::EPSILON);
}

#[test]
fn what_was_written_is_passed_on() {
    let totals = ChatTotals { messages: 7, chatters: 3, reactions: [("❤️".into(), 9)].into(), last_seq: 7 };

    let figures = analyse(&stream(60), &[], &totals, at(60));

    assert_eq!((figures.chat_messages, figures.chatters, figures.reactions["❤️"]), (7, 3, 9));
}

/// Second by second.
fn naive_seconds(sessions: &[Presence], seconds: i64) -> u64 {
    (0..seconds)
        .map(|second| {
            let there = sessions.iter().filter(|session| {
                session.counts
                    && session.joined_at <= at(second)
                    && session.left_at.is_none_or(|left| left > at(second))
            });
            there.map(|session| &session.user_id).collect::<HashSet<_>>().len() as u64
        })
        .sum()
}

fn sessions() -> impl Strategy<Value = Vec<Presence>> {
    let one = (0..5_u8, -100..900_i64, proptest::option::of(0..400_i64), any::<bool>());
    vec(one, 0..30).prop_map(|list| {
        let made = list.into_iter().map(|(user, from, stay, counts)| Presence {
            counts: counts || user == 0,
            ..session(&format!("u{user}"), from, stay.map(|stay| from + stay))
        });
        made.collect()
    })
}

proptest! {
    #[test]
    fn watch_time_is_what_counting_second_by_second_gives(sessions in sessions(), seconds in 1..700_i64) {
        let figures = figures(seconds, &sessions);

        prop_assert_eq!(figures.total_watch_seconds, naive_seconds(&sessions, seconds));
    }

    #[test]
    fn each_point_has_those_who_are_there(sessions in sessions(), seconds in 1..700_i64) {
        for point in figures(seconds, &sessions).timeline {
            // At the very end nobody is there any more.
            let there = sessions.iter().filter(|session| {
                session.counts && session.joined_at <= point.at && point.at < at(seconds)
                    && session.left_at.is_none_or(|left| left > point.at)
            });
            let users: HashSet<_> = there.map(|session| &session.user_id).collect();
            prop_assert_eq!(point.viewers as usize, users.len(), "at {}", point.at);
        }
    }

    #[test]
    fn retention_never_rises_and_starts_with_all(sessions in sessions(), seconds in 1..700_i64) {
        let curve = figures(seconds, &sessions).retention;

        prop_assert!(curve.first().is_none_or(|first| (first.share - 1.0).abs() < f64::EPSILON));
        prop_assert!(curve.windows(2).all(|pair| pair[1].share <= pair[0].share && pair[1].share > 0.0));
    }

    #[test]
    fn a_long_stream_has_no_more_points_than_one_of_a_day(hours in 1..2_000_i64) {
        let figures = figures(hours * 3600, &[session("a", 0, None)]);

        prop_assert!(figures.timeline.len() as u64 <= POINTS_MAX);
        prop_assert!(figures.retention.len() as u64 <= POINTS_MAX);
    }
}
