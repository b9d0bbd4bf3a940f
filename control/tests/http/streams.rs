//! Sections 3.2 and 4: start, stop, list, read, watch, end and edit.

use serde_json::{Value, json};

use super::webhooks::a_viewer_arrives;
use super::world::{World, eventually, send, token};
use control::clock::Timestamp;
use control::store::SharedStore;

/// [S] A start answers with the stream's id, the room's name, a token and where to connect.
pub async fn a_start_says_how_to_publish(store: SharedStore) {
    let world = World::new(store).await;

    let answer =
        world.post("/api/live/start", "u1", json!({ "title": "My stream", "tags": ["pet"] })).await.expect(201);

    let room = answer["roomName"].as_str().unwrap();
    assert!(room.starts_with("live_u1_"), "{room}");
    assert!(room["live_u1_".len()..].parse::<u64>().is_ok(), "{room}");
    assert_eq!(answer["url"], format!("ws://{}", world.address));
    assert_eq!(answer["resumed"], false);
    assert!(answer["tokenExpiresAt"].is_string());
    assert!(world.rooms.has(room));
}

/// [S] Ids are as MongoDB makes them, whatever the store: 12 bytes in lower-case hex, which begin with the time in
/// seconds.
pub async fn a_stream_id_is_an_object_id(store: SharedStore) {
    let world = World::new(store).await;
    let before = Timestamp::now().millis() / 1000;

    let answer = world.post("/api/live/start", "u1", json!({})).await.expect(201);

    let id = answer["streamId"].as_str().unwrap();
    assert!(id.len() == 24 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    let made = i64::from_str_radix(&id[..8], 16).unwrap();
    assert!((before..before + 600).contains(&made), "{id} begins with {made}");
}

/// Without an address to connect to nothing is started, nor watched.
pub async fn a_host_header_that_names_no_host_is_refused(store: SharedStore) {
    let world = World::new(store).await;
    let start = |host: &str| world.request("POST", "/api/live/start").bearer_auth(token("u1")).header("host", host);

    for host in ["", "two words", "user@host", "a/b", "[::1", "host:port"] {
        send(start(host)).await.refused(400, "invalid_parameter");
    }
    assert_eq!(world.get("/api/live/active", "u1").await.expect(200)["streams"], json!([]));
    let started = send(start("live.example.com:7880")).await.expect(201);
    assert_eq!(started["url"], "ws://live.example.com:7880");
    let path = format!("/api/live/{}/watch", started["streamId"].as_str().unwrap());
    let watch = world.request("GET", &path).bearer_auth(token("u2")).header("host", "?");
    send(watch).await.refused(400, "invalid_parameter");
}

/// [S] The owner's token may join this room only, publish, subscribe and send data.
pub async fn the_token_of_a_start_may_publish(store: SharedStore) {
    let world = World::new(store).await;

    let answer = world.post("/api/live/start", "u1", json!({})).await.expect(201);

    let token: Value = serde_json::from_str(answer["token"].as_str().unwrap()).unwrap();
    let expected = json!({ "room": answer["roomName"], "identity": "u1", "user": "u1", "publish": true, "data": true,
        "seconds": 3600 });
    assert_eq!(token, expected);
}

/// A body is not needed.
pub async fn a_start_needs_no_body(store: SharedStore) {
    let world = World::new(store).await;

    world.call("POST", "/api/live/start", "u1", Value::Null).await.expect(201);
    let null = world.request("POST", "/api/live/start").bearer_auth(token("u2"));
    send(null.header("content-type", "application/json").body("null")).await.expect(201);
}

/// Who is live already gets the same stream again, or is refused, or begins anew.
pub async fn a_second_start_does_as_it_is_told(store: SharedStore) {
    let world = World::new(store).await;
    let first = world.start("u1").await;

    let resumed = world.post("/api/live/start", "u1", json!({ "title": "other" })).await.expect(200);
    assert_eq!((resumed["streamId"].as_str(), &resumed["resumed"]), (Some(first.as_str()), &json!(true)));
    let rejected = world.post("/api/live/start", "u1", json!({ "onConflict": "reject" })).await;
    rejected.refused(409, "conflict");
    let replaced = world.post("/api/live/start", "u1", json!({ "onConflict": "replace" })).await.expect(201);
    assert_ne!(replaced["streamId"], first);
    let ended = world.get(&format!("/api/live/{first}"), "").await.expect(200);
    assert_eq!(ended["endReason"], "replaced");
    world.post("/api/live/start", "u1", json!({ "onConflict": "maybe" })).await.refused(400, "malformed_body");
}

/// Starts of a user are limited, and administrators exempt.
pub async fn starts_are_limited(store: SharedStore) {
    let world = World::with(store, |settings| {
        settings.live.starts_per_hour = 1;
        settings.live.start_cooldown = 30;
    })
    .await;
    for _ in 0..2 {
        world.post("/api/live/start", "admin", json!({ "onConflict": "replace" })).await.expect(201);
    }
    world.start("u1").await;
    world.post("/api/live/stop", "u1", json!({})).await.expect(200);

    let refused = world.post("/api/live/start", "u1", json!({})).await;

    assert_eq!(refused.status, 429);
    assert!(["rate_limited", "start_cooldown"].contains(&refused.code().as_str()));
    assert!(refused.header("retry-after").is_some());
}

/// Without the media server there is no stream.
pub async fn a_start_without_the_media_server_is_refused(store: SharedStore) {
    let world = World::new(store).await;
    world.rooms.set_away(true);

    let refused = world.post("/api/live/start", "u1", json!({})).await;

    refused.refused(503, "sfu_unavailable");
    assert!(refused.header("retry-after").is_some());
    let listed = world.get("/api/live/active", "u1").await.expect(200);
    assert_eq!(listed["streams"], json!([]));
}

/// [S] Only the owner stops a stream, and it is over then.
pub async fn only_the_owner_stops_a_stream(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    let body = json!({ "streamId": id });
    world.post("/api/live/stop", "u2", body.clone()).await.refused(403, "not_owner");
    world.post("/api/live/stop", "admin", body.clone()).await.refused(403, "not_owner");
    let ended = world.post("/api/live/stop", "u1", body).await.expect(200);
    assert_eq!(ended["alreadyEnded"], false);
    let stream = &ended["stream"];
    assert_eq!((&stream["isLive"], stream["state"].as_str()), (&json!(false), Some("ended")));
    assert_eq!(stream["endReason"], "stopped");
    assert!(stream["endedAt"].is_string() && stream["durationSeconds"].is_u64(), "{stream}");
    let room = stream["roomName"].as_str().unwrap();
    eventually("the room is deleted", || async { !world.rooms.has(room) }).await;
}

/// Stopping twice is no mistake; stopping nothing is.
pub async fn a_second_stop_says_that_it_is_over(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    let first = world.call("POST", "/api/live/stop", "u1", Value::Null).await.expect(200);
    let again = world.post("/api/live/stop", "u1", json!({ "streamId": id })).await.expect(200);

    assert_eq!(again["alreadyEnded"], true);
    assert_eq!(again["stream"]["endedAt"], first["stream"]["endedAt"]);
    world.post("/api/live/stop", "u1", json!({})).await.refused(404, "stream_not_found");
    let unknown = json!({ "streamId": "000000000000000000000000" });
    world.post("/api/live/stop", "u1", unknown).await.refused(404, "stream_not_found");
    assert_eq!(world.post("/api/live/stop", "u1", json!({ "streamId": "x" })).await.wrong_fields(), ["streamId"]);
}

/// [S] All live streams are listed for anybody, the newest first.
pub async fn live_streams_are_listed_newest_first(store: SharedStore) {
    let world = World::new(store).await;
    let mut started = Vec::new();
    for owner in ["u1", "u2", "u3"] {
        started.push(world.start(owner).await);
    }
    world.post("/api/live/stop", "u2", json!({})).await.expect(200);

    let expected = [started[2].as_str(), started[0].as_str()];
    assert_eq!(ids(&world.get("/api/live/active", "viewer").await.expect(200)), expected);
    eventually("the list is at most a second old", || async {
        ids(&world.get("/api/live/active", "").await.expect(200)) == expected
    })
    .await;
}

/// Pages, tags, owners and the order of the list.
pub async fn the_list_is_filtered_and_sorted(store: SharedStore) {
    let world = World::new(store).await;
    let a = world.start_with("u1", json!({ "tags": ["pet", "dog"] })).await;
    let b = world.start_with("u2", json!({ "tags": ["pet"] })).await;
    let c = world.start_with("u3", json!({ "tags": ["music"] })).await;
    let list = async |query: &str| world.get(&format!("/api/live/active?{query}"), "viewer").await.expect(200);

    assert_eq!(ids(&list("tag=pet").await), [b.as_str(), a.as_str()]);
    assert_eq!(ids(&list("tag=%23PET&tag=dog").await), [a.as_str()]);
    assert_eq!(ids(&list("ownerId=u3").await), [c.as_str()]);
    assert_eq!(ids(&list("tag=nothing").await), [""; 0]);
    for sort in ["startedAt", "viewers"] {
        let first = list(&format!("limit=2&sort={sort}")).await;
        let cursor = first["nextCursor"].as_str().unwrap();
        let second = list(&format!("limit=2&sort={sort}&cursor={cursor}")).await;
        assert_eq!(second["nextCursor"], Value::Null);
        let all = [ids(&first), ids(&second)].concat();
        assert_eq!(all, [c.as_str(), b.as_str(), a.as_str()], "the newest first, by {sort}");
        let other = if sort == "viewers" { "startedAt" } else { "viewers" };
        let mixed = world.get(&format!("/api/live/active?sort={other}&cursor={cursor}"), "viewer").await;
        mixed.refused(400, "invalid_cursor");
    }
    for query in ["sort=name", "tag=two%20words", "ownerId="] {
        for user in ["", "viewer"] {
            let answer = world.get(&format!("/api/live/active?{query}"), user).await;
            answer.refused(400, "invalid_parameter");
        }
    }
}

/// The most watched first, whatever began later, and so from page to page.
pub async fn the_list_goes_by_viewers_if_asked_to(store: SharedStore) {
    let world = World::new(store).await;
    let mut started = Vec::new();
    for (owner, viewers) in [("u1", 2), ("u2", 0), ("u3", 3), ("u4", 1)] {
        let id = world.start(owner).await;
        for n in 0..viewers {
            a_viewer_arrives(&world, &id, &format!("v{n}")).await;
        }
        started.push(id);
    }
    let expected = [2, 0, 3, 1].map(|n| started[n].as_str());

    for limit in 1..=4 {
        let (mut seen, mut counts, mut cursor) = (Vec::new(), Vec::new(), String::new());
        loop {
            let path = format!("/api/live/active?sort=viewers&limit={limit}{cursor}");
            let page = world.get(&path, "viewer").await.expect(200);
            seen.extend(ids(&page).into_iter().map(str::to_owned));
            counts.extend(page["streams"].as_array().unwrap().iter().map(|row| row["viewers"].clone()));
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!((&seen[..], &counts[..]), (&expected.map(str::to_owned)[..], &[3, 2, 1, 0].map(Value::from)[..]));
    }
    let newest_first = world.get("/api/live/active", "viewer").await.expect(200);
    assert_eq!(ids(&newest_first), [3, 2, 1, 0].map(|n| started[n].as_str()));
    eventually("the list of strangers is at most a second old", || async {
        ids(&world.get("/api/live/active?sort=viewers", "").await.expect(200)) == expected
    })
    .await;
}

/// The list of strangers is cached by its tag.
pub async fn a_list_that_did_not_change_is_not_sent_again(store: SharedStore) {
    let world = World::new(store).await;
    let first = world.get("/api/live/active", "").await;
    let tag = first.header("etag").unwrap().to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");

    let ask = async || send(world.request("GET", "/api/live/active").header("if-none-match", &tag)).await;
    let again = ask().await;
    assert_eq!((again.status, again.text.as_str(), again.header("etag")), (304, "", Some(tag.as_str())));
    assert_eq!(again.header("cache-control"), Some("public, max-age=2"));

    world.start("u1").await;
    eventually("the tag changes with the list", || async { ask().await.status == 200 }).await;
}

/// With a token, streams that block the caller are left out, and the answer is the caller's own.
pub async fn a_blocked_user_does_not_see_the_stream_listed(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    world.put(&format!("/api/live/{id}/blocks/bad"), "u1", Value::Null).await.expect(200);

    let bad = world.get("/api/live/active", "bad").await;
    assert_eq!(ids(&bad.expect(200)), [""; 0]);
    assert!(bad.header("cache-control").unwrap().starts_with("private"));
    assert_eq!(bad.header("etag"), None);
    assert_eq!(ids(&world.get("/api/live/active", "good").await.expect(200)), [id.as_str()]);
}

/// Who is blocked is in no public answer, nor is why: not in those to strangers, to users and to the blocked one, not
/// in lists, not before a stream and not after it. Of the owner's and the administrators' answers it is in the lists of
/// blocks and the audit log alone.
pub async fn a_stream_does_not_tell_whom_it_blocks(store: SharedStore) {
    let world = World::new(store).await;
    let (live, over) = (world.start("u1").await, world.start("u2").await);
    let soon = world.schedule("u1", "public").await;
    for (id, owner) in [(&live, "u1"), (&over, "u2"), (&soon, "u1")] {
        let path = format!("/api/live/{id}/blocks/nobody-sees-this");
        world.put(&path, owner, json!({ "reason": "nor-why" })).await.expect(200);
    }
    let shown = async |method: &str, path: &str, user: &str, body: Value| {
        let answer = world.call(method, path, user, body).await;
        assert!((200..300).contains(&answer.status), "{method} {path} by {user:?}: {answer:?}");
        let told = ["nobody-sees-this", "nor-why"].iter().any(|secret| answer.text.contains(secret));
        assert!(!told, "{method} {path} by {user:?}: {}", answer.text);
        answer
    };

    shown("POST", "/api/live/stop", "u2", json!({})).await;
    eventually("the list of strangers is at most a second old", || async {
        ids(&world.get("/api/live/active", "").await.expect(200)) == [live.as_str()]
    })
    .await;
    for user in ["", "u3", "u1", "admin", "nobody-sees-this"] {
        for list in ["active", "active?sort=viewers", "active?ownerId=u1", "scheduled"] {
            let page = shown("GET", &format!("/api/live/{list}"), user, Value::Null).await.json();
            let is_shown = user != "nobody-sees-this";
            assert_eq!(ids(&page).len(), usize::from(is_shown), "{list} for {user:?}");
        }
        for id in [&live, &over, &soon] {
            shown("GET", &format!("/api/live/{id}"), user, Value::Null).await;
        }
    }
    shown("GET", &format!("/api/live/{live}/watch"), "u3", Value::Null).await;
    shown("POST", &format!("/api/live/{live}/reports"), "u3", json!({ "reason": "spam" })).await;
    shown("GET", "/api/live/mine", "u1", Value::Null).await;
    shown("POST", "/api/live/start", "u1", json!({})).await;
    shown("PATCH", &format!("/api/live/{live}"), "u1", json!({ "title": "T" })).await;
    shown("GET", &format!("/api/live/{live}/analytics"), "u1", Value::Null).await;
    let all = shown("GET", "/api/admin/streams", "admin", Value::Null).await.json();
    assert!(all["streams"].as_array().unwrap().iter().all(|row| row["blockedUsers"] == 1), "{all}");
    shown("POST", &format!("/api/live/{live}/end"), "admin", Value::Null).await;
    shown("DELETE", &format!("/api/live/{soon}"), "u1", Value::Null).await;
}

/// A stream is read by anybody, also after its end.
pub async fn a_stream_is_read_by_anybody(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start_with("u1", json!({ "title": "T", "tags": ["pet"] })).await;

    let stream = world.get(&format!("/api/live/{id}"), "").await.expect(200);
    assert_eq!(stream["streamId"], id);
    assert_eq!(stream["ownerId"], "u1");
    assert_eq!(stream["owner"], json!({ "name": "Name of u1" }));
    assert_eq!((stream["title"].as_str(), &stream["tags"]), (Some("T"), &json!(["pet"])));
    assert_eq!((&stream["isLive"], stream["state"].as_str()), (&json!(true), Some("starting")));
    assert_eq!((&stream["viewers"], &stream["peakViewers"]), (&json!(0), &json!(0)));
    world.post("/api/live/stop", "u1", json!({})).await.expect(200);
    assert_eq!(world.get(&format!("/api/live/{id}"), "").await.expect(200)["isLive"], false);
}

/// [S] Any signed-in user gets the room's name, a token, where to connect, and the title.
pub async fn a_user_gets_a_token_to_watch(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start_with("u1", json!({ "title": "T" })).await;

    let answer = world.get(&format!("/api/live/{id}/watch"), "u2").await.expect(200);

    let room = answer["roomName"].as_str().unwrap();
    assert_eq!((answer["streamId"].as_str(), answer["title"].as_str()), (Some(id.as_str()), Some("T")));
    assert_eq!(answer["url"], format!("ws://{}", world.address));
    assert_eq!(answer["owner"], json!({ "name": "Name of u1" }));
    assert_eq!(answer["chat"]["namespace"], format!("/live:{room}"));
    assert_eq!(answer["chat"]["settings"]["maxLength"], 500);
    assert!(answer["tokenExpiresAt"].is_string() && answer["startedAt"].is_string());
}

/// [S] A viewer's token may subscribe and send data, not publish.
pub async fn the_token_of_a_viewer_may_not_publish(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    let answer = world.get(&format!("/api/live/{id}/watch"), "u2").await.expect(200);

    let token: Value = serde_json::from_str(answer["token"].as_str().unwrap()).unwrap();
    assert_eq!((&token["room"], &token["publish"], &token["data"]), (&answer["roomName"], &json!(false), &json!(true)));
    assert_eq!(token["seconds"], 600);
    let identity = token["identity"].as_str().unwrap();
    assert!(identity.starts_with("u2:") && identity.len() == "u2:".len() + 8, "{identity}");
}

/// [S] A blocked user is refused.
pub async fn a_blocked_user_may_not_watch(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    world.put(&format!("/api/live/{id}/blocks/bad"), "u1", Value::Null).await.expect(200);

    world.get(&format!("/api/live/{id}/watch"), "bad").await.refused(403, "blocked");
}

/// What is over or unknown is not watched.
pub async fn what_is_over_is_not_watched(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    world.post("/api/live/stop", "u1", json!({})).await.expect(200);

    world.get(&format!("/api/live/{id}/watch"), "u2").await.refused(410, "stream_ended");
    world.get("/api/live/000000000000000000000000/watch", "u2").await.refused(404, "stream_not_found");
    let scheduled = world.schedule("u1", "private").await;
    world.get(&format!("/api/live/{scheduled}/watch"), "u2").await.refused(404, "stream_not_found");
}

/// Who watches already takes no second place, and the owner takes none.
pub async fn a_full_stream_is_not_watched_by_others(store: SharedStore) {
    let world = World::with(store, |settings| settings.live.max_viewers = 2).await;
    let id = world.start("u1").await;
    let watch = async |user: &str| world.get(&format!("/api/live/{id}/watch"), user).await;
    a_viewer_arrives(&world, &id, "v1").await;
    watch("v2").await.expect(200);
    a_viewer_arrives(&world, &id, "v2").await;

    let refused = watch("v3").await;

    refused.refused(409, "stream_full");
    for user in ["v1", "v2", "u1"] {
        watch(user).await.expect(200);
    }
}

/// [S] An administrator ends any stream.
pub async fn an_administrator_ends_any_stream(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    let end = async |body: Value| world.post(&format!("/api/live/{id}/end"), "admin", body).await;

    assert_eq!(end(json!({ "reason": "x".repeat(501) })).await.wrong_fields(), ["reason"]);
    let first = end(json!({ "reason": "against the rules" })).await.expect(200);
    assert_eq!(first["stream"]["endReason"], "ended_by_admin");
    assert_eq!(first["alreadyEnded"], false);
    let again = end(Value::Null).await.expect(200);
    assert_eq!((&again["alreadyEnded"], &again["stream"]["endedAt"]), (&json!(true), &first["stream"]["endedAt"]));
    // The reason is for the audit log alone.
    let stream = world.get(&format!("/api/live/{id}"), "").await;
    assert!(!stream.text.contains("against the rules"));
}

/// The owner edits what is shown; `null` clears.
pub async fn the_owner_edits_what_is_shown(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start_with("u1", json!({ "title": "A", "coverUrl": "https://a.example/", "tags": ["a"] })).await;
    let path = format!("/api/live/{id}");

    world.patch(&path, "u2", json!({ "title": "B" })).await.refused(403, "not_owner");
    let edited = world.patch(&path, "u1", json!({ "title": " B ", "tags": ["#B"] })).await.expect(200);
    assert_eq!((edited["title"].as_str(), &edited["tags"]), (Some("B"), &json!(["b"])));
    assert_eq!(edited["coverUrl"], "https://a.example/");
    let cleared = world.patch(&path, "u1", json!({ "coverUrl": null })).await.expect(200);
    assert!(cleared.get("coverUrl").is_none() && cleared["title"] == "B", "{cleared}");
    assert_eq!(world.patch(&path, "u1", json!({ "title": "x".repeat(121) })).await.wrong_fields(), ["title"]);
    world.patch(&path, "u1", json!({ "isLive": false })).await.refused(400, "malformed_body");
    world.post("/api/live/stop", "u1", json!({})).await.expect(200);
    world.patch(&path, "u1", json!({ "title": "C" })).await.refused(410, "stream_ended");
}

/// `null` clears each of the fields, and a field that is absent stays.
pub async fn null_clears_each_field(store: SharedStore) {
    let world = World::new(store).await;
    let shown = json!({ "title": "A", "coverUrl": "https://a.example/", "tags": ["a"] });
    let id = world.start_with("u1", shown).await;
    let clear =
        async |field: &str| world.patch(&format!("/api/live/{id}"), "u1", json!({ field: null })).await.expect(200);

    let stream = clear("tags").await;
    assert_eq!((&stream["tags"], &stream["title"]), (&json!([]), &json!("A")));
    let stream = clear("title").await;
    assert!(stream.get("title").is_none() && stream["coverUrl"] == "https://a.example/", "{stream}");
    assert!(clear("coverUrl").await.get("coverUrl").is_none());
}

/// One's own streams, in all states.
pub async fn a_user_lists_own_streams(store: SharedStore) {
    let world = World::new(store).await;
    let first = world.start("u1").await;
    world.post("/api/live/stop", "u1", json!({})).await.expect(200);
    let second = world.schedule("u1", "private").await;
    world.start("u2").await;

    let mine = world.get("/api/live/mine", "u1").await.expect(200);

    assert_eq!(ids(&mine), [second.as_str(), first.as_str()]);
    assert_eq!(mine["nextCursor"], Value::Null);
}

pub fn ids(page: &Value) -> Vec<&str> {
    page["streams"].as_array().unwrap().iter().map(|stream| stream["streamId"].as_str().unwrap()).collect()
}
