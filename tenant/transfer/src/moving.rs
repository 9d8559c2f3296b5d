//! Moves an org to another shard, from the registry's row that starts the move to the row that completes it.
//!
//! Every step may be repeated, and a process that continues a move starts with the first step: announce the move, close
//! the shards that the org leaves, wait until their entries are stored, open the destination, record the completion. A
//! later move of the same org replaces an earlier one at any point.

use std::time::{Duration, Instant};

use model::ids::OrgId;
use model::shard::Shard;
use queue::appender::{Closed, ShardAppender};
use redis::RedisError;
use registry::{Registry, RegistryError, ShardMove};
use thiserror::Error;

/// How long the services have to learn that an org is moving, before shards are closed to it. Correctness does not
/// depend on it: the shard refuses later requests, at the cost of an entry that may be stored unacknowledged.
pub const NOTICE: Duration = Duration::from_secs(1);
/// How often the shards that an org leaves are checked.
pub const POLL_EVERY: Duration = Duration::from_millis(50);
/// How often progress is reported during the wait.
pub const TELL_EVERY: Duration = Duration::from_secs(1);

/// The progress of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The services refuse the org's requests once they have learned of the move.
    Announced,
    /// A shard that the org leaves has entries from before the move.
    Draining {
        /// A shard that the org leaves.
        shard: Shard,
        /// The state of that shard: its fence and the remaining entries.
        closed: Closed,
    },
    /// The org is on its new shard.
    Settled,
}

/// Why a move is not finished. The org's requests are refused until it is finished or reverted.
#[derive(Debug, Error)]
pub enum MoveError {
    /// Postgres, which has the assignment, did not answer or refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Redis, which has the streams, did not answer or refused.
    #[error("redis failed: {0}")]
    Redis(#[from] RedisError),
    /// A later move of the same org has begun.
    #[error("another move of this organization was begun meanwhile")]
    Superseded,
    /// The shard was not drained within the given time.
    #[error(
        "shard {shard} still has entries from before the move, {} in its stream, after {} s",
        .closed.entries, .waited.as_secs()
    )]
    NotDrained {
        /// The shard that is not drained.
        shard: Shard,
        /// The state of that shard: its fence and the remaining entries.
        closed: Closed,
        /// How long the call waited.
        waited: Duration,
    },
}

/// Completes moves of orgs.
#[derive(Clone, Debug)]
pub struct Mover {
    registry: Registry,
    fence: ShardAppender,
}

impl Mover {
    /// Moves orgs of that registry between the shards of that Redis. The registry should announce its changes.
    pub const fn new(registry: Registry, fence: ShardAppender) -> Self {
        Self { registry, fence }
    }

    /// Continues the move of an org, and returns when it is complete. `wait` is how long draining the old shards may
    /// take. Does nothing for an org that is not moving.
    pub async fn finish(
        &self,
        org: OrgId,
        wait: Duration,
        tell: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), MoveError> {
        let Some(moving) = self.registry.shard_move(org).await? else { return Ok(()) };
        tell(Progress::Announced);
        tokio::time::sleep(NOTICE.saturating_sub(moving.begun_ago)).await;
        let begun = Instant::now();
        let mut reported_at = None::<Instant>;
        while let Some((shard, closed)) = self.not_drained(&moving).await? {
            if reported_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                reported_at = Some(Instant::now());
                tell(Progress::Draining { shard, closed });
            }
            if begun.elapsed() >= wait {
                return Err(MoveError::NotDrained { shard, closed, waited: wait });
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        if !self.fence.open(moving.to, org, moving.version).await? {
            return Err(MoveError::Superseded);
        }
        match self.registry.settle_shard_move(org, moving.version).await {
            Ok(_) => {}
            Err(RegistryError::MoveSuperseded) => return Err(MoveError::Superseded),
            Err(error) => return Err(error.into()),
        }
        tell(Progress::Settled);
        Ok(())
    }

    /// Closes all shards that the org leaves, and returns those that are not drained yet.
    async fn not_drained(&self, moving: &ShardMove) -> Result<Option<(Shard, Closed)>, MoveError> {
        let mut found = None;
        for shard in &moving.leaves {
            let closed = self.fence.close(*shard, moving.org_id, moving.version).await?;
            let closed = closed.ok_or(MoveError::Superseded)?;
            if !closed.is_drained() {
                found = found.or(Some((*shard, closed)));
            }
        }
        Ok(found)
    }
}
