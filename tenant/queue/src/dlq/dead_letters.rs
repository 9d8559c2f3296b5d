//! Reads, replays and drops dead letters.
//!
//! Every change may be repeated: it takes effect once.

use std::collections::VecDeque;
use std::sync::LazyLock;

use model::entry_id::EntryId;
use model::ids::OrgId;
use outcomes::{KEPT_S, Outcome};
use redis::{RedisError, Script, Value};
use stores::entries::READ_BYTES_MAX;
use stores::keys::RedisKey;
use stores::redis::Redis;
use thiserror::Error;
use wire::envelope::{EnvelopeKey, HEADER_BYTES};

use super::letter::Unreadable;
use super::{DESCRIPTION_FIELD, DeadLetter, DeadLetterId, Listed, Source};
use crate::appender::Appended;
use crate::arrival::{Arrivals, Place};

static PAGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("page.lua")));
static REPLAY: LazyLock<Script> = LazyLock::new(|| Script::new(&taking(include_str!("replay.lua"))));
static DROP: LazyLock<Script> = LazyLock::new(|| Script::new(&taking(include_str!("drop.lua"))));

/// The most dead letters on one page.
pub const PAGE_LETTERS: usize = 100;

/// These scripts may run on a full Redis (allow-oom), because replaying and dropping free memory.
fn taking(script: &str) -> String {
    format!("#!lua flags=allow-oom\n{}\n{script}", include_str!("take.lua"))
}

/// Why an operation on dead letters failed.
#[derive(Debug, Error)]
pub enum DlqError {
    /// Redis failed. The operation may or may not have happened; it may be repeated.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Redis sent a reply that this release does not understand.
    #[error("redis answered something unexpected about dead letters")]
    Reply,
}

/// The result of replaying a dead letter.
#[derive(Debug)]
pub enum Replayed {
    /// It is in its stream again, and no longer a dead letter.
    Sent,
    /// It was no longer a dead letter: it had been replayed or dropped before.
    Gone,
    /// No worker could read it. It stays a dead letter.
    Skipped(Unreadable),
}

/// The dead letters in a Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    redis: Redis,
}

impl DeadLetters {
    /// A handle to the dead letters in that Redis.
    pub const fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// How many dead letters a source has, and how many bytes they take.
    pub async fn size(&self, source: Source) -> Result<(u64, u64), DlqError> {
        let mut redis = self.redis.clone();
        let letters = redis::cmd("XLEN").arg(source.letters()).query_async(&mut redis).await?;
        let bytes: Option<u64> = redis::cmd("GET").arg(source.bytes()).query_async(&mut redis).await?;
        Ok((letters, bytes.unwrap_or_default()))
    }

    /// A dead letter with its bytes; `None` if there is none with that name.
    pub async fn read(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, DlqError> {
        let entry = id.entry.to_string();
        let mut range = redis::cmd("XRANGE");
        range.arg(id.source.letters()).arg(&entry).arg(&entry);
        let found: redis::streams::StreamRangeReply = range.query_async(&mut self.redis.clone()).await?;
        let Some(found) = found.ids.into_iter().next() else { return Ok(None) };
        let bytes = found.map.values().map(|value| bulk(value).map_or(0, |bytes| bytes.len() as u64)).sum();
        let field = |name: &str| found.map.get(name).and_then(bulk).unwrap_or_default();
        let content = field(id.source.field());
        let description = String::from_utf8_lossy(field(DESCRIPTION_FIELD));
        Ok(Some(DeadLetter { listed: Listed::new(id, &description, bytes, content), content: content.to_vec() }))
    }

    /// Replays a dead letter, limited to the tables that lack its rows. `key` must be the key that it was written with.
    pub async fn replay(&self, letter: &DeadLetter, key: &EnvelopeKey) -> Result<Replayed, DlqError> {
        let DeadLetterId { source, entry } = letter.listed.id;
        let content = match letter.missing_rows(key) {
            Ok(content) => content,
            Err(error) => return Ok(Replayed::Skipped(error)),
        };
        let is_sent = match source {
            Source::Shard(shard) => {
                let mut call = REPLAY.key(source.letters());
                call.key(source.bytes()).key(RedisKey::shard_stream(shard));
                call.arg(entry.to_string()).arg(source.field()).arg(&*content);
                call.invoke_async(&mut self.redis.clone()).await?
            }
            Source::Legacy => self.replay_legacy(letter, &content).await?,
        };
        Ok(if is_sent { Replayed::Sent } else { Replayed::Gone })
    }

    /// Replays a dead letter of the legacy stream, which is in another slot than its dead letters.
    async fn replay_legacy(&self, letter: &DeadLetter, content: &[u8]) -> Result<bool, DlqError> {
        let id = letter.listed.id;
        let (arrivals, token) = (Arrivals::new(self.redis.clone()), id.to_string());
        // It may have been dropped since it was read.
        if self.read(id).await?.is_none() {
            arrivals.settle(Place::Legacy, &token).await?;
            return Ok(false);
        }
        let Appended::Kept = arrivals.append(Place::Legacy, &token, id.source.field(), content).await? else {
            // The legacy stream is never closed to an org.
            return Err(DlqError::Reply);
        };
        let (was_there, _) = self.take_out(&letter.listed, None).await?;
        arrivals.settle(Place::Legacy, &token).await?;
        Ok(was_there)
    }

    /// Drops a dead letter, and counts its items as [`Outcome::DeadLettered`], `dropped`, in the hour in which they
    /// were received. False if there was none.
    ///
    /// The script that deletes the letter counts them, so that sum is exact; the org's outcomes hold a copy of it,
    /// which a repetition corrects.
    pub async fn drop(&self, letter: &Listed) -> Result<bool, DlqError> {
        let Some(org) = letter.description.org.filter(|_| letter.description.items > 0) else {
            return Ok(self.take_out(letter, None).await?.0);
        };
        let (was_there, sum) = self.take_out(letter, Some(org)).await?;
        let outcomes = RedisKey::outcomes(Some(org), letter.hour());
        let field = format!("dlq-{}:{}:dropped", letter.id.source, Outcome::DeadLettered.as_str());
        let mut pipe = redis::pipe();
        pipe.cmd("HSET").arg(&outcomes).arg(field).arg(sum).ignore();
        pipe.cmd("EXPIRE").arg(&outcomes).arg(KEPT_S).ignore();
        pipe.query_async::<()>(&mut self.redis.clone()).await?;
        Ok(was_there)
    }

    /// Deletes a dead letter and counts its items for that org. Returns whether it existed, and the org's sum.
    async fn take_out(&self, letter: &Listed, org: Option<OrgId>) -> Result<(bool, u64), DlqError> {
        let DeadLetterId { source, entry } = letter.id;
        let mut call = DROP.key(source.letters());
        call.key(source.bytes());
        if org.is_some() {
            call.key(source.dropped(letter.hour()));
        }
        call.arg(entry.to_string());
        if let Some(org) = org {
            call.arg(org.to_string()).arg(letter.description.items).arg(KEPT_S);
        }
        Ok(call.invoke_async(&mut self.redis.clone()).await?)
    }

    /// The dead letters of a source after one of them, up to `until`; and the id of the last one of all.
    async fn page(
        &self,
        source: Source,
        after: Option<EntryId>,
        until: Option<EntryId>,
    ) -> Result<(Option<EntryId>, Vec<Listed>), DlqError> {
        let mut call = PAGE.key(source.letters());
        call.arg(after.map_or_else(|| "-".to_owned(), |after| format!("({after}")));
        call.arg(until.map_or_else(|| "+".to_owned(), |until| until.to_string()));
        call.arg(PAGE_LETTERS).arg(source.field()).arg(HEADER_BYTES).arg(READ_BYTES_MAX);
        let reply: Vec<Value> = call.invoke_async(&mut self.redis.clone()).await?;
        let mut reply = reply.into_iter();
        let last: String = redis::from_redis_value(reply.next().ok_or(DlqError::Reply)?).map_err(RedisError::from)?;
        let letters = reply.map(|letter| {
            let (entry, description, bytes, head): (String, Vec<u8>, u64, Vec<u8>) =
                redis::from_redis_value(letter).map_err(RedisError::from)?;
            let entry = entry.parse().map_err(|_| DlqError::Reply)?;
            Ok(Listed::new(DeadLetterId { source, entry }, &String::from_utf8_lossy(&description), bytes, &head))
        });
        Ok((last.parse().ok(), letters.collect::<Result<_, DlqError>>()?))
    }
}

/// Iterates over dead letters page by page. Of each source it visits those that exist when it gets there, and not those
/// that are added later.
#[derive(Debug)]
pub struct Walk {
    dead_letters: DeadLetters,
    sources: VecDeque<Source>,
    after: Option<EntryId>,
    until: Option<EntryId>,
}

impl Walk {
    /// Visits those sources, in order.
    pub fn new(dead_letters: DeadLetters, sources: impl IntoIterator<Item = Source>) -> Self {
        Self { dead_letters, sources: sources.into_iter().collect(), after: None, until: None }
    }

    /// Skips everything up to and including that letter, in the order of sources.
    #[must_use]
    pub fn after(mut self, letter: DeadLetterId) -> Self {
        self.sources.retain(|source| *source >= letter.source);
        if self.sources.front() == Some(&letter.source) {
            self.after = Some(letter.entry);
        }
        self
    }

    /// The next page, at most [`PAGE_LETTERS`] of one source and never empty; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Listed>>, DlqError> {
        while let Some(source) = self.sources.front() {
            let (last, page) = self.dead_letters.page(*source, self.after, self.until).await?;
            self.until = self.until.or(last);
            if let Some(last) = page.last() {
                self.after = Some(last.id.entry);
                return Ok(Some(page));
            }
            (self.after, self.until) = (None, None);
            self.sources.pop_front();
        }
        Ok(None)
    }
}

fn bulk(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}
