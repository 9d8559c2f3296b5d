//! What a journal and the embedded migrations come to: what is missing, what can be taken back, what `force` would
//! change. No I/O.

use std::fmt;

use super::{Applied, Count, Direction, MigrateError, Migration, Store};

/// What [`super::up`] and [`super::down`] set out to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Apply what is missing.
    Up,
    /// Take back the newest.
    Down(Count),
}

impl Change {
    pub(super) const fn direction(self) -> Direction {
        match self {
            Self::Up => Direction::Up,
            Self::Down(_) => Direction::Down,
        }
    }

    /// The migrations to run, in the order in which to run them. Refuses a journal that does not belong to them.
    pub(super) fn of(
        self,
        store: Store,
        migrations: &'static [Migration],
        journal: &[Applied],
    ) -> Result<Vec<&'static Migration>, MigrateError> {
        check_files(migrations, journal)?;
        match self {
            Self::Up => pending(store, migrations, journal),
            Self::Down(count) => newest(store, migrations, journal, count),
        }
    }
}

/// A line of the journal that `force` would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalChange {
    /// The version is written as applied; it has no line.
    Add(&'static Migration),
    /// The line is written anew: it is dirty, or another file's.
    Correct(&'static Migration, Applied),
    /// The line is removed.
    Remove(Applied),
}

impl fmt::Display for JournalChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(new) => write!(f, "version {} {}: will be marked as applied", new.version, new.name),
            Self::Correct(new, old) => {
                let was = if old.dirty { "dirty" } else { "another file's" };
                write!(f, "version {} {}: is {was}, will be marked as applied and clean", new.version, new.name)
            }
            Self::Remove(old) => {
                let dirty = if old.dirty { " (dirty)" } else { "" };
                write!(f, "version {} {}{dirty}: will be removed, as if never applied", old.version, old.name)
            }
        }
    }
}

/// What has to change for the journal to say that `version` and all before it are applied, and nothing else.
pub(super) fn forced(
    store: Store,
    migrations: &'static [Migration],
    journal: &[Applied],
    version: u32,
) -> Result<Vec<JournalChange>, MigrateError> {
    if version > newest_of(migrations) {
        return Err(MigrateError::Unknown { store, version, newest: newest_of(migrations) });
    }
    let mut changes = Vec::new();
    for migration in migrations.iter().filter(|migration| migration.version <= version) {
        match journal.iter().find(|applied| applied.version == migration.version) {
            None => changes.push(JournalChange::Add(migration)),
            Some(line) if *line == migration.applied() => {}
            Some(line) => changes.push(JournalChange::Correct(migration, line.clone())),
        }
    }
    let removed = journal.iter().filter(|applied| applied.version > version);
    changes.extend(removed.cloned().map(JournalChange::Remove));
    Ok(changes)
}

/// The newest version among `migrations`; 0 when there are none.
pub(super) fn newest_of(migrations: &[Migration]) -> u32 {
    migrations.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// The newest line of a journal.
pub(super) fn newest_applied(journal: &[Applied]) -> Option<&Applied> {
    journal.iter().max_by_key(|applied| applied.version)
}

/// What is not applied in full yet. A database that a newer binary migrated lacks nothing, so that a release can be
/// rolled back without touching it.
fn pending(
    store: Store,
    migrations: &'static [Migration],
    journal: &[Applied],
) -> Result<Vec<&'static Migration>, MigrateError> {
    let is_done = |version| journal.iter().any(|applied| applied.version == version && !applied.dirty);
    let missing: Vec<_> = migrations.iter().filter(|migration| !is_done(migration.version)).collect();
    let (Some(first), Some(last)) = (missing.first(), newest_applied(journal)) else { return Ok(missing) };
    if last.version > newest_of(migrations) {
        return Err(MigrateError::Newer { store, found: last.version, newest: newest_of(migrations) });
    }
    if last.version > first.version {
        return Err(MigrateError::Gap { store, missing: first.version, later: last.version });
    }
    if store == Store::Postgres && last.dirty {
        return Err(MigrateError::Dirty { version: last.version });
    }
    Ok(missing)
}

/// The migrations behind the newest lines of the journal, dirty ones too: taking it back is a way out of one.
fn newest(
    store: Store,
    migrations: &'static [Migration],
    journal: &[Applied],
    count: Count,
) -> Result<Vec<&'static Migration>, MigrateError> {
    if let Some(last) = newest_applied(journal).filter(|last| last.version > newest_of(migrations)) {
        return Err(MigrateError::Newer { store, found: last.version, newest: newest_of(migrations) });
    }
    let applied = migrations.iter().rev().filter(|m| journal.iter().any(|applied| applied.version == m.version));
    let count = match count {
        Count::Newest(count) => usize::try_from(count).unwrap_or(usize::MAX),
        Count::All => usize::MAX,
    };
    Ok(applied.take(count).collect())
}

/// A dirty migration may be changed: it is run again from its start.
fn check_files(migrations: &'static [Migration], journal: &[Applied]) -> Result<(), MigrateError> {
    for applied in journal.iter().filter(|applied| !applied.dirty) {
        let known = migrations.iter().find(|migration| migration.version == applied.version);
        if let Some(known) = known.filter(|known| known.checksum() != applied.checksum) {
            return Err(MigrateError::Changed { file: known.up_file, version: known.version });
        }
    }
    Ok(())
}
