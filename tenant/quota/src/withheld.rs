//! Counts of accepted items that were parked, dropped or repeated. Workers record them before they commit a batch, so
//! that no crash hides them: in the org's outcomes, which the ledger reads, and in a hash of recent notes, which the
//! reconciler copies to the audit trail.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use model::ids::OrgId;
use model::org::OverQuota;
use model::shard::Shard;
use outcomes::{DROPPED, KEPT_S, Outcome};
use redis::{RedisError, Script};
use registry::event::{EventType, NewEvent};
use serde_json::json;
use stores::keys::{ACCEPTED_KEPT, RedisKey};
use stores::redis::Redis;
use uuid::Uuid;

static RAISE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("raise.lua")));
static MARK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("mark.lua")));

/// How long Redis keeps the notes for the audit trail, in seconds, if the reconciler does not run.
const NOTES_KEPT_S: i64 = 40 * 24 * 3600;
/// The reason of an outcome of parked items.
const PARKED: &str = "parked";
/// In hours: a note for an hour this long ago is deleted once the audit trail has it, since its sum hardly grows any
/// more.
const RECORDED_HOURS: i64 = 2;

/// Items of a batch that were parked or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Withheld {
    /// The org that sent the items.
    pub org: OrgId,
    /// The hour in which they were received, in hours since the Unix epoch.
    pub hour: i64,
    /// What happens to the items: the org's policy.
    pub how: OverQuota,
}

/// The fields of the hash of notes.
pub type WithheldNotes = BTreeMap<String, u64>;

/// Records how many items a batch of a shard does not bill because they are repeated. `batch` must be unique. May be
/// called again.
pub async fn note_repeated(
    redis: &Redis,
    shard: Shard,
    batch: &str,
    org: OrgId,
    hour: i64,
    items: u64,
) -> Result<(), RedisError> {
    mark(redis, shard, org, hour).await?;
    let field = outcomes::field(batch, Outcome::Repeated, DROPPED);
    let mut call = RAISE.key(RedisKey::outcomes(Some(org), hour));
    call.arg(KEPT_S).arg(field).arg(items).invoke_async(&mut redis.clone()).await
}

/// Lets the ledger find the org without reading every org.
async fn mark(redis: &Redis, shard: Shard, org: OrgId, hour: i64) -> Result<(), RedisError> {
    let kept_s = i64::try_from(ACCEPTED_KEPT.as_secs()).unwrap_or(i64::MAX);
    let mut call = MARK.key(RedisKey::shard_aside(shard, hour));
    call.arg(org.to_string()).arg(kept_s).invoke_async(&mut redis.clone()).await
}

/// Records how many items of a batch were parked or dropped. `batch` must be unique. May be called again.
pub async fn note(redis: &Redis, shard: Shard, batch: &str, withheld: Withheld, items: u64) -> Result<(), RedisError> {
    let Withheld { org, hour, how } = withheld;
    mark(redis, shard, org, hour).await?;
    let reason = match how {
        OverQuota::Park => PARKED,
        OverQuota::Drop => DROPPED,
    };
    let outcome = outcomes::field(batch, Outcome::OverQuota, reason);
    let recent = format!("{hour}:{how}:{batch}");
    let hashes =
        [(RedisKey::outcomes(Some(org), hour), KEPT_S, outcome), (RedisKey::quota_aside(org), NOTES_KEPT_S, recent)];
    for (hash, kept_s, field) in hashes {
        let mut call = RAISE.key(hash);
        call.arg(kept_s).arg(field).arg(items).invoke_async::<()>(&mut redis.clone()).await?;
    }
    Ok(())
}

/// The events for the audit trail of an org: one per hour and policy, with the sum so far. The same notes give the same
/// events.
pub fn notes(org: OrgId, kept: &WithheldNotes, actor: &str) -> Vec<NewEvent> {
    let mut sums = BTreeMap::<(i64, OverQuota), (u64, String)>::new();
    for (field, items) in kept {
        let Some(of) = hour_and_policy(field) else { continue };
        let (sum, seen) = sums.entry(of).or_default();
        *sum += items;
        *seen += &format!(" {field}={items}");
    }
    let event = |((hour, how), (items, seen)): ((i64, OverQuota), (u64, String))| {
        let event_type = match how {
            OverQuota::Park => EventType::QuotaPark,
            OverQuota::Drop => EventType::QuotaDrop,
        };
        let received = time::OffsetDateTime::from_unix_timestamp(hour * 3600).ok();
        let received = received.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
        let name = wire::tables::content_hash_128(format!("{org}{seen}").as_bytes());
        let detail = json!({ "received_in_hour": received, "items": items });
        NewEvent::new(Some(org), event_type, actor).with_id(Uuid::from_bytes(name)).with_detail(detail)
    };
    sums.into_iter().map(event).collect()
}

/// Deletes notes of past hours that are in the audit trail.
pub async fn forget_notes(redis: &Redis, org: OrgId, recorded: &WithheldNotes, hour: i64) -> Result<(), RedisError> {
    let past = |field: &&String| hour_and_policy(field).is_none_or(|(of, _)| of < hour - RECORDED_HOURS);
    let past: Vec<&String> = recorded.keys().filter(past).collect();
    if past.is_empty() {
        return Ok(());
    }
    redis::cmd("HDEL").arg(RedisKey::quota_aside(org)).arg(past).exec_async(&mut redis.clone()).await
}

fn hour_and_policy(field: &str) -> Option<(i64, OverQuota)> {
    let mut parts = field.splitn(3, ':');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hourly_sum_over_quota_is_one_event() {
        let org = OrgId(Uuid::from_u128(7));
        let mut kept = WithheldNotes::from([("498000:park:3/1-1".to_owned(), 5), ("498000:drop:3/1-2".to_owned(), 2)]);
        let events = notes(org, &kept, "somebody");
        assert_eq!(events.len(), 2);
        let park = events.iter().find(|event| event.event_type() == EventType::QuotaPark).unwrap();
        assert_eq!(*park.detail(), json!({ "received_in_hour": "2026-10-24T00:00:00Z", "items": 5 }));
        let again: Vec<Uuid> = notes(org, &kept, "somebody").iter().map(NewEvent::event_id).collect();
        assert_eq!(again, events.iter().map(NewEvent::event_id).collect::<Vec<_>>(), "the same events");
        kept.insert("498000:park:4/1-1".to_owned(), 1);
        let more = notes(org, &kept, "somebody");
        assert!(more.iter().any(|event| event.detail()["items"] == 6 && !again.contains(&event.event_id())));
        assert_eq!(notes(org, &WithheldNotes::from([("of a later release".to_owned(), 1)]), "somebody"), []);
    }
}
