//! Section 3.3: rules of fields.

use serde_json::{Value, json};

use super::world::{Answer, World};
use control::store::SharedStore;

async fn start(world: &World, body: Value) -> Answer {
    world.post("/api/live/start", "u1", body).await
}

/// The stream of `u1` after a start with this body.
async fn started(world: &World, body: Value) -> Value {
    let id = world.start_with("u1", body).await;
    let stream = world.get(&format!("/api/live/{id}"), "").await.expect(200);
    world.post("/api/live/stop", "u1", json!({})).await.expect(200);
    stream
}

/// [S] A title is optional and has at most 120 characters.
pub async fn a_title_has_at_most_120_characters(store: SharedStore) {
    let world = World::new(store).await;

    assert_eq!(started(&world, json!({ "title": "é".repeat(120) })).await["title"], "é".repeat(120));
    assert_eq!(start(&world, json!({ "title": "é".repeat(121) })).await.wrong_fields(), ["title"]);
    assert!(started(&world, json!({})).await.get("title").is_none());
}

/// Titles are trimmed, composed and freed of control characters; an empty one is none.
pub async fn a_title_is_cleaned(store: SharedStore) {
    let world = World::new(store).await;

    assert_eq!(started(&world, json!({ "title": "  Cafe\u{301}\u{0}\n " })).await["title"], "Café");
    assert!(started(&world, json!({ "title": " \t " })).await.get("title").is_none());
    // Counted after that.
    let padded = format!("   {}\u{7}", "x".repeat(120));
    assert_eq!(started(&world, json!({ "title": padded })).await["title"], "x".repeat(120));
}

/// [S] There are at most 10 tags.
pub async fn there_are_at_most_10_tags(store: SharedStore) {
    let world = World::new(store).await;
    let tags = |n: usize| (0..n).map(|n| format!("tag{n}")).collect::<Vec<_>>();

    assert_eq!(started(&world, json!({ "tags": tags(10) })).await["tags"], json!(tags(10)));
    assert_eq!(start(&world, json!({ "tags": tags(11) })).await.wrong_fields(), ["tags"]);
}

/// A tag has one spelling, and the same one twice counts once.
pub async fn tags_are_cleaned_and_merged(store: SharedStore) {
    let world = World::new(store).await;

    let stream = started(&world, json!({ "tags": ["#Pet", "pet", "ＰＥＴ", "Live_2-go", "猫"] })).await;
    assert_eq!(stream["tags"], json!(["pet", "live_2-go", "猫"]));
    for tag in ["", "#", "two words", "a,b", &"x".repeat(33)] {
        assert_eq!(start(&world, json!({ "tags": [tag] })).await.wrong_fields(), ["tags"], "{tag}");
    }
}

/// A cover has an absolute https URL without user information; http in development.
pub async fn a_cover_has_an_https_url(store: SharedStore) {
    let world = World::new(store.clone()).await;
    let long = format!("https://a.example/{}", "x".repeat(2048));
    let url = "https://a.example/p.png?x=1";

    assert_eq!(started(&world, json!({ "coverUrl": url })).await["coverUrl"], url);
    for url in ["http://a.example/p.png", "/p.png", "javascript:alert(1)", "https://u:p@a.example/", long.as_str()] {
        assert_eq!(start(&world, json!({ "coverUrl": url })).await.wrong_fields(), ["coverUrl"], "{url}");
    }

    let development = World::with(store, |settings| settings.development = true).await;
    let url = "http://localhost/p.png";
    assert_eq!(started(&development, json!({ "coverUrl": url })).await["coverUrl"], url);
}

/// All wrong fields are named at once.
pub async fn each_wrong_field_is_named_once(store: SharedStore) {
    let world = World::new(store).await;

    let refused =
        start(&world, json!({ "title": "x".repeat(200), "tags": ["a b", "c d"], "coverUrl": "x", "streamId": "nope" }))
            .await;

    let mut fields = refused.wrong_fields();
    fields.sort();
    assert_eq!(fields, ["coverUrl", "streamId", "tags", "title"]);
    assert!(refused.json()["errors"][0]["message"].as_str().is_some_and(|message| !message.is_empty()));
}

/// A body is validated after the caller is known, and not before.
pub async fn a_stranger_learns_nothing_of_the_rules(store: SharedStore) {
    let world = World::new(store).await;

    let refused = world.post("/api/live/start", "", json!({ "title": "x".repeat(200) })).await;

    refused.refused(401, "unauthenticated");
}
