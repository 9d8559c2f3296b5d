//! Versions of a table. A release writes the newest version that it knows and also reads older ones. Envelopes of the
//! release before may still be in Redis, and two releases run side by side during an upgrade. See
//! docs/decisions/0021-versions-of-a-table.md.

use super::{RUN, SPAN, Table};

/// Versions before the newest. Each has the first columns of the version after it. A version may be removed from this
/// list when no stream, no dead letter and no parked envelope can have it any more.
pub(super) static OLDER: [Table; 4] =
    [before(&SPAN, 1, 3), before(&SPAN, 2, 2), before(&RUN, 1, 2), before(&RUN, 2, 1)];

/// A table at an earlier version, without the last `added` columns.
const fn before(newest: &Table, version: u16, added: usize) -> Table {
    let (columns, _) = newest.columns.split_at(newest.columns.len() - added);
    Table { id: newest.id, version, name: newest.name, columns }
}

/// The version of a table that this process writes, and the newest that it reads.
#[cfg(not(debug_assertions))]
pub(crate) fn newest(table: &'static Table) -> &'static Table {
    table
}

/// The same, for debug builds: a process with `TEST_TABLE_VERSION_MAX` in its environment behaves like a release that
/// knows no later version, so that tests can run two releases side by side.
#[cfg(debug_assertions)]
pub(crate) fn newest(table: &'static Table) -> &'static Table {
    use std::sync::LazyLock;
    // Not one of the program's settings: a release build does not read it.
    #[allow(clippy::disallowed_methods)]
    static MAX: LazyLock<Option<u16>> = LazyLock::new(|| std::env::var("TEST_TABLE_VERSION_MAX").ok()?.parse().ok());
    match *MAX {
        Some(max) if table.version > max => {
            OLDER.iter().find(|older| (older.id, older.version) == (table.id, max)).unwrap_or(table)
        }
        _ => table,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_up_to_the_newest_is_known_once() {
        for newest in Table::ALL {
            for version in 1..=newest.version {
                let table = Table::find(newest.id, version).unwrap();
                assert_eq!((table.id, table.version, table.name), (newest.id, version, newest.name));
                assert!(newest.columns.starts_with(table.columns), "{}: columns are added at the end", table.name);
                assert_eq!(table.columns.len() == newest.columns.len(), version == newest.version);
            }
            assert_eq!(Table::find(newest.id, newest.version + 1), None);
        }
    }
}
