//! API keys: made, listed, rotated, revoked.

use model::org::PlaceStatus;
use std::time::Duration;

use model::ids::{OrgId, ProjectId};
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;

use super::error::violated;
use super::event::EventType;
use super::outbox::Event;
use super::session::{self, Change, Session};
use super::{LIST_MAX, Registry, RegistryError, projects, rules, workspaces};
use auth::api_key::{self, IssuedKey};

/// A key that is to be.
#[derive(Clone, Copy, Debug)]
pub struct NewKey<'a> {
    /// For people.
    pub name: &'a str,
    /// What it may do.
    pub scopes: &'a [&'a str],
    /// When it ends; never when absent.
    pub expires_at: Option<OffsetDateTime>,
}

impl<'a> NewKey<'a> {
    /// A key that does not end by itself.
    pub const fn new(name: &'a str, scopes: &'a [&'a str]) -> Self {
        Self { name, scopes, expires_at: None }
    }
}

/// A key as a list shows it: nothing of its secret but the last four characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// What is between `tb_` and the dot.
    pub public_id: String,
    /// How the key starts.
    pub prefix: String,
    /// How it ends.
    pub last_four: String,
    /// For people.
    pub name: String,
    /// Its project.
    pub project_id: ProjectId,
    /// Its project's slug.
    pub project_slug: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When another key took its place.
    #[serde(with = "time::serde::rfc3339::option")]
    pub rotated_at: Option<OffsetDateTime>,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// What came of a rotation.
#[derive(Debug)]
pub struct Rotated {
    /// The new key.
    pub key: IssuedKey,
    /// When the new key ends; it lives as long as the old one was meant to.
    pub expires_at: Option<OffsetDateTime>,
    /// When the old one ends, or ended.
    pub old_ends_at: OffsetDateTime,
}

impl Registry {
    /// Makes an API key for a project of the org. The whole key is in the answer and nowhere else.
    pub async fn create_key(
        &self,
        org_id: OrgId,
        project_id: ProjectId,
        new: &NewKey<'_>,
    ) -> Result<IssuedKey, RegistryError> {
        rules::name(new.name)?;
        rules::scopes(new.scopes)?;
        rules::expiry(new.expires_at)?;
        let key = IssuedKey::generate()?;
        let hash = key.hash()?;
        let mut change = self.change(org_id).await?;
        require_active(change.connection(), org_id, project_id).await?;
        insert(change.connection(), org_id, project_id, &key, hash, new).await?;
        let detail = json!({
            "name": new.name, "project_id": project_id, "scopes": new.scopes, "expires_at": text(new.expires_at),
        });
        change.commit(Event::new(EventType::ApiKeyCreate, key.public_id(), detail)).await?;
        Ok(key)
    }

    /// An org's keys, newest first, those after the public id `after`, at most [`LIST_MAX`]. Revoked and expired ones
    /// are there when asked for.
    pub async fn keys(
        &self,
        org_id: OrgId,
        include_ended: bool,
        after: Option<&str>,
    ) -> Result<Vec<KeyInfo>, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let rows = sqlx::query(
            "SELECT k.public_id, k.prefix, k.last_four, k.name, k.project_id, p.slug AS project_slug, k.scopes,
                    k.created_at, k.expires_at, k.rotated_at, k.revoked_at
               FROM api_keys k JOIN tenant_projects p ON p.tenant_id = k.tenant_id AND p.id = k.project_id
              WHERE k.tenant_id = $1
                AND ($2 OR (k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())))
                AND ($3::text IS NULL OR (k.created_at, k.public_id) <
                     (SELECT a.created_at, a.public_id FROM api_keys a WHERE a.tenant_id = $1 AND a.public_id = $3))
              ORDER BY k.created_at DESC, k.public_id DESC LIMIT $4",
        )
        .bind(org_id.0)
        .bind(include_ended)
        .bind(after)
        .bind(i64::from(LIST_MAX))
        .fetch_all(session.connection())
        .await?;
        rows.iter().map(info).collect()
    }

    /// Makes a key that takes the place of another: same project, name, scopes and length of life. The old one goes on
    /// for `overlap`, or to its own end if that comes first; with no overlap it ends now. Only a key that works can be
    /// rotated, and only once, so that two rotations at the same time do not leave two successors.
    pub async fn rotate_key(&self, public_id: &str, overlap: Duration) -> Result<Rotated, RegistryError> {
        rules::overlap(overlap)?;
        let org_id = self.org_of_key(public_id).await?;
        let key = IssuedKey::generate()?;
        let hash = key.hash()?;
        let mut change = self.change(org_id).await?;
        let old = sqlx::query(
            "SELECT project_id, name, scopes, rotated_at, revoked_at, expires_at, expires_at <= now() AS expired,
                    now() + (expires_at - created_at) AS successor_expires_at
               FROM api_keys WHERE tenant_id = $1 AND public_id = $2",
        )
        .bind(org_id.0)
        .bind(public_id)
        .fetch_optional(change.connection())
        .await?
        .ok_or_else(|| unknown(public_id))?;
        let at = |column| old.try_get::<Option<OffsetDateTime>, _>(column);
        let ended = |ended| Err(RegistryError::KeyEnded { public_id: public_id.to_owned(), ended });
        if at("revoked_at")?.is_some() {
            return ended("revoked");
        } else if old.try_get::<Option<bool>, _>("expired")? == Some(true) {
            return ended("expired");
        } else if at("rotated_at")?.is_some() {
            return ended("rotated");
        }
        let project_id = ProjectId(old.try_get("project_id")?);
        require_active(change.connection(), org_id, project_id).await?;
        let (name, scopes): (String, Vec<String>) = (old.try_get("name")?, old.try_get("scopes")?);
        let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
        let expires_at = at("successor_expires_at")?;
        insert(
            change.connection(),
            org_id,
            project_id,
            &key,
            hash,
            &NewKey { name: &name, scopes: &scopes, expires_at },
        )
        .await?;
        // `least` passes over a null, which is a key that would not have ended.
        let ended = sqlx::query(
            "UPDATE api_keys SET rotated_at = now(), revoked_at = CASE WHEN $3 = 0 THEN now() END,
                    expires_at = CASE WHEN $3 = 0 THEN expires_at
                                      ELSE least(expires_at, now() + make_interval(secs => $3)) END
              WHERE tenant_id = $1 AND public_id = $2 RETURNING coalesce(revoked_at, expires_at) AS ends_at",
        )
        .bind(org_id.0)
        .bind(public_id)
        .bind(overlap.as_secs_f64())
        .fetch_one(change.connection())
        .await?;
        let old_ends_at = ended.try_get("ends_at")?;
        let detail = json!({
            "old": public_id, "new": key.public_id(), "old_ends_at": text(Some(old_ends_at)),
            "expires_at": text(expires_at),
        });
        change.commit(Event::new(EventType::ApiKeyRotate, public_id, detail)).await?;
        Ok(Rotated { key, expires_at, old_ends_at })
    }

    /// Ends a key now, also one of an archived org. False when it was revoked before.
    pub async fn revoke_key(&self, public_id: &str) -> Result<bool, RegistryError> {
        let org_id = self.org_of_key(public_id).await?;
        let mut change = Change::begin(self, org_id).await?;
        let revoked = sqlx::query(
            "UPDATE api_keys SET revoked_at = now() WHERE tenant_id = $1 AND public_id = $2 AND revoked_at IS NULL
             RETURNING name",
        )
        .bind(org_id.0)
        .bind(public_id)
        .fetch_optional(change.connection())
        .await?;
        let Some(revoked) = revoked else { return Ok(false) };
        let detail = json!({"name": revoked.try_get::<String, _>("name")? });
        change.commit(Event::new(EventType::ApiKeyRevoke, public_id, detail)).await?;
        Ok(true)
    }

    async fn org_of_key(&self, public_id: &str) -> Result<OrgId, RegistryError> {
        if !api_key::is_public_id(public_id) {
            return Err(unknown(public_id));
        }
        session::org_of_key(&self.pool, public_id).await?.ok_or_else(|| unknown(public_id))
    }
}

/// A text that is no public id may be a whole key, so it is not repeated.
fn unknown(public_id: &str) -> RegistryError {
    let shown = if api_key::is_public_id(public_id) { public_id } else { "" };
    RegistryError::UnknownKey { public_id: shown.to_owned() }
}

/// Refuses a key for a project that is not served.
async fn require_active(
    connection: &mut PgConnection,
    org_id: OrgId,
    project_id: ProjectId,
) -> Result<(), RegistryError> {
    let project = projects::find(connection, org_id, project_id).await?;
    let (_, workspace) = workspaces::find(connection, org_id, project.workspace_id).await?;
    match (project.status, workspace) {
        (PlaceStatus::Archived, _) => Err(RegistryError::Archived { what: "project" }),
        (_, PlaceStatus::Archived) => Err(RegistryError::Archived { what: "workspace" }),
        _ => Ok(()),
    }
}

async fn insert(
    connection: &mut PgConnection,
    org_id: OrgId,
    project_id: ProjectId,
    key: &IssuedKey,
    hash: String,
    new: &NewKey<'_>,
) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO api_keys (tenant_id, project_id, public_id, key_hash, prefix, last_four, name, scopes, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(org_id.0)
    .bind(project_id.0)
    .bind(key.public_id())
    .bind(hash)
    .bind(key.prefix())
    .bind(key.last_four())
    .bind(new.name)
    .bind(new.scopes)
    .bind(new.expires_at)
    .execute(connection)
    .await
    .map_err(|error| match (violated(&error), new.expires_at) {
        // By the clock of Postgres, if not by ours.
        (Some("api_keys_expires_at_check"), Some(at)) => RegistryError::InvalidExpiry { at },
        _ => error.into(),
    })?;
    Ok(())
}

fn info(row: &PgRow) -> Result<KeyInfo, RegistryError> {
    Ok(KeyInfo {
        public_id: row.try_get("public_id")?,
        prefix: row.try_get("prefix")?,
        last_four: row.try_get("last_four")?,
        name: row.try_get("name")?,
        project_id: ProjectId(row.try_get("project_id")?),
        project_slug: row.try_get("project_slug")?,
        scopes: row.try_get("scopes")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        rotated_at: row.try_get("rotated_at")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}

/// A time as an event's detail has it.
fn text(time: Option<OffsetDateTime>) -> Option<String> {
    time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
}
