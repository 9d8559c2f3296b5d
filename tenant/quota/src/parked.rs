//! Parked envelopes: a hash per org, by the shard and the entry that they come from.
//!
//! A worker parks an envelope before it deletes the entry. A release puts the envelope back into the stream of the
//! shard that it comes from, even if its org has moved, exempt from monthly limits. The hash and the stream are in two
//! slots, so a release takes the three steps of [`queue::arrival`], and the id of a released envelope is remembered for
//! [`SETTLED_KEPT`], because a worker that was suspended may try to park it again. Every step may be repeated, by any
//! process.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;
use queue::appender::Appended;
use queue::arrival::{Arrivals, Place, SETTLED_KEPT};
use redis::{RedisError, Script};
use stores::keys::RedisKey;
use stores::redis::Redis;
use wire::envelope::{ENVELOPE_FIELD, EnvelopeKey, Verified};

static PARK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("park.lua")));
static UNPARK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("unpark.lua")));
static FORGET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("forget.lua")));

/// The most parked envelopes of one org. Beyond it, envelopes are stored.
pub const ENVELOPES_MAX: u64 = 100_000;
/// The most unfinished releases that one command lists.
const OPEN_PAGE: usize = 1_000;

/// Names a parked envelope: the shard and the entry that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParkedId {
    /// The shard that the envelope comes from.
    pub shard: Shard,
    /// The envelope's id in the shard's stream.
    pub entry: EntryId,
}

impl fmt::Display for ParkedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shard, self.entry)
    }
}

impl FromStr for ParkedId {
    type Err = RedisError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = text.split_once('/').and_then(|(shard, entry)| {
            Some(Self { shard: shard.parse().ok().and_then(Shard::new)?, entry: entry.parse().ok()? })
        });
        id.ok_or_else(|| (redis::ErrorKind::UnexpectedReturnType, "not a parked envelope's id").into())
    }
}

/// How much of an org is parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkedAmount {
    /// The number of parked envelopes.
    pub envelopes: u64,
    /// The bytes of the parked envelopes.
    pub bytes: u64,
}

/// The parked envelopes in a Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ParkedEnvelopes {
    redis: Redis,
}

impl ParkedEnvelopes {
    /// A handle to the parked envelopes in that Redis.
    pub const fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// How much of an org is parked.
    pub async fn amount(&self, org: OrgId) -> Result<ParkedAmount, RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HLEN").arg(RedisKey::quota_parked(org)).cmd("GET").arg(RedisKey::quota_parked_bytes(org));
        let (envelopes, bytes): (u64, Option<u64>) = pipe.query_async(&mut self.redis.clone()).await?;
        Ok(ParkedAmount { envelopes, bytes: bytes.unwrap_or_default() })
    }

    /// All parked envelopes of an org, by shard and age.
    pub async fn ids(&self, org: OrgId) -> Result<Vec<ParkedId>, RedisError> {
        let mut keys = redis::cmd("HKEYS");
        let names: Vec<String> = keys.arg(RedisKey::quota_parked(org)).query_async(&mut self.redis.clone()).await?;
        let mut ids = names.iter().map(|name| name.parse()).collect::<Result<Vec<ParkedId>, _>>()?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// An envelope; `None` if it is not parked.
    pub async fn read(&self, org: OrgId, id: ParkedId) -> Result<Option<Vec<u8>>, RedisError> {
        let mut get = redis::cmd("HGET");
        get.arg(RedisKey::quota_parked(org)).arg(id.to_string()).query_async(&mut self.redis.clone()).await
    }

    /// Parks an envelope. Does nothing if it was parked before, even if it has been released since.
    pub async fn park(&self, org: OrgId, id: ParkedId, envelope: &[u8]) -> Result<(), RedisError> {
        let mut call = PARK.key(RedisKey::quota_parked(org));
        call.key(RedisKey::quota_parked_bytes(org)).key(RedisKey::quota_released(org));
        call.arg(id.to_string()).arg(envelope).invoke_async(&mut self.redis.clone()).await
    }

    /// Puts an envelope back into its shard's stream, exempt from monthly limits. `envelope` is the result of
    /// [`ParkedEnvelopes::read`].
    pub async fn release<B: AsRef<[u8]>>(
        &self,
        org: OrgId,
        id: ParkedId,
        envelope: &Verified<B>,
        key: &EnvelopeKey,
    ) -> Result<(), RedisError> {
        let envelope = envelope.exempt(key);
        let arrivals = Arrivals::new(self.redis.clone());
        let appended = arrivals.append(Place::Back(id.shard), &token(org, id), ENVELOPE_FIELD, &envelope).await?;
        debug_assert_eq!(appended, Appended::Kept, "what comes back is refused by no fence");
        let mut call = UNPARK.key(RedisKey::quota_parked(org));
        call.key(RedisKey::quota_parked_bytes(org)).key(RedisKey::quota_released(org)).arg(id.to_string());
        call.invoke_async::<()>(&mut self.redis.clone()).await?;
        self.end_release(org, id).await
    }

    /// Finishes releases that were interrupted after the envelope was in its stream.
    pub async fn end_releases(&self, org: OrgId) -> Result<(), RedisError> {
        loop {
            let mut open = redis::cmd("ZRANGEBYSCORE");
            open.arg(RedisKey::quota_released(org)).arg("+inf").arg("+inf").arg("LIMIT").arg(0).arg(OPEN_PAGE);
            let open: Vec<String> = open.query_async(&mut self.redis.clone()).await?;
            for id in &open {
                self.end_release(org, id.parse()?).await?;
            }
            if open.len() < OPEN_PAGE {
                return Ok(());
            }
        }
    }

    async fn end_release(&self, org: OrgId, id: ParkedId) -> Result<(), RedisError> {
        Arrivals::new(self.redis.clone()).settle(Place::Back(id.shard), &token(org, id)).await?;
        let mut call = FORGET.key(RedisKey::quota_released(org));
        call.arg(SETTLED_KEPT.as_millis() as u64).arg(id.to_string()).invoke_async(&mut self.redis.clone()).await
    }
}

fn token(org: OrgId, id: ParkedId) -> String {
    format!("parked/{org}/{}", id.entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_envelope_ids_read_back() {
        let id: ParkedId = "7/1795241935570-3".parse().unwrap();
        assert_eq!(
            (id.shard.number(), id.entry, id.to_string().as_str()),
            (7, EntryId::new(1_795_241_935_570, 3), "7/1795241935570-3")
        );
        for bad in ["", "7", "16/1-0", "7/x"] {
            assert!(bad.parse::<ParkedId>().is_err(), "{bad}");
        }
    }
}
