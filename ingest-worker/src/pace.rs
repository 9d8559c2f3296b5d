//! How often a shard inserts: less often, before ClickHouse has more parts than its merges can follow.
//!
//! Every insert makes a part of each partition it touches. Where merges fall behind, ClickHouse delays inserts and then
//! refuses them; inserting larger batches less often comes before both, and costs only time until rows are queryable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stores::clickhouse::Records;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How often it is asked how full the fullest partition is.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// From this share on of the parts at which ClickHouse refuses inserts, they come less often.
pub const SLOW_FROM: f64 = 0.3;
/// How much less often, when it is about to refuse them.
pub const SLOWER_MAX: u32 = 20;

/// How much longer than set a shard waits between two inserts. Shared by all shards of a worker.
#[derive(Clone, Debug)]
pub struct Pace {
    slower: Arc<AtomicU32>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { slower: Arc::new(AtomicU32::new(1)) }
    }
}

impl Pace {
    /// The time between two inserts of a shard for which this is set.
    pub fn between_inserts(&self, set: Duration) -> Duration {
        set * self.slower.load(Ordering::Relaxed)
    }

    /// Looks every [`LOOK_EVERY`] until told to stop. While ClickHouse does not answer, the pace stays what it was.
    pub async fn follow(self, records: Records, mut stop: watch::Receiver<bool>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            match records.fullest_partition().await {
                Ok(fullest) => {
                    let slower = slower(fullest.as_ref().map_or(0.0, |fullest| fullest.share()));
                    if self.slower.swap(slower, Ordering::Relaxed) != slower {
                        tracing::warn!(slower, ?fullest, "the pace of inserts follows the parts in ClickHouse");
                    }
                    metrics::gauge!("tracebility_insert_pace_slower").set(slower);
                }
                Err(error) => tracing::debug!(%error, "could not see how many parts there are"),
            }
        }
    }
}

/// How much slower at that share of the parts at which inserts are refused.
fn slower(share: f64) -> u32 {
    let over = ((share - SLOW_FROM) / (1.0 - SLOW_FROM)).clamp(0.0, 1.0);
    1 + (over * f64::from(SLOWER_MAX - 1)).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slower_the_more_parts_there_are() {
        let shares = [0.0, 0.3, 0.4, 0.65, 1.0, 7.0];
        assert_eq!(shares.map(slower), [1, 1, 4, 11, 20, 20]);
        let pace = Pace::default();
        pace.slower.store(4, Ordering::Relaxed);
        assert_eq!(pace.between_inserts(Duration::from_secs(1)), Duration::from_secs(4));
    }
}
