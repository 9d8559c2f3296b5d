//! The cache that the fleet shares: Redis in front of Postgres.
//!
//! A value under `apikey:<public_id>` holds the answer of Postgres about a key, also that there is none, and until when
//! it is valid. It has a digest under the deployment's cache key, which only Postgres stores. So an attacker who can
//! write to Redis can make us ask Postgres, and can restore an earlier answer for as long as it would have been valid:
//! [`POSITIVE_TTL`] at most.
//!
//! A change in the registry replaces the value by a marker (`crate::invalidate`). While the marker is there, every
//! process asks Postgres and none writes here: so a process that read the old row before the change cannot restore it.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics::counter;
use model::ids::{ApiKeyId, OrgId, ProjectId, WorkspaceId};
use model::meter::Meter;
use model::shard::Shard;
use redis::{Script, SetExpiry, SetOptions};
use serde::{Deserialize, Serialize};
use stores::clock::{Clock, SystemClock};
use stores::keys::RedisKey;
use stores::redis::Redis;
use stores::secret::Secret;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::accepted::CACHE_KEY_BYTES;
use super::context::{Plan, Scopes};
use super::{
    AcceptedKey, AcceptedSecret, Answer, CacheKey, KeyRecord, KeySource, Lookup, NEGATIVE_TTL, Notified, POSITIVE_TTL,
    PostgresSource, SourceError,
};
use crate::invalidate::ASK_POSTGRES;

/// How many look-ups of one process may query Postgres at the same time. The others wait, as long as a look-up may
/// take.
pub(super) const POSTGRES_LOOKUPS_MAX: usize = 32;
/// How long Redis may take to answer before Postgres is asked instead.
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// The layout of a value: this byte, the digest of the rest, the end of its validity in Unix milliseconds as an i64,
/// the record as JSON; no record if there is no such key.
const VERSION: u8 = 2;

/// Looks keys up in Redis, then in Postgres.
pub struct SharedSource {
    redis: Redis,
    postgres: PostgresSource,
    /// Known as soon as Postgres has answered once; before that, no value in Redis can be verified.
    cache_key: OnceLock<CacheKey>,
    at_postgres: Semaphore,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for SharedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSource").field("postgres", &self.postgres).finish_non_exhaustive()
    }
}

/// The content of Redis for a key.
enum Cached {
    /// A record that this deployment wrote and that has not expired.
    Known(Answer),
    /// Nothing; write the answer of Postgres there.
    Nothing,
    /// Nothing usable; do not write the answer of Postgres there.
    AskPostgres,
}

impl SharedSource {
    /// A source that asks `redis` first, then `postgres`.
    pub fn new(redis: Redis, postgres: PostgresSource) -> Self {
        let at_postgres = Semaphore::new(POSTGRES_LOOKUPS_MAX);
        Self { redis, postgres, cache_key: OnceLock::new(), at_postgres, clock: Arc::new(SystemClock::new()) }
    }

    /// Uses that clock instead of the system clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    async fn read(&self, public_id: &str) -> Cached {
        let key = RedisKey::api_key(public_id);
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(&key).cmd("PTTL").arg(&key);
        let mut redis = self.redis.clone();
        let asked = tokio::time::timeout(READ_TIMEOUT, pipe.query_async::<(Option<Vec<u8>>, i64)>(&mut redis)).await;
        let (value, ttl_ms) = match asked {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => {
                counter!("tracebility_key_cache_failures_total").increment(1);
                return Cached::AskPostgres;
            }
        };
        let Some(value) = value else { return Cached::Nothing };
        if value == ASK_POSTGRES {
            return Cached::AskPostgres;
        }
        // The cache key is not known yet, or the value is not ours, or no longer valid: ask Postgres. The value stays.
        let Some(found) = self.cache_key.get().and_then(|key| decode(key, public_id, &value)) else {
            return Cached::AskPostgres;
        };
        // Redis may delete it earlier, but not later. A clock behind the writer's cannot extend an answer beyond the
        // usual limit.
        let most = if found.record.is_some() { POSITIVE_TTL } else { NEGATIVE_TTL };
        let left_ms = u64::try_from(found.until_unix_ms.saturating_sub(self.clock.unix_ms())).unwrap_or_default();
        let good_for = Duration::from_millis(left_ms.min(u64::try_from(ttl_ms).unwrap_or(u64::MAX))).min(most);
        match found.record {
            _ if good_for.is_zero() => Cached::AskPostgres,
            Some(record) => Cached::Known(Answer::Key { record: Box::new(record), good_for, accepted: found.accepted }),
            None => Cached::Known(Answer::Unknown { good_for }),
        }
    }

    async fn ask_postgres(&self, public_id: &str, leave: bool) -> Result<Answer, SourceError> {
        let _turn = self.at_postgres.acquire().await.map_err(|_| SourceError::TimedOut)?;
        let asked = Instant::now();
        let found = self.postgres.read(public_id).await?;
        if let Some((_, key)) = &found {
            self.cache_key.get_or_init(|| key.clone());
        }
        let (record, ttl) = match &found {
            Some((record, _)) => (Some(record), POSITIVE_TTL),
            None => (None, NEGATIVE_TTL),
        };
        let good_for = ttl.saturating_sub(asked.elapsed());
        // A process without the cache key cannot sign that a key does not exist.
        if let (true, Some(key)) = (leave && !good_for.is_zero(), self.cache_key.get()) {
            let until = self.clock.unix_ms().saturating_add(i64::try_from(good_for.as_millis()).unwrap_or(i64::MAX));
            if let Some(value) = encode(key, public_id, until, record, None) {
                self.leave(public_id, value, good_for).await;
            }
        }
        Ok(match found {
            Some((record, _)) => Answer::Key { record: Box::new(record), good_for, accepted: None },
            None => Answer::Unknown { good_for },
        })
    }

    /// Writes only where there is no value. Best effort.
    async fn leave(&self, public_id: &str, value: Vec<u8>, ttl: Duration) {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(1).max(1);
        let options =
            SetOptions::default().conditional_set(redis::ExistenceCheck::NX).with_expiration(SetExpiry::PX(ttl_ms));
        let mut set = redis::cmd("SET");
        set.arg(RedisKey::api_key(public_id)).arg(value).arg(options);
        let mut redis = self.redis.clone();
        if !matches!(tokio::time::timeout(READ_TIMEOUT, set.exec_async(&mut redis)).await, Ok(Ok(()))) {
            counter!("tracebility_key_cache_failures_total").increment(1);
        }
    }
}

impl KeySource for SharedSource {
    fn find<'a>(&'a self, public_id: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            let leave = match self.read(public_id).await {
                Cached::Known(answer) => return Ok(answer),
                Cached::Nothing => true,
                Cached::AskPostgres => false,
            };
            self.ask_postgres(public_id, leave).await
        })
    }

    /// Adds the digest of the secret to the record, if the record in Redis is still the same.
    fn accepted<'a>(&'a self, key: AcceptedKey<'a>) -> Notified<'a> {
        const REPLACE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then
            redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') end return 0";
        Box::pin(async move {
            let Some(cache_key) = self.cache_key.get() else { return };
            let (mut redis, name) = (self.redis.clone(), RedisKey::api_key(key.public_id));
            let notified = async {
                let Some(before) = redis::cmd("GET").arg(&name).query_async::<Option<Vec<u8>>>(&mut redis).await?
                else {
                    return Ok(());
                };
                let found = decode(cache_key, key.public_id, &before);
                let Some(found) = found.filter(|found| found.record.as_ref() == Some(key.record)) else {
                    return Ok(());
                };
                let accepted = cache_key.accept(key.public_id, key.secret.expose());
                let after = encode(cache_key, key.public_id, found.until_unix_ms, Some(key.record), Some(&accepted));
                let replace = Script::new(REPLACE);
                replace.key(&name).arg(before).arg(after.unwrap_or_default()).invoke_async::<()>(&mut redis).await
            };
            if notified.await.is_err() {
                counter!("tracebility_key_cache_failures_total").increment(1);
            }
        })
    }
}

/// A record as JSON. Another version of this program may read it: fields are only ever added, as optional ones.
#[derive(Serialize, Deserialize)]
struct Stored {
    api_key_id: ApiKeyId,
    org_id: OrgId,
    workspace_id: WorkspaceId,
    project_id: ProjectId,
    hash: String,
    scopes: Vec<String>,
    expires_at_unix_ms: Option<i64>,
    revoked: bool,
    status: String,
    archived: Option<String>,
    plan: String,
    /// rps, burst, org_rps, org_burst, eval_slots.
    rates: [i32; 5],
    monthly: Vec<(String, i64)>,
    shard: Option<u8>,
    is_moving: bool,
    accepted: Option<[u8; CACHE_KEY_BYTES]>,
}

/// A record from Redis, authenticated and parsed.
struct Found {
    /// The end of its validity, in Unix milliseconds.
    until_unix_ms: i64,
    /// `None`: there is no such key.
    record: Option<KeyRecord>,
    accepted: Option<AcceptedSecret>,
}

/// `None` only if a record cannot be written as JSON, which does not happen.
fn encode(
    key: &CacheKey,
    public_id: &str,
    until_unix_ms: i64,
    record: Option<&KeyRecord>,
    accepted: Option<&AcceptedSecret>,
) -> Option<Vec<u8>> {
    let json = match record {
        Some(record) => to_json(record, accepted)?,
        None => Vec::new(),
    };
    let said = [&until_unix_ms.to_be_bytes()[..], &json].concat();
    let digest = key.digest(b"key record", &[public_id.as_bytes(), &said]);
    Some([&[VERSION], digest.as_slice(), &said].concat())
}

fn to_json(record: &KeyRecord, accepted: Option<&AcceptedSecret>) -> Option<Vec<u8>> {
    let plan = &record.plan;
    let stored = Stored {
        api_key_id: record.api_key_id,
        org_id: record.org_id,
        workspace_id: record.workspace_id,
        project_id: record.project_id,
        hash: record.hash.expose().clone(),
        scopes: record.scopes.iter().map(str::to_owned).collect(),
        expires_at_unix_ms: record.expires_at_unix_ms,
        revoked: record.revoked,
        status: record.status.as_str().to_owned(),
        archived: record.archived.map(str::to_owned),
        plan: plan.name.to_string(),
        rates: [plan.rps, plan.burst, plan.org_rps, plan.org_burst, plan.eval_slots],
        monthly: plan.monthly.iter().map(|(meter, limit)| (meter.as_str().to_owned(), *limit)).collect(),
        shard: record.shard.map(Shard::number),
        is_moving: record.is_moving,
        accepted: accepted.map(|accepted| *accepted.digest()),
    };
    serde_json::to_vec(&stored).ok()
}

/// `None` for a value that this deployment has not written in this version.
fn decode(key: &CacheKey, public_id: &str, value: &[u8]) -> Option<Found> {
    let (version, rest) = value.split_first()?;
    let (digest, said) = rest.split_at_checked(CACHE_KEY_BYTES)?;
    let expected = key.digest(b"key record", &[public_id.as_bytes(), said]);
    if *version != VERSION || !bool::from(digest.ct_eq(&expected)) {
        return None;
    }
    let (until, json) = said.split_first_chunk()?;
    let until_unix_ms = i64::from_be_bytes(*until);
    if json.is_empty() {
        return Some(Found { until_unix_ms, record: None, accepted: None });
    }
    let (record, accepted) = from_json(key, json)?;
    Some(Found { until_unix_ms, record: Some(record), accepted })
}

fn from_json(key: &CacheKey, json: &[u8]) -> Option<(KeyRecord, Option<AcceptedSecret>)> {
    let stored: Stored = serde_json::from_slice(json).ok()?;
    let [rps, burst, org_rps, org_burst, eval_slots] = stored.rates;
    let meter = |name: &str| Meter::INGEST.into_iter().find(|meter| meter.as_str() == name);
    let archived = match stored.archived.as_deref() {
        None => None,
        Some("project") => Some("project"),
        Some(_) => Some("workspace"),
    };
    let record = KeyRecord {
        api_key_id: stored.api_key_id,
        org_id: stored.org_id,
        workspace_id: stored.workspace_id,
        project_id: stored.project_id,
        hash: Secret::new(stored.hash),
        scopes: Scopes::new(stored.scopes),
        expires_at_unix_ms: stored.expires_at_unix_ms,
        revoked: stored.revoked,
        status: stored.status.parse().ok()?,
        archived,
        plan: Plan {
            name: stored.plan.into(),
            rps,
            burst,
            org_rps,
            org_burst,
            eval_slots,
            monthly: stored.monthly.iter().filter_map(|(name, limit)| Some((meter(name)?, *limit))).collect(),
        },
        shard: match stored.shard {
            Some(number) => Some(Shard::new(number)?),
            None => None,
        },
        is_moving: stored.is_moving,
    };
    Some((record, stored.accepted.map(|digest| AcceptedSecret::new(key.clone(), digest))))
}

#[cfg(test)]
mod tests {
    use model::meter::Meter;
    use uuid::Uuid;

    use super::*;
    use model::org::OrgStatus;

    fn record() -> KeyRecord {
        KeyRecord {
            api_key_id: ApiKeyId(Uuid::new_v4()),
            org_id: OrgId(Uuid::new_v4()),
            workspace_id: WorkspaceId(Uuid::new_v4()),
            project_id: ProjectId(Uuid::new_v4()),
            hash: Secret::new("$argon2id$…".to_owned()),
            scopes: Scopes::new(["ingest:write", "admin:*"]),
            expires_at_unix_ms: Some(-5),
            revoked: true,
            status: OrgStatus::Frozen,
            archived: Some("workspace"),
            plan: Plan {
                name: "pro".into(),
                rps: 1,
                burst: -1,
                org_rps: 3,
                org_burst: 4,
                eval_slots: 5,
                monthly: [(Meter::SpanIngested, 7), (Meter::SpanBytes, -1)].into(),
            },
            shard: Shard::new(9),
            is_moving: true,
        }
    }

    #[test]
    fn a_record_reads_back_with_what_was_accepted() {
        let key = CacheKey::new([1; CACHE_KEY_BYTES]);
        let record = record();
        let accepted = key.accept("id", "secret");
        for accepted in [None, Some(&accepted)] {
            let value = encode(&key, "id", 7, Some(&record), accepted).unwrap();
            let found = decode(&key, "id", &value).unwrap();
            assert_eq!((found.until_unix_ms, found.record.as_ref()), (7, Some(&record)));
            assert_eq!(found.accepted.map(|found| found.is("id", "secret")), accepted.map(|_| true));
        }
        let unknown = decode(&key, "id", &encode(&key, "id", -7, None, None).unwrap()).unwrap();
        assert_eq!((unknown.until_unix_ms, unknown.record), (-7, None));
    }

    #[test]
    fn a_foreign_or_altered_cache_record_is_not_read() {
        let key = CacheKey::new([1; CACHE_KEY_BYTES]);
        for record in [Some(&record()), None] {
            let value = encode(&key, "id", 7, record, None).unwrap();
            assert!(decode(&CacheKey::new([2; CACHE_KEY_BYTES]), "id", &value).is_none(), "another deployment's");
            assert!(decode(&key, "other", &value).is_none(), "another key's");
            for index in 0..value.len() {
                let mut broken = value.clone();
                broken[index] ^= 1;
                assert!(decode(&key, "id", &broken).is_none(), "byte {index} was changed");
                assert!(decode(&key, "id", &value[..index]).is_none(), "cut off at byte {index}");
            }
        }
        // What earlier releases wrote for a key that does not exist.
        assert!(decode(&key, "id", b"0").is_none());
    }
}
