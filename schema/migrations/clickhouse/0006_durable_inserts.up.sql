-- What an insert has confirmed survives a power cut, and a token is remembered for longer than any retry lasts.
--
-- `fsync_after_insert` and `fsync_part_directory`: the answer to an insert comes when its part is on disk. A part that a merge, a
-- mutation or a fetch from another replica has made is synced as well, because what it was made of is deleted later. On a
-- cluster more is needed: see "When ClickHouse loses power" in deploy/README.md.
--
-- The windows: see docs/decisions/0009-durable-before-redis-lets-go.md. On one node a token costs about 220 bytes of memory; on a
-- cluster tokens are in Keeper, and age by default after an hour.

ALTER TABLE run MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE span MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE eval_score MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE eval_aggregate MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE replay_capture MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE replay_run MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE dataset_item MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE billing_meter MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE run_attachment MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE set_aside MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE audit_log MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;

ALTER TABLE audit_reconciliation_gap MODIFY SETTING
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_compressed_bytes_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_fetch = 1,
    non_replicated_deduplication_window = 100000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800;
