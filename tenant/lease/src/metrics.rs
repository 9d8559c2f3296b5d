//! Metrics of a worker's leases.

use metrics::{counter, gauge};
use model::shard::Shard;

/// `tracebility_shards_owned`: shards that this worker holds at present, including those that it is giving up.
pub(crate) fn shards_owned(shards: usize) {
    gauge!("tracebility_shards_owned").set(shards as f64);
}

/// `tracebility_shard_takeovers_total`: shards taken over after their owner let the lease run out: it crashed, was
/// suspended or was cut off.
pub(crate) fn shard_taken_over() {
    counter!("tracebility_shard_takeovers_total").increment(1);
}

/// `tracebility_shard_panics_total{shard}`: how often the work on a shard has panicked. The shard was given back.
pub(crate) fn shard_panicked(shard: Shard) {
    counter!("tracebility_shard_panics_total", "shard" => shard.number().to_string()).increment(1);
}

/// `tracebility_lease_losses_total`: shards that this worker had and lost without giving them up.
pub(crate) fn lease_lost() {
    counter!("tracebility_lease_losses_total").increment(1);
}
