//! The audit outbox: every change to the registry is told here, in the change's own transaction.

use model::ids::OrgId;
use serde_json::Value;
use sqlx::PgConnection;

use super::announce::Reach;
use super::event::EventType;

/// What is told about a change. Its detail says the old and the new value; never a secret or the contents of a config.
pub(super) struct Event {
    event_type: EventType,
    target: String,
    detail: Value,
}

impl Event {
    pub(super) fn new(event_type: EventType, target: impl ToString, detail: Value) -> Self {
        Self { event_type, target: target.to_string(), detail }
    }

    /// Which keys the services must look up anew when this has happened.
    pub(super) fn reach(&self) -> Reach {
        use EventType::*;
        // Each by name, so that a new event is not forgotten: a change that reaches nobody would hold only after the
        // cache is too old.
        match self.event_type {
            ApiKeyRevoke | ApiKeyRotate => Reach::Key(self.target.clone()),
            OrgPlan | OrgLimits | OrgFreeze | OrgThaw | OrgArchive | WorkspaceArchive | ProjectArchive
            | ShardAssign | ShardUnassign | ShardSettle => Reach::Org,
            Login | ApiKeyCreate | RoleChange | ExportCreate | ExportDownload | ReadApiInputsOutputs | QuotaWarn
            | QuotaBlock | QuotaDrop | QuotaPark | QuotaRelease | FlagChange | DlqParked | LedgerResidue | DlqShow
            | DlqReplay | DlqDrop | OrgCreate | OrgRetention | WorkspaceCreate | ProjectCreate | ProductSet
            | IdpSet => Reach::Nobody,
        }
    }

    /// Whether the org's monthly limits may be others now.
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
