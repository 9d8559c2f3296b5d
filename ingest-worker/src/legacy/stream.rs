//! The legacy stream in Redis: reads it, notes where its entries go, deletes them.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;
use queue::dlq::LEGACY_FIELD;
use redis::streams::StreamRangeReply;
use redis::{RedisError, Script};
use stores::entries;
use stores::entries::{Entry, PageMax, READ_BYTES_MAX};
use stores::keys::RedisKey;
use stores::redis::Redis;

static NOTE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("note.lua")));

/// The smallest bound of a page, in bytes, however often reads have failed.
const PAGE_BYTES_MIN: usize = 16 << 10;
/// Most entries of one page.
const PAGE_ENTRIES_MAX: usize = 128;
/// How many notes are checked at a time for entries that are gone. Hardly more entries are being moved at a time.
const NOTES_MAX: usize = 1_000;
/// How many entries are acknowledged at a time that readers of older releases deleted without acknowledging them.
const FORGOTTEN_MAX: usize = 1_000;

/// Where an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Destination {
    /// The shard that the org's entries go to.
    Shard(Shard, OrgId),
    /// The legacy stream's dead letters.
    DeadLetters,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(shard, org) => write!(f, "{shard} {org}"),
            Self::DeadLetters => f.write_str("dlq"),
        }
    }
}

impl FromStr for Destination {
    type Err = RedisError;

    fn from_str(text: &str) -> Result<Self, RedisError> {
        let shard = || {
            let (shard, org) = text.split_once(' ')?;
            Some(Self::Shard(Shard::new(shard.parse().ok()?)?, org.parse().ok()?))
        };
        match text {
            "dlq" => Ok(Self::DeadLetters),
            _ => shard().ok_or_else(|| unexpected("a note of the legacy stream is not of this release")),
        }
    }
}

fn unexpected(what: &'static str) -> RedisError {
    RedisError::from((redis::ErrorKind::UnexpectedReturnType, what))
}

fn entry_id(text: &str) -> Result<EntryId, RedisError> {
    text.parse().map_err(|_| unexpected("not an id of a stream"))
}

/// The legacy stream's keys, and the connection to them.
pub(super) struct LegacyStream {
    redis: Redis,
    stream: RedisKey,
    moving: RedisKey,
    page_bytes: usize,
}

impl LegacyStream {
    /// The legacy stream in that Redis.
    pub(super) fn new(redis: Redis) -> Self {
        let (stream, moving) = (RedisKey::legacy_stream(), RedisKey::legacy_moving());
        Self { redis, stream, moving, page_bytes: READ_BYTES_MAX }
    }

    /// The id of the last entry; `None` if the stream is empty.
    pub(super) async fn last(&self) -> Result<Option<EntryId>, RedisError> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(&self.stream).arg("+").arg("-").arg("COUNT").arg(1);
        let reply: StreamRangeReply = command.query_async(&mut self.redis.clone()).await?;
        reply.ids.first().map(|entry| entry_id(&entry.id)).transpose()
    }

    /// The next entries, from `from` to `to`, with their JSON.
    pub(super) async fn page(&mut self, from: EntryId, to: EntryId) -> Result<Vec<Entry>, RedisError> {
        let max = PageMax { entries: PAGE_ENTRIES_MAX, bytes: self.page_bytes };
        // An entry without the field is no envelope, and becomes an unreadable dead letter.
        let page = entries::page(&mut self.redis, &self.stream, LEGACY_FIELD, from, Some(to), max).await;
        // The network may be too slow for a large page.
        let bytes = if page.is_ok() { self.page_bytes.saturating_mul(2) } else { self.page_bytes / 2 };
        self.page_bytes = bytes.clamp(PAGE_BYTES_MIN, READ_BYTES_MAX);
        Ok(page?.entries)
    }

    /// Notes where entries go, in place of an older note if one is named. Returns where each entry goes, which is what
    /// was noted first; `None` if the entry is not in the stream any more.
    pub(super) async fn note(
        &self,
        destinations: &[(EntryId, Destination, Option<Destination>)],
    ) -> Result<Vec<Option<Destination>>, RedisError> {
        let mut call = NOTE.key(&self.stream);
        call.key(&self.moving);
        for (id, to, instead_of) in destinations {
            let instead_of = instead_of.map(|destination| destination.to_string()).unwrap_or_default();
            call.arg(id.to_string()).arg(to.to_string()).arg(instead_of);
        }
        let noted: Vec<String> = call.invoke_async(&mut self.redis.clone()).await?;
        if noted.len() != destinations.len() {
            return Err(unexpected("not a note per entry"));
        }
        noted
            .iter()
            .map(|destination| if destination.is_empty() { Ok(None) } else { destination.parse().map(Some) })
            .collect()
    }

    /// Deletes entries that have arrived elsewhere. No reader gets them after this.
    pub(super) async fn delete(&self, ids: &[EntryId], groups: &[String]) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        // Acknowledged first: an entry that is acknowledged and still there is moved again, without effect.
        let ids = texts(ids);
        for group in groups {
            pipe.cmd("XACK").arg(&self.stream).arg(group).arg(&ids);
        }
        pipe.cmd("XDEL").arg(&self.stream).arg(&ids);
        pipe.exec_async(&mut self.redis.clone()).await
    }

    /// Deletes the notes of entries.
    pub(super) async fn forget(&self, ids: &[EntryId]) -> Result<(), RedisError> {
        let mut command = redis::cmd("HDEL");
        command.arg(&self.moving).arg(texts(ids)).exec_async(&mut self.redis.clone()).await
    }

    /// Entries that were deleted and whose notes are still there, and where they went: a worker crashed in between.
    pub(super) async fn deleted(&self) -> Result<Vec<(EntryId, Destination)>, RedisError> {
        let mut command = redis::cmd("HRANDFIELD");
        command.arg(&self.moving).arg(NOTES_MAX).arg("WITHVALUES");
        let noted: Vec<(String, String)> = command.query_async(&mut self.redis.clone()).await?;
        let mut gone = Vec::new();
        for (id, destination) in noted {
            let mut command = redis::cmd("XRANGE");
            command.arg(&self.stream).arg(&id).arg(&id);
            let found: StreamRangeReply = command.query_async(&mut self.redis.clone()).await?;
            if found.ids.is_empty() {
                gone.push((entry_id(&id)?, destination.parse()?));
            }
        }
        Ok(gone)
    }

    /// Acknowledges entries that a group's readers have deleted without acknowledging them. Call it only when the
    /// stream is empty and those readers are stopped.
    pub(super) async fn acknowledge_rest(&self, group: &str) -> Result<(), RedisError> {
        let mut command = redis::cmd("XPENDING");
        command.arg(&self.stream).arg(group).arg("-").arg("+").arg(FORGOTTEN_MAX);
        let pending: Vec<(String, String, u64, u64)> = command.query_async(&mut self.redis.clone()).await?;
        let ids: Vec<String> = pending.into_iter().map(|(id, ..)| id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XACK");
        command.arg(&self.stream).arg(group).arg(&ids).exec_async(&mut self.redis.clone()).await
    }
}

/// Entry ids as texts, for commands.
fn texts(ids: &[EntryId]) -> Vec<String> {
    ids.iter().map(EntryId::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_notes_read_back() {
        let org = OrgId(uuid::Uuid::from_u128(7));
        for destination in [Destination::Shard(Shard::new(11).unwrap(), org), Destination::DeadLetters] {
            assert_eq!(destination.to_string().parse::<Destination>().unwrap(), destination);
        }
        for bad in ["", "16 00000000-0000-0000-0000-000000000007", "3", "3 x"] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
