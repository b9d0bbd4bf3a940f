//! The numbers of the product.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus::proto::MetricType;

use super::{Labels, Page, counts};
use crate::product::Sources;
use crate::store::unreadable;

pub(super) fn add(page: &mut Page<'_>, sources: &Sources) {
    streams(page, sources);
    chat(page, sources);
    api(page, sources);
}

fn streams(page: &mut Page<'_>, sources: &Sources) {
    let up = u64::from(sources.store_health.away_for(Instant::now()).is_none());
    page.metric("onair_store_up", "1 while the store answers, else 0.", MetricType::GAUGE, &[(&[], up)]);
    let help = "Looks at the store, one a second, that found it away or unable to write.";
    let failures = sources.store_health.failures();
    page.metric("onair_store_failures_total", help, MetricType::COUNTER, &[(&[], failures)]);
    let cache = sources.lifecycle.cache();
    let help = "Times that a list passed a row or document over that cannot be read; the log names it.";
    page.metric("onair_store_unreadable_total", help, MetricType::COUNTER, &[(&[], unreadable::passed_over())]);
    let help = "Ends, blocks and bans that hold here although the store did not take them yet.";
    page.metric("onair_decisions_unstored", help, MetricType::GAUGE, &[(&[], cache.held_count() as u64)]);
    page.metric("onair_streams_live", "Live streams.", MetricType::GAUGE, &[(&[], cache.live_count() as u64)]);
    page.metric("onair_stream_viewers", "Viewers of all live streams.", MetricType::GAUGE, &[(&[], cache.viewers())]);
    let counters = sources.lifecycle.counters();
    let begun = [
        ("started", &counters.started),
        ("resumed", &counters.resumed),
        ("scheduled", &counters.scheduled),
        ("cancelled", &counters.cancelled),
        ("watch_token", &counters.watch_tokens),
    ];
    counts(page, "onair_stream_requests_total", "What was asked for and granted.", "what", &begun);
    let ends: Vec<_> = counters.ends().collect();
    by_name(page, "onair_streams_ended_total", "Streams that this process ended.", "reason", &ends);
    let events = [
        ("applied", &counters.events_applied),
        ("repeated", &counters.events_repeated),
        ("not_ours", &counters.events_not_ours),
        ("deferred", &counters.events_deferred),
    ];
    counts(page, "onair_room_events_total", "Events of rooms, from this process or by webhook.", "result", &events);
    let refused = [("signature", &counters.webhooks_refused), ("malformed", &counters.webhooks_malformed)];
    counts(page, "onair_webhooks_refused_total", "Webhooks that were not believed or not read.", "reason", &refused);
    let kept = [
        ("compared", &counters.reconciliations),
        ("failed", &counters.reconciliations_failed),
        ("corrected", &counters.reconciled_differences),
        ("session_removed", &counters.sessions_removed),
        ("room_deleted", &counters.rooms_deleted),
    ];
    counts(page, "onair_reconciliation_total", "Comparisons of streams with their rooms.", "what", &kept);
    let moderation = sources.moderation.counters();
    let acts = [
        ("block", &moderation.blocks),
        ("ban", &moderation.bans),
        ("report", &moderation.reports),
        ("flag", &moderation.flagged),
    ];
    counts(page, "onair_moderation_total", "Acts of moderation.", "act", &acts);
}

fn chat(page: &mut Page<'_>, sources: &Sources) {
    let chat = &sources.chat;
    let gauges = [
        ("onair_chat_connections", "Connections of Socket.IO.", &chat.connections),
        ("onair_chat_sockets", "Sockets in chats: connections times their namespaces.", &chat.sockets),
        ("onair_chat_rooms", "Chats that are open.", &chat.rooms),
        ("onair_chat_queued", "Messages that wait for the store.", &chat.queued),
    ];
    for (name, help, value) in gauges {
        page.metric(name, help, MetricType::GAUGE, &[(&[], value.load(Ordering::Relaxed))]);
    }
    let kinds = [("message", &chat.messages), ("reaction", &chat.reactions), ("relayed", &chat.relayed)];
    counts(page, "onair_chat_events_total", "Events that were let through.", "kind", &kinds);
    let lost: [(&str, &AtomicU64); 4] = [
        ("slow_client", &chat.deliveries_lost),
        ("reaction_limit", &chat.reactions_dropped),
        ("store_refused", &chat.queue_lost),
        ("relayed_late", &chat.relayed_late),
    ];
    counts(page, "onair_chat_lost_total", "What did not reach a client, or not the store.", "reason", &lost);
    let refused: Vec<_> = chat.refused().collect();
    by_name(page, "onair_chat_refused_total", "Events that were refused.", "code", &refused);
    let closed = [
        ("faults", &chat.closed_for_faults),
        ("door", &chat.refused_connections),
        ("unread", &chat.closed_unread),
        ("unread_post", &chat.unread_posts),
    ];
    counts(page, "onair_chat_turned_away_total", "Clients that were sent off.", "reason", &closed);
    counts(
        page,
        "onair_chat_states_held_total",
        "States of chats that waited until their client, or others, had read.",
        "reason",
        &[("unread", &chat.states_held)],
    );
    let unconnected: Vec<_> = chat.not_connected().collect();
    by_name(page, "onair_chat_connects_refused_total", "Sockets that were not connected.", "code", &unconnected);
}

fn api(page: &mut Page<'_>, sources: &Sources) {
    let answers = sources.http.answers();
    let statuses: Vec<String> = answers.iter().map(|answer| answer.status.to_string()).collect();
    let labels: Vec<[(&str, &str); 3]> = answers
        .iter()
        .zip(&statuses)
        .map(|(answer, status)| {
            [("method", answer.method), ("path", answer.path.as_str()), ("status", status.as_str())]
        })
        .collect();
    let rows: Vec<(Labels<'_>, u64)> =
        labels.iter().zip(&answers).map(|(labels, answer)| (labels.as_slice(), answer.count)).collect();
    if !rows.is_empty() {
        page.metric("onair_http_requests_total", "Answers of the stream API.", MetricType::COUNTER, &rows);
    }
    let durations = sources.http.durations();
    let labels: Vec<[(&str, &str); 1]> = durations.iter().map(|(path, _)| [("path", path.as_str())]).collect();
    let rows: Vec<_> = labels.iter().map(|row| &row[..]).zip(durations.iter().map(|(_, took)| *took)).collect();
    if !rows.is_empty() {
        page.histogram("onair_http_request_duration_seconds", "How long answers of the stream API took.", &rows);
    }
    let problems: Vec<_> = sources.http.problems().map(|(code, count)| (code.name(), count)).collect();
    by_name(page, "onair_http_problems_total", "Refusals of the stream API.", "code", &problems);
}

fn by_name(page: &mut Page<'_>, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
    let labels: Vec<[(&str, &str); 1]> = values.iter().map(|(value, _)| [(label, *value)]).collect();
    let counts = values.iter().map(|(_, count)| *count);
    let rows: Vec<(Labels<'_>, u64)> = labels.iter().map(|label| &label[..]).zip(counts).collect();
    page.metric(name, help, MetricType::COUNTER, &rows);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use axum::http::{Method, StatusCode};

    use super::super::tests::{assert_shown, set};
    use super::*;
    use crate::auth::Authenticator;
    use crate::chat::Chat;
    use crate::clock::Timestamp;
    use crate::cluster::Cluster;
    use crate::config::product;
    use crate::moderation::Moderation;
    use crate::problem::Code;
    use crate::rooms::external::External;
    use crate::rooms::{RoomTimes, TokenSigner};
    use crate::services::{Parts, Services};
    use crate::store::embedded::Embedded;
    use crate::store::stream::{EndReason, Stream, StreamState};
    use crate::store::{SharedStore, StoreError};
    use crate::stream_cache::StreamCache;

    fn sources() -> Sources {
        let config = product::Live::default();
        let signer = TokenSigner::new("key", "a secret of at least thirty-two bytes", RoomTimes::of(&config));
        let store: SharedStore = Arc::new(Embedded::in_memory().unwrap());
        let services = Services::new(Parts {
            config,
            cluster: Cluster::new("ND_x".into(), Arc::clone(&store)),
            store,
            cache: StreamCache::default(),
            rooms: Arc::new(External::new("http://127.0.0.1:9", None, signer).unwrap()),
            chat: Chat::default(),
        });
        let auth = Arc::new(Authenticator::new(&product::Auth::default(), &[]).unwrap());
        Sources {
            moderation: Moderation::new(services.lifecycle.clone(), services.streams, auth),
            lifecycle: services.lifecycle,
            chat: Arc::default(),
            http: Arc::default(),
            store_health: Default::default(),
        }
    }

    #[tokio::test]
    async fn streams_and_what_is_decided_of_them_are_shown_as_they_are_counted() {
        let sources = sources();
        for (owner, viewers) in [("ana", 3), ("bo", 4)] {
            let at = Timestamp::default();
            let stream = Stream { state: StreamState::Live, viewers, ..Stream::new(owner.parse().unwrap(), at) };
            sources.lifecycle.cache().observe(stream, |_| ()).unwrap();
        }
        let counters = sources.lifecycle.counters();
        set(&[&counters.started, &counters.resumed, &counters.scheduled, &counters.cancelled], 11);
        set(&[&counters.watch_tokens, &counters.events_applied, &counters.events_repeated], 15);
        set(&[&counters.events_not_ours, &counters.events_deferred, &counters.webhooks_refused], 18);
        set(&[&counters.webhooks_malformed, &counters.reconciliations, &counters.reconciliations_failed], 21);
        set(&[&counters.reconciled_differences, &counters.sessions_removed, &counters.rooms_deleted], 24);
        let moderation = sources.moderation.counters();
        set(&[&moderation.blocks, &moderation.bans, &moderation.reports, &moderation.flagged], 27);
        counters.count_end(EndReason::Banned);
        let mut page = Page::new("ND_x");
        add(&mut page, &sources);

        assert_shown(
            &page,
            &[
                ("onair_store_up", "", 1),
                ("onair_store_failures_total", "", 0),
                ("onair_decisions_unstored", "", 0),
                ("onair_streams_live", "", 2),
                ("onair_stream_viewers", "", 7),
                ("onair_stream_requests_total", "what=\"started\"", 11),
                ("onair_stream_requests_total", "what=\"resumed\"", 12),
                ("onair_stream_requests_total", "what=\"scheduled\"", 13),
                ("onair_stream_requests_total", "what=\"cancelled\"", 14),
                ("onair_stream_requests_total", "what=\"watch_token\"", 15),
                ("onair_streams_ended_total", "reason=\"banned\"", 1),
                ("onair_streams_ended_total", "reason=\"stopped\"", 0),
                ("onair_room_events_total", "result=\"applied\"", 16),
                ("onair_room_events_total", "result=\"repeated\"", 17),
                ("onair_room_events_total", "result=\"not_ours\"", 18),
                ("onair_room_events_total", "result=\"deferred\"", 19),
                ("onair_webhooks_refused_total", "reason=\"signature\"", 20),
                ("onair_webhooks_refused_total", "reason=\"malformed\"", 21),
                ("onair_reconciliation_total", "what=\"compared\"", 22),
                ("onair_reconciliation_total", "what=\"failed\"", 23),
                ("onair_reconciliation_total", "what=\"corrected\"", 24),
                ("onair_reconciliation_total", "what=\"session_removed\"", 25),
                ("onair_reconciliation_total", "what=\"room_deleted\"", 26),
                ("onair_moderation_total", "act=\"block\"", 27),
                ("onair_moderation_total", "act=\"ban\"", 28),
                ("onair_moderation_total", "act=\"report\"", 29),
                ("onair_moderation_total", "act=\"flag\"", 30),
            ],
        );
        assert!(page.text().contains("onair_store_unreadable_total"));
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_shown_as_down() {
        let sources = sources();
        sources.store_health.note(Err(StoreError::Unavailable("away".into())), Instant::now());
        let mut page = Page::new("ND_x");
        add(&mut page, &sources);

        assert_shown(&page, &[("onair_store_up", "", 0), ("onair_store_failures_total", "", 1)]);
    }

    #[tokio::test]
    async fn chats_and_calls_are_shown_as_they_are_counted() {
        let sources = sources();
        let chat = &sources.chat;
        set(&[&chat.connections, &chat.sockets, &chat.rooms, &chat.queued, &chat.messages, &chat.reactions], 1);
        set(&[&chat.relayed, &chat.deliveries_lost, &chat.reactions_dropped, &chat.queue_lost], 7);
        set(&[&chat.relayed_late, &chat.closed_for_faults, &chat.refused_connections, &chat.closed_unread], 11);
        set(&[&chat.unread_posts, &chat.states_held], 15);
        for took in [Duration::from_millis(250), Duration::from_millis(750)] {
            sources.http.answered(&Method::GET, "/api/live/{id}", StatusCode::OK, took);
        }
        sources.http.refused(Code::StreamNotFound);
        let mut page = Page::new("ND_x");
        add(&mut page, &sources);

        assert_shown(
            &page,
            &[
                ("onair_chat_connections", "", 1),
                ("onair_chat_sockets", "", 2),
                ("onair_chat_rooms", "", 3),
                ("onair_chat_queued", "", 4),
                ("onair_chat_events_total", "kind=\"message\"", 5),
                ("onair_chat_events_total", "kind=\"reaction\"", 6),
                ("onair_chat_events_total", "kind=\"relayed\"", 7),
                ("onair_chat_lost_total", "reason=\"slow_client\"", 8),
                ("onair_chat_lost_total", "reason=\"reaction_limit\"", 9),
                ("onair_chat_lost_total", "reason=\"store_refused\"", 10),
                ("onair_chat_lost_total", "reason=\"relayed_late\"", 11),
                ("onair_chat_turned_away_total", "reason=\"faults\"", 12),
                ("onair_chat_turned_away_total", "reason=\"door\"", 13),
                ("onair_chat_turned_away_total", "reason=\"unread\"", 14),
                ("onair_chat_turned_away_total", "reason=\"unread_post\"", 15),
                ("onair_chat_states_held_total", "reason=\"unread\"", 16),
                ("onair_http_requests_total", "method=\"GET\",path=\"/api/live/{id}\",status=\"200\"", 2),
                ("onair_http_request_duration_seconds_count", "path=\"/api/live/{id}\"", 2),
                ("onair_http_request_duration_seconds_sum", "path=\"/api/live/{id}\"", 1),
                ("onair_http_problems_total", "code=\"stream_not_found\"", 1),
                ("onair_http_problems_total", "code=\"banned\"", 0),
            ],
        );
        for name in ["onair_chat_refused_total", "onair_chat_connects_refused_total"] {
            assert!(page.text().contains(name), "{name}");
        }
    }
}
