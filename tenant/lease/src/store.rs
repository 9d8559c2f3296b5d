//! Leases and members, as they are in Redis.
//!
//! Every question is one script, and every script has one key: all of them run on a cluster.

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
static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("look.lua")));
static MEMBERS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("members.lua")));

/// What became of asking for a shard's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is the asker's.
    Taken {
        /// The fencing epoch.
        epoch: u64,
        /// Who had it before and let it run out.
        from: Option<String>,
        /// How many tenures in a row ended by a crash, with work left to do.
        crashes: u32,
    },
    /// It is another's.
    Held {
        /// Whose.
        by: String,
        /// For how long, unless that one renews it.
        left: Duration,
    },
}

/// The leases in Redis, for one owner. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    redis: Redis,
    owner: Arc<str>,
}

impl Store {
    /// The leases in that Redis, for an owner whose name no other has or had.
    pub const fn new(redis: Redis, owner: Arc<str>) -> Self {
        Self { redis, owner }
    }

    /// For whom.
    pub const fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Takes a shard's lease for [`LEASE_TTL`], if nobody else has it.
    pub async fn acquire(&self, shard: Shard) -> Result<Acquired, RedisError> {
        let mut call = ACQUIRE.key(RedisKey::shard_lease(shard));
        call.arg(&*self.owner).arg(ttl_ms());
        let (how, who, number, crashes): (u8, String, u64, u32) = call.invoke_async(&mut self.redis.clone()).await?;
        Ok(match how {
            0 => Acquired::Held { by: who, left: Duration::from_millis(number) },
            _ => Acquired::Taken { epoch: number, from: Some(who).filter(|who| !who.is_empty()), crashes },
        })
    }

    /// Lets the lease run on for [`LEASE_TTL`]. False when it has run out or is another's.
    pub async fn renew(&self, shard: Shard, epoch: u64) -> Result<bool, RedisError> {
        let mut call = RENEW.key(RedisKey::shard_lease(shard));
        call.arg(&*self.owner).arg(epoch).arg(ttl_ms());
        call.invoke_async(&mut self.redis.clone()).await
    }

    /// Gives the lease back, and says whether the work has crashed. False when it is another's, or has begun anew.
    pub async fn release(&self, shard: Shard, epoch: u64, has_crashed: bool) -> Result<bool, RedisError> {
        let mut call = RELEASE.key(RedisKey::shard_lease(shard));
        call.arg(&*self.owner).arg(epoch).arg(u8::from(has_crashed));
        call.invoke_async(&mut self.redis.clone()).await
    }

    /// Who has a shard's lease.
    pub async fn holder(&self, shard: Shard) -> Result<Option<String>, RedisError> {
        let call = LOOK.key(RedisKey::shard_lease(shard));
        let owner: String = call.invoke_async(&mut self.redis.clone()).await?;
        Ok(Some(owner).filter(|owner| !owner.is_empty()))
    }

    /// Is a member from now on, for as long as a lease lives. All members, sorted.
    pub async fn join(&self) -> Result<Vec<String>, RedisError> {
        let mut call = MEMBERS.key(RedisKey::ingest_workers());
        call.arg(&*self.owner).arg(ttl_ms());
        call.invoke_async(&mut self.redis.clone()).await
    }

    /// Is no member any more.
    pub async fn leave(&self) -> Result<(), RedisError> {
        self.redis.clone().zrem(RedisKey::ingest_workers(), &*self.owner).await
    }
}

fn ttl_ms() -> u64 {
    // Seconds, so it fits.
    LEASE_TTL.as_millis() as u64
}
