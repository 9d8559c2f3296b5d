//! The cache that the fleet shares: Redis in front of Postgres.
//!
//! A value under `apikey:<public_id>` is a record with its digest under the deployment's cache key, which lives in Postgres
//! alone; so whoever can write to Redis can at worst make us ask Postgres. It lives for what was left of the record's time
//! when it was read from Postgres, never longer, however often it is used.
//!
//! A change in the registry puts a marker in its place (`crate::invalidate`). While that is there, everybody asks Postgres
//! and nobody writes: a process that has read the old row before the change cannot bring it back.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::counter;
use redis::{Script, SetExpiry, SetOptions};
use schema::ids::{ApiKeyId, OrgId, ProjectId, WorkspaceId};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::accepted::CACHE_KEY_BYTES;
use super::context::{Plan, Scopes};
use super::{
    AcceptedKey, AcceptedSecret, Answer, CacheKey, KeyRecord, KeySource, Lookup, NEGATIVE_TTL, POSITIVE_TTL,
    PostgresSource, SourceError, Told,
};
use crate::admission::METERS;
use crate::invalidate::ASK_POSTGRES;
use crate::keys::RedisKey;
use crate::redis::Redis;
use crate::secret::Secret;
use crate::shard::Shard;

/// How many look-ups of one process may be at Postgres. The others wait for their turn, as long as a look-up may take.
pub(super) const POSTGRES_LOOKUPS_MAX: usize = 32;
/// How long Redis may take to answer before Postgres is asked instead.
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// The layout of a value: this byte, the digest, the record as JSON.
const VERSION: u8 = 1;
/// Says that there is no such key.
const UNKNOWN: &[u8] = b"0";

/// Redis, then Postgres.
#[derive(Debug)]
pub struct SharedSource {
    redis: Redis,
    postgres: PostgresSource,
    /// Known as soon as Postgres has answered once; until then nothing in Redis can be trusted.
    cache_key: OnceLock<CacheKey>,
    at_postgres: Semaphore,
}

/// What is in Redis about a key.
enum Cached {
    /// What can be used.
    Known(Answer),
    /// Nothing; what Postgres says is to be left there.
    Nothing,
    /// Nothing that can be used, and nothing is to be left there.
    AskPostgres,
}

impl SharedSource {
    /// That Redis in front of that Postgres.
    pub fn new(redis: Redis, postgres: PostgresSource) -> Self {
        Self { redis, postgres, cache_key: OnceLock::new(), at_postgres: Semaphore::new(POSTGRES_LOOKUPS_MAX) }
    }

    async fn read(&self, public_id: &str) -> Cached {
        let key = RedisKey::api_key(public_id);
        let mut pipe = redis::pipe();
        pipe.get(&key).pttl(&key);
        let mut redis = self.redis.clone();
        let asked = tokio::time::timeout(READ_TIMEOUT, pipe.query_async::<(Option<Vec<u8>>, i64)>(&mut redis)).await;
        let (value, ttl_ms) = match asked {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => {
                counter!("tracebility_key_cache_failures_total").increment(1);
                return Cached::AskPostgres;
            }
        };
        let (Some(value), Ok(ttl_ms)) = (value, u64::try_from(ttl_ms)) else { return Cached::Nothing };
        let good_for = Duration::from_millis(ttl_ms);
        match value.as_slice() {
            UNKNOWN => Cached::Known(Answer::Unknown { good_for }),
            ASK_POSTGRES => Cached::AskPostgres,
            value => match self.cache_key.get().and_then(|key| decode(key, public_id, value)) {
                Some((record, accepted)) => Cached::Known(Answer::Key { record: Box::new(record), good_for, accepted }),
                // Not known yet how to check it, or not ours: Postgres will tell. What is there stays.
                None => Cached::AskPostgres,
            },
        }
    }

    async fn ask_postgres(&self, public_id: &str, leave: bool) -> Result<Answer, SourceError> {
        let _turn = self.at_postgres.acquire().await.map_err(|_| SourceError::TimedOut)?;
        let asked = Instant::now();
        let found = self.postgres.read(public_id).await?;
        let (value, ttl) = match &found {
            Some((record, key)) => {
                let key = self.cache_key.get_or_init(|| key.clone());
                (encode(key, public_id, record, None), POSITIVE_TTL)
            }
            None => (Some(UNKNOWN.to_vec()), NEGATIVE_TTL),
        };
        let good_for = ttl.saturating_sub(asked.elapsed());
        if let (true, Some(value)) = (leave && !good_for.is_zero(), value) {
            self.leave(public_id, value, good_for).await;
        }
        Ok(match found {
            Some((record, _)) => Answer::Key { record: Box::new(record), good_for, accepted: None },
            None => Answer::Unknown { good_for },
        })
    }

    /// Writes only where nothing is. Best effort.
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

    /// Puts the digest of the secret beside the record, if the record is still what is there.
    fn accepted<'a>(&'a self, key: AcceptedKey<'a>) -> Told<'a> {
        const REPLACE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then
            redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') end return 0";
        Box::pin(async move {
            let Some(cache_key) = self.cache_key.get() else { return };
            let accepted = cache_key.accept(key.public_id, key.secret.expose());
            let before = encode(cache_key, key.public_id, key.record, None);
            let after = encode(cache_key, key.public_id, key.record, Some(&accepted));
            let (Some(before), Some(after)) = (before, after) else { return };
            let replace = Script::new(REPLACE);
            let mut call = replace.key(RedisKey::api_key(key.public_id));
            call.arg(before).arg(after);
            if call.invoke_async::<()>(&mut self.redis.clone()).await.is_err() {
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

/// `None` only if a record cannot be written as JSON, which none is.
fn encode(key: &CacheKey, public_id: &str, record: &KeyRecord, accepted: Option<&AcceptedSecret>) -> Option<Vec<u8>> {
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
    let json = serde_json::to_vec(&stored).ok()?;
    let digest = key.digest(b"key record", &[public_id.as_bytes(), &json]);
    Some([&[VERSION], digest.as_slice(), &json].concat())
}

/// `None` for anything that this deployment has not written in this version.
fn decode(key: &CacheKey, public_id: &str, value: &[u8]) -> Option<(KeyRecord, Option<AcceptedSecret>)> {
    let (version, rest) = value.split_first()?;
    let (digest, json) = rest.split_at_checked(CACHE_KEY_BYTES)?;
    let expected = key.digest(b"key record", &[public_id.as_bytes(), json]);
    if *version != VERSION || !bool::from(digest.ct_eq(&expected)) {
        return None;
    }
    let stored: Stored = serde_json::from_slice(json).ok()?;
    let [rps, burst, org_rps, org_burst, eval_slots] = stored.rates;
    let meter = |name: &str| METERS.into_iter().find(|meter| meter.as_str() == name);
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
    use schema::model::Meter;
    use uuid::Uuid;

    use super::*;
    use crate::context::TenantStatus;

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
            status: TenantStatus::Frozen,
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
            let value = encode(&key, "id", &record, accepted).unwrap();
            let (read, found) = decode(&key, "id", &value).unwrap();
            assert_eq!(read, record);
            assert_eq!(found.map(|found| found.is("id", "secret")), accepted.map(|_| true));
        }
    }

    #[test]
    fn what_was_not_written_by_this_deployment_is_not_read() {
        let key = CacheKey::new([1; CACHE_KEY_BYTES]);
        let value = encode(&key, "id", &record(), None).unwrap();
        assert!(decode(&CacheKey::new([2; CACHE_KEY_BYTES]), "id", &value).is_none(), "another deployment's");
        assert!(decode(&key, "other", &value).is_none(), "another key's");
        for index in 0..value.len() {
            let mut broken = value.clone();
            broken[index] ^= 1;
            assert!(decode(&key, "id", &broken).is_none(), "byte {index} was changed");
            assert!(decode(&key, "id", &value[..index]).is_none(), "cut off at byte {index}");
        }
    }
}
