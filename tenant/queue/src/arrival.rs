//! Moves something into a stream from another slot of a cluster, where no script can do both sides: it is neither lost
//! nor doubled, even if the moving process crashes at any point.
//!
//! Three steps, each of which may be repeated: append it under a token, delete it at its source, settle the token. The
//! stream's slot remembers the token until the source is deleted, and for [`SETTLED_KEPT`] longer, because a command
//! may arrive late. A repetition must use the same token and the same stream: if the stream can change, store its name
//! at the source before the first step.

use std::sync::LazyLock;
use std::time::Duration;

use model::ids::OrgId;
use model::shard::Shard;
use redis::{AsyncCommands, RedisError, Script};
use stores::clock::hour_of;
use stores::keys::{ACCEPTED_KEPT, RedisKey};
use stores::redis::Redis;
use wire::envelope::claims;

use crate::appender::Appended;

static ARRIVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("arrive.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(SETTLE_LUA));

/// Settles a token, for all kinds of arrivals.
pub const SETTLE_LUA: &str = include_str!("settle.lua");
/// How late a command may arrive: a token is kept for this long after its source is deleted.
pub const SETTLED_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The destination of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A shard's stream, for an envelope of that org that is accepted by this append, and counted (`ledger`).
    Shard(Shard, OrgId),
    /// A shard's stream, for an envelope that came from that shard. The owner of the shard stores it, even if its org
    /// has moved.
    Back(Shard),
    /// The legacy stream, for a dead letter that came from it.
    Legacy,
}

impl Place {
    fn arrivals(self) -> RedisKey {
        match self {
            Self::Shard(shard, _) | Self::Back(shard) => RedisKey::shard_arrivals(shard),
            Self::Legacy => RedisKey::legacy_arrivals(),
        }
    }
}

/// Appends arrivals to the streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Arrivals {
    redis: Redis,
}

impl Arrivals {
    /// Appends to that Redis.
    pub const fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// Appends an entry of one field, unless it was appended under that token before. After an error, it may have been
    /// appended.
    pub async fn append(&self, to: Place, token: &str, field: &str, value: &[u8]) -> Result<Appended, RedisError> {
        let stream = match to {
            Place::Shard(shard, _) | Place::Back(shard) => RedisKey::shard_stream(shard),
            Place::Legacy => RedisKey::legacy_stream(),
        };
        let mut call = ARRIVE.key(stream);
        call.key(to.arrivals());
        if let Place::Shard(shard, _) = to {
            call.key(RedisKey::shard_fence(shard));
        }
        call.arg(token).arg(field).arg(value).arg(SETTLED_KEPT.as_millis() as u64);
        if let Place::Shard(shard, org) = to {
            call.arg(org.to_string());
            // The caller has just encoded this envelope, so `claims` can read it.
            if let Ok(claims) = claims(value) {
                call.key(RedisKey::shard_accepted(shard, hour_of(claims.header.received_at)));
                call.arg(claims.items).arg(ACCEPTED_KEPT.as_secs());
            }
        }
        let is_there: bool = call.invoke_async(&mut self.redis.clone()).await?;
        Ok(if is_there { Appended::Kept } else { Appended::Closed })
    }

    /// Whether something has arrived there under that token.
    pub async fn has(&self, at: Place, token: &str) -> Result<bool, RedisError> {
        let score: Option<String> = self.redis.clone().zscore(at.arrivals(), token).await?;
        Ok(score.is_some())
    }

    /// Records that the arrival under that token is deleted at its source.
    pub async fn settle(&self, at: Place, token: &str) -> Result<(), RedisError> {
        SETTLE.key(at.arrivals()).arg(token).invoke_async(&mut self.redis.clone()).await
    }
}
