//! The errors of the library; the program prints their text after `migrate: `.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::Store;

/// Why migrating failed. No message contains a password.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// One URL or both are missing.
    #[error("not set: {}", settings.join(", "))]
    Missing {
        /// The settings that are missing.
        settings: Vec<&'static str>,
    },
    /// A URL that cannot be used.
    #[error("the URL for {store} cannot be used: {reason}")]
    Url {
        /// The database that the URL is for.
        store: Store,
        /// Why, without the URL itself.
        reason: String,
    },
    /// A name of a cluster that cannot be used.
    #[error("{name:?} cannot name a cluster: use 1 to {len_max} letters, digits, _, - and .")]
    Cluster {
        /// The name that was given.
        name: String,
        /// Most characters that a name may have.
        len_max: usize,
    },
    /// A database did not answer, or its journal could not be read or written.
    #[error("{store}: could not {what}: {message}")]
    Store {
        /// The database that failed.
        store: Store,
        /// The operation that failed.
        what: &'static str,
        /// The message of the server or the driver.
        message: String,
    },
    /// A database refused a statement of a migration.
    #[error("{file}, statement {number} ({first_line}): {message}")]
    Statement {
        /// Name of the migration's file.
        file: &'static str,
        /// Number of the statement in the file, from 1.
        number: usize,
        /// The first line of the statement.
        first_line: String,
        /// The message of the server.
        message: String,
    },
    /// A migration was changed after it was applied.
    #[error("{file} is not what was applied as version {version}; never change an applied migration, add a new one")]
    Changed {
        /// Name of the migration's file.
        file: &'static str,
        /// Number of the migration.
        version: u32,
    },
    /// A newer binary has migrated the database, and this binary cannot do what was asked for.
    #[error("{store} is at version {found}, and this binary knows only versions up to {newest}; use the newer binary")]
    Newer {
        /// The database that is newer.
        store: Store,
        /// The version that the database is at.
        found: u32,
        /// The newest version that this binary has.
        newest: u32,
    },
    /// A migration of Postgres is marked dirty, which no run of this binary does.
    #[error(
        "postgres is dirty at version {version}: someone changed its journal by hand. Look at the schema; then \
         `migrate force {version} --target postgres` if all of that migration is there, or \
         `migrate force {} --target postgres` if nothing of it is", version - 1
    )]
    Dirty {
        /// The version that the journal marks as dirty.
        version: u32,
    },
    /// The journal has a version without the one before it.
    #[error(
        "the journal of {store} has version {later} and not {missing} in full: someone changed it by hand. Look at the \
         schema; then `migrate force V --target {store}` with the newest version V up to which all of it is there"
    )]
    Gap {
        /// The database whose journal has the gap.
        store: Store,
        /// The version that is missing or dirty.
        missing: u32,
        /// A version that was applied after it.
        later: u32,
    },
    /// There is no such migration.
    #[error("{store} has no version {version}: this binary knows 0 (nothing applied) to {newest}")]
    Unknown {
        /// The database that the version is for.
        store: Store,
        /// The version that was asked for.
        version: u32,
        /// The newest version that this binary has.
        newest: u32,
    },
    /// A migration's files cannot be made, or do not fit together.
    #[error("{0}")]
    Files(String),
    /// A file or directory of migrations cannot be read or written.
    #[error("{}: {source}; check the path and who may use it", path.display())]
    File {
        /// Path of the file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}
