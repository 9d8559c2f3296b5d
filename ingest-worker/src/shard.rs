//! The life of one shard: read, gather, insert, finish; again.
//!
//! Nothing is acknowledged before ClickHouse has confirmed the insert of every table. Whatever fails is tried again for
//! as long as it takes; meanwhile nothing more is read, so memory stays where it is and the stream holds the rest.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use schema::block::Block;
use schema::envelope::Envelope;
use tenant::clickhouse::{InsertError, Inserter};
use tenant::shard::Shard;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::backoff::Backoff;
use crate::batch::{Batch, Limits};
use crate::metrics;
use crate::statements::Statements;
use crate::stream::{Entry, Stream, StreamError};

/// How long one read waits for entries. Also how long a stop may go unnoticed.
pub const READ_WAIT_MAX: Duration = Duration::from_millis(500);
/// How many bytes one read aims at. Entries differ in size by five orders of magnitude, so the count follows their size.
const READ_BYTES: usize = 8 << 20;
/// Entries of one read.
const READ_ENTRIES_MAX: usize = 1_024;
/// Entries of the first read, when their size is not known yet.
const READ_ENTRIES_FIRST: usize = 16;
/// How often to look for entries that another worker left behind.
const CLAIM_EVERY: Duration = Duration::from_secs(15);
/// How long an entry must have been untouched to count as left behind.
const CLAIM_IDLE: Duration = Duration::from_secs(60);
/// The memory budget is counted in units of this many bytes.
pub const MEMORY_UNIT_BYTES: usize = 1024;

/// What all shards of a worker share.
#[derive(Clone)]
pub struct Shared {
    /// When a batch is full.
    pub limits: Limits,
    /// The way into ClickHouse.
    pub inserter: Inserter,
    /// One permit per insert under way.
    pub inserts: Arc<Semaphore>,
    /// One permit per [`MEMORY_UNIT_BYTES`] of gathered rows.
    pub memory: Arc<Semaphore>,
    /// How many bytes those permits stand for in all.
    pub memory_max: usize,
    /// Emptied blocks, to be filled again.
    pub spare: Spare,
    /// Turns true when the worker shall stop.
    pub stop: watch::Receiver<bool>,
}

/// Emptied blocks of inserted batches. Few shards are busy at a time, so few sets are kept, for whoever needs one next.
#[derive(Clone, Debug, Default)]
pub struct Spare(Arc<Mutex<Vec<Vec<Block>>>>);

/// Sets of blocks kept. Each has the memory of the largest batch it ever held.
const SPARE_SETS_MAX: usize = 3;

impl Spare {
    fn take(&self) -> Vec<Block> {
        self.0.lock().ok().and_then(|mut sets| sets.pop()).unwrap_or_default()
    }

    fn give(&self, blocks: Vec<Block>) {
        if let Ok(mut sets) = self.0.lock()
            && sets.len() < SPARE_SETS_MAX
        {
            sets.push(blocks);
        }
    }
}

/// The loop was told to stop in the middle of something that kept failing; what was read stays pending in Redis.
struct Stopped;

/// Repeats a Redis operation until it succeeds or the worker is stopped. (A macro because an async closure that borrows
/// the worker cannot be sent between threads.)
macro_rules! until_it_works {
    ($worker:expr, $what:literal, $operation:expr) => {{
        let mut backoff = Backoff::new();
        loop {
            match $operation.await {
                Ok(value) => break value,
                Err(error) => $worker.failed(&mut backoff, $what, error).await?,
            }
        }
    }};
}

/// Serves a shard until told to stop. What was gathered by then is still inserted.
pub async fn run(shard: Shard, stream: Stream, shared: Shared) {
    let worker = Worker {
        shard,
        stream,
        shared,
        batch: Batch::default(),
        memory: None,
        read_entries: READ_ENTRIES_FIRST,
        statements: Statements::default(),
        flushed: None,
    };
    if worker.work().await.is_err() {
        tracing::warn!(shard = shard.number(), "stopped with entries not inserted; they stay in Redis");
    }
}

struct Worker {
    shard: Shard,
    stream: Stream,
    shared: Shared,
    batch: Batch,
    memory: Option<OwnedSemaphorePermit>,
    read_entries: usize,
    statements: Statements,
    /// When this shard last began an insert.
    flushed: Option<Instant>,
}

impl Worker {
    async fn work(mut self) -> Result<(), Stopped> {
        self.resume().await?;
        let mut claimed = Instant::now();
        while !*self.shared.stop.borrow() {
            let now = Instant::now();
            let wait = self.batch.time_left(&self.shared.limits, now).unwrap_or(READ_WAIT_MAX).min(READ_WAIT_MAX);
            let entries = self.read(wait).await?;
            self.gather(entries).await?;
            if self.batch.is_due(&self.shared.limits, Instant::now()) {
                self.flush().await?;
            }
            if self.batch.is_empty() && claimed.elapsed() > CLAIM_EVERY {
                claimed = Instant::now();
                self.claim().await?;
            }
        }
        self.flush().await
    }

    /// Finishes what this consumer had read before it was last stopped.
    async fn resume(&mut self) -> Result<(), Stopped> {
        let mut after = "0".to_owned();
        loop {
            let entries =
                until_it_works!(self, "read pending entries", self.stream.read_pending(self.read_entries, &after));
            let Some(last) = entries.last() else { return self.flush().await };
            after.clone_from(&last.id);
            self.gather(entries).await?;
        }
    }

    async fn read(&mut self, wait: Duration) -> Result<Vec<Entry>, Stopped> {
        Ok(until_it_works!(self, "read", self.stream.read_new(self.read_entries, wait)))
    }

    async fn claim(&mut self) -> Result<(), Stopped> {
        let entries = until_it_works!(self, "claim entries", self.stream.claim(self.read_entries, CLAIM_IDLE));
        if !entries.is_empty() {
            tracing::warn!(shard = self.shard.number(), entries = entries.len(), "took over what another worker left");
        }
        self.gather(entries).await
    }

    /// Adds entries to the batch, inserting whenever it is full.
    async fn gather(&mut self, entries: Vec<Entry>) -> Result<(), Stopped> {
        if let Some(mean) =
            entries.iter().map(|e| e.envelope.as_ref().map_or(0, Vec::len)).sum::<usize>().checked_div(entries.len())
        {
            self.read_entries = (READ_BYTES / mean.max(1)).clamp(1, READ_ENTRIES_MAX);
        }
        for Entry { id, envelope } in entries {
            let Some(bytes) = envelope else {
                tracing::warn!(shard = self.shard.number(), id, "an entry was deleted but not acknowledged; it is now");
                metrics::deleted(self.shard);
                until_it_works!(self, "acknowledge a deleted entry", self.stream.finish(std::slice::from_ref(&id)));
                continue;
            };
            let envelope = match Envelope::decode(&bytes) {
                Ok(envelope) => envelope,
                Err(error) => {
                    self.park(&id, &bytes, &error.to_string()).await?;
                    continue;
                }
            };
            if !self.batch.has_room(&self.shared.limits, &envelope) {
                self.flush().await?;
            }
            self.reserve(envelope.expanded_len()).await?;
            if self.batch.is_empty() {
                self.batch =
                    Batch::reusing(self.shared.spare.take(), self.flushed.map(|at| at + self.shared.limits.age));
            }
            self.batch.add(id, &envelope, Instant::now());
            if self.batch.is_full(&self.shared.limits) {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Takes memory for an entry. If there is none, what this shard holds is inserted first.
    async fn reserve(&mut self, bytes: usize) -> Result<(), Stopped> {
        // An envelope larger than all there is takes all there is.
        let units = bytes.div_ceil(MEMORY_UNIT_BYTES).min(self.shared.memory_max / MEMORY_UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = match Arc::clone(&self.shared.memory).try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(_) => {
                self.flush().await?;
                let mut stop = self.shared.stop.clone();
                tokio::select! {
                    permit = Arc::clone(&self.shared.memory).acquire_many_owned(units) => permit.map_err(|_| Stopped)?,
                    _ = stop.wait_for(|stop| *stop) => return Err(Stopped),
                }
            }
        };
        match &mut self.memory {
            Some(held) => held.merge(permit),
            None => self.memory = Some(permit),
        }
        Ok(())
    }

    async fn park(&mut self, id: &str, bytes: &[u8], reason: &str) -> Result<(), Stopped> {
        tracing::error!(shard = self.shard.number(), id, reason, "an entry is not readable; parked in the DLQ");
        metrics::parked(self.shard);
        until_it_works!(self, "park an entry", self.stream.park(id, bytes, reason));
        Ok(())
    }

    /// Inserts the batch and is done with its entries.
    async fn flush(&mut self) -> Result<(), Stopped> {
        if self.batch.is_empty() {
            self.memory = None;
            return Ok(());
        }
        self.flushed = Some(Instant::now());
        let token = self.batch.token(self.stream.key());
        let (ids, blocks) = std::mem::take(&mut self.batch).into_blocks();
        let mut spare = Vec::new();
        for block in blocks {
            spare.push(self.insert(block, &token).await?);
        }
        until_it_works!(self, "finish entries", self.stream.finish(&ids));
        metrics::finished(self.shard, ids.len());
        self.memory = None;
        self.shared.spare.give(spare);
        Ok(())
    }

    /// Inserts a block, however long it takes, and returns it emptied.
    async fn insert(&mut self, block: Block, token: &str) -> Result<Block, Stopped> {
        let block = block.seal();
        let (table, rows) = (block.table(), block.rows() as u64);
        let statement = self.statements.of(table);
        let mut backoff = Backoff::new();
        loop {
            let begun = Instant::now();
            let result = match self.shared.inserts.acquire().await {
                Ok(_permit) => self.shared.inserter.insert_native(&statement, token, block.pieces(), rows).await,
                Err(_) => return Err(Stopped),
            };
            metrics::inserted(table.name, rows, block.byte_len(), begun.elapsed(), result.is_ok());
            let Err(error) = result else { return Ok(block.reuse()) };
            self.explain(table.name, rows, &error);
            backoff.pause(&mut self.shared.stop).await.map_err(|_| Stopped)?;
        }
    }

    fn explain(&self, table: &str, rows: u64, error: &InsertError) {
        let shard = self.shard.number();
        if error.is_permanent() {
            // Until there are dead letters for refused rows, the shard waits: nothing that was acknowledged is dropped.
            tracing::error!(shard, table, rows, %error, "ClickHouse refuses these rows; the shard waits for a fix");
        } else {
            tracing::warn!(shard, table, rows, %error, "insert failed; trying again");
        }
    }

    /// Notes a failed Redis operation and waits before it is tried again.
    async fn failed(&mut self, backoff: &mut Backoff, what: &str, error: StreamError) -> Result<(), Stopped> {
        tracing::warn!(shard = self.shard.number(), %error, "could not {what}; trying again");
        metrics::redis_failed();
        backoff.pause(&mut self.shared.stop).await.map_err(|_| Stopped)
    }
}
