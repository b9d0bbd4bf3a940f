//! LiveKit's metrics by its names and with its meaning, so that dashboards made for it show this server as well.
//!
//! `direction` is that of the media: `incoming` from publishers, `outgoing` to subscribers; a NACK or a PLI counts with
//! the stream that it is about. Countries are not known here, so the label is empty.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::proto::MetricType;
use sfu::stats::{Counter, MediaStats, StreamQuality};
use shared::histogram::Histogram;
use signaling::http::Counters;
use signaling::session_stats::{KINDS, SessionStats};

use super::{Labels, Page, Sources};

/// One histogram of several.
type Part = fn(&StreamQuality) -> Histogram;

const COUNTRY: (&str, &str) = ("country", "");

pub(super) fn add(page: &mut Page<'_>, sources: &Sources, workers: &[Counter]) {
    packets(page, workers);
    quality(page, &sources.workers.media());
    rooms(page, sources);
    sessions(page, sources.rooms.stats(), &sources.surface);
    node(page, sources.rooms.stats(), &sources.surface);
    operations(page, &sources.surface, workers);
}

/// The sum of a counter of the workers.
fn sum(workers: &[Counter], name: &str) -> u64 {
    workers.iter().filter(|(known, ..)| *known == name).map(|(.., value)| value).sum()
}

fn packets(page: &mut Page<'_>, workers: &[Counter]) {
    let count = |name| sum(workers, name);
    let by_transmission = |page: &mut Page<'_>, name: &str, help: &str, [received, sent, again]: [u64; 3]| {
        let row = |direction, transmission| [("direction", direction), ("transmission", transmission), COUNTRY];
        let labels = [row("incoming", "initial"), row("outgoing", "initial"), row("outgoing", "retransmit")];
        let rows: Vec<(Labels<'_>, u64)> = labels.iter().map(|row| &row[..]).zip([received, sent, again]).collect();
        page.metric(name, help, MetricType::COUNTER, &rows);
    };
    let packets = ["rtp_received_total", "rtp_sent_total", "rtp_retransmitted_total"].map(count);
    by_transmission(page, "livekit_packet_total", "RTP packets.", packets);
    let bytes = ["rtp_bytes_received_total", "bytes_sent_total", "bytes_retransmitted_total"].map(count);
    by_transmission(page, "livekit_packet_bytes", "Bytes of RTP packets.", bytes);
    let firs = count("firs_received_total");
    let feedback = [
        ("livekit_nack_total", "Packets asked for again.", count("nacks_sent_total"), count("nacks_received_total")),
        (
            "livekit_pli_total",
            "Key frames asked for by PLI.",
            count("keyframe_requests_sent_total"),
            count("keyframe_requests_received_total").saturating_sub(firs),
        ),
        ("livekit_fir_total", "Key frames asked for by FIR.", 0, firs),
    ];
    for (name, help, incoming, outgoing) in feedback {
        let (incoming_labels, outgoing_labels) =
            ([("direction", "incoming"), COUNTRY], [("direction", "outgoing"), COUNTRY]);
        let rows: [(Labels<'_>, u64); 2] = [(&incoming_labels, incoming), (&outgoing_labels, outgoing)];
        page.metric(name, help, MetricType::COUNTER, &rows);
    }
}

/// Loss and jitter of publishers as we see them, of subscribers as they report them; round trips to subscribers.
fn quality(page: &mut Page<'_>, media: &MediaStats) {
    let streams = [
        ("incoming", "AUDIO", &media.received.audio),
        ("incoming", "VIDEO", &media.received.video),
        ("outgoing", "AUDIO", &media.sent.audio),
        ("outgoing", "VIDEO", &media.sent.video),
    ];
    // Workers know media, not what it shows.
    let labels =
        streams.map(|(direction, kind, _)| [("direction", direction), ("source", "UNKNOWN"), ("type", kind), COUNTRY]);
    let labels = labels.each_ref().map(|labels| &labels[..]);
    let lost: Vec<(Labels<'_>, u64)> = labels.into_iter().zip(streams.map(|(.., quality)| quality.lost)).collect();
    page.metric("livekit_packet_loss_total", "RTP packets lost.", MetricType::COUNTER, &lost);
    // Subscribers report no order.
    let incoming = || labels.into_iter().zip(streams).filter(|(_, (direction, ..))| *direction == "incoming");
    let overtaken: Vec<_> = incoming().map(|(labels, (.., quality))| (labels, quality.out_of_order)).collect();
    page.metric("livekit_packet_out_of_order_total", "RTP packets overtaken.", MetricType::COUNTER, &overtaken);
    let overtaken: Vec<_> = incoming().map(|(labels, (.., quality))| (labels, quality.out_of_order_percent)).collect();
    let help = "Packets of a stream that were overtaken between two reports, in percent.";
    page.histogram("livekit_packet_out_of_order_percent", help, &overtaken);
    let histograms: [(&str, &str, Part); 3] = [
        ("livekit_packet_loss_percent", "Loss of a stream between two reports, in percent.", |it| it.loss_percent),
        ("livekit_jitter_us", "Jitter of a stream at a report, in microseconds.", |it| it.jitter_us),
        ("livekit_rtt_ms", "Round trip to a subscriber at a report, in milliseconds.", |it| it.rtt_ms),
    ];
    for (name, help, part) in histograms {
        let rows: Vec<_> = labels.into_iter().zip(streams.map(|(.., quality)| part(quality))).collect();
        page.histogram(name, help, &rows);
    }
}

fn rooms(page: &mut Page<'_>, sources: &Sources) {
    let counts = sources.rooms.counts();
    let gauges = [
        ("livekit_room_total", "Rooms now open.", counts.rooms),
        ("livekit_participant_total", "Participants now in rooms.", counts.participants),
    ];
    for (name, help, value) in gauges {
        page.metric(name, help, MetricType::GAUGE, &[(&[], value as u64)]);
    }
    let published = kinds(&sources.rooms.stats().tracks);
    let rows: [(Labels<'_>, u64); 3] = published.each_ref().map(|(kind, value)| (&kind[..], *value));
    page.metric("livekit_track_published_total", "Tracks now published.", MetricType::GAUGE, &rows);
    let subscriptions = sources.workers.media().subscriptions;
    let (audio, video) = ([("kind", "AUDIO")], [("kind", "VIDEO")]);
    let rows: [(Labels<'_>, u64); 2] = [(&audio, subscriptions.audio), (&video, subscriptions.video)];
    page.metric("livekit_track_subscribed_total", "Tracks now sent to subscribers.", MetricType::GAUGE, &rows);
    page.histogram(
        "livekit_room_duration_seconds",
        "How long rooms were open.",
        &[(&[], sources.rooms.stats().room_seconds.snapshot())],
    );
}

/// Counts of [`KINDS`] with their labels.
fn kinds(counts: &[AtomicU64; 3]) -> [([(&'static str, &'static str); 1], u64); 3] {
    std::array::from_fn(|index| ([("kind", KINDS[index].as_str_name())], counts[index].load(Ordering::Relaxed)))
}

fn sessions(page: &mut Page<'_>, stats: &SessionStats, surface: &Counters) {
    let joined = surface.joins_accepted.load(Ordering::Relaxed);
    let refused = surface.joins_refused.load(Ordering::Relaxed);
    let states = [
        ("signal_connected", joined),
        ("signal_failed", refused),
        ("rtc_active", stats.active.load(Ordering::Relaxed)),
        ("rtc_success", stats.active.load(Ordering::Relaxed)),
        ("rtc_failure", stats.aborted.load(Ordering::Relaxed)),
    ];
    let labels = states.map(|(state, _)| [("state", state)]);
    let rows: Vec<(Labels<'_>, u64)> = labels.iter().map(|row| &row[..]).zip(states.map(|(_, count)| count)).collect();
    page.metric("livekit_participant_join_total", "Joins by how far they came.", MetricType::COUNTER, &rows);
    let published = kinds(&stats.tracks_published);
    let labels = published.each_ref().map(|(kind, _)| [kind[0], ("state", "success")]);
    let rows: Vec<(Labels<'_>, u64)> =
        labels.iter().map(|row| &row[..]).zip(published.each_ref().map(|(_, count)| *count)).collect();
    page.metric("livekit_track_publish_counter", "Tracks published so far.", MetricType::COUNTER, &rows);
    let histograms = [
        ("livekit_session_join_latency_ms", "From the request to join to the first message.", &stats.join_ms),
        ("livekit_session_start_time_ms", "From the join until media flows.", &stats.start_ms),
        ("livekit_session_duration_ms", "From the join to the leave.", &stats.session_ms),
        ("livekit_quality_rating", "Quality of connections: 0 poor, 1 good, 2 excellent.", &stats.quality_rating),
        ("livekit_quality_score", "Score of connections, 1 to 4.5.", &stats.quality_score),
    ];
    for (name, help, histogram) in histograms {
        page.histogram(name, help, &[(&[], histogram.snapshot())]);
    }
}

fn node(page: &mut Page<'_>, stats: &SessionStats, surface: &Counters) {
    let message = |status, direction| [("type", "signal"), ("status", status), ("direction", direction)];
    let (request, response, failure) =
        (message("success", "request"), message("success", "response"), message("failure", "request"));
    let rows: [(Labels<'_>, u64); 3] = [
        (&request, stats.requests.load(Ordering::Relaxed)),
        (&response, stats.responses.load(Ordering::Relaxed)),
        (&failure, surface.ended_unreadable.load(Ordering::Relaxed)),
    ];
    page.metric("livekit_node_messages", "Signal messages from clients and to them.", MetricType::COUNTER, &rows);
    let (sent, failed) = ([("type", "out"), ("status", "success")], [("type", "out"), ("status", "failure")]);
    let help = "Messages between nodes: none, as a room lives on one.";
    page.metric("livekit_messagebus_messages", help, MetricType::COUNTER, &[(&sent, 0), (&failed, 0)]);
    calls(page, stats);
}

/// Of LiveKit's operations those that are counted here.
fn operations(page: &mut Page<'_>, surface: &Counters, workers: &[Counter]) {
    let done = [
        ("participant_join", surface.joins_accepted.load(Ordering::Relaxed)),
        ("peer_connection", sum(workers, "handshakes_total")),
    ];
    let labels = done.map(|(operation, _)| [("type", operation), ("status", "success"), ("error_type", "")]);
    let rows: Vec<(Labels<'_>, u64)> = labels.iter().map(|row| &row[..]).zip(done.map(|(_, count)| count)).collect();
    page.metric("livekit_node_service_operation", "Joins, and connections for media.", MetricType::COUNTER, &rows);
}

/// A call that never happened has no row, so these are absent until the first one.
fn calls(page: &mut Page<'_>, stats: &SessionStats) {
    let calls = stats.calls();
    if calls.is_empty() {
        return;
    }
    let codes: Vec<String> = calls.iter().map(|(call, _)| call.status.to_string()).collect();
    let status = |code: u16| if code < 400 { "success" } else { "failure" };
    let labels: Vec<[(&str, &str); 4]> = calls
        .iter()
        .zip(&codes)
        .map(|((call, _), code)| {
            let (service, method) = (("service", call.service.as_str()), ("method", call.method.as_str()));
            [service, method, ("status", status(call.status)), ("code", code.as_str())]
        })
        .collect();
    let rows: Vec<(Labels<'_>, u64)> =
        labels.iter().map(|row| &row[..]).zip(calls.iter().map(|(_, took)| took.count())).collect();
    page.metric("livekit_node_twirp_request_status", "Calls of the server APIs.", MetricType::COUNTER, &rows);
    let rows: Vec<_> = labels.iter().map(|row| &row[..]).zip(calls.iter().map(|(_, took)| *took)).collect();
    let help = "How long calls of the server APIs took, in milliseconds.";
    page.histogram("livekit_node_twirp_request_latency_ms", help, &rows);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_shown, set};
    use super::*;

    const IN: &str = "direction=\"incoming\"";
    const OUT: &str = "direction=\"outgoing\"";

    fn counter(name: &'static str, label: &str, value: u64) -> Counter {
        (name, label.to_owned(), "Help.", value)
    }

    #[test]
    fn packets_and_feedback_are_shown_by_the_direction_of_the_media() {
        let mut page = Page::new("ND_x");
        packets(
            &mut page,
            &[
                counter("rtp_received_total", "kind=\"audio\"", 1),
                counter("rtp_received_total", "kind=\"video\"", 10),
                counter("rtp_sent_total", "", 12),
                counter("rtp_retransmitted_total", "", 13),
                counter("rtp_bytes_received_total", "", 14),
                counter("bytes_sent_total", "", 15),
                counter("bytes_retransmitted_total", "", 16),
                counter("nacks_sent_total", "", 17),
                counter("nacks_received_total", "", 18),
                counter("keyframe_requests_sent_total", "", 19),
                counter("keyframe_requests_received_total", "", 50),
                counter("firs_received_total", "", 20),
            ],
        );

        let by_transmission =
            |direction, transmission| format!("{direction},transmission=\"{transmission}\",country=\"\"");
        let (initial_in, initial_out) = (by_transmission(IN, "initial"), by_transmission(OUT, "initial"));
        let again = by_transmission(OUT, "retransmit");
        let (incoming, outgoing) = (format!("{IN},country=\"\""), format!("{OUT},country=\"\""));
        assert_shown(
            &page,
            &[
                ("livekit_packet_total", &initial_in, 11),
                ("livekit_packet_total", &initial_out, 12),
                ("livekit_packet_total", &again, 13),
                ("livekit_packet_bytes", &initial_in, 14),
                ("livekit_packet_bytes", &initial_out, 15),
                ("livekit_packet_bytes", &again, 16),
                ("livekit_nack_total", &incoming, 17),
                ("livekit_nack_total", &outgoing, 18),
                ("livekit_pli_total", &incoming, 19),
                ("livekit_pli_total", &outgoing, 30),
                ("livekit_fir_total", &incoming, 0),
                ("livekit_fir_total", &outgoing, 20),
            ],
        );
    }

    #[test]
    fn how_streams_fare_is_shown_by_direction_and_kind() {
        let mut page = Page::new("ND_x");
        let mut media = MediaStats::default();
        let all = [&mut media.received.audio, &mut media.received.video, &mut media.sent.audio, &mut media.sent.video];
        for (quality, number) in all.into_iter().zip(1_u32..) {
            (quality.lost, quality.out_of_order) = (number.into(), (10 + number).into());
            quality.loss_percent.observe(f64::from(20 + number));
            quality.out_of_order_percent.observe(f64::from(30 + number));
            quality.jitter_us.observe(f64::from(40 + number));
            quality.rtt_ms.observe(f64::from(50 + number));
        }
        super::quality(&mut page, &media);

        for (number, direction, kind) in [(1, IN, "AUDIO"), (2, IN, "VIDEO"), (3, OUT, "AUDIO"), (4, OUT, "VIDEO")] {
            let labels = format!("{direction},source=\"UNKNOWN\",type=\"{kind}\",country=\"\"");
            let of_all = [
                ("livekit_packet_loss_total", number),
                ("livekit_packet_loss_percent_sum", 20 + number),
                ("livekit_jitter_us_sum", 40 + number),
                ("livekit_rtt_ms_sum", 50 + number),
            ];
            let of_incoming = [
                ("livekit_packet_out_of_order_total", 10 + number),
                ("livekit_packet_out_of_order_percent_sum", 30 + number),
            ];
            of_all.iter().for_each(|(name, value)| assert_shown(&page, &[(name, &labels, *value)]));
            for (name, value) in of_incoming {
                match direction {
                    IN => assert_shown(&page, &[(name, &labels, value)]),
                    _ => {
                        assert!(!page.text().contains(&format!("{name}{{node_id=\"ND_x\",node_type=\"SERVER\",{OUT}")))
                    }
                }
            }
        }
    }

    #[test]
    fn joins_tracks_messages_and_operations_are_shown_as_they_are_counted() {
        let mut page = Page::new("ND_x");
        let (stats, surface) = (SessionStats::default(), Counters::default());
        set(&[&surface.joins_accepted, &surface.joins_refused, &surface.ended_unreadable], 1);
        set(&[&stats.active, &stats.aborted, &stats.requests, &stats.responses], 4);
        set(&stats.tracks_published.each_ref(), 8);
        let histograms =
            [&stats.join_ms, &stats.start_ms, &stats.session_ms, &stats.quality_rating, &stats.quality_score];
        for (histogram, value) in histograms.into_iter().zip(11_u32..) {
            histogram.observe(f64::from(value));
        }
        sessions(&mut page, &stats, &surface);
        node(&mut page, &stats, &surface);
        operations(&mut page, &surface, &[counter("handshakes_total", "", 20)]);

        assert_shown(
            &page,
            &[
                ("livekit_participant_join_total", "state=\"signal_connected\"", 1),
                ("livekit_participant_join_total", "state=\"signal_failed\"", 2),
                ("livekit_participant_join_total", "state=\"rtc_active\"", 4),
                ("livekit_participant_join_total", "state=\"rtc_success\"", 4),
                ("livekit_participant_join_total", "state=\"rtc_failure\"", 5),
                ("livekit_track_publish_counter", "kind=\"AUDIO\",state=\"success\"", 8),
                ("livekit_track_publish_counter", "kind=\"VIDEO\",state=\"success\"", 9),
                ("livekit_track_publish_counter", "kind=\"DATA\",state=\"success\"", 10),
                ("livekit_session_join_latency_ms_sum", "", 11),
                ("livekit_session_start_time_ms_sum", "", 12),
                ("livekit_session_duration_ms_sum", "", 13),
                ("livekit_quality_rating_sum", "", 14),
                ("livekit_quality_score_sum", "", 15),
                ("livekit_node_messages", "type=\"signal\",status=\"success\",direction=\"request\"", 6),
                ("livekit_node_messages", "type=\"signal\",status=\"success\",direction=\"response\"", 7),
                ("livekit_node_messages", "type=\"signal\",status=\"failure\",direction=\"request\"", 3),
                ("livekit_messagebus_messages", "type=\"out\",status=\"success\"", 0),
                ("livekit_node_service_operation", "type=\"participant_join\",status=\"success\",error_type=\"\"", 1),
                ("livekit_node_service_operation", "type=\"peer_connection\",status=\"success\",error_type=\"\"", 20),
            ],
        );
    }
}
