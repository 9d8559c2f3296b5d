-- What was done, by whom, to what; and what of it was found missing here.

-- Copied from the registry's outbox, `event_time` being the time there. After a crash the copier may send an event again. An
-- insert token would recognise it only if it came in the same batch, so the event's id ends the key: the second row is the
-- same row, and collapses. `actor` and `target` are looked for across orgs and times, hence their indexes. An event of no org
-- has the zero id. TTL: two years.
CREATE TABLE IF NOT EXISTS audit_log
(
    event_id UUID,
    org_id UUID,
    workspace_id UUID,
    project_id UUID,
    event_time DateTime64(9, 'UTC'),
    event_type LowCardinality(String),
    actor String CODEC(ZSTD(1)),
    actor_kind LowCardinality(String),
    target String CODEC(ZSTD(1)),
    product LowCardinality(String),
    outcome LowCardinality(String),
    request_id String CODEC(ZSTD(1)),
    ip String CODEC(ZSTD(1)),
    user_agent String CODEC(ZSTD(1)),
    detail String CODEC(ZSTD(1)),
    source LowCardinality(String),
    received_at DateTime64(9, 'UTC'),
    schema_version UInt16,
    INDEX audit_log_actor actor TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX audit_log_target target TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(received_at)
PARTITION BY toYYYYMM(event_time)
ORDER BY (org_id, event_time, event_type, event_id)
TTL toDateTime(event_time) + INTERVAL 730 DAY
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;

-- An event that one of the two stores has and the other lacks, as one run of the reconciler (`detection_id`) found it.
CREATE TABLE IF NOT EXISTS audit_reconciliation_gap
(
    detection_id UUID,
    detected_at DateTime64(9, 'UTC'),
    event_id UUID,
    org_id UUID,
    event_time DateTime64(9, 'UTC'),
    event_type LowCardinality(String),
    missing_in LowCardinality(String),
    detail String CODEC(ZSTD(1)),
    is_repaired Bool,
    schema_version UInt16
)
ENGINE = ReplacingMergeTree(detected_at)
PARTITION BY toYYYYMM(event_time)
ORDER BY (org_id, event_time, event_type, event_id, detection_id)
TTL toDateTime(event_time) + INTERVAL 730 DAY
SETTINGS
    index_granularity = 8192,
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000;
