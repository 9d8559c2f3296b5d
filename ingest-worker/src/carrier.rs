//! Carries a [`Delivery`] out: does each step against Redis or ClickHouse and tells it what came of it.
//!
//! A step that may or may not have taken effect is done again. An owner that has lost its shard stops at once and leaves the rest to
//! its successor.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use schema::block::{Block, SealedBlock};
use schema::envelope::Envelope;
use schema::ids::OrgId;
use schema::model::Meter;
use schema::tables::{Table, period};
use tenant::clickhouse::{InsertError, Inserter, Records, Refusal};
use tenant::clock::hour_of;
use tenant::dlq::{DETAIL_CHARS_MAX, Description, Reason, Source};
use tenant::outcome::{Ledger, Outcome};
use tenant::quota::{self, Aside, ParkedId};
use tenant::redis::Redis;
use tenant::registry::OverQuota;
use tenant::shard::fence::EntryId;
use tokio::sync::Semaphore;

use crate::backoff::Backoff;
use crate::delivery::intent::{Intent, Piece, Verdict};
use crate::delivery::{Delivery, Step};
use crate::lease::Tenure;
use crate::metrics;
use crate::parked::Parked;
use crate::shard::Shared;
use crate::statements::Statements;
use crate::stream::{Change, IntentId, Stream, StreamError, Write};

/// How often an insert is tried that fails with an error of which nothing is known, before its rows are looked for and, if they
/// are not there, taken for refused.
const UNKNOWN_TRIES_MAX: u32 = 8;

/// How often an insert is tried that ClickHouse has not the memory for, before it is cut in halves.
const NO_MEMORY_TRIES_MAX: u32 = 4;
/// MEMORY_LIMIT_EXCEEDED
const NO_MEMORY: u32 = 241;

/// Envelopes that are parked by one round trip's reading. Each may be as large as a request.
const SET_ASIDE_ENTRIES: usize = 16;

/// The shard is not this worker's any more, or the worker stops in the middle of something that keeps failing.
#[derive(Debug)]
pub(crate) struct Gone;

/// What delivers the batches of one shard in one tenure.
pub(crate) struct Carrier {
    tenure: Tenure,
    stream: Stream,
    inserter: Inserter,
    records: Records,
    inserts: Arc<Semaphore>,
    ledger: Ledger,
    parked: Parked,
    redis: Redis,
    statements: Statements,
}

/// What came of an insert.
enum Inserted {
    /// The rows are there. The block's memory, if it had any rows.
    Stored(Option<SealedBlock>),
    /// They are not, and never will be.
    Refused { code: u32 },
    /// They are not, and ClickHouse has not the memory for so many at once.
    TooLarge,
}

impl Carrier {
    /// `redis` is for what belongs to orgs, and is not the shard's.
    pub(crate) fn new(tenure: Tenure, stream: Stream, redis: Redis, shared: &Shared) -> Self {
        let Shared { inserter, records, inserts, ledger, parked, .. } = shared.clone();
        Self { tenure, stream, inserter, records, inserts, ledger, parked, redis, statements: Statements::default() }
    }

    pub(crate) fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// The batch that was announced and is not committed.
    pub(crate) async fn under_way(&self) -> Result<Option<(IntentId, Intent)>, Gone> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.under_way().await {
                Ok(found) => return Ok(found),
                Err(error) => self.failed(&mut backoff, "look for a batch under way", &error).await?,
            }
        }
    }

    /// Delivers a batch, however long it takes. `blocks` are its rows, as far as they are in memory; what is not is made of the
    /// entries again. Returns the blocks emptied.
    pub(crate) async fn deliver(
        &mut self,
        id: IntentId,
        mut delivery: Delivery,
        blocks: Vec<Block>,
    ) -> Result<Vec<Block>, Gone> {
        let mut sealed: Vec<SealedBlock> = blocks.into_iter().map(Block::seal).collect();
        let mut emptied = Vec::new();
        while let Some(step) = delivery.step() {
            match step {
                Step::Insert(intent, piece) => {
                    let whole = sealed.iter().position(|block| is_whole(block, &intent, &piece));
                    let ready = whole.map(|at| sealed.swap_remove(at));
                    match self.insert(&intent, &piece, ready).await? {
                        Inserted::Stored(block) => {
                            emptied.extend(block.map(SealedBlock::reuse));
                            delivery.done();
                        }
                        Inserted::Refused { code } => delivery.refused(code),
                        Inserted::TooLarge => {
                            delivery.too_large();
                        }
                    }
                    continue;
                }
                Step::Commit(intent) => {
                    self.commit(id, &intent).await?;
                    metrics::finished(self.stream.shard(), intent.entries.len());
                }
                Step::Announce(intent) => {
                    self.write("announce a batch", Write::Announce(id.number, &intent)).await?;
                }
                Step::Note(intent) => {
                    self.write("note what was refused", Write::Note(id, &intent)).await?;
                }
                Step::SetAside(intent) => self.set_aside(id, &intent).await?,
            }
            delivery.done();
        }
        Ok(emptied)
    }

    /// Moves an entry that cannot be read to the dead letters.
    pub(crate) async fn park(&self, letter: &Description) -> Result<(), Gone> {
        let (shard, entry, reason) = (self.stream.shard(), &letter.entry, &letter.detail);
        tracing::error!(shard = shard.number(), entry, reason, "an entry is not readable; it goes to the dead letters");
        self.write("park an entry", Write::Park(letter)).await?;
        self.ledger.refused_unread(letter.org, Outcome::DeadLettered, letter.reason.as_str());
        self.parked.note(Source::Shard(shard), letter);
        metrics::parked(shard, 1);
        Ok(())
    }

    async fn commit(&self, id: IntentId, intent: &Intent) -> Result<(), Gone> {
        let letters = if intent.refused.is_empty() { Vec::new() } else { self.describe_refused(intent).await? };
        self.write("commit a batch", Write::Commit(id, intent, &letters)).await?;
        for letter in &letters {
            if let Some(org) = letter.org {
                self.ledger.open(org, letter.items).end(Outcome::DeadLettered, letter.reason.as_str());
            }
            self.parked.note(Source::Shard(self.stream.shard()), letter);
        }
        metrics::parked(self.stream.shard(), letters.len());
        Ok(())
    }

    /// Parks what is to be parked, and notes how much of whom is parked or dropped. All of it can be done again: by who takes the
    /// batch over, and also, late, by who has lost it.
    async fn set_aside(&self, id: IntentId, intent: &Intent) -> Result<(), Gone> {
        let shard = self.stream.shard();
        let parked = quota::Parked::new(self.redis.clone());
        let mut sums = BTreeMap::<Aside, u64>::new();
        for some in intent.set_aside.chunks(SET_ASIDE_ENTRIES) {
            let entries: Vec<EntryId> = some.iter().map(|(at, _)| intent.entries[*at as usize]).collect();
            let found = self.fetch(&entries).await?;
            for (entry, (_, verdict)) in entries.into_iter().zip(some) {
                let Some(bytes) = found.get(&entry) else { continue };
                let Ok(envelope) = Envelope::decode(bytes) else {
                    // The verdict is a later release's, which could read it.
                    tracing::error!(%entry, "a batch under way sets an envelope aside that this release cannot read");
                    return Err(Gone);
                };
                let (org, hour) = (envelope.header.org_id, hour_of(envelope.header.received_at));
                let how = match verdict {
                    Verdict::Park => OverQuota::Park,
                    Verdict::Drop => OverQuota::Drop,
                };
                *sums.entry(Aside { org, hour, how }).or_default() += envelope.billed(Meter::SpanIngested);
                if how == OverQuota::Park {
                    let name = ParkedId { shard, entry };
                    let mut backoff = Backoff::new();
                    while let Err(error) = parked.park(org, name, bytes).await {
                        self.failed(&mut backoff, "park an envelope", &error.into()).await?;
                    }
                }
            }
        }
        let batch = format!("{shard}/{}-{}", id.epoch, id.number);
        for (aside, items) in sums {
            tracing::warn!(org_id = %aside.org, items, "over its quota: {}", aside.how);
            let mut backoff = Backoff::new();
            while let Err(error) = quota::note(&self.redis, &batch, aside, items).await {
                self.failed(&mut backoff, "note what is set aside", &error.into()).await?;
            }
            metrics::set_aside(aside.how.as_str(), items);
        }
        Ok(())
    }

    /// Makes a change in Redis, however long it takes.
    async fn write(&self, what: &'static str, write: Write<'_>) -> Result<(), Gone> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.write(self.tenure.epoch(), &write).await {
                Ok(Change::Made) => return Ok(()),
                Ok(Change::Fenced) => return Err(Gone),
                Ok(Change::Full) => {
                    let shard = self.stream.shard().number();
                    tracing::error!(shard, "the dead letters are full; the shard waits. See tracectl dlq ls");
                    metrics::dlq_full(self.stream.shard());
                    self.pause(&mut backoff).await?;
                }
                Err(error) => self.failed(&mut backoff, what, &error).await?,
            }
        }
    }

    /// Inserts a piece's rows, however long it takes. `ready` is its block, if it is in memory.
    async fn insert(&mut self, intent: &Intent, piece: &Piece, ready: Option<SealedBlock>) -> Result<Inserted, Gone> {
        let Some(table) = Table::ALL.into_iter().find(|table| table.id == piece.table) else {
            // The intent was read, but it is of a release that knows more tables.
            tracing::error!(
                table = piece.table,
                "a batch under way has rows of a table that this release does not know"
            );
            return Err(Gone);
        };
        let block = match ready {
            Some(block) => block,
            None => self.rebuild(intent, piece, table).await?.seal(),
        };
        if block.rows() == 0 {
            return Ok(Inserted::Stored(None));
        }
        let token = intent.token(self.stream.key().as_str(), piece);
        let statement = self.statements.of(table);
        let (mut backoff, mut unknown, mut no_memory) = (Backoff::new(), 0, 0);
        loop {
            let begun = Instant::now();
            let permit = self.inserts.acquire().await.map_err(|_| Gone)?;
            let (rows, still) = (block.rows() as u64, || self.tenure.holds());
            let result = self.inserter.insert_native_while(&statement, &token, block.pieces(), rows, still).await;
            drop(permit);
            metrics::inserted(table.name, rows, block.byte_len(), begun.elapsed(), result.is_ok());
            let Err(error) = result else { return Ok(Inserted::Stored(Some(block))) };
            self.explain(&error, block.rows());
            let code = error.code().unwrap_or_default();
            match error.refusal() {
                Refusal::Outage => no_memory += u32::from(code == NO_MEMORY),
                Refusal::Abandoned => return Err(Gone),
                Refusal::Permanent => return Ok(Inserted::Refused { code }),
                Refusal::Unknown => unknown += 1,
            }
            if unknown >= UNKNOWN_TRIES_MAX && !self.landed(intent, piece, table).await? {
                return Ok(Inserted::Refused { code });
            }
            if no_memory >= NO_MEMORY_TRIES_MAX && piece.entries.len() > 1 && !self.landed(intent, piece, table).await?
            {
                return Ok(Inserted::TooLarge);
            }
            self.pause(&mut backoff).await?;
        }
    }

    /// The rows of a piece, made of its entries again.
    async fn rebuild(&self, intent: &Intent, piece: &Piece, table: &'static Table) -> Result<Block, Gone> {
        let mut block = Block::new(table);
        self.each_entry(intent, piece, |envelope| {
            for section in envelope.sections.iter().filter(|section| section.table == table) {
                block.append(&envelope.header, section);
            }
        })
        .await?;
        Ok(block)
    }

    /// Reads the envelopes of a piece once more, in their order.
    async fn each_entry(&self, intent: &Intent, piece: &Piece, mut see: impl FnMut(&Envelope<'_>)) -> Result<(), Gone> {
        let ids: Vec<EntryId> = intent.included(piece).map(|at| intent.entries[at]).collect();
        let found = self.fetch(&ids).await?;
        for id in ids {
            let Some(bytes) = found.get(&id) else {
                let shard = self.stream.shard().number();
                tracing::warn!(shard, %id, "an entry of the batch was taken out; nobody was told that it was stored");
                continue;
            };
            match Envelope::decode(bytes) {
                Ok(envelope) => see(&envelope),
                Err(error) => {
                    // It was readable when the batch was made: by another release.
                    tracing::error!(%id, %error, "an entry of the batch under way cannot be read by this release");
                    self.pause(&mut Backoff::new()).await?;
                    return Err(Gone);
                }
            }
        }
        Ok(())
    }

    async fn fetch(&self, entries: &[EntryId]) -> Result<HashMap<EntryId, Vec<u8>>, Gone> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.fetch(entries).await {
                Ok(found) => return Ok(found),
                Err(error) => self.failed(&mut backoff, "fetch the entries of a batch", &error).await?,
            }
        }
    }

    /// Whether rows of a piece are stored, although its insert failed. Looked for by one envelope of each month, because the rows
    /// of a month are stored at once or not at all.
    async fn landed(&self, intent: &Intent, piece: &Piece, table: &'static Table) -> Result<bool, Gone> {
        let mut probes: Vec<(u32, OrgId, i64)> = Vec::new();
        self.each_entry(intent, piece, |envelope| {
            let (org, received_at) = (envelope.header.org_id, envelope.header.received_at);
            let has_rows = envelope.sections.iter().any(|section| section.table == table);
            if has_rows && probes.iter().all(|(month, ..)| *month != period(received_at)) {
                probes.push((period(received_at), org, received_at));
            }
        })
        .await?;
        let mut backoff = Backoff::new();
        for (_, org, received_at) in probes {
            loop {
                match self.records.has_rows(table.name, org, received_at).await {
                    Ok(true) => return Ok(true),
                    Ok(false) => break,
                    Err(error) => {
                        self.explain(&error, 0);
                        self.pause(&mut backoff).await?;
                    }
                }
            }
        }
        Ok(false)
    }

    async fn describe_refused(&self, intent: &Intent) -> Result<Vec<Description>, Gone> {
        let mut letters = Vec::new();
        for refused in &intent.refused {
            let place = intent.tables.iter().position(|table| *table == refused.table).unwrap_or_default();
            let piece = Piece { table: intent.tables[0], entries: refused.entry..refused.entry + 1 };
            let (mut org, mut items) = (None, 0);
            let mut all = intent.clone();
            all.refused.clear();
            self.each_entry(&all, &piece, |envelope| {
                org = Some(envelope.header.org_id);
                items = envelope.billed(Meter::SpanIngested);
            })
            .await?;
            let table = Table::ALL.into_iter().find(|t| t.id == refused.table).map_or("", |t| t.name);
            let id = intent.entries[refused.entry as usize];
            let mut letter = letter(id, org, Reason::Refused, refused.code, &format!("refused by table {table}"));
            (letter.tables, letter.items) = (intent.tables[place..].to_vec(), items);
            letters.push(letter);
        }
        Ok(letters)
    }

    fn explain(&self, error: &InsertError, rows: usize) {
        let shard = self.stream.shard().number();
        if error.is_outage() {
            tracing::warn!(shard, rows, %error, "insert failed; trying again");
        } else {
            tracing::error!(shard, rows, %error, "ClickHouse refuses an insert; looking for the envelope that is to blame");
        }
    }

    /// Notes a failed Redis operation and waits before it is tried again.
    pub(crate) async fn failed(&self, backoff: &mut Backoff, what: &str, error: &StreamError) -> Result<(), Gone> {
        tracing::warn!(shard = self.stream.shard().number(), %error, "could not {what}; trying again");
        metrics::redis_failed();
        self.pause(backoff).await
    }

    async fn pause(&self, backoff: &mut Backoff) -> Result<(), Gone> {
        backoff.pause(&self.tenure).await.map_err(|_| Gone)?;
        if self.tenure.holds() { Ok(()) } else { Err(Gone) }
    }
}

/// Whether a block in memory is the piece to be inserted: then nothing was cut off it or left out since it was made.
fn is_whole(block: &SealedBlock, intent: &Intent, piece: &Piece) -> bool {
    block.table().id == piece.table && piece.entries.len() == intent.entries.len() && intent.refused.is_empty()
}

/// Describes a dead letter.
pub(crate) fn letter(entry: EntryId, org: Option<OrgId>, reason: Reason, code: u32, detail: &str) -> Description {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Description {
        entry: entry.to_string(),
        org,
        since_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        reason,
        code,
        detail: detail.chars().take(DETAIL_CHARS_MAX).collect(),
        tables: Vec::new(),
        items: 0,
    }
}
