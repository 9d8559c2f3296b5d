//! All Redis keys. No other module may contain the text of a key.
//!
//! A key that belongs to an org starts with `{<org_id>}:`, which is also its Redis Cluster hash tag; what belongs to a
//! shard carries the stream's name as its tag. Org keys and shard keys never meet in one script or transaction.

use std::fmt;
use std::time::Duration;

use model::ids::{ApiKeyId, OrgId};
use model::shard::Shard;
use redis::{RedisWrite, ToRedisArgs, ToSingleRedisArg};

/// The prefix of all streams; the prefix alone is the name of the legacy stream.
const INGEST: &str = "tracebility:ingest:v1";

/// The consumer group of every ingest stream.
pub const INGEST_GROUP: &str = "ingest";

/// How long Redis keeps [`RedisKey::shard_accepted`]: the seven days that the ledger can balance, plus one day.
pub const ACCEPTED_KEPT: Duration = Duration::from_secs((7 + 1) * 24 * 3600);

/// The name of a Redis key or channel.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RedisKey(String);

impl RedisKey {
    /// The stream of a shard: `tracebility:ingest:v1:<n>`. Never trimmed by MAXLEN.
    pub fn shard_stream(shard: Shard) -> Self {
        Self(format!("{INGEST}:{shard}"))
    }

    /// Who owns a shard, with the fencing epoch (hash): `{tracebility:ingest:v1:<n>}:lease`.
    pub fn shard_lease(shard: Shard) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:lease"))
    }

    /// The batch of a shard that is being inserted (hash): `{tracebility:ingest:v1:<n>}:intent`.
    pub fn shard_intent(shard: Shard) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:intent"))
    }

    /// Which entries of a shard a worker processed last before its work crashed (hash):
    /// `{tracebility:ingest:v1:<n>}:suspect`.
    pub fn shard_suspect(shard: Shard) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:suspect"))
    }

    /// The content ids of a shard's latest batches (list): `{tracebility:ingest:v1:<n>}:recent`.
    pub fn shard_recent(shard: Shard) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:recent"))
    }

    /// Orgs that a shard accepts no envelopes from, because they are moving or have moved away (hash):
    /// `{tracebility:ingest:v1:<n>}:fence`.
    pub fn shard_fence(shard: Shard) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:fence"))
    }

    /// A shard's dead letters (stream, capped in bytes): `{tracebility:ingest:v1:<n>}:dlq`.
    pub fn shard_dlq(shard: Shard) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:dlq"))
    }

    /// The bytes of a shard's dead letters (int): `{tracebility:ingest:v1:<n>}:dlq:bytes`.
    pub fn shard_dlq_bytes(shard: Shard) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:dlq:bytes"))
    }

    /// Items of a shard's dropped dead letters, by the hour since the Unix epoch in which they were received (hash, by
    /// org): `{tracebility:ingest:v1:<n>}:dlq:dropped:<hour>`.
    pub fn shard_dlq_dropped(shard: Shard, hour: i64) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:dlq:dropped:{hour}"))
    }

    /// Items that were accepted into a shard, by the hour since the Unix epoch in which they were received (hash, by
    /// org): `{tracebility:ingest:v1:<n>}:accepted:<hour>`.
    pub fn shard_accepted(shard: Shard, hour: i64) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:accepted:{hour}"))
    }

    /// Orgs with items that a worker of this shard parked, dropped or did not bill as repeated, by the hour since the
    /// Unix epoch in which they were received (set): `{tracebility:ingest:v1:<n>}:aside:<hour>`.
    pub fn shard_aside(shard: Shard, hour: i64) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:aside:{hour}"))
    }

    /// Tokens of the arrivals in a shard (zset, by token): `{tracebility:ingest:v1:<n>}:arrivals`.
    pub fn shard_arrivals(shard: Shard) -> Self {
        Self(format!("{{{INGEST}:{shard}}}:arrivals"))
    }

    /// The stream of envelopes written before tenancy: `tracebility:ingest:v1`.
    pub fn legacy_stream() -> Self {
        Self(INGEST.to_owned())
    }

    /// Which entries of the legacy stream are being moved, and their destination (hash):
    /// `{tracebility:ingest:v1}:moving`.
    pub fn legacy_moving() -> Self {
        Self(format!("{{{INGEST}}}:moving"))
    }

    /// Ingest workers that are alive, by the time of their last sign of life (zset): `tracebility:ingest:workers`.
    pub fn ingest_workers() -> Self {
        Self("tracebility:ingest:workers".to_owned())
    }

    /// The legacy stream's dead letters: `tracebility:ingest:v1:dlq`.
    pub fn legacy_dlq() -> Self {
        Self(format!("{INGEST}:dlq"))
    }

    /// The bytes of the legacy stream's dead letters (int): `{tracebility:ingest:v1:dlq}:bytes`.
    pub fn legacy_dlq_bytes() -> Self {
        Self(format!("{{{INGEST}:dlq}}:bytes"))
    }

    /// What arrived in the legacy stream's dead letters from that stream (zset, by token):
    /// `{tracebility:ingest:v1:dlq}:arrivals`.
    pub fn legacy_dlq_arrivals() -> Self {
        Self(format!("{{{INGEST}:dlq}}:arrivals"))
    }

    /// The same as [`RedisKey::shard_dlq_dropped`] for the legacy stream: `{tracebility:ingest:v1:dlq}:dropped:<hour>`.
    pub fn legacy_dlq_dropped(hour: i64) -> Self {
        Self(format!("{{{INGEST}:dlq}}:dropped:{hour}"))
    }

    /// What arrived in the legacy stream from another slot (zset, by token): `{tracebility:ingest:v1}:arrivals`.
    pub fn legacy_arrivals() -> Self {
        Self(format!("{{{INGEST}}}:arrivals"))
    }

    /// The resolver's shared cache of one API key: `apikey:<public_id>`.
    pub fn api_key(public_id: &str) -> Self {
        Self(format!("apikey:{public_id}"))
    }

    /// The channel that announces revoked keys: `apikey:invalidate`.
    pub fn api_key_invalidate() -> Self {
        Self("apikey:invalidate".to_owned())
    }

    /// The number of revocations, polled by processes that may have missed an announcement: `apikey:epoch`.
    pub fn api_key_epoch() -> Self {
        Self("apikey:epoch".to_owned())
    }

    /// A key's rate limiter, the theoretical arrival time in µs: `{<org>}:rl:<api_key_id>`.
    pub fn rate_limit(org: OrgId, key: ApiKeyId) -> Self {
        Self(format!("{{{org}}}:rl:{key}"))
    }

    /// An org's rate limiter over all of its keys, the theoretical arrival time in µs: `{<org>}:rl:org`.
    pub fn org_rate_limit(org: OrgId) -> Self {
        Self(format!("{{{org}}}:rl:org"))
    }

    /// What an org has used of a meter in a period `YYYYMM`: `{<org>}:quota:<YYYYMM>:<meter>`.
    pub fn quota(org: OrgId, period: u32, meter: &'static str) -> Self {
        Self(format!("{{{org}}}:quota:{period}:{meter}"))
    }

    /// What admission has charged an org in a period and the reconciler has not summed up yet, by minute and meter
    /// (hash): `{<org>}:quota:<YYYYMM>:recent`.
    pub fn quota_recent(org: OrgId, period: u32) -> Self {
        Self(format!("{{{org}}}:quota:{period}:recent"))
    }

    /// Monthly limits that an org has reached or exceeded in a period `YYYYMM`, and what happens to the excess:
    /// `{<org>}:quota:over:<YYYYMM>`.
    pub fn quota_over(org: OrgId, period: u32) -> Self {
        Self(format!("{{{org}}}:quota:over:{period}"))
    }

    /// An org's parked envelopes (hash, by shard and entry): `{<org>}:quota:parked`.
    pub fn quota_parked(org: OrgId) -> Self {
        Self(format!("{{{org}}}:quota:parked"))
    }

    /// The bytes of an org's parked envelopes (int): `{<org>}:quota:parked:bytes`.
    pub fn quota_parked_bytes(org: OrgId) -> Self {
        Self(format!("{{{org}}}:quota:parked:bytes"))
    }

    /// Envelopes of an org that are no longer parked (zset, by the time this was recorded): `{<org>}:quota:released`.
    pub fn quota_released(org: OrgId) -> Self {
        Self(format!("{{{org}}}:quota:released"))
    }

    /// Recent counts of an org's items that were parked or dropped, for the audit trail (hash, by hour, policy and
    /// batch): `{<org>}:quota:aside`.
    pub fn quota_aside(org: OrgId) -> Self {
        Self(format!("{{{org}}}:quota:aside"))
    }

    /// Exists while a background job need not run again: `reconciled:<job>`.
    pub fn reconciled(job: &'static str) -> Self {
        Self(format!("reconciled:{job}"))
    }

    /// Imbalances by org and hour, with their start and size (hash): `ledger:imbalances`.
    pub fn ledger_imbalances() -> Self {
        Self("ledger:imbalances".to_owned())
    }

    /// Holders of an org's evaluation slots, by deadline (zset): `{<org>}:eval:concurrency`.
    pub fn eval_concurrency(org: OrgId) -> Self {
        Self(format!("{{{org}}}:eval:concurrency"))
    }

    /// Outcomes of an org's items in an hour since the Unix epoch, by process, outcome and reason (hash):
    /// `{<org>}:outcomes:<hour>`; `outcomes:<hour>` for items of an unknown org.
    pub fn outcomes(org: Option<OrgId>, hour: i64) -> Self {
        Self(org.map_or_else(|| format!("outcomes:{hour}"), |org| format!("{{{org}}}:outcomes:{hour}")))
    }

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RedisKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RedisKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ToRedisArgs for RedisKey {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg(self.0.as_bytes());
    }
}

impl ToSingleRedisArg for RedisKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spelled_as_documented() {
        let org: OrgId = "11111111-1111-1111-1111-111111111111".parse().unwrap();
        let key: ApiKeyId = "22222222-2222-2222-2222-222222222222".parse().unwrap();
        let shard = Shard::new(11).unwrap();
        let spelled = [
            (RedisKey::shard_stream(shard), "tracebility:ingest:v1:11"),
            (RedisKey::shard_lease(shard), "{tracebility:ingest:v1:11}:lease"),
            (RedisKey::shard_intent(shard), "{tracebility:ingest:v1:11}:intent"),
            (RedisKey::shard_suspect(shard), "{tracebility:ingest:v1:11}:suspect"),
            (RedisKey::shard_recent(shard), "{tracebility:ingest:v1:11}:recent"),
            (RedisKey::shard_fence(shard), "{tracebility:ingest:v1:11}:fence"),
            (RedisKey::shard_dlq(shard), "{tracebility:ingest:v1:11}:dlq"),
            (RedisKey::shard_dlq_bytes(shard), "{tracebility:ingest:v1:11}:dlq:bytes"),
            (RedisKey::shard_dlq_dropped(shard, 498_000), "{tracebility:ingest:v1:11}:dlq:dropped:498000"),
            (RedisKey::shard_accepted(shard, 498_000), "{tracebility:ingest:v1:11}:accepted:498000"),
            (RedisKey::shard_aside(shard, 498_000), "{tracebility:ingest:v1:11}:aside:498000"),
            (RedisKey::ledger_imbalances(), "ledger:imbalances"),
            (RedisKey::shard_arrivals(shard), "{tracebility:ingest:v1:11}:arrivals"),
            (RedisKey::quota_parked(org), "{11111111-1111-1111-1111-111111111111}:quota:parked"),
            (RedisKey::quota_parked_bytes(org), "{11111111-1111-1111-1111-111111111111}:quota:parked:bytes"),
            (RedisKey::quota_released(org), "{11111111-1111-1111-1111-111111111111}:quota:released"),
            (RedisKey::quota_aside(org), "{11111111-1111-1111-1111-111111111111}:quota:aside"),
            (RedisKey::legacy_stream(), "tracebility:ingest:v1"),
            (RedisKey::legacy_dlq(), "tracebility:ingest:v1:dlq"),
            (RedisKey::legacy_dlq_bytes(), "{tracebility:ingest:v1:dlq}:bytes"),
            (RedisKey::legacy_dlq_dropped(498_000), "{tracebility:ingest:v1:dlq}:dropped:498000"),
            (RedisKey::legacy_arrivals(), "{tracebility:ingest:v1}:arrivals"),
            (RedisKey::legacy_moving(), "{tracebility:ingest:v1}:moving"),
            (RedisKey::legacy_dlq_arrivals(), "{tracebility:ingest:v1:dlq}:arrivals"),
            (RedisKey::ingest_workers(), "tracebility:ingest:workers"),
            (RedisKey::api_key("abc"), "apikey:abc"),
            (RedisKey::api_key_invalidate(), "apikey:invalidate"),
            (RedisKey::api_key_epoch(), "apikey:epoch"),
            (
                RedisKey::rate_limit(org, key),
                "{11111111-1111-1111-1111-111111111111}:rl:22222222-2222-2222-2222-222222222222",
            ),
            (
                RedisKey::quota(org, 202_611, "span_ingested"),
                "{11111111-1111-1111-1111-111111111111}:quota:202611:span_ingested",
            ),
            (RedisKey::quota_over(org, 202_611), "{11111111-1111-1111-1111-111111111111}:quota:over:202611"),
            (RedisKey::reconciled("quota"), "reconciled:quota"),
            (RedisKey::org_rate_limit(org), "{11111111-1111-1111-1111-111111111111}:rl:org"),
            (RedisKey::quota_recent(org, 202_611), "{11111111-1111-1111-1111-111111111111}:quota:202611:recent"),
            (RedisKey::outcomes(Some(org), 498_000), "{11111111-1111-1111-1111-111111111111}:outcomes:498000"),
            (RedisKey::outcomes(None, 498_000), "outcomes:498000"),
            (RedisKey::eval_concurrency(org), "{11111111-1111-1111-1111-111111111111}:eval:concurrency"),
        ];
        for (key, expected) in spelled {
            assert_eq!(key.as_str(), expected);
        }
    }
}
