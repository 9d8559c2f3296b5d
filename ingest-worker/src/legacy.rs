//! Draining the legacy stream: what was written before tenancy goes into the shards of today, in its order, each
//! envelope once.
//!
//! The owner of [`DRAINED_BY`] does it beside that shard's own work. An entry is moved in steps that may all be
//! repeated ([`queue::arrival`]): *note* where it goes, *append* it there under its own token, *take* it out, *settle*
//! the token, *forget* the note. An entry that is taken out can be noted by nobody, and a note decides where it goes,
//! so nothing depends on there being one reader at a time: a second one repeats what the first has done, to no effect,
//! and in the same order.
//!
//! The one thing that changes a note is that nothing has arrived where it leads: the shard is closed to the org, which
//! has moved, or the project is known by now. Then a reader that stood still between its note and its append could
//! append late; it looks at its tenure right before, and a closed shard refuses it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use legacy::{self, Left, Letters, Projects};
use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;
use outcomes::{Ledger, Outcome};
use queue::arrival::{Arrivals, Place};
use queue::dlq::{Description, Source};
use queue::fence::Appended;
use redis::RedisError;
use stores::redis::Redis;
use tokio::sync::watch;
use wire::envelope::{ENVELOPE_FIELD, EnvelopeKey};

use crate::backoff::Backoff;
use crate::dead_letter;
use crate::metrics;
use crate::parked::Parked;
use lease::Tenure;

mod envelope;
mod stream;

use envelope::{Flaw, Old};
use stream::{Goal, LegacyStream};

/// Whose owner drains the legacy stream.
pub const DRAINED_BY: Shard = Shard::FIRST;
/// How often an empty or closed stream is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Envelopes above this many bytes are translated with the other tasks of the thread moved elsewhere.
const TRANSLATE_INLINE_BYTES_MAX: usize = 256 << 10;

/// Why a turn ended early. The next one goes on where it was.
#[derive(Debug, thiserror::Error)]
enum LegacyError {
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    #[error("whose a project is cannot be looked up: {0}")]
    Postgres(#[from] sqlx::Error),
}

/// What drains the legacy stream. Cheap to clone.
#[derive(Clone)]
pub struct Legacy {
    redis: Redis,
    arrivals: Arrivals,
    letters: Letters,
    projects: Projects,
    /// Whether it is to be drained.
    open: watch::Receiver<bool>,
    ledger: Ledger,
    parked: Parked,
}

/// An entry on its way.
struct Move {
    id: EntryId,
    goal: Goal,
    what: What,
}

enum What {
    /// For its shard.
    Envelope(Vec<u8>),
    /// For the dead letters, with its bytes.
    Letter(Box<Description>, Vec<u8>),
}

/// What is told once and not again until it changes.
#[derive(Default)]
struct Told {
    stragglers: u64,
    other_reader: Option<String>,
}

/// Who has to wait for the rest of a pass.
#[derive(Default)]
struct Waiting {
    /// Their shard is closed to them.
    orgs: HashSet<OrgId>,
    /// There is no room for more dead letters.
    letters: bool,
}

impl Legacy {
    /// Drains the stream in that Redis while `open` says so.
    pub fn new(
        redis: Redis,
        projects: Projects,
        open: watch::Receiver<bool>,
        dlq_bytes_max: u64,
        ledger: &Ledger,
        parked: &Parked,
    ) -> Self {
        let (arrivals, letters) = (Arrivals::new(redis.clone()), Letters::new(redis.clone(), dlq_bytes_max));
        Self { redis, arrivals, letters, projects, open, ledger: ledger.clone(), parked: parked.clone() }
    }

    /// Drains until the tenure ends, writing envelopes with that key.
    pub async fn drain(self, tenure: Tenure, key: EnvelopeKey) {
        let mut stream = LegacyStream::new(self.redis.clone());
        let (mut told, mut backoff) = (Told::default(), Backoff::new());
        while tenure.is_wanted() && tenure.holds() {
            match self.turn(&tenure, &key, &mut stream, &mut told).await {
                Ok(true) => backoff = Backoff::new(),
                Ok(false) => {
                    backoff = Backoff::new();
                    tokio::select! {
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                        () = tenure.ended() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "could not drain the legacy stream; trying again");
                    metrics::legacy_failed();
                    if backoff.pause(&tenure).await.is_err() {
                        break;
                    }
                }
            }
        }
        // What is left is for the next one to tell.
        metrics::legacy_left(&Left::default(), true);
    }

    /// Looks what there is, and does it. True if something was moved.
    async fn turn(
        &self,
        tenure: &Tenure,
        key: &EnvelopeKey,
        stream: &mut LegacyStream,
        told: &mut Told,
    ) -> Result<bool, LegacyError> {
        let left = legacy::look(&self.redis).await?;
        let is_open = *self.open.borrow();
        metrics::legacy_left(&left, is_open);
        if left.moving > 0 {
            self.forget_gone(stream).await?;
        }
        if !is_open {
            told.stragglers(left.entries);
            return Ok(false);
        }
        told.stragglers = 0;
        if told.other_reader(&left) {
            return Ok(false);
        }
        match stream.last().await? {
            Some(last) => self.pass(tenure, key, stream, last, &left).await,
            None => {
                for group in left.groups.iter().filter(|group| group.pending > 0) {
                    stream.acknowledge_rest(&group.name).await?;
                }
                Ok(false)
            }
        }
    }

    /// Goes through the stream once, up to `last`. An org that has to wait, waits with all of its entries until the
    /// next pass.
    async fn pass(
        &self,
        tenure: &Tenure,
        key: &EnvelopeKey,
        stream: &mut LegacyStream,
        last: EntryId,
        left: &Left,
    ) -> Result<bool, LegacyError> {
        let groups: Vec<String> = left.groups.iter().map(|group| group.name.clone()).collect();
        let (mut from, mut waiting, mut has_moved) = (EntryId::ZERO, Waiting::default(), false);
        while tenure.is_wanted() && tenure.holds() && *self.open.borrow() {
            let page = stream.page(from, last).await?;
            let Some((end, _)) = page.last() else { break };
            from = end.next();
            has_moved |=
                self.move_page(tenure, stream, self.prepare_all(page, key).await?, &groups, &mut waiting).await?;
        }
        Ok(has_moved)
    }

    async fn move_page(
        &self,
        tenure: &Tenure,
        stream: &LegacyStream,
        page: Vec<(EntryId, Option<Move>)>,
        groups: &[String],
        waiting: &mut Waiting,
    ) -> Result<bool, LegacyError> {
        let (mut moves, mut empty) = (Vec::with_capacity(page.len()), Vec::new());
        for (id, prepared) in page {
            match prepared {
                Some(Move { goal: Goal::Shard(_, org), .. }) if waiting.orgs.contains(&org) => {}
                Some(Move { goal: Goal::Letters, .. }) if waiting.letters => {}
                Some(one) => moves.push(one),
                None => empty.push(id),
            }
        }
        let (moves, mut done) = self.note(stream, moves).await?;
        // What goes to one place goes in order; places do not wait for each other.
        let mut by_place: HashMap<Option<OrgId>, Vec<Move>> = HashMap::new();
        for one in moves {
            let org = match one.goal {
                Goal::Shard(_, org) => Some(org),
                Goal::Letters => None,
            };
            by_place.entry(org).or_default().push(one);
        }
        let appended = by_place.into_values().map(|moves| self.append_all(tenure, moves));
        for (appended, refused) in try_join_all(appended).await? {
            done.extend(appended);
            match refused {
                Some(Goal::Shard(_, org)) => drop(waiting.orgs.insert(org)),
                Some(Goal::Letters) => waiting.letters = true,
                None => {}
            }
        }
        self.finish(stream, &done, &empty, groups).await?;
        Ok(!done.is_empty() || !empty.is_empty())
    }

    async fn prepare_all(
        &self,
        page: Vec<(EntryId, Vec<u8>)>,
        key: &EnvelopeKey,
    ) -> Result<Vec<(EntryId, Option<Move>)>, LegacyError> {
        let mut prepared = Vec::with_capacity(page.len());
        for (id, data) in page {
            prepared.push((id, self.prepare(id, data, key).await?));
        }
        Ok(prepared)
    }

    /// Where an entry goes, and as what; `None` if there is nothing in it.
    async fn prepare(&self, id: EntryId, data: Vec<u8>, key: &EnvelopeKey) -> Result<Option<Move>, LegacyError> {
        let translated = match Old::read(id, &data) {
            Ok(old) => match self.projects.find(old.project()).await? {
                Some(place) => {
                    let goal = Goal::Shard(place.shard, place.org_id);
                    let translated = if data.len() > TRANSLATE_INLINE_BYTES_MAX {
                        tokio::task::block_in_place(|| old.translate(&place, key))
                    } else {
                        old.translate(&place, key)
                    };
                    translated.map(|envelope| (goal, envelope)).map_err(|flaw| (Some(place.org_id), flaw))
                }
                None => Err((None, Flaw::unknown_project(old.project()))),
            },
            Err(flaw) => Err((None, flaw)),
        };
        Ok(match translated {
            Ok((goal, envelope)) => envelope.map(|bytes| Move { id, goal, what: What::Envelope(bytes) }),
            Err((org, flaw)) => {
                // What it says of an org is not believed, so it is nobody's.
                let letter = dead_letter::describe(id, None, flaw.reason, 0, &flaw.detail);
                let project_org = org.map(|org| org.to_string()).unwrap_or_default();
                tracing::warn!(entry = %id, reason = %flaw.reason, project_org, detail = letter.detail, "an envelope of the legacy stream becomes a dead letter");
                Some(Move { id, goal: Goal::Letters, what: What::Letter(Box::new(letter), data) })
            }
        })
    }

    /// Writes down where entries go. Answers those that are to go there, and those that are there already.
    async fn note(&self, stream: &LegacyStream, moves: Vec<Move>) -> Result<(Vec<Move>, Vec<Move>), LegacyError> {
        let goals: Vec<_> = moves.iter().map(|one| (one.id, one.goal, None)).collect();
        let noted = if goals.is_empty() { Vec::new() } else { stream.note(&goals).await? };
        let (mut ready, mut there) = (Vec::with_capacity(moves.len()), Vec::new());
        for (mut one, noted) in moves.into_iter().zip(noted) {
            match noted {
                None => {}
                Some(noted) if noted == one.goal => ready.push(one),
                Some(noted) if self.has(noted, one.id).await? => {
                    one.goal = noted;
                    there.push(one);
                }
                Some(noted) => {
                    let renoted = stream.note(&[(one.id, one.goal, Some(noted))]).await?;
                    if renoted == [Some(one.goal)] {
                        ready.push(one);
                    }
                }
            }
        }
        Ok((ready, there))
    }

    /// Appends what goes to one place, in order. Answers what is there, and the goal that takes no more for now.
    async fn append_all(&self, tenure: &Tenure, moves: Vec<Move>) -> Result<(Vec<Move>, Option<Goal>), RedisError> {
        let mut appended = Vec::with_capacity(moves.len());
        for one in moves {
            if !tenure.holds() {
                break;
            }
            let token = token(one.id);
            let is_there = match (&one.what, one.goal) {
                (What::Envelope(bytes), Goal::Shard(shard, org)) => {
                    let kept = self.arrivals.append(Place::Shard(shard, org), &token, ENVELOPE_FIELD, bytes).await?;
                    if kept == Appended::Closed {
                        self.projects.forget(org);
                    }
                    kept == Appended::Kept
                }
                (What::Letter(letter, data), _) => self.letters.add(&token, letter, data).await?,
                (What::Envelope(_), Goal::Letters) => false,
            };
            if !is_there {
                return Ok((appended, Some(one.goal)));
            }
            appended.push(one);
        }
        Ok((appended, None))
    }

    /// Takes out what is elsewhere, and what had nothing in it.
    async fn finish(
        &self,
        stream: &LegacyStream,
        done: &[Move],
        empty: &[EntryId],
        groups: &[String],
    ) -> Result<(), LegacyError> {
        let moved: Vec<EntryId> = done.iter().map(|one| one.id).collect();
        let all: Vec<EntryId> = moved.iter().chain(empty).copied().collect();
        if all.is_empty() {
            return Ok(());
        }
        stream.take(&all, groups).await?;
        for one in done {
            if let What::Letter(letter, _) = &one.what {
                self.ledger.refused_unread(None, Outcome::DeadLettered, letter.reason.as_str());
                self.parked.note(Source::Legacy, letter);
            }
        }
        metrics::legacy_moved(done.iter().filter(|one| one.goal != Goal::Letters).count(), "moved");
        metrics::legacy_moved(done.iter().filter(|one| one.goal == Goal::Letters).count(), "dead_lettered");
        metrics::legacy_moved(empty.len(), "empty");
        self.settle(done.iter().map(|one| (one.id, one.goal))).await?;
        if !moved.is_empty() {
            stream.forget(&moved).await?;
        }
        Ok(())
    }

    /// Ends what somebody who died had taken out.
    async fn forget_gone(&self, stream: &LegacyStream) -> Result<(), LegacyError> {
        let gone = stream.gone().await?;
        if gone.is_empty() {
            return Ok(());
        }
        self.settle(gone.iter().copied()).await?;
        let ids: Vec<EntryId> = gone.into_iter().map(|(id, _)| id).collect();
        Ok(stream.forget(&ids).await?)
    }

    async fn settle(&self, moved: impl Iterator<Item = (EntryId, Goal)>) -> Result<(), RedisError> {
        let settled = moved.map(|(id, goal)| async move {
            let token = token(id);
            match goal {
                Goal::Shard(shard, org) => self.arrivals.settle(Place::Shard(shard, org), &token).await,
                Goal::Letters => self.letters.settle(&token).await,
            }
        });
        join_all(settled).await.into_iter().collect()
    }

    async fn has(&self, goal: Goal, id: EntryId) -> Result<bool, RedisError> {
        match goal {
            Goal::Shard(shard, org) => self.arrivals.has(Place::Shard(shard, org), &token(id)).await,
            Goal::Letters => self.letters.has(&token(id)).await,
        }
    }
}

/// Under which an entry arrives elsewhere.
fn token(id: EntryId) -> String {
    format!("legacy/{id}")
}

impl Told {
    /// Entries that were written although the stream is closed: somebody still runs an old release.
    fn stragglers(&mut self, entries: u64) {
        if entries > self.stragglers {
            tracing::error!(
                entries,
                "the legacy stream is closed and somebody writes to it; nothing is lost: find who it is, and run tracectl cutover reopen"
            );
        }
        self.stragglers = entries;
    }

    /// Whether a reader of an older release is at work, who would store what we store.
    fn other_reader(&mut self, left: &Left) -> bool {
        let reader = left.other_reader().map(|group| group.name.clone());
        if let Some(group) = reader.as_ref().filter(|_| reader != self.other_reader) {
            tracing::warn!(group, "a worker of an older release reads the legacy stream; waiting until it is stopped");
        }
        self.other_reader = reader;
        self.other_reader.is_some()
    }
}
