//! What ClickHouse has stored, when its merges are done, and what lies on its disk.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::client::ClickHouse;

/// How often to ask whether all rows are stored. Counting a whole table reads no rows, but is a query nevertheless.
const STORED_POLL: Duration = Duration::from_millis(50);
/// How long all rows may take to be stored, after the last answer.
const STORED_WITHIN: Duration = Duration::from_secs(180);
/// How often to look at merges.
const MERGES_POLL: Duration = Duration::from_millis(250);
/// Merges are quiet when for this long none ran and no part came or went.
const MERGES_QUIET_FOR: Duration = Duration::from_secs(3);
/// How long to wait for that. A round that waited in vain says so.
const MERGES_WITHIN: Duration = Duration::from_secs(90);

/// A table store that is asked about the spans in it.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) clickhouse: ClickHouse,
    /// How many rows are stored, without FINAL.
    pub(super) count_sql: String,
    /// How many of them are there more than once, if that can be asked.
    pub(super) doubled_sql: Option<String>,
    /// Which of `{ids}` are there, if that can be asked.
    pub(super) probe_sql: Option<String>,
}

impl Rows {
    /// Rows that are stored, those that are there twice counted twice.
    pub(super) async fn count(&self) -> anyhow::Result<u64> {
        self.clickhouse.number(&self.count_sql).await
    }

    /// Waits until so many are stored. Returns how long it took.
    pub(super) async fn until_stored(&self, wanted: u64) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            let stored = self.count().await?;
            if stored >= wanted {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > STORED_WITHIN {
                bail!(
                    "{stored} of {wanted} rows are stored {} s after the last answer: either rows were lost, or \
                     ClickHouse is slow; look into the logs, or send fewer --spans",
                    STORED_WITHIN.as_secs()
                );
            }
            tokio::time::sleep(STORED_POLL).await;
        }
    }

    /// Fails unless exactly so many rows are stored, each once.
    pub(super) async fn check(&self, wanted: u64) -> anyhow::Result<()> {
        let stored = self.count().await?;
        ensure!(stored == wanted, "{stored} rows are stored and {wanted} were sent: this round does not count");
        if let Some(sql) = &self.doubled_sql {
            let doubled = self.clickhouse.number(sql).await?;
            ensure!(doubled == 0, "{doubled} rows are stored twice, and as many are lost: this round does not count");
        }
        Ok(())
    }

    /// Waits until merges are quiet. `read` is called whenever there was something to merge, at last when the last
    /// merge has ended.
    pub(super) async fn until_merged<T>(
        &self,
        mut read: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<Merged<T>> {
        let (begun, mut reading) = (Instant::now(), read()?);
        let (mut quiet_since, mut parts) = (begun, self.merging().await?.1);
        loop {
            tokio::time::sleep(MERGES_POLL).await;
            let (running, now) = self.merging().await?;
            if running > 0 || now != parts {
                (quiet_since, parts, reading) = (Instant::now(), now, read()?);
            }
            let limit_was_hit = begun.elapsed() > MERGES_WITHIN;
            if limit_was_hit || quiet_since.elapsed() >= MERGES_QUIET_FOR {
                return Ok(Merged { reading, took: quiet_since.duration_since(begun), limit_was_hit });
            }
        }
    }

    /// Merges of the database that run, and a number that changes when a part comes or goes: a short merge is over
    /// before anybody sees it run.
    async fn merging(&self) -> anyhow::Result<(u64, u64)> {
        const MERGING: &str = "SELECT
            (SELECT count() FROM system.merges WHERE database = currentDatabase()) AS running,
            (SELECT groupBitXor(cityHash64(table, name)) FROM system.parts
                WHERE active AND database = currentDatabase()) AS parts";
        let text = self.clickhouse.text(MERGING).await?;
        let read = || {
            let (running, parts) = text.trim().split_once('\t')?;
            Some((running.parse().ok()?, parts.parse().ok()?))
        };
        read().with_context(|| format!("system.merges and system.parts are not as expected: {text:?}"))
    }

    /// How often something has happened since the server began, by `system.events`.
    pub(super) async fn event(&self, name: &str) -> anyhow::Result<u64> {
        self.clickhouse.number(&format!("SELECT sum(value) FROM system.events WHERE event = '{name}'")).await
    }

    /// Bytes on disk of each table of the database that has any.
    pub(super) async fn disk(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        const PARTS: &str = "SELECT table, sum(bytes_on_disk) AS bytes FROM system.parts
            WHERE active AND database = currentDatabase() GROUP BY table";
        let rows = self.clickhouse.rows(PARTS).await?;
        let read = |row: &serde_json::Value| Some((row["table"].as_str()?.to_owned(), row["bytes"].as_f64()?));
        rows.iter().map(|row| read(row).context("system.parts is not as expected")).collect()
    }
}

/// The end of merging.
#[derive(Clone, Copy, Debug)]
pub(super) struct Merged<T> {
    /// The last reading.
    pub(super) reading: T,
    /// Until the last merge had ended.
    pub(super) took: Duration,
    /// Merges went on when the time was over.
    pub(super) limit_was_hit: bool,
}

impl<T> Merged<T> {
    /// What a reader must know.
    pub(super) fn note(&self) -> Option<String> {
        self.limit_was_hit.then(|| format!("merges were not quiet within {} s", MERGES_WITHIN.as_secs()))
    }
}
