//! Keys out of Postgres.

use schema::ids::{ApiKeyId, OrgId, ProjectId, WorkspaceId};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use time::OffsetDateTime;

use super::context::{Plan, Scopes};
use super::{KeyRecord, KeySource, Lookup, SourceError};
use crate::secret::Secret;
use crate::words::UnknownWord;

/// One key with its org, the workspace of its project, and its plan with the org's overrides merged in field by field.
const FIND: &str = "\
    SELECT k.id, k.tenant_id, p.workspace_id, k.project_id, k.key_hash, k.scopes, k.expires_at,
           k.revoked_at IS NOT NULL AS revoked, t.status::text AS status, t.plan,
           coalesce(o.rps, plan.rps) AS rps, coalesce(o.burst, plan.burst) AS burst,
           coalesce(o.eval_slots, plan.eval_slots) AS eval_slots
      FROM api_keys k
      JOIN tenants t ON t.id = k.tenant_id
      JOIN tenant_projects p ON p.tenant_id = k.tenant_id AND p.id = k.project_id
      JOIN plan ON plan.name = t.plan
      LEFT JOIN tenant_plan_override o ON o.tenant_id = t.id
     WHERE k.public_id = $1";

/// The registry as a source of keys.
#[derive(Clone, Debug)]
pub struct PostgresSource {
    pool: PgPool,
}

impl PostgresSource {
    /// A source on that pool; see [`crate::postgres::pool`].
    pub const fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

impl KeySource for PostgresSource {
    fn find<'a>(&'a self, public_id: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            let row = sqlx::query(FIND).bind(public_id).fetch_optional(&self.pool).await?;
            row.as_ref().map(record).transpose()
        })
    }
}

fn record(row: &PgRow) -> Result<KeyRecord, SourceError> {
    let status: String = row.try_get("status")?;
    let expires_at: Option<OffsetDateTime> = row.try_get("expires_at")?;
    Ok(KeyRecord {
        api_key_id: ApiKeyId(row.try_get("id")?),
        org_id: OrgId(row.try_get("tenant_id")?),
        workspace_id: WorkspaceId(row.try_get("workspace_id")?),
        project_id: ProjectId(row.try_get("project_id")?),
        hash: Secret::new(row.try_get("key_hash")?),
        scopes: Scopes::new(row.try_get::<Vec<String>, _>("scopes")?),
        expires_at_unix_ms: expires_at.map(unix_ms),
        revoked: row.try_get("revoked")?,
        status: status.parse().map_err(|error: UnknownWord| SourceError::Broken(error.to_string()))?,
        plan: Plan {
            name: row.try_get::<String, _>("plan")?.into(),
            rps: row.try_get("rps")?,
            burst: row.try_get("burst")?,
            eval_slots: row.try_get("eval_slots")?,
        },
    })
}

fn unix_ms(time: OffsetDateTime) -> i64 {
    // Out of range only for years that Postgres does not have.
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
