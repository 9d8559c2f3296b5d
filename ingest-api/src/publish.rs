//! The one way out: an envelope is appended to its org's shard, and only then is the request answered.

use std::time::Instant;

use auth::TenantContext;
use queue::fence::{Accepted, AppendError, Appended, Fence};
use stores::redis::Redis;
use stores::redis::ack::AckClass;
use stores::redis::confirm::Confirmer;

use crate::error::ApiError;
use crate::metrics;

/// Appends envelopes to the shards' streams.
#[derive(Clone)]
pub(crate) struct Publisher {
    shards: Fence,
    class: AckClass,
}

impl Publisher {
    /// Publishes over that connection, which is shared: appends of concurrent requests are pipelined on it. What has to
    /// be waited for is waited for on connections of its own.
    pub(crate) fn new(redis: Redis, confirmer: Confirmer) -> Self {
        Self { class: confirmer.class(), shards: Fence::confirmed(redis, confirmer) }
    }

    /// Appends an envelope. When this returns, Redis keeps it as the class says. After an error it may have it too: the
    /// client's retry then writes the same rows again, which collapse into one.
    pub(crate) async fn publish(&self, tenant: &TenantContext, new: &Accepted<'_>) -> Result<AckClass, ApiError> {
        let begun = Instant::now();
        let appended = self.shards.append(tenant.shard(), new).await;
        metrics::appended(begun.elapsed(), new.envelope.len(), matches!(appended, Ok(Appended::Kept)));
        match appended {
            Ok(Appended::Kept) => Ok(self.class),
            Ok(Appended::Closed) => Err(ApiError::Moving),
            Err(AppendError::Redis(error)) => Err(ApiError::Unavailable(error)),
            Err(AppendError::NotReady(reason)) => Err(ApiError::NotDurable(reason)),
            Err(AppendError::Unconfirmed(why)) => Err(ApiError::Unconfirmed { class: self.class, why }),
            Err(AppendError::Busy) => Err(ApiError::Overloaded),
        }
    }
}
