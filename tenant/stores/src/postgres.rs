//! The pool of connections to the registry.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Row};
use thiserror::Error;

use crate::secret::SecretUrl;

/// How many connections one process holds at most.
pub const CONNECTIONS_MAX: u32 = 8;
/// How long a request waits for a connection, including the time to open one.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long Postgres works on one statement, in milliseconds, before it gives up.
pub const STATEMENT_TIMEOUT_MS: u32 = 2_000;
/// How long an idle connection is kept.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long [`check_role`] tries to connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The URL's role is not bound by row-level security, so it could read every org's rows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the Postgres role {role:?} must not be used here: it is or can become {unbound:?}, which row-level security does not \
     bind; log in as tracebility_app (services) or tracebility_operator (tracectl)"
)]
pub struct UnboundRole {
    /// The role that logged in.
    pub role: String,
    /// The role that is not bound: a superuser, a role with BYPASSRLS, or the owner of the tables.
    pub unbound: String,
}

/// A pool on the registry. No I/O happens here: the first query connects, so that a service can start while Postgres is
/// down. Fails only on a URL that the driver cannot use.
///
/// A connection of a role that row-level security does not bind is closed again and reported in the log; a query then
/// fails as if Postgres could not be reached.
pub fn pool(dsn: &SecretUrl) -> Result<PgPool, sqlx::Error> {
    Ok(PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .after_connect(|connection, _| {
            Box::pin(async move {
                let unbound = unbound_role(connection).await?;
                unbound.map_or(Ok(()), |unbound| Err(sqlx::Error::Configuration(Box::new(unbound))))
            })
        })
        .connect_lazy_with(options(dsn)?))
}

/// Connects once, and says whether row-level security binds the role of a URL.
pub async fn check_role(dsn: &SecretUrl) -> Result<Result<(), UnboundRole>, sqlx::Error> {
    let options = options(dsn)?;
    let checking = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        let unbound = unbound_role(&mut connection).await?;
        connection.close().await?;
        Ok(unbound.map_or(Ok(()), Err))
    };
    tokio::time::timeout(CONNECT_TIMEOUT, checking).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// An advisory lock. One session at a time holds it, until it is released or its connection ends.
#[derive(Debug)]
pub struct Lock(PgConnection);

impl Lock {
    /// Releases the lock by closing its connection. If closing fails, the connection has ended already.
    pub async fn release(self) {
        if let Err(error) = self.0.close().await {
            tracing::debug!(%error, "the connection of a lock was gone");
        }
    }
}

/// Takes an advisory lock on a connection of its own; `None` when another session has it.
pub async fn try_lock(dsn: &SecretUrl, key: i64) -> Result<Option<Lock>, sqlx::Error> {
    let options = options(dsn)?;
    let locking = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        let row =
            sqlx::query("SELECT pg_try_advisory_lock($1) AS is_mine").bind(key).fetch_one(&mut connection).await?;
        Ok(row.try_get::<bool, _>("is_mine")?.then_some(Lock(connection)))
    };
    tokio::time::timeout(CONNECT_TIMEOUT, locking).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

fn options(dsn: &SecretUrl) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(dsn.expose().as_str())?
        .application_name("tracebility")
        .options([("statement_timeout", STATEMENT_TIMEOUT_MS.to_string())]))
}

/// A role that row-level security does not bind, and that the logged-in role is or can become. The owner of the tables
/// is bound by FORCE, but can remove FORCE.
async fn unbound_role(connection: &mut PgConnection) -> Result<Option<UnboundRole>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT current_user::text AS role, rolname::text AS unbound FROM pg_roles r
          WHERE (rolsuper OR rolbypassrls OR oid = (SELECT relowner FROM pg_class WHERE oid = to_regclass('tenants')))
            AND pg_has_role(current_user, oid, 'MEMBER')
          ORDER BY rolname = current_user DESC, rolname LIMIT 1",
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok(UnboundRole { role: row.try_get("role")?, unbound: row.try_get("unbound")? })).transpose()
}
