//! The state and the budgets that all shards of a worker share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use delivery::judge::Judge;
use outcomes::Ledger;
use stores::clickhouse::{Inserter, Records};
use tokio::sync::Semaphore;
use wire::block::Block;

use crate::batch::Limits;
use crate::dead_letter_notes::DeadLetterNotes;
use crate::insert_throttle::InsertThrottle;

/// The memory budget is counted in units of this many bytes.
pub const MEMORY_UNIT_BYTES: usize = 1024;

/// The state and the budgets that all shards of a worker share.
#[derive(Clone)]
pub struct Shared {
    /// The sizes and the age at which a batch is inserted.
    pub limits: Limits,
    /// How long after the announcement of a batch its inserts rely on their tokens alone.
    pub token_trust: Duration,
    /// How much less often than configured shards insert.
    pub throttle: InsertThrottle,
    /// Sends the blocks of batches to ClickHouse.
    pub inserter: Inserter,
    /// Asks ClickHouse which rows are stored.
    pub records: Records,
    /// One permit per insert under way.
    pub inserts: Arc<Semaphore>,
    /// One permit per [`MEMORY_UNIT_BYTES`] of gathered rows.
    pub memory: Arc<Semaphore>,
    /// The memory budget in bytes, which all permits of `memory` stand for.
    pub memory_max: usize,
    /// Most bytes per shard that are read ahead of its batch.
    pub read_ahead_max: usize,
    /// Counts the outcomes of items.
    pub ledger: Ledger,
    /// Envelopes that became dead letters, for the audit trail.
    pub dead_letters: DeadLetterNotes,
    /// The entries that were refused since a table last accepted rows.
    pub judge: Judge,
    /// Emptied blocks, to be filled again.
    pub block_pool: BlockPool,
}

/// Emptied blocks of inserted batches. Few shards are busy at a time, so few sets are kept, for the next shard that
/// needs one.
#[derive(Clone, Debug, Default)]
pub struct BlockPool(Arc<Mutex<Vec<Vec<Block>>>>);

/// Most sets of blocks that are kept. Each has the memory of the largest batch it ever held.
const POOLED_SETS_MAX: usize = 3;

impl BlockPool {
    pub(crate) fn take(&self) -> Vec<Block> {
        self.0.lock().ok().and_then(|mut sets| sets.pop()).unwrap_or_default()
    }

    pub(crate) fn give(&self, blocks: Vec<Block>) {
        if let Ok(mut sets) = self.0.lock()
            && sets.len() < POOLED_SETS_MAX
        {
            sets.push(blocks);
        }
    }
}
