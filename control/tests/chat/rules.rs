//! One test a rule and store; the judgement is in `tests/clients/chat.mjs`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use control::chat::{Limits, Rate};
use control::clock::Timestamp;
use control::config::product::GuestAccess;
use control::http::origins::Origins;
use control::store::SharedStore;
use control::store::chat::Mute;

use crate::raw::Raw;
use crate::server::{Options, Server, obey};

/// Runs a case of the script against a server of its own.
async fn judge(case: &str, options: Options) {
    let server = Server::start(options).await;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    assert!(directory.join("node_modules/socket.io-client").is_dir(), "no npm packages yet: run `make setup`");
    let mut command = Command::new("node");
    command.arg("chat.mjs").arg(case).current_dir(directory).env("CHAT_URL", format!("http://{}", server.address));
    // The script ends by itself, at the latest after a minute.
    let run = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    let output = run.await.expect("it does not panic").expect("node starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stdout));
}

/// Users write as fast as they like.
fn unlimited() -> Limits {
    let rate = Rate::per_second(100_000, 100_000);
    let waiting_per_socket = 1000;
    Limits { message: rate, room: rate, waiting_per_socket, ..Limits::default() }
}

/// Makes a test of each rule, in the store of that name.
macro_rules! rules {
    ($store:ident: $($(#[$doc:meta])* $name:ident $(with $options:expr)?;)*) => {
        mod $store {
            use super::*;

            $(
                $(#[$doc])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    #[allow(unused_mut, unused_assignments)]
                    let mut options = Options::default();
                    $(options = $options;)?
                    options.store = Some(crate::stores::$store().await);
                    judge(stringify!($name), options).await;
                }
            )*
        }
    };
}

macro_rules! every_rule {
    ($store:ident) => {
        rules! { $store:
            /// [S] chat:message {text} is broadcast in the namespace.
            messages_reach_everybody_and_the_sender;
            roles_are_shown;
            /// [S] websocket; polling and the upgrade are ours.
            both_transports_and_the_upgrade_work;
            one_connection_carries_several_rooms;
            refusals_have_bare_codes;
            a_refused_client_does_not_try_again;
            guests_may_be_kept_out with Options { guest: GuestAccess::Off, ..Options::default() };
            guests_may_read_only;
            /// [S] the sample of the description, as it stands.
            guests_may_write_in_development with Options { guest: GuestAccess::Write, ..Options::default() };
            the_switched_off_feature_lets_nobody_in with Options { enabled: false, ..Options::default() };
            a_user_has_five_sockets_in_a_room;
            a_connection_has_twenty_namespaces;
            an_expired_token_reads_on_but_does_not_write;
            refusals_without_a_callback_come_as_an_event;
            messages_are_limited_over_all_sockets_of_a_user;
            the_same_text_is_not_sent_twice;
            slow_mode_spares_owner_and_administrators;
            settings_hold_for_messages;
            a_muted_user_is_told_and_may_read;
            muting_can_clear_what_was_said;
            a_deleted_message_is_hidden;
            one_message_is_pinned;
            /// [S] reaction '❤️' is broadcast in the namespace.
            reactions_are_relayed_and_summed_up;
            many_reactions_are_sampled_and_dropped_beyond_the_limit;
            what_may_be_sent_at_once_is_taken_whole;
            what_is_too_large_is_answered;
            viewers_are_told;
            changes_of_the_stream_are_told;
            a_blocked_user_is_told_and_disconnected;
            a_banned_user_is_disconnected_everywhere;
            the_end_is_told_and_disconnects;
            history_is_given_to_newcomers_and_what_they_lack_to_others with
                Options { limits: unlimited(), ..Options::default() };
            two_thousand_messages_of_one_sender_keep_their_order with Options { limits: unlimited(), ..Options::default() };
            fifty_refused_events_close_the_socket;
            oversized_packets_and_attachments_end_the_connection;
            pages_of_other_origins_are_kept_out with
                Options { origins: Origins::new(&["https://app.example".into()], false).unwrap(), ..Options::default() };
            a_client_comes_back_by_itself_and_lacks_nothing;
            history_is_read_page_by_page with Options { limits: unlimited(), ..Options::default() };
            history_is_as_open_as_the_socket with Options { guest: GuestAccess::Off, ..Options::default() };
            moderation_is_for_the_owner_and_administrators;
            moderation_checks_its_fields;
            chat_goes_on_while_the_store_is_away with Options { limits: unlimited(), ..Options::default() };
        }
    };
}

every_rule!(embedded);
every_rule!(mongodb);

/// By itself, or with all of its author's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_hidden_stays_above_no_chat() {
    for order in ["delete", "mute"] {
        let server = Server::start(Options::default()).await;
        let stream = server.world.go_live("owner").await;
        let namespace = format!("/live:{}", stream.room_name);
        let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
        ana.emit(&namespace, "chat:message", &serde_json::json!({ "text": "rude" })).await;
        let message = ana.event("chat:message").await.unwrap()["id"].clone();
        let body = serde_json::json!({
            "streamId": stream.id, "messageId": message, "userId": "ana", "seconds": 60, "deleteMessages": true,
        });
        obey(&server.world, "pin", &body).await.unwrap();
        assert_eq!(ana.event("chat:pinned").await.unwrap()["id"], message);

        obey(&server.world, order, &body).await.unwrap();
        assert_eq!(ana.event("chat:pinned").await, Ok(serde_json::Value::Null), "{order}");
        assert_eq!(server.world.store.stream(stream.id).await.unwrap().unwrap().pinned, None, "{order}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moderation_is_in_the_audit_log() {
    is_in_the_audit_log(crate::stores::embedded().await).await;
    is_in_the_audit_log(crate::stores::mongodb().await).await;
}

/// A stream is read and written as a whole: what its owner writes into it has a bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_users_are_muted_at_a_time() {
    let store = crate::stores::embedded().await;
    let server = Server::start(Options { store: Some(store.clone()), ..Options::default() }).await;
    let stream = server.world.go_live("owner").await;
    let now = Timestamp::now();
    for n in 0..999 {
        let mute = Mute { user_id: format!("x{n}").parse().unwrap(), until: now.plus(Duration::from_secs(3600)) };
        store.mute(stream.id, &mute, now).await.unwrap();
    }
    let order = async |order: &str, user: &str| {
        let body = serde_json::json!({ "streamId": stream.id, "userId": user, "seconds": 60 });
        obey(&server.world, order, &body).await
    };

    order("mute", "ana").await.unwrap();
    let refused = order("mute", "bo").await.unwrap_err();
    assert!(format!("{refused:?}").contains("Conflict"), "{refused:?}");
    order("mute", "ana").await.unwrap();
    order("unmute", "x1").await.unwrap();
    order("mute", "bo").await.unwrap();
}

async fn is_in_the_audit_log(store: SharedStore) {
    let server = Server::start(Options { store: Some(store), ..Options::default() }).await;
    let stream = server.world.go_live("owner").await;
    let call = async |order: &str, mut body: serde_json::Value| {
        body["streamId"] = serde_json::json!(stream.id);
        obey(&server.world, order, &body).await.unwrap();
    };
    call("settings", serde_json::json!({ "emojiOnly": true })).await;
    call("settings", serde_json::json!({ "emojiOnly": true })).await;
    call("mute", serde_json::json!({ "userId": "ana", "seconds": 60 })).await;
    call("unmute", serde_json::json!({ "userId": "ana" })).await;
    let namespace = format!("/live:{}", stream.room_name);
    let mut ana = Raw::join(server.address, &namespace, "ana").await.unwrap();
    ana.emit(&namespace, "chat:message", &serde_json::json!({ "text": "🔥" })).await;
    let message = ana.event("chat:message").await.unwrap()["id"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        call("pin", serde_json::json!({ "messageId": message })).await;
    }
    for _ in 0..2 {
        call("unpin", serde_json::json!({})).await;
    }
    for _ in 0..2 {
        call("delete", serde_json::json!({ "messageId": message })).await;
    }

    let entries = server.world.store.audit(Some(stream.id), None, 10).await.unwrap();
    let mut lines: Vec<_> = entries.iter().map(|entry| (entry.action.as_str(), entry.target.as_deref())).collect();
    lines.sort_unstable();
    let id = Some(message.as_str());
    let expected = [
        ("chat.delete", id),
        ("chat.mute", Some("ana")),
        ("chat.pin", Some("ana")),
        ("chat.settings", None),
        ("chat.unmute", Some("ana")),
        ("chat.unpin", None),
    ];
    assert_eq!(lines, expected, "what changed nothing is not noted");
    assert!(entries.iter().all(|entry| entry.actor.as_str() == "owner"));
    assert!(entries.iter().all(|entry| entry.request_id.as_deref() == Some("request-1")));
}
