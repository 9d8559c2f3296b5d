//! Notices that Redis has forgotten a commit, as after a failover to a replica that lagged behind. Then the work on the
//! shard begins anew.

use model::entry_id::EntryId;

use super::{Deliverer, LeaseLost};
use crate::metrics;

impl Deliverer {
    /// Fails if the stream begins with an entry that was read already (up to `read_to`) and is not held in memory;
    /// `oldest` is the first entry that is held. Then Redis has brought the entry back, and no worker would read it
    /// again.
    pub(crate) async fn expect_none_behind(&self, read_to: EntryId, oldest: Option<EntryId>) -> Result<(), LeaseLost> {
        let first = match self.stream.first().await {
            Ok(Some(first)) => first,
            Ok(None) => return Ok(()),
            // The next look will show it.
            Err(error) => {
                tracing::debug!(%error, "could not look for the first entry of a stream");
                return Ok(());
            }
        };
        if first <= read_to && oldest.is_none_or(|oldest| first < oldest) {
            return Err(self.begin_anew("Redis has entries again that were stored"));
        }
        Ok(())
    }

    /// Reports that Redis has forgotten a commit. Returns the error that makes the work on the shard begin anew.
    pub(super) fn begin_anew(&self, symptom: &str) -> LeaseLost {
        let shard = self.stream.shard();
        tracing::error!(shard = shard.number(), "{symptom}; beginning the shard anew");
        metrics::commit_forgotten(shard);
        LeaseLost
    }
}
