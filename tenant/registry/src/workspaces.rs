//! Workspaces inside an org.

use model::ids::{OrgId, WorkspaceId};
use model::org::PlaceStatus;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::violated;
use super::event::EventType;
use super::outbox::Event;
use super::session::Session;
use super::{LIST_MAX, MAIN_WORKSPACE, Registry, RegistryError, as_id, rules};

/// A workspace of an org.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workspace {
    /// The id of the workspace.
    pub workspace_id: WorkspaceId,
    /// A name for commands and addresses, unique within the org.
    pub slug: String,
    /// A name for people to recognise it by.
    pub name: String,
    /// Whether the workspace is active or archived.
    pub status: PlaceStatus,
    /// When the workspace was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Registry {
    /// Creates a workspace in an org.
    pub async fn create_workspace(&self, org_id: OrgId, slug: &str, name: &str) -> Result<WorkspaceId, RegistryError> {
        rules::slug(slug)?;
        rules::name(name)?;
        let workspace_id = WorkspaceId(Uuid::new_v4());
        let mut change = self.change(org_id).await?;
        sqlx::query("INSERT INTO workspaces (id, tenant_id, slug, name) VALUES ($1, $2, $3, $4)")
            .bind(workspace_id.0)
            .bind(org_id.0)
            .bind(slug)
            .bind(name)
            .execute(change.connection())
            .await
            .map_err(|error| match violated(&error) {
                Some("workspaces_tenant_id_slug_key") => {
                    RegistryError::DuplicateSlug { what: "workspace", slug: slug.to_owned() }
                }
                _ => error.into(),
            })?;
        let detail = json!({ "slug": slug, "name": name });
        change.commit(Event::new(EventType::WorkspaceCreate, workspace_id, detail)).await?;
        Ok(workspace_id)
    }

    /// An org's workspaces by slug, those after `after`, at most [`LIST_MAX`].
    pub async fn workspaces(&self, org_id: OrgId, after: Option<&str>) -> Result<Vec<Workspace>, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let rows = sqlx::query(
            "SELECT id, slug, name, status::text AS status, created_at FROM workspaces
              WHERE tenant_id = $1 AND ($2::text IS NULL OR slug > $2) ORDER BY slug LIMIT $3",
        )
        .bind(org_id.0)
        .bind(after)
        .bind(i64::from(LIST_MAX))
        .fetch_all(session.connection())
        .await?;
        rows.iter().map(workspace).collect()
    }

    /// The org's workspace with that slug or id.
    pub async fn find_workspace(&self, org_id: OrgId, slug_or_id: &str) -> Result<Workspace, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let row = sqlx::query(
            "SELECT id, slug, name, status::text AS status, created_at FROM workspaces
              WHERE tenant_id = $1 AND CASE WHEN $2::uuid IS NULL THEN slug = $3 ELSE id = $2 END",
        )
        .bind(org_id.0)
        .bind(as_id(slug_or_id))
        .bind(slug_or_id)
        .fetch_optional(session.connection())
        .await?;
        let row = row.ok_or_else(|| RegistryError::UnknownWorkspace { workspace: slug_or_id.to_owned() })?;
        workspace(&row)
    }

    /// Archives a workspace: the keys of its projects stop working, its data stays. False if it was archived before.
    /// The workspace `main` cannot be archived.
    pub async fn archive_workspace(&self, org_id: OrgId, workspace_id: WorkspaceId) -> Result<bool, RegistryError> {
        let mut change = self.change(org_id).await?;
        let (slug, status) = find(change.connection(), org_id, workspace_id).await?;
        if slug == MAIN_WORKSPACE {
            return Err(RegistryError::MainWorkspace);
        }
        if status == PlaceStatus::Archived {
            return Ok(false);
        }
        sqlx::query("UPDATE workspaces SET status = 'archived' WHERE tenant_id = $1 AND id = $2")
            .bind(org_id.0)
            .bind(workspace_id.0)
            .execute(change.connection())
            .await?;
        let detail = json!({ "slug": slug, "old": status, "new": PlaceStatus::Archived });
        change.commit(Event::new(EventType::WorkspaceArchive, workspace_id, detail)).await?;
        Ok(true)
    }
}

/// The slug and status of a workspace of the session's org.
pub(super) async fn find(
    connection: &mut PgConnection,
    org_id: OrgId,
    workspace_id: WorkspaceId,
) -> Result<(String, PlaceStatus), RegistryError> {
    let row = sqlx::query("SELECT slug, status::text AS status FROM workspaces WHERE tenant_id = $1 AND id = $2")
        .bind(org_id.0)
        .bind(workspace_id.0)
        .fetch_optional(connection)
        .await?;
    let row = row.ok_or_else(|| RegistryError::UnknownWorkspace { workspace: workspace_id.to_string() })?;
    Ok((row.try_get("slug")?, row.try_get::<&str, _>("status")?.parse()?))
}

fn workspace(row: &PgRow) -> Result<Workspace, RegistryError> {
    Ok(Workspace {
        workspace_id: WorkspaceId(row.try_get("id")?),
        slug: row.try_get("slug")?,
        name: row.try_get("name")?,
        status: row.try_get::<&str, _>("status")?.parse()?,
        created_at: row.try_get("created_at")?,
    })
}
