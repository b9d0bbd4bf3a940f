//! A media server that is away, crashes, or has rooms of nobody: streams outlive it, and are told apart from it.

use serde_json::{Value, json};

use crate::kept::Kept;
use crate::media_server::MediaServer;
use crate::product::{Product, eventually, token};

on_every_store! {
    a_start_without_a_media_server_is_refused_and_costs_nothing
    a_stop_without_a_media_server_is_granted_and_the_room_and_no_other_goes_when_it_is_back
    a_stream_outlives_a_crash_of_the_media_server
}

/// With one start an hour, so that a start that cost something shows.
async fn world(kept: Kept, name: &str) -> (MediaServer, Product) {
    let media = MediaServer::start().await;
    let live = json!({ "reconcile_interval": 2, "reconnect_window": 30, "starts_per_hour": 1 });
    let product = kept.product(name, json!({ "sfu": media.config(), "live": live })).await;
    (media, product)
}

async fn state(product: &Product, id: &str) -> String {
    let stream: Value = product.get(&format!("/live/{id}"), None).await.expect(200);
    stream["state"].as_str().expect("it has one").to_owned()
}

async fn becomes(product: &Product, id: &str, wanted: &str) {
    eventually(wanted, async || (state(product, id).await == wanted).then_some(())).await;
}

async fn a_start_without_a_media_server_is_refused_and_costs_nothing(kept: Kept) {
    let (media, product) = world(kept, "sfu-start").await;
    media.set_away(true);
    for _ in 0..3 {
        let refused = product.post("/live/start", &token("ana"), json!({})).await;
        refused.refused(503, "sfu_unavailable");
        assert!(refused.headers.contains_key("retry-after"));
    }
    let listed = product.get("/live/active", None).await.expect(200);
    assert_eq!(listed["streams"], json!([]));
    media.set_away(false);
    product.go_live("ana").await;
    product.post("/live/stop", &token("ana"), json!({})).await.expect(200);
    product.post("/live/start", &token("ana"), json!({})).await.refused(429, "rate_limited");
}

async fn a_stop_without_a_media_server_is_granted_and_the_room_and_no_other_goes_when_it_is_back(kept: Kept) {
    let (media, product) = world(kept, "sfu-stop").await;
    let kept = product.go_live("bob").await;
    // Of another app, and of another product beside this one.
    media.create("board-meeting");
    media.create("live_ghost_1767323045678");
    let started = product.go_live("ana").await;
    let room = started["roomName"].as_str().expect("it is told");
    media.owner_arrives(&product, room, "ana").await;
    media.set_away(true);
    let stopped = product.post("/live/stop", &token("ana"), json!({})).await.expect(200);
    assert_eq!(stopped["stream"]["isLive"], false);
    media.set_away(false);

    eventually("the room is deleted", async || (!media.has_room(room)).then_some(())).await;
    assert!(media.has_room(kept["roomName"].as_str().expect("it is told")));
    assert!(media.has_room("board-meeting") && media.has_room("live_ghost_1767323045678"));
}

async fn a_stream_outlives_a_crash_of_the_media_server(kept: Kept) {
    let (media, product) = world(kept, "sfu-crash").await;
    let started = product.go_live("ana").await;
    let (id, room) = (started["streamId"].as_str().unwrap(), started["roomName"].as_str().unwrap());
    media.owner_arrives(&product, room, "ana").await;
    media.viewer_arrives(&product, room, "vera").await;
    media.crash();
    becomes(&product, id, "reconnecting").await;

    let resumed = product.post("/live/start", &token("ana"), json!({})).await.expect(200);
    assert_eq!((&resumed["streamId"], &resumed["roomName"]), (&started["streamId"], &started["roomName"]));
    media.owner_arrives(&product, room, "ana").await;
    becomes(&product, id, "live").await;
    eventually("the viewer of before is not counted", async || {
        let stream = product.get(&format!("/live/{id}"), None).await.expect(200);
        (stream["viewers"] == json!(0)).then_some(())
    })
    .await;
}
