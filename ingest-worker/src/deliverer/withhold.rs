//! What becomes of a batch's envelopes that are not both stored and billed.

use std::collections::BTreeMap;

use delivery::intent::{Intent, Verdict};
use model::entry_id::EntryId;
use model::ids::OrgId;
use model::meter::Meter;
use model::org::OverQuota;
use quota::{ParkedId, Withheld};
use stores::clock::hour_of;
use wire::envelope::Envelope;

use super::{Deliverer, LeaseLost};
use crate::backoff::Backoff;
use crate::metrics;
use crate::stream::IntentId;

/// How many entries are read in one round trip. Each may be as large as a request.
const WITHHOLD_ENTRIES: usize = 16;

impl Deliverer {
    /// Parks envelopes, and counts per org what is parked, dropped or repeated. All of it may be done again: by the
    /// next owner of the shard, and also, late, by an earlier one.
    pub(super) async fn withhold(&self, id: &IntentId, intent: &Intent) -> Result<(), LeaseLost> {
        let shard = self.stream.shard();
        let parked = quota::ParkedEnvelopes::new(self.redis.clone());
        let mut sums = BTreeMap::<Withheld, u64>::new();
        let mut repeated = BTreeMap::<(OrgId, i64), u64>::new();
        for some in intent.withheld.chunks(WITHHOLD_ENTRIES) {
            let entries: Vec<EntryId> = some.iter().map(|(at, _)| intent.entries[*at as usize]).collect();
            let found = self.fetch(&entries).await?;
            for (entry, (_, verdict)) in entries.into_iter().zip(some) {
                let Some(bytes) = found.get(&entry) else { continue };
                let Ok(envelope) = Envelope::decode(&self.key, bytes) else {
                    // A later release wrote the verdict and could read the envelope.
                    tracing::error!(%entry, "a batch under way sets an envelope aside that this release cannot read");
                    return self.leave_to_another_release().await;
                };
                let (org, hour) = (envelope.header.org_id, hour_of(envelope.header.received_at));
                let items = envelope.billed(Meter::SpanIngested);
                let how = match verdict {
                    Verdict::Park => OverQuota::Park,
                    Verdict::Drop => OverQuota::Drop,
                    Verdict::Repeated => {
                        *repeated.entry((org, hour)).or_default() += items;
                        continue;
                    }
                };
                *sums.entry(Withheld { org, hour, how }).or_default() += items;
                if how == OverQuota::Park {
                    let name = ParkedId { shard, entry };
                    let mut backoff = Backoff::new();
                    while let Err(error) = parked.park(org, name, bytes).await {
                        self.wait_for_redis(&mut backoff, "park an envelope", &error.into()).await?;
                    }
                }
            }
        }
        // The name includes the owner, because after a failover an epoch can be given a second time.
        let batch = format!("{shard}/{}/{}-{}", id.owner, id.epoch, id.number);
        for (aside, items) in sums {
            tracing::warn!(org_id = %aside.org, items, "over its quota: {}", aside.how);
            let mut backoff = Backoff::new();
            while let Err(error) = quota::note(&self.redis, shard, &batch, aside, items).await {
                self.wait_for_redis(&mut backoff, "note what is withheld", &error.into()).await?;
            }
            metrics::withheld(aside.how.as_str(), items);
        }
        for ((org, hour), items) in repeated {
            let mut backoff = Backoff::new();
            while let Err(error) = quota::note_repeated(&self.redis, shard, &batch, org, hour, items).await {
                self.wait_for_redis(&mut backoff, "note what was sent again", &error.into()).await?;
            }
            metrics::withheld("repeated", items);
        }
        Ok(())
    }
}
