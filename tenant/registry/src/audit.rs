//! Reads the audit events of an org from the outbox.

use model::ids::OrgId;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use super::session::Session;
use super::{LIST_MAX, Registry, RegistryError};

/// An audit event of an org.
#[derive(Clone, Debug, Serialize)]
pub struct AuditEvent {
    /// The id of the event; every copy has the same.
    pub event_id: Uuid,
    /// The type of the event, such as `org.freeze`.
    pub event_type: String,
    /// The person or program that caused the event.
    pub actor: String,
    /// What the event changed: an id, a product, a key's public id.
    pub target: Option<String>,
    /// Details as a JSON object, such as old and new values.
    pub detail: Value,
    /// When the event was written.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Registry {
    /// The latest events of an org, newest first; at most [`LIST_MAX`].
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
