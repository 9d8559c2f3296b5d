//! The audit outbox: every change to the registry writes its event here, in the change's own transaction.

use model::ids::OrgId;
use serde_json::Value;
use sqlx::PgConnection;

use super::announce::AffectedKeys;
use super::event::EventType;

mod publication;

pub use publication::OutboxEvent;

/// The event of a change. Its detail has the old and the new value, but never a secret or the contents of a config.
pub(super) struct Event {
    event_type: EventType,
    target: String,
    detail: Value,
}

impl Event {
    pub(super) fn new(event_type: EventType, target: impl ToString, detail: Value) -> Self {
        Self { event_type, target: target.to_string(), detail }
    }

    /// Which keys the services must look up again after this event.
    pub(super) fn affected_keys(&self) -> AffectedKeys {
        use EventType::*;
        // Every event type is listed, so that a new one is not forgotten: an unannounced change takes effect only when
        // caches expire.
        match self.event_type {
            ApiKeyRevoke | ApiKeyRotate => AffectedKeys::One(self.target.clone()),
            OrgPlan | OrgLimits | OrgFreeze | OrgThaw | OrgArchive | WorkspaceArchive | ProjectArchive
            | ShardAssign | ShardUnassign | ShardSettle => AffectedKeys::Org,
            Login | ApiKeyCreate | RoleChange | ExportCreate | ExportDownload | ReadApiInputsOutputs | QuotaWarn
            | QuotaBlock | QuotaDrop | QuotaPark | QuotaRelease | FlagChange | DlqDeadLettered | LedgerImbalance
            | DlqShow | DlqReplay | DlqDrop | OrgCreate | OrgRetention | WorkspaceCreate | ProjectCreate
            | ProductSet | IdpSet => AffectedKeys::None,
        }
    }

    /// Whether the event may have changed the org's monthly limits.
    pub(super) fn changes_limits(&self) -> bool {
        matches!(self.event_type, EventType::OrgPlan | EventType::OrgLimits)
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
        .bind(self.event_type.as_str())
        .bind(actor)
        .bind(self.target)
        .bind(self.detail)
        .execute(connection)
        .await?;
        Ok(())
    }
}
