//! Makes the files of a new migration.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{MigrateError, Store, files};

/// Writes the two files of a new migration into `directory`, which has one directory per store. They get the next
/// number and contain only a comment. Returns their paths, `up` first. Never overwrites a file.
pub fn create(directory: &Path, store: Store, name: &str) -> Result<[PathBuf; 2], MigrateError> {
    files::check_name(name).map_err(MigrateError::Files)?;
    let directory = directory.join(store.to_string());
    let taken = file_names(&directory)?;
    let known = files::names(&taken).map_err(MigrateError::Files)?;
    let version = u32::try_from(known.len()).unwrap_or(u32::MAX).saturating_add(1);
    let stem = files::stem(version, name);
    let [up, down] = ["up", "down"].map(|way| directory.join(format!("{stem}.{way}.sql")));
    write_new(&up, &format!("-- {}\n{}", heading(name), up_rules(store)))?;
    write_new(&down, &format!("-- Takes back {stem}.up.sql, in the reverse order.\n{}", down_rules(store)))?;
    Ok([up, down])
}

fn heading(name: &str) -> String {
    format!("TODO: what {name} is for, in a sentence or two.")
}

const fn up_rules(store: Store) -> &'static str {
    match store {
        Store::Postgres => {
            "--\n-- Runs in one transaction. A table of an org's rows needs FORCE ROW LEVEL SECURITY, a policy and grants.\n"
        }
        Store::Clickhouse => {
            "--\n-- There are no transactions: it may be killed after any statement and is then run again from the first, so each\n\
             -- statement must be one that may be repeated (IF NOT EXISTS, IF EXISTS).\n"
        }
    }
}

const fn down_rules(store: Store) -> &'static str {
    match store {
        Store::Postgres => "-- Afterwards the catalogue must be as before; a test compares it.\n",
        Store::Clickhouse => "-- Each statement must be one that may be repeated (IF EXISTS).\n",
    }
}

fn file_names(directory: &Path) -> Result<Vec<String>, MigrateError> {
    let failed = |source| MigrateError::File { path: directory.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn write_new(path: &Path, text: &str) -> Result<(), MigrateError> {
    let failed = |source| MigrateError::File { path: path.to_owned(), source };
    let mut file = fs::File::create_new(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}
