//! Inserts one piece of a batch, until its rows are stored or it is certain that they never will be.

use std::time::Instant;

use delivery::intent::{Intent, Piece};
use model::meter::period;
use model::shard::Waiting;
use stores::clickhouse::InsertError;
use wire::block::{Block, SealedBlock};
use wire::tables::Table;

use super::entries::Unreadable;
use super::{Deliverer, LeaseLost, UnderWay};
use crate::backoff::Backoff;
use crate::metrics;

/// How often an insert is tried that fails with an unknown error, before its rows count as refused. Once rows of a
/// batch were refused with that error, the error is known for the rest of the batch.
const UNKNOWN_TRIES_MAX: u32 = 8;

/// How often an insert is tried that ClickHouse has too little memory for, before it is cut in halves.
const NO_MEMORY_TRIES_MAX: u32 = 4;
/// ClickHouse's error code MEMORY_LIMIT_EXCEEDED.
const NO_MEMORY: u32 = 241;

/// The result of an insert.
pub(super) enum Inserted {
    /// ClickHouse has stored the rows just now. The block is returned for its memory, if it is at hand.
    Stored(Option<SealedBlock>),
    /// Nothing had to be inserted: the entries have no rows of this table, or these were stored before.
    Nothing,
    /// ClickHouse has not stored the rows and never will. `code` is its error code.
    Refused { code: u32 },
    /// ClickHouse has not stored the rows, because it has too little memory for so many at once.
    TooLarge,
    /// The rows cannot be built, because an entry was changed after it was put into the batch.
    Unreadable { entry: u32 },
}

impl Deliverer {
    /// Inserts a piece's rows, however long it takes. `ready` is its block, if it is in memory.
    pub(super) async fn insert(
        &mut self,
        batch: &mut UnderWay,
        intent: &Intent,
        piece: &Piece,
        mut ready: Option<SealedBlock>,
    ) -> Result<Inserted, LeaseLost> {
        let Some(table) = piece.target.known() else {
            tracing::error!(?piece.target, "a batch under way has rows of a table that this release does not know");
            return self.leave_to_another_release().await;
        };
        let mut token = intent.token(self.stream.key().as_str(), piece);
        let statement = self.statements.of(table);
        let (mut backoff, mut tries, mut no_memory) = (Backoff::new(), 0, 0);
        let mut trusted_until = batch.tokens_trusted_until;
        // A crash of ClickHouse can leave rows without their token, and a token without its rows. So an insert that may
        // be a repeated one does not rely on the token alone: it looks for the rows before and after.
        let mut is_repeated = batch.is_found;
        // Months whose rows were found stored are left out of the insert.
        let mut stored_months = Vec::new();
        loop {
            if is_repeated || batch.is_partly_stored || trusted_until <= Instant::now() {
                let months = match self.find_stored(intent, piece, table).await? {
                    Ok(months) => months,
                    Err(Unreadable { entry }) => return Ok(Inserted::Unreadable { entry }),
                };
                if months.are_stored() {
                    if tries > 0 {
                        tracing::error!(
                            table = table.name,
                            "the rows are stored, although ClickHouse answered with an error"
                        );
                        metrics::stored_despite_error(table.name);
                    }
                    return Ok(Inserted::Nothing);
                }
                if stored_months != months.stored {
                    (ready, stored_months) = (None, months.stored);
                }
                trusted_until = Instant::now() + self.token_trust;
            }
            let block = match ready.take() {
                Some(block) => block,
                None => match self.rebuild(intent, piece, table, &stored_months).await? {
                    Ok(block) => block.seal(),
                    Err(Unreadable { entry }) => return Ok(Inserted::Unreadable { entry }),
                },
            };
            if block.rows() == 0 {
                return Ok(Inserted::Nothing);
            }
            let begun = Instant::now();
            let permit = self.inserts.acquire().await.map_err(|_| LeaseLost)?;
            let (rows, still) = (block.rows() as u64, || self.guard.holds());
            let result = self.inserter.insert_native_while(&statement, &token, block.pieces(), rows, still).await;
            drop(permit);
            metrics::inserted(table.name, rows, block.byte_len(), begun.elapsed(), result.is_ok());
            let Err(error) = result else {
                self.judge.accepted(piece.target);
                self.end_wait().await;
                if is_repeated && !self.is_replicated(table).await? {
                    match self.find_stored(intent, piece, table).await? {
                        Ok(months) if months.missing.is_empty() => {}
                        Ok(_) => {
                            tracing::error!(
                                table = table.name,
                                "ClickHouse knows a token and not its rows; inserting anew"
                            );
                            metrics::token_without_rows(table.name);
                            token.push_str("/again");
                            ready = Some(block);
                            continue;
                        }
                        Err(Unreadable { entry }) => return Ok(Inserted::Unreadable { entry }),
                    }
                }
                return Ok(Inserted::Stored(Some(block)));
            };
            is_repeated = true;
            self.log_failure(&error, block.rows());
            ready = Some(block);
            tries += 1;
            if error.is_abandoned() {
                return Err(LeaseLost);
            }
            let is_refused = !error.is_outage();
            no_memory += u32::from(error.code() == Some(NO_MEMORY));
            let is_too_large = no_memory >= NO_MEMORY_TRIES_MAX && intent.included(piece).nth(1).is_some();
            if is_refused || is_too_large {
                // The rows may be stored all the same: an answer was lost, or a materialized view of the table failed.
                let months = match self.find_stored(intent, piece, table).await? {
                    Ok(months) => months,
                    Err(Unreadable { entry }) => return Ok(Inserted::Unreadable { entry }),
                };
                if months.are_stored() {
                    tracing::error!(table = table.name, %error, "the rows are stored, although ClickHouse answers with an error");
                    metrics::stored_despite_error(table.name);
                    return Ok(Inserted::Stored(ready));
                }
                if !months.stored.is_empty() {
                    // The rest is tried alone. Its pieces must not insert the stored rows again.
                    batch.is_partly_stored = true;
                } else if is_too_large {
                    return Ok(Inserted::TooLarge);
                } else if error.is_permanent()
                    || tries >= UNKNOWN_TRIES_MAX
                    || batch.refused_with.contains(&error.code())
                {
                    batch.refused_with.insert(error.code());
                    return Ok(Inserted::Refused { code: error.code().unwrap_or_default() });
                }
            }
            self.wait(Waiting::ClickHouse, &mut backoff).await?;
        }
    }

    async fn is_replicated(&self, table: &'static Table) -> Result<bool, LeaseLost> {
        let mut backoff = Backoff::new();
        loop {
            match self.records.is_replicated(table.name).await {
                Ok(is_replicated) => return Ok(is_replicated),
                Err(error) => {
                    let shard = self.stream.shard().number();
                    tracing::warn!(shard, %error, "could not ask what engine a table has; trying again");
                    self.wait(Waiting::ClickHouse, &mut backoff).await?;
                }
            }
        }
    }

    /// Reads a piece's entries again and builds their rows, without those of some months.
    async fn rebuild(
        &self,
        intent: &Intent,
        piece: &Piece,
        table: &'static Table,
        without_months: &[u32],
    ) -> Result<Result<Block, Unreadable>, LeaseLost> {
        let mut block = Block::new(table);
        let entries: Vec<usize> = intent.included(piece).collect();
        let read = self.each_entry(intent, &entries, |envelope| {
            if without_months.contains(&period(envelope.header.received_at)) {
                return;
            }
            for section in envelope.sections.iter().filter(|section| section.table == table) {
                block.append(&envelope.header, section);
            }
        });
        let read = read.await?;
        Ok(read.map(|()| block))
    }

    fn log_failure(&self, error: &InsertError, rows: usize) {
        let shard = self.stream.shard().number();
        if error.is_outage() {
            tracing::warn!(shard, rows, %error, "insert failed; trying again");
        } else {
            tracing::error!(shard, rows, %error, "ClickHouse refuses an insert; looking for the envelope that is to blame");
        }
    }
}
