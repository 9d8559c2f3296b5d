//! Keeps one lease while the work on its shard continues.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use model::shard::Shard;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::guard::{LeaseGuard, LeaseState};
use super::store::Store;
use super::{ASK_MAX, CUT_OFF_AFTER, GIVE_UP_MAX, LEASE_MARGIN, LEASE_TTL, RENEW_EVERY};
use crate::metrics;

pub(super) struct Keeper {
    store: Store,
    shard: Shard,
    epoch: u64,
    state: watch::Sender<LeaseState>,
    /// True once the worker must give up the shard.
    give_up: watch::Receiver<bool>,
}

/// Why a keeper stops renewing its lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The work on the shard has returned.
    Finished,
    /// The work on the shard has panicked.
    Crashed,
    /// The work did not return within the allowed time.
    TooLate,
    /// The lease has ended, or another worker has it.
    Lost,
}

impl Keeper {
    /// A keeper for a lease that was requested at `asked`, and the guard for the work.
    pub(super) fn new(
        store: Store,
        shard: Shard,
        (epoch, crashes): (u64, u32),
        asked: Instant,
        give_up: watch::Receiver<bool>,
    ) -> (Self, LeaseGuard) {
        let (state, watched) = watch::channel(LeaseState { until: end_of_lease(asked), wanted: true });
        let guard = LeaseGuard::new(shard, Arc::clone(store.owner()), epoch, crashes, watched);
        (Self { store, shard, epoch, state, give_up }, guard)
    }

    /// Renews the lease until the work returns, then releases it.
    pub(super) async fn keep(self, work: impl Future<Output = ()> + Send + 'static) {
        let shard = self.shard.number();
        // A separate task, so that the work cannot delay renewals and a panic stays inside; a set, so that it ends with
        // this one.
        let mut working = JoinSet::new();
        working.spawn(work);
        let end = self.renew_while(&mut working).await;
        match end {
            End::Finished => {}
            End::Crashed => metrics::shard_panicked(self.shard),
            End::TooLate => tracing::warn!(shard, "the work on a shard was not finished in time; its lease runs out"),
            End::Lost => {
                metrics::lease_lost();
                tracing::warn!(shard, epoch = self.epoch, "lost the lease of a shard");
                self.end();
            }
        }
        // Longer than the lease runs: by now the guard forbids every write, so cutting the work off is safe.
        let finished = tokio::time::timeout(CUT_OFF_AFTER, working.join_next()).await;
        if finished.is_err() {
            tracing::error!(shard, "the work on a shard goes on without a lease; it is cut off");
            working.shutdown().await;
        }
        self.end();
        match tokio::time::timeout(ASK_MAX, self.store.release(self.shard, self.epoch, end == End::Crashed)).await {
            Ok(Ok(true)) => tracing::info!(shard, epoch = self.epoch, "gave back a shard"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(shard, %error, "could not give back a shard; its lease runs out"),
            Err(_) => tracing::warn!(shard, "could not give back a shard in time; its lease runs out"),
        }
    }

    async fn renew_while(&self, working: &mut JoinSet<()>) -> End {
        let mut renewals = tokio::time::interval_at((Instant::now() + RENEW_EVERY).into(), RENEW_EVERY);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut give_up = self.give_up.clone();
        let mut give_up_by = None;
        loop {
            tokio::select! {
                Some(done) = working.join_next() => {
                    let Err(error) = done else { return End::Finished };
                    tracing::error!(shard = self.shard.number(), %error, "the work on a shard has crashed");
                    return End::Crashed;
                }
                () = wait_for_give_up(&mut give_up), if give_up_by.is_none() => {
                    self.state.send_modify(|state| state.wanted = false);
                    give_up_by = Some(Instant::now() + GIVE_UP_MAX);
                }
                _ = renewals.tick() => {
                    if give_up_by.is_some_and(|by| by <= Instant::now()) {
                        return End::TooLate;
                    }
                    if !self.renew().await {
                        return End::Lost;
                    }
                }
            }
        }
    }

    /// Ends the guard: all its copies report that the lease is over.
    fn end(&self) {
        let now = Instant::now();
        self.state.send_modify(|state| *state = LeaseState { until: state.until.min(now), wanted: false });
    }

    /// Whether the lease still runs.
    async fn renew(&self) -> bool {
        let asked = Instant::now();
        let shard = self.shard.number();
        match tokio::time::timeout(ASK_MAX, self.store.renew(self.shard, self.epoch)).await {
            Ok(Ok(true)) => {
                self.state.send_modify(|state| state.until = end_of_lease(asked));
                return true;
            }
            Ok(Ok(false)) => return false,
            Ok(Err(error)) => tracing::debug!(shard, %error, "could not renew the lease of a shard; trying again"),
            Err(_) => tracing::debug!(shard, "no answer to the renewal of a lease; trying again"),
        }
        self.state.borrow().until > Instant::now()
    }
}

/// Resolves when the shard is to be given up, or when the sender is gone.
async fn wait_for_give_up(give_up: &mut watch::Receiver<bool>) {
    drop(give_up.wait_for(|give_up| *give_up).await);
}

/// When the owner must treat a lease requested at `asked` as over.
fn end_of_lease(asked: Instant) -> Instant {
    asked + (LEASE_TTL - LEASE_MARGIN)
}
