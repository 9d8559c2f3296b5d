//! Creates, lists, rotates and revokes API keys.

use std::time::Duration;

use auth::api_key;
use auth::api_key::IssuedKey;
use model::ids::{OrgId, ProjectId};
use model::org::PlaceStatus;
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;

use super::error::violated;
use super::event::EventType;
use super::outbox::Event;
use super::session::{Change, Session};
use super::{LIST_MAX, Registry, RegistryError, projects, rules, session, workspaces};

/// The properties of an API key to be created.
#[derive(Clone, Copy, Debug)]
pub struct NewKey<'a> {
    /// A name for people to recognise it by.
    pub name: &'a str,
    /// The scopes that the key gets, such as `ingest:write`.
    pub scopes: &'a [&'a str],
    /// When the key expires; `None` for never.
    pub expires_at: Option<OffsetDateTime>,
}

impl<'a> NewKey<'a> {
    /// A key that never expires.
    pub const fn new(name: &'a str, scopes: &'a [&'a str]) -> Self {
        Self { name, scopes, expires_at: None }
    }
}

/// A key in a list: of its secret only the last four characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// The public id: the part between `tb_` and the dot.
    pub public_id: String,
    /// The first characters of the key.
    pub prefix: String,
    /// The last four characters of the key.
    pub last_four: String,
    /// A name for people to recognise it by.
    pub name: String,
    /// The id of the key's project.
    pub project_id: ProjectId,
    /// The slug of the key's project.
    pub project_slug: String,
    /// The scopes of the key.
    pub scopes: Vec<String>,
    /// When the key was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the key expires; `None` for never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When the key was replaced by another one.
    #[serde(with = "time::serde::rfc3339::option")]
    pub rotated_at: Option<OffsetDateTime>,
    /// When the key was revoked; `None` if it was not.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// The result of a rotation.
#[derive(Debug)]
pub struct Rotated {
    /// The whole new key, to be shown once.
    pub key: IssuedKey,
    /// When the new key expires: it gets the old key's length of life.
    pub expires_at: Option<OffsetDateTime>,
    /// When the old key stops working, or stopped.
    pub old_ends_at: OffsetDateTime,
}

impl Registry {
    /// Creates an API key for a project of the org. The result is the only place where the whole key ever appears.
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

    /// An org's keys, newest first, those after the public id `after`, at most [`LIST_MAX`]. Revoked and expired keys
    /// are included only on request.
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

    /// Creates a key that replaces another: same project, name, scopes and length of life. The old key works for
    /// `overlap` longer, or until it expires if that is earlier; without overlap it stops working now. Only a working
    /// key can be rotated, and only once, so that two rotations at the same time do not create two keys.
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
        // `least` ignores a null, which stands for a key that never expires.
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

    /// Revokes a key now, even one of an archived org. False if it was revoked before.
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

/// A text that is not a public id may be a whole key, so the message does not repeat it.
fn unknown(public_id: &str) -> RegistryError {
    let shown = if api_key::is_public_id(public_id) { public_id } else { "" };
    RegistryError::UnknownKey { public_id: shown.to_owned() }
}

/// Refuses a key for a project that is archived.
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
        // Expired by the clock of Postgres, if not by ours.
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

/// A time in the format of an event's detail.
fn text(time: Option<OffsetDateTime>) -> Option<String> {
    time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
}
