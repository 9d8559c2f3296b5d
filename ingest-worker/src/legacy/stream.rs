//! The legacy stream in Redis: reading it, noting where its entries go, taking them out.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use model::entry_id::EntryId;
use model::ids::OrgId;
use model::shard::Shard;
use queue::dlq::LEGACY_FIELD;
use redis::streams::StreamRangeReply;
use redis::{RedisError, Script};
use stores::entries::{self, Entry, PageMax, READ_BYTES_MAX};
use stores::keys::RedisKey;
use stores::redis::Redis;

static NOTE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("note.lua")));

/// Bytes of a page at least, however often reading has failed.
const PAGE_BYTES_MIN: usize = 16 << 10;
/// Entries of one page.
const PAGE_ENTRIES_MAX: usize = 128;
/// Notes of which one look finds whose entry is gone. Of what is on its way at a time there are hardly more.
const NOTES_MAX: usize = 1_000;
/// Entries of which one look finds that readers of older releases never acknowledged them.
const FORGOTTEN_MAX: usize = 1_000;

/// Where an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    /// Into a shard, for an org.
    Shard(Shard, OrgId),
    /// Into the dead letters.
    Letters,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(shard, org) => write!(f, "{shard} {org}"),
            Self::Letters => f.write_str("dlq"),
        }
    }
}

impl FromStr for Goal {
    type Err = RedisError;

    fn from_str(text: &str) -> Result<Self, RedisError> {
        let shard = || {
            let (shard, org) = text.split_once(' ')?;
            Some(Self::Shard(Shard::new(shard.parse().ok()?)?, org.parse().ok()?))
        };
        match text {
            "dlq" => Ok(Self::Letters),
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

/// The legacy stream.
pub(super) struct LegacyStream {
    redis: Redis,
    stream: RedisKey,
    moving: RedisKey,
    page_bytes: usize,
}

impl LegacyStream {
    /// The one in that Redis.
    pub(super) fn new(redis: Redis) -> Self {
        let (stream, moving) = (RedisKey::legacy_stream(), RedisKey::legacy_moving());
        Self { redis, stream, moving, page_bytes: READ_BYTES_MAX }
    }

    /// The last entry, if there is one.
    pub(super) async fn last(&self) -> Result<Option<EntryId>, RedisError> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(&self.stream).arg("+").arg("-").arg("COUNT").arg(1);
        let reply: StreamRangeReply = command.query_async(&mut self.redis.clone()).await?;
        reply.ids.first().map(|entry| entry_id(&entry.id)).transpose()
    }

    /// The next entries, from `from` to `to`, with their JSON.
    pub(super) async fn page(&mut self, from: EntryId, to: EntryId) -> Result<Vec<Entry>, RedisError> {
        let max = PageMax { entries: PAGE_ENTRIES_MAX, bytes: self.page_bytes };
        // One without the field is no envelope, and will be found unreadable.
        let page = entries::page(&mut self.redis, &self.stream, LEGACY_FIELD, from, Some(to), max).await;
        // The way may be too narrow for so much at a time.
        let bytes = if page.is_ok() { self.page_bytes.saturating_mul(2) } else { self.page_bytes / 2 };
        self.page_bytes = bytes.clamp(PAGE_BYTES_MIN, READ_BYTES_MAX);
        Ok(page?.entries)
    }

    /// Notes where entries go, in place of an older note if one is named. Answers per entry where it goes, which is
    /// what was noted first; `None` if it is in the stream no more.
    pub(super) async fn note(&self, goals: &[(EntryId, Goal, Option<Goal>)]) -> Result<Vec<Option<Goal>>, RedisError> {
        let mut call = NOTE.key(&self.stream);
        call.key(&self.moving);
        for (id, to, instead_of) in goals {
            let instead_of = instead_of.map(|goal| goal.to_string()).unwrap_or_default();
            call.arg(id.to_string()).arg(to.to_string()).arg(instead_of);
        }
        let noted: Vec<String> = call.invoke_async(&mut self.redis.clone()).await?;
        if noted.len() != goals.len() {
            return Err(unexpected("not a note per entry"));
        }
        noted.iter().map(|goal| if goal.is_empty() { Ok(None) } else { goal.parse().map(Some) }).collect()
    }

    /// Takes entries out that are elsewhere by now. Nobody else will be given them.
    pub(super) async fn take(&self, ids: &[EntryId], groups: &[String]) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        // Acknowledged first: what is acknowledged and still there is moved once more, to no effect.
        let ids = texts(ids);
        for group in groups {
            pipe.cmd("XACK").arg(&self.stream).arg(group).arg(&ids);
        }
        pipe.cmd("XDEL").arg(&self.stream).arg(&ids);
        pipe.exec_async(&mut self.redis.clone()).await
    }

    /// Forgets where entries went.
    pub(super) async fn forget(&self, ids: &[EntryId]) -> Result<(), RedisError> {
        let mut command = redis::cmd("HDEL");
        command.arg(&self.moving).arg(texts(ids)).exec_async(&mut self.redis.clone()).await
    }

    /// Entries that were taken out and not forgotten, and where they went: somebody died in between.
    pub(super) async fn gone(&self) -> Result<Vec<(EntryId, Goal)>, RedisError> {
        let mut command = redis::cmd("HRANDFIELD");
        command.arg(&self.moving).arg(NOTES_MAX).arg("WITHVALUES");
        let noted: Vec<(String, String)> = command.query_async(&mut self.redis.clone()).await?;
        let mut gone = Vec::new();
        for (id, goal) in noted {
            let mut command = redis::cmd("XRANGE");
            command.arg(&self.stream).arg(&id).arg(&id);
            let found: StreamRangeReply = command.query_async(&mut self.redis.clone()).await?;
            if found.ids.is_empty() {
                gone.push((entry_id(&id)?, goal.parse()?));
            }
        }
        Ok(gone)
    }

    /// Acknowledges what a group's readers have deleted and not acknowledged. To be called when the stream is empty and
    /// they are gone.
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

/// Ids as Redis takes them.
fn texts(ids: &[EntryId]) -> Vec<String> {
    ids.iter().map(EntryId::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_are_written() {
        let org = OrgId(uuid::Uuid::from_u128(7));
        for goal in [Goal::Shard(Shard::new(11).unwrap(), org), Goal::Letters] {
            assert_eq!(goal.to_string().parse::<Goal>().unwrap(), goal);
        }
        for bad in ["", "16 00000000-0000-0000-0000-000000000007", "3", "3 x"] {
            assert!(bad.parse::<Goal>().is_err(), "{bad}");
        }
    }
}
