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
    let live = sources.streams.live();
    let help = "Times that a list passed a row or document over that cannot be read; the log names it.";
    page.metric("onair_store_unreadable_total", help, MetricType::COUNTER, &[(&[], unreadable::passed_over())]);
    let help = "Ends, blocks and bans that hold here although the store did not take them yet.";
    page.metric("onair_decisions_unstored", help, MetricType::GAUGE, &[(&[], live.held_count() as u64)]);
    page.metric("onair_streams_live", "Live streams.", MetricType::GAUGE, &[(&[], live.live_count() as u64)]);
    page.metric("onair_stream_viewers", "Viewers of all live streams.", MetricType::GAUGE, &[(&[], live.viewers())]);
    let counters = sources.streams.counters();
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
        ("door", &chat.refused_at_door),
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
