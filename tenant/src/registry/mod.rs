//! Changes to orgs, projects and API keys.
//!
//! Every change is one transaction that also writes the audit outbox: what is not audited did not happen. Rules are
//! checked here for a clear message, and by the database in any case.

use std::fmt;

use schema::ids::{OrgId, ProjectId, WorkspaceId};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Row};
use thiserror::Error;
use uuid::Uuid;

use crate::api_key::{self, HashError, IssuedKey};
use crate::secret::SecretUrl;

/// The most characters of a name.
pub const NAME_CHARS_MAX: usize = 200;
/// The most scopes of one key.
pub const SCOPES_MAX: usize = 32;
/// The workspace that every org has from the start.
pub const MAIN_WORKSPACE: &str = "main";

/// Who a change is attributed to when nobody was named.
const DEFAULT_ACTOR: &str = "system";

/// The registry, opened for changes.
#[derive(Clone, Debug)]
pub struct Registry {
    pool: PgPool,
    actor: String,
}

/// A new org.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Org {
    /// Its id.
    pub org_id: OrgId,
    /// Its workspace `main`.
    pub workspace_id: WorkspaceId,
}

/// Why a change was refused.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// Not `^[a-z0-9][a-z0-9-]{1,38}[a-z0-9]$`.
    #[error("the slug {slug:?} is not valid: {reason}")]
    InvalidSlug {
        /// What was asked for.
        slug: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Empty or too long.
    #[error("a name has 1 to {NAME_CHARS_MAX} characters, not only blanks")]
    InvalidName,
    /// Not of the form `area:action` or `area:*`, or too many.
    #[error(
        "the scope {scope:?} is not valid: a key has at most {SCOPES_MAX} scopes, each like ingest:write or admin:*"
    )]
    InvalidScope {
        /// The first that is wrong.
        scope: String,
    },
    /// Another org, or another project of this org, has it.
    #[error("the slug {slug:?} is taken")]
    DuplicateSlug {
        /// What was asked for.
        slug: String,
    },
    /// No such plan.
    #[error("there is no plan {plan:?}")]
    UnknownPlan {
        /// What was asked for.
        plan: String,
    },
    /// No such org.
    #[error("there is no such organization")]
    UnknownOrg,
    /// The org has no such workspace; it may be another org's.
    #[error("the organization has no such workspace")]
    UnknownWorkspace,
    /// The org has no such project; it may be another org's.
    #[error("the organization has no such project")]
    UnknownProject,
    /// No such key.
    #[error("there is no such API key")]
    UnknownKey,
    /// The operating system gave no random numbers.
    #[error("no random numbers for a key: {0}")]
    Random(#[from] getrandom::Error),
    /// The secret could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The URL cannot be used, or Postgres failed or did not answer.
    #[error("the registry failed: {0}")]
    Database(#[from] sqlx::Error),
}

impl Registry {
    /// Connects, so that a wrong URL is told at once.
    pub async fn connect(dsn: &SecretUrl) -> Result<Self, RegistryError> {
        let registry = Self::new(crate::postgres::pool(dsn)?);
        sqlx::query("SELECT 1").execute(&registry.pool).await?;
        Ok(registry)
    }

    /// The registry on a pool that there is already.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, actor: DEFAULT_ACTOR.to_owned() }
    }

    /// Attributes the changes that follow to `actor`.
    pub fn acting_as(self, actor: impl Into<String>) -> Self {
        Self { actor: actor.into(), ..self }
    }

    /// Creates an org, with its workspace `main`, as active and paying by that plan.
    pub async fn create_org(&self, slug: &str, name: &str, plan: &str) -> Result<Org, RegistryError> {
        check_slug(slug)?;
        check_name(name)?;
        let org_id = OrgId(Uuid::new_v4());
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO tenants (id, slug, name, status, plan) VALUES ($1, $2, $3, 'active', $4)")
            .bind(org_id.0)
            .bind(slug)
            .bind(name)
            .bind(plan)
            .execute(&mut *transaction)
            .await
            .map_err(|error| match violated(&error) {
                Some("tenants_slug_key") => RegistryError::DuplicateSlug { slug: slug.to_owned() },
                Some("tenants_plan_fkey") => RegistryError::UnknownPlan { plan: plan.to_owned() },
                _ => error.into(),
            })?;
        // A trigger has made it.
        let workspace = sqlx::query("SELECT id FROM workspaces WHERE tenant_id = $1 AND slug = $2")
            .bind(org_id.0)
            .bind(MAIN_WORKSPACE)
            .fetch_one(&mut *transaction)
            .await?;
        let workspace_id = WorkspaceId(workspace.try_get("id")?);
        let detail = json!({ "slug": slug, "name": name, "plan": plan });
        self.audit(&mut transaction, org_id, "org.create", &org_id, detail).await?;
        transaction.commit().await?;
        Ok(Org { org_id, workspace_id })
    }

    /// Creates a project in a workspace of the org. Slugs are unique within the org.
    pub async fn create_project(
        &self,
        org_id: OrgId,
        workspace_id: WorkspaceId,
        slug: &str,
        name: &str,
    ) -> Result<ProjectId, RegistryError> {
        check_slug(slug)?;
        check_name(name)?;
        let project_id = ProjectId(Uuid::new_v4());
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO tenant_projects (id, tenant_id, workspace_id, slug, name) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(project_id.0)
        .bind(org_id.0)
        .bind(workspace_id.0)
        .bind(slug)
        .bind(name)
        .execute(&mut *transaction)
        .await
        .map_err(|error| match violated(&error) {
            Some("tenant_projects_tenant_id_slug_key") => RegistryError::DuplicateSlug { slug: slug.to_owned() },
            Some("tenant_projects_tenant_id_fkey") => RegistryError::UnknownOrg,
            Some("tenant_projects_workspace_fkey") => RegistryError::UnknownWorkspace,
            _ => error.into(),
        })?;
        let detail = json!({ "slug": slug, "name": name, "workspace_id": workspace_id });
        self.audit(&mut transaction, org_id, "project.create", &project_id, detail).await?;
        transaction.commit().await?;
        Ok(project_id)
    }

    /// Makes an API key for a project of the org. The whole key is in the answer and nowhere else.
    pub async fn create_key(
        &self,
        org_id: OrgId,
        project_id: ProjectId,
        name: &str,
        scopes: &[&str],
    ) -> Result<IssuedKey, RegistryError> {
        check_name(name)?;
        check_scopes(scopes)?;
        let key = IssuedKey::generate()?;
        let hash = key.hash()?;
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO api_keys (tenant_id, project_id, public_id, key_hash, prefix, last_four, name, scopes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(org_id.0)
        .bind(project_id.0)
        .bind(key.public_id())
        .bind(hash)
        .bind(key.prefix())
        .bind(key.last_four())
        .bind(name)
        .bind(scopes)
        .execute(&mut *transaction)
        .await
        .map_err(|error| match violated(&error) {
            Some("api_keys_tenant_id_fkey") => RegistryError::UnknownOrg,
            Some("api_keys_project_fkey") => RegistryError::UnknownProject,
            _ => error.into(),
        })?;
        let detail = json!({ "name": name, "project_id": project_id, "scopes": scopes });
        self.audit(&mut transaction, org_id, "api_key.create", &key.public_id(), detail).await?;
        transaction.commit().await?;
        Ok(key)
    }

    /// Ends a key now. False when it had ended before, which changes nothing.
    pub async fn revoke_key(&self, public_id: &str) -> Result<bool, RegistryError> {
        if !api_key::is_public_id(public_id) {
            return Err(RegistryError::UnknownKey);
        }
        let mut transaction = self.pool.begin().await?;
        let revoked = sqlx::query(
            "UPDATE api_keys SET revoked_at = now() WHERE public_id = $1 AND revoked_at IS NULL RETURNING tenant_id",
        )
        .bind(public_id)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = revoked else {
            let found = sqlx::query("SELECT 1 FROM api_keys WHERE public_id = $1").bind(public_id);
            let found = found.fetch_optional(&mut *transaction).await?;
            return found.map(|_| false).ok_or(RegistryError::UnknownKey);
        };
        let org_id = OrgId(row.try_get("tenant_id")?);
        self.audit(&mut transaction, org_id, "api_key.revoke", &public_id, json!({})).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Writes the outbox row of a change, in the change's transaction.
    async fn audit(
        &self,
        transaction: &mut PgConnection,
        org_id: OrgId,
        event_type: &'static str,
        target: &(impl fmt::Display + Sync),
        detail: Value,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO audit_outbox (tenant_id, event_type, actor, target, detail) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(org_id.0)
        .bind(event_type)
        .bind(&self.actor)
        .bind(target.to_string())
        .bind(detail)
        .execute(transaction)
        .await?;
        Ok(())
    }
}

/// The name of the constraint that a statement violated.
fn violated(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

fn check_slug(slug: &str) -> Result<(), RegistryError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let reason = if !(3..=40).contains(&slug.len()) {
        "it must have 3 to 40 characters"
    } else if !slug.bytes().all(allowed) {
        "only a-z, 0-9 and - are allowed"
    } else if slug.starts_with('-') || slug.ends_with('-') {
        "it must not start or end with -"
    } else {
        return Ok(());
    };
    Err(RegistryError::InvalidSlug { slug: slug.to_owned(), reason })
}

fn check_name(name: &str) -> Result<(), RegistryError> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.trim().chars().count());
    if fits { Ok(()) } else { Err(RegistryError::InvalidName) }
}

fn check_scopes(scopes: &[&str]) -> Result<(), RegistryError> {
    let word =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte));
    let is_valid =
        |scope: &str| scope.split_once(':').is_some_and(|(area, action)| word(area) && (action == "*" || word(action)));
    let wrong = scopes.iter().find(|scope| !is_valid(scope)).or(scopes.get(SCOPES_MAX));
    wrong.map_or(Ok(()), |scope| Err(RegistryError::InvalidScope { scope: (*scope).to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_checked_as_the_database_checks_them() {
        for good in ["abc", "a-b", "0a9", &"a".repeat(40), "a--b"] {
            assert!(check_slug(good).is_ok(), "{good}");
        }
        for bad in ["", "ab", &"a".repeat(41), "-ab", "ab-", "Abc", "a_b", "a b", "äbc", "abc\n", "a.b"] {
            assert!(matches!(check_slug(bad), Err(RegistryError::InvalidSlug { .. })), "{bad}");
        }
    }

    #[test]
    fn names_and_scopes_are_checked() {
        assert!(check_name(&"é".repeat(200)).is_ok());
        for bad in ["", "  ", &"é".repeat(201)] {
            assert!(check_name(bad).is_err());
        }
        assert!(check_scopes(&["ingest:write", "admin:*", "read_api.inputs:read"]).is_ok());
        assert!(check_scopes(&[]).is_ok());
        for bad in ["", "*", "ingest", "ingest:", ":write", "Ingest:write", "a:b:c", "a:**"] {
            assert!(matches!(check_scopes(&["a:b", bad]), Err(RegistryError::InvalidScope { scope }) if scope == bad));
        }
        assert!(check_scopes(&["a:b"; SCOPES_MAX]).is_ok() && check_scopes(&["a:b"; SCOPES_MAX + 1]).is_err());
    }
}
