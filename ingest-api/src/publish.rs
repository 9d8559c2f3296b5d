//! The one way out: an envelope is appended to its org's shard, and only then is the request answered.

use std::time::Instant;

use schema::envelope::ENVELOPE_FIELD;
use schema::ids::OrgId;
use tenant::keys::RedisKey;
use tenant::redis::Redis;
use tenant::shard::ShardRouter;

use crate::error::ApiError;
use crate::metrics;

/// Appends envelopes to the shards' streams.
#[derive(Clone)]
pub(crate) struct Publisher {
    redis: Redis,
    router: ShardRouter,
}

impl Publisher {
    /// Publishes over that connection, which is shared: appends of concurrent requests are pipelined on it.
    pub(crate) fn new(redis: Redis) -> Self {
        Self { redis, router: ShardRouter::new() }
    }

    /// Appends an envelope. When this returns, Redis has it. After an error it may have it too: the client's retry then
    /// writes the same rows again, which collapse into one.
    pub(crate) async fn publish(&self, org: OrgId, envelope: &[u8]) -> Result<(), ApiError> {
        let stream = RedisKey::shard_stream(self.router.shard_of(org));
        let begun = Instant::now();
        let mut append = redis::cmd("XADD");
        append.arg(stream.as_str()).arg("*").arg(ENVELOPE_FIELD).arg(envelope);
        let appended: Result<(), _> = append.query_async(&mut self.redis.clone()).await;
        metrics::appended(begun.elapsed(), envelope.len(), appended.is_ok());
        appended.map_err(ApiError::Unavailable)
    }
}
