//! Looks up the org of a project, for envelopes that name only their project.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::ids::{OrgId, ProjectId, WorkspaceId};
use model::shard::Shard;
use sqlx::{PgPool, Row};

/// The most projects in the cache.
const PROJECTS_MAX: usize = 10_000;

/// The org and workspace of a project, and the shard for its envelopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The org of the project; it never changes.
    pub org_id: OrgId,
    /// The workspace of the project; it never changes.
    pub workspace_id: WorkspaceId,
    /// The shard of its org; it changes when the org moves.
    pub shard: Shard,
}

/// Looks projects up in the registry, with a cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Projects {
    pool: PgPool,
    known: Arc<Mutex<HashMap<ProjectId, Place>>>,
}

impl Projects {
    /// Looks up in that Postgres, with the services' role.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, known: Arc::default() }
    }

    /// The org, workspace and shard of a project; `None` if it does not exist. That answer is not cached: the project
    /// may be created later.
    pub async fn find(&self, project: ProjectId) -> Result<Option<Place>, sqlx::Error> {
        if let Some(place) = self.known().get(&project) {
            return Ok(Some(*place));
        }
        let row = sqlx::query("SELECT tenant_id, workspace_id, shard FROM find_project($1)")
            .bind(project.0)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let org_id = OrgId(row.try_get("tenant_id")?);
        let assigned: Option<i16> = row.try_get("shard")?;
        let assigned = assigned.and_then(|number| Shard::new(u8::try_from(number).ok()?));
        let place = Place {
            org_id,
            workspace_id: WorkspaceId(row.try_get("workspace_id")?),
            shard: assigned.unwrap_or_else(|| Shard::home(org_id)),
        };
        let mut known = self.known();
        if known.len() >= PROJECTS_MAX {
            known.clear();
        }
        known.insert(project, place);
        Ok(Some(place))
    }

    /// Forgets the shard of an org, because it is closed to the org.
    pub fn forget(&self, org: OrgId) {
        self.known().retain(|_, place| place.org_id != org);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<ProjectId, Place>> {
        // Each entry is complete at every point where a panic could happen.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
