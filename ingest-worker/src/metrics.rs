//! The metrics of `ingest-worker` itself; crates below it have some of their own, and `docs/reference/metrics.md` has
//! all. Label values are from fixed sets.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use legacy::Backlog;
use metrics::{counter, gauge, histogram};
use model::shard::{Shard, Waiting};

/// Upper bounds of the insert histogram, in seconds.
pub const INSERT_BUCKETS_SECONDS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

/// `tracebility_inserted_rows_total{table}`, `tracebility_inserted_bytes_total{table}`,
/// `tracebility_insert_seconds{table}`, `tracebility_insert_failures_total{table}`.
pub fn inserted(table: &'static str, rows: u64, bytes: usize, took: Duration, ok: bool) {
    histogram!("tracebility_insert_seconds", "table" => table).record(took.as_secs_f64());
    if ok {
        counter!("tracebility_inserted_rows_total", "table" => table).increment(rows);
        counter!("tracebility_inserted_bytes_total", "table" => table).increment(bytes as u64);
    } else {
        counter!("tracebility_insert_failures_total", "table" => table).increment(1);
    }
}

/// `tracebility_insert_throttle_factor`: by what factor the shards wait longer than configured between two inserts.
pub fn throttled(factor: u32) {
    gauge!("tracebility_insert_throttle_factor").set(factor);
}

/// `tracebility_finished_envelopes_total{shard}`: envelopes that were inserted and whose entries were deleted.
pub fn finished(shard: Shard, envelopes: usize) {
    counter!("tracebility_finished_envelopes_total", "shard" => shard.number().to_string()).increment(envelopes as u64);
}

/// `tracebility_dead_letters_total{shard}`: entries moved to the dead letters.
pub fn dead_lettered(shard: Shard, envelopes: usize) {
    counter!("tracebility_dead_letters_total", "shard" => shard.number().to_string()).increment(envelopes as u64);
}

/// `tracebility_dlq_full_total{shard}`: how often a shard waited because there was no room for more dead letters.
pub fn dlq_full(shard: Shard) {
    counter!("tracebility_dlq_full_total", "shard" => shard.number().to_string()).increment(1);
}

/// `tracebility_shard_waiting_seconds{shard, reason}`: how long a shard has made no progress, and why; 0 when it makes
/// progress. Alert on it.
pub fn waiting(shard: Shard, why: Waiting, lasts: Duration) {
    let shard = shard.number().to_string();
    gauge!("tracebility_shard_waiting_seconds", "shard" => shard, "reason" => why.as_str()).set(lasts.as_secs_f64());
}

/// `tracebility_forgotten_commits_total{shard}`: how often Redis had forgotten a commit, as after a failover to a
/// replica that lagged behind.
pub fn commit_forgotten(shard: Shard) {
    counter!("tracebility_forgotten_commits_total", "shard" => shard.number().to_string()).increment(1);
}

/// `tracebility_left_to_another_release_total{shard}`: how often a shard was given back because this worker's release
/// does not understand the batch under way. Alert on it when it grows: then no worker understands the batch.
pub fn left_to_another_release(shard: Shard) {
    counter!("tracebility_left_to_another_release_total", "shard" => shard.number().to_string()).increment(1);
}

/// `tracebility_tokens_without_rows_total{table}`: inserts that ClickHouse dropped as repeated although it did not have
/// their rows, as after a crash in the middle of the first insert. They were inserted once more, under another token.
pub fn token_without_rows(table: &'static str) {
    counter!("tracebility_tokens_without_rows_total", "table" => table).increment(1);
}

/// `tracebility_stored_despite_error_total{table}`: inserts that ClickHouse answered with an error although it had
/// stored the rows, as it does when a materialized view of the table fails.
pub fn stored_despite_error(table: &'static str) {
    counter!("tracebility_stored_despite_error_total", "table" => table).increment(1);
}

/// `tracebility_withheld_items_total{how}`: runs and spans of orgs over a monthly limit that were parked or dropped,
/// and `repeated` ones, which are not billed because they are a client's retry of a request that the shard had already.
pub fn withheld(how: &'static str, items: u64) {
    counter!("tracebility_withheld_items_total", "how" => how).increment(items);
}

/// `tracebility_over_quota_stored_total`: envelopes of orgs over a monthly limit that were stored, because there was no
/// room to park them.
pub fn over_quota_stored() {
    counter!("tracebility_over_quota_stored_total").increment(1);
}

/// `tracebility_redis_failures_total`: Redis operations of the shards that failed and had to be repeated.
pub fn redis_failed() {
    counter!("tracebility_redis_failures_total").increment(1);
}

/// `tracebility_shard_crashes{shard}`: how many owners of a shard in a row crashed; 0 once the entries that were
/// waiting are done.
pub fn shard_crashes(shard: Shard, crashes: u32) {
    gauge!("tracebility_shard_crashes", "shard" => shard.number().to_string()).set(f64::from(crashes));
}

/// `tracebility_task_panics_total{task}`: how often a task beside the shards has panicked and was started again.
pub fn task_panicked(task: &'static str) {
    counter!("tracebility_task_panics_total", "task" => task).increment(1);
}

/// `tracebility_legacy_entries{state}`: entries left in the legacy stream, which are `waiting`, or `straggling` when
/// the stream is closed; `moving`; and `pending` with readers of older releases. `tracebility_legacy_oldest_seconds`:
/// age of the oldest entry.
pub fn legacy_backlog(backlog: &Backlog, is_open: bool) {
    let (waiting, straggling) = if is_open { (backlog.entries, 0) } else { (0, backlog.entries) };
    let pending = backlog.groups.iter().map(|group| group.pending).sum();
    for (state, entries) in
        [("waiting", waiting), ("straggling", straggling), ("moving", backlog.moving), ("pending", pending)]
    {
        gauge!("tracebility_legacy_entries", "state" => state).set(entries as f64);
    }
    let age = backlog.first.map_or(Duration::ZERO, |first| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.saturating_sub(Duration::from_millis(first.ms()))
    });
    gauge!("tracebility_legacy_oldest_seconds").set(age.as_secs_f64());
}

/// `tracebility_legacy_entries_total{became}`: entries of the legacy stream that were `moved` into a shard,
/// `dead_lettered`, or `empty`.
pub fn legacy_moved(entries: usize, became: &'static str) {
    counter!("tracebility_legacy_entries_total", "became" => became).increment(entries as u64);
}

/// `tracebility_legacy_failures_total`: turns of draining the legacy stream that had to be repeated.
pub fn legacy_failed() {
    counter!("tracebility_legacy_failures_total").increment(1);
}
