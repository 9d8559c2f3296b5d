//! Moving something into a stream from another slot of a cluster, where no script can do both: not lost and not
//! doubled, wherever whoever moves it dies.
//!
//! Three steps, each of which may be repeated: append it under a token, delete it at its source, settle the token. The
//! stream's slot remembers the token until the source is gone, and for [`SETTLED_KEPT`] longer, for commands that are
//! late. Whoever repeats the move must name the same token and the same stream: write the stream down at the source
//! before the first step, if it can change.

use std::sync::LazyLock;
use std::time::Duration;

use model::ids::OrgId;
use redis::{AsyncCommands, RedisError, Script};
use wire::envelope::claims;

use crate::fence::Appended;
use model::shard::Shard;
use stores::clock::hour_of;
use stores::keys::ACCEPTED_KEPT;
use stores::keys::RedisKey;
use stores::redis::Redis;

static ARRIVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("arrive.lua")));
static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(SETTLE_LUA));

/// Settles a token of whichever arrivals.
pub const SETTLE_LUA: &str = include_str!("settle.lua");
/// How long a command may be late: a token is kept for so long after its source is gone.
pub const SETTLED_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Where something arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A shard's stream, for an envelope of that org that is accepted by that, and counted ([`ledger`]).
    Shard(Shard, OrgId),
    /// A shard's stream, for an envelope that comes from there: whoever owns the shard stores it, wherever its org is
    /// now.
    Back(Shard),
    /// The stream of envelopes written before tenancy.
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

/// The streams, as those see them who bring something from elsewhere. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Arrivals {
    redis: Redis,
}

impl Arrivals {
    /// The streams in that Redis.
    pub const fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// Appends an entry of one field, unless it was appended under that token before. After an error it may be there or
    /// not.
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
            // Whoever appends to a shard has just written it.
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

    /// Says that what arrived under that token is at its source no more.
    pub async fn settle(&self, at: Place, token: &str) -> Result<(), RedisError> {
        SETTLE.key(at.arrivals()).arg(token).invoke_async(&mut self.redis.clone()).await
    }
}
