//! Unmodified LiveKit clients against the built binary.
//!
//! Each test runs one script of `tests/clients` against a server of its own. The scripts hold the judgement; `make
//! setup` brings what they need. `ONAIR_TEST_BINARY=livekit-server cargo test -p onair --test clients` runs them
//! against LiveKit's server, on which all pass but those that end the server in order, as it waits for its participants
//! instead, and those in which a track is published again at once: it waits for the one that was given up.
//!
//! Names end in the connection model: `v1` is one peer connection and `/rtc/v1`, `v0` is two and `/rtc`.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/ports.rs"]
mod ports;
#[path = "support/script.rs"]
mod script;
#[path = "support/server.rs"]
mod server;

use script::Script;

mod python_sdk {
    use super::*;

    #[test]
    fn numbered_720p_frames_and_a_tone_arrive_v1() {
        Script::python("watch_720p.py", &["v1"]).passes();
    }

    #[test]
    fn numbered_720p_frames_and_a_tone_arrive_v0() {
        Script::python("watch_720p.py", &["v0"]).passes();
    }

    #[test]
    fn mute_subscription_metadata_and_leave_are_seen_v1() {
        Script::python("controls.py", &["v1"]).passes();
    }

    #[test]
    fn mute_subscription_metadata_and_leave_are_seen_v0() {
        Script::python("controls.py", &["v0"]).passes();
    }

    #[test]
    fn data_rpc_and_streams_arrive_v1() {
        Script::python("messages.py", &["v1"]).passes();
    }

    #[test]
    fn data_rpc_and_streams_arrive_v0() {
        Script::python("messages.py", &["v0"]).passes();
    }

    #[test]
    fn a_cut_signal_socket_is_resumed_v1() {
        Script::python("resume.py", &["v1"]).passes();
    }

    #[test]
    fn a_cut_signal_socket_is_resumed_v0() {
        Script::python("resume.py", &["v0"]).passes();
    }

    #[test]
    fn tracks_that_follow_each_other_at_once_all_arrive_v1() {
        Script::python("swap.py", &["v1", "other"]).passes();
    }

    #[test]
    fn tracks_that_follow_each_other_at_once_all_arrive_v0() {
        Script::python("swap.py", &["v0", "other"]).passes();
    }

    #[test]
    fn a_track_published_again_at_once_arrives_v1() {
        Script::python("swap.py", &["v1", "same"]).passes();
    }

    #[test]
    fn a_track_published_again_at_once_arrives_v0() {
        Script::python("swap.py", &["v0", "same"]).passes();
    }

    #[test]
    fn clients_come_back_after_the_server_was_killed_v1() {
        Script::python("restart.py", &["v1", "kill"]).passes();
    }

    #[test]
    fn clients_come_back_after_the_server_was_killed_v0() {
        Script::python("restart.py", &["v0", "kill"]).passes();
    }

    #[test]
    fn clients_come_back_after_the_server_was_restarted_in_order_v1() {
        Script::python("restart.py", &["v1", "terminate"]).passes();
    }

    #[test]
    fn clients_come_back_after_the_server_was_restarted_in_order_v0() {
        Script::python("restart.py", &["v0", "terminate"]).passes();
    }
}

mod server_sdks {
    use super::*;

    #[test]
    fn python_drives_the_room_service() {
        Script::python("room_service.py", &[]).passes();
    }

    #[test]
    fn node_drives_the_room_service() {
        Script::node("room_service.mjs", &[]).passes();
    }
}

mod chromium {
    use super::*;

    #[test]
    fn every_codec_is_played_v1() {
        Script::node("browser.mjs", &["codecs", "v1"]).passes();
    }

    #[test]
    fn every_codec_is_played_v0() {
        Script::node("browser.mjs", &["codecs", "v0"]).passes();
    }

    #[test]
    fn simulcast_mute_resume_and_leave_work_v1() {
        Script::node("browser.mjs", &["session", "v1"]).passes();
    }

    #[test]
    fn simulcast_mute_resume_and_leave_work_v0() {
        Script::node("browser.mjs", &["session", "v0"]).passes();
    }

    #[test]
    fn a_late_viewer_is_shown_the_present_v1() {
        Script::node("browser.mjs", &["late", "v1"]).passes();
    }

    #[test]
    fn pages_come_back_after_the_server_was_killed() {
        Script::node("browser.mjs", &["restart", "v1", "kill"]).passes();
    }

    #[test]
    fn pages_come_back_after_the_server_was_restarted_in_order() {
        Script::node("browser.mjs", &["restart", "v1", "terminate"]).passes();
    }
}
