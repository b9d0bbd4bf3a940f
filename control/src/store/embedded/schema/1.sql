-- Times are milliseconds since 1970. Columns of JSON hold what is read and written as a whole.

CREATE TABLE streams (
    id             TEXT PRIMARY KEY NOT NULL,
    owner_id       TEXT NOT NULL,
    owner_profile  TEXT NOT NULL, -- JSON
    room_name      TEXT NOT NULL,
    room_sid       TEXT,
    title          TEXT,
    cover_url      TEXT,
    tags           TEXT NOT NULL, -- JSON
    state          TEXT NOT NULL,
    is_live        INTEGER NOT NULL GENERATED ALWAYS AS (state IN ('starting', 'live', 'reconnecting')) STORED,
    visibility     TEXT NOT NULL,
    end_reason     TEXT,
    scheduled_for  INTEGER,
    started_at     INTEGER,
    ended_at       INTEGER,
    state_since    INTEGER NOT NULL,
    viewers        INTEGER NOT NULL,
    peak_viewers   INTEGER NOT NULL,
    unique_viewers INTEGER NOT NULL,
    flagged        INTEGER NOT NULL,
    blocks         TEXT NOT NULL, -- JSON
    mutes          TEXT NOT NULL, -- JSON
    chat_settings  TEXT NOT NULL, -- JSON
    pinned         TEXT,          -- JSON
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    rev            INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX streams_live_owner ON streams (owner_id) WHERE is_live = 1;
CREATE UNIQUE INDEX streams_room ON streams (room_name) WHERE room_name <> '';
CREATE INDEX streams_live_started ON streams (is_live, started_at DESC, id DESC);
CREATE INDEX streams_started ON streams (started_at DESC, id DESC) WHERE started_at IS NOT NULL;
CREATE INDEX streams_created ON streams (created_at DESC, id DESC);
CREATE INDEX streams_owner_created ON streams (owner_id, created_at DESC, id DESC);
CREATE INDEX streams_owner_ended ON streams (owner_id, ended_at) WHERE state = 'ended';
CREATE INDEX streams_owner_scheduled ON streams (owner_id) WHERE state = 'scheduled';
CREATE INDEX streams_scheduled ON streams (state, scheduled_for, id);
CREATE INDEX streams_updated ON streams (updated_at, id);

CREATE TABLE presence (
    stream_id TEXT NOT NULL,
    sid       TEXT NOT NULL,
    identity  TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    counts    INTEGER NOT NULL,
    joined_at INTEGER NOT NULL,
    left_at   INTEGER,
    PRIMARY KEY (stream_id, sid)
) STRICT, WITHOUT ROWID;
CREATE INDEX presence_user ON presence (stream_id, user_id, counts, left_at);
CREATE INDEX presence_joined ON presence (stream_id, joined_at, sid);
CREATE INDEX presence_open ON presence (stream_id, joined_at, sid) WHERE left_at IS NULL;

-- Sums over presence, kept with every change of it.
CREATE TABLE presence_totals (
    stream_id  TEXT PRIMARY KEY NOT NULL,
    users      INTEGER NOT NULL, -- that ever had a session that counts
    open_users INTEGER NOT NULL  -- that have one open
) STRICT, WITHOUT ROWID;

CREATE TABLE chat_messages (
    stream_id TEXT NOT NULL,
    id        TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    text      TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    name      TEXT NOT NULL,
    role      TEXT NOT NULL,
    sent_at   INTEGER NOT NULL,
    client_id TEXT,
    reply_to  TEXT,
    hidden_by TEXT
) STRICT;
CREATE UNIQUE INDEX chat_messages_id ON chat_messages (stream_id, id);
CREATE UNIQUE INDEX chat_messages_seq ON chat_messages (stream_id, seq);
CREATE INDEX chat_messages_user ON chat_messages (stream_id, user_id);

CREATE TABLE chat_totals (
    stream_id TEXT PRIMARY KEY NOT NULL,
    last_seq  INTEGER NOT NULL DEFAULT 0,
    messages  INTEGER NOT NULL DEFAULT 0,
    chatters  INTEGER NOT NULL DEFAULT 0,
    reactions TEXT NOT NULL DEFAULT '{}' -- JSON
) STRICT;
CREATE TABLE chatters (
    stream_id TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    PRIMARY KEY (stream_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE owner_blocks (
    owner_id   TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    blocked_at INTEGER NOT NULL,
    by         TEXT NOT NULL,
    reason     TEXT,
    PRIMARY KEY (owner_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE bans (
    user_id    TEXT PRIMARY KEY NOT NULL,
    reason     TEXT NOT NULL,
    until      INTEGER,
    by         TEXT NOT NULL,
    at         INTEGER NOT NULL,
    lifted_at  INTEGER,
    changed_at INTEGER NOT NULL GENERATED ALWAYS AS (max(at, coalesce(lifted_at, at))) STORED
) STRICT;
CREATE INDEX bans_changed ON bans (changed_at, user_id);

CREATE TABLE reports (
    id          TEXT PRIMARY KEY NOT NULL,
    stream_id   TEXT NOT NULL,
    reporter    TEXT NOT NULL,
    reason      TEXT NOT NULL,
    details     TEXT,
    message_id  TEXT,
    user_id     TEXT,
    status      TEXT NOT NULL,
    note        TEXT,
    resolved_by TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX reports_open ON reports (stream_id, reporter, coalesce(message_id, ''), coalesce(user_id, ''))
    WHERE status = 'open';
CREATE INDEX reports_stream ON reports (stream_id, created_at DESC, id DESC);
CREATE INDEX reports_reporter ON reports (stream_id, reporter);
CREATE INDEX reports_status ON reports (status, created_at DESC, id DESC);
CREATE INDEX reports_created ON reports (created_at DESC, id DESC);

CREATE TABLE audit (
    id         TEXT PRIMARY KEY NOT NULL,
    at         INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    action     TEXT NOT NULL,
    stream_id  TEXT,
    target     TEXT,
    details    TEXT NOT NULL, -- JSON
    request_id TEXT
) STRICT;
CREATE INDEX audit_at ON audit (at DESC, id DESC);
CREATE INDEX audit_stream ON audit (stream_id, at DESC, id DESC) WHERE stream_id IS NOT NULL;

CREATE TABLE idempotency (
    user_id    TEXT NOT NULL,
    operation  TEXT NOT NULL,
    key        TEXT NOT NULL,
    body       TEXT NOT NULL,
    answer     TEXT, -- JSON; absent while the request is under way
    claimed_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, operation, key)
) STRICT;
CREATE INDEX idempotency_claimed ON idempotency (claimed_at);

CREATE TABLE limits (
    key        TEXT NOT NULL,
    taken_at   INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX limits_key ON limits (key, taken_at);
CREATE INDEX limits_expires ON limits (expires_at);

CREATE TABLE webhook_events (
    id TEXT PRIMARY KEY NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX webhook_events_at ON webhook_events (at);

CREATE TABLE relayed (
    id        TEXT PRIMARY KEY NOT NULL,
    node      TEXT NOT NULL,
    stream_id TEXT NOT NULL,
    at        INTEGER NOT NULL,
    note      TEXT NOT NULL -- JSON
) STRICT;
CREATE INDEX relayed_at ON relayed (at, id);

CREATE TABLE nodes (
    node TEXT PRIMARY KEY NOT NULL,
    at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
