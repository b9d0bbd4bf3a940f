//! The collections (stream API, section 13).

/// Of the names of all collections but [`STREAMS`]: the database may be the application's own.
pub const PREFIX: &str = "onair_";

/// Shared with an application that keeps its streams there (docs/from-express.md).
pub const STREAMS: &str = "livestreams";
pub const PRESENCE: &str = "onair_presence";
pub const WEBHOOKS: &str = "onair_webhook_events";
pub const MESSAGES: &str = "onair_chat_messages";
pub const TOTALS: &str = "onair_chat_totals";
/// Who wrote in a chat and whose messages are removed.
pub const CHATTERS: &str = "onair_chatters";
pub const RELAY: &str = "onair_relay";
pub const NODES: &str = "onair_nodes";
pub const REPORTS: &str = "onair_reports";
pub const BANS: &str = "onair_bans";
pub const OWNER_BLOCKS: &str = "onair_owner_blocks";
pub const AUDIT: &str = "onair_audit";
pub const IDEMPOTENCY: &str = "onair_idempotency";
pub const LIMITS: &str = "onair_limits";
/// Which collections are Onair's.
pub const META: &str = "onair_meta";

/// Those that nobody else uses, [`META`] excepted.
pub const OWN: [&str; 13] = [
    PRESENCE,
    WEBHOOKS,
    MESSAGES,
    TOTALS,
    CHATTERS,
    RELAY,
    NODES,
    REPORTS,
    BANS,
    OWNER_BLOCKS,
    AUDIT,
    IDEMPOTENCY,
    LIMITS,
];
