//! The outbox of all orgs, as its copier sees it: which events are still to be copied, and which are. Uses only the
//! functions of `0005_reconcilers`, which return little and change less.

use model::ids::OrgId;
use serde_json::Value;
use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{LIST_MAX, Registry, RegistryError};

/// An event of the outbox, as it is copied to ClickHouse.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct OutboxEvent {
    /// Its number in the outbox.
    pub id: i64,
    pub event_id: Uuid,
    /// `None` for an event of no org.
    pub org_id: Option<OrgId>,
    pub event_type: String,
    pub actor: String,
    pub target: Option<String>,
    pub detail: Value,
    pub created_at: OffsetDateTime,
}

impl Registry {
    /// Events of the outbox that are not copied yet, in the order of their numbers; at most [`LIST_MAX`].
    pub async fn unpublished_events(&self, limit: u32) -> Result<Vec<OutboxEvent>, RegistryError> {
        self.outbox(0, None, limit).await
    }

    /// Events of the outbox with a number above `after` that happened before a time, copied or not; at most
    /// [`LIST_MAX`].
    pub async fn events_before(
        &self,
        after: i64,
        before: OffsetDateTime,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, RegistryError> {
        self.outbox(after, Some(before), limit).await
    }

    /// Events of all orgs with a number above `after`: those not copied yet, or all before a time.
    async fn outbox(
        &self,
        after: i64,
        before: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, RegistryError> {
        let rows = sqlx::query("SELECT * FROM outbox_events($1, coalesce($2, 'infinity'), $3, $4)")
            .bind(after)
            .bind(before)
            .bind(before.is_some())
            .bind(limit.min(LIST_MAX).cast_signed())
            .fetch_all(&self.pool)
            .await?;
        let events = rows.iter().map(|row| {
            let org: Option<&str> = row.try_get("tenant_ref")?;
            Ok(OutboxEvent {
                id: row.try_get("id")?,
                event_id: row.try_get("event_id")?,
                org_id: org.and_then(|org| org.parse().ok()),
                event_type: row.try_get("event_type")?,
                actor: row.try_get("actor")?,
                target: row.try_get("target")?,
                detail: row.try_get("detail")?,
                created_at: row.try_get("created_at")?,
            })
        });
        events.collect()
    }

    /// Marks events as copied, by their numbers. Returns how many were not marked before.
    pub async fn mark_published(&self, ids: &[i64]) -> Result<i64, RegistryError> {
        let row = sqlx::query("SELECT mark_published($1) AS marked").bind(ids).fetch_one(&self.pool).await?;
        Ok(row.try_get("marked")?)
    }
}
