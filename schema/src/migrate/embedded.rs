//! The list of migrations. A new one is one line here and its two files.

use super::Migration;

macro_rules! migration {
    ($directory:literal, $version:literal, $name:literal) => {
        Migration {
            version: $version,
            name: $name,
            file: concat!($directory, "/000", $version, "_", $name, ".up.sql"),
            up: include_str!(concat!("../../migrations/", $directory, "/000", $version, "_", $name, ".up.sql")),
            down: include_str!(concat!("../../migrations/", $directory, "/000", $version, "_", $name, ".down.sql")),
        }
    };
}

/// The registry's migrations, in order.
pub const POSTGRES: &[Migration] = &[
    migration!("postgres", 1, "init"),
    migration!("postgres", 2, "multitenancy_seam"),
    migration!("postgres", 3, "row_level_security"),
];

/// The trace store's migrations, in order.
pub const CLICKHOUSE: &[Migration] = &[migration!("clickhouse", 1, "trace_tables")];
