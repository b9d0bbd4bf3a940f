//! Section 14: which limits nodes of one store share.

use serde_json::json;

use super::world::{Settings, World, in_seconds};
use control::store::SharedStore;

/// Two nodes on one store.
async fn nodes(store: SharedStore) -> [World; 2] {
    [World::new(store.clone()).await, World::new(store).await]
}

/// Ten reports in an hour, on whichever node.
pub async fn the_limit_of_reports_holds_on_all_nodes(store: SharedStore) {
    let nodes = nodes(store).await;
    let path = format!("/api/live/{}/reports", nodes[0].start("u1").await);
    let report = async |node: usize, n: usize| {
        nodes[node].post(&path, "u2", json!({ "reason": "spam", "userId": format!("x{n}") })).await
    };
    for n in 0..10 {
        report(n % 2, n).await.expect(202);
    }

    for node in [0, 1] {
        report(node, 10).await.refused(429, "rate_limited");
    }
}

/// Forty announcements in a day, of which twenty are to come at most, on whichever node.
pub async fn the_limits_of_announcements_hold_on_all_nodes(store: SharedStore) {
    let nodes = nodes(store).await;
    let announce = async |node: usize| {
        let body = json!({ "title": "T", "scheduledFor": in_seconds(3600) });
        nodes[node].post("/api/live/scheduled", "u1", body).await
    };
    let mut announced = Vec::new();
    for n in 0..20 {
        announced.push(announce(n % 2).await.expect(201)["streamId"].as_str().unwrap().to_owned());
    }
    for node in [0, 1] {
        announce(node).await.refused(409, "conflict");
    }
    for (n, id) in announced.iter().enumerate() {
        nodes[n % 2].delete(&format!("/api/live/{id}"), "u1").await.expect(204);
    }
    for n in 0..20 {
        let id = announce(n % 2).await.expect(201)["streamId"].as_str().unwrap().to_owned();
        nodes[n % 2].delete(&format!("/api/live/{id}"), "u1").await.expect(204);
    }

    for node in [0, 1] {
        announce(node).await.refused(429, "rate_limited");
    }
}

/// As that of calls.
pub async fn all_other_limits_are_each_nodes_own(store: SharedStore) {
    let few = |settings: &mut Settings| settings.http.calls_per_minute = 5;
    let nodes = [World::with(store.clone(), few).await, World::with(store, few).await];
    let call = async |node: usize| nodes[node].get("/api/live/mine", "u1").await;
    let mut calls = 0;
    while call(0).await.status == 200 {
        calls += 1;
        assert!(calls < 1_000, "there is no limit");
    }

    call(0).await.refused(429, "rate_limited");
    call(1).await.expect(200);
}
