//! What can be told.

use model::ids::OrgId;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use model::words;

/// The longest name of who did something, or of what it was done to, in characters. More is cut off.
pub const ACTOR_CHARS_MAX: usize = 400;
/// The largest detail, in bytes of JSON. A larger one is left out, which is told in its place.
pub const DETAIL_BYTES_MAX: usize = 16 << 10;

words! {
    /// Every kind of event. The registry's own carry the same words.
    EventType, "event type" {
        /// Somebody logged in, or tried to.
        Login = "login",
        /// An API key was made.
        ApiKeyCreate = "api_key.create",
        /// An API key was given a successor.
        ApiKeyRotate = "api_key.rotate",
        /// An API key was ended.
        ApiKeyRevoke = "api_key.revoke",
        /// Somebody may do more or less than before.
        RoleChange = "role.change",
        /// An export of data was asked for.
        ExportCreate = "export.create",
        /// Exported data was fetched.
        ExportDownload = "export.download",
        /// Inputs or outputs of a run were read.
        ReadApiInputsOutputs = "read_api.inputs_outputs",
        /// An org comes close to a monthly limit; or it has reached one that does not refuse.
        QuotaWarn = "quota.warn",
        /// An org has reached a monthly limit, and is refused.
        QuotaBlock = "quota.block",
        /// Accepted data beyond a monthly limit was dropped.
        QuotaDrop = "quota.drop",
        /// Accepted data beyond a monthly limit was parked.
        QuotaPark = "quota.park",
        /// Parked data was released.
        QuotaRelease = "quota.release",
        /// A switch was flipped.
        FlagChange = "flag.change",
        /// An org goes to a shard of its own choosing.
        ShardAssign = "shard.assign",
        /// An org goes where its hash says again.
        ShardUnassign = "shard.unassign",
        /// An org has arrived in its new shard.
        ShardSettle = "shard.settle",
        /// Envelopes became dead letters.
        DlqParked = "dlq.parked",
        /// Accepted items are missing, or there are more than were accepted.
        LedgerResidue = "ledger.residue",
        /// Dead letters were read.
        DlqShow = "dlq.show",
        /// Dead letters were sent again.
        DlqReplay = "dlq.replay",
        /// Dead letters were thrown away.
        DlqDrop = "dlq.drop",
        /// An org was made.
        OrgCreate = "org.create",
        /// An org was given another plan.
        OrgPlan = "org.plan",
        /// An org's own limits were changed.
        OrgLimits = "org.limits",
        /// An org's data is kept for longer or shorter.
        OrgRetention = "org.retention",
        /// An org was stopped.
        OrgFreeze = "org.freeze",
        /// An org may go on.
        OrgThaw = "org.thaw",
        /// An org was ended.
        OrgArchive = "org.archive",
        /// A workspace was made.
        WorkspaceCreate = "workspace.create",
        /// A workspace was ended.
        WorkspaceArchive = "workspace.archive",
        /// A project was made.
        ProjectCreate = "project.create",
        /// A project was ended.
        ProjectArchive = "project.archive",
        /// A product was configured.
        ProductSet = "product.set",
        /// Sign-in was configured.
        IdpSet = "idp.set",
    }
}

/// Something that was done just now and is no change to the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// Unique; a repeated event has the same.
    pub event_id: Uuid,
    /// Whose, if it is of an org.
    pub org_id: Option<OrgId>,
    /// What was done.
    pub event_type: EventType,
    /// By whom.
    pub actor: String,
    /// To what.
    pub target: Option<String>,
    /// An object, at most [`DETAIL_BYTES_MAX`].
    pub detail: Value,
    /// When.
    pub at: OffsetDateTime,
}

impl NewEvent {
    /// An event of an org, or of none, done by `actor`, who is not blank.
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

    /// What it was done to: an id, a name.
    #[must_use]
    pub fn target(self, target: &str) -> Self {
        Self { target: Some(cut(target)), ..self }
    }

    /// What else is worth knowing: an object, never a secret.
    #[must_use]
    pub fn detail(self, detail: Value) -> Self {
        let bytes = detail.to_string().len();
        let detail = match detail {
            Value::Object(_) if bytes <= DETAIL_BYTES_MAX => detail,
            Value::Object(_) => json!({ "left_out_bytes": bytes }),
            other => json!({ "value": other }),
        };
        Self { detail, ..self }
    }

    /// The event of that name, which is written once however often it is recorded.
    #[must_use]
    pub fn named(self, event_id: Uuid) -> Self {
        Self { event_id, ..self }
    }

    /// The same wherever the event is copied to.
    pub const fn event_id(&self) -> Uuid {
        self.event_id
    }
}

/// What Postgres takes: no zero characters, and not too long.
fn cut(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(ACTOR_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_passed_becomes_an_event_that_fits() {
        let event = NewEvent::new(None, EventType::Login, " ").target(&"x".repeat(1000)).detail(json!([1]));
        assert_eq!((event.actor.as_str(), event.target.as_ref().unwrap().len()), ("unknown", ACTOR_CHARS_MAX));
        assert_eq!(event.detail, json!({ "value": [1] }));
        let large = json!({ "a": "x".repeat(DETAIL_BYTES_MAX) });
        let event = NewEvent::new(None, EventType::Login, "a\0b").detail(large);
        assert_eq!(event.actor, "ab");
        assert_eq!(event.detail, json!({ "left_out_bytes": DETAIL_BYTES_MAX + 8 }));
    }
}
