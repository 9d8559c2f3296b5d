//! Copies rows from one table into another of the other shape, as often as needed, and proves that they are there.
//!
//! A row is identified by a hash of its sorting key, without the org, and its version. Every row of the source whose
//! hash is not in the target is copied. So a copy may be stopped anywhere and repeated, and the next round finds rows
//! that were written meanwhile. Source and target have the same partitions, which are copied one by one. A partition
//! that got no rows since it was last copied is skipped.
//! which nothing was added since it was last gone through is passed over.

use std::collections::BTreeMap;
use std::time::Instant;

use super::slices::Slice;
use super::{RebuildError, slices};
use crate::session::Session;

/// The columns that `up` adds to a row, and `down` leaves out.
const TENANT_COLUMNS: [&str; 2] = ["org_id", "workspace_id"];
/// The column that decides which of two rows of the same key is newer.
const VERSION: &str = "received_at";
/// True for rows whose project has an org. Other rows stay behind, so that no row is ever stored without an org.
const IS_KNOWN: &str = "dictHas('project_tenant_dict', tuple(project_id))";

/// Per partition, the number of the newest block of rows in it. Merges do not change this number.
type Marks = BTreeMap<String, Mark>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    newest_block: i64,
    rows: u64,
}

/// A copy from one table into another.
#[derive(Default)]
pub(super) struct Copy {
    source: String,
    target: String,
    /// The sorting key of the table without orgs, element by element.
    key: Vec<String>,
    /// The columns that both tables have.
    columns: Vec<String>,
    /// Whether the dictionary gives rows their org. Then the dictionary exists.
    stamps: bool,
    /// Per partition that was copied, the number of the source's newest block when that copy began.
    copied: BTreeMap<String, i64>,
    /// The same for the partitions that were proven ahead.
    proven: BTreeMap<String, i64>,
}

/// What must hold in each partition before two tables are exchanged or one is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The target has the rows of the source and no others.
    Equal,
    /// The target has every row of the source, and may have more.
    Covered,
    /// The target has every key of the source; the version of a row may differ, because the target gets new rows
    /// meanwhile and a newer version replaces the copied one.
    KeysCovered,
}

/// A sum over the rows of a table: equal for equal sets of keys and versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fingerprint {
    rows: u64,
    sum: u64,
    xor: u64,
}

impl Copy {
    /// A copy that has not looked at its tables yet.
    pub(super) fn new(source: &str, target: &str, stamps: bool) -> Self {
        Self { source: source.to_owned(), target: target.to_owned(), stamps, ..Self::default() }
    }

    /// Reads the shape of the table without orgs, unless that was done already.
    pub(super) async fn plan(&mut self, session: &mut Session<'_>, into_old: bool) -> Result<(), RebuildError> {
        if !self.key.is_empty() {
            return Ok(());
        }
        let old = if into_old { &self.target } else { &self.source };
        let sql = "WITH (SELECT groupArray(name) FROM (SELECT name FROM system.columns WHERE database = currentDatabase() \
                   AND table = {table:String} AND default_kind NOT IN ('ALIAS', 'MATERIALIZED') ORDER BY position)) AS names \
                   SELECT sorting_key, arrayStringConcat(names, ', ') FROM system.tables \
                   WHERE database = currentDatabase() AND name = {table:String}";
        let (key, columns): (String, String) = session.row(sql, &[("table".to_owned(), old.clone())]).await?;
        let [key, columns] = [key, columns].map(|list| list.split(", ").map(str::to_owned).collect::<Vec<_>>());
        // The names come from our own files. The check is for a table that an operator made in place of ours.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '(' | ')');
        if !key.iter().chain(&columns).all(|name| !name.is_empty() && name.chars().all(plain)) {
            return Err(RebuildError::Foreign { table: old.clone() });
        }
        (self.key, self.columns) = (key, columns);
        Ok(())
    }

    /// Copies the missing rows, and returns how many they were.
    pub(super) async fn round(&mut self, session: &mut Session<'_>, number: &str) -> Result<u64, RebuildError> {
        let marks = marks(session, &self.source).await?;
        let total: u64 = marks.values().map(|mark| mark.rows).sum();
        let (begun, mut looked_at, mut copied) = (Instant::now(), 0, 0);
        for (at, (partition, mark)) in marks.iter().enumerate() {
            looked_at += mark.rows;
            if self.copied.get(partition) == Some(&mark.newest_block) {
                continue;
            }
            for slice in slices::of_partition(session, &self.source, &self.key, partition, mark.rows).await? {
                copied += self.copy(session, partition, &slice).await?;
            }
            self.copied.insert(partition.clone(), mark.newest_block);
            let (source, partitions) = (&self.source, marks.len());
            let per_second = per_second(copied, begun);
            session.say(&format!(
                "{source}: {number}, partition {} of {partitions}: {copied} rows copied, {looked_at} of {total} looked at, \
                 {per_second} rows/s",
                at + 1
            ));
        }
        Ok(copied)
    }

    async fn copy(&self, session: &mut Session<'_>, partition: &str, slice: &Slice) -> Result<u64, RebuildError> {
        let (source, target) = (&self.source, &self.target);
        let mut names = self.columns.clone();
        let mut values = self.columns.clone();
        if self.stamps {
            for column in TENANT_COLUMNS {
                names.push(column.to_owned());
                values.push(format!("dictGet('project_tenant_dict', '{column}', tuple(project_id))"));
            }
        }
        let sql = format!(
            "INSERT INTO {target} ({}) SELECT {} FROM {source} WHERE {}",
            names.join(", "),
            values.join(", "),
            self.missing(slice, &self.identity()),
        );
        session.execute(&sql, &with_partition(slice, partition)).await.map_err(RebuildError::from)
    }

    /// The SQL condition for a row of the source that the target lacks, by that identity.
    fn missing(&self, slice: &Slice, identity: &str) -> String {
        let (target, condition) = (&self.target, &slice.condition);
        let place = format!("_partition_id = {{partition:String}} AND {condition}");
        let known = if self.stamps { format!(" AND {IS_KNOWN}") } else { String::new() };
        format!("{place}{known} AND {identity} NOT IN (SELECT {identity} FROM {target} WHERE {place})")
    }

    /// SQL for the identity of a row, in 128 bits: among a thousand million rows, no two different rows share one.
    fn identity(&self) -> String {
        format!("sipHash128({}, {VERSION})", self.key.join(", "))
    }

    /// Proves what can be proven while writers are live, so that less is left to prove while they wait.
    pub(super) async fn prove_ahead(&mut self, session: &mut Session<'_>, proof: Proof) -> Result<(), RebuildError> {
        for (partition, mark) in marks(session, &self.source).await? {
            if self.refute(session, &partition, mark, proof).await?.is_none() {
                self.proven.insert(partition, mark.newest_block);
            }
        }
        Ok(())
    }

    /// Proves everything that was not proven ahead. The source must have no writers.
    pub(super) async fn prove(&self, session: &mut Session<'_>, proof: Proof) -> Result<(), RebuildError> {
        let mut marks = marks(session, &self.source).await?;
        if proof == Proof::Equal {
            // Partitions that only the target has.
            for (partition, _) in self::marks(session, &self.target).await? {
                marks.entry(partition).or_insert(Mark { newest_block: -1, rows: 0 });
            }
        }
        for (partition, mark) in marks {
            if self.proven.get(&partition) == Some(&mark.newest_block) {
                continue;
            }
            if let Some((from_rows, into_rows)) = self.refute(session, &partition, mark, proof).await? {
                let (from, into) = (self.source.clone(), self.target.clone());
                return Err(RebuildError::Unproven { from, into, partition, from_rows, into_rows });
            }
        }
        Ok(())
    }

    /// The partitions of the source that got rows since they were proven ahead.
    pub(super) async fn unproven_partitions(&self, session: &mut Session<'_>) -> Result<Vec<String>, RebuildError> {
        let marks = marks(session, &self.source).await?.into_iter();
        let unproven = marks.filter(|(partition, mark)| self.proven.get(partition) != Some(&mark.newest_block));
        Ok(unproven.map(|(partition, _)| partition).collect())
    }

    /// Checks one partition. If the proof fails, returns how many rows source and target have in it.
    async fn refute(
        &self,
        session: &mut Session<'_>,
        partition: &str,
        mark: Mark,
        proof: Proof,
    ) -> Result<Option<(u64, u64)>, RebuildError> {
        let identity = match proof {
            Proof::Equal => {
                let [source, target] = self.fingerprints(session, partition).await?;
                return Ok((source != target).then_some((source.rows, target.rows)));
            }
            Proof::Covered => self.identity(),
            Proof::KeysCovered => format!("sipHash128({})", self.key.join(", ")),
        };
        for slice in slices::of_partition(session, &self.source, &self.key, partition, mark.rows).await? {
            let (source, missing) = (&self.source, self.missing(&slice, &identity));
            let sql = format!("SELECT count() FROM {source} FINAL WHERE {missing}");
            let missing: u64 = session.row(&sql, &with_partition(&slice, partition)).await?;
            if missing > 0 {
                return Ok(Some((mark.rows, mark.rows.saturating_sub(missing))));
            }
        }
        Ok(None)
    }

    /// Fingerprints of the partition in source and target, as a reader with FINAL sees it. The hash is not the one by
    /// which rows are found.
    async fn fingerprints(&self, session: &mut Session<'_>, partition: &str) -> Result<[Fingerprint; 2], RebuildError> {
        let known = if self.stamps { format!(" AND {IS_KNOWN}") } else { String::new() };
        let hash = format!("cityHash64({}, {VERSION})", self.key.join(", "));
        let mut found = [Fingerprint::default(); 2];
        for (table, found) in [&self.source, &self.target].into_iter().zip(&mut found) {
            let sql = format!(
                "SELECT count(), sum(hash), groupBitXor(hash) FROM (SELECT {hash} AS hash FROM {table} FINAL \
                 WHERE _partition_id = {{partition:String}}{known})"
            );
            let parameters = [("partition".to_owned(), partition.to_owned())];
            let (rows, sum, xor) = session.row(&sql, &parameters).await?;
            *found = Fingerprint { rows, sum, xor };
        }
        Ok(found)
    }
}

async fn marks(session: &mut Session<'_>, table: &str) -> Result<Marks, RebuildError> {
    let sql = "SELECT partition_id, max(max_block_number), sum(rows) FROM system.parts \
               WHERE database = currentDatabase() AND table = {table:String} AND active GROUP BY partition_id";
    let found: Vec<(String, i64, u64)> = session.rows(sql, &[("table".to_owned(), table.to_owned())]).await?;
    Ok(found.into_iter().map(|(partition, newest_block, rows)| (partition, Mark { newest_block, rows })).collect())
}

fn with_partition(slice: &Slice, partition: &str) -> Vec<(String, String)> {
    let mut parameters = slice.parameters.clone();
    parameters.push(("partition".to_owned(), partition.to_owned()));
    parameters
}

fn per_second(rows: u64, since: Instant) -> u64 {
    let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    rows.saturating_mul(1000) / milliseconds
}
