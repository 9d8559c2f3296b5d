//! Sessions: transactions in which Postgres allows access to one org and no other.
//!
//! The only place that sets `app.current_tenant`, which every policy of `0003_row_level_security` reads; clippy refuses
//! a transaction that is begun anywhere else. The setting is a bound parameter and ends with the transaction, so a
//! connection returns to its pool without an org.

use model::ids::OrgId;
use sqlx::{PgConnection, PgPool, Postgres, Row, Transaction};

use super::outbox::Event;
use super::{OrgStatus, Registry, RegistryError};

/// A transaction bound to one org. Rolled back when dropped.
pub(super) struct Session {
    transaction: Transaction<'static, Postgres>,
    org_id: OrgId,
}

impl Session {
    /// Binds a new transaction to an org, which need not exist.
    pub(super) async fn open(pool: &PgPool, org_id: OrgId) -> Result<Self, sqlx::Error> {
        let mut session = Self { transaction: begin(pool).await?, org_id };
        sqlx::query("SELECT set_config('app.current_tenant', $1, true)")
            .bind(org_id.to_string())
            .execute(session.connection())
            .await?;
        Ok(session)
    }

    /// The connection of the transaction. Name the org in each statement nevertheless: an operator can read the
    /// directory of all orgs.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

/// A session that may be committed, together with its audit event. Changes of one org run one after another, so that
/// what a change has read is still true when it writes.
pub(super) struct Change<'a> {
    session: Session,
    registry: &'a Registry,
}

impl<'a> Change<'a> {
    /// Begins a change of an org that may not exist yet.
    pub(super) async fn begin(registry: &'a Registry, org_id: OrgId) -> Result<Self, sqlx::Error> {
        let mut session = Session::open(&registry.pool, org_id).await?;
        // Not a row lock: a service may change an org's keys and not the org. Released with the transaction.
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock_key(org_id)).execute(session.connection()).await?;
        Ok(Self { session, registry })
    }

    /// The org that the session is bound to.
    pub(super) const fn org_id(&self) -> OrgId {
        self.session.org_id
    }

    /// The connection of the transaction.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.session.connection()
    }

    /// The present status of the org. No other change can alter it before this one ends.
    pub(super) async fn status(&mut self) -> Result<OrgStatus, RegistryError> {
        let org_id = self.org_id();
        let row = sqlx::query("SELECT status::text AS status FROM tenants WHERE id = $1")
            .bind(org_id.0)
            .fetch_optional(self.connection())
            .await?;
        let row = row.ok_or_else(|| RegistryError::UnknownOrg { org: org_id.to_string() })?;
        Ok(row.try_get::<String, _>("status")?.parse()?)
    }

    /// Writes the event to the outbox and commits, both or neither, then announces the change. There is no other way to
    /// commit, so no change lacks an audit event.
    pub(super) async fn commit(mut self, event: Event) -> Result<(), sqlx::Error> {
        let (org_id, registry) = (self.org_id(), self.registry);
        let keys = registry.announcer.keys(self.connection(), org_id, event.affected_keys()).await?;
        let are_limits = event.changes_limits();
        event.write(self.connection(), org_id, &registry.actor).await?;
        self.session.transaction.commit().await?;
        if are_limits {
            registry.announcer.limits_changed(org_id).await;
        }
        registry.announcer.announce(&keys).await;
        Ok(())
    }

    /// Writes any number of events, even none, and commits. Only for data that no person decided on: sums of usage, and
    /// events alone.
    pub(super) async fn commit_measured(mut self, events: Vec<Event>) -> Result<(), sqlx::Error> {
        let (org_id, registry) = (self.org_id(), self.registry);
        for event in events {
            event.write(self.connection(), org_id, &registry.actor).await?;
        }
        self.session.transaction.commit().await
    }
}

/// The org of an API key: the one query that is allowed before the org is known.
pub(super) async fn org_of_key(pool: &PgPool, public_id: &str) -> Result<Option<OrgId>, sqlx::Error> {
    let row = sqlx::query("SELECT tenant_id FROM find_api_key($1)").bind(public_id).fetch_optional(pool).await?;
    row.map(|row| row.try_get("tenant_id").map(OrgId)).transpose()
}

#[allow(clippy::disallowed_methods, reason = "the one place that begins transactions on the registry")]
async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    pool.begin().await
}

/// The advisory lock of an org. Two orgs with the same lock by coincidence only wait for each other.
fn lock_key(org_id: OrgId) -> i64 {
    let (high, low) = org_id.0.as_u64_pair();
    (high ^ low).cast_signed()
}
