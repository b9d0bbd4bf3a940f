//! Section 11: the flag `FEATURE_GO_LIVE`.

use serde_json::{Value, json};

use super::world::World;
use control::store::SharedStore;

async fn switched_off(store: SharedStore) -> World {
    World::with(store, |settings| settings.live.enabled = false).await
}

/// [S] While the flag is off, nothing of the product is there, and apps are told.
pub async fn without_the_feature_live_routes_are_not_there(store: SharedStore) {
    let on = World::new(store.clone()).await;
    let id = on.start("u1").await;
    assert_eq!(on.get("/api/config", "").await.expect(200)["features"], json!({ "goLive": true }));

    let off = switched_off(store).await;
    for (method, path) in [
        ("POST", "/api/live/start".to_owned()),
        ("GET", "/api/live/active".to_owned()),
        ("GET", "/api/live/mine".to_owned()),
        ("GET", format!("/api/live/{id}")),
        ("PATCH", format!("/api/live/{id}")),
        ("GET", format!("/api/live/{id}/watch")),
        ("GET", format!("/api/live/{id}/blocks")),
        ("POST", format!("/api/live/{id}/reports")),
        ("POST", "/api/live/scheduled".to_owned()),
        ("GET", "/api/live/nothing/of/the/kind".to_owned()),
    ] {
        // Also before it is known who calls.
        for user in ["", "u1"] {
            off.call(method, &path, user, Value::Null).await.refused(404, "feature_disabled");
        }
    }
    assert_eq!(off.get("/api/config", "").await.expect(200)["features"], json!({ "goLive": false }));
}

/// Streams under way can be ended, and administrators go on.
pub async fn without_the_feature_streams_can_still_be_ended(store: SharedStore) {
    let on = World::new(store.clone()).await;
    let first = on.start("u1").await;
    let second = on.start("u2").await;
    let off = switched_off(store).await;

    off.post("/api/live/stop", "u1", json!({ "streamId": first })).await.expect(200);
    off.post(&format!("/api/live/{second}/end"), "admin", json!({})).await.expect(200);
    for path in ["/api/admin/streams", "/api/admin/reports", "/api/admin/audit", "/api/me/blocks", "/healthz"] {
        off.get(path, "admin").await.expect(200);
    }
}
