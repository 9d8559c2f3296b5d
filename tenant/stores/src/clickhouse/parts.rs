//! How close our tables are to having too many parts.
//!
//! Every insert creates a part in each partition that it touches, and merges combine them. Where merges fall behind,
//! ClickHouse first delays inserts and then refuses them. The insert throttle asks here, to insert less often before
//! that.

use wire::tables::Table;

use super::Records;
use super::records::within;
use super::refusal::InsertError;

/// The partition of our tables that is closest to its limit of parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullestPartition {
    /// The name of the table.
    pub table: String,
    /// The name of the partition.
    pub partition: String,
    /// The number of its active parts.
    pub parts: u64,
    /// ClickHouse delays inserts from this number of parts on; 0 for never.
    pub delayed_from: u64,
    /// ClickHouse refuses inserts from this number of parts on; 0 for never.
    pub refused_from: u64,
}

impl FullestPartition {
    /// Parts divided by [`FullestPartition::refused_from`]: ClickHouse refuses inserts at 1.
    pub fn share(&self) -> f64 {
        if self.refused_from == 0 { 0.0 } else { self.parts as f64 / self.refused_from as f64 }
    }
}

impl Records {
    /// The partition that is closest to its limit of parts, on the server that answers. `None` while our tables are
    /// empty.
    ///
    /// Needs `SELECT` on `system.parts` and `system.merge_tree_settings`.
    pub async fn fullest_partition(&self) -> Result<Option<FullestPartition>, InsertError> {
        // The settings of a single table are only in its definition.
        const SQL: &str = "WITH
              (SELECT toUInt64(value) FROM system.merge_tree_settings WHERE name = 'parts_to_delay_insert') AS delayed,
              (SELECT toUInt64(value) FROM system.merge_tree_settings WHERE name = 'parts_to_throw_insert') AS refused
            SELECT parts.table, partition_id, parts.count,
                   coalesce(toUInt64OrNull(extract(engine_full, 'parts_to_delay_insert = (\\\\d+)')), delayed, 0) AS delayed_from,
                   coalesce(toUInt64OrNull(extract(engine_full, 'parts_to_throw_insert = (\\\\d+)')), refused, 0) AS refused_from
              FROM (SELECT table, partition_id, count() AS count FROM system.parts
                     WHERE database = currentDatabase() AND active AND table IN {tables:Array(String)}
                     GROUP BY table, partition_id) AS parts
              JOIN (SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()) AS tables
                ON tables.name = parts.table
             ORDER BY if(refused_from = 0, 0, parts.count / refused_from) DESC
             LIMIT 1";
        let tables = Table::ALL.map(|table| table.name);
        let query = self.client.query(SQL).param("tables", tables.as_slice());
        let found = within("system.parts", query.fetch_optional::<(String, String, u64, u64, u64)>()).await?;
        Ok(found.map(|(table, partition, parts, delayed_from, refused_from)| FullestPartition {
            table,
            partition,
            parts,
            delayed_from,
            refused_from,
        }))
    }
}
