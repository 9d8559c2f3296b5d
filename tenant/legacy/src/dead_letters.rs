//! The legacy stream's dead letters: entries of an unknown project, and unreadable entries.

use std::sync::LazyLock;

use queue::arrival::{SETTLE_LUA, SETTLED_KEPT};
use queue::dlq::{Description, LEGACY_FIELD};
use redis::{AsyncCommands, RedisError, Script};
use stores::keys::RedisKey;
use stores::redis::Redis;

static ADD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("add_dead_letter.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(SETTLE_LUA));

/// Adds dead letters of the legacy stream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    redis: Redis,
    bytes_max: u64,
}

impl DeadLetters {
    /// Adds to that Redis, up to `bytes_max` bytes in all.
    pub const fn new(redis: Redis, bytes_max: u64) -> Self {
        Self { redis, bytes_max }
    }

    /// Adds an entry, unless it was added under that token before. False if there is no room. After an error, it may
    /// have been added.
    pub async fn add(&self, token: &str, letter: &Description, data: &[u8]) -> Result<bool, RedisError> {
        let description = serde_json::to_string(letter).unwrap_or_default();
        let mut call = ADD.key(RedisKey::legacy_dlq());
        call.key(RedisKey::legacy_dlq_bytes()).key(RedisKey::legacy_dlq_arrivals());
        call.arg(token).arg(description).arg(LEGACY_FIELD).arg(data).arg(self.bytes_max);
        call.arg(SETTLED_KEPT.as_millis() as u64).invoke_async(&mut self.redis.clone()).await
    }

    /// Whether an entry was added under that token.
    pub async fn has(&self, token: &str) -> Result<bool, RedisError> {
        let score: Option<String> = self.redis.clone().zscore(RedisKey::legacy_dlq_arrivals(), token).await?;
        Ok(score.is_some())
    }

    /// Records that the entry added under that token is no longer in the stream.
    pub async fn settle(&self, token: &str) -> Result<(), RedisError> {
        SETTLE.key(RedisKey::legacy_dlq_arrivals()).arg(token).invoke_async(&mut self.redis.clone()).await
    }
}
