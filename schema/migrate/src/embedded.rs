//! The migrations in this binary. `build.rs` makes the lists from the files in `schema/migrations`.

use super::Migration;

include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// The registry's migrations, in order.
pub const POSTGRES: &[Migration] = POSTGRES_FILES;

/// The trace store's migrations, in order.
pub const CLICKHOUSE: &[Migration] = CLICKHOUSE_FILES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_count_up_from_one_and_match_their_files() {
        for (migrations, directory) in [(POSTGRES, "postgres"), (CLICKHOUSE, "clickhouse")] {
            assert!(!migrations.is_empty());
            for (version, migration) in (1..).zip(migrations) {
                assert_eq!(migration.version, version);
                let stem = format!("{directory}/{version:04}_{}", migration.name);
                assert_eq!(migration.up_file, format!("{stem}.up.sql"));
                assert_eq!(migration.down_file, format!("{stem}.down.sql"));
            }
        }
    }
}
