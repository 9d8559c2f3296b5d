//! How often a shard inserts: less often when ClickHouse gets more parts than its merges can keep up with.
//!
//! Every insert makes a part in each partition it touches. When merges fall behind, ClickHouse first delays inserts and
//! then refuses them. The throttle acts before both: larger batches, inserted less often, cost only time until rows can
//! be queried.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stores::clickhouse::Records;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::metrics;

/// How often the throttle asks ClickHouse how full the fullest partition is.
pub const POLL_EVERY: Duration = Duration::from_secs(5);
/// Share of the number of parts at which ClickHouse refuses inserts. From this share on, inserts become less frequent.
pub const SLOW_FROM: f64 = 0.3;
/// The largest factor by which inserts become less frequent, reached when ClickHouse is about to refuse them.
pub const SLOWER_MAX: u32 = 20;

/// The factor by which a shard waits longer than configured between two inserts. All shards of a worker share it.
#[derive(Clone, Debug)]
pub struct InsertThrottle {
    slower: Arc<AtomicU32>,
}

impl Default for InsertThrottle {
    fn default() -> Self {
        Self { slower: Arc::new(AtomicU32::new(1)) }
    }
}

impl InsertThrottle {
    /// The time between two inserts of a shard; `set` is the configured time.
    pub fn between_inserts(&self, set: Duration) -> Duration {
        set * self.slower.load(Ordering::Relaxed)
    }

    /// Asks ClickHouse every [`POLL_EVERY`] until `stop` is true. While ClickHouse does not answer, the factor stays as
    /// it is.
    pub async fn follow(self, records: Records, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(POLL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            match records.fullest_partition().await {
                Ok(fullest) => {
                    let slower = slower(fullest.as_ref().map_or(0.0, |fullest| fullest.share()));
                    if self.slower.swap(slower, Ordering::Relaxed) != slower {
                        tracing::warn!(slower, ?fullest, "the throttle of inserts follows the parts in ClickHouse");
                    }
                    metrics::throttled(slower);
                }
                Err(error) => tracing::debug!(%error, "could not see how many parts there are"),
            }
        }
    }
}

/// The factor at that share of the number of parts at which ClickHouse refuses inserts.
fn slower(share: f64) -> u32 {
    let over = ((share - SLOW_FROM) / (1.0 - SLOW_FROM)).clamp(0.0, 1.0);
    1 + (over * f64::from(SLOWER_MAX - 1)).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inserts_slow_down_as_the_number_of_parts_grows() {
        let shares = [0.0, 0.3, 0.4, 0.65, 1.0, 7.0];
        assert_eq!(shares.map(slower), [1, 1, 4, 11, 20, 20]);
        let throttle = InsertThrottle::default();
        throttle.slower.store(4, Ordering::Relaxed);
        assert_eq!(throttle.between_inserts(Duration::from_secs(1)), Duration::from_secs(4));
    }
}
