//! Section 10: figures.

use serde_json::json;

use super::world::World;
use control::clock::Timestamp;
use control::store::SharedStore;
use control::store::presence::Presence;
use control::store::stream::StreamId;
use std::time::Duration;

async fn join(store: &SharedStore, id: StreamId, user: &str, sid: &str, at: Timestamp) -> Presence {
    let session = Presence {
        sid: sid.to_owned(),
        identity: format!("{user}:{sid}"),
        user_id: user.parse().unwrap(),
        counts: true,
        joined_at: at,
        left_at: None,
    };
    store.presence_join(id, &session).await.unwrap();
    session
}

/// Owner and administrators see who watched; nothing changes after the end.
pub async fn figures_are_for_owner_and_administrators(store: SharedStore) {
    let world = World::new(store.clone()).await;
    let text = world.start("u1").await;
    let id: StreamId = text.parse().unwrap();
    let now = Timestamp::now();
    let first = join(&store, id, "a", "PA_1", now).await;
    join(&store, id, "a", "PA_2", now).await;
    join(&store, id, "b", "PA_3", now).await;
    store.presence_leave(id, &first, now.plus(Duration::from_millis(1))).await.unwrap();
    store.chat_add_reactions(id, &[("❤️".to_owned(), 3)].into()).await.unwrap();
    let path = format!("/api/live/{text}/analytics");

    world.get(&path, "a").await.refused(403, "not_owner");
    let live = world.get(&path, "u1").await.expect(200);
    assert_eq!((&live["peakViewers"], &live["uniqueViewers"], &live["connections"]), (&json!(2), &json!(2), &json!(3)));
    assert_eq!((&live["chatMessages"], &live["reactions"]), (&json!(0), &json!({ "❤️": 3 })));
    assert!(live["timeline"].is_array() && live["retention"].is_array());
    assert!(live["averageViewers"].is_number() && live["totalWatchSeconds"].is_u64());

    world.post("/api/live/stop", "u1", json!({})).await.expect(200);
    let ended = world.get(&path, "admin").await.expect(200);
    join(&store, id, "late", "PA_4", Timestamp::now().plus(Duration::from_secs(60))).await;
    assert_eq!(world.get(&path, "admin").await.expect(200), ended);
    world.get("/api/live/000000000000000000000000/analytics", "u1").await.refused(404, "stream_not_found");
}

/// What never began has no figures: nothing of it goes on with the clock.
pub async fn what_never_began_has_no_figures(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.schedule("u1", "public").await;
    let path = format!("/api/live/{id}/analytics");

    for _ in 0..2 {
        let figures = world.get(&path, "u1").await.expect(200);
        assert_eq!((&figures["timeline"], &figures["retention"]), (&json!([]), &json!([])));
        assert_eq!((&figures["averageViewers"], &figures["connections"]), (&json!(0.0), &json!(0)));
        world.delete(&format!("/api/live/{id}"), "u1").await.expect(204);
    }
}
