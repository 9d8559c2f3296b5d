//! The pool of connections to the registry.

use std::str::FromStr;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::secret::SecretUrl;

/// How many connections one process holds at most.
pub const CONNECTIONS_MAX: u32 = 8;
/// How long a request waits for a connection, including the time to open one.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long Postgres works on one statement, in milliseconds, before it gives up.
pub const STATEMENT_TIMEOUT_MS: u32 = 2_000;
/// How long an idle connection is kept.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// A pool on the registry. No I/O happens here: the first query connects, so that a service can start while Postgres is
/// down. Fails only on a URL that the driver cannot use.
pub fn pool(dsn: &SecretUrl) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(dsn.expose().as_str())?
        .application_name("tracebility")
        .options([("statement_timeout", STATEMENT_TIMEOUT_MS.to_string())]);
    Ok(PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .connect_lazy_with(options))
}
