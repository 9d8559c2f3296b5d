//! Rewrites DDL for a cluster: adds `ON CLUSTER` and makes engines replicate.
//!
//! A replica's path in Keeper contains the table's `{uuid}`, which stays with the table when the table is renamed or
//! exchanged. A path with the table's name would belong to another table after the first `EXCHANGE TABLES`.

use super::ClusterName;

/// The Keeper path for tables with data: one set of replicas per ClickHouse shard.
const PATH_PER_SHARD: &str = "'/clickhouse/tables/{uuid}/{shard}', '{replica}'";
/// The Keeper path for the journal: the same on every node, whatever its ClickHouse shard.
const PATH_FOR_ALL: &str = "'/clickhouse/tables/{uuid}/all', '{shard}-{replica}'";

/// How each statement begins that needs `ON CLUSTER`, and where these words are put.
const DDL: [(&str, Place); 11] = [
    ("CREATE DATABASE IF NOT EXISTS ", Place::AfterName),
    ("CREATE TABLE IF NOT EXISTS ", Place::AfterName),
    ("DROP TABLE IF EXISTS ", Place::AfterName),
    ("CREATE VIEW IF NOT EXISTS ", Place::AfterName),
    ("CREATE OR REPLACE VIEW ", Place::AfterName),
    ("DROP VIEW IF EXISTS ", Place::AfterName),
    ("DROP TABLE ", Place::AfterName),
    ("ALTER TABLE ", Place::AfterName),
    ("RENAME TABLE ", Place::AtTheEnd),
    ("EXCHANGE TABLES ", Place::AtTheEnd),
    ("TRUNCATE TABLE ", Place::AfterName),
];

#[derive(Clone, Copy)]
enum Place {
    AfterName,
    AtTheEnd,
}

/// The statement for a cluster; unchanged if there is no cluster, or if it is not DDL.
pub(super) fn rewrite(sql: &str, cluster: Option<&ClusterName>) -> String {
    rewrite_with(sql, cluster, PATH_PER_SHARD)
}

/// The same for the journal, which has a replica on every node.
pub(super) fn rewrite_journal(sql: &str, cluster: Option<&ClusterName>) -> String {
    rewrite_with(sql, cluster, PATH_FOR_ALL)
}

fn rewrite_with(sql: &str, cluster: Option<&ClusterName>, path: &str) -> String {
    let Some(cluster) = cluster else { return sql.to_owned() };
    let Some((start, place)) = DDL.iter().find(|(start, _)| sql.starts_with(start)) else { return sql.to_owned() };
    let on_cluster = format!(" ON CLUSTER '{}'", cluster.as_str());
    match place {
        Place::AtTheEnd => format!("{}{on_cluster}", sql.trim_end()),
        Place::AfterName => {
            let after = &sql[start.len()..];
            let name_end = after.find(|c: char| c.is_whitespace() || c == '(').unwrap_or(after.len());
            let (head, tail) = sql.split_at(start.len() + name_end);
            format!("{head}{on_cluster}{}", replicated(tail, path))
        }
    }
}

/// Replaces `ENGINE = …MergeTree(arguments)` by the replicated engine.
fn replicated(tail: &str, path: &str) -> String {
    const ENGINE: &str = "ENGINE = ";
    let Some((before, engine)) = tail.split_once(ENGINE) else { return tail.to_owned() };
    let name_end = engine.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(engine.len());
    let (name, rest) = engine.split_at(name_end);
    if !name.ends_with("MergeTree") || name.starts_with("Replicated") {
        return tail.to_owned();
    }
    let arguments = match rest.strip_prefix('(') {
        None => format!("{path}){rest}"),
        Some(inside) if inside.starts_with(')') => format!("{path}{inside}"),
        Some(inside) => format!("{path}, {inside}"),
    };
    format!("{before}{ENGINE}Replicated{name}({arguments}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(sql: &str) -> String {
        rewrite(sql, Some(&"main".parse().unwrap()))
    }

    #[test]
    fn ddl_is_for_all_nodes_and_replicated() {
        let table = "CREATE TABLE IF NOT EXISTS run\n(\n    a UUID\n)\nENGINE = ReplacingMergeTree(a)\nORDER BY a";
        assert_eq!(
            on(table),
            "CREATE TABLE IF NOT EXISTS run ON CLUSTER 'main'\n(\n    a UUID\n)\nENGINE = ReplicatedReplacingMergeTree(\
             '/clickhouse/tables/{uuid}/{shard}', '{replica}', a)\nORDER BY a"
        );
        for engine in ["MergeTree", "MergeTree()"] {
            let rewritten = on(&format!("CREATE TABLE IF NOT EXISTS t (a Int8) ENGINE = {engine} ORDER BY a"));
            assert_eq!(
                rewritten,
                "CREATE TABLE IF NOT EXISTS t ON CLUSTER 'main' (a Int8) ENGINE = ReplicatedMergeTree(\
                 '/clickhouse/tables/{uuid}/{shard}', '{replica}') ORDER BY a"
            );
        }
        assert_eq!(on("DROP TABLE IF EXISTS run"), "DROP TABLE IF EXISTS run ON CLUSTER 'main'");
        assert_eq!(on("RENAME TABLE a TO b"), "RENAME TABLE a TO b ON CLUSTER 'main'");
        assert_eq!(on("EXCHANGE TABLES a AND b"), "EXCHANGE TABLES a AND b ON CLUSTER 'main'");
        assert_eq!(on("ALTER TABLE a DROP COLUMN b"), "ALTER TABLE a ON CLUSTER 'main' DROP COLUMN b");
        assert_eq!(on("CREATE DATABASE IF NOT EXISTS `d`"), "CREATE DATABASE IF NOT EXISTS `d` ON CLUSTER 'main'");
    }

    #[test]
    fn the_journal_is_the_same_on_every_node() {
        let sql = rewrite_journal(
            "CREATE TABLE IF NOT EXISTS j (v Int8) ENGINE = ReplacingMergeTree(v) ORDER BY v",
            Some(&"main".parse().unwrap()),
        );
        assert!(sql.contains("('/clickhouse/tables/{uuid}/all', '{shard}-{replica}', v)"), "{sql}");
    }

    #[test]
    fn statements_without_a_cluster_or_outside_of_ddl_are_unchanged() {
        let insert = "INSERT INTO run SELECT 1";
        assert_eq!(on(insert), insert);
        let table = "CREATE TABLE IF NOT EXISTS t (a Int8) ENGINE = MergeTree ORDER BY a";
        assert_eq!(rewrite(table, None), table);
    }
}
