//! The migrations in this binary. `build.rs` makes the lists from the files in `schema/migrations`.

use super::Migration;

include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// The registry's migrations, in order.
pub const POSTGRES: &[Migration] = POSTGRES_FILES;

/// The trace store's migrations, in order.
pub const CLICKHOUSE: &[Migration] = CLICKHOUSE_FILES;
