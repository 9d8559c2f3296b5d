//! Drains the legacy stream: moves the entries that were written before tenancy into the shards, in their order, each
//! entry once.
//!
//! The owner of the shard [`DRAINED_BY`] does it beside that shard's own work. An entry is moved in steps, each of
//! which may be repeated ([`queue::arrival`]): *note* where the entry goes, *append* it there under its own token,
//! *delete* it from the legacy stream, *settle* the token, *forget* the note. An entry that was deleted cannot be
//! noted any more, and the note decides where an entry goes. So it is safe if two readers drain at the same time: the
//! second repeats what the first has done, without effect, and in the same order.
//!
//! A note changes in one case only: nothing has arrived where it leads. Either the shard is closed to the org, which
//! has moved to another shard; or the project was unknown and is known now. Then a reader that paused between its note
//! and its append could append late. So it checks its guard right before the append, and a closed shard refuses the
//! append.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use lease::LeaseGuard;
use legacy::{Backlog, DeadLetters, Projects};
use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;
use outcomes::{Ledger, Outcome};
use queue::appender::Appended;
use queue::arrival::{Arrivals, Place};
use queue::dlq::{Description, Source};
use redis::RedisError;
use stores::redis::Redis;
use tokio::sync::watch;
use wire::envelope::{ENVELOPE_FIELD, EnvelopeKey};

use crate::backoff::Backoff;
use crate::dead_letter_notes::DeadLetterNotes;
use crate::{dead_letter, metrics};

mod envelope;
mod stream;

use envelope::{Flaw, LegacyEnvelope};
use stream::{Destination, LegacyStream};

/// The shard whose owner drains the legacy stream.
pub const DRAINED_BY: Shard = Shard::FIRST;
/// How often to look for new entries while the stream is empty or closed.
pub const POLL_EVERY: Duration = Duration::from_millis(500);
/// Envelopes above this many bytes are translated in a blocking section, so that the thread's other tasks go on
/// elsewhere.
const TRANSLATE_INLINE_BYTES_MAX: usize = 256 << 10;

/// Why a turn of draining ended early. The next turn goes on where this one stopped.
#[derive(Debug, thiserror::Error)]
enum LegacyError {
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    #[error("whose a project is cannot be looked up: {0}")]
    Postgres(#[from] sqlx::Error),
}

/// Drains the legacy stream. Cheap to clone.
#[derive(Clone)]
pub struct Legacy {
    redis: Redis,
    arrivals: Arrivals,
    dead_letters: DeadLetters,
    projects: Projects,
    /// Whether the stream is to be drained.
    open: watch::Receiver<bool>,
    ledger: Ledger,
    dead_letter_notes: DeadLetterNotes,
}

/// An entry that is being moved, and where it goes.
struct Move {
    id: EntryId,
    destination: Destination,
    payload: Payload,
}

enum Payload {
    /// An envelope that goes into its org's shard, encoded.
    Envelope(Vec<u8>),
    /// A dead letter: its description and the entry's bytes.
    DeadLetter(Box<Description>, Vec<u8>),
}

/// What was logged already, so that it is logged again only when it changes.
#[derive(Default)]
struct LastLogged {
    stragglers: u64,
    old_reader: Option<String>,
}

/// What is not moved in the rest of a pass.
#[derive(Default)]
struct Waiting {
    /// Orgs that their shard is closed to.
    orgs: HashSet<OrgId>,
    /// Whether there is no room for more dead letters.
    dead_letters: bool,
}

impl Legacy {
    /// Drains the stream in that Redis while `open` is true. `dlq_bytes_max` bounds the dead letters of the stream.
    pub fn new(
        redis: Redis,
        projects: Projects,
        open: watch::Receiver<bool>,
        dlq_bytes_max: u64,
        ledger: &Ledger,
        dead_letter_notes: &DeadLetterNotes,
    ) -> Self {
        let (arrivals, dead_letters) = (Arrivals::new(redis.clone()), DeadLetters::new(redis.clone(), dlq_bytes_max));
        Self {
            redis,
            arrivals,
            dead_letters,
            projects,
            open,
            ledger: ledger.clone(),
            dead_letter_notes: dead_letter_notes.clone(),
        }
    }

    /// Drains until the guard ends. Envelopes are sealed with that key.
    pub async fn drain(self, guard: LeaseGuard, key: EnvelopeKey) {
        let mut stream = LegacyStream::new(self.redis.clone());
        let (mut logged, mut backoff) = (LastLogged::default(), Backoff::new());
        while guard.is_wanted() && guard.holds() {
            match self.turn(&guard, &key, &mut stream, &mut logged).await {
                Ok(true) => backoff = Backoff::new(),
                Ok(false) => {
                    backoff = Backoff::new();
                    tokio::select! {
                        () = tokio::time::sleep(POLL_EVERY) => {}
                        () = guard.ended() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "could not drain the legacy stream; trying again");
                    metrics::legacy_failed();
                    if backoff.pause(&guard).await.is_err() {
                        break;
                    }
                }
            }
        }
        // The next owner of the shard measures what is left.
        metrics::legacy_backlog(&Backlog::default(), true);
    }

    /// Looks at what is left and moves it. True if something was moved.
    async fn turn(
        &self,
        guard: &LeaseGuard,
        key: &EnvelopeKey,
        stream: &mut LegacyStream,
        logged: &mut LastLogged,
    ) -> Result<bool, LegacyError> {
        let backlog = legacy::read_backlog(&self.redis).await?;
        let is_open = *self.open.borrow();
        metrics::legacy_backlog(&backlog, is_open);
        if backlog.moving > 0 {
            self.forget_deleted(stream).await?;
        }
        if !is_open {
            logged.log_stragglers(backlog.entries);
            return Ok(false);
        }
        logged.stragglers = 0;
        if logged.log_old_reader(&backlog) {
            return Ok(false);
        }
        match stream.last().await? {
            Some(last) => self.pass(guard, key, stream, last, &backlog).await,
            None => {
                for group in backlog.groups.iter().filter(|group| group.pending > 0) {
                    stream.acknowledge_rest(&group.name).await?;
                }
                Ok(false)
            }
        }
    }

    /// Goes through the stream once, up to `last`. If one entry of an org cannot be moved, all later entries of that
    /// org wait for the next pass.
    async fn pass(
        &self,
        guard: &LeaseGuard,
        key: &EnvelopeKey,
        stream: &mut LegacyStream,
        last: EntryId,
        backlog: &Backlog,
    ) -> Result<bool, LegacyError> {
        let groups: Vec<String> = backlog.groups.iter().map(|group| group.name.clone()).collect();
        let (mut from, mut waiting, mut has_moved) = (EntryId::ZERO, Waiting::default(), false);
        while guard.is_wanted() && guard.holds() && *self.open.borrow() {
            let page = stream.page(from, last).await?;
            let Some((end, _)) = page.last() else { break };
            from = end.next();
            has_moved |=
                self.move_page(guard, stream, self.prepare_all(page, key).await?, &groups, &mut waiting).await?;
        }
        Ok(has_moved)
    }

    async fn move_page(
        &self,
        guard: &LeaseGuard,
        stream: &LegacyStream,
        page: Vec<(EntryId, Option<Move>)>,
        groups: &[String],
        waiting: &mut Waiting,
    ) -> Result<bool, LegacyError> {
        let (mut moves, mut empty) = (Vec::with_capacity(page.len()), Vec::new());
        for (id, prepared) in page {
            match prepared {
                Some(Move { destination: Destination::Shard(_, org), .. }) if waiting.orgs.contains(&org) => {}
                Some(Move { destination: Destination::DeadLetters, .. }) if waiting.dead_letters => {}
                Some(one) => moves.push(one),
                None => empty.push(id),
            }
        }
        let (moves, mut done) = self.note(stream, moves).await?;
        // The entries for one org, or for the dead letters, are appended in order. Orgs do not wait for each other.
        let mut by_place: HashMap<Option<OrgId>, Vec<Move>> = HashMap::new();
        for one in moves {
            let org = match one.destination {
                Destination::Shard(_, org) => Some(org),
                Destination::DeadLetters => None,
            };
            by_place.entry(org).or_default().push(one);
        }
        let appended = by_place.into_values().map(|moves| self.append_all(guard, moves));
        for (appended, refused) in try_join_all(appended).await? {
            done.extend(appended);
            match refused {
                Some(Destination::Shard(_, org)) => drop(waiting.orgs.insert(org)),
                Some(Destination::DeadLetters) => waiting.dead_letters = true,
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

    /// Where an entry goes, and its bytes there; `None` if the entry is empty.
    async fn prepare(&self, id: EntryId, data: Vec<u8>, key: &EnvelopeKey) -> Result<Option<Move>, LegacyError> {
        let translated = match LegacyEnvelope::read(id, &data) {
            Ok(old) => match self.projects.find(old.project()).await? {
                Some(place) => {
                    let destination = Destination::Shard(place.shard, place.org_id);
                    let translated = if data.len() > TRANSLATE_INLINE_BYTES_MAX {
                        tokio::task::block_in_place(|| old.translate(&place, key))
                    } else {
                        old.translate(&place, key)
                    };
                    translated.map(|envelope| (destination, envelope)).map_err(|flaw| (Some(place.org_id), flaw))
                }
                None => Err((None, Flaw::unknown_project(old.project()))),
            },
            Err(flaw) => Err((None, flaw)),
        };
        Ok(match translated {
            Ok((destination, envelope)) => {
                envelope.map(|bytes| Move { id, destination, payload: Payload::Envelope(bytes) })
            }
            Err((org, flaw)) => {
                // The org that the entry names is not believed, so the dead letter has none.
                let letter = dead_letter::describe(id, None, flaw.reason, 0, &flaw.detail);
                let project_org = org.map(|org| org.to_string()).unwrap_or_default();
                tracing::warn!(entry = %id, reason = %flaw.reason, project_org, detail = letter.detail, "an envelope of the legacy stream becomes a dead letter");
                Some(Move {
                    id,
                    destination: Destination::DeadLetters,
                    payload: Payload::DeadLetter(Box::new(letter), data),
                })
            }
        })
    }

    /// Notes where entries go. Returns the entries that are to be appended, and those that were appended before.
    async fn note(&self, stream: &LegacyStream, moves: Vec<Move>) -> Result<(Vec<Move>, Vec<Move>), LegacyError> {
        let destinations: Vec<_> = moves.iter().map(|one| (one.id, one.destination, None)).collect();
        let noted = if destinations.is_empty() { Vec::new() } else { stream.note(&destinations).await? };
        let (mut ready, mut there) = (Vec::with_capacity(moves.len()), Vec::new());
        for (mut one, noted) in moves.into_iter().zip(noted) {
            match noted {
                None => {}
                Some(noted) if noted == one.destination => ready.push(one),
                Some(noted) if self.has(noted, one.id).await? => {
                    one.destination = noted;
                    there.push(one);
                }
                Some(noted) => {
                    let renoted = stream.note(&[(one.id, one.destination, Some(noted))]).await?;
                    if renoted == [Some(one.destination)] {
                        ready.push(one);
                    }
                }
            }
        }
        Ok((ready, there))
    }

    /// Appends the entries for one destination, in order. Returns those that are there now, and the destination if it
    /// takes no more for now.
    async fn append_all(
        &self,
        guard: &LeaseGuard,
        moves: Vec<Move>,
    ) -> Result<(Vec<Move>, Option<Destination>), RedisError> {
        let mut appended = Vec::with_capacity(moves.len());
        for one in moves {
            if !guard.holds() {
                break;
            }
            let token = token(one.id);
            let is_there = match (&one.payload, one.destination) {
                (Payload::Envelope(bytes), Destination::Shard(shard, org)) => {
                    let kept = self.arrivals.append(Place::Shard(shard, org), &token, ENVELOPE_FIELD, bytes).await?;
                    if kept == Appended::Closed {
                        self.projects.forget(org);
                    }
                    kept == Appended::Kept
                }
                (Payload::DeadLetter(letter, data), _) => self.dead_letters.add(&token, letter, data).await?,
                (Payload::Envelope(_), Destination::DeadLetters) => false,
            };
            if !is_there {
                return Ok((appended, Some(one.destination)));
            }
            appended.push(one);
        }
        Ok((appended, None))
    }

    /// Deletes the entries that have arrived elsewhere, and the empty ones.
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
        stream.delete(&all, groups).await?;
        for one in done {
            if let Payload::DeadLetter(letter, _) = &one.payload {
                self.ledger.refused_unread(None, Outcome::DeadLettered, letter.reason.as_str());
                self.dead_letter_notes.note(Source::Legacy, letter);
            }
        }
        metrics::legacy_moved(done.iter().filter(|one| one.destination != Destination::DeadLetters).count(), "moved");
        metrics::legacy_moved(
            done.iter().filter(|one| one.destination == Destination::DeadLetters).count(),
            "dead_lettered",
        );
        metrics::legacy_moved(empty.len(), "empty");
        self.settle(done.iter().map(|one| (one.id, one.destination))).await?;
        if !moved.is_empty() {
            stream.forget(&moved).await?;
        }
        Ok(())
    }

    /// Settles and forgets the entries that another worker deleted before it crashed.
    async fn forget_deleted(&self, stream: &LegacyStream) -> Result<(), LegacyError> {
        let gone = stream.deleted().await?;
        if gone.is_empty() {
            return Ok(());
        }
        self.settle(gone.iter().copied()).await?;
        let ids: Vec<EntryId> = gone.into_iter().map(|(id, _)| id).collect();
        Ok(stream.forget(&ids).await?)
    }

    async fn settle(&self, moved: impl Iterator<Item = (EntryId, Destination)>) -> Result<(), RedisError> {
        let settled = moved.map(|(id, destination)| async move {
            let token = token(id);
            match destination {
                Destination::Shard(shard, org) => self.arrivals.settle(Place::Shard(shard, org), &token).await,
                Destination::DeadLetters => self.dead_letters.settle(&token).await,
            }
        });
        join_all(settled).await.into_iter().collect()
    }

    async fn has(&self, destination: Destination, id: EntryId) -> Result<bool, RedisError> {
        match destination {
            Destination::Shard(shard, org) => self.arrivals.has(Place::Shard(shard, org), &token(id)).await,
            Destination::DeadLetters => self.dead_letters.has(&token(id)).await,
        }
    }
}

/// The token under which an entry arrives elsewhere.
fn token(id: EntryId) -> String {
    format!("legacy/{id}")
}

impl LastLogged {
    /// Logs entries that were written although the stream is closed: a process of an older release still runs.
    fn log_stragglers(&mut self, entries: u64) {
        if entries > self.stragglers {
            tracing::error!(
                entries,
                "the legacy stream is closed and somebody writes to it; nothing is lost: find who it is, and run tracectl cutover reopen"
            );
        }
        self.stragglers = entries;
    }

    /// Whether a worker of an older release reads the stream. It would store the same entries as this worker.
    fn log_old_reader(&mut self, backlog: &Backlog) -> bool {
        let reader = backlog.old_reader().map(|group| group.name.clone());
        if let Some(group) = reader.as_ref().filter(|_| reader != self.old_reader) {
            tracing::warn!(group, "a worker of an older release reads the legacy stream; waiting until it is stopped");
        }
        self.old_reader = reader;
        self.old_reader.is_some()
    }
}
