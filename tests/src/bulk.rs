//! Thousands of orgs at once, for a test that needs many and not what makes each of them.

use auth::api_key::IssuedKey;
use model::ids::{OrgId, ProjectId, WorkspaceId};
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{Org, World};

/// Each org with its project and key, in one transaction. Row-level security wants to be told whose each row is.
const CREATE: &str = "
CREATE FUNCTION pg_temp.orgs(first_half text, count int, hash text)
RETURNS TABLE (org uuid, workspace uuid, project uuid, public_id text) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..count LOOP
        org := (first_half || lpad(to_hex(n), 16, '0'))::uuid;
        project := gen_random_uuid();
        public_id := left(first_half, 8) || lpad(to_hex(n), 16, '0');
        PERFORM set_config('app.current_tenant', org::text, true);
        INSERT INTO tenants (id, slug, name, status, plan)
            VALUES (org, 'bulk-' || left(first_half, 8) || '-' || n, 'Bulk', 'active', 'self_hosted');
        SELECT id INTO workspace FROM workspaces w WHERE w.tenant_id = org;
        INSERT INTO tenant_projects (id, tenant_id, workspace_id, slug, name)
            VALUES (project, org, workspace, 'bulk', 'Bulk');
        INSERT INTO api_keys (tenant_id, project_id, public_id, key_hash, prefix, last_four, name, scopes)
            VALUES (org, project, orgs.public_id, hash, 'tb_', 'bulk', 'bulk', '{ingest:write}');
        RETURN NEXT;
    END LOOP;
END $$";

impl World {
    /// Creates so many orgs, each with a project and a key. The keys have one secret, which is hashed once.
    pub async fn orgs_in_bulk(&self, count: u32) -> anyhow::Result<Vec<Org>> {
        let key = IssuedKey::generate()?;
        let secret = key.reveal().split_once('.').map(|(_, secret)| secret).unwrap_or_default();
        let first_half = &Uuid::new_v4().simple().to_string()[..16];
        let mut owner = PgConnection::connect(&self.urls.pg_owner_dsn).await?;
        sqlx::raw_sql(CREATE).execute(&mut owner).await?;
        let create = sqlx::query("SELECT org, workspace, project, public_id FROM pg_temp.orgs($1, $2, $3)");
        let create = create.bind(first_half).bind(i32::try_from(count)?).bind(key.hash()?);
        let rows = create.fetch_all(&mut owner).await?;
        owner.close().await?;
        let org = |row: &sqlx::postgres::PgRow| {
            let public_id: String = row.try_get("public_id")?;
            Ok(Org {
                org_id: OrgId(row.try_get("org")?),
                workspace_id: WorkspaceId(row.try_get("workspace")?),
                project_id: ProjectId(row.try_get("project")?),
                key: format!("tb_{public_id}.{secret}"),
            })
        };
        rows.iter().map(org).collect()
    }
}
