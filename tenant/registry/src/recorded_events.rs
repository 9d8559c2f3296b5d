//! Records events that are no change to the registry, such as a login, or that somebody read dead letters.

use model::ids::OrgId;

use super::event::NewEvent;
use super::session::Change;
use super::{Registry, RegistryError};

impl Registry {
    /// Writes events of an org, or of none, to the outbox. May be repeated: an event that exists already stays
    /// unchanged.
    pub async fn record_events(&self, org_id: Option<OrgId>, events: &[NewEvent]) -> Result<(), RegistryError> {
        let Some(org_id) = org_id else {
            for event in events {
                sqlx::query("SELECT record_event_of_no_org($1, $2, $3, $4, $5, $6)")
                    .bind(event.event_id)
                    .bind(event.event_type.as_str())
                    .bind(&event.actor)
                    .bind(&event.target)
                    .bind(&event.detail)
                    .bind(event.at)
                    .execute(&self.pool)
                    .await?;
            }
            return Ok(());
        };
        let mut change = Change::begin(self, org_id).await?;
        for event in events {
            sqlx::query(
                "INSERT INTO audit_outbox (event_id, tenant_id, event_type, actor, target, detail, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (event_id) DO NOTHING",
            )
            .bind(event.event_id)
            .bind(org_id.0)
            .bind(event.event_type.as_str())
            .bind(&event.actor)
            .bind(&event.target)
            .bind(&event.detail)
            .bind(event.at)
            .execute(change.connection())
            .await?;
        }
        change.commit_measured(Vec::new()).await?;
        Ok(())
    }
}
