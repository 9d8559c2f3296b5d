//! Brings Postgres and ClickHouse to the newest schema. The SQL is embedded in the binary.
//!
//! Each database keeps a journal, `schema_migrations`, of what was applied to it. Postgres runs one migration in one
//! transaction, so it is applied or it is not; an advisory lock lets only one process migrate at a time. ClickHouse has no
//! transactions: a migration is marked dirty before its first statement and clean after its last, every statement is
//! one that may be repeated, and a dirty migration is simply run again from its start.

use std::fmt;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use thiserror::Error;

mod clickhouse;
mod embedded;
mod postgres;
mod statements;

pub use embedded::{CLICKHOUSE, POSTGRES};

/// The journal's table, in either database.
pub const JOURNAL: &str = "schema_migrations";

/// One migration, as embedded.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its number; they are applied in this order.
    pub version: u32,
    /// Its name, without number.
    pub name: &'static str,
    /// Where it comes from, for messages.
    pub file: &'static str,
    /// What applies it.
    pub up: &'static str,
    /// What takes it back.
    pub down: &'static str,
}

impl Migration {
    /// A digest of what applies it, to notice a file that was changed after it was applied.
    pub fn checksum(&self) -> String {
        Blake2b::<U16>::digest(self.up.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Which databases to migrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Postgres alone.
    Postgres,
    /// ClickHouse alone. Nothing keeps two of these from running at once; each statement may be repeated.
    Clickhouse,
    /// Postgres, then ClickHouse, both under the Postgres lock.
    All,
}

impl Target {
    const fn has_postgres(self) -> bool {
        matches!(self, Self::Postgres | Self::All)
    }

    const fn has_clickhouse(self) -> bool {
        matches!(self, Self::Clickhouse | Self::All)
    }
}

/// Where the databases are. Printed without its values, which hold passwords.
#[derive(Clone, Default)]
pub struct Stores {
    /// Postgres, as the owner of the schema: `postgres://owner:password@host/database`.
    pub postgres: Option<String>,
    /// ClickHouse's HTTP interface: `http://user:password@host:8123/database`.
    pub clickhouse: Option<String>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stores")
    }
}

/// A database that is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// The registry.
    Postgres,
    /// The traces.
    Clickhouse,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::Clickhouse => "clickhouse",
        })
    }
}

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The migration's number.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Its checksum when it was applied.
    pub checksum: String,
    /// Whether it was begun and not finished.
    pub dirty: bool,
}

/// What [`up`] did to one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which one.
    pub store: Store,
    /// The files that were applied, in order; none when it was at the newest version.
    pub applied: Vec<&'static str>,
    /// The version it is at now; 0 when there is no migration at all.
    pub version: u32,
}

/// What [`version`] found in one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Which one.
    pub store: Store,
    /// The newest applied migration; `None` on an empty database.
    pub current: Option<Applied>,
    /// The newest migration that this binary knows.
    pub newest: u32,
}

/// Why migrating failed. No message holds a password.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// One URL or both were not given.
    #[error("not set: {}", settings.join(", "))]
    Missing {
        /// What to set.
        settings: Vec<&'static str>,
    },
    /// A URL cannot be used.
    #[error("the URL for {store} cannot be used: {reason}")]
    Url {
        /// For which database.
        store: Store,
        /// Why, without repeating it.
        reason: String,
    },
    /// A database did not answer, or its journal could not be read or written.
    #[error("{store}: could not {what}: {message}")]
    Store {
        /// Which database.
        store: Store,
        /// What was tried.
        what: &'static str,
        /// What the server, or the driver, said.
        message: String,
    },
    /// A statement failed.
    #[error("{file}, statement {number} ({first_line}): {message}")]
    Statement {
        /// The migration's file.
        file: &'static str,
        /// Which statement of it, from 1.
        number: usize,
        /// How that statement starts.
        first_line: String,
        /// What the server said.
        message: String,
    },
    /// A migration was changed after it was applied.
    #[error("{file} is not what was applied as version {version}; never change an applied migration, add a new one")]
    Changed {
        /// The migration's file.
        file: &'static str,
        /// Its number.
        version: u32,
    },
    /// The database was migrated by a newer binary.
    #[error("{store} is at version {found}, and this binary knows only versions up to {newest}; use the newer binary")]
    Newer {
        /// Which database.
        store: Store,
        /// The version it is at.
        found: u32,
        /// The newest that is embedded here.
        newest: u32,
    },
    /// A migration of Postgres is marked dirty, which no run of this binary does.
    #[error("postgres is dirty at version {version}: someone changed its journal by hand; check the schema first")]
    Dirty {
        /// Which one.
        version: u32,
    },
}

/// Applies what is missing, in order. At the newest version it does nothing.
pub async fn up(target: Target, stores: &Stores) -> Result<Vec<Outcome>, MigrateError> {
    let (postgres, clickhouse) = stores.of(target)?;
    let clickhouse = clickhouse.map(clickhouse::Database::new).transpose()?;
    let mut outcomes = Vec::new();
    let mut locked = None;
    if let Some(dsn) = postgres {
        let mut postgres = postgres::Database::connect(dsn).await?;
        postgres.lock().await?;
        outcomes.push(postgres.up(POSTGRES).await?);
        locked = Some(postgres);
    }
    if let Some(clickhouse) = clickhouse {
        outcomes.push(clickhouse.up(CLICKHOUSE).await?);
    }
    // The lock ends with the connection, so ClickHouse was migrated under it too.
    if let Some(postgres) = locked {
        postgres.close().await?;
    }
    Ok(outcomes)
}

/// The version of each database. Changes nothing.
pub async fn version(target: Target, stores: &Stores) -> Result<Vec<Version>, MigrateError> {
    let (postgres, clickhouse) = stores.of(target)?;
    let mut versions = Vec::new();
    if let Some(dsn) = postgres {
        let journal = postgres::Database::connect(dsn).await?.journal().await?;
        versions.push(Version { store: Store::Postgres, current: newest(journal), newest: newest_of(POSTGRES) });
    }
    if let Some(url) = clickhouse {
        let journal = clickhouse::Database::new(url)?.journal().await?;
        versions.push(Version { store: Store::Clickhouse, current: newest(journal), newest: newest_of(CLICKHOUSE) });
    }
    Ok(versions)
}

impl Stores {
    /// The URLs of the databases that `target` means, Postgres first; all that are missing are named at once.
    fn of(&self, target: Target) -> Result<(Option<&str>, Option<&str>), MigrateError> {
        let postgres = self.postgres.as_deref().filter(|_| target.has_postgres());
        let clickhouse = self.clickhouse.as_deref().filter(|_| target.has_clickhouse());
        let mut settings = Vec::new();
        if target.has_postgres() && postgres.is_none() {
            settings.push("TRACEBILITY_PG_OWNER_DSN (or TRACEBILITY_PG_DSN)");
        }
        if target.has_clickhouse() && clickhouse.is_none() {
            settings.push("TRACEBILITY_CLICKHOUSE_URL");
        }
        if settings.is_empty() { Ok((postgres, clickhouse)) } else { Err(MigrateError::Missing { settings }) }
    }
}

/// What of `migrations` is not in the journal yet. Refuses a journal that does not belong to them.
fn pending(
    store: Store,
    migrations: &'static [Migration],
    journal: &[Applied],
) -> Result<Vec<&'static Migration>, MigrateError> {
    for applied in journal {
        let Some(known) = migrations.iter().find(|migration| migration.version == applied.version) else {
            let newest = newest_of(migrations);
            return Err(MigrateError::Newer { store, found: applied.version, newest });
        };
        if !applied.dirty && known.checksum() != applied.checksum {
            return Err(MigrateError::Changed { file: known.file, version: known.version });
        }
    }
    let is_done = |version| journal.iter().any(|applied| applied.version == version && !applied.dirty);
    Ok(migrations.iter().filter(|migration| !is_done(migration.version)).collect())
}

fn newest(journal: Vec<Applied>) -> Option<Applied> {
    journal.into_iter().max_by_key(|applied| applied.version)
}

fn newest_of(migrations: &[Migration]) -> u32 {
    migrations.iter().map(|migration| migration.version).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(migration: &Migration) -> Applied {
        let (version, name) = (migration.version, migration.name.to_owned());
        Applied { version, name, checksum: migration.checksum(), dirty: false }
    }

    #[test]
    fn versions_count_up_from_one_and_match_their_files() {
        for (migrations, directory) in [(POSTGRES, "postgres"), (CLICKHOUSE, "clickhouse")] {
            for (index, migration) in migrations.iter().enumerate() {
                assert_eq!(migration.version as usize, index + 1);
                let file = format!("{directory}/{:04}_{}.up.sql", migration.version, migration.name);
                assert_eq!(migration.file, file);
                assert!(!migration.down.trim().is_empty(), "{file}");
            }
        }
    }

    #[test]
    fn what_is_not_done_is_pending() {
        let versions = |journal: &[Applied]| -> Vec<u32> {
            pending(Store::Postgres, POSTGRES, journal).unwrap().iter().map(|migration| migration.version).collect()
        };
        let first = applied(&POSTGRES[0]);
        assert_eq!(versions(&[]), [1, 2, 3]);
        assert_eq!(versions(std::slice::from_ref(&first)), [2, 3]);
        assert_eq!(versions(&[first, Applied { dirty: true, ..applied(&POSTGRES[1]) }]), [2, 3]);
    }

    #[test]
    fn a_foreign_journal_is_refused() {
        let refused = |applied: Applied| pending(Store::Postgres, POSTGRES, &[applied]).unwrap_err().to_string();
        let changed = refused(Applied { checksum: "0".to_owned(), ..applied(&POSTGRES[0]) });
        assert!(changed.starts_with("postgres/0001_init.up.sql is not what was applied as version 1"), "{changed}");
        let newer = refused(Applied { version: 99, ..applied(&POSTGRES[0]) });
        assert!(newer.starts_with("postgres is at version 99"), "{newer}");
    }
}
