//! The right to work on one shard, until the lease ends.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::shard::Shard;
use tokio::sync::watch;

/// The present state of a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseState {
    /// When the lease ends without renewal.
    pub(super) until: Instant,
    /// False once the worker must give up the shard.
    pub(super) wanted: bool,
}

/// The right to work on a shard until its lease ends. Cheap to clone.
///
/// It saves effort, and is no proof: a process can be suspended between calling [`LeaseGuard::holds`] and acting on it,
/// and where a whole machine sleeps its clock may sleep too. A late owner is harmless because Redis accepts nothing
/// from an older epoch, and ClickHouse accepts no token twice.
#[derive(Clone)]
pub struct LeaseGuard {
    shard: Shard,
    owner: Arc<str>,
    epoch: u64,
    crashes: u32,
    state: watch::Receiver<LeaseState>,
}

impl LeaseGuard {
    pub(super) fn new(
        shard: Shard,
        owner: Arc<str>,
        epoch: u64,
        crashes: u32,
        state: watch::Receiver<LeaseState>,
    ) -> Self {
        Self { shard, owner, epoch, crashes, state }
    }

    /// The shard that the guard is for.
    pub const fn shard(&self) -> Shard {
        self.shard
    }

    /// The epoch of the lease: larger than that of every earlier guard of this shard.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many guards in a row before this one ended by a crash, with work left to do.
    pub const fn crashes(&self) -> u32 {
        self.crashes
    }

    /// The owner's name, unique to this run of the process.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Whether the lease still runs. If not, nothing may be sent any more. A process that was suspended sees this at
    /// once, because the clock has moved on.
    pub fn holds(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long the lease runs without renewal.
    pub fn remaining(&self) -> Duration {
        self.state.borrow().until.saturating_duration_since(Instant::now())
    }

    /// Whether the worker should keep the shard. If not, finish the work under way and return.
    pub fn is_wanted(&self) -> bool {
        self.state.borrow().wanted
    }

    /// Resolves when the shard is to be given up or the lease has run out.
    pub async fn ended(&self) {
        let mut changes = self.state.clone();
        loop {
            let LeaseState { until, wanted } = *changes.borrow_and_update();
            if !wanted || until <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseGuard")
            .field("shard", &self.shard)
            .field("owner", &self.owner)
            .field("epoch", &self.epoch)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(state: LeaseState) -> (watch::Sender<LeaseState>, LeaseGuard) {
        let (sender, receiver) = watch::channel(state);
        (sender, LeaseGuard::new(Shard::new(3).unwrap(), "me".into(), 7, 0, receiver))
    }

    #[tokio::test]
    async fn a_lease_guard_ends_when_its_lease_is_not_renewed_or_not_wanted() {
        let now = Instant::now();
        let (sender, short) = guard(LeaseState { until: now, wanted: true });
        assert!(!short.holds() && short.is_wanted());
        short.ended().await;

        sender.send_replace(LeaseState { until: now + Duration::from_secs(60), wanted: true });
        assert!(short.holds() && short.remaining() > Duration::from_secs(30));
        let ended = tokio::spawn({
            let short = short.clone();
            async move { short.ended().await }
        });
        sender.send_replace(LeaseState { until: now + Duration::from_secs(90), wanted: true });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished(), "it was renewed");
        sender.send_replace(LeaseState { until: now + Duration::from_secs(90), wanted: false });
        ended.await.unwrap();
        assert!(short.holds() && !short.is_wanted(), "there is time to finish");

        drop(sender);
        short.ended().await;
    }
}
