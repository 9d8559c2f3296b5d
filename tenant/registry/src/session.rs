//! Sessions: transactions that Postgres lets see and change one org and no other.
//!
//! The only place that binds `app.current_tenant`, which every policy of `0003_row_level_security` reads; clippy
//! refuses a transaction that is begun anywhere else. The setting is a bound parameter and ends with the transaction,
//! so a connection goes back to its pool bound to nobody.

use model::ids::OrgId;
use sqlx::{PgConnection, PgPool, Postgres, Row, Transaction};

use super::outbox::Event;
use super::{OrgStatus, Registry, RegistryError};

/// A transaction bound to one org. Ends without a trace when dropped.
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

    /// Where statements run. Name the org in each all the same: an operator sees the directory of all orgs.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

/// A session that may be committed, with what is to be told about it. Changes of one org run one after another, so that
/// what one has read still holds when it writes.
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

    /// The org.
    pub(super) const fn org_id(&self) -> OrgId {
        self.session.org_id
    }

    /// Where statements run.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.session.connection()
    }

    /// Where the org stands now, which no other change moves before this one ends.
    pub(super) async fn status(&mut self) -> Result<OrgStatus, RegistryError> {
        let org_id = self.org_id();
        let row = sqlx::query("SELECT status::text AS status FROM tenants WHERE id = $1")
            .bind(org_id.0)
            .fetch_optional(self.connection())
            .await?;
        let row = row.ok_or_else(|| RegistryError::UnknownOrg { org: org_id.to_string() })?;
        Ok(row.try_get::<String, _>("status")?.parse()?)
    }

    /// Writes the event to the outbox and commits both or neither, then tells the services. There is no other way to
    /// commit, so what is not audited did not happen.
    pub(super) async fn commit(mut self, event: Event) -> Result<(), sqlx::Error> {
        let (org_id, registry) = (self.org_id(), self.registry);
        let keys = registry.announcer.keys(self.connection(), org_id, event.reach()).await?;
        let are_limits = event.changes_limits();
        event.write(self.connection(), org_id, &registry.actor).await?;
        self.session.transaction.commit().await?;
        if are_limits {
            registry.announcer.limits_changed(org_id).await;
        }
        registry.announcer.announce(&keys).await;
        Ok(())
    }

    /// Writes any number of events, and commits. For what nobody decided, and so needs none: sums of usage, and what is
    /// only told.
    pub(super) async fn commit_measured(mut self, events: Vec<Event>) -> Result<(), sqlx::Error> {
        let (org_id, registry) = (self.org_id(), self.registry);
        for event in events {
            event.write(self.connection(), org_id, &registry.actor).await?;
        }
        self.session.transaction.commit().await
    }
}

/// The org of an API key, through the one door that is open before an org is known.
pub(super) async fn org_of_key(pool: &PgPool, public_id: &str) -> Result<Option<OrgId>, sqlx::Error> {
    let row = sqlx::query("SELECT tenant_id FROM find_api_key($1)").bind(public_id).fetch_optional(pool).await?;
    row.map(|row| row.try_get("tenant_id").map(OrgId)).transpose()
}

#[allow(clippy::disallowed_methods, reason = "the one place that begins transactions on the registry")]
async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    pool.begin().await
}

/// The advisory lock of an org. Two orgs that share one by accident wait for each other and nothing else.
fn lock_key(org_id: OrgId) -> i64 {
    let (high, low) = org_id.0.as_u64_pair();
    (high ^ low).cast_signed()
}
