//! `deploy/grafana`: every metric that the dashboard and the alert rules name is served by the built binary, and so is
//! every one that LiveKit's own dashboard asks for.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::product::{Product, eventually};

/// The metrics of LiveKit's overview dashboard, and further ones of its server.
const LIVEKITS: [&str; 15] = [
    "livekit_room_total",
    "livekit_participant_total",
    "livekit_node_messages",
    "livekit_messagebus_messages",
    "livekit_track_published_total",
    "livekit_packet_total",
    "livekit_packet_bytes",
    "livekit_nack_total",
    "livekit_pli_total",
    "livekit_fir_total",
    "livekit_packet_out_of_order_total",
    "livekit_packet_out_of_order_percent_bucket",
    "livekit_quality_rating_bucket",
    "livekit_quality_score_bucket",
    "livekit_node_service_operation",
];

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All values of that name, at any depth.
fn texts<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(name).and_then(Value::as_str));
            fields.values().for_each(|value| texts(value, name, found));
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, name, found)),
        _ => {}
    }
}

/// Names of our metrics in a query of Prometheus.
fn metrics(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    words.filter(|word| ["livekit_", "onair_", "process_"].iter().any(|prefix| word.starts_with(prefix)))
}

/// A server in which something was called, since rows of calls appear with the first one.
async fn server(name: &str) -> (Product, String) {
    let product = Product::start(name, json!({})).await;
    product.go_live("ana").await;
    let url = format!("{}/twirp/livekit.RoomService/ListRooms", product.ports.url());
    let call = product.http().post(url).header("content-type", "application/json").body("{}");
    call.send().await.expect("it answers");
    let page = eventually("metrics of calls are there", async || {
        let page = product.metrics_page().await;
        page.contains("livekit_node_twirp_request_status").then_some(page)
    });
    let page = page.await;
    (product, page)
}

/// Names at the beginning of the rows.
fn served(page: &str) -> BTreeSet<&str> {
    page.lines().filter(|row| !row.starts_with('#')).filter_map(|row| row.split(['{', ' ']).next()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_the_dashboard_and_the_alert_rules_is_served() {
    let (_product, page) = server("grafana").await;
    let dashboard: Value = serde_json::from_str(&read("onair.json")).expect("it is JSON");
    let rules: Value = serde_yaml_ng::from_str(&read("alerts.yaml")).expect("it is YAML");
    let mut queries = Vec::new();
    texts(&dashboard, "expr", &mut queries);
    texts(&dashboard["templating"], "query", &mut queries);
    let shown = queries.len();
    texts(&rules, "expr", &mut queries);
    assert!(shown > 40 && queries.len() > shown + 10, "queries are found");

    let asked: BTreeSet<&str> = queries.iter().flat_map(|query| metrics(query)).chain(LIVEKITS).collect();
    let served = served(&page);
    let missing: Vec<_> = asked.difference(&served).collect();
    assert!(missing.is_empty(), "not served: {missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_family_is_there_once_with_its_help_and_type() {
    let (product, page) = server("grafana-families").await;
    let families: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let unique: BTreeSet<_> = families.iter().collect();
    assert_eq!(families.len(), unique.len());
    assert_eq!(page.lines().filter(|line| line.starts_with("# HELP ")).count(), families.len());
    assert!(!page.contains("status=\"0\""), "an answer has a status");
    assert_eq!(product.metric("onair_store_up", "").await, 1.0);
    assert!(product.metric("process_resident_memory_bytes", "").await > 1e6);
    assert!(product.metric("onair_http_request_duration_seconds_count", "/api/live/start").await >= 1.0);
}

/// The expression of an alert.
fn rule(name: &str) -> String {
    let rules: Value = serde_yaml_ng::from_str(&read("alerts.yaml")).expect("it is YAML");
    let groups = rules["groups"].as_array().expect("there are groups").iter();
    let mut rules = groups.flat_map(|group| group["rules"].as_array().expect("there are rules"));
    let found = rules.find(|rule| rule["alert"] == name).unwrap_or_else(|| panic!("there is no alert {name}"));
    found["expr"].as_str().expect("it is text").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_are_counted_although_each_one_is_a_node_of_its_own() {
    let mut product = Product::start("restarts", json!({})).await;
    let node = |page: &str| {
        let row = page.lines().find(|line| line.starts_with("process_start_time_seconds{")).expect("it is served");
        row.split("node_id=").nth(1).expect("it names the node").split('"').nth(1).map(str::to_owned)
    };
    let before = node(&product.metrics_page().await);
    product.terminate();
    product.start_again().await;

    assert_ne!(before, node(&product.metrics_page().await));
    assert!(rule("OnairRestarts").starts_with("changes(max by (instance) (process_start_time_seconds"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_tokens_are_told_of_where_one_of_the_two_counters_is_not_served() {
    let product = Product::start("refused-tokens", json!({ "sfu": { "mode": "only" } })).await;
    let (page, rule) = (product.metrics_page().await, rule("OnairTokensRefused"));
    let (served, mut summands) = (served(&page), rule.split('+'));

    let fails = |summand: &&str| !summand.contains(" or ") && metrics(summand).any(|name| !served.contains(name));
    assert!(!served.contains("onair_http_problems_total"), "a media server alone has no such calls");
    assert_eq!(summands.find(fails), None);
}
