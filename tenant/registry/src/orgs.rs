//! Orgs and their status.

use model::ids::{OrgId, WorkspaceId};
use model::words;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::violated;
use super::event::EventType;
use super::outbox::Event;
use super::session::{Change, Session};
use super::{LIST_MAX, Limits, MAIN_WORKSPACE, OrgStatus, Registry, RegistryError, as_id, limits, rules};

words! {
    /// What an org is for.
    OrgKind, "kind of organization" {
        /// The org of a customer.
        Customer = "customer",
        /// An org for demonstrations.
        Demo = "demo",
    }
}

/// The properties of an org to be created.
#[derive(Clone, Debug)]
pub struct NewOrg {
    /// Unique among all orgs, including archived ones.
    pub slug: String,
    /// A name for people to recognise it by.
    pub name: String,
    /// The name of its plan.
    pub plan: String,
    /// Whether it is a customer's or a demonstration.
    pub kind: OrgKind,
    /// Its first status: demo, trial or active.
    pub status: OrgStatus,
    /// How many days its runs and spans are kept; `None` for the registry's default.
    pub retention_days: Option<u32>,
    /// When the trial ends, for an org on trial.
    pub trial_ends_at: Option<OffsetDateTime>,
}

impl NewOrg {
    /// A customer's org that is active from the start.
    pub fn new(slug: impl Into<String>, name: impl Into<String>, plan: impl Into<String>) -> Self {
        Self {
            slug: slug.into(),
            name: name.into(),
            plan: plan.into(),
            kind: OrgKind::Customer,
            status: OrgStatus::Active,
            retention_days: None,
            trial_ends_at: None,
        }
    }
}

/// The ids of an org that was just created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Org {
    /// The id of the org.
    pub org_id: OrgId,
    /// The id of its workspace `main`.
    pub workspace_id: WorkspaceId,
}

/// What a list shows of an org.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrgSummary {
    /// The id of the org.
    pub org_id: OrgId,
    /// The slug of the org.
    pub slug: String,
    /// A name for people to recognise it by.
    pub name: String,
    /// The status of the org, such as active or frozen.
    pub status: OrgStatus,
    /// Whether it is a customer's or a demonstration.
    pub kind: OrgKind,
    /// The name of its plan.
    pub plan: String,
    /// How many days its runs and spans are kept.
    pub retention_days: u32,
    /// When the trial ends, for an org on trial.
    #[serde(with = "time::serde::rfc3339::option")]
    pub trial_ends_at: Option<OffsetDateTime>,
    /// When the org was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// An org with counts of its parts and its limits.
#[derive(Clone, Debug, Serialize)]
pub struct OrgDetails {
    /// The properties of the org.
    #[serde(flatten)]
    pub org: OrgSummary,
    /// How many workspaces are active.
    pub workspaces: u64,
    /// How many projects are active.
    pub projects: u64,
    /// How many keys are neither revoked nor expired.
    pub live_keys: u64,
    /// The limits of the org.
    pub limits: Limits,
}

/// The columns of an [`OrgSummary`].
macro_rules! select_org {
    ($rest:literal) => {
        concat!(
            "SELECT id, slug, name, status::text AS status, kind::text AS kind, plan, retention_days, trial_ends_at, \
             created_at FROM tenants ",
            $rest
        )
    };
}

impl Registry {
    /// Creates an org, with its workspace `main`.
    pub async fn create_org(&self, new: &NewOrg) -> Result<Org, RegistryError> {
        rules::org_slug(&new.slug)?;
        rules::name(&new.name)?;
        let retention_days = new.retention_days.map(rules::retention).transpose()?;
        if !new.status.is_served() {
            return Err(RegistryError::InvalidStatus { status: new.status });
        }
        let org_id = OrgId(Uuid::new_v4());
        let mut change = Change::begin(self, org_id).await?;
        sqlx::query(
            "INSERT INTO tenants (id, slug, name, status, kind, plan, retention_days, trial_ends_at)
             VALUES ($1, $2, $3, $4::tenant_status, $5::tenant_kind, $6, coalesce($7, 90), $8)",
        )
        .bind(org_id.0)
        .bind(&new.slug)
        .bind(&new.name)
        .bind(new.status.as_str())
        .bind(new.kind.as_str())
        .bind(&new.plan)
        .bind(retention_days)
        .bind(new.trial_ends_at)
        .execute(change.connection())
        .await
        .map_err(|error| match violated(&error) {
            Some("tenants_slug_key") => RegistryError::DuplicateSlug { what: "organization", slug: new.slug.clone() },
            Some("tenants_plan_fkey") => RegistryError::UnknownPlan { plan: new.plan.clone() },
            _ => error.into(),
        })?;
        // A trigger has created the workspace.
        let workspace = sqlx::query("SELECT id FROM workspaces WHERE tenant_id = $1 AND slug = $2")
            .bind(org_id.0)
            .bind(MAIN_WORKSPACE)
            .fetch_one(change.connection())
            .await?;
        let workspace_id = WorkspaceId(workspace.try_get("id")?);
        let org = org(change.connection(), org_id).await?;
        let detail = json!({
            "slug": org.slug, "name": org.name, "plan": org.plan, "status": org.status, "kind": org.kind,
            "retention_days": org.retention_days,
        });
        change.commit(Event::new(EventType::OrgCreate, org_id, detail)).await?;
        Ok(Org { org_id, workspace_id })
    }

    /// The org with that slug or id. A text of 36 characters that parses as an id is taken as one.
    pub async fn find_org(&self, slug_or_id: &str) -> Result<OrgSummary, RegistryError> {
        let row = match as_id(slug_or_id) {
            Some(id) => {
                let mut session = Session::open(&self.pool, OrgId(id)).await?;
                let found = sqlx::query(select_org!("WHERE id = $1")).bind(id);
                found.fetch_optional(session.connection()).await?
            }
            // The directory, which only an operator sees.
            None => sqlx::query(select_org!("WHERE slug = $1")).bind(slug_or_id).fetch_optional(&self.pool).await?,
        };
        let row = row.ok_or_else(|| RegistryError::UnknownOrg { org: slug_or_id.to_owned() })?;
        summary(&row)
    }

    /// Orgs by slug, those after `after`, at most [`LIST_MAX`]. Only an operator sees any.
    pub async fn orgs(&self, status: Option<OrgStatus>, after: Option<&str>) -> Result<Vec<OrgSummary>, RegistryError> {
        let rows = sqlx::query(select_org!(
            "WHERE ($1::text IS NULL OR status = $1::tenant_status) AND ($2::text IS NULL OR slug > $2)
             ORDER BY slug LIMIT $3"
        ))
        .bind(status.map(OrgStatus::as_str))
        .bind(after)
        .bind(i64::from(LIST_MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(summary).collect()
    }

    /// The ids of all orgs, sorted, those after `after`; at most [`LIST_MAX`]. By a function of `0005_reconcilers`,
    /// which says nothing else of an org.
    pub async fn org_ids(&self, after: Option<OrgId>, limit: u32) -> Result<Vec<OrgId>, RegistryError> {
        let rows = sqlx::query("SELECT id FROM org_ids($1, $2)")
            .bind(after.map(|org| org.0))
            .bind(limit.min(LIST_MAX).cast_signed())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok(OrgId(row.try_get("id")?))).collect()
    }

    /// An org with counts of its parts and its limits.
    pub async fn org(&self, org_id: OrgId) -> Result<OrgDetails, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let org = org(session.connection(), org_id).await?;
        let counts = sqlx::query(
            "SELECT (SELECT count(*) FROM workspaces WHERE tenant_id = $1 AND status = 'active') AS workspaces,
                    (SELECT count(*) FROM tenant_projects WHERE tenant_id = $1 AND status = 'active') AS projects,
                    (SELECT count(*) FROM api_keys WHERE tenant_id = $1 AND revoked_at IS NULL
                                                     AND (expires_at IS NULL OR expires_at > now())) AS live_keys",
        )
        .bind(org_id.0)
        .fetch_one(session.connection())
        .await?;
        let count = |name| counts.try_get(name).map(|n: i64| n.unsigned_abs());
        Ok(OrgDetails {
            workspaces: count("workspaces")?,
            projects: count("projects")?,
            live_keys: count("live_keys")?,
            limits: limits::read(session.connection(), org_id).await?,
            org,
        })
    }

    /// Changes the plan of an org. False if it is on that plan already.
    pub async fn set_plan(&self, org_id: OrgId, plan: &str) -> Result<bool, RegistryError> {
        let mut change = self.change(org_id).await?;
        let old = org(change.connection(), org_id).await?.plan;
        if old == plan {
            return Ok(false);
        }
        let set = sqlx::query("UPDATE tenants SET plan = $2 WHERE id = $1").bind(org_id.0).bind(plan);
        set.execute(change.connection()).await.map_err(|error| match violated(&error) {
            Some("tenants_plan_fkey") => RegistryError::UnknownPlan { plan: plan.to_owned() },
            _ => error.into(),
        })?;
        change.commit(Event::new(EventType::OrgPlan, org_id, json!({ "old": old, "new": plan }))).await?;
        Ok(true)
    }

    /// Sets how many days an org's runs and spans are kept. False if nothing changed.
    pub async fn set_retention(&self, org_id: OrgId, days: u32) -> Result<bool, RegistryError> {
        let new = rules::retention(days)?;
        let mut change = self.change(org_id).await?;
        let old = org(change.connection(), org_id).await?.retention_days;
        if old == days {
            return Ok(false);
        }
        let set = sqlx::query("UPDATE tenants SET retention_days = $2 WHERE id = $1").bind(org_id.0).bind(new);
        set.execute(change.connection()).await?;
        change.commit(Event::new(EventType::OrgRetention, org_id, json!({ "old": old, "new": days }))).await?;
        Ok(true)
    }

    /// Freezes an org: its requests are refused until it is thawed, its data stays. False if it is frozen already.
    pub async fn freeze(&self, org_id: OrgId, reason: &str) -> Result<bool, RegistryError> {
        rules::reason(reason)?;
        let mut change = self.change(org_id).await?;
        let old = change.status().await?;
        if old == OrgStatus::Frozen {
            return Ok(false);
        }
        let set =
            sqlx::query("UPDATE tenants SET status = 'frozen', frozen_from = status WHERE id = $1").bind(org_id.0);
        set.execute(change.connection()).await?;
        let detail = json!({ "old": old, "new": OrgStatus::Frozen, "reason": reason });
        change.commit(Event::new(EventType::OrgFreeze, org_id, detail)).await?;
        Ok(true)
    }

    /// Thaws a frozen org: it gets its earlier status back. Always changes something, since only a frozen org can be
    /// thawed.
    pub async fn thaw(&self, org_id: OrgId) -> Result<bool, RegistryError> {
        let mut change = self.change(org_id).await?;
        let old = change.status().await?;
        if old != OrgStatus::Frozen {
            return Err(RegistryError::NotFrozen { status: old });
        }
        let set =
            sqlx::query("UPDATE tenants SET status = frozen_from, frozen_from = NULL WHERE id = $1").bind(org_id.0);
        set.execute(change.connection()).await?;
        let new = change.status().await?;
        change.commit(Event::new(EventType::OrgThaw, org_id, json!({ "old": old, "new": new }))).await?;
        Ok(true)
    }

    /// Archives an org for good: none of its requests is served, it cannot be changed any more, and its slug stays
    /// taken. False if it was archived before.
    pub async fn archive_org(&self, org_id: OrgId) -> Result<bool, RegistryError> {
        let mut change = Change::begin(self, org_id).await?;
        let old = change.status().await?;
        if old == OrgStatus::Archived {
            return Ok(false);
        }
        let set =
            sqlx::query("UPDATE tenants SET status = 'archived', frozen_from = NULL WHERE id = $1").bind(org_id.0);
        set.execute(change.connection()).await?;
        let detail = json!({ "old": old, "new": OrgStatus::Archived });
        change.commit(Event::new(EventType::OrgArchive, org_id, detail)).await?;
        Ok(true)
    }
}

/// The org of the session.
async fn org(connection: &mut PgConnection, org_id: OrgId) -> Result<OrgSummary, RegistryError> {
    let row = sqlx::query(select_org!("WHERE id = $1")).bind(org_id.0).fetch_optional(connection).await?;
    let row = row.ok_or_else(|| RegistryError::UnknownOrg { org: org_id.to_string() })?;
    summary(&row)
}

fn summary(row: &PgRow) -> Result<OrgSummary, RegistryError> {
    Ok(OrgSummary {
        org_id: OrgId(row.try_get("id")?),
        slug: row.try_get("slug")?,
        name: row.try_get("name")?,
        status: row.try_get::<&str, _>("status")?.parse()?,
        kind: row.try_get::<&str, _>("kind")?.parse()?,
        plan: row.try_get("plan")?,
        retention_days: row.try_get::<i32, _>("retention_days")?.unsigned_abs(),
        trial_ends_at: row.try_get("trial_ends_at")?,
        created_at: row.try_get("created_at")?,
    })
}
