//! Moving an org to another shard, from the row that says so to the row that says it is done.
//!
//! Every step may be repeated, and whoever continues begins at the first: announce, close what the org leaves, wait
//! until that is stored, open where it goes, say so. A later move of the same org takes over from an earlier one at any
//! point.

use std::time::{Duration, Instant};

use model::ids::OrgId;
use redis::RedisError;
use thiserror::Error;

use model::shard::Shard;
use queue::fence::{Closed, Fence};
use registry::{Registry, RegistryError, ShardMove};

/// How long the services have to hear that an org is moving, before shards are closed to it. Nothing depends on it: a
/// request that comes later is refused by the shard, at the price of an entry that is perhaps stored for nothing.
pub const NOTICE: Duration = Duration::from_secs(1);
/// How often the shards that an org leaves are looked at.
pub const POLL_EVERY: Duration = Duration::from_millis(50);
/// How often progress is told while it waits.
pub const TELL_EVERY: Duration = Duration::from_secs(1);

/// Where a move has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The services refuse the org's requests as soon as they have heard.
    Announced,
    /// A shard that the org leaves has entries from before the move.
    Draining {
        /// Which.
        shard: Shard,
        /// How far it is.
        closed: Closed,
    },
    /// The org is where it should be.
    Settled,
}

/// Why a move is not finished. The org is refused until it is, or is taken back.
#[derive(Debug, Error)]
pub enum MoveError {
    /// Postgres.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Redis.
    #[error("redis failed: {0}")]
    Redis(#[from] RedisError),
    /// Somebody has begun another one.
    #[error("another move of this organization was begun meanwhile")]
    Superseded,
    /// Waited for long enough.
    #[error(
        "shard {shard} still has entries from before the move, {} in its stream, after {} s",
        .closed.entries, .waited.as_secs()
    )]
    NotDrained {
        /// Which shard.
        shard: Shard,
        /// How far it is.
        closed: Closed,
        /// For how long it was waited.
        waited: Duration,
    },
}

/// Finishes moves.
#[derive(Clone, Debug)]
pub struct Mover {
    registry: Registry,
    fence: Fence,
}

impl Mover {
    /// Moves orgs of that registry, which should announce its changes, between the shards of that Redis.
    pub const fn new(registry: Registry, fence: Fence) -> Self {
        Self { registry, fence }
    }

    /// Goes on with the move of an org that is moving, and returns when it is done. `wait` is how long the shards that
    /// it leaves may take. Does nothing for an org that is not moving.
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
        let mut told = None::<Instant>;
        while let Some((shard, closed)) = self.not_drained(&moving).await? {
            if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                told = Some(Instant::now());
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

    /// Closes all that the org leaves, and says which of it is not drained yet.
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
