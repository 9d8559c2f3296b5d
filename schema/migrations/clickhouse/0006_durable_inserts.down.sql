-- Back to what the tables were created with.

ALTER TABLE run MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE run RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE span MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE span RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE eval_score MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE eval_score RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE eval_aggregate MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE eval_aggregate RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE replay_capture MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE replay_capture RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE replay_run MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE replay_run RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE dataset_item MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE dataset_item RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE billing_meter MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE billing_meter RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE run_attachment MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE run_attachment RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE set_aside MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE set_aside RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE audit_log MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE audit_log RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;

ALTER TABLE audit_reconciliation_gap MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE audit_reconciliation_gap RESET SETTING
    fsync_after_insert,
    fsync_part_directory,
    min_compressed_bytes_to_fsync_after_merge,
    min_compressed_bytes_to_fsync_after_fetch,
    replicated_deduplication_window_seconds;
