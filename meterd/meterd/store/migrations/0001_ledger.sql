-- The ledger and what rests on it. Times are milliseconds since 1970 (UTC), tokens whole
-- numbers, unit prices integers × 10⁻ⁿ. Every table but the ledger leads with the client or
-- the producer, or is small.

CREATE TABLE ledger_identity (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    ledger_id BLOB NOT NULL,
    made_at_ms INTEGER NOT NULL
) STRICT;

-- Names are here alone: `forget` replaces one and leaves every sum.
CREATE TABLE clients (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- A client's project, the empty one included: whom a record is billed to.
CREATE TABLE tags (
    id INTEGER PRIMARY KEY,
    client INTEGER NOT NULL,
    project TEXT NOT NULL,
    UNIQUE (client, project)
) STRICT;

CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (provider, name)
) STRICT;

-- What calls of one sort have in common beside who pays.
CREATE TABLE kinds (
    id INTEGER PRIMARY KEY,
    model INTEGER NOT NULL,
    counts_as INTEGER NOT NULL,  -- store.interning: 0 request, 1 refused, 2 neither, 3 by tokens
    estimated INTEGER NOT NULL,  -- bits: 1 the input, 2 the output was estimated
    fields TEXT NOT NULL UNIQUE  -- JSON array, in the order of store.batch.Kind
) STRICT;

CREATE TABLE producers (
    producer BLOB PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,  -- what `runs` know it by
    service TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    schema INTEGER NOT NULL,
    watermark INTEGER NOT NULL,
    highest_appended INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    skew_ms INTEGER NOT NULL,
    open_calls INTEGER NOT NULL,
    oldest_open_at_ms INTEGER NOT NULL,
    ends_at INTEGER,                 -- its last sequence, once it is known
    report BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Rows in order of arrival. No index: one costs five times of the write speed. Who wrote a
-- row and under which number is said by its run.
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    tag INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    billed_at_ms INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    input_bytes INTEGER NOT NULL,
    rate INTEGER,                    -- NULL: unpriced
    rest BLOB                        -- store.ledger_row; NULL when empty
) STRICT;

-- Up to 4,096 consecutive rows of one producer with consecutive sequences; also the sparse
-- index of their times.
CREATE TABLE runs (
    first_row INTEGER PRIMARY KEY,
    end_row INTEGER NOT NULL,
    producer INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    least_ms INTEGER NOT NULL,
    greatest_ms INTEGER NOT NULL,
    received_at_ms INTEGER NOT NULL,
    skew_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE rollup_day (
    client INTEGER NOT NULL,
    day INTEGER NOT NULL,            -- local day, as days since 1970-01-01
    tag INTEGER NOT NULL,
    model INTEGER NOT NULL,
    rate INTEGER NOT NULL,           -- 0: unpriced
    posted_in INTEGER NOT NULL,      -- the period that bills it
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    failed_requests INTEGER NOT NULL DEFAULT 0,
    refused_requests INTEGER NOT NULL DEFAULT 0,
    cache_write_tokens INTEGER NOT NULL DEFAULT 0,
    cache_write_long_tokens INTEGER NOT NULL DEFAULT 0,
    audio_input_tokens INTEGER NOT NULL DEFAULT 0,
    audio_output_tokens INTEGER NOT NULL DEFAULT 0,
    estimated_tokens INTEGER NOT NULL DEFAULT 0,
    tool_calls TEXT,                 -- JSON object; NULL: none
    PRIMARY KEY (client, day, tag, model, rate, posted_in)
) STRICT, WITHOUT ROWID;

CREATE TABLE rollup_month (
    client INTEGER NOT NULL,
    period INTEGER NOT NULL,         -- 12 × year + month − 1 of the month it begins in
    rate INTEGER NOT NULL,
    posted_in INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    failed_requests INTEGER NOT NULL DEFAULT 0,
    refused_requests INTEGER NOT NULL DEFAULT 0,
    cache_write_tokens INTEGER NOT NULL DEFAULT 0,
    cache_write_long_tokens INTEGER NOT NULL DEFAULT 0,
    audio_input_tokens INTEGER NOT NULL DEFAULT 0,
    audio_output_tokens INTEGER NOT NULL DEFAULT 0,
    estimated_tokens INTEGER NOT NULL DEFAULT 0,
    tool_calls TEXT,
    PRIMARY KEY (client, period, rate, posted_in)
) STRICT, WITHOUT ROWID;

-- Bounds as they were when the period was opened: no update of tzdata moves them.
CREATE TABLE periods (
    client INTEGER NOT NULL,
    period INTEGER NOT NULL,
    start_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL,
    closed_at_ms INTEGER,
    PRIMARY KEY (client, period)
) STRICT, WITHOUT ROWID;

-- Unlisted ids that are rolled up under their own name; tag 0 is the client itself.
CREATE TABLE own_names (
    client INTEGER NOT NULL,
    period INTEGER NOT NULL,
    tag INTEGER NOT NULL,
    PRIMARY KEY (client, period, tag)
) STRICT, WITHOUT ROWID;

-- Append-only: what a charge rests on. Prices: JSON object of kind → integer, × 10^-scale US
-- dollars a unit (a token, a request, a tool call).
CREATE TABLE rates (
    id INTEGER PRIMARY KEY,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    basis TEXT NOT NULL,             -- start, bracket, context, override: what it rests on
    scale INTEGER NOT NULL,
    prices TEXT NOT NULL,
    book TEXT NOT NULL,              -- version of the book it was first read from
    entry_hash BLOB NOT NULL,
    made_at_ms INTEGER NOT NULL,
    UNIQUE (provider, model, basis, entry_hash)
) STRICT;

-- Each rate as factors of inclusive sums, × 10^-12 US dollars: what one more of each adds. NULL
-- where 12 decimals don't say it: then the cost is made from `rates`. Row 0: unpriced.
CREATE TABLE rate_factors (
    rate INTEGER PRIMARY KEY,
    requests INTEGER,
    input_tokens INTEGER,
    cache_read_tokens INTEGER,
    output_tokens INTEGER,
    reasoning_tokens INTEGER,
    cache_write_tokens INTEGER,
    cache_write_long_tokens INTEGER,
    audio_input_tokens INTEGER,
    audio_output_tokens INTEGER
) STRICT;
INSERT INTO rate_factors VALUES (0, 0, 0, 0, 0, 0, 0, 0, 0, 0);

-- What time zone, anchors and prices the rollups were made with: a change means to make them anew.
CREATE TABLE rollup_basis (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    zones TEXT NOT NULL,
    prices TEXT NOT NULL
) STRICT;

-- A rate found later, or found wrong: the ledger's row stays, the newest of these holds.
CREATE TABLE reprices (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    who TEXT NOT NULL,
    why TEXT NOT NULL
) STRICT;

CREATE TABLE repriced (
    row INTEGER NOT NULL,
    reprice INTEGER NOT NULL,
    rate INTEGER,                    -- NULL: unpriced
    PRIMARY KEY (row, reprice)
) STRICT, WITHOUT ROWID;

-- Rows of the ledger that no rollup counts: late ones until they are accepted, and those
-- whose dedupe_id was counted before.
CREATE TABLE uncounted (
    client INTEGER NOT NULL,
    row INTEGER NOT NULL,
    why TEXT NOT NULL CHECK (why IN ('late', 'duplicate')),
    tokens INTEGER NOT NULL,
    PRIMARY KEY (client, row)
) STRICT, WITHOUT ROWID;

CREATE TABLE dedupe (
    id BLOB PRIMARY KEY,             -- the first 16 bytes of SHA-256 of the dedupe_id
    seen_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE quarantine (
    producer BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    reason TEXT NOT NULL,
    schema INTEGER NOT NULL,
    payload BLOB NOT NULL,
    received_at_ms INTEGER NOT NULL,
    PRIMARY KEY (producer, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE losses (
    producer BLOB NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    reason TEXT NOT NULL,
    declared_at_ms INTEGER NOT NULL,
    PRIMARY KEY (producer, first_sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (
    id INTEGER PRIMARY KEY,
    producer BLOB NOT NULL,
    client TEXT NOT NULL,
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    period INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    used_tokens INTEGER NOT NULL,
    lent_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    last_sequence INTEGER,           -- set by the release
    ended_at_ms INTEGER
) STRICT;

CREATE INDEX leases_outstanding ON leases (producer) WHERE ended_at_ms IS NULL;

-- Tokens that count in another period than the one they are billed in, because their lease
-- was taken in it: for quotas alone.
CREATE TABLE quota_shifts (
    client INTEGER NOT NULL,
    period INTEGER NOT NULL,
    tag INTEGER NOT NULL,
    model INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (client, period, tag, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE grants (
    client TEXT NOT NULL,
    period INTEGER NOT NULL,
    number INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    why TEXT NOT NULL,
    who TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (client, period, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    client TEXT NOT NULL,
    period INTEGER NOT NULL,
    quota_version INTEGER NOT NULL,
    event TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (client, period, quota_version, event)
) STRICT, WITHOUT ROWID;

CREATE TABLE config_versions (
    version INTEGER PRIMARY KEY,
    toml BLOB NOT NULL,
    source TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL
) STRICT;
