//! Section 7: blocks, reports, and the audit log.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{Answer, World, eventually, send, token};
use control::clock::Timestamp;
use control::rooms::{RoomRole, Session};
use control::store::SharedStore;
use control::store::moderation::AuditEntry;
use control::store::stream::{Block, StreamId};

use crate::manual_clock::ManualClock;
use crate::switched_store::Switched;

fn path(id: &str, user: &str) -> String {
    format!("/api/live/{id}/blocks/{user}")
}

/// [S] A blocked user cannot watch the stream; the owner and administrators block.
pub async fn owner_and_administrators_block_users(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    world.put(&path(&id, "bad"), "u2", Value::Null).await.refused(403, "not_owner");
    let blocked = world.put(&path(&id, "bad"), "u1", json!({ "reason": "rude" })).await.expect(200);
    assert_eq!(blocked["userId"], "bad");
    assert!(blocked["blockedAt"].is_string());
    world.put(&path(&id, "worse"), "admin", Value::Null).await.expect(200);
    for user in ["bad", "worse"] {
        world.get(&format!("/api/live/{id}/watch"), user).await.refused(403, "blocked");
    }
    let list = world.get(&format!("/api/live/{id}/blocks"), "u1").await.expect(200);
    let users = list["users"].as_array().unwrap();
    assert_eq!((users[0]["userId"].as_str(), users[0]["by"].as_str()), (Some("bad"), Some("u1")));
    assert_eq!((users[0]["reason"].as_str(), users[1]["by"].as_str()), (Some("rude"), Some("admin")));
    world.get(&format!("/api/live/{id}/blocks"), "u2").await.refused(403, "not_owner");
    world.delete(&path(&id, "bad"), "u2").await.refused(403, "not_owner");
    world.delete(&path(&id, "bad"), "admin").await.expect(204);
    world.delete(&path(&id, "worse"), "u1").await.expect(204);
    for user in ["bad", "worse"] {
        world.get(&format!("/api/live/{id}/watch"), user).await.expect(200);
    }
}

/// Both verbs may be repeated; the first block stays.
pub async fn blocks_may_be_repeated(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    let first = world.put(&path(&id, "bad"), "u1", Value::Null).await.expect(200);
    let again = world.put(&path(&id, "bad"), "u1", json!({ "reason": "late" })).await.expect(200);
    assert_eq!(first, again);
    for _ in 0..2 {
        world.delete(&path(&id, "bad"), "u1").await.expect(204);
    }
    world.get(&format!("/api/live/{id}/watch"), "bad").await.expect(200);
}

/// Before, during and after the stream.
pub async fn blocks_are_possible_before_during_and_after(store: SharedStore) {
    let world = World::new(store).await;
    let scheduled = world.schedule("u1", "public").await;
    world.put(&path(&scheduled, "bad"), "u1", Value::Null).await.expect(200);
    let id = world.start("u2").await;
    world.post("/api/live/stop", "u2", json!({})).await.expect(200);
    world.put(&path(&id, "bad"), "u2", Value::Null).await.expect(200);
}

/// Owner and administrators cannot be blocked.
pub async fn owner_and_administrators_are_not_blocked(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    world.get("/api/live/mine", "admin-2").await.expect(200);

    world.put(&path(&id, "u1"), "u1", Value::Null).await.refused(422, "cannot_block_owner");
    world.put(&path(&id, "u1"), "admin", Value::Null).await.refused(422, "cannot_block_owner");
    world.put(&path(&id, "admin-2"), "u1", Value::Null).await.refused(422, "cannot_block_admin");
    world.put("/api/me/blocks/admin-2", "u1", Value::Null).await.refused(422, "cannot_block_admin");
    world.put("/api/me/blocks/u1", "u1", Value::Null).await.refused(422, "cannot_block_owner");
}

/// After a restart, administrators are known from the log.
pub async fn administrators_are_recalled_from_the_log(store: SharedStore) {
    let before = World::new(store.clone()).await;
    let first = before.start("u1").await;
    before.post(&format!("/api/live/{first}/end"), "admin-3", json!({})).await.expect(200);
    // More lines since than are read at once.
    for number in 0..450 {
        let entry = AuditEntry {
            id: StreamId::generate().to_string(),
            at: Timestamp::now().plus(Duration::from_secs(number)),
            actor: "u1".parse().unwrap(),
            action: "chat.delete".into(),
            stream_id: None,
            target: None,
            details: Value::Null,
            request_id: None,
        };
        store.append_audit(&entry).await.unwrap();
    }

    let world = World::new(store).await;
    world.moderation.recall_admins().await.unwrap();
    let id = world.start("u1").await;

    world.put(&path(&id, "admin-3"), "u1", Value::Null).await.refused(422, "cannot_block_admin");
}

/// An owner cannot hide from administrators by blocking them before they show that they are some.
pub async fn an_administrator_whom_nobody_knew_is_not_kept_out(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    let scheduled = world.schedule("u2", "public").await;
    world.put(&path(&id, "admin-9"), "u1", Value::Null).await.expect(200);
    world.put(&path(&scheduled, "admin-9"), "u2", Value::Null).await.expect(200);
    world.put(&path(&id, "bad"), "u1", Value::Null).await.expect(200);

    let listed = world.get("/api/live/active", "admin-9").await.expect(200);
    assert_eq!(super::streams::ids(&listed), [id.as_str()]);
    let listed = world.get("/api/live/scheduled", "admin-9").await.expect(200);
    assert_eq!(super::streams::ids(&listed), [scheduled.as_str()]);
    world.get(&format!("/api/live/{id}/watch"), "admin-9").await.expect(200);

    // Nor does the door of the room or of the chat keep the administrator out.
    let list = world.get(&format!("/api/live/{id}/blocks"), "u1").await.expect(200);
    let users: Vec<_> = list["users"].as_array().unwrap().iter().map(|user| user["userId"].as_str().unwrap()).collect();
    assert_eq!(users, ["bad"]);
    world.get(&format!("/api/live/{id}/watch"), "bad").await.refused(403, "blocked");
    world.put(&path(&id, "admin-9"), "u1", Value::Null).await.refused(422, "cannot_block_admin");
}

/// A block takes effect at once: the user's sessions are removed from the room.
pub async fn a_block_removes_the_user_from_the_room(store: SharedStore) {
    let world = World::new(store).await;
    let answer = world.post("/api/live/start", "u1", json!({})).await.expect(201);
    let (id, room) = (answer["streamId"].as_str().unwrap(), answer["roomName"].as_str().unwrap());
    for identity in ["bad:aaaaaaaa", "bad:bbbbbbbb", "good:aaaaaaaa"] {
        world.rooms.enter(room, session(identity));
    }

    world.put(&path(id, "bad"), "u1", Value::Null).await.expect(200);

    eventually("the sessions of the blocked user are removed", || async { world.rooms.removed().len() >= 2 }).await;
    assert!(world.rooms.removed().iter().all(|(_, identity)| identity.starts_with("bad:")));
}

fn session(identity: &str) -> Session {
    Session {
        sid: format!("PA_{identity}"),
        identity: identity.to_owned(),
        user: identity.split(':').next().and_then(|user| user.parse().ok()),
        role: Some(RoomRole::Viewer),
        standard: true,
        hidden: false,
        recorder: false,
        joined_at: Timestamp::now(),
        publishes: false,
        active: true,
    }
}

/// Users' ids may be anything up to 128 bytes.
pub async fn any_user_id_can_be_blocked(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    for (encoded, user) in [("a%2Fb%20c", "a/b c"), ("%F0%9F%A6%80", "🦀"), ("auth0%7C1", "auth0|1")] {
        assert_eq!(world.put(&path(&id, encoded), "u1", Value::Null).await.expect(200)["userId"], user);
    }
    for encoded in ["%ff".to_owned(), "x".repeat(129)] {
        assert_eq!(world.put(&path(&id, &encoded), "u1", Value::Null).await.status, 404);
    }
}

/// The caller's own list goes into each stream that starts.
pub async fn the_own_list_holds_for_new_streams(store: SharedStore) {
    let world = World::new(store).await;
    let first = world.put("/api/me/blocks/bad", "u1", json!({ "reason": "rude" })).await.expect(200);
    assert_eq!(first, world.put("/api/me/blocks/bad", "u1", Value::Null).await.expect(200));
    let id = world.start("u1").await;

    world.get(&format!("/api/live/{id}/watch"), "bad").await.refused(403, "blocked");
    let list = world.get("/api/me/blocks", "u1").await.expect(200);
    assert_eq!(list["users"][0]["userId"], "bad");
    assert_eq!(world.get("/api/me/blocks", "u2").await.expect(200), json!({ "users": [] }));
    for _ in 0..2 {
        world.delete("/api/me/blocks/bad", "u1").await.expect(204);
    }
    assert_eq!(world.get("/api/me/blocks", "u1").await.expect(200), json!({ "users": [] }));
}

/// A stream is read as a whole at each event: what its owner writes into it has a bound. Blocking itself goes on.
pub async fn the_reasons_of_a_list_are_bounded(store: SharedStore) {
    let world = World::new(store.clone()).await;
    let id = world.start("u1").await;
    let reason = "🦀".repeat(500);
    for n in 0..131 {
        let (user_id, by) = (format!("x{n}").parse().unwrap(), "u1".parse().unwrap());
        let block = Block { user_id, blocked_at: Timestamp::now(), by, reason: Some(reason.clone()) };
        store.block(id.parse().unwrap(), &block).await.unwrap();
        store.owner_block(&block.by, &block).await.unwrap();
    }

    for list in [format!("/api/live/{id}/blocks"), "/api/me/blocks".to_owned()] {
        let block = async |user: &str, body: Value| world.put(&format!("{list}/{user}"), "u1", body).await;
        let refused = block("bad", json!({ "reason": reason })).await;
        refused.refused(409, "conflict");
        assert!(refused.json()["detail"].as_str().unwrap().contains("leave the reason out"), "{refused:?}");
        block("bad", Value::Null).await.expect(200);
        // Who is in it already stays as it is.
        block("x1", json!({ "reason": reason })).await.expect(200);
    }
}

/// Each act is a line of the audit log for ever: six hundred within an hour, but for administrators.
pub async fn the_acts_of_a_user_are_limited(store: SharedStore) {
    let world = World::new(store).await;
    let act = async |user: &str| world.delete("/api/me/blocks/nobody", user).await;
    let mut acts = 0;
    let refused = loop {
        let answer = act("u1").await;
        if answer.status != 204 {
            break answer;
        }
        acts += 1;
        assert!(acts < 2_000, "there is no limit");
    };

    assert!(acts >= 600);
    refused.refused(429, "rate_limited");
    world.get("/api/me/blocks", "u1").await.expect(200);
    let id = world.start("u1").await;
    world.put(&path(&id, "bad"), "u1", Value::Null).await.refused(429, "rate_limited");
    act("u2").await.expect(204);
    act("admin").await.expect(204);
}

async fn report(world: &World, id: &str, user: &str, body: Value) -> Answer {
    world.post(&format!("/api/live/{id}/reports"), user, body).await
}

/// [S] Users report abuse, which administrators review.
pub async fn a_report_is_reviewed(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    let body = json!({ "reason": "animal_abuse", "details": " look ", "userId": "u1" });
    let filed = report(&world, &id, "u2", body).await.expect(202);
    let report_id = filed["reportId"].as_str().unwrap();

    let open = world.get(&format!("/api/admin/reports?status=open&streamId={id}"), "admin").await.expect(200);
    let row = &open["reports"][0];
    assert_eq!((row["reportId"].as_str(), row["reporter"].as_str()), (Some(report_id), Some("u2")));
    assert_eq!((row["reason"].as_str(), row["details"].as_str()), (Some("animal_abuse"), Some("look")));
    let review = json!({ "status": "resolved", "note": "warned" });
    let reviewed = world.patch(&format!("/api/admin/reports/{report_id}"), "admin", review.clone()).await.expect(200);
    assert_eq!((reviewed["status"].as_str(), reviewed["resolvedBy"].as_str()), (Some("resolved"), Some("admin")));
    let open = world.get("/api/admin/reports?status=open", "admin").await.expect(200);
    assert_eq!(open["reports"], json!([]));
    world.patch(&format!("/api/admin/reports/{report_id}"), "u2", review.clone()).await.refused(403, "forbidden");
    world.patch("/api/admin/reports/nothing", "admin", review).await.refused(404, "not_found");
    world.get("/api/admin/reports?status=lost", "admin").await.refused(400, "invalid_parameter");
}

/// One open report of a reporter for one target.
pub async fn the_same_report_again_is_the_first_one(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    let first = report(&world, &id, "u2", json!({ "reason": "spam" })).await.expect(202);
    assert_eq!(report(&world, &id, "u2", json!({ "reason": "other" })).await.expect(200), first);
    let other = report(&world, &id, "u2", json!({ "reason": "spam", "userId": "u3" })).await.expect(202);
    assert_ne!(other, first);
}

/// Reports are checked, and are of streams that the reporter may see.
pub async fn reports_are_checked(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;

    report(&world, &id, "u2", json!({ "reason": "dislike" })).await.refused(400, "malformed_body");
    report(&world, &id, "u2", json!({})).await.refused(400, "malformed_body");
    let long = json!({ "reason": "spam", "details": "x".repeat(1001), "messageId": "!", "userId": "" });
    let mut fields = report(&world, &id, "u2", long).await.wrong_fields();
    fields.sort();
    assert_eq!(fields, ["details", "messageId", "userId"]);
    for reason in ["spam", "nudity", "violence", "harassment", "self_harm", "animal_abuse", "other"] {
        let body = json!({ "reason": reason, "details": "x".repeat(1000), "userId": reason });
        report(&world, &id, "u3", body).await.expect(202);
    }
    let private = world.schedule("u1", "private").await;
    report(&world, &private, "u2", json!({ "reason": "spam" })).await.refused(404, "stream_not_found");
    report(&world, "000000000000000000000000", "u2", json!({ "reason": "spam" }))
        .await
        .refused(404, "stream_not_found");
}

/// Ten reports of a user within an hour; repeats cost nothing. Each is free again an hour later, and no sooner.
pub async fn reports_of_a_user_are_limited(store: SharedStore) {
    let clock = ManualClock::at(Timestamp::now());
    let world = World::with(store, |settings| settings.clock = Some(clock.clone())).await;
    let id = world.start("u1").await;
    let about = async |n: u32| report(&world, &id, "u2", json!({ "reason": "spam", "userId": format!("x{n}") })).await;
    for n in 0..10 {
        about(n).await.expect(202);
        if n < 5 {
            about(n).await.expect(200);
        }
        clock.advance(60);
    }

    // The first was ten minutes ago, and each other one a minute after the one before.
    for (n, wait) in [(10, 3_000), (11, 60), (12, 60)] {
        let refused = about(n).await;
        refused.refused(429, "rate_limited");
        assert_eq!(refused.retry_after_ms(), wait * 1000);
        clock.advance(wait - 1);
        about(n).await.refused(429, "rate_limited");
        clock.advance(1);
        about(n).await.expect(202);
    }
    report(&world, &id, "u3", json!({ "reason": "spam" })).await.expect(202);
}

/// A report that is open already is answered, however many the reporter has filed: its first answer may have got lost.
pub async fn a_repeated_report_is_answered_beyond_the_limit(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    let about = async |n: u32| report(&world, &id, "u2", json!({ "reason": "spam", "userId": format!("x{n}") })).await;
    let first = about(0).await.expect(202);
    for n in 1..10 {
        about(n).await.expect(202);
    }
    about(10).await.refused(429, "rate_limited");

    assert_eq!(about(0).await.expect(200), first);

    // It is about the same stream, message and user.
    let other = json!({ "reason": "spam", "userId": "x0", "messageId": "m1" });
    report(&world, &id, "u2", other).await.refused(429, "rate_limited");
    let path = format!("/api/admin/reports/{}", first["reportId"].as_str().unwrap());
    world.patch(&path, "admin", json!({ "status": "resolved" })).await.expect(200);
    about(0).await.refused(429, "rate_limited");
}

/// Five reporters flag a stream, and never end it.
pub async fn five_reporters_flag_a_stream(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    let flagged = async || {
        let page = world.get("/api/admin/streams?flagged=true", "admin").await.expect(200);
        page["streams"].as_array().unwrap().len()
    };
    for n in 0..4 {
        report(&world, &id, &format!("r{n}"), json!({ "reason": "spam" })).await.expect(202);
    }
    assert_eq!(flagged().await, 0);

    report(&world, &id, "r4", json!({ "reason": "nudity" })).await.expect(202);

    assert_eq!(flagged().await, 1);
    assert_eq!(world.get(&format!("/api/live/{id}"), "").await.expect(200)["isLive"], true);
}

/// [S] What owners and administrators do is logged: who, what, whom, when, and in which request.
pub async fn every_decision_is_in_the_log(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    let block = world.request("PUT", &path(&id, "bad")).bearer_auth(token("u1"));
    send(block.header("x-request-id", "request-of-block")).await.expect(200);
    world.delete(&path(&id, "bad"), "u1").await.expect(204);
    world.put("/api/admin/users/worse/ban", "admin", json!({ "reason": "spam" })).await.expect(200);
    world.delete("/api/admin/users/worse/ban", "admin").await.expect(204);
    world.post(&format!("/api/live/{id}/end"), "admin", json!({ "reason": "rules" })).await.expect(200);

    let log = world.get("/api/admin/audit", "admin").await.expect(200);

    let entries = log["entries"].as_array().unwrap();
    let seen: Vec<_> =
        entries.iter().map(|entry| (entry["actor"].as_str().unwrap(), entry["action"].as_str().unwrap())).collect();
    let expected = [
        ("admin", "stream.end"),
        ("admin", "user.unban"),
        ("admin", "user.ban"),
        ("u1", "user.unblock"),
        ("u1", "user.block"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(entries[0]["details"]["reason"], "rules");
    let block = &entries[4];
    assert_eq!((block["streamId"].as_str(), block["target"].as_str()), (Some(id.as_str()), Some("bad")));
    assert_eq!(block["requestId"], "request-of-block");
    assert!(block["at"].is_string());
    let of_stream = world.get(&format!("/api/admin/audit?streamId={id}&limit=2"), "admin").await.expect(200);
    assert_eq!(of_stream["entries"].as_array().unwrap().len(), 2);
    assert!(of_stream["nextCursor"].is_string());
}

/// The reason of an end is cleaned like any other text, so that its bound holds for what is kept.
pub async fn the_reason_of_an_end_is_cleaned(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    let reason = format!("{}against\u{7} the rules\n", " ".repeat(20_000));

    world.post(&format!("/api/live/{id}/end"), "admin", json!({ "reason": reason })).await.expect(200);

    let log = world.get("/api/admin/audit", "admin").await.expect(200);
    assert_eq!(log["entries"][0]["details"]["reason"], "against the rules");
}

/// Section 1, rule 2: also in the details of an entry.
pub async fn what_is_absent_is_left_out_of_the_log(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    world.put("/api/admin/users/bad/ban", "admin", json!({ "reason": "spam" })).await.expect(200);
    world.post(&format!("/api/live/{id}/end"), "admin", Value::Null).await.expect(200);

    let log = world.get("/api/admin/audit", "admin").await.expect(200);

    assert_eq!(log["entries"][0]["details"], json!({ "alreadyEnded": false }));
    assert_eq!(log["entries"][1]["details"], json!({ "reason": "spam" }));
}

/// A call that finds everything as it asks for is answered as the first one, and leaves no line.
pub async fn what_changes_nothing_is_not_in_the_log(store: SharedStore) {
    let world = World::new(store).await;
    let id = world.start("u1").await;
    let report = report(&world, &id, "u2", json!({ "reason": "spam" })).await.expect(202);
    let report = format!("/api/admin/reports/{}", report["reportId"].as_str().unwrap());
    let (block, end) = (path(&id, "bad"), format!("/api/live/{id}/end"));
    let ban = json!({ "reason": "spam", "until": "2999-01-01T00:00:00Z" });
    let twice = async |method: &str, path: &str, user: &str, body: Value, status: u16| {
        let first = world.call(method, path, user, body.clone()).await.expect(status);
        assert_eq!(world.call(method, path, user, body).await.expect(status)["at"], first["at"], "{method} {path}");
    };
    for absent in [(block.as_str(), "u1"), ("/api/me/blocks/bad", "u1"), ("/api/admin/users/bad/ban", "admin")] {
        world.delete(absent.0, absent.1).await.expect(204);
    }

    twice("PUT", &block, "u1", json!({ "reason": "rude" }), 200).await;
    twice("DELETE", &block, "u1", Value::Null, 204).await;
    twice("PUT", "/api/me/blocks/bad", "u1", Value::Null, 200).await;
    twice("DELETE", "/api/me/blocks/bad", "u1", Value::Null, 204).await;
    twice("PUT", "/api/admin/users/bad/ban", "admin", ban, 200).await;
    world.put("/api/admin/users/bad/ban", "admin", json!({ "reason": "more spam" })).await.expect(200);
    twice("DELETE", "/api/admin/users/bad/ban", "admin", Value::Null, 204).await;
    for review in [json!({ "status": "open" }), json!({ "status": "resolved", "note": "done" })] {
        twice("PATCH", &report, "admin", review, 200).await;
    }
    twice("PATCH", &report, "admin2", json!({ "status": "resolved" }), 200).await;
    twice("POST", &end, "admin", Value::Null, 200).await;

    let log = world.get("/api/admin/audit", "admin").await.expect(200);
    let seen: Vec<_> = log["entries"].as_array().unwrap().iter().rev().map(|entry| &entry["action"]).collect();
    let expected = [
        "user.block",
        "user.unblock",
        "owner.block",
        "owner.unblock",
        "user.ban",
        "user.ban",
        "user.unban",
        "report.review",
        "stream.end",
    ];
    assert_eq!(seen, expected);
}

/// On a full disk streams are ended and users put out all the same; the log has each decision once.
pub async fn what_is_decided_holds_where_the_store_takes_nothing_and_is_stored_later(store: SharedStore) {
    let switched = Switched::new(store, false);
    let world = World::new(switched.clone()).await;
    let answer = world.post("/api/live/start", "u1", json!({})).await.expect(201);
    let (id, room) = (answer["streamId"].as_str().unwrap(), answer["roomName"].as_str().unwrap());
    let banned_room =
        world.post("/api/live/start", "spammer", json!({})).await.expect(201)["roomName"].as_str().unwrap().to_owned();
    for identity in ["bad:aaaaaaaa", "bad2:aaaaaaaa", "spammer:bbbbbbbb", "good:aaaaaaaa"] {
        world.rooms.enter(room, session(identity));
    }
    let watch = format!("/api/live/{id}/watch");
    let twice = async |method: &str, path: &str, user: &str, body: Value, says: &str| {
        for _ in 0..2 {
            let refused = world.call(method, path, user, body.clone()).await;
            refused.refused(503, "store_unavailable");
            assert!(refused.json()["detail"].as_str().unwrap().contains(says), "{refused:?}");
            assert!(refused.header("retry-after").is_some());
        }
    };
    switched.set_full(true);

    twice("PUT", &path(id, "bad"), "u1", json!({ "reason": "rude" }), "put out and kept out").await;
    twice("PUT", &path(id, "bad2"), "admin", Value::Null, "put out and kept out").await;
    twice("PUT", "/api/admin/users/spammer/ban", "admin", json!({ "reason": "spam" }), "is banned").await;
    twice("PUT", "/api/admin/users/bad/ban", "admin", json!({ "reason": "spam" }), "is banned").await;

    eventually("their sessions are removed", || async {
        let removed = world.rooms.removed();
        let is_removed = |user: &str| removed.iter().any(|(_, identity)| identity.starts_with(user));
        is_removed("bad:") && is_removed("bad2:") && is_removed("spammer:")
    })
    .await;
    assert!(!world.rooms.removed().iter().any(|(_, identity)| identity.starts_with("good:")));
    eventually("the stream of the banned one is over", || async { !world.rooms.has(&banned_room) }).await;
    world.get(&watch, "bad2").await.refused(403, "blocked");
    world.get(&watch, "spammer").await.refused(403, "banned");
    world.delete(&path(id, "bad2"), "u1").await.refused(503, "store_unavailable");
    world.get(&watch, "bad2").await.refused(403, "blocked");
    twice("POST", &format!("/api/live/{id}/end"), "admin", Value::Null, "ended on this server").await;
    world.get(&watch, "good").await.refused(410, "stream_ended");

    switched.set_full(false);
    // What is taken back before it is stored is as if it had been.
    world.delete(&path(id, "bad2"), "u1").await.expect(204);
    world.delete("/api/admin/users/bad/ban", "admin").await.expect(204);
    let ended = world.post(&format!("/api/live/{id}/end"), "admin", Value::Null).await.expect(200);
    assert_eq!(
        (&ended["alreadyEnded"], &ended["stream"]["endReason"]),
        (&json!(true), &json!("ended_by_admin")),
        "{ended}"
    );
    let blocks = world.get(&format!("/api/live/{id}/blocks"), "u1").await.expect(200);
    let blocked: Vec<_> = blocks["users"].as_array().unwrap().iter().map(|user| &user["userId"]).collect();
    assert_eq!(blocked, ["bad"]);
    let store = world.lifecycle.store();
    assert!(store.ban(&"spammer".parse().unwrap()).await.unwrap().is_some());
    assert_eq!(store.ban(&"bad".parse().unwrap()).await.unwrap(), None);
    world.post("/api/live/start", "bad", json!({})).await.expect(201);
    let log = world.get("/api/admin/audit", "admin").await.expect(200);
    let mut seen: Vec<_> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap(), entry["target"].as_str().unwrap_or_default()))
        .collect();
    seen.sort_unstable();
    let expected = [
        ("stream.end", ""),
        ("user.ban", "bad"),
        ("user.ban", "spammer"),
        ("user.block", "bad"),
        ("user.block", "bad2"),
        ("user.unban", "bad"),
        ("user.unblock", "bad2"),
    ];
    assert_eq!(seen, expected);
}

/// Administrators list streams in any state.
pub async fn administrators_list_streams_in_any_state(store: SharedStore) {
    let world = World::new(store).await;
    let live = world.start("u1").await;
    let scheduled = world.schedule("u2", "private").await;
    let list = async |query: &str| world.get(&format!("/api/admin/streams?{query}"), "admin").await.expect(200);

    let all = list("").await;
    assert_eq!(all["streams"].as_array().unwrap().len(), 2);
    assert_eq!(super::streams::ids(&list("state=scheduled").await), [scheduled.as_str()]);
    assert_eq!(super::streams::ids(&list("state=live&state=starting").await), [live.as_str()]);
    assert_eq!(super::streams::ids(&list("ownerId=u2").await), [scheduled.as_str()]);
    world.get("/api/admin/streams?state=x", "admin").await.refused(400, "invalid_parameter");
    world.get("/api/admin/streams?flagged=x", "admin").await.refused(400, "invalid_parameter");
}
