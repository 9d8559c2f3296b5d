//! What the tables promise about a confirmed insert: every table, including later ones, must have every one of these
//! settings.

use std::collections::BTreeMap;

use wire::tables::Table;

use crate::support::{clickhouse, empty, must, stores};

/// The settings that each table must have. Why: `docs/decisions/0009-durable-before-redis-lets-go.md`.
const SETTINGS: [(&str, &str); 7] = [
    ("fsync_after_insert", "1"),
    ("fsync_part_directory", "1"),
    ("min_compressed_bytes_to_fsync_after_merge", "1"),
    ("min_compressed_bytes_to_fsync_after_fetch", "1"),
    ("non_replicated_deduplication_window", "100000"),
    ("replicated_deduplication_window", "10000"),
    ("replicated_deduplication_window_seconds", "604800"),
];
/// The tables with the copy of the audit trail.
const AUDIT: [&str; 2] = ["audit_log", "audit_reconciliation_gap"];

/// The settings of each table with rows, except for the journal of `migrate` and the old tables that it keeps.
async fn settings(url: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let query = "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase() \
                 AND engine LIKE '%MergeTree' AND name != 'schema_migrations' AND name NOT LIKE '%\\_v1'";
    let tables: Vec<(String, String)> = clickhouse(url).query_raw(query).fetch_all().await.unwrap();
    let of = |engine: &str| {
        let listed = engine.split_once(" SETTINGS ").map_or("", |(_, listed)| listed).to_owned();
        listed.split(", ").filter_map(|one| one.split_once(" = ")).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    tables.iter().map(|(name, engine)| (name.clone(), of(engine))).collect()
}

#[tokio::test]
async fn every_table_syncs_confirmed_inserts_and_keeps_tokens_for_long() {
    let db = empty().await;
    must(&stores(&db), &["up"]).await;
    let tables = settings(&db.clickhouse_url).await;
    for name in Table::ALL.map(|table| table.name).iter().chain(&AUDIT) {
        assert!(tables.contains_key(*name), "{name} is not there: {:?}", tables.keys());
    }
    for (name, settings) in &tables {
        for (setting, value) in SETTINGS {
            let found = settings.get(setting).map(String::as_str);
            assert_eq!(found, Some(value), "{setting} of {name}; see clickhouse/0006 for what a new table needs");
        }
    }
}
