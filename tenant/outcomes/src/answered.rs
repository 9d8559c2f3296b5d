//! Counts the items that an API process has answered with a 2xx, by org and the hour in which they were received. This
//! is an independent side of the ledger: kept in ClickHouse, apart from the streams and their counts.
//!
//! A process writes its total for an hour so far, so a write with an unknown result may be repeated. A killed process
//! loses what it counted since its last write: then this side is too low, and never too high.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::ids::OrgId;
use model::trace::UnixNanos;
use stores::clickhouse::{InsertError, Records};
use stores::clock::{hour_of, unix_hour};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::{LOCKS, SUMS_MAX, lock};

/// Past hours that are still kept, because a request may take that long.
const KEPT_HOURS: i64 = 1;

type Counts = HashMap<(OrgId, i64), Count>;

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    items: u64,
    written: u64,
}

/// The counts of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Answered {
    counts: Arc<[Mutex<Counts>; LOCKS]>,
}

impl Default for Answered {
    fn default() -> Self {
        Self { counts: Arc::new(std::array::from_fn(|_| Mutex::default())) }
    }
}

impl Answered {
    /// Counts the items of a request that is answered with a 2xx. Beyond [`SUMS_MAX`] orgs and hours it counts nothing.
    pub fn add(&self, org: OrgId, received_at: UnixNanos, items: u64) {
        if items == 0 {
            return;
        }
        let mut counts = lock(&self.counts[usize::from(org.0.as_bytes()[15]) % LOCKS]);
        let of = (org, hour_of(received_at));
        if counts.len() < SUMS_MAX / LOCKS || counts.contains_key(&of) {
            counts.entry(of).or_default().items += items;
        } else {
            metrics::counter!("tracebility_answered_uncounted_total").increment(items);
        }
    }

    /// Counts that have changed since they were written.
    fn changed(&self) -> Vec<(OrgId, i64, u64)> {
        let mut changed = Vec::new();
        for counts in self.counts.iter() {
            let counts = lock(counts);
            let news = counts.iter().filter(|(_, count)| count.items > count.written);
            changed.extend(news.map(|((org, hour), count)| (*org, *hour, count.items)));
        }
        changed
    }

    /// Records that these counts are written. Forgets past hours that are written.
    fn written(&self, changed: &[(OrgId, i64, u64)], now: i64) {
        for (org, hour, items) in changed {
            if let Some(count) = lock(&self.counts[usize::from(org.0.as_bytes()[15]) % LOCKS]).get_mut(&(*org, *hour)) {
                count.written = *items;
            }
        }
        for counts in self.counts.iter() {
            lock(counts).retain(|(_, hour), count| *hour >= now - KEPT_HOURS || count.items > count.written);
        }
    }

    async fn flush(&self, process: Uuid, records: &Records) -> Result<(), InsertError> {
        let changed = self.changed();
        records.insert_answered(process, &changed).await?;
        self.written(&changed, unix_hour());
        Ok(())
    }

    /// Writes the counts every `every` until `stop`, and then once more.
    pub async fn run(self, records: Records, every: Duration, mut stop: watch::Receiver<bool>) {
        let process = Uuid::new_v4();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let last = tokio::select! {
                _ = ticks.tick() => false,
                _ = stop.wait_for(|stop| *stop) => true,
            };
            if let Err(error) = self.flush(process, &records).await {
                tracing::warn!(%error, "what was answered for could not be written down; it will be next time");
            }
            if last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_NS: i64 = 3_600_000_000_000;

    #[test]
    fn an_answered_count_is_written_again_only_when_it_grows() {
        let (answered, org) = (Answered::default(), OrgId(Uuid::from_u128(7)));
        answered.add(org, 500_000 * HOUR_NS, 3);
        answered.add(org, 500_000 * HOUR_NS + 1, 4);
        answered.add(org, 500_001 * HOUR_NS, 0);
        assert_eq!(answered.changed(), [(org, 500_000, 7)]);
        answered.written(&answered.changed(), 500_000);
        assert_eq!(answered.changed(), []);
        answered.add(org, 500_000 * HOUR_NS, 1);
        assert_eq!(answered.changed(), [(org, 500_000, 8)], "all of the hour, not what came since");
        answered.written(&[], 500_009);
        assert_eq!(answered.changed(), [(org, 500_000, 8)], "not forgotten before it is written");
        answered.written(&answered.changed(), 500_009);
        assert!(lock(&answered.counts[7]).is_empty());
    }
}
