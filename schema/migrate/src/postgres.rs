//! Runs migrations of Postgres: one connection, one lock, one transaction per migration.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};

use super::statements::Backslash;
use super::{Applied, Direction, MigrateError, Migration, Options, Store, statements};

/// How long to try to connect, and how long the lock's connection may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for another process that migrates, in milliseconds.
const LOCK_WAIT_MAX_MS: u32 = 600_000;
/// How long a statement of a migration waits for a table that others use, in milliseconds. While it waits, all later
/// statements on that table wait behind it.
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
const WRITE_LINE: &str = "\
    INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)
        ON CONFLICT (version) DO UPDATE SET name = excluded.name, checksum = excluded.checksum, dirty = false";

const REMOVE_LINE: &str = "DELETE FROM schema_migrations WHERE version = $1";
const REMOVE_LATER_LINES: &str = "DELETE FROM schema_migrations WHERE version > $1";

/// A connection to Postgres: it runs migrations, holds the lock, or reads the version.
pub(super) struct Database {
    connection: PgConnection,
    options: Options,
}

impl Database {
    pub(super) async fn connect(dsn: &str, options: &Options) -> Result<Self, MigrateError> {
        let url = |reason: String| MigrateError::Url { store: Store::Postgres, reason };
        if !dsn.starts_with("postgres://") && !dsn.starts_with("postgresql://") {
            return Err(url("it must start with postgres://".to_owned()));
        }
        let connect = PgConnectOptions::from_str(dsn).map_err(|error| url(error.to_string()))?;
        let connect = connect.application_name("tracebility-migrate");
        let connection = in_time("connect", PgConnection::connect_with(&connect)).await?;
        Ok(Self { connection, options: options.clone() })
    }

    /// Waits until no other process migrates, then holds the lock until the connection is closed.
    pub(super) async fn lock(&mut self) -> Result<(), MigrateError> {
        let free = sqlx::query("SELECT pg_try_advisory_lock($1) AS locked").bind(LOCK_KEY);
        let free = free.fetch_one(&mut self.connection).await.and_then(|row| row.try_get("locked"));
        if !free.map_err(|error| failed("take the lock", &error))? {
            (self.options.progress)("waiting for another process that migrates");
            self.lock_timeout(LOCK_WAIT_MAX_MS).await?;
            let locked = sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK_KEY).execute(&mut self.connection).await;
            locked.map_err(|error| failed("wait for another process that migrates", &error))?;
        }
        self.lock_timeout(TABLE_LOCK_WAIT_MAX_MS).await
    }

    /// Fails if the connection, and with it the lock, is lost.
    pub(super) async fn still_held(&mut self) -> Result<(), MigrateError> {
        in_time("keep the lock", sqlx::query("SELECT 1").execute(&mut self.connection)).await.map(drop)
    }

    async fn lock_timeout(&mut self, wait_max_ms: u32) -> Result<(), MigrateError> {
        let set = sqlx::query("SELECT set_config('lock_timeout', $1, false)").bind(wait_max_ms.to_string());
        set.execute(&mut self.connection).await.map_err(|error| failed("set a lock timeout", &error))?;
        Ok(())
    }

    /// Makes the journal if it is missing.
    pub(super) async fn prepare(&mut self) -> Result<(), MigrateError> {
        let created = sqlx::query(CREATE_JOURNAL).execute(&mut self.connection).await;
        created.map_err(|error| failed("create the journal", &error)).map(drop)
    }

    /// The applied migrations, oldest first; empty when none was ever applied.
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

    /// Runs one migration and writes its line in the journal, in one transaction.
    pub(super) async fn run(&mut self, migration: &Migration, direction: Direction) -> Result<(), MigrateError> {
        let file = migration.file(direction);
        let statements = statements::split(migration.sql(direction), Backslash::IsPlain);
        let mut transaction = self.connection.begin().await.map_err(|error| failed("begin", &error))?;
        for statement in &statements {
            self.options.sending(file, statement, statements.len());
            // The simple protocol, because these are statements without parameters, and DDL that cannot be prepared.
            let done = sqlx::raw_sql(statement.sql).execute(&mut *transaction).await;
            done.map_err(|error| MigrateError::Statement {
                file,
                number: statement.number,
                first_line: statement.first_line(),
                message: server_message(&error),
            })?;
        }
        let written = match direction {
            Direction::Up => write_line(&mut transaction, migration).await,
            Direction::Down => remove_lines(&mut transaction, REMOVE_LINE, migration.version).await,
        };
        written.map_err(|error| failed("write the journal", &error))?;
        transaction.commit().await.map_err(|error| failed("commit", &error))
    }

    /// Makes the journal say that `version` and all before it are applied, and nothing else.
    pub(super) async fn force(&mut self, migrations: &'static [Migration], version: u32) -> Result<(), MigrateError> {
        let forced = async {
            let mut transaction = self.connection.begin().await?;
            for migration in migrations.iter().filter(|migration| migration.version <= version) {
                write_line(&mut transaction, migration).await?;
            }
            remove_lines(&mut transaction, REMOVE_LATER_LINES, version).await?;
            transaction.commit().await
        };
        forced.await.map_err(|error| failed("write the journal", &error))
    }

    /// Releases the lock and closes the connection.
    pub(super) async fn close(self) -> Result<(), MigrateError> {
        self.connection.close().await.map_err(|error| failed("close", &error))
    }
}

/// The statements that a migration would send.
pub(super) fn statements(migration: &Migration, direction: Direction) -> Vec<String> {
    let statements = statements::split(migration.sql(direction), Backslash::IsPlain);
    statements.iter().map(|statement| statement.sql.to_owned()).collect()
}

async fn write_line(connection: &mut PgConnection, migration: &Migration) -> Result<(), sqlx::Error> {
    let line = sqlx::query(WRITE_LINE).bind(i64::from(migration.version)).bind(migration.name);
    line.bind(migration.checksum()).execute(connection).await.map(drop)
}

async fn remove_lines(connection: &mut PgConnection, sql: &'static str, version: u32) -> Result<(), sqlx::Error> {
    sqlx::query(sql).bind(i64::from(version)).execute(connection).await.map(drop)
}

async fn in_time<T>(
    what: &'static str,
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, MigrateError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(answer) => answer.map_err(|error| failed(what, &error)),
        Err(_elapsed) => {
            let message = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            Err(MigrateError::Store { store: Store::Postgres, what, message })
        }
    }
}

fn failed(what: &'static str, error: &sqlx::Error) -> MigrateError {
    MigrateError::Store { store: Store::Postgres, what, message: server_message(error) }
}

/// The server's message with its detail and hint.
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
