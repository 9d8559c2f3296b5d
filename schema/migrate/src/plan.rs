//! Compares a journal with the embedded migrations: which are missing, which can be taken back, what `force` would
//! change. Does no I/O.

use std::fmt;

use super::{Applied, Count, Direction, MigrateError, Migration, Store};

/// What [`super::up`] and [`super::down`] do with a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Apply the missing migrations.
    Up,
    /// Take back the newest migrations, this many.
    Down(Count),
}

impl Change {
    pub(super) const fn direction(self) -> Direction {
        match self {
            Self::Up => Direction::Up,
            Self::Down(_) => Direction::Down,
        }
    }

    /// The migrations to run, in order. Refuses a journal that does not fit the embedded migrations.
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

/// A change that `force` would make to the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalChange {
    /// The journal has no line for the version, and gets one that says it is applied.
    Add(&'static Migration),
    /// The version's line is written again, because it is dirty or has another checksum.
    Correct(&'static Migration, Applied),
    /// The version's line is removed.
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

/// The changes after which the journal says that `version` and all before it are applied, and nothing else.
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

/// The migrations that are not fully applied. A database that a newer binary migrated lacks none, so that a release can
/// be rolled back without touching the database.
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

/// The migrations of the newest lines of the journal, including dirty ones: taking a dirty migration back is one way to
/// repair it.
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

/// The file of a dirty migration may have changed: the migration is run again from its start.
fn check_files(migrations: &'static [Migration], journal: &[Applied]) -> Result<(), MigrateError> {
    for applied in journal.iter().filter(|applied| !applied.dirty) {
        let known = migrations.iter().find(|migration| migration.version == applied.version);
        if let Some(known) = known.filter(|known| known.checksum() != applied.checksum) {
            return Err(MigrateError::Changed { file: known.up_file, version: known.version });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn migration(version: u32, name: &'static str, up: &'static str) -> Migration {
        Migration { version, name, up_file: name, down_file: name, up, down: "" }
    }

    static THREE: [Migration; 3] =
        [migration(1, "one", "SELECT 1"), migration(2, "two", "SELECT 2"), migration(3, "three", "SELECT 3")];

    /// A journal with these versions; negative ones are dirty.
    fn journal(versions: &[i32]) -> Vec<Applied> {
        let line = |version: &i32| {
            let (number, dirty) = (version.unsigned_abs(), *version < 0);
            let known = THREE.iter().find(|migration| migration.version == number);
            let line = known.map_or_else(
                || Applied { version: number, name: "later".to_owned(), checksum: String::new(), dirty },
                Migration::applied,
            );
            Applied { dirty, ..line }
        };
        versions.iter().map(line).collect()
    }

    fn of(change: Change, store: Store, journal: &[Applied]) -> Result<Vec<u32>, String> {
        let found = change.of(store, &THREE, journal).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|migration| migration.version).collect())
    }

    #[test]
    fn up_runs_missing_and_dirty_migrations() {
        for (versions, wanted) in
            [(&[][..], &[1, 2, 3][..]), (&[1], &[2, 3]), (&[1, 2, 3], &[]), (&[1, 2, 3, 4], &[]), (&[1, 2, 3, -4], &[])]
        {
            for store in [Store::Postgres, Store::Clickhouse] {
                assert_eq!(of(Change::Up, store, &journal(versions)).unwrap(), wanted, "{versions:?}");
            }
        }
        assert_eq!(of(Change::Up, Store::Clickhouse, &journal(&[1, -2])).unwrap(), [2, 3]);
    }

    #[test]
    fn up_refuses_a_journal_that_does_not_match_its_migrations() {
        let refused = |store, versions: &[i32], part: &str| {
            let error = of(Change::Up, store, &journal(versions)).unwrap_err();
            assert!(error.contains(part), "{versions:?}: {error}");
        };
        refused(Store::Postgres, &[1, -2], "postgres is dirty at version 2");
        refused(Store::Postgres, &[1, -2], "`migrate force 1 --target postgres` if nothing of it is");
        for store in [Store::Postgres, Store::Clickhouse] {
            refused(store, &[1, 3], "has version 3 and not 2");
            refused(store, &[-1, 2], "has version 2 and not 1");
            refused(store, &[1, 2, 9], "is at version 9, and this binary knows only versions up to 3");
        }
        let mut changed = journal(&[1, 2]);
        changed[0].checksum = "0".to_owned();
        let error = of(Change::Up, Store::Postgres, &changed).unwrap_err();
        assert_eq!(error, "one is not what was applied as version 1; never change an applied migration, add a new one");
        changed[0].dirty = true;
        assert!(!of(Change::Up, Store::Clickhouse, &changed[..1]).unwrap().is_empty(), "it was not applied in full");
    }

    #[test]
    fn down_takes_the_newest_first_and_dirty_ones_too() {
        let down = |versions: &[i32], count| of(Change::Down(count), Store::Postgres, &journal(versions)).unwrap();
        assert_eq!(down(&[1, 2, 3], Count::Newest(1)), [3]);
        assert_eq!(down(&[1, 2, -3], Count::Newest(2)), [3, 2]);
        assert_eq!(down(&[1, 2], Count::Newest(u32::MAX)), [2, 1]);
        assert_eq!(down(&[1, 2, 3], Count::All), [3, 2, 1]);
        assert!(down(&[], Count::All).is_empty());
        let newer = of(Change::Down(Count::All), Store::Clickhouse, &journal(&[1, 2, 3, 4])).unwrap_err();
        assert!(newer.starts_with("clickhouse is at version 4"), "{newer}");
    }

    #[test]
    fn force_names_every_line_it_would_change() {
        let lines = |versions: &[i32], version| -> Vec<String> {
            let changes = forced(Store::Clickhouse, &THREE, &journal(versions), version).unwrap();
            changes.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            lines(&[1, -2, -3], 2),
            [
                "version 2 two: is dirty, will be marked as applied and clean",
                "version 3 three (dirty): will be removed, as if never applied"
            ]
        );
        assert_eq!(
            lines(&[2, 4], 1),
            [
                "version 1 one: will be marked as applied",
                "version 2 two: will be removed, as if never applied",
                "version 4 later: will be removed, as if never applied",
            ]
        );
        assert_eq!(lines(&[1, 2], 0).len(), 2);
        assert!(lines(&[1, 2], 2).is_empty());
        let mut changed = journal(&[1]);
        changed[0].checksum = "0".to_owned();
        let changes = forced(Store::Postgres, &THREE, &changed, 1).unwrap();
        assert_eq!(changes[0].to_string(), "version 1 one: is another file's, will be marked as applied and clean");
        let error = forced(Store::Postgres, &THREE, &[], 4).unwrap_err().to_string();
        assert_eq!(error, "postgres has no version 4: this binary knows 0 (nothing applied) to 3");
    }
}
