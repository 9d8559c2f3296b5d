//! Runs migrations of ClickHouse over its HTTP interface, statement by statement. Each statement may be repeated.

// Migrations change whole tables; no rows of single orgs pass through here.
#![allow(clippy::disallowed_types)]

use std::time::{Duration, Instant};

use clickhouse::Client;
use percent_encoding::percent_decode_str;
use url::Url;

use super::rebuild::{Rebuild, RebuildError};
use super::session::{Failure, Session};
use super::statements::{Backslash, Statement};
use super::{Applied, Direction, MigrateError, Migration, Options, Store, cluster, postgres, rebuild, statements};

/// The code of "database does not exist".
const UNKNOWN_DATABASE: &str = "Code: 81.";
/// Marks every statement of every run, so that a later run finds the statements of a killed run that are still running.
const COMMENT: &str = "tracebility-migrate";
/// How long to wait for such statements. Copying is cut into statements of a few seconds.
const LEFT_AT_WORK_MAX: Duration = Duration::from_secs(600);
const LEFT_AT_WORK_POLL: Duration = Duration::from_millis(50);
/// How the one statement begins that is not SQL; the name of a table follows.
const REBUILD: &str = "REBUILD ";

const CREATE_JOURNAL: &str = "\
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version UInt32,
        name String,
        checksum String,
        dirty Bool,
        removed Bool DEFAULT false,
        applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
    ) ENGINE = ReplacingMergeTree(applied_at) ORDER BY version";

/// A ClickHouse database that is migrated, or asked for its version.
pub(super) struct Database {
    client: Client,
    name: String,
    options: Options,
}

impl Database {
    /// Parses `http://user:password@host:8123/database`. Does no I/O.
    pub(super) fn new(url: &str, options: &Options) -> Result<Self, MigrateError> {
        let refused = |reason: &str| MigrateError::Url { store: Store::Clickhouse, reason: reason.to_owned() };
        let url = Url::parse(url).map_err(|error| refused(&error.to_string()))?;
        let name = url.path().trim_matches('/').to_owned();
        if url.scheme() != "http" {
            return Err(refused("it must start with http://"));
        }
        let Some(host) = url.host_str() else { return Err(refused("it names no host")) };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(refused("it must end in a database of letters, digits and _"));
        }
        let decode = |text| percent_decode_str(text).decode_utf8().map_err(|_| refused("it is not UTF-8"));
        let mut client = Client::default()
            .with_url(format!("http://{host}:{}/", url.port().unwrap_or(8123)))
            .with_setting("log_comment", COMMENT);
        if !url.username().is_empty() {
            client =
                client.with_user(decode(url.username())?).with_password(decode(url.password().unwrap_or_default())?);
        }
        Ok(Self { client, name, options: options.clone() })
    }

    /// Waits until no statement of a killed run is still running. The lock was released when that run died, but the
    /// server goes on with the run's last statement: for example an exchange of tables, which this run would then
    /// repeat.
    pub(super) async fn settle(&self) -> Result<(), MigrateError> {
        let begun = Instant::now();
        loop {
            let left: Vec<String> = self
                .client
                .query_raw(
                    "SELECT toString(query_kind) FROM system.processes WHERE Settings['log_comment'] = {comment:String} \
                     AND current_database = {db:String} AND query_kind != 'Select' LIMIT 1",
                )
                .param("comment", COMMENT)
                .param("db", &self.name)
                .fetch_all()
                .await
                .map_err(|error| failed("look for statements of an earlier run", &error))?;
            // The text of the statement is not shown, because it may contain a password.
            let Some(kind) = left.first() else { return Ok(()) };
            if begun.elapsed() > LEFT_AT_WORK_MAX {
                let seconds = LEFT_AT_WORK_MAX.as_secs();
                let message = format!("after {seconds} s it is still at work ({kind}); run it again later");
                return Err(failed_to("wait for the last statement of an earlier run", message));
            }
            (self.options.progress)(&format!("waiting for the last statement of an earlier run ({kind})"));
            tokio::time::sleep(LEFT_AT_WORK_POLL).await;
        }
    }

    /// Makes the database and its journal if they are missing.
    pub(super) async fn prepare(&self) -> Result<(), MigrateError> {
        self.ensure_database().await?;
        let journal = cluster::rewrite_journal(CREATE_JOURNAL, self.options.cluster.as_ref());
        let created = self.in_database().query_raw(&journal).execute().await;
        created.map_err(|error| failed("create the journal", &error))
    }

    /// The applied migrations, oldest first; empty when none was ever applied, or when the database does not exist.
    pub(super) async fn journal(&self) -> Result<Vec<Applied>, MigrateError> {
        let exists = self
            .client
            .query_raw("SELECT count() FROM system.tables WHERE database = {db:String} AND name = 'schema_migrations'")
            .param("db", &self.name)
            .fetch_one::<u64>()
            .await;
        if exists.map_err(|error| failed("look for the journal", &error))? == 0 {
            return Ok(Vec::new());
        }
        let rows = self
            .in_database()
            .query_raw(
                "SELECT version, name, checksum, dirty FROM schema_migrations FINAL \
                 WHERE NOT removed ORDER BY version",
            )
            .fetch_all::<(u32, String, String, bool)>()
            .await
            .map_err(|error| failed("read the journal", &error))?;
        let applied = |(version, name, checksum, dirty)| Applied { version, name, checksum, dirty };
        Ok(rows.into_iter().map(applied).collect())
    }

    /// Marks the migration dirty, runs every statement, then marks it clean or removes its line. A migration that was
    /// killed in between is dirty and runs again from its first statement.
    pub(super) async fn run(
        &self,
        migration: &Migration,
        direction: Direction,
        lock: &mut postgres::Database,
    ) -> Result<(), MigrateError> {
        let file = migration.file(direction);
        let statements = statements::split(migration.sql(direction), Backslash::Escapes);
        let tables: Vec<&str> = statements.iter().filter_map(rebuilt_table).collect();
        let mut session = Session::new(self.in_database(), &self.options, lock);
        // Refuses before the first statement what a later statement would refuse.
        let done = match Rebuild::prepare(&mut session, &tables, direction, &self.options).await {
            Ok(rebuild) => match self.mark(migration, true).await {
                Ok(()) => self.run_statements(&mut session, file, &statements, &rebuild).await,
                Err(error) => Err(error),
            },
            Err(RebuildError::Failed(Failure::LockLost(lost))) => Err(*lost),
            Err(error) => Err(failed_to("bring rows over", format!("{file}: {error}"))),
        };
        if !tables.is_empty() {
            let cleaned = Rebuild::clean_up(&mut session).await;
            // If both fail, the first error is reported; the next run cleans up as well.
            let cleaned = cleaned.map_err(|error| failed_to("drop the dictionary of projects", error.to_string()));
            done.and(cleaned)?;
        } else {
            done?;
        }
        match direction {
            Direction::Up => self.mark(migration, false).await,
            Direction::Down => self.remove_lines("version = {version:UInt32}", migration.version).await,
        }
    }

    async fn run_statements(
        &self,
        session: &mut Session<'_>,
        file: &'static str,
        statements: &[Statement],
        rebuild: &Rebuild<'_>,
    ) -> Result<(), MigrateError> {
        for statement in statements {
            self.options.sending(file, statement, statements.len());
            let done = match rebuilt_table(statement) {
                Some(table) => rebuild.run(session, table).await,
                None => session.change(statement.sql).await.map_err(RebuildError::from),
            };
            done.map_err(|error| of_statement(file, statement, error))?;
        }
        Ok(())
    }

    /// Makes the journal say that `version` and all before it are applied, and nothing else.
    pub(super) async fn force(&self, migrations: &'static [Migration], version: u32) -> Result<(), MigrateError> {
        for migration in migrations.iter().filter(|migration| migration.version <= version) {
            self.mark(migration, false).await?;
        }
        self.remove_lines("version > {version:UInt32}", version).await
    }

    /// The statements that a migration would send. A table that is rebuilt is one element: between its listed changes,
    /// rows are copied, and how depends on the rows.
    pub(super) fn statements(&self, migration: &Migration, direction: Direction) -> Vec<String> {
        let rewrite = |sql: &str| cluster::rewrite(sql, self.options.cluster.as_ref());
        let describe = |statement: &Statement| match rebuilt_table(statement) {
            None => rewrite(statement.sql),
            Some(table) => {
                let changes = rebuild::changes(table, direction);
                let changes: String = changes.iter().map(|sql| format!("\n    -- {}", rewrite(sql))).collect();
                format!("{}\n    -- copies its rows, if it has any, and sends{changes}", statement.sql)
            }
        };
        statements::split(migration.sql(direction), Backslash::Escapes).iter().map(describe).collect()
    }

    async fn mark(&self, migration: &Migration, dirty: bool) -> Result<(), MigrateError> {
        self.in_database()
            .query_raw(
                "INSERT INTO schema_migrations (version, name, checksum, dirty) \
                 SELECT {version:UInt32}, {name:String}, {checksum:String}, {dirty:Bool}",
            )
            .param("version", migration.version)
            .param("name", migration.name)
            .param("checksum", migration.checksum())
            .param("dirty", dirty)
            .execute()
            .await
            .map_err(|error| failed("write the journal", &error))
    }

    /// Lines are never deleted; a newer line says that the older one no longer counts.
    async fn remove_lines(&self, which: &'static str, version: u32) -> Result<(), MigrateError> {
        let sql = format!(
            "INSERT INTO schema_migrations (version, name, checksum, dirty, removed) \
             SELECT version, name, checksum, false, true FROM schema_migrations FINAL WHERE NOT removed AND {which}"
        );
        let removed = self.in_database().query_raw(&sql).param("version", version).execute().await;
        removed.map_err(|error| failed("write the journal", &error))
    }

    async fn ensure_database(&self) -> Result<(), MigrateError> {
        match self.in_database().query_raw("SELECT 1").execute().await {
            Ok(()) => Ok(()),
            Err(error) if error.to_string().contains(UNKNOWN_DATABASE) => {
                // An earlier check allows only letters, digits and `_` in the name.
                let create = format!("CREATE DATABASE IF NOT EXISTS `{}`", self.name);
                let create = cluster::rewrite(&create, self.options.cluster.as_ref());
                let created = self.client.query_raw(&create).execute().await;
                created.map_err(|error| failed("create the database", &error))
            }
            Err(error) => Err(failed("connect", &error)),
        }
    }

    fn in_database(&self) -> Client {
        self.client.clone().with_database(&self.name)
    }
}

/// The table that a `REBUILD` names.
fn rebuilt_table(statement: &Statement) -> Option<&'static str> {
    statement.sql.strip_prefix(REBUILD).map(str::trim)
}

fn of_statement(file: &'static str, statement: &Statement, error: RebuildError) -> MigrateError {
    match error {
        RebuildError::Failed(Failure::LockLost(lost)) => *lost,
        error => MigrateError::Statement {
            file,
            number: statement.number,
            first_line: statement.first_line(),
            message: error.to_string(),
        },
    }
}

fn failed(what: &'static str, error: &clickhouse::error::Error) -> MigrateError {
    failed_to(what, error.to_string())
}

fn failed_to(what: &'static str, message: String) -> MigrateError {
    MigrateError::Store { store: Store::Clickhouse, what, message }
}
