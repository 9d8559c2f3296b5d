//! Which shards this worker works on.
//!
//! Every worker notes in Redis that it lives, looks who else does and who holds which shard, and asks for the shards of
//! its even share ([`plan`]). A shard is held by a lease with an epoch ([`store`]), which is renewed as long as the
//! work on it goes on; that work is a future of the caller's, which is given a [`Tenure`].
//!
//! - A worker that stops leaves first and then gives back shard by shard, each as soon as its work is finished: others
//!   take them at their next look.
//! - One that crashes is not heard any more; its leases run out within [`LEASE_TTL`] and are taken at the next look.
//! - One that stands still finds its leases over when it goes on, before it asks anybody.
//! - One whose work on a shard panics gives that shard back and keeps the others. How often the work on a shard has
//!   crashed in a row, its lease says.
//! - While Redis is away nobody holds anything for longer than [`LEASE_TTL`], and nobody takes anything.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::shard::{SHARDS, Shard};
use stores::redis::Redis;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

mod keeper;
mod metrics;
pub mod plan;
pub mod store;
mod tenure;

use keeper::Keeper;
use plan::{Holders, plan};
use store::{Acquired, Store};
pub use tenure::Tenure;

/// How long a lease runs that is not renewed, and how long a worker that is not heard counts as living.
pub const LEASE_TTL: Duration = Duration::from_secs(3);
/// How often a lease is renewed, and how often a worker looks around.
pub const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How much earlier than Redis the owner takes its lease for over: clocks do not run equally fast.
pub const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// How long one look, or one renewal, may take.
pub const ASK_MAX: Duration = Duration::from_secs(1);
/// How long the work on a shard may take to finish once the shard is to be given up. After that its lease is left to
/// run out.
pub const GIVE_UP_MAX: Duration = Duration::from_secs(30);
/// How long the work on a shard may go on that is not renewed any more. After that it is cut off, as by a crash.
pub const CUT_OFF_AFTER: Duration = Duration::from_secs(10);

/// This worker's leases.
#[derive(Debug)]
pub struct Leases {
    store: Store,
    /// Per shard that is worked on, what tells its keeper to give it up. Closed when that is done.
    kept: [Option<watch::Sender<bool>>; SHARDS as usize],
    /// Who held what at the last look, for a shard whose part of Redis does not answer.
    holders: Holders,
    keepers: JoinSet<()>,
}

impl Leases {
    /// Leases in that Redis, over a connection that nothing slow is sent on. The owner's name is made of the worker's
    /// and a random end, so that a worker that is started again is another owner.
    pub fn new(redis: Redis, worker_id: &str) -> Self {
        let owner = Arc::from(format!("{worker_id}.{:016x}", rand::random::<u64>()));
        Self {
            store: Store::new(redis, owner),
            kept: Default::default(),
            holders: Holders::default(),
            keepers: JoinSet::new(),
        }
    }

    /// The owner's name.
    pub const fn owner(&self) -> &Arc<str> {
        self.store.owner()
    }

    /// Takes and gives up shards until told to stop, and starts `work` for each that it has. `work` is to return soon
    /// after its [`Tenure`] has ended; when it returns before, the shard is given back and asked for anew.
    ///
    /// When this future is dropped, all work is dropped and no lease is given back, as in a crash.
    pub async fn run<F, W>(mut self, mut stop: watch::Receiver<bool>, work: F)
    where
        F: Fn(Tenure) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        let mut looks = tokio::time::interval(RENEW_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            if let Ok(Err(error)) = tokio::time::timeout(ASK_MAX, self.look(&work)).await {
                tracing::warn!(%error, "could not look who works on which shard; looking again");
            }
        }
        self.give_up_all().await;
    }

    /// Looks around once, and does what is to be done.
    async fn look<F, W>(&mut self, work: &F) -> Result<(), redis::RedisError>
    where
        F: Fn(Tenure) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        self.forget_finished();
        let members = self.store.join().await?;
        self.look_at_holders().await;
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

    async fn look_at_holders(&mut self) {
        let mut looking = JoinSet::new();
        for shard in Shard::all() {
            let store = self.store.clone();
            looking.spawn(async move { (shard, store.holder(shard).await) });
        }
        while let Some(looked) = looking.join_next().await {
            match looked {
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
        F: Fn(Tenure) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        // Before Redis is asked: whenever it begins to count, it is not earlier.
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
                let (keeper, tenure) = Keeper::new(self.store.clone(), shard, (epoch, crashes), asked, asked_to);
                self.keepers.spawn(keeper.keep(work(tenure)));
                self.kept[shard.index()] = Some(give_up);
            }
            Ok(Acquired::Held { by, left }) => tracing::debug!(shard = shard.number(), by, ?left, "still another's"),
            Err(error) => tracing::warn!(shard = shard.number(), %error, "could not ask for a shard; asking again"),
        }
    }

    /// Leaves, and gives back what it holds. Leaving comes first: until then the others leave a share to this worker.
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
