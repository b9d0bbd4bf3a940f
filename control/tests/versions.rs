//! SDKs of years past, and those of today beside them, against the built binary. Apps in the field carry them.
//!
//! Not part of `cargo test`, as it brings some hundred megabytes of old packages: `make test-clients` runs it. What
//! each does is in the table of `docs/clients.md`.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/late.rs"]
mod late;
#[path = "support/ports.rs"]
mod ports;
#[expect(dead_code, reason = "scripts for the newest SDKs are run elsewhere")]
#[path = "support/script.rs"]
mod script;
#[path = "support/server.rs"]
mod server;
#[expect(dead_code, reason = "nothing is skipped here, and nothing is late")]
#[path = "support/stack.rs"]
mod stack;
#[path = "support/table.rs"]
mod table;

use script::Script;
use stack::{Client, Mode, Program, stands};

/// A client from before there was one peer connection for all.
fn old(name: &'static str, program: Program) -> Client {
    Client { name, stack: "libwebrtc", modes: &[Mode::V0], program, views_without_resume: &[], without_topics: false }
}

mod livekit_client {
    use super::*;

    #[test]
    fn version_1_0_publishes_and_views() {
        let program = Program::Node(&["stack_browser.mjs", "--sdk", "./versions/node_modules/livekit-client-1.0"]);
        stands(&Client { without_topics: true, ..old("livekit-client 1.0", program) });
    }

    #[test]
    fn version_1_15_publishes_and_views() {
        let program = Program::Node(&["stack_browser.mjs", "--sdk", "./versions/node_modules/livekit-client-1.15"]);
        stands(&old("livekit-client 1.15", program));
    }

    #[test]
    fn version_2_0_publishes_and_views() {
        let program = Program::Node(&["stack_browser.mjs", "--sdk", "./versions/node_modules/livekit-client-2.0"]);
        stands(&old("livekit-client 2.0", program));
    }

    #[test]
    fn version_2_9_publishes_and_views() {
        let program = Program::Node(&["stack_browser.mjs", "--sdk", "./versions/node_modules/livekit-client-2.9"]);
        stands(&old("livekit-client 2.9", program));
    }

    #[test]
    fn all_versions_see_each_other_in_one_room() {
        Script::node("versions/mixed.mjs", &[]).passes();
    }
}

mod python_sdk {
    use super::*;

    /// Up to 0.12 it does not come back from a lost signal connection as a publisher, on LiveKit's server either.
    const WITHOUT_RESUME: &[&str] = &["stack_python.py", "--no-resume"];

    #[test]
    fn version_0_11_publishes_and_views() {
        stands(&old("Python SDK 0.11", Program::Python("versions/.venv-0.11", WITHOUT_RESUME)));
    }

    #[test]
    fn version_0_12_publishes_and_views() {
        stands(&old("Python SDK 0.12", Program::Python("versions/.venv-0.12", WITHOUT_RESUME)));
    }

    #[test]
    fn version_1_0_publishes_and_views() {
        stands(&old("Python SDK 1.0", Program::Python("versions/.venv-1.0", &["stack_python.py"])));
    }
}

mod server_sdks {
    use super::*;

    #[test]
    fn node_1_0_drives_the_room_service() {
        Script::node("versions/server_sdk.mjs", &[]).passes();
    }

    #[test]
    fn python_0_2_drives_the_room_service() {
        Script::python_of("versions/.venv-0.11", "versions/server_sdk.py", &[]).passes();
    }
}
