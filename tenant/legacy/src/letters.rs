//! The legacy stream's dead letters: entries whose project nobody knows, and those that cannot be read.

use std::sync::LazyLock;

use redis::{AsyncCommands, RedisError, Script};

use queue::arrival::{SETTLE_LUA, SETTLED_KEPT};
use queue::dlq::{Description, LEGACY_FIELD};
use stores::keys::RedisKey;
use stores::redis::Redis;

static PARK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("park.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(SETTLE_LUA));

/// The legacy stream's dead letters, as those see them who add to them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Letters {
    redis: Redis,
    bytes_max: u64,
}

impl Letters {
    /// The dead letters in that Redis, of so many bytes at most.
    pub const fn new(redis: Redis, bytes_max: u64) -> Self {
        Self { redis, bytes_max }
    }

    /// Adds an entry, unless it was added under that token before. False if there is no room. After an error it may be
    /// there or not.
    pub async fn add(&self, token: &str, letter: &Description, data: &[u8]) -> Result<bool, RedisError> {
        let description = serde_json::to_string(letter).unwrap_or_default();
        let mut call = PARK.key(RedisKey::legacy_dlq());
        call.key(RedisKey::legacy_dlq_bytes()).key(RedisKey::legacy_dlq_arrivals());
        call.arg(token).arg(description).arg(LEGACY_FIELD).arg(data).arg(self.bytes_max);
        call.arg(SETTLED_KEPT.as_millis() as u64).invoke_async(&mut self.redis.clone()).await
    }

    /// Whether an entry was added under that token.
    pub async fn has(&self, token: &str) -> Result<bool, RedisError> {
        let score: Option<String> = self.redis.clone().zscore(RedisKey::legacy_dlq_arrivals(), token).await?;
        Ok(score.is_some())
    }

    /// Says that what was added under that token is in the stream no more.
    pub async fn settle(&self, token: &str) -> Result<(), RedisError> {
        SETTLE.key(RedisKey::legacy_dlq_arrivals()).arg(token).invoke_async(&mut self.redis.clone()).await
    }
}
