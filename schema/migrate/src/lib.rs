//! Migrates Postgres and ClickHouse to the newest schema, or back. The SQL is embedded in the binary.
//!
//! Each database keeps a journal, `schema_migrations`, of the migrations that were applied to it. Postgres runs each
//! migration in one transaction, so it is applied or it is not. ClickHouse has no transactions: a migration is marked
//! dirty before its first statement and clean (or removed) after its last. Each of its statements may be repeated, so a
//! dirty migration is simply run again from its start. An advisory lock in Postgres lets only one process migrate at a
//! time, whichever database it migrates.
//!
//! | module | one idea |
//! | --- | --- |
//! | `options` | which databases, where they are, and how |
//! | `files`, `embedded` | what a directory of migrations looks like; what this binary has of them |
//! | `plan` | what a journal and the embedded migrations come to |
//! | `statements` | a file, statement by statement |
//! | `postgres`, `clickhouse` | how each store runs a migration and keeps its journal |
//! | `rebuild` | a new sorting key for a ClickHouse table that is written to |
//! | `session`, `cluster` | statements to ClickHouse under the lock; the same DDL for a cluster |
//! | `create` | the files of a new migration |
//! | `error` | why it failed |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};

mod clickhouse;
mod cluster;
mod create;
mod embedded;
mod error;
mod files;
mod options;
mod plan;
mod postgres;
mod rebuild;
mod session;
mod statements;

pub use create::create;
pub use embedded::{CLICKHOUSE, POSTGRES};
pub use error::MigrateError;
pub use options::{ClusterName, Count, Direction, Options, Store, Stores, Target};
pub use plan::{Change, JournalChange};
use plan::{newest_applied, newest_of};
use statements::Statement;

/// The journal's table, in either database.
pub const JOURNAL: &str = "schema_migrations";

/// One migration, as embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Number of the migration; migrations are applied in this order.
    pub version: u32,
    /// Name of the migration, without its number.
    pub name: &'static str,
    /// Name of the file with `up`, for messages.
    pub up_file: &'static str,
    /// Name of the file with `down`, for messages.
    pub down_file: &'static str,
    /// The SQL that applies the migration.
    pub up: &'static str,
    /// The SQL that takes the migration back.
    pub down: &'static str,
}

impl Migration {
    /// A digest of `up`, to notice that a file was changed after it was applied.
    pub fn checksum(&self) -> String {
        Blake2b::<U16>::digest(self.up.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Name of the file that is run in that direction.
    pub const fn file(&self, direction: Direction) -> &'static str {
        match direction {
            Direction::Up => self.up_file,
            Direction::Down => self.down_file,
        }
    }

    /// The SQL that is run in that direction.
    pub const fn sql(&self, direction: Direction) -> &'static str {
        match direction {
            Direction::Up => self.up,
            Direction::Down => self.down,
        }
    }

    /// The line that the journal has once the migration is applied.
    fn applied(&self) -> Applied {
        Applied { version: self.version, name: self.name.to_owned(), checksum: self.checksum(), dirty: false }
    }
}

/// One line of a journal: a migration that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Number of the migration.
    pub version: u32,
    /// Name of the migration.
    pub name: String,
    /// Checksum of the migration when it was applied.
    pub checksum: String,
    /// Whether the migration was begun and not finished.
    pub dirty: bool,
}

/// What [`up`] or [`down`] did to one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The database that was migrated.
    pub store: Store,
    /// Names of the files that were run, in order; empty when there was nothing to do.
    pub files: Vec<&'static str>,
    /// The version that the database is at now; 0 when no migration is applied.
    pub version: u32,
    /// The newest migration that this binary has.
    pub newest: u32,
}

/// What [`version`] found in one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The database that was asked.
    pub store: Store,
    /// The newest applied migration; `None` on an empty database.
    pub current: Option<Applied>,
    /// The newest migration that this binary has.
    pub newest: u32,
}

/// A file that [`up`] or [`down`] would run, as [`preview`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The database that the file is for.
    pub store: Store,
    /// Name of the file.
    pub file: &'static str,
    /// The statements that would be sent, in order.
    pub statements: Vec<String>,
}

/// Applies the missing migrations, in order. Does nothing on a database at the newest version or a newer one.
pub async fn up(target: Target, stores: &Stores, options: &Options) -> Result<Vec<Outcome>, MigrateError> {
    change(target, stores, Change::Up, options).await
}

/// Takes back the newest migrations of each database, newest first, and deletes the rows in their tables.
pub async fn down(
    target: Target,
    stores: &Stores,
    count: Count,
    options: &Options,
) -> Result<Vec<Outcome>, MigrateError> {
    change(target, stores, Change::Down(count), options).await
}

/// The statements that [`up`] or [`down`] would send. Changes nothing, and takes no lock.
pub async fn preview(
    target: Target,
    stores: &Stores,
    change: Change,
    options: &Options,
) -> Result<Vec<Preview>, MigrateError> {
    let mut databases = Databases::to_read(target, stores, options).await?;
    let mut previews = Vec::new();
    for store in order(target, change.direction()) {
        for migration in change.of(store, embedded(store), &databases.journal(store).await?)? {
            let statements = databases.statements(store, migration, change.direction());
            previews.push(Preview { store, file: migration.file(change.direction()), statements });
        }
    }
    Ok(previews)
}

/// Reads the version of each database. Changes nothing.
pub async fn version(target: Target, stores: &Stores) -> Result<Vec<Version>, MigrateError> {
    let mut databases = Databases::to_read(target, stores, &Options::default()).await?;
    let mut versions = Vec::new();
    for store in order(target, Direction::Up) {
        let current = newest_applied(&databases.journal(store).await?).cloned();
        versions.push(Version { store, current, newest: newest_of(embedded(store)) });
    }
    Ok(versions)
}

/// The lines of the journal that [`force`] would change. Changes nothing.
pub async fn preview_force(store: Store, stores: &Stores, version: u32) -> Result<Vec<JournalChange>, MigrateError> {
    let mut databases = Databases::to_read(store.into(), stores, &Options::default()).await?;
    plan::forced(store, embedded(store), &databases.journal(store).await?, version)
}

/// Makes the journal say that `version` and all before it are applied, and nothing else. Runs no other SQL: the caller
/// must know that this is true. Returns the changes to the journal.
pub async fn force(
    store: Store,
    stores: &Stores,
    version: u32,
    options: &Options,
) -> Result<Vec<JournalChange>, MigrateError> {
    let mut databases = Databases::to_change(store.into(), stores, options).await?;
    let changes = plan::forced(store, embedded(store), &databases.journal(store).await?, version)?;
    databases.prepare(store).await?;
    databases.force(store, version).await?;
    databases.close().await?;
    Ok(changes)
}

async fn change(
    target: Target,
    stores: &Stores,
    change: Change,
    options: &Options,
) -> Result<Vec<Outcome>, MigrateError> {
    let mut databases = Databases::to_change(target, stores, options).await?;
    // Every refusal comes before the first statement.
    let mut todo = Vec::new();
    for store in order(target, change.direction()) {
        todo.push((store, change.of(store, embedded(store), &databases.journal(store).await?)?));
    }
    let mut outcomes = Vec::new();
    for (store, migrations) in todo {
        if change == Change::Up {
            databases.prepare(store).await?;
        }
        for migration in &migrations {
            databases.run(store, migration, change.direction()).await?;
        }
        outcomes.push(Outcome {
            store,
            files: migrations.iter().map(|migration| migration.file(change.direction())).collect(),
            version: newest_applied(&databases.journal(store).await?).map_or(0, |applied| applied.version),
            newest: newest_of(embedded(store)),
        });
    }
    databases.close().await?;
    Ok(outcomes)
}

const fn embedded(store: Store) -> &'static [Migration] {
    match store {
        Store::Postgres => POSTGRES,
        Store::Clickhouse => CLICKHOUSE,
    }
}

/// The stores of `target`, in the order in which they are migrated: ClickHouse needs data from Postgres.
fn order(target: Target, direction: Direction) -> impl Iterator<Item = Store> {
    let stores = match direction {
        Direction::Up => [Store::Postgres, Store::Clickhouse],
        Direction::Down => [Store::Clickhouse, Store::Postgres],
    };
    stores.into_iter().filter(move |store| target.has(*store))
}

/// The connections of one call. Stores that the target leaves out are not connected to.
struct Databases {
    postgres: Option<postgres::Database>,
    clickhouse: Option<clickhouse::Database>,
}

impl Databases {
    /// For reading only, without the lock.
    async fn to_read(target: Target, stores: &Stores, options: &Options) -> Result<Self, MigrateError> {
        Self::open(stores, target.has(Store::Postgres), target.has(Store::Clickhouse), options).await
    }

    /// Takes the lock, whichever database is changed. The lock ends with its connection.
    async fn to_change(target: Target, stores: &Stores, options: &Options) -> Result<Self, MigrateError> {
        let mut databases = Self::open(stores, true, target.has(Store::Clickhouse), options).await?;
        if let Some(postgres) = &mut databases.postgres {
            postgres.lock().await?;
        }
        if let Some(clickhouse) = &databases.clickhouse {
            clickhouse.settle().await?;
        }
        Ok(databases)
    }

    /// Reports all missing URLs at once, and a wrong URL before any connection is made.
    async fn open(stores: &Stores, postgres: bool, clickhouse: bool, options: &Options) -> Result<Self, MigrateError> {
        let wanted = |wanted: bool, url: &Option<String>| url.clone().filter(|_| wanted);
        let (dsn, url) = (wanted(postgres, &stores.postgres), wanted(clickhouse, &stores.clickhouse));
        let mut settings = Vec::new();
        if postgres && dsn.is_none() {
            settings.push("TRACEBILITY_PG_OWNER_DSN (or TRACEBILITY_PG_DSN)");
        }
        if clickhouse && url.is_none() {
            settings.push("TRACEBILITY_CLICKHOUSE_URL");
        }
        if !settings.is_empty() {
            return Err(MigrateError::Missing { settings });
        }
        let clickhouse = url.map(|url| clickhouse::Database::new(&url, options)).transpose()?;
        let postgres = match dsn {
            Some(dsn) => Some(postgres::Database::connect(&dsn, options).await?),
            None => None,
        };
        Ok(Self { postgres, clickhouse })
    }

    async fn prepare(&mut self, store: Store) -> Result<(), MigrateError> {
        match (store, &mut self.postgres, &self.clickhouse) {
            (Store::Postgres, Some(postgres), _) => postgres.prepare().await,
            (Store::Clickhouse, _, Some(clickhouse)) => clickhouse.prepare().await,
            _ => Ok(()),
        }
    }

    async fn journal(&mut self, store: Store) -> Result<Vec<Applied>, MigrateError> {
        match (store, &mut self.postgres, &self.clickhouse) {
            (Store::Postgres, Some(postgres), _) => postgres.journal().await,
            (Store::Clickhouse, _, Some(clickhouse)) => clickhouse.journal().await,
            _ => Ok(Vec::new()),
        }
    }

    async fn run(&mut self, store: Store, migration: &Migration, direction: Direction) -> Result<(), MigrateError> {
        match (store, &mut self.postgres, &self.clickhouse) {
            (Store::Postgres, Some(postgres), _) => postgres.run(migration, direction).await,
            (Store::Clickhouse, Some(lock), Some(clickhouse)) => clickhouse.run(migration, direction, lock).await,
            _ => Ok(()),
        }
    }

    async fn force(&mut self, store: Store, version: u32) -> Result<(), MigrateError> {
        match (store, &mut self.postgres, &self.clickhouse) {
            (Store::Postgres, Some(postgres), _) => postgres.force(POSTGRES, version).await,
            (Store::Clickhouse, _, Some(clickhouse)) => clickhouse.force(CLICKHOUSE, version).await,
            _ => Ok(()),
        }
    }

    fn statements(&self, store: Store, migration: &Migration, direction: Direction) -> Vec<String> {
        match (store, &self.clickhouse) {
            (Store::Postgres, _) => postgres::statements(migration, direction),
            (Store::Clickhouse, Some(clickhouse)) => clickhouse.statements(migration, direction),
            (Store::Clickhouse, None) => Vec::new(),
        }
    }

    /// Releases the lock and closes the connections.
    async fn close(self) -> Result<(), MigrateError> {
        match self.postgres {
            Some(postgres) => postgres.close().await,
            None => Ok(()),
        }
    }
}
