-- How many runs and spans the processes of the API have answered for with a 2xx, by org and the hour that they were received in.
-- Counted by the API alone and kept apart from Redis, so that a Redis that loses entries does not lose what was promised of them.
-- A process writes what it has counted of an hour so far; the largest of its rows counts.
CREATE TABLE IF NOT EXISTS answered
(
    hour DateTime('UTC'),
    org_id UUID,
    process UUID,
    items UInt64,
    schema_version UInt16,
    CONSTRAINT org_is_set CHECK org_id != toUUID('00000000-0000-0000-0000-000000000000')
)
ENGINE = ReplacingMergeTree(items)
PARTITION BY toDate(hour)
ORDER BY (hour, org_id, process)
TTL hour + INTERVAL 9 DAY
SETTINGS
    index_granularity = 8192,
    ttl_only_drop_parts = 1,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;
