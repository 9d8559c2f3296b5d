//! Migrations of Postgres: one connection, one lock, one transaction per migration.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};

use super::statements::{self, Backslash};
use super::{Applied, MigrateError, Migration, Outcome, Store, newest, pending};

/// How long to try to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for another process that is migrating, in milliseconds.
const LOCK_WAIT_MAX_MS: u32 = 600_000;
/// How long a statement of a migration waits for a table that others use, in milliseconds. While it waits, everyone
/// else waits behind it.
const TABLE_LOCK_WAIT_MAX_MS: u32 = 10_000;
/// The key of the advisory lock; any number that no other program uses in this database.
const LOCK_KEY: i64 = 0x7472_6163_6562_696c;

const CREATE_JOURNAL: &str = "\
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version integer PRIMARY KEY,
        name text NOT NULL,
        checksum text NOT NULL,
        dirty boolean NOT NULL DEFAULT false,
        applied_at timestamptz NOT NULL DEFAULT now()
    )";

/// A connection that migrates, or is asked for the version.
pub(super) struct Database {
    connection: PgConnection,
}

impl Database {
    pub(super) async fn connect(dsn: &str) -> Result<Self, MigrateError> {
        let url = |reason: String| MigrateError::Url { store: Store::Postgres, reason };
        if !dsn.starts_with("postgres://") && !dsn.starts_with("postgresql://") {
            return Err(url("it must start with postgres://".to_owned()));
        }
        let options = PgConnectOptions::from_str(dsn).map_err(|error| url(error.to_string()))?;
        let options = options.application_name("tracebility-migrate");
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await;
        let failed = |message| MigrateError::Store { store: Store::Postgres, what: "connect", message };
        match connecting {
            Ok(Ok(connection)) => Ok(Self { connection }),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_elapsed) => Err(failed(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    /// Waits until no other process migrates this database; holds the lock until the connection is closed.
    pub(super) async fn lock(&mut self) -> Result<(), MigrateError> {
        self.lock_timeout(LOCK_WAIT_MAX_MS).await?;
        let locked = sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK_KEY).execute(&mut self.connection).await;
        locked.map_err(|error| failed("wait for another migration to end", &error))?;
        self.lock_timeout(TABLE_LOCK_WAIT_MAX_MS).await
    }

    async fn lock_timeout(&mut self, wait_max_ms: u32) -> Result<(), MigrateError> {
        let set = sqlx::query("SELECT set_config('lock_timeout', $1, false)").bind(wait_max_ms.to_string());
        set.execute(&mut self.connection).await.map_err(|error| failed("set a lock timeout", &error))?;
        Ok(())
    }

    /// Applies what is missing. Call [`Self::lock`] first.
    pub(super) async fn up(&mut self, migrations: &'static [Migration]) -> Result<Outcome, MigrateError> {
        let created = sqlx::query(CREATE_JOURNAL).execute(&mut self.connection).await;
        created.map_err(|error| failed("create the journal", &error))?;
        let journal = self.journal().await?;
        if let Some(dirty) = journal.iter().find(|applied| applied.dirty) {
            return Err(MigrateError::Dirty { version: dirty.version });
        }
        let mut version = newest(journal.clone()).map_or(0, |applied| applied.version);
        let mut applied = Vec::new();
        for migration in pending(Store::Postgres, migrations, &journal)? {
            self.apply(migration).await?;
            applied.push(migration.file);
            version = migration.version;
        }
        Ok(Outcome { store: Store::Postgres, applied, version })
    }

    /// What was applied, oldest first; empty when nothing ever was.
    pub(super) async fn journal(&mut self) -> Result<Vec<Applied>, MigrateError> {
        self.read_journal().await.map_err(|error| failed("read the journal", &error))
    }

    async fn read_journal(&mut self) -> Result<Vec<Applied>, sqlx::Error> {
        let exists = sqlx::query("SELECT to_regclass('schema_migrations') IS NOT NULL AS found");
        if !exists.fetch_one(&mut self.connection).await?.try_get("found")? {
            return Ok(Vec::new());
        }
        let rows = sqlx::query("SELECT version, name, checksum, dirty FROM schema_migrations ORDER BY version")
            .fetch_all(&mut self.connection)
            .await?;
        rows.iter()
            .map(|row| {
                let version = u32::try_from(row.try_get::<i32, _>("version")?).unwrap_or(0);
                let (name, checksum) = (row.try_get("name")?, row.try_get("checksum")?);
                Ok(Applied { version, name, checksum, dirty: row.try_get("dirty")? })
            })
            .collect()
    }

    /// One migration and its line in the journal, both or neither.
    async fn apply(&mut self, migration: &'static Migration) -> Result<(), MigrateError> {
        let mut transaction = self.connection.begin().await.map_err(|error| failed("begin", &error))?;
        for statement in statements::split(migration.up, Backslash::IsPlain) {
            // The simple protocol: a statement without parameters, and DDL that cannot be prepared.
            let done = sqlx::raw_sql(statement.sql).execute(&mut *transaction).await;
            done.map_err(|error| MigrateError::Statement {
                file: migration.file,
                number: statement.number,
                first_line: statement.first_line(),
                message: server_message(&error),
            })?;
        }
        sqlx::query("INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)")
            .bind(i64::from(migration.version))
            .bind(migration.name)
            .bind(migration.checksum())
            .execute(&mut *transaction)
            .await
            .map_err(|error| failed("write the journal", &error))?;
        transaction.commit().await.map_err(|error| failed("commit", &error))
    }

    /// Gives the lock back.
    pub(super) async fn close(self) -> Result<(), MigrateError> {
        self.connection.close().await.map_err(|error| failed("close", &error))
    }
}

fn failed(what: &'static str, error: &sqlx::Error) -> MigrateError {
    MigrateError::Store { store: Store::Postgres, what, message: server_message(error) }
}

/// What the server said, with its detail and hint.
fn server_message(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error() else { return error.to_string() };
    let mut message = database.message().to_owned();
    if let Some(postgres) = database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        for more in [postgres.detail(), postgres.hint()].into_iter().flatten() {
            message = message + "; " + more;
        }
    }
    message
}
