//! Delivers batches: does each step of a [`Delivery`] against Redis or ClickHouse, and reports the result to it.
//!
//! A step that may or may not have taken effect is done again. An owner that has lost its shard stops at once and
//! leaves the rest to its successor. A step that keeps failing is retried without end, and that is logged and shown
//! ([`crate::waiting`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use delivery::intent::{Intent, Piece};
use delivery::judge::{Blame, Judge};
use delivery::{Delivery, Step};
use lease::LeaseGuard;
use model::shard::Waiting;
use outcomes::Ledger;
use stores::clickhouse::{Inserter, Records};
use stores::redis::Redis;
use tokio::sync::Semaphore;
use wire::block::{Block, SealedBlock};
use wire::envelope::EnvelopeKey;

use crate::backoff::Backoff;
use crate::dead_letter_notes::DeadLetterNotes;
use crate::shared::Shared;
use crate::statements::Statements;
use crate::stream::{IntentId, Stream, Write};
use crate::waiting::Wait;
use crate::{metrics, recent};

mod dead_letters;
mod entries;
mod failover;
mod handover;
mod insert;
mod refused;
mod retry;
mod stored;
mod withhold;

use insert::Inserted;

/// The work on the shard has to end: another worker owns the shard, or the work must begin again from the start, or the
/// worker stops while something keeps failing.
#[derive(Debug)]
pub(crate) struct LeaseLost;

/// Delivers the batches of one shard for as long as its guard holds the lease.
pub(crate) struct Deliverer {
    guard: LeaseGuard,
    stream: Stream,
    key: EnvelopeKey,
    inserter: Inserter,
    records: Records,
    inserts: Arc<Semaphore>,
    ledger: Ledger,
    dead_letters: DeadLetterNotes,
    judge: Judge,
    redis: Redis,
    statements: Statements,
    token_trust: Duration,
    wait: Wait,
}

/// A batch that is being delivered.
struct UnderWay {
    id: IntentId,
    /// Whether an earlier owner announced the batch, and so may have inserted some of it.
    is_found: bool,
    /// Until when ClickHouse certainly remembers the tokens of the batch's inserts.
    tokens_trusted_until: Instant,
    /// Whether some rows of a piece were found stored and others not, so that tokens alone do not suffice.
    is_partly_stored: bool,
    /// How announcing the batch changes the remembered content ids.
    recent: recent::Change,
    /// The error codes with which ClickHouse refused rows of the batch, after enough tries.
    refused_with: HashSet<Option<u32>>,
}

impl Deliverer {
    /// `redis` is the connection for the keys of orgs. It is not the shard's own connection.
    pub(crate) fn new(guard: LeaseGuard, stream: Stream, redis: Redis, key: EnvelopeKey, shared: &Shared) -> Self {
        let Shared { inserter, records, inserts, ledger, dead_letters, judge, token_trust, .. } = shared.clone();
        let (statements, wait) = (Statements::default(), Wait::new(stream.shard()));
        Self {
            guard,
            stream,
            key,
            inserter,
            records,
            inserts,
            ledger,
            dead_letters,
            judge,
            redis,
            statements,
            token_trust,
            wait,
        }
    }

    pub(crate) fn guard(&self) -> &LeaseGuard {
        &self.guard
    }

    /// Delivers a new batch, however long it takes. `blocks` are its rows, as far as they are in memory; missing rows
    /// are read again from the entries. Returns the blocks emptied.
    pub(crate) async fn deliver(
        &mut self,
        number: u64,
        intent: Intent,
        recent: recent::Change,
        blocks: Vec<Block>,
    ) -> Result<Vec<Block>, LeaseLost> {
        let id = IntentId { owner: self.guard.owner().into(), epoch: self.guard.epoch(), number };
        self.run(id, Delivery::new(intent), recent, blocks, Some(Instant::now())).await
    }

    /// Does one step after another until the batch is delivered. `announced` is `None` when the batch was announced
    /// before this machine started.
    async fn run(
        &mut self,
        id: IntentId,
        mut delivery: Delivery,
        recent: recent::Change,
        blocks: Vec<Block>,
        announced: Option<Instant>,
    ) -> Result<Vec<Block>, LeaseLost> {
        let mut sealed: Vec<SealedBlock> = blocks.into_iter().map(Block::seal).collect();
        let mut emptied = Vec::new();
        let tokens_trusted_until = announced.map_or_else(Instant::now, |announced| announced + self.token_trust);
        let mut batch = UnderWay {
            is_found: *id.owner != *self.guard.owner() || id.epoch != self.guard.epoch(),
            id,
            tokens_trusted_until,
            is_partly_stored: false,
            recent,
            refused_with: HashSet::new(),
        };
        let mut backoff = Backoff::new();
        // When the first of the current suspects was judged first.
        let mut suspected = None;
        while let Some(step) = delivery.step() {
            match step {
                Step::Announce(intent) => {
                    let write = Write::Announce(batch.id.number, &intent, &batch.recent);
                    self.write("announce a batch", write).await?;
                    delivery.done();
                }
                Step::Insert(intent, piece) => {
                    let place = sealed.iter().position(|block| is_whole(block, &intent, &piece));
                    let ready = place.map(|at| sealed.swap_remove(at));
                    match self.insert(&mut batch, &intent, &piece, ready).await? {
                        Inserted::Stored(block) => {
                            emptied.extend(block.map(SealedBlock::reuse));
                            delivery.done();
                        }
                        Inserted::Nothing => delivery.nothing_to_insert(),
                        Inserted::Refused { code } => delivery.refused(code),
                        Inserted::TooLarge => {
                            delivery.too_large();
                        }
                        Inserted::Unreadable { entry } => delivery.unreadable(entry),
                    }
                }
                Step::Note(intent, first) => {
                    let write = Write::Note(&batch.id, first, &intent.notes()[first..]);
                    self.write("note what was refused", write).await?;
                    delivery.done();
                }
                Step::Judge(intent, suspects) => {
                    let since = *suspected.get_or_insert_with(Instant::now);
                    match self.blame(&intent, &suspects, since).await? {
                        Blame::Entries => {
                            delivery.entries_are_bad();
                            suspected = None;
                        }
                        Blame::TableAccepts => {
                            delivery.table_accepts();
                            suspected = None;
                        }
                        Blame::Table | Blame::Undecided => {
                            self.wait(Waiting::Table, &mut backoff).await?;
                            delivery.try_again();
                        }
                    }
                }
                Step::Withhold(intent) => {
                    self.withhold(&batch.id, &intent).await?;
                    delivery.done();
                }
                Step::Commit(intent) => {
                    self.commit(&batch.id, &intent).await?;
                    delivery.done();
                }
            }
        }
        Ok(emptied)
    }

    /// Deletes the entries of a batch, moves its refused ones to the dead letters, and forgets its intent.
    async fn commit(&self, id: &IntentId, intent: &Intent) -> Result<(), LeaseLost> {
        let letters = self.describe_refused(intent).await?;
        self.write("commit a batch", Write::Commit(id, intent, &letters)).await?;
        self.count_refused(&letters);
        metrics::finished(self.stream.shard(), intent.entries.len());
        Ok(())
    }
}

/// Whether a block in memory has exactly the rows of the piece: nothing was cut off or left out since it was made.
fn is_whole(block: &SealedBlock, intent: &Intent, piece: &Piece) -> bool {
    piece.target == block.table().into() && intent.is_uncut()
}
