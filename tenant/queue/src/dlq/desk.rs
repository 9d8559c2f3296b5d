//! Reading dead letters, sending them again, throwing them away.
//!
//! Every change may be repeated: what was done to a letter is done once.

use std::collections::VecDeque;
use std::sync::LazyLock;

use model::ids::OrgId;
use redis::{RedisError, Script, Value};
use thiserror::Error;
use wire::envelope::{EnvelopeKey, HEADER_BYTES};

use super::letter::Unreadable;
use super::{DESCRIPTION_FIELD, Letter, LetterId, Listed, Source};
use crate::arrival::{Arrivals, Place};
use crate::fence::Appended;
use model::entry_id::EntryId;
use outcomes::{KEPT_S, Outcome};
use stores::entries::READ_BYTES_MAX;
use stores::keys::RedisKey;
use stores::redis::Redis;

static PAGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("page.lua")));
static REPLAY: LazyLock<Script> = LazyLock::new(|| Script::new(&taking(include_str!("replay.lua"))));
static DROP: LazyLock<Script> = LazyLock::new(|| Script::new(&taking(include_str!("drop.lua"))));

/// Letters of one page.
pub const PAGE_LETTERS: usize = 100;

/// A full Redis must be emptied, so these scripts may run on one (allow-oom).
fn taking(script: &str) -> String {
    format!("#!lua flags=allow-oom\n{}\n{script}", include_str!("take.lua"))
}

/// Why nothing is known or done.
#[derive(Debug, Error)]
pub enum DlqError {
    /// Redis failed. What was asked for may be done or not; it may be asked for again.
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    /// Redis answered what no release of ours would understand.
    #[error("redis answered something unexpected about dead letters")]
    Reply,
}

/// What became of a letter that was to be sent again.
#[derive(Debug)]
pub enum Replayed {
    /// It is in its stream again, and no dead letter any more.
    Sent,
    /// It is no dead letter any more: it was sent again or thrown away before.
    Gone,
    /// No worker could read it. It stays a dead letter.
    Skipped(Unreadable),
}

/// The dead letters in a Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    redis: Redis,
}

impl Desk {
    /// The dead letters in that Redis.
    pub const fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// How many letters a source has, and how many bytes they take.
    pub async fn held(&self, source: Source) -> Result<(u64, u64), DlqError> {
        let mut redis = self.redis.clone();
        let letters = redis::cmd("XLEN").arg(source.letters()).query_async(&mut redis).await?;
        let bytes: Option<u64> = redis::cmd("GET").arg(source.bytes()).query_async(&mut redis).await?;
        Ok((letters, bytes.unwrap_or_default()))
    }

    /// A letter with its bytes; `None` if there is none of that name.
    pub async fn read(&self, id: LetterId) -> Result<Option<Letter>, DlqError> {
        let entry = id.entry.to_string();
        let mut range = redis::cmd("XRANGE");
        range.arg(id.source.letters()).arg(&entry).arg(&entry);
        let found: redis::streams::StreamRangeReply = range.query_async(&mut self.redis.clone()).await?;
        let Some(found) = found.ids.into_iter().next() else { return Ok(None) };
        let bytes = found.map.values().map(|value| bulk(value).map_or(0, |bytes| bytes.len() as u64)).sum();
        let field = |name: &str| found.map.get(name).and_then(bulk).unwrap_or_default();
        let content = field(id.source.field());
        let description = String::from_utf8_lossy(field(DESCRIPTION_FIELD));
        Ok(Some(Letter { listed: Listed::new(id, &description, bytes, content), content: content.to_vec() }))
    }

    /// Sends a letter again, as far as its rows are not stored: only what was written with that key.
    pub async fn replay(&self, letter: &Letter, key: &EnvelopeKey) -> Result<Replayed, DlqError> {
        let LetterId { source, entry } = letter.listed.id;
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

    /// Its stream is in another slot than its dead letters.
    async fn replay_legacy(&self, letter: &Letter, content: &[u8]) -> Result<bool, DlqError> {
        let id = letter.listed.id;
        let (arrivals, token) = (Arrivals::new(self.redis.clone()), id.to_string());
        // It may have been thrown away since it was read.
        if self.read(id).await?.is_none() {
            arrivals.settle(Place::Legacy, &token).await?;
            return Ok(false);
        }
        let Appended::Kept = arrivals.append(Place::Legacy, &token, id.source.field(), content).await? else {
            // The legacy stream is closed to nobody.
            return Err(DlqError::Reply);
        };
        let (was_there, _) = self.take_out(&letter.listed, None).await?;
        arrivals.settle(Place::Legacy, &token).await?;
        Ok(was_there)
    }

    /// Throws a letter away, and counts its items as [`Outcome::DeadLettered`], `dropped`, of the hour that they were
    /// received in. False if there was none.
    ///
    /// They are counted by the script that deletes the letter, so that sum is exact; what the org's outcomes say is a
    /// copy of it, which repeating this makes true again.
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

    /// Deletes a letter, counting its items for that org. Says whether it was there, and the org's sum.
    async fn take_out(&self, letter: &Listed, org: Option<OrgId>) -> Result<(bool, u64), DlqError> {
        let LetterId { source, entry } = letter.id;
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

    /// The letters of a source after one of them, up to `until`; and the last letter of all.
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
            Ok(Listed::new(LetterId { source, entry }, &String::from_utf8_lossy(&description), bytes, &head))
        });
        Ok((last.parse().ok(), letters.collect::<Result<_, DlqError>>()?))
    }
}

/// Goes through dead letters page by page: those that a source has when its turn comes, not those that are added
/// meanwhile.
#[derive(Debug)]
pub struct Walk {
    desk: Desk,
    sources: VecDeque<Source>,
    after: Option<EntryId>,
    until: Option<EntryId>,
}

impl Walk {
    /// Through those sources, in order.
    pub fn new(desk: Desk, sources: impl IntoIterator<Item = Source>) -> Self {
        Self { desk, sources: sources.into_iter().collect(), after: None, until: None }
    }

    /// Only what comes after that letter, in the order of sources.
    #[must_use]
    pub fn after(mut self, letter: LetterId) -> Self {
        self.sources.retain(|source| *source >= letter.source);
        if self.sources.front() == Some(&letter.source) {
            self.after = Some(letter.entry);
        }
        self
    }

    /// The next page, at most [`PAGE_LETTERS`] of one source and never empty; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Listed>>, DlqError> {
        while let Some(source) = self.sources.front() {
            let (last, page) = self.desk.page(*source, self.after, self.until).await?;
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
