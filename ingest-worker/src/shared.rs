//! What all shards of a worker share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use delivery::judge::Judge;
use outcomes::Ledger;
use stores::clickhouse::{Inserter, Records};
use tokio::sync::Semaphore;
use wire::block::Block;

use crate::batch::Limits;
use crate::pace::Pace;
use crate::parked::Parked;

/// The memory budget is counted in units of this many bytes.
pub const MEMORY_UNIT_BYTES: usize = 1024;

/// What all shards of a worker share.
#[derive(Clone)]
pub struct Shared {
    /// When a batch is full.
    pub limits: Limits,
    /// For how long after a batch was announced its inserts rely on their tokens alone.
    pub token_trust: Duration,
    /// How often inserts may come.
    pub pace: Pace,
    /// The way into ClickHouse.
    pub inserter: Inserter,
    /// Questions to it.
    pub records: Records,
    /// One permit per insert under way.
    pub inserts: Arc<Semaphore>,
    /// One permit per [`MEMORY_UNIT_BYTES`] of gathered rows.
    pub memory: Arc<Semaphore>,
    /// How many bytes those permits stand for in all.
    pub memory_max: usize,
    /// Bytes that are read of each shard ahead of its batch.
    pub window_max: usize,
    /// What becomes of items.
    pub ledger: Ledger,
    /// Envelopes that became dead letters, for the audit trail.
    pub parked: Parked,
    /// What was refused since a table last accepted rows.
    pub judge: Judge,
    /// Emptied blocks, to be filled again.
    pub spare: Spare,
}

/// Emptied blocks of inserted batches. Few shards are busy at a time, so few sets are kept, for whoever needs one next.
#[derive(Clone, Debug, Default)]
pub struct Spare(Arc<Mutex<Vec<Vec<Block>>>>);

/// Sets of blocks kept. Each has the memory of the largest batch it ever held.
const SPARE_SETS_MAX: usize = 3;

impl Spare {
    pub(crate) fn take(&self) -> Vec<Block> {
        self.0.lock().ok().and_then(|mut sets| sets.pop()).unwrap_or_default()
    }

    pub(crate) fn give(&self, blocks: Vec<Block>) {
        if let Ok(mut sets) = self.0.lock()
            && sets.len() < SPARE_SETS_MAX
        {
            sets.push(blocks);
        }
    }
}
