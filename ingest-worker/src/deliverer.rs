//! Carries out a [`Delivery`]: does each step against Redis or ClickHouse and reports the result to it.
//!
//! A step that may or may not have taken effect is done again. An owner that has lost its shard stops at once and
//! leaves the rest to its successor. A step that keeps failing is retried without end, and that is logged and shown
//! ([`crate::waiting`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use delivery::intent::{Intent, Piece, Refused};
use delivery::judge::{Blame, Judge, RefusedAlone};
use delivery::{Delivery, Step};
use lease::LeaseGuard;
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
use crate::dead_letter_notes::DeadLetterNotes;
use crate::recent::Recent;
use crate::shared::Shared;
use crate::statements::Statements;
use crate::stream::{Change, IntentId, Stream, StreamError, Write};
use crate::waiting::Wait;
use crate::{dead_letter, metrics, recent};

mod insert;
mod set_aside;

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

    /// The content ids of the shard's latest batches.
    pub(crate) async fn recent(&self) -> Result<Recent, LeaseLost> {
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

    /// Fails if the stream begins with an entry that was read already (up to `read_to`) and is not held in memory;
    /// `oldest` is the first entry that is held. Then Redis has brought the entry back, as after a failover to a
    /// replica that lagged behind, and no worker would read it again.
    pub(crate) async fn expect_none_behind(&self, read_to: EntryId, oldest: Option<EntryId>) -> Result<(), LeaseLost> {
        let first = match self.stream.first().await {
            Ok(first) => first,
            // The next look will show it.
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
        Err(LeaseLost)
    }

    /// Delivers the batch that an earlier owner announced and did not commit, if there is one.
    pub(crate) async fn finish_what_was_begun(&mut self) -> Result<(), LeaseLost> {
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
        self.carry(id, Delivery::new(intent), recent, blocks, Some(Instant::now())).await
    }

    /// `announced` is `None` when the batch was announced before this machine started.
    async fn carry(
        &mut self,
        id: IntentId,
        mut delivery: Delivery,
        recent: recent::Change,
        blocks: Vec<Block>,
        announced: Option<Instant>,
    ) -> Result<Vec<Block>, LeaseLost> {
        let mut sealed: Vec<SealedBlock> = blocks.into_iter().map(Block::seal).collect();
        let mut emptied = Vec::new();
        let trusted_until = announced.map_or_else(Instant::now, |announced| announced + self.token_trust);
        let mut batch = UnderWay {
            is_found: *id.owner != *self.guard.owner() || id.epoch != self.guard.epoch(),
            id,
            tokens_trusted_until: trusted_until,
            is_partly_stored: false,
            recent,
            refused_with: HashSet::new(),
        };
        let mut backoff = Backoff::new();
        // When the first of the current suspects was judged first.
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

    /// Judges entries that were refused alone; `since` is when the first of them was judged first.
    async fn blame(&self, intent: &Intent, suspects: &[Refused], since: Instant) -> Result<Blame, LeaseLost> {
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
    pub(crate) async fn park(&self, letter: &Description) -> Result<(), LeaseLost> {
        let (shard, entry, reason) = (self.stream.shard(), &letter.entry, &letter.detail);
        tracing::error!(shard = shard.number(), entry, reason, "an entry is not readable; it goes to the dead letters");
        self.write("park an entry", Write::Park(letter)).await?;
        self.ledger.refused_unread(letter.org, Outcome::DeadLettered, letter.reason.as_str());
        self.dead_letters.note(Source::Shard(shard), letter);
        metrics::parked(shard, 1);
        Ok(())
    }

    async fn commit(&self, id: &IntentId, intent: &Intent) -> Result<(), LeaseLost> {
        let letters = self.describe_refused(intent).await?;
        self.write("commit a batch", Write::Commit(id, intent, &letters)).await?;
        for letter in &letters {
            if let Some(org) = letter.org {
                self.ledger.open(org, letter.items).end(Outcome::DeadLettered, letter.reason.as_str());
            }
            self.dead_letters.note(Source::Shard(self.stream.shard()), letter);
        }
        metrics::parked(self.stream.shard(), letters.len());
        Ok(())
    }

    /// Makes a change in Redis, however long it takes.
    async fn write(&self, what: &'static str, write: Write<'_>) -> Result<(), LeaseLost> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.write(&self.guard, &write).await {
                Ok(Change::Made) => {
                    self.went_on().await;
                    return Ok(());
                }
                Ok(Change::Fenced) => return Err(LeaseLost),
                Ok(Change::UnderWay) => {
                    let shard = self.stream.shard().number();
                    tracing::error!(
                        shard,
                        "Redis has forgotten a commit, as after a failover; beginning the shard anew"
                    );
                    metrics::commit_forgotten(self.stream.shard());
                    return Err(LeaseLost);
                }
                Ok(Change::Full) => {
                    metrics::dlq_full(self.stream.shard());
                    self.wait(Waiting::DeadLetters, &mut backoff).await?;
                }
                Err(error) => self.failed(&mut backoff, what, &error).await?,
            }
        }
    }

    /// Reads the envelopes of some entries again, in their order. Returns an error that names the first unreadable one.
    async fn each_entry(
        &self,
        intent: &Intent,
        entries: &[usize],
        mut see: impl FnMut(&Envelope<'_>),
    ) -> Result<Result<(), Unreadable>, LeaseLost> {
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

    async fn fetch(&self, entries: &[EntryId]) -> Result<HashMap<EntryId, Vec<u8>>, LeaseLost> {
        let mut backoff = Backoff::new();
        loop {
            match self.stream.fetch(entries).await {
                Ok(found) => return Ok(found),
                Err(error) => self.failed(&mut backoff, "fetch the entries of a batch", &error).await?,
            }
        }
    }

    async fn describe_refused(&self, intent: &Intent) -> Result<Vec<Description>, LeaseLost> {
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

    /// This release does not understand something of the batch under way: the shard is given back, so that a worker of
    /// a release that does can take it.
    async fn leave_to_another_release<T>(&self) -> Result<T, LeaseLost> {
        metrics::left_to_another_release(self.stream.shard());
        self.wait(Waiting::OtherRelease, &mut Backoff::new()).await?;
        Err(LeaseLost)
    }

    /// Counts a failed Redis operation and waits before it is tried again.
    pub(crate) async fn failed(&self, backoff: &mut Backoff, what: &str, error: &StreamError) -> Result<(), LeaseLost> {
        tracing::warn!(shard = self.stream.shard().number(), %error, "could not {what}; trying again");
        metrics::redis_failed();
        self.wait(Waiting::Redis, backoff).await
    }

    /// Waits before something is tried again, and reports the wait when it lasts.
    async fn wait(&self, why: Waiting, backoff: &mut Backoff) -> Result<(), LeaseLost> {
        if let Some(lasts) = self.wait.goes_on(why) {
            let shard = self.stream.shard().number();
            tracing::error!(
                shard,
                waits_for = why.as_str(),
                ?lasts,
                "the shard makes no progress; it goes on by itself"
            );
            // Best effort: when the wait is for Redis, Redis cannot store it.
            let told = self.stream.tell_wait(&self.guard, Some((why, lasts))).await;
            told.unwrap_or_else(|error| tracing::debug!(shard, %error, "could not tell what a shard waits for"));
        }
        backoff.pause(&self.guard).await.map_err(|_| LeaseLost)?;
        if self.guard.holds() { Ok(()) } else { Err(LeaseLost) }
    }

    /// Something succeeded, so the shard does not wait any more.
    async fn went_on(&self) {
        if self.wait.is_over() {
            let told = self.stream.tell_wait(&self.guard, None).await;
            told.unwrap_or_else(|error| tracing::debug!(%error, "could not tell that a shard goes on"));
        }
    }
}

/// An entry of a batch under way that cannot be read, by its index in the batch.
#[derive(Clone, Copy, Debug)]
struct Unreadable {
    entry: u32,
}

/// Whether a block in memory has exactly the rows of the piece: nothing was cut off or left out since it was made.
fn is_whole(block: &SealedBlock, intent: &Intent, piece: &Piece) -> bool {
    piece.target == block.table().into() && intent.is_uncut()
}
