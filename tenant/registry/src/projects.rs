//! Projects inside a workspace.

use model::ids::{OrgId, ProjectId, WorkspaceId};
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
use super::{LIST_MAX, Registry, RegistryError, as_id, rules, workspaces};

/// A project of an org.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Project {
    /// The id of the project.
    pub project_id: ProjectId,
    /// A name for commands and addresses, unique within the org.
    pub slug: String,
    /// A name for people to recognise it by.
    pub name: String,
    /// Its own status; it is not served either when its workspace is archived.
    pub status: PlaceStatus,
    /// The id of the project's workspace.
    pub workspace_id: WorkspaceId,
    /// The slug of the project's workspace.
    pub workspace_slug: String,
    /// When the project was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// The columns of a [`Project`].
macro_rules! select_project {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.slug, p.name, p.status::text AS status, p.workspace_id, w.slug AS workspace_slug, \
             p.created_at FROM tenant_projects p JOIN workspaces w ON w.tenant_id = p.tenant_id AND w.id = p.workspace_id ",
            $rest
        )
    };
}

impl Registry {
    /// Creates a project in a workspace of the org. Slugs are unique within the org.
    pub async fn create_project(
        &self,
        org_id: OrgId,
        workspace_id: WorkspaceId,
        slug: &str,
        name: &str,
    ) -> Result<ProjectId, RegistryError> {
        rules::slug(slug)?;
        rules::name(name)?;
        let project_id = ProjectId(Uuid::new_v4());
        let mut change = self.change(org_id).await?;
        let (_, status) = workspaces::find(change.connection(), org_id, workspace_id).await?;
        if status == PlaceStatus::Archived {
            return Err(RegistryError::Archived { what: "workspace" });
        }
        sqlx::query(
            "INSERT INTO tenant_projects (id, tenant_id, workspace_id, slug, name) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(project_id.0)
        .bind(org_id.0)
        .bind(workspace_id.0)
        .bind(slug)
        .bind(name)
        .execute(change.connection())
        .await
        .map_err(|error| match violated(&error) {
            Some("tenant_projects_tenant_id_slug_key") => {
                RegistryError::DuplicateSlug { what: "project", slug: slug.to_owned() }
            }
            _ => error.into(),
        })?;
        let detail = json!({"slug": slug, "name": name, "workspace_id": workspace_id });
        change.commit(Event::new(EventType::ProjectCreate, project_id, detail)).await?;
        Ok(project_id)
    }

    /// The projects of an org, or of one of its workspaces, by slug, those after `after`, at most [`LIST_MAX`].
    pub async fn projects(
        &self,
        org_id: OrgId,
        workspace_id: Option<WorkspaceId>,
        after: Option<&str>,
    ) -> Result<Vec<Project>, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let rows = sqlx::query(select_project!(
            "WHERE p.tenant_id = $1 AND ($2::uuid IS NULL OR p.workspace_id = $2) AND ($3::text IS NULL OR p.slug > $3)
             ORDER BY p.slug LIMIT $4"
        ))
        .bind(org_id.0)
        .bind(workspace_id.map(|id| id.0))
        .bind(after)
        .bind(i64::from(LIST_MAX))
        .fetch_all(session.connection())
        .await?;
        rows.iter().map(project).collect()
    }

    /// The org's project with that slug or id.
    pub async fn find_project(&self, org_id: OrgId, slug_or_id: &str) -> Result<Project, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let row = sqlx::query(select_project!(
            "WHERE p.tenant_id = $1 AND CASE WHEN $2::uuid IS NULL THEN p.slug = $3 ELSE p.id = $2 END"
        ))
        .bind(org_id.0)
        .bind(as_id(slug_or_id))
        .bind(slug_or_id)
        .fetch_optional(session.connection())
        .await?;
        let row = row.ok_or_else(|| RegistryError::UnknownProject { project: slug_or_id.to_owned() })?;
        project(&row)
    }

    /// Archives a project: its keys stop working, its data stays. False if it was archived before.
    pub async fn archive_project(&self, org_id: OrgId, project_id: ProjectId) -> Result<bool, RegistryError> {
        let mut change = self.change(org_id).await?;
        let project = find(change.connection(), org_id, project_id).await?;
        if project.status == PlaceStatus::Archived {
            return Ok(false);
        }
        sqlx::query("UPDATE tenant_projects SET status = 'archived' WHERE tenant_id = $1 AND id = $2")
            .bind(org_id.0)
            .bind(project_id.0)
            .execute(change.connection())
            .await?;
        let detail = json!({"slug": project.slug, "old": project.status, "new": PlaceStatus::Archived });
        change.commit(Event::new(EventType::ProjectArchive, project_id, detail)).await?;
        Ok(true)
    }
}

/// A project of the session's org.
pub(super) async fn find(
    connection: &mut PgConnection,
    org_id: OrgId,
    project_id: ProjectId,
) -> Result<Project, RegistryError> {
    let row = sqlx::query(select_project!("WHERE p.tenant_id = $1 AND p.id = $2"))
        .bind(org_id.0)
        .bind(project_id.0)
        .fetch_optional(connection)
        .await?;
    let row = row.ok_or_else(|| RegistryError::UnknownProject { project: project_id.to_string() })?;
    project(&row)
}

fn project(row: &PgRow) -> Result<Project, RegistryError> {
    Ok(Project {
        project_id: ProjectId(row.try_get("id")?),
        slug: row.try_get("slug")?,
        name: row.try_get("name")?,
        status: row.try_get::<&str, _>("status")?.parse()?,
        workspace_id: WorkspaceId(row.try_get("workspace_id")?),
        workspace_slug: row.try_get("workspace_slug")?,
        created_at: row.try_get("created_at")?,
    })
}
