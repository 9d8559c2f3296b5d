//! Reads the entries of a batch again, whose rows are not in memory or were refused.

use std::collections::HashMap;

use delivery::intent::Intent;
use model::entry_id::EntryId;
use wire::envelope::{DecodeError, Envelope};

use super::{Deliverer, LeaseLost};
use crate::backoff::Backoff;

/// An entry of a batch under way that cannot be read, by its index in the batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreadable {
    pub(super) entry: u32,
}

impl Deliverer {
    /// Reads the envelopes of some entries again, in their order. Returns an error that names the first unreadable one.
    pub(super) async fn each_entry(
        &self,
        intent: &Intent,
        entries: &[usize],
        mut visit: impl FnMut(&Envelope<'_>),
    ) -> Result<Result<(), Unreadable>, LeaseLost> {
        let ids: Vec<EntryId> = entries.iter().map(|at| intent.entries[*at]).collect();
        let found = self.fetch(&ids).await?;
        for (id, at) in ids.into_iter().zip(entries) {
            let Some(bytes) = found.get(&id) else {
                let shard = self.stream.shard().number();
                tracing::warn!(shard, %id, "an entry of the batch was taken out; nobody was told that it was stored");
                continue;
            };
            match Envelope::decode(&self.key, bytes) {
                Ok(envelope) => visit(&envelope),
                Err(error @ DecodeError::Table { .. }) => {
                    tracing::error!(%id, %error, "an entry of the batch under way is of another release");
                    return self.leave_to_another_release().await;
                }
                Err(error) => {
                    tracing::error!(%id, %error, "an entry of the batch under way was changed and cannot be read");
                    return Ok(Err(Unreadable { entry: *at as u32 }));
                }
            }
        }
        Ok(Ok(()))
    }

    /// The bytes of some entries, as far as they are in the stream.
    pub(super) async fn fetch(&self, entries: &[EntryId]) -> Result<HashMap<EntryId, Vec<u8>>, LeaseLost> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.fetch(entries).await {
                Ok(found) => return Ok(found),
                Err(error) => self.wait_for_redis(&mut backoff, "fetch the entries of a batch", &error).await?,
            }
        }
    }
}
