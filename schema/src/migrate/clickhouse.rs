//! Migrations of ClickHouse, over its HTTP interface: statement by statement, each of which may be repeated.

// Changes tables as a whole; no org's rows pass through here.
#![allow(clippy::disallowed_types)]

use clickhouse::Client;
use percent_encoding::percent_decode_str;
use url::Url;

use super::statements::{self, Backslash};
use super::{Applied, MigrateError, Migration, Outcome, Store, newest, pending};

/// The code of "database does not exist".
const UNKNOWN_DATABASE: &str = "Code: 81.";

const CREATE_JOURNAL: &str = "\
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version UInt32,
        name String,
        checksum String,
        dirty Bool,
        applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
    ) ENGINE = ReplacingMergeTree(applied_at) ORDER BY version";

/// A database that is migrated, or asked for its version.
pub(super) struct Database {
    client: Client,
    name: String,
}

impl Database {
    /// Reads `http://user:password@host:8123/database`. No I/O.
    pub(super) fn new(url: &str) -> Result<Self, MigrateError> {
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
        let mut client = Client::default().with_url(format!("http://{host}:{}/", url.port().unwrap_or(8123)));
        if !url.username().is_empty() {
            client =
                client.with_user(decode(url.username())?).with_password(decode(url.password().unwrap_or_default())?);
        }
        Ok(Self { client, name })
    }

    /// Applies what is missing; creates the database first when it is missing.
    pub(super) async fn up(&self, migrations: &'static [Migration]) -> Result<Outcome, MigrateError> {
        self.ensure_database().await?;
        self.run(CREATE_JOURNAL).await.map_err(|error| failed("create the journal", &error))?;
        let journal = self.journal().await?;
        let mut version = newest(journal.clone()).map_or(0, |applied| applied.version);
        let mut applied = Vec::new();
        for migration in pending(Store::Clickhouse, migrations, &journal)? {
            self.apply(migration).await?;
            applied.push(migration.file);
            version = migration.version;
        }
        Ok(Outcome { store: Store::Clickhouse, applied, version })
    }

    /// What was applied, oldest first; empty when nothing ever was, or when there is no such database.
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
            .query_raw("SELECT version, name, checksum, dirty FROM schema_migrations FINAL ORDER BY version")
            .fetch_all::<(u32, String, String, bool)>()
            .await
            .map_err(|error| failed("read the journal", &error))?;
        let applied = |(version, name, checksum, dirty)| Applied { version, name, checksum, dirty };
        Ok(rows.into_iter().map(applied).collect())
    }

    /// Dirty, every statement, clean. Killed in between, it is dirty and runs again from its first statement.
    async fn apply(&self, migration: &'static Migration) -> Result<(), MigrateError> {
        self.mark(migration, true).await?;
        for statement in statements::split(migration.up, Backslash::Escapes) {
            self.run(statement.sql).await.map_err(|error| MigrateError::Statement {
                file: migration.file,
                number: statement.number,
                first_line: statement.first_line(),
                message: error.to_string(),
            })?;
        }
        self.mark(migration, false).await
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

    async fn ensure_database(&self) -> Result<(), MigrateError> {
        match self.run("SELECT 1").await {
            Ok(()) => Ok(()),
            Err(error) if error.to_string().contains(UNKNOWN_DATABASE) => {
                // The name was checked to be letters, digits and _.
                let create = format!("CREATE DATABASE IF NOT EXISTS `{}`", self.name);
                let created = self.client.query_raw(&create).execute().await;
                created.map_err(|error| failed("create the database", &error))
            }
            Err(error) => Err(failed("connect", &error)),
        }
    }

    async fn run(&self, sql: &'static str) -> Result<(), clickhouse::error::Error> {
        self.in_database().query_raw(sql).execute().await
    }

    fn in_database(&self) -> Client {
        self.client.clone().with_database(&self.name)
    }
}

fn failed(what: &'static str, error: &clickhouse::error::Error) -> MigrateError {
    MigrateError::Store { store: Store::Clickhouse, what, message: error.to_string() }
}
