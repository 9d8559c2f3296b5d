//! What migrating is told: which databases, where they are, and how.

use std::fmt;
use std::str::FromStr;

use super::{MigrateError, Statement};

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

/// Which databases to migrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Postgres alone.
    Postgres,
    /// ClickHouse alone. It needs the URL of Postgres as well, because the lock is there.
    Clickhouse,
    /// Up: Postgres, then ClickHouse. Down: the other way round.
    All,
}

impl Target {
    pub(super) const fn has(self, store: Store) -> bool {
        matches!(
            (self, store),
            (Self::All, _) | (Self::Postgres, Store::Postgres) | (Self::Clickhouse, Store::Clickhouse)
        )
    }
}

impl From<Store> for Target {
    fn from(store: Store) -> Self {
        match store {
            Store::Postgres => Self::Postgres,
            Store::Clickhouse => Self::Clickhouse,
        }
    }
}

/// Which way a migration is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It is applied.
    Up,
    /// It is taken back.
    Down,
}

/// How many migrations to take back, in each database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// The newest so many.
    Newest(u32),
    /// Every one.
    All,
}

/// Where the databases are. Printed without its values, which hold passwords.
#[derive(Clone, Default)]
pub struct Stores {
    /// Postgres, as the owner of the schema: `postgres://owner:password@host/database`. Any role will do where only
    /// ClickHouse is migrated.
    pub postgres: Option<String>,
    /// ClickHouse's HTTP interface: `http://user:password@host:8123/database`.
    pub clickhouse: Option<String>,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stores")
    }
}

/// The name of a ClickHouse cluster, as in `ON CLUSTER 'name'`: 1 to 64 letters, digits, `_`, `-` and `.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = MigrateError;

    fn from_str(name: &str) -> Result<Self, MigrateError> {
        const LEN_MAX: usize = 64;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if (1..=LEN_MAX).contains(&name.len()) && name.chars().all(allowed) {
            return Ok(Self(name.to_owned()));
        }
        Err(MigrateError::Cluster { name: name.to_owned(), len_max: LEN_MAX })
    }
}

/// What running migrations needs beside the SQL. Printed without the DSN, which holds a password.
#[derive(Clone)]
pub struct Options {
    /// Makes every table of ClickHouse on this cluster, replicated.
    pub cluster: Option<ClusterName>,
    /// Postgres as ClickHouse reaches it. Only asked when rows from before tenancy are brought over.
    pub registry_dsn: Option<String>,
    /// Rows of projects that no org has stay behind in `*_v1` instead of stopping the migration.
    pub leave_orphans: bool,
    /// Takes a line for a person: what runs now.
    pub progress: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Self { cluster: None, registry_dsn: None, leave_orphans: false, progress: |_| () }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("cluster", &self.cluster)
            .field("leave_orphans", &self.leave_orphans)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Says which statement of a file is sent next.
    pub(super) fn sending(&self, file: &str, statement: &Statement, of: usize) {
        (self.progress)(&format!("{file}: statement {} of {of}: {}", statement.number, statement.first_line()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_name_cannot_end_its_quotes() {
        for name in ["main", "eu-west_1.a", &"x".repeat(64)] {
            assert_eq!(name.parse::<ClusterName>().unwrap().as_str(), name);
        }
        for name in ["", "a b", "a'b", "a\\", "{cluster}", "é", &"x".repeat(65)] {
            assert!(name.parse::<ClusterName>().is_err(), "{name}");
        }
    }

    #[test]
    fn options_print_no_dsn() {
        let options = Options { registry_dsn: Some("postgres://u:hunter2@h/d".to_owned()), ..Options::default() };
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
