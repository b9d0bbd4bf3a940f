//! Section 9: streams to come.

use serde_json::{Value, json};

use super::streams::ids;
use super::world::{World, eventually, in_seconds, send, token};
use control::clock::Timestamp;
use control::store::SharedStore;
use std::time::Duration;

use crate::manual_clock::ManualClock;

/// A stream is announced and starts later as itself.
pub async fn a_stream_is_announced(store: SharedStore) {
    let world = World::new(store).await;
    let time = in_seconds(3600);
    let body = json!({ "title": "Soon", "scheduledFor": time, "tags": ["#Pet"] });

    let stream = world.post("/api/live/scheduled", "u1", body).await.expect(201);

    assert_eq!((stream["state"].as_str(), &stream["isLive"]), (Some("scheduled"), &json!(false)));
    assert_eq!((stream["title"].as_str(), stream["scheduledFor"].as_str()), (Some("Soon"), Some(time.as_str())));
    assert_eq!((&stream["tags"], stream["visibility"].as_str()), (&json!(["pet"]), Some("public")));
    assert!(stream.get("roomName").is_none() && stream.get("startedAt").is_none(), "{stream}");
}

/// It starts from half an hour before on, and not earlier.
pub async fn an_announced_stream_starts_half_an_hour_before(store: SharedStore) {
    let world = World::new(store).await;
    let early = world.schedule("u1", "public").await;
    let soon = json!({ "title": "Soon", "scheduledFor": in_seconds(600) });
    let soon = world.post("/api/live/scheduled", "u1", soon).await.expect(201)["streamId"].clone();

    world.post("/api/live/start", "u1", json!({ "streamId": early })).await.refused(409, "not_startable");
    let other = world.post("/api/live/start", "u2", json!({ "streamId": soon })).await;
    assert!(other.status == 403 || other.status == 404, "{other:?}");
    let started = world.post("/api/live/start", "u1", json!({ "streamId": soon })).await.expect(201);
    assert_eq!(started["streamId"], soon);
    assert!(started["roomName"].as_str().unwrap().starts_with("live_u1_"));
}

/// Public ones are listed, the soonest first; private ones are their owner's.
pub async fn public_announcements_are_listed_soonest_first(store: SharedStore) {
    let world = World::new(store).await;
    let mut expected = Vec::new();
    for minutes in [30, 10, 20] {
        let body = json!({ "title": "T", "scheduledFor": in_seconds(minutes * 60) });
        let stream = world.post("/api/live/scheduled", "u1", body).await.expect(201);
        expected.push((minutes, stream["streamId"].as_str().unwrap().to_owned()));
    }
    let private = world.schedule("u1", "private").await;
    expected.sort();

    let first = world.get("/api/live/scheduled?limit=2", "").await.expect(200);
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = world.get(&format!("/api/live/scheduled?limit=2&cursor={cursor}"), "").await.expect(200);
    assert_eq!([ids(&first), ids(&second)].concat(), expected.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>());
    assert_eq!(second["nextCursor"], Value::Null);

    let path = format!("/api/live/{private}");
    world.get(&path, "").await.refused(404, "stream_not_found");
    world.get(&path, "u2").await.refused(404, "stream_not_found");
    world.get(&path, "u1").await.expect(200);
    world.get(&path, "admin").await.expect(200);
}

/// What an announcement must say.
pub async fn announcements_are_checked(store: SharedStore) {
    let world = World::new(store).await;
    let schedule = async |body: Value| world.post("/api/live/scheduled", "u1", body).await;

    schedule(json!({ "scheduledFor": in_seconds(3600) })).await.refused(400, "malformed_body");
    schedule(json!({ "title": "T", "scheduledFor": "tomorrow" })).await.refused(400, "malformed_body");
    let empty = schedule(json!({ "title": " ", "scheduledFor": in_seconds(3600) })).await;
    assert_eq!(empty.wrong_fields(), ["title"]);
    for seconds in [-60, 240, 91 * 24 * 3600] {
        let refused = schedule(json!({ "title": "T", "scheduledFor": in_seconds(seconds) })).await;
        assert_eq!(refused.wrong_fields(), ["scheduledFor"], "{seconds}");
    }
    let visibility = json!({ "title": "T", "scheduledFor": in_seconds(3600), "visibility": "secret" });
    schedule(visibility).await.refused(400, "malformed_body");
    world.post("/api/live/scheduled", "", json!({})).await.refused(401, "unauthenticated");
}

/// At most twenty to come of one user.
pub async fn a_user_announces_at_most_twenty(store: SharedStore) {
    let world = World::new(store).await;
    for _ in 0..20 {
        world.schedule("u1", "public").await;
    }
    let body = json!({ "title": "T", "scheduledFor": in_seconds(3600) });

    let refused = world.post("/api/live/scheduled", "u1", body.clone()).await;

    assert_eq!(refused.status, 409, "{refused:?}");
    world.post("/api/live/scheduled", "u2", body).await.expect(201);
}

/// Those that are called off stay in the store: there is a limit for them as well, forty within a day. A day later there
/// may be others.
pub async fn a_user_announces_and_calls_off_at_most_forty_in_a_day(store: SharedStore) {
    const DAY: u64 = 24 * 3600;
    let clock = ManualClock::at(Timestamp::now());
    let world = World::with(store, |settings| settings.clock = Some(clock.clone())).await;
    for _ in 0..40 {
        let id = world.schedule("u1", "public").await;
        world.delete(&format!("/api/live/{id}"), "u1").await.expect(204);
    }
    let body = json!({ "title": "T", "scheduledFor": in_seconds(3600) });

    let refused = world.post("/api/live/scheduled", "u1", body.clone()).await;

    refused.refused(429, "rate_limited");
    assert_eq!(refused.retry_after_ms(), DAY * 1000);
    for user in ["u2", "admin"] {
        world.post("/api/live/scheduled", user, body.clone()).await.expect(201);
    }
    clock.advance(DAY - 1);
    world.post("/api/live/scheduled", "u1", body.clone()).await.refused(429, "rate_limited");
    clock.advance(1);
    world.post("/api/live/scheduled", "u1", body).await.expect(201);
}

/// The owner calls it off, as often as it likes, but not once it has started.
pub async fn an_announcement_is_called_off(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.schedule("u1", "public").await;
    let path = format!("/api/live/{id}");

    world.delete(&path, "u2").await.refused(403, "not_owner");
    for _ in 0..2 {
        world.delete(&path, "u1").await.expect(204);
    }
    assert_eq!(world.get(&path, "").await.expect(200)["state"], "cancelled");
    world.post("/api/live/start", "u1", json!({ "streamId": id })).await.refused(409, "not_startable");
    let live = world.start("u1").await;
    world.delete(&format!("/api/live/{live}"), "u1").await.refused(409, "conflict");
}

/// A scheduled stream is edited like a live one.
pub async fn an_announcement_is_edited(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.schedule("u1", "public").await;

    let edited = world.patch(&format!("/api/live/{id}"), "u1", json!({ "title": "Later" })).await.expect(200);

    assert_eq!(edited["title"], "Later");
}

/// A private announcement of somebody else is not there, whatever is asked of it.
pub async fn a_private_announcement_exists_for_nobody_else(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.schedule("u1", "private").await;
    let path = format!("/api/live/{id}");

    for (method, path, body) in [
        ("GET", path.clone(), Value::Null),
        ("PATCH", path.clone(), json!({ "title": "B" })),
        ("DELETE", path.clone(), Value::Null),
        ("GET", format!("{path}/watch"), Value::Null),
        ("GET", format!("{path}/blocks"), Value::Null),
        ("PUT", format!("{path}/blocks/bad"), Value::Null),
        ("DELETE", format!("{path}/blocks/bad"), Value::Null),
        ("GET", format!("{path}/analytics"), Value::Null),
        ("POST", format!("{path}/reports"), json!({ "reason": "spam" })),
        ("POST", "/api/live/stop".to_owned(), json!({ "streamId": id })),
        ("POST", "/api/live/start".to_owned(), json!({ "streamId": id })),
    ] {
        let refused = world.call(method, &path, "u2", body).await;
        assert_eq!((refused.status, refused.code().as_str()), (404, "stream_not_found"), "{method} {path}");
    }
    world.get(&format!("{path}/blocks"), "u1").await.expect(200);
    world.get(&format!("{path}/blocks"), "admin").await.expect(200);
}

/// Section 1.3: a repeat gets the first answer, although by now the time would be refused as too near.
pub async fn a_repeated_announcement_answers_as_the_first_when_its_time_is_near(store: SharedStore) {
    let world = World::new(store).await;
    let time = in_seconds(305);
    let schedule = async |key: &str, body: &Value| {
        let request = world.request("POST", "/api/live/scheduled").bearer_auth(token("u1"));
        let request = request.header("idempotency-key", key).header("content-type", "application/json");
        send(request.body(body.to_string())).await
    };
    let body = json!({ "title": "Soon", "scheduledFor": time });
    let first = schedule("key-1", &body).await.expect(201);

    let near = Timestamp::parse(&time).unwrap().minus(Duration::from_secs(300));
    eventually("the time is near", || async { Timestamp::now() > near }).await;

    assert_eq!(schedule("key-1", &body).await.expect(201)["streamId"], first["streamId"]);
    assert_eq!(schedule("key-2", &body).await.wrong_fields(), ["scheduledFor"]);
    // Of another body, all wrong fields are named as ever.
    let other = json!({ "title": "", "scheduledFor": time });
    assert_eq!(schedule("key-1", &other).await.wrong_fields().len(), 2);
    let mine = world.get("/api/live/mine", "u1").await.expect(200);
    assert_eq!(ids(&mine), [first["streamId"].as_str().unwrap()]);
}
