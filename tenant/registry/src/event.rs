//! Audit events, and their types.

use model::ids::OrgId;
use model::words;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

/// The most characters of an actor or a target. A longer text is cut off.
pub const ACTOR_CHARS_MAX: usize = 400;
/// The largest detail, in bytes of JSON. A larger one is left out, and the event says so.
pub const DETAIL_BYTES_MAX: usize = 16 << 10;

words! {
    /// All types of events, including those that the registry itself writes.
    EventType, "event type" {
        /// A person logged in, or tried to.
        Login = "login",
        /// An API key was created.
        ApiKeyCreate = "api_key.create",
        /// An API key was replaced by a new one.
        ApiKeyRotate = "api_key.rotate",
        /// An API key was revoked.
        ApiKeyRevoke = "api_key.revoke",
        /// The rights of a person were changed.
        RoleChange = "role.change",
        /// An export of data was requested.
        ExportCreate = "export.create",
        /// Exported data was downloaded.
        ExportDownload = "export.download",
        /// Inputs or outputs of a run were read.
        ReadApiInputsOutputs = "read_api.inputs_outputs",
        /// An org has nearly reached a monthly limit, or has reached one that does not refuse requests.
        QuotaWarn = "quota.warn",
        /// An org has reached a monthly limit, and its requests are refused.
        QuotaBlock = "quota.block",
        /// Accepted data beyond a monthly limit was dropped.
        QuotaDrop = "quota.drop",
        /// Accepted data beyond a monthly limit was parked.
        QuotaPark = "quota.park",
        /// Parked data was released.
        QuotaRelease = "quota.release",
        /// A flag was changed.
        FlagChange = "flag.change",
        /// An org was assigned to a shard.
        ShardAssign = "shard.assign",
        /// An org's assignment was removed: it moves to the shard of its hash.
        ShardUnassign = "shard.unassign",
        /// An org's move to another shard was completed.
        ShardSettle = "shard.settle",
        /// Envelopes became dead letters.
        DlqDeadLettered = "dlq.dead_lettered",
        /// The ledger found an imbalance.
        LedgerImbalance = "ledger.imbalance",
        /// Dead letters were read.
        DlqShow = "dlq.show",
        /// Dead letters were replayed.
        DlqReplay = "dlq.replay",
        /// Dead letters were dropped.
        DlqDrop = "dlq.drop",
        /// An org was created.
        OrgCreate = "org.create",
        /// An org was given another plan.
        OrgPlan = "org.plan",
        /// An org's own limits were changed.
        OrgLimits = "org.limits",
        /// An org's retention time was changed.
        OrgRetention = "org.retention",
        /// An org was frozen: its requests are refused.
        OrgFreeze = "org.freeze",
        /// A frozen org was thawed: its requests are accepted again.
        OrgThaw = "org.thaw",
        /// An org was archived.
        OrgArchive = "org.archive",
        /// A workspace was created.
        WorkspaceCreate = "workspace.create",
        /// A workspace was archived.
        WorkspaceArchive = "workspace.archive",
        /// A project was created.
        ProjectCreate = "project.create",
        /// A project was archived.
        ProjectArchive = "project.archive",
        /// An org's product was configured.
        ProductSet = "product.set",
        /// An org's identity provider was configured.
        IdpSet = "idp.set",
    }
}

/// A new event that is no change to the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// Unique; a repetition of the event has the same id.
    pub(crate) event_id: Uuid,
    /// The org that the event concerns; `None` if it concerns none, such as an operator's login.
    pub(crate) org_id: Option<OrgId>,
    /// The type of the event.
    pub(crate) event_type: EventType,
    /// The person or program that caused the event.
    pub(crate) actor: String,
    /// The object of the event, such as an id or a name.
    pub(crate) target: Option<String>,
    /// A JSON object of at most [`DETAIL_BYTES_MAX`] bytes.
    pub(crate) detail: Value,
    /// When the event happened.
    pub(crate) at: OffsetDateTime,
}

impl NewEvent {
    /// An event of an org, or of none, that happened now. `actor` must not be blank.
    pub fn new(org_id: Option<OrgId>, event_type: EventType, actor: &str) -> Self {
        let actor = if actor.trim().is_empty() { "unknown" } else { actor };
        Self {
            event_id: Uuid::new_v4(),
            org_id,
            event_type,
            actor: cut(actor),
            target: None,
            detail: json!({}),
            at: OffsetDateTime::now_utc(),
        }
    }

    /// Sets the object of the event: an id or a name.
    #[must_use]
    pub fn with_target(self, target: &str) -> Self {
        Self { target: Some(cut(target)), ..self }
    }

    /// Sets further details: a JSON object without secrets.
    #[must_use]
    pub fn with_detail(self, detail: Value) -> Self {
        let bytes = detail.to_string().len();
        let detail = match detail {
            Value::Object(_) if bytes <= DETAIL_BYTES_MAX => detail,
            Value::Object(_) => json!({ "left_out_bytes": bytes }),
            other => json!({ "value": other }),
        };
        Self { detail, ..self }
    }

    /// Sets the id of the event. An event recorded twice under one id is written once.
    #[must_use]
    pub fn with_id(self, event_id: Uuid) -> Self {
        Self { event_id, ..self }
    }

    /// The id of the event; every copy has the same.
    pub const fn event_id(&self) -> Uuid {
        self.event_id
    }

    /// The org that the event concerns, if any.
    pub const fn org_id(&self) -> Option<OrgId> {
        self.org_id
    }

    /// The type of the event.
    pub const fn event_type(&self) -> EventType {
        self.event_type
    }

    /// The details: a JSON object.
    pub const fn detail(&self) -> &Value {
        &self.detail
    }
}

/// A text that Postgres accepts: without zero characters, and not too long.
fn cut(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(ACTOR_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_input_becomes_an_event_within_its_limits() {
        let event = NewEvent::new(None, EventType::Login, " ").with_target(&"x".repeat(1000)).with_detail(json!([1]));
        assert_eq!((event.actor.as_str(), event.target.as_ref().unwrap().len()), ("unknown", ACTOR_CHARS_MAX));
        assert_eq!(event.detail, json!({ "value": [1] }));
        let large = json!({ "a": "x".repeat(DETAIL_BYTES_MAX) });
        let event = NewEvent::new(None, EventType::Login, "a\0b").with_detail(large);
        assert_eq!(event.actor, "ab");
        assert_eq!(event.detail, json!({ "left_out_bytes": DETAIL_BYTES_MAX + 8 }));
    }
}
