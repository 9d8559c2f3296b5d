//! Why migrating failed.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::Store;

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
    /// The name of the cluster cannot be used.
    #[error("{name:?} cannot name a cluster: use 1 to {len_max} letters, digits, _, - and .")]
    Cluster {
        /// What was given.
        name: String,
        /// The longest there can be, in characters.
        len_max: usize,
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
    /// The database was migrated by a newer binary, and what was asked for cannot be done without knowing more.
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
    #[error(
        "postgres is dirty at version {version}: someone changed its journal by hand. Look at the schema; then \
         `migrate force {version} --target postgres` if all of that migration is there, or \
         `migrate force {} --target postgres` if nothing of it is", version - 1
    )]
    Dirty {
        /// Which one.
        version: u32,
    },
    /// The journal has a version without the one before it.
    #[error(
        "the journal of {store} has version {later} and not {missing} in full: someone changed it by hand. Look at the \
         schema; then `migrate force V --target {store}` with the newest version V up to which all of it is there"
    )]
    Gap {
        /// Which database.
        store: Store,
        /// The version that is missing or dirty.
        missing: u32,
        /// A version that was applied after it.
        later: u32,
    },
    /// There is no such migration.
    #[error("{store} has no version {version}: this binary knows 0 (nothing applied) to {newest}")]
    Unknown {
        /// Which database.
        store: Store,
        /// What was asked for.
        version: u32,
        /// The newest that is embedded here.
        newest: u32,
    },
    /// A migration's files cannot be made, or do not fit together.
    #[error("{0}")]
    Files(String),
    /// A file or directory of migrations cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
