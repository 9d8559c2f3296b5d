//! The one way out: an envelope is appended to its org's shard, and only then is the request answered.

use std::time::Instant;

use tenant::TenantContext;
use tenant::redis::Redis;
use tenant::shard::ShardRouter;
use tenant::shard::fence::{Accepted, Appended, Fence};

use crate::error::ApiError;
use crate::metrics;

/// Appends envelopes to the shards' streams.
#[derive(Clone)]
pub(crate) struct Publisher {
    shards: Fence,
}

impl Publisher {
    /// Publishes over that connection, which is shared: appends of concurrent requests are pipelined on it.
    pub(crate) fn new(redis: Redis) -> Self {
        Self { shards: Fence::new(redis) }
    }

    /// Appends an envelope. When this returns, Redis has it. After an error it may have it too: the client's retry then
    /// writes the same rows again, which collapse into one.
    pub(crate) async fn publish(&self, tenant: &TenantContext, new: &Accepted<'_>) -> Result<(), ApiError> {
        let begun = Instant::now();
        let appended = self.shards.append(ShardRouter::shard_of(tenant), new).await;
        metrics::appended(begun.elapsed(), new.envelope.len(), matches!(appended, Ok(Appended::Kept)));
        match appended {
            Ok(Appended::Kept) => Ok(()),
            Ok(Appended::Closed) => Err(ApiError::Moving),
            Err(error) => Err(ApiError::Unavailable(error)),
        }
    }
}
