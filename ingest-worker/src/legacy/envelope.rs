//! Reads an envelope from before tenancy and writes it as one of today. Pure.
//!
//! An old envelope is a JSON object: `project_id`, `payload` (a native batch), and, if the process that wrote it knew
//! them, `org_id`, `workspace_id`, `api_key_id`, `received_at` and `source`. The org in it is compared with the
//! project's org and never believed.

use std::borrow::Cow;

use legacy::Place;
use model::entry_id::EntryId;
use model::ids::{ApiKeyId, EnvelopeId, OrgId, ProjectId, WorkspaceId};
use model::trace::UnixNanos;
use queue::dlq::Reason;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use translate::batch::Batch;
use translate::native;
use translate::native::OnRejection;
use uuid::{Builder, Uuid};
use wire::envelope::{ContentId, EnvelopeKey, Header, Source};
use wire::tables::framed_hash_128;

const DAY: UnixNanos = 86_400 * 1_000_000_000;
/// How much later than the time in its entry's id an envelope may claim to be received, because the two times are of
/// different machines. Rows are partitioned by the time of receipt.
const RECEIVED_LATE_MAX: UnixNanos = DAY;
/// How much earlier than that it may claim to be received: an envelope may have waited this long.
const RECEIVED_EARLY_MAX: UnixNanos = 10 * 366 * DAY;

/// Why an entry becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(super) struct Flaw {
    /// The reason, one of a fixed set.
    pub(super) reason: Reason,
    /// The reason as a sentence for the operator.
    pub(super) detail: String,
}

impl Flaw {
    fn unreadable(detail: impl ToString) -> Self {
        Self { reason: Reason::Unreadable, detail: detail.to_string() }
    }

    /// The registry does not have the project.
    pub(super) fn unknown_project(project: ProjectId) -> Self {
        Self { reason: Reason::UnknownProject, detail: format!("there is no project {project}") }
    }
}

#[derive(Deserialize)]
struct Json<'a> {
    org_id: Option<Uuid>,
    workspace_id: Option<Uuid>,
    project_id: Option<Uuid>,
    api_key_id: Option<Uuid>,
    #[serde(borrow)]
    received_at: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// An entry of the legacy stream that could be read.
pub(super) struct LegacyEnvelope<'a> {
    id: EntryId,
    data: &'a [u8],
    json: Json<'a>,
    project: ProjectId,
    received_at: UnixNanos,
}

impl<'a> LegacyEnvelope<'a> {
    /// Decodes the bytes of the entry with that id.
    pub(super) fn read(id: EntryId, data: &'a [u8]) -> Result<Self, Flaw> {
        let json: Json<'a> = serde_json::from_slice(data).map_err(Flaw::unreadable)?;
        let project = json.project_id.map(ProjectId).ok_or_else(|| Flaw::unreadable("`project_id` is missing"))?;
        let appended_at = i64::try_from(id.ms()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let received_at = match &json.received_at {
            Some(text) => unix_nanos(text)?,
            // The process that wrote it appended it as soon as it had received it.
            None => appended_at,
        };
        let earliest = appended_at.saturating_sub(RECEIVED_EARLY_MAX);
        if !(earliest..=appended_at.saturating_add(RECEIVED_LATE_MAX)).contains(&received_at) {
            let said = json.received_at.unwrap_or_default();
            return Err(Flaw::unreadable(format!("`received_at` {said} is not about when it was appended")));
        }
        Ok(Self { id, data, json, project, received_at })
    }

    /// The project, which alone decides which org the envelope belongs to.
    pub(super) fn project(&self) -> ProjectId {
        self.project
    }

    /// The envelope as one of today; `None` if it is empty. `place` is where the envelope's project is.
    ///
    /// Its bytes are the same whenever it is translated with the same prices. It was accepted under the limits of its
    /// time, so today's limits do not apply to it.
    pub(super) fn translate(&self, place: &Place, key: &EnvelopeKey) -> Result<Option<Vec<u8>>, Flaw> {
        let Json { org_id, workspace_id, api_key_id, source, payload, .. } = &self.json;
        let said = |what: &str, said: Uuid, is: Uuid| Flaw {
            reason: Reason::WrongOrg,
            detail: format!("it says {what} {said}, but its project {} is of {is}", self.project),
        };
        // Some older releases wrote a nil id for an unknown one.
        let known = |id: &Option<Uuid>| id.filter(|id| !id.is_nil());
        if let Some(org) = known(org_id).filter(|org| OrgId(*org) != place.org_id) {
            return Err(said("org", org, place.org_id.0));
        }
        if let Some(workspace) = known(workspace_id).filter(|workspace| WorkspaceId(*workspace) != place.workspace_id) {
            return Err(said("workspace", workspace, place.workspace_id.0));
        }
        let id = framed_hash_128(&[b"legacy", self.id.to_string().as_bytes(), self.data]);
        let header = Header {
            envelope_id: EnvelopeId(Builder::from_custom_bytes(id).into_uuid()),
            org_id: place.org_id,
            workspace_id: place.workspace_id,
            project_id: self.project(),
            api_key_id: ApiKeyId(api_key_id.unwrap_or_default()),
            // Each entry is moved once, and a request that was sent twice was accepted twice.
            content_id: ContentId::NONE,
            received_at: self.received_at,
            source: source.as_deref().and_then(|name| name.parse().ok()).unwrap_or(Source::Native),
        };
        let payload = payload.get();
        let envelope = Batch::with(|batch| {
            native::decode(payload.as_bytes(), header.project_id, header.received_at, OnRejection::Keep, batch)
                .map_err(Flaw::unreadable)?;
            batch.envelope(&header, payload.len()).map_err(Flaw::unreadable)
        })?;
        Ok(envelope.map(|mut envelope| {
            envelope.exempt();
            envelope.finish(key)
        }))
    }
}

/// Parses an RFC 3339 time; one without an offset is in UTC.
fn unix_nanos(text: &str) -> Result<UnixNanos, Flaw> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339);
    let parsed = parsed.or_else(|error| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339).map_err(|_| error));
    let at =
        parsed.map_err(|error| Flaw::unreadable(format!("`received_at` {text:?} is no RFC 3339 time: {error}")))?;
    UnixNanos::try_from(at.unix_timestamp_nanos()).map_err(|_| Flaw::unreadable("`received_at` is out of range"))
}

#[cfg(test)]
mod tests {
    use model::meter::Meter;
    use model::shard::Shard;
    use serde_json::{Value, json};
    use wire::envelope::{ENVELOPE_KEY_BYTES, Envelope};

    use super::*;

    const ORG: Uuid = Uuid::from_u128(1);
    const WORKSPACE: Uuid = Uuid::from_u128(2);
    const PROJECT: Uuid = Uuid::from_u128(3);
    /// 2026-11-21T16:00:00Z, in milliseconds since the Unix epoch.
    const APPENDED_MS: u64 = 1_795_276_800_000;

    fn key() -> EnvelopeKey {
        EnvelopeKey::new(&[1; ENVELOPE_KEY_BYTES])
    }

    fn place() -> Place {
        let shard = Shard::new(1).unwrap();
        Place { org_id: OrgId(ORG), workspace_id: WorkspaceId(WORKSPACE), shard }
    }

    fn old() -> Value {
        let run = |n: u128, name: &str| json!({"run_id": Uuid::from_u128(n), "name": name, "kind": "llm", "start_time": "2026-11-20T00:00:00Z"});
        json!({
            "project_id": PROJECT, "api_key_id": Uuid::from_u128(4), "received_at": "2026-11-20T10:00:00.5+00:00",
            "source": "native", "extra": 1,
            "payload": {"schema_version": 1, "sdk": "old", "runs": [run(7, "a"), run(8, "b"), {"name": "bad"}], "spans": []},
        })
    }

    fn translated(json: &Value) -> Result<Option<Vec<u8>>, Flaw> {
        let data = serde_json::to_vec(json).unwrap();
        LegacyEnvelope::read(EntryId::new(APPENDED_MS, 1), &data)?.translate(&place(), &key())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut json = old();
        json[field] = value;
        json
    }

    #[test]
    fn a_legacy_entry_becomes_an_envelope_of_its_projects_org() {
        let bytes = translated(&old()).unwrap().unwrap();
        let envelope = Envelope::decode(&key(), &bytes).unwrap();
        let Header { org_id, workspace_id, project_id, api_key_id, received_at, source, .. } = envelope.header;
        assert_eq!(
            (org_id.0, workspace_id.0, project_id.0, api_key_id.0),
            (ORG, WORKSPACE, PROJECT, Uuid::from_u128(4))
        );
        assert_eq!((received_at, source), (1_795_168_800_500_000_000, Source::Native));
        assert!(envelope.is_exempt);
        assert_eq!(envelope.billed(Meter::SpanIngested), 2);
        let rows: Vec<_> = envelope.sections.iter().map(|s| (s.table.name, s.rows)).collect();
        assert_eq!(rows, [("run", 2), ("set_aside", 1), ("billing_meter", 2)], "nobody else keeps what is bad");
        assert_eq!(translated(&old()).unwrap().unwrap(), bytes, "the same each time");
        for same in
            [with("org_id", json!(ORG)), with("workspace_id", json!(WORKSPACE)), with("org_id", json!(Uuid::nil()))]
        {
            assert!(translated(&same).unwrap().is_some(), "{same}");
        }
    }

    #[test]
    fn a_legacy_entry_that_names_another_org_than_its_projects_is_refused() {
        for field in ["org_id", "workspace_id"] {
            let flaw = translated(&with(field, json!(Uuid::from_u128(9)))).unwrap_err();
            assert_eq!(flaw.reason, Reason::WrongOrg, "{flaw}");
        }
    }

    #[test]
    fn an_unreadable_legacy_entry_says_why() {
        for (json, why) in [
            (with("project_id", json!(null)), "`project_id` is missing"),
            (with("payload", json!("text")), "not a batch"),
            (with("payload", json!({"schema_version": 2})), "`schema_version` 2"),
            (with("received_at", json!("yesterday")), "RFC 3339"),
            (with("received_at", json!("2026-11-23T00:00:00Z")), "when it was appended"),
            (with("received_at", json!("2001-01-01T00:00:00Z")), "when it was appended"),
        ] {
            let flaw = translated(&json).unwrap_err();
            assert_eq!(flaw.reason, Reason::Unreadable);
            assert!(flaw.detail.contains(why), "{flaw}");
        }
        assert!(LegacyEnvelope::read(EntryId::ZERO, b"{").is_err());
    }

    #[test]
    fn legacy_times_are_read_in_every_form_that_was_written() {
        for text in ["2026-11-20T10:00:00.5", "2026-11-20T10:00:00.5Z", "2026-11-20T11:00:00.5+01:00"] {
            assert_eq!(unix_nanos(text).unwrap(), 1_795_168_800_500_000_000, "{text}");
        }
        let without = with("received_at", json!(null));
        let bytes = translated(&without).unwrap().unwrap();
        assert_eq!(Envelope::decode(&key(), &bytes).unwrap().header.received_at, APPENDED_MS as i64 * 1_000_000);
        assert_eq!(translated(&with("payload", json!({}))).unwrap(), None, "an empty batch has no rows");
    }
}
