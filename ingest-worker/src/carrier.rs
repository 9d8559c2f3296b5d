//! Carries a [`Delivery`] out: does each step against Redis or ClickHouse and tells it what came of it.
//!
//! A step that may or may not have taken effect is done again. An owner that has lost its shard stops at once and
//! leaves the rest to its successor. Whatever is tried without end is told of ([`crate::waiting`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::entry_id::EntryId;
use model::meter::Meter;
use model::shard::Waiting;
use outcomes::{Ledger, Outcome};
use queue::dlq::{Description, Reason, Source};
use stores::clickhouse::{Inserter, Records};
use stores::redis::Redis;
use tokio::sync::Semaphore;
use wire::block::{Block, SealedBlock};
use wire::envelope::{DecodeError, Envelope, EnvelopeKey};

use crate::backoff::Backoff;
use crate::dead_letter;
use crate::metrics;
use crate::parked::Parked;
use crate::recent::{self, Recent};
use crate::shared::Shared;
use crate::statements::Statements;
use crate::stream::{Change, IntentId, Stream, StreamError, Write};
use crate::waiting::Wait;
use delivery::intent::{Intent, Piece, Refused};
use delivery::judge::{Blame, Judge, RefusedAlone};
use delivery::{Delivery, Step};
use lease::Tenure;

mod insert;
mod set_aside;

use insert::Inserted;

/// The shard is not this worker's any more, or is to be begun anew, or the worker stops in the middle of something that
/// keeps failing.
#[derive(Debug)]
pub(crate) struct Gone;

/// What delivers the batches of one shard in one tenure.
pub(crate) struct Carrier {
    tenure: Tenure,
    stream: Stream,
    key: EnvelopeKey,
    inserter: Inserter,
    records: Records,
    inserts: Arc<Semaphore>,
    ledger: Ledger,
    parked: Parked,
    judge: Judge,
    redis: Redis,
    statements: Statements,
    token_trust: Duration,
    wait: Wait,
}

/// A batch that is being delivered.
struct UnderWay {
    id: IntentId,
    /// Whether a predecessor announced it, and may have inserted any of it.
    is_found: bool,
    /// Until when ClickHouse certainly remembers the tokens of whatever was inserted of it.
    tokens_trusted_until: Instant,
    /// Whether some of a piece's rows were found stored and others not, so that tokens say too little.
    is_partly_stored: bool,
    /// What is remembered of its content when it is announced.
    recent: recent::Change,
    /// What ClickHouse has refused rows of it with, after trying for long enough.
    refused_with: HashSet<Option<u32>>,
}

impl Carrier {
    /// `redis` is for what belongs to orgs, and is not the shard's.
    pub(crate) fn new(tenure: Tenure, stream: Stream, redis: Redis, key: EnvelopeKey, shared: &Shared) -> Self {
        let Shared { inserter, records, inserts, ledger, parked, judge, token_trust, .. } = shared.clone();
        let (statements, wait) = (Statements::default(), Wait::new(stream.shard()));
        Self {
            tenure,
            stream,
            key,
            inserter,
            records,
            inserts,
            ledger,
            parked,
            judge,
            redis,
            statements,
            token_trust,
            wait,
        }
    }

    pub(crate) fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// What is remembered of the content of the shard's latest batches.
    pub(crate) async fn recent(&self) -> Result<Recent, Gone> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.recent().await {
                Ok(recent) => return Ok(recent),
                Err(error) => {
                    self.failed(&mut backoff, "read what is remembered of the latest batches", &error).await?
                }
            }
        }
    }

    /// Fails if the stream begins with an entry that was read, by `read_to`, and is not held: `oldest` is the first
    /// that is. Redis has brought it back, as after a failover to a replica that lagged behind, and nobody would read
    /// it again.
    pub(crate) async fn expect_none_behind(&self, read_to: EntryId, oldest: Option<EntryId>) -> Result<(), Gone> {
        let first = match self.stream.first().await {
            Ok(first) => first,
            // The next look will tell.
            Err(error) => {
                tracing::debug!(%error, "could not look for the first entry of a stream");
                return Ok(());
            }
        };
        let is_behind = |first: EntryId| first <= read_to && oldest.is_none_or(|oldest| first < oldest);
        if !first.is_some_and(is_behind) {
            return Ok(());
        }
        let shard = self.stream.shard();
        tracing::error!(shard = shard.number(), "Redis has entries again that were stored; beginning the shard anew");
        metrics::commit_forgotten(shard);
        Err(Gone)
    }

    /// Delivers the batch that a predecessor announced and did not commit, if there is one.
    pub(crate) async fn finish_what_was_begun(&mut self) -> Result<(), Gone> {
        let mut backoff = Backoff::new();
        let found = loop {
            match self.stream.under_way().await {
                Ok(found) => break found,
                Err(StreamError::Intent(error)) => {
                    tracing::error!(shard = self.stream.shard().number(), %error, "cannot read the batch under way");
                    return self.leave_to_another_release().await;
                }
                Err(error) => self.failed(&mut backoff, "look for a batch under way", &error).await?,
            }
        };
        let Some((id, intent, age)) = found else { return Ok(()) };
        let (shard, entries) = (self.stream.shard().number(), intent.entries.len());
        tracing::info!(shard, entries, ?age, "going on with a batch that was under way");
        let announced = Instant::now().checked_sub(age);
        self.carry(id, Delivery::found(intent), recent::Change::default(), Vec::new(), announced).await?;
        Ok(())
    }

    /// Delivers a new batch, however long it takes. `blocks` are its rows, as far as they are in memory; what is not is
    /// made of the entries again. Returns the blocks emptied.
    pub(crate) async fn deliver(
        &mut self,
        number: u64,
        intent: Intent,
        recent: recent::Change,
        blocks: Vec<Block>,
    ) -> Result<Vec<Block>, Gone> {
        let id = IntentId { owner: self.tenure.owner().into(), epoch: self.tenure.epoch(), number };
        self.carry(id, Delivery::new(intent), recent, blocks, Some(Instant::now())).await
    }

    /// `announced` is `None` when that is longer ago than this machine runs.
    async fn carry(
        &mut self,
        id: IntentId,
        mut delivery: Delivery,
        recent: recent::Change,
        blocks: Vec<Block>,
        announced: Option<Instant>,
    ) -> Result<Vec<Block>, Gone> {
        let mut sealed: Vec<SealedBlock> = blocks.into_iter().map(Block::seal).collect();
        let mut emptied = Vec::new();
        let trusted_until = announced.map_or_else(Instant::now, |announced| announced + self.token_trust);
        let mut batch = UnderWay {
            is_found: *id.owner != *self.tenure.owner() || id.epoch != self.tenure.epoch(),
            id,
            tokens_trusted_until: trusted_until,
            is_partly_stored: false,
            recent,
            refused_with: HashSet::new(),
        };
        let mut backoff = Backoff::new();
        // When the first of the suspects at hand was judged.
        let mut suspected = None;
        while let Some(step) = delivery.step() {
            match step {
                Step::Insert(intent, piece) => {
                    let whole = sealed.iter().position(|block| is_whole(block, &intent, &piece));
                    let ready = whole.map(|at| sealed.swap_remove(at));
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
                    continue;
                }
                Step::Judge(intent, suspects) => {
                    let since = *suspected.get_or_insert_with(Instant::now);
                    match self.blame(&intent, &suspects, since).await? {
                        Blame::Entries => delivery.entries_are_bad(),
                        Blame::TableAccepts => delivery.table_accepts(),
                        Blame::Table | Blame::Undecided => {
                            self.wait(Waiting::Table, &mut backoff).await?;
                            delivery.try_again();
                            continue;
                        }
                    }
                    suspected = None;
                    continue;
                }
                Step::Commit(intent) => {
                    self.commit(&batch.id, &intent).await?;
                    metrics::finished(self.stream.shard(), intent.entries.len());
                }
                Step::Announce(intent) => {
                    let write = Write::Announce(batch.id.number, &intent, &batch.recent);
                    self.write("announce a batch", write).await?;
                }
                Step::Note(intent, first) => {
                    self.write("note what was refused", Write::Note(&batch.id, first, &intent.notes()[first..]))
                        .await?;
                }
                Step::SetAside(intent) => self.set_aside(&batch.id, &intent).await?,
            }
            delivery.done();
        }
        Ok(emptied)
    }

    /// Who is to blame for entries that were refused alone, the first of them at `since`.
    async fn blame(&self, intent: &Intent, suspects: &[Refused], since: Instant) -> Result<Blame, Gone> {
        let Some(Refused { target, .. }) = suspects.first() else { return Ok(Blame::Entries) };
        let shard = self.stream.shard();
        let mut alone = Vec::new();
        for suspect in suspects {
            let entry = intent.entries[suspect.entry as usize];
            let found = self.fetch(&[entry]).await?;
            let envelope = found.get(&entry).and_then(|bytes| Envelope::decode(&self.key, bytes).ok());
            let org = envelope.map(|envelope| envelope.header.org_id);
            alone.push(RefusedAlone { entry: (shard, entry), org, code: suspect.code });
        }
        let blame = self.judge.judge(*target, &alone, since);
        if blame == Blame::Table {
            let table = target.known().map_or("", |table| table.name);
            let (shard, code) = (shard.number(), suspects[0].code);
            tracing::error!(shard, table, code, "a table refuses everything; nothing is given up until it is mended");
        }
        Ok(blame)
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

    async fn commit(&self, id: &IntentId, intent: &Intent) -> Result<(), Gone> {
        let letters = self.describe_refused(intent).await?;
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

    /// Makes a change in Redis, however long it takes.
    async fn write(&self, what: &'static str, write: Write<'_>) -> Result<(), Gone> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.write(&self.tenure, &write).await {
                Ok(Change::Made) => {
                    self.went_on().await;
                    return Ok(());
                }
                Ok(Change::Fenced) => return Err(Gone),
                Ok(Change::UnderWay) => {
                    let shard = self.stream.shard().number();
                    tracing::error!(
                        shard,
                        "Redis has forgotten a commit, as after a failover; beginning the shard anew"
                    );
                    metrics::commit_forgotten(self.stream.shard());
                    return Err(Gone);
                }
                Ok(Change::Full) => {
                    metrics::dlq_full(self.stream.shard());
                    self.wait(Waiting::DeadLetters, &mut backoff).await?;
                }
                Err(error) => self.failed(&mut backoff, what, &error).await?,
            }
        }
    }

    /// Reads the envelopes of some entries once more, in their order. One that cannot be read is the error.
    async fn each_entry(
        &self,
        intent: &Intent,
        entries: &[usize],
        mut see: impl FnMut(&Envelope<'_>),
    ) -> Result<Result<(), Unreadable>, Gone> {
        let ids: Vec<EntryId> = entries.iter().map(|at| intent.entries[*at]).collect();
        let found = self.fetch(&ids).await?;
        for (id, at) in ids.into_iter().zip(entries) {
            let Some(bytes) = found.get(&id) else {
                let shard = self.stream.shard().number();
                tracing::warn!(shard, %id, "an entry of the batch was taken out; nobody was told that it was stored");
                continue;
            };
            match Envelope::decode(&self.key, bytes) {
                Ok(envelope) => see(&envelope),
                Err(error @ DecodeError::Table { .. }) => {
                    tracing::error!(%id, %error, "an entry of the batch under way is of another release");
                    return self.leave_to_another_release().await;
                }
                Err(error) => {
                    tracing::error!(%id, %error, "an entry of the batch under way was changed and cannot be read");
                    return Ok(Err(Unreadable { entry: *at as u32 }));
                }
            }
        }
        Ok(Ok(()))
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

    async fn describe_refused(&self, intent: &Intent) -> Result<Vec<Description>, Gone> {
        let mut letters = Vec::new();
        for refused in intent.refused() {
            let (mut org, mut items) = (None, 0);
            let entry = [refused.entry as usize];
            let read = self.each_entry(intent, &entry, |envelope| {
                org = Some(envelope.header.org_id);
                items = envelope.billed(Meter::SpanIngested);
            });
            let is_readable = read.await?.is_ok();
            let table = refused.target.known().map_or("", |table| table.name);
            let (reason, detail) = match is_readable {
                true => (Reason::Refused, format!("refused by table {table}")),
                false => (Reason::Unreadable, format!("changed before it was inserted into table {table}")),
            };
            let id = intent.entries[refused.entry as usize];
            let mut letter = dead_letter::describe(id, org, reason, refused.code, &detail);
            let first = intent.targets.iter().position(|target| *target == refused.target).unwrap_or_default();
            let tables: BTreeSet<u8> = intent.targets[first..].iter().map(|target| target.table).collect();
            (letter.tables, letter.items) = (tables.into_iter().collect(), items);
            letters.push(letter);
        }
        Ok(letters)
    }

    /// Something of the batch under way is not for this release to decide: the shard is given back, so that a worker
    /// that knows can take it.
    async fn leave_to_another_release<T>(&self) -> Result<T, Gone> {
        metrics::left_to_another_release(self.stream.shard());
        self.wait(Waiting::OtherRelease, &mut Backoff::new()).await?;
        Err(Gone)
    }

    /// Notes a failed Redis operation and waits before it is tried again.
    pub(crate) async fn failed(&self, backoff: &mut Backoff, what: &str, error: &StreamError) -> Result<(), Gone> {
        tracing::warn!(shard = self.stream.shard().number(), %error, "could not {what}; trying again");
        metrics::redis_failed();
        self.wait(Waiting::Redis, backoff).await
    }

    /// Waits before something is tried again, and tells of it when it lasts.
    async fn wait(&self, why: Waiting, backoff: &mut Backoff) -> Result<(), Gone> {
        if let Some(lasts) = self.wait.goes_on(why) {
            let shard = self.stream.shard().number();
            tracing::error!(
                shard,
                waits_for = why.as_str(),
                ?lasts,
                "the shard makes no progress; it goes on by itself"
            );
            // Best effort: where Redis is what is waited for, it cannot be told.
            let told = self.stream.tell_wait(&self.tenure, Some((why, lasts))).await;
            told.unwrap_or_else(|error| tracing::debug!(shard, %error, "could not tell what a shard waits for"));
        }
        backoff.pause(&self.tenure).await.map_err(|_| Gone)?;
        if self.tenure.holds() { Ok(()) } else { Err(Gone) }
    }

    /// Something was done, so nothing is waited for any more.
    async fn went_on(&self) {
        if self.wait.is_over() {
            let told = self.stream.tell_wait(&self.tenure, None).await;
            told.unwrap_or_else(|error| tracing::debug!(%error, "could not tell that a shard goes on"));
        }
    }
}

/// An entry of a batch under way that cannot be read, by its place.
#[derive(Clone, Copy, Debug)]
struct Unreadable {
    entry: u32,
}

/// Whether a block in memory is the piece to be inserted: then nothing was cut off it or left out since it was made.
fn is_whole(block: &SealedBlock, intent: &Intent, piece: &Piece) -> bool {
    piece.target == block.table().into() && intent.is_uncut()
}
