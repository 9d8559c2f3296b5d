//! What the shard's earlier owner left in Redis: a batch that it did not finish, and what it took lately.

use std::time::Instant;

use delivery::Delivery;

use super::{Deliverer, LeaseLost};
use crate::backoff::Backoff;
use crate::recent;
use crate::recent::Recent;
use crate::stream::StreamError;

impl Deliverer {
    /// Delivers the batch that an earlier owner announced and did not commit, if there is one.
    pub(crate) async fn finish_batch_under_way(&mut self) -> Result<(), LeaseLost> {
        let mut backoff = Backoff::new();
        let found = loop {
            match self.stream.under_way().await {
                Ok(found) => break found,
                Err(StreamError::Intent(error)) => {
                    tracing::error!(shard = self.stream.shard().number(), %error, "cannot read the batch under way");
                    return self.leave_to_another_release().await;
                }
                Err(error) => self.wait_for_redis(&mut backoff, "look for a batch under way", &error).await?,
            }
        };
        let Some((id, intent, age)) = found else { return Ok(()) };
        let (shard, entries) = (self.stream.shard().number(), intent.entries.len());
        tracing::info!(shard, entries, ?age, "going on with a batch that was under way");
        let announced = Instant::now().checked_sub(age);
        self.run(id, Delivery::found(intent), recent::Change::default(), Vec::new(), announced).await?;
        Ok(())
    }

    /// The content ids of the shard's latest batches.
    pub(crate) async fn recent(&self) -> Result<Recent, LeaseLost> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.recent().await {
                Ok(recent) => return Ok(recent),
                Err(error) => {
                    self.wait_for_redis(&mut backoff, "read what is remembered of the latest batches", &error).await?
                }
            }
        }
    }
}
