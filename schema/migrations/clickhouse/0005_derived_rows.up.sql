-- What is kept beside runs and spans: items that could not be stored, and calls as a replayer looks for them.

-- An item that was set aside where the client cannot hear of it, with the bytes it came as and the reason. It is a row of the
-- org's own, so that one org's rubbish is in nobody else's way. `content` may be cut; `content_bytes` and `content_hash`
-- (BLAKE2b-128) are of the whole. The same item sent again is the same row. `envelope_id` is the request's id.
CREATE TABLE IF NOT EXISTS set_aside
(
    org_id UUID,
    workspace_id UUID,
    project_id UUID,
    envelope_id UUID,
    item String CODEC(ZSTD(1)),
    reason String CODEC(ZSTD(1)),
    content String CODEC(ZSTD(1)),
    content_bytes UInt64,
    content_hash FixedString(16),
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16,
    CONSTRAINT org_is_set CHECK org_id != toUUID('00000000-0000-0000-0000-000000000000')
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(received_at)
ORDER BY (org_id, project_id, content_hash, item)
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;
