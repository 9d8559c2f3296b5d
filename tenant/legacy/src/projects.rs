//! Whose a project is, for envelopes that name nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::ids::{OrgId, ProjectId, WorkspaceId};
use sqlx::{PgPool, Row};

use model::shard::Shard;

/// Projects that are remembered.
const PROJECTS_MAX: usize = 10_000;

/// Whose a project is, and where its envelopes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its org, for good.
    pub org_id: OrgId,
    /// Its workspace, for good.
    pub workspace_id: WorkspaceId,
    /// The shard of its org, which may move.
    pub shard: Shard,
}

/// The registry, as far as it says whose projects are. Remembers what it was told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Projects {
    pool: PgPool,
    known: Arc<Mutex<HashMap<ProjectId, Place>>>,
}

impl Projects {
    /// Projects in that Postgres, as the services' role sees it.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, known: Arc::default() }
    }

    /// Whose a project is; `None` if there is no such project, which is asked anew each time: it may be made yet.
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

    /// Forgets where an org's envelopes go, because its shard is closed to it.
    pub fn forget(&self, org: OrgId) {
        self.known().retain(|_, place| place.org_id != org);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<ProjectId, Place>> {
        // Each entry is whole at every point where a panic could happen.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
