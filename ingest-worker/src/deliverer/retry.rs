//! Tries again for as long as it takes: changes in Redis, the pauses between tries, and the report of a wait that
//! lasts.

use model::shard::Waiting;

use super::{Deliverer, LeaseLost};
use crate::backoff::{Backoff, GaveUp};
use crate::metrics;
use crate::stream::{Change, StreamError, Write};

impl Deliverer {
    /// Makes a change in Redis, however long it takes.
    pub(super) async fn write(&self, what: &'static str, write: Write<'_>) -> Result<(), LeaseLost> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.write(&self.guard, &write).await {
                Ok(Change::Made) => {
                    self.end_wait().await;
                    return Ok(());
                }
                Ok(Change::Fenced) => return Err(LeaseLost),
                Ok(Change::UnderWay) => {
                    return Err(self.begin_anew("Redis has forgotten a commit, as after a failover"));
                }
                Ok(Change::Full) => {
                    metrics::dlq_full(self.stream.shard());
                    self.wait(Waiting::DeadLetters, &mut backoff).await?;
                }
                Err(error) => self.wait_for_redis(&mut backoff, what, &error).await?,
            }
        }
    }

    /// Counts a failed Redis operation and waits before it is tried again.
    pub(crate) async fn wait_for_redis(
        &self,
        backoff: &mut Backoff,
        what: &str,
        error: &StreamError,
    ) -> Result<(), LeaseLost> {
        tracing::warn!(shard = self.stream.shard().number(), %error, "could not {what}; trying again");
        metrics::redis_failed();
        self.wait(Waiting::Redis, backoff).await
    }

    /// Waits before something is tried again, and reports the wait when it lasts.
    pub(super) async fn wait(&self, why: Waiting, backoff: &mut Backoff) -> Result<(), LeaseLost> {
        if let Some(lasts) = self.wait.goes_on(why) {
            let shard = self.stream.shard().number();
            tracing::error!(
                shard,
                waits_for = why.as_str(),
                ?lasts,
                "the shard makes no progress; it goes on by itself"
            );
            // Best effort: when the wait is for Redis, Redis cannot store it.
            if let Err(error) = self.stream.tell_wait(&self.guard, Some((why, lasts))).await {
                tracing::debug!(shard, %error, "could not tell what a shard waits for");
            }
        }
        backoff.pause(&self.guard).await.map_err(|GaveUp| LeaseLost)?;
        if self.guard.holds() { Ok(()) } else { Err(LeaseLost) }
    }

    /// Something succeeded, so the shard does not wait any more. If its wait was reported, so is the end of it.
    pub(super) async fn end_wait(&self) {
        if self.wait.is_over()
            && let Err(error) = self.stream.tell_wait(&self.guard, None).await
        {
            tracing::debug!(%error, "could not tell that a shard goes on");
        }
    }

    /// This release does not understand something of the batch under way: the shard is given back, so that a worker of
    /// a release that does can take it.
    pub(super) async fn leave_to_another_release<T>(&self) -> Result<T, LeaseLost> {
        metrics::left_to_another_release(self.stream.shard());
        self.wait(Waiting::OtherRelease, &mut Backoff::new()).await?;
        Err(LeaseLost)
    }
}
