//! The statements that `--cluster` sends. There is no Keeper here, so ClickHouse only parses them and does not run
//! them.

use migrate::{CLICKHOUSE, Change, Count, Options, Target};

use crate::support::{clickhouse, empty, must, run, stores};

/// Every statement of every file, up and down, for a cluster; a rebuild gives the statements in its description.
async fn statements() -> Vec<String> {
    let options = Options { cluster: Some("main".parse().unwrap()), ..Options::default() };
    let (before, after) = (empty().await, empty().await);
    must(&stores(&after), &["up"]).await;
    let mut statements = Vec::new();
    for (db, change) in [(before, Change::Up), (after, Change::Down(Count::All))] {
        let previews = migrate::preview(Target::Clickhouse, &stores(&db), change, &options).await.unwrap();
        for statement in previews.into_iter().flat_map(|preview| preview.statements) {
            match statement.split_once("sends\n") {
                Some((rebuild, sent)) if rebuild.starts_with("REBUILD ") => {
                    statements.extend(sent.lines().map(|line| line.trim().trim_start_matches("-- ").to_owned()));
                }
                _ => statements.push(statement),
            }
        }
    }
    statements
}

#[tokio::test]
async fn every_statement_is_for_the_cluster_and_clickhouse_can_read_it() {
    let db = empty().await;
    let client = clickhouse(&db.clickhouse_url);
    let statements = statements().await;
    let count = |start: &str| statements.iter().filter(|sql| sql.starts_with(start)).count();
    // Eight tables in 0001; in 0002 each again, up and down; two in 0003; one, and one view, in 0004 and in 0005 each.
    // In 0006 the settings of all twelve, up, and down in two statements each. One table in 0009. A column of
    // two tables in 0010, up and down; three columns in 0011.
    assert_eq!(count("CREATE TABLE"), 8 + 8 + 8 + 2 + 1 + 1 + 1);
    assert_eq!((count("CREATE VIEW"), count("DROP VIEW")), (5, 5));
    // 0007, 0008 and 0010, and two in 0011, up and down.
    assert_eq!(count("CREATE OR REPLACE VIEW"), 10);
    assert_eq!((count("EXCHANGE TABLES"), count("RENAME TABLE"), count("ALTER TABLE")), (16, 8, 24 + 12 * 3 + 4 + 6));
    for sql in &statements {
        assert!(sql.contains(" ON CLUSTER 'main'"), "{sql}");
        assert!(!sql.contains("{uuid}") || sql.contains("'/clickhouse/tables/{uuid}/{shard}', '{replica}'"), "{sql}");
        if sql.starts_with("CREATE TABLE") {
            assert!(sql.contains("\nENGINE = ReplicatedReplacingMergeTree("), "{sql}");
        }
        let parsed = client.query_raw(&format!("EXPLAIN AST {sql}")).fetch_all::<String>().await;
        assert!(!parsed.unwrap_or_else(|error| panic!("{sql}: {error}")).is_empty());
    }
    let nonsense = client.query_raw("EXPLAIN AST CREATE TABLE a ON CLUSTER").fetch_all::<String>().await;
    assert!(nonsense.is_err(), "so it is a parser that was asked");
}

#[tokio::test]
async fn a_table_with_rows_is_not_rebuilt_on_a_cluster() {
    let db = empty().await;
    let stores = stores(&db);
    must(&stores, &["up"]).await;
    let insert =
        "INSERT INTO run (org_id, project_id, received_at) SELECT generateUUIDv4(), generateUUIDv4(), now64(9)";
    clickhouse(&db.clickhouse_url).query_raw(insert).execute().await.unwrap();
    // 0003 and later change tables on a cluster that is not there; 0002 is refused before any statement is sent.
    let later = (CLICKHOUSE.len() - 2).to_string();
    must(&stores, &["down", &later, "--target", "clickhouse", "--yes"]).await;
    let refused = run(&stores, &["down", "1", "--target", "clickhouse", "--yes", "--cluster", "main"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("run has rows, and bringing them over is possible on one node only"),
        "{refused:?}"
    );
    let version = must(&stores, &["version", "--target", "clickhouse"]).await.stdout;
    assert!(version.starts_with("clickhouse: 2 tenant_columns") && !version.contains("dirty"), "{version}");
}
