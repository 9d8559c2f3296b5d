//! Which shards this worker works on.
//!
//! Every worker registers itself in Redis, reads which other workers are alive and which worker holds which shard, and
//! acquires the shards of its even share (`plan`). A lease with an epoch ([`store`]) protects a shard; the worker
//! renews it while its work on the shard continues. That work is a future of the caller, which gets a [`LeaseGuard`].
//!
//! - A worker that stops leaves first and then releases shard by shard, each as soon as its work has finished: other
//!   workers take them within [`RENEW_EVERY`].
//! - A worker that crashes stops renewing; its leases run out within [`LEASE_TTL`], and other workers take them.
//! - A worker that was suspended finds its leases over when it continues, without asking Redis.
//! - A worker whose work on one shard panics releases that shard and keeps the others. The lease counts how many times
//!   in a row the work on a shard has crashed.
//! - While Redis is away, no worker holds a lease for longer than [`LEASE_TTL`], and none acquires one.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::shard::{SHARDS, Shard};
use stores::redis::Redis;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

mod guard;
mod keeper;
mod metrics;
pub mod plan;
pub mod store;

pub use guard::LeaseGuard;
use keeper::Keeper;
use plan::{Holders, plan};
use store::{Acquired, Store};

/// How long a lease runs without renewal, and how long a worker counts as alive after its last sign of life.
pub const LEASE_TTL: Duration = Duration::from_secs(3);
/// How often a worker renews each lease, and how often it reads members and holders.
pub const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How much earlier than Redis the owner treats its lease as over: clocks do not run equally fast.
pub const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// How long one round of reading members and holders, or one renewal, may take.
pub const ASK_MAX: Duration = Duration::from_secs(1);
/// How long the work on a shard may take to finish once the shard is to be given up. After that, the worker stops
/// renewing its lease.
pub const GIVE_UP_MAX: Duration = Duration::from_secs(30);
/// How long the work on a shard may continue after its lease ended. After that it is cut off, as by a crash.
pub const CUT_OFF_AFTER: Duration = Duration::from_secs(10);

/// The leases of this worker.
#[derive(Debug)]
pub struct Leases {
    store: Store,
    /// For each shard with running work, the sender that makes its keeper give it up. Closed when the work has ended.
    kept: [Option<watch::Sender<bool>>; SHARDS as usize],
    /// The holders at the last reading, for a shard on a part of Redis that does not answer.
    holders: Holders,
    keepers: JoinSet<()>,
}

impl Leases {
    /// Leases in that Redis. `redis` must be a connection without slow commands. The owner's name is the worker's id
    /// plus a random suffix, so that a restarted worker is a different owner.
    pub fn new(redis: Redis, worker_id: &str) -> Self {
        let owner = Arc::from(format!("{worker_id}.{:016x}", rand::random::<u64>()));
        Self {
            store: Store::new(redis, owner),
            kept: Default::default(),
            holders: Holders::default(),
            keepers: JoinSet::new(),
        }
    }

    /// This process's name as an owner of leases: the worker id and a random suffix.
    pub const fn owner(&self) -> &Arc<str> {
        self.store.owner()
    }

    /// Acquires and gives up shards until `stop`, and starts `work` for each acquired shard. `work` must return soon
    /// after its [`LeaseGuard`] has ended; when it returns earlier, the shard is released and acquired again.
    ///
    /// When this future is dropped, all work is dropped and no lease is given back, as in a crash.
    pub async fn run<F, W>(mut self, mut stop: watch::Receiver<bool>, work: F)
    where
        F: Fn(LeaseGuard) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        let mut ticks = tokio::time::interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            if let Ok(Err(error)) = tokio::time::timeout(ASK_MAX, self.rebalance(&work)).await {
                tracing::warn!(%error, "could not read who works on which shard; trying again");
            }
        }
        self.give_up_all().await;
    }

    /// Reads members and holders once, and follows the plan.
    async fn rebalance<F, W>(&mut self, work: &F) -> Result<(), redis::RedisError>
    where
        F: Fn(LeaseGuard) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        self.forget_finished();
        let members = self.store.join().await?;
        self.read_holders().await;
        let held: Vec<Shard> = Shard::all().filter(|shard| self.kept[shard.index()].is_some()).collect();
        let plan = plan(self.store.owner(), &members, &held, &self.holders);
        for shard in plan.give_up {
            if let Some(give_up) = &self.kept[shard.index()]
                && !give_up.send_replace(true)
            {
                tracing::info!(shard = shard.number(), members = members.len(), "giving up a shard");
            }
        }
        for shard in plan.try_for {
            self.try_for(shard, work).await;
        }
        metrics::shards_owned(self.kept.iter().flatten().count());
        Ok(())
    }

    fn forget_finished(&mut self) {
        while self.keepers.try_join_next().is_some() {}
        for kept in &mut self.kept {
            kept.take_if(|give_up| give_up.is_closed());
        }
    }

    async fn read_holders(&mut self) {
        let mut reads = JoinSet::new();
        for shard in Shard::all() {
            let store = self.store.clone();
            reads.spawn(async move { (shard, store.holder(shard).await) });
        }
        while let Some(read) = reads.join_next().await {
            match read {
                Ok((shard, Ok(holder))) => self.holders[shard.index()] = holder,
                Ok((shard, Err(error))) => {
                    tracing::debug!(shard = shard.number(), %error, "could not see who holds it")
                }
                Err(_) => {}
            }
        }
    }

    async fn try_for<F, W>(&mut self, shard: Shard, work: &F)
    where
        F: Fn(LeaseGuard) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        // Taken before the request to Redis, so that our count of the lease's time starts no later than Redis' own.
        let asked = Instant::now();
        match self.store.acquire(shard).await {
            Ok(Acquired::Taken { epoch, from, crashes }) => {
                if let Some(from) = &from {
                    metrics::shard_taken_over();
                    tracing::warn!(shard = shard.number(), epoch, from, "taking over a shard that was not given back");
                } else {
                    tracing::info!(shard = shard.number(), epoch, "taking a shard");
                }
                let (give_up, asked_to) = watch::channel(false);
                let (keeper, guard) = Keeper::new(self.store.clone(), shard, (epoch, crashes), asked, asked_to);
                self.keepers.spawn(keeper.keep(work(guard)));
                self.kept[shard.index()] = Some(give_up);
            }
            Ok(Acquired::Held { by, left }) => tracing::debug!(shard = shard.number(), by, ?left, "still another's"),
            Err(error) => tracing::warn!(shard = shard.number(), %error, "could not ask for a shard; asking again"),
        }
    }

    /// Leaves, then releases its shards. Leaving comes first: until then, other workers reserve a share for this
    /// worker.
    async fn give_up_all(&mut self) {
        match tokio::time::timeout(ASK_MAX, self.store.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not leave; the others notice by themselves"),
            Err(_) => {
                tracing::warn!("Redis does not answer; the others notice by themselves that this worker has left")
            }
        }
        for give_up in self.kept.iter().flatten() {
            give_up.send_replace(true);
        }
        while self.keepers.join_next().await.is_some() {}
        metrics::shards_owned(0);
    }
}
