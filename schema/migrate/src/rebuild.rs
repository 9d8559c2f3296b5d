//! `REBUILD t`: gives a table a new sorting key while writers use it.
//!
//! ClickHouse cannot change a sorting key. So the migration's file makes `t_v2`; this module copies the rows of `t`
//! into it and puts it in the place of `t`. docs/decisions/0003-rebuilding-tables.md says why it does so, and not with
//! a materialised view. In short:
//!
//! 1. **Rounds.** Rows that `t_v2` lacks are copied, again and again while writers are live, until a round finds few.
//! 2. **Close.** A constraint that no row satisfies is added to `t`. It costs nothing and refuses every insert that
//!    begins from now on, so the writer knows that the row was not stored, and tries again. The module waits for
//!    inserts that had begun before.
//! 3. **The rest.** One more round, and the proof that both tables hold the same rows.
//! 4. **Exchange.** `EXCHANGE TABLES` is atomic. Then `t_v2`, now the old table, is renamed to `t_v1` and stays closed.
//!
//! `down` does the same from `t` to `t_v1`. Each step is chosen by looking at the tables (`state`), so the next run, up
//! or down, finishes what a killed run began. Only `down` drops a table with rows, and only after it has found each of
//! the rows in the live table.

mod copy;
mod dictionary;
mod slices;
mod state;

use std::time::{Duration, Instant};

use clickhouse::Row;
use serde::Deserialize;
use thiserror::Error;
use wire::tables::CLOSED;

use self::copy::{Copy, Proof};
use self::dictionary::Registry;
use self::state::{Action, Alternate, Layout, Tables, next_action};
use super::session::{Failure, Session};
use super::{ClusterName, Direction, Options};

/// Rounds are repeated until one copies no more rows than this. Then the next round, while writers wait, is short.
const ROWS_LEFT_MAX: u64 = 50_000;
/// Most rounds. Waiting longer would not help if writers are faster than copying.
const ROUNDS_MAX: u32 = 10;
/// How long to wait for inserts that began before the table was closed. The worker stops waiting for an insert after 60
/// s.
const INSERTS_WAIT_MAX: Duration = Duration::from_secs(180);
const INSERTS_POLL_EVERY: Duration = Duration::from_millis(50);
/// Most steps of one rebuild; no state needs that many.
const STEPS_MAX: u32 = 8;
/// Most projects without an org that an error names.
const ORPHANS_NAMED_MAX: u32 = 10;

/// Why a table could not be rebuilt.
#[derive(Debug, Error)]
pub(super) enum RebuildError {
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("{table}: {tables}; no run of this program leaves that behind, so nothing was changed")]
    Unexpected { table: String, tables: String },
    #[error("{table} came to no end after {STEPS_MAX} steps: report it, with the output of --verbose")]
    Endless { table: String },
    #[error("{table} has another key or other columns than 0001_trace_tables.up.sql gives it; compare the two")]
    Foreign { table: String },
    #[error(
        "not set: TRACEBILITY_CLICKHOUSE_REGISTRY_DSN, the URL of Postgres as ClickHouse reaches it. There are rows in \
             {tables}, and the registry knows to which orgs they belong"
    )]
    NoRegistry { tables: String },
    #[error("{table} had no rows when this began, and has some now. Nothing was swapped; run it again")]
    RowsArrived { table: String },
    #[error("the registry's URL cannot be used: {reason}")]
    RegistryUrl { reason: String },
    #[error("ClickHouse could not read the registry at {host}:{port} (TRACEBILITY_CLICKHOUSE_REGISTRY_DSN): {message}")]
    Registry { host: String, port: u16, message: String },
    #[error(
        "nothing was swapped. Rows of projects that are in no org: {orphans}. Create these projects, or run it again with \
             --leave-orphans to leave their rows behind in the *_v1 tables"
    )]
    Orphans { orphans: String },
    #[error(
        "{from} and {into} differ in partition {partition}: {from_rows} rows and {into_rows}. Nothing was swapped or \
             dropped; run it again"
    )]
    Unproven { from: String, into: String, partition: String, from_rows: u64, into_rows: u64 },
    #[error("inserts into {table} that began before it was closed still run after {} s: {queries}. Nothing was swapped, {table} \
             takes rows again; run it again when they have ended", INSERTS_WAIT_MAX.as_secs())]
    InsertsRunning { table: String, queries: String },
    #[error(
        "{table} has rows, and bringing them over is possible on one node only: run this migration without --cluster on a node \
             that holds them all, and make its tables replicated afterwards (ATTACH TABLE … AS REPLICATED)"
    )]
    RowsOnCluster { table: String },
}

/// Rebuilds the tables of one migration.
pub(super) struct Rebuild<'a> {
    direction: Direction,
    options: &'a Options,
    /// Where to read the projects' orgs; `None` when there are no rows to copy.
    registry: Option<Registry>,
}

impl<'a> Rebuild<'a> {
    /// Checks, before anything is changed, whether there are rows to copy in these tables, and whether they can be
    /// copied.
    pub(super) async fn prepare(
        session: &mut Session<'_>,
        tables: &[&str],
        direction: Direction,
        options: &'a Options,
    ) -> Result<Self, RebuildError> {
        let source = match direction {
            Direction::Up => Layout::Old,
            Direction::Down => Layout::New,
        };
        if tables.is_empty() {
            return Ok(Self { direction, options, registry: None });
        }
        let names: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
        let seen = read_tables(session, &names).await?;
        let with_rows = |(_, seen): &(&&str, &TableState)| seen.layout == source && seen.rows > 0;
        let filled: Vec<&str> = tables.iter().zip(&seen).filter(with_rows).map(|(table, _)| *table).collect();
        if seen.iter().any(|seen| seen.layout == source) {
            // A database user who may not read these tables would otherwise fail in the middle.
            session.row::<u64>("SELECT count() FROM system.processes, system.parts WHERE 1 = 0", &[]).await?;
        }
        for (table, seen) in names.iter().zip(&seen) {
            if seen.is_closed {
                // A run was killed while the table was closed. Writers may go on until this run closes it again, or
                // fails.
                open(session, table).await?;
            }
        }
        let mut rebuild = Self { direction, options, registry: None };
        if let Some(cluster) = &options.cluster {
            refuse_rows_on(session, cluster, filled.first().copied(), &names).await?;
        }
        if direction == Direction::Up && !filled.is_empty() {
            let dsn = options.registry_dsn.as_deref();
            let dsn = dsn.ok_or_else(|| RebuildError::NoRegistry { tables: filled.join(", ") })?;
            let registry = Registry::parse(dsn)?;
            registry.load(session).await?;
            refuse_orphans(session, &filled, None, options).await?;
            rebuild.registry = Some(registry);
        }
        Ok(rebuild)
    }

    /// Takes one table from any state to the end of this direction.
    pub(super) async fn run(&self, session: &mut Session<'_>, table: &str) -> Result<(), RebuildError> {
        let names = [table.to_owned(), name(table, Alternate::Next), name(table, Alternate::Kept)];
        for _ in 0..STEPS_MAX {
            let [live, next, kept] = read_exact_tables(session, &names).await?;
            let tables = Tables { live: live.layout, next: next.layout, kept: kept.layout };
            let seen = |alternate| if alternate == Alternate::Next { next } else { kept };
            match next_action(self.direction, tables) {
                None => return Err(RebuildError::Unexpected { table: table.to_owned(), tables: tables.to_string() }),
                Some(Action::Fill(alternate)) => self.fill(session, table, alternate, [live, seen(alternate)]).await?,
                Some(Action::Keep) => session.change(&renaming(table)).await?,
                Some(Action::Drop(alternate)) => {
                    drop_covered(session, table, alternate, [live, seen(alternate)]).await?
                }
                // The live table accepts rows, and the old one that is kept refuses them.
                Some(Action::Done) => {
                    if live.is_closed {
                        open(session, table).await?;
                    }
                    if kept.layout != Layout::Absent && !kept.is_closed {
                        close(session, &names[2]).await?;
                    }
                    return Ok(());
                }
            }
        }
        Err(RebuildError::Endless { table: table.to_owned() })
    }

    /// Removes what only this migration needs, after the last table and after a failure.
    pub(super) async fn clean_up(session: &mut Session<'_>) -> Result<(), RebuildError> {
        dictionary::forget(session).await
    }

    /// Copies every row of the live table into the other one, and exchanges the two.
    async fn fill(
        &self,
        session: &mut Session<'_>,
        table: &str,
        alternate: Alternate,
        [live, other]: [TableState; 2],
    ) -> Result<(), RebuildError> {
        let target = name(table, alternate);
        if other.is_closed {
            // It was closed while it was the old table.
            open(session, &target).await?;
        }
        let mut copy = Copy::new(table, &target, self.registry.is_some());
        if live.rows > 0 {
            copy.plan(session, alternate == Alternate::Kept).await?;
            for round in 1..=ROUNDS_MAX {
                self.reload(session).await?;
                if copy.round(session, &format!("round {round}")).await? <= ROWS_LEFT_MAX {
                    break;
                }
            }
            copy.prove_ahead(session, self.proof()).await?;
        }
        let closed = Instant::now();
        close(session, table).await?;
        match self.fill_closed(session, table, &target, &mut copy).await {
            Ok(rows) => {
                let waited = closed.elapsed().as_millis();
                session.say(&format!("{table}: swapped with {rows} rows; it took no inserts for {waited} ms"));
                Ok(())
            }
            Err(RebuildError::Failed(Failure::LockLost(error))) => Err(RebuildError::Failed(Failure::LockLost(error))),
            Err(error) => {
                // If this fails as well, the next run opens the table or exchanges it; the first error is the one to
                // report.
                _ = open(session, table).await;
                Err(error)
            }
        }
    }

    /// The steps that are done while writers are refused.
    async fn fill_closed(
        &self,
        session: &mut Session<'_>,
        table: &str,
        target: &str,
        copy: &mut Copy,
    ) -> Result<u64, RebuildError> {
        wait_for_inserts(session, table).await?;
        let [live, other] = read_exact_tables(session, &[table.to_owned(), target.to_owned()]).await?;
        if let Some(cluster) = &self.options.cluster {
            refuse_rows_on(session, cluster, None, &[table.to_owned()]).await?;
        }
        if live.rows + other.rows > 0 {
            copy.plan(session, self.direction == Direction::Down).await?;
            if self.direction == Direction::Up {
                if self.registry.is_none() {
                    return Err(RebuildError::RowsArrived { table: table.to_owned() });
                }
                self.reload(session).await?;
                let partitions = copy.unproven_partitions(session).await?;
                refuse_orphans(session, &[table], Some(&partitions), self.options).await?;
            }
            copy.round(session, "last round").await?;
            copy.prove(session, self.proof()).await?;
        }
        session.change(&exchanging(table, target)).await?;
        Ok(live.rows)
    }

    /// `up` fills a table that it made itself. `down` goes back to a table that may have more rows: rows that stayed
    /// behind, or that were deleted since.
    const fn proof(&self) -> Proof {
        match self.direction {
            Direction::Up => Proof::Equal,
            Direction::Down => Proof::Covered,
        }
    }

    /// Loads the dictionary again, because projects can be made while rows are copied.
    async fn reload(&self, session: &mut Session<'_>) -> Result<(), RebuildError> {
        match &self.registry {
            Some(registry) => registry.load(session).await,
            None => Ok(()),
        }
    }
}

/// Drops the table beside the live one. If it has rows, each must be found in the live table first.
async fn drop_covered(
    session: &mut Session<'_>,
    table: &str,
    alternate: Alternate,
    [live, other]: [TableState; 2],
) -> Result<(), RebuildError> {
    let spare = name(table, alternate);
    if other.rows > 0 {
        let mut copy = Copy::new(&spare, table, false);
        copy.plan(session, live.layout == Layout::Old).await?;
        copy.prove(session, Proof::KeysCovered).await?;
        session.say(&format!("{spare}: dropping {} rows, each of which is in {table}", other.rows));
    }
    session.change(&dropping(&spare)).await?;
    Ok(())
}

async fn close(session: &mut Session<'_>, table: &str) -> Result<(), RebuildError> {
    Ok(session.change(&closing(table)).await?)
}

async fn open(session: &mut Session<'_>, table: &str) -> Result<(), RebuildError> {
    Ok(session.change(&opening(table)).await?)
}

/// The statements that are sent beside the copying, for a table in the normal state.
pub(super) fn changes(table: &str, direction: Direction) -> Vec<String> {
    let [next, kept] = [Alternate::Next, Alternate::Kept].map(|alternate| name(table, alternate));
    match direction {
        Direction::Up => vec![closing(table), exchanging(table, &next), renaming(table)],
        Direction::Down => vec![opening(&kept), closing(table), exchanging(table, &kept), dropping(&kept)],
    }
}

fn closing(table: &str) -> String {
    format!("ALTER TABLE {table} ADD CONSTRAINT IF NOT EXISTS {CLOSED} CHECK 0")
}

fn opening(table: &str) -> String {
    format!("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {CLOSED}")
}

fn exchanging(table: &str, other: &str) -> String {
    format!("EXCHANGE TABLES {table} AND {other}")
}

fn renaming(table: &str) -> String {
    format!("RENAME TABLE {} TO {}", name(table, Alternate::Next), name(table, Alternate::Kept))
}

fn dropping(table: &str) -> String {
    format!("DROP TABLE {table}")
}

fn name(table: &str, alternate: Alternate) -> String {
    match alternate {
        Alternate::Next => format!("{table}_v2"),
        Alternate::Kept => format!("{table}_v1"),
    }
}

/// What is known of the table with a name.
#[derive(Clone, Copy)]
struct TableState {
    layout: Layout,
    is_closed: bool,
    rows: u64,
}

async fn read_tables(session: &mut Session<'_>, names: &[String]) -> Result<Vec<TableState>, RebuildError> {
    let sql = "SELECT name, startsWith(sorting_key, 'org_id,'), position(create_table_query, {closed:String}) > 0, \
               coalesce(total_rows, 1) FROM system.tables \
               WHERE database = currentDatabase() AND has(splitByChar(',', {names:String}), name)";
    let parameters = [("closed".to_owned(), format!("CONSTRAINT {CLOSED} ")), ("names".to_owned(), names.join(","))];
    let tables: Vec<(String, bool, bool, u64)> = session.rows(sql, &parameters).await?;
    let seen = |name: &String| match tables.iter().find(|(found, ..)| found == name) {
        None => TableState { layout: Layout::Absent, is_closed: false, rows: 0 },
        Some((_, has_org, is_closed, rows)) => {
            TableState { layout: if *has_org { Layout::New } else { Layout::Old }, is_closed: *is_closed, rows: *rows }
        }
    };
    Ok(names.iter().map(seen).collect())
}

/// The same, for a fixed number of names.
async fn read_exact_tables<const N: usize>(
    session: &mut Session<'_>,
    names: &[String; N],
) -> Result<[TableState; N], RebuildError> {
    let seen = read_tables(session, names).await?;
    Ok(std::array::from_fn(|at| seen[at]))
}

/// Refuses tables that have rows on any node of a cluster, or that are known to have some here.
async fn refuse_rows_on(
    session: &mut Session<'_>,
    cluster: &ClusterName,
    known: Option<&str>,
    names: &[String],
) -> Result<(), RebuildError> {
    // The name was checked when it was parsed.
    let sql = format!(
        "SELECT name FROM clusterAllReplicas('{}', system.tables) WHERE database = {{database:String}} \
         AND has(splitByChar(',', {{names:String}}), name) AND coalesce(total_rows, 1) > 0 LIMIT 1",
        cluster.as_str()
    );
    let table = match known {
        Some(table) => Some(table.to_owned()),
        None => {
            let database: String = session.row("SELECT currentDatabase()", &[]).await?;
            let parameters = [("database".to_owned(), database), ("names".to_owned(), names.join(","))];
            session.rows(&sql, &parameters).await?.into_iter().next()
        }
    };
    table.map_or(Ok(()), |table| Err(RebuildError::RowsOnCluster { table }))
}

/// Rows of one table whose projects belong to no org.
#[derive(Row, Deserialize)]
struct Orphans {
    rows: u64,
    projects: u64,
    named: Vec<String>,
}

/// Refuses rows whose project the registry does not know, unless they may stay behind. Looks at these partitions only,
/// or at all.
async fn refuse_orphans(
    session: &mut Session<'_>,
    tables: &[&str],
    partitions: Option<&[String]>,
    options: &Options,
) -> Result<(), RebuildError> {
    let only = if partitions.is_some() { "has(splitByChar(',', {partitions:String}), _partition_id) AND " } else { "" };
    let partitions = [("partitions".to_owned(), partitions.unwrap_or_default().join(","))];
    let mut orphans = Vec::new();
    for table in tables {
        let sql = format!(
            "SELECT count() AS rows, uniqExact(project_id) AS projects, \
             arraySort(groupUniqArray({ORPHANS_NAMED_MAX})(toString(project_id))) AS named \
             FROM {table} WHERE {only}NOT dictHas('project_tenant_dict', tuple(project_id))"
        );
        let Orphans { rows, projects, named } = session.row(&sql, &partitions).await?;
        if rows > 0 {
            let (more, named) = (if projects > named.len() as u64 { ", …" } else { "" }, named.join(", "));
            orphans.push(format!("{table}: {rows} rows of {projects} projects ({named}{more})"));
        }
    }
    if orphans.is_empty() {
        return Ok(());
    }
    let orphans = orphans.join("; ");
    if options.leave_orphans {
        session.say(&format!("left behind in *_v1, because no org has their project: {orphans}"));
        return Ok(());
    }
    Err(RebuildError::Orphans { orphans })
}

/// Waits for every insert that may have begun before the table was closed. Later ones are refused.
async fn wait_for_inserts(session: &mut Session<'_>, table: &str) -> Result<(), RebuildError> {
    let of_table = [("table".to_owned(), table.to_owned())];
    let sql = "SELECT query_id FROM system.processes WHERE query_kind IN ('Insert', 'AsyncInsertFlush') \
               AND position(query, {table:String}) > 0";
    let mut begun: Vec<String> = session.rows(sql, &of_table).await?;
    let since = Instant::now();
    while !begun.is_empty() {
        if since.elapsed() > INSERTS_WAIT_MAX {
            return Err(RebuildError::InsertsRunning { table: table.to_owned(), queries: begun.join(", ") });
        }
        tokio::time::sleep(INSERTS_POLL_EVERY).await;
        let running: Vec<String> = session.rows("SELECT query_id FROM system.processes", &[]).await?;
        begun.retain(|query| running.contains(query));
    }
    Ok(())
}
