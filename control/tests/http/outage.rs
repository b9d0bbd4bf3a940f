//! Section 15: what goes on while the store is away, and what is refused.

use serde_json::{Value, json};

use super::streams::ids;
use super::webhooks::a_viewer_arrives;
use super::world::{World, eventually, in_seconds};
use control::store::SharedStore;

use crate::switched_store::Switched;

/// Rule 1: what this node knows of is shown, watched, and kept from whom it is kept from. What has to be read or written
/// is to be called again after two seconds.
pub async fn without_the_store_what_is_known_goes_on_and_what_has_to_be_written_waits(store: SharedStore) {
    let switched = Switched::new(store, false);
    let world = World::with(switched.clone(), |settings| settings.live.max_viewers = 1).await;
    let (id, full) = (world.start("u1").await, world.start("u2").await);
    world.put(&format!("/api/live/{id}/blocks/bad"), "u1", Value::Null).await.expect(200);
    world.put("/api/admin/users/spammer/ban", "admin", json!({ "reason": "spam" })).await.expect(200);
    a_viewer_arrives(&world, &full, "v1").await;
    switched.set_away(true);

    let watch = async |id: &str, user: &str| world.get(&format!("/api/live/{id}/watch"), user).await;
    assert_eq!(ids(&world.get("/api/live/active", "u3").await.expect(200)), [full.as_str(), id.as_str()]);
    eventually("the list of strangers is at most a second old", || async {
        ids(&world.get("/api/live/active", "").await.expect(200)) == [full.as_str(), id.as_str()]
    })
    .await;
    assert_eq!(ids(&world.get("/api/live/active", "bad").await.expect(200)), [full.as_str()]);
    assert_eq!(world.get(&format!("/api/live/{full}"), "").await.expect(200)["viewers"], 1);
    watch(&id, "u3").await.expect(200);
    watch(&id, "bad").await.refused(403, "blocked");
    watch(&id, "spammer").await.refused(403, "banned");
    watch(&full, "v2").await.refused(409, "stream_full");
    let soon = json!({ "title": "T", "scheduledFor": in_seconds(3600) });
    for (method, path, user, body) in [
        ("POST", "/api/live/start".to_owned(), "u3", json!({})),
        ("POST", "/api/live/start".to_owned(), "u1", json!({ "onConflict": "replace" })),
        ("POST", "/api/live/scheduled".to_owned(), "u3", soon),
        ("PATCH", format!("/api/live/{id}"), "u1", json!({ "title": "T" })),
        ("POST", format!("/api/live/{id}/reports"), "u3", json!({ "reason": "spam" })),
        ("PUT", "/api/me/blocks/bad".to_owned(), "u3", Value::Null),
        ("DELETE", format!("/api/live/{id}/blocks/bad"), "u1", Value::Null),
        ("DELETE", "/api/admin/users/spammer/ban".to_owned(), "admin", Value::Null),
        ("GET", "/api/live/mine".to_owned(), "u1", Value::Null),
        ("GET", format!("/api/live/{id}/analytics"), "u1", Value::Null),
    ] {
        let refused = world.call(method, &path, user, body).await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "store_unavailable"), "{method} {path}");
        assert_eq!((refused.header("retry-after"), refused.retry_after_ms()), (Some("2"), 2_000), "{method} {path}");
    }
    watch(&id, "bad").await.refused(403, "blocked");

    switched.set_away(false);
    world.start("u3").await;
    assert_eq!(world.get("/api/live/mine", "u1").await.expect(200)["streams"][0]["streamId"], id);
}
