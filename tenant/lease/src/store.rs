//! Leases and members in Redis.
//!
//! Every operation is one script with one key, so that all of them run on a cluster.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use model::shard::Shard;
use redis::{AsyncCommands, RedisError, Script};
use stores::keys::RedisKey;
use stores::redis::Redis;

use super::LEASE_TTL;

static ACQUIRE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("acquire.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));
static HOLDER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("holder.lua")));
static MEMBERS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("members.lua")));

/// The result of acquiring a shard's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The caller has the lease now.
    Taken {
        /// The epoch of the lease; it grows with each owner.
        epoch: u64,
        /// The owner that held it before and let it run out.
        from: Option<String>,
        /// How many owners in a row crashed on this shard, with work left to do.
        crashes: u32,
    },
    /// Another owner has the lease.
    Held {
        /// The name of that owner.
        by: String,
        /// How long its lease still runs without renewal.
        left: Duration,
    },
}

/// The leases in Redis, as one owner uses them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    redis: Redis,
    owner: Arc<str>,
}

impl Store {
    /// The leases in that Redis. `owner` must be unique: no other process, earlier or now, may use it.
    pub const fn new(redis: Redis, owner: Arc<str>) -> Self {
        Self { redis, owner }
    }

    /// The owner that this store acquires leases for.
    pub const fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Acquires a shard's lease for [`LEASE_TTL`], unless another owner has it.
    pub async fn acquire(&self, shard: Shard) -> Result<Acquired, RedisError> {
        let mut call = ACQUIRE.key(RedisKey::shard_lease(shard));
        call.arg(&*self.owner).arg(ttl_ms());
        let (how, who, number, crashes): (u8, String, u64, u32) = call.invoke_async(&mut self.redis.clone()).await?;
        Ok(match how {
            0 => Acquired::Held { by: who, left: Duration::from_millis(number) },
            _ => Acquired::Taken { epoch: number, from: Some(who).filter(|who| !who.is_empty()), crashes },
        })
    }

    /// Extends the lease to [`LEASE_TTL`] from now. False when it has run out or another owner has it.
    pub async fn renew(&self, shard: Shard, epoch: u64) -> Result<bool, RedisError> {
        let mut call = RENEW.key(RedisKey::shard_lease(shard));
        call.arg(&*self.owner).arg(epoch).arg(ttl_ms());
        call.invoke_async(&mut self.redis.clone()).await
    }

    /// Releases the lease, and records whether the work crashed. False when another owner has it, or its epoch is
    /// newer.
    pub async fn release(&self, shard: Shard, epoch: u64, has_crashed: bool) -> Result<bool, RedisError> {
        let mut call = RELEASE.key(RedisKey::shard_lease(shard));
        call.arg(&*self.owner).arg(epoch).arg(u8::from(has_crashed));
        call.invoke_async(&mut self.redis.clone()).await
    }

    /// The owner of a shard's lease; `None` if the shard is free.
    pub async fn holder(&self, shard: Shard) -> Result<Option<String>, RedisError> {
        let call = HOLDER.key(RedisKey::shard_lease(shard));
        let owner: String = call.invoke_async(&mut self.redis.clone()).await?;
        Ok(Some(owner).filter(|owner| !owner.is_empty()))
    }

    /// Registers this owner as a member for [`LEASE_TTL`]. Returns all members, sorted.
    pub async fn join(&self) -> Result<Vec<String>, RedisError> {
        let mut call = MEMBERS.key(RedisKey::ingest_workers());
        call.arg(&*self.owner).arg(ttl_ms());
        call.invoke_async(&mut self.redis.clone()).await
    }

    /// Removes this owner from the members.
    pub async fn leave(&self) -> Result<(), RedisError> {
        self.redis.clone().zrem(RedisKey::ingest_workers(), &*self.owner).await
    }
}

fn ttl_ms() -> u64 {
    // A few seconds in milliseconds, so it fits.
    LEASE_TTL.as_millis() as u64
}
