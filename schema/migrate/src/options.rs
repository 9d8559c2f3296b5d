//! The options of migrating: which databases, where they are, and how.

use std::fmt;
use std::str::FromStr;

use super::{MigrateError, Statement};

/// A database that is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Postgres, which holds the registry.
    Postgres,
    /// ClickHouse, which holds the traces.
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
    /// Only Postgres; the URL of ClickHouse is not needed.
    Postgres,
    /// Only ClickHouse. It needs the URL of Postgres as well, because the lock is there.
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

/// In which direction a migration is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The migration is applied.
    Up,
    /// The migration is taken back.
    Down,
}

/// How many migrations to take back, in each database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// The newest migrations, this many.
    Newest(u32),
    /// Every migration that is applied, down to version 0.
    All,
}

/// The URLs of the databases. `Debug` does not print them, because they contain passwords.
#[derive(Clone, Default)]
pub struct Stores {
    /// Postgres, as the owner of the schema: `postgres://owner:password@host/database`. Where only ClickHouse is
    /// migrated, any role suffices.
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
    /// The name as a text.
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

/// What running migrations needs beside the SQL. `Debug` does not print the DSN, because it contains a password.
#[derive(Clone)]
pub struct Options {
    /// The cluster on which every table of ClickHouse is made, replicated.
    pub cluster: Option<ClusterName>,
    /// The URL under which ClickHouse reaches Postgres. Used only when rows from before tenancy are copied.
    pub registry_dsn: Option<String>,
    /// Whether rows of projects that belong to no org stay behind in `*_v1`, instead of stopping the migration.
    pub leave_orphans: bool,
    /// Gets a line of text for the operator, which says what runs now.
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
    /// Reports which statement of a file is sent next.
    pub(super) fn sending(&self, file: &str, statement: &Statement, of: usize) {
        (self.progress)(&format!("{file}: statement {} of {of}: {}", statement.number, statement.first_line()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_name_cannot_break_out_of_its_quotes() {
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
