//! The audit outbox: every change to the registry is told here, in the change's own transaction.

use schema::ids::OrgId;
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::announce::Reach;
use super::session::Session;
use super::{LIST_MAX, Registry, RegistryError};

/// What is told about a change. Its detail says the old and the new value; never a secret or the contents of a config.
pub(super) struct Event {
    event_type: &'static str,
    target: String,
    detail: Value,
}

impl Event {
    pub(super) fn new(event_type: &'static str, target: impl ToString, detail: Value) -> Self {
        Self { event_type, target: target.to_string(), detail }
    }

    /// Which keys the services must look up anew when this has happened.
    pub(super) fn reach(&self) -> Reach {
        match self.event_type {
            "api_key.revoke" | "api_key.rotate" => Reach::Key(self.target.clone()),
            "org.plan" | "org.limits" | "org.freeze" | "org.thaw" | "org.archive" | "workspace.archive"
            | "project.archive" | "shard.assign" | "shard.unassign" | "shard.settle" => Reach::Org,
            _ => Reach::Nobody,
        }
    }

    /// Whether the org's monthly limits may be others now.
    pub(super) fn changes_limits(&self) -> bool {
        matches!(self.event_type, "org.plan" | "org.limits")
    }

    pub(super) async fn write(
        self,
        connection: &mut PgConnection,
        org_id: OrgId,
        actor: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO audit_outbox (tenant_id, event_type, actor, target, detail) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(org_id.0)
        .bind(self.event_type)
        .bind(actor)
        .bind(self.target)
        .bind(self.detail)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// A change that was made.
#[derive(Clone, Debug, Serialize)]
pub struct AuditEvent {
    /// The same wherever the event is copied to.
    pub event_id: Uuid,
    /// What was done, such as `org.freeze`.
    pub event_type: String,
    /// Who did it.
    pub actor: String,
    /// To what: an id, a product, a key's public id.
    pub target: Option<String>,
    /// Old and new values.
    pub detail: Value,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Registry {
    /// The newest changes of an org, newest first; at most [`LIST_MAX`].
    pub async fn events(&self, org_id: OrgId, limit: u32) -> Result<Vec<AuditEvent>, RegistryError> {
        let mut session = Session::open(&self.pool, org_id).await?;
        let rows = sqlx::query(
            "SELECT event_id, event_type, actor, target, detail, created_at FROM audit_outbox
              WHERE tenant_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2",
        )
        .bind(org_id.0)
        .bind(i64::from(limit.min(LIST_MAX)))
        .fetch_all(session.connection())
        .await?;
        let events = rows.iter().map(|row| {
            Ok(AuditEvent {
                event_id: row.try_get("event_id")?,
                event_type: row.try_get("event_type")?,
                actor: row.try_get("actor")?,
                target: row.try_get("target")?,
                detail: row.try_get("detail")?,
                created_at: row.try_get("created_at")?,
            })
        });
        events.collect()
    }
}
